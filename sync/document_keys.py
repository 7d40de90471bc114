"""The keys of sealed values: one SQLite file beside the store, because a key that can be destroyed must be in no feed.

Implements docs/spec/sealed-values.md, sections "Key file" to "Bundles". A key is durable before anybody can seal with
it, and when ``destroy`` returns its bytes are in none of the files that this module writes: not in the key file, its
free pages or its journal, and not in the copies that were made with ``backup``, as far as they can be reached; those
that cannot are named. What file systems and media keep of overwritten files is beyond it.

The file holds the keys in the clear: whoever can read it can read every sealed value. It is made for its owner only.
"""

from __future__ import annotations

import io
import os
import sqlite3
import threading
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from nacl.utils import random

from identity.durable import PRIVATE, sync_directory
from identity.encoding import decode, encode
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
from identity.textforms import MAX_NAME, check_name
from ledger.entry import MAX_CLAIMED_MS
from ledger.framing import RecordReader, encode_record
from ledger.values import KID_BYTES
from sync.sealing import KEY_BYTES
from sync.transaction import MAX_KEY, DocumentId

__all__ = ["MAX_DESTROYED", "Destroyed", "DocumentKey", "DocumentKeys"]

MAX_DESTROYED: Final = 4096
"""Keys that can be named to be destroyed at once: as many as an erasure can name."""

_APPLICATION_ID: Final = 0x4846_444B
_VERSION: Final = 1
_BUSY_S: Final = 5.0
_DATABASE_BYTES: Final = 32
_CHUNK: Final = 1 << 20

_SCHEMA: Final = (
    """
    CREATE TABLE document_key (
        id INTEGER NOT NULL PRIMARY KEY,
        kid BLOB NOT NULL UNIQUE CHECK (length(kid) = 16),
        database BLOB NOT NULL CHECK (length(database) = 32),
        collection TEXT NOT NULL,
        key TEXT NOT NULL,
        secret BLOB NOT NULL CHECK (length(secret) = 32),
        created_ms INTEGER NOT NULL
    )
    """,
    "CREATE INDEX document_key_place ON document_key (database, collection, key)",
    """
    CREATE TABLE destroyed_key (
        id INTEGER NOT NULL PRIMARY KEY,
        database BLOB NOT NULL CHECK (length(database) = 32),
        collection TEXT NOT NULL,
        key TEXT NOT NULL,
        kid BLOB NOT NULL CHECK (length(kid) = 16),
        destroyed_ms INTEGER NOT NULL,
        clean INTEGER NOT NULL CHECK (clean IN (0, 1)),
        UNIQUE (database, collection, key, kid)
    )
    """,
    "CREATE TABLE copy (path TEXT NOT NULL PRIMARY KEY)",
    f"PRAGMA application_id = {_APPLICATION_ID}",
    f"PRAGMA user_version = {_VERSION}",
)

_PRAGMAS: Final = (
    # The journal stays where it is after a commit, so that it can be overwritten. No write-ahead log: it would hold a
    # lock for as long as the file is open, which reading the file's bytes would lose.
    "journal_mode = PERSIST",
    "synchronous = EXTRA",
    "fullfsync = 1",
    "secure_delete = ON",
    "temp_store = MEMORY",
)

_KEYS: Final = "SELECT kid, database, collection, key, secret, created_ms FROM document_key"
_KEY: Final = "SELECT kid, database, collection, key, secret, created_ms FROM document_key WHERE kid = ?"
_KEYS_OF: Final = """
    SELECT kid, database, collection, key, secret, created_ms FROM document_key
    WHERE database = ? AND collection = ? AND key = ? ORDER BY created_ms, kid
"""
_KEYS_IN: Final = """
    SELECT kid, database, collection, key, secret, created_ms FROM document_key WHERE database = ? ORDER BY kid
"""
_ADD_KEY: Final = """
    INSERT OR IGNORE INTO document_key (kid, database, collection, key, secret, created_ms) VALUES (?, ?, ?, ?, ?, ?)
"""
_BURIED: Final = "SELECT database, collection, key, kid, destroyed_ms FROM destroyed_key"
_DESTROYED_KIDS: Final = """
    SELECT kid FROM destroyed_key WHERE database = ? AND collection = ? AND key = ? ORDER BY kid
"""
_BURY: Final = """
    INSERT INTO destroyed_key (database, collection, key, kid, destroyed_ms, clean) VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET clean = 0 WHERE excluded.clean = 0
"""

