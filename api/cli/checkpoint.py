"""``holdfast checkpoint``: the log of heads."""

from __future__ import annotations

from typing import Annotated

import typer

from api.cli.exit_codes import UsageError
from api.cli.files import open_output, written
from api.cli.group import CommandGroup, invocation
from api.cli.session import Force, OutputFile, PassphraseFile, opened, unlock

__all__ = ["group"]

group = CommandGroup("checkpoint", "The log of heads: what gets timestamped and anchored.")


@group.add("create", examples=["holdfast checkpoint create", "holdfast checkpoint create --restate"])
def create(
    ctx: typer.Context,
    restate: Annotated[
        bool, typer.Option("--restate", help="Also when nothing has changed: keeps identity heads fresh.")
    ] = False,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Log every head that has changed, with the tokens and anchors that came since, and sign it."""
    from identity.textforms import to_zbase32

    out = invocation(ctx).out
    with opened(ctx) as session:
        ring = unlock(ctx, session, passphrase_file)
        withheld = session.vault.pending_checkpoint(ring).withheld
        checkpoint = session.vault.checkpoint(ring, restate=restate)
    left_out = {to_zbase32(feed.key): feed.reason.value for feed in withheld}
    out.record("checkpoint", {"size": checkpoint.size, "root": checkpoint.root.hex(), "withheld": left_out})
    for key, reason in left_out.items():
        out.note(f"feed {key} is not logged as it stands: {reason}")


@group.add("list", examples=["holdfast checkpoint list", "holdfast checkpoint list --json"])
def list_(ctx: typer.Context) -> None:
    """Every checkpoint, with how many tokens it has and how far its anchor has come."""
    from anchoring.storage import load_anchors, load_timestamps

    with opened(ctx, read_only=True) as session, session.vault.store.read() as tx:
        states = {anchor.size: anchor.state.value for anchor in load_anchors(tx.connection)}
        rows = [
            (c.size, c.root.hex(), len(load_timestamps(tx.connection, c.size)), states.get(c.size, "none"))
            for c in tx.checkpoints()
        ]
    invocation(ctx).out.table("checkpoint", ("size", "root", "tokens", "anchor"), rows)


@group.add("show", examples=["holdfast checkpoint show 6", "holdfast checkpoint show 6 --json"])
def show(
    ctx: typer.Context, size: Annotated[int, typer.Argument(metavar="SIZE", help="The checkpoint's size.")]
) -> None:
    """Print a checkpoint's signed note, as other tools read it."""
    out = invocation(ctx).out
    with opened(ctx, read_only=True) as session, session.vault.store.read() as tx:
        found = tx.checkpoint(size)
    if found is None:
        raise UsageError(f"there is no checkpoint of size {size}", hint="see 'holdfast checkpoint list'")
    out.record("checkpoint", {"size": found.size, "root": found.root.hex(), "note": found.note}, text=found.note)


@group.add(
    "export",
    examples=["holdfast checkpoint export -o complete.log", "holdfast checkpoint export -o complete.log --force"],
)
def export(ctx: typer.Context, output: OutputFile, force: Force = False) -> None:
    """Write the complete log, for an outsider to audit with 'holdfast audit --log'."""
    from ledger.log_transfer import export_log

    out = invocation(ctx).out
    with opened(ctx, read_only=True) as session, open_output(out, output, force=force) as stream:
        counts = export_log(session.vault.store, stream)
    facts = {"checkpoints": counts.checkpoints, "leaves": counts.leaves, "events": counts.events}
    written(out, "log-export", output, facts)
