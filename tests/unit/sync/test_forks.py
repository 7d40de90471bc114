"""Devices that tell two histories: both are kept, and replicas agree whichever they met first."""

from __future__ import annotations

import io
from collections.abc import Iterator
from hashlib import sha256
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from identity.contexts import BRANCH_ID
from identity.encoding import decode
from identity.errors import RefusedError
from identity.event import RevocationReason
from identity.history import LastGood, build_revoke_device, fold
from identity.keys import verify_signature
from ledger.entry import Entry, encode_entry, parse_entry
from ledger.feed import FeedWriter
from ledger.fork import parse_fork, verify_fork
from ledger.identities import add_events
from ledger.lineage import lineage_faults
from ledger.manifest import Continuation, FeedDescription, device_manifest, encode_manifest, feed_key, parse_manifest
from ledger.merkle import leaf_node
from ledger.statement import FeedHead
from ledger.store import stored_tree_hash
from ledger.succession import continue_feed
from sync.bundle import Have, read_have
from sync.changes import Changes
from sync.storage import sides
from sync.storage.audit import audit_database
from sync.storage.projection import feed_name
from sync.storage.sides import SideReason
from sync.transaction import DocumentId


def bundle_of(replica: Any, since: Have | None = None) -> bytes:
    out = io.BytesIO()
    replica.db.export_bundle(out, since)
    return out.getvalue()


def have_of(replica: Any) -> Have:
    out = io.BytesIO()
    replica.db.write_have(out)
    return read_have(io.BytesIO(out.getvalue()))


def carry(sender: Any, receiver: Any, *, whole: bool = False) -> Any:
    return receiver.db.import_bundle(io.BytesIO(bundle_of(sender, None if whole else have_of(receiver))))


def facts(replica: Any) -> Any:
    """All that replicas have to agree on; and that every row is as a replay from the feeds has it."""
    with replica.db.read() as reader:
        tx, branches = reader.tx, reader.branches
        names = tx.fetch_all("SELECT collection, key FROM database_document ORDER BY 1, 2")
        states = {DocumentId(*name): reader.document(DocumentId(*name)) for name in names}
        shown = {name: (state.etag, state.view.fields, state.view.conflicts) for name, state in states.items()}
        entries = sorted(
            (branches.entry_id(branch, seq), masked or "", branches.is_excluded(branch, seq))
            for branch, seq, masked in tx.fetch_all("SELECT branch, seq, masked FROM database_txn")
        )
        lines = sorted((branch.uid, branch.disputed) for branch in branches if branch.head is not None)
        strays = sorted(tx.fetch_all("SELECT feed, seq, leaf, reason FROM database_stray"))
        assert audit_database(tx, replica.store.dialect, replica.world.uid) == []
    return shown, entries, lines, strays


def uid_of(replica: Any, feed: bytes, seq: int) -> bytes:
    """The id of the side that begins at an index of what a store's ledger has of a feed."""
    with replica.store.read() as tx:
        leaf = leaf_node(seq, tx.block(feed, seq)).hash
    return sha256(BRANCH_ID + feed + seq.to_bytes(8, "big") + leaf).digest()


def append_raw(replica: Any, *blocks: bytes) -> None:
    """Sign blocks as they are."""
    FeedWriter(replica.store, replica.feed, replica.device).append(blocks)


@pytest.fixture
def world(make_world: Any, tmp_path: Path) -> Iterator[Any]:
    made = make_world(tmp_path, "bank")
    yield made
    made.close()


