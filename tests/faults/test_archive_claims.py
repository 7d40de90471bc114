"""What an archive says about time and chain: what is false or missing is refused, whoever sealed the file."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from eth_hash.auto import keccak
from sqlalchemy import select

from anchoring.archive_file import archived_store, write_archive
from anchoring.chain.transactions import LocalKey, Transaction
from anchoring.contracts import anchor_call, load_contract
from anchoring.evidence import encode_evidence
from anchoring.exporter import export_evidence
from anchoring.storage import (
    AnchorState,
    StoredTransaction,
    add_transaction,
    enqueue_anchor,
    load_anchors,
    load_timestamps,
    load_transactions,
    move_anchor,
)
from anchoring.witness import open_archive
from identity.encoding import decode, encode
from identity.errors import AuditError, MalformedError, VerificationError
from ledger.archive import ArchiveHeader, ArchiveReader, ArchiveWriter, Purpose
from ledger.storage.schema import metadata
from ledger.storage.sql import SqlStore

pytestmark = pytest.mark.fault

Records = list[tuple[bytes, Any]]
Parts = list[tuple[str, dict[str, Any], bytes]]
CODE = load_contract().code_hash


@pytest.fixture(scope="module")
def sealed(founded: Any, clone: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A world with two anchors that the log names, one that it does not yet, and one that was asked for."""
    world = clone(founded, tmp_path_factory.mktemp("sealed"))
    world.append("one")
    world.seal()
    world.append("two")
    world.seal()
    world.append("three")
    world.seal()
    world.append("four")
    last = world.checkpoint()
    with world.unguarded() as store, store.write() as tx:
        enqueue_anchor(tx.connection, last.size, last.root, world.clock())
    return world


def archive_of(store: SqlStore, purpose: Purpose = Purpose.BACKUP) -> bytes:
    out = io.BytesIO()
    with store.read() as tx:
        write_archive(tx, out, purpose, archive_id=b"\5" * 32, made_ms=7)
    return out.getvalue()


@pytest.fixture
def backup(sealed: Any) -> bytes:
    with sealed.unguarded() as store:
        return archive_of(store)


def take_apart(data: bytes) -> tuple[ArchiveHeader, Parts]:
    reader = ArchiveReader(io.BytesIO(data))
    names = ("key", "length", "tree", "local", "retired")
    return reader.header, [
        (section.name, {name: section.facts.value(name) for name in names if section.facts.has(name)}, content)
        for section in reader.sections()
        if (content := section.content.read()) is not None
    ]


def records_of(content: bytes) -> Records:
    found: Records = []
    while content:
        size = int.from_bytes(content[1:5], "big")
        payload = content[5 : 5 + size]
        found.append((content[:1], decode(payload) if content[:1] in b"TAXPE" else payload))
        content = content[5 + size :]
    return found


def altered(data: bytes, name: str, change: Callable[[Records], None]) -> bytes:
    """The archive with one section changed record by record, its counts and digest made to fit."""
    header, parts = take_apart(data)
    out = io.BytesIO()
    writer = ArchiveWriter(out, header)
    for section, facts, content in parts:
        if section == name:
            records = records_of(content)
            change(records)
            counted = {"timestamps": b"T", "anchors": b"A"}[name]
            records[-1] = (b"E", {name: sum(kind == counted for kind, _ in records)})
        with writer.section(section, facts) as stream:
            stream.write(b"".join(framed(*record) for record in records) if section == name else content)
    writer.finish()
    return out.getvalue()


def framed(kind: bytes, value: Any) -> bytes:
    payload = value if isinstance(value, bytes) else encode(value)
    return kind + len(payload).to_bytes(4, "big") + payload


def refused(data: bytes, error: type[AuditError], message: str) -> None:
    with pytest.raises(error, match=message), archived_store(io.BytesIO(data), CODE):
        pytest.fail("it was taken in")


def places(records: Records, kind: bytes) -> list[int]:
    return [place for place, (found, _) in enumerate(records) if found == kind]


# --- out and in


def rows(store: SqlStore, table: str) -> list[tuple[Any, ...]]:
    with store.read() as tx:
        columns = [column for column in metadata.tables[table].c if column.name not in ("id", "token")]
        return sorted(tuple(row) for row in tx.connection.execute(select(*columns)))


@pytest.fixture
def loaded(backup: bytes) -> Iterator[SqlStore]:
    with archived_store(io.BytesIO(backup), CODE) as (store, _):
        yield store


@pytest.mark.parametrize(
    "table", ["anchor", "anchor_transaction", "anchor_receipt", "timestamp_token", "timestamp_material"]
)
def test_every_row_of_anchoring_arrives(sealed: Any, loaded: SqlStore, table: str) -> None:
    with sealed.unguarded() as store:
        before = rows(store, table)
    assert rows(loaded, table) == before
    assert before


