"""The statements of databases, in the words of each engine.

Plain SQL that SQLite and PostgreSQL both take, with ``?`` for parameters; only that mark is another one for psycopg. It
is not compiled from tables, because these run for every operation that is merged.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache

__all__ = ["Queries", "queries_for"]


@dataclass(frozen=True, slots=True)
class Queries:
    """SQL text by use; each comment names parameters and columns."""

    # takes uid: id, name
    database: str = "SELECT id, name, created_ms FROM database WHERE uid = ?"
    databases: str = "SELECT uid, name, created_ms FROM database ORDER BY id"
    last_database: str = "SELECT max(id) FROM database"
    add_database: str = "INSERT INTO database (id, uid, name, created_ms) VALUES (?, ?, ?, ?)"

    # takes nothing: the newest entry that was taken in
    newest: str = "SELECT place, ops, leaf FROM database_txn ORDER BY place DESC LIMIT 1"
    last_rebuild: str = "SELECT max(place) FROM database_rebuild"

    # takes database
    branches: str = (
        "SELECT id, uid, feed, parent, first_seq, next_seq, disputed, excluded_from, waits_for"
        " FROM database_branch WHERE database = ? ORDER BY id"
    )
    last_branch: str = "SELECT max(id) FROM database_branch"
    add_branch: str = (
        "INSERT INTO database_branch"
        " (id, database, uid, feed, parent, first_seq, next_seq, disputed, excluded_from, waits_for)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    )
    move_branch: str = (
        "UPDATE database_branch SET next_seq = ?, disputed = ?, excluded_from = ?, waits_for = ? WHERE id = ?"
    )

    # entries
    add_txn: str = (
        "INSERT INTO database_txn (place, branch, seq, kind, ops, lamport, reading, leaf, past, masked, taken_ms)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    )
    # takes branch: newest entry of a branch
    head: str = "SELECT seq, lamport, reading, leaf FROM database_txn WHERE branch = ? ORDER BY seq DESC LIMIT 1"
    # takes branch, seq: the newest past that is recorded at or before an entry
    past: str = (
        "SELECT past FROM database_txn WHERE branch = ? AND seq <= ? AND past IS NOT NULL ORDER BY seq DESC LIMIT 1"
    )
    # takes branch, seq
    txn: str = (
        "SELECT place, kind, ops, lamport, reading, leaf, masked, taken_ms FROM database_txn"
        " WHERE branch = ? AND seq = ?"
    )
    # takes place: which entry an operation belongs to
    txn_at: str = (
        "SELECT place, branch, seq, kind, ops, reading, masked, taken_ms FROM database_txn"
        " WHERE place <= ? ORDER BY place DESC LIMIT 1"
    )
    # takes branch, seq: the newest entry at or before an index of the feed
    txn_before: str = (
        "SELECT seq, place, ops, lamport, reading, leaf FROM database_txn"
        " WHERE branch = ? AND seq <= ? ORDER BY seq DESC LIMIT 1"
    )
    # takes branch, seq: the first entry behind an index
    first_after: str = "SELECT place FROM database_txn WHERE branch = ? AND seq > ? ORDER BY seq LIMIT 1"
    # takes branch, place: the newest entry of a branch that was taken in at or before a place
    seq_at_place: str = "SELECT seq FROM database_txn WHERE branch = ? AND place <= ? ORDER BY place DESC LIMIT 1"
    # takes branch, reading: the first entry of a branch with a later reading
    seq_after_reading: str = "SELECT seq FROM database_txn WHERE branch = ? AND reading > ? ORDER BY seq LIMIT 1"
    # takes database: entries that are not transactions
    others: str = (
        "SELECT t.branch, t.seq, t.kind, t.leaf, t.masked FROM database_txn t JOIN database_branch b ON b.id = t.branch"
        " WHERE b.database = ? AND t.kind <> 1 ORDER BY t.place"
    )
    # takes database, place, limit: entries in the order in which they were taken in
    entries_after: str = (
        "SELECT t.place, t.branch, t.seq, t.kind, t.ops, t.reading, t.masked, t.taken_ms FROM database_txn t"
        " JOIN database_branch b ON b.id = t.branch WHERE b.database = ? AND t.place > ? ORDER BY t.place LIMIT ?"
    )

    # documents
    document: str = (
        "SELECT id, place, etag, shown, conflicts, exact_from FROM database_document"
        " WHERE database = ? AND collection = ? AND key = ?"
    )
    # takes database, collection: documents that a reader finds
    shown: str = "SELECT key FROM database_document WHERE database = ? AND collection = ? AND shown = 1 ORDER BY key"
    # takes database: documents that are deleted
    hidden: str = (
        "SELECT id, collection, key FROM database_document WHERE database = ? AND shown = 2 ORDER BY collection, key"
    )
    document_by_id: str = "SELECT collection, key, place, etag, exact_from FROM database_document WHERE id = ?"
    last_document: str = "SELECT max(id) FROM database_document"
    put_document: str = (
        "INSERT INTO database_document"
        " (id, database, collection, key, place, etag, shown, conflicts, exact_from, sort_keys)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (id) DO UPDATE SET place = excluded.place, etag = excluded.etag, shown = excluded.shown,"
        " conflicts = excluded.conflicts, exact_from = excluded.exact_from, sort_keys = excluded.sort_keys"
    )

    # operations
    add_op: str = (
        "INSERT INTO database_op (place, branch, seq, op, document, path, verb, val, context, dead)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    )
    kill_op: str = "UPDATE database_op SET dead = ? WHERE place = ?"
    # takes document
    live: str = (
        "SELECT o.place, o.branch, o.seq, o.op, o.verb, o.path, o.val FROM database_op o"
        " WHERE o.document = ? AND o.dead IS NULL AND o.verb <> 3 ORDER BY o.place"
    )
    # takes document, place, place: what was live after the operation at a place
    live_at: str = (
        "SELECT o.place, o.branch, o.seq, o.op, o.verb, o.path, o.val FROM database_op o"
        " WHERE o.document = ? AND o.place <= ? AND (o.dead IS NULL OR o.dead > ?) ORDER BY o.place"
    )
    # takes document: every operation, with whether its entry is masked
    history: str = (
        "SELECT o.place, o.branch, o.seq, o.op, o.verb, o.path, o.val, o.context, t.masked FROM database_op o"
        " JOIN database_txn t ON t.branch = o.branch AND t.seq = o.seq WHERE o.document = ? ORDER BY o.place"
    )
    # takes place
    op: str = (
        "SELECT o.place, o.branch, o.seq, o.op, o.verb, o.path, o.val, o.document, o.dead, o.context FROM database_op o"
        " WHERE o.place = ?"
    )
    # takes place, place: the operations of one entry
    ops_between: str = (
        "SELECT o.place, o.branch, o.seq, o.op, o.verb, o.path, o.val, o.document, o.dead, o.context FROM database_op o"
        " WHERE o.place > ? AND o.place <= ? ORDER BY o.place"
    )
    # takes branch, seq: documents touched by a branch from an index on
    touched_from: str = (
        "SELECT DISTINCT o.document FROM database_txn t JOIN database_op o ON o.place > t.place"
        " AND o.place <= t.place + t.ops WHERE t.branch = ? AND t.seq >= ?"
    )
    # takes document, branch, seq: entries of a branch beyond an index that touch a document
    writers_beyond: str = (
        "SELECT DISTINCT t.place FROM database_op o JOIN database_txn t ON t.branch = o.branch AND t.seq = o.seq"
        " WHERE o.document = ? AND o.branch = ? AND o.seq > ? AND t.masked IS NULL"
    )

    # counters
    counters: str = (
        "SELECT path, branch, first_seq, last_seq, last_op, increments, total FROM database_counter WHERE document = ?"
    )
    put_counter: str = (
        "INSERT INTO database_counter (document, path, branch, first_seq, last_seq, last_op, increments, total)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (document, path, branch) DO UPDATE SET"
        " first_seq = excluded.first_seq, last_seq = excluded.last_seq, last_op = excluded.last_op,"
        " increments = excluded.increments, total = excluded.total"
    )
    drop_counter: str = "DELETE FROM database_counter WHERE document = ? AND path = ? AND branch = ?"
    drop_counters: str = "DELETE FROM database_counter WHERE document = ?"
    # takes dead, document, path, branch, seq
    kill_increments: str = (
        "UPDATE database_op SET dead = ? WHERE document = ? AND path = ? AND verb = 3 AND branch = ? AND seq <= ?"
        " AND dead IS NULL"
    )
    # takes document, path, branch: live increments
    increments: str = (
        "SELECT seq, op, val FROM database_op WHERE document = ? AND path = ? AND verb = 3 AND branch = ?"
        " AND dead IS NULL ORDER BY place"
    )

    # guards
    add_guard: str = "INSERT INTO database_guard (document, place, etag) VALUES (?, ?, ?)"
    # takes document
    guards: str = (
        "SELECT t.place, t.branch, t.seq FROM database_guard g JOIN database_txn t ON t.place = g.place"
        " WHERE g.document = ?"
    )
    any_guard: str = "SELECT 1 FROM database_guard LIMIT 1"
    add_contest: str = (
        "INSERT INTO database_contest (document, guarded, other, found_at) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING"
    )
    # takes document
    contests: str = "SELECT guarded, other, found_at FROM database_contest WHERE document = ? ORDER BY guarded, other"

    # undo: takes branch, seq of what is undone, place of what undoes it
    add_undo: str = "INSERT INTO database_undo (branch, seq, place) VALUES (?, ?, ?)"
    # takes branch, seq: the entries that undo it
    undoers: str = (
        "SELECT t.place, t.branch, t.seq FROM database_undo u JOIN database_txn t ON t.place = u.place"
        " WHERE u.branch = ? AND u.seq = ? AND t.masked IS NULL ORDER BY t.place"
    )
    # takes document, place, place, place: what was replaced first by operations between the last two, and is older
    lost_between: str = (
        "SELECT o.place, o.branch, o.seq, o.op, o.verb, o.path, o.val FROM database_op o"
        " WHERE o.document = ? AND o.place <= ? AND o.dead > ? AND o.dead <= ? ORDER BY o.place"
    )

    # history
    # takes document, place: as history, behind a place
    history_after: str = (
        "SELECT o.place, o.branch, o.seq, o.op, o.verb, o.path, o.val, o.context, t.masked FROM database_op o"
        " JOIN database_txn t ON t.branch = o.branch AND t.seq = o.seq WHERE o.document = ? AND o.place > ?"
        " ORDER BY o.place"
    )
    # takes document: every operation, when it died, and the place of its entry
    lives: str = (
        "SELECT o.place, o.branch, o.seq, o.op, o.verb, o.path, o.val, o.dead, t.place FROM database_op o"
        " JOIN database_txn t ON t.branch = o.branch AND t.seq = o.seq WHERE o.document = ? ORDER BY o.place"
    )
    # takes branch, seq, seq: documents touched by a branch behind the first index and up to the second
    touched_between: str = (
        "SELECT DISTINCT o.document FROM database_txn t JOIN database_op o ON o.place > t.place"
        " AND o.place <= t.place + t.ops WHERE t.branch = ? AND t.seq > ? AND t.seq <= ?"
    )
    # takes database, time: the newest entry that was taken in by then
    taken_before: str = (
        "SELECT t.place, t.ops FROM database_txn t JOIN database_branch b ON b.id = t.branch"
        " WHERE b.database = ? AND t.taken_ms <= ? ORDER BY t.place DESC LIMIT 1"
    )

    # conflicts
    # takes database: documents that show a conflict
    conflicting: str = "SELECT id FROM database_document WHERE database = ? AND conflicts > 0"
    # takes database: documents with a condition that was contested
    contested: str = (
        "SELECT DISTINCT c.document FROM database_contest c JOIN database_document d ON d.id = c.document"
        " WHERE d.database = ?"
    )
    # takes document, place: entries behind a place that touch a document
    writers_after: str = (
        "SELECT DISTINCT t.place, t.branch, t.seq FROM database_op o"
        " JOIN database_txn t ON t.branch = o.branch AND t.seq = o.seq"
        " WHERE o.document = ? AND o.place > ? AND t.masked IS NULL"
    )

    add_rebuild: str = "INSERT INTO database_rebuild (place, document) VALUES (?, ?)"


@cache
def queries_for(dialect: str) -> Queries:
    """The statements for an engine, by the name that SQLAlchemy has for it."""
    if dialect == "sqlite":
        return Queries()
    return Queries(**{one.name: str(one.default).replace("?", "%s") for one in fields(Queries)})
