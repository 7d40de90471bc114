"""``holdfast devchain``: the development chain over JSON-RPC."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from api.cli.group import CommandGroup, invocation
from api.settings import dev_directory
from identity.errors import ConfigurationError

if TYPE_CHECKING:
    from anchoring.chain.dev import DevChain
    from anchoring.chain.rpc_server import DevChainServer

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
    from api.bootstrap import open_dev_chain

    run = invocation(ctx)
    with open_dev_chain(dev_directory(run.environ)) as chain, closing(_listen(chain, port)) as server:
        run.out.record("devchain", {"url": server.url})
        run.out.flush()
        server.serve_forever()


def _listen(chain: DevChain, port: int) -> DevChainServer:
    from anchoring.chain.rpc_server import DevChainServer

    try:
        return DevChainServer(chain, port)
    except OSError as exc:
        raise ConfigurationError(f"cannot listen on 127.0.0.1 port {port}: {exc.strerror}") from exc
