"""The key file: keys are durable, found, handed over and destroyed, here and in every copy that can be reached."""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity.encoding import encode
from identity.errors import (
    ConfigurationError,
    DamagedFile,
    LimitExceeded,
    MalformedError,
    NewerFormat,
    RefusedError,
    StorageError,
    StoreBusy,
    VerificationError,
)
from ledger.framing import encode_record
from sync import document_keys
from sync.document_keys import MAX_DESTROYED, Destroyed, DocumentKeys
from sync.transaction import MAX_KEY, DocumentId

DATABASE, OTHER = bytes([0xDB]) * 32, bytes([0xDC]) * 32
ADA, BOB = DocumentId("people", "ada"), DocumentId("people", "bob")
NOW = 1_790_000_000_000
FIRST_LINE = b"holdfast document keys 1\n"


@pytest.fixture
def keys(tmp_path: Path) -> Iterator[DocumentKeys]:
    with DocumentKeys(tmp_path / "keys.db") as keys:
        yield keys


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[[str], DocumentKeys]]:
    made: list[DocumentKeys] = []

    def make(name: str) -> DocumentKeys:
        made.append(DocumentKeys(tmp_path / name))
        return made[-1]

    yield make
    for one in made:
        one.close()


def files_with(directory: Path, data: bytes) -> list[str]:
    return sorted(file.name for file in directory.rglob("*") if file.is_file() and data in file.read_bytes())