_FIRST_LINE: Final = b"holdfast document keys 1\n"
_RECORD_LIMITS: Final = {b"D": _DATABASE_BYTES, b"K": 4096, b"E": 0}

_mutexes: Final[dict[Path, threading.Lock]] = {}
"""One for each key file. POSIX drops all locks that a process has on a file as soon as it closes any descriptor of it,
and the file's bytes are read past SQLite: within a process, one thread at a time."""


class DocumentKey(NamedTuple):
    """A key and what it is called. Its text form does not show it."""

    kid: bytes
    secret: bytes

    def __repr__(self) -> str:
        return f"DocumentKey(kid={self.kid.hex()})"


class Destroyed(NamedTuple):
    """What came of a destruction.

    ``kids`` are all keys of the document that are destroyed, earlier ones too, in ascending order. ``unreachable`` are
    the copies that could not be opened and may still hold them: destroy again when they are back.
    """

    kids: tuple[bytes, ...]
    unreachable: tuple[str, ...]


class _Key(NamedTuple):
    kid: bytes
    database: bytes
    collection: str
    key: str
    secret: bytes
    created_ms: int


class _Buried(NamedTuple):
    database: bytes
    collection: str
    key: str
    kid: bytes
    destroyed_ms: int


class DocumentKeys:
    """The keys of all documents with sealed values in one home, made at the first use that has to keep something.

    Any number of threads and processes may use one file. Every method raises ``StorageError`` when the file cannot be
    read or written, ``StoreBusy`` when others hold it for too long, ``DamagedFile``, ``ConfigurationError`` when it is
    something else, ``NewerFormat``, and ``MalformedError`` for ids, names and lengths that cannot be.
    """

    def __init__(self, path: Path) -> None:
        """Nothing is opened or made yet."""
        self.path = path
        self._mutex = _mutexes.setdefault(path.resolve(), threading.Lock())
        self._file: _KeyFile | None = None

    def key_for(self, database: bytes, document: DocumentId) -> DocumentKey:
        """The key to seal the document's values with, a new one if it has none. It is durable when this returns."""
        return self.keys_for(database, [document])[document]

    def keys_for(self, database: bytes, documents: Iterable[DocumentId]) -> dict[DocumentId, DocumentKey]:
        """The same for many documents: all new keys are made durable together, or none of them is made."""
        wanted = tuple(dict.fromkeys(documents))
        for document in wanted:
            _check_place(database, document)
        with self._opened() as file:
            found = file.sealing_keys(database, wanted)
            missing = [document for document in wanted if document not in found]
            if missing:
                with file.transaction():
                    found |= file.sealing_keys(database, missing)  # another process may have been quicker
                    made = [_new_key(database, document) for document in missing if document not in found]
                    file.add_keys(made)
                found |= {DocumentId(key.collection, key.key): key for key in made}
        return {document: DocumentKey(found[document].kid, found[document].secret) for document in wanted}

    def find(self, kid: bytes) -> bytes | None:
        """The secret of the key, None when it is not here: destroyed, or never handed over."""
        with self._mutex:
            key = self._current().key(kid) if self._is_there() else None
        return None if key is None else key.secret

    def of_document(self, database: bytes, document: DocumentId) -> tuple[bytes, ...]:
        """The kids of the document's keys that are here, in ascending order."""
        _check_place(database, document)
        with self._mutex:
            keys = self._current().keys_of(database, document) if self._is_there() else []
        return tuple(sorted(key.kid for key in keys))

    def destroy(
        self, database: bytes, document: DocumentId, now_ms: int, kids: Collection[bytes] | None = None
    ) -> Destroyed:
        """Destroy the document's keys, or those of them that ``kids`` names, here and in every copy.

        Named kids that are not here are remembered as destroyed, so that no bundle brings them. It can be done any
        number of times; a process that was killed meanwhile has left the keys whole, or the next opening completes what
        concerns the key file and the next call what concerns the copies. Raises ``StorageError`` when bytes of a key
        are still found in the key file afterwards.
        """
        _check_place(database, document)
        if kids is not None and (len(kids) > MAX_DESTROYED or any(len(kid) != KID_BYTES for kid in kids)):
            raise MalformedError(f"document keys: not at most {MAX_DESTROYED} key ids of {KID_BYTES} bytes")
        if not 0 <= now_ms <= MAX_CLAIMED_MS:
            raise MalformedError("document keys: the time is not within the years 1970 to 9999")
        with self._opened() as file:
            with file.transaction():
                named = [key.kid for key in file.keys_of(database, document)] if kids is None else kids
                secrets = file.bury(_Buried(database, *document, kid, now_ms) for kid in named)
            file.finish(secrets)
            with file.transaction():  # so that no backup is under way
                unreachable = tuple(path for path in file.copies() if not _destroy_in_copy(file, Path(path), secrets))
            return Destroyed(file.destroyed_kids(database, document), unreachable)

    def destroyed(self, database: bytes, document: DocumentId) -> tuple[bytes, ...]:
        """The kids of the document's destroyed keys, also of those that were never here, in ascending order."""
        _check_place(database, document)
        with self._mutex:
            return self._current().destroyed_kids(database, document) if self._is_there() else ()

    def backup(self, path: Path) -> None:
        """Copy the key file to ``path``, and remember that, so that keys are destroyed there too.

        A copy that is remembered is brought up to date. Raises ``RefusedError`` when anything else is there.
        """
        place = path.absolute()
        if not str(place).isprintable():
            raise RefusedError(f"{str(place)!a} cannot be remembered: it is not plain text")
        with self._opened() as file:
            with file.transaction():  # durable before there is a copy: none can be forgotten
                if str(place) not in file.copies():
                    if os.path.lexists(place):
                        raise RefusedError(f"{place} exists already; a backup replaces nothing but itself")
                    _touch(place, create=True)
                    file.add_copy(str(place))
            with file.transaction(), closing(_KeyFile(place, create=True)) as copy:
                with copy.transaction():
                    _pass_on(file, copy)
                    copy.add_keys(file.keys())
                copy.finish(())
                copy.drop_journal()

    def copies(self) -> tuple[str, ...]:
        """Where copies were made that are not forgotten."""
        with self._mutex:
            return self._current().copies() if self._is_there() else ()

    def forget_copy(self, path: Path) -> None:
        """Do not look for the copy any more: its owner has destroyed it. It is not touched."""
        with self._opened() as file, file.transaction():
            file.remove_copy(str(path.absolute()))

    def export_keys(self, database: bytes) -> bytes:
        """A bundle of all keys of the database, for another replica of one's own. It holds them in the clear.

        No destruction reaches it: whoever makes one sees to it that it is gone once it was handed over.
        """
        _check_database(database)
        with self._mutex:
            keys = self._current().keys_in(database) if self._is_there() else []
        return _encode_bundle(database, keys)

    def import_keys(self, bundle: bytes) -> tuple[bytes, ...]:
        """Take the keys of a bundle; the kids of those that are new here, in ascending order.

        Keys that were destroyed here are not taken. All are durable when this returns, or none was taken. The bundle is
        taken on trust. Raises ``MalformedError``, ``VerificationError`` when a key differs from one of the same kid.
        """
        keys = _parse_bundle(bundle)
        with self._opened() as file, file.transaction():
            new = [key for key in keys if not _is_destroyed(file, key) and not _is_known(file, key)]
            file.add_keys(new)
        return tuple(key.kid for key in new)

    def close(self) -> None:
        """Release the file. Idempotent; the next use opens it again."""
        with self._mutex:
            self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @contextmanager
    def _opened(self) -> Iterator[_KeyFile]:
        with self._mutex:
            yield self._current()

    def _is_there(self) -> bool:
        return os.path.lexists(self.path)

    def _current(self) -> _KeyFile:
        """The file, opened anew when another one has taken its place: what is written to the old one would be lost."""
        if self._file is not None and not self._file.is_in_place():
            self._close()
        if self._file is None:
            self._file = _KeyFile(self.path, create=True)
        return self._file

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()


