"""Archives of the ledger's own sections: what goes in comes out, and nothing false, cut, swapped or foreign does."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from identity.encoding import encode
from identity.errors import (
    AuditError,
    ForkDetected,
    LimitExceeded,
    LogRuleViolation,
    MalformedError,
    MissingEvidenceError,
    RefusedError,
    RootMismatch,
    VerificationError,
)
from identity.history import build_bind_log, build_close, sign_event
from identity.keys import Ed25519Signer
from ledger import archive_reader
from ledger.archive import ArchiveHeader, ArchiveReader, ArchiveWriter, LogFacts, Purpose, Section
from ledger.archive_reader import LoadedArchive, load_sections
from ledger.archive_sections import contents_of, header_of, write_file, write_ledger_sections
from ledger.audit import audit_feed
from ledger.feed import FeedWriter, append, create_feed
from ledger.identities import add_events, key_history
from ledger.log import root_at
from ledger.log_writer import LogWriter
from ledger.manifest import Continuation
from ledger.merkle import tree_hash
from ledger.row_audit import row_faults
from ledger.statement import LogDescriptor
from ledger.storage.memory import MemoryStore
from ledger.store import FeedKey, Store

LOG_KEY = Ed25519Signer(bytes(range(32)))
ARCHIVE_ID = b"\5" * 32

Parts = list[tuple[str, dict[str, Any], bytes]]


@dataclass(frozen=True)
class Filled:
    """A store with a log, a feed of its own and one that continues it, and another identity's feed."""

    store: Store
    first: FeedKey
    second: FeedKey
    foreign: FeedKey


@pytest.fixture(scope="module")
def filled(new_member: Any, fill_feed: Any) -> Filled:
    return fill(new_member, fill_feed)


def fill(new_member: Any, fill_feed: Any, *, checkpoints: bool = True) -> Filled:
    store, own, other = MemoryStore(), new_member(1), new_member(2)
    writer = LogWriter(store, LOG_KEY)
    log_id = writer.create(LogDescriptor("vault.example", LOG_KEY.public_key))
    first = fill_feed(store, own, [[b"zero"], [b"one", b"two"]])
    with store.write() as tx:
        bind = build_bind_log(own.history, log=log_id, time_ms=3)
        add_events(tx, own.identity, [sign_event(bind, [(0, own.root)])])
    if checkpoints:
        writer.append_checkpoint()
    foreign = fill_feed(store, other, [[b"theirs"]])
    with store.read() as tx:
        state = tx.feed(first)
        assert state is not None
    older = Continuation(first, 3, tree_hash(state.roots))
    second = create_feed(store, own.device, own.identity, "notes", continues=older)
    append(store, second, own.device, [b"three"])
    if checkpoints:
        writer.append_checkpoint()
    append(store, second, own.device, [b"not logged", b"yet"])
    return Filled(store, first, second, foreign)


def packed(store: Store, purpose: Purpose = Purpose.BACKUP, files: dict[str, bytes] | None = None) -> bytes:
    out = io.BytesIO()
    with store.read() as tx:
        contents = contents_of(tx, purpose)
        header = header_of(contents, purpose, archive_id=ARCHIVE_ID, made_ms=7, store_id=b"\6" * 32)
        writer = ArchiveWriter(out, header)
        write_ledger_sections(tx, writer, contents, purpose)
        for path, content in (files or {}).items():
            write_file(writer, path, content)
        writer.finish()
    return out.getvalue()


def loaded(store: Store, data: bytes, **others: Callable[[Section], None]) -> LoadedArchive:
    with store.write() as tx:
        return load_sections(tx, ArchiveReader(io.BytesIO(data)), others)


def parts_of(data: bytes) -> tuple[ArchiveHeader, Parts]:
    reader = ArchiveReader(io.BytesIO(data))
    parts: Parts = []
    for section in reader.sections():
        names = ("key", "length", "tree", "local", "retired", "path")
        facts = {name: section.facts.value(name) for name in names if section.facts.has(name)}
        parts.append((section.name, facts, section.content.read()))
    return reader.header, parts


