"""What is held of feeds in part: their nodes, blocks and signed heads, in tables of their own.

Implements docs/spec/storage.md, "Feeds held in part". Rows are only added. Everything in them was verified before it
came in; what an answer proves is written in one transaction, after it was judged against the rows of that transaction.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from sqlalchemy import BigInteger, Column, Connection, ForeignKey, Integer, LargeBinary, Table, insert, select, update

from identity.errors import AuditError, ConflictError, DamagedFile, MissingEvidenceError
from ledger.flattree import full_roots, left_child, parent, right_leaf, sibling
from ledger.head import FORK, verify_head
from ledger.manifest import Manifest, encode_manifest, feed_key, parse_manifest
from ledger.merkle import HASH_BYTES, Node, leaf_node, parent_node, tree_hash
from ledger.sparse import Learned
from ledger.storage.schema import metadata
from ledger.store import FeedKey, SignedHead

__all__ = ["SparseFeed", "hold_feed", "sparse_faults", "sparse_feed", "sparse_feeds", "stray_parts"]

_Row = BigInteger().with_variant(Integer(), "sqlite")

_feed: Final = Table(
    "sparse_feed",
    metadata,
    Column("id", _Row, primary_key=True),
    Column("key", LargeBinary, nullable=False, unique=True),
    Column("manifest", LargeBinary, nullable=False),
    Column("length", BigInteger, nullable=False),
)

_node: Final = Table(
    "sparse_node",
    metadata,
    Column("feed", BigInteger, ForeignKey("sparse_feed.id"), primary_key=True),
    Column("node", BigInteger, primary_key=True),
    Column("hash", LargeBinary, nullable=False),
    Column("size", BigInteger, nullable=False),
)

_block: Final = Table(
    "sparse_block",
    metadata,
    Column("feed", BigInteger, ForeignKey("sparse_feed.id"), primary_key=True),
    Column("idx", BigInteger, primary_key=True),
    Column("data", LargeBinary, nullable=False),
)

_head: Final = Table(
    "sparse_head",
    metadata,
    Column("feed", BigInteger, ForeignKey("sparse_feed.id"), primary_key=True),
    Column("length", BigInteger, primary_key=True),
    Column("tree_hash", LargeBinary, nullable=False),
    Column("signature", LargeBinary, nullable=False),
)


class SparseFeed:
    """A feed that is held in part, in one transaction: a ``ledger.sparse.HeldFeed``.

    Raises ``DamagedFile`` for rows that cannot be.
    """

    def __init__(self, connection: Connection, number: int, manifest: Manifest, length: int) -> None:
        self._connection = connection
        self._number = number
        self.manifest: Final = manifest
        self.length = length

    @property
    def key(self) -> FeedKey:
        """The feed's key."""
        return feed_key(self.manifest)

    def find(self, index: int) -> Node | None:
        """The node at ``index``, or None when it is not known."""
        where = (_node.c.feed == self._number) & (_node.c.node == index)
        row = self._connection.execute(select(_node.c.hash, _node.c.size).where(where)).one_or_none()
        if row is None:
            return None
        if not isinstance(row.hash, bytes) or len(row.hash) != HASH_BYTES or not isinstance(row.size, int):
            raise DamagedFile(f"node {index} of feed {self.key.hex()} is damaged")
        return Node(index, row.size, row.hash)

    def block(self, index: int) -> bytes | None:
        """The block, or None when it is not held. Raises ``DamagedFile`` when it is not the one that was proven."""
        where = (_block.c.feed == self._number) & (_block.c.idx == index)
        data = self._connection.execute(select(_block.c.data).where(where)).scalar_one_or_none()
        if data is not None and (not isinstance(data, bytes) or self.find(2 * index) != leaf_node(index, data)):
            raise DamagedFile(f"block {index} of feed {self.key.hex()} is not the one that was proven")
        return data

    def blocks(self) -> list[int]:
        """The numbers of the blocks that are held."""
        where = _block.c.feed == self._number
        return list(self._connection.execute(select(_block.c.idx).where(where).order_by(_block.c.idx)).scalars())

    def heads(self) -> list[SignedHead]:
        """Every signed head that was met, shortest first."""
        columns = select(_head.c.length, _head.c.tree_hash, _head.c.signature)
        rows = self._connection.execute(columns.where(_head.c.feed == self._number).order_by(_head.c.length))
        return [SignedHead(*row) for row in rows]

    def head(self) -> SignedHead:
        """The newest signed head. Raises ``MissingEvidenceError`` before there is one."""
        heads = self.heads()
        if not heads:
            raise MissingEvidenceError(f"of feed {self.key.hex()} no signed head is known yet")
        return heads[-1]

    def learn(self, learned: Learned) -> None:
        """Keep what an answer proved. What is known already is left as it is.

        Raises ``ConflictError`` when it contradicts what is known: the answer was judged against something else.
        """
        if learned.head is not None and learned.head.length < self.length:
            raise ConflictError(f"feed {self.key.hex()} is known up to {self.length} blocks")
        for node in learned.nodes:
            known = self.find(node.index)
            if known is None:
                self._add(_node, node=node.index, hash=node.hash, size=node.size)
            elif known != node:
                raise ConflictError(f"node {node.index} of feed {self.key.hex()} is known to be another one")
        if learned.block is not None and self.block(learned.block[0]) is None:
            self._add(_block, idx=learned.block[0], data=learned.block[1])
        if learned.head is not None and learned.head.length > self.length:
            head = learned.head
            self._add(_head, length=head.length, tree_hash=head.tree_hash, signature=head.signature)
            where = (_feed.c.id == self._number) & (_feed.c.length == self.length)
            self._connection.execute(update(_feed).where(where).values(length=head.length))
            self.length = head.length

    def nodes(self) -> dict[int, Node]:
        """Every node that is known: for an audit."""
        columns = select(_node.c.node, _node.c.size, _node.c.hash).where(_node.c.feed == self._number)
        return {row[0]: Node(*row) for row in self._connection.execute(columns)}

    def _add(self, table: Table, **values: Any) -> None:
        self._connection.execute(insert(table).values(feed=self._number, **values))


