"""``holdfast restore``: a home out of a backup."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from api.cli.backup import archive_facts
from api.cli.exit_codes import UsageError
from api.cli.files import open_input
from api.cli.group import CommandGroup, invocation
from api.cli.init import check_database
from api.cli.progress import progress
from api.settings import find_home

__all__ = ["group"]

group = CommandGroup("restore", "Make a home of a backup.")


@group.add(
    "restore",
    examples=[
        "holdfast restore ledger.backup --home restored.home",
        "holdfast restore ledger.backup --home pg.home --database 'postgresql://vault@db.example/bank'",
    ],
)
def restore(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What 'backup create' wrote; - for stdin.")],
    database: Annotated[
        str | None,
        typer.Option(
            "--database", metavar="URL", help="A PostgreSQL database for the store; default: a file in the home."
        ),
    ] = None,
) -> None:
    """Make a home of a backup, whole or not at all, in a place where there is nothing.

    Everything in it is verified first. What was signed after it was made cannot be known, so every feed comes back
    retired: the next write to it goes on in a new feed that continues it. The keys of sealed values are taken from
    FILE.keys, where 'backup create' has put them.
    """
    from api.backup import document_keys_beside, restore_home
    from api.bootstrap import now_ms

    run = invocation(ctx)
    if run.named_home is None:
        raise UsageError("where is the home to be?", hint="--home DIR, a new directory")
    check_database(database, run.environ)
    home = find_home(run.named_home, run.environ)
    keys = document_keys_beside(file)
    with open_input(file) as stream, progress(run.out, f"restore {file.name}") as advance:
        restored = restore_home(
            stream,
            home,
            run.environ,
            at_ms=now_ms(),
            database=database,
            document_keys=keys if keys.exists() else None,
            advance=advance,
        )
    retired = sum(feed.local for feed in restored.archive.feeds)
    run.out.record(
        "restore",
        {
            "home": str(home.root),
            **archive_facts(run.out, restored.archive),
            "retired": retired,
            "databases": restored.databases,
        },
    )
    if restored.databases and not restored.has_document_keys:
        run.out.note(f"no {keys.name} lies beside the backup: sealed values, if there are any, cannot be read")
    if not restored.has_keystore:
        run.out.note("the backup has no keystore: put yours into the home before you write")
    run.out.note("run 'holdfast status': it compares the log with its chain, and says if a newer copy was anchored")