def joined(header: ArchiveHeader, parts: Parts) -> bytes:
    """An archive of these sections, with a digest that fits: what somebody can make who wants to deceive."""
    out = io.BytesIO()
    writer = ArchiveWriter(out, header)
    for name, facts, content in parts:
        with writer.section(name, facts) as stream:
            stream.write(content)
    writer.finish()
    return out.getvalue()


@pytest.fixture
def archive(filled: Filled) -> bytes:
    return packed(filled.store)


@pytest.fixture(params=["memory", "sqlite"])
def target(request: pytest.FixtureRequest, tmp_path: Any, new_sqlite: Any) -> Iterator[Store]:
    store = MemoryStore() if request.param == "memory" else new_sqlite(tmp_path / "target.db")
    yield store
    store.close()


def refused(data: bytes, error: type[AuditError], message: str | None = None) -> None:
    """The archive is refused for that reason, and nothing of it is kept."""
    store = MemoryStore()
    with pytest.raises(error, match=message):
        loaded(store, data)
    with store.read() as tx:
        assert (tx.feeds(), tx.identities(), tx.log()) == ([], [], None)


# --- out and in


def test_everything_arrives(filled: Filled, archive: bytes, target: Store) -> None:
    found = loaded(target, archive)
    with filled.store.read() as one, target.read() as other:
        assert other.identities() == one.identities()
        for identity in one.identities():
            assert other.identity_events(identity) == one.identity_events(identity)
        assert [feed.key for feed in other.feeds()] == [filled.first, filled.foreign, filled.second]
        for before, after in zip(one.feeds(), other.feeds(), strict=True):
            assert (after.manifest, after.length, after.roots) == (before.manifest, before.length, before.roots)
            assert list(other.blocks(after.key, 0, after.length)) == list(one.blocks(before.key, 0, before.length))
            assert list(other.heads(after.key)) == list(one.heads(before.key))
            assert list(other.tree_rows(after.key, 0, after.length)) == list(one.tree_rows(after.key, 0, after.length))
        state = one.log()
        assert state is not None
        assert other.log() == state
        assert list(other.log_leaves(0, state.size)) == list(one.log_leaves(0, state.size))
        assert root_at(other.log_node, state.size) == root_at(one.log_node, state.size)
        assert list(other.checkpoints()) == list(one.checkpoints())
        assert list(row_faults(other)) == []
    assert all(audit_feed(target, feed.key).first_bad is None for feed in found.feeds)


def test_what_was_loaded_is_told(filled: Filled, archive: bytes) -> None:
    found = loaded(MemoryStore(), archive)
    assert found.header == ArchiveHeader(
        ARCHIVE_ID, Purpose.BACKUP, 7, b"\6" * 32, identities=2, feeds=3, log=found.header.log
    )
    assert [(feed.key, feed.length, feed.byte_length, feed.local, feed.retired) for feed in found.feeds] == [
        (filled.first, 3, 10, True, True),
        (filled.foreign, 1, 6, True, False),
        (filled.second, 3, 18, True, False),
    ]
    assert found.entries == 7
    assert found.log is not None
    assert (found.log.replay.feed_heads_read, found.log.replay.feed_heads_chained) == (2, 0)


def test_local_feeds_come_in_retired(archive: bytes, target: Store, new_member: Any) -> None:
    loaded(target, archive)
    with target.read() as tx:
        feeds = tx.feeds()
    assert {(feed.local, feed.retired) for feed in feeds} == {(True, True)}
    with pytest.raises(RefusedError, match="retired"):
        FeedWriter(target, feeds[0].key, new_member(1).device)


