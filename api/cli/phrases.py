"""Recovery phrases on the command line: read from a file, written to a new one, never an argument."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import typer

from api.cli.exit_codes import UsageError
from api.cli.files import read_input
from identity.errors import MalformedError, RefusedError, StorageError, VerificationError

__all__ = ["EXISTS_HINT", "NewPhraseFile", "PhraseFile", "new_phrase_in", "read_phrase", "write_phrase"]

_MAX_BYTES: Final = 1000

EXISTS_HINT: Final = "left by a run that was stopped, it is of no use when there is no home of it: then delete the file"
"""What to do about a phrase file that is there already."""

PhraseFile = Annotated[
    Path, typer.Option("--phrase-file", metavar="FILE", help="The recovery phrase; - for stdin.", show_default=False)
]
NewPhraseFile = Annotated[
    Path | None,
    typer.Option(
        "--new-phrase-file", metavar="FILE", help="Write a new phrase to FILE, which takes the old one's place."
    ),
]


def read_phrase(file: Path) -> str:
    """What is in the file, for ``identity.recovery`` to judge."""
    return read_input(file, _MAX_BYTES).decode("utf-8", "replace").strip()


def write_phrase(file: Path, phrase: str) -> None:
    """Put the phrase into a new file, for its owner only and durably.

    Raises ``RefusedError`` when there is a file, ``StorageError`` when it cannot be written.
    """
    try:
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as stream:
            stream.write(phrase + "\n")
            stream.flush()
            os.fsync(stream.fileno())
    except FileExistsError as exc:
        raise RefusedError(f"{file} exists; a recovery phrase overwrites nothing", hint=EXISTS_HINT) from exc
    except OSError as exc:
        raise StorageError(f"cannot write {file}: {exc.strerror}") from exc


@contextmanager
def new_phrase_in(file: Path | None) -> Iterator[str | None]:
    """A fresh phrase that is in ``file`` now; None for no file.

    The file is gone again when the block is refused. Whatever else ends the block leaves it: what commits to the phrase
    may have been stored, and then nobody must take it away.
    """
    if file is None:
        yield None
        return
    from identity.recovery import generate_phrase

    phrase = generate_phrase()
    write_phrase(file, phrase)
    try:
        yield phrase
    except (MalformedError, RefusedError, UsageError, VerificationError):
        file.unlink(missing_ok=True)
        raise
