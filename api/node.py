"""A node: one open home, with its keys, its databases and its gate, as the HTTP interface serves it.

Databases are opened when they are first asked for and stay open: all requests share them, and their one writer. A home
that must not be written to is served all the same. Its databases are open for reading then, and what would write is
refused with the reason, which is looked for again after a while.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from anchoring.rollback import RollbackState
from api.access.action import Action, Caller, Grant
from api.access.request import HttpRequest
from api.databases import Databases
from api.kept_logs import KeptLogs
from api.pairing import Offers
from api.pool import trusted_by_home
from identity.errors import (
    AuditError,
    Forbidden,
    ReadOnlyState,
    RefusedError,
    StoreBusy,
    TransportError,
    Unauthenticated,
)

if TYPE_CHECKING:
    from anchoring.timestamp import Authority
    from api.access.opening import Access
    from api.bootstrap import Session
    from identity.keys import Signer
    from identity.keystore import KeyRing
    from sync.database import Database, DatabaseInfo

__all__ = ["Gate", "Node", "Standing"]

_ASK_AGAIN_S: Final = 15.0
"""How long it is not tried again to open a database for writing, or to ask the chain, after that failed."""


_TELL_S: Final = 60.0
"""How often the sums of refusals are written that are not told one by one."""


class Gate(Protocol):
    """Who may do what on a node."""

    def identify(self, request: HttpRequest) -> Caller:
        """Whose request it is. Raises ``Unauthenticated``."""

    def allow(self, caller: Caller, action: Action) -> Grant:
        """Return only when the caller may do that, and how much of it. Raises ``Forbidden``."""

    def turn_away(self, request: HttpRequest, key: bytes | None, refusal: Unauthenticated | Forbidden) -> None:
        """Record a request of a visitor that was refused before ``allow`` was asked."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Whether a node may be written to: the state of its log against its chain, by the name of that state."""

    writable: bool
    state: str
    detail: str


