"""The worked examples: what they keep is what the database shows, whatever comes between."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from identity.errors import ConflictError
from sync.changes import Changes
from sync.storage.scan import iterate


def load(root: Path, name: str) -> ModuleType:
    """An example as a module."""
    spec = importlib.util.spec_from_file_location(name, root / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def search_index(root: Path) -> ModuleType:
    return load(root, "search_index")


@pytest.fixture
def parquet_export(root: Path) -> ModuleType:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    return load(root, "parquet_export")


def write(replica: Any, *texts: str, collection: str = "letters") -> None:
    changes = Changes()
    for text in texts:
        key, _, content = text.partition(":")
        changes.put(collection, key, {"text": content, "meta": {"tags": [content.upper()]}, "n": len(content)})
    replica.db.commit(changes)


def delete(replica: Any, *keys: str) -> None:
    changes = Changes()
    for key in keys:
        changes.delete("letters", key)
    replica.db.commit(changes)


def shown(replica: Any) -> dict[str, Any]:
    with replica.db.read() as reader:
        return {state.name.key: state.view.fields for state in iterate(reader, "letters")}


class _Stopped(Exception):
    """The program ends here."""


# --- the search index


def test_the_index_finds_what_is_there(world: Any, tmp_path: Path, search_index: ModuleType) -> None:
    laptop, phone = world.replica("laptop"), world.replica("phone")
    with closing(search_index.SearchIndex(tmp_path / "words.db")) as index:
        write(laptop, "1:a brown fox", "2:a lazy dog", "3:žluťoučký kůň")
        assert index.update(laptop.db) == 3
        assert index.search("brown") == [("letters", "1")]
        assert index.search("a", "dog") == [("letters", "2")]
        assert index.search("zlutoucky", "kun") == [("letters", "3")]
        assert index.search('"', "NEAR(") == []
        assert index.update(laptop.db) == 0
        world.exchange()
        write(phone, "2:a brown dog")
        delete(phone, "1")
        world.exchange()
        assert index.update(laptop.db, limit=1) == 2
        assert index.search("brown") == [("letters", "2")]
        assert index.search("lazy") == []


def test_the_index_holds_each_event_once_however_often_it_stops(
    world: Any, tmp_path: Path, search_index: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    laptop = world.replica("laptop")
    for number in range(4):
        write(laptop, *(f"{key}:word{key} round{number}" for key in range(3)))
    delete(laptop, "1")
    taken = search_index.SearchIndex._take
    for stop in range(1, 14):
        index = search_index.SearchIndex(tmp_path / "words.db")
        left = stop % 5

        def take(self: Any, event: Any) -> None:
            nonlocal left
            taken(self, event)
            left -= 1
            if left <= 0:
                raise _Stopped

        monkeypatch.setattr(search_index.SearchIndex, "_take", take)
        with pytest.raises(_Stopped):
            index.update(laptop.db, limit=2)
        index.close()
    monkeypatch.setattr(search_index.SearchIndex, "_take", taken)
    with closing(search_index.SearchIndex(tmp_path / "words.db")) as index:
        index.update(laptop.db, limit=2)
        assert sorted(index.search("round3")) == [("letters", "0"), ("letters", "2")]
        assert index.search("round1") == []


def test_the_index_begins_anew_when_the_tables_were(world: Any, tmp_path: Path, search_index: ModuleType) -> None:
    laptop = world.replica("laptop")
    write(laptop, "1:fox", "2:dog")
    with closing(search_index.SearchIndex(tmp_path / "words.db")) as index:
        index.update(laptop.db)
        laptop.db.rebuild()
        write(laptop, "3:fox")
        assert index.update(laptop.db) == 3
        assert sorted(index.search("fox")) == [("letters", "1"), ("letters", "3")]


# --- the Parquet files


def test_the_files_amount_to_what_is_there(world: Any, tmp_path: Path, parquet_export: ModuleType) -> None:
    laptop = world.replica("laptop")
    write(laptop, "1:fox", "2:dog")
    write(laptop, "x:other", collection="others")
    files = tmp_path / "export"
    assert parquet_export.export(laptop.db, "letters", files) == 2
    assert parquet_export.export(laptop.db, "letters", files) == 0
    write(laptop, "2:cat", "3:hen")
    delete(laptop, "1")
    assert parquet_export.export(laptop.db, "letters", files, limit=1) == 3
    assert sorted(file.name for file in files.iterdir()) == [
        "changes-00000001.parquet",
        "changes-00000002.parquet",
        "changes-00000003.parquet",
        "cursor",
    ]
    kept = parquet_export.newest(files)
    assert {key: (row["text"], row["n"]) for key, row in kept.items()} == {"2": ("cat", 3), "3": ("hen", 3)}
    assert kept.keys() == shown(laptop).keys()


def test_each_change_is_in_one_file_however_often_the_export_stops(
    world: Any, tmp_path: Path, parquet_export: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stops where it would hurt: when the file stands, and the cursor does not say so."""
    laptop = world.replica("laptop")
    files = tmp_path / "export"
    written = parquet_export.write_progress

    def stop(*_: object) -> None:
        raise _Stopped

    for number in range(4):
        write(laptop, f"1:{number}", f"2:{number}")
        monkeypatch.setattr(parquet_export, "write_progress", stop)
        with pytest.raises(_Stopped):
            parquet_export.export(laptop.db, "letters", files)
        write(laptop, f"1:{number} again")
        if number % 2:
            monkeypatch.setattr(parquet_export, "write_progress", written)
            parquet_export.export(laptop.db, "letters", files)
    rows = list(parquet_export.rows_in(files))
    assert [row["text"] for row in rows] == [
        text for number in range(4) for text in (str(number), str(number), f"{number} again")
    ]
    assert parquet_export.newest(files)["1"]["text"] == "3 again"