def test_a_restored_feed_is_continued_by_a_new_one(
    filled: Filled, archive: bytes, target: Store, new_member: Any
) -> None:
    loaded(target, archive)
    with target.read() as tx:
        state = tx.feed(filled.second)
        assert state is not None
    member = new_member(1)
    older = Continuation(state.key, state.length, tree_hash(state.roots))
    key = create_feed(target, member.device, member.identity, "notes", continues=older)
    assert append(target, key, member.device, [b"goes on"]).length == 1


def test_an_archive_of_what_was_loaded_is_the_same(filled: Filled) -> None:
    """But for what is local: an export has none of that."""
    data = packed(filled.store, Purpose.EXPORT)
    again = MemoryStore()
    loaded(again, data)
    assert packed(again, Purpose.EXPORT) == data


def test_an_export_holds_what_the_log_speaks_of_and_nothing_local(
    filled: Filled, target: Store, new_member: Any
) -> None:
    data = packed(filled.store, Purpose.EXPORT)
    found = loaded(target, data)
    assert (found.header.purpose, found.header.store_id) == (Purpose.EXPORT, None)
    assert [(feed.key, feed.local, feed.retired) for feed in found.feeds] == [
        (filled.first, False, False),
        (filled.second, False, False),
    ]
    with target.read() as tx:
        assert tx.identities() == [new_member(1).identity]
    assert b"theirs" not in data


def test_an_export_without_a_checkpoint(new_member: Any, fill_feed: Any) -> None:
    store = fill(new_member, fill_feed, checkpoints=False).store
    with pytest.raises(MissingEvidenceError, match="no checkpoint"):
        packed(store, Purpose.EXPORT)


def test_a_log_that_has_only_its_descriptor(new_member: Any, fill_feed: Any, target: Store) -> None:
    store = fill(new_member, fill_feed, checkpoints=False).store
    found = loaded(target, packed(store))
    with store.read() as one, target.read() as other:
        assert other.log() == one.log()
        assert list(other.log_leaves(0, 1)) == list(one.log_leaves(0, 1))
    assert found.log is None


def test_an_empty_store(target: Store) -> None:
    found = loaded(target, packed(MemoryStore()))
    assert (found.feeds, found.log, found.files) == ((), None, {})


def test_files_of_a_home(filled: Filled) -> None:
    files = {"holdfast.toml": b"format = 1\n", "tsa/root.pem": b"", "headers.jsonl": bytes(200_000)}
    assert loaded(MemoryStore(), packed(filled.store, files=files)).files == files


def test_progress_counts_entries(filled: Filled, archive: bytes) -> None:
    written: list[int] = []
    with filled.store.read() as tx:
        contents = contents_of(tx, Purpose.BACKUP)
        header = header_of(contents, Purpose.BACKUP, archive_id=ARCHIVE_ID, made_ms=7, store_id=None)
        write_ledger_sections(tx, ArchiveWriter(io.BytesIO(), header), contents, Purpose.BACKUP, written.append)
    taken: list[int] = []
    with MemoryStore().write() as tx:
        load_sections(tx, ArchiveReader(io.BytesIO(archive)), {}, taken.append)
    assert sum(written) == sum(taken) == contents.entries == 7


Batches = st.lists(st.lists(st.binary(max_size=40), min_size=1, max_size=4), max_size=4)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(feeds=st.lists(Batches, max_size=3), checkpoints=st.lists(st.booleans(), min_size=3, max_size=3))
def test_round_trip_of_random_stores(new_member: Any, feeds: list[list[list[bytes]]], checkpoints: list[bool]) -> None:
    store, member = MemoryStore(), new_member(1)
    writer = LogWriter(store, LOG_KEY)
    log_id = writer.create(LogDescriptor("vault.example", LOG_KEY.public_key))
    bind = sign_event(build_bind_log(member.history, log=log_id, time_ms=3), [(0, member.root)])
    with store.write() as tx:
        add_events(tx, member.identity, [*member.events, bind])
    for number, (batches, checkpoint) in enumerate(zip(feeds, checkpoints, strict=False)):
        key = create_feed(store, member.device, member.identity, f"feed {number}")
        for batch in batches:
            append(store, key, member.device, batch)
        if checkpoint:
            writer.append_checkpoint(restate=True)
    again = MemoryStore()
    loaded(again, packed(store))
    with store.read() as one, again.read() as other:
        assert [replace(feed, retired=True) for feed in one.feeds()] == other.feeds()
        assert [list(one.heads(feed.key)) for feed in one.feeds()] == [list(other.heads(f.key)) for f in other.feeds()]
        assert (one.log(), list(one.checkpoints())) == (other.log(), list(other.checkpoints()))


