"""What a start finds, and what it lets be written: the chain is asked, the sentinel is read, feeds are retired.

Implements docs/spec/rollback.md and docs/spec/sentinel.md. The order matters: a store that its chain shows to be behind
is not touched at all; only one that may be written to has its feeds retired, once, in one transaction with the record
of why.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final

from anchoring.rollback import RollbackCheck, RollbackState
from api.settings import Settings
from identity.errors import ReadOnlyState, RefusedError, TransportError
from identity.textforms import to_zbase32
from ledger.log import root_at
from ledger.manifest import describe, parse_manifest
from ledger.sentinel import Decision, Reading, Reason, Sentinel, decide, describe_store, find_shorter, machine_digest
from ledger.sentinel_file import SentinelFile, machine_id
from ledger.storage.leases import leased_feeds
from ledger.storage.start_up import Succession, add_succession, load_store_id
from ledger.store import FeedKey, ReadTransaction
from ledger.succession import retire_local_feeds

if TYPE_CHECKING:
    from api.bootstrap import Session
    from api.vault import Vault
    from ledger.storage.sql import SqlReadTransaction, SqlWriteTransaction

__all__ = ["CHECK_BUDGET_S", "StartUp", "sentinel_path", "ways_out"]

CHECK_BUDGET_S: Final = 3.0
"""How long a start waits for the chain's nodes before it takes the log for unverified."""

_FOREIGN: Final = (Reason.MISSING, Reason.OTHER_MACHINE)
"""What a start finds that says nothing of the store: this machine has not written it before."""

_LOST: Final = (Reason.BEHIND, Reason.REWRITTEN)
"""What shows that the store lacks something that was written here."""

_SUCCEED: Final = "holdfast recover succeed"
_WAYS_OUT: Final = {
    RollbackState.BEHIND_ANCHOR: (
        "holdfast recover fetch asks the nodes that this home was paired with; recover fetch FILE... takes a newer "
        f"backup or exports; when nobody has what is missing: {_SUCCEED}"
    ),
    RollbackState.DIVERGED: f"put back a copy of the history that was anchored; when there is none: {_SUCCEED}",
    RollbackState.FOREIGN_CHAIN: (
        f"check the chain in the settings; when the log's chain is gone for good (one that was reset is): {_SUCCEED}"
    ),
    RollbackState.CLOSED: f"its successor log goes on; to begin it here: {_SUCCEED}",
    RollbackState.OTHER_SUCCESSOR: "the log that the chain names goes on; this one proves nothing to anybody",
    RollbackState.UNVERIFIED: "start the chain's node, or check the settings, and try again",
}


def ways_out(state: RollbackState) -> str:
    """What the user of a store in that state can do."""
    return _WAYS_OUT.get(state, "")


def sentinel_path(settings: Settings, store: bytes) -> Path:
    """Where the sentinel of the store with that id lies. A copy elsewhere on the machine has another one."""
    database = settings.database
    place = str(database.resolve() if isinstance(database, Path) else database)
    digest = sha256(place.encode("utf-8", "surrogateescape")).hexdigest()
    return settings.sentinel_dir / f"{store.hex()[:32]}-{digest[:16]}.sentinel"


