"""The floor: straight-line code with the same primitives, on each engine.

It does what has to be done and nothing else: BLAKE2b tree, one PyNaCl signature an append, the same rows, durable. No
checks, no lock against other writers, no state read back, no layers. Its audit reads blocks, tree rows and heads back,
hashes, compares and verifies.
"""

from __future__ import annotations

import sqlite3
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from hashlib import blake2b
from itertools import count, islice
from pathlib import Path
from typing import Any, Final

import psycopg
from nacl.bindings import crypto_sign, crypto_sign_open, crypto_sign_seed_keypair

from ledger.head import signable

__all__ = ["Floor", "Head", "PostgresFloor", "SqliteFloor", "Tree"]


Head = tuple[int, bytes, bytes]
"""Length, tree hash, signature."""


class Tree:
    """Roots and length, and what a block adds to them."""

    def __init__(self) -> None:
        self.roots: list[tuple[int, int, bytes]] = []
        self.length = 0

    def add(self, blocks: Sequence[bytes]) -> list[bytes]:
        roots, rows = self.roots, []
        for data in blocks:
            size = len(data)
            digest = blake2b(b"\x00" + size.to_bytes(8, "little") + data, digest_size=32).digest()
            index, depth = self.length, 0
            row = digest + size.to_bytes(8, "little")
            while index >> depth & 1:
                _, left_size, left = roots.pop()
                size += left_size
                digest = blake2b(b"\x01" + size.to_bytes(8, "little") + left + digest, digest_size=32).digest()
                row += digest + size.to_bytes(8, "little")
                depth += 1
            roots.append(((index >> depth << (depth + 1)) + (1 << depth) - 1, size, digest))
            rows.append(row)
            self.length += 1
        return rows

    def hash(self) -> bytes:
        parts = (node + index.to_bytes(8, "little") + size.to_bytes(8, "little") for index, size, node in self.roots)
        return blake2b(b"\x02" + b"".join(parts), digest_size=32).digest()

    def packed(self) -> bytes:
        return b"".join(node + size.to_bytes(8, "little") for _, size, node in self.roots)


class Floor(ABC):
    """One feed on an engine."""

    def __init__(self) -> None:
        self.key = bytes(32)
        self.public_key, self.secret_key = crypto_sign_seed_keypair(bytes(32))
        self.tree = Tree()

    def append(self, blocks: list[bytes]) -> None:
        with self.transaction():
            self.write(blocks)

    def write(self, blocks: list[bytes]) -> None:
        """Sign and store within a transaction of the caller's."""
        tree, first = self.tree, self.tree.length
        nodes = tree.add(blocks)
        digest = tree.hash()
        signature = crypto_sign(signable(self.key, digest, tree.length), self.secret_key)[:64]
        self.store(first, blocks, nodes, (tree.length, digest, signature), tree.packed())

    def keep(self, blocks: Sequence[bytes], head: Head) -> None:
        """Take an append of another's in, within a transaction of the caller's: hash, compare, verify, store."""
        tree, first = self.tree, self.tree.length
        nodes = tree.add(blocks)
        assert (tree.length, tree.hash()) == head[:2]
        crypto_sign_open(head[2] + signable(self.key, head[1], head[0]), self.public_key)
        self.store(first, blocks, nodes, head, tree.packed())

    def audit(self) -> int:
        tree = Tree()
        blocks, rows = (
            iter(self.rows(f"SELECT {what} ORDER BY pos")) for what in ("data FROM block", "nodes FROM tree")
        )
        for length, digest, signature in self.rows("SELECT pos, tree_hash, signature FROM head ORDER BY pos"):
            added = length - tree.length
            nodes = tree.add([data for (data,) in islice(blocks, added)])
            assert nodes == [row for (row,) in islice(rows, added)]
            assert tree.hash() == digest
            crypto_sign_open(signature + signable(self.key, digest, length), self.public_key)
        assert tree.length == self.tree.length
        return tree.length

    @abstractmethod
    def transaction(self) -> AbstractContextManager[None]:
        """Durable when it is left."""

    @abstractmethod
    def store(self, first: int, blocks: Sequence[bytes], nodes: Sequence[bytes], head: Head, roots: bytes) -> None:
        """Write the rows of an append."""

    @abstractmethod
    def rows(self, query: str) -> Any:
        """A cursor over a query's rows."""

    @abstractmethod
    def block(self, index: int) -> bytes:
        """One block by its index."""

    @abstractmethod
    def close(self) -> None:
        """Give its connection back."""