def transactions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows with each transaction that is begun in a key file from now on."""
    begun: list[str] = []
    transaction = document_keys._KeyFile.transaction

    def counted(file: Any, kind: str = "IMMEDIATE") -> Any:
        begun.append(kind)
        return transaction(file, kind)

    monkeypatch.setattr(document_keys._KeyFile, "transaction", counted)
    return begun


def sealed_elsewhere(path: Path) -> bytes:
    """Let another process make a key for Ada; its kid."""
    row = (b"k" * 16, DATABASE, *ADA, b"s" * 32, NOW)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"INSERT INTO document_key VALUES (1, {', '.join('?' * len(row))})", row)
    return row[0]


def altered(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


# --- making and finding


def test_a_document_keeps_its_key(keys: DocumentKeys) -> None:
    key = keys.key_for(DATABASE, ADA)
    assert (len(key.kid), len(key.secret)) == (16, 32)
    assert keys.key_for(DATABASE, ADA) == key
    assert keys.find(key.kid) == key.secret
    assert keys.of_document(DATABASE, ADA) == (key.kid,)
    others = {keys.key_for(DATABASE, BOB), keys.key_for(OTHER, ADA), keys.key_for(DATABASE, DocumentId("p", "ada"))}
    assert len(others | {key}) == 4


def test_it_is_there_after_closing_and_for_others(keys: DocumentKeys, make: Callable[[str], DocumentKeys]) -> None:
    key = keys.key_for(DATABASE, ADA)
    assert make("keys.db").key_for(DATABASE, ADA) == key
    keys.close()
    keys.close()
    assert keys.find(key.kid) == key.secret


def test_many_keys_are_made_in_one_transaction(keys: DocumentKeys, monkeypatch: pytest.MonkeyPatch) -> None:
    ada = keys.key_for(DATABASE, ADA)
    made = transactions(monkeypatch)
    documents = [DocumentId("people", str(n)) for n in range(100)]
    found = keys.keys_for(DATABASE, [*documents, ADA, BOB, *documents])
    assert list(found) == [*documents, ADA, BOB]
    assert len(made) == 1
    assert found[ADA] == ada
    assert len({key.kid for key in found.values()}) == len({key.secret for key in found.values()}) == 102
    assert keys.keys_for(DATABASE, documents) == {document: found[document] for document in documents}
    assert keys.key_for(DATABASE, BOB) == found[BOB]
    assert keys.keys_for(DATABASE, []) == {}
    assert len(made) == 1, "what is there takes none"


def test_all_keys_are_made_or_none(keys: DocumentKeys) -> None:
    ada = keys.key_for(DATABASE, ADA)
    with pytest.raises(MalformedError):
        keys.keys_for(DATABASE, [BOB, DocumentId("people", "")])
    refusal = "BEFORE INSERT ON document_key WHEN new.key = '2' BEGIN SELECT RAISE(ABORT, 'no third one'); END"
    altered(keys.path, f"CREATE TRIGGER refusal {refusal}")
    with pytest.raises(DamagedFile, match="no third one"):
        keys.keys_for(DATABASE, [DocumentId("people", str(n)) for n in range(3)])
    assert keys.export_keys(DATABASE).count(ada.kid) == 1
    assert all(keys.of_document(DATABASE, DocumentId("people", str(n))) == () for n in range(3))
    assert keys.of_document(DATABASE, BOB) == ()


def test_keys_that_another_makes_meanwhile_are_taken(keys: DocumentKeys, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = document_keys._KeyFile.sealing_keys
    theirs: list[bytes] = []

    def overtaken(file: Any, *arguments: Any) -> Any:
        found = looked(file, *arguments)
        if not theirs:
            theirs.append(sealed_elsewhere(keys.path))
        return found

    monkeypatch.setattr(document_keys._KeyFile, "sealing_keys", overtaken)
    found = keys.keys_for(DATABASE, [ADA, BOB])
    assert found[ADA].kid == theirs[0]
    assert keys.of_document(DATABASE, ADA) == (theirs[0],)


def test_reading_makes_no_file(keys: DocumentKeys) -> None:
    assert keys.find(bytes(16)) is None
    assert keys.of_document(DATABASE, ADA) == ()
    assert keys.copies() == ()
    assert keys.export_keys(DATABASE) == bundle_of()
    assert not keys.path.exists()


def test_only_its_owner_can_read_it(keys: DocumentKeys, tmp_path: Path) -> None:
    previous = os.umask(0)
    try:
        keys.key_for(DATABASE, ADA)
        keys.backup(tmp_path / "copy")
    finally:
        os.umask(previous)
    assert {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {
        "keys.db": 0o600,
        "keys.db-journal": 0o600,
        "copy": 0o600,
    }


def test_nothing_shows_a_secret(keys: DocumentKeys) -> None:
    key = keys.key_for(DATABASE, ADA)
    shown = f"{key!r} {key} {keys!r}"
    assert key.kid.hex() in shown
    assert key.secret.hex() not in shown
    assert repr(key.secret) not in shown


@pytest.mark.parametrize(
    ("database", "document"),
    [
        (DATABASE[1:], ADA),
        (DATABASE + b"\0", ADA),
        (DATABASE, DocumentId("", "ada")),
        (DATABASE, DocumentId("people", "")),
        (DATABASE, DocumentId("peo\nple", "ada")),
        (DATABASE, DocumentId("people", "\ud800")),
        (DATABASE, DocumentId("people", "a" * 300 + "\0")),
        (DATABASE, DocumentId("people", "a" * (MAX_KEY + 1))),
        (DATABASE, DocumentId("a" * 201, "ada")),
    ],
)
def test_places_that_cannot_be(keys: DocumentKeys, database: bytes, document: DocumentId) -> None:
    calls: list[Callable[[], object]] = [
        lambda: keys.key_for(database, document),
        lambda: keys.of_document(database, document),
        lambda: keys.destroy(database, document, NOW),
    ]
    for call in calls:
        with pytest.raises(MalformedError):
            call()
    keys.key_for(DATABASE, DocumentId("people", "a" * MAX_KEY))


def test_threads_and_instances_agree_on_one_key(make: Callable[[str], DocumentKeys]) -> None:
    instances = [make("keys.db"), make("keys.db")]
    found: list[set[object]] = []

    def work(keys: DocumentKeys) -> None:
        found.append({(n, keys.key_for(DATABASE, DocumentId("c", str(n)))) for n in range(10)})

    threads = [threading.Thread(target=work, args=(instances[n % 2],)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(found[0].union(*found)) == 10


def test_a_file_that_was_replaced_is_opened_anew(keys: DocumentKeys, make: Callable[[str], DocumentKeys]) -> None:
    old, new = keys.key_for(DATABASE, ADA), make("other.db").key_for(DATABASE, BOB)
    (keys.path.parent / "other.db").replace(keys.path)
    assert keys.find(new.kid) == new.secret
    assert keys.find(old.kid) is None
    keys.path.unlink()
    assert keys.find(new.kid) is None
    assert not keys.path.exists()
    made = keys.key_for(DATABASE, ADA)
    assert make("keys.db").find(made.kid) == made.secret


# --- files that are not ours, or not whole


def test_files_that_are_something_else(keys: DocumentKeys) -> None:
    altered(keys.path, "CREATE TABLE other (x)", "PRAGMA journal_mode = WAL")
    before = keys.path.read_bytes()
    with pytest.raises(ConfigurationError):
        keys.key_for(DATABASE, ADA)
    assert keys.path.read_bytes() == before


@pytest.mark.parametrize("content", [b"not a database" * 100, b"SQLite format 3\0" + bytes(4080)])
def test_files_that_are_no_database(keys: DocumentKeys, content: bytes) -> None:
    keys.path.write_bytes(content)
    with pytest.raises((DamagedFile, ConfigurationError)):
        keys.key_for(DATABASE, ADA)
    assert keys.path.read_bytes() == content


def test_a_newer_format(keys: DocumentKeys) -> None:
    keys.key_for(DATABASE, ADA)
    keys.close()
    altered(keys.path, "PRAGMA user_version = 2")
    with pytest.raises(NewerFormat):
        keys.key_for(DATABASE, ADA)


@pytest.mark.parametrize(
    "change", ["secret = zeroblob(31)", "secret = hex(zeroblob(16))", "collection = x'00'", "created_ms = 'soon'"]
)
def test_rows_of_another_form(keys: DocumentKeys, change: str) -> None:
    key = keys.key_for(DATABASE, ADA)
    altered(keys.path, "PRAGMA ignore_check_constraints = 1", f"UPDATE document_key SET {change}")
    with pytest.raises(DamagedFile):
        keys.find(key.kid)
    with pytest.raises(DamagedFile):
        keys.export_keys(DATABASE)


def test_places_where_no_file_can_be(tmp_path: Path) -> None:
    for path in (tmp_path / "absent" / "keys.db", tmp_path):
        with pytest.raises(StorageError):
            DocumentKeys(path).key_for(DATABASE, ADA)


def test_a_file_that_others_hold(keys: DocumentKeys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document_keys, "_BUSY_S", 0.01)
    key = keys.key_for(DATABASE, ADA)
    with closing(sqlite3.connect(keys.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert keys.find(key.kid) == key.secret
        with pytest.raises(StoreBusy):
            keys.key_for(DATABASE, BOB)
        with pytest.raises(StoreBusy):
            keys.destroy(DATABASE, ADA, NOW)
        assert keys.find(key.kid) == key.secret
    assert keys.destroy(DATABASE, ADA, NOW).kids == (key.kid,)


# --- destroying


def test_a_destroyed_key_is_in_no_file(keys: DocumentKeys, tmp_path: Path) -> None:
    key, other = keys.key_for(DATABASE, ADA), keys.key_for(DATABASE, BOB)
    assert files_with(tmp_path, key.secret) == ["keys.db", "keys.db-journal"]
    assert keys.destroy(DATABASE, ADA, NOW) == Destroyed((key.kid,), ())
    assert files_with(tmp_path, key.secret) == []
    assert (keys.find(key.kid), keys.of_document(DATABASE, ADA)) == (None, ())
    assert keys.find(other.kid) == other.secret
    assert (keys.path.parent / "keys.db-journal").exists()


def test_many_keys_among_many(keys: DocumentKeys, tmp_path: Path) -> None:
    """Enough of them that SQLite has moved rows from page to page, and left pieces behind."""
    document = [DocumentId("people", f"{n:03}" * 100) for n in range(40)]
    made = [keys.key_for(DATABASE, one) for one in document]
    for n in range(0, 40, 9):
        assert keys.destroy(DATABASE, document[n], NOW).kids == (made[n].kid,)
        assert files_with(tmp_path, made[n].secret) == []
    for n, key in enumerate(made):
        assert keys.find(key.kid) == (None if n % 9 == 0 else key.secret)


def test_destroying_again_says_the_same_and_touches_no_later_key(keys: DocumentKeys) -> None:
    first = keys.key_for(DATABASE, ADA)
    done = keys.destroy(DATABASE, ADA, NOW)
    second = keys.key_for(DATABASE, ADA)
    assert second.kid != first.kid
    assert keys.destroy(DATABASE, ADA, NOW, [first.kid]) == done
    assert keys.find(second.kid) == second.secret
    assert keys.destroy(DATABASE, ADA, NOW).kids == tuple(sorted([first.kid, second.kid]))


def test_an_erasure_reaches_keys_of_its_document_only(keys: DocumentKeys) -> None:
    ada, bob = keys.key_for(DATABASE, ADA), keys.key_for(DATABASE, BOB)
    keys.destroy(DATABASE, ADA, NOW, [bob.kid])
    keys.destroy(OTHER, ADA, NOW, [ada.kid])
    assert (keys.find(ada.kid), keys.find(bob.kid)) == (ada.secret, bob.secret)


def test_nothing_to_destroy(keys: DocumentKeys) -> None:
    assert keys.destroy(DATABASE, ADA, NOW) == Destroyed((), ())


@pytest.mark.parametrize(
    ("now_ms", "kids"),
    [(-1, None), (2**62, None), (NOW, [b""]), (NOW, [bytes(17)]), (NOW, [bytes(16)] * (MAX_DESTROYED + 1))],
)
def test_what_cannot_be_destroyed(keys: DocumentKeys, now_ms: int, kids: Any) -> None:
    with pytest.raises(MalformedError):
        keys.destroy(DATABASE, ADA, now_ms, kids)
    assert not keys.path.exists()


def test_bytes_that_are_still_there_are_an_error(keys: DocumentKeys, tmp_path: Path) -> None:
    key = keys.key_for(DATABASE, ADA)
    (tmp_path / "keys.db-shm").write_bytes(bytes((1 << 20) - 7) + key.secret)  # across the pieces that are read
    with pytest.raises(StorageError, match=r"keys\.db-shm"):
        keys.destroy(DATABASE, ADA, NOW)
    assert keys.find(key.kid) is None


def test_a_journal_that_was_left_is_overwritten(keys: DocumentKeys, tmp_path: Path) -> None:
    """What is under way when a process is killed after the deletion: the next opening completes it."""
    key = keys.key_for(DATABASE, ADA)
    for n in range(30):
        keys.key_for(DATABASE, DocumentId("people", f"{n:03}" * 100))
    keys.close()
    row = f"x'{DATABASE.hex()}', 'people', 'ada', x'{key.kid.hex()}', 0, 0"
    altered(
        keys.path,
        "PRAGMA journal_mode = PERSIST",
        "PRAGMA secure_delete = OFF",
        f"INSERT INTO destroyed_key (database, collection, key, kid, destroyed_ms, clean) VALUES ({row})",
        "DELETE FROM document_key WHERE key = 'ada'",
    )
    assert "keys.db-journal" in files_with(tmp_path, key.secret)
    assert keys.find(key.kid) is None
    assert files_with(tmp_path, key.secret) == []


# --- copies


def test_a_copy_is_a_key_file(keys: DocumentKeys, tmp_path: Path, make: Callable[[str], DocumentKeys]) -> None:
    ada, bob = keys.key_for(DATABASE, ADA), keys.key_for(OTHER, BOB)
    keys.destroy(OTHER, BOB, NOW)
    keys.backup(tmp_path / "copy.db")
    assert keys.copies() == (str(tmp_path / "copy.db"),)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["copy.db", "keys.db", "keys.db-journal"]
    restored = make("restored.db")
    shutil.copy(tmp_path / "copy.db", restored.path)
    assert (restored.find(ada.kid), restored.find(bob.kid)) == (ada.secret, None)
    assert restored.copies() == keys.copies()


def test_keys_are_destroyed_in_copies(keys: DocumentKeys, tmp_path: Path) -> None:
    (tmp_path / "stick").mkdir()
    ada, bob = keys.key_for(DATABASE, ADA), keys.key_for(DATABASE, BOB)
    for name in ("one", "stick/two"):
        keys.backup(tmp_path / name)
    assert len(files_with(tmp_path, ada.secret)) == 3
    assert keys.destroy(DATABASE, ADA, NOW) == Destroyed((ada.kid,), ())
    assert files_with(tmp_path, ada.secret) == []
    assert files_with(tmp_path, bob.secret) == ["keys.db", "one", "two"]


def test_copies_that_cannot_be_reached_are_named_until_they_are_back(keys: DocumentKeys, tmp_path: Path) -> None:
    stick, away = tmp_path / "stick", tmp_path / "away"
    stick.mkdir()
    ada, bob = keys.key_for(DATABASE, ADA), keys.key_for(DATABASE, BOB)
    for name in ("one", "two"):
        keys.backup(stick / name)
    stick.rename(away)
    named = (str(stick / "one"), str(stick / "two"))
    assert keys.destroy(DATABASE, ADA, NOW) == Destroyed((ada.kid,), named)
    assert files_with(tmp_path, ada.secret) == ["one", "two"]
    away.rename(stick)
    assert keys.destroy(DATABASE, BOB, NOW) == Destroyed((bob.kid,), ())
    assert files_with(tmp_path, ada.secret) == files_with(tmp_path, bob.secret) == []


def test_a_copy_that_is_something_else_by_now(keys: DocumentKeys, tmp_path: Path) -> None:
    keys.key_for(DATABASE, ADA)
    for name in ("text", "database", "cut"):
        keys.backup(tmp_path / name)
    (tmp_path / "text").write_bytes(b"a letter" * 999)
    (tmp_path / "database").unlink()
    altered(tmp_path / "database", "CREATE TABLE other (x)")
    (tmp_path / "cut").write_bytes((tmp_path / "cut").read_bytes()[:5000])
    before = {name: (tmp_path / name).read_bytes() for name in ("text", "database")}
    assert keys.destroy(DATABASE, ADA, NOW).unreachable == keys.copies()
    assert len(keys.copies()) == 3
    assert before == {name: (tmp_path / name).read_bytes() for name in before}


def test_a_copy_that_others_hold_is_named(keys: DocumentKeys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document_keys, "_BUSY_S", 0.01)
    keys.key_for(DATABASE, ADA)
    keys.backup(tmp_path / "copy")
    with closing(sqlite3.connect(tmp_path / "copy", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert keys.destroy(DATABASE, ADA, NOW).unreachable == (str(tmp_path / "copy"),)
    assert keys.destroy(DATABASE, ADA, NOW).unreachable == ()


def test_a_forgotten_copy_is_neither_touched_nor_named(keys: DocumentKeys, tmp_path: Path) -> None:
    key = keys.key_for(DATABASE, ADA)
    keys.backup(tmp_path / "copy")
    keys.forget_copy(tmp_path / "copy")
    assert keys.copies() == ()
    assert keys.destroy(DATABASE, ADA, NOW).unreachable == ()
    assert files_with(tmp_path, key.secret) == ["copy"]


def test_a_copy_is_brought_up_to_date(keys: DocumentKeys, tmp_path: Path, make: Callable[[str], DocumentKeys]) -> None:
    ada = keys.key_for(DATABASE, ADA)
    keys.backup(tmp_path / "copy")
    (tmp_path / "copy").rename(tmp_path / "away")
    keys.destroy(DATABASE, ADA, NOW)
    (tmp_path / "away").rename(tmp_path / "copy")
    bob = keys.key_for(DATABASE, BOB)
    keys.backup(tmp_path / "copy")
    assert files_with(tmp_path, ada.secret) == []
    assert make("copy").find(bob.kid) == bob.secret


def test_a_backup_replaces_nothing(keys: DocumentKeys, tmp_path: Path) -> None:
    keys.key_for(DATABASE, ADA)
    (tmp_path / "letter").write_text("dear")
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("letter", "link", "keys.db", os.fsdecode(b"\xff"), "two\nlines"):
        with pytest.raises(RefusedError):
            keys.backup(tmp_path / name)
    with pytest.raises(StorageError):
        keys.backup(tmp_path / "absent" / "copy")
    assert (tmp_path / "letter").read_text() == "dear"
    assert keys.copies() == ()


def test_a_restored_file_is_told_of_erasures_again(keys: DocumentKeys, tmp_path: Path) -> None:
    ada = keys.key_for(DATABASE, ADA)
    keys.backup(tmp_path / "copy")
    before = (tmp_path / "copy").read_bytes()
    keys.destroy(DATABASE, ADA, NOW)
    keys.close()
    keys.path.write_bytes(before)  # a copy of the copy, which nothing could know of
    assert keys.find(ada.kid) == ada.secret
    keys.destroy(DATABASE, ADA, NOW, [ada.kid])
    assert files_with(tmp_path, ada.secret) == []


# --- bundles


def test_another_replica_takes_the_keys_of_one_database(make: Callable[[str], DocumentKeys]) -> None:
    here, there = make("here"), make("there")
    ada, bob, other = here.key_for(DATABASE, ADA), here.key_for(DATABASE, BOB), here.key_for(OTHER, ADA)
    bundle = here.export_keys(DATABASE)
    assert there.import_keys(bundle) == tuple(sorted([ada.kid, bob.kid]))
    assert there.import_keys(bundle) == ()
    assert there.key_for(DATABASE, ADA) == ada
    assert there.find(other.kid) is None
    assert there.export_keys(DATABASE) == bundle


def test_replicas_that_met_seal_with_the_same_key(
    make: Callable[[str], DocumentKeys], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = make("here"), make("there")
    monkeypatch.setattr(document_keys, "_now_ms", lambda: 2)
    later = here.key_for(DATABASE, ADA)
    monkeypatch.setattr(document_keys, "_now_ms", lambda: 1)
    earlier = there.key_for(DATABASE, ADA)
    here.import_keys(there.export_keys(DATABASE))
    there.import_keys(here.export_keys(DATABASE))
    assert here.key_for(DATABASE, ADA) == there.key_for(DATABASE, ADA) == earlier
    assert here.of_document(DATABASE, ADA) == tuple(sorted([earlier.kid, later.kid]))
    assert here.destroy(DATABASE, ADA, NOW).kids == tuple(sorted([earlier.kid, later.kid]))


def test_no_bundle_brings_back_what_was_destroyed(make: Callable[[str], DocumentKeys], tmp_path: Path) -> None:
    here, there = make("here"), make("there")
    ada, bob = here.key_for(DATABASE, ADA), here.key_for(DATABASE, BOB)
    bundle = here.export_keys(DATABASE)
    here.destroy(DATABASE, ADA, NOW)
    there.destroy(DATABASE, ADA, NOW, [ada.kid])  # the erasure comes before the key
    there.destroy(DATABASE, BOB, NOW, [ada.kid])
    there.destroy(DATABASE, ADA, NOW, [bob.kid])  # and one that names what is not its document's
    assert here.import_keys(bundle) == ()
    assert there.import_keys(bundle) == (bob.kid,)
    assert files_with(tmp_path, ada.secret) == []


def bundle_of(*items: object, database: bytes = DATABASE) -> bytes:
    records = [encode_record(b"K", encode(item)) for item in items]
    return b"".join([FIRST_LINE, encode_record(b"D", database), *records, encode_record(b"E", b"")])


ITEM = [bytes(16), "people", "ada", bytes(32), NOW]
LATER = [bytes([1]) * 16, "people", "ada", bytes(32), NOW]


def with_item(place: int, value: object) -> list[object]:
    return [*ITEM[:place], value, *ITEM[place + 1 :]]


@pytest.mark.parametrize(
    "bundle",
    [
        b"",
        FIRST_LINE,
        b"holdfast document keys 2\n" + bundle_of()[len(FIRST_LINE) :],
        bundle_of(ITEM)[:-1],
        bundle_of(ITEM)[:-5],
        bundle_of(ITEM) + b"\0",
        bundle_of(ITEM, database=DATABASE[1:]),
        bundle_of(ITEM, database=b""),
        FIRST_LINE + encode_record(b"K", encode(ITEM)) + encode_record(b"E", b""),
        FIRST_LINE + encode_record(b"D", DATABASE) * 2 + encode_record(b"E", b""),
        FIRST_LINE + encode_record(b"E", b""),
        FIRST_LINE + encode_record(b"D", DATABASE) + encode_record(b"X", b"") + encode_record(b"E", b""),
        bundle_of(ITEM, ITEM),
        bundle_of(LATER, ITEM),
        bundle_of(ITEM[:4]),
        bundle_of([*ITEM, 1]),
        bundle_of({"kid": bytes(16)}),
        bundle_of(with_item(0, bytes(15))),
        bundle_of(with_item(0, "0" * 16)),
        bundle_of(with_item(1, "")),
        bundle_of(with_item(1, b"people")),
        bundle_of(with_item(2, "")),
        bundle_of(with_item(2, "a" * (MAX_KEY + 1))),
        bundle_of(with_item(2, "a\0")),
        bundle_of(with_item(3, bytes(31))),
        bundle_of(with_item(3, None)),
        bundle_of(with_item(4, -1)),
        bundle_of(with_item(4, True)),
        bundle_of(with_item(4, 2**62)),
        FIRST_LINE + encode_record(b"D", DATABASE) + encode_record(b"K", b"\xff") + encode_record(b"E", b""),
    ],
)
def test_bundles_that_are_none(keys: DocumentKeys, bundle: bytes) -> None:
    with pytest.raises(MalformedError):
        keys.import_keys(bundle)
    assert not keys.path.exists()


def test_a_record_is_measured_before_it_is_read(keys: DocumentKeys) -> None:
    with pytest.raises(LimitExceeded):
        keys.import_keys(bundle_of(with_item(1, "a" * 5000)))


def test_the_largest_document_fits(keys: DocumentKeys, make: Callable[[str], DocumentKeys]) -> None:
    key = keys.key_for(DATABASE, DocumentId("\U0001f512" * 200, "\U0001f512" * MAX_KEY))
    assert make("there").import_keys(keys.export_keys(DATABASE)) == (key.kid,)


@pytest.mark.parametrize(
    "other",
    [bundle_of(with_item(3, bytes([1]) * 32)), bundle_of(with_item(2, "bob")), bundle_of(ITEM, database=OTHER)],
)
def test_another_key_of_the_same_kid_is_refused_and_nothing_taken(keys: DocumentKeys, other: bytes) -> None:
    keys.import_keys(bundle_of(ITEM))
    before = keys.export_keys(DATABASE)
    with pytest.raises(VerificationError):
        keys.import_keys(
            other[: -len(encode_record(b"E", b""))] + encode_record(b"K", encode(LATER)) + encode_record(b"E", b"")
        )
    assert keys.export_keys(DATABASE) == before
    keys.import_keys(bundle_of(with_item(4, 5)))  # the time of making is no part of the key
    assert keys.export_keys(DATABASE) == before


@given(st.integers(0, 8 * len(bundle_of(ITEM, LATER)) - 1))
def test_a_flipped_bit_is_refused_or_says_something_else(bit: int) -> None:
    changed = bytearray(bundle_of(ITEM, LATER))
    changed[bit // 8] ^= 1 << bit % 8
    try:
        found = document_keys._parse_bundle(bytes(changed))
    except MalformedError:
        return
    assert (
        bundle_of(
            *[[key.kid, key.collection, key.key, key.secret, key.created_ms] for key in found],
            database=found[0].database,
        )
        == changed
    )
