"""``holdfast sync`` between two homes over HTTP on loopback."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI
from starlette.requests import HTTPConnection

from api.bootstrap import open_session
from api.databases import Databases
from api.home import Home
from api.routes.sync import SyncGrant, sync_router
from api.settings import load_settings
from identity.keystore import open_keystore

PASSPHRASE = "correct horse battery staple"


class Host:
    """The databases of a home, for whoever signs."""

    def __init__(self, databases: Databases) -> None:
        self.databases = databases
        self.signed: list[str] = []

    def reading(self, _: HTTPConnection) -> Any:
        return nullcontext(lambda _: None)

    def open_for_sync(self, connection: HTTPConnection, body: bytes, database: str) -> SyncGrant:
        self.signed.append(connection.headers["signature-input"])
        assert bool(body) == ("content-digest" in connection.headers)
        return SyncGrant(self.databases.open(database, device="laptop"), lambda: None, bytes(32), lambda _: None)


@contextmanager
def served(shell: Any) -> Iterator[tuple[str, Host]]:
    """The node of a home, which is open as long as it is served."""
    home = Home(shell.path(shell.home))
    with (
        open_session(home, load_settings(home, shell.environment())) as session,
        Databases(session, open_keystore(session.settings.keystore, PASSPHRASE)) as databases,
        closing(socket.create_server(("127.0.0.1", 0))) as listening,
    ):
        host, app = Host(databases), FastAPI()
        app.include_router(sync_router(host), prefix="/v1")
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", ws="websockets-sansio"))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}", host
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture
def pair(shell: Any) -> tuple[Any, Any]:
    """A home with a database, and another one whose identity was admitted to it."""
    other = shell.at("other")
    shell("db", "create", "bank", "--device", "laptop")
    shell("db", "put", "bank", "accounts/1", '{"owner": "Ada"}')
    other("identity", "export", "-o", "other.events")
    shell("identity", "import", "other.events")
    shell("db", "admit", "bank", "other of a test")
    return shell, other


def read(shell: Any, name: str = "accounts/1") -> Any:
    (answer,) = shell("db", "get", "bank", name, "--json").json
    return answer["etag"], answer["fields"]


def test_a_database_is_joined_and_kept_in_step(pair: tuple[Any, Any]) -> None:
    shell, other = pair
    with served(shell) as (url, host):
        (joined,) = other("sync", url, "bank", "--json").json
        assert (joined["kind"], joined["joined"], joined["taken"], joined["forks"]) == ("sync", True, 3, [])
        assert read(other) == read(shell)
        other("db", "put", "bank", "accounts/2", '{"owner": "Eve"}')
        (pulled,) = other("sync", url, "bank", "--pull", "--json").json
        assert (pulled["joined"], pulled["new"], pulled["sent"]) == (False, 0, 0)
        (pushed,) = other("sync", url, "--json").json
        assert (pushed["new"], pushed["sent"], pushed["database"]) == (0, pushed["sent"], "bank")
        assert pushed["sent"] >= 1
    assert read(other, "accounts/2") == read(shell, "accounts/2")
    assert all('keyid="did:key:z6Mk' in line for line in host.signed)


def test_conflicts_are_told(pair: tuple[Any, Any]) -> None:
    shell, other = pair
    with served(shell) as (url, _):
        other("sync", url, "bank")
    for one, name in ((shell, "Adam"), (other, "Eve")):
        one("db", "patch", "bank", "accounts/1", json.dumps({"owner": name}))
    with served(shell) as (url, _):
        ran = other("sync", url, "bank", "--json")
    assert ran.json[0]["conflicts"] == ["accounts/1"]
    assert "db conflicts bank" in ran.err


def test_mistakes_end_with_their_codes(pair: tuple[Any, Any]) -> None:
    shell, other = pair
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        port = listening.getsockname()[1]
    other("sync", f"http://127.0.0.1:{port}", "bank", code=75)
    other("sync", "ftp://host", "bank", code=64)
    other("sync", "http://host", "bank", "--pull", "--push", code=64)
    other("sync", "http://host", "--live", code=64)
    shell("sync", "http://host", "bank", code=64)  # which of its two devices?


def test_live_says_what_comes_and_ends_when_it_is_interrupted(pair: tuple[Any, Any]) -> None:
    import signal

    shell, other = pair
    with served(shell) as (url, host):
        other("sync", url, "bank")
        command = [sys.executable, "-m", "api.cli", "sync", url, "bank", "--live", "--json"]
        with subprocess.Popen(
            command, env=other.environment(), cwd=other.directory, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as running:
            assert running.stderr is not None
            assert running.stdout is not None
            assert any(b"connected" in line for line in running.stderr)
            database = host.databases.open("bank", device="laptop")
            with database.store.write() as tx:
                database.take_new_in(tx)
            shell("db", "put", "bank", "accounts/3", '{"owner": "live"}')
            told = json.loads(running.stdout.readline())
            assert (told["kind"], told["database"], told["taken"]) == ("sync-live", "bank", 1)
            os.kill(running.pid, signal.SIGINT)
            assert running.wait(20) in (0, 130)
    assert read(other, "accounts/3") == read(shell, "accounts/3")
