"""A PostgreSQL server for one run, from the binaries that are installed: for the benchmarks and for the tests.

It lies in a directory of its own and listens on a free port of the loopback interface; both are gone afterwards.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

__all__ = ["PostgresServer", "ServerAbsent", "private_server"]


class ServerAbsent(Exception):
    """No server can be started here; the text says why."""


class ToolFailed(Exception):
    """A tool of the server ended with an error; the text is what it wrote."""


@dataclass
class PostgresServer:
    """A private server from the installed binaries. A fresh database holds a new, empty store in ``holdfast``."""

    binaries: Path
    directory: Path
    port: int
    user: str | None
    environment: Mapping[str, str] | None = None
    """That the server and its tools run in, by default this process's."""
    options: str = ""

    def __post_init__(self) -> None:
        self._names = count()

    def run(self, tool: str, *arguments: str) -> None:
        """Run one of the server's tools. As root it is run as another user: the server insists."""
        command = [str(self.binaries / tool), *arguments]
        out = self.directory / "tools.log"
        with out.open("ab") as log:
            done = subprocess.run(
                command,
                check=False,
                user=self.user,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        if done.returncode:
            raise ToolFailed(f"{tool}: {out.read_text(errors='replace')[-2000:]}")

    def initialize(self, *options: str) -> None:
        """Make the directory of its data."""
        data = str(self.directory / "data")
        locale = ("-E", "UTF8", "--locale=C.UTF-8")
        self.run("initdb", "-D", data, "-U", "vault", "-A", "trust", *locale, "--no-sync", *options)

    def start(self) -> None:
        """Start it and wait until it answers.

        What a killed one left behind is removed first. The server does so itself after a restart of the machine; on one
        that runs on, a process of the number in its lock file may exist, if only as one that nobody has waited for.
        """
        for left in (self.directory / "data" / "postmaster.pid", *self.directory.glob(".s.PGSQL.*")):
            left.unlink(missing_ok=True)
        options = f"-k {self.directory} -p {self.port} -c listen_addresses=127.0.0.1 -c fsync=on -c max_connections=40"
        options += " -c recovery_init_sync_method=syncfs"  # a restart is quicker than file by file
        options += f" {self.options}"
        log = self.directory / "server.log"
        data = str(self.directory / "data")
        try:
            self.run("pg_ctl", "start", "-w", "-t", "60", "-D", data, "-l", str(log), "-o", options)
        except ToolFailed as exc:
            raise ToolFailed(f"{exc}\n{log}: {log.read_text(errors='replace')[-2000:]}") from exc

    def stop(self, mode: str = "immediate") -> None:
        """Stop it; ``immediate`` is what a crash of the server is like."""
        self.run("pg_ctl", "stop", "-w", "-m", mode, "-D", str(self.directory / "data"))

    def kill(self) -> None:
        """SIGKILL for all of its processes."""
        lock = self.directory / "data" / "postmaster.pid"
        main = int(lock.read_text().split()[0])
        os.kill(main, signal.SIGSTOP)  # so that it starts no others meanwhile
        family = [main, *map(int, Path(f"/proc/{main}/task/{main}/children").read_text().split())]
        for pid in family:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        while any(map(_is_alive, family)):
            time.sleep(0.005)

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


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def private_server(directory: Path | None = None) -> AbstractContextManager[PostgresServer]:
    """A running server, whose files lie below ``directory``. Raises ``ServerAbsent`` at once."""
    newest = max(
        Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: path.parts[-3].zfill(3), default=None
    )
    found = newest or shutil.which("postgres")
    if found is None:
        raise ServerAbsent("postgresql is not installed")
    user = None
    if os.geteuid() == 0:
        user = "postgres"
        if user not in {entry.pw_name for entry in pwd.getpwall()}:
            raise ServerAbsent("postgresql does not run as root, and there is no user postgres")
    return _running(Path(found).resolve().parent, user, directory)


@contextmanager
def _running(binaries: Path, user: str | None, directory: Path | None) -> Iterator[PostgresServer]:
    with tempfile.TemporaryDirectory(prefix="holdfast-pg-", dir=directory) as name:
        if user is not None:
            shutil.chown(name, user)
        port = _free_port()
        server = PostgresServer(binaries, Path(name), port, user)
        server.initialize()
        server.start()
        try:
            yield server
        finally:
            with suppress(ToolFailed):  # whoever used it may have left it stopped
                server.stop()


def _free_port() -> int:
    """A port that nobody listens on, below those from which connections take theirs: they come while a cluster is made.

    Raises ``ServerAbsent`` when none of many is free.
    """
    for _ in range(200):
        port = 20_000 + secrets.randbelow(12_000)
        with socket.socket() as tried, suppress(OSError):
            tried.bind(("127.0.0.1", port))
            return port
    raise ServerAbsent("no free port for a PostgreSQL server")
