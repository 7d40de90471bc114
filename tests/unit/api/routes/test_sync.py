"""Sync over real HTTP and WebSockets on loopback: pull, push, live sessions, strangers, peers that go away."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.requests import HTTPConnection
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from api.peer import Connected, Lost, Peer
from api.problems import PROBLEM_JSON, NotFound, problem_of
from api.routes import sync as routes
from api.routes.sync import MEDIA_TYPE, SyncGrant, sync_router
from identity.errors import (
    AuditError,
    Forbidden,
    LimitExceeded,
    MalformedError,
    MissingEvidenceError,
    PeerMisbehaved,
    PeerRefused,
    RefusedError,
    TransportError,
)
from sync.database import list_databases
from sync.frames import (
    MAX_FRAME_BYTES,
    Done,
    Failure,
    FrameBuffer,
    HaveFrame,
    Hello,
    More,
    encode_frame,
    framed,
    parse_frame,
)
from sync.replica import DatabaseReplica, NewReplica
from sync.session import Acknowledged, PeerFailed, TookIn


class Host:
    """An application with one database, for whoever sends the right word."""

    def __init__(self, replica: Any) -> None:
        self.replica = replica
        self.asked: list[tuple[str, str, int]] = []
        self.refused = False
        self.cut_off: list[str] = []

    def check(self) -> None:
        if self.refused:
            raise Forbidden("REVOKED", "not any more")

    def reading(self, _: HTTPConnection) -> Any:
        return nullcontext(lambda _: None)

    def open_for_sync(self, connection: HTTPConnection, body: bytes, database: str) -> SyncGrant:
        method = "GET" if connection.scope["type"] == "websocket" else connection.scope["method"]
        self.asked.append((method, str(connection.url), len(body)))
        if connection.headers.get("word") != f"{method} {connection.url}":
            raise Forbidden("NOBODY", "nobody knows you")
        if database not in ("bank", self.replica.world.uid.hex()):
            raise NotFound("no such database")
        key = connection.headers.get("key", "").encode()
        return SyncGrant(self.replica.db, self.check, key, self.cut_off.append)


def sign(method: str, url: str, _: Mapping[str, str], body: bytes) -> Mapping[str, str]:
    """What stands in for a signature: it covers the method and the URL."""
    assert isinstance(body, bytes)
    return {"word": f"{method} {url}"}


def stranger(*_: Any) -> Mapping[str, str]:
    return {}


@contextmanager
def served(host: Any, port: int = 0, *, ping_s: float = 20.0, **options: Any) -> Iterator[str]:
    """A node that serves one database; its URL."""
    app = FastAPI()
    app.include_router(sync_router(host, **options), prefix="/v1")

    @app.exception_handler(AuditError)
    def refuse(_: Request, exc: Exception) -> Response:
        assert isinstance(exc, AuditError)
        problem = problem_of(exc)
        return Response(problem.body(), problem.kind.status, media_type=PROBLEM_JSON)

    listening = socket.create_server(("127.0.0.1", port))
    config = uvicorn.Config(
        app,
        log_level="critical",
        ws="websockets-sansio",
        ws_max_size=MAX_FRAME_BYTES,
        ws_ping_interval=ping_s,
        ws_ping_timeout=ping_s,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


@pytest.fixture
def world(make_world: Any, tmp_path: Path) -> Iterator[Any]:
    made = make_world(tmp_path, "bank")
    yield made
    made.close()


@pytest.fixture
def two(world: Any) -> tuple[Any, Any]:
    return world.replica("laptop"), world.replica("phone")


def versions(replica: Any) -> Any:
    with replica.store.read() as tx:
        return tx.fetch_all("SELECT collection, key, etag FROM database_document ORDER BY 1, 2")


def replica_of(one: Any) -> DatabaseReplica:
    return DatabaseReplica(one.db)


# --- one exchange after another ---


def test_both_sides_get_what_they_lack(two: tuple[Any, Any]) -> None:
    laptop, phone = two
    laptop.put("accounts", "1", owner="A")
    phone.put("accounts", "2", owner="B")
    host = Host(laptop)
    with served(host) as url:
        peer = Peer(url, sign)
        outcome = peer.sync("bank", replica_of(phone))
        assert (outcome.blocks, outcome.entries, outcome.requests) == (1, 1, 2)
        assert versions(laptop) == versions(phone)
        for number in range(10):
            laptop.put("accounts", str(number), owner="C")
            phone.put("customers", str(number), name="D")
        outcome = peer.sync("bank", replica_of(phone))
        assert (outcome.entries, outcome.requests) == (10, 1)  # what the peer had is remembered
        assert versions(laptop) == versions(phone)
        assert outcome.sent + outcome.received < 20 * 400 + 2 * 4096
        assert peer.sync("bank", replica_of(phone)).blocks == 0
    assert host.asked[0][:2] == ("POST", f"{url}/v1/databases/bank/sync")


def test_pull_and_push_go_one_way(two: tuple[Any, Any]) -> None:
    laptop, phone = two
    laptop.put("accounts", "1", owner="A")
    phone.put("accounts", "2", owner="B")
    with served(Host(laptop)) as url:
        peer = Peer(url, sign)
        assert peer.pull("bank", replica_of(phone)).entries == 1
        assert laptop.fields("accounts", "2") is None
        laptop.put("accounts", "3", owner="C")
        assert peer.push("bank", replica_of(phone)).entries == 0
        assert laptop.fields("accounts", "2") == {"owner": "B"}
        assert phone.fields("accounts", "3") is None
        outcome = peer.pull("bank", replica_of(phone), feeds=[phone.feed])
        assert outcome.blocks == 0
        assert peer.pull("bank", replica_of(phone), feeds=[laptop.feed]).blocks == 1


def test_a_new_device_joins(two: tuple[Any, Any], world: Any, tmp_path: Path) -> None:
    laptop, _ = two
    laptop.put("accounts", "1", owner="A")
    with served(Host(laptop)) as url, closing(world.open_new(str(tmp_path / "new.db"))) as store:
        outcome = Peer(url, sign).sync("bank", NewReplica(store, lambda: 5))
        assert outcome.entries == 2
        (info,) = list_databases(store)
        assert (info.uid, info.name) == (world.uid, "bank")
        with pytest.raises(PeerMisbehaved, match="OTHER_DATABASE"):
            Peer(url, sign).sync("bank", NewReplica(store, lambda: 5, bytes(32)))


def test_what_is_too_much_for_once_is_asked_for_again(two: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    laptop, phone = two
    monkeypatch.setattr("api.peer._REQUEST_BYTES", 1000)
    monkeypatch.setattr(routes, "MAX_RESPONSE_BYTES", 1000)
    monkeypatch.setattr("sync.outgoing._BLOCKS", 1)
    for number in range(5):
        laptop.put("accounts", str(number), owner="A" * 900)
        phone.put("customers", str(number), name="B" * 900)
    with served(Host(laptop)) as url:
        outcome = Peer(url, sign).sync("bank", replica_of(phone))
    assert outcome.entries == 5
    assert outcome.requests >= 5
    assert versions(laptop) == versions(phone)


def test_a_peer_that_has_lost_what_it_had_is_asked_anew(two: tuple[Any, Any], world: Any) -> None:
    laptop, phone = two
    desk = world.replica("desk")
    phone.put("accounts", "1", owner="A")
    host = Host(laptop)
    with served(host) as url:
        peer = Peer(url, sign)
        peer.sync("bank", replica_of(phone))
        host.replica = desk  # as after a restore: it has none of that
        phone.put("accounts", "1", owner="B")
        peer.sync("bank", replica_of(phone))
    assert desk.fields("accounts", "1") == {"owner": "B"}


def test_a_peer_that_got_it_from_somebody_else_is_asked_anew(
    two: tuple[Any, Any], world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has far more than when it was last asked: what is sent in vain ends a session, and is no misdeed."""
    laptop, phone = two
    desk = world.replica("desk")
    monkeypatch.setattr("sync.session.MAX_IDLE", 3)
    monkeypatch.setattr("sync.outgoing._BLOCKS", 1)
    with served(Host(laptop)) as url:
        peer = Peer(url, sign)
        peer.sync("bank", replica_of(phone))
        for number in range(8):
            phone.put("accounts", str(number), owner="A")
        Peer(url, sign).sync("bank", replica_of(phone))  # somebody else, who had it from the phone
        phone.put("accounts", "9", owner="B")
        assert peer.sync("bank", replica_of(phone)).requests == 3
        Peer(url, sign).sync("bank", replica_of(desk))
    assert versions(desk) == versions(laptop) == versions(phone)