@pytest.fixture
def forked(world: Any) -> tuple[Any, Any, Any, Any]:
    """Laptop and desk, and a phone that was cloned and wrote in both places behind the same entry."""
    laptop, phone, desk = (world.replica(name) for name in ("laptop", "phone", "desk"))
    phone.put("accounts", "1", owner="before", limit=1)
    for other in (laptop, desk):
        carry(phone, other)
    clone = phone.copied("clone")
    phone.put("accounts", "1", owner="phone", limit=1)
    world.clock_ms += 5
    clone.put("accounts", "1", owner="clone", limit=1)
    changes = Changes()
    changes.increment("accounts", "1", "visits", 3)
    clone.db.commit(changes)
    phone.put("accounts", "2", owner="phone only")
    return laptop, phone, desk, clone


# --- both sides ---


def test_both_sides_are_kept_and_disputed(forked: tuple[Any, Any, Any, Any]) -> None:
    laptop, phone, desk, clone = forked
    assert carry(phone, laptop).received.forks == ()
    assert carry(clone, desk).received.forks == ()
    report = carry(clone, laptop, whole=True)
    (fork,) = report.received.forks
    assert (fork.feed, fork.index, fork.reason, fork.refused) == (phone.feed, 1, SideReason.FORKED, False)
    assert (report.entries, report.conflicts) == (2, (DocumentId("accounts", "1"),))
    proof = parse_fork(fork.proof)
    assert feed_key(verify_and_name(proof)) == phone.feed
    carry(phone, desk, whole=True)
    assert facts(laptop) == facts(desk)
    lines = dict(facts(laptop)[2])
    assert lines[phone.feed] is False
    assert lines[uid_of(phone, phone.feed, 1)] is lines[uid_of(clone, clone.feed, 1)] is True
    owner = next(cell for cell in laptop.db.get("accounts", "1").view.cells if cell.path == "/owner")
    assert sorted(owner.values) == ["clone", "phone"]
    assert laptop.fields("accounts", "1")["visits"] == 3


def verify_and_name(proof: Any) -> Any:
    verify_fork(proof.manifest, proof)
    return proof.manifest


def test_what_was_seen_of_either_side_follows_it(forked: tuple[Any, Any, Any, Any]) -> None:
    laptop, phone, desk, clone = forked
    clone.put("accounts", "3", owner="clone only")
    carry(phone, laptop)
    carry(clone, desk)
    laptop.put("accounts", "1", owner="laptop", limit=1)
    desk.put("accounts", "1", owner="desk", limit=1)
    report = carry(laptop, desk)
    assert (report.entries, len(report.waiting)) == (0, 1)  # the phone's feed is longer here, so it was left out
    carry(desk, laptop)
    report = carry(laptop, desk)
    assert (report.entries, report.waiting) == (3, ())
    assert facts(laptop) == facts(desk)
    owner = next(cell for cell in laptop.db.get("accounts", "1").view.cells if cell.path == "/owner")
    assert sorted(owner.values) == ["desk", "laptop"]
    laptop.put("accounts", "1", owner="decided", limit=1)
    carry(laptop, desk)
    assert desk.db.get("accounts", "1").view.conflicts == ()
    assert facts(laptop) == facts(desk)


def test_an_anchored_read_shows_the_side_that_was_anchored(forked: tuple[Any, Any, Any, Any]) -> None:
    """A device that forks below what was anchored does not change what the anchor shows, whichever side came first."""
    laptop, phone, desk, clone = forked
    with phone.store.read() as tx:
        state = tx.feed(phone.feed)
        head = FeedHead(phone.feed, state.length, stored_tree_hash(tx, phone.feed, state.length))
        base = tx.feed(desk.world.replicas["laptop"].feed)
        heads = [head, FeedHead(base.key, base.length, stored_tree_hash(tx, base.key, base.length))]
    for first, second, reader in ((phone, clone, laptop), (clone, phone, desk)):
        carry(first, reader, whole=True)
        carry(second, reader, whole=True)
        cut = reader.db.as_of(anchored=heads)
        shown = reader.db.get("accounts", "1", cut)
        assert shown.fields == {"owner": "phone", "limit": 1}
        assert reader.db.get("accounts", "2", cut).fields == {"owner": "phone only"}
        neither = [FeedHead(head.key, head.length, bytes(32)), heads[1]]
        assert reader.db.get("accounts", "1", reader.db.as_of(anchored=neither)) is None