def _new_key(database: bytes, document: DocumentId) -> _Key:
    return _Key(random(KID_BYTES), database, *document, random(KEY_BYTES), _now_ms())


def _pass_on(file: _KeyFile, copy: _KeyFile) -> list[bytes]:
    """Let the copy know what is destroyed and where copies are, should it be restored; the secrets it had of those."""
    for path in file.copies():
        copy.add_copy(path)
    return copy.bury(file.buried())


def _destroy_in_copy(file: _KeyFile, path: Path, secrets: Collection[bytes]) -> bool:
    """Destroy in a copy whatever is destroyed in ``file``; False when that cannot be done now."""
    try:
        with closing(_KeyFile(path, create=False)) as copy:
            with copy.transaction():
                found = _pass_on(file, copy)
            copy.finish({*secrets, *found})
            copy.drop_journal()
    except (StorageError, ConfigurationError):  # absent, unmounted, read-only, damaged, something else by now
        return False
    return True


def _is_destroyed(file: _KeyFile, key: _Key) -> bool:
    return key.kid in file.destroyed_kids(key.database, DocumentId(key.collection, key.key))


def _is_known(file: _KeyFile, key: _Key) -> bool:
    """Whether the key is in the file. Raises ``VerificationError`` when another one has its kid."""
    known = file.key(key.kid)
    if known is not None and known[:-1] != key[:-1]:
        raise VerificationError(f"document keys: {key.kid.hex()} is another key here than in the bundle")
    return known is not None


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _check_database(database: bytes) -> None:
    if len(database) != _DATABASE_BYTES:
        raise MalformedError(f"document keys: a database id has {_DATABASE_BYTES} bytes")


