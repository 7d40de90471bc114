"""``holdfast evidence``: one file that proves an entry."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from api.cli.files import open_output
from api.cli.group import CommandGroup, invocation
from api.cli.session import opened

__all__ = ["group"]

group = CommandGroup("evidence", "Evidence: one file that anybody can verify offline.")


@group.add(
    "export",
    examples=[
        "holdfast evidence export ledger 41 -o payment.evidence.json",
        "holdfast evidence export ledger 41 -o - | holdfast verify - --policy bank.toml",
    ],
)
def export(
    ctx: typer.Context,
    feed: Annotated[str, typer.Argument(metavar="FEED", help="The feed's name or key.")],
    index: Annotated[int, typer.Argument(metavar="INDEX", min=0, help="The entry's index in the feed.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Where to write; - for stdout.")],
    force: Annotated[bool, typer.Option("--force", help="Replace FILE.")] = False,
) -> None:
    """Write the evidence of one entry: the entry, its author's key history, its place in the log, tokens and anchor."""
    out = invocation(ctx).out
    with opened(ctx, read_only=True) as session:
        data = session.vault.evidence(session.vault.find_feed(feed).state.key, index)
    with open_output(out, output, force=force) as stream:
        stream.write(data)
    if str(output) != "-":
        out.record("evidence", {"file": str(output), "bytes": len(data)})
