"""A node that is sent anything, over HTTP and WebSockets, by a device that may sync: it stays up and others sync on.

Sessions are recorded from an honest device and changed: bits, lengths, order, claims. Beside them come bombs, frames
without end, bodies that trickle and connections that say nothing. After each the store, read from outside, holds what
was signed, each batch whole or not at all; and the process has not grown. For ten seconds, or FUZZ_MINUTES, from
FUZZ_SEED.
"""

from __future__ import annotations

import copy
import os
import random
import secrets
import socket
import struct
import threading
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import urlsplit

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from api.peer import MEDIA_TYPE
from identity.encoding import encode
from ledger.entry import encode_entry
from ledger.feed import FeedWriter
from ledger.store import FeedKey, SignedHead
from ledger.values import Reference
from sync.bundle import Point
from sync.frames import (
    MAX_BODY_BYTES,
    MAX_FRAME_BYTES,
    Ack,
    Batch,
    Blocks,
    Done,
    Events,
    Failure,
    FrameBuffer,
    HaveFrame,
    Hello,
    Holding,
    Refine,
    encode_frame,
    framed,
    parse_frame,
)
from sync.outgoing import Known
from sync.session import Session
from sync.transaction import DocumentId, Op, Stamp, Transaction, Verb, transaction_entry
from tests.faults.fuzzed_node import Node, Replica, Watch, now_ms

pytestmark = pytest.mark.fault

MINUTES = float(os.environ.get("FUZZ_MINUTES", "0.17"))
SEED = int(os.environ.get("FUZZ_SEED") or (secrets.randbits(32) if "FUZZ_MINUTES" in os.environ else 1))
MOST_KB = 768 * 1024
"""What the node may take up. One key has at most eight sessions, each of which holds at most 64 MiB."""
STORM_EVERY_S = 20.0
ANSWERS_WITHIN_S = 30.0

Frames = list[bytes]


# --- what is changed in good sessions -------------------------------------------------------------------------------


def flipped(chance: random.Random, frames: Frames) -> Frames:
    at = chance.randrange(len(frames))
    changed = bytearray(frames[at])
    for _ in range(chance.randint(1, 5) if changed else 0):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return [*frames[:at], bytes(changed), *frames[at + 1 :]]


def cut(chance: random.Random, frames: Frames) -> Frames:
    at = chance.randrange(len(frames))
    return [*frames[:at], frames[at][: chance.randint(0, max(0, len(frames[at]) - 1))], *frames[at + 1 :]]


def lengthened(chance: random.Random, frames: Frames) -> Frames:
    at = chance.randrange(len(frames))
    return [*frames[:at], frames[at] + chance.randbytes(chance.randint(1, 300)), *frames[at + 1 :]]


def doubled(chance: random.Random, frames: Frames) -> Frames:
    at = chance.randrange(len(frames))
    return [*frames[:at], *[frames[at]] * chance.randint(2, 5), *frames[at + 1 :]]


def shuffled(chance: random.Random, frames: Frames) -> Frames:
    return chance.sample(frames, len(frames))


def left_out(chance: random.Random, frames: Frames) -> Frames:
    at = chance.randrange(len(frames))
    return frames[:at] + frames[at + 1 :]