def hold_feed(connection: Connection, manifest: Manifest) -> SparseFeed:
    """The feed of ``manifest``, held in part from now on if it was not: nothing is known of it but its key."""
    held = sparse_feed(connection, feed_key(manifest))
    if held is None:
        values = {"key": feed_key(manifest), "manifest": encode_manifest(manifest), "length": 0}
        connection.execute(insert(_feed).values(**values))
        held = sparse_feed(connection, feed_key(manifest))
        assert held is not None
    return held


def sparse_feed(connection: Connection, key: FeedKey) -> SparseFeed | None:
    """The feed of that key, if it is held in part."""
    row = connection.execute(select(_feed).where(_feed.c.key == key)).one_or_none()
    return None if row is None else _open(connection, row)


def sparse_feeds(connection: Connection) -> list[SparseFeed]:
    """Every feed that is held in part, in the order they came."""
    return [_open(connection, row) for row in connection.execute(select(_feed).order_by(_feed.c.id))]


def _open(connection: Connection, row: Any) -> SparseFeed:
    manifest = parse_manifest(row.manifest)
    if feed_key(manifest) != row.key:
        raise DamagedFile(f"feed {row.key.hex()}: the manifest is another feed's")
    return SparseFeed(connection, row.id, manifest, row.length)


def sparse_faults(feed: SparseFeed) -> list[str]:
    """What does not hold about the rows of a feed held in part, each in a sentence; every hash is computed anew.

    Each head must be signed over roots that are known, each node must be bound by the one above it, each block by its
    own.
    """
    nodes, heads = feed.nodes(), feed.heads()
    faults = [fault for head in heads for fault in _head_faults(feed, head, nodes)]
    if feed.length != max((head.length for head in heads), default=0):
        faults.append(f"its length is {feed.length}, and no signed head says so")
    faults += [fault for index in sorted(nodes) for fault in _node_faults(nodes, index, feed.length)]
    for index in feed.blocks():
        try:
            feed.block(index)
        except DamagedFile as exc:
            faults.append(str(exc))
    return faults


def stray_parts(connection: Connection) -> Iterator[str]:
    """Parts of feeds that are not here, a sentence for each kind: what is left when a feed's own row was deleted."""
    known = select(_feed.c.id)
    for table in (_node, _block, _head):
        query = select(table.c.feed).where(table.c.feed.not_in(known)).distinct()
        for number in connection.execute(query).scalars():
            yield f"table {table.name}: rows of a feed {number} that is not here"


def _head_faults(feed: SparseFeed, head: SignedHead, nodes: Mapping[int, Node]) -> Iterator[str]:
    roots = [nodes[index] for index in full_roots(head.length) if index in nodes]
    if len(roots) != len(full_roots(head.length)) or tree_hash(roots) != head.tree_hash:
        yield f"the roots of its head of {head.length} blocks are not the ones that were signed"
        return
    try:
        verify_head(feed.manifest, head.tree_hash, head.length, FORK, head.signature, roots=roots)
    except AuditError as exc:
        yield f"its head of {head.length} blocks: {exc}"


def _node_faults(nodes: Mapping[int, Node], index: int, length: int) -> Iterator[str]:
    if right_leaf(index) >= length:
        yield f"node {index} is beyond its {length} blocks"
    elif index not in full_roots(length) and parent(index) not in nodes:
        yield f"above node {index} nothing is known"
    if index & 1:
        left, right = (nodes.get(child) for child in (left_child(index), sibling(left_child(index))))
        if (left is None) != (right is None):
            yield f"below node {index} one node is missing"
        elif left is not None and right is not None and parent_node(left, right) != nodes[index]:
            yield f"node {index} is not the one that those below it make"
