"""``holdfast status``: where the store stands, and whether it may be written to."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from anchoring.report import format_time
from api.cli.exit_codes import ExitCode
from api.cli.group import CommandGroup, invocation
from api.cli.session import opened

__all__ = ["group"]

group = CommandGroup("status", "Where the store stands: feeds, checkpoints, tokens, anchors, rollback.")


@group.add("status", examples=["holdfast status", "holdfast status --offline --json"])
def status(
    ctx: typer.Context,
    offline: Annotated[
        bool, typer.Option("--offline", help="Do not ask the chain; repeat what the last check said, with its age.")
    ] = False,
) -> ExitCode:
    """Show where the store stands. Compares the log with the chain, as every start does.

    Exit code 77 for a read-only state, 75 when the chain could not be asked.
    """
    from anchoring.rollback import RollbackState
    from anchoring.storage import AnchorState, load_anchors, load_timestamps
    from api.bootstrap import is_development, now_ms
    from identity.textforms import to_hex

    out = invocation(ctx).out
    with opened(ctx, read_only=True) as session:
        vault = session.vault
        history = vault.history()
        log_id, descriptor = vault.log_descriptor()
        feeds = vault.feeds()
        with vault.store.read() as tx:
            checkpoints = list(tx.checkpoints())
            newest = checkpoints[-1] if checkpoints else None
            tokens = [] if newest is None else load_timestamps(tx.connection, newest.size)
            anchors = load_anchors(tx.connection)
        check: dict[str, Any] | None
        if offline:
            check = session.last_check()
        else:
            found = session.check_rollback()
            check = {"state": found.state.value, "detail": found.detail, "checked": now_ms()}
        final = [anchor for anchor in anchors if anchor.state is AnchorState.FINAL]
        rollback = "never checked" if check is None else check["state"]
        facts: dict[str, Any] = {
            "identity": to_hex(history.identity),
            "label": history.label,
            "log": f"{descriptor.name}/{to_hex(log_id)}",
            "feeds": len(feeds),
            "entries": sum(info.state.length for info in feeds),
            "checkpoint": None if newest is None else newest.size,
            "tokens on it": len(tokens),
            "anchored size": final[-1].size if final else None,
            "blind since": _blind_since(vault, final[-1].size if final else 0),
            "anchors open": len([a for a in anchors if a.state not in (AnchorState.FINAL, AnchorState.FAILED)]),
            "rollback check": rollback,
            "detail": None if check is None else check.get("detail"),
            "checked": None if check is None else format_time(int(check["checked"])),
            "development chain": is_development(descriptor),
        }
        out.record("status", facts)
    if offline or check is None:
        return ExitCode.OK
    state = RollbackState(rollback)
    if state is RollbackState.UNVERIFIED:
        return ExitCode.TRY_AGAIN
    return ExitCode.OK if state.writable else ExitCode.REFUSED


def _blind_since(vault: Any, anchored: int) -> str:
    """How many entries no final anchor covers: the blind window, in entries."""
    from ledger.statement import FeedHead, parse_statement

    with vault.store.read() as tx:
        covered: dict[bytes, int] = {}
        for leaf in tx.log_leaves(0, anchored):
            statement = parse_statement(leaf)
            if isinstance(statement, FeedHead):
                covered[statement.key] = statement.length
        open_entries = sum(state.length - covered.get(state.key, 0) for state in tx.feeds())
    return f"{open_entries} entries are covered by no final anchor"
