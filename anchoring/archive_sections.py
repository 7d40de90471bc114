"""What anchoring puts into an archive: timestamps with what came with them, and anchors with their receipts.

Implements docs/spec/archive.md, sections "timestamps" and "anchors". A backup also holds the outbox: anchors that are
not final and every transaction that was signed for one, so that a restored worker sends the same bytes again and never
others. An export holds final anchors and their receipts only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO, Final

from eth_hash.auto import keccak
from sqlalchemy import Connection, select

from anchoring.receipt import parse_receipt, receipt_digest
from anchoring.storage import (
    AnchorState,
    StoredAnchor,
    StoredTimestamp,
    StoredTransaction,
    add_timestamp,
    add_transaction,
    load_anchors,
    load_timestamps,
    load_transactions,
)
from anchoring.timestamp import MAX_RESPONSE_BYTES
from anchoring.timestamp.certificates import MAX_CERTIFICATE_BYTES
from anchoring.timestamp.revocation import MAX_CRL_BYTES, MAX_OCSP_BYTES
from identity.encoding import MAX_BYTES, Fields, decode, encode
from identity.errors import MalformedError, VerificationError
from ledger.archive import ArchiveWriter, Purpose, Section
from ledger.framing import RecordReader, encode_record
from ledger.storage.schema import metadata
from ledger.storage.sql import SqlReadTransaction, SqlWriteTransaction

__all__ = ["ANCHORS", "TIMESTAMPS", "read_anchors", "read_timestamps", "write_anchoring_sections"]

TIMESTAMPS: Final = "timestamps"
ANCHORS: Final = "anchors"

_TIMESTAMP, _RESPONSE, _CERTIFICATE, _CRL, _OCSP = b"T", b"R", b"C", b"L", b"O"
_ANCHOR, _TRANSACTION, _RECEIPT = b"A", b"X", b"P"
_END: Final = b"E"

_TIMESTAMP_LIMITS: Final = {
    _TIMESTAMP: 4096,
    _RESPONSE: MAX_RESPONSE_BYTES,
    _CERTIFICATE: MAX_CERTIFICATE_BYTES,
    _CRL: MAX_CRL_BYTES,
    _OCSP: MAX_OCSP_BYTES,
    _END: 64,
}
_ANCHOR_LIMITS: Final = {_ANCHOR: 4096, _TRANSACTION: 256 * 1024, _RECEIPT: MAX_BYTES, _END: 64}

_KINDS: Final = (("certificates", _CERTIFICATE), ("crls", _CRL), ("ocsps", _OCSP))
_MAX_ITEMS: Final = 256
_IN_BLOCK: Final = (AnchorState.MINED, AnchorState.FINAL)

_token: Final = metadata.tables["timestamp_token"]
_anchor: Final = metadata.tables["anchor"]
_receipt: Final = metadata.tables["anchor_receipt"]


# --- writing --------------------------------------------------------------------------------------------------------


def write_anchoring_sections(tx: SqlReadTransaction, writer: ArchiveWriter, purpose: Purpose) -> None:
    """Write both sections. Raises ``StorageError`` for rows that cannot be read."""
    with writer.section(TIMESTAMPS) as out:
        _write_timestamps(tx.connection, out)
    states = () if purpose is Purpose.BACKUP else (AnchorState.FINAL,)
    with writer.section(ANCHORS) as out:
        _write_anchors(tx.connection, out, load_anchors(tx.connection, *states), with_transactions=not states)


def _write_timestamps(connection: Connection, out: BinaryIO) -> None:
    count = 0
    for size in connection.execute(select(_token.c.size).distinct().order_by(_token.c.size)).scalars().all():
        for stored in load_timestamps(connection, size):
            out.write(encode_record(_TIMESTAMP, _encode_timestamp(stored)))
            out.write(encode_record(_RESPONSE, stored.response))
            for name, kind in _KINDS:
                out.writelines(encode_record(kind, item) for item in getattr(stored, name))
            count += 1
    out.write(encode_record(_END, encode({"timestamps": count})))


def _encode_timestamp(stored: StoredTimestamp) -> bytes:
    return encode(
        {
            "size": stored.size,
            "authority": stored.authority,
            "time": stored.gen_time_ms,
            "acquired": stored.acquired_ms,
            **{name: len(getattr(stored, name)) for name, _ in _KINDS},
        }
    )


def _write_anchors(
    connection: Connection, out: BinaryIO, anchors: list[StoredAnchor], *, with_transactions: bool
) -> None:
    for anchor in anchors:
        out.write(encode_record(_ANCHOR, _encode_anchor(anchor)))
        if with_transactions:
            transactions = map(_encode_transaction, load_transactions(connection, anchor.size))
            out.writelines(encode_record(_TRANSACTION, transaction) for transaction in transactions)
        receipts = map(encode, _receipts(connection, anchor, all_blocks=with_transactions))
        out.writelines(encode_record(_RECEIPT, receipt) for receipt in receipts)
    out.write(encode_record(_END, encode({"anchors": len(anchors)})))


def _encode_anchor(anchor: StoredAnchor) -> bytes:
    block = None if anchor.block_hash is None else {"hash": anchor.block_hash, "number": anchor.block_number}
    return encode(
        {
            "size": anchor.size,
            "root": anchor.root,
            "state": anchor.state.value,
            "reason": anchor.reason,
            "block": block,
            "changed": anchor.changed_ms,
        }
    )


def _encode_transaction(transaction: StoredTransaction) -> bytes:
    return encode(
        {
            "raw": transaction.raw,
            "prev_size": transaction.prev_size,
            "nonce": transaction.nonce,
            "max_fee": transaction.max_fee,
            "priority_fee": transaction.priority_fee,
            "prepared": transaction.prepared_ms,
        }
    )


def _receipts(connection: Connection, anchor: StoredAnchor, *, all_blocks: bool) -> Iterator[dict[str, Any]]:
    query = select(_receipt).where(_receipt.c.size == anchor.size).order_by(_receipt.c.id)
    if not all_blocks:
        query = query.where(_receipt.c.block_hash == anchor.block_hash)
    for row in connection.execute(query).all():
        yield {"block": row.block_hash, "archived": row.archived_ms, "receipt": row.receipt}


# --- reading --------------------------------------------------------------------------------------------------------


def read_timestamps(tx: SqlWriteTransaction, section: Section) -> None:
    """Take in the timestamps. That each is about its checkpoint is for ``archive_faults``, over the whole store.

    Raises ``MalformedError``, and ``VerificationError`` for one of a size that is no checkpoint's.
    """
    reader = RecordReader(section.content, "archive: timestamps", _TIMESTAMP_LIMITS)
    count = 0
    while True:
        kind, payload = reader.record()
        if kind == _END:
            break
        stored = _read_timestamp(reader, kind, payload)
        if tx.checkpoint(stored.size) is None:
            raise VerificationError(f"archive: a timestamp of size {stored.size}, which is no checkpoint's")
        add_timestamp(tx.connection, stored)
        count += 1
    _check_end(reader, payload, "timestamps", count)
    rows = tx.connection.execute(select(_token.c.id)).all()
    if len(rows) != count:
        raise MalformedError("archive: a timestamp stands in it twice")


def _read_timestamp(reader: RecordReader, kind: bytes, payload: bytes) -> StoredTimestamp:
    if kind != _TIMESTAMP:
        raise MalformedError(f"archive: timestamps: a record {kind!r} where a timestamp begins")
    fields = Fields(decode(payload), "archive: timestamp")
    size, authority = fields.int("size", min=1), fields.text("authority", max=1000)
    gen_time_ms, acquired_ms = fields.int("time"), fields.int("acquired")
    counts = [(item, fields.int(name, max=_MAX_ITEMS)) for name, item in _KINDS]
    fields.done()
    response = _expect(reader, _RESPONSE)
    certificates, crls, ocsps = (tuple(_expect(reader, item) for _ in range(count)) for item, count in counts)
    return StoredTimestamp(size, authority, response, certificates, crls, ocsps, gen_time_ms, acquired_ms)


def _expect(reader: RecordReader, wanted: bytes) -> bytes:
    kind, payload = reader.record()
    if kind != wanted:
        raise MalformedError(f"archive: timestamps: a record {kind!r} where {wanted!r} belongs")
    return payload


def read_anchors(tx: SqlWriteTransaction, section: Section, purpose: Purpose) -> None:
    """Take in the anchors with their transactions and receipts. Raises ``MalformedError``, ``VerificationError``.

    That a final anchor's receipt shows it, and its root is the log's, is for ``archive_faults``.
    """
    reader = RecordReader(section.content, "archive: anchors", _ANCHOR_LIMITS)
    anchor: StoredAnchor | None = None
    count = 0
    while True:
        kind, payload = reader.record()
        if kind == _END:
            break
        if kind == _ANCHOR:
            anchor = _keep_anchor(tx, payload, purpose, above=0 if anchor is None else anchor.size)
            count += 1
        elif anchor is None:
            raise MalformedError(f"archive: anchors: a record {kind!r} before the first anchor")
        elif kind == _TRANSACTION:
            _keep_transaction(tx, payload, anchor, purpose)
        else:
            _keep_receipt(tx, payload, anchor)
    _check_end(reader, payload, "anchors", count)


def _keep_anchor(tx: SqlWriteTransaction, payload: bytes, purpose: Purpose, above: int) -> StoredAnchor:
    anchor = _parse_anchor(payload)
    if anchor.size <= above:
        raise MalformedError(f"archive: the anchor of size {anchor.size} is doubled or out of order")
    if purpose is not Purpose.BACKUP and anchor.state is not AnchorState.FINAL:
        raise MalformedError(f"archive: an export with an anchor that is {anchor.state.value}")
    if tx.checkpoint(anchor.size) is None:
        raise VerificationError(f"archive: an anchor of size {anchor.size}, which is no checkpoint's")
    row = {name: getattr(anchor, name) for name in StoredAnchor.__slots__} | {"state": anchor.state.value}
    tx.connection.execute(_anchor.insert().values(row))
    return anchor


def _parse_anchor(payload: bytes) -> StoredAnchor:
    fields = Fields(decode(payload), "archive: anchor")
    block = fields.optional_map("block")
    anchor = StoredAnchor(
        size=fields.int("size", min=1),
        root=fields.bytes("root", length=32),
        state=_parse_state(fields.text("state", max=16)),
        reason=fields.optional_text("reason", max=10_000),
        block_number=None if block is None else block.int("number"),
        block_hash=None if block is None else block.bytes("hash", length=32),
        changed_ms=fields.int("changed"),
    )
    if block is not None:
        block.done()
    fields.done()
    if anchor.state in _IN_BLOCK and block is None:
        raise MalformedError(f"archive: anchor of size {anchor.size}: {anchor.state.value}, and in no block")
    return anchor


def _parse_state(text: str) -> AnchorState:
    try:
        return AnchorState(text)
    except ValueError as exc:
        raise MalformedError(f"archive: anchor: unknown state {text!r}") from exc


def _keep_transaction(tx: SqlWriteTransaction, payload: bytes, anchor: StoredAnchor, purpose: Purpose) -> None:
    if purpose is not Purpose.BACKUP:
        raise MalformedError("archive: an export with a transaction of the outbox")
    fields = Fields(decode(payload), "archive: transaction")
    raw = fields.bytes("raw")
    max_fee = fields.int("max_fee")
    transaction = StoredTransaction(
        hash=keccak(raw),
        size=anchor.size,
        prev_size=fields.int("prev_size", max=anchor.size - 1),
        nonce=fields.int("nonce"),
        max_fee=max_fee,
        priority_fee=fields.int("priority_fee", max=max_fee),
        raw=raw,
        prepared_ms=fields.int("prepared"),
    )
    fields.done()
    before = len(load_transactions(tx.connection, anchor.size))
    add_transaction(tx.connection, transaction)
    if len(load_transactions(tx.connection, anchor.size)) == before:
        raise MalformedError(f"archive: anchor of size {anchor.size}: a transaction stands in it twice")


def _keep_receipt(tx: SqlWriteTransaction, payload: bytes, anchor: StoredAnchor) -> None:
    fields = Fields(decode(payload), "archive: receipt")
    block, archived_ms = fields.bytes("block", length=32), fields.int("archived")
    data = fields.bytes("receipt")
    fields.done()
    known = select(_receipt.c.id).where((_receipt.c.size == anchor.size) & (_receipt.c.block_hash == block))
    if tx.connection.execute(known).first() is not None:
        raise MalformedError(f"archive: anchor of size {anchor.size}: a receipt stands in it twice")
    row = {
        "size": anchor.size,
        "block_hash": block,
        "digest": receipt_digest(parse_receipt(data)),
        "receipt": data,
        "archived_ms": archived_ms,
    }
    tx.connection.execute(_receipt.insert().values(row))


def _check_end(reader: RecordReader, payload: bytes, what: str, count: int) -> None:
    reader.end()
    fields = Fields(decode(payload), f"archive: end of the {what}")
    stated = fields.int(what)
    fields.done()
    if stated != count:
        raise MalformedError(f"archive: {count} {what}, the end of the section says {stated}")
