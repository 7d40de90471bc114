"""A store with its identity, feeds and checkpoint log, as a user's program sees it.

The command line is made of these calls and adds nothing to what they do. Reading needs no keys. Writing takes the keys
as an argument, for the one call; a ``Vault`` keeps none, and only a writer that is started keeps its own until it is
closed. Whether the store may be written to is decided by a ``Guard`` before anything is written: the rollback check, at
every start (docs/spec/rollback.md).

What makes and reads evidence is imported by the calls that need it: it would be half of the start-up of all others.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from api.root_events import (
    MakeEvent,
    OpenToken,
    add_device_event,
    revoke_device_event,
    root_signers,
    rotate_root_event,
    with_signatures,
)
from identity.errors import (
    AuditError,
    MalformedError,
    MissingEvidenceError,
    RefusedError,
    StorageError,
    StoreBusy,
    TransportError,
)
from identity.event import MAX_LAST_GOOD
from identity.history import (
    DeviceClass,
    KeyHistory,
    LastGood,
    RevocationReason,
    SignedEvent,
    event_digest,
    parse_signed_event,
)
from identity.keys import Ed25519Signer, Signer
from identity.keystore import KeyRing
from identity.recovery import next_root_seed, root_seed
from identity.request import SigningRequest, accept_request, join_requests, propose, review_request
from identity.rootcard import sign_card
from identity.textforms import parse_zbase32, to_zbase32
from ledger.entry import Entry, encode_entry, parse_entry
from ledger.feed import MAX_BATCH_BYTES, AppendResult, FeedWriter, check_device, create_feed
from ledger.identities import add_events, key_history
from ledger.lineage import first_feeds
from ledger.log_writer import LogWriter, Plan, covered_lengths
from ledger.manifest import NONCE_BYTES, Continuation, FeedDescription, describe, device_key, parse_manifest
from ledger.statement import LogDescriptor, parse_statement
from ledger.storage.leases import keeper_for
from ledger.storage.sql import SqlStore, SqlWriteTransaction
from ledger.store import FeedKey, FeedState, ReadTransaction, StoredCheckpoint, StoredEvent, WriteTransaction
from ledger.succession import feed_to_append, newest_continuation
from ledger.writer import AfterCommit, StoreWriter

if TYPE_CHECKING:
    from anchoring.timestamp import Authority

__all__ = [
    "FeedInfo",
    "Guard",
    "Vault",
    "device_signer",
    "log_descriptor_in",
    "log_signer",
    "own_history",
    "root_signers",
]


RETRY_S: Final = 15.0
"""How long a program that writes while its chain cannot be read waits before it asks again."""


class Guard(Protocol):
    """Decides whether the store may be written to now."""

    def require_writable(self, vault: Vault) -> None:
        """Raises ``ReadOnlyState`` when the store is behind its chain or has another history.

        Raises ``TransportError`` when the chain cannot tell.
        """

    def require_appendable(self, vault: Vault) -> bool:
        """The same before entries are appended. True when only feeds that were begun since this start may grow."""

    def meet_history(self, tx: SqlWriteTransaction, incarnation: str) -> bool:
        """Told in each transaction that appends which history of the database it sees: another one after a failover.

        Retires this node's feeds when that history lacks something that was written here; returns whether it did.
        """

    def check_log(self, tx: SqlWriteTransaction) -> None:
        """Asked before a checkpoint is signed on a database that can be replaced by a replica of itself.

        Raises ``RefusedError`` when the log lacks, or contradicts, what was logged here before.
        """


@dataclass(frozen=True, slots=True)
class FeedInfo:
    """A feed as people want to see it: its state, and what its manifest says."""

    state: FeedState
    description: FeedDescription | None
    device: bytes | None

    @property
    def key_text(self) -> str:
        """The feed's key in z-base-32."""
        return to_zbase32(self.state.key)

    @property
    def name(self) -> str:
        """The name in the manifest, or the key for a feed without description."""
        return self.description.name if self.description is not None else self.key_text


