"""A5 of the fault catalogue on a disk that is really full: a small tmpfs in a mount namespace of the test's own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

pytestmark = pytest.mark.fault

WITH_A_DISK = 'mount -t tmpfs -o size=2m full "$0" && exec "$@"'
"""A shell's program: its arguments are the place of the disk, and a command that is to see it."""


@pytest.fixture
def on_a_small_disk(tmp_path: Path) -> Sequence[str | Path]:
    """What to put before a command so that ``tmp_path`` is a disk of 2 MiB for it; skips where mounting is refused."""
    for namespace in (["unshare", "-m"], ["unshare", "-rm"]):
        before = [*namespace, "sh", "-c", WITH_A_DISK, tmp_path]
        if (
            shutil.which("unshare")
            and subprocess.run([*before, "true"], capture_output=True, check=False).returncode == 0
        ):
            return before
    pytest.skip("a tmpfs cannot be mounted: neither as root nor in a user namespace")


def test_a_store_on_a_full_disk_says_so_and_goes_on_when_there_is_space(
    on_a_small_disk: Sequence[str | Path], tmp_path: Path, root: Path
) -> None:
    """Twice in a row, for appends large and small and a checkpoint; what it holds can be read and audited meanwhile."""
    program = Path(__file__).with_name("filling.py")
    done = subprocess.run(
        [*on_a_small_disk, sys.executable, program, tmp_path],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert not list(tmp_path.iterdir()), "the disk was not in a namespace of its own"
    times = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(times) == 2
    for one in times:
        assert len(one["answered"]) == 6
        assert {said.partition(" (")[0] for said in one["answered"]} == {"StorageError: the disk is full"}
        for found in one["found"]:
            assert (found["kept"], found["unasked"], found["audit"]) == (True, 0, True)
