"""B8: tampered values, metadata, order, signatures, index rows and derived rows: every column of every row is changed.

Below the engine nothing can be prevented, so everything has to be noticed and named by the audit of the store. What is
not is listed here with the reason why nobody relies on it, and shown to be so: every entry, every evidence file and the
audit are what they were, and one more entry is written and audits clean, or is refused by name. Every table has to be
filled, so a new one is not forgotten.
A short run takes the first and the last row of each table, on PostgreSQL the last; with CHAOS_ROUNDS it takes all.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ledger.flattree import right_leaf
from ledger.manifest import parse_manifest
from ledger.sparse import Learned
from ledger.storage.engine import open_store
from ledger.storage.schema import metadata
from ledger.storage.sparse import hold_feed

pytestmark = pytest.mark.fault

EVERY_ROW = int(os.environ.get("CHAOS_ROUNDS", "0")) >= 500

LABEL = "a label with what the local clock said; every time that counts is proven by others"
NUMBER = "only tells rows apart; nothing refers to it"

IRRELEVANT: Mapping[tuple[str, str], str] = {
    ("anchor", "changed_ms"): LABEL,
    ("anchor", "reason"): "text for people; what is decided, is decided by the state",
    ("anchor_receipt", "archived_ms"): LABEL,
    ("anchor_receipt", "id"): NUMBER,
    ("anchor_transaction", "id"): NUMBER,
    ("anchor_transaction", "prepared_ms"): "when to offer a higher fee, which the cap bounds",
    ("feed", "local"): "a feed of ours that is marked as another's is refused by name when it is written to; one of "
    "another that is marked as ours meets a key that is not here",
    ("identity_event", "id"): "the order in which events came; the one that counts is in the events",
    ("lease", "epoch"): "who may write next; a writer whose lease was taken away is refused, and reads again",
    ("lease", "expires_ms"): "how long others wait; whoever writes holds the store's lock besides",
    ("lease", "feed"): "a feed without a lease is leased by the next writer",
    ("lease", "holder"): "who may write next; the former holder waits until the lease has expired",
    ("lease", "incarnation"): "another one than the server's makes the next writer retire the feed: the safe side",
    ("log", "one"): "there is one row, and it is read whatever this says",
    ("log_closing", "changed_ms"): LABEL,
    ("log_closing_transaction", "id"): NUMBER,
    ("log_closing_transaction", "prepared_ms"): "when to offer a higher fee, which the cap bounds",
    ("store_identity", "id"): NUMBER,
    ("store_identity", "store"): "the name of the sentinel; under another one a start finds none, says so, and goes on "
    "in new feeds",
    ("store_lock", "one"): "there is one row, and it is locked whatever this says",
    ("succession", "detail"): "a record for people of what a start found; the feeds themselves say what they continue",
    ("succession", "feeds"): "as its detail",
    ("succession", "id"): NUMBER,
    ("succession", "reason"): "as its detail",
    ("succession", "recorded_ms"): LABEL,
    ("timestamp_material", "id"): NUMBER,
    ("timestamp_token", "acquired_ms"): LABEL,
    ("timestamp_token", "authority"): "what the settings called it; who signed stands in the token",
    ("timestamp_token", "id"): NUMBER,
}
"""(table, column) -> why nobody relies on it. What is noticed all the same is fine."""

SAID: Mapping[tuple[str, str], str] = {("store_identity", "store"): "the sentinel"}
"""What an audit says of such a change all the same, though everything else is answered as before."""

IRRELEVANT_FROM: Mapping[tuple[str, str, Any], str] = {
    ("feed", "retired", 0): "a feed that is marked as retired by mistake is continued by a new one",
}
"""The same, only for a change away from that value."""

MAY_BE_DELETED: Mapping[str, str] = {
    "anchor_transaction": "the chain knows what was mined; for what was not, the outbox makes another one",
    "head": "a later head signs the same blocks; those that the log states are noticed",
    "lease": "a feed without a lease is leased by the next writer",
    "log_closing": "the chain says whether the log before is closed, and the audit asks it",
    "log_closing_transaction": "as anchor_transaction",
    "sparse_block": "of a feed held in part nothing says which blocks are held; it can be asked for again",
    "sparse_feed": "noticed unless nothing is held of it",
    "store_identity": "a start without an id is refused by name; an older id means that the sentinel is not found",
    "store_lock": "the next writer is refused by name",
    "succession": "a record for people of what a start found",
    "timestamp_material": "noticed for every token that the log names or the policy's authorities made",
    "timestamp_token": "one that no log leaf names yet is as if it had not come; the next round asks for another",
}
"""Tables of which some row may go unnoticed, and why that loses nothing that was proven."""


@dataclass(frozen=True)
class Cell:
    """One column of one row."""

    table: str
    row: int
    column: str
    value: Any

    def is_irrelevant(self) -> bool:
        return (self.table, self.column) in IRRELEVANT or (self.table, self.column, self.value) in IRRELEVANT_FROM


def others(value: Any) -> Iterator[Any]:
    """Other values of the same type, the nearest first."""
    if isinstance(value, bytes):
        yield value[:-1] + bytes([value[-1] ^ 1]) if value else b"\0"
    elif isinstance(value, int):
        yield from (value ^ 1, value ^ (1 << 30))
    elif isinstance(value, str):
        yield value[:-1] + chr(ord(value[-1]) ^ 1) if value else "x"
    else:
        yield from (1, "x", b"x")  # NULL


class SqliteStore:
    """Somebody who has the file: no trigger and no check is in the way."""

    taken = sqlite3.IntegrityError

    def __init__(self, file: Path) -> None:
        self.file = file
        with closing(sqlite3.connect(file)) as database:  # everything in the one file
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self.pristine = file.read_bytes()

    def restore(self, *, everything: bool = False) -> None:
        for suffix in ("-wal", "-shm"):
            self.file.with_name(self.file.name + suffix).unlink(missing_ok=True)
        self.file.write_bytes(self.pristine)

    def tables(self) -> dict[str, list[tuple[str, ...]]]:
        """Of each table the columns, then its rows."""
        with closing(sqlite3.connect(self.file)) as database:
            names = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            found = {}
            for name in names:
                rows = database.execute(f'SELECT * FROM "{name}"')
                found[name] = [tuple(column[0] for column in rows.description), *rows.fetchall()]
        return found

    def execute(self, sql: str, row: Sequence[Any], *values: Any) -> None:
        """Run ``sql`` with the condition that selects exactly ``row`` at its end."""
        with closing(sqlite3.connect(self.file)) as database:
            for (trigger,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
                database.execute(f'DROP TRIGGER "{trigger}"')
            database.execute("PRAGMA ignore_check_constraints = ON")
            assert database.execute(sql.format(mark="?", same="IS"), (*values, *row)).rowcount == 1
            database.commit()


class PostgresStore:
    """Somebody who is the server's superuser."""

    def __init__(self, url: str) -> None:
        import psycopg

        self.taken = psycopg.errors.IntegrityError
        self._connection = psycopg.connect(url, autocommit=True)
        self._connection.execute("SET search_path = holdfast; SET session_replication_role = replica")
        constraints = self._connection.execute(
            "SELECT conrelid::regclass, conname FROM pg_constraint "
            "WHERE contype IN ('c', 'f') AND connamespace = 'holdfast'::regnamespace"
        ).fetchall()
        for table, name in constraints:
            self._connection.execute(f'ALTER TABLE {table} DROP CONSTRAINT "{name}"')
        self._undo: list[tuple[str, Sequence[tuple[Any, ...]]]] = []
        self._pristine: dict[str, list[tuple[Any, ...]]] = {}

    def fill(self, tables: Mapping[str, Sequence[tuple[Any, ...]]]) -> None:
        """Take over the rows of another store. The version and the lock are this one's own."""
        for table, (columns, *rows) in tables.items():
            if table != "alembic_version":
                self._connection.execute(f"DELETE FROM {table}")
                marks = ", ".join(["%s"] * len(columns))
                for row in rows:
                    self._connection.execute(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})", row)
        lease = (tables["feed"][1][1], bytes(16), 1, 0, "another server")
        self._connection.execute("INSERT INTO lease VALUES (%s, %s, %s, %s, %s)", lease)
        self._pristine = self.tables()

    def tables(self) -> dict[str, list[tuple[str, ...]]]:
        query = "SELECT tablename FROM pg_tables WHERE schemaname = 'holdfast' ORDER BY 1"
        found = {}
        for (name,) in self._connection.execute(query).fetchall():
            rows = self._connection.execute(f"SELECT * FROM {name}")
            assert rows.description is not None
            found[name] = [tuple(column.name for column in rows.description), *rows.fetchall()]
        return found

    def execute(self, sql: str, row: Sequence[Any], *values: Any) -> None:
        table = sql.split('"')[1]
        before = self._connection.execute(f"SELECT * FROM {table}").fetchall()
        done = self._connection.execute(sql.format(mark="%s", same="IS NOT DISTINCT FROM"), (*values, *row))
        assert done.rowcount == 1
        self._undo.append((table, before))

    def restore(self, *, everything: bool = False) -> None:
        if everything:
            self._undo = [(table, rows) for table, (_, *rows) in self._pristine.items()]
        while self._undo:
            table, rows = self._undo.pop()
            self._connection.execute(f"DELETE FROM {table}")
            for row in rows:
                self._connection.execute(f"INSERT INTO {table} VALUES ({', '.join(['%s'] * len(row))})", row)