class Vault:
    """One store, open. ``identity`` is whose store it is; others' events may be kept in it too."""

    def __init__(self, store: SqlStore, guard: Guard, open_token: OpenToken | None = None) -> None:
        """``guard`` is asked before each call that writes; ``open_token`` opens the keys that are in tokens."""
        self.store = store
        self._open_token = open_token
        self._guard = guard
        self._guarded = False
        self._keeper = keeper_for(store, guard.meet_history)
        self._in_new_feeds: bool | None = None
        self._begun: set[FeedKey] = set()
        self._found: AuditError | None = None
        self._closing = threading.Event()
        self._checking: list[threading.Thread] = []

    # Whose store it is.

    def log_descriptor(self) -> tuple[bytes, LogDescriptor]:
        """The store's log id and its descriptor. Raises ``MissingEvidenceError`` when it has no log."""
        with self.store.read() as tx:
            state = tx.log()
            if state is None:
                raise MissingEvidenceError("this store has no checkpoint log")
            return state.log_id, log_descriptor_in(tx)

    def identities(self) -> list[bytes]:
        """The ids of all identities whose events are here, the store's own first."""
        with self.store.read() as tx:
            return tx.identities()

    def history(self, identity: bytes | None = None) -> KeyHistory:
        """The key history of an identity, by default the store's own: the first whose events came in."""
        with self.store.read() as tx:
            return own_history(tx) if identity is None else key_history(tx, identity)

    def events(self, identity: bytes | None = None) -> list[StoredEvent]:
        """The identity's events, oldest first."""
        with self.store.read() as tx:
            return tx.identity_events(own_history(tx).identity if identity is None else identity)

    # Devices and the root. Each of these takes signatures of the root: by this keystore, or on a request.

    def add_device(
        self,
        ring: KeyRing,
        name: str,
        device: bytes | Signer,
        *,
        device_class: DeviceClass,
        time_ms: int,
        by: Signer | None = None,
        before_commit: Callable[[], None] | None = None,
    ) -> KeyHistory:
        """Authorise a device key, given as its seed or its signer, signed by the root and by the device itself.

        With ``by``, an admin's key, signed by that instead of the root. ``before_commit`` as in ``add_event``. Raises
        ``RefusedError`` when a device of that name is not revoked.
        """
        signer = Ed25519Signer(device) if isinstance(device, bytes) else device
        make = add_device_event(name, signer, device_class, time_ms, by=by)
        if by is not None:
            return self.add_event(make, before_commit=before_commit)
        return self.sign_event_by_root(ring, make, before_commit=before_commit)

    def revoke_device(
        self,
        ring: KeyRing,
        device: bytes,
        reason: RevocationReason,
        *,
        time_ms: int,
        compromised_since_ms: int | None = None,
        vouch_for: Mapping[FeedKey, int] | None = None,
        last_event: bytes | None = None,
    ) -> KeyHistory:
        """End a device key, vouching for its feeds as ``last_good`` says; ``last_event`` as in ``RevokeDevice``."""
        make = revoke_device_event(
            device,
            self.last_good(device, vouch_for),
            reason,
            time_ms,
            compromised_since_ms=compromised_since_ms,
            last_event=last_event,
        )
        return self.sign_event_by_root(ring, make)

    def last_good(self, device: bytes, vouch_for: Mapping[FeedKey, int] | None = None) -> dict[bytes, LastGood]:
        """What a revocation of ``device`` vouches for: its feeds up to the signed heads of these lengths.

        ``vouch_for`` None means everything that this store holds of them now, of more feeds than a revocation can name
        of the first ones; a feed that is left out is not vouched for at all.
        """
        held = {info.state.key: info for info in self.feeds() if info.device == device and info.state.length}
        first = first_feeds({key: info.description for key, info in held.items()}, MAX_LAST_GOOD)
        lengths = {key: held[key].state.length for key in first} if vouch_for is None else dict(vouch_for)
        return {bytes(key): self._last_good(key, length) for key, length in lengths.items() if length}

    def rotate_root(self, phrase: str, *, time_ms: int, new_phrase: str | None = None) -> tuple[KeyHistory, bytes]:
        """Reveal the next root key, which only the recovery phrase gives; returns the history and the new root seed.

        The key after it comes from ``new_phrase``, when that is given, and the old one gives none any more. Raises
        ``MalformedError`` for what is no phrase, ``RefusedError`` for the phrase of another identity, or an older one.
        """
        self.require_writable()
        seed = next_root_seed(phrase, self.signed_events())
        following = root_seed(new_phrase or phrase, self.history().generation + 2)
        root = Ed25519Signer(seed)
        card = sign_card("root", root, Ed25519Signer(following).public_key)
        make = rotate_root_event([card], 1, time_ms)
        return self.add_event(lambda history: with_signatures(make(history), [(0, root)])), seed

    def sign_event_by_root(
        self, ring: KeyRing, make: MakeEvent, *, before_commit: Callable[[], None] | None = None
    ) -> KeyHistory:
        """Append an event, signed by the root keys in ``ring``. Raises ``RefusedError`` when it lacks them."""

        def sign(history: KeyHistory) -> SignedEvent:
            return with_signatures(make(history), root_signers(ring, history, self._open_token))

        return self.add_event(sign, before_commit=before_commit)

    def propose(self, *makers: MakeEvent) -> SigningRequest:
        """A request for others to sign these events, one after the other. Nothing is stored."""
        history = self.signed_events()
        events: list[SignedEvent] = []
        for make in makers:
            steps = review_request(SigningRequest(tuple(history), tuple(events))) if events else []
            events.append(make(steps[-1].after if steps else self.history()))
        return propose(history, events)

    def submit(self, requests: Sequence[SigningRequest], *, founding: bytes | None = None) -> KeyHistory:
        """Store the events of a request of which these are copies, when all signatures are there.

        A store without identity takes only the request by which it was founded: ``founding`` is its id. Raises
        ``RefusedError`` and what ``review_request`` raises; then nothing is stored.
        """
        request = join_requests(requests)
        self.require_writable()
        with self.store.write() as tx:
            identity = tx.identities()[:1]
            if not identity and request.id != founding:
                raise RefusedError("this store waits for the request by which it was founded, and this is another one")
            held = tx.identity_events(identity[0]) if identity else []
            events, history = accept_request(request, [parse_signed_event(event.signed_event) for event in held])
            return add_events(tx, history.identity, events)

    def append_events(
        self, events: Sequence[SignedEvent], *, before_commit: Callable[[], None] | None = None
    ) -> KeyHistory:
        """Append several events, all of them or none. ``before_commit`` as in ``add_event``."""
        self.require_writable()
        with self.store.write() as tx:
            grown = add_events(tx, own_history(tx).identity, events)
            if before_commit is not None:
                before_commit()
            return grown

    def signed_events(self) -> list[SignedEvent]:
        """The events of the store's own identity, as ``fold`` takes them."""
        return [parse_signed_event(event.signed_event) for event in self.events()]

    def import_events(self, events: Sequence[SignedEvent]) -> KeyHistory:
        """Keep another identity's events, or newer ones of a known identity, after folding all of them together."""
        self.require_writable()
        identity = event_digest(events[0].event)
        with self.store.write() as tx:
            return add_events(tx, identity, events)

    # Feeds.

    def feeds(self) -> list[FeedInfo]:
        """Every feed of this store."""
        with self.store.read() as tx:
            return [_info(state) for state in tx.feeds()]

    def find_feed(self, name_or_key: str) -> FeedInfo:
        """The feed with that z-base-32 key, or of that name. Raises ``MissingEvidenceError`` for none, or for several.

        Of feeds of one name that continue each other, the newest. A key means nothing else, also when its feed is not
        here: a feed can be called by the key of another.
        """
        infos = self.feeds()
        matches = [info for info in infos if name_or_key == info.key_text]
        if not matches and not _is_key(name_or_key):
            matches = [one for one in infos if one.description is not None and one.description.name == name_or_key]
        if len(matches) > 1:
            with self.store.read() as tx:
                newest = {newest_continuation(tx, info.state.key) for info in matches}
            matches = [info for info in matches if info.state.key in newest]
        if not matches:
            raise MissingEvidenceError(f"no feed is called {name_or_key!r}", hint="see 'holdfast feed list'")
        if len(matches) > 1:
            raise MissingEvidenceError(
                f"{len(matches)} feeds are called {name_or_key!r}", hint="name it by its key, see 'holdfast feed list'"
            )
        return matches[0]

    def create_feed(
        self, ring: KeyRing, device_name: str, name: str, *, continues: Continuation | None = None
    ) -> FeedKey:
        """A new feed of one of the keystore's devices."""
        self.require_writable()
        identity = self.history().identity
        signer = device_signer(ring, device_name, self._open_token)
        return create_feed(self.store, signer, identity, name, continues=continues)

    def open_writer(self, ring: KeyRing, key: FeedKey) -> FeedWriter:
        """A writer of a local feed, with the key of its device. Raises ``RefusedError`` when the keystore lacks it.

        A feed that was retired because the store had been restored, copied or put back, or that may not grow while the
        chain cannot be read, is continued by a new one, whose writer this is then.
        """
        self.require_appendable()
        with self.store.read() as read:
            state = read.feed(key)
        if state is not None and state.local and (state.retired or self._in_new_feeds or self._keeper is not None):
            with self.store.write() as write:
                if self._keeper is not None:
                    with suppress(RefusedError, StoreBusy):  # a feed of another history retires here, and is continued
                        self._keeper.hold(write, key)
                key = self._feed_to_append(write, key)
        with self.store.read() as tx:
            state = tx.feed(key)
            if state is None:
                raise MissingEvidenceError("this store does not know the feed")
            if not state.local:
                raise RefusedError("the feed is another writer's: it is not written here")
            wanted = device_key(parse_manifest(state.manifest))
            check_device(own_history(tx), wanted)
        for name, public_key in ring.device_keys().items():
            if public_key == wanted:
                signer = device_signer(ring, name, self._open_token)
                return FeedWriter(self.store, key, signer, self._keeper)
        raise RefusedError("the keystore does not hold the key of this feed's device")

    def start_writer(self, ring: KeyRing, *, after_commit: AfterCommit | None = None) -> StoreWriter:
        """A writer that the threads of a program share, for all feeds whose devices are in the keystore.

        Unlike ``append`` it keeps the keys until it is closed; close it before the vault. ``after_commit`` as there. A
        feed that may not be signed any more is continued by a new one, which the results name. While the chain cannot
        be read, and the settings let entries be written, the check is repeated in the background.
        """
        if self.require_appendable() and not self._checking:
            self._checking.append(threading.Thread(target=self._repeat_check, args=(self._closing,), daemon=True))
            self._checking[0].start()
        signers = [device_signer(ring, name, self._open_token) for name in ring.device_keys()]
        return StoreWriter(
            self.store, signers, keeper=self._keeper, resolve=self._feed_to_append, after_commit=after_commit
        )

    def append(self, ring: KeyRing, key: FeedKey, entries: Iterable[Entry]) -> AppendResult:
        """Append entries as one signed, durable batch."""
        return self.open_writer(ring, key).append([encode_entry(entry) for entry in entries])

    def import_blocks(
        self, ring: KeyRing, key: FeedKey, blocks: Iterable[bytes], *, batch: int, on_batch: Callable[[int], None]
    ) -> AppendResult | None:
        """Append a stream of encoded entries, at most ``batch`` to a signature, in one transaction: all or none.

        Large entries make smaller batches. ``on_batch`` is told how many were just added. Returns None for an empty
        stream. Whatever ``blocks`` raises leaves the store as it was.
        """
        writer = self.open_writer(ring, key)
        start = result = None
        with self.store.write() as tx:
            for chunk in _chunks(blocks, batch):
                result = writer.append_in(tx, chunk)
                start = result.start if start is None else start
                on_batch(len(chunk))
        if result is None or start is None:
            return None
        return AppendResult(result.key, start, result.length, result.head)

    # The checkpoint log, and evidence.

    def pending_checkpoint(self, ring: KeyRing) -> Plan:
        """What the next checkpoint would state."""
        return LogWriter(self.store, log_signer(ring)).pending()

    def checkpoint(self, ring: KeyRing, *, restate: bool = False) -> StoredCheckpoint:
        """Log what has changed, with the tokens and anchors that came since, and sign it."""
        from anchoring.witness import pending_witnesses

        self.require_writable()
        with self.store.read() as tx:
            times, anchors = pending_witnesses(tx)
        admit = None if self._keeper is None else self._check_log
        return LogWriter(self.store, log_signer(ring)).append_checkpoint(
            times=times, anchors=anchors, restate=restate, admit=admit
        )

    def blind_window(self, anchored: int) -> tuple[int, int | None]:
        """How many entries no anchor of a log size up to ``anchored`` covers, and the oldest time that one claims.

        Only of feeds that the log serves: those of identities that have bound it. The log is read backwards from the
        anchor, no further than to the last head of each of these feeds, and only heads are parsed.
        """
        log_id, _ = self.log_descriptor()
        with self.store.read() as tx:
            served = {one for one in tx.identities() if log_id in key_history(tx, one).logs}
            feeds = [info.state for info in map(_info, tx.feeds()) if _is_served(info, served)]
            covered = covered_lengths(tx, anchored, {state.key for state in feeds if state.length})
            count, oldest = 0, None
            for state in feeds:
                length = covered.get(state.key, 0)
                if length >= state.length:
                    continue
                count += state.length - length
                claimed_ms = _claimed_ms(tx.block(state.key, length))
                oldest = claimed_ms if oldest is None else min(oldest, claimed_ms or oldest)
        return count, oldest

    def evidence(self, key: FeedKey, index: int, authorities: Sequence[Authority] = (), k: int = 1) -> bytes:
        """The evidence file for one entry, for readers who trust ``k`` of those authorities.

        Raises ``MissingEvidenceError`` for what is not sealed yet.
        """
        from anchoring.evidence import encode_evidence
        from anchoring.exporter import export_evidence
        from anchoring.witness import open_archive

        with self.store.read() as tx:
            return encode_evidence(export_evidence(tx, open_archive(tx, authorities, k), key, index))

    def require_writable(self) -> None:
        """Ask the guard, once for this open store. Raises ``ReadOnlyState``."""
        if not self._guarded:
            self._guard.require_writable(self)
            self._guarded = True

    def require_appendable(self) -> bool:
        """Ask the guard, once for this open store. See ``Guard.require_appendable``."""
        if self._in_new_feeds is None:
            self._in_new_feeds = not self._guarded and self._guard.require_appendable(self)
            self._guarded = not self._in_new_feeds
        return self._in_new_feeds

    def close(self) -> None:
        """Give back the leases that were taken, and release the store. Idempotent."""
        self._closing.set()
        for thread in self._checking:
            thread.join()
        if self._keeper is not None:
            with suppress(StorageError):  # they expire by themselves
                self._keeper.release(self.store)
        self.store.close()

    def _feed_to_append(self, tx: WriteTransaction, key: FeedKey) -> FeedKey:
        """``feed_to_append``, as this open store may write. Raises what the check that was repeated has found."""
        if self._found is not None:
            raise self._found
        return feed_to_append(
            tx, key, self._begun, secrets.token_bytes(NONCE_BYTES), only_begun=bool(self._in_new_feeds)
        )

    def _check_log(self, tx: WriteTransaction) -> None:
        assert isinstance(tx, SqlWriteTransaction)
        self._guard.check_log(tx)

    def _repeat_check(self, stop: threading.Event) -> None:
        """Ask the guard again until it can tell; then entries may go into all feeds, or into none any more."""
        while not stop.wait(RETRY_S):
            try:
                self._guard.require_writable(self)
            except (TransportError, StoreBusy):
                continue
            except AuditError as exc:
                self._found = exc
            else:
                self._guarded, self._in_new_feeds = True, False
            return

    def _last_good(self, key: FeedKey, length: int) -> LastGood:
        with self.store.read() as tx:
            head = tx.head(key, length)
        if head is None:
            raise RefusedError(f"the feed has no signed head of length {length}", hint="see 'holdfast feed heads'")
        return LastGood(head.length, head.tree_hash)

    def add_event(
        self, sign: Callable[[KeyHistory], SignedEvent], *, before_commit: Callable[[], None] | None = None
    ) -> KeyHistory:
        """Append the event that ``sign`` makes for the history as it is now, after folding it.

        ``before_commit`` is called when everything that can refuse the event has accepted it, and the event is not
        stored yet; when it raises, nothing is.
        """
        self.require_writable()
        with self.store.write() as tx:
            history = own_history(tx)
            grown = add_events(tx, history.identity, [sign(history)])
            if before_commit is not None:
                before_commit()
            return grown


