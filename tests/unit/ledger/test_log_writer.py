from __future__ import annotations

from collections.abc import Callable, Iterator
from io import BytesIO
from itertools import pairwise
from typing import Any

import pytest

from identity.errors import ConflictError, MissingEvidenceError, RefusedError, SignatureMismatch, VerificationError
from identity.history import (
    KeyHistory,
    LastGood,
    RevocationReason,
    SignedEvent,
    build_add_device,
    build_bind_log,
    build_inception,
    build_revoke_device,
    fold,
    key_commitment,
    sign_event,
)
from identity.keys import Ed25519Signer
from ledger import log_writer
from ledger.checkpoint import verify_checkpoint
from ledger.feed import FeedWriter, create_feed
from ledger.identities import add_events
from ledger.log import consistency_proof, hash_leaf, inclusion_proof, verify_consistency, verify_inclusion
from ledger.log_transfer import LogAudit, audit_log, export_log, feeds_at_hand, log_records, read_log_export
from ledger.log_writer import LogWriter, WithheldFeed, WithheldReason, covered_heads, covered_lengths
from ledger.manifest import FeedDescription, device_manifest, encode_manifest, feed_key
from ledger.merkle import tree_hash
from ledger.statement import (
    AnchorStatement,
    ChainBinding,
    FeedHead,
    IdentityHead,
    LogDescriptor,
    Statement,
    TimeStatement,
    log_origin,
    parse_statement,
)
from ledger.storage.memory import MemoryStore
from ledger.store import FeedKey, Store, StoredCheckpoint, newest_checkpoint, stored_tree_hash

LOG_KEY = Ed25519Signer(b"log".ljust(32, b"\0"))
CHAIN = ChainBinding(31337, bytes(20), bytes(20))
DESCRIPTOR = LogDescriptor("vault.example", LOG_KEY.public_key, CHAIN)


def signer(name: str) -> Ed25519Signer:
    return Ed25519Signer(name.encode().ljust(32, b"\0"))


def digest(number: int) -> bytes:
    return number.to_bytes(32, "big")


class Person:
    """An identity whose events go to a store as they are made."""

    def __init__(self, store: Store, name: str) -> None:
        self.store, self.name = store, name
        self.root = signer(name + " root")
        event = build_inception(
            label=name,
            root_keys=[self.root.public_key],
            next_digests=[key_commitment(signer(name + " next").public_key)],
            time_ms=0,
        )
        self.events = [sign_event(event, [(0, self.root)])]
        self.id = self.history.identity
        self._store(self.events[0])

    @property
    def history(self) -> KeyHistory:
        return fold(self.events)

    def _store(self, event: SignedEvent) -> None:
        with self.store.write() as tx:
            add_events(tx, self.id, [event])

    def accept(self, event: bytes, *others: Ed25519Signer) -> None:
        signed = sign_event(event, list(enumerate([self.root, *others])))
        self.events.append(signed)
        self._store(signed)

    def add(self, device: Ed25519Signer) -> None:
        self.accept(build_add_device(self.history, device=device.public_key, name="d", time_ms=0), device)

    def bind(self, log: bytes) -> None:
        self.accept(build_bind_log(self.history, log=log, time_ms=0))

    def revoke(self, device: Ed25519Signer, last_good: dict[bytes, LastGood]) -> None:
        self.accept(
            build_revoke_device(
                self.history,
                device=device.public_key,
                last_good=last_good,
                reason=RevocationReason.LOST,
                time_ms=0,
            )
        )


