"""``holdfast recover``: the ways out of a store that its chain shows to be behind, or to be another history."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from api.cli.db_common import Device
from api.cli.exit_codes import ExitCode, UsageError
from api.cli.group import CommandGroup, Invocation, invocation
from api.cli.session import PassphraseFile, as_usage, open_keys, opened, speaking_device
from identity.errors import RefusedError

if TYPE_CHECKING:
    from api.bootstrap import Session
    from api.cli.output import Output, Plain
    from api.recovery import Fetched
    from identity.keystore import KeyRing

__all__ = ["group"]

DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would happen, and change nothing.")]

group = CommandGroup("recover", "Ways out of a read-only state: fetch what is missing, or begin a successor log.")


@group.add(
    "fetch",
    examples=[
        "holdfast recover fetch",
        "holdfast recover fetch --node https://bank.example",
        "holdfast recover fetch complete.log ledger.feed approvals.feed",
        "holdfast recover fetch /mnt/safe/ledger-tuesday.backup --dry-run",
    ],
)
def fetch(
    ctx: typer.Context,
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[FILE...]",
            help="Of 'checkpoint export', 'feed export', 'backup create' or 'audit --export', or a copy of a store.",
        ),
    ] = None,
    node: Annotated[
        list[str] | None,
        typer.Option("--node", metavar="URL", help="Ask this node; may be repeated. Default without FILE: all paired."),
    ] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Keep what verifies although more is missing; the store stays read-only.")
    ] = False,
    dry_run: DryRun = False,
    device: Device = None,
    passphrase_file: PassphraseFile = None,
) -> ExitCode:
    """Bring back missing entries, heads and checkpoints from others, all of it verified, whole or not at all.

    From files, or from nodes that are running: those that this home was paired with, or that are named. Asking a node
    takes the passphrase. Afterwards writing goes on in new feeds. Exit code 77 when something is missing still.
    """
    from anchoring.rollback import RollbackState
    from api.bootstrap import now_ms
    from api.databases import Databases
    from api.recovery import fetch_missing

    out = invocation(ctx).out
    with opened(ctx) as session:
        urls = _nodes(session, files, node)
        if urls:
            found = _fetch_from_nodes(
                ctx, session, urls, files or [], device, passphrase_file, partial=partial, dry_run=dry_run
            )
        else:
            found = fetch_missing(session, files or [], at_ms=now_ms(), partial=partial, dry_run=dry_run)
        if not dry_run:
            with Databases(session) as databases:
                databases.take_in()
    for lost in found.missing:
        out.note(f"missing still: {lost}")
    out.record(
        "recovery",
        {
            "statements": found.statements,
            "entries": found.entries,
            "retired": found.retired,
            "state": found.check.state.value,
            "detail": found.check.detail,
            "missing": list(found.missing),
            "dry_run": dry_run,
        },
    )
    if found.check.state is RollbackState.UNVERIFIED:
        return ExitCode.TRY_AGAIN
    return ExitCode.OK if found.check.state.writable else ExitCode.REFUSED


def _nodes(session: Session, files: list[Path] | None, named: list[str] | None) -> list[str]:
    """The nodes to ask. Raises ``UsageError`` when there is nobody and nothing to fetch from."""
    from api.peers import load_peers
    from api.remote import check_node_url

    if named:
        with as_usage():
            return [check_node_url(url) for url in named]
    if files:
        return []
    paired = [one.url for one in load_peers(session.home)]
    if not paired:
        raise UsageError("this home was paired with no node", hint="name one: --node URL, or give files")
    return paired


def _fetch_from_nodes(
    ctx: typer.Context,
    session: Session,
    urls: list[str],
    files: list[Path],
    device: str | None,
    passphrase_file: Path | None,
    *,
    partial: bool,
    dry_run: bool,
) -> Fetched:
    from api.bootstrap import now_ms
    from api.peer_recovery import fetch_from_nodes

    ring, _ = open_keys(ctx, session, passphrase_file)
    signer = speaking_device(session, ring, device)
    tell = invocation(ctx).out.note
    return fetch_from_nodes(session, signer, urls, files, at_ms=now_ms(), tell=tell, partial=partial, dry_run=dry_run)


@group.add("succeed", examples=["holdfast recover succeed --dry-run", "holdfast recover succeed --chain-is-gone"])
def succeed(
    ctx: typer.Context,
    chain_is_gone: Annotated[
        bool, typer.Option("--chain-is-gone", help="The log's chain is gone for good: nothing can be closed on it.")
    ] = False,
    anchor_key_file: Annotated[
        Path | None,
        typer.Option("--anchor-key-file", metavar="FILE", help="A key that has coins, in hex, if the other is lost."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Although the log is in order.")] = False,
    dry_run: DryRun = False,
    passphrase_file: PassphraseFile = None,
) -> ExitCode:
    """Close the log on chain and go on in its one successor, for ever visible; when nothing else leads out.

    May be interrupted and run again. The store before stays beside the new one. Needs the root key.
    """
    run = invocation(ctx)
    with opened(ctx) as session:
        begun = _is_pending(session)
        ring, passphrase = open_keys(ctx, session, passphrase_file)
        if begun and dry_run:
            run.out.note("the successor was begun already; what is left is to bring the close onto the chain")
            return ExitCode.OK
        if not begun:
            wanted = _anchor_key(anchor_key_file)
            done = _begin(run, session, ring, passphrase, wanted, gone=chain_is_gone, force=force, dry_run=dry_run)
            if not done:
                return ExitCode.OK
    with opened(ctx) as session:
        return _close(run.out, session, open_keys(ctx, session, passphrase_file)[0])


def _is_pending(session: Session) -> bool:
    """Whether this is a successor whose close is not settled yet."""
    from anchoring.chain.closing import load_closing
    from anchoring.storage import AnchorState

    with session.vault.store.read() as tx:
        closing = load_closing(tx.connection)
    return closing is not None and closing.state not in (AnchorState.FINAL, AnchorState.FAILED)


def _is_in_order(session: Session, ring: KeyRing) -> bool:
    """Whether the log can go on as it is: its keys are here, the anchor key if it has a chain, and that agrees."""
    _, descriptor = session.vault.log_descriptor()
    anchors = ring.anchor_key is not None or descriptor.chain is None
    return ring.log_seed is not None and anchors and session.check_rollback().state.writable


def _anchor_key(file: Path | None) -> bytes | None:
    from api.cli.init import read_anchor_key

    return None if file is None else read_anchor_key(file)


def _begin(
    run: Invocation,
    session: Session,
    ring: KeyRing,
    passphrase: str,
    anchor_key: bytes | None,
    *,
    gone: bool,
    force: bool,
    dry_run: bool,
) -> bool:
    """Everything up to the switch of the home. False for a dry run."""
    from api.bootstrap import now_ms, open_chain
    from api.cli.init import faucet
    from api.successor import begin_successor, bind_successor, plan_successor, successor_keys, switch_home
    from identity.keystore import replace_keystore
    from identity.textforms import to_hex

    if not force and _is_in_order(session, ring):
        raise RefusedError("the log is in order: nothing has to go on from it", hint="--force, if you know better")
    with ExitStack() as chains:
        chain = open_chain(chains, session.settings)
        plan = plan_successor(session, ring, chain, chain_is_gone=gone)
        if anchor_key is not None and plan.closable and anchor_key != ring.anchor_key:
            raise RefusedError(
                "this log can be closed, and the keystore closes it with its own anchor key",
                hint="leave --anchor-key-file away: no key is lost",
            )
        for said in plan.because:
            run.out.note(said)
        older: dict[str, Plain] = {
            "log": to_hex(plan.predecessor.log),
            "size": plan.predecessor.size,
            "root": to_hex(plan.predecessor.root),
        }
        facts: dict[str, Plain] = {**older, "store": str(plan.database), "close": plan.closable, "dry_run": dry_run}
        if dry_run:
            run.out.record("succession", {"successor": None, **facts})
            return False
        keys = successor_keys(ring, anchor_key)
        if keys != ring:
            replace_keystore(session.settings.keystore, passphrase, keys, expected=ring)
        binding = bind_successor(plan, keys, chain, faucet(chain, session.settings), chain_is_gone=gone)
        log_id = begin_successor(session, keys, plan, binding, now_ms=now_ms())
        for by_hand in switch_home(session, plan, log_id, run.environ):
            run.out.note(by_hand)
    run.out.record("succession", {"successor": to_hex(log_id), **facts})
    return True


def _close(out: Output, session: Session, ring: KeyRing) -> ExitCode:
    """Send the close and say how far it has come."""
    from anchoring.storage import AnchorState
    from identity.textforms import to_hex

    session.start_up.adopt()
    closing = session.advance_closing(ring)
    if closing is None:
        return ExitCode.OK
    out.record("close", {"log": to_hex(closing.log), "state": closing.state.value, "reason": closing.reason})
    if closing.reason is not None:
        return ExitCode.REFUSED
    if closing.state in (AnchorState.FINAL, AnchorState.MINED):
        return ExitCode.OK
    out.note("the close is not in a block yet: run the command again, or 'holdfast anchor run'")
    return ExitCode.TRY_AGAIN
