"""What anchoring keeps in the store: the outbox of anchors, their archived receipts, and acquired timestamps.

The tables join ledger's ``MetaData``, so that a checkpoint and its pending anchor commit in one transaction. Functions
take the SQLAlchemy connection of a store's transaction. An anchor's row moves along its states; transactions, receipts
and timestamps are history and only added.

Spec: docs/spec/anchor.md, section 5. Times are milliseconds UTC since the epoch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    ForeignKey,
    Integer,
    LargeBinary,
    Row,
    Table,
    Text,
    UniqueConstraint,
    delete,
    func,
    insert,
    select,
    update,
)

from anchoring.receipt import AnchorReceipt, encode_receipt, parse_receipt, receipt_digest
from identity.errors import ConflictError, DamagedFile, MalformedError, RefusedError
from ledger.storage.schema import checkpoint, metadata

__all__ = [
    "AnchorState",
    "StoredAnchor",
    "StoredTimestamp",
    "StoredTransaction",
    "add_timestamp",
    "add_transaction",
    "archive_receipt",
    "enqueue_anchor",
    "find_anchor",
    "load_anchors",
    "load_receipt",
    "load_timestamps",
    "load_transactions",
    "move_anchor",
    "newest_final_anchor",
    "newest_token_size",
    "newest_tokens",
    "require_sound",
    "timestamped_sizes",
    "unattached_rows",
]

_Row = BigInteger().with_variant(Integer(), "sqlite")

_anchor: Final = Table(
    "anchor",
    metadata,
    Column("size", _Row, primary_key=True, autoincrement=False),
    Column("root", LargeBinary, nullable=False),
    Column("state", Text, nullable=False),
    Column("reason", Text),
    Column("block_number", BigInteger),
    Column("block_hash", LargeBinary),
    Column("changed_ms", BigInteger, nullable=False),
)

_transaction: Final = Table(
    "anchor_transaction",
    metadata,
    Column("id", _Row, primary_key=True),
    Column("hash", LargeBinary, nullable=False, unique=True),
    Column("size", BigInteger, ForeignKey("anchor.size"), nullable=False, index=True),
    Column("prev_size", BigInteger, nullable=False),
    Column("nonce", BigInteger, nullable=False),
    Column("max_fee", BigInteger, nullable=False),
    Column("priority_fee", BigInteger, nullable=False),
    Column("raw", LargeBinary, nullable=False),
    Column("prepared_ms", BigInteger, nullable=False),
)

_receipt: Final = Table(
    "anchor_receipt",
    metadata,
    Column("id", _Row, primary_key=True),
    Column("size", BigInteger, ForeignKey("anchor.size"), nullable=False),
    Column("block_hash", LargeBinary, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("receipt", LargeBinary, nullable=False),
    Column("archived_ms", BigInteger, nullable=False),
    UniqueConstraint("size", "block_hash"),
)

_timestamp: Final = Table(
    "timestamp_token",
    metadata,
    Column("id", _Row, primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("authority", Text, nullable=False),
    Column("response", LargeBinary, nullable=False),
    Column("gen_time_ms", BigInteger, nullable=False),
    Column("acquired_ms", BigInteger, nullable=False),
    UniqueConstraint("size", "response"),
)

_material: Final = Table(
    "timestamp_material",
    metadata,
    Column("id", _Row, primary_key=True),
    Column("token", BigInteger, ForeignKey("timestamp_token.id"), nullable=False, index=True),
    Column("kind", Text, nullable=False),
    Column("data", LargeBinary, nullable=False),
)


class AnchorState(StrEnum):
    """How far an anchor has come. Nothing below ``final`` is an anchor to anybody else."""

    PENDING = "pending"
    """To be sent, or to be sent again because its block is gone."""
    SUBMITTED = "submitted"
    """A transaction is stored and was handed to a node, or is about to be."""
    MINED = "mined"
    """In a block that may still be replaced."""
    FINAL = "final"
    """In a final block, with its receipt archived."""
    FAILED = "failed"
    """It will never be on the chain; the reason says why."""


@dataclass(frozen=True, slots=True)
class StoredAnchor:
    """The anchor of the checkpoint of ``size``. The block is known from ``MINED`` on."""

    size: int
    root: bytes
    state: AnchorState
    reason: str | None
    block_number: int | None
    block_hash: bytes | None
    changed_ms: int


@dataclass(frozen=True, slots=True)
class StoredTransaction:
    """A signed transaction of an anchor. It is stored before it is sent; fees are wei for each unit of gas."""

    hash: bytes
    size: int
    prev_size: int
    nonce: int
    max_fee: int
    priority_fee: int
    raw: bytes
    prepared_ms: int


@dataclass(frozen=True, slots=True)
class StoredTimestamp:
    """A timestamp of the checkpoint of ``size`` as it was acquired: everything DER. ``authority`` is its name here."""

    size: int
    authority: str
    response: bytes
    certificates: tuple[bytes, ...]
    crls: tuple[bytes, ...]
    ocsps: tuple[bytes, ...]
    gen_time_ms: int
    acquired_ms: int


def enqueue_anchor(connection: Connection, size: int, root: bytes, now_ms: int) -> None:
    """Ask for the checkpoint of ``size`` to be anchored. Asking again for the same changes nothing.

    A checkpoint covers all smaller ones, so older requests for which nothing was sent yet are dropped. Raises
    ``ConflictError`` when another root was asked for at that size, ``RefusedError`` for a size below one asked for.
    """
    found = connection.execute(select(_anchor).order_by(_anchor.c.size.desc()).limit(1)).first()
    newest = None if found is None else _to_anchor(found)
    if newest is not None and newest.size == size and newest.root != root:
        raise ConflictError(f"another root of size {size} is to be anchored: {newest.root.hex()}, not {root.hex()}")
    if newest is not None and newest.size > size:
        raise RefusedError(f"a checkpoint of {newest.size} is to be anchored already, {size} is smaller")
    sent = select(_transaction.c.size)
    unsent = (_anchor.c.state == AnchorState.PENDING) & (_anchor.c.size < size) & _anchor.c.size.not_in(sent)
    connection.execute(delete(_anchor).where(unsent))
    if newest is None or newest.size < size:
        row = {"size": size, "root": root, "state": AnchorState.PENDING.value, "changed_ms": now_ms}
        connection.execute(insert(_anchor).values(row))


def load_anchors(connection: Connection, *states: AnchorState) -> list[StoredAnchor]:
    """The anchors in one of the states, or all, by size."""
    query = select(_anchor).order_by(_anchor.c.size)
    if states:
        query = query.where(_anchor.c.state.in_([state.value for state in states]))
    return [_to_anchor(row) for row in connection.execute(query)]


def newest_final_anchor(connection: Connection, *, below: int | None = None) -> StoredAnchor | None:
    """The final anchor with the largest size, of those smaller than ``below`` if that is given, or None."""
    query = select(_anchor).where(_anchor.c.state == AnchorState.FINAL.value).order_by(_anchor.c.size.desc()).limit(1)
    if below is not None:
        query = query.where(_anchor.c.size < below)
    row = connection.execute(query).first()
    return None if row is None else _to_anchor(row)


def find_anchor(connection: Connection, size: int) -> StoredAnchor | None:
    """The anchor of the checkpoint of ``size``, or None when none was asked for."""
    row = connection.execute(select(_anchor).where(_anchor.c.size == size)).first()
    return None if row is None else _to_anchor(row)


def move_anchor(
    connection: Connection,
    anchor: StoredAnchor,
    state: AnchorState,
    now_ms: int,
    *,
    reason: str | None = None,
    block: tuple[int, bytes] | None = None,
) -> StoredAnchor:
    """Move the anchor on from the state it was read in; ``block`` is (number, hash) of the block it stands in.

    Raises ``ConflictError`` when somebody else has moved it.
    """
    number, block_hash = block if block is not None else (None, None)
    moved = StoredAnchor(anchor.size, anchor.root, state, reason, number, block_hash, now_ms)
    unchanged = (
        (_anchor.c.size == anchor.size)
        & (_anchor.c.state == anchor.state.value)
        & _anchor.c.block_hash.is_not_distinct_from(anchor.block_hash)
    )
    values = {
        "state": state.value,
        "reason": reason,
        "block_number": number,
        "block_hash": block_hash,
        "changed_ms": now_ms,
    }
    if connection.execute(update(_anchor).where(unchanged).values(values)).rowcount != 1:
        raise ConflictError(f"the anchor of size {anchor.size} is no longer {anchor.state.value}")
    return moved


def add_transaction(connection: Connection, transaction: StoredTransaction) -> None:
    """Keep a signed transaction, before it is sent. One that is kept already is left as it is."""
    known = select(_transaction.c.id).where(_transaction.c.hash == transaction.hash)
    if connection.execute(known).first() is None:
        connection.execute(insert(_transaction).values(_values(transaction)))


def load_transactions(connection: Connection, size: int) -> list[StoredTransaction]:
    """The transactions of the anchor of ``size``, in the order they were made."""
    query = select(_transaction).where(_transaction.c.size == size).order_by(_transaction.c.id)
    return [_to_transaction(row) for row in connection.execute(query)]


def archive_receipt(connection: Connection, anchor: StoredAnchor, receipt: AnchorReceipt, now_ms: int) -> None:
    """Keep a verified receipt of the anchor in the block it stands in; the first one of a block stays."""
    if _find_receipt(connection, anchor) is None:
        row = {
            "size": anchor.size,
            "block_hash": anchor.block_hash,
            "digest": receipt_digest(receipt),
            "receipt": encode_receipt(receipt),
            "archived_ms": now_ms,
        }
        connection.execute(insert(_receipt).values(row))


def load_receipt(connection: Connection, anchor: StoredAnchor) -> AnchorReceipt | None:
    """The receipt of the anchor in the block it stands in, as it was verified when it was archived, or None.

    Raises ``DamagedFile`` when the row no longer holds what was put there.
    """
    row = _find_receipt(connection, anchor)
    if row is None:
        return None
    try:
        receipt = parse_receipt(row.receipt)
    except MalformedError as exc:
        raise DamagedFile(f"the archived receipt of size {anchor.size} is damaged: {exc}") from exc
    if receipt_digest(receipt) != row.digest:
        raise DamagedFile(f"the archived receipt of size {anchor.size} is not the one that was archived")
    return receipt


def add_timestamp(connection: Connection, timestamp: StoredTimestamp) -> None:
    """Keep an acquired timestamp. The same response for the same size is kept once."""
    same = (_timestamp.c.size == timestamp.size) & (_timestamp.c.response == timestamp.response)
    if connection.execute(select(_timestamp.c.id).where(same)).first() is not None:
        return
    row = {
        "size": timestamp.size,
        "authority": timestamp.authority,
        "response": timestamp.response,
        "gen_time_ms": timestamp.gen_time_ms,
        "acquired_ms": timestamp.acquired_ms,
    }
    token = connection.execute(insert(_timestamp).values(row)).inserted_primary_key
    assert token is not None
    for kind in _KINDS:
        for data in getattr(timestamp, kind):
            connection.execute(insert(_material).values(token=token[0], kind=kind, data=data))


def load_timestamps(connection: Connection, size: int) -> list[StoredTimestamp]:
    """The timestamps of the checkpoint of ``size``, in the order they were acquired."""
    query = select(_timestamp).where(_timestamp.c.size == size).order_by(_timestamp.c.id)
    return [_to_timestamp(connection, row) for row in connection.execute(query).all()]


def timestamped_sizes(connection: Connection) -> frozenset[int]:
    """The sizes of the checkpoints that have a timestamp at all."""
    return frozenset(connection.execute(select(_timestamp.c.size).distinct()).scalars())


def newest_token_size(connection: Connection, *, below: int | None = None) -> int | None:
    """The size of the largest checkpoint that has a token, of those smaller than ``below`` if that is given."""
    query = select(func.max(_timestamp.c.size))
    if below is not None:
        query = query.where(_timestamp.c.size < below)
    return connection.execute(query).scalar()


def newest_tokens(connection: Connection) -> dict[str, tuple[int, int]]:
    """Of each authority that has ever answered, by its name here: the newest token's size and time in milliseconds."""
    newest = select(_timestamp.c.authority, func.max(_timestamp.c.id).label("id")).group_by(_timestamp.c.authority)
    same = newest.subquery()
    query = select(_timestamp).join(same, _timestamp.c.id == same.c.id).order_by(_timestamp.c.authority)
    found = {}
    for row in connection.execute(query):
        require_sound(_timestamp, row)
        found[row.authority] = row.size, row.gen_time_ms
    return found