def test_order_is_kept(sealed: Any, loaded: SqlStore) -> None:
    with sealed.unguarded() as store, store.read() as one, loaded.read() as other:
        for anchor in load_anchors(one.connection):
            assert load_timestamps(other.connection, anchor.size) == load_timestamps(one.connection, anchor.size)
            assert load_transactions(other.connection, anchor.size) == load_transactions(one.connection, anchor.size)


def test_evidence_out_of_a_restored_store_is_the_same(sealed: Any, loaded: SqlStore) -> None:
    key = sealed.key("ledger")
    with sealed.unguarded() as store, store.read() as one, loaded.read() as other:
        for index in range(3):
            made = [encode_evidence(export_evidence(tx, open_archive(tx), key, index)) for tx in (one, other)]
            assert made[0] == made[1]


def test_an_export_has_no_outbox(sealed: Any) -> None:
    with sealed.unguarded() as store:
        data = archive_of(store, Purpose.EXPORT)
        raw = [row[-2] for row in rows(store, "anchor_transaction")]
    with archived_store(io.BytesIO(data), CODE) as (store, _):
        assert rows(store, "anchor_transaction") == []
        with store.read() as tx:
            assert {anchor.state for anchor in load_anchors(tx.connection)} == {AnchorState.FINAL}
    assert [item for item in raw if isinstance(item, bytes) and item in data] == []


def test_a_transaction_on_its_way_is_sent_again_as_it_was(sealed: Any, clone: Any, tmp_path: Any) -> None:
    """A restored worker that signed another one for the same nonce could pay twice."""
    world = clone(sealed, tmp_path)
    with world.session(read_only=True) as session:
        log_id, descriptor = session.vault.log_descriptor()
    with world.unguarded() as store:
        with store.write() as tx:
            (pending,) = load_anchors(tx.connection, AnchorState.PENDING)
        last = rows(store, "anchor_transaction")[-1]
        data = anchor_call(log_id, last[2], pending.size, pending.root)
        sent = Transaction(descriptor.chain.id, 9, descriptor.chain.contract, data, 150_000, 10, 1)
        raw = LocalKey(world.ring.anchor_key).sign(sent)
        with store.write() as tx:
            mine = StoredTransaction(keccak(raw), pending.size, last[2], 9, 10, 1, raw, 5)
            add_transaction(tx.connection, mine)
            move_anchor(tx.connection, pending, AnchorState.SUBMITTED, 6)
        data = archive_of(store)
    with archived_store(io.BytesIO(data), CODE) as (store, _), store.read() as tx:
        (anchor,) = load_anchors(tx.connection, AnchorState.SUBMITTED)
        assert load_transactions(tx.connection, anchor.size) == [mine]


# --- timestamps


def first_token(records: Records, **changes: object) -> None:
    kind, fields = records[0]
    records[0] = (kind, fields | changes)


def without_first_token(records: Records) -> None:
    del records[: places(records, b"T")[1]]


def without_material(records: Records) -> None:
    """Whatever came with the first token and can be left out: the log names its digest."""
    place = next(place for place, (kind, _) in enumerate(records) if kind in b"CLO")
    name = {b"C": "certificates", b"L": "crls", b"O": "ocsps"}[records[place][0]]
    first_token(records, **{name: records[0][1][name] - 1})
    del records[place]


def swapped_tokens(records: Records) -> None:
    one, other = places(records, b"R")[:2]
    records[one], records[other] = records[other], records[one]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (without_first_token, VerificationError, "of the responses that it names for checkpoint .* are gone"),
        (without_material, VerificationError, "that it names for checkpoint .* are gone"),
        (swapped_tokens, VerificationError, "are gone or altered|not about that checkpoint"),
        (lambda records: first_token(records, time=5), VerificationError, "is not the one that it states"),
        (lambda records: first_token(records, size=2), VerificationError, "which is no checkpoint's"),
        (lambda records: first_token(records, size=0), MalformedError, "must be in"),
        (lambda records: first_token(records, crls=0), MalformedError, "where|a record"),
        (lambda records: first_token(records, ocsps=256), MalformedError, "where b'O' belongs"),
        (lambda records: first_token(records, ocsps=257), MalformedError, "must be in"),
        (lambda records: first_token(records, extra=1), MalformedError, "unknown key"),
        (lambda records: records.pop(0), MalformedError, "where a timestamp begins"),
        (lambda records: records.insert(0, (b"R", b"")), MalformedError, "where a timestamp begins"),
        (lambda records: records.insert(1, (b"Q", b"")), MalformedError, "unknown record"),
        (lambda records: records.insert(-1, records[0]), MalformedError, "where b'R' belongs"),
    ],
)
def test_false_timestamps(
    backup: bytes, change: Callable[[Records], None], error: type[AuditError], message: str
) -> None:
    refused(altered(backup, "timestamps", change), error, message)


