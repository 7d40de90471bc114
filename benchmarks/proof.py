"""Proofs of a block under the signed head of 100,000, made and verified, against the hashing and reading they need.

    python -m benchmarks.proof [--engine sqlite|postgresql|both] [--rounds 5] [--json figures.json]

A proof is Hypercore's message of a block with an upgrade from nothing. Made: the floor reads the block, the head and
the same nodes, their indices known beforehand, and joins their bytes. Verified: the floor computes the same hashes over
bytes that are parsed already, and verifies the one signature.
"""

from __future__ import annotations

import random
import tempfile
from hashlib import blake2b
from os import urandom
from pathlib import Path
from typing import Final

from nacl.bindings import crypto_sign_open

from benchmarks._engines import Engine, add_engine_option, engines, fill, new_feed
from benchmarks._measure import Comparison, compare, option_parser, report
from benchmarks.append import ENTRY_BYTES
from ledger.feed import block_proof
from ledger.head import signable
from ledger.manifest import parse_manifest
from ledger.proof import Proof, parse_proof
from ledger.proof_checking import verify_proof
from ledger.storage.sql import SqlReadTransaction
from ledger.store import FeedKey

LENGTH: Final = 100_000
PROOFS: Final = 200
"""In a round."""


def main() -> None:
    parser = option_parser(__doc__, rounds=5)
    add_engine_option(parser)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as name, engines(options.engine, Path(name)) as chosen:
        rows = [row for engine in chosen for row in measure(engine, options.rounds)]
    title = f"proofs of a block of {ENTRY_BYTES} bytes under the head of {LENGTH:,}"
    report(title, "the same nodes by their keys; the same hashes and one signature", rows, options.json)


def measure(engine: Engine, rounds: int) -> list[Comparison]:
    """Made on the engine; verified once only, since no engine takes part."""
    store = engine.store()
    key, device = new_feed(store)
    fill(store, key, device, [urandom(ENTRY_BYTES) for _ in range(1000)], LENGTH)
    wanted = random.Random(7).choices(range(LENGTH), k=PROOFS)
    with store.read() as tx:
        state = tx.feed(key)
        assert state is not None
        proofs = [block_proof(tx, key, index, length=LENGTH, head_length=LENGTH) for index in wanted]
    manifest = parse_manifest(state.manifest)
    parsed = [parse_proof(data) for data in proofs]

    def make() -> int:
        with store.read() as tx:
            for index in wanted:
                block_proof(tx, key, index, length=LENGTH, head_length=LENGTH)
        return PROOFS

    def read() -> int:
        with store.read() as tx:
            for proof in parsed:
                read_parts(tx, key, proof)
        return PROOFS

    def verify() -> int:
        for data in proofs:
            verify_proof(manifest, parse_proof(data))
        return PROOFS

    def hash_and_verify() -> int:
        for proof in parsed:
            check_parts(proof, key, manifest.signers[0].public_key)
        return PROOFS

    rows = [compare(f"{engine.name}, made", make, read, rounds=rounds)]
    if engine.server is None:
        rows.append(compare("verified", verify, hash_and_verify, rounds=rounds))
    store.close()
    return rows


def read_parts(tx: SqlReadTransaction, key: FeedKey, proof: Proof) -> bytes:
    """The bytes of what the proof is made of, read one by one."""
    assert proof.block is not None
    assert proof.upgrade is not None
    head = tx.head(key, LENGTH)
    assert head is not None
    nodes = [tx.node(key, node.index).hash for node in (*proof.block.nodes, *proof.upgrade.nodes)]
    return b"".join([tx.block(key, proof.block.index), *nodes, head.signature])


def check_parts(proof: Proof, key: bytes, public_key: bytes) -> None:
    """Leaf, path, tree hash, signature."""
    assert proof.block is not None
    assert proof.upgrade is not None
    data = proof.block.value
    index, size = 2 * proof.block.index, len(data)
    digest = blake2b(b"\x00" + size.to_bytes(8, "little") + data, digest_size=32).digest()
    for node in proof.block.nodes:
        size += node.size
        pair = (digest, node.hash) if index < node.index else (node.hash, digest)
        digest = blake2b(b"\x01" + size.to_bytes(8, "little") + b"".join(pair), digest_size=32).digest()
        index = (index + node.index) // 2
    roots = sorted([(index, size, digest), *((node.index, node.size, node.hash) for node in proof.upgrade.nodes)])
    parts = (node + place.to_bytes(8, "little") + total.to_bytes(8, "little") for place, total, node in roots)
    tree = blake2b(b"\x02" + b"".join(parts), digest_size=32).digest()
    crypto_sign_open(proof.upgrade.signature[2:66] + signable(key, tree, LENGTH), public_key)


if __name__ == "__main__":
    main()
