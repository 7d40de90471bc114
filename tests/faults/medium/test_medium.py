"""The medium itself: it fails when it is told to, and forgets only what was never flushed."""

from __future__ import annotations

import errno
import random
import subprocess
import sys
from typing import Any

import pytest

pytestmark = pytest.mark.fault

WRITES = """
import os, sys
fd = os.open(sys.argv[1] + "/file", os.O_RDWR | os.O_CREAT, 0o600)
for number in range(4):
    try:
        os.pwrite(fd, bytes([65 + number]) * 512, 512 * number)
        if number % 2 == 0:
            os.fsync(fd)
        print("ok")
    except OSError as exc:
        print(exc.errno)
"""


def run(medium: Any, program: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", program, medium.root],
        env=medium.forgetful,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        timeout=60,
    )
    return [*done.stdout.split(), *(["killed"] if done.returncode == -9 else [])]


def content(medium: Any) -> bytes:
    return bytes((medium.root / "file").read_bytes())


def test_nothing_fails_unasked(medium: Any) -> None:
    medium.arm(7)
    assert run(medium, WRITES) == ["ok"] * 4
    assert (medium.calls, medium.failed) == (7, 0), "one creation, four writes, two flushes"


@pytest.mark.parametrize(
    ("mask", "first", "times", "said"),
    [
        (1, 2, 1, ["ok", "28", "ok", "ok"]),
        (1, 3, 9, ["ok", "ok", "28", "28"]),
        (2, 2, 1, ["ok", "ok", "28", "ok"]),
        (3, 1, 2, ["28", "28", "ok", "ok"]),
    ],
)
def test_the_calls_that_are_named_fail(medium: Any, mask: int, first: int, times: int, said: list[str]) -> None:
    medium.arm(mask, first=first, times=times, error=errno.ENOSPC)
    assert run(medium, WRITES) == said
    assert medium.failed == said.count("28")


def test_a_write_that_is_cut_in_half(medium: Any) -> None:
    medium.arm(1, first=4, error=errno.ENOSPC, halfway=True)
    assert run(medium, WRITES) == ["ok"] * 4, "a short write is no error to a program that does not look"
    assert len(content(medium)) == 3 * 512 + 256


@pytest.mark.parametrize(("first", "written"), [(1, 0), (2, 512), (4, 1536)])
def test_killed_before_a_call_takes_effect(medium: Any, first: int, written: int) -> None:
    medium.arm(1, first=first)
    run(medium, WRITES)
    assert len(content(medium)) == written


def test_a_power_cut_keeps_what_was_flushed(medium: Any) -> None:
    seen = set()
    for seed in range(40):
        medium.heal()
        (medium.root / "file").unlink(missing_ok=True)
        run(medium, WRITES)
        medium.cut_power(random.Random(seed))
        after = content(medium)
        assert after.startswith(b"A" * 512 + b"B" * 512 + b"C" * 512), "flushed with the third write"
        seen.add(after[3 * 512 :])
    assert seen == {b"", b"D" * 512, bytes(512)}, "the last write is there, or not, or only its place is"
