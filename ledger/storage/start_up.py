"""The store's id, and the record of starts after which writing went on in new feeds.

The tables are specified in docs/spec/storage.md. The id is made with the store and tells it from every other one; a
store that is restored or succeeds is made anew, so it is never taken for the one whose rows it holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sqlalchemy import BigInteger, Column, Connection, Integer, LargeBinary, Table, Text, insert, select

from identity.errors import DamagedFile
from ledger.storage.schema import metadata

__all__ = ["STORE_ID_BYTES", "Succession", "add_succession", "load_store_id", "load_successions"]

STORE_ID_BYTES: Final = 32

_Row = BigInteger().with_variant(Integer(), "sqlite")

_store_identity: Final = Table(
    "store_identity",
    metadata,
    Column("id", _Row, primary_key=True),
    Column("store", LargeBinary, nullable=False, unique=True),
)

_succession: Final = Table(
    "succession",
    metadata,
    Column("id", _Row, primary_key=True),
    Column("reason", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Column("feeds", BigInteger, nullable=False),
    Column("recorded_ms", BigInteger, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Succession:
    """A start, or a recovery, that retired ``feeds`` feeds of this node, and why."""

    reason: str
    detail: str
    feeds: int
    recorded_ms: int


def load_store_id(connection: Connection) -> bytes:
    """The id of the store: 32 bytes, made with it. Raises ``DamagedFile`` when it has none."""
    found = connection.execute(select(_store_identity.c.store).order_by(_store_identity.c.id.desc())).scalar()
    if not isinstance(found, bytes) or len(found) != STORE_ID_BYTES:
        raise DamagedFile("the store has lost its id")
    return found


def add_succession(connection: Connection, succession: Succession) -> None:
    """Record that feeds were retired."""
    row = {name: getattr(succession, name) for name in Succession.__slots__}
    connection.execute(insert(_succession).values(row))


def load_successions(connection: Connection) -> list[Succession]:
    """Everything that was recorded, oldest first. Raises ``DamagedFile`` for a row that cannot be."""
    rows = connection.execute(select(_succession).order_by(_succession.c.id)).all()
    found = [(row.reason, row.detail, row.feeds, row.recorded_ms) for row in rows]
    if any(tuple(map(type, values)) != (str, str, int, int) for values in found):
        raise DamagedFile("the record of a succession holds other types than belong there")
    return [Succession(*values) for values in found]
