"""The lines of feeds, and the entries in their places on them.

A *line* is a feed, or of one that forked a part without a fork: the entries before it, and each side
(docs/spec/transaction.md, section "Forks"). ``sync.replay`` goes along them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import NamedTuple

from identity.contexts import BRANCH_ID
from ledger.merkle import TreeBuilder, tree_hash
from ledger.values import Reference
from sync.content import ReadEntry, entry_of, read_entry
from sync.liveness import EntryKey, Past
from sync.membership import Author, Ending, Membership
from sync.transaction import Guard

__all__ = ["KnownBlock", "KnownFeed", "Line", "ReplayedEntry", "Stray", "displaced", "draw_lines", "end_on"]


class KnownBlock(NamedTuple):
    """A block of a feed, whose place and leaf hash were verified."""

    seq: int
    """Its index in the feed."""
    leaf_hash: bytes
    block: bytes


@dataclass(frozen=True, slots=True)
class KnownFeed:
    """What is known of a feed: its blocks from the first one on, and when it forked what else stands in it.

    Each of ``sides`` is what follows on another side, from the first block on that differs from ``blocks``. All of
    them are read more than once.
    """

    author: Author
    blocks: Sequence[KnownBlock]
    sides: tuple[Sequence[KnownBlock], ...] = ()


@dataclass(slots=True, eq=False)
class Line:
    """One line of entries. ``number`` is its place among the lines by ``uid``, which is the same for everybody."""

    uid: bytes
    author: Author
    blocks: Sequence[KnownBlock]
    """All blocks of the feed; of one that forked only its entries."""
    parent: Line | None
    is_whole: bool = True
    number: int = -1
    entries: dict[int, ReplayedEntry] = field(default_factory=dict)
    """What was placed, by index in the feed, ascending."""

    @property
    def ancestors(self) -> Iterator[Line]:
        """The lines that it goes on from, the nearest first."""
        at = self.parent
        while at is not None:
            yield at
            at = at.parent

    @property
    def head(self) -> ReplayedEntry | None:
        """The newest entry that was placed."""
        return next(reversed(self.entries.values()), None)

    def block(self, index: int) -> KnownBlock:
        """The block of an entry that was placed."""
        return self.blocks[index if self.is_whole else bisect_left(self.blocks, index, key=lambda one: one.seq)]


@dataclass(frozen=True, slots=True)
class ReplayedEntry:
    """An entry in its place. ``masked`` says why it has no effect; ``ops`` is how many operations were kept of it."""

    reference: Reference
    line: int
    kind: str
    ops: int
    lamport: int
    reading: int
    masked: str | None
    past: Past
    follows: tuple[EntryKey, ...]
    """What its stamp says that it had seen last, as far as that is true."""
    guards: tuple[Guard, ...] = ()
    undoes: tuple[EntryKey, ...] = ()
    intent: tuple[bytes, int, bytes] | None = None
    """Whose intent it carries, its number and its digest."""
    """What it takes back, as far as it had seen that."""
    decides: EntryKey | None = None
    """The proposal that it carries out or refuses."""

    @property
    def key(self) -> EntryKey:
        """What names it within the replay."""
        return self.line, self.reference.index


class Stray(NamedTuple):
    """An entry that has no place, because it does not name the one before it, and what is wrong with it."""

    kind: str
    reason: str


def displaced(read: ReadEntry, before: Reference | None) -> str | None:
    """Why an entry has no place behind ``before``."""
    if read.stamp is None:
        return read.reason or "malformed: no stamp"
    return None if read.stamp.back == before else "back is not the entry before it"


def draw_lines(
    database: bytes, feeds: Iterable[KnownFeed], waiting: Container[Reference] = ()
) -> tuple[tuple[Line, ...], dict[Reference, Stray]]:
    """The lines of the feeds, each with its number, and what is known to be astray: of feeds that forked.

    Of those a line ends before an entry that is ``waiting``.
    """
    lines: list[Line] = []
    strays: dict[Reference, Stray] = {}
    for feed in feeds:
        if feed.sides:
            chains = [_entries_on(database, feed.author, chain, strays, waiting) for chain in _chains(feed)]
            lines += _split(feed.author, chains, None, 0)
        else:
            lines.append(Line(feed.author.feed, feed.author, feed.blocks, None))
    lines.sort(key=lambda line: line.uid)
    for number, line in enumerate(lines):
        line.number = number
    return tuple(lines), strays


def _entries_on(
    database: bytes,
    author: Author,
    chain: Sequence[KnownBlock],
    strays: dict[Reference, Stray],
    waiting: Container[Reference],
) -> list[KnownBlock]:
    """The entries on one side of a feed, from its first block on, that name the one before them."""
    found: list[KnownBlock] = []
    before: Reference | None = None
    for expected, block in enumerate(chain):
        entry = entry_of(database, block.block)
        if block.seq != expected:
            break
        if entry is None:
            continue
        reference, read = Reference(author.feed, block.seq, block.leaf_hash), read_entry(entry)
        fault = displaced(read, before)
        if fault is not None:
            strays[reference] = Stray(read.kind, fault)
        elif reference in waiting:
            break
        else:
            found.append(block)
            before = reference
    return found


def end_on(line: Line, feed: KnownFeed, membership: Membership) -> int | None:
    """The index from which on entries of a line of the feed do not count, once each of them is in its place.

    Who vouches for a feed names a length and a tree hash: of one that forked, a side. Where no side that is here has
    that tree the index alone decides.
    """
    endings = membership.endings(line.author)
    if not feed.sides or not endings:
        return membership.cut(line.author)
    return min(_end_by(line, feed, ending) for ending in endings)


def _end_by(line: Line, feed: KnownFeed, ending: Ending) -> int:
    good = [chain for chain in _chains(feed) if _has_tree(chain, ending)]
    if not good:
        return ending.cut
    return max(_vouched(line, chain, ending.cut) for chain in good)


def _chains(feed: KnownFeed) -> list[Sequence[KnownBlock]]:
    """Of a feed that forked every history that it has, each from the first block on."""
    return [feed.blocks, *([*feed.blocks[: side[0].seq], *side] for side in feed.sides if side)]


def _split(author: Author, chains: Sequence[list[KnownBlock]], parent: Line | None, start: int) -> Iterator[Line]:
    """The lines of chains of entries that agree before place ``start``: what they share from there, then each side."""
    longest = max(chains, key=len)
    fork = start
    while fork < len(longest) and all(one[fork : fork + 1] in ([], [longest[fork]]) for one in chains):
        fork += 1
    uid = author.feed
    if parent is not None:
        first = longest[start]
        uid = sha256(BRANCH_ID + author.feed + first.seq.to_bytes(8, "big") + first.leaf_hash).digest()
    line = Line(uid, author, longest[start:fork], parent, is_whole=False)
    yield line
    sides: dict[KnownBlock, list[list[KnownBlock]]] = {}
    for one in chains:
        if len(one) > fork:
            sides.setdefault(one[fork], []).append(one)
    for found in sides.values():
        yield from _split(author, found, line, fork)


def _vouched(line: Line, chain: Sequence[KnownBlock], cut: int) -> int:
    """The index up to which the entries of a line stand on the chain too, before block ``cut``."""
    on_it = {(block.seq, block.leaf_hash) for block in chain[:cut]}
    beyond = [index for index, one in line.entries.items() if (index, one.reference.leaf_hash) not in on_it]
    if len(beyond) == len(line.entries):
        return 0 if line.parent is None else line.blocks[0].seq
    return min([cut, *beyond[:1]])


def _has_tree(chain: Sequence[KnownBlock], ending: Ending) -> bool:
    """Whether the blocks that an ending vouches for are the first ones of the chain."""
    if not 0 < ending.length <= len(chain):
        return False
    tree = TreeBuilder()
    tree.append_many([block.block for block in chain[: ending.length]])
    return tree_hash(tree.roots) == ending.tree_hash
