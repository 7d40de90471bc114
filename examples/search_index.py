"""A full-text index over the documents of a database, kept up to date by its change feed.

    python examples/search_index.py HOME DATABASE INDEX [WORDS ...]

brings the index in the SQLite file INDEX up to date, and shows the documents that hold all the words. It only reads the
home, and takes no passphrase.

The one thing to see here is where the cursor is kept: in the index itself, and in the transaction that also applies the
events up to it. However the program ends, what is in the index and what the cursor says belong together. So each event
takes effect exactly once, without a log of what was done and without asking anybody whether it was.
"""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from api.databases import open_databases
from identity.errors import ConflictError
from sync.changefeed import START, ChangeEvent
from sync.database import Database

TABLES = """
    CREATE TABLE IF NOT EXISTS document (
        id INTEGER PRIMARY KEY, collection TEXT NOT NULL, key TEXT NOT NULL, UNIQUE (collection, key)
    );
    CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5 (text, tokenize = 'unicode61 remove_diacritics 2');
    CREATE TABLE IF NOT EXISTS progress (one INTEGER PRIMARY KEY CHECK (one = 1), cursor TEXT NOT NULL);
"""


class SearchIndex:
    """An index in a file. ``close`` it."""

    def __init__(self, file: Path) -> None:
        self._connection = sqlite3.connect(file, isolation_level=None)
        self._connection.executescript(TABLES)
        self._connection.execute("INSERT OR IGNORE INTO progress VALUES (1, ?)", (START,))

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def update(self, database: Database, limit: int = 1000) -> int:
        """Take in all that is new, ``limit`` events in a transaction. Returns how many events there were."""
        count, more = 0, True
        while more:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                found, more = self._take_page(database, limit)
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")
            count += found
        return count

    def _take_page(self, database: Database, limit: int) -> tuple[int, bool]:
        (cursor,) = self._connection.execute("SELECT cursor FROM progress").fetchone()
        try:
            page = database.changes(cursor, limit=limit)
        except ConflictError:  # the home was restored, or its tables were made anew: what is here may be wrong
            self._connection.execute("DELETE FROM words")
            self._connection.execute("DELETE FROM document")
            page = database.changes(START, limit=limit)
        for event in page.events:
            self._take(event)
        self._connection.execute("UPDATE progress SET cursor = ?", (page.cursor,))
        return len(page.events), page.more

    def _take(self, event: ChangeEvent) -> None:
        """Let the index hold a document as it is after an event."""
        found = self._connection.execute("SELECT id FROM document WHERE collection = ? AND key = ?", event.document)
        row = found.fetchone()
        if row is not None:
            self._connection.execute("DELETE FROM words WHERE rowid = ?", row)
            self._connection.execute("DELETE FROM document WHERE id = ?", row)
        if event.new is not None:
            added = self._connection.execute("INSERT INTO document (collection, key) VALUES (?, ?)", event.document)
            text = "\n".join(texts_in(event.new))
            self._connection.execute("INSERT INTO words (rowid, text) VALUES (?, ?)", (added.lastrowid, text))

    def search(self, *words: str) -> list[tuple[str, str]]:
        """Collection and key of the documents that hold all words, the best first."""
        query = " ".join('"' + word.replace('"', '""') + '"' for word in words)
        return self._connection.execute(
            "SELECT collection, key FROM words JOIN document ON document.id = words.rowid"
            " WHERE words MATCH ? ORDER BY rank, collection, key",
            (query,),
        ).fetchall()


def texts_in(value: Any) -> Iterator[str]:
    """Every text in a document; typed values are none."""
    match value:
        case str():
            yield value
        case list():
            for item in value:
                yield from texts_in(item)
        case Mapping() if not any(name.startswith("$") for name in value):
            for item in value.values():
                yield from texts_in(item)


def main(home: str, name: str, file: str, *words: str) -> None:
    """Update the index, and search it."""
    with open_databases(home) as databases, closing(SearchIndex(Path(file))) as index:
        count = index.update(databases.open(name))
        print(f"{count} changes taken in")
        for collection, key in index.search(*words) if words else ():
            print(f"{collection}/{key}")


if __name__ == "__main__":
    main(*sys.argv[1:])
