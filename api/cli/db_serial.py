"""``holdfast db``: collections with a home, which decides what others propose."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from api.cli.db_common import (
    DatabaseName,
    Device,
    device_name,
    entry_named,
    entry_text,
    group,
    place_of,
    reading,
    writing,
)
from api.cli.exit_codes import UsageError
from api.cli.group import invocation
from api.cli.session import PassphraseFile

if TYPE_CHECKING:
    from api.cli.output import Plain
    from ledger.store import FeedKey
    from sync.database import Database
    from sync.serial import Decision

__all__: list[str] = []

CollectionName = Annotated[str, typer.Argument(metavar="COLLECTION", help="The collection.")]

_COLUMNS = ("proposal", "verdict", "entry", "why", "detail", "rivals")


@group.add("homes", examples=["holdfast db homes bank", "holdfast db homes bank --json"])
def homes(ctx: typer.Context, database: DatabaseName) -> None:
    """The collections whose writes one device decides: whose feed is the home, and whose is asked to be the next."""
    from identity.textforms import to_zbase32

    with reading(ctx, database) as opening:
        found = opening.database.homes()
        with opening.database.read() as reader:
            rows = [
                (
                    one.collection,
                    to_zbase32(one.feed),
                    device_name(opening.session, reader.branches.author(one.feed)),  # type: ignore[arg-type]
                    entry_text(one.since),
                    None if one.asked is None else to_zbase32(one.asked),
                )
                for one in found.values()
            ]
    invocation(ctx).out.table("collection-home", ("collection", "home", "device", "since", "asked"), rows)


@group.add(
    "set-home",
    examples=[
        "holdfast db set-home bank seats",
        "holdfast db set-home bank seats --feed yqh8 --device laptop",
    ],
)
def set_home(
    ctx: typer.Context,
    database: DatabaseName,
    collection: CollectionName,
    feed: Annotated[
        str | None,
        typer.Option("--feed", metavar="FEED", help="The home's feed, or how its key begins; default: this device's."),
    ] = None,
    device: Device = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Let one device decide everything that is written to a collection. It takes an admin.

    A home that there is gives the collection away when it next runs 'db decide'; one whose device was revoked, or whose
    owner was dismissed, is replaced at once.
    """
    from identity.textforms import to_zbase32

    with writing(ctx, database, passphrase_file, device) as opening:
        named = opening.database.own_feed if feed is None else _feed_named(opening.database, feed)
        made = opening.database.set_home(collection, named)
        home = opening.database.homes()[collection]
    out = invocation(ctx).out
    asked = None if home.asked is None else to_zbase32(home.asked)
    facts: dict[str, Plain] = {"collection": collection, "home": to_zbase32(home.feed), "asked": asked}
    out.record("collection-home", facts | place_of(made))
    if home.feed != named:
        out.note("the home gives the collection away when it next runs 'holdfast db decide'")


@group.add("decide", examples=["holdfast db decide bank", "holdfast db decide bank --device laptop --json"])
def decide(
    ctx: typer.Context, database: DatabaseName, device: Device = None, passphrase_file: PassphraseFile = None
) -> None:
    """Decide, where this device is the home, what others have proposed, and give away what an admin asks for.

    Nothing is decided twice. Who proposed learns of it from the next bundle: 'db decision'.
    """
    with writing(ctx, database, passphrase_file, device) as opening:
        found = opening.database.decide_pending()
    invocation(ctx).out.table("decision", _COLUMNS, [tuple(_facts(one).values()) for one in found])


@group.add(
    "decision",
    examples=["holdfast db decision bank yqh8/12", "holdfast db decision bank yqh8/12 --json"],
)
def decision(
    ctx: typer.Context,
    database: DatabaseName,
    entry: Annotated[str, typer.Argument(metavar="ENTRY", help="The proposal, as the pending write named it.")],
) -> None:
    """What became of a write that was proposed: accepted, refused, lapsed with its home, or pending."""
    with reading(ctx, database) as opening:
        with opening.database.read() as reader:
            reference = entry_named(reader, entry)
        found = opening.database.decision(reference)
    pending: dict[str, Plain] = {**dict.fromkeys(_COLUMNS), "proposal": entry_text(reference), "verdict": "pending"}
    invocation(ctx).out.record("decision", pending if found is None else _facts(found))


def _facts(decision: Decision) -> dict[str, Plain]:
    return {
        "proposal": entry_text(decision.proposal),
        "verdict": decision.verdict.value,
        "entry": None if decision.entry is None else entry_text(decision.entry),
        "why": None if decision.why is None else decision.why.value,
        "detail": decision.detail or None,
        "rivals": ", ".join(map(entry_text, decision.rivals)) or None,
    }


def _feed_named(database: Database, text: str) -> FeedKey:
    """The feed of the database whose key begins so. Raises ``UsageError`` when there is none, or several."""
    from identity.textforms import to_zbase32

    with database.read() as reader:
        found = {one.feed for one in reader.branches if to_zbase32(one.feed).startswith(text)}
    if len(found) != 1:
        counted = "no feed" if not found else f"{len(found)} feeds"
        raise UsageError(f"{counted} of the database: {text}", hint="'holdfast feed list' shows them")
    return found.pop()
