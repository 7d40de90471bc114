"""Hardware tokens on the command line: which library, which token, whose PIN."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from api.cli.group import Invocation
from api.cli.session import pin_reader

if TYPE_CHECKING:
    from identity.pkcs11 import Pkcs11Signer, TokenModule

__all__ = ["MODULE_VARIABLE", "NewTokenKeys", "TokenLabel", "TokenModuleFile", "open_tokens"]

MODULE_VARIABLE: Final = "HOLDFAST_TOKEN_MODULE"
"""The setting ``token_module``, where there is no home to have settings."""

TokenLabel = Annotated[str | None, typer.Option("--token", metavar="LABEL", help="Sign with a key in this token.")]
TokenModuleFile = Annotated[
    Path | None,
    typer.Option("--token-module", metavar="FILE", help=f"The token's PKCS#11 library; default: {MODULE_VARIABLE}."),
]


@contextmanager
def open_tokens(run: Invocation, module: Path | None, pin_file: Path | None) -> Iterator[TokenModule]:
    """The tokens that a command without a home can reach. No library is loaded before a key is asked for."""
    from identity.pkcs11 import TokenModule

    named = run.environ.get(MODULE_VARIABLE)
    path = module if module is not None else Path(named) if named else None
    with closing(TokenModule(path, pin_reader(run, pin_file))) as tokens:
        yield tokens


class NewTokenKeys:
    """Makes keys in one token, and destroys them again: an ``api.founding.TokenMaker``."""

    def __init__(self, tokens: TokenModule, label: str, prefix: str) -> None:
        """``prefix`` begins what the token calls the keys."""
        self._tokens = tokens
        self._label = label
        self._prefix = prefix
        self._made: list[Pkcs11Signer] = []

    def make(self, name: str) -> Pkcs11Signer:
        """A new key in the token."""
        signer = self._tokens.generate(self._label, f"{self._prefix} {name}")
        self._made.append(signer)
        return signer

    def discard(self) -> None:
        """Destroy the keys that were made."""
        while self._made:
            self._tokens.discard(self._made.pop().key)
