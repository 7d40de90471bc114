"""``holdfast backup``: a home in one file, and the file checked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from api.cli.files import open_input
from api.cli.group import CommandGroup, invocation
from api.cli.progress import progress
from api.cli.times import time_text
from api.settings import find_home, load_settings

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
    ],
)
def create(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write; nothing may be there.")],
    keystore: Annotated[
        bool, typer.Option("--keystore/--no-keystore", help="Put the keystore in, encrypted as it is.")
    ] = True,
) -> None:
    """Write a backup of this home: store, settings, policy, pinned headers and keystore, of one moment.

    Not in it: the keystore's passphrase, the recovery phrase, and the chain. Entries in it can be read by whoever has
    the file.
    """
    from api.backup import create_backup
    from api.bootstrap import now_ms

    run = invocation(ctx)
    home = find_home(run.named_home, run.environ)
    settings = load_settings(home, run.environ)
    with progress(run.out, f"backup {file.name}") as advance:
        made = create_backup(home, settings, file, with_keystore=keystore, made_ms=now_ms(), advance=advance)
    run.out.record(
        "backup",
        {
            "file": str(file),
            "bytes": file.stat().st_size,
            "digest": made.totals.digest.hex(),
            "feeds": made.feeds,
            "entries": made.entries,
            "files": list(made.files),
        },
    )
    run.out.note("not in it: the keystore's passphrase, the recovery phrase, the chain")
    if keystore:
        run.out.note("the keystore is in it: whoever has the file can try passphrases on it")
    else:
        run.out.note("the keystore is not in it: without another copy nothing can be written after a restore")
    if made.partial:
        run.out.note(f"not in it: {made.partial} feeds that are held in part; others have them, with their proofs")
    for path in made.outside:
        run.out.note(f"not in it, because it lies outside the home: {path}")


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
