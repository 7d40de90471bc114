"""The changes of a collection as Parquet files, for programs that read columns: one more file for what is new.

    python examples/parquet_export.py HOME DATABASE COLLECTION DIRECTORY

adds to DIRECTORY the files changes-00000001.parquet and so on. A row is a change: ``$key``, ``$change`` (created,
changed, deleted, ...), and the document's fields as they are after it, none when it is gone. The newest row of a key
says what the document is; in DuckDB:

    SELECT * FROM read_parquet('DIRECTORY/changes-*.parquet', union_by_name = true, filename = true)
    QUALIFY row_number() OVER (PARTITION BY "$key" ORDER BY filename DESC, file_row_number DESC) = 1

Files can't share a transaction with the cursor, as the search index does. Here the order does it: first the file of
changes stands in its place, whole and durable; then the file ``cursor`` is replaced, which names the next one. Who dies
in between writes the same file again, from the same cursor: so each change stands in one file, exactly once.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from api.databases import open_databases
from api.parquet import KEY_COLUMN, columns_of, write_parquet
from identity.durable import drafted, replace_file
from identity.encoding import Value
from identity.errors import ConflictError
from sync.changefeed import START, ChangePage
from sync.database import Database

CHANGE = "$change"
"""The column that says what became of a document: no field can be called so."""

Rows = list[tuple[str, Mapping[str, Value]]]


def export(database: Database, collection: str, directory: Path, limit: int = 10_000) -> int:
    """Write what is new, ``limit`` changes to a file. Returns how many changes there were."""
    directory.mkdir(exist_ok=True)
    count, more = 0, True
    while more:
        number, cursor = read_progress(directory)
        page = next_page(database, collection, cursor, limit)
        rows = rows_of(page)
        if rows:
            with drafted(file_of(directory, number)) as stream:
                write_parquet(stream, columns_of(rows), rows)
            number += 1
        write_progress(directory, number, page.cursor)
        count, more = count + len(page.events), page.more
    return count


def rows_of(page: ChangePage) -> Rows:
    """The rows of a file. What was not there and is not there is left out."""
    events = [event for event in page.events if event.old is not None or event.new is not None]
    return [(event.document.key, {**(event.new or {}), CHANGE: event.kind.value}) for event in events]


def next_page(database: Database, collection: str, cursor: str, limit: int) -> ChangePage:
    """The changes behind a cursor. Raises ``ConflictError`` when it leads nowhere any more."""
    try:
        return database.changes(cursor, limit=limit, collections=[collection])
    except ConflictError as exc:  # the home was restored, or its tables were made anew
        raise ConflictError(
            "these files do not fit the home any more", hint="begin anew, in an empty directory"
        ) from exc


def file_of(directory: Path, number: int) -> Path:
    """Where changes stand."""
    return directory / f"changes-{number:08}.parquet"


def read_progress(directory: Path) -> tuple[int, str]:
    """The number of the next file, and the cursor that it begins at."""
    file = directory / "cursor"
    if not file.exists():
        return 1, START
    progress = json.loads(file.read_text("utf-8"))
    return int(progress["next"]), str(progress["cursor"])


def write_progress(directory: Path, number: int, cursor: str) -> None:
    """Let the next export begin there."""
    replace_file(directory / "cursor", json.dumps({"next": number, "cursor": cursor}).encode())


def newest(directory: Path) -> Mapping[str, Mapping[str, object]]:
    """The documents that the files amount to, by key: what the query above gives."""
    documents: dict[str, Mapping[str, object]] = {}
    for row in rows_in(directory):
        key, change = row.pop(KEY_COLUMN), row.pop(CHANGE)
        if change in ("created", "changed", "undeleted"):
            documents[str(key)] = row
        else:
            documents.pop(str(key), None)
    return documents


def rows_in(directory: Path) -> Iterator[dict[str, object]]:
    """Every row of every file, in order; an empty cell is left out."""
    import pyarrow.parquet

    number, _ = read_progress(directory)
    for one in range(1, number):
        table = pyarrow.parquet.read_table(file_of(directory, one))
        for row in table.to_pylist():
            yield {name: cell for name, cell in row.items() if cell is not None}


def main(home: str, name: str, collection: str, directory: str) -> None:
    """Export what is new."""
    with open_databases(home) as databases:
        count = export(databases.open(name), collection, Path(directory))
    print(f"{count} changes written")


if __name__ == "__main__":
    main(*sys.argv[1:])
