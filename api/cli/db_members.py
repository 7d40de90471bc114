"""``holdfast db``: who may write to a database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from api.cli.db_common import DatabaseName, Device, group, place_of, reading, writing
from api.cli.exit_codes import UsageError
from api.cli.group import invocation
from api.cli.identity_common import the_one
from api.cli.session import PassphraseFile
from identity.textforms import is_whole_id

if TYPE_CHECKING:
    from api.bootstrap import Session
    from api.cli.db_common import Opened
    from sync.acts import Role
    from sync.database import Commit

__all__: list[str] = []

Whom = Annotated[str, typer.Argument(metavar="IDENTITY", help="The identity's label, or the first digits of its id.")]


@group.add("members", examples=["holdfast db members bank", "holdfast db members bank --json"])
def members(ctx: typer.Context, database: DatabaseName) -> None:
    """Everybody who may write to the database, or could, and in what role."""
    from api.members import list_members

    with reading(ctx, database) as opening:
        found = list_members(opening.database)
    rows = [
        (
            one.identity.hex(),
            one.label,
            one.role.value,
            None if one.admitted_by is None else one.admitted_by.hex(),
            one.dismissed,
            one.feeds,
        )
        for one in found
    ]
    columns = ("identity", "label", "role", "admitted_by", "dismissed", "feeds")
    invocation(ctx).out.table("member", columns, rows)


@group.add(
    "admit",
    examples=[
        "holdfast db admit bank Anna --role writer",
        "holdfast db admit bank 5e884898da28 --role admin --device laptop",
    ],
)
def admit(
    ctx: typer.Context,
    database: DatabaseName,
    whom: Whom,
    role: Annotated[
        str,
        typer.Option("--role", metavar="ROLE", help="admin, writer or reader.", show_default="writer"),
    ] = "writer",
    device: Device = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Make an identity a member, or give a member another role. 'identity import' makes an identity known here."""
    from api.members import admit as admit_member

    given = _role(role)
    with writing(ctx, database, passphrase_file, device) as opening:
        identity = _whom(opening.session, whom)
        made = admit_member(opening.database, opening.session.vault.history().identity, identity, given)
    _answer(ctx, identity, given.value, made, dismissed=False)


@group.add(
    "dismiss",
    examples=[
        "holdfast db dismiss bank Anna --reason 'left the bank'",
        "holdfast db dismiss bank 5e884898da28 --device laptop",
    ],
)
def dismiss(
    ctx: typer.Context,
    database: DatabaseName,
    whom: Whom,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; everybody can read it.")] = "",
    device: Device = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """End a membership. What is here of the member's entries goes on to count, and nothing that comes later does."""
    from api.members import dismiss as dismiss_member

    with writing(ctx, database, passphrase_file, device) as opening:
        identity = _whom(opening.session, whom)
        made = dismiss_member(opening.database, opening.session.vault.history().identity, identity, reason)
        role = _role_of(opening, identity)
    _answer(ctx, identity, role, made, dismissed=True)


@group.add("carry", examples=["holdfast db carry bank", "holdfast db carry bank --device laptop"])
def carry(
    ctx: typer.Context, database: DatabaseName, device: Device = None, passphrase_file: PassphraseFile = None
) -> None:
    """Put identity events that this store knows into the database: members' new devices, and revocations.

    A revocation counts in the database from then on. Those of this home's own identity are carried by every write.
    """
    from api.members import carry_events

    out = invocation(ctx).out
    with writing(ctx, database, passphrase_file, device) as opening:
        carried = carry_events(opening.database)
    if not carried:
        out.note("the database has every event of its members that this store knows")
    out.table("carried", ("identity", "events"), [(one.hex(), count) for one, count in carried.items()])


def _whom(session: Session, text: str) -> bytes:
    """The identity that is meant: that with this id, or the one that is called so or whose id begins so.

    A whole id means nothing else, also when it is not known here: whoever founds an identity can call it by the id of
    another. Raises ``UsageError``.
    """
    known = session.vault.identities()
    if is_whole_id(text):
        matches = [one for one in known if one.hex() == text]
    else:
        labelled = [one for one in known if session.vault.history(one).label == text]
        matches = labelled + [one for one in known if text and one not in labelled and one.hex().startswith(text)]
    return the_one(matches, f"that name, or an id that begins with {text!r}")


def _role(text: str) -> Role:
    from sync.acts import Role

    try:
        return Role(text)
    except ValueError as exc:
        raise UsageError(f"{text!r} is no role", hint=", ".join(Role)) from exc


def _role_of(opening: Opened, identity: bytes) -> str:
    from api.members import list_members

    return next(one.role.value for one in list_members(opening.database) if one.identity == identity)


def _answer(ctx: typer.Context, identity: bytes, role: str, made: Commit, *, dismissed: bool) -> None:
    facts = {"identity": identity.hex(), "role": role, "dismissed": dismissed, **place_of(made)}
    invocation(ctx).out.record("membership", facts)
