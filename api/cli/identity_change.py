"""``holdfast identity``: the commands that change it, by the root key or by a request to those who hold it.

Two files change with a device or a root key, the store and the keystore, and a process may die between them. Which one
comes first is decided by what can be made good: a new device key is kept before the event that names it is stored,
because nobody can make it again; the next root key follows from the recovery phrase, so its event comes first. Running
the command again finishes in both cases what was begun.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from api.cli.exit_codes import UsageError
from api.cli.files import open_output, read_input, source_name, written
from api.cli.group import invocation
from api.cli.identity_common import (
    device_class,
    group,
    last_event,
    lengths,
    named_device,
    revocation_reason,
)
from api.cli.phrases import NewPhraseFile, new_phrase_in, read_phrase
from api.cli.session import (
    PassphraseFile,
    PinFile,
    as_usage,
    check_names,
    opened,
    unlock,
    unlock_to_replace,
)
from api.cli.times import parse_time

if TYPE_CHECKING:
    from api.bootstrap import Session
    from api.root_events import MakeEvent
    from identity.history import KeyHistory
    from identity.keys import Signer
    from identity.keystore import KeyRing

__all__: list[str] = []

Propose = Annotated[
    Path | None,
    typer.Option(
        "--propose",
        metavar="FILE",
        help="Store nothing: write a request for the holders of the root keys to sign; - for stdout.",
    ),
]


def _write_request(ctx: typer.Context, session: Session, file: Path, make: MakeEvent) -> None:
    """Write the request that proposes one event, and say what is to be done with it."""
    from identity.request import encode_request, review_request
    from identity.textforms import to_hex

    request = session.vault.propose(make)
    (step,) = review_request(request)
    out = invocation(ctx).out
    with open_output(out, file) as stream:
        stream.write(encode_request(request))
    written(
        out,
        "signing-request",
        file,
        {"request": to_hex(request.id), "events": 1, "required": step.threshold, "of": len(step.authority)},
    )
    out.note("nothing is stored yet: holders sign with 'holdfast identity sign', then 'holdfast identity submit'")


# --- devices --------------------------------------------------------------------------------------------------------


@group.add(
    "add-device",
    examples=[
        "holdfast identity add-device phone",
        "holdfast identity add-device box --class service --by desk",
        "holdfast identity add-device till --token 'till 3' --propose till.request",
    ],
)
def add_device(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to call it.")],
    class_: Annotated[str, typer.Option("--class", metavar="admin|device|service", help="What it may do.")] = "device",
    by: Annotated[
        str | None, typer.Option("--by", metavar="ADMIN", help="Authorise with this admin device, not with the root.")
    ] = None,
    token: Annotated[
        str | None, typer.Option("--token", metavar="LABEL", help="Make the key in this hardware token.")
    ] = None,
    pin_file: PinFile = None,
    propose: Propose = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Make a device key, keep it in the keystore or a token, and authorise it with the root key or an admin's.

    A run that was interrupted is finished by running it again.
    """
    from api.bootstrap import now_ms
    from api.root_events import add_device_event
    from identity.textforms import to_did_key

    check_names(device=name)
    kind = device_class(class_)
    if by is not None and propose is not None:
        raise UsageError("--by and --propose", hint="an admin's signature needs no other")
    with opened(ctx, pin_file=pin_file) as session:
        ring, secret = unlock_to_replace(ctx, session, passphrase_file)
        with _device_key(session, ring, secret, name, token) as new:
            if propose is not None:
                make = add_device_event(name, new.signer, kind, now_ms())
                session.vault.propose(make)  # what cannot be proposed leaves no key behind
                new.keep()
                _write_request(ctx, session, propose, make)
                return
            admin = None if by is None else _device_signer(session, ring, by)
            history = session.vault.add_device(
                ring, name, new.signer, device_class=kind, time_ms=now_ms(), by=admin, before_commit=new.keep
            )
    invocation(ctx).out.record(
        "device", {"name": name, "key": to_did_key(new.signer.public_key), "class": kind.value, "event": history.seq}
    )


class _NewKey:
    """A device key, and how it gets into the keystore, whose keys ``ring`` are."""

    def __init__(self, session: Session, secret: str, signer: Signer, ring: KeyRing, grown: KeyRing) -> None:
        self.signer = signer
        self.kept = grown == ring
        self._session = session
        self._secret = secret
        self._ring = ring
        self._grown = grown

    def keep(self) -> None:
        """Put the key into the keystore, if it is not there."""
        from identity.keystore import replace_keystore

        if not self.kept:
            replace_keystore(self._session.settings.keystore, self._secret, self._grown, expected=self._ring)
            self.kept = True


