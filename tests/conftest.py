"""What all tests share: where ``shared/`` is, a PostgreSQL server, and an account of what was skipped.

A test whose tool or data is absent skips by name. With REQUIRE_ALL_TESTS=1, as in .ci/run, a skip is a failure.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.postgres_server import PostgresServer, ServerAbsent, private_server

ROOT = Path(__file__).resolve().parent.parent
REQUIRE_ALL = os.environ.get("REQUIRE_ALL_TESTS") == "1"


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of data and vectors that lies beside the repository; SHARED_DIR names another place."""
    path = Path(os.environ.get("SHARED_DIR", ROOT.parent / "shared"))
    if not path.is_dir():
        pytest.skip("shared/ is not beside the repository")
    return path


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server of this run's own; skips when none is installed, or root has no user to run it as."""
    try:
        running = private_server()
    except ServerAbsent as exc:
        pytest.skip(str(exc))
    with running as server:
        yield server


@pytest.fixture(scope="session")
def _store_template(postgres: PostgresServer) -> str:
    """A database with a new, empty store, to be copied: the migrations take a third of a second."""
    from ledger.storage.engine import open_store

    name = postgres.new_database()
    open_store(postgres.url(name), create=True).close()
    return name


@pytest.fixture
def postgres_url(postgres: PostgresServer, _store_template: str) -> Iterator[str]:
    """The URL of a new, empty store on PostgreSQL, whose tables a test may damage."""
    name = postgres.new_database(_store_template)
    yield postgres.url(name)
    postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def _reused_store(postgres: PostgresServer, _store_template: str) -> tuple[str, str]:
    """A database for one test after the other, and what empties its tables past their triggers."""
    import psycopg

    name = postgres.new_database(_store_template)
    with psycopg.connect(postgres.url(name)) as connection:
        query = "SELECT tablename FROM pg_tables WHERE schemaname = 'holdfast'"
        tables = {table for (table,) in connection.execute(query)} - {"alembic_version", "store_lock"}
    emptying = [f"DELETE FROM holdfast.{table}" for table in sorted(tables)]
    return name, "; ".join(["SET session_replication_role = replica", "SET synchronous_commit = off", *emptying])


@pytest.fixture
def empty_postgres(postgres: PostgresServer, _reused_store: tuple[str, str]) -> str:
    """The URL of an empty store on PostgreSQL whose tables a test leaves as they are: quicker than a new one."""
    name, emptying = _reused_store
    postgres.execute(emptying, name)
    return postgres.url(name)


def _refuse_skip(report: Any) -> None:
    """Turn a skipped report into a failed one, with the reason of the skip."""
    if REQUIRE_ALL and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid}: skipped, and REQUIRE_ALL_TESTS allows none ({reason})"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, Any, Any]:
    report = yield
    _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, Any, Any]:
    """A module that skips itself."""
    report = yield
    _refuse_skip(report)
    return report


def pytest_terminal_summary(terminalreporter: Any) -> None:
    skipped = len(terminalreporter.stats.get("skipped", []))
    terminalreporter.write_line("zero skips" if not skipped else f"{skipped} skipped: -rs names them")
