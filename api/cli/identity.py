"""``holdfast identity``: whose keys write, since when, and until when.

Two files change with a device or a root key, the store and the keystore, and a process may die between them. Which one
comes first is decided by what can be made good: a new device key is kept before the event that names it is stored,
because nobody can make it again; the next root key follows from the recovery phrase, so its event comes first. Running
the command again finishes in both cases what was begun.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from api.cli.exit_codes import ExitCode, UsageError
from api.cli.files import open_output, read_input, source_name, written
from api.cli.group import CommandGroup, invocation
from api.cli.session import (
    Force,
    OutputFile,
    PassphraseFile,
    check_names,
    named_feed,
    opened,
    unlock,
    unlock_to_replace,
)
from api.cli.times import parse_time, time_text

if TYPE_CHECKING:
    from api.bootstrap import Session
    from identity.history import Device, DeviceClass, KeyHistory, RevocationReason, SignedEvent
    from identity.keystore import KeyRing
    from ledger.store import FeedKey

__all__ = ["group"]

MAX_EVENTS_BYTES = 64 << 20
_MAX_PHRASE_BYTES = 1000
_MAGIC = b"holdfast/v1 identity-events\n"

group = CommandGroup("identity", "The identity: its devices, their history, its log.")

Identity = Annotated[
    str | None,
    typer.Argument(metavar="[ID]", help="An identity that this store knows; default: its own.", show_default=False),
]


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
        history = session.vault.history(_meant(session, identity))
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
            for device in session.vault.history(_meant(session, identity)).devices.values()
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
        for stored in session.vault.events(_meant(session, identity)):
            event = parse_event(parse_signed_event(stored.signed_event).event)
            rows.append((stored.seq, event.type, time_text(out, event.time_ms), stored.digest.hex()))
    out.table("identity-event", ("seq", "type", "claimed", "digest"), rows)


# --- devices --------------------------------------------------------------------------------------------------------


@group.add(
    "add-device", examples=["holdfast identity add-device phone", "holdfast identity add-device box --class service"]
)
def add_device(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to call it.")],
    class_: Annotated[str, typer.Option("--class", metavar="admin|device|service", help="What it may do.")] = "device",
    passphrase_file: PassphraseFile = None,
) -> None:
    """Make a device key, keep it in the keystore, and authorise it with the root key.

    A run that was interrupted is finished by running it again.
    """
    from identity.textforms import to_did_key

    check_names(device=name)
    device_class = _device_class(class_)
    with opened(ctx) as session:
        ring, secret = unlock_to_replace(ctx, session, passphrase_file)
        seed = _device_seed(ring, session.vault.history(), name)
        history, key = _authorise(session, ring, secret, name, seed, device_class)
    invocation(ctx).out.record(
        "device", {"name": name, "key": to_did_key(key), "class": device_class.value, "event": history.seq}
    )


def _device_class(text: str) -> DeviceClass:
    from identity.event import DeviceClass

    try:
        return DeviceClass(text)
    except ValueError as exc:
        raise UsageError(f"{text!r} is no class of device", hint="admin, device or service") from exc


def _device_seed(ring: KeyRing, history: KeyHistory, name: str) -> bytes:
    """A new key, or the one that an interrupted run has kept under that name and the identity does not know yet."""
    from identity.keys import Ed25519Signer, generate_seed

    kept = ring.devices.get(name)
    if kept is None:
        return generate_seed()
    known = history.devices.get(Ed25519Signer(kept).public_key)
    if known is not None:
        state = "is a device already" if known.revocation is None else "is the name of a revoked device's key here"
        raise UsageError(f"{name!r} {state}", hint="see 'holdfast identity devices'; choose another name")
    return kept


def _authorise(
    session: Session, ring: KeyRing, secret: str, name: str, seed: bytes, device_class: DeviceClass
) -> tuple[KeyHistory, bytes]:
    from api.bootstrap import now_ms
    from identity.keys import Ed25519Signer
    from identity.keystore import replace_keystore

    grown = replace(ring, devices={**ring.devices, name: seed})

    def keep_key() -> None:
        if grown != ring:
            replace_keystore(session.settings.keystore, secret, grown, expected=ring)

    history = session.vault.add_device(
        ring, name, seed, device_class=device_class, time_ms=now_ms(), before_commit=keep_key
    )
    return history, Ed25519Signer(seed).public_key


@group.add(
    "revoke-device",
    examples=[
        "holdfast identity revoke-device phone --reason stolen --since 2026-11-20T08:00:00Z",
        "holdfast identity revoke-device phone --reason lost --vouch notes=120",
    ],
)
def revoke_device(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="DEVICE", help="The device's name, or its did:key.")],
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

    why = _reason(reason)
    since_ms = None if since is None else parse_time(since)
    out = invocation(ctx).out
    with opened(ctx) as session:
        device = _named_device(session.vault.history(), name)
        lengths = None if vouch is None else _lengths(session, device, vouch)
        ring = unlock(ctx, session, passphrase_file)
        history = session.vault.revoke_device(
            ring, device.key, why, time_ms=now_ms(), compromised_since_ms=since_ms, vouch_for=lengths
        )
    out.record("revocation", {"device": device.name, "reason": why.value, "event": history.seq})
    out.note(
        "nobody can rely on the revocation before it is in a timestamped checkpoint: checkpoint create, anchor run"
    )


def _reason(text: str) -> RevocationReason:
    from identity.event import RevocationReason

    try:
        return RevocationReason(text)
    except ValueError as exc:
        raise UsageError(f"{text!r} is no reason", hint=", ".join(item.value for item in RevocationReason)) from exc


def _named_device(history: KeyHistory, name: str) -> Device:
    """The device that is meant: of several with one name, the one that is not revoked."""
    from identity.textforms import to_did_key

    matches = [one for one in history.devices.values() if name in (one.name, to_did_key(one.key))]
    matches = [one for one in matches if one.revocation is None] or matches
    if len(matches) != 1:
        counted = "no device is" if not matches else f"{len(matches)} devices are"
        raise UsageError(f"{counted} called {name!r}", hint="name it by its key, see 'holdfast identity devices'")
    return matches[0]


def _lengths(session: Session, device: Device, vouch: list[str]) -> dict[FeedKey, int]:
    lengths: dict[FeedKey, int] = {}
    for item in vouch:
        name, equals, length = item.rpartition("=")
        if not equals or not (length.isascii() and length.isdigit() and len(length) < 17):
            raise UsageError(f"{item!r} is not FEED=LENGTH")
        feed = named_feed(session, name)
        if feed.device != device.key:
            raise UsageError(f"feed {name!r} is not of device {device.name!r}", hint="see 'holdfast feed list'")
        if feed.state.key in lengths:
            raise UsageError(f"feed {name!r} is vouched for twice")
        lengths[feed.state.key] = int(length)
    return lengths


# --- the root -------------------------------------------------------------------------------------------------------


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
    """Replace the root key by the one that the recovery phrase gives.

    When the keystore holds an older root key than the identity has, because a rotation was interrupted or the keystore
    was restored, the present one is put in and nothing else is done.
    """
    from identity.keystore import replace_keystore

    phrase = read_input(phrase_file, _MAX_PHRASE_BYTES).decode("utf-8", "replace").strip()
    out = invocation(ctx).out
    with opened(ctx) as session:
        ring, secret = unlock_to_replace(ctx, session, passphrase_file)
        history, seed, rotated = _next_root(session, ring, phrase)
        current = replace(ring, root_seeds=(seed,), generation=history.generation)
        replace_keystore(session.settings.keystore, secret, current, expected=ring)
    if not rotated:
        out.note("the keystore held an older root key; the present one is in it now, and nothing new was signed")
    out.record("root", {"generation": history.generation, "event": history.seq, "rotated": rotated})


def _next_root(session: Session, ring: KeyRing, phrase: str) -> tuple[KeyHistory, bytes, bool]:
    """The identity's history, the seed of its root key, and whether the root was rotated for it."""
    from api.bootstrap import now_ms
    from identity.errors import RefusedError
    from identity.keys import Ed25519Signer
    from identity.recovery import root_seed

    history = session.vault.history()
    if ring.generation >= history.generation:
        rotated, seed = session.vault.rotate_root(phrase, time_ms=now_ms())
        return rotated, seed, True
    seed = root_seed(phrase, history.generation)
    if history.root_keys != (Ed25519Signer(seed).public_key,):
        raise RefusedError("this phrase does not give the root key of this identity")
    return history, seed, False