def _check_place(database: bytes, document: DocumentId) -> None:
    _check_database(database)
    check_name(document.collection, "document keys: collection")
    if len(document.key) > MAX_KEY:
        raise LimitExceeded(f"document keys: a document's key has at most {MAX_KEY} characters")
    for start in range(0, max(len(document.key), 1), MAX_NAME):
        check_name(document.key[start : start + MAX_NAME], "document keys: document")


# --- the file -------------------------------------------------------------------------------------------------------


class _KeyFile:
    """One file of keys, open: that of a home, or a copy of it. Used by one thread at a time."""

    def __init__(self, path: Path, *, create: bool) -> None:
        """Open the file, make the tables of an empty one, and complete what a killed process has begun.

        ``create``: make it if it is absent.
        """
        self.path = path
        _touch(path, create=create)
        with _translated(path):
            self._connection = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode=rw",
                uri=True,
                isolation_level=None,
                check_same_thread=False,
                timeout=_BUSY_S,
            )
        try:
            self._check_format()
            for pragma in _PRAGMAS:
                self._execute(f"PRAGMA {pragma}")
            with _translated(path):
                self._identity = _identity(path)
            self.finish(())
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._connection.close()

    def is_in_place(self) -> bool:
        with suppress(OSError):
            return _identity(self.path) == self._identity
        return False

    @contextmanager
    def transaction(self, kind: str = "IMMEDIATE") -> Iterator[None]:
        """Everything written inside is durable when the block ends, or none of it is there; one at a time."""
        self._execute(f"BEGIN {kind}")
        try:
            yield
            self._execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._execute("ROLLBACK")
            raise

    # Keys.

    def key(self, kid: bytes) -> _Key | None:
        return next(iter(self._keys(_KEY, (kid,))), None)

    def keys_of(self, database: bytes, document: DocumentId) -> list[_Key]:
        """The document's keys, the oldest first: replicas that have handed each other theirs seal with the same one."""
        return self._keys(_KEYS_OF, (database, *document))

    def sealing_keys(self, database: bytes, documents: Iterable[DocumentId]) -> dict[DocumentId, _Key]:
        """The oldest key of each document that has one."""
        found = ((document, self.keys_of(database, document)) for document in documents)
        return {document: keys[0] for document, keys in found if keys}

    def keys_in(self, database: bytes) -> list[_Key]:
        """In ascending order of their kids."""
        return self._keys(_KEYS_IN, (database,))

    def keys(self) -> list[_Key]:
        return self._keys(_KEYS, ())

    def add_keys(self, keys: Iterable[_Key]) -> None:
        """Add those that are not here yet."""
        for key in keys:
            self._execute(_ADD_KEY, key)

    # Destroying.

    def bury(self, buried: Iterable[_Buried]) -> list[bytes]:
        """Delete the keys and remember that they are destroyed; the secrets of those that were here.

        Within a transaction. Their bytes may still be in the file until ``finish`` has returned.
        """
        secrets = []
        for one in buried:
            key = self.key(one.kid)
            if key is not None and (key.database, key.collection, key.key) == one[:3]:
                secrets.append(key.secret)
                self._execute("DELETE FROM document_key WHERE kid = ?", (one.kid,))
                self._execute(_BURY, (*one, 0))
            else:
                self._execute(_BURY, (*one, 1))
        return secrets

    def finish(self, secrets: Collection[bytes]) -> None:
        """Make sure that nothing is left of deleted keys, where any were deleted since the last time.

        ``secrets`` are looked for in the bytes of the file afterwards. Raises ``StorageError`` when one is found.
        """
        ((last,),) = self._execute("SELECT max(id) FROM destroyed_key WHERE clean = 0")
        if last is None:
            return
        # SQLite overwrites what it deletes, but not what is left of a row where it has moved it from one page to
        # another, and its journal holds the pages as they were.
        self._execute("VACUUM")
        self._overwrite_journal()
        for file in (self.path, *(_beside(self.path, suffix) for suffix in ("-journal", "-wal", "-shm"))):
            with _translated(file):
                if _holds(file, secrets):
                    raise StorageError(f"{file}: bytes of a destroyed key are still in it")
        self._execute("UPDATE destroyed_key SET clean = 1 WHERE clean = 0 AND id <= ?", (last,))

    def buried(self) -> list[_Buried]:
        return [_Buried(*row) for row in self._execute(_BURIED)]

    def destroyed_kids(self, database: bytes, document: DocumentId) -> tuple[bytes, ...]:
        return tuple(kid for (kid,) in self._execute(_DESTROYED_KIDS, (database, *document)))

    # Copies.

    def copies(self) -> tuple[str, ...]:
        return tuple(str(path) for (path,) in self._execute("SELECT path FROM copy ORDER BY path"))

    def add_copy(self, path: str) -> None:
        self._execute("INSERT OR IGNORE INTO copy (path) VALUES (?)", (path,))

    def remove_copy(self, path: str) -> None:
        self._execute("DELETE FROM copy WHERE path = ?", (path,))

    def drop_journal(self) -> None:
        """Leave no journal beside the file: a copy is one file."""
        self._execute("PRAGMA journal_mode = DELETE")

    # What SQLite is told.

    def _execute(self, statement: str, values: tuple[object, ...] = ()) -> list[Any]:
        with _translated(self.path):
            return self._connection.execute(statement, values).fetchall()

    def _check_format(self) -> None:
        if self._is_empty():
            with self.transaction():
                if self._is_empty():  # else another process was quicker
                    for statement in _SCHEMA:
                        self._execute(statement)
        ((application,),) = self._execute("PRAGMA application_id")
        ((version,),) = self._execute("PRAGMA user_version")
        if application != _APPLICATION_ID:
            raise ConfigurationError(f"{self.path} is not a file of document keys")
        if version != _VERSION:
            raise NewerFormat(f"{self.path} has format {version}, this holdfast knows {_VERSION}")

    def _is_empty(self) -> bool:
        return not self._execute("SELECT 1 FROM sqlite_schema LIMIT 1")

    def _overwrite_journal(self) -> None:
        with self.transaction("EXCLUSIVE"), _translated(self.path):  # nobody is writing, so nobody needs it
            journal = _beside(self.path, "-journal")
            with suppress(FileNotFoundError), journal.open("r+b", buffering=0) as stream:
                left = os.fstat(stream.fileno()).st_size
                while left > 0:
                    left -= stream.write(bytes(min(left, _CHUNK)))
                os.fsync(stream.fileno())
                stream.truncate(0)

    def _keys(self, statement: str, values: tuple[object, ...]) -> list[_Key]:
        keys = []
        for row in self._execute(statement, values):
            match row:
                case (bytes(), bytes(), str(), str(), bytes(secret), int()) if len(secret) == KEY_BYTES:
                    keys.append(_Key(*row))
                case _:
                    raise DamagedFile(f"document keys {self.path}: a row of another form than belongs there")
        return keys


