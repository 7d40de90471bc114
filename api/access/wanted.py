"""What an intent asks for, as far as access to it is decided: one action for each document that it touches."""

from __future__ import annotations

from collections.abc import Callable, Collection

from api.access.action import Action, Caller, Grant, Operation
from identity.errors import Forbidden
from sync.intent import Intent
from sync.transaction import DocumentId, Verb

__all__ = ["check_signer", "wanted"]


def wanted(intent: Intent, exists: Callable[[DocumentId], bool], guarded: Collection[DocumentId] = ()) -> list[Action]:
    """The actions that the intent comes to: each of them has to be allowed for it to be written.

    ``exists`` says whether a document is there; ``guarded`` are those whose version the request names. What resets or
    hides a document is a deletion, whatever else it does.
    """
    documents = dict.fromkeys(op.document for op in intent.ops)
    return [_action(intent, document, exists(document), document in guarded) for document in documents]


def _action(intent: Intent, document: DocumentId, is_there: bool, is_guarded: bool) -> Action:
    ops = [op for op in intent.ops if op.document == document]
    if any(op.verb is Verb.PURGE for op in ops):
        operation = Operation.PURGE
    elif any(_ends(op.verb, op.path, op.value) for op in ops):
        operation = Operation.DELETE
    else:
        operation = Operation.UPDATE if is_there else Operation.CREATE
    fields = frozenset(op.path[0] for op in ops if op.path)
    return Action(operation, intent.database, *document, fields=fields, guarded=is_guarded)


def _ends(verb: Verb, path: tuple[str, ...], value: object) -> bool:
    return (verb is Verb.HIDE and value is True) or (verb is Verb.DEL and not path)


def check_signer(intent: Intent, caller: Caller, grant: Grant) -> None:
    """Return only when the intent is the caller's own: signed by the key of the request, for whom that key speaks.

    Raises ``Forbidden``.
    """
    if intent.mark.key != caller.key:
        raise Forbidden("INTENT", "the intent is signed by another key than the request")
    if intent.mark.identity != grant.identity:
        raise Forbidden("INTENT", "the intent names another identity than the one that the key speaks for")
