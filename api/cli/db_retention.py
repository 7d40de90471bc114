"""``holdfast db``: what goes for good: the trash, purges, legal holds, and the erasure of sealed values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from api.cli.db_common import DatabaseName, Device, DocumentName, document, group, place_of, reading, writing
from api.cli.exit_codes import ExitCode, UsageError
from api.cli.group import invocation
from api.cli.session import PassphraseFile, check_names
from api.cli.times import time_text
from identity.errors import ConflictError, RefusedError

if TYPE_CHECKING:
    from api.cli.output import Output, Plain
    from sync.database import Database
    from sync.retention import Hold
    from sync.transaction import DocumentId

__all__: list[str] = []

DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would go, and change nothing.")]


# --- the trash ------------------------------------------------------------------------------------------------------


@group.add("trash", examples=["holdfast db trash bank", "holdfast db trash bank --json"])
def trash(ctx: typer.Context, database: DatabaseName) -> None:
    """The deleted documents, and what keeps each of them from being purged; nothing, when it can be."""
    from sync import retention

    out = invocation(ctx).out
    with reading(ctx, database) as opening, opening.database.read() as reader:
        rows = [
            (str(one.document), time_text(out, one.deleted_ms), one.keeps or None)
            for one in retention.trash(reader, opening.session.now_ms())
        ]
    out.table("trashed", ("document", "deleted", "kept"), rows)


@group.add(
    "purge",
    examples=[
        "holdfast db purge bank --dry-run",
        "holdfast db purge bank accounts/4711 --confirm bank",
    ],
)
def purge(
    ctx: typer.Context,
    database: DatabaseName,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[COLLECTION/KEY...]", help="Which; default: all that can be purged.")
    ] = None,
    confirm: Annotated[str | None, typer.Option("--confirm", metavar="DATABASE", help="Its name, to be sure.")] = None,
    dry_run: DryRun = False,
    device: Device = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """End deleted documents for good, in one transaction: nobody can undelete them, and their keys stay taken.

    Sealed values of theirs are erased. What was written in the clear stays in the feeds, which are what is proven.
    """
    from sync import retention

    if not dry_run:
        _confirmed(confirm, database)
    chosen = list(map(document, names or []))
    out = invocation(ctx).out
    with reading(ctx, database) as opening, opening.database.read() as reader:
        kept = {one.document: one.keeps for one in retention.trash(reader, opening.session.now_ms())}
    due = _due(chosen, kept)
    if due and not dry_run:
        with writing(ctx, database, passphrase_file, device) as opening:
            retention.purge(opening.database, due)
    if not due:
        out.note("nothing in the trash can be purged yet: see 'holdfast db trash'")
    out.table("purged", ("document", "dry_run"), [(str(one), dry_run) for one in due])


def _due(chosen: list[DocumentId], kept: dict[DocumentId, str]) -> list[DocumentId]:
    """What is to be purged. Raises ``RefusedError`` when one that was named can't be."""
    for one in chosen:
        if one not in kept:
            raise RefusedError(f"{one} is not in the trash", hint="delete it first: see 'holdfast db trash'")
        if kept[one]:
            hint = "30 days after its deletion, when every device has seen that and no hold covers it"
            raise RefusedError(f"{one} can't be purged yet: {kept[one]}", hint=hint)
    return chosen or [one for one, why in kept.items() if not why]


def _confirmed(given: str | None, name: str) -> None:
    if given is None:
        raise UsageError("this can't be undone", hint=f"--dry-run shows what would go; --confirm {name} does it")
    if given != name:
        raise UsageError(f"--confirm says {given!r}, not {name!r}", hint="this can't be undone")


# --- legal holds ----------------------------------------------------------------------------------------------------


@group.add("holds", examples=["holdfast db holds bank", "holdfast db holds bank --json"])
def holds(ctx: typer.Context, database: DatabaseName) -> None:
    """The legal holds that are in force."""
    from sync import retention

    with reading(ctx, database) as opening, opening.database.read() as reader:
        rows = [_hold_row(one) for one in retention.holds(reader)]
    invocation(ctx).out.table("hold", ("hold", "covers", "reason"), rows)