def test_who_is_not_disputed_shows(forked: tuple[Any, Any, Any, Any]) -> None:
    laptop, phone, desk, clone = forked
    for sender in (phone, clone):
        carry(sender, laptop, whole=True)
    desk.put("accounts", "1", owner="desk", limit=1)
    laptop.world.clock_ms += 60_000
    clone.put("accounts", "1", owner="clone, much later", limit=1)
    carry(clone, laptop)
    assert "desk" not in str(laptop.fields("accounts", "1"))
    carry(desk, laptop)
    assert laptop.fields("accounts", "1")["owner"] == "desk"
    assert len(laptop.db.get("accounts", "1").view.cells[1].values) == 3
    assert facts(laptop)[0]


def test_a_third_party_gets_both_sides_in_one_bundle(forked: tuple[Any, Any, Any, Any]) -> None:
    laptop, phone, desk, clone = forked
    for sender in (phone, clone):
        carry(sender, laptop, whole=True)
    report = carry(laptop, desk)
    assert [fork.reason for fork in report.received.forks] == [SideReason.FORKED]
    assert facts(desk) == facts(laptop)
    again = carry(laptop, desk, whole=True)
    assert (again.entries, again.received.blocks, again.received.forks) == (0, 0, ())
    clone.put("accounts", "3", owner="clone")
    assert carry(clone, laptop).entries == 1
    sent = carry(laptop, desk)
    assert (sent.received.blocks, sent.received.forks) == (1, ())
    assert facts(desk) == facts(laptop)


def test_it_is_the_same_after_a_rebuild(forked: tuple[Any, Any, Any, Any]) -> None:
    laptop, phone, _, clone = forked
    for sender in (phone, clone):
        carry(sender, laptop, whole=True)
    before = facts(laptop)
    laptop.db.rebuild()
    assert facts(laptop) == before
    laptop.close()
    laptop.reopen()
    assert facts(laptop) == before


def test_nested_and_threefold_forks(world: Any) -> None:
    laptop, phone, *readers = [world.replica(name) for name in ("laptop", "phone", "one", "two", "three")]
    phone.put("accounts", "1", owner="0")
    clones = [phone]
    for place, parent in enumerate([0, 0, 1, 1, 3]):
        clones[parent].put("accounts", "1", owner=f"parent {place}")
        clones.append(clones[parent].copied(f"clone {place}"))
        if place == 0:
            clones.append(clones[parent].copied("clone 0 again"))
    for place, clone in enumerate(clones):
        world.clock_ms += 7
        clone.put("accounts", "1", owner=f"clone {place}")
        changes = Changes()
        changes.increment("accounts", "1", "visits")
        clone.db.commit(changes)
    orders = [list(range(len(clones))), list(reversed(range(len(clones)))), [3, 0, 6, 1, 5, 2, 4]]
    for reader, order in zip(readers, orders, strict=True):
        for place in order:
            carry(clones[place], reader, whole=True)
    found = [facts(reader) for reader in readers]
    assert found[0] == found[1] == found[2]
    assert readers[0].fields("accounts", "1")["visits"] == len(clones)
    carry(readers[2], laptop)
    assert facts(laptop) == found[0]


def test_a_fork_before_the_first_entry(world: Any) -> None:
    laptop, phone, desk = (world.replica(name) for name in ("laptop", "phone", "desk"))
    clone = phone.copied("clone")
    phone.put("accounts", "1", owner="phone")
    world.clock_ms += 5
    clone.put("accounts", "1", owner="clone")
    for first, second, reader in ((phone, clone, laptop), (clone, phone, desk)):
        carry(first, reader, whole=True)
        carry(second, reader, whole=True)
    assert facts(laptop) == facts(desk)
    assert [disputed for _, disputed in facts(laptop)[2]].count(True) == 2


