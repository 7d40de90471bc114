"""The floor of the database: the same rows in the same layout, by straight-line code.

One SQLite file with the tables and indexes of a store as far as a merge or a commit writes them. It takes on trust what
ours judges: who wrote, what was seen, whether an entry is well-formed, which schema was in force. It keeps what is live
in dictionaries.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from hashlib import blake2b
from itertools import count, groupby
from pathlib import Path
from typing import Any, Final

import libipld

from benchmarks._floor import SqliteFloor
from ledger.storage.engine import open_store

__all__ = ["DatabaseFloor"]

_TABLES: Final = ("database", "database_branch", "database_txn", "database_document", "database_op")
_PUT: Final = (
    "INSERT INTO database_document VALUES (?, 1, ?, ?, ?, ?, 1, 0, 0, NULL)"
    " ON CONFLICT (id) DO UPDATE SET place = excluded.place, etag = excluded.etag"
)


def _layout(directory: Path) -> list[str]:
    """The statements that make these tables and their indexes, as a store has them."""
    with (
        tempfile.TemporaryDirectory(dir=directory) as name,
        closing(open_store(Path(name) / "s", create=True)) as store,
        store.read() as tx,
    ):
        named = ", ".join("?" * len(_TABLES))
        rows = tx.fetch_all(
            f"SELECT sql FROM sqlite_schema WHERE tbl_name IN ({named}) AND sql IS NOT NULL ORDER BY type DESC",
            _TABLES,
        )
    return [row[0] for row in rows]


class DatabaseFloor(SqliteFloor):
    """A feed and a database in one file."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        for statement in _layout(path.parent):
            self.db.execute(statement)
        self._place = count(1)
        self._documents: dict[tuple[str, str], int] = {}
        self._live: dict[tuple[int, str], int] = {}

    def merge(self, blocks: Sequence[bytes], branch: int, first: int) -> int:
        """Write what these blocks of a feed amount to; returns the number of operations."""
        self.db.execute("BEGIN IMMEDIATE")
        done = self._take(blocks, branch, first)
        self.db.execute("COMMIT")
        return done

    def commit(self, blocks: list[bytes], first: int) -> None:
        """Append blocks under one signature, with what they amount to."""
        with self.transaction():
            self.write(blocks)
            self._take(blocks, 1, first)

    def _take(self, blocks: Sequence[bytes], branch: int, first: int) -> int:
        txns: list[tuple[Any, ...]] = []
        ops: dict[int, list[Any]] = {}
        deaths: list[tuple[int, int]] = []
        touched: dict[int, tuple[Any, ...]] = {}
        for seq, block in enumerate(blocks, first):
            body: Any = libipld.decode_dag_cbor(block)["b"]
            leaf = blake2b(b"\x00" + len(block).to_bytes(8, "little") + block, digest_size=32).digest()
            base = next(self._place)
            documents = [self._document(collection, key) for collection, key in body["docs"]]
            txns.append((base, branch, seq, 1, len(body["ops"]), body["lam"], body["hlc"], leaf, None, None, 0))
            for at, (_, document, path, value) in enumerate(body["ops"]):
                place, number = next(self._place), documents[document]
                before = self._live.get((number, path))
                if before in ops:
                    ops[before][9] = place
                elif before is not None:
                    deaths.append((place, before))
                self._live[number, path] = place
                ops[place] = [place, branch, seq, at, number, path, 1, libipld.encode_dag_cbor(value), None, None]
                touched[number] = (number, *body["docs"][document], place, leaf.hex()[:22])
        self.db.executemany("INSERT INTO database_txn VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", txns)
        self.db.executemany("INSERT INTO database_op VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", ops.values())
        self.db.executemany("UPDATE database_op SET dead = ? WHERE place = ?", deaths)
        self.db.executemany(_PUT, touched.values())
        return len(ops)

    def _document(self, collection: str, key: str) -> int:
        return self._documents.setdefault((collection, key), len(self._documents) + 1)

    def get(self, collection: str, key: str) -> dict[str, Any]:
        """What a document shows now."""
        rows = self.db.execute(
            "SELECT o.path, o.val FROM database_document d"
            " JOIN database_op o ON o.document = d.id AND o.dead IS NULL AND o.verb <> 3"
            " WHERE d.database = 1 AND d.collection = ? AND d.key = ?",
            (collection, key),
        )
        return {path: libipld.decode_dag_cbor(val) for path, val in rows}

    def get_at(self, collection: str, key: str, place: int) -> dict[str, Any]:
        """What it showed at a place."""
        rows = self.db.execute(
            "SELECT o.path, o.val FROM database_document d JOIN database_op o ON o.document = d.id"
            " WHERE d.database = 1 AND d.collection = ? AND d.key = ?"
            " AND o.place <= ? AND (o.dead IS NULL OR o.dead > ?)",
            (collection, key, place, place),
        )
        return {path: libipld.decode_dag_cbor(val) for path, val in rows}

    def changes(self) -> Iterator[tuple[tuple[str, str], dict[str, Any], dict[str, Any]]]:
        """Each document that a transaction wrote to, what it showed before and what after, in their order."""
        rows = self.db.execute(
            "SELECT o.branch, o.seq, d.collection, d.key, o.path, o.val"
            " FROM database_op o JOIN database_document d ON d.id = o.document ORDER BY o.place"
        )
        shown: dict[tuple[str, str], dict[str, Any]] = {}
        for (_, _, *name), ops in groupby(rows, key=lambda row: row[:4]):
            document = (name[0], name[1])
            before = shown.get(document, {})
            shown[document] = before | {path: libipld.decode_dag_cbor(val) for *_, path, val in ops}
            yield document, before, shown[document]

    def close(self) -> None:
        """Close the file."""
        self.db.close()