class Node:
    """One home, open, for any number of threads. ``close`` it before its session."""

    def __init__(
        self,
        session: Session,
        ring: KeyRing | None,
        gate: Gate | None = None,
        *,
        device: str | None = None,
        ticks_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """``ring`` None: nothing is written. ``device`` is as which the node writes and speaks, by default that of the
        settings, else the home's only one. ``gate`` None: that of the home's members, and of who visits with a token.
        ``ticks_s`` is a clock that never goes back.
        """
        self.session = session
        self.ring = ring
        self._device = device or session.settings.service.device
        self.offers = Offers()
        self.logs = KeptLogs(session.home.logs)
        self.closing = threading.Event()
        """Set when the node is about to stop: who waits for changes is sent home."""
        self._ticks_s = ticks_s
        self._reading = Databases(session)
        self._writing = None if ring is None else Databases(session, ring)
        self._closing = ExitStack()
        self.access: Access | None = None
        """Visits and their grants; None where nothing can be written, so that no visit could be recorded."""
        self.gate = self._open_gate() if gate is None else gate
        self._lock = threading.Lock()
        self._auditing = threading.Lock()
        self._backing_up = threading.Lock()
        self._open: dict[bytes, Database] = {}
        self._open_to_read: dict[bytes, Database] = {}
        self._failed: tuple[float, AuditError] | None = None
        self._standing: tuple[float, Standing] | None = None

    def _open_gate(self) -> Gate:
        from api.access.gate import Gate as OwnGate
        from api.access.nonces import nonces_for
        from api.access.opening import open_access
        from api.access.standing import StandingReader

        session, most = self.session, self.session.settings.service.limits.requests_a_minute
        if self._writing is not None and self.ring is not None:
            with suppress(ReadOnlyState, TransportError):
                writer, device = self._writing.writer(), self._writing.device(self._device)
                self.access = open_access(session, self.ring, writer, device, requests_a_minute=most)
                self._closing.enter_context(closing(self.access))
                telling = threading.Thread(
                    target=self._tell_refusals, args=(self.access,), name="refusals", daemon=True
                )
                telling.start()
                self._closing.callback(telling.join)
                return self.access.gate
        store = session.vault.store
        nonces = self._closing.enter_context(closing(nonces_for(store, session.home.nonces)))
        standing = StandingReader(store, session.vault.history().identity)
        return OwnGate(standing, nonces, lambda: session.now_ms() // 1000, requests_a_minute=most, own=self._own_key())

    def _own_key(self) -> bytes | None:
        """The key of the device as which this node writes, if it is clear which that is."""
        if self._writing is None or self.ring is None:
            return None
        with suppress(RefusedError):
            return self.ring.device_keys().get(self.device())
        return None

    def _tell_refusals(self, access: Access) -> None:
        """Write the sums of refusals that are due, also when no other refusal comes."""
        while not self.closing.wait(_TELL_S):
            access.feed.flush()

    # --- databases ---

    def known(self) -> list[DatabaseInfo]:
        """The databases of the home, oldest first."""
        return self._reading.known()

    def find(self, name: str) -> DatabaseInfo:
        """The database of that name or id. Raises ``MissingEvidenceError`` when there is none, or several."""
        return self._reading.find(name)

    def reading(self, uid: bytes) -> Database:
        """A database to read: the one that is written to where that can be, so that its changes are told at once."""
        try:
            return self.writing(uid)
        except (RefusedError, TransportError, StoreBusy):
            with self._lock:
                if uid not in self._open_to_read:
                    self._open_to_read[uid] = self._reading.open_known(uid)
                return self._open_to_read[uid]

    def writing(self, uid: bytes) -> Database:
        """A database to write to. Raises ``ReadOnlyState`` and what else opening it raises."""
        with self._lock:
            if uid in self._open:
                return self._open[uid]
            databases = self._ready()
            try:
                self._open[uid] = databases.open_known(uid, device=self._device)
            except (ReadOnlyState, TransportError) as exc:
                self._failed = self._ticks_s() + _ASK_AGAIN_S, exc
                raise
            return self._open[uid]

    def create(self, name: str) -> Database:
        """Found a database. Raises as ``Databases.create``."""
        with self._lock:
            made = self._ready().create(name, device=self._device)
            self._open[made.uid] = made
            return made

    def device(self) -> str:
        """The name of the device as which this node writes and speaks. Raises ``RefusedError`` when it is not clear."""
        return (self._writing or self._reading).device(self._device)

    def signer(self) -> Signer:
        """The key of the device as which this node speaks. Raises ``RefusedError`` when no device can be meant."""
        return (self._writing or self._reading).signer(self._device)

    def trusted(self) -> tuple[Sequence[Authority], int]:
        """The timestamp authorities of the home's policy, and how many of them are wanted."""
        return trusted_by_home(self.session.home)

    @contextmanager
    def auditing(self) -> Iterator[bool]:
        """Around an audit: True for the only one that is under way."""
        is_first = self._auditing.acquire(blocking=False)
        try:
            yield is_first
        finally:
            if is_first:
                self._auditing.release()

    @contextmanager
    def backing_up(self) -> Iterator[None]:
        """Around a backup. Raises ``StoreBusy`` while another one is under way."""
        if not self._backing_up.acquire(blocking=False):
            raise StoreBusy("a backup is under way", hint="try again later")
        try:
            yield
        finally:
            self._backing_up.release()

    def queued(self) -> int:
        """How many writes wait for the writer's next turn."""
        return 0 if self._writing is None else self._writing.queued()

    def _ready(self) -> Databases:
        if self._writing is None:
            raise RefusedError("this node is open for reading only")
        if self._failed is not None and self._ticks_s() < self._failed[0]:
            raise self._failed[1]
        return self._writing

    # --- its state ---

    def standing(self) -> Standing:
        """Whether the node may be written to, as the chain says; asked again after a while."""
        with self._lock:
            if self._standing is None or self._ticks_s() >= self._standing[0]:
                self._standing = self._ticks_s() + _ASK_AGAIN_S, self._judge()
            return self._standing[1]

    def _judge(self) -> Standing:
        found = self.session.check_rollback()
        goes_on = found.state is RollbackState.UNVERIFIED and self.session.settings.unverified == "continue"
        return Standing(found.state.writable or goes_on, found.state.value, found.detail)

    def close(self) -> None:
        """Write what is on its way, and release the keys. Idempotent."""
        self.closing.set()
        self._closing.close()
        with self._lock:
            if self._writing is not None:
                self._writing.close()
            self._reading.close()
