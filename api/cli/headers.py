"""``holdfast headers``: pin block headers for the offline verifier."""

from __future__ import annotations

from typing import Annotated

import typer

from api.cli.group import CommandGroup, invocation
from api.cli.session import opened

__all__ = ["group"]

group = CommandGroup("headers", "Block headers that the policy trusts.")


@group.add("fetch", examples=["holdfast headers fetch", "holdfast headers fetch --number 21903050"])
def fetch(
    ctx: typer.Context,
    number: Annotated[
        list[int] | None,
        typer.Option("--number", metavar="N", min=0, help="A block; may be repeated. Default: those of final anchors."),
    ] = None,
) -> None:
    """Ask every configured node for block headers, and pin those that all of them agree on.

    This is trust in those nodes, not proof; the file names them as the source.
    """
    out = invocation(ctx).out
    with opened(ctx, read_only=True) as session:
        pinned = session.fetch_headers(number)
        file = session.home.headers
    if not pinned:
        out.note(f"nothing new: {file} has them, or no anchor is final yet")
    rows = [(header.chain, header.number, header.hash.hex(), header.source) for header in pinned]
    out.table("header", ("chain", "number", "hash", "source"), rows)