# --- not whole


def test_truncated_at_every_byte(new_member: Any, fill_feed: Any) -> None:
    store = MemoryStore()
    fill_feed(store, new_member(1), [[b"zero"], [b"one"]])
    data = packed(store)
    for size in range(len(data)):
        refused(data[:size], MalformedError)


def test_every_byte_flipped(new_member: Any, fill_feed: Any) -> None:
    store = MemoryStore()
    fill_feed(store, new_member(1), [[b"zero"], [b"one"]])
    data = packed(store)
    for position in range(len(data)):
        flipped = bytearray(data)
        flipped[position] ^= 0x40
        refused(bytes(flipped), AuditError)


# --- sections out of place

NAMES = ["identities", "feed", "feed", "feed", "log", "file"]


@pytest.fixture
def whole(filled: Filled) -> tuple[ArchiveHeader, Parts]:
    header, parts = parts_of(packed(filled.store, files={"policy.toml": b"v = 1\n"}))
    assert [name for name, _, _ in parts] == NAMES
    return header, parts


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        (0, "section 'feed' where 'identities' belongs"),
        (1, "section 'log' where 'feed' belongs"),
        (3, "section 'log' where 'feed' belongs"),
        (4, "section 'file' where 'log' belongs"),
    ],
)
def test_a_missing_section(whole: tuple[ArchiveHeader, Parts], missing: int, message: str) -> None:
    header, parts = whole
    del parts[missing]
    refused(joined(header, parts), MalformedError, message)


@pytest.mark.parametrize(("kept", "message"), [(0, "'identities'"), (1, "'feed'"), (4, "'log'")])
def test_the_last_sections_missing(whole: tuple[ArchiveHeader, Parts], kept: int, message: str) -> None:
    header, parts = whole
    refused(joined(header, parts[:kept]), MalformedError, f"section {message} is missing")


def test_a_file_may_be_missing(whole: tuple[ArchiveHeader, Parts]) -> None:
    """How many files there are is not stated: their absence is for whoever needs one."""
    header, parts = whole
    assert loaded(MemoryStore(), joined(header, parts[:-1])).files == {}


@pytest.mark.parametrize(
    ("doubled", "message"),
    [
        (0, "'identities' stands twice"),
        (1, "stands in it twice"),
        (3, "more than the 3 feeds"),
        (4, "'log' stands twice"),
        (5, "are one"),
    ],
)
def test_a_doubled_section(whole: tuple[ArchiveHeader, Parts], doubled: int, message: str) -> None:
    header, parts = whole
    refused(joined(header, [*parts[: doubled + 1], *parts[doubled:]]), MalformedError, message)


@pytest.mark.parametrize(("one", "other"), [(0, 1), (3, 4), (4, 5), (0, 4)])
def test_swapped_sections(whole: tuple[ArchiveHeader, Parts], one: int, other: int) -> None:
    header, parts = whole
    parts[one], parts[other] = parts[other], parts[one]
    refused(joined(header, parts), MalformedError, "where '.*' belongs|stands twice")


def test_an_unknown_section(whole: tuple[ArchiveHeader, Parts]) -> None:
    header, parts = whole
    refused(joined(header, [*parts, ("surprise", {}, b"")]), MalformedError, "unknown section 'surprise'")


