"""Backups of a home, homes restored from them, and archives for outsiders (docs/spec/archive.md).

A backup is made of one snapshot while others write, and appears whole or not at all; so does a restored home. What a
backup does not hold is said by the commands: the keystore's passphrase, the recovery phrase, and the chain. That goes
for the embedded one too, because a home that is restored together with its chain could be rolled back unnoticed.

The keys of sealed values lie in a file of their own beside a backup, which the home remembers: whatever is erased later
is erased there too (docs/spec/sealed-values.md, section "Copies").
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextlib import closing as closed_after
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from anchoring.archive_file import archived_store, load_archive, write_archive
from anchoring.chain.closing import load_closing
from anchoring.contracts import load_contract
from anchoring.storage import AnchorState
from api.databases import take_in
from api.founding import in_place_of, new_store
from api.home import Home
from api.settings import HttpAuthoritySettings, Settings, parse_settings, read_settings_file
from identity.durable import PRIVATE, create_file, drafted
from identity.errors import ConfigurationError, MalformedError, RefusedError, StorageError, VerificationError
from ledger.archive import ArchiveTotals, Purpose
from ledger.archive_files import MAX_FILES_BYTES, check_path
from ledger.archive_reader import LoadedArchive
from ledger.storage.engine import open_store
from ledger.storage.location import PostgresLocation, parse_location
from ledger.storage.sparse import sparse_feeds
from ledger.storage.sql import SqlReadTransaction, SqlStore, SqlWriteTransaction
from ledger.storage.start_up import Succession, add_succession, load_store_id
from ledger.succession import retire_local_feeds
from sync.document_keys import DocumentKeys

if TYPE_CHECKING:
    from api.remote import RemoteNode

__all__ = [
    "Backup",
    "Restored",
    "create_backup",
    "document_keys_beside",
    "export_archive",
    "fetch_backup",
    "open_snapshot",
    "restore_home",
    "verify_archive",
]

Advance = Callable[[int], None]
"""Called with how many entries were just written or taken in."""

_RESTORED = "restored"
_SETTINGS, _KEYSTORE, _POLICY, _HEADERS = "holdfast.toml", "keystore.hfk", "policy.toml", "headers.jsonl"
_PEERS = "peers.json"


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup that was made. ``files`` are those of the home in it; ``outside`` what its settings name elsewhere.

    ``partial`` counts the feeds that are held in part, which are not in it. ``document_keys`` is the file beside it
    with the keys of sealed values, if there are any.
    """

    totals: ArchiveTotals
    entries: int
    feeds: int
    files: tuple[str, ...]
    outside: tuple[str, ...]
    partial: int
    document_keys: Path | None = None


@dataclass(frozen=True, slots=True)
class Restored:
    """A home that was restored. All its feeds are retired: the next write to each goes on in a new one."""

    archive: LoadedArchive
    has_keystore: bool
    databases: int
    has_document_keys: bool


# --- out ------------------------------------------------------------------------------------------------------------


def document_keys_beside(path: Path) -> Path:
    """Where the keys of sealed values lie that belong to the backup at ``path``."""
    return path.with_name(f"{path.name}.keys")


def create_backup(
    home: Home,
    settings: Settings,
    path: Path,
    *,
    with_keystore: bool,
    made_ms: int,
    with_document_keys: bool = True,
    advance: Advance | None = None,
) -> Backup:
    """Write a backup of the home to ``path``, where there must be nothing.

    With ``with_document_keys`` the keys of sealed values, if the home has any, are copied beside it. Raises
    ``RefusedError`` when something is there, or the home has what no backup can hold; ``StorageError`` when reading or
    writing fails. Then there is no file.
    """
    files, outside = _home_files(home, settings, with_keystore=with_keystore)
    with open_snapshot(settings) as store, _new_file(path) as out, store.read() as tx:
        _require_closed(tx)
        feeds, partial = tx.feeds(), len(sparse_feeds(tx.connection))
        totals = write_archive(
            tx,
            out,
            Purpose.BACKUP,
            archive_id=secrets.token_bytes(32),
            made_ms=made_ms,
            store_id=load_store_id(tx.connection),
            files=files,
            advance=advance,
        )
        # After the snapshot: a key is durable before anything is sealed with it, so none that is needed is missing.
        keys = _copy_document_keys(home, path) if with_document_keys else None
    return Backup(totals, sum(feed.length for feed in feeds), len(feeds), tuple(files), outside, partial, keys)


def _copy_document_keys(home: Home, path: Path) -> Path | None:
    if not home.document_keys.exists():
        return None
    copy = document_keys_beside(path)
    with DocumentKeys(home.document_keys) as keys:
        keys.backup(copy)
    return copy


def _require_closed(tx: SqlReadTransaction) -> None:
    """A close that is on its way is no archive's: whoever restored one without it would never send it."""
    closing = load_closing(tx.connection)
    if closing is not None and closing.state not in (AnchorState.FINAL, AnchorState.FAILED):
        raise RefusedError(
            f"the close of log {closing.log.hex()}, the one before this, is not final on its chain yet",
            hint="'holdfast recover succeed' or 'holdfast anchor run' brings it there; then make the backup",
        )


