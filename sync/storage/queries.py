"""The statements of databases, in the words of each engine.

Plain SQL that SQLite and PostgreSQL both take, with ``?`` for parameters; only that mark is another one for psycopg. It
is not compiled from tables, because these run for every operation that is merged.

SQLite has no knowledge of how many rows a condition leaves, and would begin with what belongs to a database: with all
its entries, or all its documents. A plus before a column, as in ``+b.database``, says that no index is to lead there;
an order, that the index is wanted which has it. ``tests/unit/sync/test_query_plans.py`` holds what comes of it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache
from typing import Final

__all__ = ["MANY", "Queries", "queries_for"]

MANY: Final = 64
"""Documents that a statement for many of them takes; it is given one of them again where there are fewer."""

_OF_MANY: Final = f"({', '.join('?' * MANY)})"
"""What ``:many`` stands for in a statement."""


@dataclass(frozen=True, slots=True)
class Queries:
    """SQL text by use; each comment names parameters and columns."""

    mark: str = "?"
    """What stands for a parameter."""

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
    # takes database: the newest entry of each branch
    heads: str = (
        "SELECT t.branch, t.seq, t.lamport, t.reading, t.leaf FROM database_branch b JOIN database_txn t"
        " ON t.branch = b.id AND t.seq = (SELECT max(n.seq) FROM database_txn n WHERE n.branch = b.id)"
        " WHERE b.database = ?"
    )
    # takes database: the newest past that is recorded in each branch
    pasts: str = (
        "SELECT t.branch, t.past FROM database_branch b JOIN database_txn t ON t.branch = b.id AND t.seq ="
        " (SELECT max(n.seq) FROM database_txn n WHERE n.branch = b.id AND n.past IS NOT NULL)"
        " WHERE b.database = ?"
    )
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
    # takes branch, seq: how many entries are behind an index
    count_after: str = "SELECT count(*) FROM database_txn WHERE branch = ? AND seq > ?"
    # takes database: entries that are not transactions
    others: str = (
        "SELECT t.branch, t.seq, t.kind, t.leaf, t.masked FROM database_txn t JOIN database_branch b ON b.id = t.branch"
        " WHERE b.database = ? AND t.kind <> 1 ORDER BY t.place"
    )

    # documents
    document: str = (
        "SELECT id, place, etag, shown, conflicts, exact_from FROM database_document"
        " WHERE database = ? AND collection = ? AND key = ?"
    )
    # the same parameters: id, ETag, and whether it has counters
    document_to_show: str = (
        "SELECT d.id, d.etag, EXISTS (SELECT 1 FROM database_counter c WHERE c.document = d.id)"
        " FROM database_document d WHERE d.database = ? AND d.collection = ? AND d.key = ?"
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
        " WHERE o.document = ? AND +o.branch = ? AND +o.seq > ? AND t.masked IS NULL"
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

    # serial writes
    # takes database, kind: entries of one kind that are not transactions, and not masked
    of_kind: str = (
        "SELECT t.branch, t.seq, t.leaf FROM database_txn t JOIN database_branch b ON b.id = t.branch"
        " WHERE b.database = ? AND t.kind <> 1 AND t.kind = ? AND t.masked IS NULL ORDER BY t.place"
    )
    add_proposal: str = "INSERT INTO database_proposal (place, pending) VALUES (?, 1)"
    settle_proposal: str = "UPDATE database_proposal SET pending = 0 WHERE place = ?"
    # takes the proposal, and what decides it, both by place
    add_decision: str = "INSERT INTO database_decision (proposal, place) VALUES (?, ?)"
    # takes the place of a proposal
    decisions: str = (
        "SELECT t.branch, t.seq, t.kind, t.leaf FROM database_decision d JOIN database_txn t ON t.place = d.place"
        " WHERE d.proposal = ? ORDER BY d.place"
    )
    # takes database, place, limit: proposals that nothing decides yet, behind a place
    pending: str = (
        "SELECT p.place, t.branch, t.seq, t.leaf FROM database_proposal p JOIN database_txn t ON t.place = p.place"
        " JOIN database_branch b ON b.id = t.branch WHERE +b.database = ? AND p.pending = 1 AND p.place > ?"
        " ORDER BY p.place LIMIT ?"
    )
    # intents: takes place, database, key, sequence, digest
    add_intent: str = "INSERT INTO database_intent (place, database, key, sequence, digest) VALUES (?, ?, ?, ?, ?)"
    # takes database, key, sequence: where entries with that number stand, the first first, and what they say
    intents: str = (
        "SELECT i.digest, t.branch, t.seq, t.place, t.ops"
        " FROM database_intent i JOIN database_txn t ON t.place = i.place"
        " WHERE i.database = ? AND i.key = ? AND i.sequence = ? ORDER BY i.place"
    )
    # takes database: numbers that stand for several intents
    rival_intents: str = (
        "SELECT key, sequence FROM database_intent WHERE database = ?"
        " GROUP BY key, sequence HAVING count(DISTINCT digest) > 1 ORDER BY key, sequence"
    )
    # takes database, key: the largest number
    last_intent: str = "SELECT max(sequence) FROM database_intent WHERE database = ? AND key = ?"

    # undo: takes the place of what undoes, and of what is undone
    add_undo: str = "INSERT INTO database_undo (place, undone) VALUES (?, ?)"
    # takes database, place: what was undone behind a place, and by which entry
    undone_after: str = (
        "SELECT e.branch, e.seq, e.place, t.branch, t.seq, t.place FROM database_undo u"
        " JOIN database_txn e ON e.place = u.undone JOIN database_txn t ON t.place = u.place"
        " JOIN database_branch b ON b.id = t.branch"
        " WHERE +b.database = ? AND u.place > ? AND e.masked IS NULL AND t.masked IS NULL ORDER BY u.place"
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
    # takes document, place, limit: operations behind a place, when each died, and the place of its entry
    lives: str = (
        "SELECT o.place, o.branch, o.seq, o.op, o.verb, o.path, o.val, o.dead, t.place FROM database_op o"
        " JOIN database_txn t ON t.branch = o.branch AND t.seq = o.seq WHERE o.document = ? AND o.place > ?"
        " ORDER BY o.place LIMIT ?"
    )
    # takes branch, seq, seq: documents touched by a branch behind the first index and up to the second
    touched_between: str = (
        "SELECT DISTINCT o.document FROM database_txn t JOIN database_op o ON o.place > t.place"
        " AND o.place <= t.place + t.ops WHERE t.branch = ? AND t.seq > ? AND t.seq <= ?"
    )
    # takes database, time: the newest entry that was taken in by then
    taken_before: str = (
        "SELECT t.place, t.ops FROM database_txn t JOIN database_branch b ON b.id = +t.branch"
        " WHERE b.database = ? AND t.taken_ms <= ? ORDER BY t.place DESC LIMIT 1"
    )

    # conflicts
    # takes database: documents that show a conflict
    conflicting: str = "SELECT id FROM database_document WHERE database = ? AND conflicts > 0 ORDER BY collection, key"
    # takes database: documents with a condition that was contested
    contested: str = (
        "SELECT DISTINCT c.document FROM database_contest c JOIN database_document d ON d.id = c.document"
        " WHERE +d.database = ?"
    )
    # takes document, place: entries behind a place that touch a document
    writers_after: str = (
        "SELECT DISTINCT t.place, t.branch, t.seq FROM database_op o"
        " JOIN database_txn t ON t.branch = o.branch AND t.seq = o.seq"
        " WHERE o.document = ? AND o.place > ? AND t.masked IS NULL"
    )

    # many documents at once: take the documents
    live_of_many: str = (
        "SELECT o.place, o.branch, o.seq, o.op, o.verb, o.path, o.val, o.document FROM database_op o"
        " WHERE o.document IN :many AND o.dead IS NULL AND o.verb <> 3 ORDER BY o.place"
    )
    counters_of_many: str = (
        "SELECT path, branch, first_seq, last_seq, last_op, increments, total, document FROM database_counter"
        " WHERE document IN :many"
    )
    # and place, place: what was live after the operation at a place
    live_of_many_at: str = (
        "SELECT o.place, o.branch, o.seq, o.op, o.verb, o.path, o.val, o.document FROM database_op o"
        " WHERE o.document IN :many AND o.place <= ? AND (o.dead IS NULL OR o.dead > ?) ORDER BY o.place"
    )
    # and place, place: what was live at some time between the first, which is the later, and the second
    lives_of_many: str = (
        "SELECT o.place, o.branch, o.seq, o.op, o.verb, o.path, o.val, o.document, o.dead FROM database_op o"
        " WHERE o.document IN :many AND o.place <= ? AND (o.dead IS NULL OR o.dead > ?) ORDER BY o.place"
    )
    rows_of_many: str = "SELECT id, collection, key, exact_from FROM database_document WHERE id IN :many"

    # indexes over fields
    put_sort_keys: str = "UPDATE database_document SET sort_keys = ? WHERE id = ?"

    # the change feed
    # takes database, place: the newest entry at or before a place
    entry_before: str = (
        "SELECT t.place, t.branch, t.seq, t.kind, t.ops, t.reading, t.masked, t.leaf FROM database_txn t"
        " JOIN database_branch b ON b.id = +t.branch WHERE b.database = ? AND t.place <= ?"
        " ORDER BY t.place DESC LIMIT 1"
    )
    # takes database, place, limit: the entries behind a place
    entries_behind: str = (
        "SELECT t.place, t.branch, t.seq, t.kind, t.ops, t.reading, t.masked, t.leaf FROM database_txn t"
        " JOIN database_branch b ON b.id = +t.branch WHERE b.database = ? AND t.place > ? ORDER BY t.place LIMIT ?"
    )
    # takes place, place: the documents that operations behind the first place and up to the second are about
    touched_at: str = "SELECT place, document FROM database_op WHERE place > ? AND place <= ? ORDER BY place"
    # takes database, place, place, document, limit: documents made anew up to the first place, behind the rest
    rebuilt_after: str = (
        "SELECT r.place, r.document FROM database_rebuild r JOIN database_document d ON d.id = r.document"
        " WHERE +d.database = ? AND r.place <= ? AND (r.place, r.document) > (?, ?)"
        " ORDER BY r.place, r.document LIMIT ?"
    )
    # takes place, place: contests that entries behind the first place and up to the second brought to light
    contests_found: str = (
        "SELECT found_at, document, guarded, other FROM database_contest WHERE found_at > ? AND found_at <= ?"
        " ORDER BY document, guarded, other"
    )

    # state roots
    # takes database, collection, key, limit: documents behind one in their order, and their leaves as far as kept
    leaves_behind: str = (
        "SELECT d.id, d.collection, d.key, d.place, d.etag, d.exact_from, l.place, l.version, l.content"
        " FROM database_document d LEFT JOIN database_leaf l ON l.document = d.id"
        " WHERE d.database = ? AND (d.collection, d.key) > (?, ?) ORDER BY d.collection, d.key LIMIT ?"
    )
    put_leaf: str = (
        "INSERT INTO database_leaf (document, place, version, content) VALUES (?, ?, ?, ?) ON CONFLICT (document)"
        " DO UPDATE SET place = excluded.place, version = excluded.version, content = excluded.content"
    )

    add_rebuild: str = "INSERT INTO database_rebuild (place, document) VALUES (?, ?)"

    # sides of feeds that forked
    # takes database
    sided_feeds: str = "SELECT DISTINCT feed FROM database_side WHERE database = ? AND refused = 0 ORDER BY feed"
    # takes feed: the branch that its first entry is in, or was before it forked
    root_branch: str = "SELECT id FROM database_branch WHERE feed = ? AND parent IS NULL"
    # takes database, feed
    sides: str = (
        "SELECT id, feed, first_seq, length, reason, proof, refused FROM database_side"
        " WHERE database = ? AND feed = ? ORDER BY id"
    )
    side_manifest: str = "SELECT manifest FROM database_side WHERE feed = ? LIMIT 1"
    last_side: str = "SELECT max(id) FROM database_side"
    add_side: str = (
        "INSERT INTO database_side (id, database, feed, manifest, first_seq, length, reason, proof, refused)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
    )
    move_side: str = "UPDATE database_side SET length = ? WHERE id = ?"
    # takes side, seq, seq
    side_blocks: str = "SELECT data FROM database_side_block WHERE side = ? AND seq >= ? AND seq < ? ORDER BY seq"
    # takes side, seq
    side_nodes: str = "SELECT nodes FROM database_side_block WHERE side = ? AND seq = ?"
    # takes feed, seq
    side_block: str = (
        "SELECT b.data FROM database_side_block b JOIN database_side s ON s.id = b.side WHERE s.feed = ? AND b.seq = ?"
        " ORDER BY s.id"
    )
    add_side_block: str = "INSERT INTO database_side_block (side, seq, nodes, data) VALUES (?, ?, ?, ?)"
    # takes side, length, limit
    side_heads: str = (
        "SELECT length, tree_hash, signature FROM database_side_head WHERE side = ? AND length > ?"
        " ORDER BY length LIMIT ?"
    )
    add_side_head: str = "INSERT INTO database_side_head (side, length, tree_hash, signature) VALUES (?, ?, ?, ?)"
    # takes the new side, the one that it leaves, and where
    copy_side_blocks: str = (
        "INSERT INTO database_side_block (side, seq, nodes, data)"
        " SELECT ?, seq, nodes, data FROM database_side_block WHERE side = ? AND seq < ?"
    )
    copy_side_heads: str = (
        "INSERT INTO database_side_head (side, length, tree_hash, signature)"
        " SELECT ?, length, tree_hash, signature FROM database_side_head WHERE side = ? AND length <= ?"
    )

    # how far the lines of such feeds were taken in
    # takes database
    tracks: str = (
        "SELECT t.feed, t.side, t.branch, t.seq, t.next_seq, t.waits_for FROM database_track t"
        " JOIN database_branch b ON b.id = t.branch WHERE b.database = ? ORDER BY t.feed, t.side"
    )
    put_track: str = (
        "INSERT INTO database_track (feed, side, branch, seq, next_seq, waits_for) VALUES (?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (feed, side) DO UPDATE SET branch = excluded.branch, seq = excluded.seq,"
        " next_seq = excluded.next_seq, waits_for = excluded.waits_for"
    )
    # entries that have no place
    add_stray: str = (
        "INSERT INTO database_stray (database, feed, seq, leaf, kind, reason, taken_ms) VALUES (?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT DO NOTHING"
    )
    # takes database
    strays: str = "SELECT feed, seq, leaf, kind, reason FROM database_stray WHERE database = ? ORDER BY feed, seq, leaf"

    # splitting a branch
    # takes branch, seq: its entries behind an index
    txns_behind: str = (
        "SELECT place, seq, ops, leaf FROM database_txn WHERE branch = ? AND seq > ? ORDER BY seq LIMIT ?"
    )
    # takes the new branch, the old one, and an index
    move_txns: str = "UPDATE database_txn SET branch = ? WHERE branch = ? AND seq > ?"
    move_parents: str = "UPDATE database_branch SET parent = ? WHERE parent = ? AND id <> ?"
    # takes the new branch, and the places of the first and last operation of an entry
    move_ops: str = "UPDATE database_op SET branch = ? WHERE place >= ? AND place <= ?"
    # takes place, limit: vectors that were recorded behind a place
    pasts_behind: str = (
        "SELECT place, past FROM database_txn WHERE place > ? AND past IS NOT NULL ORDER BY place LIMIT ?"
    )
    move_past: str = "UPDATE database_txn SET past = ? WHERE place = ?"
    # takes document: contexts that are spelt out
    contexts: str = "SELECT place, context FROM database_op WHERE document = ? AND context IS NOT NULL ORDER BY place"
    move_context: str = "UPDATE database_op SET context = ? WHERE place = ?"

    # what an import brought
    # takes database, place: documents that changed behind a place and show conflicts
    conflicting_behind: str = (
        "SELECT id, collection, key, conflicts FROM database_document"
        " WHERE database = ? AND place > ? AND conflicts > 0 ORDER BY collection, key"
    )
    # takes database: how many conflicts documents show
    conflict_counts: str = (
        "SELECT id, conflicts FROM database_document WHERE database = ? AND conflicts > 0 ORDER BY collection, key"
    )
    # takes database, place: conditions that were found broken behind a place
    contested_behind: str = (
        "SELECT DISTINCT d.collection, d.key FROM database_contest c JOIN database_document d ON d.id = c.document"
        " WHERE +d.database = ? AND c.found_at > ? ORDER BY d.collection, d.key"
    )


@cache
def queries_for(dialect: str) -> Queries:
    """The statements for an engine, by the name that SQLAlchemy has for it."""
    mark = "?" if dialect == "sqlite" else "%s"
    return Queries(
        **{one.name: str(one.default).replace(":many", _OF_MANY).replace("?", mark) for one in fields(Queries)}
    )
