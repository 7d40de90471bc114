"""A home that keeps databases in common with nodes: everything works here, and syncs when a node answers.

    with open_replica("phone.home", passphrase) as replica:
        bank = replica.open("bank")
        bank.put("accounts", "4711", {"owner": "Novak"})    # here, also while the node is away
        replica.sync()                                      # with every node that this home was paired with

What a node says is verified before it counts; it is trusted with nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from api.access.signing import RequestSigner
from api.databases import Databases, open_home
from api.log_exchange import exchange_logs
from api.peer import Outcome, Peer
from api.peers import PairedNode, load_peers
from api.remote import RemoteNode, RemoteProblem
from identity.errors import MalformedError, MissingEvidenceError, RefusedError, TransportError, VerificationError
from sync.database import Database, DatabaseInfo
from sync.replica import DatabaseReplica, NewReplica
from sync.retention import settle_erasures

if TYPE_CHECKING:
    from api.bootstrap import Session

__all__ = ["Exchanged", "ReplicaHome", "exchange_database", "find_here", "open_replica"]


@dataclass(frozen=True, slots=True)
class Exchanged:
    """A database that was exchanged with a node, and what came of it. ``joined``: it was not here before."""

    database: Database
    joined: bool
    outcome: Outcome


def open_replica(home: str | Path, passphrase: str, *, device: str | None = None) -> ReplicaHome:
    """The home in a directory, with its keys. ``device`` speaks with nodes, by default the home's only one.

    Use it as a context manager, or ``close`` it. Raises as ``open_databases``, and ``RefusedError`` when no device can
    be meant.
    """
    with ExitStack() as opened:
        session, ring = open_home(opened, home, passphrase)
        databases = Databases(session, ring, opened.pop_all())
        return ReplicaHome(session, databases, device)


class ReplicaHome:
    """An open home and the nodes that it was paired with. Close it, or use it as a context manager."""

    def __init__(self, session: Session, databases: Databases, device: str | None = None) -> None:
        self.databases = databases
        self._session = session
        self._signer = databases.signer(device)
        self._device = device

    def open(self, name: str) -> Database:
        """A database of this home, for reading and writing. Raises as ``Databases.open``."""
        return self.databases.open(name, device=self._device)

    def nodes(self) -> list[PairedNode]:
        """The nodes that this home was paired with."""
        return load_peers(self._session.home)

    def node(self, url: str, *, token: str | None = None) -> RemoteNode:
        """A node to ask, by requests that this home's device signs. Close it."""
        return RemoteNode(url, self._signer, token=token)

    def sync(self, name: str | None = None) -> list[Exchanged]:
        """Exchange a database, by default every one that is here, with each node that answers.

        A node that does not have a database, or is not reached, is passed over. Raises ``TransportError`` when no node
        could be reached at all, and for what a node got wrong as ``Peer.sync``; what was taken in before that stays.
        """
        nodes = self.nodes()
        if not nodes:
            raise MissingEvidenceError("this home was paired with no node", hint="holdfast pair join URL CODE")
        done: list[Exchanged] = []
        away: TransportError | None = None
        reached = False
        for node in nodes:
            try:
                done += self.sync_with(node.url, name)
                reached = True
            except TransportError as exc:
                away = exc
        if away is not None and not reached:
            raise away
        return done

    def sync_with(self, url: str, name: str | None = None) -> list[Exchanged]:
        """The same with one node. Raises ``TransportError`` when it is away."""
        peer = Peer(url, RequestSigner(self._signer))
        names = [info.uid.hex() for info in self.databases.known()] if name is None else [name]
        done = []
        for one in names:
            try:
                exchanged = exchange_database(self._session, self.databases, peer, one, Peer.sync)
                done.append(exchanged)
                if exchanged.database.decide_pending():  # this home is somebody's home: tell what was decided
                    exchange_database(self._session, self.databases, peer, one, Peer.push)
            except (MissingEvidenceError, RefusedError):
                if name is not None:
                    raise
        self._exchange_logs(url, [one.database.uid for one in done])
        return done

    def _exchange_logs(self, url: str, databases: list[bytes]) -> None:
        """Keep the node's checkpoint log, and let it keep this one's; a node that does not, is still synced with."""
        with suppress(MalformedError, RemoteProblem, TransportError, VerificationError), self.node(url) as node:
            exchange_logs(self._session, node, databases)

    def close(self) -> None:
        """Write what is on its way, and release the keys. Idempotent."""
        self.databases.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def exchange_database(
    session: Session,
    databases: Databases,
    peer: Peer,
    name: str,
    exchange: Callable[[Peer, str, DatabaseReplica | NewReplica], Outcome],
    advance: Callable[[int], None] | None = None,
) -> Exchanged:
    """Exchange a database with a peer by one of ``Peer``'s calls; one that is not here is joined.

    ``advance`` is told how many blocks were verified. Erasures are carried out. Raises as the call does.
    """
    info = find_here(databases, name)
    if info is None:
        replica: DatabaseReplica | NewReplica = NewReplica(session.vault.store, session.now_ms, advance=advance)
    else:
        replica = DatabaseReplica(databases.open_known(info.uid), advance)
    outcome = exchange(peer, name if info is None else info.uid.hex(), replica)
    assert replica.database is not None, "an exchange ends with a database, or it raises"
    database = databases.open_known(replica.database)
    settle_erasures(database)
    return Exchanged(database, info is None, outcome)


def find_here(databases: Databases, name: str) -> DatabaseInfo | None:
    """The database of that name or id that is here; None: it is to be joined. Raises when several are called so."""
    if any(name in (info.name, info.uid.hex()) for info in databases.known()):
        return databases.find(name)
    try:
        return databases.find(name)
    except MissingEvidenceError:
        return None
