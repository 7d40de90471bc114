"""What the attackers of the demonstration do, with the tools they would use: raw SQL, the bare library, real keys.

None of this weakens holdfast: whoever has the file and the keys can do the same with any program. It is here so that
the demonstration attacks for real.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from io import BytesIO
from itertools import islice
from pathlib import Path

from anchoring.chain.check import ChainView
from anchoring.chain.client import Chain
from anchoring.chain.transactions import LocalKey, Transaction
from anchoring.contracts import anchor_call
from anchoring.exporter import Archive
from anchoring.outside_audit import audit_export
from anchoring.rollback import RollbackCheck
from anchoring.timestamp import TimestampEvidence
from anchoring.tsa.source import TimestampSource
from anchoring.witness import time_statement
from identity.errors import MissingEvidenceError
from identity.keys import Ed25519Signer, Signer
from identity.keystore import KeyRing
from ledger.checkpoint import Checkpoint, imprint_message, sign_checkpoint
from ledger.entry import Entry, encode_entry, parse_entry
from ledger.flattree import full_roots
from ledger.fork import Branch, encode_fork, make_fork, parse_fork, verify_fork
from ledger.log import append_to_frontier, hash_leaf, root_at
from ledger.log_transfer import export_log
from ledger.manifest import parse_manifest
from ledger.merkle import Node
from ledger.noderow import pack_nodes
from ledger.statement import ChainBinding, LogDescriptor, Statement, encode_statement, log_origin, parse_statement
from ledger.store import FeedKey, LogState, ReadTransaction, Store, StoredCheckpoint

__all__ = [
    "ForgedLog",
    "copy_feed",
    "cut_feed",
    "outside_view",
    "prove_fork",
    "raise_amount",
    "roots_at",
    "send_anchor",
    "unlocked",
]

_GAS = 150_000


# --- past the database's locks ----------------------------------------------------------------------------------------


def unlocked(database: Path) -> sqlite3.Connection:
    """The database file without its triggers: they guard against accidents, not against whoever has the file."""
    connection = sqlite3.connect(database)
    for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        connection.execute(f'DROP TRIGGER "{name}"')
    return connection


def raise_amount(database: sqlite3.Connection, index: int) -> tuple[str, str]:
    """Change the first digit of an entry's amount to another one, in place. Returns the amounts before and after."""
    pos, block = database.execute("SELECT pos, data FROM block WHERE pos & 1099511627775 = ?", (index,)).fetchone()
    fields = parse_entry(block).body["fields"]
    assert isinstance(fields, dict)
    typed = fields["amount"]
    assert isinstance(typed, dict)
    before = str(typed["$dec"])
    after = ("9" if before[0] != "9" else "8") + before[1:]
    marker = b"$dec" + bytes([0x60 + len(before)])
    edited = block.replace(marker + before.encode(), marker + after.encode(), 1)
    database.execute("UPDATE block SET data = ? WHERE pos = ?", (edited, pos))
    return before, after


def roots_at(tx: ReadTransaction, key: FeedKey, length: int) -> list[Node]:
    """The roots that the feed had at a length."""
    return [tx.node(key, index) for index in full_roots(length)]


def cut_feed(database: sqlite3.Connection, key: FeedKey, length: int, roots: Sequence[Node]) -> None:
    """Delete every row beyond ``length`` and set the feed back, so that no trace of them is left in the database."""
    (number,) = database.execute("SELECT id FROM feed WHERE key = ?", (key,)).fetchone()
    first, last = (number << 40) + length, (number + 1) << 40
    for table, above in (("block", first), ("tree", first), ("head", first + 1)):
        database.execute(f"DELETE FROM {table} WHERE pos >= ? AND pos < ?", (above, last))  # noqa: S608  (constants)
    size = sum(root.size for root in roots)
    database.execute(
        "UPDATE feed SET length = ?, byte_length = ?, roots = ? WHERE id = ?", (length, size, pack_nodes(roots), number)
    )


# --- past the library's rules -----------------------------------------------------------------------------------------