def test_schemas_and_contexts_on_both_sides(forked: tuple[Any, Any, Any, Any]) -> None:
    laptop, phone, desk, clone = forked
    base = clone.db.context()
    clone.put("accounts", "1", owner="unseen", limit=1)
    stale = Changes(base=base)
    stale.patch("accounts", "1", {"owner": "stale"})
    clone.db.commit(stale)
    guarded = Changes()
    guarded.patch("accounts", "1", {"limit": 9}, if_match=phone.db.get("accounts", "1").etag)
    phone.db.commit(guarded)
    for first, second, reader in ((phone, clone, laptop), (clone, phone, desk)):
        carry(first, reader, whole=True)
        carry(second, reader, whole=True)
    assert facts(laptop) == facts(desk)
    owner = next(cell for cell in laptop.db.get("accounts", "1").view.cells if cell.path == "/owner")
    assert sorted(owner.values) == ["phone", "stale", "unseen"]


def test_a_side_that_waits_is_no_branch_before_it_is_taken_in(world: Any) -> None:
    laptop, phone, desk, reader = (world.replica(name) for name in ("laptop", "phone", "desk", "reader"))
    phone.put("accounts", "1", owner="A")
    clone = phone.copied("clone")
    desk.put("accounts", "2", owner="desk")
    clone.receive(desk)
    clone.put("accounts", "1", owner="clone")
    for owner in ("phone", "phone again"):
        phone.put("accounts", "1", owner=owner)
    without = Have(read_have(io.BytesIO(bundle_of(desk))).header, {desk.feed: have_of(desk).points[desk.feed]})
    for sender, receiver in ((clone, laptop), (phone, laptop), (phone, reader)):
        receiver.db.import_bundle(io.BytesIO(bundle_of(sender, without)))
    assert laptop.db.get("accounts", "1").etag == reader.db.get("accounts", "1").etag
    assert [disputed for _, disputed in facts(laptop)[2]] == [False, False]
    carry(desk, laptop)
    assert [disputed for _, disputed in facts(laptop)[2]].count(True) == 2
    carry(laptop, reader)
    assert facts(laptop) == facts(reader)


def test_a_line_that_ends_where_another_waits_does_not_wait(world: Any) -> None:
    laptop, phone, desk = (world.replica(name) for name in ("laptop", "phone", "desk"))
    phone.put("accounts", "1", owner="A")
    clone = phone.copied("clone")
    phone.put("accounts", "1", owner="phone")
    clone.put("accounts", "1", owner="clone")
    desk.put("accounts", "2", owner="desk")
    clone.receive(desk)
    clone.put("accounts", "1", owner="clone that saw the desk")
    without = Have(read_have(io.BytesIO(bundle_of(desk))).header, {desk.feed: have_of(desk).points[desk.feed]})
    laptop.db.import_bundle(io.BytesIO(bundle_of(phone)))
    laptop.db.import_bundle(io.BytesIO(bundle_of(clone, without)))
    assert laptop.db.audit() == []
    with laptop.store.write() as tx:
        (waiting,) = tx.fetch_all("SELECT waits_for FROM database_track WHERE waits_for IS NOT NULL", ())
        tx.execute("UPDATE database_track SET waits_for = ?", waiting)
    assert [fault.partition(": ")[2] for fault in laptop.db.audit()] == [
        "'waits_for' is not what follows from the feeds"
    ]