def _touch(path: Path, *, create: bool) -> None:
    """See that the file is there; SQLite would make it readable for others."""
    try:
        os.close(os.open(path, os.O_RDWR))
    except FileNotFoundError as exc:
        if not create:
            raise StorageError(f"{path} is not there") from exc
        with _translated(path):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, PRIVATE))
        sync_directory(path.parent)
    except OSError as exc:
        raise StorageError(f"document keys {path}: {exc.strerror}") from exc


def _identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _holds(path: Path, secrets: Collection[bytes]) -> bool:
    """Whether any of the secrets is in the file's bytes; an absent file holds none."""
    kept = b""
    with suppress(FileNotFoundError), path.open("rb", buffering=0) as stream:
        while part := stream.read(_CHUNK):
            window = kept + part
            if any(secret in window for secret in secrets):
                return True
            kept = window[-(KEY_BYTES - 1) :]
    return False


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as exc:
        if not hasattr(exc, "sqlite_errorcode"):  # the driver's own: it could not read what SQLite gave it
            raise DamagedFile(f"document keys {path}: {exc}") from exc
        if exc.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise StoreBusy(f"document keys {path}: {exc}") from exc
        raise StorageError(f"document keys {path}: {exc}") from exc
    except (sqlite3.DatabaseError, UnicodeDecodeError) as exc:
        raise DamagedFile(f"document keys {path}: {exc}") from exc
    except OSError as exc:
        raise StorageError(f"document keys {path}: {exc.strerror}") from exc