@contextmanager
def _device_key(session: Session, ring: KeyRing, secret: str, name: str, token: str | None) -> Iterator[_NewKey]:
    """A new key, or the one that an interrupted run has kept and no event knows yet.

    A key that was made in a token is destroyed again when the block is refused before the keystore has its name.
    """
    from identity.errors import AuditError
    from identity.keys import Ed25519Signer, generate_seed

    kept = ring.device_keys().get(name)
    if kept is not None:
        known = session.vault.history().devices.get(kept)
        if known is not None:
            state = "is a device already" if known.revocation is None else "is the name of a revoked device's key here"
            raise UsageError(f"{name!r} {state}", hint="see 'holdfast identity devices'; choose another name")
        yield _NewKey(session, secret, _device_signer(session, ring, name), ring, ring)
        return
    if token is None:
        seed = generate_seed()
        grown = replace(ring, devices={**ring.devices, name: seed})
        yield _NewKey(session, secret, Ed25519Signer(seed), ring, grown)
        return
    signer = session.tokens.generate(token, f"holdfast {name}")
    new = _NewKey(session, secret, signer, ring, replace(ring, token_devices={**ring.token_devices, name: signer.key}))
    try:
        yield new
    except AuditError:
        if not new.kept:
            session.tokens.discard(signer.key)
        raise


def _device_signer(session: Session, ring: KeyRing, name: str) -> Signer:
    from api.vault import device_signer

    return device_signer(ring, name, session.tokens.signer)