def _chunks(blocks: Iterable[bytes], most: int) -> Iterator[list[bytes]]:
    """Blocks in the batches that one append may hold: at most so many, and no more bytes than its limit."""
    chunk: list[bytes] = []
    size = 0
    for block in blocks:
        size += len(block)
        if chunk and (len(chunk) == most or size > MAX_BATCH_BYTES):
            yield chunk
            chunk, size = [], len(block)
        chunk.append(block)
    if chunk:
        yield chunk


def own_history(tx: ReadTransaction) -> KeyHistory:
    """The key history of the store's own identity: the first whose events came in."""
    known = tx.identities()
    if not known:
        raise MissingEvidenceError(
            "this store has no identity",
            hint="a home with several root holders has one when they have signed: holdfast identity submit",
        )
    return key_history(tx, known[0])


def log_descriptor_in(tx: ReadTransaction) -> LogDescriptor:
    """Leaf 0 of the store's log. Raises ``MissingEvidenceError`` when it has no log."""
    descriptor = parse_statement(next(iter(tx.log_leaves(0, 1))))
    assert isinstance(descriptor, LogDescriptor)
    return descriptor


def device_signer(ring: KeyRing, name: str, open_token: OpenToken | None = None) -> Signer:
    """The signer of a device in the keystore, by its name there. Raises ``RefusedError``, and as ``open_token``."""
    in_token = ring.token_devices.get(name)
    if in_token is not None and open_token is not None:
        return open_token(in_token)
    if name not in ring.devices:
        known = ", ".join(sorted(ring.device_keys())) or "none"
        raise RefusedError(f"the keystore holds no device {name!r}", hint=f"devices in it: {known}")
    return Ed25519Signer(ring.devices[name])


def log_signer(ring: KeyRing) -> Ed25519Signer:
    """The signer of the checkpoint log. Raises ``RefusedError`` when the keystore does not hold it."""
    if ring.log_seed is None:
        raise RefusedError(
            "the keystore does not hold the key of the checkpoint log",
            hint="when it is lost for good, the log goes on in a successor: holdfast recover succeed",
        )
    return Ed25519Signer(ring.log_seed)


def _is_served(info: FeedInfo, identities: set[bytes]) -> bool:
    return info.description is not None and info.description.identity in identities


def _claimed_ms(block: bytes) -> int | None:
    try:
        return parse_entry(block).claimed_ms
    except MalformedError:
        return None


def _is_key(text: str) -> bool:
    try:
        parse_zbase32(text)
    except MalformedError:
        return False
    return True


def _info(state: FeedState) -> FeedInfo:
    manifest = parse_manifest(state.manifest)
    description = describe(manifest)
    return FeedInfo(state, description, None if description is None else device_key(manifest))
