"""Bundles between replicas: what arrives, what is left out, what is refused whole, and what is reported."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from identity.contexts import BUNDLE_DIGEST
from identity.encoding import decode, encode
from identity.errors import (
    AuditError,
    HistoryError,
    LimitExceeded,
    MalformedError,
    MissingEvidenceError,
    RefusedError,
    RootMismatch,
    SignatureMismatch,
    VerificationError,
)
from ledger.feed import append, create_feed
from ledger.merkle import EMPTY_TREE_HASH
from ledger.store import stored_tree_hash
from ledger.succession import continue_feed
from sync import receiving, runs
from sync.bundle import FIRST_LINE, BundleReader, Have, Point, read_have
from sync.changes import Changes
from sync.database import Database, join, list_databases
from sync.exchange import receive
from sync.storage.audit import audit_database
from sync.storage.projection import feed_name
from sync.storage.queries import queries_for
from sync.transaction import DocumentId

Records = list[tuple[bytes, bytes]]


def bundle_of(replica: Any, since: Have | None = None) -> bytes:
    out = io.BytesIO()
    replica.db.export_bundle(out, since)
    return out.getvalue()


def have_of(replica: Any) -> Have:
    out = io.BytesIO()
    replica.db.write_have(out)
    return read_have(io.BytesIO(out.getvalue()))


def carry(sender: Any, receiver: Any, *, whole: bool = False) -> Any:
    """What a bundle of the sender's, by default of what the receiver has not, brings the receiver."""
    return receiver.db.import_bundle(io.BytesIO(bundle_of(sender, None if whole else have_of(receiver))))


def take_apart(data: bytes) -> Records:
    """The records without the trailer."""
    data, records = data[len(FIRST_LINE) :], []
    while data:
        size = int.from_bytes(data[1:5], "big")
        records.append((data[:1], data[5 : 5 + size]))
        data = data[5 + size :]
    return records[:-1]


def put_together(records: Records) -> bytes:
    data = FIRST_LINE + b"".join(kind + struct.pack(">I", len(payload)) + payload for kind, payload in records)
    end = encode({"records": len(records), "bytes": len(data), "digest": sha256(BUNDLE_DIGEST + data).digest()})
    return data + b"E" + struct.pack(">I", len(end)) + end


def place_of(records: Records, kind: bytes, number: int = 0) -> int:
    return [place for place, (one, _) in enumerate(records) if one == kind][number]


def altered(records: Records, kind: bytes, change: Callable[[Any], Any], number: int = 0) -> bytes:
    """The bundle with one CBOR record altered."""
    place = place_of(records, kind, number)
    return put_together([*records[:place], (kind, encode(change(decode(records[place][1])))), *records[place + 1 :]])


def facts(replica: Any) -> tuple[list[tuple[bytes, int]], int, list[Any], list[str]]:
    """All that an import could change."""
    with replica.store.read() as tx:
        feeds = sorted((state.key, state.length) for state in tx.feeds() if state.length)
        documents = tx.fetch_all("SELECT collection, key, etag, conflicts FROM database_document ORDER BY 1, 2")
        events = sum(len(tx.identity_events(identity)) for identity in tx.identities())
        faults = audit_database(tx, replica.store.dialect, replica.world.uid)
    return feeds, events, documents, faults


@pytest.fixture
def three(make_world: Any, tmp_path: Path) -> Iterator[tuple[Any, Any, Any]]:
    """Three replicas that know of the founding."""
    world = make_world(tmp_path, "bank")
    yield tuple(world.replica(name) for name in ("laptop", "phone", "desk"))
    world.close()


