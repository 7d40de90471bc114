"""Run every benchmark, one after the other, each in a process of its own: ours, the floor, and their ratio.

    python -m benchmarks [--rounds N] [--json DIRECTORY] [--directory DIRECTORY]

With ``--json`` each subject writes its figures to a file of its name there.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

SUBJECTS = ("append", "writers", "berka_import", "evidence")


def main() -> int:
    """Run the subjects; the first that fails ends it with its exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds; the figures are their medians")
    parser.add_argument("--json", type=Path, help="a directory for the figures, a file for each subject")
    parser.add_argument("--directory", type=Path, help="where files go; a disk, since in memory a flush costs nothing")
    options = parser.parse_args()
    if options.json is not None:
        options.json.mkdir(parents=True, exist_ok=True)
    for subject in SUBJECTS:
        command = [sys.executable, "-m", f"benchmarks.{subject}", "--rounds", str(options.rounds)]
        if options.json is not None:
            command += ["--json", str(options.json / f"{subject}.json")]
        if options.directory is not None:
            command += ["--directory", str(options.directory)]
        done = subprocess.run(command, check=False)
        if done.returncode:
            return done.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