# --- who is not let in, and what goes wrong ---


def test_strangers_are_not_told_what_is_here(two: tuple[Any, Any]) -> None:
    laptop, phone = two
    with served(Host(laptop)) as url:
        for name in ("bank", "nothing"):
            with pytest.raises(RefusedError, match="403"):
                Peer(url, stranger).sync(name, replica_of(phone))
            with pytest.raises(RefusedError, match="403"):
                Peer(url, stranger).live(name, phone.db, print, threading.Event())
        with pytest.raises(MissingEvidenceError, match="404"):
            Peer(url, sign).sync("nothing", replica_of(phone))
        with pytest.raises(MissingEvidenceError, match="404"):
            Peer(url, sign).live("nothing", phone.db, print, threading.Event())


def test_a_peer_that_is_away_is_a_transport_error(two: tuple[Any, Any]) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        port = listening.getsockname()[1]
    with pytest.raises(TransportError):
        Peer(f"http://127.0.0.1:{port}", sign).sync("bank", replica_of(two[1]))


@pytest.mark.parametrize("url", ["bank", "ftp://host", "https://", "https://host/?a=b", "file:///etc/passwd"])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(MalformedError):
        Peer(url, sign)


def answering(content: bytes, *, kind: str = MEDIA_TYPE, status: int = 200) -> httpx.Client:
    """A node that answers the same to everything."""
    reply = httpx.Response(status, headers={"content-type": kind}, content=content)
    return httpx.Client(transport=httpx.MockTransport(lambda _: reply))


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", TransportError),
        (b"<html>", TransportError),
        (framed(b"x" * 8), PeerMisbehaved),
        (b"\xff\xff\xff\xff", TransportError),
        (framed(encode_frame(Failure("GAP", "why"))), PeerRefused),
        (framed(encode_frame(Failure("UNAVAILABLE", ""))), PeerRefused),
        (framed(encode_frame(Hello(bytes(32)))), PeerMisbehaved),
    ],
)
def test_answers_that_are_none(content: bytes, error: type[Exception], two: tuple[Any, Any]) -> None:
    with answering(content) as client, pytest.raises(error):
        Peer("http://node", sign, client).sync("bank", replica_of(two[1]))


