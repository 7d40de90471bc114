"""A database as a transaction that is being made sees it: what stands there, and the way in.

What is read here is what the entry will have seen: it is written in the same transaction of the store.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from nacl.utils import random

from identity.encoding import Value, decode, encode
from identity.errors import ConfigurationError, LimitExceeded, MalformedError, RefusedError
from identity.history import parse_signed_event
from identity.textforms import parse_base64, to_base64
from ledger.entry import Entry, encode_entry
from ledger.merkle import leaf_node
from ledger.store import FeedKey
from ledger.values import Reference
from sync.acts import CarryEvents, MemberEntry, member_entry
from sync.cells import WRITES, CellKind, LiveDot, replaced
from sync.clock import next_reading
from sync.content import Content
from sync.document_keys import DocumentKey, DocumentKeys
from sync.membership import Author, Refusal
from sync.schema import Schema, check_document, check_op
from sync.sealing import NONCE_BYTES, SALT_BYTES, SealedPlace, seal
from sync.serial import (
    DECIDE,
    HOME,
    PROPOSE,
    Fault,
    HomeEntry,
    Proposal,
    Rejection,
    home_entry,
    proposal_entry,
    rejection_entry,
)
from sync.storage.branches import Branches
from sync.storage.documents import count_increments
from sync.storage.projection import Projection
from sync.storage.reader import Reader
from sync.transaction import (
    CKPT,
    ERASE,
    MAX_REFERENCES,
    MEMBER,
    TXN,
    DocumentId,
    Dot,
    Erasure,
    Op,
    Path,
    Stamp,
    StateRoot,
    Transaction,
    Verb,
    erasure_entry,
    path_text,
    state_root_entry,
    transaction_entry,
)
from sync.unsealing import unseal_value
from sync.vector import Vector
from sync.view import CounterPart, View, make_view

__all__ = ["MuchUnseen", "Writing", "decode_context", "encode_context"]

_BRANCH_NAME: Final = 16
"""Bytes of a branch's id in a context token."""

_IN_THE_MAKING: Final = 1 << 62
"""In the place of an index: the entry that is being made."""

_IN_WORDS: Final[Mapping[str, tuple[str, str]]] = {
    Refusal.NOT_A_MEMBER: (
        "its identity is no member",
        "an admin admits it ('holdfast db admit'), and hands over a bundle that says so",
    ),
    Refusal.DISMISSED: ("the membership of its identity ended", "an admin can admit it again: 'holdfast db admit'"),
    Refusal.READ_ONLY_ROLE: (
        "its identity is a reader",
        "an admin can give it another role: 'holdfast db admit --role writer'",
    ),
    Refusal.NOT_AN_ADMIN: (
        "purges, erasures, holds and homes take an admin",
        "ask one of its admins: 'holdfast db members'",
    ),
    Fault.NOT_BY_HOME: ("the collection has a home elsewhere", "propose it to the home, with the strength 'serial'"),
}
"""What to say of a refusal, and what to do about it."""


class MuchUnseen(LimitExceeded):
    """More is new than one entry can say that it has seen: ``Writing.witness`` goes before it."""


