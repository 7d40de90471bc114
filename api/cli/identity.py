"""``holdfast identity``: whose keys write, since when, and until when."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from api.cli.exit_codes import UsageError
from api.cli.files import open_output, read_input
from api.cli.group import CommandGroup, invocation
from api.cli.session import PassphraseFile, opened, unlock
from api.cli.verify import parse_time

__all__ = ["group"]

MAX_EVENTS_BYTES = 64 << 20
_MAGIC = b"holdfast/v1 identity-events\n"

group = CommandGroup("identity", "The identity: its devices, their history, its log.")


@group.add("show", examples=["holdfast identity show", "holdfast identity show --json"])
def show(
    ctx: typer.Context,
    identity: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="Another identity that this store knows.")
    ] = None,
) -> None:
    """What the identity's events amount to."""
    from identity.textforms import parse_hex, to_hex

    with opened(ctx, read_only=True) as session:
        history = session.vault.history(None if identity is None else parse_hex(identity, 32))
    invocation(ctx).out.record(
        "identity",
        {
            "identity": to_hex(history.identity),
            "label": history.label,
            "events": history.seq + 1,
            "head": to_hex(history.head),
            "root generation": history.generation,
            "root keys": f"{history.root_threshold} of {len(history.root_keys)}",
            "devices": len(history.devices),
            "logs": [to_hex(log) for log in history.logs],
            "closed": history.closed,
            "duplicitous": history.duplicity is not None,
        },
    )


@group.add("devices", examples=["holdfast identity devices", "holdfast identity devices --json"])
def devices(ctx: typer.Context) -> None:
    """Every device that the identity ever authorised."""
    from identity.textforms import to_did_key

    with opened(ctx, read_only=True) as session:
        rows = [
            (
                device.name,
                to_did_key(device.key),
                device.device_class.value,
                device.added_seq,
                None
                if device.revocation is None
                else f"{device.revocation.reason.value}, event {device.revocation.seq}",
            )
            for device in session.vault.history().devices.values()
        ]
    invocation(ctx).out.table("device", ("name", "key", "class", "added", "revoked"), rows)


@group.add("events", examples=["holdfast identity events", "holdfast identity events --json"])
def events(ctx: typer.Context) -> None:
    """The identity's events, oldest first. Claimed times prove nothing."""
    from anchoring.report import format_time
    from identity.event import parse_event
    from identity.history import parse_signed_event

    with opened(ctx, read_only=True) as session:
        rows = []
        for stored in session.vault.events():
            event = parse_event(parse_signed_event(stored.signed_event).event)
            rows.append((stored.seq, event.type, format_time(event.time_ms), stored.digest.hex()))
    invocation(ctx).out.table("identity-event", ("seq", "type", "claimed", "digest"), rows)


@group.add(
    "add-device", examples=["holdfast identity add-device phone", "holdfast identity add-device box --class service"]
)
def add_device(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to call it.")],
    class_: Annotated[str, typer.Option("--class", metavar="admin|device|service", help="What it may do.")] = "device",
    passphrase_file: PassphraseFile = None,
) -> None:
    """Make a device key, keep it in the keystore, and authorise it with the root key."""
    from dataclasses import replace

    from api.bootstrap import now_ms
    from identity.event import DeviceClass
    from identity.keys import generate_seed
    from identity.keystore import open_keystore, replace_keystore
    from identity.textforms import to_did_key

    try:
        device_class = DeviceClass(class_)
    except ValueError as exc:
        raise UsageError(f"{class_!r} is no class of device", hint="admin, device or service") from exc
    with opened(ctx) as session:
        passphrase = _passphrase(ctx, passphrase_file)
        ring = open_keystore(session.settings.keystore, passphrase)
        if name in ring.devices:
            raise UsageError(f"the keystore holds a device {name!r} already")
        session.vault.require_writable()
        seed = generate_seed()
        # The key is kept before anything says that it exists: a device nobody holds the key of would be useless.
        grown = replace(ring, devices={**ring.devices, name: seed})
        replace_keystore(session.settings.keystore, passphrase, grown, expected=ring)
        history = session.vault.add_device(grown, name, seed, device_class=device_class, time_ms=now_ms())
    key = next(device.key for device in history.devices.values() if device.name == name)
    invocation(ctx).out.record("device", {"name": name, "key": to_did_key(key), "event": history.seq})


