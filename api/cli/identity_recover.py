"""``holdfast identity recover``: the keystore is lost, or nobody knows its passphrase, and the phrase is at hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from api.cli.exit_codes import UsageError
from api.cli.files import open_output, read_input, source_name
from api.cli.group import Invocation, invocation
from api.cli.identity_common import group, named_device, revocation_reason
from api.cli.identity_export import MAX_EVENTS_BYTES, encode_export, parse_export
from api.cli.passphrase import read_passphrase
from api.cli.phrases import PhraseFile, read_phrase
from api.cli.session import PassphraseFile, check_names, opened
from api.cli.times import parse_time

if TYPE_CHECKING:
    from api.bootstrap import Session
    from api.cli.output import Output
    from identity.event import LastGood, RevocationReason
    from identity.keys import Ed25519Signer
    from identity.keystore import KeyRing
    from identity.recovery import Recovery

__all__: list[str] = []


@group.add(
    "recover",
    examples=[
        "holdfast identity recover --phrase-file phrase.txt --dry-run",
        "holdfast identity recover --phrase-file phrase.txt --device desk --keep phone --reason stolen",
        "holdfast identity recover --phrase-file phrase.txt --events anna.events --keystore new.hfk -o new.events",
    ],
)
def recover(
    ctx: typer.Context,
    phrase_file: PhraseFile,
    device: Annotated[
        str, typer.Option("--device", metavar="NAME", help="What to call the new device key.")
    ] = "recovered",
    keep: Annotated[
        list[str] | None,
        typer.Option("--keep", metavar="DEVICE", help="Not lost: its key is elsewhere. May be repeated."),
    ] = None,
    reason: Annotated[str, typer.Option("--reason", metavar="WHY", help="Why the others are revoked.")] = "lost",
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="Their keys may have been in other hands since then.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    events: Annotated[
        Path | None,
        typer.Option("--events", metavar="FILE", help="There is no store: 'identity export' wrote this once."),
    ] = None,
    keystore: Annotated[
        Path | None, typer.Option("--keystore", metavar="FILE", help="With --events: the new keystore.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="With --events: all events, the new ones too.")
    ] = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Get an identity back with the recovery phrase: for a keystore that is lost, or whose passphrase is.

    Rotates the root, revokes the lost devices (what this store holds of theirs stays vouched for), makes a new keystore
    under a new passphrase and authorises a new device. An old keystore is set aside, not deleted.
    """
    check_names(device=device)
    why = revocation_reason(reason)
    since_ms = None if since is None else parse_time(since)
    phrase = read_phrase(phrase_file)
    if events is not None:
        if keystore is None or output is None or keep or since is not None:
            raise UsageError("--events takes --keystore and --output, and revokes nothing")
        _recover_export(ctx, phrase, device, events, keystore, output, passphrase_file, dry_run=dry_run)
        return
    if keystore is not None or output is not None:
        raise UsageError("--keystore and --output are for --events", hint="a home's keystore is where its settings say")
    _recover_home(ctx, phrase, device, keep or [], why, since_ms, passphrase_file, dry_run=dry_run)


# --- a home ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _NewKeys:
    """The keys that take the place of the lost ones. ``begun``: an interrupted run has put them there already."""

    ring: KeyRing
    passphrase: str
    begun: bool = False

    @property
    def device(self) -> tuple[str, Ed25519Signer]:
        from identity.keys import Ed25519Signer

        ((name, seed),) = self.ring.devices.items()
        return name, Ed25519Signer(seed)


def _recover_home(
    ctx: typer.Context,
    phrase: str,
    name: str,
    keep: list[str],
    reason: RevocationReason,
    since_ms: int | None,
    passphrase_file: Path | None,
    *,
    dry_run: bool,
) -> None:
    from api.bootstrap import now_ms
    from identity.recovery import next_root_seed, plan_recovery

    run = invocation(ctx)
    with opened(ctx, read_only=dry_run) as session:
        events, history = session.vault.signed_events(), session.vault.history()
        kept = {named_device(history, one).key for one in keep}
        lost = {
            one.key: session.vault.last_good(one.key)
            for one in history.devices.values()
            if one.revocation is None and one.key not in kept
        }
        fresh = _fresh_ring(next_root_seed(phrase, events), history.generation + 1, name)
        keys = _NewKeys(fresh, "") if dry_run else _keys_to_be(session, run, passphrase_file, fresh)
        name, signer = keys.device
        recovery = plan_recovery(
            events,
            phrase,
            device=signer,
            name=name,
            lost=lost,
            reason=reason,
            time_ms=now_ms(),
            compromised_since_ms=since_ms,
        )
        path = session.settings.keystore
        aside = _free_name(path) if path.exists() and not keys.begun else None
        if not dry_run:
            session.vault.append_events(recovery.events, before_commit=lambda: _put_in_place(path, keys, aside))
        _report(run.out, session, recovery, signer.public_key, lost, aside, dry_run=dry_run)


def _fresh_ring(seed: bytes, generation: int, name: str) -> KeyRing:
    """Without a log and an anchor key: those of a log cannot be replaced, its successor gets new ones."""
    from identity.keys import generate_seed
    from identity.keystore import KeyRing

    return KeyRing((seed,), generation, {name: generate_seed()}, log_seed=None, anchor_key=None)