class Writing:
    """What a transaction sees that is being made: ``sync.changes.Current``, and the stamp it is to carry."""

    def __init__(
        self, projection: Projection, feed: FeedKey, now_ms: Callable[[], int], keys: DocumentKeys | None
    ) -> None:
        self.projection = projection
        self._branch = projection.own_branch(feed)
        self._now_ms = now_ms
        self._keys = keys
        self._sealing_keys: dict[DocumentId, DocumentKey] = {}
        self.resealed: set[DocumentId] = set()
        """Documents that were erased before, and in which something is sealed again."""

    # --- sync.changes.Current ---

    def dots(self, document: DocumentId) -> Sequence[LiveDot]:
        """What is live in the document, without increments."""
        found = self.projection.documents.find(document)
        return () if found is None else found.dots

    def counters(self, document: DocumentId) -> Sequence[CounterPart]:
        """Its counters."""
        found = self.projection.documents.find(document)
        return () if found is None else tuple(found.counters.values())

    def view(self, document: DocumentId) -> View:
        """What it shows."""
        found = self.projection.documents.find(document)
        return View((), deleted=False) if found is None else self.projection.documents.view(found)

    def etag(self, document: DocumentId) -> str:
        """Its version."""
        found = self.projection.documents.find(document)
        return "" if found is None else self.projection.documents.etag(found)

    def schema(self, collection: str) -> Schema | None:
        """The collection's schema."""
        return self.projection.schemas.in_force(collection)

    def dot_name(self, dot: LiveDot) -> Dot:
        """What names a dot on every replica."""
        facts = self.projection.branches.facts(dot.branch, dot.seq)
        assert facts is not None
        return Dot(self.projection.branches.reference(facts), dot.op)

    def expect_sealing(self, documents: Collection[DocumentId]) -> None:
        """Have the keys of these documents: one by one, each new key would cost a write that waits for the medium."""
        if self._keys is not None and documents:
            self._sealing_keys |= self._keys.keys_for(self.projection.uid, documents)

    def seal(self, document: DocumentId, path: Path, value: Value) -> Value:
        """The value, sealed under the document's key. Raises ``ConfigurationError`` when this replica keeps no keys."""
        if self._keys is None:
            raise ConfigurationError(f"{document}: {path_text(path)} is sealed, and this replica keeps no keys")
        schema = self.schema(document.collection)
        verb = Verb.LWW if schema is not None and schema.cell_kind(path) is CellKind.LWW else Verb.SET
        reason = None if schema is None else check_op(schema, Op(verb, document, path, value), opened=True)
        if reason is not None:
            raise MalformedError(f"{document}: {reason}")
        found = self._sealing_keys.get(document)
        kid, key = self._keys.key_for(self.projection.uid, document) if found is None else found
        if document not in self.resealed and self._keys.destroyed(self.projection.uid, document):
            self.resealed.add(document)
        place = SealedPlace(self.projection.uid, document.collection, document.key, path)
        return seal(value, key=key, kid=kid, place=place, salt=random(SALT_BYTES), nonce=random(NONCE_BYTES))

    def opened(self, document: DocumentId, path: Path, value: Value) -> Value:
        """What was sealed in a value; the value as it is when it does not open here, or is not sealed."""
        if self._keys is None:
            return value
        place = SealedPlace(self.projection.uid, document.collection, document.key, path)
        return unseal_value(value, place, self._keys.find)

    def reader(self) -> Reader:
        """What reads the database as it stands in the transaction that is being made."""
        tx, sql, number = self.projection.written()
        reader = Reader(tx, sql, number, self.projection.uid)
        # These have seen what is not committed yet, and entries whose blocks are not in the store yet.
        reader.branches, reader.standing = self.projection.branches, self.projection.standing
        return reader

    @property
    def author(self) -> Author:
        """Who writes the entry that is being made."""
        return self._branch.author

    def refusal_of(self, transaction: Transaction) -> str | None:
        """Why this device may not write a transaction; None: it may."""
        return self.projection.refusal_of(self._branch, TXN, transaction)

    # --- making an entry ---

    def catch_up(self, length: int) -> None:
        """Take in what stands in the feed below ``length`` and is not known here: tables that were made anew, say.

        Raises ``RefusedError`` when it had seen what is not here: the next entry could not follow it.
        """
        if self._branch.next_seq < length and not self.projection.advance(self._branch, self._now_ms()):
            raise RefusedError(
                "this device's feed has entries that wait for those of others", hint="take in what the others have"
            )

    def stamp(self) -> Stamp:
        """The stamp of the entry that is being made.

        Raises ``MuchUnseen``, and ``RefusedError`` when the feed's clock is at its end.
        """
        stamp = self._stamp(None)
        if len(stamp.deps) > MAX_REFERENCES:
            raise MuchUnseen(f"{len(stamp.deps)} entries are new, and one can name {MAX_REFERENCES} of them")
        return stamp

    def witness(self) -> MemberEntry | None:
        """An entry that says nothing new but what it has seen, of more than one can name; None when one can.

        It carries an event that everybody knows: whatever is here, many feeds of strangers too, can be named by and by.
        """
        if len(self._stamp(None).deps) <= MAX_REFERENCES:
            return None
        identity = self._branch.author.identity
        first = parse_signed_event(self.projection.identity_events(identity)[0].signed_event)
        return MemberEntry(self._stamp(MAX_REFERENCES), CarryEvents(identity, (first,)))

    def _stamp(self, most: int | None) -> Stamp:
        now = self._now_ms()
        stamp = self.projection.next_stamp(self._branch, lambda own, seen: next_reading(now, own, seen), most)
        if self._branch.head is not None and stamp.reading <= self._branch.head.reading:
            raise RefusedError(
                "the clock of this feed stands at the end of the year 9999", hint="set the clock, and begin a new feed"
            )
        return stamp

    def vector(self, token: str) -> Vector:
        """The vector that a context token means. Raises ``MalformedError``."""
        return decode_context(token, self.projection.branches)

    def check_required(self, ops: Sequence[Op]) -> None:
        """Return only when the documents will have all that their schemas require. Raises ``MalformedError``."""
        by_document: dict[DocumentId, list[Op]] = {}
        for op in ops:
            by_document.setdefault(op.document, []).append(op)
        for document, found in by_document.items():
            schema = self.schema(document.collection)
            if schema is None:
                continue
            after = self._after(document, found)
            faults = check_document(schema, after.fields) if after.exists else []
            if faults:
                raise MalformedError(f"{document}: {faults[0]}")

    def _after(self, document: DocumentId, ops: Iterable[Op]) -> View:
        """What the document will show."""
        live: dict[str, list[LiveDot]] = {}
        for dot in self.dots(document):
            live.setdefault(dot.path, []).append(dot)
        parts = list(self.counters(document))
        increments = []
        for at, op in enumerate(ops):
            dot = LiveDot(-1, self._branch.id, _IN_THE_MAKING, at, op.verb, path_text(op.path), encode(op.value))
            context = self.projection.context_of(op)
            for victim in replaced(dot, context, live, None):
                live[victim.path].remove(victim)
            if op.verb is Verb.DEL and context is None:
                parts = [part for part in parts if not f"{part.path}/".startswith(f"{dot.path}/")]
            if op.verb is Verb.INC:
                increments.append(dot)
            elif op.verb in WRITES:
                live.setdefault(dot.path, []).append(dot)
        dots = [dot for found in live.values() for dot in found]
        counters = [*parts, *count_increments(increments)]
        return make_view(dots, counters, lambda dot: (True, dot.seq, b""), self._past_of)

    def _past_of(self, branch: int, seq: int) -> Vector:
        """What an entry has seen: the one that is being made, everything."""
        branches = self.projection.branches
        return branches.clock() if (branch, seq) == (self._branch.id, _IN_THE_MAKING) else branches.past_of(branch, seq)

    def introduction(self) -> MemberEntry | None:
        """An entry with events of this device's owner that the database does not have; None when it has all."""
        identity = self._branch.author.identity
        member = self.projection.standing.within(None).members.get(identity)
        if member is None:
            return None
        known = set() if member.history is None else {event.digest for event in member.history.events}
        fresh = [one for one in self.projection.identity_events(identity) if one.digest not in known]
        events = tuple(parse_signed_event(one.signed_event) for one in fresh)
        return MemberEntry(self.stamp(), CarryEvents(identity, events)) if events else None

    def take(self, content: Content, start: int) -> tuple[bytes, Reference, int]:
        """Take in the entry that carries ``content``, at index ``start`` of the feed: its block, name and place.

        Raises ``RefusedError`` when this device may not write, ``MalformedError`` for what no replica would let count;
        nothing has changed then.
        """
        kind, entry = _entry_of(content)
        block = encode_entry(entry)
        if (reason := self.projection.refusal_of(self._branch, kind, content)) is not None:
            words, hint = _IN_WORDS.get(reason, (reason, ""))
            raise RefusedError(f"this device may not write to the database: {words}", hint=hint)
        if (reason := self.projection.misfit_of(content)) is not None:
            raise MalformedError(reason)
        taken = self.projection.take_own(self._branch, start, block, kind, content, self._now_ms())
        assert taken.masked is None, taken.masked
        reference = Reference(self._branch.feed, start, leaf_node(start, block).hash)
        return block, reference, self.projection.next_place - 1