def test_a_context_follows_what_it_names_when_a_fork_becomes_known(world: Any) -> None:
    laptop, phone, desk = (world.replica(name) for name in ("laptop", "phone", "desk"))
    phone.put("accounts", "1", owner="before")
    carry(phone, desk)
    clone = phone.copied("clone")
    phone.put("accounts", "1", owner="phone")
    carry(phone, laptop)
    base = laptop.db.context()
    desk.put("accounts", "1", owner="desk")
    carry(desk, laptop)
    stale = Changes(base=base)
    stale.patch("accounts", "1", {"owner": "laptop"})
    laptop.db.commit(stale)
    clone.put("accounts", "1", owner="clone")
    carry(clone, laptop, whole=True)
    (owner,) = laptop.db.get("accounts", "1").view.cells
    assert sorted(owner.values) == ["clone", "desk", "laptop"]
    carry(clone, desk)
    carry(laptop, desk)
    assert facts(laptop) == facts(desk)


# --- entries, not blocks, make branches ---


def test_blocks_that_are_no_entries_fork_nothing(world: Any) -> None:
    laptop, phone, desk = (world.replica(name) for name in ("laptop", "phone", "desk"))
    phone.put("accounts", "1", owner="A")
    clone = phone.copied("clone")
    append_raw(phone, b"a note")
    append_raw(clone, b"another note")
    phone.put("accounts", "1", owner="B")
    with phone.store.read() as tx:
        same = tx.block(phone.feed, 2)
    append_raw(clone, same)
    for first, second, reader in ((phone, clone, laptop), (clone, phone, desk)):
        carry(first, reader, whole=True)
        assert len(carry(second, reader, whole=True).received.forks) == 1
    assert facts(laptop) == facts(desk)
    assert [disputed for _, disputed in facts(laptop)[2]] == [False, False]
    assert laptop.db.get("accounts", "1").view.conflicts == ()
    phone.db.store.close()


def test_an_entry_that_does_not_name_the_one_before_it_has_no_place(world: Any) -> None:
    laptop, phone, desk = (world.replica(name) for name in ("laptop", "phone", "desk"))
    phone.put("accounts", "1", owner="A")
    clone = phone.copied("clone")
    phone.put("accounts", "1", owner="B")
    phone.put("accounts", "1", owner="C")
    clone.put("accounts", "1", owner="other")
    with phone.store.read() as tx:
        displaced = tx.block(phone.feed, 2)
    append_raw(clone, displaced)
    clone.writer.close()
    clone.open()
    clone.put("accounts", "1", owner="other again")
    for first, second, reader in ((phone, clone, laptop), (clone, phone, desk)):
        carry(first, reader, whole=True)
        carry(second, reader, whole=True)
    assert facts(laptop) == facts(desk)
    ((feed, seq, leaf, reason),) = facts(laptop)[3]
    assert (feed, seq, leaf) == (phone.feed, 2, leaf_node(2, displaced).hash)
    assert reason == "back is not the entry before it"
    owner = next(cell for cell in laptop.db.get("accounts", "1").view.cells if cell.path == "/owner")
    assert sorted(owner.values) == ["C", "other again"]


def test_entries_that_cannot_be_placed_in_a_feed_without_forks(world: Any) -> None:
    laptop, phone = world.replica("laptop"), world.replica("phone")
    phone.put("accounts", "1", owner="A")
    with phone.store.read() as tx:
        block = tx.block(phone.feed, 0)
    entry = parse_entry(block)
    bare = encode_entry(Entry("txn", entry.claimed_ms, {"db": world.uid}))
    append_raw(phone, block, bare)
    phone.writer.close()
    phone.open()
    phone.put("accounts", "1", owner="B")
    carry(phone, laptop)
    assert facts(laptop) == facts(phone)
    assert [row[1] for row in facts(laptop)[3]] == [1, 2]
    assert laptop.fields("accounts", "1") == {"owner": "B"}


# --- our own feed ---