@group.add(
    "hold",
    examples=[
        "holdfast db hold bank case-17 accounts/4711 --reason 'court order 17/2026'",
        "holdfast db hold bank audit-2026 accounts --reason 'everything of the collection'",
    ],
)
def hold(
    ctx: typer.Context,
    database: DatabaseName,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to call the hold.")],
    what: Annotated[str, typer.Argument(metavar="COLLECTION[/KEY]", help="A document, or all of a collection.")],
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; everybody can read it.")] = "",
    device: Device = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Let nobody purge or erase a document, or a whole collection, until the hold is released. Takes an admin."""
    from sync.retention import Hold, place_hold

    collection, _, key = what.partition("/")
    check_names(hold=name, collection=collection)
    placed = Hold(name, collection, key or None, reason)
    with writing(ctx, database, passphrase_file, device) as opening:
        try:
            made = place_hold(opening.database, placed)
        except ConflictError as exc:  # nothing that trying again could change
            raise RefusedError(f"there is a hold {name!r} already", hint=f"see 'holdfast db holds {database}'") from exc
    _answer_hold(ctx, placed, place_of(made), released=False)


@group.add(
    "release",
    examples=["holdfast db release bank case-17", "holdfast db release bank audit-2026 --device laptop"],
)
def release(
    ctx: typer.Context,
    database: DatabaseName,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the hold is called.")],
    device: Device = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Release a legal hold. Takes an admin. Erasures that came from other devices meanwhile are carried out then."""
    from sync.retention import holds as all_holds
    from sync.retention import release_hold

    placed: list[Hold] = []

    def find(database: Database) -> None:
        with database.read() as reader:
            placed.extend(one for one in all_holds(reader) if one.name == name)
        if not placed:
            raise RefusedError(f"there is no hold {name!r}", hint=f"see 'holdfast db holds {database.name}'")

    with writing(ctx, database, passphrase_file, device, before=find) as opening:
        made = release_hold(opening.database, name)
    _answer_hold(ctx, placed[0], place_of(made), released=True)


def _hold_row(hold: Hold) -> tuple[Plain, ...]:
    covers = hold.collection if hold.key is None else f"{hold.collection}/{hold.key}"
    return hold.name, covers, hold.reason


def _answer_hold(ctx: typer.Context, hold: Hold, place: dict[str, Plain], *, released: bool) -> None:
    name, covers, reason = _hold_row(hold)
    facts = {"hold": name, "covers": covers, "reason": reason, "released": released, **place}
    invocation(ctx).out.record("hold", facts)


# --- erasure --------------------------------------------------------------------------------------------------------


@group.add(
    "erase",
    examples=[
        "holdfast db erase bank clients/88 --dry-run",
        "holdfast db erase bank clients/88 --confirm clients/88 --reason 'request of 2026-11-22'",
    ],
)
def erase(
    ctx: typer.Context,
    database: DatabaseName,
    name: DocumentName,
    confirm: Annotated[
        str | None, typer.Option("--confirm", metavar="COLLECTION/KEY", help="The document, to be sure.")
    ] = None,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; everybody can read it.")] = "",
    dry_run: DryRun = False,
    device: Device = None,
    passphrase_file: PassphraseFile = None,
) -> ExitCode:
    """Destroy the keys of all sealed values that the document holds or ever held: nobody can read them again.

    The entry that records it tells every other device to destroy its keys as well. Proofs go on to hold. Exit code 75
    says that a copy of the key file could not be reached: run it again when that is back.
    """
    from sync import retention

    named = document(name)
    out = invocation(ctx).out
    if dry_run:
        _say_erasable(ctx, database, named)
        return ExitCode.OK
    _confirmed(confirm, name)
    with writing(ctx, database, passphrase_file, device) as opening:
        here = opening.databases.keys.of_document(opening.database.uid, named)
        try:
            erased = retention.erase(opening.database, named, reason)
        except ConflictError as exc:  # no such document: nothing that trying again could change
            raise RefusedError(str(exc)) from exc
    if not here:
        out.note(f"no key of {named} was here any more; the entry tells every other device once more")
    _answer_erasure(out, named, len(erased.kids), erased.unreachable, place_of(erased.commit), dry_run=False)
    return ExitCode.TRY_AGAIN if erased.unreachable else ExitCode.OK


def _say_erasable(ctx: typer.Context, database: str, named: DocumentId) -> None:
    from sync.retention import holds as all_holds

    out = invocation(ctx).out
    with reading(ctx, database) as opening:
        with opening.database.read() as reader:
            held = [one for one in all_holds(reader) if one.covers(named)]
        keys, copies = opening.databases.keys.of_document(opening.database.uid, named), opening.databases.keys.copies()
    for one in held:
        out.note(f"{named} is held: {one.name}: {one.reason}")
    if copies:
        out.note(f"keys are destroyed in these copies too: {', '.join(copies)}")
    _answer_erasure(out, named, len(keys), (), place_of(None), dry_run=True)


def _answer_erasure(
    out: Output,
    named: DocumentId,
    keys: int,
    unreachable: tuple[str, ...],
    place: dict[str, Plain],
    *,
    dry_run: bool,
) -> None:
    facts: dict[str, Plain] = {"document": str(named), "keys": keys, "unreachable": list(unreachable), **place}
    out.record("erasure", facts | {"dry_run": dry_run})
    for path in unreachable:
        out.note(f"could not be reached, and may still hold the keys: {path}")
    if unreachable:
        out.note("run it again when they are back; one that is gone for good: holdfast backup forget FILE")
