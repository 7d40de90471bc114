"""Feeds that forked: how far each of their lines was taken in, and branches that split where their entries part.

Implements docs/spec/transaction.md, section "Forks". The entries of a feed form a tree, in which each stands behind the
one that its ``back`` names. A branch is a part of it without a fork, and which branches there are follows from the
entries alone: not from which side a replica met first, and not from blocks that are no entries. A *track* is a place in
that tree: where the reading of one line has got to. Two lines may say the same for a while; their entries are taken in
once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from identity.contexts import BRANCH_ID
from identity.errors import DamagedFile
from ledger.storage.rows import checked
from ledger.store import FeedKey
from ledger.values import Reference
from sync.membership import Ending, Membership
from sync.storage.branches import Branch, Branches, EntryFacts, decode_reference, encode_reference
from sync.storage.documents import decode_dots, encode_dots
from sync.storage.queries import Queries
from sync.storage.sides import LEDGER, Line, Sides
from sync.vector import decode_vector, encode_vector

__all__ = ["Track", "Tracks", "branch_id", "branch_to_extend", "end_of", "split_branch", "vouched_end"]

_ROWS_A_TIME: Final = 4096


@dataclass(slots=True)
class Track:
    """How far a line was taken in. ``at`` is the newest entry on it, None before the first."""

    line: Line
    at: EntryFacts | None
    next_seq: int
    """The block that is looked at next."""
    waits_for: Reference | None = None
    changed: bool = False


class Tracks:
    """The tracks of all feeds of a database that have more than one line, as they are on record or begin."""

    def __init__(self, tx: Any, queries: Queries, database: int, branches: Branches) -> None:
        """``branches`` are asked for what the rows name."""
        self._tx = tx
        self._sql = queries
        self._of_feed: dict[FeedKey, list[Track]] = {}
        self._sides = Sides(tx, queries, database)
        rows = {(row[0], row[1]): row for row in tx.fetch_all(queries.tracks, (database,))}
        self._fresh: dict[FeedKey, list[Line]] = {}
        for feed in self._sides.feeds():
            for line in self._sides.lines(feed):
                row = rows.get((feed, line.side))
                if row is None:
                    self._fresh.setdefault(feed, []).append(line)
                else:
                    self._of_feed.setdefault(feed, []).append(_read_track(line, row, branches))

    def __iter__(self) -> Iterator[Track]:
        return (track for tracks in self._of_feed.values() for track in tracks)

    def __contains__(self, feed: FeedKey) -> bool:
        return feed in self._of_feed

    def of_feed(self, feed: FeedKey) -> list[Track]:
        """The tracks of a feed; none when it has one line."""
        return self._of_feed.get(feed, [])

    def begin(self, branches: Branches, begin_branch: Callable[[FeedKey], Branch]) -> None:
        """Begin a track for each line that has none: that of the ledger where the reading of the feed has got to, a
        side where it leaves the ledger."""
        for feed, lines in self._fresh.items():
            root = (branches.of_feed(feed) or [begin_branch(feed)])[0]
            for line in lines:
                self._of_feed.setdefault(feed, []).append(self._begin(branches, root, line))
            root.waits_for, root.changed = None, True  # from now on its tracks wait
        self._fresh = {}

    def _begin(self, branches: Branches, root: Branch, line: Line) -> Track:
        tracks = self._of_feed.get(line.feed, [])
        if line.side == LEDGER and not tracks:
            return Track(line, root.head, root.next_seq, root.waits_for, changed=True)
        ledger = next((track for track in tracks if track.line.side == LEDGER), None)
        if ledger is None:
            return Track(line, None, 0, changed=True)
        start = min(line.first, ledger.next_seq)
        return Track(line, branches.newest_before(ledger.at, start), start, changed=True)

    def moved(self, branches: Branches, old: int, new: Branch) -> None:
        """Follow the entries that went from one branch to another."""
        for track in self.of_feed(new.feed):
            if track.at is not None and track.at.branch == old and track.at.seq >= new.first_seq:
                track.at, track.changed = branches.facts(new.id, track.at.seq), True

    def flush(self) -> None:
        """Write what has changed."""
        for track in self:
            if track.changed:
                branch, seq = (self._root(track), -1) if track.at is None else (track.at.branch, track.at.seq)
                waits = None if track.waits_for is None else encode_reference(track.waits_for)
                row = (track.line.feed, track.line.side, branch, seq, track.next_seq, waits)
                self._tx.execute(self._sql.put_track, row)
                track.changed = False

    def _root(self, track: Track) -> int:
        """A branch to stand in the row of a track that is before the first entry."""
        return checked(self._tx.fetch_one(self._sql.root_branch, (track.line.feed,)), int)[0]  # type: ignore[no-any-return]


def _read_track(line: Line, row: Sequence[Any], branches: Branches) -> Track:
    _, _, branch, seq, next_seq = checked(row[:5], bytes, int, int, int, int)
    at = None if seq < 0 else branches.facts(branch, seq)
    if seq >= 0 and at is None:
        raise DamagedFile(f"the database has lost entry {seq} of branch {branch}")
    return Track(line, at, next_seq, None if row[5] is None else decode_reference(row[5]))


def branch_id(feed: FeedKey, seq: int, leaf: bytes) -> bytes:
    """What names one side of a fork on every replica, by the first entry on it."""
    return sha256(BRANCH_ID + feed + seq.to_bytes(8, "big") + leaf).digest()


def branch_to_extend(branches: Branches, feed: FeedKey, before: EntryFacts | None) -> tuple[Branch, bool]:
    """The branch that ends, or has to end, with ``before``; and whether it has to be split for that.

    Where nothing comes behind it the branch goes on, else a new one begins there.
    """
    branch = branches.of_feed(feed)[0] if before is None else branches[before.branch]
    return branch, branch.head != before


def split_branch(
    tx: Any, queries: Queries, branches: Branches, branch: Branch, before: EntryFacts | None
) -> tuple[Branch, set[int]]:
    """Let ``branch`` end with ``before``: what comes behind it becomes a branch of its own, disputed.

    Everything has to be written; what was read of branches and documents is void afterwards, but for ``branches``
    itself as far as ``facts`` goes. Returns the new branch, and the documents that its entries touch: they have to be
    made anew.
    """
    last = -1 if before is None else before.seq
    place, seq, _, leaf = checked(tx.fetch_one(queries.txns_behind, (branch.id, last, 1)), int, int, int, bytes)
    past = dict(branches.past_of(branch.id, seq))
    past.pop(branch.id, None)
    if before is not None:
        past[branch.id] = before.seq
    new = branches.add(branch.feed, branch_id(branch.feed, seq, leaf), branch.author, parent=branch.id, first_seq=seq)
    new.next_seq, new.excluded_from = branch.next_seq, branch.excluded_from
    branch.next_seq, branch.changed = seq, True
    branches.flush()
    tx.execute(queries.move_parents, (new.id, branch.id, new.id))
    tx.execute(queries.move_txns, (new.id, branch.id, last))
    tx.execute(queries.move_past, (encode_vector(past), place))
    _move_ops(tx, queries, new)
    _move_pasts(tx, queries, place, branch, last, new)
    touched = {checked(row, int)[0] for row in tx.fetch_all(queries.touched_from, (new.id, seq))}
    _move_contexts(tx, queries, touched, branch, new)
    return new, touched


def _move_ops(tx: Any, queries: Queries, new: Branch) -> None:
    behind = -1
    while rows := tx.fetch_all(queries.txns_behind, (new.id, behind, _ROWS_A_TIME)):
        tx.update_many(queries.move_ops, [(new.id, place + 1, place + ops) for place, _, ops, _ in rows if ops])
        behind = rows[-1][1]


def _move_pasts(tx: Any, queries: Queries, place: int, branch: Branch, last: int, new: Branch) -> None:
    """Let vectors say what they said: who had seen the new branch had also seen all that is left of the old one."""
    while rows := tx.fetch_all(queries.pasts_behind, (place, _ROWS_A_TIME)):
        moves = []
        for at, packed in rows:
            vector = decode_vector(packed)
            seen = vector.get(branch.id, -1)
            if seen >= new.first_seq:
                vector[new.id] = seen
                vector[branch.id] = last
                if last < 0:
                    del vector[branch.id]
                moves.append((encode_vector(vector), at))
        tx.update_many(queries.move_past, moves)
        place = rows[-1][0]


def _move_contexts(tx: Any, queries: Queries, documents: set[int], branch: Branch, new: Branch) -> None:
    """The same for dots that contexts name: they are of the same document."""
    for document in sorted(documents):
        moves = []
        for place, packed in tx.fetch_all(queries.contexts, (document,)):
            context = decode_dots(packed)
            moved = frozenset(
                (new.id if dot[0] == branch.id and dot[1] >= new.first_seq else dot[0], *dot[1:]) for dot in context
            )
            if moved != context:
                moves.append((encode_dots(moved), place))
        tx.update_many(queries.move_context, moves)


# --- exclusion ------------------------------------------------------------------------------------------------------


def end_of(branches: Branches, tracks: Callable[[], Tracks], branch: Branch, membership: Membership) -> int | None:
    """The index from which on entries of the branch do not count, because nobody vouches for them; None: all do.

    A revocation or a dismissal vouches for a length and a tree hash: of a feed that forked, for one line up to there.
    Where no line that is here has that tree, the index decides.
    """
    endings = membership.endings(branch.author)
    if not endings:
        return membership.cut(branch.author)
    found = tracks().of_feed(branch.feed)
    if not found:
        return membership.cut(branch.author)
    return min(_end(branches, found, branch, ending) for ending in endings)


def _end(branches: Branches, tracks: Sequence[Track], branch: Branch, ending: Ending) -> int:
    vouched = vouched_end(branches, tracks, branch, ending)
    return ending.cut if vouched is None else vouched


def vouched_end(branches: Branches, tracks: Sequence[Track], branch: Branch, ending: Ending) -> int | None:
    """The index up to which entries of the branch stand on a line that has the tree; None when no line here has it."""
    good = [track for track in tracks if _has_tree(track.line, ending)]
    return max((_vouched(branches, track, branch, ending.cut) for track in good), default=None)


def _has_tree(line: Line, ending: Ending) -> bool:
    length = ending.length
    return 0 < length <= line.length and line.tree_hash(length) == ending.tree_hash


def _vouched(branches: Branches, track: Track, branch: Branch, cut: int) -> int:
    """Up to where what stands on a branch stands on the line too, before block ``cut``."""
    last = branches.newest_before(track.at, cut)
    path = last
    while path is not None and path.branch != branch.id:
        path = branches.newest_before(path, branches[path.branch].first_seq)
    if path is None:
        return branch.first_seq
    following = branches.next_after(path) if path is last else None
    return cut if following is None else min(cut, following)
