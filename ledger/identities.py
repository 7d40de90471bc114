"""The identity events that a store keeps, read back as a key history, and taken in only when they fold.

``identity.history.fold`` decides what events amount to; this module connects it to a store.
"""

from __future__ import annotations

from collections.abc import Iterable

from identity.errors import HistoryError, MissingEvidenceError
from identity.event import parse_event
from identity.history import KeyHistory, SignedEvent, event_digest, fold, parse_signed_event
from ledger.store import ReadTransaction, StoredEvent, WriteTransaction

__all__ = ["add_events", "key_history"]


def key_history(tx: ReadTransaction, identity: bytes) -> KeyHistory:
    """What this store's events of ``identity`` (32-byte id) amount to. Everything is verified again.

    Raises ``MissingEvidenceError`` when it holds none, ``VerificationError`` or ``MalformedError`` for what it holds.
    """
    events = tx.identity_events(identity)
    if not events:
        raise MissingEvidenceError(f"identity {identity.hex()} is not in this store")
    return fold([parse_signed_event(event.signed_event) for event in events])


def add_events(tx: WriteTransaction, identity: bytes, events: Iterable[SignedEvent]) -> KeyHistory:
    """Keep events of one identity, beside those that are kept already, when all of them together fold.

    An event that is held already is left as it is. A second event with one ``prev`` is kept: it shows that the identity
    is duplicitous. Nothing is written unless this returns. Raises what ``fold`` raises.
    """
    held = tx.identity_events(identity)
    known = {event.digest for event in held}
    fresh = []
    for signed in events:
        digest = event_digest(signed.event)
        if digest not in known:
            known.add(digest)
            fresh.append(StoredEvent(identity, parse_event(signed.event).seq, digest, signed.encode()))
    together = sorted([*held, *fresh], key=lambda event: event.seq)
    history = fold([parse_signed_event(event.signed_event) for event in together])
    if history.identity != identity:
        raise HistoryError(0, f"the inception of identity {history.identity.hex()}")
    for event in fresh:
        tx.add_identity_event(event)
    return history
