"""``holdfast sync``: exchange with another node over HTTP, once or for as long as it runs."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Annotated

import typer

from api.cli.db_common import Device, entry_text
from api.cli.exit_codes import ExitCode, UsageError
from api.cli.forks import keep_fork_proof
from api.cli.group import CommandGroup, invocation
from api.cli.progress import progress
from api.cli.session import PassphraseFile, as_usage, opened, unlock

if TYPE_CHECKING:
    from collections.abc import Callable

    from api.bootstrap import Session
    from api.cli.output import Output, Plain
    from api.databases import Databases
    from api.peer import LiveEvent, Outcome, Peer
    from identity.keys import Signer
    from identity.keystore import KeyRing
    from sync.database import DatabaseInfo
    from sync.report import FoundFork, Waiting

__all__ = ["group", "keep_forks"]

group = CommandGroup("sync", "Exchange databases with another node.")


@group.add(
    "sync",
    examples=[
        "holdfast sync https://bank.example bank",
        "holdfast sync https://bank.example",
        "holdfast sync https://bank.example bank --pull --json",
        "holdfast sync https://bank.example bank --live",
    ],
)
def sync(
    ctx: typer.Context,
    url: Annotated[str, typer.Argument(metavar="URL", help="The node: https://host, and its path if it has one.")],
    database: Annotated[
        str | None,
        typer.Argument(
            metavar="DATABASE", help="The database, as it is called here, or there if it is new here; default: all."
        ),
    ] = None,
    live: Annotated[bool, typer.Option("--live", help="Stay in step until interrupted.")] = False,
    pull: Annotated[bool, typer.Option("--pull", help="Only fetch what is missing here.")] = False,
    push: Annotated[bool, typer.Option("--push", help="Only send what is missing there.")] = False,
    device: Device = None,
    passphrase_file: PassphraseFile = None,
) -> ExitCode:
    """Fetch what is missing here, and send what is missing there. All that comes is verified before it counts.

    A database that is new here is joined. What was taken in stays when the connection breaks; the next time goes on
    from there. Exit code 1 says that somebody is proven to have signed two histories, or that the peer has lied.
    """
    from api.access.signing import RequestSigner
    from api.databases import Databases
    from api.peer import Peer

    if sum((live, pull, push)) > 1:
        raise UsageError("--live, --pull and --push exclude each other")
    if live and database is None:
        raise UsageError("--live takes one database", hint="see 'holdfast db list'")
    with opened(ctx) as session:
        session.vault.require_writable()
        signer = _signer(session, unlock(ctx, session, passphrase_file), device)
        with as_usage():
            peer = Peer(url, RequestSigner(signer))
        with Databases(session) as databases:
            syncing = _Syncing(invocation(ctx).out, session, databases, peer)
            if live:
                assert database is not None
                _exchange_logs(ctx, session, signer, url, [info.uid for info in databases.known()])
                return syncing.live(database)
            named = [info.uid.hex() for info in databases.known()] if database is None else [database]
            codes = [syncing.once(name, pull=pull, push=push) for name in named]
            if not pull and not push:
                _exchange_logs(ctx, session, signer, url, [info.uid for info in databases.known()])
    return max(codes, default=ExitCode.OK)


def _signer(session: Session, ring: KeyRing, device: str | None) -> Signer:
    from api.vault import device_signer

    names = sorted(ring.device_keys())
    if device is None and len(names) != 1:
        raise UsageError("which device asks?", hint=f"--device with one of: {', '.join(names) or 'none'}")
    return device_signer(ring, device or names[0], session.tokens.signer)


def _exchange_logs(ctx: typer.Context, session: Session, signer: Signer, url: str, databases: list[bytes]) -> None:
    """Keep the node's checkpoint log, and let it keep this one's. That it cannot be done fails no sync."""
    from api.log_exchange import exchange_logs
    from api.remote import RemoteNode, RemoteProblem
    from identity.errors import MalformedError, TransportError, VerificationError

    out = invocation(ctx).out
    try:
        with RemoteNode(url, signer) as remote:
            done = exchange_logs(session, remote, databases)
    except (MalformedError, RemoteProblem, TransportError, VerificationError) as exc:
        out.note(f"the checkpoint logs were not exchanged: {exc}")
        return
    if done.kept_there is not None:
        out.note(f"the node keeps this home's log up to {done.kept_there}")
    if done.kept_here is not None:
        out.note(f"the node's log is kept here up to {done.kept_here}")
    if done.ahead:
        out.note(
            f"the node keeps {done.ahead} statements of this home's log that are not here: this store was put back; "
            f"'holdfast recover fetch --node {url}' brings them"
        )


class _Syncing:
    """The databases of one home and a peer."""

    def __init__(self, out: Output, session: Session, databases: Databases, peer: Peer) -> None:
        self._out = out
        self._session = session
        self._databases = databases
        self._peer = peer

    def once(self, name: str, *, pull: bool, push: bool) -> ExitCode:
        """Exchange one database, and say what has come of it."""
        from api.client import exchange_database, find_here
        from api.peer import Peer

        info = find_here(self._databases, name)
        exchange = Peer.pull if pull else Peer.push if push else Peer.sync
        with progress(self._out, f"sync {name if info is None else info.name}") as advance:
            done = exchange_database(self._session, self._databases, self._peer, name, exchange, advance)
        database, outcome = done.database, done.outcome
        kept = [_fork_facts(self._out, self._session, fork) for fork in outcome.forks]
        facts: dict[str, Plain] = {"database": database.name, "id": database.uid.hex(), "joined": done.joined}
        self._out.record("sync", facts | _outcome_facts(outcome) | {"forks": kept})
        _say(self._out, database.name, outcome)
        return ExitCode.FAILED if kept else ExitCode.OK

    def live(self, name: str) -> ExitCode:
        """Stay in step until interrupted, and say what comes."""
        from api.client import find_here

        info = find_here(self._databases, name)
        if info is None:
            code = self.once(name, pull=True, push=False)
            info = find_here(self._databases, name)
            if info is None:
                return code
        stop = threading.Event()
        database = self._databases.open_known(info.uid)
        try:
            self._peer.live(info.uid.hex(), database, _teller(self._out, self._session, info), stop)
        except KeyboardInterrupt:
            stop.set()
        return ExitCode.OK


def _teller(out: Output, session: Session, info: DatabaseInfo) -> Callable[[LiveEvent], None]:
    """What says on the way what a live session brings."""
    from api.peer import Connected, Lost
    from sync.session import TookIn

    def tell(event: LiveEvent) -> None:
        match event:
            case Connected():
                out.note(f"{info.name}: connected")
            case Lost(reason, delay):
                out.note(f"{info.name}: {reason}; again in {delay:.0f} s")
            case TookIn(report) if report.received.blocks:
                kept = [_fork_facts(out, session, fork) for fork in report.received.forks]
                facts: dict[str, Plain] = {
                    "database": info.name,
                    "new": report.received.blocks,
                    "taken": report.entries,
                    "conflicts": [str(one) for one in report.conflicts],
                    "contested": [str(one) for one in report.contested],
                    "waiting": _waiting_facts(report.waiting),
                }
                out.record("sync-live", facts | {"forks": kept})
                out.flush()
            case _:
                pass

    return tell


def _outcome_facts(outcome: Outcome) -> dict[str, Plain]:
    return {
        "new": outcome.blocks,
        "taken": outcome.entries,
        "sent": outcome.blocks_sent,
        "requests": outcome.requests,
        "bytes_sent": outcome.sent,
        "bytes_received": outcome.received,
        "conflicts": [str(one) for one in outcome.conflicts],
        "contested": [str(one) for one in outcome.contested],
        "waiting": _waiting_facts(outcome.waiting),
    }


def _waiting_facts(waiting: tuple[Waiting, ...]) -> list[Plain]:
    from identity.textforms import to_zbase32

    return [{"feed": to_zbase32(one.feed), "index": one.index, "for": entry_text(one.reference)} for one in waiting]


def _fork_facts(out: Output, session: Session, fork: FoundFork) -> dict[str, Plain]:
    from identity.textforms import to_zbase32

    proof = None if not fork.proof else str(keep_fork_proof(out, session, fork.proof))
    facts: dict[str, Plain] = {"feed": to_zbase32(fork.feed), "index": fork.index, "reason": fork.reason.value}
    return facts | {"refused": fork.refused, "proof": proof}


def keep_forks(out: Output, session: Session, forks: list[FoundFork]) -> None:
    """Keep the proofs of forks that a sync has met, and say so."""
    for fork in forks:
        _fork_facts(out, session, fork)
        out.note(f"feed {fork.feed.hex()} was signed twice from entry {fork.index} on: {fork.reason.value}")


def _say(out: Output, name: str, outcome: Outcome) -> None:
    if outcome.conflicts or outcome.contested:
        count = len({*outcome.conflicts, *outcome.contested})
        counted = "1 document has" if count == 1 else f"{count} documents have"
        out.note(f"{counted} new conflicts: see 'holdfast db conflicts {name}'")
    if outcome.waiting:
        out.note(f"{len(outcome.waiting)} feeds wait for entries that the peer does not have either")
    for fork in outcome.forks:
        out.note(f"feed {fork.feed.hex()} was signed twice from entry {fork.index} on: {fork.reason.value}")
