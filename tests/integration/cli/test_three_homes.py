"""A node that serves and two homes that pair with it: they edit apart, come together, and show the same."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any
from unittest import mock

import pytest

from api.client import ReplicaHome, open_replica
from api.databases import open_databases
from api.remote import RemoteNode, RemoteProblem
from identity.errors import TransportError
from identity.keys import Ed25519Signer
from identity.keystore import open_keystore

pytestmark = pytest.mark.integration

DOCUMENT = "/v1/databases/bank/collections/accounts/documents/4711"


class Served:
    """``holdfast serve`` for a home, in a process of its own."""

    def __init__(self, shell: Any, port: int = 0) -> None:
        self.shell = shell
        self.process = self.run("serve", "--port", str(port), "--device", "laptop", "--json")
        self.url = str(self.said(self.process)["url"])

    def run(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "api.cli", *arguments],
            env=self.shell.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @staticmethod
    def said(process: subprocess.Popen[str]) -> dict[str, Any]:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.stderr.read() if process.stderr else ""
        found: dict[str, Any] = json.loads(line)
        return found

    def close(self) -> None:
        self.process.terminate()
        _, log = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, log

    def pair(self, guest: Any, *, device: str = "main") -> tuple[str, str]:
        """Pair a home with the node. Returns the numbers that the two sides have shown."""
        offering = self.run("pair", "offer", "bank", "--node", self.url, "--device", "laptop", "--yes", "--json")
        code = self.said(offering)["code"]
        joined = guest("pair", "join", self.url, code, "--device", device, "--yes", "--json").json[0]
        out, _ = offering.communicate(timeout=60)
        assert offering.returncode == 0
        return json.loads(out.splitlines()[-1])["safety_number"], joined["safety_number"]


@pytest.fixture
def node(shell: Any) -> Iterator[Served]:
    shell("db", "create", "bank", "--device", "laptop")
    shell("db", "put", "bank", "accounts/4711", '{"owner": "Novak", "limit": 1}', "--device", "laptop")
    with closing(Served(shell)) as served:
        yield served


@pytest.fixture
def homes(shell: Any, node: Served) -> Iterator[tuple[ReplicaHome, ReplicaHome]]:
    """Two homes that were paired with the node."""
    guests = shell.at("other"), shell.at("young")
    for guest in guests:
        shown_here, shown_there = node.pair(guest)
        assert shown_here == shown_there
        assert re.fullmatch(r"(\d{5} ){11}\d{5}", shown_here)
    passphrase = shell.path("pass.txt").read_text().strip()
    with mock.patch.dict("os.environ", shell.environment()), ExitStack() as opened:
        one, two = (opened.enter_context(open_replica(shell.path(guest.home), passphrase)) for guest in guests)
        yield one, two


def remote_of(shell: Any, node: Served) -> RemoteNode:
    """The node, as its own device asks it."""
    passphrase = shell.path("pass.txt").read_text().strip()
    with mock.patch.dict("os.environ", shell.environment()):
        return RemoteNode(
            node.url, Ed25519Signer(open_keystore(shell.path("home") / "keystore.hfk", passphrase).devices["laptop"])
        )


def state_of(shell: Any, *homes: ReplicaHome) -> list[tuple[Any, Any]]:
    """Of each home, and of the one that is served, what its documents and their conflicts are."""
    found = []
    with mock.patch.dict("os.environ", shell.environment()), open_databases(shell.path(shell.home)) as served:
        for database in (*(home.open("bank") for home in homes), served.open("bank")):
            with database.read() as reader:
                documents = reader.tx.fetch_all("SELECT collection, key, etag FROM database_document ORDER BY 1, 2")
            conflicts = sorted((str(one.name), sorted(map(str, one.contests))) for one in database.conflicts())
            found.append(([tuple(row) for row in documents], conflicts))
    return found


def test_three_homes_come_together(shell: Any, node: Served, homes: tuple[ReplicaHome, ReplicaHome]) -> None:
    one, two = homes
    for home, name in ((one, "one"), (two, "two")):
        bank = home.open("bank")
        read = bank.get("accounts", "4711")
        assert read is not None
        bank.patch("accounts", "4711", {"owner": name}, if_match=read.etag)
        bank.increment("accounts", "4711", "visits", 2)
        bank.put("notes", name, {"text": f"by {name}"})
    for home in (one, two, one):
        home.sync()
    states = state_of(shell, one, two)
    assert states[0] == states[1] == states[2]
    documents, conflicts = states[0]
    assert [key for _, key, _ in documents if key in ("one", "two")] == ["one", "two"]
    assert [name for name, _ in conflicts] == ["accounts/4711"]
    (_, contests), *_ = conflicts
    assert len(contests) == 4, "each of the two has written twice behind the other's condition"
    shown = one.open("bank").get("accounts", "4711")
    assert shown is not None
    assert shown.fields["visits"] == 4
    root = one.open("bank").checkpoint_state()
    one.sync()
    two.sync()
    two.open("bank").verify_state_root(root.reference)


def test_a_stale_condition_is_answered_with_what_is_there(
    shell: Any, node: Served, homes: tuple[ReplicaHome, ReplicaHome]
) -> None:
    one, two = homes
    with remote_of(shell, node) as remote:
        etag = remote.ask("GET", DOCUMENT).headers["etag"]
        for home, owner in ((one, "Neumann"), (two, "Nowak")):
            home.open("bank").patch("accounts", "4711", {"owner": owner})
        one.sync()
        two.sync()
        now = remote.ask("GET", DOCUMENT).headers["etag"]
        with pytest.raises(RemoteProblem) as refused:
            remote.ask("PATCH", DOCUMENT, {"fields": {"limit": 5}}, headers={"if-match": etag})
        told = refused.value
        assert (told.status, told.kind, told.members["etag"]) == (412, "stale-version", now.strip('"'))
        assert sorted(told.members["siblings"]["/owner"]) == ["Neumann", "Nowak"]
        done = remote.ask("PATCH", DOCUMENT, {"fields": {"limit": 5}}, headers={"if-match": now})
        assert done.status == 200


def test_while_the_node_is_away_a_home_goes_on(
    shell: Any, node: Served, homes: tuple[ReplicaHome, ReplicaHome]
) -> None:
    one, two = homes
    port = int(node.url.rpartition(":")[2])
    node.close()
    one.open("bank").put("notes", "offline", {"text": "written while nobody was there"})
    with pytest.raises(TransportError):
        one.sync()
    again = Served(shell, port)
    try:
        one.sync()
        two.sync()
        assert two.open("bank").get("notes", "offline") is not None
    finally:
        node.process = again.process


def test_another_number_lets_nobody_in(shell: Any, node: Served) -> None:
    guest = shell.at("other")
    offering = node.run("pair", "offer", "bank", "--node", node.url, "--device", "laptop", "--number", "1" * 60)
    assert offering.stdout is not None
    code = offering.stdout.readline().split()[-1]
    refused = guest("pair", "join", node.url, code, "--device", "main", "--number", "0" * 60, code=77)
    assert "numbers differ" in refused.err
    _, said = offering.communicate(timeout=60)
    assert offering.returncode == 77, said
    assert guest("db", "list", "--json").json == []
    assert len(shell("db", "members", "bank", "--json").json) == 1
    assert (
        "nothing is offered" in guest("pair", "join", node.url, "BBBB-BBBB", "--device", "main", "--yes", code=77).err
    )
