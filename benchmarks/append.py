"""Durable signed appends and audits of 200-byte entries, against straight-line code with the same primitives.

    python -m benchmarks.append [--rounds 7] [--json figures.json]

The floor does what has to be done and nothing else: BLAKE2b tree, one PyNaCl signature an append, the same rows in
sqlite3 with synchronous=FULL; no checks, no transactions shared with other layers, no second process to be safe from.
Its audit reads blocks, tree rows and heads back, hashes, compares and verifies.
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Callable
from functools import partial
from hashlib import blake2b
from os import urandom
from pathlib import Path
from typing import Final

from nacl.bindings import crypto_sign, crypto_sign_open, crypto_sign_seed_keypair

from benchmarks._measure import Comparison, arguments, compare, report
from identity.history import build_add_device, build_inception, fold, key_commitment, sign_event
from identity.keys import Ed25519Signer
from ledger.audit import audit_feed
from ledger.feed import FeedWriter, create_feed
from ledger.head import signable
from ledger.identities import add_events
from ledger.storage.sqlite import open_sqlite
from ledger.store import Store

ENTRY_BYTES: Final = 200
DEVICE_SEED: Final = bytes([3]) * 32
ENTRIES_A_ROUND: Final = {1: 400, 100: 10_000, 1000: 20_000}
"""Entries per append -> entries per round, so that a round takes a fraction of a second."""


class Floor:
    """The straight line: tree, signature, rows, commit; and back."""

    def __init__(self, path: Path) -> None:
        self.db = sqlite3.connect(path, isolation_level=None)
        self.db.execute("PRAGMA journal_mode = WAL")
        self.db.execute("PRAGMA synchronous = FULL")
        self.db.execute("CREATE TABLE block (pos INTEGER PRIMARY KEY, data BLOB NOT NULL)")
        self.db.execute("CREATE TABLE tree (pos INTEGER PRIMARY KEY, nodes BLOB NOT NULL)")
        self.db.execute("CREATE TABLE head (pos INTEGER PRIMARY KEY, tree_hash BLOB NOT NULL, signature BLOB NOT NULL)")
        self.db.execute("CREATE TABLE feed (id INTEGER PRIMARY KEY, length INTEGER NOT NULL, roots BLOB NOT NULL)")
        self.db.execute("INSERT INTO feed VALUES (1, 0, x'')")
        self.key = bytes(32)
        self.public_key, self.secret_key = crypto_sign_seed_keypair(bytes(32))
        self.roots: list[tuple[int, int, bytes]] = []
        self.length = 0

    def append(self, blocks: list[bytes]) -> None:
        self.db.execute("BEGIN IMMEDIATE")
        self.write(blocks)
        self.db.execute("COMMIT")

    def write(self, blocks: list[bytes]) -> None:
        """Sign and store within a transaction of the caller's."""
        first, nodes = self.length, self.hash_blocks(blocks)
        digest = self.tree_hash()
        signature = crypto_sign(signable(self.key, digest, self.length), self.secret_key)[:64]
        roots = b"".join(node + size.to_bytes(8, "little") for _, size, node in self.roots)
        self.db.executemany("INSERT INTO block VALUES (?, ?)", enumerate(blocks, first))
        self.db.executemany("INSERT INTO tree VALUES (?, ?)", enumerate(nodes, first))
        self.db.execute("INSERT INTO head VALUES (?, ?, ?)", (self.length, digest, signature))
        self.db.execute("UPDATE feed SET length = ?, roots = ? WHERE id = 1", (self.length, roots))

    def audit(self) -> int:
        stored = self.length
        self.roots, self.length = [], 0
        blocks = self.db.execute("SELECT data FROM block ORDER BY pos")
        rows = self.db.execute("SELECT nodes FROM tree ORDER BY pos")
        for length, digest, signature in self.db.execute("SELECT pos, tree_hash, signature FROM head ORDER BY pos"):
            count = length - self.length
            nodes = self.hash_blocks([data for (data,) in blocks.fetchmany(count)])
            assert nodes == [row for (row,) in rows.fetchmany(count)]
            assert self.tree_hash() == digest
            crypto_sign_open(signature + signable(self.key, digest, length), self.public_key)
        assert self.length == stored
        return stored

    def hash_blocks(self, blocks: list[bytes]) -> list[bytes]:
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

    def tree_hash(self) -> bytes:
        parts = (node + index.to_bytes(8, "little") + size.to_bytes(8, "little") for index, size, node in self.roots)
        return blake2b(b"\x02" + b"".join(parts), digest_size=32).digest()


def device_of_new_identity(store: Store) -> tuple[Ed25519Signer, bytes]:
    """A device that may write in ``store``, and the identity it belongs to."""
    root, following, device = (Ed25519Signer(seed) for seed in (bytes([1]) * 32, bytes([2]) * 32, DEVICE_SEED))
    inception = build_inception(
        label="benchmark", root_keys=[root.public_key], next_digests=[key_commitment(following.public_key)], time_ms=0
    )
    begun = sign_event(inception, [(0, root)])
    history = fold([begun])
    added = build_add_device(history, device=device.public_key, name="benchmark", time_ms=0)
    with store.write() as tx:
        add_events(tx, history.identity, [begun, sign_event(added, [(0, root), (1, device)])])
    return device, history.identity


def main() -> None:
    options = arguments(__doc__ or "")
    rows: list[Comparison] = []
    with tempfile.TemporaryDirectory(dir=options.directory) as name:
        for batch, entries in ENTRIES_A_ROUND.items():
            rows += measure(Path(name), batch, entries, options.rounds)
    rows.sort(key=lambda row: row.subject.startswith("audit"))
    report(f"{ENTRY_BYTES}-byte entries", "BLAKE2b tree, PyNaCl, sqlite3 synchronous=FULL", rows, options.json)


def measure(directory: Path, batch: int, entries: int, rounds: int) -> list[Comparison]:
    """Appends with one signature for ``batch`` entries, then audits of what they left."""
    store = open_sqlite(directory / f"ours-{batch}.db", create=True)
    device, identity = device_of_new_identity(store)
    key = create_feed(store, device, identity, "benchmark")
    writer, floor = FeedWriter(store, key, device), Floor(directory / f"floor-{batch}.db")
    blocks = [urandom(ENTRY_BYTES) for _ in range(batch)]

    def repeat(append: Callable[[list[bytes]], object]) -> int:
        for _ in range(entries // batch):
            append(blocks)
        return entries

    def audit(threads: int) -> int:
        result = audit_feed(store, key, threads=threads)
        assert result.first_bad is None
        return result.entries

    results = [
        compare(
            f"append, {batch} a signature", lambda: repeat(writer.append), lambda: repeat(floor.append), rounds=rounds
        )
    ]
    for threads in (1, 2):
        subject = f"audit, {batch} a signature, {threads} thread{'s' * (threads > 1)}"
        results.append(compare(subject, partial(audit, threads), floor.audit, rounds=rounds))
    store.close()
    return results


if __name__ == "__main__":
    main()
