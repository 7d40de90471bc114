"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from identity.durable import PRIVATE, create_file, drafted, replace_file, sync_directory, sync_file
from identity.errors import StorageError


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def fail(*args: object, **kwargs: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_new_file_holds_the_data(tmp_path: Path) -> None:
    create_file(tmp_path / "one", b"data", mode=PRIVATE)
    assert (tmp_path / "one").read_bytes() == b"data"
    assert stat.S_IMODE((tmp_path / "one").stat().st_mode) == 0o600
    assert names(tmp_path) == ["one"]


def test_a_file_that_is_there_is_not_created_again(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"old")
    with pytest.raises(FileExistsError):
        create_file(tmp_path / "one", b"new")
    assert (tmp_path / "one").read_bytes() == b"old"
    assert names(tmp_path) == ["one"]


def test_replacing_needs_no_file_before(tmp_path: Path) -> None:
    replace_file(tmp_path / "one", b"first")
    replace_file(tmp_path / "one", b"second")
    assert (tmp_path / "one").read_bytes() == b"second"


@pytest.mark.parametrize("call", ["os.open", "os.fsync", "pathlib.Path.replace"])
def test_a_replacement_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    replace_file(tmp_path / "one", b"old")
    with monkeypatch.context() as patch:
        patch.setattr(call, fail)
        with pytest.raises(StorageError, match="No space left"):
            replace_file(tmp_path / "one", b"new")
    assert (tmp_path / "one").read_bytes() == b"old"
    assert names(tmp_path) == ["one"]


def test_what_the_block_raises_leaves_the_old_file(tmp_path: Path) -> None:
    replace_file(tmp_path / "one", b"old")
    with pytest.raises(ZeroDivisionError), drafted(tmp_path / "one") as stream:
        stream.write(b"half of")
        stream.write(bytes([1 // 0]))
    assert (tmp_path / "one").read_bytes() == b"old"
    assert names(tmp_path) == ["one"]


def test_the_file_is_synced_before_it_is_moved_and_the_directory_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def record_sync(descriptor: int) -> None:
        steps.append("directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def record_replace(source: Path, target: Path) -> Path:
        steps.append("replace")
        return replace(source, target)

    monkeypatch.setattr(os, "fsync", record_sync)
    monkeypatch.setattr(Path, "replace", record_replace)
    replace_file(tmp_path / "one", b"data")
    assert steps == ["file", "replace", "directory"]


@pytest.mark.parametrize("sync", [sync_file, sync_directory])
def test_what_is_not_there_cannot_be_synced(tmp_path: Path, sync: object) -> None:
    assert callable(sync)
    with pytest.raises(StorageError, match="power cut"):
        sync(tmp_path / "none")
