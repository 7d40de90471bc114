"""``holdfast device``: who may write to the databases of this home, and how to end that."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from api.cli.db_common import Device as DeviceOption
from api.cli.exit_codes import ExitCode, UsageError
from api.cli.group import CommandGroup, invocation
from api.cli.identity_common import named_device, revocation_reason, the_one
from api.cli.session import PassphraseFile, opened, unlock
from api.cli.times import time_text
from identity.errors import AuditError, RefusedError

if TYPE_CHECKING:
    from api.bootstrap import Session
    from api.cli.output import Plain
    from api.databases import Databases
    from api.devices import KnownDevice
    from identity.history import Device, KeyHistory
    from identity.keystore import KeyRing
    from sync.database import DatabaseInfo

__all__ = ["group"]

group = CommandGroup("device", "Devices that write to the databases of this home: this identity's, and others'.")


@group.add(
    "list", examples=["holdfast device list", "holdfast device list --all --json", "holdfast device list --device desk"]
)
def list_(
    ctx: typer.Context,
    everything: Annotated[
        bool, typer.Option("--all", help="Also those that may not write: revoked, dismissed, readers.")
    ] = False,
    device: Annotated[
        str | None,
        typer.Option("--device", metavar="NAME", help="Safety numbers with this one; default: the only one here."),
    ] = None,
) -> None:
    """Every device that may write to a database of this home, how it stands, and when it last wrote, as it claims.

    The safety number is the one that pairing shows: compare it with what the other side sees, at any time.
    """
    from api.databases import Databases
    from api.devices import WRITES, list_devices

    out = invocation(ctx).out
    with opened(ctx, read_only=True) as session, Databases(session) as databases:
        own = _own_device(session, device)
        found = list_devices(session, databases, own)
    shown = [one for one in found if everything or one.standing == WRITES]
    if own is None:
        out.note("this home has several devices: --device NAME for safety numbers")
    rows = [
        (
            one.identity.hex(),
            one.label,
            one.name,
            _key(one),
            one.standing,
            ", ".join(one.databases),
            None if one.written_ms is None else time_text(out, one.written_ms),
            one.safety_number,
            one.url,
        )
        for one in shown
    ]
    columns = ("identity", "label", "device", "key", "standing", "databases", "written", "safety_number", "url")
    out.table("device", columns, rows)


def _key(one: KnownDevice) -> str:
    from identity.textforms import to_did_key

    return to_did_key(one.key)


def _own_device(session: Session, named: str | None) -> bytes | None:
    """The device that this home speaks with; None when there are several."""
    history = session.vault.history()
    if named is not None:
        return named_device(history, named).key
    written = {info.device for info in session.vault.feeds() if info.state.local}
    good = [key for key, one in history.devices.items() if one.revocation is None]
    for candidates in ([key for key in good if key in written], good):
        if len(candidates) == 1:
            return candidates[0]
    return None


@group.add(
    "revoke",
    examples=[
        "holdfast device revoke phone --reason lost",
        "holdfast device revoke Anna --reason 'left the bank'",
        "holdfast device revoke did:key:z6MknGc3ocHs3zdPiJbnaaqDi58NGb4pk1Sp9WxWufuXSdxf --database bank",
    ],
)
def revoke(
    ctx: typer.Context,
    whom: Annotated[
        str,
        typer.Argument(metavar="DEVICE|IDENTITY", help="A device of this identity, or somebody else, by name or key."),
    ],
    reason: Annotated[
        str,
        typer.Option(
            "--reason",
            metavar="WHY",
            help="Own device: retired, lost, stolen, compromised, superseded, unspecified. Else any text.",
        ),
    ] = "",
    database: Annotated[
        list[str] | None,
        typer.Option("--database", metavar="NAME", help="Somebody else: only from this one; may be repeated."),
    ] = None,
    device: DeviceOption = None,
    passphrase_file: PassphraseFile = None,
) -> ExitCode:
    """Let a device of this identity, or somebody else with all devices, write no more.

    A device of this identity is revoked by the root key, and every database is told. Somebody else is dismissed from
    the databases, and their node is forgotten; only they can revoke a device of theirs. What is here of it goes on to
    count. Exit code 75: it is done, and a database could not be told yet.
    """
    from api.databases import Databases

    with opened(ctx) as session:
        own = _own_named(session.vault.history(), whom)
        if own is not None:
            if database:
                raise UsageError("--database", hint="a device of this identity is revoked everywhere")
            why = revocation_reason(reason or "unspecified")
            ring = unlock(ctx, session, passphrase_file)
            return _revoke_own(ctx, session, ring, own, why.value, device)
        with Databases(session) as known:
            identity = _identity_of(session, known, whom)
            chosen = [known.find(name) for name in database] if database else known.known()
        ring = unlock(ctx, session, passphrase_file)
        with Databases(session, ring) as databases:
            return _dismiss(ctx, session, databases, identity, chosen, reason, device, everywhere=not database)


def _own_named(history: KeyHistory, whom: str) -> Device | None:
    from identity.textforms import to_did_key

    matches = [one for one in history.devices.values() if whom in (one.name, to_did_key(one.key))]
    return named_device(history, whom) if matches else None


def _revoke_own(
    ctx: typer.Context, session: Session, ring: KeyRing, revoked: Device, reason: str, writer: str | None
) -> ExitCode:
    from api.bootstrap import now_ms
    from api.databases import Databases
    from api.members import carry_events

    out = invocation(ctx).out
    if revoked.revocation is None:
        why = revocation_reason(reason)
        history = session.vault.revoke_device(ring, revoked.key, why, time_ms=now_ms())
        out.record("revocation", {"device": revoked.name, "reason": reason, "event": history.seq})
    else:
        out.note(f"{revoked.name} is revoked already; databases are told that were not")
    told, failed = [], []
    with Databases(session, ring) as databases:
        for info in databases.known():
            try:
                carry_events(databases.open_known(info.uid, device=writer))
                told.append(info.name)
            except RefusedError as exc:
                failed.append(info.name)
                out.note(f"{info.name} was not told: {exc}; another device does it by 'holdfast db carry {info.name}'")
    if told:
        out.note(f"told: {', '.join(told)}; others learn it by their next sync")
    out.note(
        "nobody can rely on the revocation before it is in a timestamped checkpoint: checkpoint create, anchor run"
    )
    return ExitCode.TRY_AGAIN if failed else ExitCode.OK


def _identity_of(session: Session, databases: Databases, whom: str) -> bytes:
    """Whose device it is, or who is called so. Raises ``UsageError``."""
    from api.devices import list_devices

    own = session.vault.history().identity
    devices = [one for one in list_devices(session, databases, None) if one.identity != own]
    by_key = {one.identity for one in devices if _key(one) == whom}
    by_name = {one.identity for one in devices if whom in (one.label, one.identity.hex())}
    begins = {one.identity for one in devices if len(whom) >= 6 and one.identity.hex().startswith(whom)}
    return the_one(sorted(by_key or by_name or begins), f"that device, that name, or an id that begins with {whom!r}")


def _dismiss(
    ctx: typer.Context,
    session: Session,
    databases: Databases,
    identity: bytes,
    chosen: list[DatabaseInfo],
    reason: str,
    writer: str | None,
    *,
    everywhere: bool,
) -> ExitCode:
    from api.members import dismiss, list_members
    from api.peers import forget_peer

    out, own = invocation(ctx).out, session.vault.history().identity
    dismissed, failed = [], []
    for info in chosen:
        database = databases.open_known(info.uid, device=writer)
        members = [one for one in list_members(database) if one.identity == identity and not one.dismissed]
        if not members:
            if not everywhere:
                out.note(f"{info.name}: no member any more")
            continue
        try:
            dismiss(database, own, identity, reason)
            dismissed.append(info.name)
        except RefusedError as exc:
            failed.append(info.name)
            out.note(f"{info.name}: {exc}")
    forgotten = 0
    if everywhere:
        with suppress(AuditError):
            forgotten = forget_peer(session.home, identity)
    facts: dict[str, Plain] = {"identity": identity.hex(), "databases": [*dismissed], "nodes_forgotten": forgotten}
    out.record("dismissal", facts)
    if not dismissed and failed:
        raise RefusedError(f"nothing was done in {', '.join(failed)}", hint="an admin of the database has to do it")
    return ExitCode.TRY_AGAIN if failed else ExitCode.OK
