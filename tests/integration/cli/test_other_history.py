"""A program that keeps its store open while another database server takes over, with all entries or without some."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import text

from api import founding
from api.bootstrap import Session, open_session
from api.home import Home
from api.settings import load_settings
from api.start_up import sentinel_path
from identity.errors import RefusedError
from identity.keystore import ONLY_FOR_TESTING, KeyRing, open_keystore
from ledger.entry import encode_record
from ledger.sentinel import describe_store
from ledger.sentinel_file import SentinelFile
from ledger.storage import leases
from ledger.storage.start_up import load_store_id, load_successions

pytestmark = pytest.mark.integration


@pytest.fixture
def shell_with_a_feed(shell: Any, postgres: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A home on PostgreSQL with two feeds, one of which is empty, and a checkpoint."""
    real = founding.create_keystore
    monkeypatch.setattr(founding, "create_keystore", lambda *given, profile: real(*given, profile=ONLY_FOR_TESTING))
    database = str(postgres.url(postgres.new_database()))
    opened = shell.at("one", HOLDFAST_MACHINE="one", HOLDFAST_SENTINEL_DIR=str(shell.path("sentinels-one")))
    opened("init", "--phrase-file", "p.txt", "--device", "laptop", "--database", database)
    opened("feed", "create", "ledger", "--device", "laptop")
    opened("feed", "create", "empty", "--device", "laptop")
    opened("feed", "append", "ledger", "notes.jsonl")
    opened("checkpoint", "create")
    return opened


class Program:
    """An open session, and what it has told."""

    def __init__(self, session: Session, ring: KeyRing) -> None:
        self.session, self.vault, self.ring = session, session.vault, ring
        self.told: list[str] = []

    def lose(self, **less: int) -> None:
        """Let the sentinel know so much more than the store holds: the other history lacks it."""
        with self.vault.store.write() as tx:
            store = load_store_id(tx.connection)
            file = SentinelFile(sentinel_path(self.session.settings, store), store)
            was = file.read().newest
            assert was is not None
            now = describe_store(tx, store, was.machine, sequence=was.sequence + 1)
            more = {name: getattr(now, name) + count for name, count in less.items()}
            file.begin(replace(now, **more))
            file.close()


@pytest.fixture
def program(shell_with_a_feed: Any) -> Iterator[Program]:
    home = Home(shell_with_a_feed.path("one"))
    settings = load_settings(home, shell_with_a_feed.environment())
    told: list[str] = []
    with ExitStack() as stack:
        session = stack.enter_context(open_session(home, settings, tell=told.append))
        passphrase = shell_with_a_feed.path("pass.txt").read_text().strip()
        made = Program(session, open_keystore(home.keystore, passphrase))
        made.told = told
        yield made


@pytest.fixture
def fail_over(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Let the database say that it has another history."""
    other = text("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint, '1/0000000F'")
    return lambda: monkeypatch.setitem(leases._SURROUNDINGS, "postgresql", other)  # type: ignore[index]


def block(number: int) -> bytes:
    return encode_record("notes", {"n": number}, 1_767_225_600_000)


def test_nothing_is_missing(program: Program, fail_over: Callable[[], None]) -> None:
    ledger, empty = (program.vault.find_feed(name).state.key for name in ("ledger", "empty"))
    with program.vault.start_writer(program.ring) as writer:
        assert writer.append(ledger, [block(1)]).key == ledger
        fail_over()
        continued = writer.append(ledger, [block(2)])
        assert (continued.start, continued.key != ledger) == (0, True)
        assert writer.append(ledger, [block(3)]).key == continued.key
        assert writer.append(empty, [block(4)]).key == empty
    assert program.vault.checkpoint(program.ring).size > 0
    assert program.told == []


def test_entries_are_missing(program: Program, fail_over: Callable[[], None]) -> None:
    """All feeds are retired, also one that looks as if nobody had ever written it, once, and in no other process."""
    ledger, empty = (program.vault.find_feed(name).state.key for name in ("ledger", "empty"))
    with program.vault.start_writer(program.ring) as writer:
        writer.append(ledger, [block(1)])
        program.lose(entries=7)
        writer.append(ledger, [block(2)])
        assert program.told == [], "the same history is not compared again"
        fail_over()
        results = [writer.append(key, [block(number)]) for number, key in enumerate([empty, ledger, empty, ledger])]
    assert [result.start for result in results] == [0, 0, 1, 1]
    assert {result.key for result in results}.isdisjoint({ledger, empty})
    (said,) = program.told
    assert "7 entries are missing: 2 feeds of this node are retired" in said
    with program.vault.store.read() as tx:
        (kept,) = load_successions(tx.connection)
    assert (kept.reason, kept.feeds) == ("behind", 2)


def test_what_was_retired_in_a_transaction_that_failed_is_retired_by_the_next(
    program: Program, fail_over: Callable[[], None]
) -> None:
    ledger = program.vault.find_feed("ledger").state.key
    program.vault.require_appendable()
    program.lose(entries=7)
    fail_over()
    for _ in range(2):
        with pytest.raises(RefusedError, match="lost"), program.vault.store.write() as tx:
            assert program.session.start_up.meet_history(tx, "1/0000000F")
            assert not program.session.start_up.meet_history(tx, "1/0000000F"), "twice in one transaction"
            raise RefusedError("and the transaction is lost")
    with program.vault.store.write() as tx:
        assert program.session.start_up.meet_history(tx, "1/0000000F")
    with program.vault.store.write() as tx:
        assert not program.session.start_up.meet_history(tx, "1/0000000F")
        state = tx.feed(ledger)
    assert state is not None
    assert state.retired


def test_statements_of_the_log_are_missing(program: Program, fail_over: Callable[[], None]) -> None:
    """What follows would be a second checkpoint of a size that was signed."""
    ledger = program.vault.find_feed("ledger").state.key
    with program.vault.start_writer(program.ring) as writer:
        writer.append(ledger, [block(1)])
        program.vault.checkpoint(program.ring)
        writer.append(ledger, [block(2)])
    program.lose(log_size=3)
    with pytest.raises(RefusedError, match="are not in the store") as caught:
        program.vault.checkpoint(program.ring)
    assert "start" in caught.value.hint
