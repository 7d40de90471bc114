"""What a row that was read has to be: every type as the table has it, every number where it belongs.

Implements rule 7 of docs/spec/storage.md: what is not as it should be is an error, and never filled in.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any

from identity.errors import DamagedFile
from ledger.store import SignedHead, StoredCheckpoint

__all__ = ["checked", "count_sound", "read_checkpoint", "read_head"]


def checked(row: Sequence[Any], *types: type) -> Sequence[Any]:
    """The row, when its values are of these types. Raises ``DamagedFile``."""
    if tuple(map(type, row)) != types:
        raise DamagedFile(f"a row holds {[type(value).__name__ for value in row]} where other types belong")
    return row


def count_sound(first: int, rows: Sequence[Sequence[Any]]) -> int:
    """How many rows there are, numbered from ``first``, before one that is missing or does not hold bytes.

    The numbers ascend: when the last one is right none is missing.
    """
    if rows[-1][0] == first + len(rows) - 1 and {type(row[1]) for row in rows} == {bytes}:
        return len(rows)
    numbered = enumerate(zip(rows, count(first), strict=False))
    return next((place for place, (row, n) in numbered if row[0] != n or type(row[1]) is not bytes), len(rows))


def read_checkpoint(row: Sequence[Any]) -> StoredCheckpoint:
    """A row of ``checkpoint``. Raises ``DamagedFile``."""
    size, root, note = checked(row, int, bytes, str)
    try:
        note.encode("utf-8")
    except UnicodeEncodeError as exc:
        raise DamagedFile(f"the note of checkpoint {size} is not UTF-8") from exc
    return StoredCheckpoint(size, root, note)


def read_head(base: int, row: Sequence[Any]) -> SignedHead:
    """A row of ``head`` of the feed whose positions begin at ``base``. Raises ``DamagedFile``."""
    pos, tree_hash, signature = checked(row, int, bytes, bytes)
    return SignedHead(pos - base, tree_hash, signature)