def spliced(chance: random.Random, frames: Frames) -> Frames:
    at, other = chance.randrange(len(frames)), chance.choice(frames)
    return [*frames[:at], frames[at][: len(frames[at]) // 2] + other[len(other) // 2 :], *frames[at + 1 :]]


def with_noise(chance: random.Random, frames: Frames) -> Frames:
    at = chance.randrange(len(frames) + 1)
    return [*frames[:at], chance.randbytes(chance.choice([0, 1, 4, 100, 5000])), *frames[at:]]


def with_another_length(chance: random.Random, frames: Frames) -> Frames:
    """The header says that it is longer or shorter than it is."""
    at = chance.randrange(len(frames))
    length = chance.choice([0, 1, chance.getrandbits(16), chance.getrandbits(32), 2**32 - 1])
    return [*frames[:at], struct.pack(">I", length) + frames[at][4:], *frames[at + 1 :]]


def broken_off(chance: random.Random, frames: Frames) -> Frames:
    return frames[: chance.randrange(len(frames))]


CHANGES: Sequence[Callable[[random.Random, Frames], Frames]] = (
    flipped,
    cut,
    lengthened,
    doubled,
    shuffled,
    left_out,
    spliced,
    with_noise,
    with_another_length,
    broken_off,
)


# --- what nobody honest sends ---------------------------------------------------------------------------------------


def header(fields: Any) -> bytes:
    encoded = encode(fields)
    return struct.pack(">I", len(encoded)) + encoded


def bare(encoded: bytes) -> bytes:
    """A frame whose header is these bytes, whatever they are."""
    return struct.pack(">I", len(encoded)) + encoded


def points(count: int, salt: int) -> tuple[Point, ...]:
    return tuple(Point(FeedKey(struct.pack(">QQ", salt, n).ljust(32, b".")), 1, bytes(32)) for n in range(count))


def holdings(count: int, salt: int) -> tuple[Holding, ...]:
    return tuple(Holding(struct.pack(">QQ", salt, n).ljust(32, b"."), 1, bytes(32)) for n in range(count))


NOTHING = encode_frame(HaveFrame((), (), True))
ENDLESS = [encode_frame(Blocks((bytes(MAX_BODY_BYTES),)))]
Attack = Callable[[random.Random, bytes], Frames]
"""Makes all frames of a session that begins with this hello."""

ATTACKS: dict[str, tuple[str, Attack]] = {
    "another database": ("OTHER_DATABASE", lambda chance, _: [encode_frame(Hello(chance.randbytes(32)))]),
    "a header without end": ("TOO_LARGE", lambda _, hello: [hello, b"\xff\xff\xff\xff" + bytes(100)]),
    "arrays in arrays": ("TOO_LARGE", lambda _, hello: [hello, bare(b"\x81" * 200_000)]),
    "an array of 2^63": ("TOO_LARGE", lambda _, hello: [hello, bare(b"\x9b" + b"\x7f" + b"\xff" * 7)]),
    "a text of 2^62": ("MALFORMED", lambda _, hello: [hello, bare(b"\xa1\x61t\x7b\x3f" + b"\xff" * 7)]),
    "a map that repeats": ("MALFORMED", lambda _, hello: [hello, bare(b"\xa2\x61t\x01\x61t\x01")]),
    "floats": ("MALFORMED", lambda _, hello: [hello, bare(b"\xfb" + bytes(8))]),
    "sizes that are not there": (
        "MALFORMED",
        lambda _, hello: [hello, NOTHING, header({"t": "blocks", "sizes": [2**62] * 1024})],
    ),
    "points without end": (
        "TOO_LARGE",
        lambda _, hello: [hello, *(encode_frame(HaveFrame(points(1024, n), (), False)) for n in range(66))],
    ),
    "identities without end": (
        "TOO_LARGE",
        lambda _, hello: [hello, *(encode_frame(HaveFrame((), holdings(1024, n), False)) for n in range(6))],
    ),
    "events that are none": (
        "MALFORMED",
        lambda _, hello: [hello, NOTHING, encode_frame(Events((b"event",)))],
    ),
    "acknowledgements of nothing": (
        "OUT_OF_ORDER",
        lambda chance, hello: [hello, NOTHING, encode_frame(Ack(chance.getrandbits(40) + 1000, 1))],
    ),
    "done with what was not sent": (
        "OUT_OF_ORDER",
        lambda chance, hello: [hello, NOTHING, encode_frame(Done(chance.getrandbits(40) + 1000))],
    ),
    "a point contradicted twice": (
        "OUT_OF_ORDER",
        lambda _, hello: [hello, NOTHING, *[encode_frame(Refine(points(1, 1)[0], ()))] * 2],
    ),
}
WITHOUT_END = "TOO_LARGE"


def on_first_batch(frames: Frames, change: Callable[[Batch], Batch]) -> Frames | None:
    """The session with its first batch changed, and nothing behind that; None when it has none."""
    for at, frame in enumerate(frames):
        found = parse_frame(frame)
        if isinstance(found, Batch):
            return [*frames[:at], encode_frame(change(found))]
    return None


def first_run(batch: Batch, **changes: Any) -> Batch:
    return Batch((replace(batch.runs[0], **changes), *batch.runs[1:]))


def forged(head: SignedHead) -> SignedHead:
    return SignedHead(head.length, head.tree_hash, head.signature[:-1] + bytes([head.signature[-1] ^ 1]))


LIES: dict[str, tuple[set[str], Callable[[Batch], Batch]]] = {
    "a forged signature": (
        {"VERIFICATION_FAILED", "MALFORMED"},
        lambda it: first_run(it, heads=tuple(map(forged, it.runs[0].heads))),
    ),
    "another tree": (
        {"VERIFICATION_FAILED"},
        lambda it: first_run(
            it, heads=tuple(SignedHead(one.length, bytes(32), one.signature) for one in it.runs[0].heads)
        ),
    ),
    "another block": (
        {"VERIFICATION_FAILED"},
        lambda it: first_run(it, blocks=(b"forged", *it.runs[0].blocks[1:])),
    ),
    "a block too many": ({"MALFORMED"}, lambda it: first_run(it, blocks=(*it.runs[0].blocks, b"more"))),
    "a head that is far away": (
        {"MALFORMED", "VERIFICATION_FAILED"},
        lambda it: first_run(it, heads=(*it.runs[0].heads, SignedHead(2**52, bytes(32), bytes(64)))),
    ),
    "a gap": (
        {"GAP", "VERIFICATION_FAILED"},
        lambda it: first_run(
            it,
            start=it.runs[0].start + 1000,
            heads=tuple(SignedHead(h.length + 1000, h.tree_hash, h.signature) for h in it.runs[0].heads),
        ),
    ),
    "a run that begins elsewhere": (
        {"GAP", "VERIFICATION_FAILED"},
        lambda it: first_run(it, tree_hash=bytes(32)),
    ),
    "a feed of nobody": (
        {"GAP", "VERIFICATION_FAILED"},
        lambda it: first_run(it, feed=FeedKey(bytes(32)), manifest=None),
    ),
    "a group of a thousand": (
        {"MALFORMED", "TOO_LARGE"},
        lambda it: first_run(it, blocks=it.runs[0].blocks + (b"",) * (1000 - len(it.runs[0].blocks))),
    ),
}


# --- who sends it ---------------------------------------------------------------------------------------------------


class Thief:
    """A device that may sync, and does as a fuzzer does."""

    def __init__(self, node: Node, device: Replica, chance: random.Random) -> None:
        self.node = node
        self.device = device
        self.chance = chance
        self.where = f"{node.url}/v1/databases/bank/sync"
        self.client = httpx.Client(timeout=ANSWERS_WITHIN_S, limits=httpx.Limits(max_connections=20))
        self.counts: Counter[str] = Counter()
        self.told: Counter[str] = Counter()
        self.ends: set[int] = {0}
        """Lengths of the device's feed at which a batch that was sent can end."""
        self.rude_s = 0.0
        """When it last went away before it was answered: what it had sent may be taken in a little later."""
        self._known: Known | None = None
        self._number = 0
        self._lock = threading.Lock()

    def count(self, frames: Frames, told: str) -> None:
        with self._lock:
            self.counts["sessions"] += 1
            self.counts["frames"] += len(frames)
            self.counts["bytes"] += sum(map(len, frames))
            self.told[told] += 1

    def is_behind(self) -> None:
        """The node may have more than it was known to have."""
        self._known = None

    def good_session(self, live: bool) -> Frames:
        """Every frame of an honest session that brings something new."""
        if self._known is None:
            session = Session(self.device.replica, sends=False)
            for frame in self.post(list(iter(session.next_frame, None))):
                session.receive(frame)
            self._known = session.known
        frames = self._frames(live)
        if not any(isinstance(parse_frame(one), Batch) for one in frames):
            for _ in range(self.chance.randint(1, 5)):
                self._number += 1
                self.device.put("accounts", str(self._number % 50), owner="x" * self.chance.randint(1, 400))
            frames = self._frames(live)
        for found in map(parse_frame, frames):
            if isinstance(found, Batch):
                self.ends |= {run.heads[-1].length for run in found.runs if run.feed == self.device.feed}
        return frames

    def _frames(self, live: bool) -> Frames:
        session = Session(self.device.replica, live=live, known=copy.deepcopy(self._known))
        return list(iter(session.next_frame, None))

    def hello(self, live: bool) -> bytes:
        return encode_frame(Hello(self.node.uid, live=live))

    # --- how it gets there ---

    def post(self, frames: Frames, *, spoil: bool = False) -> Frames:
        """Send frames in a request; what is answered, which ends as the protocol has it."""
        body = b"".join(map(framed, frames))
        if spoil:
            at = self.chance.randrange(len(body) + 1)
            body = body[:at] + self.chance.randbytes(self.chance.randint(0, 8)) + body[at + self.chance.randint(0, 8) :]
        return self.exchange(body, frames)

    def exchange(self, body: bytes, frames: Frames) -> Frames:
        headers = {"content-type": MEDIA_TYPE}
        headers |= self.device.sign("POST", self.where, headers, body)
        answered = self.client.post(self.where, content=body, headers=headers)
        if answered.status_code == 503:
            self.count(frames, "busy")
            return []
        assert answered.status_code == 200, answered.text
        buffer = FrameBuffer()
        found = list(buffer.feed(answered.content))
        buffer.end()
        last = parse_frame(found[-1])
        assert not isinstance(last, Failure) or last.reason != "UNAVAILABLE", last
        self.count(frames, last.reason if isinstance(last, Failure) else "well")
        return found

    def dial(self, frames: Frames, *, rude: bool = False) -> Frames:
        """Send frames over a WebSocket, and then one that ends every session; what is answered."""
        url = self.where.replace("http", "ws", 1)
        headers = dict(self.device.sign("GET", url, {}, b""))
        told: Frames = []
        try:
            with connect(
                url, additional_headers=headers, max_size=MAX_FRAME_BYTES, compression=None, max_queue=None
            ) as line:
                with suppress(ConnectionClosed):
                    for frame in frames:
                        line.send(frame)
                    if rude:
                        line.socket.shutdown(socket.SHUT_RDWR)
                    else:
                        line.send(self.hello(live=True))
                        line.send(self.hello(live=True))
                with suppress(ConnectionClosed):
                    while True:
                        told.append(bytes(line.recv(timeout=ANSWERS_WITHIN_S)))  # type: ignore[arg-type]
        except InvalidStatus as exc:
            if exc.response.status_code != 503:
                raise
            self.count(frames, "busy")
            return []
        last = parse_frame(told[-1]) if told else None
        if not rude:
            assert isinstance(last, Failure), last
            assert last.reason != "UNAVAILABLE", last
        self.count(frames, last.reason if isinstance(last, Failure) else "left")
        return told

    def raw(self, text: bytes) -> socket.socket:
        parts = urlsplit(self.where)
        line = socket.create_connection((parts.hostname, parts.port), timeout=ANSWERS_WITHIN_S)
        line.sendall(text)
        return line

    def trickling(self) -> socket.socket:
        """A request whose body never comes to its end."""
        signed = self.device.sign("POST", self.where, {"content-type": MEDIA_TYPE}, bytes(1000))
        return self.raw(_head("POST", self.where, {"content-length": "1000", "content-type": MEDIA_TYPE, **signed}))

    def silent(self) -> socket.socket:
        """A WebSocket at which nobody listens."""
        url = self.where.replace("http", "ws", 1)
        upgrade = {
            "upgrade": "websocket",
            "connection": "Upgrade",
            "sec-websocket-key": b64encode(bytes(16)).decode(),
            "sec-websocket-version": "13",
        }
        return self.raw(_head("GET", self.where, {**upgrade, **self.device.sign("GET", url, {}, b"")}))

    # --- what it does ---

    def every_attack(self) -> None:
        """Each of those that have a name, over either carrier: each is cut off for its reason."""
        wrong = []
        for live in (False, True):
            send = self.dial if live else self.post
            sessions = [
                (name, {reason}, make(self.chance, self.hello(live))) for name, (reason, make) in ATTACKS.items()
            ]
            for name, (reasons, lie) in LIES.items():
                changed = on_first_batch(self.good_session(live), lie)
                assert changed is not None
                sessions.append((name, reasons, changed))
            for name, reasons, frames in sessions:
                last = parse_frame(send(frames)[-1])
                if not isinstance(last, Failure) or last.reason not in reasons:
                    wrong.append((name, live, last))
        assert wrong == []

    def prepare(self) -> tuple[Callable[[], Any], bool]:
        """A session, and whether it can bring anything."""
        live = self.chance.random() < 0.5
        send = self.dial if live else self.post
        kind = self.chance.random()
        if kind < 0.25:
            name = self.chance.choice(list(ATTACKS))
            reason, attack = ATTACKS[name]
            frames = attack(self.chance, self.hello(live))
            return (lambda: self.refused(name, {reason}, send(frames))), False
        if kind < 0.27:
            count = 80 if live else 15
            frames = [self.hello(live), NOTHING, *ENDLESS * count, *([] if live else [NOTHING])]
            reasons = {WITHOUT_END} if live else {"OUT_OF_ORDER"}
            return (lambda: self.refused("blocks without end", reasons, send(frames))), False
        frames = self.good_session(live)
        if kind < 0.5:
            name = self.chance.choice(list(LIES))
            expected, lie = LIES[name]
            changed = on_first_batch(frames, lie)
            assert changed is not None
            return (lambda: self.refused(name, expected, send(changed))), False
        for _ in range(self.chance.choice([1, 1, 1, 2, 4])):
            if frames:
                frames = self.chance.choice(CHANGES)(self.chance, frames)
        if live:
            rude = self.chance.random() < 0.2
            self.rude_s = time.monotonic() if rude else self.rude_s
            return (lambda: self.dial(frames, rude=rude)), True
        spoil = self.chance.random() < 0.2
        return (lambda: self.post(frames, spoil=spoil)), True

    def refused(self, name: str, reasons: set[str], told: Frames) -> None:
        if told:
            last = parse_frame(told[-1])
            assert isinstance(last, Failure), (name, last)
            assert last.reason in reasons, (name, last)


def _head(method: str, url: str, headers: dict[str, str]) -> bytes:
    parts = urlsplit(url)
    lines = [f"{method} {parts.path} HTTP/1.1", f"host: {parts.netloc}", *(f"{k}: {v}" for k, v in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode()


# --- what has to hold -----------------------------------------------------------------------------------------------


class Judge:
    """Looks at the node from outside."""

    def __init__(self, node: Node, thief: Thief, phone: Replica, watch: Watch) -> None:
        self.node, self.thief, self.phone, self.watch = node, thief, phone, watch
        self.held: list[bytes] = []
        self.slowest_s = 0.0
        self.audits = 0
        self._number = 0
        self._audit_at = 0.0

    def report(self) -> dict[str, Any]:
        """What was done so far, and at which price."""
        return {
            "seed": SEED,
            **self.thief.counts,
            "told": dict(self.thief.told),
            "peak_rss_mb": self.node.memory_kb() // 1024,
            "rss_mb": self.node.memory_kb("VmRSS") // 1024,
            "files": self.node.handles(),
            "good_syncs": self._number,
            "slowest_good_sync_s": round(self.slowest_s, 2),
            "blocks": len(self.held),
            "audits": self.audits,
        }

    def store_is_whole(self) -> None:
        """What came of the thief's feed is what it signed, up to the end of a batch."""
        held = self.watch.blocks(self.thief.device.feed)
        assert held[: len(self.held)] == self.held
        assert len(held) in self.thief.ends, (len(held), sorted(self.thief.ends)[-9:])
        with self.thief.device.store.read() as tx:
            assert list(tx.blocks(self.thief.device.feed, len(self.held), len(held))) == held[len(self.held) :]
        self.held = held

    def audit(self) -> None:
        """Every row is as the feeds have it. Not more often than it is worth."""
        if time.monotonic() >= self._audit_at:
            began = time.monotonic()
            assert self.watch.faults() == []
            self.audits += 1
            self._audit_at = time.monotonic() + 9 * (time.monotonic() - began)

    def process_is_well(self) -> None:
        assert self.node.is_ready()
        assert self.node.memory_kb() < MOST_KB
        assert self.node.failures() == []

    def others_sync(self) -> None:
        """Somebody else writes, and both sides have it."""
        self._number += 1
        self.phone.put("phone", str(self._number % 20), number=self._number)
        began = time.monotonic()
        self.phone.sync()
        self.slowest_s = max(self.slowest_s, time.monotonic() - began)
        assert self.slowest_s < ANSWERS_WITHIN_S
        with self.phone.store.read() as tx:
            mine = list(tx.blocks(self.phone.feed, 0, tx.feed(self.phone.feed).length))
        assert self.watch.blocks(self.phone.feed) == mine


def storm(thief: Thief, judge: Judge) -> None:
    """Several at once, behind others that only hold on to their connections; meanwhile somebody else syncs."""
    sessions = [[thief.prepare()[0] for _ in range(6)] for _ in range(4)]
    failures: list[Exception] = []

    def run(mine: list[Callable[[], Any]]) -> None:
        try:
            for session in mine:
                session()
        except Exception as exc:  # noqa: BLE001  (told by the thread that waits)
            failures.append(exc)

    with ExitStack() as stack:
        for _ in range(50):
            stack.enter_context(closing(thief.trickling()))
        for _ in range(50):
            stack.enter_context(closing(thief.silent()))
        threads = [threading.Thread(target=run, args=(mine,)) for mine in sessions]
        for thread in threads:
            thread.start()
        judge.others_sync()
        judge.process_is_well()
        for thread in threads:
            thread.join()
        judge.others_sync()
    assert failures == []


def sign_nonsense(ghost: Replica) -> None:
    """Entries that are signed, and lie: of the year 9999, and behind what comes after them or never does."""
    uid = ghost.db.uid
    circle = Reference(ghost.feed, 7, bytes(32))
    nowhere = Reference(FeedKey(bytes(32)), 2**40, bytes(32))
    stamps = [
        Stamp(uid, None, (), 253_402_300_799_999, 1),
        Stamp(uid, None, (circle,), now_ms(), 2),
        Stamp(uid, None, (nowhere,), now_ms(), 3),
    ]
    op = Op(Verb.SET, DocumentId("accounts", "ghost"), ("owner",), "X")
    entries = [encode_entry(transaction_entry(Transaction(stamp, (op,)))) for stamp in stamps]
    FeedWriter(ghost.store, ghost.feed, ghost.device).append(entries)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Node]:
    with Node(tmp_path).running() as node:
        yield node


def test_whatever_a_peer_sends_the_node_stays_up_and_whole(running: Node, tmp_path: Path) -> None:
    print(f"FUZZ_SEED={SEED}")
    chance = random.Random(SEED)
    with ExitStack() as stack, mock.patch("sync.outgoing._BLOCKS", 2):
        phone, device, ghost = (
            stack.enter_context(closing(Replica(tmp_path, name, running))) for name in ("phone", "thief", "ghost")
        )
        sign_nonsense(ghost)
        ghost.sync()
        thief = Thief(running, device, chance)
        stack.enter_context(closing(thief.client))
        watch = stack.enter_context(closing(Watch(running)))
        judge = Judge(running, thief, phone, watch)
        judge.others_sync()
        before = watch.version()
        thief.every_attack()
        assert watch.version() == before
        end, next_storm, next_good = time.monotonic() + 60 * MINUTES, 0.0, 0.0
        while time.monotonic() < end:
            session, may_bring = thief.prepare()
            before = watch.version()
            session()
            if watch.version() != before:
                was_rude = time.monotonic() - thief.rude_s < 5
                assert may_bring or was_rude, "what was refused has changed the store"
                thief.is_behind()
                judge.store_is_whole()
                judge.audit()
            if time.monotonic() >= next_good:
                judge.others_sync()
                judge.process_is_well()
                thief.is_behind()
                next_good = time.monotonic() + 1
            if time.monotonic() >= next_storm:
                storm(thief, judge)
                thief.is_behind()
                judge.store_is_whole()
                judge.audit()
                next_storm = time.monotonic() + STORM_EVERY_S
                print(judge.report(), flush=True)
        device.sync()
        phone.sync()
        judge.process_is_well()
        assert watch.faults() == []
        assert _documents(phone) == _documents(device)
        known_reasons = set(running.cut_off())
        assert {"MALFORMED", "TOO_LARGE", "OUT_OF_ORDER", "VERIFICATION_FAILED"} <= known_reasons
        print(judge.report())


def _documents(replica: Replica) -> Any:
    with replica.store.read() as tx:
        return tx.fetch_all("SELECT collection, key, etag FROM database_document ORDER BY 1, 2")
