"""What a backup takes from a home, and what of a stranger's file becomes one: settings, certificates, paths."""

from __future__ import annotations

import errno
import io
import shutil
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from anchoring.archive_file import write_archive
from api import backup
from api.backup import create_backup, restore_home, verify_archive
from api.founding import Founding, found_home
from api.home import Home
from api.settings import Settings, load_settings
from api.vault import device_signer
from identity.errors import ConfigurationError, MalformedError, RefusedError, StorageError
from identity.event import DeviceClass
from identity.keystore import ONLY_FOR_TESTING, open_keystore
from ledger.archive import ArchiveWriter, Purpose
from ledger.archive_reader import LoadedArchive
from ledger.archive_sections import contents_of, header_of, write_ledger_sections
from ledger.feed import append, create_feed
from ledger.storage.memory import MemoryStore
from ledger.storage.sqlite import open_sqlite

PASSPHRASE: Final = "a passphrase"
SETTINGS: Final = 'format = 1\n\n[chain]\nkind = "none"\n'


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("template")
    founding = Founding(
        label="bank",
        devices={"till": DeviceClass.DEVICE},
        log_name="bank.example",
        chain=None,
        fund=None,
        authorities=[],
        settings=SETTINGS,
        kdf=ONLY_FOR_TESTING,
    )
    home = Home(directory / "home")
    founded = found_home(home, founding, PASSPHRASE, now_ms=0)
    signer = device_signer(open_keystore(home.keystore, PASSPHRASE), "till")
    with closing(open_sqlite(home.database)) as store:
        append(store, create_feed(store, signer, founded.identity, "till"), signer, [b"an entry"])
    return directory


class Place:
    """A directory with a home, and what a person does there."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.home = Home(directory / "home")
        self.target = Home(directory / "restored")
        self.file = directory / "home.backup"
        self.environ = {"HOLDFAST_DEV_DIR": str(directory / "dev")}

    def settings(self) -> Settings:
        return load_settings(self.home, self.environ)

    def back_up(self, *, with_keystore: bool = True) -> backup.Backup:
        return create_backup(self.home, self.settings(), self.file, with_keystore=with_keystore, made_ms=5)

    def restore(self) -> LoadedArchive:
        with self.file.open("rb") as stream:
            return restore_home(stream, self.target, self.environ, at_ms=7).archive

    def restored_settings(self) -> Settings:
        return load_settings(self.target, self.environ)

    def forge(self, files: dict[str, bytes]) -> None:
        """A backup of the home's store with these files, by a writer that checks no path."""
        with closing(open_sqlite(self.home.database)) as store, store.read() as tx, self.file.open("wb") as out:
            contents = contents_of(tx, Purpose.BACKUP)
            header = header_of(contents, Purpose.BACKUP, archive_id=bytes(32), made_ms=0, store_id=None)
            writer = ArchiveWriter(out, header)
            write_ledger_sections(tx, writer, contents, Purpose.BACKUP)
            for name, end in (("timestamps", b"\xa1jtimestamps\x00"), ("anchors", b"\xa1ganchors\x00")):
                with writer.section(name) as stream:
                    stream.write(b"E" + len(end).to_bytes(4, "big") + end)
            for path, content in files.items():
                with writer.section("file", {"path": path}) as stream:
                    stream.write(content)
            writer.finish()


@pytest.fixture
def place(template: Path, tmp_path: Path) -> Place:
    shutil.copytree(template, tmp_path / "place")
    return Place(tmp_path / "place")


# --- settings


def test_settings_travel_as_they_are(place: Place) -> None:
    place.back_up()
    place.restore()
    assert place.target.settings.read_text() == SETTINGS


@pytest.mark.parametrize(
    "line",
    ['database = "elsewhere/store.db"', "keystore='k.hfk'", '  database   =  "/x.db"  # kept apart', "database='a.db'"],
)
def test_a_store_or_keystore_elsewhere_comes_home(place: Place, line: str) -> None:
    text = SETTINGS.replace("format = 1\n", f"format = 1\n{line}\n")
    place.forge({"holdfast.toml": text.encode()})
    place.restore()
    assert line not in place.target.settings.read_text()
    found = place.restored_settings()
    assert (found.database, found.keystore) == (place.target.database, place.target.keystore)


def test_a_backup_holds_what_its_settings_name_elsewhere(place: Place) -> None:
    elsewhere = place.directory / "elsewhere"
    elsewhere.mkdir()
    shutil.move(place.home.database, elsewhere / "store.db")
    shutil.move(place.home.keystore, elsewhere / "keys")
    lines = f"database = '{elsewhere}/store.db'\nkeystore = '{elsewhere}/keys'\n"
    place.home.settings.write_text(lines + SETTINGS)
    place.back_up()
    place.restore()
    assert place.target.keystore.read_bytes() == (elsewhere / "keys").read_bytes()
    with closing(open_sqlite(place.restored_settings().database)) as store, store.read() as tx:
        assert len(tx.identities()) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"\xff", "not TOML"),
        (b"format = ", "not TOML"),
        (b'format = 1\ndatabase = """\nx"""\n[chain]\nkind = "none"\n', "not TOML|taken out"),
        (b'format = 1\n"database" = "x"\n[chain]\nkind = "none"\n', "taken out"),
        (b'format = 9\n[chain]\nkind = "none"\n', "newer|format"),
        (b'format = 1\nsurprise = 1\n[chain]\nkind = "none"\n', "surprise"),
    ],
)
def test_settings_that_no_home_can_have(place: Place, text: bytes, message: str) -> None:
    place.forge({"holdfast.toml": text})
    with pytest.raises(ConfigurationError, match=message):
        place.restore()
    assert not place.target.root.exists()


