"""What most commands begin with: the home, its settings, and the keys behind a passphrase."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from api.bootstrap import Session, open_session
from api.cli.exit_codes import UsageError
from api.cli.group import Invocation, invocation
from api.cli.passphrase import read_passphrase, read_pin
from api.settings import find_home, load_settings
from identity.errors import MalformedError, MissingEvidenceError
from identity.textforms import check_name

if TYPE_CHECKING:
    from api.vault import FeedInfo
    from identity.keys import Signer
    from identity.keystore import KeyRing

__all__ = [
    "Force",
    "OutputFile",
    "PassphraseFile",
    "PinFile",
    "as_usage",
    "check_names",
    "named_feed",
    "open_keys",
    "opened",
    "pin_reader",
    "speaking_device",
    "unlock",
    "unlock_to_replace",
]

PassphraseFile = Annotated[
    Path | None,
    typer.Option("--passphrase-file", metavar="FILE", help="Read the keystore's passphrase from FILE."),
]
PinFile = Annotated[
    Path | None, typer.Option("--pin-file", metavar="FILE", help="Read the PIN of the hardware token from FILE.")
]
OutputFile = Annotated[
    Path, typer.Option("--output", "-o", metavar="FILE", help="Where to write; - for stdout.", show_default=False)
]
Force = Annotated[bool, typer.Option("--force", help="Replace FILE.")]


@contextmanager
def opened(ctx: typer.Context, *, read_only: bool = False, pin_file: Path | None = None) -> Iterator[Session]:
    """The home that the command line means, open. ``read_only`` when the command writes nothing to the store.

    ``pin_file`` is where the command line says that the PIN of a hardware token is.
    """
    run = invocation(ctx)
    home = find_home(run.named_home, run.environ)
    settings, pin = load_settings(home, run.environ), pin_reader(run, pin_file)
    with open_session(home, settings, read_only=read_only, pin=pin, tell=run.out.note) as session:
        yield session


def pin_reader(run: Invocation, pin_file: Path | None) -> Callable[[str], str]:
    """What asks for the PIN of a token, by its label."""
    return lambda token: read_pin(token, pin_file, run.environ)


def unlock(ctx: typer.Context, session: Session, passphrase_file: Path | None, *, appending: bool = False) -> KeyRing:
    """The home's keys, for a command that is going to write, or (``appending``) to append entries and no more.

    Raises ``ReadOnlyState`` or ``TransportError`` before anybody is asked for a passphrase, when the store must not be
    written to; ``WrongPassphrase`` or ``DamagedFile``.
    """
    if appending:
        session.vault.require_appendable()
    else:
        session.vault.require_writable()
    return open_keys(ctx, session, passphrase_file)[0]


def unlock_to_replace(ctx: typer.Context, session: Session, passphrase_file: Path | None) -> tuple[KeyRing, str]:
    """The home's keys, and the passphrase under which the keystore is written again. Raises as ``unlock``."""
    session.vault.require_writable()
    return open_keys(ctx, session, passphrase_file)


def open_keys(ctx: typer.Context, session: Session, passphrase_file: Path | None) -> tuple[KeyRing, str]:
    """The same whatever state the store is in: for what leads out of it."""
    from identity.keystore import open_keystore

    passphrase = read_passphrase(passphrase_file, invocation(ctx).environ)
    return open_keystore(session.settings.keystore, passphrase), passphrase


def speaking_device(session: Session, ring: KeyRing, device: str | None) -> Signer:
    """The key that signs requests to nodes: of the device that is named, or of any that may.

    Raises ``RefusedError`` when the keystore holds none.
    """
    from api.vault import device_signer

    if device is None:
        known = session.vault.history().devices
        good = [name for name, key in ring.device_keys().items() if key in known and known[key].revocation is None]
        device = min(good, default="")
    return device_signer(ring, device, session.tokens.signer)


def named_feed(session: Session, name_or_key: str) -> FeedInfo:
    """The feed that the command line names. Raises ``UsageError`` when it names none, or several."""
    try:
        return session.vault.find_feed(name_or_key)
    except MissingEvidenceError as exc:
        raise UsageError(str(exc), hint=exc.hint) from exc


@contextmanager
def as_usage() -> Iterator[None]:
    """Around the reading of something that stands on the command line: what is malformed there is wrong usage."""
    try:
        yield
    except MalformedError as exc:
        raise UsageError(str(exc)) from exc


def check_names(**names: str) -> None:
    """Check names that are to be given to things, each by what it is to name. Raises ``UsageError``."""
    with as_usage():
        for what, name in names.items():
            check_name(name, what)