def test_a_timestamp_twice(backup: bytes) -> None:
    def double(records: Records) -> None:
        records[0:0] = records[: places(records, b"T")[1]]

    refused(altered(backup, "timestamps", double), MalformedError, "stands in it twice")


# --- anchors


def first_of(kind: bytes, **changes: object) -> Callable[[Records], None]:
    def change(records: Records) -> None:
        place = places(records, kind)[0]
        records[place] = (kind, records[place][1] | changes)

    return change


def without_first(kind: bytes) -> Callable[[Records], None]:
    return lambda records: records.pop(places(records, kind)[0]) and None


def without_first_anchor(records: Records) -> None:
    del records[: places(records, b"A")[1]]


def swapped_receipts(records: Records) -> None:
    one, other = places(records, b"P")[:2]
    first, second = records[one][1]["receipt"], records[other][1]["receipt"]
    records[one] = (b"P", records[one][1] | {"receipt": second})
    records[other] = (b"P", records[other][1] | {"receipt": first})


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (without_first_anchor, VerificationError, "final anchor of size .* is not here"),
        (without_first(b"P"), VerificationError, "is not here|there is no receipt"),
        (swapped_receipts, VerificationError, "is not here|does not verify"),
        (first_of(b"A", root=bytes(32)), VerificationError, "its root is not the log's"),
        (first_of(b"A", state="mined"), VerificationError, "is not here"),
        (first_of(b"A", state="sunk"), MalformedError, "unknown state 'sunk'"),
        (first_of(b"A", block=None), MalformedError, "in no block"),
        (
            first_of(b"A", block={"hash": bytes(32), "number": 1}),
            VerificationError,
            "is not here|another block",
        ),
        (first_of(b"A", block={"hash": bytes(32)}), MalformedError, "'number' is missing"),
        (first_of(b"A", size=2), VerificationError, "which is no checkpoint's"),
        (first_of(b"A", size=0), MalformedError, "must be in"),
        (first_of(b"A", extra=1), MalformedError, "unknown key"),
        (first_of(b"P", receipt=b"\xa0"), MalformedError, "is missing"),
        (first_of(b"P", block=b""), MalformedError, "must have 32"),
        (first_of(b"X", prev_size=10**9), MalformedError, "must be in"),
        (first_of(b"X", max_fee=0), MalformedError, "must be in"),
        (first_of(b"X", raw="text"), MalformedError, "must be bytes"),
        (lambda records: records.insert(0, records[1]), MalformedError, "before the first anchor"),
        (lambda records: records.insert(1, records[1]), MalformedError, "a transaction stands in it twice"),
        (lambda records: records.insert(3, records[places(records, b"P")[0]]), MalformedError, "receipt stands in it"),
        (lambda records: records.insert(0, records[0]), MalformedError, "doubled or out of order"),
    ],
)
def test_false_anchors(backup: bytes, change: Callable[[Records], None], error: type[AuditError], message: str) -> None:
    refused(altered(backup, "anchors", change), error, message)


@pytest.mark.parametrize("name", ["timestamps", "anchors"])
def test_a_count_that_is_not_that_of_the_section(backup: bytes, name: str) -> None:
    header, parts = take_apart(backup)
    out = io.BytesIO()
    writer = ArchiveWriter(out, header)
    for section, facts, content in parts:
        with writer.section(section, facts) as stream:
            end = content.rindex(b"E\0\0\0") if section == name else len(content)
            stream.write(content[:end] + (framed(b"E", {name: 9}) if section == name else b""))
    writer.finish()
    refused(out.getvalue(), MalformedError, f"{name}, the end of the section says 9")


@pytest.mark.parametrize("kind", ["transaction", "open anchor"])
def test_an_export_with_an_outbox(sealed: Any, kind: str) -> None:
    with sealed.unguarded() as store:
        data = archive_of(store, Purpose.EXPORT)

    def add(records: Records) -> None:
        if kind == "transaction":
            fields = {"raw": b"\2", "prev_size": 0, "nonce": 0, "max_fee": 1, "priority_fee": 1, "prepared": 0}
            records.insert(1, (b"X", fields))
        else:
            place = places(records, b"A")[-1]
            records.insert(-1, (b"A", records[place][1] | {"size": 10**6, "state": "pending", "block": None}))

    refused(altered(data, "anchors", add), MalformedError, "an export with")