def test_unknown_facts(whole: tuple[ArchiveHeader, Parts]) -> None:
    header, parts = whole
    out = io.BytesIO()
    writer = ArchiveWriter(out, header)
    with writer.section("identities", {"x": 1}) as stream:
        stream.write(parts[0][2])
    writer.finish()
    refused(out.getvalue(), MalformedError, "unknown key 'x'")


def test_a_descriptor_where_a_log_belongs(whole: tuple[ArchiveHeader, Parts]) -> None:
    header, parts = whole
    refused(joined(header, [*parts[:4], ("descriptor", {}, b"")]), MalformedError, "no such section belongs")


def test_sections_of_other_layers_come_before_the_files(whole: tuple[ArchiveHeader, Parts]) -> None:
    header, parts = whole
    data = joined(header, [*parts[:5], ("ours", {}, b"content"), *parts[5:]])
    seen: list[bytes] = []
    loaded(MemoryStore(), data, ours=lambda section: seen.append(section.content.read()))
    assert seen == [b"content"]
    refused(data, MalformedError, "unknown section 'ours'")
    with pytest.raises(MalformedError, match="section 'file' where 'ours' belongs"):
        loaded(MemoryStore(), joined(header, parts), ours=lambda section: seen.append(section.content.read()))


# --- sections of another store, and false ones


@pytest.fixture
def other(new_member: Any, fill_feed: Any) -> tuple[ArchiveHeader, Parts]:
    """A store of another identity, with a log of the same shape."""
    return parts_of(packed(fill(lambda number: new_member(number + 10), fill_feed).store))


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (0, "a feed of identity [0-9a-f]{64}, which is not in it"),
        (1, "a feed of identity [0-9a-f]{64}, which is not in it"),
        (4, "that the archive has not"),
    ],
)
def test_a_section_of_another_store(
    whole: tuple[ArchiveHeader, Parts], other: tuple[ArchiveHeader, Parts], place: int, message: str
) -> None:
    header, parts = whole
    parts[place] = other[1][place]
    refused(joined(header, parts), AuditError, message)


def test_a_section_cut_out_of_another_archive(filled: Filled, archive: bytes) -> None:
    """As it stands there, with its head: also when it is an older archive of the same store."""
    start = archive.index(b"S", 100)
    older = archive.replace(ARCHIVE_ID, b"\4" * 32)
    assert len(older) == len(archive)
    refused(archive[:start] + older[start:], MalformedError, "'identities' is of another archive")


def test_an_older_log_than_the_header_says(new_member: Any, fill_feed: Any, whole: tuple[ArchiveHeader, Parts]) -> None:
    header, parts = whole
    assert header.log is not None
    shorter = replace(header, log=LogFacts(header.log.log_id, header.log.size - 1))
    refused(joined(shorter, parts), MalformedError, "its header says another")


def test_a_feed_that_is_shorter_than_the_log_states(filled: Filled, new_member: Any, fill_feed: Any) -> None:
    header, parts = parts_of(packed(filled.store))
    store = MemoryStore()
    fill_feed(store, new_member(1), [[b"zero"]])
    _, shorter = parts_of(packed(store))
    parts[1] = shorter[1]
    del parts[3]
    refused(
        joined(replace(header, feeds=2), parts), VerificationError, "states 3 entries of feed .* the archive holds 1"
    )


def test_a_feed_of_another_history_than_the_log_states(filled: Filled, new_member: Any, fill_feed: Any) -> None:
    header, parts = parts_of(packed(filled.store))
    store = MemoryStore()
    fill_feed(store, new_member(1), [[b"0"], [b"1", b"2"]])
    _, rewritten = parts_of(packed(store))
    parts[1] = rewritten[1]
    del parts[3]
    refused(joined(replace(header, feeds=2), parts), LogRuleViolation, "the feed itself holds")


