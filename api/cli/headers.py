"""``holdfast headers``: pin block headers for the offline verifier."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from api.cli.exit_codes import UsageError
from api.cli.group import CommandGroup, invocation
from api.cli.session import opened

if TYPE_CHECKING:
    from anchoring.headers import TrustedHeader

__all__ = ["group"]

group = CommandGroup("headers", "Block headers that the policy trusts.")


@group.add(
    "fetch",
    examples=[
        "holdfast headers fetch",
        "holdfast headers fetch --file headers.jsonl --chain 1 --rpc http://127.0.0.1:8545 --number 21903050",
    ],
)
def fetch(
    ctx: typer.Context,
    number: Annotated[
        list[int] | None,
        typer.Option("--number", metavar="N", min=0, help="A block; may be repeated. Default: those of final anchors."),
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", metavar="FILE", help="Without a home: the headers file of your policy.")
    ] = None,
    chain: Annotated[int | None, typer.Option("--chain", metavar="ID", min=1, help="With --file: the chain.")] = None,
    rpc: Annotated[
        list[str] | None, typer.Option("--rpc", metavar="URL", help="With --file: a node; may be repeated.")
    ] = None,
) -> None:
    """Ask every configured node for block headers, and pin those that all of them agree on.

    This is trust in those nodes, not proof; the file names them as the source. An auditor, who has no home, names the
    nodes that they trust themselves.
    """
    out = invocation(ctx).out
    if file is not None:
        if chain is None or not rpc or not number:
            raise UsageError("--file takes --chain, --rpc and --number with it")
        pinned = _fetch_without_home(file, chain, rpc, number)
    elif chain is not None or rpc:
        raise UsageError("--chain and --rpc are for a --file; a home has its own in holdfast.toml")
    else:
        with opened(ctx, read_only=True) as session:
            pinned = session.fetch_headers(number)
    if not pinned:
        out.note("nothing new: they are pinned already, or no anchor is final yet")
    rows = [(header.chain, header.number, header.hash.hex(), header.source) for header in pinned]
    out.table("header", ("chain", "number", "hash", "source"), rows)


def _fetch_without_home(file: Path, chain: int, urls: list[str], numbers: list[int]) -> list[TrustedHeader]:
    from anchoring.chain.check import ChainView
    from api.bootstrap import now_ms, open_nodes
    from api.pinning import pin_headers

    with ExitStack() as opened_nodes:
        nodes = open_nodes(opened_nodes, chain, urls, None)
        return pin_headers(file, ChainView(nodes, chain, b""), numbers, now_ms())
