"""Serial writes: collections with a home, and what is proposed to it, refused by it, and said about it.

Implements docs/spec/serial.md. Of a collection that has a home only the home's transactions count. Another device
writes a *proposal*, which has no effect by itself. The home carries it out in a transaction that names it, or refuses
it. Who is the home is a chain of *terms*: each begins with an entry that names the one before it, in the feed that
was the home till then, or once that feed has been ended by a revocation or a dismissal.

Here it is decided whether bytes are in the format, and which of several terms is in force. Whether an entry counts is
decided where it is taken in, by its causal past.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import pairwise
from typing import Final, NamedTuple

from identity.encoding import Fields, Value, encode
from identity.errors import LimitExceeded, MalformedError
from identity.textforms import check_name
from ledger.entry import Entry
from ledger.values import Reference, parse_reference
from sync.clock import wall_ms
from sync.transaction import (
    MAX_OPS,
    TXN,
    Stamp,
    Transaction,
    entry_id,
    parse_transaction,
    stamp_fields,
    stamp_of,
    transaction_entry,
)

__all__ = [
    "DECIDE",
    "HOME",
    "MAX_DETAIL",
    "PROPOSE",
    "Decision",
    "Fault",
    "Home",
    "HomeEntry",
    "Proposal",
    "Rejection",
    "Term",
    "Verdict",
    "Why",
    "carries_out",
    "home_entry",
    "parse_home",
    "parse_proposal",
    "parse_rejection",
    "proposal_entry",
    "rejection_entry",
    "term_in_force",
]

PROPOSE: Final = "propose"
DECIDE: Final = "decide"
HOME: Final = "home"

MAX_DETAIL: Final = 4096
"""Characters of what a refusal says in words."""


class Fault(StrEnum):
    """Why an entry about serial writes has no effect."""

    NOT_BY_HOME = "serial: the collection has a home, and this was not written there"
    OTHER_TERMS = "serial: its terms are not those of one home that were in force"
    UNSEEN = "serial: it decides no proposal that it had seen"
    NOT_ITS_TERM = "serial: the proposal is not this feed's to decide"
    DECIDED = "serial: the proposal was decided before"
    ALTERED = "serial: it is not what was proposed"
    NOT_NEXT = "serial: it does not follow the home in force"
    NO_SUCH_HOME = "serial: its home is nobody who may write"
    NOT_ASKED = "serial: no admin has asked for it"


class Why(StrEnum):
    """Why a home refused a proposal. The names are stable."""

    STALE = "stale"
    """A condition did not hold."""
    UNFIT = "unfit"
    """No replica would let it count: a schema, a document that was purged, a context that cannot be."""
    STANDING = "standing"
    """Its author may not write that, or the home may not."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """A transaction for the home of its collections. ``terms`` are those in force where it was written, ascending."""

    transaction: Transaction
    terms: tuple[Reference, ...]

    @property
    def stamp(self) -> Stamp:
        """The causal header of its entry."""
        return self.transaction.stamp


@dataclass(frozen=True, slots=True)
class Rejection:
    """That the home does not carry out the proposal ``of``."""

    stamp: Stamp
    of: Reference
    why: Why
    detail: str = ""


@dataclass(frozen=True, slots=True)
class HomeEntry:
    """That ``home``, a feed, is to be the home of a collection behind the term ``prev``; None: it has had none.

    ``asked``: the entry of an admin who asks for it, when the home that gives it away is no admin's.
    """

    stamp: Stamp
    collection: str
    home: bytes
    prev: Reference | None = None
    asked: Reference | None = None


class Term(NamedTuple):
    """A home, from its entry on until another term follows."""

    reference: Reference
    collection: str
    home: bytes
    prev: Reference | None


class Verdict(StrEnum):
    """What became of a proposal."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    LAPSED = "lapsed"
    """Its term is over, and nothing that counts decides it: it has no effect, and never will. It can be proposed anew,
    for the home that there is now."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What became of a proposal. ``entry`` decides it; None where nothing does.

    ``rivals`` are other entries that decide it and count as well: the home's feed has forked, and they prove it.
    """

    proposal: Reference
    verdict: Verdict
    entry: Reference | None
    why: Why | None = None
    detail: str = ""
    rivals: tuple[Reference, ...] = ()


@dataclass(frozen=True, slots=True)
class Home:
    """The home of a collection: a feed, since the entry ``since``; ``asked`` is the feed that an admin asks it for."""

    collection: str
    feed: bytes
    since: Reference
    asked: bytes | None


def term_in_force(terms: Iterable[Term]) -> Term | None:
    """Of a set of terms of one collection the one at the end of their chain; None for an empty set.

    Where several follow the same one, because admins replaced a lost home without knowing of each other, the one with
    the smallest entry id does.
    """
    following: dict[Reference | None, list[Term]] = {}
    for term in terms:
        following.setdefault(term.prev, []).append(term)
    last: Term | None = None
    while found := following.get(None if last is None else last.reference):
        last = found[0] if len(found) == 1 else min(found, key=lambda term: entry_id(term.reference))
    return last


