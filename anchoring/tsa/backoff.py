"""When an authority that has failed is asked again, and the file in which that is remembered.

Pure. The file is a convenience that may be lost or altered at any time: the worst that follows is that an authority is
asked too early, or an hour too late. So a file that is not one of these counts as none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from identity.errors import MalformedError
from identity.jsontext import parse_json

__all__ = [
    "MAX_TROUBLES_BYTES",
    "Trouble",
    "add_failure",
    "encode_troubles",
    "is_due",
    "next_attempt_ms",
    "parse_troubles",
]

MAX_TROUBLES_BYTES: Final = 1 << 16
FIRST_WAIT_MS: Final = 30_000
LONGEST_WAIT_MS: Final = 3_600_000
_MOST_FAILURES: Final = 1_000
_MOST_MS: Final = 1 << 53
_MOST_TEXT: Final = 500


@dataclass(frozen=True, slots=True)
class Trouble:
    """An authority that has failed ``failures`` times in a row, last at ``failed_ms`` for that reason."""

    failures: int
    failed_ms: int
    reason: str


def add_failure(trouble: Trouble | None, now_ms: int, reason: str) -> Trouble:
    """What is remembered after one more failure."""
    failures = 1 if trouble is None else min(trouble.failures + 1, _MOST_FAILURES)
    return Trouble(failures, now_ms, reason[:_MOST_TEXT])


def next_attempt_ms(trouble: Trouble) -> int:
    """When the authority is asked again: after half a minute, then twice as long each time, an hour at most."""
    doublings = min(trouble.failures - 1, 16)
    return trouble.failed_ms + min(FIRST_WAIT_MS << doublings, LONGEST_WAIT_MS)


def is_due(trouble: Trouble | None, now_ms: int) -> bool:
    """Whether to ask now. A clock that has been set back does not keep an authority waiting."""
    return trouble is None or not trouble.failed_ms <= now_ms < next_attempt_ms(trouble)


def encode_troubles(troubles: Mapping[str, Trouble]) -> bytes:
    """The file for these, by the authorities' names."""
    table = {
        name: {"failures": trouble.failures, "failed": trouble.failed_ms, "reason": trouble.reason}
        for name, trouble in sorted(troubles.items())
    }
    return json.dumps({"v": 1, "troubles": table}, ensure_ascii=True, indent=1).encode() + b"\n"


def parse_troubles(data: bytes) -> dict[str, Trouble]:
    """Read the file. Raises ``MalformedError`` for anything else."""
    found = parse_json(data, what="troubles", max_bytes=MAX_TROUBLES_BYTES)
    match found:
        case {"v": 1, "troubles": dict(table), **rest} if not rest:
            return {name: _read_trouble(item) for name, item in table.items()}
    raise MalformedError("troubles: not a file of these")


def _read_trouble(item: Any) -> Trouble:
    match item:
        case {"failures": int(failures), "failed": int(failed_ms), "reason": str(reason), **rest} if not rest:
            if 1 <= failures <= _MOST_FAILURES and 0 <= failed_ms <= _MOST_MS and len(reason) <= _MOST_TEXT:
                return Trouble(failures, failed_ms, reason)
    raise MalformedError("troubles: an entry that is not one")
