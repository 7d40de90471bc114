"""Run the benchmarks, one after the other, each in a process of its own: ours, the floor or a peer, and their ratio.

    python -m benchmarks [--full] [--only NAME] [--json DIRECTORY] [--directory DIRECTORY]

Without ``--full`` the sizes are small and the whole takes some minutes. With it: more rounds, feeds and databases of a
million, and JS hypercore where node and npm are. ``--json`` writes the figures of each subject to a file there.

Python keeps what it has compiled, as it does for everybody unless PYTHONDONTWRITEBYTECODE forbids it: where a process
is started within what is measured, it would compile the most of a second otherwise.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Final

SHORT: Final[dict[str, list[str]]] = {
    "append": ["--rounds", "5"],
    "audit": ["--rounds", "2", "--entries", "30000"],
    "random_read": ["--rounds", "3"],
    "proof": ["--rounds", "3"],
    "berka_import": ["--rounds", "2", "--rows", "20000"],
    "evidence": ["--rounds", "3"],
    "anchoring": ["--rounds", "3"],
    "writers": ["--writers", "1,16", "--rounds", "2"],
    "database": ["--rounds", "2", "--ops", "20000"],
    "database_peers": ["--rounds", "1", "--ops", "20000"],
    "database_scale": ["--documents", "1000,20000", "--changes", "100,2000"],
    "database_writers": ["--rounds", "1", "--ops", "5000"],
    "http": ["--rounds", "2", "--requests", "160"],
    "sync_http": ["--rounds", "1", "--rows", "500"],
    "scale": [],
}
FULL: Final[dict[str, list[str]]] = {
    "append": ["--rounds", "11"],
    "audit": ["--rounds", "3", "--entries", "1000000"],
    "writers": ["--rounds", "5", "--seconds", "1"],
    "random_read": ["--rounds", "9"],
    "proof": ["--rounds", "9"],
    "berka_import": ["--rounds", "5"],
    "evidence": ["--rounds", "9"],
    "anchoring": ["--rounds", "9"],
    "database": ["--rounds", "7"],
    "database_peers": ["--rounds", "5"],
    "database_scale": ["--documents", "1000,100000,1000000"],
    "database_writers": ["--rounds", "3", "--ops", "100000"],
    "http": ["--rounds", "9"],
    "sync_http": ["--rounds", "3"],
    "scale": ["--lengths", "10000,100000,1000000", "--memory-entries", "100000,1000000"],
    "hypercore": ["--rounds", "7"],
}


def what_is_absent(subject: str) -> str:
    """What a subject needs that is not here; empty when it can run."""
    if subject == "hypercore" and not (shutil.which("node") and (shutil.which("npm") or "BENCH_MODULES" in os.environ)):
        return "node or npm"
    if subject == "database_peers" and not (find_spec("pycrdt") and find_spec("loro")):
        return "pycrdt or loro"
    return ""


def main() -> int:
    """Run the subjects; the first that fails ends it with its exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--full", action="store_true", help="everything, for more than an hour")
    parser.add_argument("--only", choices=FULL, help="one subject")
    parser.add_argument("--json", type=Path, help="a directory for the figures, a file for each subject")
    parser.add_argument("--directory", type=Path, help="where files go; a disk, since in memory a flush costs nothing")
    options = parser.parse_args()
    if options.json is not None:
        options.json.mkdir(parents=True, exist_ok=True)
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    for subject, arguments in (FULL if options.full else SHORT).items():
        if options.only not in (None, subject):
            continue
        if absent := what_is_absent(subject):
            print(f"{subject}: left out, {absent} is not installed\n")
            continue
        command = [sys.executable, "-m", f"benchmarks.{subject}", *arguments]
        if options.json is not None:
            command += ["--json", str(options.json / f"{subject}.json")]
        if options.directory is not None:
            command += ["--directory", str(options.directory)]
        done = subprocess.run(command, check=False, env=environ)
        if done.returncode:
            return done.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
