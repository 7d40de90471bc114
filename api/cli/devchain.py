"""``holdfast devchain``: the development chain over JSON-RPC."""

from __future__ import annotations

from typing import Annotated

import typer

from api.cli.group import CommandGroup, invocation
from api.settings import dev_directory

__all__ = ["group"]

group = CommandGroup("devchain", "The development chain. It proves nothing to anybody else.")


@group.add("serve", examples=["holdfast devchain serve --port 8545", "holdfast devchain serve"])
def serve(
    ctx: typer.Context,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="On loopback; 0 takes a free one.")] = 8545,
) -> None:
    """Answer JSON-RPC on loopback until interrupted. DEVELOPMENT ONLY.

    Methods: chain id, call, block, receipt, proof, send raw, and what sending needs.
    """
    from anchoring.chain.rpc_server import DevChainServer
    from api.bootstrap import open_dev_chain

    run = invocation(ctx)
    with open_dev_chain(dev_directory(run.environ)) as chain, DevChainServer(chain, port) as server:
        run.out.record("devchain", {"url": server.url})
        run.out.flush()
        server.serve_forever()
