"""The store's statements, written with SQLAlchemy Core and compiled once for an engine.

The hot paths send tuples straight to the driver: executing through SQLAlchemy costs five times what a single-row read
costs (benchmarks/append.py). So each statement is compiled to text when a store opens, and the order of its parameters,
which the callers rely on, is checked there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Dialect, Integer, and_, bindparam, func, insert, literal_column, select, update
from sqlalchemy.sql import ClauseElement, ColumnElement

from ledger.merkle import HASH_BYTES
from ledger.noderow import NODE_BYTES
from ledger.storage.schema import POSITION_BITS, block, checkpoint, feed, head, identity_event, log, log_leaf, tree

__all__ = ["Statements", "compile_statements"]


@dataclass(frozen=True, slots=True)
class Statements:
    """SQL text by use; each field's docstring names its parameters in order."""

    feeds: str
    """()"""
    feed: str
    """(key)"""
    block: str
    """(index, key, index): the data, when index < length."""
    blocks: str
    """(first pos, pos after the last): (pos, data) in order."""
    node: str
    """(offset from 1, row, key, row): 40 bytes of the row, when row < length."""
    tree_rows: str
    """(first pos, pos after the last): (pos, nodes) in order."""
    heads: str
    """(pos, last pos of the feed): heads above pos, in order."""
    head: str
    """(pos)"""
    create_feed: str
    """(id, key, manifest, local, roots)"""
    last_feed: str
    """()"""
    move_feed: str
    """(length, byte_length, roots, id, key, expected length, expected roots)"""
    retire_feed: str
    """(key)"""
    add_block: str
    """(pos, data)"""
    add_tree_row: str
    """(pos, nodes)"""
    add_head: str
    """(pos, tree_hash, signature)"""
    log: str
    """()"""
    create_log: str
    """(log_id, size, frontier)"""
    move_log: str
    """(size, frontier, expected size, expected frontier)"""
    add_leaf: str
    """(idx, hashes, statement)"""
    log_leaves: str
    """(start, stop): (idx, statement) in order."""
    log_node: str
    """(offset from 1, row): 32 bytes of the row."""
    checkpoints: str
    """(above)"""
    checkpoint: str
    """(size)"""
    add_checkpoint: str
    """(size, root, note)"""
    identities: str
    """()"""
    identity_events: str
    """(identity)"""
    identity_event: str
    """(digest)"""
    add_identity_event: str
    """(identity, seq, digest, signed_event)"""


def compile_statements(dialect: Dialect) -> Statements:
    """Compile every statement for ``dialect``, with positional parameters in the order that ``Statements`` names."""
    if dialect.name not in _COMPILED:
        specs = {**_feed_specs(), **_log_specs()}
        _COMPILED[dialect.name] = Statements(**{name: _compile(dialect, *spec) for name, spec in specs.items()})
    return _COMPILED[dialect.name]


_COMPILED: dict[str, Statements] = {}
"""By dialect: compiling takes longer than all else that opening a store does."""


_Spec = tuple[ClauseElement, tuple[str, ...]]


def _compile(dialect: Dialect, statement: ClauseElement, parameters: tuple[str, ...]) -> str:
    compiled: Any = statement.compile(dialect=dialect)
    order = tuple(compiled.positiontup or ())
    if order != parameters:
        raise TypeError(f"parameters {order} where {parameters} were expected: {compiled}")
    return str(compiled)


def _pos(offset: ColumnElement[Any]) -> ColumnElement[Any]:
    return feed.c.id * literal_column(str(1 << POSITION_BITS)) + offset