def test_an_answer_of_another_kind(two: tuple[Any, Any]) -> None:
    with answering(b"<html>", kind="text/html") as client, pytest.raises(TransportError, match="no answer"):
        Peer("http://node", sign, client).sync("bank", replica_of(two[1]))
    with answering(b"x" * 10**6, status=500) as client, pytest.raises(TransportError, match="500"):
        Peer("http://node", sign, client).sync("bank", replica_of(two[1]))


def test_a_peer_that_always_has_more_is_left(two: tuple[Any, Any]) -> None:
    frames = [Hello(two[1].world.uid), HaveFrame((), (), True), More()]
    content = b"".join(framed(encode_frame(one)) for one in frames)
    with answering(content) as client, pytest.raises(PeerMisbehaved, match="NOTHING_NEW"):
        Peer("http://node", sign, client).pull("bank", replica_of(two[1]))


def post(url: str, body: bytes) -> list[Any]:
    where = f"{url}/v1/databases/bank/sync"
    answer = httpx.post(where, content=body, headers=dict(sign("POST", where, {}, body)))
    assert answer.status_code == 200, answer.text
    return list(map(parse_frame, FrameBuffer().feed(answer.content)))


def test_a_client_that_misbehaves_is_told_and_harms_nobody(two: tuple[Any, Any]) -> None:
    laptop, phone = two
    hello = framed(encode_frame(Hello(laptop.world.uid)))
    with served(Host(laptop)) as url:
        before = versions(laptop)
        for body, reason in [
            (framed(b"garbage!"), "TOO_LARGE"),
            (hello + hello, "OUT_OF_ORDER"),
            (hello + b"\0\0\0\xffcut", "MALFORMED"),
            (hello + b"\xff\xff\xff\xff", "TOO_LARGE"),
            (framed(encode_frame(Hello(bytes(32)))), "OTHER_DATABASE"),
        ]:
            (told,) = post(url, body)
            assert (type(told), told.reason) == (Failure, reason)
        assert versions(laptop) == before
        assert [type(one) for one in post(url, b"")] == [Hello, HaveFrame]
        Peer(url, sign).sync("bank", replica_of(phone))


