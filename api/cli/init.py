"""``holdfast init``: found a home."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from api.cli.exit_codes import UsageError
from api.cli.group import CommandGroup, invocation
from api.cli.passphrase import read_passphrase
from api.cli.session import PassphraseFile
from api.settings import default_settings_text, dev_directory, find_home

__all__ = ["group"]

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
    phrase_file: Annotated[
        Path | None,
        typer.Option("--phrase-file", metavar="FILE", help="Write the recovery phrase to FILE, not to stdout."),
    ] = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Found a home, with the embedded development chain and authority, which prove nothing to anybody else.

    Shows the recovery phrase once. It is kept nowhere: write it down. It alone can replace the root key.
    """
    from anchoring.tsa.dev import DevelopmentAuthority
    from api.bootstrap import now_ms, open_dev_chain
    from api.founding import Founding, found_home
    from identity.event import DeviceClass
    from identity.textforms import to_did_key, to_hex

    run = invocation(ctx)
    home = find_home(run.named_home, run.environ)
    if run.out.json and phrase_file is None:
        raise UsageError("the recovery phrase does not go into JSON", hint="give --phrase-file FILE")
    passphrase = read_passphrase(passphrase_file, run.environ, ask_twice=True)
    dev_dir = dev_directory(run.environ)
    if dev_dir.resolve().is_relative_to(home.root.resolve()):
        raise UsageError(
            f"the development directory {dev_dir} must not lie inside the home", hint="set HOLDFAST_DEV_DIR"
        )
    with ExitStack() as stack:
        chain = None if no_chain else stack.enter_context(open_dev_chain(dev_dir))
        founding = Founding(
            label=label,
            devices=dict.fromkeys(device or ["main"], DeviceClass.DEVICE),
            log_name=log_name,
            chain=chain,
            fund=None if chain is None else lambda address: chain.fund(address, 10**20),
            authorities=[DevelopmentAuthority(dev_dir / "tsa").authority],
            settings=default_settings_text({"kind": "none" if no_chain else "dev"}, [{"kind": "dev"}]),
        )
        if phrase_file is not None and phrase_file.exists():
            raise UsageError(f"{phrase_file} exists; a recovery phrase overwrites nothing")
        founded = found_home(home, founding, passphrase, now_ms=now_ms())
    if phrase_file is not None:
        phrase_file.touch(mode=0o600)
        phrase_file.write_text(founded.phrase + "\n", encoding="utf-8")
    run.out.record(
        "home",
        {
            "home": str(home.root),
            "identity": to_hex(founded.identity),
            "log": to_hex(founded.log_id),
            "devices": {name: to_did_key(key) for name, key in founded.devices.items()},
            "contract": None if founded.binding is None else "0x" + founded.binding.contract.hex(),
            "policy": str(home.policy),
        },
    )
    if phrase_file is None:
        run.out.text(f"\nRecovery phrase, shown once and kept nowhere. Write it down:\n\n  {founded.phrase}\n")
    run.out.note("DEVELOPMENT ONLY: the embedded authority and chain prove nothing to anybody else")
