"""Forgetting what the tables of a database say, so that it can be taken in again from its feeds.

Sides of feeds that forked stay: they follow from nothing else. Places are not given out a second time: whoever
remembers one from before finds that everything came later.
"""

from __future__ import annotations

from typing import Any, Final

from sync.storage.queries import queries_for

__all__ = ["EVERYTHING", "forget_database"]

EVERYTHING: Final = 0
"""In the place of a document, in a row that says what was made anew: a whole database, all that came before it."""

# each takes a database
_STATEMENTS: Final = (
    "DELETE FROM database_intent WHERE database = ?",
    (
        "DELETE FROM database_decision WHERE place IN (SELECT t.place FROM database_txn t"
        " JOIN database_branch b ON b.id = t.branch WHERE b.database = ?)"
    ),
    (
        "DELETE FROM database_proposal WHERE place IN (SELECT t.place FROM database_txn t"
        " JOIN database_branch b ON b.id = t.branch WHERE b.database = ?)"
    ),
    (
        "DELETE FROM database_undo WHERE place IN (SELECT t.place FROM database_txn t"
        " JOIN database_branch b ON b.id = t.branch WHERE b.database = ?)"
    ),
    "DELETE FROM database_leaf WHERE document IN (SELECT id FROM database_document WHERE database = ?)",
    "DELETE FROM database_contest WHERE document IN (SELECT id FROM database_document WHERE database = ?)",
    "DELETE FROM database_guard WHERE document IN (SELECT id FROM database_document WHERE database = ?)",
    "DELETE FROM database_counter WHERE document IN (SELECT id FROM database_document WHERE database = ?)",
    "DELETE FROM database_op WHERE document IN (SELECT id FROM database_document WHERE database = ?)",
    "DELETE FROM database_rebuild WHERE document IN (SELECT id FROM database_document WHERE database = ?)",
    "DELETE FROM database_document WHERE database = ?",
    "DELETE FROM database_track WHERE branch IN (SELECT id FROM database_branch WHERE database = ?)",
    "DELETE FROM database_stray WHERE database = ?",
    "DELETE FROM database_txn WHERE branch IN (SELECT id FROM database_branch WHERE database = ?)",
    "DELETE FROM database_branch WHERE database = ?",
)


def forget_database(tx: Any, dialect: str, number: int) -> None:
    """Delete every row about the database with that number but its own, in a write transaction of that engine."""
    queries = queries_for(dialect)
    newest = tx.fetch_one(queries.newest)
    (rebuilt,) = tx.fetch_one(queries.last_rebuild)
    for statement in _STATEMENTS:
        tx.execute(statement if dialect == "sqlite" else statement.replace("?", "%s"), (number,))
    place = 1 + max(0 if newest is None else newest[0] + newest[1], rebuilt or 0)
    tx.insert_many(queries.add_rebuild, [(place, EVERYTHING)])