def carries_out(transaction: Transaction, proposal: Proposal) -> bool:
    """Whether a transaction is what was proposed, byte for byte, and nothing else: 1 is not true."""
    as_proposed = replace(transaction, stamp=proposal.stamp, decides=None)
    return encode(transaction_entry(as_proposed).body) == encode(transaction_entry(proposal.transaction).body)


# --- proposals ------------------------------------------------------------------------------------------------------


def proposal_entry(proposal: Proposal) -> Entry:
    """The entry that carries the proposal. Raises as ``transaction_entry``, and ``LimitExceeded`` for bad terms."""
    if not proposal.terms or len(proposal.terms) > MAX_OPS:
        raise LimitExceeded(f"proposal: {len(proposal.terms)} terms, 1 to {MAX_OPS} are allowed")
    if proposal.transaction.decides is not None or proposal.transaction.undoes:
        raise MalformedError("proposal: it decides or undoes nothing itself")
    entry = transaction_entry(proposal.transaction)
    terms: list[Value] = [term.members() for term in sorted(proposal.terms, key=_spelled)]
    return Entry(PROPOSE, entry.claimed_ms, {**entry.body, "terms": terms})


def parse_proposal(entry: Entry) -> Proposal:
    """The proposal that an entry of kind ``propose`` carries. Raises ``MalformedError``, ``LimitExceeded``."""
    if entry.kind != PROPOSE:
        raise MalformedError(f"entry: of kind {entry.kind!r}, not a proposal")
    body = dict(entry.body)
    told = Fields({"terms": body.pop("terms", None)}, "proposal").list("terms", min=1, max=MAX_OPS)
    terms = tuple(map(parse_reference, told))
    if any(_spelled(one) >= _spelled(other) for one, other in pairwise(terms)):
        raise MalformedError("proposal: 'terms' is not in ascending order")
    transaction = parse_transaction(Entry(TXN, entry.claimed_ms, body))
    if transaction.decides is not None or transaction.undoes or transaction.intent is not None:
        raise MalformedError("proposal: it decides and undoes nothing itself, and carries no intent")
    return Proposal(transaction, terms)


def _spelled(reference: Reference) -> tuple[bytes, int, bytes]:
    return reference.feed, reference.index, reference.leaf_hash


# --- refusals and homes ---------------------------------------------------------------------------------------------


def rejection_entry(rejection: Rejection) -> Entry:
    """The entry that carries the refusal; its words are cut where they are too long."""
    body: dict[str, Value] = {
        **stamp_fields(rejection.stamp),
        "of": rejection.of.members(),
        "why": rejection.why.value,
        "detail": rejection.detail[:MAX_DETAIL],
    }
    return Entry(DECIDE, wall_ms(rejection.stamp.reading), body)


def parse_rejection(entry: Entry) -> Rejection:
    """The refusal that an entry of kind ``decide`` carries. Raises ``MalformedError``."""
    if entry.kind != DECIDE:
        raise MalformedError(f"entry: of kind {entry.kind!r}, not a decision")
    fields = Fields(dict(entry.body), "decision")
    stamp = stamp_of(entry, fields)
    of, why = parse_reference(fields.value("of")), fields.text("why", max=64)
    detail = fields.text("detail", max=MAX_DETAIL)
    fields.done()
    if why not in set(Why):
        raise MalformedError("decision: refused for a reason that is none")
    return Rejection(stamp, of, Why(why), detail)


def home_entry(entry: HomeEntry) -> Entry:
    """The entry that names a home. Raises ``MalformedError`` for a collection that can have none."""
    _check_collection(entry.collection)
    body: dict[str, Value] = {
        **stamp_fields(entry.stamp),
        "coll": entry.collection,
        "home": entry.home,
        "prev": None if entry.prev is None else entry.prev.members(),
    }
    if entry.asked is not None:
        body["asked"] = entry.asked.members()
    return Entry(HOME, wall_ms(entry.stamp.reading), body)


def parse_home(entry: Entry) -> HomeEntry:
    """What an entry of kind ``home`` says. Raises ``MalformedError``."""
    if entry.kind != HOME:
        raise MalformedError(f"entry: of kind {entry.kind!r}, not about a home")
    fields = Fields(dict(entry.body), "home")
    stamp = stamp_of(entry, fields)
    collection = fields.value("coll")
    if not isinstance(collection, str):
        raise MalformedError("home: a collection is a text")
    _check_collection(collection)
    home, prev = fields.bytes("home", length=32), fields.value("prev")
    asked = parse_reference(fields.value("asked")) if fields.has("asked") else None
    fields.done()
    return HomeEntry(stamp, collection, home, None if prev is None else parse_reference(prev), asked)


def _check_collection(collection: str) -> None:
    check_name(collection, "collection")
    if collection.startswith("$"):
        raise MalformedError(f"collection {collection!r}: what is reserved has no home")