class Vault:
    """A store with a log, and an identity with one device and one feed that has bound it."""

    def __init__(self, store: Store, descriptor: LogDescriptor = DESCRIPTOR) -> None:
        self.store = store
        self.writer = LogWriter(store, LOG_KEY)
        self.alice = Person(store, "alice")
        self.phone = signer("phone")
        self.alice.add(self.phone)
        self.log_id = self.writer.create(descriptor)
        self.alice.bind(self.log_id)
        self.feed = self.new_feed("main")

    def new_feed(self, name: str) -> FeedKey:
        return create_feed(self.store, self.phone, self.alice.id, name)

    def append(self, count: int = 1, feed: FeedKey | None = None) -> int:
        key = feed or self.feed
        return FeedWriter(self.store, key, self.phone).append([b"block"] * count).length

    def tree_hash(self, length: int, feed: FeedKey | None = None) -> bytes:
        with self.store.read() as tx:
            head = tx.head(feed or self.feed, length)
        assert head is not None
        return head.tree_hash

    def head(self, length: int, feed: FeedKey | None = None) -> FeedHead:
        return FeedHead(feed or self.feed, length, self.tree_hash(length, feed))

    def batch(self, checkpoint: StoredCheckpoint) -> list[Statement]:
        """The leaves that this checkpoint added."""
        with self.store.read() as tx:
            sizes = [1, *(other.size for other in tx.checkpoints() if other.size < checkpoint.size)]
            return [parse_statement(leaf) for leaf in tx.log_leaves(sizes[-1], checkpoint.size)]

    def audit(self) -> LogAudit:
        with self.store.read() as tx:
            return audit_log(log_records(tx), expected_log_id=self.log_id, tree_hash_at=feeds_at_hand(tx))


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, open_empty: Callable[[str], Store]) -> Iterator[Store]:
    made = open_empty(request.param)
    yield made
    made.close()


@pytest.fixture
def vault(store: Store) -> Vault:
    return Vault(store)


def refuse(call: Callable[[], Any], reason: str, store: Store) -> None:
    """The call is refused, and nothing has changed."""
    with store.read() as tx:
        before = tx.log(), list(tx.checkpoints())
    with pytest.raises(RefusedError, match=reason):
        call()
    with store.read() as tx:
        assert (tx.log(), list(tx.checkpoints())) == before


# --- what a checkpoint holds ----------------------------------------------------------------------------------------


def test_checkpoints_in_a_row(vault: Vault) -> None:
    vault.append(3)
    first = vault.writer.append_checkpoint()
    alice = IdentityHead(vault.alice.id, 2, vault.alice.history.head)
    assert vault.batch(first) == [alice, vault.head(3)]
    assert first.size == 3

    other = vault.new_feed("other")
    vault.append(2, other)
    vault.append(1)
    vault.append(1)
    times = [TimeStatement(3, (digest(9),)), TimeStatement(3, (digest(7),))]
    anchors = [AnchorStatement(3, digest(1), 1, digest(1))]
    second = vault.writer.append_checkpoint(times=times, anchors=anchors)
    feeds = sorted([vault.head(5), vault.head(2, other)], key=lambda head: head.key)
    assert vault.batch(second) == [times[1], times[0], *anchors, alice, *feeds]

    third = vault.writer.append_checkpoint(restate=True)
    assert vault.batch(third) == [alice]

    result = vault.audit()
    assert result.replay.last.size == third.size
    assert (result.replay.feed_heads_read, result.replay.feed_heads_chained) == (3, 0)
    assert (result.replay.identity_heads_read, result.replay.identity_heads_chained) == (3, 0)
    assert result.histories[vault.alice.id] == vault.alice.history


def test_every_leaf_and_every_checkpoint_can_be_proven(vault: Vault) -> None:
    checkpoints = []
    for count in (3, 1, 4):
        vault.append(count)
        checkpoints.append(vault.writer.append_checkpoint())
    origin = log_origin(DESCRIPTOR, vault.log_id)
    with vault.store.read() as tx:
        for checkpoint in checkpoints:
            verified = verify_checkpoint(checkpoint.note, origin, LOG_KEY.public_key)
            assert (verified.size, verified.root) == (checkpoint.size, checkpoint.root)
            for index, leaf in enumerate(tx.log_leaves(0, checkpoint.size)):
                proof = inclusion_proof(tx.log_node, index, checkpoint.size)
                verify_inclusion(index, checkpoint.size, hash_leaf(leaf), proof, checkpoint.root)
        for older, newer in pairwise(checkpoints):
            proof = consistency_proof(tx.log_node, older.size, newer.size)
            verify_consistency(older.size, newer.size, proof, older.root, newer.root)


