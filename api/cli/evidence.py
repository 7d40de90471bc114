"""``holdfast evidence``: one file that proves an entry."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from api.cli.exit_codes import UsageError
from api.cli.files import open_output, written
from api.cli.group import CommandGroup, invocation
from api.cli.session import Force, OutputFile, named_feed, opened
from api.cli.times import parse_time

__all__ = ["group"]

group = CommandGroup("evidence", "Evidence: one file that anybody can verify offline.")


@group.add(
    "export",
    examples=[
        "holdfast evidence export ledger 41 -o payment.evidence.json",
        "holdfast evidence export ledger 41 -o - | holdfast verify - --policy bank.toml",
        "holdfast evidence export --database bank --document accounts/4711 --as-of 2026-03-31T23:59:59Z -o 4711.json",
    ],
)
def export(
    ctx: typer.Context,
    output: OutputFile,
    feed: Annotated[
        str | None, typer.Argument(metavar="[FEED]", help="The feed's name or key.", show_default=False)
    ] = None,
    index: Annotated[
        int | None,
        typer.Argument(metavar="[INDEX]", min=0, help="The entry's index in the feed.", show_default=False),
    ] = None,
    database: Annotated[
        str | None, typer.Option("--database", metavar="DATABASE", help="Whose document's state to prove.")
    ] = None,
    document: Annotated[
        str | None, typer.Option("--document", metavar="COLLECTION/KEY", help="The document whose state to prove.")
    ] = None,
    when: Annotated[
        str | None, typer.Option("--as-of", metavar="TIME", help="The document's state at this time; default: now.")
    ] = None,
    force: Force = False,
) -> None:
    """Write the evidence of one entry: the entry, its author's key history, its place in the log, tokens and anchor.

    With --database and --document instead: of the newest state root that was stated by then, and of what the document
    was in it ('db state-root' states one). Exit code 2 when the entry is not under a timestamped checkpoint yet.
    """
    is_entry = feed is not None and index is not None
    is_document = database is not None and document is not None
    if is_entry == is_document or (feed is None) != (index is None) or (database is None) != (document is None):
        raise UsageError("evidence of what?", hint="FEED INDEX, or --database DATABASE --document COLLECTION/KEY")
    if database is not None and document is not None:
        _export_document(ctx, database, document, when, output, force=force)
        return
    if when is not None:
        raise UsageError("--as-of goes with --document")
    assert feed is not None
    assert index is not None
    _export_entry(ctx, feed, index, output, force=force)


def _export_entry(ctx: typer.Context, feed: str, index: int, output: Path, *, force: bool) -> None:
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


def _export_document(
    ctx: typer.Context, database: str, name: str, when: str | None, output: Path, *, force: bool
) -> None:
    from api.bootstrap import now_ms
    from api.cli.db_common import document, reading
    from api.document_evidence import export_document_evidence
    from api.pool import trusted_by_home

    out = invocation(ctx).out
    named = document(name)
    at_ms = now_ms() if when is None else parse_time(when)
    with reading(ctx, database) as opening:
        trusted = trusted_by_home(opening.session.home)
        data = export_document_evidence(opening.database, named, at_ms, *trusted)
        facts = {"database": opening.database.name, "document": str(named), "bytes": len(data)}
    with open_output(out, output, force=force) as stream:
        stream.write(data)
    written(out, "document-evidence", output, facts)