def export_archive(settings: Settings, out: BinaryIO, *, made_ms: int, advance: Advance | None = None) -> ArchiveTotals:
    """Write the complete log and its feeds for an outsider. Raises ``MissingEvidenceError`` without a checkpoint."""
    with open_snapshot(settings) as store, store.read() as tx:
        return write_archive(
            tx, out, Purpose.EXPORT, archive_id=secrets.token_bytes(32), made_ms=made_ms, advance=advance
        )


@contextmanager
def open_snapshot(settings: Settings) -> Iterator[SqlStore]:
    """The store, open for a long reading while others write.

    SQLite keeps a snapshot under writers only for who takes part in its locking, and that writes beside the file; a
    store on a write-protected medium is read as it is. PostgreSQL keeps one for everybody.
    """
    place, writable = settings.database, False
    if not isinstance(place, PostgresLocation):
        if not place.exists():
            raise ConfigurationError(f"there is no store at {place}", hint="name the home: --home DIR or HOLDFAST_HOME")
        writable = all(os.access(path, os.W_OK) for path in (place, place.parent))
    with closed_after(open_store(place, read_only=not writable)) as store:
        yield store


def _home_files(home: Home, settings: Settings, *, with_keystore: bool) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """The files of the home that go into a backup, by path, and certificates that lie elsewhere and do not."""
    files = {_SETTINGS: read_settings_file(home.settings)}
    sources = {_POLICY: home.policy, _HEADERS: home.headers, _PEERS: home.peers}
    if with_keystore:
        sources[_KEYSTORE] = settings.keystore
    outside = []
    for certificate in _certificates(settings):
        if certificate.is_relative_to(home.root):
            sources[str(certificate.relative_to(home.root))] = certificate
        else:
            outside.append(str(certificate))
    for name, source in sources.items():
        if source.exists() or name == _KEYSTORE:
            files[_checked(name, files)] = _read(source, MAX_FILES_BYTES - sum(map(len, files.values())))
    return files, tuple(outside)


def _certificates(settings: Settings) -> list[Path]:
    named = [one for one in settings.authorities if isinstance(one, HttpAuthoritySettings)]
    return sorted({path for authority in named for path in (authority.root, *authority.certificates)})


def _checked(name: str, files: Mapping[str, bytes]) -> str:
    try:
        return check_path(name, files)
    except MalformedError as exc:
        raise RefusedError(
            f"the home has a file that a backup cannot hold: {exc}", hint="give it another name"
        ) from exc


def _read(path: Path, most: int) -> bytes:
    try:
        with path.open("rb") as stream:
            data = stream.read(most + 1)
    except OSError as exc:
        raise StorageError(f"cannot read {path}: {exc.strerror}") from exc
    if len(data) > most:
        raise RefusedError(f"{path}: the files of a home have at most {MAX_FILES_BYTES} bytes together in a backup")
    return data


@contextmanager
def _new_file(path: Path) -> Iterator[BinaryIO]:
    """A file that is at ``path``, whole and durable, when the block has ended well; it replaces nothing.

    It holds what people wrote and their keystore, so nobody but its owner may read it.
    """
    refused = RefusedError(f"{path} exists", hint="a backup is never overwritten: name another file")
    if os.path.lexists(path):
        raise refused
    try:
        with drafted(path, mode=PRIVATE, replace=False) as stream:
            yield stream
    except FileExistsError as exc:
        raise refused from exc


_MOST_BACKUP_BYTES: Final = 1 << 42


def fetch_backup(
    remote: RemoteNode, path: Path, *, with_keystore: bool, advance: Advance | None = None
) -> LoadedArchive:
    """Have a node make a backup of itself, verify all of it, and put it at ``path``, where there must be nothing.

    Raises as ``RemoteNode.save`` and ``load_archive``, ``RefusedError`` when something is there. Then there is no file.
    """
    with _new_file(path) as out, tempfile.TemporaryFile(dir=path.parent) as made:
        remote.save("POST", "/v1/backup", made, {"keystore": with_keystore}, most=_MOST_BACKUP_BYTES)
        made.seek(0)
        loaded = verify_archive(made, advance=advance)
        if loaded.header.purpose is not Purpose.BACKUP:
            raise VerificationError("what the node gave is no backup")
        made.seek(0)
        shutil.copyfileobj(made, out)
        return loaded


# --- in -------------------------------------------------------------------------------------------------------------


def verify_archive(source: BinaryIO, *, folder: Path | None = None, advance: Advance | None = None) -> LoadedArchive:
    """Verify everything in an archive, as restoring it does, and keep nothing. Raises as ``load_archive``.

    It needs about as much space in ``folder`` (by default that for temporary files) as the archive has.
    """
    with archived_store(source, load_contract().code_hash, folder=folder, advance=advance) as (_, loaded):
        return loaded


