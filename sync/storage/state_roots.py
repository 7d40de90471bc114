"""State roots that entries of a database state: making one, and checking one against the feeds.

Implements docs/spec/state-root.md, sections "Statement" and "Verification". To check one, nothing is taken from the
tables: the entries within its cut are read from their feeds and replayed (``sync.replay``).
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations
from typing import Final, NamedTuple

from identity.errors import MissingEvidenceError, RefusedError, RootMismatch, VerificationError
from ledger.entry import parse_entry
from ledger.store import FeedKey
from ledger.values import Reference
from sync.acts import Found, parse_member
from sync.lines import KnownFeed
from sync.replay import Replay
from sync.stateroot import (
    RULES,
    DocumentContent,
    DocumentProof,
    Leaf,
    content_of,
    leaf_of,
    prove_document,
    state_root,
)
from sync.storage.projection import KIND_NUMBER
from sync.storage.reader import Reader
from sync.storage.sides import Line, Sides
from sync.storage.state_leaves import leaves_at, leaves_now
from sync.storage.stored_feeds import find_block, known_feed
from sync.storage.writing import Writing
from sync.transaction import CKPT, MEMBER, DocumentId, Founding, StateRoot, database_id, parse_state_root

__all__ = [
    "RivalRoots",
    "ShownDocument",
    "StatedRoot",
    "VerifiedState",
    "founding_of",
    "make_state_root",
    "rival_roots",
    "show_document",
    "stated_roots",
    "verify_state_root",
]

_OPS_AT_ONCE: Final = 500_000
"""Operations that a replay holds in memory at once."""


class StatedRoot(NamedTuple):
    """An entry that states a root. ``block`` is all of it; its feed's signed heads say whose it is."""

    reference: Reference
    block: bytes
    statement: StateRoot


class ShownDocument(NamedTuple):
    """A document in a state: its version, what it shows, and where it stands under the root."""

    version: bytes
    content: DocumentContent
    proof: DocumentProof


class RivalRoots(NamedTuple):
    """Two entries that state different roots for one cut: at least one of their devices does not follow the rules."""

    first: StatedRoot
    second: StatedRoot


class VerifiedState(NamedTuple):
    """A stated root that follows from the feeds, and how many documents it stands for."""

    stated: StatedRoot
    documents: int


def make_state_root(writing: Writing) -> StateRoot:
    """What the database is, as the entry that is being made has seen it. Raises ``RefusedError`` for an empty one."""
    reader = writing.reader()
    cut = writing.projection.heads()
    if not cut:
        raise RefusedError("the database has no entries yet", hint="there is nothing to state")
    return StateRoot(writing.stamp(), cut, state_root(leaves_now(reader)), RULES)


def stated_roots(reader: Reader) -> list[StatedRoot]:
    """Every root that an entry in order states, in the order in which they came here."""
    found = []
    for number, seq, kind, leaf, masked in reader.tx.fetch_all(reader.sql.others, (reader.number,)):
        if kind == KIND_NUMBER[CKPT] and masked is None and not reader.branches.is_excluded(number, seq):
            feed = reader.branches[number].feed
            found.append(_read(reader, Reference(feed, seq, leaf)))
    return found


def rival_roots(stated: Iterable[StatedRoot]) -> list[RivalRoots]:
    """Every two of these that state different roots for the same cut by the same rules."""
    by_cut: dict[tuple[frozenset[Reference], int], list[StatedRoot]] = {}
    for one in stated:
        by_cut.setdefault((frozenset(one.statement.cut), one.statement.rules), []).append(one)
    return [
        RivalRoots(first, second)
        for found in by_cut.values()
        for first, second in combinations(found, 2)
        if first.statement.root != second.statement.root
    ]