def test_a_development_directory_inside_the_restored_home(place: Place) -> None:
    """A restored home must not restore its chain."""
    place.forge({"holdfast.toml": f"dev_dir = '{place.target.root}/dev'\n{SETTINGS}".encode()})
    place.environ = {}
    with pytest.raises(ConfigurationError, match="restore its own chain"):
        place.restore()


def test_variables_of_another_home_do_not_count(place: Place) -> None:
    place.back_up()
    place.environ |= {"HOLDFAST_DATABASE": str(place.home.database), "HOLDFAST_KEYSTORE": "x"}
    place.restore()
    assert place.target.database.is_file()


# --- files


def test_certificates_in_the_home_travel(place: Place) -> None:
    authority = (
        '[[authorities]]\nkind = "http"\nurl = "http://{}.example/"\nroot = "{}"\npolicy = "1.2.3"\nsubject = "x"\n'
    )
    (place.home.root / "tsa").mkdir()
    (place.home.root / "tsa" / "root.pem").write_text("a certificate")
    outside = place.directory / "other.pem"
    outside.write_text("another")
    place.home.settings.write_text(
        SETTINGS + authority.format("one", "tsa/root.pem") + authority.format("two", outside)
    )
    made = place.back_up()
    assert "tsa/root.pem" in made.files
    assert made.outside == (str(outside),)
    place.restore()
    assert (place.target.root / "tsa" / "root.pem").read_text() == "a certificate"


def test_a_certificate_with_a_name_that_no_archive_holds(place: Place) -> None:
    authority = (
        '[[authorities]]\nkind = "http"\nurl = "http://x.example/"\nroot = "a b.pem"\npolicy = "1.2.3"\nsubject = "x"\n'
    )
    (place.home.root / "a b.pem").write_text("a certificate")
    place.home.settings.write_text(SETTINGS + authority)
    with pytest.raises(RefusedError, match="a file that a backup cannot hold"):
        place.back_up()
    assert not place.file.exists()


def test_files_that_are_too_large(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backup, "MAX_FILES_BYTES", 1000)
    place.home.headers.write_bytes(bytes(1001))
    with pytest.raises(RefusedError, match="at most 1000 bytes together"):
        place.back_up()


def test_a_keystore_that_is_gone(place: Place) -> None:
    place.home.keystore.unlink()
    with pytest.raises(StorageError, match="cannot read"):
        place.back_up()
    place.back_up(with_keystore=False)


@pytest.mark.parametrize(
    "path", ["../escaped", "/tmp/escaped", "a/../../escaped", "vault.db", "vault.db-wal", ".profile", "x\0y"]
)
def test_paths_that_lead_out_of_the_home(place: Place, path: str) -> None:
    """Row E3."""
    before = set(place.directory.rglob("*"))
    place.forge({"holdfast.toml": SETTINGS.encode(), path: b"escaped"})
    with pytest.raises(MalformedError, match=r"no path of a file|taken for a store"):
        place.restore()
    assert set(place.directory.rglob("*")) - before == {place.file}


def test_files_of_a_restored_home_are_the_owners_alone(place: Place) -> None:
    place.back_up()
    place.restore()
    for path in (place.target.keystore, place.target.settings, place.target.database):
        assert path.stat().st_mode & 0o077 == 0


def test_a_backup_without_settings(place: Place) -> None:
    place.forge({})
    with pytest.raises(RefusedError, match="no backup of a home"):
        place.restore()
    assert not place.target.root.exists()


# --- where it is put


def test_a_medium_without_links(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on most memory sticks."""
    monkeypatch.setattr(Path, "hardlink_to", _no_links)
    place.back_up()
    place.restore()
    assert sorted(path.name for path in place.directory.iterdir()) == ["home", "home.backup", "restored"]


def _no_links(*_: object) -> None:
    raise PermissionError(errno.EPERM, "Operation not permitted")


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_appears_while_the_backup_is_written(
    place: Place, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:
        monkeypatch.setattr(Path, "hardlink_to", _no_links)
    with pytest.raises(RefusedError, match="exists"):
        create_backup(
            place.home,
            place.settings(),
            place.file,
            with_keystore=False,
            made_ms=0,
            advance=lambda _: place.file.write_text("mine") and None,
        )
    assert place.file.read_text() == "mine"
    assert sorted(path.name for path in place.directory.iterdir()) == ["home", "home.backup"]


# --- whose archive it is


def test_an_archive_of_an_empty_store(place: Place) -> None:
    out = io.BytesIO()
    with closing(open_sqlite(place.directory / "empty.db", create=True)) as store, store.read() as tx:
        write_archive(tx, out, Purpose.BACKUP, archive_id=bytes(32), made_ms=0)
    assert verify_archive(io.BytesIO(out.getvalue())).entries == 0


def test_a_store_that_knows_no_anchoring() -> None:
    """The ledger's sections alone are no whole archive."""
    out = io.BytesIO()
    with MemoryStore().read() as tx:
        contents = contents_of(tx, Purpose.BACKUP)
        header = header_of(contents, Purpose.BACKUP, archive_id=bytes(32), made_ms=0, store_id=None)
        writer = ArchiveWriter(out, header)
        write_ledger_sections(tx, writer, contents, Purpose.BACKUP)
        writer.finish()
    with pytest.raises(MalformedError, match="section 'timestamps' is missing"):
        verify_archive(io.BytesIO(out.getvalue()))