# --- handing over ---------------------------------------------------------------------------------------------------


@group.add(
    "export", examples=["holdfast identity export -o anna.events", "holdfast identity export -o anna.events --force"]
)
def export(ctx: typer.Context, output: OutputFile, identity: Identity = None, force: Force = False) -> None:
    """Write the identity's events for somebody who is to know them."""
    from identity.textforms import to_base64

    out = invocation(ctx).out
    with opened(ctx, read_only=True) as session:
        stored = session.vault.events(_meant(session, identity))
        with open_output(out, output, force=force) as stream:
            stream.write(_MAGIC)
            stream.writelines(to_base64(event.signed_event).encode("ascii") + b"\n" for event in stored)
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

    signed = _parse_export(read_input(file, MAX_EVENTS_BYTES), source_name(file))
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


def _parse_export(data: bytes, name: str) -> list[SignedEvent]:
    from identity.errors import MalformedError
    from identity.event import parse_event
    from identity.history import parse_signed_event
    from identity.textforms import parse_base64

    if not data.startswith(_MAGIC):
        raise MalformedError(f"{name}: not an export of identity events")
    if not data.endswith(b"\n") or len(data) == len(_MAGIC):
        raise MalformedError(f"{name}: cut short")
    lines = data[len(_MAGIC) : -1].split(b"\n")
    if len(set(lines)) < len(lines):
        raise MalformedError(f"{name}: an event stands in it twice")
    events, newest = [], 0
    for number, line in enumerate(lines, start=2):
        try:
            signed = parse_signed_event(parse_base64(line.decode("ascii")))
            seq = parse_event(signed.event).seq
        except (MalformedError, UnicodeDecodeError) as exc:
            raise MalformedError(f"{name}:{number}: {exc}") from exc
        if seq < newest:
            raise MalformedError(f"{name}:{number}: event {seq} after event {newest}")
        events.append(signed)
        newest = seq
    return events


def _meant(session: Session, text: str | None) -> bytes:
    """The identity whose id is, or alone begins with, ``text``; the store's own for None. Raises ``UsageError``."""
    from identity.textforms import to_hex

    known = session.vault.identities()
    matches = known[:1] if text is None else [one for one in known if text and to_hex(one).startswith(text)]
    if len(matches) != 1:
        counted = "no identity has" if not matches else f"{len(matches)} identities have"
        raise UsageError(f"{counted} an id that begins with {text!r}", hint="see 'holdfast identity list'")
    return matches[0]
