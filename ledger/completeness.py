"""What a store holds less than its own log states: rows that were deleted so well that the feed itself looks whole.

A feed that was cut back to an older signed head is a valid feed. Only the log, which states a longer one, shows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ledger.statement import FeedHead
from ledger.store import FeedKey, ReadTransaction, stored_tree_hash

__all__ = ["Shortfall", "find_shortfalls"]


@dataclass(frozen=True, slots=True)
class Shortfall:
    """A feed of which the store holds ``held`` entries although the log states ``stated``.

    ``same_history`` is False when at the logged length the store holds another tree.
    """

    key: FeedKey
    held: int
    stated: int
    same_history: bool


def find_shortfalls(tx: ReadTransaction, heads: Mapping[bytes, FeedHead]) -> list[Shortfall]:
    """Compare the store's feeds with the newest head that the log states of each (``ReplayResult.feeds``).

    Tree hashes come from the stored nodes; that these are the blocks' own is for ``audit_feed``.
    """
    found = []
    for head in heads.values():
        key = FeedKey(head.key)
        feed = tx.feed(key)
        held = 0 if feed is None else feed.length
        if held < head.length:
            found.append(Shortfall(key, held, head.length, same_history=True))
        elif stored_tree_hash(tx, key, head.length) != head.tree_hash:
            found.append(Shortfall(key, held, head.length, same_history=False))
    return found
