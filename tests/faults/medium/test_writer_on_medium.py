"""What a shared writer answers when the medium fails, held against what the next process finds.

Rows A2, A5, A6 and A7 of the fault catalogue. A failed flush may leave a whole transaction in the write-ahead log,
which the next process would take for committed: then "not written" was not true. The writer's second write overwrites
it.
"""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.fault

FOR_EVER = 10**9
WRITES, FLUSHES, NAMES = 1, 2, 4

FAULTS = {
    "A5 disk full": (WRITES, errno.ENOSPC, FOR_EVER, 0),
    "A5 disk full halfway through a write": (WRITES, errno.ENOSPC, FOR_EVER, 1),
    "A5 disk full for one write": (WRITES, errno.ENOSPC, 1, 0),
    "A6 one write fails": (WRITES, errno.EIO, 1, 0),
    "A6 one flush fails": (FLUSHES, errno.EIO, 1, 0),
    "A7 two calls in a row fail": (WRITES | FLUSHES, errno.EIO, 2, 0),
    "everything fails": (WRITES | FLUSHES, errno.EIO, FOR_EVER, 0),
    "read-only": (WRITES | NAMES, errno.EROFS, FOR_EVER, 0),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_answer_is_true_whatever_fails(medium: Any, root: Path, fault: str) -> None:
    orders = map(str, FAULTS[fault])
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("writer_on_medium.py"), medium.root, *orders],
        env={**medium.environment, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    tried = [json.loads(line) for line in done.stdout.splitlines()]
    for one in tried:
        there = ["item 0" in one["stored"], "item 1" in one["stored"]]
        for answered, is_there in zip(one["answered"], there, strict=True):
            assert answered == "UnknownOutcome" or (answered == "NoneType") == is_there, one
        assert one["stored"][:1] == ["while "]
    answers = {answered for one in tried for answered in one["answered"]}
    assert "NoneType" in answers
    assert len(answers) > 1, "no call failed: the fault was not injected"
