"""What an intent asks for, as far as access to it is decided: one action for each document that it touches."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from api.access.action import Action, Author, Operation
from sync.intent import Intent
from sync.transaction import HOLDS, SCHEMAS, DocumentId, Verb

__all__ = ["Found", "wanted"]


@dataclass(frozen=True, slots=True)
class Found:
    """What a document is before an intent. ``hidden``: the fields of a deleted one, which any edit shows again."""

    exists: bool
    hidden: frozenset[str] = frozenset()


_OF_SYSTEM: Final = {SCHEMAS: Operation.SCHEMA, HOLDS: Operation.HOLD}


def wanted(intent: Intent, find: Callable[[DocumentId], Found], guarded: Collection[DocumentId] = ()) -> list[Action]:
    """The actions that the intent comes to: each of them has to be allowed for it to be written.

    ``guarded`` are the documents whose version the request names. What resets or hides a document is a deletion,
    whatever else it does. What is written to a deleted one touches every field that is shown again.
    """
    documents = dict.fromkeys(op.document for op in intent.ops)
    return [_action(intent, document, find(document), document in guarded) for document in documents]


def _action(intent: Intent, document: DocumentId, found: Found, is_guarded: bool) -> Action:
    ops = [op for op in intent.ops if op.document == document]
    if document.collection.startswith("$"):
        # Documents of the database itself: no role that may only write documents reaches them.
        operation = _OF_SYSTEM[document.collection]
    elif any(op.verb is Verb.PURGE for op in ops):
        operation = Operation.PURGE
    elif any(_ends(op.verb, op.path, op.value) for op in ops):
        operation = Operation.DELETE
    else:
        operation = Operation.UPDATE if found.exists else Operation.CREATE
    fields = frozenset(op.path[0] for op in ops if op.path) | found.hidden
    author = Author(intent.mark.key, intent.mark.identity)
    return Action(operation, intent.database, *document, fields=fields, guarded=is_guarded, writes=True, author=author)


def _ends(verb: Verb, path: tuple[str, ...], value: object) -> bool:
    return (verb is Verb.HIDE and value is True) or (verb is Verb.DEL and not path)
