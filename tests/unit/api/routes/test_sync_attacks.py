"""Peers that misbehave, over real HTTP and WebSockets: each is cut off by name, and others sync on."""

from __future__ import annotations

import socket
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from api.peer import Peer
from api.routes import sync as routes
from identity.errors import TransportError
from ledger.fork import parse_fork, verify_fork
from sync.frames import Failure, FrameBuffer, Hello, encode_frame, framed, parse_frame
from sync.session import TookIn
from tests.unit.api.routes.test_sync import Host, replica_of, served, sign, versions
from tests.unit.sync.test_session import ATTACKS, everything


@pytest.fixture
def world(make_world: Any, tmp_path: Path) -> Iterator[Any]:
    made = make_world(tmp_path, "bank")
    yield made
    made.close()


@pytest.fixture
def three(world: Any) -> tuple[Any, Any, Any]:
    return world.replica("laptop"), world.replica("phone"), world.replica("desk")


def where(url: str) -> str:
    return f"{url}/v1/databases/bank/sync"


def signed(method: str, url: str, key: str) -> dict[str, str]:
    return {**sign(method, url, {}, b""), "key": key}


def as_somebody(key: str) -> Any:
    """Signs as the one with that key."""
    return lambda method, url, headers, body: {**sign(method, url, headers, body), "key": key}


def dial(url: str, key: str) -> Any:
    target = where(url).replace("http", "ws", 1)
    return connect(target, additional_headers=signed("GET", target, key), compression=None)


def raw(url: str, method: str, headers: dict[str, str]) -> socket.socket:
    """A connection on which a request was begun, and nothing more is said."""
    parts = urlsplit(url)
    lines = [f"{method} {parts.path} HTTP/1.1", f"host: {parts.netloc}", *(f"{k}: {v}" for k, v in headers.items())]
    line = socket.create_connection((parts.hostname, parts.port), timeout=20)
    line.sendall("\r\n".join([*lines, "", ""]).encode())
    return line


def silent(url: str, key: str) -> socket.socket:
    """A WebSocket at which nobody listens or answers."""
    upgrade = {
        "upgrade": "websocket",
        "connection": "Upgrade",
        "sec-websocket-key": b64encode(bytes(16)).decode(),
        "sec-websocket-version": "13",
    }
    target = where(url).replace("http", "ws", 1)
    return raw(where(url), "GET", {**upgrade, **signed("GET", target, key)})


# --- cut off by name ------------------------------------------------------------------------------------------------


def test_who_breaks_a_rule_is_told_which_and_so_is_the_node(three: tuple[Any, Any, Any]) -> None:
    """Every attack that the session knows, carried by requests."""
    laptop, phone, desk = three
    phone.put("accounts", "1", owner="A")
    phone.put("accounts", "2", owner="B")
    host = Host(laptop)
    before = everything(laptop)
    with served(host) as url:
        sent = 0
        for name, (reason, attack) in ATTACKS.items():
            body = b"".join(map(framed, attack(laptop.world, phone)))
            answer = httpx.post(where(url), content=body, headers=signed("POST", where(url), "phone"), timeout=60)
            if len(body) > routes.MAX_REQUEST_BYTES:
                assert answer.status_code == 413, name
                continue
            sent += 1
            told = [parse_frame(frame) for frame in FrameBuffer().feed(answer.content)]
            assert [(type(one), getattr(one, "reason", None)) for one in told] == [(Failure, reason)], name
            assert host.cut_off[-1] == reason
        assert len(host.cut_off) == sent > 30
        assert everything(laptop) == before
        Peer(url, sign).sync("bank", replica_of(desk))
        Peer(url, sign).sync("bank", replica_of(phone))
    assert versions(laptop) == versions(phone)


def test_who_breaks_a_rule_in_a_live_session_is_cut_off_too(three: tuple[Any, Any, Any]) -> None:
    laptop, phone, _ = three
    host = Host(laptop)
    attacks = {
        "OTHER_DATABASE": [encode_frame(Hello(bytes(32), live=True))],
        "OUT_OF_ORDER": [encode_frame(Hello(laptop.world.uid, live=True))] * 2,
        "MALFORMED": [b""],
        "TOO_LARGE": [b"\xff\xff\xff\xff"],
    }
    with served(host) as url:
        for reason, frames in attacks.items():
            with dial(url, "phone") as line:
                for frame in frames:
                    line.send(frame)
                last = [parse_frame(bytes(frame)) for frame in line][-1]
            assert (type(last), getattr(last, "reason", None)) == (Failure, reason)
        assert host.cut_off == list(attacks)
        Peer(url, sign).sync("bank", replica_of(phone))


# --- signed, and lying ----------------------------------------------------------------------------------------------


def test_two_histories_of_a_device_are_proven_to_everybody(three: tuple[Any, Any, Any]) -> None:
    """Somebody copies a phone and writes in both places. Who has heard of one and meets the other has the proof."""
    laptop, phone, desk = three
    clone = phone.copied("clone")
    phone.put("accounts", "1", owner="phone")
    clone.put("accounts", "1", owner="clone")
    with served(Host(laptop)) as url:
        for replica in (phone, desk):
            Peer(url, sign).sync("bank", replica_of(replica))
        found = Peer(url, sign).sync("bank", replica_of(clone)).forks
        at_desk = Peer(url, sign).sync("bank", replica_of(desk)).forks
    for fork in (*found, *at_desk):
        assert fork.feed == phone.feed
        proof = parse_fork(fork.proof)
        verify_fork(proof.manifest, proof)
    assert found
    assert at_desk
    assert versions(laptop) == versions(desk) == versions(clone)