def verify_state_root(reader: Reader, reference: Reference) -> VerifiedState:
    """Rebuild the state that an entry speaks of from the feeds, and return only when it has the root that it states.

    Raises ``RootMismatch`` when it has another one, ``VerificationError`` for an entry that does not count,
    ``MissingEvidenceError`` when it, or something that it had seen, is not here, or is by rules not known here.
    """
    stated = _read(reader, reference)
    if stated.statement.rules != RULES:
        raise MissingEvidenceError(f"the root is by rules {stated.statement.rules}, this program knows {RULES}")
    replay = Replay(reader.uid, _feeds(reader, stated))
    entry = replay.find(reference)
    if entry is None:
        raise MissingEvidenceError("what the entry had seen is not all here")
    if entry.masked is not None:
        raise VerificationError(f"the entry does not count: {entry.masked}")
    leaves = _leaves(replay)
    root = state_root(leaves)
    if root != stated.statement.root:
        raise RootMismatch("the state at the entry's cut", expected=stated.statement.root, computed=root)
    return VerifiedState(stated, len(leaves))


def founding_of(reader: Reader) -> Founding:
    """What the database was founded with. Raises ``MissingEvidenceError`` when that is not here yet."""
    for number, seq, kind, leaf, masked in reader.tx.fetch_all(reader.sql.others, (reader.number,)):
        if kind == KIND_NUMBER[MEMBER] and masked is None:
            act = parse_member(parse_entry(reader.branches.block(number, seq, leaf))).act
            if isinstance(act, Found) and database_id(act.founding) == reader.uid:
                return act.founding
    raise MissingEvidenceError("the founding of the database is not here yet")


def show_document(reader: Reader, stated: StatedRoot, document: DocumentId) -> ShownDocument:
    """A document as it was in a state whose root was stated, and its proof.

    Raises ``MissingEvidenceError`` when it was not in that state, ``RootMismatch`` when the state had another root.
    """
    facts = reader.branches.find(stated.reference)
    if facts is None:
        raise MissingEvidenceError("the entry that states the root was not taken in")
    cut = reader.closed(reader.branches.past_of(facts.branch, facts.seq))
    state = reader.document_at(document, cut)
    if state is None:
        raise MissingEvidenceError(f"{document} was not in the database then")
    root, leaf, proof = prove_document(leaves_at(reader, cut), document)
    if root != stated.statement.root:
        raise RootMismatch("the state at the entry's cut", expected=stated.statement.root, computed=root)
    return ShownDocument(leaf.version, content_of(state.view), proof)


def _leaves(replay: Replay) -> list[Leaf]:
    parts = 1 + sum(entry.ops for entry in replay.entries()) // _OPS_AT_ONCE
    return sorted(
        leaf_of(document.name, document.version, document.view)
        for document in replay.documents(parts)
        if document.version is not None
    )


def _read(reader: Reader, reference: Reference) -> StatedRoot:
    """The entry of a reference. Raises ``MissingEvidenceError``, ``MalformedError`` when it states no root."""
    known = find_block(_lines(reader, reference), reference)
    if known is None:
        raise MissingEvidenceError("there is no such entry in this store")
    return StatedRoot(reference, known.block, parse_state_root(parse_entry(known.block)))


def _feeds(reader: Reader, stated: StatedRoot) -> list[KnownFeed]:
    """The feeds up to the cut, and the entry's own up to the entry."""
    of_feed: dict[FeedKey, list[Reference]] = {}
    for reference in (*stated.statement.cut, stated.reference):
        of_feed.setdefault(FeedKey(reference.feed), []).append(reference)
    found = []
    for feed, references in of_feed.items():
        lines = _lines(reader, references[0])
        known = known_feed(reader.tx, reader.branches.author(feed), lines, references) if lines else None
        if known is None:
            raise MissingEvidenceError("what the entry had seen is not all here")
        found.append(known)
    return found


def _lines(reader: Reader, reference: Reference) -> list[Line]:
    return Sides(reader.tx, reader.sql, reader.number).lines(FeedKey(reference.feed))
