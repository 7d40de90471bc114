"""``holdfast init``: found a home."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from api.cli.exit_codes import UsageError
from api.cli.files import read_input
from api.cli.group import CommandGroup, invocation
from api.cli.passphrase import read_passphrase
from api.cli.session import PassphraseFile
from api.settings import (
    DevAuthoritySettings,
    DevChainSettings,
    NoChainSettings,
    RpcChainSettings,
    Settings,
    default_settings_text,
    find_home,
    load_settings,
    new_settings,
)
from identity.errors import StorageError

if TYPE_CHECKING:
    from api.cli.output import Output
    from api.founding import Founded
    from api.home import Home

__all__ = ["group"]

_COINS = 10**20
"""Wei that the development chain gives a new anchor key."""

group = CommandGroup("init", "Found a home: identity, keys, store, log and policy.")


@group.add(
    "init",
    examples=[
        "holdfast init --home ledger.home --passphrase-file pass.txt --phrase-file phrase.txt",
        "holdfast init --home two.home --passphrase-file pass.txt --phrase-file words.txt --device pc --device phone",
    ],
)
def init(
    ctx: typer.Context,
    label: Annotated[
        str, typer.Option("--label", help="What to call the identity; everybody can read it.")
    ] = "holdfast",
    device: Annotated[
        list[str] | None, typer.Option("--device", metavar="NAME", help="A device key to make; may be repeated.")
    ] = None,
    log_name: Annotated[
        str, typer.Option("--log-name", metavar="NAME", help="The checkpoint log's name: a-z, 0-9, '.' and '-'.")
    ] = "holdfast.local",
    no_chain: Annotated[
        bool, typer.Option("--no-chain", help="No anchoring, for ever: a rollback will be noticed by nobody.")
    ] = False,
    settings_file: Annotated[
        Path | None,
        typer.Option("--settings", metavar="FILE", help="The new home's holdfast.toml: another chain and authorities."),
    ] = None,
    contract: Annotated[
        str | None,
        typer.Option("--contract", metavar="0x...", help="An anchor contract that is there; default: a new one."),
    ] = None,
    anchor_key_file: Annotated[
        Path | None,
        typer.Option("--anchor-key-file", metavar="FILE", help="A key that has coins, in hex; default: a new one."),
    ] = None,
    phrase_file: Annotated[
        Path | None,
        typer.Option("--phrase-file", metavar="FILE", help="Write the recovery phrase to FILE, not to stdout."),
    ] = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Found a home, whole or not at all. Without --settings, with the embedded development chain and authority.

    Shows the recovery phrase once. It is kept nowhere: write it down. It alone can replace the root key.
    """
    from api.bootstrap import now_ms
    from api.founding import Founding, found_home
    from identity.event import DeviceClass

    run = invocation(ctx)
    home = find_home(run.named_home, run.environ)
    if run.out.json and phrase_file is None:
        raise UsageError("the recovery phrase does not go into JSON", hint="give --phrase-file FILE")
    devices = device or ["main"]
    if len(set(devices)) < len(devices):
        raise UsageError("two devices of one name")
    text, settings = _settings(home, run.environ, settings_file, no_chain=no_chain)
    passphrase = read_passphrase(passphrase_file, run.environ, ask_twice=True)
    with ExitStack() as opened:
        keep_phrase = opened.enter_context(_phrase_keeper(run.out, phrase_file))
        chain, fund = _chain(opened, settings)
        founding = Founding(
            label=label,
            devices=dict.fromkeys(devices, DeviceClass.DEVICE),
            log_name=log_name,
            chain=chain,
            fund=fund,
            authorities=[],
            settings=text,
        )
        founded = found_home(home, founding, passphrase, now_ms=now_ms(), keep_phrase=keep_phrase)
    _report(run.out, home, settings, founded)