def restore_home(
    source: BinaryIO,
    home: Home,
    environ: Mapping[str, str],
    *,
    at_ms: int,
    database: str | None = None,
    document_keys: Path | None = None,
    advance: Advance | None = None,
) -> Restored:
    """Make a home of a backup: whole, in a place where there is nothing, or not at all.

    Its store is a new one with an id of its own, so no sentinel speaks for it, and all feeds of this node are retired;
    that it was restored, at ``at_ms``, is recorded in it.
    ``database``: a ``postgresql://`` URL for its store, by default a file in the home; a backup of either will do.
    ``document_keys``: a copy of the keys of sealed values, which becomes the home's; what was erased is erased again.
    Raises ``RefusedError`` when something is there or the archive is none of a home, ``MalformedError`` and
    ``VerificationError`` as ``load_archive``, ``ConfigurationError`` when its settings cannot be those of a home here,
    ``StorageError`` when writing fails.
    """
    if home.root.is_symlink():
        raise RefusedError(f"{home.root} is a symbolic link", hint="name the directory itself")
    with ExitStack() as made, in_place_of(home.root) as draft_root:
        draft = Home(draft_root)
        place = draft.database if database is None else parse_location(database)
        store = made.enter_context(new_store(place, home))
        with store.write() as tx:
            loaded = load_archive(tx, source, load_contract().code_hash, advance)
            if loaded.header.purpose is not Purpose.BACKUP or _SETTINGS not in loaded.files:
                raise RefusedError(
                    f"the archive is no backup of a home, but made for {loaded.header.purpose.value}",
                    hint="'holdfast backup create' makes one",
                )
            _retire(tx, loaded, at_ms)
            own = _own_settings(loaded.files[_SETTINGS], home, environ, database)
        for path, content in loaded.files.items():
            _write(draft.root, path, own if path == _SETTINGS else content)
        if document_keys is not None:
            _write_document_keys(document_keys, draft)
        with DocumentKeys(draft.document_keys) as keys:
            keys.copies()  # says so when it is no file of keys
            databases = len(take_in(store, keys, lambda: at_ms))
        store.close()
    return Restored(loaded, _KEYSTORE in loaded.files, databases, document_keys is not None)


def _write_document_keys(copy: Path, draft: Home) -> None:
    """Put a copy in the home's place, with the journal of a change to it that was cut short, if there is one."""
    for beside in ("", "-journal"):
        source, target = (place.with_name(place.name + beside) for place in (copy, draft.document_keys))
        if source.exists():
            try:
                content = source.read_bytes()
            except OSError as exc:
                raise StorageError(f"cannot read {source}: {exc.strerror}") from exc
            create_file(target, content, mode=PRIVATE)


def _retire(tx: SqlWriteTransaction, loaded: LoadedArchive, at_ms: int) -> None:
    """Nobody can know what was signed after the archive was made: nothing is signed for these feeds again."""
    retire_local_feeds(tx)  # those that the archive's reader has left
    made = "an archive" if loaded.header.store_id is None else f"a backup of store {loaded.header.store_id.hex()[:16]}"
    feeds = sum(feed.local and not feed.retired for feed in loaded.feeds)
    add_succession(tx.connection, Succession(_RESTORED, f"restored from {made}", feeds, at_ms))


_ELSEWHERE = re.compile(r"^[ \t]*(database|keystore)[ \t]*=.*$", re.MULTILINE)
_TABLE = re.compile(r"^[ \t]*\[", re.MULTILINE)


def _own_settings(data: bytes, home: Home, environ: Mapping[str, str], database: str | None) -> bytes:
    """The settings without the places where store and keystore lay: a restored home has both inside, unless
    ``database`` says where its store is.

    Raises ``ConfigurationError`` when that leaves other settings than before, or none that a home can have.
    """
    kept = {name: value for name, value in environ.items() if name == "HOLDFAST_DEV_DIR" or "HOLDFAST_" not in name}
    try:
        text = data.decode("utf-8")
        tables = _TABLE.search(text)
        top = len(text) if tables is None else tables.start()
        line = "" if database is None else f"database = {json.dumps(database)}\n"  # a URL holds nothing TOML minds
        changed = _ELSEWHERE.sub("", text[:top]) + line + text[top:]
        before, after = tomllib.loads(text), tomllib.loads(changed)
    except ValueError as exc:
        raise ConfigurationError(f"the backup's settings are not TOML: {exc}") from exc
    same = {name: value for name, value in before.items() if name not in ("database", "keystore")}
    if same | ({} if database is None else {"database": database}) != after:
        raise ConfigurationError("the backup's settings name a store or a keystore in a way that cannot be taken out")
    settings = parse_settings(changed.encode(), home, kept, file=home.settings)
    place = home.database if database is None else parse_location(database)
    if (settings.database, settings.keystore) != (place, home.keystore):
        raise ConfigurationError("the backup's settings name another store or keystore than the home's own")
    return changed.encode()


def _write(root: Path, path: str, content: bytes) -> None:
    """Write a new file of the draft, durably. The path was checked when it was read, and the draft is nobody else's."""
    target = root / check_path(path)
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise StorageError(f"cannot write {path}: {exc.strerror}") from exc
    create_file(target, content, mode=PRIVATE)
