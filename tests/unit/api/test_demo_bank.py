"""The bank of the demonstration, where the demonstration itself does not go: with its store on PostgreSQL."""

from __future__ import annotations

from pathlib import Path

from api.demo.bank import Bank
from benchmarks.postgres_server import PostgresServer
from ledger.storage.location import PostgresLocation, parse_location


def test_a_bank_on_postgresql_seals_its_log(postgres: PostgresServer, tmp_path: Path) -> None:
    database = parse_location(postgres.url(postgres.new_database()))
    assert isinstance(database, PostgresLocation)
    bank = Bank.found(tmp_path, database)
    with bank.open() as session:
        assert session.vault.store.dialect == "postgresql"
        checkpoint, done = bank.seal(session, bank.keys())
    assert checkpoint.size > 1
    assert not done.failures
    assert not bank.home.database.exists()
