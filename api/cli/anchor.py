"""``holdfast anchor``: timestamps and the chain."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from anchoring.report import format_time
from api.cli.exit_codes import ExitCode
from api.cli.group import CommandGroup, invocation
from api.cli.session import PassphraseFile, opened, unlock

__all__ = ["group"]

_POLL_S = 5.0

group = CommandGroup("anchor", "Timestamp and anchor checkpoints.")


@group.add("run", examples=["holdfast anchor run", "holdfast anchor run --wait 900 --json"])
def run(
    ctx: typer.Context,
    wait: Annotated[
        float, typer.Option("--wait", metavar="SECONDS", min=0, help="Keep going until the anchor is final, that long.")
    ] = 0.0,
    passphrase_file: PassphraseFile = None,
) -> ExitCode:
    """Timestamp the newest checkpoint by every authority that has not, and move its anchor on towards final.

    Can be run at any time and as often as you like. Exit code 75 when something has to be tried again.
    """
    from anchoring.storage import AnchorState, load_anchors
    from anchoring.worker import run_round
    from api.bootstrap import is_development, now_ms

    out = invocation(ctx).out
    with opened(ctx) as session:
        ring = unlock(ctx, session, passphrase_file)
        session.vault.require_writable()
        log_id, descriptor = session.vault.log_descriptor()
        sources, sender = session.sources(), session.sender(ring)
        deadline = time.monotonic() + wait
        while True:
            done = run_round(session.vault.store, log_id, descriptor, sources, sender, now_ms())
            with session.vault.store.read() as tx:
                anchors = load_anchors(tx.connection)
            still_open = [a for a in anchors if a.state not in (AnchorState.FINAL, AnchorState.FAILED)]
            if not still_open or time.monotonic() >= deadline:
                break
            time.sleep(min(_POLL_S, max(0.0, deadline - time.monotonic())))
        if is_development(descriptor):
            session.pin_final_anchors()
    newest = next((a for a in anchors if a.size == done.size), None)
    out.record(
        "anchor-round",
        {
            "size": done.size,
            "tokens": {name: format_time(token.verified.gen_time_ms) for name, token in done.tokens.items()},
            "anchor": None if newest is None else newest.state.value,
            "block": None if newest is None else newest.block_number,
            "failures": [f"{failure.what}: {failure.error}" for failure in done.failures],
        },
    )
    for failure in done.failures:
        out.note(f"{failure.what}: {failure.error}; run it again later")
    return ExitCode.TRY_AGAIN if done.failures else ExitCode.OK


@group.add("status", examples=["holdfast anchor status", "holdfast anchor status --json"])
def status(ctx: typer.Context) -> None:
    """Every anchor with its state, since when, and its tokens. Nothing below final is an anchor."""
    from anchoring.storage import load_anchors, load_timestamps

    rows: list[tuple[Any, ...]] = []
    with opened(ctx, read_only=True) as session, session.vault.store.read() as tx:
        anchors = {anchor.size: anchor for anchor in load_anchors(tx.connection)}
        for checkpoint in tx.checkpoints():
            anchor = anchors.get(checkpoint.size)
            tokens = load_timestamps(tx.connection, checkpoint.size)
            rows.append(
                (
                    checkpoint.size,
                    ", ".join(f"{token.authority} {format_time(token.gen_time_ms)}" for token in tokens) or None,
                    "none" if anchor is None else anchor.state.value,
                    None if anchor is None else anchor.block_number,
                    None if anchor is None else format_time(anchor.changed_ms),
                    None if anchor is None else anchor.reason,
                )
            )
    invocation(ctx).out.table("anchor", ("size", "tokens", "anchor", "block", "since", "reason"), rows)
