"""Proposing to a home, deciding there, and what became of a proposal.

Implements docs/spec/serial.md. What is made here is made in the transaction that writes it (``Writing``), so that what
a home has checked is what it carries out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from identity.errors import DamagedFile, MalformedError, MissingEvidenceError, RefusedError
from identity.textforms import to_zbase32
from ledger.entry import encode_entry, parse_entry
from ledger.storage.rows import checked
from ledger.values import Reference
from sync.changes import Changes, Current, resolve
from sync.serial import HOME, Decision, Home, HomeEntry, Proposal, Rejection, Term, Verdict, Why, parse_rejection
from sync.storage.branches import EntryFacts
from sync.storage.projection import KIND_NUMBER
from sync.storage.reader import Reader
from sync.storage.serial import Homes, read_proposal
from sync.storage.writing import Writing
from sync.transaction import TXN, Guard, Op, Transaction, Verb, entry_id, transaction_entry
from sync.vector import Vector

__all__ = [
    "decide",
    "decision_of",
    "find_decision",
    "hand_over",
    "homes_now",
    "make_serial",
    "name_home",
    "pending_for",
]

_COMMUTING: Final = frozenset({Verb.INC, Verb.ADD})
"""What means the same whatever stands there."""

_PENDING_A_TIME: Final = 256


# --- proposing ------------------------------------------------------------------------------------------------------


def make_serial(writing: Writing, changes: Changes, base: Vector | None) -> Transaction | Proposal | None:
    """What makes the changes so, as far as the home allows: at the home a transaction, elsewhere a proposal.

    None when nothing is to be written. Raises as ``resolve`` does, and ``RefusedError`` when the collections have no
    home in common.
    """
    terms = _terms_of(writing, {document.collection for document in changes.documents})
    ops, guards = resolve(changes, writing, base)
    if not terms:
        return None
    if all(term.home == writing.author.feed for term in terms):
        if not ops:
            return None
        writing.check_required(ops)
        return Transaction(writing.stamp(), tuple(ops), tuple(guards), changes.note)
    if not ops and changes:
        # That all is so here does not say that it is so at the home: it has to look.
        ops = [Op(Verb.HIDE, one, (), False) for one in sorted(changes.documents) if writing.view(one).exists]
    if not ops:
        return None
    writing.check_required(ops)
    transaction = Transaction(writing.stamp(), tuple(ops), _guarded(writing, changes, ops, guards), changes.note)
    touched = {op.document.collection for op in ops}
    named = sorted((term.reference for term in terms if term.collection in touched), key=_spelled)
    return Proposal(transaction, tuple(named))


def _terms_of(writing: Writing, collections: Iterable[str]) -> list[Term]:
    terms = []
    for collection in sorted(collections):
        term = writing.projection.homes.in_force(collection)
        if term is None:
            raise RefusedError(
                f"collection {collection!r} has no home that could decide",
                hint="an admin names one: 'holdfast db set-home'",
            )
        terms.append(term)
    if len({term.home for term in terms}) > 1:
        raise RefusedError("the collections have different homes: one transaction cannot be decided by both")
    return terms


def _guarded(current: Current, changes: Changes, ops: Iterable[Op], guards: Iterable[Guard]) -> tuple[Guard, ...]:
    """The guards of a proposal: those that were asked for, and the version that it was made from of each other document
    but those that it only adds to. At the home there may be another one, for which nobody has thought of it."""
    found = {guard.document: guard for guard in guards}
    replaced = {op.document for op in ops if op.verb not in _COMMUTING}
    as_is = changes.documents - {op.document for op in ops}
    for document in (replaced | as_is) - set(found):
        exists = current.view(document).exists
        found[document] = Guard(document, current.etag(document) if exists else None)
    return tuple(sorted(found.values()))


def _spelled(reference: Reference) -> tuple[bytes, int, bytes]:
    return reference.feed, reference.index, reference.leaf_hash


# --- deciding -------------------------------------------------------------------------------------------------------


def decide(writing: Writing, reference: Reference) -> Transaction | Rejection | None:
    """What this device, as the home, makes of a proposal; None when it is not, or not any more, its to decide."""
    facts = writing.projection.branches.find(reference)
    proposal = None if facts is None else _undecided(writing, facts)
    if facts is None or proposal is None:
        return None
    refusal = _refusal_of(writing, facts, proposal)
    if refusal is not None:
        return Rejection(writing.stamp(), reference, *refusal)
    return replace(proposal.transaction, stamp=writing.stamp(), decides=reference)


def _undecided(writing: Writing, facts: EntryFacts) -> Proposal | None:
    """A proposal that counts, that nothing decides, and whose terms have this device for a home."""
    tx, sql, _ = writing.projection.written()
    row = tx.fetch_one(sql.txn, (facts.branch, facts.seq))
    proposal = None if row is None or row[6] is not None else read_proposal(writing.projection.branches, facts)
    if row is None or proposal is None or tx.fetch_one(sql.decisions, (row[0],)) is not None:
        return None
    terms = _in_force_for(writing.projection.homes, proposal)
    is_here = {term.reference for term in terms} == set(proposal.terms)
    return proposal if is_here and all(term.home == writing.author.feed for term in terms) else None


def _in_force_for(homes: Homes, proposal: Proposal) -> list[Term]:
    found = map(homes.in_force, {op.document.collection for op in proposal.transaction.ops})
    return [term for term in found if term is not None]


def _refusal_of(writing: Writing, facts: EntryFacts, proposal: Proposal) -> tuple[Why, str] | None:
    """Why a proposal is not to be carried out where everything stands as it does now."""
    branch = writing.projection.branches[facts.branch]
    membership = writing.projection.standing.within(None)
    if writing.projection.branches.is_excluded(facts.branch, facts.seq):
        return Why.STANDING, "its author was revoked or dismissed"
    if (standing := membership.may_write(branch.author)) is not None:
        return Why.STANDING, str(standing)
    for guard in proposal.transaction.guards:
        if not _holds(writing, guard):
            return Why.STALE, str(guard.document)
    transaction = replace(
        proposal.transaction, stamp=writing.stamp(), decides=writing.projection.branches.reference(facts)
    )
    if (refused := writing.refusal_of(transaction)) is not None:
        return Why.STANDING, refused
    try:
        _check_fit(writing, transaction)
    except MalformedError as exc:
        return Why.UNFIT, str(exc)
    return None


def _holds(current: Current, guard: Guard) -> bool:
    exists = current.view(guard.document).exists
    return not exists if guard.etag is None else exists and current.etag(guard.document) == guard.etag


def _check_fit(writing: Writing, transaction: Transaction) -> None:
    """Return only when every replica will let it count. Raises ``MalformedError``, ``LimitExceeded``."""
    encode_entry(transaction_entry(transaction))
    for document in {op.document for op in transaction.ops}:
        if writing.view(document).purged:
            raise MalformedError(f"{document} was purged")
    for op in transaction.ops:
        writing.projection.context_of(op)
    if (reason := writing.projection.misfit_of(transaction)) is not None:
        raise MalformedError(reason)
    writing.check_required(transaction.ops)


def decision_of(proposal: Reference, made: Transaction | Rejection, entry: Reference) -> Decision:
    """What an entry that decides a proposal says."""
    if isinstance(made, Rejection):
        return Decision(proposal, Verdict.REFUSED, entry, made.why, made.detail)
    return Decision(proposal, Verdict.ACCEPTED, entry)


# --- homes ----------------------------------------------------------------------------------------------------------


def name_home(writing: Writing, collection: str, feed: bytes) -> HomeEntry | None:
    """An admin's entry that makes a feed the home of a collection, or asks the home for it; None when it is so, or
    was asked. Raises ``RefusedError`` when the feed is nobody's who may write."""
    branches = writing.projection.branches.of_feed(feed)  # type: ignore[arg-type]
    membership = writing.projection.standing.within(None)
    if not any(one.head for one in branches) or membership.may_write(branches[0].author) is not None:
        raise RefusedError(
            f"feed {to_zbase32(feed)} is no member's that writes to this database",
            hint="what is to be the home writes something first",
        )
    homes = writing.projection.homes
    term = homes.in_force(collection)
    if term is not None and term.home == feed:
        return None
    if term is None:
        return HomeEntry(writing.stamp(), collection, feed)
    asked = {one.home for one in homes.asking(term)}
    if feed in asked and term.home != writing.author.feed and not homes.is_ended(term):
        return None
    return HomeEntry(writing.stamp(), collection, feed, term.reference)