def unattached_rows(connection: Connection) -> Iterator[str]:
    """The rows that nothing reads, because what they belong to is not here, each in a sentence.

    Nobody writes such rows. They are what is left when the row above them was deleted or altered.
    """
    anchors, checkpoints, tokens = select(_anchor.c.size), select(checkpoint.c.size), select(_timestamp.c.id)
    at_anchored = select(_anchor.c.size).where(
        _anchor.c.size == _receipt.c.size, _anchor.c.block_hash == _receipt.c.block_hash
    )
    final = select(_anchor.c.size).where(_anchor.c.state == AnchorState.FINAL.value)
    orphans = {
        "a transaction of an anchor that is not here": select(_transaction.c.size).where(
            _transaction.c.size.not_in(anchors)
        ),
        "a receipt of an anchor that is not here": select(_receipt.c.size).where(_receipt.c.size.not_in(anchors)),
        "a receipt of another block than the one its final anchor is in": select(_receipt.c.size).where(
            _receipt.c.size.in_(final), ~at_anchored.exists()
        ),
        "a token of a checkpoint that is not here": select(_timestamp.c.size).where(
            _timestamp.c.size.not_in(checkpoints)
        ),
        "material of a token that is not here": select(_material.c.token).where(_material.c.token.not_in(tokens)),
        "material of no known kind": select(_material.c.token).where(_material.c.kind.not_in(_KINDS)),
    }
    for what, query in orphans.items():
        for number in connection.execute(query.distinct()).scalars():
            yield f"{what}: number {number}"


