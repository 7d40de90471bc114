"""``holdfast evidence``: one file that proves an entry."""

from __future__ import annotations

from typing import Annotated

import typer

from api.cli.exit_codes import UsageError
from api.cli.files import open_output, written
from api.cli.group import CommandGroup, invocation
from api.cli.session import Force, OutputFile, named_feed, opened

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
    output: OutputFile,
    force: Force = False,
) -> None:
    """Write the evidence of one entry: the entry, its author's key history, its place in the log, tokens and anchor.

    Exit code 2 when the entry is not under a timestamped checkpoint yet.
    """
    from api.pool import trusted_by_home

    out = invocation(ctx).out
    with opened(ctx, read_only=True) as session:
        info = named_feed(session, feed)
        if index >= info.state.length:
            raise UsageError(f"there is no entry {index}", hint=f"the feed has {info.state.length} entries, from 0")
        data = session.vault.evidence(info.state.key, index, *trusted_by_home(session.home))
    with open_output(out, output, force=force) as stream:
        stream.write(data)
    written(out, "evidence", output, {"feed": info.name, "key": info.key_text, "index": index, "bytes": len(data)})