@pytest.fixture(scope="module")
def kept(founded: Any, clone: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A home with everything in it that a store can hold, all of it in one SQLite file.

    Its first log lost its end and was succeeded; its feeds are continued; of its two checkpoints the log names the
    token of one; the newest entries are in no checkpoint; another's feed is held in part.
    """
    from api.cli.__main__ import main

    root = tmp_path_factory.mktemp("b8")
    world = clone(founded, root)
    world.append("approved", feed="approvals")
    world.append("first")
    world.seal_and_show()
    older = world.copy("older")
    world.append("second")
    world.seal()
    world.restore(older)
    (root / "passphrase").write_text("a passphrase\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOLDFAST_HOME", str(world.home.root))
        patch.setenv("HOLDFAST_DEV_DIR", str(world.dev))
        patch.setenv("HOLDFAST_PASSPHRASE_FILE", str(root / "passphrase"))
        assert main(["recover", "succeed"]) == 0
    with world.session() as session:
        database = Path(session.settings.database)
    for number in range(3):
        world.append(f"entry {number}", "another")
    world.append("approved", feed="approvals")
    world.seal()
    world.append("later")
    world.seal()
    world.append("after the last checkpoint")
    world.database = database
    hold_in_part(database)
    return world


def hold_in_part(database: Path) -> None:
    """Of the first feed, as if it were another's: its newest head, all of its nodes, and its last block."""
    with closing(open_store(database)) as store, store.write() as tx:
        state = next(feed for feed in tx.feeds() if feed.length > 1)
        held = hold_feed(tx.connection, parse_manifest(state.manifest))
        complete = [index for index in range(2 * state.length - 1) if right_leaf(index) < state.length]
        nodes = tuple(tx.node(state.key, index) for index in complete)
        last = state.length - 1
        held.learn(Learned(nodes, (last, tx.block(state.key, last)), None, tx.head(state.key, state.length)))


@pytest.fixture(params=["sqlite", "postgresql"])
def tampering(kept: Any, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The store in the hands of somebody who may change it, on each engine; whole again afterwards."""
    sqlite_store = SqliteStore(kept.database)
    if request.param == "sqlite":
        yield sqlite_store
        sqlite_store.restore()
        return
    url = request.getfixturevalue("postgres_url")
    store = PostgresStore(url)
    store.fill(sqlite_store.tables())
    monkeypatch.setenv("HOLDFAST_DATABASE", url)
    yield store


@pytest.fixture
def audit(kept: Any, cli: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> Callable[[], tuple[int, str]]:
    """Audit the home; the exit code, and everything that was said."""

    def run(*command: str) -> tuple[int, str]:
        code = cli(kept, *(command or ("audit",)))
        said = capsys.readouterr()
        assert code != 70, said.err
        assert "Traceback" not in said.err
        return code, said.out + said.err

    return run


class Home:
    """The home whose store is changed, and what it answers."""

    def __init__(self, world: Any, audit: Callable[..., tuple[int, str]], row: Path) -> None:
        self._world, self._run, self._row = world, audit, row
        row.write_text('{"text": "one more"}\n')
        self._sentinels = world.sentinels()
        with world.session(read_only=True) as session:
            self._feeds = {info.key_text: info.state.length for info in session.vault.feeds()}

    def answers(self) -> list[tuple[int, str]]:
        """The audit, every entry, and the evidence for it or why there is none."""
        found = [self._run("audit")]
        for feed, length in self._feeds.items():
            found.append(self._run("feed", "read", feed))
            found += [self._run("evidence", "export", feed, str(index), "-o", "-") for index in range(length)]
        return found

    def goes_on(self) -> str | None:
        """What is wrong after one more entry was written, or refused by name; None when nothing is."""
        code, said = self._run("feed", "append", "ledger", str(self._row))
        if code == 0:
            code, said = self._run("audit")
            return None if code == 0 else said
        return None if "holdfast: error: " in said else f"exit code {code}: {said}"

    def put_sentinels(self) -> None:
        self._world.put_sentinels(self._sentinels)


@pytest.fixture
def home(kept: Any, tampering: Any, audit: Any, tmp_path: Path) -> Iterator[Home]:
    found = Home(kept, audit, tmp_path / "row.jsonl")
    yield found
    found.put_sentinels()


def condition(columns: Sequence[str]) -> str:
    return " AND ".join(f'"{column}" {{same}} {{mark}}' for column in columns)


def chosen(rows: Sequence[tuple[Any, ...]], engine: str) -> Sequence[tuple[Any, ...]]:
    if EVERY_ROW:
        return rows
    return [*rows[:1], *rows[1:][-1:]] if engine == "sqlite" else rows[-1:]


def cells(tables: Mapping[str, Sequence[tuple[Any, ...]]], engine: str) -> Iterator[tuple[Cell, Sequence[str], Any]]:
    for table, (columns, *rows) in tables.items():
        for number, row in enumerate(chosen(rows, engine)):
            for column, value in zip(columns, row, strict=True):
                yield Cell(table, number, column, value), columns, row


def alter(store: Any, cell: Cell, columns: Sequence[str], row: Sequence[Any]) -> None:
    for other in others(cell.value):
        try:
            sql = f'UPDATE "{cell.table}" SET "{cell.column}" = {{mark}} WHERE ' + condition(columns)
            store.execute(sql, row, other)
            return
        except store.taken:  # another row has that value
            continue
        except Exception as exc:
            if "type" in str(exc) and cell.value is None:  # PostgreSQL knows what a column holds
                continue
            raise
    raise AssertionError(f"{cell}: no other value is free")


def difference(before: Sequence[tuple[int, str]], now: Sequence[tuple[int, str]], said: str | None) -> list[str]:
    """What is answered now and was not before, but for lines in which ``said`` stands."""
    found = []
    for (code, text), (other_code, other_text) in zip(before, now, strict=True):
        if other_code != code:
            found.append(f"exit code {other_code}, not {code}")
        lines = {*text.splitlines()}
        new = (line for line in other_text.splitlines() if line not in lines)
        found += [line for line in new if said is None or said not in line]
    return found


def is_named(said: str) -> bool:
    """Whether something says what does not hold, beyond an exit code."""
    return "FAILED: " in said or ": FAILED\n" in said or "holdfast: error: " in said


def test_B8_every_column_of_every_row(tampering: Any, audit: Any, home: Home) -> None:
    engine = "sqlite" if isinstance(tampering, SqliteStore) else "postgresql"
    code, said = audit()
    assert code == 0, said
    before = home.answers()
    unnoticed: list[object] = []
    for cell, columns, row in cells(tampering.tables(), engine):
        alter(tampering, cell, columns, row)
        code, said = audit()
        assert code in {0, 1, 74, 78}, (cell, code, said)
        if code != 0 and is_named(said):
            tampering.restore()
            continue
        if not cell.is_irrelevant():
            unnoticed.append((cell, code))
        elif other := difference(before, home.answers(), SAID.get((cell.table, cell.column))):
            unnoticed.append((cell, other))
        elif wrong := home.goes_on():
            unnoticed.append((cell, wrong))
        tampering.restore(everything=True)
        home.put_sentinels()
    assert unnoticed == []
    assert audit()[0] == 0


def test_B8_every_row_deleted(tampering: Any, audit: Any) -> None:
    engine = "sqlite" if isinstance(tampering, SqliteStore) else "postgresql"
    unnoticed = []
    for table, (columns, *rows) in tampering.tables().items():
        for row in chosen(rows, engine):
            tampering.execute(f'DELETE FROM "{table}" WHERE ' + condition(columns), row)
            code, said = audit()
            tampering.restore()
            assert code in {0, 1, 74, 78}, (table, row, code, said)
            if (code == 0 or not is_named(said)) and table not in MAY_BE_DELETED:
                unnoticed.append((table, row))
    assert unnoticed == []


def test_B8_no_table_is_forgotten(tampering: Any) -> None:
    tables = tampering.tables()
    empty = {name for name, (_, *rows) in tables.items() if not rows}
    empty -= {name for name in tables if name.partition("_")[0] == "database"}  # test_database_tampered changes those
    empty -= {"request_nonce"}  # of requests in the last minutes: no part of what the store keeps
    if isinstance(tampering, SqliteStore):
        empty -= {"lease"}  # on one machine the write lock is all that writers need
    assert empty == set(), "nothing is changed in these tables: fill them in the fixture"
    assert set(metadata.tables) <= set(tables)
    named = {table for table, _ in IRRELEVANT} | set(MAY_BE_DELETED)
    assert named <= set(tables) | {"store_lock"}