def test_a_feed_without_the_signed_head_that_the_log_states(filled: Filled, new_member: Any, fill_feed: Any) -> None:
    """The same blocks, signed at other lengths: evidence could not show what the log says."""
    header, parts = parts_of(packed(filled.store))
    store = MemoryStore()
    fill_feed(store, new_member(1), [[b"zero"], [b"one", b"two", b"three"]])
    _, longer = parts_of(packed(store))
    parts[1] = longer[1]
    del parts[3]
    refused(joined(replace(header, feeds=2), parts), VerificationError, "the signed head of length 3 .* is gone")


def test_a_feed_that_the_log_states_and_the_archive_lacks(filled: Filled) -> None:
    header, parts = parts_of(packed(filled.store))
    del parts[3]
    refused(joined(replace(header, feeds=2), parts), VerificationError, "the archive holds 0")


def test_two_feeds_where_the_device_may_have_one(new_member: Any, fill_feed: Any) -> None:
    """Both continue one feed: a fork, which no store of ours would hold."""
    header, parts = parts_of(packed(fill(new_member, fill_feed, checkpoints=False).store))
    member = new_member(1)
    other = MemoryStore()
    first = fill_feed(other, member, [[b"zero"], [b"one", b"two"]])
    with other.read() as tx:
        head = tx.head(first, 1)
        assert head is not None
    key = create_feed(other, member.device, member.identity, "notes", continues=Continuation(first, 1, head.tree_hash))
    append(other, key, member.device, [b"another"])
    _, rival = parts_of(packed(other))
    parts.insert(4, rival[-1])
    refused(joined(replace(header, feeds=4), parts), ForkDetected, "two where the device may have one")


def test_a_feed_that_takes_over_another_tree(new_member: Any, fill_feed: Any) -> None:
    header, parts = parts_of(packed(fill(new_member, fill_feed, checkpoints=False).store))
    other = MemoryStore()
    fill_feed(other, new_member(1), [[b"0"], [b"1", b"2"]])
    parts[1] = parts_of(packed(other))[1][1]
    refused(joined(header, parts), RootMismatch, "continued from 3 blocks")


def changed_feed(whole: tuple[ArchiveHeader, Parts], **facts: object) -> bytes:
    header, parts = whole
    name, stated, content = parts[1]
    parts[1] = (name, stated | facts, content)
    return joined(header, parts)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"length": 2}, "its head says"),
        ({"tree": bytes(32)}, "its head says"),
        ({"key": bytes(32)}, "its head says"),
        ({"key": b""}, "must have 32"),
        ({"local": 1}, "must be a bool"),
    ],
)
def test_a_feed_that_is_not_what_its_head_says(
    whole: tuple[ArchiveHeader, Parts], facts: dict[str, object], message: str
) -> None:
    refused(changed_feed(whole, **facts), MalformedError, message)


def test_a_false_block(whole: tuple[ArchiveHeader, Parts]) -> None:
    header, parts = whole
    name, facts, content = parts[1]
    parts[1] = (name, facts, content.replace(b"zero", b"null"))
    refused(joined(header, parts), VerificationError, "head of 1 blocks")


def test_events_within_a_feed_section(whole: tuple[ArchiveHeader, Parts]) -> None:
    """They stand once, in the identities."""
    header, parts = whole
    name, facts, content = parts[1]
    at = content.index(b"B\0\0\0\4zero")
    parts[1] = (name, facts, content[:at] + b"I\0\0\0\0" + content[at:])
    refused(joined(header, parts), MalformedError, "record b'I' among the blocks")