def test_a_device_that_was_copied_stops_and_goes_on_in_a_new_feed(forked: tuple[Any, Any, Any, Any]) -> None:
    laptop, phone, desk, clone = forked
    carry(phone, laptop)
    carry(clone, laptop, whole=True)
    assert len(carry(laptop, phone).received.forks) == 1
    with pytest.raises(RefusedError, match="has forked: a copy of this device"):
        phone.put("accounts", "3", owner="never")
    assert facts(phone) == facts(laptop)
    with phone.store.write() as tx:
        phone.feed = continue_feed(tx, phone.feed, bytes(range(16)))
    phone.writer.close()
    phone.open()
    phone.put("accounts", "1", owner="phone again", limit=1)
    assert phone.db.get("accounts", "1").view.conflicts == ()
    carry(phone, laptop)
    report = carry(clone, desk)
    report = carry(laptop, desk)
    assert SideReason.OTHER_CONTINUATION in [fork.reason for fork in report.received.forks]
    assert facts(desk) == facts(laptop) == facts(phone)
    phone.put("accounts", "4", owner="phone")
    carry(phone, desk)
    carry(desk, laptop)
    assert facts(desk) == facts(laptop) == facts(phone)


def test_a_device_that_was_put_back_stops(world: Any) -> None:
    laptop, phone = world.replica("laptop"), world.replica("phone")
    phone.put("accounts", "1", owner="A")
    older = phone.copied("older")
    phone.put("accounts", "1", owner="B")
    carry(phone, laptop)
    assert carry(laptop, older).entries == 1
    with pytest.raises(RefusedError, match="retired"):
        older.put("accounts", "1", owner="C")


def test_two_feeds_where_one_belongs(world: Any) -> None:
    laptop, phone, desk = (world.replica(name) for name in ("laptop", "phone", "desk"))
    phone.put("accounts", "1", owner="A")
    clone = phone.copied("clone")
    for replica, nonce in ((phone, bytes(16)), (clone, b"\1" * 16)):
        with replica.store.write() as tx:
            replica.feed = continue_feed(tx, replica.feed, nonce)
        replica.writer.close()
        replica.open()
        replica.put("accounts", "1", owner=nonce.hex())
    for first, second, reader in ((phone, clone, laptop), (clone, phone, desk)):
        assert carry(first, reader).received.forks == ()
        (fork,) = carry(second, reader).received.forks
        assert (fork.feed, fork.index, fork.reason) == (second.feed, 0, SideReason.RIVAL)
        proof: Any = decode(fork.proof)
        manifests = [parse_manifest(manifest) for manifest in proof["manifests"]]
        assert [feed_key(manifest) for manifest in manifests] == [first.feed, second.feed]
        for manifest, head in zip(manifests, proof["heads"], strict=True):
            verify_signature(manifest.signers[0].public_key, head[:112], head[114:178])
    assert facts(laptop) == facts(desk)
    clone.put("accounts", "2", owner="more")
    assert carry(clone, laptop).entries == 1
    carry(laptop, desk)
    assert facts(laptop) == facts(desk)
    carry(laptop, phone)
    with pytest.raises(RefusedError, match="retired"):
        phone.put("accounts", "3", owner="never")


# --- standing ---


def revoke(teller: Any, victim: Any, length: int) -> None:
    """The owner ends a device, vouches for so much of what it has itself, and another one tells the database."""
    world = teller.world
    with victim.store.read() as tx:
        good = LastGood(length, stored_tree_hash(tx, victim.feed, length))
    event = build_revoke_device(
        fold(world.events),
        device=victim.device.public_key,
        last_good={victim.feed: good},
        reason=RevocationReason.LOST,
        time_ms=99,
    )
    world.events.append(world.sign(event, world.root))
    with teller.store.write() as tx:
        add_events(tx, world.identity, world.events)
    teller.db.introduce()