_KINDS: Final = ("certificates", "crls", "ocsps")


def _find_receipt(connection: Connection, anchor: StoredAnchor) -> Row[Any] | None:
    same = (_receipt.c.size == anchor.size) & (_receipt.c.block_hash == anchor.block_hash)
    row = connection.execute(select(_receipt).where(same)).first()
    if row is not None:
        require_sound(_receipt, row)
    return row


def require_sound(table: Table, row: Row[Any]) -> None:
    """Raise ``DamagedFile`` for a row with a value of a type that nobody here writes: SQLite takes any."""
    for column in table.c:
        expected = {LargeBinary: bytes, Text: str}.get(type(column.type), int)
        value = getattr(row, column.name)
        if type(value) is not expected and not (value is None and column.nullable):
            raise DamagedFile(f"table {table.name}: {column.name} holds a {type(value).__name__}")


def _to_anchor(row: Row[Any]) -> StoredAnchor:
    require_sound(_anchor, row)
    try:
        state = AnchorState(row.state)
    except ValueError as exc:
        raise DamagedFile(f"the anchor of size {row.size} is in no known state: {row.state}") from exc
    return StoredAnchor(row.size, row.root, state, row.reason, row.block_number, row.block_hash, row.changed_ms)


def _values(transaction: StoredTransaction) -> dict[str, Any]:
    return {name: getattr(transaction, name) for name in StoredTransaction.__slots__}


def _to_transaction(row: Row[Any]) -> StoredTransaction:
    require_sound(_transaction, row)
    return StoredTransaction(*(getattr(row, name) for name in StoredTransaction.__slots__))


def _to_timestamp(connection: Connection, row: Row[Any]) -> StoredTimestamp:
    require_sound(_timestamp, row)
    material = connection.execute(select(_material).where(_material.c.token == row.id).order_by(_material.c.id)).all()
    for item in material:
        require_sound(_material, item)
    of_kind = {kind: tuple(item.data for item in material if item.kind == kind) for kind in _KINDS}
    return StoredTimestamp(
        size=row.size,
        authority=row.authority,
        response=row.response,
        gen_time_ms=row.gen_time_ms,
        acquired_ms=row.acquired_ms,
        **of_kind,
    )