def test_a_clock_of_the_year_9999_keeps_nobody_from_writing(three: tuple[Any, Any, Any]) -> None:
    laptop, phone, desk = three
    phone.clock = lambda: 253_402_300_799_999
    phone.put("accounts", "1", owner="late")
    with served(Host(laptop)) as url:
        Peer(url, sign).sync("bank", replica_of(phone))
        laptop.put("accounts", "1", owner="now")
        Peer(url, sign).sync("bank", replica_of(desk))
    assert desk.fields("accounts", "1") == {"owner": "now"}
    assert versions(desk) == versions(laptop)


def test_entries_in_a_circle_wait_and_hold_up_nobody(three: tuple[Any, Any, Any], world: Any) -> None:
    """Two devices, of which each has signed that it had seen what the other wrote after that."""
    from ledger.entry import encode_entry
    from ledger.feed import FeedWriter
    from ledger.merkle import leaf_node
    from ledger.values import Reference
    from sync.transaction import DocumentId, Op, Stamp, Transaction, Verb, transaction_entry

    def entry(lam: int, *seen: Reference) -> bytes:
        op = Op(Verb.SET, DocumentId("accounts", "7"), ("owner",), "X")
        return encode_entry(transaction_entry(Transaction(Stamp(world.uid, None, seen, lam, lam), (op,))))

    laptop, phone, desk = three
    tablet = world.replica("tablet")
    later = entry(9)
    for one, other in ((phone, desk), (desk, phone)):
        first = entry(8, Reference(other.feed, 1, leaf_node(1, later).hash))
        FeedWriter(one.store, one.feed, one.device).append([first, later])
    laptop.put("accounts", "1", owner="A")
    told: list[Any] = []
    with served(Host(laptop)) as url:
        for replica in (phone, desk):
            Peer(url, sign).sync("bank", replica_of(replica))
        Peer(url, sign).sync("bank", replica_of(tablet), tell=told.append)
        tablet.put("accounts", "2", owner="B")
        Peer(url, sign).sync("bank", replica_of(tablet))
    waiting = [one for event in told if isinstance(event, TookIn) for one in event.report.waiting]
    assert {(one.feed, one.index) for one in waiting} == {(phone.feed, 0), (desk.feed, 0)}
    assert laptop.fields("accounts", "2") == {"owner": "B"}
    assert tablet.fields("accounts", "1") == {"owner": "A"}
    assert laptop.fields("accounts", "7") is None


# --- those who hold on to what they have got ------------------------------------------------------------------------


def test_one_peer_cannot_take_every_place(three: tuple[Any, Any, Any]) -> None:
    laptop, _, desk = three
    laptop.put("accounts", "1", owner="A")
    with served(Host(laptop), most_live=8, most_of_one=3) as url, ExitStack() as stack:
        lines = [stack.enter_context(dial(url, "phone")) for _ in range(3)]
        for line in lines:
            line.recv(timeout=20)
        with pytest.raises(InvalidStatus, match="503"):
            dial(url, "phone")
        stack.enter_context(dial(url, "desk")).recv(timeout=20)
        assert Peer(url, as_somebody("desk")).sync("bank", replica_of(desk)).entries == 1
    assert versions(desk) == versions(laptop)


def test_one_peer_has_only_so_many_exchanges(three: tuple[Any, Any, Any]) -> None:
    with served(Host(three[0]), most_of_one=0) as url, pytest.raises(TransportError, match="503"):
        Peer(url, sign).sync("bank", replica_of(three[1]))


def test_a_body_that_trickles_is_given_up(three: tuple[Any, Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    laptop, phone, _ = three
    monkeypatch.setattr(routes, "_BODY_S", 0.3)
    with served(Host(laptop)) as url:
        headers = {"content-length": "1000", **signed("POST", where(url), "phone")}
        with closing(raw(where(url), "POST", headers)) as line:
            line.sendall(b"\0\0")
            assert line.recv(65_536).startswith(b"HTTP/1.1 408 ")
        Peer(url, sign).sync("bank", replica_of(phone))


def test_a_websocket_at_which_nobody_is_left_gives_its_place_back(three: tuple[Any, Any, Any]) -> None:
    """It answers no ping, so it is closed, and then the next one is let in."""
    laptop, phone, _ = three
    with served(Host(laptop), most_live=1, ping_s=0.3) as url, closing(silent(url, "phone")) as line:
        assert line.recv(65_536).startswith(b"HTTP/1.1 101 ")
        while line.recv(65_536):
            pass
        with dial(url, "phone") as next_one:
            next_one.recv(timeout=20)
        Peer(url, sign).sync("bank", replica_of(phone))


def test_a_hundred_connections_at_once_keep_nobody_out(three: tuple[Any, Any, Any]) -> None:
    laptop, _, desk = three
    laptop.put("accounts", "1", owner="A")
    with served(Host(laptop)) as url, ExitStack() as stack:
        headers = {"content-length": "1000", **signed("POST", where(url), "phone")}
        for _ in range(50):
            stack.enter_context(closing(raw(where(url), "POST", headers)))
        answers = []
        for _ in range(50):
            line = stack.enter_context(closing(silent(url, "phone")))
            answers.append(line.recv(12))
        assert answers.count(b"HTTP/1.1 101") == 4
        assert answers.count(b"HTTP/1.1 503") == 46
        assert Peer(url, as_somebody("desk")).sync("bank", replica_of(desk)).entries == 1
        desk.put("accounts", "2", owner="B")
        Peer(url, as_somebody("desk")).sync("bank", replica_of(desk))
    assert versions(desk) == versions(laptop)