def test_a_new_writer_goes_on_where_the_last_one_stopped(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the writer remembers or reads in pieces, it finds what the log states last."""
    bob = Person(vault.store, "bob")
    bob.bind(vault.log_id)
    idle = vault.new_feed("idle")
    vault.append(1, idle)
    for chunk in (1, 2, 3, 5, 1000):
        monkeypatch.setattr(log_writer, "_CHUNK", chunk)
        vault.append(2)
        vault.writer.append_checkpoint()
        vault.append(1)
        LogWriter(vault.store, LOG_KEY).append_checkpoint()
        refuse(LogWriter(vault.store, LOG_KEY).append_checkpoint, "nothing to commit", vault.store)
        refuse(vault.writer.append_checkpoint, "nothing to commit", vault.store)
        vault.append(1, vault.new_feed(f"another {chunk}"))
        LogWriter(vault.store, LOG_KEY).append_checkpoint(restate=True)
        vault.writer.append_checkpoint(restate=True)
    assert vault.audit().replay.feed_heads_chained == 0


def test_a_changed_identity_alone_makes_a_checkpoint(vault: Vault) -> None:
    vault.append()
    vault.writer.append_checkpoint()
    vault.alice.add(signer("tablet"))
    assert vault.writer.pending().changed
    second = vault.writer.append_checkpoint()
    assert vault.batch(second) == [IdentityHead(vault.alice.id, 3, vault.alice.history.head)]


def test_identity_leaves_of_two_checkpoints_side_by_side(vault: Vault) -> None:
    """Nothing stands between them in the log, and the newer ones count."""
    vault.writer.append_checkpoint()
    vault.alice.add(signer("tablet"))
    vault.writer.append_checkpoint()
    for writer in (vault.writer, LogWriter(vault.store, LOG_KEY)):
        assert not writer.pending().changed


def test_only_what_is_bound_to_the_log_is_logged(vault: Vault) -> None:
    stranger = Person(vault.store, "stranger")
    device = signer("stranger's phone")
    stranger.add(device)
    foreign = create_feed(vault.store, device, stranger.id, "main")
    FeedWriter(vault.store, foreign, device).append([b"block"])
    vault.append()
    first = vault.writer.append_checkpoint()
    assert [type(statement) for statement in vault.batch(first)] == [IdentityHead, FeedHead]
    assert vault.batch(first)[0] == IdentityHead(vault.alice.id, 2, vault.alice.history.head)
    stranger.bind(vault.log_id)
    second = vault.writer.append_checkpoint()
    assert len(vault.batch(second)) == 3
    assert FeedHead(foreign, 1, vault.tree_hash(1, foreign)) in vault.batch(second)
    vault.audit()


def test_pending_says_what_would_be_logged_and_writes_nothing(vault: Vault) -> None:
    vault.append(2)
    plan = vault.writer.pending()
    assert plan == vault.writer.pending()
    assert (plan.changed, plan.withheld) == (True, ())
    assert vault.batch(vault.writer.append_checkpoint()) == [*plan.identities, *plan.feeds]
    after = vault.writer.pending()
    assert (after.changed, after.feeds, after.identities) == (False, (), plan.identities)


# --- what is refused ------------------------------------------------------------------------------------------------


def test_a_log_is_created_once_and_with_its_own_key(store: Store) -> None:
    writer = LogWriter(store, LOG_KEY)
    refuse(writer.pending, "no checkpoint log", store)
    refuse(writer.append_checkpoint, "no checkpoint log", store)
    refuse(lambda: writer.create(LogDescriptor("vault.example", bytes(32))), "the log's key is", store)
    writer.create(DESCRIPTOR)
    with pytest.raises(ConflictError):
        writer.create(DESCRIPTOR)
    refuse(LogWriter(store, signer("other")).append_checkpoint, "the log's key is", store)


def test_nothing_to_commit(store: Store) -> None:
    writer = LogWriter(store, LOG_KEY)
    log_id = writer.create(DESCRIPTOR)
    refuse(lambda: writer.append_checkpoint(restate=True), "no identity in this store has bound", store)
    alice = Person(store, "alice")
    refuse(lambda: writer.append_checkpoint(restate=True), "no identity in this store has bound", store)
    with store.read() as tx, pytest.raises(MissingEvidenceError):
        list(log_records(tx))
    alice.bind(log_id)
    checkpoint = writer.append_checkpoint()
    refuse(writer.append_checkpoint, "nothing to commit", store)
    time, anchor = TimeStatement(checkpoint.size, (digest(1),)), AnchorStatement(2, digest(1), 1, digest(1))
    refuse(lambda: writer.append_checkpoint(times=[time]), "nothing to commit", store)
    refuse(lambda: writer.append_checkpoint(anchors=[anchor]), "nothing to commit", store)
    writer.append_checkpoint(times=[time], anchors=[anchor], restate=True)


@pytest.mark.parametrize("size", [1, 2, 4, 2**53])
def test_a_statement_about_no_checkpoint(vault: Vault, size: int) -> None:
    vault.append()
    time, anchor = TimeStatement(size, (digest(1),)), AnchorStatement(size, digest(1), 1, digest(1))
    for options in ({"times": [time]}, {"anchors": [anchor]}):
        refuse(lambda options=options: vault.writer.append_checkpoint(**options), "no checkpoint of size", vault.store)  # type: ignore[misc]
    assert vault.writer.append_checkpoint().size == 3


def test_a_statement_twice(vault: Vault) -> None:
    vault.append()
    vault.writer.append_checkpoint()
    time = TimeStatement(3, (digest(1),))
    again = "already states this"
    refuse(lambda: vault.writer.append_checkpoint(times=[time, time], restate=True), again, vault.store)
    vault.writer.append_checkpoint(times=[time], restate=True)
    vault.append()
    vault.writer.append_checkpoint()
    refuse(lambda: vault.writer.append_checkpoint(times=[time], restate=True), again, vault.store)


def test_an_anchor_without_a_chain(store: Store) -> None:
    vault = Vault(store, LogDescriptor("vault.example", LOG_KEY.public_key))
    vault.append()
    vault.writer.append_checkpoint()
    anchor = AnchorStatement(3, digest(1), 1, digest(1))
    refuse(lambda: vault.writer.append_checkpoint(anchors=[anchor], restate=True), "names no chain", store)


def test_a_signer_that_signs_something_else_leaves_nothing_behind(vault: Vault) -> None:
    class Broken(Ed25519Signer):
        def sign(self, message: bytes) -> bytes:
            return super().sign(message + b"!")

    vault.append()
    with vault.store.read() as tx:
        before = tx.log()
    with pytest.raises(SignatureMismatch):
        LogWriter(vault.store, Broken(b"log".ljust(32, b"\0"))).append_checkpoint()
    with vault.store.read() as tx:
        assert (tx.log(), list(tx.checkpoints())) == (before, [])


# --- a store that does not extend its own log -----------------------------------------------------------------------


def replayed_onto(vault: Vault, store: Store) -> LogWriter:
    """The vault's log and events in another store, as after a restore that mixed two copies; its feeds are missing."""
    with vault.store.read() as tx, store.write() as target:
        for event in tx.identity_events(vault.alice.id):
            target.add_identity_event(event)
        state = tx.log()
        assert state is not None
        target.append_leaves(None, state, list(tx.log_leaves(0, state.size)))
        for checkpoint in tx.checkpoints():
            target.add_checkpoint(checkpoint)
    return LogWriter(store, LOG_KEY)


def test_a_feed_shorter_than_the_log_states(vault: Vault) -> None:
    vault.append(3)
    vault.writer.append_checkpoint()
    restored = MemoryStore()
    writer = replayed_onto(vault, restored)
    refuse(writer.pending, "not in this store any more", restored)
    key = create_feed(restored, vault.phone, vault.alice.id, "main")
    assert key == vault.feed
    FeedWriter(restored, key, vault.phone).append([b"block"] * 2)
    refuse(writer.append_checkpoint, "the log states length 3", restored)
    refuse(writer.pending, "the log states length 3", restored)


@pytest.mark.parametrize("more", [0, 1, 5])
def test_a_feed_on_another_branch_than_the_log_states(vault: Vault, more: int) -> None:
    vault.append(3)
    vault.writer.append_checkpoint()
    rewritten = MemoryStore()
    writer = replayed_onto(vault, rewritten)
    key = create_feed(rewritten, vault.phone, vault.alice.id, "main")
    FeedWriter(rewritten, key, vault.phone).append([b"block", b"block", b"other"] + [b"block"] * more)
    refuse(lambda: writer.append_checkpoint(restate=True), "does not extend", rewritten)


def test_an_identity_without_the_event_that_the_log_states(vault: Vault) -> None:
    vault.alice.add(signer("tablet"))
    vault.append()
    vault.writer.append_checkpoint()
    for kept in (0, 2):
        older = MemoryStore()
        with vault.store.read() as tx, older.write() as target:
            for event in tx.identity_events(vault.alice.id)[:kept]:
                target.add_identity_event(event)
            state = tx.log()
            assert state is not None
            target.append_leaves(None, state, list(tx.log_leaves(0, state.size)))
        refuse(lambda: LogWriter(older, LOG_KEY).append_checkpoint(restate=True), "the log states", older)  # noqa: B023


# --- heads that are withheld ----------------------------------------------------------------------------------------


def test_a_revoked_device_is_logged_up_to_what_is_vouched_for(vault: Vault) -> None:
    for _ in range(4):
        vault.append(2)
    good = LastGood(6, vault.tree_hash(6))
    vault.alice.revoke(vault.phone, {vault.feed: good})
    plan = vault.writer.pending()
    assert plan.feeds == (vault.head(6),)
    assert plan.withheld == (WithheldFeed(vault.feed, 8, WithheldReason.BEYOND_LAST_GOOD),)
    vault.writer.append_checkpoint()
    after = vault.writer.pending()
    assert (after.changed, after.withheld) == (False, plan.withheld)
    vault.audit()


def test_a_revoked_device_whose_heads_skip_the_last_good_length(vault: Vault) -> None:
    vault.append(2)
    vault.append(5)
    with vault.store.read() as tx:
        nodes = [tx.node(vault.feed, index) for index in (3, 9)]  # the roots of the first six blocks
    vault.alice.revoke(vault.phone, {vault.feed: LastGood(6, tree_hash(nodes))})
    plan = vault.writer.pending()
    assert plan.feeds == (vault.head(2),)
    assert plan.withheld[0].reason == WithheldReason.BEYOND_LAST_GOOD


def test_a_revocation_that_vouches_for_everything_withholds_nothing(vault: Vault) -> None:
    vault.append(3)
    vault.alice.revoke(vault.phone, {vault.feed: LastGood(3, vault.tree_hash(3))})
    plan = vault.writer.pending()
    assert (plan.feeds, plan.withheld) == ((vault.head(3),), ())
    vault.writer.append_checkpoint()
    assert vault.writer.pending().withheld == ()


@pytest.mark.parametrize("length", [2, 3])
def test_a_revocation_that_vouches_for_another_branch(vault: Vault, length: int) -> None:
    vault.append(2)
    vault.append(1)
    vault.alice.revoke(vault.phone, {vault.feed: LastGood(length, digest(1))})
    plan = vault.writer.pending()
    assert (plan.feeds, plan.withheld) == ((), (WithheldFeed(vault.feed, 3, WithheldReason.OTHER_BRANCH),))
    assert [type(statement) for statement in vault.batch(vault.writer.append_checkpoint())] == [IdentityHead]


def test_a_revocation_that_vouches_for_nothing(vault: Vault) -> None:
    vault.append(2)
    vault.alice.revoke(vault.phone, {})
    plan = vault.writer.pending()
    assert (plan.feeds, plan.withheld) == ((), (WithheldFeed(vault.feed, 2, WithheldReason.BEYOND_LAST_GOOD),))


def test_what_was_logged_before_the_revocation_stays(vault: Vault) -> None:
    vault.append(4)
    vault.writer.append_checkpoint()
    vault.alice.revoke(vault.phone, {})
    vault.writer.append_checkpoint()
    assert vault.writer.pending().withheld == ()
    assert vault.audit().replay.feeds[vault.feed].length == 4


def test_a_feed_of_a_device_that_the_identity_does_not_know(vault: Vault) -> None:
    intruder = signer("intruder")
    manifest = device_manifest(intruder.public_key, FeedDescription(vault.alice.id, "main", None))
    key = feed_key(manifest)
    with vault.store.write() as tx:
        tx.create_feed(key, encode_manifest(manifest), local=True)
    FeedWriter(vault.store, key, intruder).append([b"block"])
    vault.append()
    plan = vault.writer.pending()
    assert plan.feeds == (vault.head(1),)
    assert plan.withheld == (WithheldFeed(key, 1, WithheldReason.UNKNOWN_DEVICE),)


def test_a_duplicitous_identity_is_restated_as_it_was(vault: Vault) -> None:
    vault.append()
    vault.writer.append_checkpoint()
    before = vault.alice.history
    stated = IdentityHead(vault.alice.id, before.seq, before.head)
    for name in ("left", "right"):
        device = signer(name)
        event = build_add_device(before, device=device.public_key, name=name, time_ms=0)
        signed = sign_event(event, [(0, vault.alice.root), (1, device)])
        with vault.store.write() as tx:
            history = add_events(tx, vault.alice.id, [signed])
    assert history.duplicity is not None
    vault.append()
    checkpoint = vault.writer.append_checkpoint()
    assert vault.batch(checkpoint) == [stated, vault.head(2)]
    assert vault.audit().histories[vault.alice.id].duplicity is not None


# --- the log as a file ----------------------------------------------------------------------------------------------


def exported(vault: Vault) -> bytes:
    out = BytesIO()
    export_log(vault.store, out)
    return out.getvalue()


def test_an_outsider_audits_the_exported_log(vault: Vault) -> None:
    sizes = []
    for count in (3, 1, 2):
        vault.append(count)
        vault.writer.append_checkpoint()
    data = exported(vault)
    audit = audit_log(
        read_log_export(BytesIO(data)), expected_log_id=vault.log_id, on_checkpoint=lambda one: sizes.append(one.size)
    )
    assert sizes == [3, 5, 7]
    assert (audit.replay.feed_heads_read, audit.replay.feed_heads_chained) == (0, 3)
    assert (audit.replay.identity_heads_read, audit.replay.identity_heads_chained) == (3, 0)
    assert audit.histories == {vault.alice.id: vault.alice.history}
    with pytest.raises(VerificationError):
        audit_log(read_log_export(BytesIO(data)), expected_log_id=digest(1))


def test_leaves_after_the_last_checkpoint_are_not_exported(vault: Vault) -> None:
    with pytest.raises(MissingEvidenceError):
        export_log(vault.store, BytesIO())


# --- what a size of the log covers ----------------------------------------------------------------------------------


def test_the_newest_checkpoint(vault: Vault) -> None:
    with vault.store.read() as tx:
        assert newest_checkpoint(tx) is None
    for _ in range(3):
        vault.append()
        made = vault.writer.append_checkpoint()
        with vault.store.read() as tx:
            assert newest_checkpoint(tx) == made


def test_a_store_without_a_log_has_no_newest_checkpoint(store: Store) -> None:
    with store.read() as tx:
        assert newest_checkpoint(tx) is None


@pytest.mark.parametrize("chunk", [2, 4096])
def test_lengths_that_a_size_covers(vault: Vault, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(log_writer, "_CHUNK", chunk)
    quiet, empty = vault.new_feed("quiet"), vault.new_feed("empty")
    vault.append(2, quiet)
    sizes = []
    for _ in range(4):
        vault.append(3)
        sizes.append(vault.writer.append_checkpoint().size)
    feeds = {vault.feed, quiet, empty}
    with vault.store.read() as tx:
        for position, size in enumerate(sizes, start=1):
            assert covered_lengths(tx, size, feeds) == {vault.feed: 3 * position, quiet: 2}
        assert covered_lengths(tx, sizes[-1], {quiet}) == {quiet: 2}
        (head,) = covered_heads(tx, sizes[-1], {quiet}).values()
        assert (head.key, head.tree_hash) == (quiet, stored_tree_hash(tx, quiet, 2))
        assert covered_lengths(tx, sizes[-1], set()) == covered_lengths(tx, 0, feeds) == {}
