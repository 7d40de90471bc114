"""Intents: who wanted a change that another one's feed carries, signed by whoever wanted it.

Implements docs/spec/transaction.md, section "Intents". A visitor, or a device that is elsewhere, has no feed here: it
signs what it wants done, and a node writes that as a transaction of its own feed, with the intent in it. The entry says
who carried the change, the intent who made it, and neither can be taken from the other. Of an intent an entry holds
what its operations do not say already: the statement is made of both, so they cannot differ.

A key numbers its intents. The same one again changes nothing more; two that differ under one number are a proof that
their key has said two things, and are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from identity.contexts import INTENT_DIGEST, INTENT_SIGNATURE
from identity.encoding import Fields, Value, decode, encode
from identity.errors import ConflictError, MalformedError, SignatureMismatch, UnsupportedVersion, VerificationError
from identity.keys import Signer, verify_signature
from ledger.entry import Entry
from sync.transaction import TXN, IntentMark, Op, Stamp, Transaction, op_fields, parse_transaction, stamp_fields

__all__ = [
    "INTENT_VERSION",
    "Intent",
    "RivalIntents",
    "encode_intent",
    "intent_key",
    "intent_of",
    "misattributed",
    "parse_intent",
    "sign_intent",
    "verify_intent",
]

INTENT_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Intent:
    """A signed intent: these operations, on that database, as the statement number ``mark.sequence`` of a key."""

    database: bytes
    ops: tuple[Op, ...]
    mark: IntentMark

    def statement(self) -> bytes:
        """What is signed, without its context. Raises ``MalformedError`` for operations that are not well-formed."""
        return _statement(self.database, self.ops, self.mark)

    def digest(self) -> bytes:
        """What the intent is called: 32 bytes."""
        return sha256(INTENT_DIGEST + self.statement()).digest()


class RivalIntents(ConflictError):
    """A key has signed two different intents under one number. Both are here, as ``encode_intent`` writes them."""

    def __init__(self, first: Intent, second: Intent) -> None:
        super().__init__(
            f"key {first.mark.key.hex()} has signed two intents with the number {first.mark.sequence}",
            hint="number each intent once; the first one counts here",
        )
        self.first = encode_intent(first)
        self.second = encode_intent(second)


def sign_intent(
    signer: Signer,
    database: bytes,
    ops: Sequence[Op],
    *,
    sequence: int,
    identity: bytes | None = None,
    base: str | None = None,
) -> Intent:
    """The intent that ``signer`` states. Raises ``MalformedError`` for operations that are not well-formed."""
    unsigned = IntentMark(identity, signer.public_key, sequence, base, bytes(64))
    signature = signer.sign(INTENT_SIGNATURE + _statement(database, ops, unsigned))
    return Intent(database, tuple(ops), IntentMark(identity, signer.public_key, sequence, base, signature))


def verify_intent(intent: Intent) -> None:
    """Return only when its key has signed it. Raises ``SignatureMismatch``, ``MalformedError``."""
    verify_signature(intent.mark.key, INTENT_SIGNATURE + intent.statement(), intent.mark.signature)


def intent_of(transaction: Transaction) -> Intent | None:
    """The intent that a transaction carries; nothing is verified."""
    mark = transaction.intent
    return None if mark is None else Intent(transaction.stamp.database, transaction.ops, mark)


def intent_key(transaction: Transaction) -> tuple[bytes, int, bytes] | None:
    """Key, number and digest of the intent that a transaction carries; None when it carries none."""
    found = intent_of(transaction)
    return None if found is None else (found.mark.key, found.mark.sequence, found.digest())


def misattributed(transaction: Transaction) -> str | None:
    """Why a transaction does not count that says who wanted it; None when it says nobody, or it is true."""
    found = intent_of(transaction)
    if found is None:
        return None
    try:
        verify_intent(found)
    except (SignatureMismatch, MalformedError):
        return "its intent is not by that key over these operations"
    return None


def _statement(database: bytes, ops: Sequence[Op], mark: IntentMark) -> bytes:
    statement: dict[str, Value] = {
        "v": INTENT_VERSION,
        "db": database,
        "id": mark.identity,
        "key": mark.key,
        "seq": mark.sequence,
        "base": mark.base,
        **op_fields(ops),
    }
    return encode(statement)


# --- on the way -----------------------------------------------------------------------------------------------------


def encode_intent(intent: Intent) -> bytes:
    """An intent as it travels: the statement with its signature, ``sig``."""
    statement = decode(intent.statement())
    assert isinstance(statement, dict)
    return encode({**statement, "sig": intent.mark.signature})


def parse_intent(data: bytes) -> Intent:
    """Read an intent, and verify it.

    Raises ``MalformedError``, ``UnsupportedVersion``, and ``SignatureMismatch`` when its key has not signed it.
    """
    fields = Fields(decode(data), "intent")
    version = fields.int("v")
    if version != INTENT_VERSION:
        raise UnsupportedVersion(f"intent: version {version}, this reader knows {INTENT_VERSION}")
    database = fields.bytes("db", length=32)
    body: dict[str, Value] = {"docs": fields.value("docs"), "ops": fields.value("ops")}
    if fields.has("refs"):
        body["refs"] = fields.value("refs")
    body["int"] = {name: fields.value(name) for name in ("id", "key", "seq", "base", "sig")}
    fields.done()
    # The same reader as for entries: what a node could not write is no intent.
    read = parse_transaction(Entry(TXN, 0, {**stamp_fields(Stamp(database, None, (), 0, 0)), **body}))
    intent = intent_of(read)
    assert intent is not None
    verify_intent(intent)
    if encode_intent(intent) != data:
        raise VerificationError("intent: not spelt as it is signed")
    return intent
