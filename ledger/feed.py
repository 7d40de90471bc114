"""Feeds: creating one, appending to it, and proving what is in it.

Implements docs/spec/feed.md sections 3.1 and 3.2. A feed has one writer, the device whose key its manifest names. Every
append, of one block or many, signs the new head once, and every signed head is kept. The order is: lock, read where the
feed stands, hash, sign, write, commit. Because the lock is held from reading to committing no index is ever signed
twice, and because a signature is handed out after the commit only, what others hold is never ahead of what is stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from identity.errors import DamagedFile, LimitExceeded, MissingEvidenceError, RefusedError
from identity.history import KeyHistory
from identity.keys import Ed25519Signer, Signer
from ledger.head import FORK, sign_head, verify_head
from ledger.identities import key_history
from ledger.lineage import find_rival, find_successor
from ledger.manifest import (
    Continuation,
    FeedDescription,
    Manifest,
    describe,
    device_manifest,
    encode_manifest,
    feed_key,
    parse_manifest,
)
from ledger.merkle import EMPTY_TREE_HASH, Node, TreeBuilder, leaf_node
from ledger.proof import encode_proof
from ledger.proof_making import make_proof
from ledger.store import FeedKey, FeedState, ReadTransaction, SignedHead, Store, WriteTransaction

__all__ = [
    "MAX_BATCH_BLOCKS",
    "MAX_BATCH_BYTES",
    "MAX_BLOCK_BYTES",
    "AppendResult",
    "FeedWriter",
    "Keeper",
    "OpenFeed",
    "append",
    "block_proof",
    "check_batch",
    "check_device",
    "check_tail",
    "check_writable",
    "create_feed",
    "create_feed_in",
    "feed_state",
    "head_covering",
    "open_feed",
]

MAX_BLOCK_BYTES: Final = 1024 * 1024
MAX_BATCH_BLOCKS: Final = 65_536
MAX_BATCH_BYTES: Final = 64 * 1024 * 1024
"""What one append can hold: whoever reads a feed has to hold as much in memory until the head that signs it comes."""


@dataclass(frozen=True, slots=True)
class AppendResult:
    """Blocks ``start`` to ``length - 1`` were appended; ``head`` is the signed head that covers them.

    The head is longer than ``length`` when others appended in the same turn (``ledger.writer``).
    """

    key: FeedKey
    start: int
    length: int
    head: SignedHead


# --- creating ---


def create_feed(
    store: Store, signer: Signer, identity: bytes, name: str, continues: Continuation | None = None
) -> FeedKey:
    """A new feed of the device ``signer`` of ``identity``, empty; with ``continues``, the one that goes on from it.

    The feed that is continued is retired in the same transaction. Raises ``RefusedError`` when the device may not
    write for the identity, when the store does not hold what is continued exactly as it says, or when it would be a
    fork with a feed that is here (another that continues the same one, say); ``ConflictError`` when the feed exists.
    """
    with store.write() as tx:
        return create_feed_in(tx, signer.public_key, identity, name, continues)


def create_feed_in(
    tx: WriteTransaction, device: bytes, identity: bytes, name: str, continues: Continuation | None = None
) -> FeedKey:
    """The same within a transaction of the caller, for the device with that public key."""
    manifest = device_manifest(device, FeedDescription(identity, name, continues))
    key = feed_key(manifest)
    check_device(key_history(tx, identity), device)
    if (rival := find_rival(tx, manifest)) is not None:
        raise RefusedError(f"feed {rival.key.hex()} begins or continues what this one would: they would be a fork")
    if continues is not None:
        _check_continuation(tx, identity, continues)
        tx.retire_feed(continues.key)
    tx.create_feed(key, encode_manifest(manifest), local=True)
    return key


def check_device(history: KeyHistory, device: bytes) -> None:
    """Return only when ``device`` may write for the identity now. Raises ``RefusedError``."""
    found = history.devices.get(device)
    if found is None:
        raise RefusedError(f"{device.hex()} is not a device of identity {history.identity.hex()}")
    if found.revocation is not None:
        raise RefusedError(
            f"device {found.name!r} is revoked",
            hint="another device goes on from its feed: holdfast feed create NAME --device DEVICE --continues FEED",
        )
    if history.closed:
        raise RefusedError(f"identity {history.identity.hex()} is closed")


def _check_continuation(tx: ReadTransaction, identity: bytes, older: Continuation) -> None:
    state = feed_state(tx, older.key)
    description = describe(parse_manifest(state.manifest))
    if description is None or description.identity != identity:
        raise RefusedError(f"feed {older.key.hex()} is not of identity {identity.hex()}")
    head = tx.head(older.key, older.length)
    held = EMPTY_TREE_HASH if older.length == 0 else head and head.tree_hash
    if held != older.tree_hash:
        raise RefusedError(f"feed {older.key.hex()} has no signed head of {older.length} blocks with that tree")


# --- appending ---


@dataclass(frozen=True, slots=True)
class OpenFeed:
    """A feed of ours whose end was found whole, and the signer that its manifest names."""

    key: FeedKey
    manifest: Manifest
    identity: bytes
    signer: Signer

    def sign(self, tree: TreeBuilder) -> SignedHead:
        """The head of a tree. The caller holds the lock under which the feed was read, and keeps this to itself until
        the transaction that stores it has committed.

        Raises whatever the signer does, ``SignatureMismatch`` when its signature is not by the feed's key.
        """
        tree_hash, length = tree.tree_hash(), tree.length
        signature = sign_head(self.signer, self.key, tree_hash, length)
        if not isinstance(self.signer, Ed25519Signer):
            # A wrong signature could not be replaced: history is insert-only. libsodium's own are not doubted (that
            # costs a third of an append of one block), those that come from elsewhere are.
            verify_head(self.manifest, tree_hash, length, FORK, signature)
        return SignedHead(length, tree_hash, signature)


def open_feed(tx: ReadTransaction, key: FeedKey, signer: Signer) -> OpenFeed:
    """Check once what has to be checked before a feed is appended to again and again.

    Raises ``RefusedError`` when ``signer`` is not the feed's key, or the feed is not local or retired, or another one
    here continues it, and what ``check_tail`` raises.
    """
    state, manifest = check_tail(tx, key)
    check_writable(state)
    description = describe(manifest)
    if description is None:
        raise RefusedError(f"feed {key.hex()} is not a feed of ours")
    if manifest.signers[0].public_key != signer.public_key:
        raise RefusedError(f"{signer.public_key.hex()} is not the key that signs feed {key.hex()}")
    if (successor := find_successor(tx, key)) is not None:
        raise RefusedError(f"feed {key.hex()} is continued by feed {successor.key.hex()}", hint="append to that one")
    return OpenFeed(key, manifest, description.identity, signer)


class Keeper(Protocol):
    """Decides whether this process may sign for a feed now: it may have to hold a lease of it."""

    def hold(self, tx: WriteTransaction, key: FeedKey) -> None:
        """Called in the transaction that is to append. Raises ``RefusedError`` or ``StoreBusy``."""


class FeedWriter:
    """The writer of one local feed, for a caller that appends alone: an import, a command. See ``ledger.writer``.

    Raises what ``open_feed`` raises. It keeps no state of the feed: another process may append between two calls, when
    ``keeper`` lets it.
    """

    def __init__(self, store: Store, key: FeedKey, signer: Signer, keeper: Keeper | None = None) -> None:
        with store.read() as tx:
            self._feed = open_feed(tx, key, signer)
        self._store = store
        self._keeper = keeper

    def append(self, blocks: Sequence[bytes]) -> AppendResult:
        """Append blocks and sign the head, once. What is returned is durable.

        Raises ``RefusedError`` for an empty batch, ``LimitExceeded`` for one over the limits, and whatever the store
        raises. After a ``StorageError`` the outcome is unknown: read the head again.
        """
        with self._store.write() as tx:
            return self.append_in(tx, blocks)

    def append_in(self, tx: WriteTransaction, blocks: Sequence[bytes]) -> AppendResult:
        """The same within a transaction of the caller, who must not let the result out before it has committed."""
        check_batch(blocks)
        state = feed_state(tx, self._feed.key)
        check_writable(state)
        if self._keeper is not None:
            self._keeper.hold(tx, self._feed.key)
        tree = TreeBuilder(state.roots, state.length)
        nodes = tree.append_many(blocks)
        head = self._feed.sign(tree)
        tx.append(state, blocks, nodes, head, tree.roots)
        return AppendResult(self._feed.key, state.length, tree.length, head)


def append(store: Store, key: FeedKey, signer: Signer, blocks: Sequence[bytes]) -> AppendResult:
    """Append once. For more than one append make a ``FeedWriter``, which checks the feed's end only once."""
    return FeedWriter(store, key, signer).append(blocks)