def hand_over(writing: Writing, collection: str) -> HomeEntry | None:
    """What gives a collection of this home to the one that an admin asks for; None when nobody does, or it can't be."""
    homes = writing.projection.homes
    term = homes.in_force(collection)
    if term is None or term.home != writing.author.feed:
        return None
    now = writing.projection.branches.clock()
    asked = next((one for one in homes.asking(term) if homes.fault_of(writing.author, one, now) is None), None)
    return None if asked is None else replace(asked, stamp=writing.stamp())


def homes_now(reader: Reader) -> Mapping[str, Home]:
    """The homes of a database's collections, by collection."""
    homes = _homes_of(reader)
    found = {}
    for collection in homes.collections:
        term = homes.in_force(collection)
        if term is not None:
            asked = next((one.home for one in homes.asking(term)), None)
            found[collection] = Home(collection, term.home, term.reference, asked)
    return found


def _homes_of(reader: Reader) -> Homes:
    homes = Homes(reader.branches, reader.standing)
    homes.load(reader.tx.fetch_all(reader.sql.of_kind, (reader.number, KIND_NUMBER[HOME])))
    return homes


# --- what became of it ----------------------------------------------------------------------------------------------


def pending_for(reader: Reader, feed: bytes) -> list[Reference]:
    """The proposals that wait for a feed as their home, in the order in which they came here."""
    homes = _homes_of(reader)
    ours = {term.reference for one in homes.collections if (term := homes.in_force(one)) and term.home == feed}
    found: list[Reference] = []
    after = 0
    while ours and (rows := reader.tx.fetch_all(reader.sql.pending, (reader.number, after, _PENDING_A_TIME))):
        for row in rows:
            after, branch, seq, _ = checked(row, int, int, int, bytes)
            facts = _facts(reader, branch, seq)
            proposal = read_proposal(reader.branches, facts)
            if proposal is not None and set(proposal.terms) <= ours:
                found.append(reader.branches.reference(facts))
    return found


