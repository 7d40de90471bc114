"""The collections of a database, and how many documents are in each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ledger.storage.rows import checked
from sync.storage.reader import Reader
from sync.transaction import SCHEMAS

__all__ = ["CollectionInfo", "list_collections"]

_SHOWN, _HIDDEN = 1, 2

_COUNTS: Final = (
    "SELECT collection, shown, CASE WHEN conflicts > 0 THEN 1 ELSE 0 END, count(*) FROM database_document"
    " WHERE database = ? GROUP BY 1, 2, 3"
)


@dataclass(frozen=True, slots=True)
class CollectionInfo:
    """A collection that has documents, or had them, or has a schema."""

    name: str
    documents: int
    deleted: int
    conflicts: int
    """Documents of which something needs a decision."""
    has_schema: bool


def list_collections(reader: Reader) -> list[CollectionInfo]:
    """The collections by name, without those of the database itself. Every row of a document is looked at."""
    sql = _COUNTS.replace("?", reader.sql.mark)
    counts: dict[str, tuple[int, int, int]] = {}
    for row in reader.tx.fetch_all(sql, (reader.number,)):
        name, shown, is_contested, count = checked(row, str, int, int, int)
        if not name.startswith("$"):
            documents, deleted, conflicts = counts.get(name, (0, 0, 0))
            documents += count if shown == _SHOWN else 0
            deleted += count if shown == _HIDDEN else 0
            counts[name] = documents, deleted, conflicts + (count if is_contested else 0)
    with_schema = {name for (name,) in reader.tx.fetch_all(reader.sql.shown, (reader.number, SCHEMAS))}
    with_schema = {name for name in with_schema if reader.schema(name) is not None}
    names = sorted(counts.keys() | with_schema)
    return [CollectionInfo(name, *counts.get(name, (0, 0, 0)), name in with_schema) for name in names]