def check_batch(blocks: Sequence[bytes]) -> None:
    """Return only when ``blocks`` can be one append. Raises ``RefusedError`` or ``LimitExceeded``."""
    if not blocks:
        raise RefusedError("an append holds at least one block")
    if len(blocks) > MAX_BATCH_BLOCKS:
        raise LimitExceeded(f"an append of {len(blocks)} blocks, at most {MAX_BATCH_BLOCKS} are allowed")
    sizes = [len(block) for block in blocks]
    if max(sizes) > MAX_BLOCK_BYTES:
        raise LimitExceeded(f"a block of {max(sizes)} bytes, at most {MAX_BLOCK_BYTES} are allowed")
    if sum(sizes) > MAX_BATCH_BYTES:
        raise LimitExceeded(f"an append of {sum(sizes)} bytes, at most {MAX_BATCH_BYTES} are allowed")


def check_writable(state: FeedState) -> None:
    """Return only when this node may sign for the feed. Raises ``RefusedError``."""
    if not state.local:
        raise RefusedError(f"feed {state.key.hex()} is not written here")
    if state.retired:
        raise RefusedError(f"feed {state.key.hex()} is retired", hint="append to the feed that continues it")


# --- reading ---


def feed_state(tx: ReadTransaction, key: FeedKey) -> FeedState:
    """Where the feed stands. Raises ``MissingEvidenceError`` when this store does not know it."""
    state = tx.feed(key)
    if state is None:
        raise MissingEvidenceError(f"feed {key.hex()} is not in this store")
    return state