class ForgedLog:
    """A checkpoint log written without any of the rules of ``LogWriter``; ``signer`` holds the key that it names."""

    def __init__(self, store: Store, signer: Ed25519Signer, descriptor: LogDescriptor | None = None) -> None:
        """Goes on with the store's log; with ``descriptor``, begins one."""
        self.store = store
        self._signer = signer
        self.tokens: dict[int, list[TimestampEvidence]] = {}
        if descriptor is not None:
            leaf = encode_statement(descriptor)
            state, _ = append_to_frontier(LogState(hash_leaf(leaf), 0, ()), [leaf])
            with store.write() as tx:
                tx.append_leaves(None, state, [leaf])

    def add(self, statements: Sequence[Statement]) -> StoredCheckpoint:
        """Append the statements as they are and sign a checkpoint over them."""
        leaves = [encode_statement(statement) for statement in statements]
        with self.store.write() as tx:
            before = tx.log()
            assert before is not None
            state, _ = append_to_frontier(before, leaves)
            tx.append_leaves(before, state, leaves)
            root = root_at(tx.log_node, state.size)
            note = sign_checkpoint(self._signer, Checkpoint(self.origin(tx), state.size, root))
            checkpoint = StoredCheckpoint(state.size, root, note)
            tx.add_checkpoint(checkpoint)
        return checkpoint

    def timestamp(self, checkpoint: StoredCheckpoint, source: TimestampSource, now_ms: int) -> Statement:
        """A genuine token on the forged checkpoint: an authority timestamps whatever it is given."""
        with self.store.read() as tx:
            message = imprint_message(checkpoint.note, self.origin(tx), self._signer.public_key)
        self.tokens[checkpoint.size] = [source.acquire(message, now_ms).evidence]
        return time_statement(checkpoint.size, self.tokens[checkpoint.size])

    def archive(self) -> Archive:
        """The tokens, as the exporter reads them. There are no anchors."""
        return Archive(timestamps=lambda size: self.tokens.get(size, []), receipt=lambda _: None)

    def origin(self, tx: ReadTransaction) -> str:
        """The origin line of the log's notes."""
        state = tx.log()
        descriptor = parse_statement(next(iter(tx.log_leaves(0, 1))))
        assert state is not None
        assert isinstance(descriptor, LogDescriptor)
        return log_origin(descriptor, state.log_id)


def copy_feed(
    source: ReadTransaction,
    target: Store,
    key: FeedKey,
    signer: Signer,
    change: Callable[[int, Entry], Entry] = lambda _, entry: entry,
) -> int:
    """Write the feed again into another store, batch by batch as it was, each entry through ``change``, signed anew.

    Returns how many entries were written.
    """
    from ledger.feed import FeedWriter

    state = source.feed(key)
    if state is None:
        raise MissingEvidenceError("there is no such feed")
    with target.write() as tx:
        tx.create_feed(key, state.manifest, local=True)
    writer = FeedWriter(target, key, signer)
    blocks = source.blocks(key, 0, state.length)
    done = 0
    for head in source.heads(key):
        batch = islice(blocks, head.length - done)
        entries = [change(index, parse_entry(block)) for index, block in enumerate(batch, done)]
        writer.append([encode_entry(entry) for entry in entries])
        done = head.length
    return done


def send_anchor(
    chain: Chain, ring: KeyRing, binding: ChainBinding, log_id: bytes, step: tuple[int, int], root: bytes
) -> bool:
    """Send an anchor from one size to another, past the outbox. True when the contract took it."""
    assert ring.anchor_key is not None
    key = LocalKey(ring.anchor_key)
    fees = chain.fees()
    call = Transaction(
        chain_id=binding.id,
        nonce=chain.transaction_count(key.address),
        to=binding.contract,
        data=anchor_call(log_id, *step, root),
        gas=_GAS,
        max_fee=2 * fees.base + fees.priority,
        priority_fee=fees.priority,
    )
    inclusion = chain.inclusion(chain.send_raw(key.sign(call)))
    return inclusion is not None and inclusion.succeeded


# --- what an outsider sees --------------------------------------------------------------------------------------------


def outside_view(store: Store, log_id: bytes, view: ChainView, now_ms: int) -> RollbackCheck:
    """What an auditor finds who is given the store's complete log and reads the chain."""
    export = BytesIO()
    export_log(store, export)
    return audit_export(lambda: BytesIO(export.getvalue()), frozenset({log_id}), lambda _: view, now_ms).check


def prove_fork(genuine: ReadTransaction, forged: ReadTransaction, key: FeedKey) -> bytes:
    """The portable proof that the feed's key signed two histories of one length, verified as its reader would."""
    state = genuine.feed(key)
    assert state is not None
    length = state.length
    one, other = genuine.head(key, length), forged.head(key, length)
    assert one is not None
    assert other is not None
    manifest = parse_manifest(state.manifest)
    proof = encode_fork(
        make_fork(
            manifest, Branch(length, one.tree_hash, one.signature), Branch(length, other.tree_hash, other.signature)
        )
    )
    verify_fork(manifest, parse_fork(proof))
    return proof