def _keys_to_be(session: Session, run: Invocation, passphrase_file: Path | None, fresh: KeyRing) -> _NewKeys:
    """The fresh keys, or those of an interrupted run. Raises ``RefusedError`` when the old ones are not lost."""
    from identity.errors import ConfigurationError, DamagedFile, NewerFormat, RefusedError, WrongPassphrase
    from identity.keystore import open_keystore

    session.vault.require_writable()
    passphrase = read_passphrase(passphrase_file, run.environ, ask_twice=True)
    try:
        held = open_keystore(session.settings.keystore, passphrase)
    except NewerFormat:
        raise
    except (WrongPassphrase, DamagedFile, ConfigurationError):
        return _NewKeys(fresh, passphrase)
    if (held.root_seeds, held.generation) == (fresh.root_seeds, fresh.generation) and len(held.devices) == 1:
        return _NewKeys(held, passphrase, begun=True)
    raise RefusedError(
        "the keystore opens with this passphrase: its keys are not lost",
        hint="replace one at a time: holdfast identity rotate-root, holdfast identity revoke-device",
    )


def _free_name(keystore: Path) -> Path:
    """Where the old keystore goes: a name beside it that is not taken."""
    return next(
        path
        for number in range(1, 1 << 20)
        if not (path := keystore.with_name(f"{keystore.name}.lost-{number}")).exists()
    )


def _put_in_place(path: Path, keys: _NewKeys, aside: Path | None) -> None:
    """The new keystore where the old one was. A run that dies here is finished by running it again."""
    from identity.errors import AuditError
    from identity.keystore import create_keystore

    if keys.begun:
        return
    if aside is not None:
        path.rename(aside)
    try:
        create_keystore(path, keys.passphrase, keys.ring)
    except AuditError:
        if aside is not None:
            aside.rename(path)
        raise


def _report(
    out: Output,
    session: Session,
    recovery: Recovery,
    key: bytes,
    lost: Mapping[bytes, Mapping[bytes, LastGood]],
    aside: Path | None,
    *,
    dry_run: bool,
) -> None:
    from identity.textforms import to_did_key, to_zbase32

    device = recovery.after.devices[key]
    vouched = {to_zbase32(feed): good.length for feeds in lost.values() for feed, good in feeds.items()}
    out.record(
        "recovery",
        {
            "generation": recovery.after.generation,
            "event": recovery.after.seq,
            "device": device.name,
            "key": to_did_key(device.key),
            "revoked": [one.name for one in recovery.revoked],
            "vouched": vouched,
            "set_aside": None if aside is None else str(aside),
            "dry_run": dry_run,
        },
    )
    for line in _what_remains(session, set(lost), device.name):
        out.note(line)


def _what_remains(session: Session, lost: set[bytes], name: str) -> Iterator[str]:
    """What a person has to do after the recovery, in order."""
    from identity.textforms import to_hex

    log_id, _ = session.vault.log_descriptor()
    yield (
        f"remains: the key of the checkpoint log {to_hex(log_id)} was in the lost keystore, and that of its anchors;"
        " start the log's successor: holdfast recover succeed"
    )
    for info in session.vault.feeds():
        if info.state.local and not info.state.retired and info.device in lost:
            yield (
                f"remains: to write on in feed {info.name!r}:"
                f" holdfast feed create {info.name} --device {name} --continues {info.key_text}"
            )


# --- an export ------------------------------------------------------------------------------------------------------


def _recover_export(
    ctx: typer.Context,
    phrase: str,
    name: str,
    file: Path,
    keystore: Path,
    output: Path,
    passphrase_file: Path | None,
    *,
    dry_run: bool,
) -> None:
    """Rotate the root and authorise a device. Nothing is revoked: no feed is here that could be vouched for."""
    from api.bootstrap import now_ms
    from identity.event import RevocationReason
    from identity.history import fold
    from identity.keys import Ed25519Signer
    from identity.keystore import create_keystore
    from identity.recovery import next_root_seed, plan_recovery
    from identity.textforms import to_did_key

    run = invocation(ctx)
    events = parse_export(read_input(file, MAX_EVENTS_BYTES), source_name(file))
    ring = _fresh_ring(next_root_seed(phrase, events), fold(events).generation + 1, name)
    signer = Ed25519Signer(ring.devices[name])
    recovery = plan_recovery(
        events, phrase, device=signer, name=name, lost={}, reason=RevocationReason.LOST, time_ms=now_ms()
    )
    if not dry_run:
        passphrase = read_passphrase(passphrase_file, run.environ, ask_twice=True)
        with open_output(run.out, output) as stream:
            stream.write(encode_export(event.encode() for event in (*events, *recovery.events)))
            create_keystore(keystore, passphrase, ring)
    run.out.record(
        "recovery",
        {
            "generation": recovery.after.generation,
            "event": recovery.after.seq,
            "device": name,
            "key": to_did_key(signer.public_key),
            "revoked": [],
            "vouched": {},
            "set_aside": None,
            "dry_run": dry_run,
        },
    )
    run.out.note(f"remains: put a copy of the store under {keystore}, and there: holdfast identity import {output}")
    for one in recovery.after.devices.values():
        if one.revocation is None and one.key != signer.public_key:
            run.out.note(f"remains: when its feeds are at hand: holdfast identity revoke-device {to_did_key(one.key)}")
