"""``holdfast backup``: a home in one file, and the file checked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from api.cli.db_common import Device
from api.cli.files import open_input
from api.cli.group import CommandGroup, invocation
from api.cli.progress import progress
from api.cli.session import PassphraseFile, as_usage, open_keys, opened, speaking_device
from api.cli.times import time_text
from api.settings import find_home, load_settings
from identity.errors import RefusedError

if TYPE_CHECKING:
    from api.cli.output import Output, Plain
    from ledger.archive_reader import LoadedArchive

__all__ = ["archive_facts", "group"]

group = CommandGroup("backup", "A home in one file: made while others write, and checked without restoring it.")


@group.add(
    "create",
    examples=[
        "holdfast backup create /mnt/safe/ledger-monday.backup",
        "holdfast backup create ledger.backup --no-keystore",
        "holdfast backup create node.backup --node https://bank.example --keystore",
    ],
)
def create(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write; nothing may be there.")],
    keystore: Annotated[
        bool | None,
        typer.Option(
            "--keystore/--no-keystore",
            help="Put the keystore in, encrypted as it is. Default: yes, and no from a node.",
        ),
    ] = None,
    document_keys: Annotated[
        bool,
        typer.Option("--document-keys/--no-document-keys", help="Copy the keys of sealed values to FILE.keys."),
    ] = True,
    node: Annotated[
        str | None,
        typer.Option(
            "--node", metavar="URL", help="A backup of that node, of which this home's identity is the owner."
        ),
    ] = None,
    device: Device = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Write a backup of this home: store, settings, policy, pinned headers and keystore, of one moment.

    The keys of sealed values go into a file of their own beside it, FILE.keys, where later erasures find them. With
    --node it is the node's home: what comes is verified, and the keys of sealed values stay there.

    Not in it: the keystore's passphrase, the recovery phrase, and the chain. Entries in it can be read by whoever has
    the file.
    """
    from api.backup import create_backup
    from api.bootstrap import now_ms

    run = invocation(ctx)
    if node is not None:
        _create_from(ctx, node, file, device, passphrase_file, with_keystore=bool(keystore))
        return
    keystore = keystore is not False
    home = find_home(run.named_home, run.environ)
    settings = load_settings(home, run.environ)
    with progress(run.out, f"backup {file.name}") as advance:
        made = create_backup(
            home,
            settings,
            file,
            with_keystore=keystore,
            made_ms=now_ms(),
            with_document_keys=document_keys,
            advance=advance,
        )
    run.out.record(
        "backup",
        {
            "file": str(file),
            "bytes": file.stat().st_size,
            "digest": made.totals.digest.hex(),
            "feeds": made.feeds,
            "entries": made.entries,
            "files": list(made.files),
            "document_keys": None if made.document_keys is None else str(made.document_keys),
        },
    )
    run.out.note("not in it: the keystore's passphrase, the recovery phrase, the chain")
    if keystore:
        run.out.note("the keystore is in it: whoever has the file can try passphrases on it")
    else:
        run.out.note("the keystore is not in it: without another copy nothing can be written after a restore")
    if made.document_keys is not None:
        run.out.note(f"{made.document_keys} holds the keys of sealed values, in the clear; erasures reach it there")
    elif not document_keys and home.document_keys.exists():
        run.out.note("the keys of sealed values are not copied: without keys.db these values are lost")
    if made.partial:
        run.out.note(f"not in it: {made.partial} feeds that are held in part; others have them, with their proofs")
    for path in made.outside:
        run.out.note(f"not in it, because it lies outside the home: {path}")


def _create_from(
    ctx: typer.Context, url: str, file: Path, device: str | None, passphrase_file: Path | None, *, with_keystore: bool
) -> None:
    """Fetch a backup of a node, and say so when it was verified and is there."""
    from api.backup import fetch_backup
    from api.remote import RemoteNode

    run = invocation(ctx)
    with opened(ctx, read_only=True) as session:
        ring, _ = open_keys(ctx, session, passphrase_file)
        with as_usage():
            remote = RemoteNode(url, speaking_device(session, ring, device))
        with remote, progress(run.out, f"verify {file.name}") as advance:
            loaded = fetch_backup(remote, file, with_keystore=with_keystore, advance=advance)
    run.out.record("archive", {"verdict": "PASSED", **archive_facts(run.out, loaded)})
    run.out.note("not in it: the keystore's passphrase, the recovery phrase, the chain, the keys of sealed values")
    if not with_keystore:
        run.out.note("the keystore is not in it: without another copy nothing can be written after a restore")


@group.add(
    "verify",
    examples=[
        "holdfast backup verify ledger.backup",
        "holdfast backup verify /mnt/safe/ledger-monday.backup --json",
    ],
)
def verify(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A backup, or any archive; - for stdin.")],
) -> None:
    """Verify everything in a backup, every entry, signature, statement and token, without restoring it.

    Whether it is the newest one it cannot tell: the chain can, when it is restored.
    """
    from api.backup import verify_archive

    out = invocation(ctx).out
    with open_input(file) as stream, progress(out, f"verify {file.name}") as advance:
        loaded = verify_archive(stream, advance=advance)
    out.record("archive", {"verdict": "PASSED", **archive_facts(out, loaded)})


@group.add(
    "forget",
    examples=["holdfast backup forget /mnt/safe/ledger-monday.backup", "holdfast backup forget old.backup --json"],
)
def forget(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A backup that does not exist any more.")],
) -> None:
    """Look for the keys of sealed values beside this backup no more: you have destroyed it, and FILE.keys with it.

    Until then every erasure tries to reach them, and says that it could not.
    """
    from api.backup import document_keys_beside
    from sync.document_keys import DocumentKeys

    run = invocation(ctx)
    home = find_home(run.named_home, run.environ)
    copy = str(document_keys_beside(file).absolute())
    if Path(copy).exists():
        raise RefusedError(f"{copy} is there", hint="destroy it first: it holds keys of sealed values")
    with DocumentKeys(home.document_keys) as keys:
        if copy not in keys.copies():
            raise RefusedError(f"no keys were copied to {copy}", hint=f"copies: {', '.join(keys.copies()) or 'none'}")
        keys.forget_copy(Path(copy))
        run.out.record("forgotten", {"document_keys": copy, "copies": list(keys.copies())})


def archive_facts(out: Output, loaded: LoadedArchive) -> dict[str, Plain]:
    """What an archive held, for an answer."""
    header = loaded.header
    return {
        "purpose": header.purpose.value,
        "made": time_text(out, header.made_ms),
        "identities": header.identities,
        "feeds": len(loaded.feeds),
        "entries": loaded.entries,
        "log": None if header.log is None else header.log.log_id.hex(),
        "size": 0 if header.log is None else header.log.size,
        "files": sorted(loaded.files),
    }
