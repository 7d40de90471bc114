"""A stranger's verification: ``holdfast verify`` as a process that cannot reach any network."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

__all__ = ["Verified", "verify_offline"]


@dataclass(frozen=True, slots=True)
class Verified:
    """How the process ended. ``isolation`` is what kept it from the network."""

    code: int
    out: str
    err: str
    seconds: float
    isolation: str


def verify_offline(file: Path, policy: Path) -> Verified:
    """Let a process without network verify an evidence file under a policy."""
    command, isolation = _isolated()
    started = time.perf_counter()
    done = subprocess.run(  # noqa: S603  (our own interpreter on our own files)
        [*command, "verify", str(file), "--policy", str(policy), "--no-color"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return Verified(done.returncode, done.stdout, done.stderr, time.perf_counter() - started, isolation)


@cache
def _isolated() -> tuple[tuple[str, ...], str]:
    """A command line that runs holdfast where no network is, and what to call that."""
    run = (sys.executable, "-m", "api.cli")
    for prefix in (("unshare", "-n"), ("unshare", "-rn")):
        try:
            probe = subprocess.run([*prefix, "true"], capture_output=True, check=False, timeout=10)  # noqa: S603
        except (OSError, subprocess.TimeoutExpired):
            continue
        if probe.returncode == 0:
            return (*prefix, *run), "in a process without any network interface"
    block = (
        "import socket, sys\n"
        "def refuse(*a, **k): raise OSError('no network in this process')\n"
        "socket.socket = socket.create_connection = refuse\n"
        "from api.cli.__main__ import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    isolation = "in a process whose sockets are blocked (no namespaces on this machine)"
    return (sys.executable, "-c", block), isolation