def test_the_export_says_when_its_files_do_not_fit(world: Any, tmp_path: Path, parquet_export: ModuleType) -> None:
    laptop = world.replica("laptop")
    write(laptop, "1:fox")
    parquet_export.export(laptop.db, "letters", tmp_path / "export")
    laptop.db.rebuild()
    with pytest.raises(ConflictError) as found:
        parquet_export.export(laptop.db, "letters", tmp_path / "export")
    assert "empty directory" in found.value.hint


# --- as programs


def test_the_programs_run(root: Path, tmp_path: Path, parquet_export: ModuleType) -> None:
    """Over a home, as the pages say it."""
    (tmp_path / "pass").write_text("correct horse battery staple\n", "utf-8")
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST_")},
        "HOLDFAST_HOME": str(tmp_path / "home"),
        "HOLDFAST_PASSPHRASE_FILE": str(tmp_path / "pass"),
        "XDG_DATA_HOME": str(tmp_path / "data"),
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "PYTHONPATH": str(root),
    }

    def run(*command: str) -> str:
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    holdfast = (sys.executable, "-m", "api.cli")
    run(*holdfast, "init", "--label", "Bank", "--phrase-file", "phrase")
    run(*holdfast, "db", "create", "bank")
    run(*holdfast, "db", "put", "bank", "letters/1", '{"text": "a brown fox"}')
    examples = root / "examples"
    home = environ["HOLDFAST_HOME"]
    found = run(sys.executable, str(examples / "search_index.py"), home, "bank", "words.db", "fox")
    assert found == "1 changes taken in\nletters/1\n"
    assert run(sys.executable, str(examples / "search_index.py"), home, "bank", "words.db") == "0 changes taken in\n"
    exported = run(sys.executable, str(examples / "parquet_export.py"), home, "bank", "letters", "files")
    assert exported == "1 changes written\n"
    assert parquet_export.newest(tmp_path / "files") == {"1": {"text": "a brown fox"}}
