"""What most commands begin with: the home, its settings, and the keys behind a passphrase."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from api.bootstrap import Session, open_session
from api.cli.group import invocation
from api.cli.passphrase import read_passphrase
from api.settings import find_home, load_settings

if TYPE_CHECKING:
    from identity.keystore import KeyRing

__all__ = ["PassphraseFile", "opened", "unlock"]

PassphraseFile = Annotated[
    Path | None,
    typer.Option("--passphrase-file", metavar="FILE", help="Read the keystore's passphrase from FILE."),
]


@contextmanager
def opened(ctx: typer.Context, *, read_only: bool = False) -> Iterator[Session]:
    """The home that the command line means, open. ``read_only`` when the command writes nothing to the store."""
    run = invocation(ctx)
    home = find_home(run.named_home, run.environ)
    with open_session(home, load_settings(home, run.environ), read_only=read_only) as session:
        yield session


def unlock(ctx: typer.Context, session: Session, passphrase_file: Path | None) -> KeyRing:
    """The home's keys. Raises ``WrongPassphrase`` or ``DamagedFile``."""
    from identity.keystore import open_keystore

    passphrase = read_passphrase(passphrase_file, invocation(ctx).environ)
    return open_keystore(session.settings.keystore, passphrase)