def _feed_specs() -> dict[str, _Spec]:
    p = bindparam
    states = select(
        feed.c.id,
        feed.c.key,
        feed.c.manifest,
        feed.c.local,
        feed.c.retired,
        feed.c.length,
        feed.c.byte_length,
        feed.c.roots,
    )
    heads = select(head.c.pos, head.c.tree_hash, head.c.signature)
    return {
        "feeds": (states.order_by(feed.c.id), ()),
        "feed": (states.where(feed.c.key == p("key")), ("key",)),
        "block": (
            select(block.c.data)
            .select_from(feed.join(block, block.c.pos == _pos(p("index"))))
            .where(feed.c.key == p("key"), feed.c.length > p("index")),
            ("index", "key", "index"),
        ),
        "blocks": (
            select(block.c.pos, block.c.data)
            .where(block.c.pos >= p("first"), block.c.pos < p("after"))
            .order_by(block.c.pos),
            ("first", "after"),
        ),
        "node": (
            select(func.substr(tree.c.nodes, p("offset", type_=Integer), literal_column(str(NODE_BYTES))))
            .select_from(feed.join(tree, tree.c.pos == _pos(p("row"))))
            .where(feed.c.key == p("key"), feed.c.length > p("row")),
            ("offset", "row", "key", "row"),
        ),
        "tree_rows": (
            select(tree.c.pos, tree.c.nodes)
            .where(tree.c.pos >= p("first"), tree.c.pos < p("after"))
            .order_by(tree.c.pos),
            ("first", "after"),
        ),
        "heads": (
            heads.where(head.c.pos > p("above"), head.c.pos <= p("last")).order_by(head.c.pos),
            ("above", "last"),
        ),
        "head": (heads.where(head.c.pos == p("at")), ("at",)),
        "create_feed": (
            insert(feed).values(
                id=p("id"),
                key=p("key"),
                manifest=p("manifest"),
                local=p("local"),
                retired=literal_column("0"),
                length=literal_column("0"),
                byte_length=literal_column("0"),
                roots=p("roots"),
            ),
            ("id", "key", "manifest", "local", "roots"),
        ),
        "last_feed": (select(func.coalesce(func.max(feed.c.id), literal_column("0"))), ()),
        "move_feed": (
            update(feed)
            .values(length=p("to_length"), byte_length=p("to_byte_length"), roots=p("to_roots"))
            .where(
                feed.c.id == p("at"),
                feed.c.key == p("of"),
                feed.c.length == p("from_length"),
                feed.c.roots == p("from_roots"),
            ),
            ("to_length", "to_byte_length", "to_roots", "at", "of", "from_length", "from_roots"),
        ),
        "retire_feed": (
            update(feed)
            .values(retired=literal_column("1"))
            .where(and_(feed.c.key == p("at"), feed.c.retired == literal_column("0"))),
            ("at",),
        ),
        "add_block": (insert(block).values(pos=p("pos"), data=p("data")), ("pos", "data")),
        "add_tree_row": (insert(tree).values(pos=p("pos"), nodes=p("nodes")), ("pos", "nodes")),
        "add_head": (
            insert(head).values(pos=p("pos"), tree_hash=p("tree_hash"), signature=p("signature")),
            ("pos", "tree_hash", "signature"),
        ),
    }


def _log_specs() -> dict[str, _Spec]:
    p = bindparam
    checkpoints = select(checkpoint.c.size, checkpoint.c.root, checkpoint.c.note)
    events = select(
        identity_event.c.identity, identity_event.c.seq, identity_event.c.digest, identity_event.c.signed_event
    )
    return {
        "log": (select(log.c.log_id, log.c.size, log.c.frontier), ()),
        "create_log": (
            insert(log).values(one=literal_column("1"), log_id=p("log_id"), size=p("size"), frontier=p("frontier")),
            ("log_id", "size", "frontier"),
        ),
        "move_log": (
            update(log)
            .values(size=p("to_size"), frontier=p("to_frontier"))
            .where(log.c.size == p("from_size"), log.c.frontier == p("from_frontier")),
            ("to_size", "to_frontier", "from_size", "from_frontier"),
        ),
        "add_leaf": (
            insert(log_leaf).values(idx=p("idx"), hashes=p("hashes"), statement=p("statement")),
            ("idx", "hashes", "statement"),
        ),
        "log_leaves": (
            select(log_leaf.c.idx, log_leaf.c.statement)
            .where(log_leaf.c.idx >= p("start"), log_leaf.c.idx < p("stop"))
            .order_by(log_leaf.c.idx),
            ("start", "stop"),
        ),
        "log_node": (
            select(func.substr(log_leaf.c.hashes, p("offset", type_=Integer), literal_column(str(HASH_BYTES)))).where(
                log_leaf.c.idx == p("row")
            ),
            ("offset", "row"),
        ),
        "checkpoints": (checkpoints.where(checkpoint.c.size > p("above")).order_by(checkpoint.c.size), ("above",)),
        "checkpoint": (checkpoints.where(checkpoint.c.size == p("at")), ("at",)),
        "add_checkpoint": (
            insert(checkpoint).values(size=p("size"), root=p("root"), note=p("note")),
            ("size", "root", "note"),
        ),
        "identities": (
            select(identity_event.c.identity)
            .group_by(identity_event.c.identity)
            .order_by(func.min(identity_event.c.id)),
            (),
        ),
        "identity_events": (
            events.where(identity_event.c.identity == p("of")).order_by(identity_event.c.seq, identity_event.c.id),
            ("of",),
        ),
        "identity_event": (select(identity_event.c.id).where(identity_event.c.digest == p("of")), ("of",)),
        "add_identity_event": (
            insert(identity_event).values(
                identity=p("identity"), seq=p("seq"), digest=p("digest"), signed_event=p("signed_event")
            ),
            ("identity", "seq", "digest", "signed_event"),
        ),
    }