def check_tail(tx: ReadTransaction, key: FeedKey) -> tuple[FeedState, Manifest]:
    """The feed and its manifest, when its end is whole: a cheap check, O(log n), before anything builds on it.

    The manifest hashes to the key, the newest head is the one of the feed's length, its signature holds over the
    feed's roots, and the newest block is there and is the one that was hashed. Raises ``DamagedFile`` when rows are
    missing, left over or contradict each other, ``SignatureMismatch`` when the head is not signed by the feed's key.
    What lies before the end is ``ledger.audit``'s matter.
    """
    state = feed_state(tx, key)
    manifest = parse_manifest(state.manifest)
    if feed_key(manifest) != key:
        raise DamagedFile(f"feed {key.hex()}: the manifest is another feed's")
    newest = list(tx.heads(key, state.length - 1))
    if [head.length for head in newest] != ([state.length] if state.length else []):
        raise DamagedFile(f"feed {key.hex()}: the newest head is not the one of {state.length} blocks")
    if newest:
        tree_hash = TreeBuilder(state.roots, state.length).tree_hash()
        if tree_hash != newest[0].tree_hash:
            raise DamagedFile(f"feed {key.hex()}: roots and newest head differ")
        verify_head(manifest, tree_hash, state.length, FORK, newest[0].signature)
        last = state.length - 1
        if leaf_node(last, tx.block(key, last)) != tx.node(key, 2 * last):
            raise DamagedFile(f"feed {key.hex()}: block {last} is not the one that was hashed")
    return state, manifest


def head_covering(tx: ReadTransaction, key: FeedKey, index: int) -> SignedHead:
    """The head whose signature covers block ``index``: the first one longer than it.

    Raises ``MissingEvidenceError`` when the feed is not that long.
    """
    for head in tx.heads(key, index):
        return head
    raise MissingEvidenceError(f"feed {key.hex()}: no signed head covers block {index}")


@dataclass(frozen=True, slots=True)
class _Source:
    """A feed as ``ledger.proof_making`` reads it."""

    tx: ReadTransaction
    key: FeedKey

    def node(self, index: int) -> Node:
        return self.tx.node(self.key, index)

    def block(self, index: int) -> bytes:
        return self.tx.block(self.key, index)


def block_proof(tx: ReadTransaction, key: FeedKey, index: int, *, length: int, head_length: int) -> bytes:
    """Hypercore's ``data`` message that shows block ``index`` in the tree of ``length`` blocks, from nothing.

    It carries the signed head of ``head_length`` >= ``length`` blocks. In the form of evidence: request and fork 0, no
    manifest. Raises ``MissingEvidenceError`` when the feed has no signed head of that length or is not that long.
    """
    head = tx.head(key, head_length)
    if head is None:
        raise MissingEvidenceError(f"feed {key.hex()} has no signed head of {head_length} blocks")
    return encode_proof(make_proof(_Source(tx, key), head, block=index, upgrade=(0, length)))
