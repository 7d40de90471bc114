"""What all tests share: where ``shared/`` is, a PostgreSQL server, and an account of what was skipped.

A test whose tool or data is absent skips by name. With REQUIRE_ALL_TESTS=1, as in .ci/run, a skip is a failure.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest

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


@dataclass
class PostgresServer:
    """A private server from the installed binaries. A fresh database holds a new, empty store in ``holdfast``."""

    binaries: Path
    directory: Path
    port: int
    user: str | None

    def __post_init__(self) -> None:
        self._names = count()

    def run(self, tool: str, *arguments: str) -> None:
        """Run one of the server's tools. As root it is run as another user: the server insists."""
        command = [str(self.binaries / tool), *arguments]
        out = self.directory / "tools.log"
        with out.open("ab") as log:
            done = subprocess.run(
                command, check=False, user=self.user, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        assert done.returncode == 0, f"{tool}: {out.read_text(errors='replace')[-2000:]}"

    def start(self) -> None:
        options = f"-k {self.directory} -p {self.port} -c listen_addresses=127.0.0.1 -c fsync=on -c max_connections=40"
        options += " -c recovery_init_sync_method=syncfs"  # a restart is quicker than file by file
        log = str(self.directory / "server.log")
        self.run("pg_ctl", "start", "-w", "-t", "60", "-D", str(self.directory / "data"), "-l", log, "-o", options)

    def stop(self, mode: str = "immediate") -> None:
        """Stop it; ``immediate`` is what a crash of the server is like."""
        self.run("pg_ctl", "stop", "-w", "-m", mode, "-D", str(self.directory / "data"))

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://vault@127.0.0.1:{self.port}/{database}"

    def execute(self, statement: str, database: str = "postgres") -> None:
        """Run a statement as superuser, outside of any store."""
        import psycopg

        with psycopg.connect(self.url(database), autocommit=True) as connection:
            connection.execute(statement)

    def new_database(self, template: str = "template0") -> str:
        """The name of a new database."""
        name = f"test_{next(self._names)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server of this run's own; skips when none is installed, or root has no user to run it as."""
    newest = max(
        Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: path.parts[-3].zfill(3), default=None
    )
    found = newest or shutil.which("postgres")
    if found is None:
        pytest.skip("postgresql is not installed")
    user = None
    if os.geteuid() == 0:
        user = "postgres"
        if user not in {entry.pw_name for entry in pwd.getpwall()}:
            pytest.skip("postgresql does not run as root, and there is no user postgres")
    with tempfile.TemporaryDirectory(prefix="holdfast-pg-") as name:
        if user is not None:
            shutil.chown(name, user)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        server = PostgresServer(Path(found).resolve().parent, Path(name), port, user)
        data = str(server.directory / "data")
        server.run("initdb", "-D", data, "-U", "vault", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync")
        server.start()
        try:
            yield server
        finally:
            with suppress(AssertionError):  # a test may have left it stopped, and failed for that
                server.stop()


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