def framed_events(content: bytes) -> list[bytes]:
    records = []
    while content[:1] == b"I":
        size = 5 + int.from_bytes(content[1:5], "big")
        records.append(content[:size])
        content = content[size:]
    return records


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ([0, 1, 2, 3, 3, 4], "doubled or out of order"),
        ([0, 2, 1, 3, 4], "doubled or out of order"),
        ([0, 1, 3, 4, 2], "stand in two places"),
        ([0, 1, 2, 3], "2 identities with 4 events; the end of the section says"),
        ([0, 1, 2], "1 identities with 3 events; the end of the section says"),
        ([1, 2, 3, 4], "not an inception"),
        ([], "0 identities with 0 events"),
    ],
)
def test_identities_out_of_order(whole: tuple[ArchiveHeader, Parts], order: list[int], message: str) -> None:
    header, parts = whole
    events = framed_events(parts[0][2])
    assert len(events) == 5
    end = parts[0][2][sum(map(len, events)) :]
    parts[0] = ("identities", {}, b"".join(events[index] for index in order) + end)
    refused(joined(header, parts), AuditError, message)


def test_an_identity_with_too_many_events(whole: tuple[ArchiveHeader, Parts], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_reader, "MAX_EVENTS", 2)
    refused(joined(*whole), LimitExceeded, "an identity of more than 2 events")


def test_too_many_files(filled: Filled, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_reader, "MAX_FILES", 2)
    files = {f"f{number}": b"" for number in range(3)}
    refused(packed(filled.store, files=files), LimitExceeded, "more than 2 files")


def test_files_that_are_too_large_together(filled: Filled, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_reader, "MAX_FILES_BYTES", 10)
    refused(packed(filled.store, files={"a": bytes(6), "b": bytes(6)}), LimitExceeded, "or 10 bytes of them")


def test_an_export_with_a_file(filled: Filled) -> None:
    data = packed(filled.store, Purpose.EXPORT, files={"policy.toml": b""})
    refused(data, MalformedError, "an export with a file")


def log_of(content: bytes) -> tuple[bytes, list[bytes], bytes]:
    """A log section's first line, events, and the rest."""
    first = content.index(b"I")
    events = framed_events(content[first:])
    return content[:first], events, content[first + sum(map(len, events)) :]


def test_an_event_in_the_log_that_the_archive_has_not(
    whole: tuple[ArchiveHeader, Parts], other: tuple[ArchiveHeader, Parts]
) -> None:
    header, parts = whole
    line, events, rest = log_of(parts[4][2])
    parts[4] = ("log", {}, line + b"".join([*events, framed_events(other[1][0][2])[0]]) + rest)
    refused(joined(header, parts), MalformedError, "that the archive has not")


def test_an_event_twice_in_the_log(whole: tuple[ArchiveHeader, Parts]) -> None:
    header, parts = whole
    line, events, rest = log_of(parts[4][2])
    parts[4] = ("log", {}, line + b"".join([*events, events[0]]) + rest)
    refused(joined(header, parts), MalformedError, "that the archive has not")


def test_a_log_without_the_newest_event(new_member: Any, fill_feed: Any) -> None:
    """No checkpoint states it yet, so an audit of the log alone could not miss it."""
    filled, member = fill(new_member, fill_feed), new_member(1)
    with filled.store.write() as tx:
        history = key_history(tx, member.identity)
        add_events(tx, member.identity, [sign_event(build_close(history, time_ms=4), [(0, member.root)])])
    header, parts = parts_of(packed(filled.store))
    line, events, rest = log_of(parts[4][2])
    end = encode({"events": 3, "leaves": 5, "checkpoints": 2})
    cut = rest[: rest.rindex(b"E\0\0\0")] + b"E" + len(end).to_bytes(4, "big") + end
    parts[4] = ("log", {}, line + b"".join(events[:3]) + cut)
    refused(joined(header, parts), MalformedError, "the log lacks events")


def test_a_store_that_is_not_empty(filled: Filled, archive: bytes) -> None:
    with pytest.raises(RefusedError, match="not empty"):
        loaded(filled.store, archive)


def test_a_store_with_only_an_identity_is_not_empty(archive: bytes, new_member: Any) -> None:
    store, member = MemoryStore(), new_member(1)
    with store.write() as tx:
        add_events(tx, member.identity, member.events)
    with pytest.raises(RefusedError, match="not empty"):
        loaded(store, archive)
