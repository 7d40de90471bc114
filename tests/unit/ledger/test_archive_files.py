"""Row E3: paths out of an archive. What could leave the home, hide in it, or stand for something else is refused."""

from __future__ import annotations

import io
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity.encoding import Fields
from identity.errors import LimitExceeded, MalformedError
from ledger import archive_files
from ledger.archive import Section
from ledger.archive_files import check_path, read_file


@pytest.mark.parametrize("path", ["holdfast.toml", "keystore.hfk", "a", "tsa/root.pem", "a/b/c/D_e-1.x", "x" * 100])
def test_paths_that_may_be(path: str) -> None:
    assert check_path(path) == path


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc/passwd",
        "..",
        "../x",
        "a/../../x",
        "a/..",
        "./a",
        "a/./b",
        "a//b",
        "a/",
        ".hidden",
        "a/.hidden",
        "-rf",
        "a\\b",
        "c:a",
        "a b",
        "a\nb",
        "a\0b",
        "holdfast.toml\n",
        "caf\u00e9",
        "\uff0e\uff0e/x",
        "a\u202eb",
        "~",
        "$HOME",
        "a/b/c/d/e",
        "x" * 101,
        "/".join(["x" * 60] * 4),
    ],
)
def test_paths_that_may_not_be(path: str) -> None:
    with pytest.raises(MalformedError, match="no path of a file in a home"):
        check_path(path)


@pytest.mark.parametrize(
    "path", ["vault.db", "a/vault.db", "VAULT.DB", "vault.db-wal", "x-shm", "x-journal", "vault.db.new"]
)
def test_what_could_be_taken_for_a_store(path: str) -> None:
    with pytest.raises(MalformedError, match="taken for a store"):
        check_path(path)


@pytest.mark.parametrize(
    ("path", "known"), [("a", "a"), ("A", "a"), ("a/b", "a"), ("a", "a/b"), ("Tsa/x", "tsa"), ("tsa", "TSA/root.pem")]
)
def test_two_files_in_one_place(path: str, known: str) -> None:
    with pytest.raises(MalformedError, match="are one"):
        check_path(path, ["other", known])


@pytest.mark.parametrize(("path", "known"), [("ab", "a"), ("a/c", "a/b"), ("a.b", "a")])
def test_neighbours(path: str, known: str) -> None:
    assert check_path(path, [known]) == path


@given(st.text(max_size=12))
def test_no_text_leads_out(path: str) -> None:
    try:
        parts = check_path(path).split("/")
    except MalformedError:
        return
    assert all(part not in ("", ".", "..") and part.isascii() and part.isprintable() for part in parts)


def section(path: object, content: bytes) -> Section:
    return Section("file", Fields(cast("Any", {"path": path}), "test"), io.BytesIO(content))


def test_a_file() -> None:
    assert read_file(section("policy.toml", b"v = 1\n"), []) == ("policy.toml", b"v = 1\n")


def test_a_file_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_files, "MAX_FILES_BYTES", 10)
    with pytest.raises(LimitExceeded, match="more than 10 bytes"):
        read_file(section("policy.toml", bytes(11)), [])


def test_a_path_that_is_no_text() -> None:
    with pytest.raises(MalformedError, match="must be text"):
        read_file(section(b"policy.toml", b""), [])
