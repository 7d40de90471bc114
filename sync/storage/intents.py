"""Intents on their way into a database: whether one was committed before, and whether it can be written as it is."""

from __future__ import annotations

from identity.errors import ConflictError, RefusedError, VerificationError
from ledger.storage.rows import checked
from ledger.values import Reference
from sync.changes import Changes, PurgedDocument, resolve
from sync.history import recorded_entry
from sync.intent import Intent, RivalIntents, encode_intent, intent_of, verify_intent
from sync.storage.reader import Reader
from sync.storage.writing import Writing
from sync.transaction import Transaction, Verb

__all__ = ["check_intent", "earlier_commit", "intended", "place_of_intent", "rival_intents"]


def check_intent(intent: Intent, database: bytes) -> None:
    """Return only when the intent is signed, and for that database. Raises ``VerificationError``."""
    verify_intent(intent)
    if intent.database != database:
        raise VerificationError("the intent is for another database")


def earlier_commit(current: Writing, intent: Intent) -> tuple[Reference, int] | None:
    """The entry that carries the intent already, and its place; None when none does.

    Raises ``RivalIntents`` when the key has signed another one under its number.
    """
    digest = intent.digest()
    found = current.projection.committed_intents(intent.mark.key, intent.mark.sequence)
    for one, reference, place in found:
        if one == digest:
            return reference, place
    for _, reference, _ in found:
        raise RivalIntents(_carried(current.reader(), reference), intent)
    return None


def intended(current: Writing, changes: Changes, intent: Intent) -> Transaction:
    """The transaction that carries the intent, under the conditions of ``changes``.

    Raises ``ConflictError`` when wishes in ``changes`` come to something else, and as ``Database.commit``.
    """
    wishes, guards = resolve(changes, current, None if changes.base is None else current.vector(changes.base))
    if wishes and tuple(wishes) != intent.ops:
        raise ConflictError("what is wanted does not come to the operations that were signed", hint="sign it again")
    _check_ops(current, intent)
    return Transaction(current.stamp(), intent.ops, tuple(guards), changes.note, intent=intent.mark)


def _check_ops(current: Writing, intent: Intent) -> None:
    """Return only when the operations can be written as they are: whoever signed them was elsewhere.

    Raises ``MalformedError``, ``RefusedError``, and ``ConflictError`` when they would replace what came after the base.
    """
    for op in intent.ops:
        is_system = op.document.collection.startswith("$") or op.verb is Verb.PURGE
        if intent.mark.identity is None and is_system:
            raise RefusedError("a visitor ends no document, and writes no schema and no hold")
        if current.view(op.document).purged:
            raise PurgedDocument(op.document)
        current.projection.context_of(op)
    if intent.mark.base is not None:
        based = Changes(base=intent.mark.base)
        for op in intent.ops:
            based.do(op)
        if tuple(resolve(based, current, current.vector(intent.mark.base))[0]) != intent.ops:
            raise ConflictError("somebody has written there since it was read", hint="read again, and sign it again")
    current.check_required(intent.ops)


def place_of_intent(reader: Reader, intent: Intent) -> int | None:
    """Where the entry begins that carries the intent, among what this replica has taken in; None when none does."""
    digest = intent.digest()
    rows = reader.tx.fetch_all(reader.sql.intents, (reader.number, intent.mark.key, intent.mark.sequence))
    return next((place for one, _, _, place, _ in rows if one == digest), None)


def rival_intents(reader: Reader) -> list[tuple[bytes, bytes]]:
    """Every two intents that one key has signed under one number, as they were signed."""
    rows = reader.tx.fetch_all(reader.sql.rival_intents, (reader.number,))
    return [pair for row in rows for pair in _rivals(reader, *checked(row, bytes, int))]


def _rivals(reader: Reader, key: bytes, sequence: int) -> list[tuple[bytes, bytes]]:
    spoken: dict[bytes, bytes] = {}
    for digest, branch, seq, _, _ in reader.tx.fetch_all(reader.sql.intents, (reader.number, key, sequence)):
        facts = reader.branches.facts(branch, seq)
        assert facts is not None
        intent = _carried(reader, reader.branches.reference(facts))
        spoken.setdefault(digest, encode_intent(intent))
    first, *others = spoken.values()
    return [(first, other) for other in others]


def _carried(reader: Reader, reference: Reference) -> Intent:
    told = recorded_entry(reader, reference).transaction
    intent = None if told is None else intent_of(told)
    assert intent is not None  # its row was made of it
    return intent
