"""What the commands of ``holdfast db`` share: their group, how things are named, opening, and answering.

A command that writes reads everything that can be wrong with its input first, and asks for the passphrase then.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from api.cli.exit_codes import UsageError
from api.cli.files import read_input
from api.cli.group import CommandGroup, invocation
from api.cli.session import as_usage, opened, unlock
from api.cli.times import parse_time, time_text
from identity.errors import MissingEvidenceError, RefusedError

if TYPE_CHECKING:
    from api.asof import AsOf
    from api.bootstrap import Session
    from api.cli.output import Output, Plain
    from api.databases import Databases
    from identity.keystore import KeyRing
    from ledger.values import Reference
    from sync.changes import Changes, Strength
    from sync.database import Commit, Database
    from sync.membership import Author
    from sync.storage.reader import Reader
    from sync.transaction import DocumentId
    from sync.transaction import Path as FieldPath

__all__ = [
    "AsOfTime",
    "AxisName",
    "Base",
    "DatabaseName",
    "Device",
    "DocumentName",
    "FieldName",
    "IfMatch",
    "JsonText",
    "Note",
    "Opened",
    "Prefer",
    "answer_commit",
    "as_of_facts",
    "commit",
    "device_name",
    "document",
    "entry_named",
    "entry_text",
    "field_path",
    "group",
    "json_text",
    "meet_node",
    "note_if_unknown",
    "note_of",
    "note_resealed",
    "part_of",
    "place_of",
    "point_in_time",
    "reading",
    "strength_of",
    "writing",
]

DatabaseName = Annotated[
    str, typer.Argument(metavar="DATABASE", help="The database's name, or the first digits of its id.")
]
DocumentName = Annotated[str, typer.Argument(metavar="COLLECTION/KEY", help="The document.")]
FieldName = Annotated[
    str, typer.Argument(metavar="FIELD", help="The field: balance, or address/street within another.")
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

Prefer = Annotated[
    str,
    typer.Option(
        "--prefer",
        metavar="STRENGTH",
        help="What a condition means: local (it held here), carried (others hold it too), serial (the home decides).",
    ),
]

AsOfTime = Annotated[
    str | None,
    typer.Option("--as-of", metavar="WHEN", help="As it was at a time, or (--axis known) after a commit's place."),
]
AxisName = Annotated[
    str,
    typer.Option(
        "--axis", metavar="AXIS", help="Whose time: claimed by the authors, known here, or anchored on a chain."
    ),
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
        "query",
        "delete",
        "undelete",
        "increment",
        "add",
        "remove",
        "history",
        "diff",
        "undo",
        "redo",
        "restore",
        "conflicts",
        "resolve",
        "watch",
        "schema",
        "import",
        "export",
        "bundle",
        "receive",
        "trash",
        "purge",
        "holds",
        "hold",
        "release",
        "erase",
        "members",
        "admit",
        "dismiss",
        "carry",
        "homes",
        "set-home",
        "decide",
        "decision",
        "state-root",
        "state-roots",
        "check-root",
        "audit",
        "rebuild",
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

    meet_node(ctx, name)
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
    from api.cli.db_node import send_to_node
    from api.databases import Databases

    meet_node(ctx, name, passphrase_file, device)
    with opened(ctx) as session:
        with Databases(session) as databases:
            uid = _find(databases, name)
            if before is not None:
                before(databases.open_known(uid))
        ring = unlock(ctx, session, passphrase_file, appending=True)
        with Databases(session, ring) as databases:
            yield Opened(session, databases, databases.open_known(uid, device=device), ring)
        send_to_node(ctx, session, ring, uid, device)


def meet_node(
    ctx: typer.Context, name: str | None, passphrase_file: Path | None = None, device: str | None = None
) -> None:
    """Sync with the node that the command line names, if it does: the database, or every one.

    When the node is away a note says so, and what is here counts. Raises what it is refused for.
    """
    if invocation(ctx).node is not None:
        from api.cli.db_node import fetch_from_node

        fetch_from_node(ctx, name, passphrase_file, device)


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


def part_of(text: str | None) -> tuple[str | None, str | None]:
    """The collection, and the key in it, that ``[COLLECTION[/KEY]]`` names; None for what is not named."""
    if text is None:
        return None, None
    collection, slash, key = text.partition("/")
    if not collection or (slash and not key):
        raise UsageError(f"{text!r} is not COLLECTION or COLLECTION/KEY", hint="such as accounts, or accounts/4711")
    return collection, key or None


def json_text(text: str) -> bytes:
    """What is written on the command line, or comes on stdin for ``-``."""
    return read_input(Path("-"), _MAX_JSON_BYTES) if text == "-" else text.encode()


def note_of(text: str) -> str:
    """The note of a transaction. Raises ``UsageError`` when it is too long."""
    if len(text) > _MAX_NOTE:
        raise UsageError(f"the note has {len(text)} characters, at most {_MAX_NOTE} are kept")
    return text


_MAX_NOTE = 4096


def strength_of(text: str) -> Strength:
    """The strength that ``--prefer`` means. Raises ``UsageError``."""
    from sync.changes import Strength

    try:
        return Strength(text)
    except ValueError as exc:
        raise UsageError(f"{text!r} is no strength", hint=", ".join(Strength)) from exc


# --- points in time, entries, people --------------------------------------------------------------------------------


def point_in_time(out: Output, reader: Reader, when: str | None, axis: str) -> AsOf | None:
    """The cut that ``--as-of`` and ``--axis`` mean; None without the first. Raises ``UsageError``.

    What is here and not in an anchored cut is told in a note.
    """
    from api.asof import Axis, as_of, as_of_place

    try:
        chosen = Axis(axis)
    except ValueError as exc:
        raise UsageError(f"{axis!r} is no axis", hint=", ".join(Axis)) from exc
    if when is None:
        return None
    with as_usage():
        if when.isascii() and when.isdigit() and len(when) < 19:
            if chosen is not Axis.KNOWN:
                raise UsageError(f"{when} is the place of a commit here", hint="--axis known goes with it")
            if int(when) > reader.newest_place():
                raise UsageError(
                    f"no place {when} is here yet: the newest is {reader.newest_place()}",
                    hint="each home counts its own places",
                )
            return as_of_place(reader, int(when))
        point = as_of(reader, chosen, parse_time(when))
    if point.left_out:
        out.note(_left_out_text(when, point))
    return point


def _left_out_text(when: str, point: AsOf) -> str:
    said = f"as anchored by {when}, without {point.left_out} of the entries that are here now"
    if not point.unbound:
        return said
    return f"{said}, {point.unbound} of them of identities that have not bound this log ('holdfast identity bind-log')"


def as_of_facts(out: Output, point: AsOf | None) -> dict[str, Plain] | None:
    """What an answer says about when it was so; None for now."""
    if point is None:
        return None
    at = None if point.at_ms is None else time_text(out, point.at_ms)
    return {
        "axis": point.axis.value,
        "time": at,
        "place": point.cut.place,
        "checkpoint": point.checkpoint,
        "block": point.block,
    }


def entry_text(reference: Reference) -> str:
    """An entry, as commands take it."""
    from ledger.values import reference_text

    return reference_text(reference)


def entry_named(reader: Reader, text: str) -> Reference:
    """The entry that is meant: in full, or FEED/INDEX with the first characters of the feed's key.

    Raises ``UsageError`` when no entry of the database is called so, or several are.
    """
    from identity.textforms import to_zbase32
    from ledger.values import parse_reference_text

    feed, _, rest = text.partition("/")
    index, _, leaf = rest.partition("/")
    if leaf:
        with as_usage():
            return parse_reference_text(text)
    if not (feed and index.isascii() and index.isdigit() and len(index) < 17):
        raise UsageError(f"{text!r} is not FEED/INDEX", hint="'holdfast db history' shows them")
    lines = [one for one in reader.branches if to_zbase32(one.feed).startswith(feed)]
    facts = [found for one in lines if (found := reader.branches.facts(one.id, int(index))) is not None]
    if len(facts) != 1:
        counted = "no entry" if not facts else f"{len(facts)} entries"
        raise UsageError(f"{counted} of the database: {text}", hint="'holdfast db history' shows them")
    return reader.branches.reference(facts[0])


def device_name(session: Session, author: Author) -> str:
    """Who wrote: the device's name, and whose it is when it is not this home's; its key when that is not known."""
    from identity.textforms import to_did_key

    known = session.vault.identities()
    if author.identity not in known:
        return to_did_key(author.device)
    history = session.vault.history(author.identity)
    device = history.devices.get(author.device)
    name = to_did_key(author.device) if device is None else device.name
    return name if known[0] == author.identity else f"{name} of {history.label}"


def note_if_unknown(out: Output, reader: Reader, collection: str) -> None:
    """Tell whoever found nothing when the collection has never held a document: its name may be mistyped."""
    from sync.storage.collections import list_collections

    known = [one.name for one in list_collections(reader)]
    if collection not in known:
        out.note(f"there is no collection {collection}; there are: {', '.join(known) or 'none'}")


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
            done = opening.database.commit(made[0])
        except StaleVersion as exc:
            exc.hint = f"read it again, and decide with what it shows now: holdfast db get {name} {exc.document}"
            raise
        except MissingDocument as exc:  # nothing that trying again could change
            if _is_deleted(opening.database, exc.document):
                hint = f"holdfast db undelete {name} {exc.document}"
                raise RefusedError(f"{exc.document} is deleted already", hint=hint) from exc
            raise RefusedError(str(exc), hint=f"see 'holdfast db list {name} {exc.document.collection}'") from exc
        return done if done.reference is not None else replace(done, etags=_etags(opening.database, made[0]))


def _etags(database: Database, changes: Changes) -> dict[DocumentId, str]:
    """The versions of documents that were so already."""
    with database.read() as reader:
        states = {name: reader.document(name) for name in changes.documents}
    return {name: state.etag for name, state in states.items() if state is not None}


def _is_deleted(database: Database, name: DocumentId) -> bool:
    with database.read() as reader:
        state = reader.document(name)
        return state is not None and state.deleted


def answer_commit(ctx: typer.Context, named: DocumentId, made: Commit) -> None:
    """Say what was written, and which version the document has now."""
    out = invocation(ctx).out
    facts: dict[str, Plain] = {"document": str(named), "etag": made.etags.get(named) or None}
    out.record("commit", facts | place_of(made) | {"pending": made.pending})
    if made.pending:
        out.note("proposed to the home of the collection: 'holdfast db decision' says what becomes of it")
    elif made.reference is None and facts["etag"] is None:
        out.note(f"there is no document {named}; nothing was written")
    elif made.reference is None:
        out.note(f"{named} was so already; nothing was written")
    note_resealed(out, made.resealed)


_SHOWN_RESEALED: Final = 10


def note_resealed(out: Output, documents: Collection[DocumentId]) -> None:
    """Say of which documents what had been erased may be back."""
    if documents:
        named = ", ".join(map(str, sorted(documents)[:_SHOWN_RESEALED]))
        more = f", and {len(documents) - _SHOWN_RESEALED} more" if len(documents) > _SHOWN_RESEALED else ""
        out.note(f"erased before, and sealed again under a new key: {named}{more}")


def place_of(made: Commit | None) -> dict[str, Plain]:
    """Where an entry was written, for an answer; None: nowhere, because nothing was to be written."""
    from identity.textforms import to_zbase32

    if made is None or made.reference is None:
        return {"written": False, "entry": None, "feed": None, "index": None, "place": None}
    reference = made.reference
    return {
        "written": True,
        "entry": entry_text(reference),
        "feed": to_zbase32(reference.feed),
        "index": reference.index,
        "place": made.place,
    }