def test_a_request_that_is_too_long_is_not_read(two: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "MAX_REQUEST_BYTES", 100)
    with served(Host(two[0])) as url:
        where = f"{url}/v1/databases/bank/sync"
        assert httpx.post(where, content=bytes(101), headers=dict(sign("POST", where, {}, b""))).status_code == 413


def test_what_was_signed_at_once_and_is_too_long_for_a_request_goes_live(
    two: tuple[Any, Any], monkeypatch: Any
) -> None:
    laptop, phone = two
    monkeypatch.setattr("api.peer._MOST_BYTES", 2_000_000)
    append_to(phone, [bytes([number]) * 700_000 for number in range(4)])
    with served(Host(laptop)) as url:
        with pytest.raises(LimitExceeded) as caught:
            Peer(url, sign).sync("bank", replica_of(phone))
        assert "--live" in caught.value.hint
        taken = Telling(lambda told: any(isinstance(event, Acknowledged) and event.blocks == 4 for event in told))
        with live(url, phone, taken):
            taken.wait()
    with laptop.store.read() as tx:
        assert tx.block(phone.feed, tx.feed(phone.feed).length - 1) == bytes([3]) * 700_000


def append_to(replica: Any, blocks: list[bytes]) -> None:
    from ledger.feed import FeedWriter

    FeedWriter(replica.store, replica.feed, replica.device).append(blocks)


def test_there_are_only_so_many_sessions_at_once(two: tuple[Any, Any]) -> None:
    laptop, phone = two
    with served(Host(laptop), most_exchanges=0) as url, pytest.raises(TransportError, match="503"):
        Peer(url, sign).sync("bank", replica_of(phone))
    with served(Host(laptop), most_live=1) as url:
        where = f"{url}/v1/databases/bank/sync".replace("http", "ws")
        headers = dict(sign("GET", where, {}, b""))
        with connect(where, additional_headers=headers) as held:
            held.recv(timeout=10)
            with pytest.raises(InvalidStatus, match="503"):
                connect(where, additional_headers=headers)
        arrived = Telling(lambda told: any(isinstance(one, Connected) for one in told))
        with live(url, phone, arrived):
            arrived.wait()


# --- live ---


class Telling:
    """Collects what is told until a condition holds."""

    def __init__(self, until: Callable[[list[Any]], bool]) -> None:
        self.told: list[Any] = []
        self._until = until
        self._met = threading.Event()

    def __call__(self, event: Any) -> None:
        self.told.append(event)
        if self._until(self.told):
            self._met.set()

    def wait(self) -> None:
        assert self._met.wait(20), self.told


@contextmanager
def live(url: str, replica: Any, tell: Telling) -> Iterator[list[BaseException]]:
    stop, failures = threading.Event(), []

    def run() -> None:
        try:
            Peer(url, sign).live("bank", replica.db, tell, stop)
        except AuditError as exc:
            failures.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield failures
    finally:
        stop.set()
        thread.join(20)
        assert not thread.is_alive()