class StartUp:
    """The guard of one open home (``api.vault.Guard``)."""

    def __init__(self, session: Session, tell: Callable[[str], None]) -> None:
        """``tell`` is given what the user has to know, in one sentence, once."""
        self._session = session
        self._tell = tell
        self._file: SentinelFile | None = None
        self._settled = False
        self._met: tuple[str, SqlWriteTransaction] | None = None
        """The history of the database that was compared with the sentinel, and in which transaction."""

    # As a guard.

    def require_writable(self, vault: Vault) -> None:
        """See ``Guard``."""
        check = self._check(vault)
        if check.state is RollbackState.UNVERIFIED:
            raise _unverified(check)
        self._settle()

    def require_appendable(self, vault: Vault) -> bool:
        """See ``Guard``."""
        check = self._check(vault)
        in_new_feeds = check.state is RollbackState.UNVERIFIED
        if in_new_feeds and self._session.settings.unverified == "stop":
            raise _unverified(check)
        self._settle()
        if in_new_feeds:
            self._tell(f"unverified: {check.detail}; entries go into new feeds until the chain can be read")
        return in_new_feeds

    def meet_history(self, tx: SqlWriteTransaction, incarnation: str) -> bool:
        """See ``Guard``. What the sentinel knows more than the store it goes on to know, up to the next start."""
        if self._met is not None:
            met, when = self._met
            if met == incarnation and (when is tx or when.durable):
                return False
        self._met = incarnation, tx
        decision, _, _ = self._judge(tx)
        if decision.reason not in _LOST:
            return False
        # What was leased or begun in this history came after the loss, from one who had noticed that it is another one.
        begun = {change.after.key for change in tx.committed().feeds if change.created}
        retired = retire_local_feeds(tx, begun | leased_feeds(tx.connection))
        if retired:
            self._record(tx, decision, len(retired))
            self._say(decision, len(retired))
        return bool(retired)

    def check_log(self, tx: SqlWriteTransaction) -> None:
        """See ``Guard``."""
        was, log = self._read(tx).newest, tx.log()
        if was is None or log is None:
            return
        if log.size >= was.log_size and root_at(tx.log_node, was.log_size) == was.log_root:
            return
        raise RefusedError(
            f"the log had {was.log_size} statements when it was last written here, and these are not in the store: "
            "another database server has taken over without them",
            hint="start this program anew: its start compares the log with its chain",
        )

    def _check(self, vault: Vault) -> RollbackCheck:
        assert self._session.vault is vault
        check = self._session.check_rollback()
        if check.state is not RollbackState.UNVERIFIED and not check.state.writable:
            known = self.missing()
            detail = "; ".join([check.detail, *known])
            raise ReadOnlyState(check.state.value, detail, hint=ways_out(check.state))
        return check

    # The sentinel.

    def sentinel(self) -> Decision:
        """What the sentinel says of the store as it is now. Nothing is written."""
        with self._session.vault.store.read() as tx:
            return self._judge(tx)[0]

    def missing(self) -> list[str]:
        """What the store is known to lack, as far as its sentinel knows: a sentence for each feed."""
        with self._session.vault.store.read() as tx:
            newest = self._read(tx).newest
            if newest is None:
                return []
            said = []
            for feed in find_shorter(newest, tx):
                name = _name(tx, feed.key)
                said.append(
                    f"feed {name}: {feed.held} of {feed.known} entries are here"
                    if feed.same_history
                    else f"feed {name}: another history than at entry {feed.known} before"
                )
        return said

    def adopt(self) -> None:
        """Write the sentinel of the store as it is, whatever it said: what the store holds is all that was signed.

        For a home that has been moved by somebody who knows that no copy of it is written anywhere.
        """
        with self._session.vault.store.read() as tx:
            now = self._describe(tx, self._read(tx))
            path = self._sentinel_file(tx)
        path.begin(now)

    def close(self) -> None:
        """Release the sentinel. Idempotent."""
        if self._file is not None:
            self._file.close()

    def _settle(self) -> None:
        """Retire this node's feeds if the sentinel says so, tell it, and have the sentinel written from now on."""
        if self._settled:
            return
        store = self._session.vault.store
        with store.write() as tx:
            decision, now, reading = self._judge(tx)
            keep = _leased(tx) if decision.reason in _FOREIGN else frozenset()
            feeds = len(retire_local_feeds(tx, keep)) if decision.in_new_feeds else 0
            noted = decision.in_new_feeds and (feeds > 0 or not keep)
            if noted:
                self._record(tx, decision, feeds)
            file = self._sentinel_file(tx)
        # Only now: a sentinel that is whole again while the feeds are not retired would hide what was found.
        if decision.in_new_feeds or reading.damage is not None or not _says_all(reading.newest, now):
            file.begin(now)
        store.after_commit = file.add
        self._settled = True
        if noted:
            self._say(decision, feeds)

    def _record(self, tx: SqlWriteTransaction, decision: Decision, feeds: int) -> None:
        at_ms = self._session.now_ms()
        add_succession(tx.connection, Succession(decision.reason.value, decision.detail, feeds, at_ms))

    def _say(self, decision: Decision, feeds: int) -> None:
        self._tell(f"{decision.detail}: {feeds} feeds of this node are retired, and new ones continue them")

    def _judge(self, tx: SqlReadTransaction) -> tuple[Decision, Sentinel, Reading]:
        reading = self._read(tx)
        now = self._describe(tx, reading)
        was = reading.newest
        shorter = [] if was is None else find_shorter(was, tx)
        root = root_at(tx.log_node, min(was.log_size, now.log_size)) if was is not None else b""
        active = sum(feed.local and not feed.retired for feed in tx.feeds())
        return decide(reading, now.machine, now, shorter, root, active=active), now, reading

    def _read(self, tx: SqlReadTransaction) -> Reading:
        return self._sentinel_file(tx).read()

    def _describe(self, tx: SqlReadTransaction, reading: Reading) -> Sentinel:
        configured = self._session.settings.machine
        machine = machine_digest(machine_id() if configured is None else configured.encode())
        sequence = 0 if reading.newest is None else reading.newest.sequence + 1
        return describe_store(tx, load_store_id(tx.connection), machine, sequence=sequence)

    def _sentinel_file(self, tx: SqlReadTransaction) -> SentinelFile:
        if self._file is None:
            store = load_store_id(tx.connection)
            self._file = SentinelFile(sentinel_path(self._session.settings, store), store)
        return self._file


def _leased(tx: SqlReadTransaction) -> frozenset[FeedKey]:
    """On a store that several machines may use, the feeds that need no sentinel of this one.

    Those are leased in the present history of the database, or nobody has signed them yet. A first start here is none
    of their writers' business.
    """
    if tx.connection.dialect.name == "sqlite":
        return frozenset()
    empty = {feed.key for feed in tx.feeds() if not feed.length}
    return frozenset(empty | leased_feeds(tx.connection))


def _unverified(check: RollbackCheck) -> TransportError:
    return TransportError(f"{check.state.value}: {check.detail}", hint=ways_out(check.state))


def _says_all(sentinel: Sentinel | None, now: Sentinel) -> bool:
    """Whether the sentinel knows of everything that the store holds."""
    if sentinel is None:
        return False
    return (sentinel.feeds, sentinel.entries, sentinel.log_size) == (now.feeds, now.entries, now.log_size)


def _name(tx: ReadTransaction, key: bytes) -> str:
    """A feed's name when the store has one feed of that name, else its key."""
    described = {feed.key: describe(parse_manifest(feed.manifest)) for feed in tx.feeds()}
    names = [description.name for description in described.values() if description is not None]
    description = described.get(FeedKey(key))
    return to_zbase32(key) if description is None or names.count(description.name) > 1 else description.name