def _entry_of(content: Content) -> tuple[str, Entry]:
    match content:
        case Transaction():
            return TXN, transaction_entry(content)
        case MemberEntry():
            return MEMBER, member_entry(content)
        case StateRoot():
            return CKPT, state_root_entry(content)
        case Erasure():
            return ERASE, erasure_entry(content)
        case Proposal():
            return PROPOSE, proposal_entry(content)
        case Rejection():
            return DECIDE, rejection_entry(content)
        case HomeEntry():
            return HOME, home_entry(content)


# --- context tokens -------------------------------------------------------------------------------------------------


def encode_context(vector: Vector, branches: Branches) -> str:
    """A vector as a token that means the same on every replica.

    Branches of which nothing counts are left out, those of strangers above all: there can be so many of them that the
    token would be too long, and who has seen them has seen nothing that could be replaced.
    """
    known: list[Value] = [
        [branches[branch].uid[:_BRANCH_NAME], seq]
        for branch, seq in sorted(vector.items())
        if branches[branch].excluded_from != 0
    ]
    return to_base64(encode(known)).replace("+", "-").replace("/", "_")


def decode_context(token: str, branches: Branches) -> dict[int, int]:
    """The vector that a token means here: a branch that is not known here is left out. Raises ``MalformedError``."""
    if len(token) > 1 << 16:
        raise LimitExceeded("context: too long")
    value: Any = decode(parse_base64(token.replace("-", "+").replace("_", "/")))
    numbers = {branch.uid[:_BRANCH_NAME]: branch.id for branch in branches}
    vector: dict[int, int] = {}
    if not isinstance(value, list):
        raise MalformedError("context: not a token of this program")
    for item in value:
        match item:
            case [bytes(name), int(seq)] if seq >= 0 and not isinstance(seq, bool):
                if name in numbers:
                    vector[numbers[name]] = seq
            case _:
                raise MalformedError("context: not a token of this program")
    return vector
