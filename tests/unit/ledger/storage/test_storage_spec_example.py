"""The worked example of docs/spec/storage.md: the rows that the feed-export example leaves in an empty store."""

from __future__ import annotations

import io
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from ledger.transfer import ingest_feed

SPECS = Path(__file__).resolve().parents[4] / "docs" / "spec"


def fences(name: str) -> list[str]:
    return re.findall(r"```text\n(.*?)```", (SPECS / name).read_text("utf-8"), re.DOTALL)


def stated() -> dict[str, str]:
    """``name = value`` lines; a value that does not fit stands on the indented lines below."""
    values: dict[str, str] = {}
    name = ""
    for line in fences("storage.md")[0].strip("\n").split("\n"):
        if line.startswith(" "):
            values[name] += line.strip()
        else:
            name, _, values[name] = (part.strip() for part in line.partition(" ="))
    return values


def test_rows_are_as_stated(tmp_path: Path, new_sqlite: Any) -> None:
    export = bytes.fromhex(re.sub(r"^.* =$", "", fences("feed-export.md")[0], flags=re.MULTILINE))
    store = new_sqlite(tmp_path / "example.db")
    ingest_feed(store, io.BytesIO(export))
    store.close()
    found: dict[str, str] = {}
    with closing(sqlite3.connect(tmp_path / "example.db")) as connection:
        columns = ("id", "key", "local", "retired", "length", "byte_length", "roots")
        for row in connection.execute(f"SELECT {', '.join(columns)} FROM feed"):
            found |= {f"feed {name}": text(value) for name, value in zip(columns, row, strict=True)}
        for table, column in (("tree", "nodes"), ("block", "data"), ("head", "tree_hash")):
            for pos, value in connection.execute(f"SELECT pos, {column} FROM {table}"):
                found[f"{table} {pos} {column}"] = text(value)
    assert found == stated()


def text(value: int | bytes) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