def test_a_revocation_vouches_for_one_side(forked: tuple[Any, Any, Any, Any]) -> None:
    laptop, phone, desk, clone = forked
    world = laptop.world
    for sender in (phone, clone):
        carry(sender, laptop, whole=True)
    revoke(laptop, phone, 3)
    state = laptop.db.get("accounts", "1")
    assert state.view.fields == {"owner": "phone", "limit": 1}
    assert laptop.fields("accounts", "2") == {"owner": "phone only"}
    carry(clone, desk)
    carry(laptop, desk)
    assert facts(laptop) == facts(desk)
    reader = world.replica("reader")
    carry(phone, reader, whole=True)
    carry(laptop, reader)
    assert facts(reader) == facts(laptop)


def test_a_revocation_vouches_for_a_side_without_entries(world: Any) -> None:
    laptop, phone, desk = (world.replica(name) for name in ("laptop", "phone", "desk"))
    phone.put("accounts", "1", owner="before")
    clone = phone.copied("clone")
    phone.put("accounts", "1", owner="phone")
    append_raw(clone, b"a note")
    for first, second, reader in ((phone, clone, laptop), (clone, phone, desk)):
        carry(first, reader, whole=True)
        carry(second, reader, whole=True)
    revoke(laptop, clone, 2)
    assert laptop.fields("accounts", "1") == {"owner": "before"}
    carry(laptop, desk)
    assert facts(laptop) == facts(desk)


# --- bounds ---