def entries(told: list[Any]) -> int:
    return sum(event.report.entries for event in told if isinstance(event, TookIn))


def written_to(replica: Any, collection: str, key: str) -> bool:
    """Whether the document comes to be there."""
    pages = replica.db.follow(timeout_s=20, poll_s=0.2)
    return any(
        (one.document.collection, one.document.key) == (collection, key) for page in pages for one in page.events
    )


def test_what_is_written_on_either_side_arrives_at_once(two: tuple[Any, Any]) -> None:
    laptop, phone = two
    arrived = Telling(lambda told: entries(told) == 3)
    with served(Host(laptop)) as url, live(url, phone, arrived) as failures:
        for number in range(3):
            laptop.put("accounts", str(number), owner="A")
        arrived.wait()
        phone.put("customers", "1", name="B")
        assert written_to(laptop, "customers", "1"), (arrived.told, failures)
        assert failures == []
    assert versions(laptop) == versions(phone)


def test_a_live_session_outlives_its_node(two: tuple[Any, Any]) -> None:
    laptop, phone = two
    lost = Telling(lambda told: any(isinstance(event, Lost) for event in told))
    with served(Host(laptop)) as url:
        port = int(url.rpartition(":")[2])
    with live(url, phone, lost) as failures:
        lost.wait()
        laptop.put("accounts", "1", owner="A")
        lost._until, lost._met = (lambda told: entries(told) == 1), threading.Event()
        with served(Host(laptop), port):
            lost.wait()
        assert failures == []
    assert phone.fields("accounts", "1") == {"owner": "A"}


def test_who_may_not_sync_any_more_is_cut_off_and_told_nothing_further(two: tuple[Any, Any]) -> None:
    laptop, phone = two
    laptop.put("accounts", "1", owner="A")
    in_step = Telling(lambda told: entries(told) == 1)
    host = Host(laptop)
    with served(host) as url, live(url, phone, in_step) as failures:
        in_step.wait()
        host.refused = True
        in_step._until, in_step._met = (lambda told: isinstance(told[-1], PeerFailed)), threading.Event()
        laptop.put("accounts", "2", owner="B")
        in_step.wait()
    assert [type(failure) for failure in failures] == [PeerRefused]
    assert phone.fields("accounts", "2") is None


def test_several_live_at_once_and_one_that_misbehaves(two: tuple[Any, Any], world: Any) -> None:
    laptop, phone = two
    desk = world.replica("desk")
    at_phone, at_desk = (Telling(lambda told: entries(told) == 1) for _ in range(2))
    with served(Host(laptop)) as url, live(url, phone, at_phone), live(url, desk, at_desk):
        where = f"{url}/v1/databases/bank/sync".replace("http", "ws")
        with connect(where, additional_headers=dict(sign("GET", where, {}, b""))) as bad:
            bad.send(encode_frame(Hello(world.uid, live=True)))
            bad.send(encode_frame(Done(9999)))
            kinds = [parse_frame(frame) for frame in bad if isinstance(frame, bytes)]
            assert isinstance(kinds[-1], Failure)
            assert kinds[-1].reason == "OUT_OF_ORDER"
        with connect(where, additional_headers=dict(sign("GET", where, {}, b""))) as bad:
            bad.send("text")
            assert [parse_frame(frame) for frame in bad if isinstance(frame, bytes)][-1].reason == "MALFORMED"  # type: ignore[union-attr]
        laptop.put("accounts", "1", owner="A")
        at_phone.wait()
        at_desk.wait()
    assert versions(phone) == versions(desk) == versions(laptop)


def test_through_a_live_node_others_meet(two: tuple[Any, Any], world: Any) -> None:
    laptop, phone = two
    desk = world.replica("desk")
    at_desk = Telling(lambda told: entries(told) == 1)
    with (
        served(Host(laptop)) as url,
        live(url, phone, Telling(lambda _: False)),
        live(url, desk, at_desk),
    ):
        phone.put("accounts", "1", owner="from the phone")
        at_desk.wait()
    assert desk.fields("accounts", "1") == {"owner": "from the phone"}