@pytest.fixture(scope="module")
def founded(make_world: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A replica with one document, which nobody changes."""
    world = make_world(tmp_path_factory.mktemp("founded"), "bank")
    laptop = world.replica("laptop")
    laptop.put("accounts", "1", owner="A")
    yield laptop
    world.close()


@pytest.fixture
def new_store(founded: Any, tmp_path: Path) -> Iterator[Any]:
    """A store that has never heard of anybody."""
    with closing(founded.world.open_new(str(tmp_path / "new.db"))) as store:
        yield store


# --- what arrives ---


def test_replicas_agree_whatever_order_bundles_come_in(three: tuple[Any, Any, Any]) -> None:
    laptop, phone, desk = three
    laptop.put("accounts", "1", owner="A", limit=1)
    for other in (phone, desk):
        carry(laptop, other)
    for replica, name in ((laptop, "L"), (phone, "P"), (desk, "D")):
        changes = Changes()
        changes.patch("accounts", "1", {"owner": name})
        changes.increment("accounts", "1", "visits", 2)
        replica.db.commit(changes)
        replica.put("accounts", name, owner=name)
    carry(desk, laptop)
    phone.put("accounts", "P", owner="P again")
    carry(laptop, phone, whole=True)
    carry(phone, laptop)
    carry(phone, desk)
    assert facts(laptop) == facts(phone) == facts(desk)
    assert facts(laptop)[3] == []
    state = laptop.db.get("accounts", "1")
    assert state.view.fields["visits"] == 6
    assert [conflict.path for conflict in state.view.conflicts] == ["/owner"]


def test_an_incremental_bundle_has_what_is_new_only(three: tuple[Any, Any, Any]) -> None:
    laptop, phone, _ = three
    laptop.put("accounts", "1", owner="A")
    first = carry(laptop, phone)
    assert (first.entries, first.received.blocks, first.received.feeds) == (1, 1, 1)
    laptop.put("accounts", "1", owner="B")
    phone.put("accounts", "2", owner="C")
    data = bundle_of(laptop, have_of(phone))
    assert [kind for kind, _ in take_apart(data)].count(b"B") == 1
    assert phone.db.import_bundle(io.BytesIO(data)).entries == 1
    assert [kind for kind, _ in take_apart(bundle_of(laptop, have_of(phone)))].count(b"M") == 0


def test_since_can_be_what_was_sent_before(three: tuple[Any, Any, Any]) -> None:
    laptop, phone, _ = three
    laptop.put("accounts", "1", owner="A")
    sent = bundle_of(laptop)
    phone.db.import_bundle(io.BytesIO(sent))
    laptop.put("accounts", "1", owner="B")
    later = bundle_of(laptop, read_have(io.BytesIO(sent)))
    assert len(later) < len(sent)
    assert phone.db.import_bundle(io.BytesIO(later)).entries == 1
    assert phone.fields("accounts", "1") == {"owner": "B"}


def test_a_second_time_changes_nothing(three: tuple[Any, Any, Any]) -> None:
    laptop, phone, _ = three
    laptop.put("accounts", "1", owner="A")
    data = bundle_of(laptop)
    phone.db.import_bundle(io.BytesIO(data))
    before = facts(phone)
    again = phone.db.import_bundle(io.BytesIO(data))
    assert (again.entries, again.received.blocks, again.received.feeds) == (0, 0, 0)
    assert facts(phone) == before


def test_own_entries_come_back_without_effect(three: tuple[Any, Any, Any]) -> None:
    laptop, phone, _ = three
    phone.put("accounts", "1", owner="A")
    carry(phone, laptop)
    phone.put("accounts", "1", owner="B")
    assert carry(laptop, phone, whole=True).entries == 0
    phone.put("accounts", "1", owner="C")


def test_a_new_device_begins_with_a_bundle(founded: Any, new_store: Any) -> None:
    report = join(new_store, io.BytesIO(bundle_of(founded)), 5)
    assert report.entries == 2
    (info,) = list_databases(new_store)
    assert (info.uid, info.name, info.created_ms) == (founded.world.uid, "bank", 5)
    state = Database(new_store, info.uid, lambda: 0).get("accounts", "1")
    assert state is not None
    assert state.etag == founded.db.get("accounts", "1").etag
    assert join(new_store, io.BytesIO(bundle_of(founded)), 6).entries == 0


def test_joining_takes_all_or_nothing(founded: Any, new_store: Any) -> None:
    have, feed = have_of(founded), founded.feed
    with founded.store.read() as tx:
        since = Have(have.header, {feed: (Point(feed, 1, stored_tree_hash(tx, feed, 1)),)})
    with pytest.raises(MissingEvidenceError, match="begins at block 1"):
        join(new_store, io.BytesIO(bundle_of(founded, since)), 5)
    records = take_apart(bundle_of(founded))
    with pytest.raises(MissingEvidenceError, match="founded"):
        join(new_store, io.BytesIO(altered(records, b"D", lambda fields: {**fields, "founding": None})), 5)
    assert list_databases(new_store) == []
    with new_store.read() as tx:
        assert tx.feeds() == []


# --- what is reported ---


def test_entries_that_wait_are_named(three: tuple[Any, Any, Any]) -> None:
    laptop, phone, desk = three
    phone.put("accounts", "1", owner="A")
    carry(phone, laptop)
    written = laptop.put("accounts", "1", owner="B")
    records = take_apart(bundle_of(laptop, have_of(desk)))
    assert [kind for kind, _ in records].count(b"M") == 2
    second = place_of(records, b"M", 1)
    first = place_of(records, b"M")
    own = [first, second][[records[first + 2][1], records[second + 2][1]].index(laptop_block(laptop, written))]
    kept = records[own : second if own == first else len(records)]
    report = desk.db.import_bundle(io.BytesIO(put_together([*records[:first], *kept])))
    assert report.entries == 0
    (waiting,) = report.waiting
    assert (waiting.feed, waiting.index) == (laptop.feed, written.reference.index)
    assert waiting.reference.feed == phone.feed
    report = carry(phone, desk)
    assert (report.entries, report.waiting) == (2, ())
    assert facts(desk) == facts(laptop)


def laptop_block(laptop: Any, written: Any) -> bytes:
    with laptop.store.read() as tx:
        return bytes(tx.block(laptop.feed, written.reference.index))


def test_new_conflicts_are_reported_and_old_ones_are_not(three: tuple[Any, Any, Any]) -> None:
    laptop, phone, desk = three
    laptop.put("accounts", "1", owner="A")
    carry(laptop, phone)
    for replica, name in ((laptop, "L"), (phone, "P")):
        changes = Changes()
        changes.patch("accounts", "1", {"owner": name}, if_match=replica.db.get("accounts", "1").etag)
        replica.db.commit(changes)
    report = carry(phone, laptop)
    assert report.conflicts == report.contested == (DocumentId("accounts", "1"),)
    other = Changes()
    other.increment("accounts", "1", "visits")
    phone.db.commit(other)
    report = carry(phone, laptop)
    assert (report.entries, report.conflicts) == (1, ())
    assert carry(phone, laptop, whole=True).contested == ()
    carry(laptop, desk)
    assert facts(desk) == facts(laptop)


def test_progress_is_told(three: tuple[Any, Any, Any]) -> None:
    laptop, phone, _ = three
    for number in range(3):
        laptop.put("accounts", str(number), owner="A")
    told: list[int] = []
    out = io.BytesIO()
    sent = laptop.db.export_bundle(out, have_of(phone), told.append)
    assert sum(told) == sent.blocks == 3
    told.clear()
    phone.db.import_bundle(io.BytesIO(out.getvalue()), told.append)
    assert sum(told) == 3


# --- gaps and mistakes ---


def test_a_gap_is_named(three: tuple[Any, Any, Any]) -> None:
    laptop, phone, desk = three
    laptop.put("accounts", "1", owner="A")
    carry(laptop, phone)
    laptop.put("accounts", "1", owner="B")
    before = facts(desk)
    with pytest.raises(MissingEvidenceError, match=r"begins at block 2 .* 1 are here") as caught:
        desk.db.import_bundle(io.BytesIO(bundle_of(laptop, have_of(phone))))
    assert caught.value.hint == "ask for a bundle since what is here"
    assert facts(desk) == before


def test_a_run_may_begin_before_what_is_missing(three: tuple[Any, Any, Any]) -> None:
    laptop, phone, desk = three
    since = have_of(phone)
    for number in range(4):
        laptop.put("accounts", "1", owner=str(number))
        if number == 2:
            carry(laptop, desk)
    report = desk.db.import_bundle(io.BytesIO(bundle_of(laptop, since)))
    assert (report.received.blocks, report.entries) == (1, 1)
    assert facts(desk) == facts(laptop)


def test_another_database_is_refused(three: tuple[Any, Any, Any], make_world: Any, tmp_path: Path) -> None:
    laptop, phone, _ = three
    (tmp_path / "other").mkdir()
    world = make_world(tmp_path / "other", "other")
    try:
        stranger = world.replica("stranger")
        with pytest.raises(RefusedError, match="this is a bundle of database"):
            phone.db.import_bundle(io.BytesIO(bundle_of(stranger)))
        with pytest.raises(RefusedError, match="what somebody has of database"):
            laptop.db.export_bundle(io.BytesIO(), have_of(stranger))
        mine, theirs = take_apart(bundle_of(laptop)), take_apart(bundle_of(stranger))
        smuggled = [*mine[: place_of(mine, b"I")], *theirs[place_of(theirs, b"I") :]]
        with pytest.raises(RefusedError, match="is not one of this database"):
            phone.db.import_bundle(io.BytesIO(put_together(smuggled)))
    finally:
        world.close()


def test_a_feed_of_another_name_is_refused(three: tuple[Any, Any, Any]) -> None:
    laptop, phone, _ = three
    key = create_feed(laptop.store, laptop.device, laptop.world.identity, "journal")
    append(laptop.store, key, laptop.device, [b"an entry"])
    records = take_apart(bundle_of(laptop))
    assert [kind for kind, _ in records].count(b"M") == 1
    with laptop.store.read() as tx:
        records[place_of(records, b"M")] = (b"M", tx.feed(key).manifest)
    with pytest.raises(RefusedError, match="is not one of this database"):
        phone.db.import_bundle(io.BytesIO(put_together(records)))


# --- forgeries ---


def forgeries() -> dict[str, tuple[type[AuditError], Callable[[Records], bytes]]]:
    def another_block(records: Records) -> bytes:
        place = place_of(records, b"B")
        return put_together([*records[:place], (b"B", b"forged"), *records[place + 1 :]])

    def without_block(records: Records) -> bytes:
        place = place_of(records, b"B", 1)
        return put_together([*records[: place + 1], *records[place:]])

    def twice(records: Records) -> bytes:
        return put_together([*records, *records[place_of(records, b"M") :]])

    def without_events(records: Records) -> bytes:
        return put_together([record for record in records if record[0] != b"I"])

    def swapped_events(records: Records) -> bytes:
        first = place_of(records, b"I")
        return put_together([*records[:first], *records[first + 1 : first + 3], records[first], *records[first + 3 :]])

    def doubled_event(records: Records) -> bytes:
        last = place_of(records, b"I", -1)
        return put_together([*records[: last + 1], *records[last:]])

    def forged_head(fields: Any) -> Any:
        return {**fields, "signature": fields["signature"][:-1] + bytes([fields["signature"][-1] ^ 1])}

    return {
        "another block": (RootMismatch, another_block),
        "a block twice": (MalformedError, without_block),
        "a feed twice": (MalformedError, twice),
        "no events": (MissingEvidenceError, without_events),
        "events out of order": (MalformedError, swapped_events),
        "an event twice": (MalformedError, doubled_event),
        "another signature": (AuditError, lambda records: altered(records, b"H", forged_head)),
        "another signed byte": (
            SignatureMismatch,
            lambda records: altered(
                records,
                b"H",
                lambda fields: {**fields, "signature": fields["signature"][:9] + b"\0" + fields["signature"][10:]},
            ),
        ),
        "another tree": (RootMismatch, lambda records: altered(records, b"H", lambda one: {**one, "tree": bytes(32)})),
        "another length": (MalformedError, lambda records: altered(records, b"H", lambda one: {**one, "length": 2})),
        "another beginning": (
            RootMismatch,
            lambda records: altered(records, b"R", lambda one: {**one, "tree": bytes(32)}),
        ),
        "begun later": (MissingEvidenceError, lambda records: altered(records, b"R", lambda one: {**one, "from": 1})),
        "another founding": (
            VerificationError,
            lambda records: altered(
                records, b"D", lambda one: {**one, "founding": {**one["founding"], "name": "not the bank"}}
            ),
        ),
    }


@pytest.mark.parametrize("name", forgeries())
def test_forgeries_are_refused_whole(name: str, founded: Any, new_store: Any) -> None:
    error, forge = forgeries()[name]
    with pytest.raises(error):
        join(new_store, io.BytesIO(forge(take_apart(bundle_of(founded)))), 5)
    with new_store.read() as tx:
        assert tx.feeds() == tx.identities() == []
    assert list_databases(new_store) == []
    join(new_store, io.BytesIO(bundle_of(founded)), 5)


def test_a_device_of_nobody_is_refused(three: tuple[Any, Any, Any]) -> None:
    laptop, phone, _ = three
    with laptop.store.write() as tx:
        manifest = tx.feed(laptop.feed).manifest
    forged = manifest.replace(laptop.device.public_key, bytes(32))
    records = take_apart(bundle_of(laptop))
    records[place_of(records, b"M")] = (b"M", forged)
    with pytest.raises(VerificationError, match="never a device"):
        phone.db.import_bundle(io.BytesIO(put_together(records)))


def test_events_that_do_not_follow_are_refused(founded: Any, new_store: Any) -> None:
    records = take_apart(bundle_of(founded))
    del records[place_of(records, b"I", 1)]
    with pytest.raises(HistoryError):
        join(new_store, io.BytesIO(put_together(records)), 5)
    with new_store.read() as tx:
        assert tx.identities() == []


class _Undone(Exception):
    """Nothing is to be kept."""


def test_every_byte_is_refused_or_without_effect(founded: Any, new_store: Any) -> None:
    """Of bundles whose trailer fits: what comes in is then what the signatures say, or nothing."""
    records = take_apart(bundle_of(founded))
    queries = queries_for("sqlite")
    with founded.store.read() as told:
        blocks = list(told.blocks(founded.feed, 0, 2))
        for place, (kind, payload) in enumerate(records):
            for at in range(place % 3, len(payload), 3 if kind in b"RH" else 199):
                flipped = payload[:at] + bytes([payload[at] ^ 1 << at % 8]) + payload[at + 1 :]
                data = put_together([*records[:place], (kind, flipped), *records[place + 1 :]])
                with pytest.raises((_Undone, AuditError)), new_store.write() as tx:
                    tx.execute(queries.add_database, (1, founded.world.uid, "bank", 0))
                    receive(tx, queries, 1, founded.world.uid, BundleReader(io.BytesIO(data)))
                    assert kind in b"DVI"  # what nobody signs, or a device that signs no feed here
                    assert list(tx.blocks(founded.feed, 0, 2)) == blocks
                    raise _Undone
        with new_store.read() as tx:
            assert tx.feeds() == []


@pytest.mark.parametrize(("name", "kind"), [("MAX_FEEDS", b"M"), ("MAX_IDENTITIES", b"I")])
def test_garbage_is_bounded(
    name: str, kind: bytes, three: tuple[Any, Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    laptop, phone, _ = three
    monkeypatch.setattr(receiving, name, 0)
    with pytest.raises(LimitExceeded):
        phone.db.import_bundle(io.BytesIO(bundle_of(laptop)))


def test_blocks_without_a_head_are_bounded(three: tuple[Any, Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    laptop, phone, _ = three
    monkeypatch.setattr(runs, "MAX_BATCH_BLOCKS", 10)
    records = take_apart(bundle_of(laptop))
    place = place_of(records, b"B")
    many = [*records[:place], *[(b"B", b"")] * 11, *records[place:]]
    with pytest.raises(LimitExceeded):
        phone.db.import_bundle(io.BytesIO(put_together(many)))


def test_a_device_that_continues_its_feed(three: tuple[Any, Any, Any]) -> None:
    laptop, phone, desk = three
    phone.put("accounts", "1", owner="A")
    older = phone.feed
    with phone.store.write() as tx:
        phone.feed = continue_feed(tx, older, bytes(range(16)))
    phone.writer.close()
    phone.open()
    phone.put("accounts", "1", owner="B")
    report = carry(phone, laptop)
    assert (report.entries, report.received.forks) == (2, ())
    kinds = [payload for kind, payload in take_apart(bundle_of(laptop, have_of(desk))) if kind == b"M"]
    assert kinds.index(manifest_of(laptop, older)) < kinds.index(manifest_of(laptop, phone.feed))
    carry(laptop, desk)
    assert facts(laptop) == facts(desk)
    assert feed_name(phone.world.uid).encode() in kinds[0]


def manifest_of(replica: Any, feed: Any) -> bytes:
    with replica.store.read() as tx:
        return bytes(tx.feed(feed).manifest)


def test_the_empty_tree_is_the_only_beginning(three: tuple[Any, Any, Any]) -> None:
    laptop, _, _ = three
    run = decode(take_apart(bundle_of(laptop))[place_of(take_apart(bundle_of(laptop)), b"R")][1])
    assert run == {"from": 0, "tree": EMPTY_TREE_HASH}