def find_decision(reader: Reader, reference: Reference) -> Decision | None:
    """What became of a proposal, as far as it is known here; None while it waits.

    Raises ``MissingEvidenceError`` when no such proposal is here.
    """
    facts = reader.branches.find(reference)
    row = None if facts is None else reader.tx.fetch_one(reader.sql.txn, (facts.branch, facts.seq))
    proposal = None if facts is None else read_proposal(reader.branches, facts)
    if row is None or proposal is None:
        raise MissingEvidenceError("no such proposal is here", hint="it may not have come here yet")
    if row[6] is not None:
        return Decision(reference, Verdict.REFUSED, None, Why.UNFIT, row[6])
    rows = reader.tx.fetch_all(reader.sql.decisions, (row[0],))
    found = sorted(_decisions(reader, reference, rows), key=_shown_first)
    if found:
        rivals = tuple(one.entry for one in found[1:] if one.entry is not None)
        return replace(found[0], rivals=rivals)
    in_force = {term.reference for term in _in_force_for(_homes_of(reader), proposal)}
    return None if in_force == set(proposal.terms) else Decision(reference, Verdict.LAPSED, None)


def _decisions(reader: Reader, reference: Reference, rows: Iterable[tuple[object, ...]]) -> Iterable[Decision]:
    for row in rows:
        branch, seq, kind, leaf = checked(row, int, int, int, bytes)
        if reader.branches.is_excluded(branch, seq):
            continue
        name = reader.branches.reference(_facts(reader, branch, seq))
        if kind == KIND_NUMBER[TXN]:
            yield Decision(reference, Verdict.ACCEPTED, name)
        else:
            yield decision_of(reference, parse_rejection(parse_entry(reader.branches.block(branch, seq, leaf))), name)


def _shown_first(decision: Decision) -> tuple[bool, bytes]:
    """What has an effect before what has none: that can be seen."""
    assert decision.entry is not None
    return decision.verdict is not Verdict.ACCEPTED, entry_id(decision.entry)


def _facts(reader: Reader, branch: int, seq: int) -> EntryFacts:
    facts = reader.branches.facts(branch, seq)
    if facts is None:
        raise DamagedFile(f"the database has lost entry {seq} of branch {branch}")
    return facts
