"""What the commands of ``holdfast db`` share: their group, how things are named, opening, and answering.

A command that writes reads everything that can be wrong with its input first, and asks for the passphrase then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from api.cli.exit_codes import UsageError
from api.cli.files import read_input
from api.cli.group import CommandGroup, invocation
from api.cli.session import as_usage, opened, unlock
from identity.errors import MissingEvidenceError, RefusedError

if TYPE_CHECKING:
    from api.bootstrap import Session
    from api.databases import Databases
    from identity.keystore import KeyRing
    from ledger.values import Reference
    from sync.changes import Changes
    from sync.database import Commit, Database
    from sync.transaction import DocumentId, Path as FieldPath

__all__ = [
    "Base",
    "DatabaseName",
    "Device",
    "DocumentName",
    "FieldName",
    "IfMatch",
    "JsonText",
    "Note",
    "Opened",
    "answer_commit",
    "commit",
    "document",
    "field_path",
    "group",
    "json_text",
    "note_of",
    "place_of",
    "reading",
    "writing",
]

DatabaseName = Annotated[
    str, typer.Argument(metavar="DATABASE", help="The database's name, or the first digits of its id.")
]
DocumentName = Annotated[str, typer.Argument(metavar="COLLECTION/KEY", help="The document.")]
FieldName = Annotated[
    str, typer.Argument(metavar="FIELD", help="The field's name; within others a JSON Pointer: /address/street.")
]
JsonText = Annotated[
    str, typer.Argument(metavar="JSON", help="Fields and values, as docs/reference/json.md says; - for stdin.")
]
IfMatch = Annotated[
    str | None,
    typer.Option("--if-match", metavar="ETAG", help="Only if this is its version; '*': only if it exists."),
]
Base = Annotated[
    str | None,
    typer.Option("--base", metavar="CONTEXT", help="The context it was read with: what came since is kept beside it."),
]
Note = Annotated[str, typer.Option("--note", metavar="TEXT", help="What to keep with the transaction.")]
Device = Annotated[
    str | None,
    typer.Option("--device", metavar="NAME", help="Who writes; default: the device that did, or the only one."),
]

_MAX_JSON_BYTES = 1_048_576

group = CommandGroup(
    "db",
    "Databases: documents that several devices write, with everything that they ever were.",
    order=(
        "create",
        "list",
        "put",
        "patch",
        "get",
        "delete",
        "undelete",
        "increment",
        "add",
        "remove",
        "schema",
        "import",
        "export",
        "members",
        "admit",
        "dismiss",
        "carry",
    ),
)


@dataclass(frozen=True, slots=True)
class Opened:
    """A home with one of its databases. ``ring`` None: open for reading."""

    session: Session
    databases: Databases
    database: Database
    ring: KeyRing | None = None


@contextmanager
def reading(ctx: typer.Context, name: str) -> Iterator[Opened]:
    """The database that the command line names, for reading. Raises ``UsageError`` when it names none, or several."""
    from api.databases import Databases

    with opened(ctx, read_only=True) as session, Databases(session) as databases:
        yield Opened(session, databases, databases.open_known(_find(databases, name)))


@contextmanager
def writing(
    ctx: typer.Context,
    name: str,
    passphrase_file: Path | None,
    device: str | None = None,
    *,
    before: Callable[[Database], object] | None = None,
) -> Iterator[Opened]:
    """The same for writing. ``before`` is called with the database before anybody is asked for a passphrase."""
    from api.databases import Databases

    with opened(ctx) as session:
        with Databases(session) as databases:
            uid = _find(databases, name)
            if before is not None:
                before(databases.open_known(uid))
        ring = unlock(ctx, session, passphrase_file, appending=True)
        with Databases(session, ring) as databases:
            yield Opened(session, databases, databases.open_known(uid, device=device), ring)


def _find(databases: Databases, name: str) -> bytes:
    try:
        return databases.find(name).uid
    except MissingEvidenceError as exc:
        raise UsageError(str(exc), hint=exc.hint) from exc


# --- naming ---------------------------------------------------------------------------------------------------------


def document(text: str) -> DocumentId:
    """The document that ``COLLECTION/KEY`` names. Raises ``UsageError``."""
    from sync.transaction import DocumentId

    collection, slash, key = text.partition("/")
    if not (collection and slash and key):
        raise UsageError(f"{text!r} is not COLLECTION/KEY", hint="such as accounts/4711")
    return DocumentId(collection, key)


def field_path(text: str) -> FieldPath:
    """The field that the command line names. Raises ``UsageError``."""
    from sync.jsonform import parse_path

    with as_usage():
        return parse_path(text)


def json_text(text: str) -> bytes:
    """What is written on the command line, or comes on stdin for ``-``."""
    return read_input(Path("-"), _MAX_JSON_BYTES) if text == "-" else text.encode("utf-8", "surrogateescape")


def note_of(text: str) -> str:
    """The note of a transaction. Raises ``UsageError`` when it is too long."""
    if len(text) > _MAX_NOTE:
        raise UsageError(f"the note has {len(text)} characters, at most {_MAX_NOTE} are kept")
    return text


_MAX_NOTE = 4096


# --- writing --------------------------------------------------------------------------------------------------------


def commit(
    ctx: typer.Context,
    name: str,
    make: Callable[[Database], Changes],
    passphrase_file: Path | None,
    device: str | None,
) -> Commit:
    """Commit the changes that ``make`` returns for the database as it can be read.

    Raises ``StaleVersion`` when a condition does not hold, ``RefusedError`` for a document that is not there.
    """
    from sync.changes import MissingDocument, StaleVersion

    made: list[Changes] = []
    with writing(ctx, name, passphrase_file, device, before=lambda database: made.append(make(database))) as opening:
        try:
            return opening.database.commit(made[0])
        except StaleVersion as exc:
            exc.hint = f"read it again, and decide with what it shows now: holdfast db get {name} {exc.document}"
            raise
        except MissingDocument as exc:  # nothing that trying again could change
            raise RefusedError(str(exc), hint=f"see 'holdfast db list {name} {exc.document.collection}'") from exc


def answer_commit(ctx: typer.Context, named: DocumentId, made: Commit) -> None:
    """Say what was written, and which version the document has now."""
    out = invocation(ctx).out
    out.record("commit", {"document": str(named), "etag": made.etags.get(named) or None, **place_of(made.reference)})
    if made.reference is None:
        out.note(f"{named} was so already; nothing was written")


def place_of(reference: Reference | None) -> dict[str, str | int | bool | None]:
    """Where an entry was written, for an answer; None: nowhere, because there was nothing to write."""
    from identity.textforms import to_zbase32

    if reference is None:
        return {"written": False, "feed": None, "index": None}
    return {"written": True, "feed": to_zbase32(reference.feed), "index": reference.index}
