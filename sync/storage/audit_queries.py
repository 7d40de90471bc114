"""The statements of the audit of a database, in the words of each engine (see ``sync.storage.queries``)."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache

__all__ = ["AuditQueries", "audit_queries_for"]


@dataclass(frozen=True, slots=True)
class AuditQueries:
    """SQL text by use; each comment names parameters."""

    # takes uid
    database: str = "SELECT id, name FROM database WHERE uid = ?"
    # takes database
    branches: str = (
        "SELECT id, uid, feed, parent, first_seq, next_seq, disputed, excluded_from, waits_for FROM database_branch"
        " WHERE database = ? ORDER BY id"
    )
    # takes branch, seq, limit
    txns: str = (
        "SELECT seq, place, kind, ops, lamport, reading, leaf, past, masked FROM database_txn"
        " WHERE branch = ? AND seq > ? ORDER BY seq LIMIT ?"
    )
    # takes place, place
    ops: str = (
        "SELECT place, branch, seq, op, document, verb, path, val, context FROM database_op"
        " WHERE place > ? AND place <= ? ORDER BY place"
    )
    # takes document
    name: str = "SELECT collection, key FROM database_document WHERE id = ?"
    # takes database, collection, key
    number: str = "SELECT id FROM database_document WHERE database = ? AND collection = ? AND key = ?"
    # takes database, id, limit
    documents: str = (
        "SELECT id, collection, key, place, etag, shown, conflicts, exact_from, sort_keys FROM database_document"
        " WHERE database = ? AND id > ? ORDER BY id LIMIT ?"
    )
    # each takes a document
    history: str = (
        "SELECT place, branch, seq, op, verb, path, val, context, dead FROM database_op WHERE document = ?"
        " ORDER BY place"
    )
    counters: str = (
        "SELECT path, branch, first_seq, last_seq, last_op, increments, total FROM database_counter WHERE document = ?"
    )
    guards: str = "SELECT place, etag FROM database_guard WHERE document = ?"
    contests: str = "SELECT guarded, other, found_at FROM database_contest WHERE document = ?"
    rebuilt: str = "SELECT max(place) FROM database_rebuild WHERE document = ?"
    leaf: str = "SELECT place, version, content FROM database_leaf WHERE document = ?"
    # takes database
    intents: str = "SELECT place, key, sequence, digest FROM database_intent WHERE database = ?"
    undone: str = (
        "SELECT u.place, u.undone FROM database_undo u JOIN database_txn t ON t.place = u.place"
        " JOIN database_branch b ON b.id = t.branch WHERE b.database = ?"
    )
    proposals: str = (
        "SELECT p.place, p.pending FROM database_proposal p JOIN database_txn t ON t.place = p.place"
        " JOIN database_branch b ON b.id = t.branch WHERE b.database = ?"
    )
    decisions: str = (
        "SELECT d.proposal, d.place FROM database_decision d JOIN database_txn t ON t.place = d.place"
        " JOIN database_branch b ON b.id = t.branch WHERE b.database = ?"
    )
    tracks: str = (
        "SELECT t.feed, t.side, t.branch, t.seq, t.next_seq, t.waits_for FROM database_track t"
        " JOIN database_branch b ON b.id = t.branch WHERE b.database = ?"
    )
    strays: str = "SELECT feed, seq, leaf, kind, reason FROM database_stray WHERE database = ?"
    # of the whole store, whose places all databases share: take place, limit
    places: str = "SELECT place, ops FROM database_txn WHERE place > ? ORDER BY place LIMIT ?"
    rebuild_places: str = "SELECT DISTINCT place FROM database_rebuild WHERE place > ? ORDER BY place LIMIT ?"
    # takes nothing
    forgotten: str = "SELECT max(place) FROM database_rebuild WHERE document = 0"

    # what is kept beside the ledger: takes database
    sides: str = (
        "SELECT id, feed, manifest, first_seq, length, reason, proof, refused FROM database_side WHERE database = ?"
        " ORDER BY id"
    )
    # takes side, seq, limit
    side_blocks: str = (
        "SELECT seq, nodes, data FROM database_side_block WHERE side = ? AND seq > ? ORDER BY seq LIMIT ?"
    )
    # takes side
    side_heads: str = "SELECT length, tree_hash, signature FROM database_side_head WHERE side = ? ORDER BY length"

    # rows that belong to nothing: take nothing
    stray_sides: str = (
        "SELECT count(*) FROM database_side s LEFT JOIN database d ON d.id = s.database WHERE d.id IS NULL"
    )
    stray_side_blocks: str = (
        "SELECT count(*) FROM database_side_block b LEFT JOIN database_side s ON s.id = b.side WHERE s.id IS NULL"
    )
    stray_side_heads: str = (
        "SELECT count(*) FROM database_side_head h LEFT JOIN database_side s ON s.id = h.side WHERE s.id IS NULL"
    )
    stray_tracks: str = (
        "SELECT count(*) FROM database_track t LEFT JOIN database_branch b ON b.id = t.branch WHERE b.id IS NULL"
    )
    stray_branches: str = (
        "SELECT count(*) FROM database_branch b LEFT JOIN database d ON d.id = b.database WHERE d.id IS NULL"
    )
    stray_txns: str = (
        "SELECT count(*) FROM database_txn t LEFT JOIN database_branch b ON b.id = t.branch WHERE b.id IS NULL"
    )
    stray_ops: str = (
        "SELECT count(*) FROM database_op o LEFT JOIN database_txn t ON t.branch = o.branch AND t.seq = o.seq"
        " WHERE t.place IS NULL OR o.place <> t.place + 1 + o.op OR o.op >= t.ops"
    )
    stray_documents: str = (
        "SELECT count(*) FROM database_document d LEFT JOIN database b ON b.id = d.database WHERE b.id IS NULL"
    )
    stray_counters: str = (
        "SELECT count(*) FROM database_counter c LEFT JOIN database_document d ON d.id = c.document WHERE d.id IS NULL"
    )
    stray_guards: str = (
        "SELECT count(*) FROM database_guard g LEFT JOIN database_document d ON d.id = g.document WHERE d.id IS NULL"
    )
    stray_contests: str = (
        "SELECT count(*) FROM database_contest c LEFT JOIN database_document d ON d.id = c.document WHERE d.id IS NULL"
    )
    stray_rebuilds: str = (
        "SELECT count(*) FROM database_rebuild r LEFT JOIN database_document d ON d.id = r.document"
        " WHERE d.id IS NULL AND r.document <> 0"
    )
    stray_leaves: str = (
        "SELECT count(*) FROM database_leaf l LEFT JOIN database_document d ON d.id = l.document WHERE d.id IS NULL"
    )
    stray_proposals: str = (
        "SELECT count(*) FROM database_proposal p LEFT JOIN database_txn t ON t.place = p.place WHERE t.place IS NULL"
    )
    stray_decisions: str = (
        "SELECT count(*) FROM database_decision d LEFT JOIN database_txn t ON t.place = d.place WHERE t.place IS NULL"
    )
    stray_intents: str = (
        "SELECT count(*) FROM database_intent i LEFT JOIN database_txn t ON t.place = i.place"
        " LEFT JOIN database_branch b ON b.id = t.branch AND b.database = i.database WHERE b.id IS NULL"
    )
    stray_undone: str = (
        "SELECT count(*) FROM database_undo u LEFT JOIN database_txn t ON t.place = u.place WHERE t.place IS NULL"
    )


@cache
def audit_queries_for(dialect: str) -> AuditQueries:
    """The statements for an engine, by the name that SQLAlchemy has for it."""
    if dialect == "sqlite":
        return AuditQueries()
    return AuditQueries(**{one.name: str(one.default).replace("?", "%s") for one in fields(AuditQueries)})
