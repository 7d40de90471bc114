"""A disk that is full, that fails, that is read-only: a clean error, nothing acknowledged is lost, the store goes on.

Rows A5, A6 and A7 of the fault catalogue: every call that an append, a checkpoint or an opening makes on the medium
fails once, or twice in a row, or from then on. What was answered with an error is not there afterwards.

A short run tries some calls of each action, spread over all that it makes; with CHAOS_ROUNDS it tries as many more.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.fault

FOR_EVER = 10**9
WRITES, FLUSHES, NAMES = 1, 2, 4
ROUNDS = int(os.environ.get("CHAOS_ROUNDS", "20"))

FAULTS = {
    "A5 disk full": (WRITES, errno.ENOSPC, FOR_EVER, 0),
    "A5 disk full halfway through a write": (WRITES, errno.ENOSPC, FOR_EVER, 1),
    "A5 disk full for one write": (WRITES, errno.ENOSPC, 1, 0),
    "A6 one write fails": (WRITES, errno.EIO, 1, 0),
    "A6 one flush fails": (FLUSHES, errno.EIO, 1, 0),
    "A6 flushes fail": (FLUSHES, errno.EIO, FOR_EVER, 0),
    "A7 two calls in a row fail": (WRITES | FLUSHES, errno.EIO, 2, 0),
    "read-only": (WRITES | NAMES, errno.EROFS, FOR_EVER, 0),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_call_fails_in_its_turn(medium: Any, root: Path, fault: str) -> None:
    orders = map(str, FAULTS[fault])
    program = Path(__file__).with_name("exploring.py")
    done = subprocess.run(
        [sys.executable, program, medium.root, *orders],
        env={**medium.environment, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300 + 2 * ROUNDS,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    tried = [json.loads(line) for line in done.stdout.splitlines()]
    assert {one["action"] for one in tried} == {"append", "large append", "checkpoint", "open"}
    for one in tried:
        assert one["kept"], f"something acknowledged is gone: {one}"
        assert one["unasked"] == 0, f"something is there that was not acknowledged: {one}"
        assert one["audit"], f"the feed does not audit clean: {one}"
    failures = [one for one in tried if one["answered"] is not None]
    assert failures, "no call failed: the fault was not injected"
    assert {one["answered"].partition(":")[0] for one in failures} == {"StorageError"}