def test_sides_are_bounded(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sync.receiving.MAX_SIDES", 2)
    assert sides.MAX_SIDES == 16
    laptop, phone = world.replica("laptop"), world.replica("phone")
    clones = [phone.copied(f"clone {number}") for number in range(4)]
    refused = []
    for number, clone in enumerate([phone, *clones]):
        world.clock_ms += 5
        clone.put("accounts", str(number), owner="A")
        report = carry(clone, laptop, whole=True)
        refused += [fork for fork in report.received.forks if fork.refused]
        assert report.entries == (1 if number < 3 else 0)
    assert len(refused) == 2
    for fork in refused:
        verify_and_name(parse_fork(fork.proof))
    with laptop.store.read() as tx:
        kept = tx.fetch_all("SELECT refused, proof FROM database_side ORDER BY id")
    assert [row[0] for row in kept] == [0, 0, 1]
    assert kept[2][1] == refused[0].proof
    again = carry(clones[3], laptop, whole=True)
    assert [fork.refused for fork in again.received.forks] == [True]
    assert facts(laptop)[2] == facts(laptop)[2]


# --- any order ---


@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_order_of_bundles_agrees(data: st.DataObject, make_world: Any, tmp_path_factory: Any) -> None:
    world = make_world(tmp_path_factory.mktemp("any"), "bank")
    try:
        *writers, first, second = [world.replica(name) for name in ("laptop", "phone", "first", "second")]
        writers[1].put("accounts", "0", owner="phone")
        writers.append(writers[1].copied("clone"))
        for step in range(data.draw(st.integers(3, 10))):
            world.clock_ms += data.draw(st.integers(0, 3))
            writer = data.draw(st.sampled_from(writers))
            if data.draw(st.booleans()):
                key = data.draw(st.sampled_from("01"))
                changes = Changes()
                changes.patch("accounts", key, {"owner": f"{step}"})
                changes.increment("accounts", key, "visits", step)
                try:
                    writer.db.commit(changes)
                except RefusedError:
                    continue  # it has learned of its copy
            else:
                carry(data.draw(st.sampled_from(writers)), writer, whole=data.draw(st.booleans()))
        readers, orders = (first, second), list(permutations(writers))
        for reader in readers:
            for writer in data.draw(st.sampled_from(orders)):
                carry(writer, reader, whole=True)
        for sender, receiver in permutations([*readers, *writers], 2):
            carry(sender, receiver, whole=True)
        found = [facts(replica) for replica in (*readers, *writers)]
        assert all(one == found[0] for one in found)
    finally:
        world.close()


# --- as of ---


def test_what_was_known_before_a_fork_reads_as_it_did(forked: tuple[Any, Any, Any, Any]) -> None:
    laptop, phone, _, clone = forked
    counted = Changes()
    counted.increment("accounts", "1", "visits", 5)
    phone.db.commit(counted)
    carry(phone, laptop)
    with laptop.db.read() as reader:
        then = reader.newest_place()
    names = [("accounts", "1"), ("accounts", "2")]
    before = [laptop.db.get(*name) for name in names]
    carry(clone, laptop, whole=True)
    with laptop.db.read() as reader:
        cuts = [reader.known(then), reader.of_vector(reader.known(then).vector)]
    for cut in cuts:
        found = [laptop.db.get(*name, at=cut) for name in names]
        assert [state.etag for state in found] == [state.etag for state in before]
        for state, was in zip(found, before, strict=True):
            assert (state.view.fields, state.view.conflicts) == (was.view.fields, was.view.conflicts)
    assert laptop.db.get("accounts", "1").etag != before[0].etag


def test_a_state_root_that_was_stated_before_a_fork_became_known(forked: tuple[Any, Any, Any, Any]) -> None:
    laptop, phone, desk, clone = forked
    carry(phone, laptop)
    stated = laptop.db.checkpoint_state().reference
    for sender in (clone, laptop):
        carry(sender, desk, whole=True)
    assert desk.db.verify_state_root(stated).documents == 2
    carry(clone, laptop, whole=True)
    assert laptop.db.verify_state_root(stated).documents == 2
    assert facts(laptop) == facts(desk)
    later = laptop.db.checkpoint_state().reference
    carry(laptop, desk)
    for replica in (laptop, desk):
        assert replica.db.verify_state_root(later).documents == 2
    assert facts(laptop) == facts(desk)


def test_forks_on_postgresql(make_world: Any, tmp_path: Path, postgres_url: str) -> None:
    world = make_world(tmp_path, "bank")
    try:
        laptop, phone = world.replica("laptop"), world.replica("phone")
        server = world.replica("server", postgres_url)
        phone.put("accounts", "1", owner="A")
        clones = [phone, phone.copied("clone"), phone.copied("clone again")]
        for clone in clones:
            world.clock_ms += 5
            base = clone.db.context()
            clone.put("accounts", "1", owner=clone.name, limit=1)
            stale = Changes(base=base)
            stale.patch("accounts", "1", {"owner": "stale"})
            stale.increment("accounts", "1", "visits")
            clone.db.commit(stale)
        for clone in clones:
            carry(clone, server, whole=True)
        for clone in reversed(clones):
            carry(clone, laptop, whole=True)
        assert facts(server) == facts(laptop)
        server.db.rebuild()
        assert facts(server) == facts(laptop)
    finally:
        world.close()


def test_a_stranger_sets_nobodys_feed_aside(world: Any, make_world: Any, tmp_path: Path) -> None:
    """One that says it goes on from somebody's feed, where that has not got to yet and from another tree."""
    laptop, phone = world.replica("laptop"), world.replica("phone")
    phone.put("accounts", "1", owner="A")
    carry(phone, laptop)
    (tmp_path / "stranger").mkdir()
    apart = make_world(tmp_path / "stranger", "stranger")
    apart.uid = world.uid
    stranger = apart.newcomer("stranger")
    told = FeedDescription(apart.identity, feed_name(world.uid), Continuation(phone.feed, 2, bytes(32)))
    manifest = device_manifest(stranger.device.public_key, told)
    with stranger.store.write() as tx:
        key = tx.create_feed(feed_key(manifest), encode_manifest(manifest), local=True).key
    FeedWriter(stranger.store, key, stranger.device).append([b"no entry"])
    assert carry(stranger, laptop).received.forks == ()
    apart.close()
    phone.put("accounts", "1", owner="B")
    assert carry(phone, laptop).received.forks == ()
    with laptop.store.read() as tx:
        assert tx.feed(phone.feed).length == 2
        assert list(lineage_faults(tx)) == []
    assert laptop.db.audit() == []