# --- bundles --------------------------------------------------------------------------------------------------------


def _encode_bundle(database: bytes, keys: Iterable[_Key]) -> bytes:
    records = [
        encode_record(b"K", encode([key.kid, key.collection, key.key, key.secret, key.created_ms])) for key in keys
    ]
    return b"".join([_FIRST_LINE, encode_record(b"D", database), *records, encode_record(b"E", b"")])


def _parse_bundle(bundle: bytes) -> list[_Key]:
    """The keys of a bundle, in ascending order of their kids. Raises ``MalformedError``."""
    reader = RecordReader(io.BytesIO(bundle), "bundle of document keys", _RECORD_LIMITS)
    reader.first_line(_FIRST_LINE)
    kind, database = reader.record()
    if kind != b"D":
        raise MalformedError("bundle of document keys: does not begin with its database")
    _check_database(database)
    keys: list[_Key] = []
    while (record := reader.record())[0] == b"K":
        key = _parse_key(database, record[1])
        if keys and keys[-1].kid >= key.kid:
            raise MalformedError("bundle of document keys: not in ascending order")
        keys.append(key)
    if record[0] != b"E":
        raise MalformedError("bundle of document keys: a second database")
    reader.end()
    return keys


def _parse_key(database: bytes, payload: bytes) -> _Key:
    match decode(payload):
        case [bytes(kid), str(collection), str(key), bytes(secret), int(created_ms)] if not isinstance(
            created_ms, bool
        ):
            pass
        case _:
            raise MalformedError("bundle of document keys: not a kid, a document, a key and a time")
    if len(kid) != KID_BYTES or len(secret) != KEY_BYTES or not 0 <= created_ms <= MAX_CLAIMED_MS:
        raise MalformedError("bundle of document keys: a kid, a key or a time of the wrong size")
    _check_place(database, DocumentId(collection, key))
    return _Key(kid, database, collection, key, secret, created_ms)
