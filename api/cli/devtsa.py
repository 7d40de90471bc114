"""``holdfast devtsa``: the development timestamp authority over HTTP."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated

import typer

from api.cli.group import CommandGroup, invocation
from api.settings import dev_directory

__all__ = ["group"]

group = CommandGroup("devtsa", "The development timestamp authority. It proves nothing to anybody else.")


@group.add("serve", examples=["holdfast devtsa serve --port 3161", "holdfast devtsa serve"])
def serve(
    ctx: typer.Context,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="On loopback; 0 takes a free one.")] = 3161,
) -> None:
    """Answer RFC 3161 requests on loopback until interrupted. DEVELOPMENT ONLY."""
    from anchoring.tsa.dev import DevelopmentAuthority
    from anchoring.tsa.server import DevelopmentServer

    run = invocation(ctx)
    authority = DevelopmentAuthority(dev_directory(run.environ) / "tsa")
    with closing(DevelopmentServer(authority, port=port)) as server:
        run.out.record("devtsa", {"url": server.url})
        run.out.flush()
        server.serve_forever()