class SqliteFloor(Floor):
    """sqlite3, synchronous=FULL."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.db = sqlite3.connect(path, isolation_level=None)
        self.db.execute("PRAGMA journal_mode = WAL")
        self.db.execute("PRAGMA synchronous = FULL")
        self.db.execute("CREATE TABLE block (pos INTEGER PRIMARY KEY, data BLOB NOT NULL)")
        self.db.execute("CREATE TABLE tree (pos INTEGER PRIMARY KEY, nodes BLOB NOT NULL)")
        self.db.execute("CREATE TABLE head (pos INTEGER PRIMARY KEY, tree_hash BLOB NOT NULL, signature BLOB NOT NULL)")
        self.db.execute("CREATE TABLE feed (id INTEGER PRIMARY KEY, length INTEGER NOT NULL, roots BLOB NOT NULL)")
        self.db.execute("INSERT INTO feed VALUES (1, 0, x'')")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self.db.execute("BEGIN IMMEDIATE")
        yield
        self.db.execute("COMMIT")

    def store(self, first: int, blocks: Sequence[bytes], nodes: Sequence[bytes], head: Head, roots: bytes) -> None:
        self.db.executemany("INSERT INTO block VALUES (?, ?)", enumerate(blocks, first))
        self.db.executemany("INSERT INTO tree VALUES (?, ?)", enumerate(nodes, first))
        self.db.execute("INSERT INTO head VALUES (?, ?, ?)", head)
        self.db.execute("UPDATE feed SET length = ?, roots = ? WHERE id = 1", (head[0], roots))

    def rows(self, query: str) -> Any:
        return self.db.execute(query)

    def block(self, index: int) -> bytes:
        (data,) = self.db.execute("SELECT data FROM block WHERE pos = ?", (index,)).fetchone()
        return bytes(data)

    def close(self) -> None:
        self.db.close()


class PostgresFloor(Floor):
    """psycopg: every statement prepared, all of an append in one pipeline when it is short, COPY when it is long."""

    COPY_FROM: Final = 8

    def __init__(self, url: str, schema: str = "floor") -> None:
        super().__init__()
        self.db = psycopg.connect(url, autocommit=True)
        self.db.execute(f"CREATE SCHEMA {schema}")
        self.db.execute(f"SET search_path TO {schema}")
        self.db.prepare_threshold = 0
        self.names = count()
        self.db.execute("CREATE TABLE block (pos BIGINT PRIMARY KEY, data BYTEA NOT NULL)")
        self.db.execute("CREATE TABLE tree (pos BIGINT PRIMARY KEY, nodes BYTEA NOT NULL)")
        self.db.execute(
            "CREATE TABLE head (pos BIGINT PRIMARY KEY, tree_hash BYTEA NOT NULL, signature BYTEA NOT NULL)"
        )
        self.db.execute("CREATE TABLE feed (id BIGINT PRIMARY KEY, length BIGINT NOT NULL, roots BYTEA NOT NULL)")
        self.db.execute("INSERT INTO feed VALUES (1, 0, '')")
        self.inserts = [f"INSERT INTO {table} VALUES (%s::bigint, %s)" for table in ("block", "tree")]

    def append(self, blocks: list[bytes]) -> None:
        if len(blocks) >= self.COPY_FROM:
            super().append(blocks)
        else:
            with self.db.pipeline():
                super().append(blocks)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self.db.execute("BEGIN")
        yield
        self.db.execute("COMMIT")

    def store(self, first: int, blocks: Sequence[bytes], nodes: Sequence[bytes], head: Head, roots: bytes) -> None:
        for table, insert, values in zip(("block", "tree"), self.inserts, (blocks, nodes), strict=True):
            if len(values) < self.COPY_FROM:
                for row in enumerate(values, first):
                    self.db.execute(insert, row)
            else:
                with self.db.cursor().copy(f"COPY {table} FROM STDIN (FORMAT BINARY)") as copy:
                    copy.write(_copy_rows(enumerate(values, first)))
        with self.db.pipeline():
            self.db.execute("INSERT INTO head VALUES (%s::bigint, %s, %s)", head)
            self.db.execute("UPDATE feed SET length = %s::bigint, roots = %s WHERE id = 1", (head[0], roots))

    def rows(self, query: str) -> Any:
        cursor = self.db.cursor(f"streamed_{next(self.names)}", binary=True, withhold=True)
        cursor.itersize = 1024
        return cursor.execute(query)

    def block(self, index: int) -> bytes:
        row = self.db.execute("SELECT data FROM block WHERE pos = %s::bigint", (index,), binary=True).fetchone()
        assert row is not None
        return bytes(row[0])

    def close(self) -> None:
        self.db.close()


def _copy_rows(rows: Iterable[tuple[int, bytes]]) -> bytes:
    pack = struct.Struct("!hiqi").pack
    parts = [b"PGCOPY\n\xff\r\n\0" + bytes(8)]
    for number, data in rows:
        parts += (pack(2, 8, number, len(data)), data)
    return b"".join([*parts, b"\xff\xff"])