@group.add(
    "revoke-device",
    examples=[
        "holdfast identity revoke-device phone --reason stolen --since 2026-11-20T08:00:00Z",
        "holdfast identity revoke-device phone --reason lost --vouch notes=120",
        "holdfast identity revoke-device desk --reason compromised --last-event 7",
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
    last: Annotated[
        str | None,
        typer.Option(
            "--last-event",
            metavar="SEQ|DIGEST",
            help="For an admin: revoke what it authorised after this event. Default: all of that stands.",
        ),
    ] = None,
    propose: Propose = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """End a device key. What it wrote before counts up to what is vouched for; nobody un-signs anything by revoking."""
    from api.bootstrap import now_ms
    from api.root_events import revoke_device_event

    why = revocation_reason(reason)
    since_ms = None if since is None else parse_time(since)
    out = invocation(ctx).out
    with opened(ctx) as session:
        history = session.vault.history()
        device = named_device(history, name)
        vouched = None if vouch is None else lengths(session, device, vouch)
        until = None if last is None else last_event(history, last)
        ring = None if propose is not None else unlock(ctx, session, passphrase_file)
        last_good = session.vault.last_good(device.key, vouched)
        make = revoke_device_event(
            device.key, last_good, why, now_ms(), compromised_since_ms=since_ms, last_event=until
        )
        if ring is None:
            assert propose is not None
            _write_request(ctx, session, propose, make)
            return
        history = session.vault.sign_event_by_root(ring, make)
    out.record("revocation", {"device": device.name, "reason": why.value, "event": history.seq})
    out.note(
        "nobody can rely on the revocation before it is in a timestamped checkpoint: checkpoint create, anchor run"
    )


# --- the root -------------------------------------------------------------------------------------------------------


@group.add(
    "rotate-root",
    examples=[
        "holdfast identity rotate-root --phrase-file phrase.txt",
        "holdfast identity rotate-root --phrase-file phrase.txt --new-phrase-file new-phrase.txt",
        "holdfast identity rotate-root --card anna.card --card bert.card --threshold 2 --propose rotate.request",
    ],
)
def rotate_root(
    ctx: typer.Context,
    phrase_file: Annotated[
        Path | None, typer.Option("--phrase-file", metavar="FILE", help="The recovery phrase; - for stdin.")
    ] = None,
    new_phrase_file: NewPhraseFile = None,
    card: Annotated[
        list[Path] | None,
        typer.Option("--card", metavar="FILE", help="With --propose: a holder's card of the next key; repeat for all."),
    ] = None,
    threshold: Annotated[
        int | None,
        typer.Option("--threshold", metavar="K", help="With --card: how many sign after the rotation that follows."),
    ] = None,
    propose: Propose = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Replace the root key by the one that the recovery phrase gives, or several by those that their holders reveal.

    When the keystore holds an older root key than the identity has, because a rotation was interrupted or the keystore
    was restored, the present one is put in and nothing else is done.
    """
    if propose is not None:
        if phrase_file is not None or new_phrase_file is not None or not card:
            raise UsageError("--propose takes the holders' cards", hint="holdfast root card makes one")
        _propose_rotation(ctx, card, threshold, propose)
        return
    if phrase_file is None or card or threshold is not None:
        raise UsageError("missing option '--phrase-file'", hint="for several root keys: --card and --propose")
    _rotate_by_phrase(ctx, phrase_file, new_phrase_file, passphrase_file)


def _propose_rotation(ctx: typer.Context, files: list[Path], threshold: int | None, propose: Path) -> None:
    from api.bootstrap import now_ms
    from api.root_events import rotate_root_event
    from identity.rootcard import MAX_CARD_BYTES, parse_card

    cards = [parse_card(read_input(file, MAX_CARD_BYTES), source_name(file)) for file in files]
    with opened(ctx) as session:
        following = session.vault.history().next_threshold if threshold is None else threshold
        if not 1 <= following <= len(cards):
            raise UsageError(f"--threshold {following} with {len(cards)} cards")
        _write_request(ctx, session, propose, rotate_root_event(cards, following, now_ms()))


def _rotate_by_phrase(
    ctx: typer.Context, phrase_file: Path, new_phrase: Path | None, passphrase_file: Path | None
) -> None:
    from identity.keystore import replace_keystore

    phrase = read_phrase(phrase_file)
    out = invocation(ctx).out
    with opened(ctx) as session, new_phrase_in(new_phrase) as fresh:
        ring, secret = unlock_to_replace(ctx, session, passphrase_file)
        history, seed, rotated = _next_root(session, ring, phrase, fresh)
        current = replace(ring, root_seeds=(seed,), generation=history.generation, token_root=None)
        replace_keystore(session.settings.keystore, secret, current, expected=ring)
    if not rotated:
        out.note("the keystore held an older root key; the present one is in it now, and nothing new was signed")
    out.record("root", {"generation": history.generation, "event": history.seq, "rotated": rotated})


def _next_root(session: Session, ring: KeyRing, phrase: str, new_phrase: str | None) -> tuple[KeyHistory, bytes, bool]:
    """The identity's history, the seed of its root key, and whether the root was rotated for it."""
    from api.bootstrap import now_ms
    from identity.recovery import present_root_seed

    history = session.vault.history()
    if ring.generation >= history.generation:
        rotated, seed = session.vault.rotate_root(phrase, time_ms=now_ms(), new_phrase=new_phrase)
        return rotated, seed, True
    if new_phrase is not None:
        raise UsageError("an interrupted rotation is finished first", hint="leave out --new-phrase-file")
    return history, present_root_seed(phrase, session.vault.signed_events()), False


# --- logs, and the end ----------------------------------------------------------------------------------------------


@group.add(
    "bind-log",
    examples=[
        f"holdfast identity bind-log {'0f' * 32}",
        f"holdfast identity bind-log {'0f' * 32} --propose bind.request",
    ],
)
def bind_log(
    ctx: typer.Context,
    log: Annotated[str, typer.Argument(metavar="LOG", help="The id of the checkpoint log, in hex.")],
    propose: Propose = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Name a checkpoint log as one of this identity's: a successor, or one that somebody else keeps."""
    from api.bootstrap import now_ms
    from api.root_events import bind_log_event
    from identity.textforms import parse_hex

    with as_usage():
        log_id = parse_hex(log, 32)
    history = _by_root(ctx, bind_log_event(log_id, now_ms()), propose, passphrase_file)
    if history is not None:
        invocation(ctx).out.record("binding", {"log": log, "event": history.seq})


@group.add(
    "close",
    examples=["holdfast identity close --confirm Anna", "holdfast identity close --confirm Anna --propose c.request"],
)
def close(
    ctx: typer.Context,
    confirm: Annotated[str, typer.Option("--confirm", metavar="LABEL", help="The identity's label, to be sure.")],
    propose: Propose = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """End the identity for good: nothing is written, added or revoked under it after this."""
    from api.bootstrap import now_ms
    from api.root_events import close_event

    with opened(ctx, read_only=True) as session:
        label = session.vault.history().label
    if confirm != label:
        raise UsageError(f"the identity is called {label!r}, not {confirm!r}", hint="closing cannot be undone")
    history = _by_root(ctx, close_event(now_ms()), propose, passphrase_file)
    if history is not None:
        invocation(ctx).out.record("closing", {"identity": history.identity.hex(), "event": history.seq})


def _by_root(
    ctx: typer.Context, make: MakeEvent, propose: Path | None, passphrase_file: Path | None
) -> KeyHistory | None:
    """Append the event, signed by this keystore's root; or write it as a request, then None."""
    with opened(ctx) as session:
        if propose is not None:
            _write_request(ctx, session, propose, make)
            return None
        return session.vault.sign_event_by_root(unlock(ctx, session, passphrase_file), make)