@group.add(
    "revoke-device",
    examples=[
        "holdfast identity revoke-device phone --reason stolen --since 2026-11-20T08:00:00Z",
        "holdfast identity revoke-device phone --reason lost --vouch notes=120",
    ],
)
def revoke_device(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The device.")],
    reason: Annotated[
        str,
        typer.Option("--reason", metavar="WHY", help="retired, lost, stolen, compromised, superseded, unspecified."),
    ],
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="The key may have been in other hands since then.")
    ] = None,
    vouch: Annotated[
        list[str] | None,
        typer.Option(
            "--vouch",
            metavar="FEED=LENGTH",
            help="Vouch only for this much; may be repeated. Default: all that this store holds.",
        ),
    ] = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """End a device key. What it wrote before counts up to what is vouched for; nobody un-signs anything by revoking."""
    from api.bootstrap import now_ms
    from identity.event import RevocationReason

    try:
        why = RevocationReason(reason)
    except ValueError as exc:
        raise UsageError(f"{reason!r} is no reason", hint=", ".join(item.value for item in RevocationReason)) from exc
    with opened(ctx) as session:
        ring = unlock(ctx, session, passphrase_file)
        matches = [device for device in session.vault.history().devices.values() if device.name == name]
        if len(matches) != 1:
            raise UsageError(f"{len(matches)} devices are called {name!r}", hint="see 'holdfast identity devices'")
        lengths = None
        if vouch is not None:
            named = dict(_vouched(item) for item in vouch)
            lengths = {session.vault.find_feed(feed).state.key: length for feed, length in named.items()}
        history = session.vault.revoke_device(
            ring,
            matches[0].key,
            why,
            time_ms=now_ms(),
            compromised_since_ms=None if since is None else parse_time(since),
            vouch_for=lengths,
        )
    out = invocation(ctx).out
    out.record("revocation", {"device": name, "reason": why.value, "event": history.seq})
    out.note(
        "nobody can rely on the revocation before it is in a timestamped checkpoint: checkpoint create, anchor run"
    )


@group.add(
    "rotate-root",
    examples=[
        "holdfast identity rotate-root --phrase-file phrase.txt",
        "holdfast identity rotate-root --phrase-file phrase.txt --passphrase-file pass.txt",
    ],
)
def rotate_root(
    ctx: typer.Context,
    phrase_file: Annotated[
        Path, typer.Option("--phrase-file", metavar="FILE", help="The recovery phrase; - for stdin.")
    ],
    passphrase_file: PassphraseFile = None,
) -> None:
    """Replace the root key by the one that the recovery phrase gives."""
    from dataclasses import replace

    from api.bootstrap import now_ms
    from identity.keystore import open_keystore, replace_keystore

    phrase = read_input(phrase_file, 1000).decode("utf-8", "replace").strip()
    with opened(ctx) as session:
        passphrase = _passphrase(ctx, passphrase_file)
        ring = open_keystore(session.settings.keystore, passphrase)
        history, seed = session.vault.rotate_root(phrase, time_ms=now_ms())
        rotated = replace(ring, root_seeds=(seed,), generation=history.generation)
        replace_keystore(session.settings.keystore, passphrase, rotated, expected=ring)
    invocation(ctx).out.record("root", {"generation": history.generation, "event": history.seq})


@group.add(
    "export", examples=["holdfast identity export -o anna.events", "holdfast identity export -o anna.events --force"]
)
def export(
    ctx: typer.Context,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Where to write; - for stdout.")],
    force: Annotated[bool, typer.Option("--force", help="Replace FILE.")] = False,
) -> None:
    """Write the identity's events for somebody who is to know them."""
    from identity.textforms import to_base64

    out = invocation(ctx).out
    with opened(ctx, read_only=True) as session, open_output(out, output, force=force) as stream:
        stream.write(_MAGIC)
        for event in session.vault.events():
            stream.write(to_base64(event.signed_event).encode("ascii") + b"\n")
    out.note(f"the identity's events are in {output}")


@group.add(
    "import", examples=["holdfast identity import anna.events", "holdfast identity import anna.events --home copy.home"]
)
def import_(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What 'identity export' wrote; - for stdin.")],
) -> None:
    """Take in another identity's events, or newer ones of a known identity, after verifying all of them."""
    from identity.errors import MalformedError
    from identity.history import parse_signed_event
    from identity.textforms import parse_base64, to_hex

    data = read_input(file, MAX_EVENTS_BYTES)
    if not data.startswith(_MAGIC) or not data.endswith(b"\n"):
        raise MalformedError(f"{file}: not an export of identity events, or cut short")
    lines = data[len(_MAGIC) : -1].split(b"\n")
    try:
        signed = [parse_signed_event(parse_base64(line.decode("ascii"))) for line in lines]
    except UnicodeDecodeError as exc:
        raise MalformedError(f"{file}: not base64") from exc
    with opened(ctx) as session:
        history = session.vault.import_events(signed)
    invocation(ctx).out.record("identity", {"identity": to_hex(history.identity), "events": history.seq + 1})


def _vouched(text: str) -> tuple[str, int]:
    feed, equals, length = text.rpartition("=")
    if not equals or not (length.isascii() and length.isdigit() and len(length) < 17):
        raise UsageError(f"{text!r} is not FEED=LENGTH")
    return feed, int(length)


def _passphrase(ctx: typer.Context, passphrase_file: Path | None) -> str:
    from api.cli.passphrase import read_passphrase

    return read_passphrase(passphrase_file, invocation(ctx).environ)
