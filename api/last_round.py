"""What the last round of anchoring failed in, kept beside the store for ``holdfast status``.

A memory and nothing more: it may be lost, and nothing relies on it. A file that is not one of these counts as none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from api.home import Home
from identity.durable import replace_file
from identity.errors import ConfigurationError, MalformedError, StorageError
from identity.jsontext import parse_json

__all__ = ["LastRound", "keep_round", "load_round", "parse_round"]

_MAX_BYTES = 65_536
_MOST_MS = 1 << 53
_MOST_TEXT = 500


@dataclass(frozen=True, slots=True)
class LastRound:
    """When the round ended, in milliseconds UTC, and what each part that failed said."""

    ended_ms: int
    failures: Mapping[str, str]


def keep_round(home: Home, done: LastRound) -> None:
    """Remember the round. A home that cannot be written to forgets it."""
    failures = {what: said[:_MOST_TEXT] for what, said in done.failures.items()}
    with suppress(StorageError):
        replace_file(home.last_round, json.dumps({"v": 1, "ended": done.ended_ms, "failures": failures}).encode())


def load_round(home: Home) -> LastRound | None:
    """The round that was remembered last, or None."""
    from anchoring.policy_file import read_bounded

    try:
        return parse_round(read_bounded(home.last_round, _MAX_BYTES))
    except (ConfigurationError, MalformedError):
        return None


def parse_round(data: bytes) -> LastRound:
    """Read the file. Raises ``MalformedError`` for anything else."""
    match parse_json(data, what="last round", max_bytes=_MAX_BYTES):
        case {"v": 1, "ended": int(ended_ms), "failures": dict(failures), **rest} if not rest:
            if 0 <= ended_ms <= _MOST_MS and all(isinstance(said, str) for said in failures.values()):
                return LastRound(ended_ms, failures)
    raise MalformedError("last round: not a file of these")
