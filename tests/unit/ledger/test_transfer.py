"""Feed exports: what goes out comes in whole, and nothing of one that is false, forked, cut or padded does."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from identity.encoding import decode, encode
from identity.errors import (
    AuditError,
    ConflictError,
    DamagedFile,
    ForkDetected,
    HistoryError,
    LimitExceeded,
    MalformedError,
    MissingEvidenceError,
    RefusedError,
    RootMismatch,
    SignatureMismatch,
    StorageError,
    UnsupportedVersion,
    VerificationError,
)
from identity.history import SignedEvent
from ledger import transfer
from ledger.audit import audit_feed
from ledger.feed import append
from ledger.fork import parse_fork, verify_fork
from ledger.head import sign_head
from ledger.identities import add_events, key_history
from ledger.manifest import (
    FeedDescription,
    Manifest,
    ManifestSigner,
    device_manifest,
    encode_manifest,
    feed_key,
)
from ledger.merkle import TreeBuilder
from ledger.storage.memory import MemoryStore
from ledger.store import FeedKey, Store
from ledger.transfer import FIRST_LINE, IngestResult, export_feed, ingest_feed

BATCHES = [[b"zero"], [b"one", b"two", b"three"], [b"four"], [b"five", b""]]

Records = list[tuple[bytes, bytes]]


def exported(store: Store, key: FeedKey) -> bytes:
    out = io.BytesIO()
    export_feed(store, key, out)
    return out.getvalue()


def ingested(store: Store, data: bytes) -> IngestResult:
    return ingest_feed(store, io.BytesIO(data))


def take_apart(data: bytes) -> Records:
    assert data.startswith(FIRST_LINE)
    data = data[len(FIRST_LINE) :]
    records = []
    while data:
        tag, size = data[:1], int.from_bytes(data[1:5], "big")
        records.append((tag, data[5 : 5 + size]))
        data = data[5 + size :]
    return records


def put_together(records: Records) -> bytes:
    return FIRST_LINE + b"".join(tag + struct.pack(">I", len(payload)) + payload for tag, payload in records)


@pytest.fixture
def source(member: Any, fill_feed: Any) -> tuple[MemoryStore, FeedKey]:
    store = MemoryStore()
    return store, fill_feed(store, member, BATCHES)


@pytest.fixture
def export(source: tuple[MemoryStore, FeedKey]) -> bytes:
    return exported(*source)


@pytest.fixture(params=["memory", "sqlite"])
def target(request: pytest.FixtureRequest, tmp_path: Any, new_sqlite: Any) -> Iterator[Store]:
    """A store that has never heard of anybody."""
    store = MemoryStore() if request.param == "memory" else new_sqlite(tmp_path / "target.db")
    yield store
    store.close()


def assert_untouched(store: Store) -> None:
    with store.read() as tx:
        assert tx.feeds() == []
        assert tx.identities() == []


# --- out and in ---


def test_whole_feed_arrives(source: tuple[MemoryStore, FeedKey], export: bytes, target: Store, member: Any) -> None:
    store, key = source
    assert ingested(target, export) == IngestResult(key, member.identity, 0, 7)
    with store.read() as one, target.read() as other:
        state = other.feed(key)
        assert state is not None
        assert not state.local
        assert list(other.blocks(key, 0, 7)) == list(one.blocks(key, 0, 7))
        assert list(other.heads(key)) == list(one.heads(key))
        assert list(other.tree_rows(key, 0, 7)) == list(one.tree_rows(key, 0, 7))
        assert key_history(other, member.identity) == member.history
    assert audit_feed(target, key).first_bad is None
    assert exported(target, key) == export


def test_empty_feed_arrives(member: Any, fill_feed: Any, target: Store) -> None:
    store = MemoryStore()
    key = fill_feed(store, member, [])
    data = exported(store, key)
    assert [tag for tag, _ in take_apart(data)] == [b"M", b"I", b"I", b"E"]
    assert ingested(target, data) == IngestResult(key, member.identity, 0, 0)
    assert exported(target, key) == data


def test_shape_of_an_export(export: bytes) -> None:
    assert b"".join(tag for tag, _ in take_apart(export)) == b"MIIBHBBBHBHBBHE"


def test_the_same_again_changes_nothing(export: bytes, target: Store) -> None:
    ingested(target, export)
    assert ingested(target, export).start == 7
    assert ingested(target, export).length == 7


def test_later_export_extends(source: tuple[MemoryStore, FeedKey], export: bytes, target: Store, member: Any) -> None:
    store, key = source
    ingested(target, export)
    append(store, key, member.device, [b"new", b"newer"])
    append(store, key, member.device, [b"newest"])
    longer = exported(store, key)
    assert ingested(target, longer) == IngestResult(key, member.identity, 7, 10)
    assert exported(target, key) == longer
    assert ingested(target, export) == IngestResult(key, member.identity, 10, 10), "an older export adds nothing"
    assert audit_feed(target, key).first_bad is None


def test_own_feed_is_completed_from_a_peer(source: tuple[MemoryStore, FeedKey], member: Any, fill_feed: Any) -> None:
    """What a restored device lost is given back by whoever has it; the feed stays its own."""
    store, key = source
    restored = MemoryStore()
    fill_feed(restored, member, BATCHES[:2])
    assert ingested(restored, exported(store, key)).start == 4
    with restored.read() as tx:
        state = tx.feed(key)
        assert state is not None
        assert (state.length, state.local) == (7, True)


def test_newer_events_are_taken_in_and_older_ones_do_no_harm(
    source: tuple[MemoryStore, FeedKey], export: bytes, target: Store, member: Any
) -> None:
    store, key = source
    ingested(target, export)
    with store.write() as tx:
        add_events(tx, member.identity, [member.revocation()])
    ingested(target, exported(store, key))
    with target.read() as tx:
        assert key_history(tx, member.identity).devices[member.device.public_key].revocation is not None
    ingested(target, export)
    with target.read() as tx:
        assert key_history(tx, member.identity).seq == 2


def test_stream_that_gives_little_at_a_time(export: bytes, target: Store) -> None:
    class Dripping(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(min(size or 0, 3))

    assert ingest_feed(target, Dripping(export)).length == 7


# --- not an export ---


def test_every_truncation_is_refused(export: bytes) -> None:
    store = MemoryStore()
    for cut in range(len(export)):
        with pytest.raises(MalformedError):
            ingested(store, export[:cut])
    assert_untouched(store)


def test_trailing_bytes(export: bytes, target: Store) -> None:
    for tail in (b"\0", b"\n", export):
        with pytest.raises(MalformedError, match="after the end"):
            ingested(target, export + tail)
    assert_untouched(target)


def test_head_that_was_left_out_is_not_missed(export: bytes, target: Store) -> None:
    """The documented limit: heads do not say which heads came before them."""
    fewer = put_together(without(b"H", 1)(take_apart(export)))
    assert ingested(target, fewer).length == 7
    with pytest.raises(ConflictError):
        ingested(target, export)


Edit = Callable[[Records], Records]


def at(tag: bytes, number: int, records: Records) -> int:
    return [place for place, record in enumerate(records) if record[0] == tag][number]


def doubled(tag: bytes, number: int = 0) -> Edit:
    def edit(records: Records) -> Records:
        place = at(tag, number, records)
        return [*records[: place + 1], *records[place:]]

    return edit


def without(tag: bytes, number: int = 0) -> Edit:
    def edit(records: Records) -> Records:
        place = at(tag, number, records)
        return [*records[:place], *records[place + 1 :]]

    return edit


def swapped(tag: bytes, one: int, other: int) -> Edit:
    def edit(records: Records) -> Records:
        result, a, b = list(records), at(tag, one, records), at(tag, other, records)
        result[a], result[b] = result[b], result[a]
        return result

    return edit


def changed(tag: bytes, number: int, change: Callable[[bytes], bytes]) -> Edit:
    def edit(records: Records) -> Records:
        result, place = list(records), at(tag, number, records)
        result[place] = (tag, change(result[place][1]))
        return result

    return edit


def with_field(name: str, value: Any) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        fields: Any = decode(data)
        return encode({**fields, name: value})

    return change


def moved(tag: bytes, number: int, to: int) -> Edit:
    def edit(records: Records) -> Records:
        result, place = list(records), at(tag, number, records)
        result.insert(to, result.pop(place))
        return result

    return edit


@pytest.mark.parametrize(
    ("edit", "error"),
    [
        # records that are missing, doubled, out of place or unknown
        (lambda records: [], MalformedError),
        (without(b"M"), MalformedError),
        (doubled(b"M"), MalformedError),
        (moved(b"M", 0, 1), MalformedError),
        (without(b"I", 0), HistoryError),
        (without(b"I", 1), VerificationError),
        (lambda records: [record for record in records if record[0] != b"I"], MalformedError),
        (doubled(b"I", 0), MalformedError),
        (doubled(b"I", 1), MalformedError),
        (swapped(b"I", 0, 1), MalformedError),
        (moved(b"I", 1, 5), VerificationError),
        (without(b"B", 0), MalformedError),
        (without(b"B", 1), MalformedError),
        (doubled(b"B", 3), MalformedError),
        (doubled(b"H", 0), MalformedError),
        (doubled(b"H", 3), MalformedError),
        (without(b"H", 3), MalformedError),
        (swapped(b"H", 0, 2), MalformedError),
        (swapped(b"B", 0, 4), RootMismatch),
        (doubled(b"E"), MalformedError),
        (without(b"E"), MalformedError),
        (moved(b"E", 0, 5), MalformedError),
        (lambda records: [*records[:4], (b"X", b""), *records[4:]], MalformedError),
        # contents
        (changed(b"M", 0, lambda data: data + b"\0"), MalformedError),
        (changed(b"M", 0, lambda data: b""), MalformedError),
        (changed(b"I", 0, lambda data: data + b"\0"), MalformedError),
        (changed(b"I", 1, lambda data: data[:-1]), MalformedError),
        (changed(b"B", 2, lambda data: data + b"!"), RootMismatch),
        (changed(b"H", 1, with_field("length", 5)), MalformedError),
        (changed(b"H", 1, with_field("length", -4)), MalformedError),
        (changed(b"H", 1, with_field("tree", bytes(32))), RootMismatch),
        (changed(b"H", 1, with_field("tree", bytes(31))), MalformedError),
        (changed(b"H", 1, with_field("signature", b"\1\0" + bytes(66))), SignatureMismatch),
        (changed(b"H", 1, with_field("signature", b"")), MalformedError),
        (changed(b"H", 1, with_field("signature", bytes(513))), MalformedError),
        (changed(b"H", 1, with_field("more", None)), MalformedError),
        (changed(b"H", 1, lambda data: data + b"\0"), MalformedError),
        (changed(b"H", 1, lambda data: b""), MalformedError),
        (changed(b"E", 0, with_field("length", 6)), MalformedError),
        (changed(b"E", 0, with_field("tree", bytes(32))), MalformedError),
        (changed(b"E", 0, with_field("more", None)), MalformedError),
        (changed(b"E", 0, lambda data: b""), MalformedError),
    ],
)
def test_export_that_was_edited(export: bytes, target: Store, edit: Edit, error: type[AuditError]) -> None:
    with pytest.raises(error):
        ingested(target, put_together(edit(take_apart(export))))
    assert_untouched(target)


@pytest.mark.parametrize("first", [b"", b"holdfast/v1 feed-export", b"holdfast/v2 feed-export\n", b"HOLDFAST\n" * 9])
def test_another_first_line(export: bytes, target: Store, first: bytes) -> None:
    with pytest.raises(MalformedError):
        ingested(target, first + export[len(FIRST_LINE) :])


@pytest.mark.parametrize("tag", [b"M", b"I", b"B", b"H", b"E"])
def test_length_beyond_its_limit_is_refused_before_a_byte_is_read(export: bytes, tag: bytes) -> None:
    records = take_apart(export)
    begun = put_together(records[: at(tag, 0, records)])
    claimed = begun + tag + struct.pack(">I", transfer._LIMITS[tag] + 1)

    class Counting(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            assert size is not None
            assert size <= max(len(FIRST_LINE), *(len(payload) for _, payload in records))
            return super().read(size)

    with pytest.raises(LimitExceeded):
        ingest_feed(MemoryStore(), Counting(claimed))


def test_batch_beyond_what_an_append_can_hold(export: bytes, target: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "MAX_BATCH_BLOCKS", 2)
    with pytest.raises(LimitExceeded):
        ingested(target, export)
    monkeypatch.setattr(transfer, "MAX_BATCH_BLOCKS", 3)
    monkeypatch.setattr(transfer, "MAX_BATCH_BYTES", 10)
    with pytest.raises(LimitExceeded):
        ingested(target, export)
    monkeypatch.setattr(transfer, "MAX_BATCH_BYTES", 11)
    assert ingested(target, export).length == 7


def test_too_many_events(export: bytes, target: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "MAX_EVENTS", 1)
    with pytest.raises(LimitExceeded):
        ingested(target, export)
    monkeypatch.setattr(transfer, "MAX_EVENTS", 2)
    monkeypatch.setattr(transfer, "MAX_EVENTS_BYTES", 100)
    with pytest.raises(LimitExceeded):
        ingested(target, export)
    assert_untouched(target)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_flipped_bit_is_refused(export: bytes, data: st.DataObject) -> None:
    store = MemoryStore()
    bit = data.draw(st.integers(0, 8 * len(export) - 1))
    flipped = bytearray(export)
    flipped[bit // 8] ^= 1 << bit % 8
    with pytest.raises((MalformedError, VerificationError)):
        ingested(store, bytes(flipped))
    assert_untouched(store)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_malformed(data: bytes, begun: bool) -> None:
    with pytest.raises(MalformedError):
        ingested(MemoryStore(), FIRST_LINE + data if begun else data)


def test_source_that_cannot_be_read(target: Store) -> None:
    class Failing(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError("I/O error")

    with pytest.raises(StorageError, match="cannot read"):
        ingest_feed(target, Failing())


# --- well-formed, and false ---


def forged_export(
    manifest: Manifest, events: tuple[SignedEvent, ...], signer: Any, batches: list[list[bytes]]
) -> bytes:
    """An export made by hand, with true hashes and whatever signatures ``signer`` gives."""
    records: Records = [(b"M", encode_manifest(manifest)), *((b"I", event.encode()) for event in events)]
    tree = TreeBuilder()
    for batch in batches:
        tree.append_many(batch)
        records += [(b"B", block) for block in batch]
        signature = sign_head(signer, feed_key(manifest), tree.tree_hash(), tree.length)
        head = {"length": tree.length, "tree": tree.tree_hash(), "signature": signature}
        records.append((b"H", encode(head)))
    records.append((b"E", encode({"length": tree.length, "tree": tree.tree_hash()})))
    return put_together(records)


def test_forger_makes_exports_that_hold(export: bytes, member: Any) -> None:
    manifest = device_manifest(member.device.public_key, FeedDescription(member.identity, "notes"))
    assert forged_export(manifest, member.events, member.device, BATCHES) == export


def test_feed_of_a_key_that_is_no_device(target: Store, member: Any) -> None:
    manifest = device_manifest(member.root.public_key, FeedDescription(member.identity, "notes"))
    with pytest.raises(VerificationError, match="never a device"):
        ingested(target, forged_export(manifest, member.events, member.root, BATCHES))
    assert_untouched(target)


def test_feed_under_another_identity(target: Store, member: Any, new_member: Any) -> None:
    other = new_member(1)
    manifest = device_manifest(member.device.public_key, FeedDescription(other.identity, "notes"))
    with pytest.raises(VerificationError, match="never a device"):
        ingested(target, forged_export(manifest, other.events, member.device, BATCHES))
    with pytest.raises(HistoryError):
        ingested(target, forged_export(manifest, member.events, member.device, BATCHES))
    assert_untouched(target)


def test_head_signed_by_another_key(target: Store, member: Any) -> None:
    manifest = device_manifest(member.device.public_key, FeedDescription(member.identity, "notes"))
    with pytest.raises(SignatureMismatch):
        ingested(target, forged_export(manifest, member.events, member.root, BATCHES))
    assert_untouched(target)


def test_feed_of_a_device_that_was_revoked_later(target: Store, member: Any) -> None:
    manifest = device_manifest(member.device.public_key, FeedDescription(member.identity, "notes"))
    events = (*member.events, member.revocation())
    assert ingested(target, forged_export(manifest, events, member.device, BATCHES)).length == 7


def test_foreign_manifest(target: Store, member: Any) -> None:
    foreign = Manifest(1, 1, (ManifestSigner(member.device.public_key),))
    with pytest.raises(UnsupportedVersion):
        ingested(target, forged_export(foreign, member.events, member.device, BATCHES))


# --- against what is held ---


def held_and_offered(
    target: Store, member: Any, held: list[list[bytes]], offered: list[list[bytes]]
) -> tuple[FeedKey, bytes]:
    manifest = device_manifest(member.device.public_key, FeedDescription(member.identity, "notes"))
    ingested(target, forged_export(manifest, member.events, member.device, held))
    return feed_key(manifest), forged_export(manifest, member.events, member.device, offered)


@pytest.mark.parametrize(
    ("held", "offered", "lengths"),
    [
        ([[b"a"], [b"b"]], [[b"a"], [b"B"]], (2, 2)),
        ([[b"a"], [b"b"]], [[b"a"], [b"B"], [b"c"]], (2, 2)),
        ([[b"a"], [b"b"], [b"c"]], [[b"A"]], (1, 1)),
        ([[b"a"], [b"b", b"c"]], [[b"a"], [b"B"]], (3, 2)),
        ([[b"a"], [b"b"]], [[b"a"], [b"B", b"c"]], (2, 3)),
        ([[b"a", b"b"]], [[b"a", b"B", b"c"]], (2, 3)),
        ([[b"a", b"b", b"c"]], [[b"A"], [b"b", b"c"]], (3, 1)),
    ],
)
def test_fork_is_shown_by_both_signed_heads(
    target: Store, member: Any, held: list[list[bytes]], offered: list[list[bytes]], lengths: tuple[int, int]
) -> None:
    key, data = held_and_offered(target, member, held, offered)
    before = exported(target, key)
    with pytest.raises(ForkDetected) as caught:
        ingested(target, data)
    assert exported(target, key) == before
    statements = (caught.value.first, caught.value.second)
    assert tuple(int.from_bytes(one[96:104], "little") for one in statements) == lengths
    for one in statements:
        assert len(one) == 112 + 68
        member_signature = one[112 + 2 : 112 + 66]
        assert member.device.sign(one[:112]) == member_signature
    manifest = device_manifest(member.device.public_key, FeedDescription(member.identity, "notes"))
    fork = verify_fork(manifest, parse_fork(caught.value.proof))
    assert {fork.first.length, fork.second.length} == set(lengths)
    assert {fork.first.signature, fork.second.signature} == {one[112:] for one in statements}


@pytest.mark.parametrize(
    ("held", "offered"),
    [
        ([[b"a", b"b"]], [[b"a"], [b"b"]]),
        ([[b"a"], [b"b"]], [[b"a", b"b"]]),
        ([[b"a"], [b"b"]], [[b"a"], [b"b", b"c"]]),
        ([[b"a"], [b"b", b"c"]], [[b"a"], [b"b"]]),
    ],
)
def test_heads_signed_at_other_lengths(
    target: Store, member: Any, held: list[list[bytes]], offered: list[list[bytes]]
) -> None:
    key, data = held_and_offered(target, member, held, offered)
    before = exported(target, key)
    with pytest.raises(ConflictError, match="where the export has"):
        ingested(target, data)
    assert exported(target, key) == before


# --- what cannot be exported ---


def test_unknown_feed(target: Store) -> None:
    with pytest.raises(MissingEvidenceError):
        exported(target, FeedKey(bytes(32)))


def test_foreign_feed(target: Store, member: Any) -> None:
    foreign = Manifest(1, 1, (ManifestSigner(member.device.public_key),))
    with target.write() as tx:
        tx.create_feed(feed_key(foreign), encode_manifest(foreign), local=False)
    with pytest.raises(RefusedError, match="not a feed of ours"):
        exported(target, feed_key(foreign))


def test_feed_without_its_newest_head(source: tuple[MemoryStore, FeedKey]) -> None:
    store, key = source
    store._history.feeds[key].heads.pop()
    with pytest.raises(DamagedFile):
        exported(store, key)


def test_damaged_feed_does_not_get_in(source: tuple[MemoryStore, FeedKey], target: Store) -> None:
    """An export is made of what is stored; it is the other side that finds out."""
    store, key = source
    store._history.feeds[key].blocks[2] = b"other"
    with pytest.raises(RootMismatch):
        ingested(target, exported(store, key))
    assert_untouched(target)


def test_target_that_cannot_be_written(source: tuple[MemoryStore, FeedKey]) -> None:
    class Full(io.BytesIO):
        def write(self, data: Any) -> int:
            raise OSError("no space left")

    with pytest.raises(StorageError, match="cannot write"):
        export_feed(*source, Full())
