"""``holdfast identity``: whose keys write, since when, and until when. Reading, and handing over.

Commands that change an identity are in modules of their own, which this one imports so that they are in its group.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from api.cli import identity_change, identity_recover, identity_request
from api.cli.exit_codes import ExitCode
from api.cli.files import open_output, read_input, source_name, written
from api.cli.group import invocation
from api.cli.identity_common import Identity, group, meant
from api.cli.identity_export import MAX_EVENTS_BYTES, encode_export, parse_export
from api.cli.session import Force, OutputFile, opened
from api.cli.times import time_text

__all__ = ["group"]

# Their commands are in the group because they were imported.
_PARTS = (identity_change, identity_request, identity_recover)


@group.add("list", examples=["holdfast identity list", "holdfast identity list --json"])
def list_(ctx: typer.Context) -> None:
    """Every identity that this store knows, its own first."""
    from identity.textforms import to_hex

    with opened(ctx, read_only=True) as session:
        rows = [
            (to_hex(one.identity), one.label, one.seq + 1, len(one.devices), one.duplicity is not None)
            for one in map(session.vault.history, session.vault.identities())
        ]
    invocation(ctx).out.table("identity", ("identity", "label", "events", "devices", "duplicitous"), rows)


@group.add("show", examples=["holdfast identity show", "holdfast identity show --json"])
def show(ctx: typer.Context, identity: Identity = None) -> None:
    """What the identity's events amount to."""
    from identity.textforms import to_hex

    with opened(ctx, read_only=True) as session:
        history = session.vault.history(meant(session, identity))
    invocation(ctx).out.record(
        "identity",
        {
            "identity": to_hex(history.identity),
            "label": history.label,
            "events": history.seq + 1,
            "head": to_hex(history.head),
            "root_generation": history.generation,
            "root_keys": len(history.root_keys),
            "root_threshold": history.root_threshold,
            "devices": len(history.devices),
            "logs": [to_hex(log) for log in history.logs],
            "closed": history.closed,
            "duplicitous": history.duplicity is not None,
        },
    )


@group.add("devices", examples=["holdfast identity devices", "holdfast identity devices --json"])
def devices(ctx: typer.Context, identity: Identity = None) -> None:
    """Every device that the identity ever authorised, and by which event it was revoked, if it was."""
    from identity.textforms import to_did_key

    with opened(ctx, read_only=True) as session:
        rows = [
            (
                device.name,
                to_did_key(device.key),
                device.device_class.value,
                device.added_seq,
                None if device.revocation is None else device.revocation.seq,
                None if device.revocation is None else device.revocation.reason.value,
            )
            for device in session.vault.history(meant(session, identity)).devices.values()
        ]
    invocation(ctx).out.table("device", ("name", "key", "class", "added", "revoked", "reason"), rows)


@group.add("events", examples=["holdfast identity events", "holdfast identity events --json"])
def events(ctx: typer.Context, identity: Identity = None) -> None:
    """The identity's events, oldest first. Claimed times prove nothing."""
    from identity.event import parse_event
    from identity.history import parse_signed_event

    out = invocation(ctx).out
    with opened(ctx, read_only=True) as session:
        rows = []
        for stored in session.vault.events(meant(session, identity)):
            event = parse_event(parse_signed_event(stored.signed_event).event)
            rows.append((stored.seq, event.type, time_text(out, event.time_ms), stored.digest.hex()))
    out.table("identity-event", ("seq", "type", "claimed", "digest"), rows)


# --- handing over ---------------------------------------------------------------------------------------------------


@group.add(
    "export", examples=["holdfast identity export -o anna.events", "holdfast identity export -o anna.events --force"]
)
def export(ctx: typer.Context, output: OutputFile, identity: Identity = None, force: Force = False) -> None:
    """Write the identity's events for somebody who is to know them."""
    out = invocation(ctx).out
    with opened(ctx, read_only=True) as session:
        stored = session.vault.events(meant(session, identity))
        with open_output(out, output, force=force) as stream:
            stream.write(encode_export(event.signed_event for event in stored))
    written(out, "identity-export", output, {"events": len(stored)})


@group.add(
    "import", examples=["holdfast identity import anna.events", "holdfast identity import anna.events --home copy.home"]
)
def import_(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What 'identity export' wrote; - for stdin.")],
) -> ExitCode:
    """Take in another identity's events, or newer ones of a known identity, after verifying all of them.

    Events that contradict known ones are kept, for they prove that the identity is duplicitous. Exit code 1 says so.
    """
    from identity.textforms import to_hex

    signed = parse_export(read_input(file, MAX_EVENTS_BYTES), source_name(file))
    out = invocation(ctx).out
    with opened(ctx) as session:
        history = session.vault.import_events(signed)
    duplicitous = history.duplicity is not None
    out.record(
        "identity", {"identity": to_hex(history.identity), "events": history.seq + 1, "duplicitous": duplicitous}
    )
    if history.duplicity is not None:
        first, second = map(to_hex, history.duplicity)
        out.note(f"the identity is DUPLICITOUS: it signed both event {first} and event {second} after one and the same")
    return ExitCode.FAILED if duplicitous else ExitCode.OK
