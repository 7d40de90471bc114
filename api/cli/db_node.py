"""``holdfast db ... --node URL``: the database of this home, brought into step with a node before and after.

So an answer is of this home, which has verified everything in it, and never a node's word.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from api.cli.group import invocation
from api.cli.session import as_usage, opened, speaking_device, unlock
from identity.errors import AuditError, MissingEvidenceError, ReadOnlyState, TransportError

if TYPE_CHECKING:
    from api.bootstrap import Session
    from api.databases import Databases
    from api.peer import Outcome, Peer
    from identity.keystore import KeyRing

__all__ = ["fetch_from_node", "send_to_node"]


def fetch_from_node(ctx: typer.Context, name: str | None, passphrase_file: Path | None, device: str | None) -> None:
    """Sync a database, or all that are here, with the node that the command line names; join one that is new.

    A note says when the node is away, or this home takes nothing in. Raises what else a sync raises.
    """
    from api.databases import Databases

    run = invocation(ctx)
    assert run.node is not None
    with opened(ctx) as session:
        try:
            session.vault.require_writable()
            ring = unlock(ctx, session, passphrase_file or run.node_passphrase_file)
            peer = _peer(session, ring, run.node, device)
            with Databases(session) as databases:
                known = [info.uid.hex() for info in databases.known()] if name is None else [name]
                for one in known:
                    _exchange(ctx, session, databases, peer, one, skip_unknown=name is None)
        except (ReadOnlyState, TransportError) as exc:
            run.out.note(f"not in step with {run.node}, this is what is here: {exc}")


def send_to_node(ctx: typer.Context, session: Session, ring: KeyRing, uid: bytes, device: str | None) -> None:
    """Let the node have what was just written. It is written, so nothing is raised: a note says what is still to do."""
    from api.databases import Databases

    run = invocation(ctx)
    if run.node is None:
        return
    try:
        with Databases(session) as databases:
            _exchange(ctx, session, databases, _peer(session, ring, run.node, device), uid.hex(), skip_unknown=False)
    except AuditError as exc:
        run.out.note(f"written here; {run.node} does not have it yet: {exc}")
        run.out.note(f"'holdfast sync {run.node}' sends it")


def _peer(session: Session, ring: KeyRing, url: str, device: str | None) -> Peer:
    from api.access.signing import RequestSigner
    from api.peer import Peer

    with as_usage():
        return Peer(url, RequestSigner(speaking_device(session, ring, device)))


def _exchange(
    ctx: typer.Context, session: Session, databases: Databases, peer: Peer, name: str, *, skip_unknown: bool
) -> None:
    from api.cli.sync import keep_forks
    from api.client import exchange_database
    from api.peer import Peer

    try:
        done = exchange_database(session, databases, peer, name, Peer.sync)
    except MissingEvidenceError:
        if skip_unknown:
            return
        raise
    outcome: Outcome = done.outcome
    out = invocation(ctx).out
    if done.joined:
        out.note(f"joined {done.database.name}")
    if outcome.conflicts or outcome.contested:
        count = len({*outcome.conflicts, *outcome.contested})
        out.note(f"{count} documents have new conflicts: see 'holdfast db conflicts {done.database.name}'")
    keep_forks(out, session, outcome.forks)
