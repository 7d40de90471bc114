"""Visitors at the gate: what a token allows is done, all else is refused, and everything can be read afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from api.access.action import Action, Caller, Operation
from api.access.capability import Narrowing, Scope, Terms, attenuate, mint, revocation_ids
from api.access.gate import Gate
from api.access.nonces import NonceFile
from api.access.opening import Access, token_seed
from api.access.records import (
    Granted,
    Record,
    Refusals,
    Revoked,
    Visit,
    parse_record,
    record_entry,
    terms_digest,
)
from api.access.request import HttpRequest
from api.access.signatures import authorization_of, sign_request
from api.access.standing import StandingReader
from api.access.visiting import VisitorDesk
from api.access.visits import REVOCATIONS, Revocations, VisitFeed, read_records
from api.members import admit, dismiss
from identity.errors import Forbidden, MalformedError, RefusedError, StoreBusy, TooMany, Unauthenticated
from identity.event import RevocationReason
from identity.history import build_revoke_device, fold
from identity.keys import Ed25519Signer, TokenKey
from identity.keystore import KeyRing
from ledger.entry import Entry, encode_entry, parse_entry
from ledger.feed import create_feed
from ledger.identities import add_events
from ledger.writer import StoreWriter
from sync.acts import Role
from tests.unit.api.access.test_gate import Person

NOW = 1_800_000_000
URL = "https://node.example/v1/databases/bank/collections/accounts/documents/4711"
APP = Ed25519Signer(b"\x51" * 32)
THIEF = Ed25519Signer(b"\x52" * 32)


class Node:
    """A node with visitors."""

    def __init__(self, world: Any) -> None:
        self.world = world
        self.laptop = world.replica("laptop")
        self.device = self.laptop.device
        self.seed = bytes([101]) * 32
        self._nonce = count()
        self.access = self.open()
        self.gate = self.access.gate

    def open(self, writer: StoreWriter | None = None) -> Access:
        """As a server process would."""
        store, own = self.laptop.store, self.world.identity

        def begin(name: str) -> Any:
            return create_feed(store, self.device, own, name)

        standing, revocations = StandingReader(store, own), Revocations(store, own)
        feed = VisitFeed(store, writer or self.laptop.writer, self.device.public_key, begin, self.world.now_ms)
        desk = VisitorDesk(standing, revocations, feed, self.world.now_ms)
        nonces = NonceFile(None)
        gate = Gate(standing, nonces, self.now_s, visitors=desk)
        return Access(gate, standing, revocations, feed, nonces, self.world.now_ms)

    def now_s(self) -> int:
        return int(self.world.now_ms() // 1000)

    def terms(self, **changes: Any) -> Terms:
        terms = Terms(
            APP.public_key,
            self.world.uid,
            frozenset({Operation.READ, Operation.UPDATE}),
            self.now_s() + 3600,
            (Scope("accounts"),),
            frozenset({"owner", "limit"}),
        )
        return replace(terms, **changes)

    def token(self, **changes: Any) -> bytes:
        return self.access.grant(self.seed, self.device.public_key, self.terms(**changes))[0]

    def request(self, token: bytes, signer: Ed25519Signer = APP) -> HttpRequest:
        bare = HttpRequest("GET", URL, (("authorization", authorization_of(token)),))
        added = sign_request(signer, bare, created=self.now_s(), nonce=f"{next(self._nonce):022d}")
        return HttpRequest(bare.method, bare.url, (*bare.headers, *added))

    def visit(self, token: bytes, action: Action, signer: Ed25519Signer = APP) -> Any:
        return self.gate.allow(self.gate.identify(self.request(token, signer)), action)

    def read(self, **changes: Any) -> Action:
        action = Action(Operation.READ, self.world.uid, "accounts", "4711", frozenset({"owner"}))
        return replace(action, **changes)

    def visits(self) -> list[Visit]:
        return [one for one in self.records() if isinstance(one, Visit)]

    def records(self) -> list[Record]:
        return read_records(self.laptop.store, self.world.identity)

    def sums(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for one in self.records():
            if isinstance(one, Refusals):
                found[one.reason] = found.get(one.reason, 0) + one.count
        return found


@pytest.fixture
def node(world: Any) -> Iterator[Node]:
    made = Node(world)
    yield made
    made.access.close()


def test_a_visit_is_allowed_and_written_down(node: Node) -> None:
    token = node.token()
    grant = node.visit(token, node.read())
    assert (grant.caller.key, grant.identity, grant.fields) == (APP.public_key, None, frozenset({"owner", "limit"}))
    granted, visit = node.records()
    assert isinstance(granted, Granted)
    assert granted.terms == node.terms()
    assert isinstance(visit, Visit)
    assert visit.allowed
    assert (visit.token, visit.key, visit.ids) == (granted.token, APP.public_key, (granted.id,))
    assert visit.about == {
        "op": "read",
        "db": node.world.uid,
        "col": "accounts",
        "key": "4711",
        "fields": ["owner"],
    }
    assert visit.policy == terms_digest(node.terms())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"operation": Operation.DELETE}, "OPERATION"),
        ({"operation": Operation.VISITS}, "OPERATION"),
        ({"operation": Operation.OPERATE, "database": None}, "OPERATION"),
        ({"database": b"\6" * 32}, "DATABASE"),
        ({"collection": "loans"}, "SCOPE"),
        ({"fields": frozenset({"balance"})}, "FIELDS"),
    ],
)
def test_a_visit_that_is_refused_is_written_down(node: Node, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(Forbidden) as caught:
        node.visit(node.token(), node.read(**changes))
    (visit,) = node.visits()
    assert caught.value.reason == visit.reason == reason
    assert visit.about["op"] == node.read(**changes).operation.value


def test_a_stolen_token_is_of_no_use_and_is_written_down(node: Node) -> None:
    with pytest.raises(Unauthenticated) as caught:
        node.gate.identify(node.request(node.token(), THIEF))
    (visit,) = node.visits()
    assert caught.value.reason == visit.reason == "HOLDER"
    assert visit.key == THIEF.public_key
    assert visit.about == {"line": f"GET {URL}"}


def test_a_replay_is_written_down(node: Node) -> None:
    request = node.request(node.token())
    node.gate.identify(request)
    with pytest.raises(Unauthenticated):
        node.gate.identify(request)
    assert [one.reason for one in node.visits()] == ["REPLAYED"]


def test_a_token_without_a_signature_is_written_down(node: Node) -> None:
    bare = HttpRequest("GET", URL, (("authorization", authorization_of(node.token())),))
    with pytest.raises(Unauthenticated):
        node.gate.identify(bare)
    (visit,) = node.visits()
    assert (visit.reason, visit.key) == ("NO_SIGNATURE", None)


def test_an_expired_token_is_written_down(node: Node) -> None:
    token = node.token()
    node.world.clock_ms += 3_600_000
    with pytest.raises(Forbidden):
        node.visit(token, node.read())
    assert [one.reason for one in node.visits()] == ["EXPIRED"]


def test_the_rate_of_a_token(node: Node) -> None:
    token = attenuate(node.token(), node.device.public_key, Narrowing(rate=2))
    for _ in range(2):
        node.visit(token, node.read())
    with pytest.raises(TooMany):
        node.gate.identify(node.request(token))
    assert len(node.visits()) == 2
    assert node.sums() == {"RATE": 1}


# --- revocation -------------------------------------------------------------------------------------------------------


def test_a_revocation_counts_at_once_in_every_process(node: Node) -> None:
    token = node.token()
    narrower = attenuate(token, node.device.public_key, Narrowing(rate=5))
    other = node.open()
    caller = node.gate.identify(node.request(token))
    node.gate.allow(caller, node.read())
    root = revocation_ids(token, node.device.public_key)[0]
    node.access.revoke(root, node.device.public_key, "the report is done")
    for gate in (node.gate, other.gate):
        with pytest.raises(Forbidden) as caught:
            gate.allow(caller, node.read())
        assert caught.value.reason == "REVOKED"
        with pytest.raises(Forbidden):
            gate.allow(gate.identify(node.request(narrower)), node.read())
    (revoked,) = read_records(node.laptop.store, node.world.identity, REVOCATIONS)
    assert revoked == Revoked(node.world.clock_ms, root, node.device.public_key, "the report is done")
    other.close()


def test_a_part_can_be_revoked(node: Node) -> None:
    token = node.token()
    narrower = attenuate(token, node.device.public_key, Narrowing(rate=5))
    node.access.revoke(revocation_ids(narrower, node.device.public_key)[1], node.device.public_key, "")
    node.visit(token, node.read())
    with pytest.raises(Forbidden):
        node.visit(narrower, node.read())


def test_strangers_revoke_nothing(node: Node) -> None:
    """A feed of that name of somebody else's."""
    anna = Person("Anna", 40)
    token = node.token()
    root = revocation_ids(token, node.device.public_key)[0]
    with node.laptop.store.write() as tx:
        add_events(tx, anna.identity, anna.events)
    key = create_feed(node.laptop.store, anna.device, anna.identity, REVOCATIONS)
    with StoreWriter(node.laptop.store, [anna.device]) as writer:
        writer.append(key, [encode_entry(record_entry(Revoked(1, root, anna.device.public_key, "")))])
    node.visit(token, node.read())


# --- who minted -------------------------------------------------------------------------------------------------------


def test_members_mint_as_far_as_their_role_goes(node: Node) -> None:
    anna = Person("Anna", 40)
    with node.laptop.store.write() as tx:
        add_events(tx, anna.identity, anna.events)
    admit(node.laptop.db, node.world.identity, anna.identity, Role.WRITER)
    token = mint(bytes([41]) * 32, node.terms(), node.now_s())
    node.visit(token, node.read())
    admit(node.laptop.db, node.world.identity, anna.identity, Role.READER)
    with pytest.raises(Forbidden) as caught:
        node.visit(token, node.read())
    assert caught.value.reason == "MINTER"
    dismiss(node.laptop.db, node.world.identity, anna.identity, "left")
    with pytest.raises(Forbidden):
        node.visit(token, node.read())
    assert len(node.visits()) == 1


def test_a_token_of_a_revoked_device_ends_with_it(node: Node) -> None:
    anna = Person("Anna", 40)
    with node.laptop.store.write() as tx:
        add_events(tx, anna.identity, anna.events)
    admit(node.laptop.db, node.world.identity, anna.identity, Role.ADMIN)
    token = mint(bytes([41]) * 32, node.terms(), node.now_s())
    caller = node.gate.identify(node.request(token))
    node.gate.allow(caller, node.read())
    lost = build_revoke_device(
        fold(anna.events), device=anna.device.public_key, last_good={}, reason=RevocationReason.LOST, time_ms=3
    )
    anna.sign(lost, anna.root)
    with node.laptop.store.write() as tx:
        add_events(tx, anna.identity, anna.events)
    with pytest.raises(Forbidden) as caught:
        node.gate.allow(caller, node.read())
    assert caught.value.reason == "MINTER"


def test_a_reader_cannot_grant(node: Node) -> None:
    anna = Person("Anna", 40)
    with node.laptop.store.write() as tx:
        add_events(tx, anna.identity, anna.events)
    admit(node.laptop.db, node.world.identity, anna.identity, Role.READER)
    with pytest.raises(Forbidden):
        node.access.grant(bytes([41]) * 32, anna.device.public_key, node.terms())
    assert node.records() == []


def test_a_token_that_nobody_here_minted(node: Node) -> None:
    stranger = mint(b"\x77" * 32, node.terms(), node.now_s())
    with pytest.raises(Unauthenticated) as caught:
        node.gate.identify(node.request(stranger))
    assert caught.value.reason == "TOKEN"
    refused = Caller(APP.public_key, None)
    with pytest.raises(Forbidden):
        node.gate.allow(refused, node.read())
    assert node.visits() == []


def test_a_device_in_a_hardware_token_mints_nothing() -> None:
    ring = KeyRing(
        root_seeds=(),
        generation=0,
        devices={"laptop": b"\1" * 32},
        log_seed=None,
        anchor_key=None,
        token_devices={"card": TokenKey(b"\2" * 32, "holdfast")},
    )
    assert token_seed(ring, "laptop") == b"\1" * 32
    with pytest.raises(RefusedError, match="hardware token"):
        token_seed(ring, "card")
    with pytest.raises(RefusedError, match="holds no device"):
        token_seed(ring, "phone")


# --- floods -----------------------------------------------------------------------------------------------------------


def test_strangers_cannot_fill_the_feed(node: Node) -> None:
    bare = HttpRequest("GET", URL, ())
    for _ in range(500):
        with pytest.raises(Unauthenticated):
            node.gate.identify(bare)
    assert len(node.records()) == 1
    node.world.clock_ms += 60_000
    with pytest.raises(Unauthenticated):
        node.gate.identify(bare)
    assert len(node.records()) == 2
    assert node.sums() == {"NO_SIGNATURE": 501}


def test_nor_can_who_has_a_token(node: Node) -> None:
    request = node.request(node.token(), THIEF)
    for _ in range(200):
        with pytest.raises(Unauthenticated):
            node.gate.identify(request)
    assert len(node.visits()) == 60
    node.access.feed.flush(all_of_it=True)
    assert node.sums() == {"HOLDER": 140}


def test_a_visit_that_cannot_be_written_is_not_allowed(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    caller = node.gate.identify(node.request(node.token()))

    def full(*_: object) -> None:
        raise StoreBusy("the writer's queue is full")

    monkeypatch.setattr(node.laptop.writer, "submit", full)
    with pytest.raises(StoreBusy):
        node.gate.allow(caller, node.read())


def test_a_second_process_writes_a_feed_of_its_own(node: Node) -> None:
    """On a store that leases its feeds: here one whose writer refuses the first feed."""
    token = node.token()

    class Keeper:
        def hold(self, tx: Any, key: Any) -> None:
            with node.laptop.store.read() as read:
                first = [state.key for state in read.feeds() if state.length and state.key != node.laptop.feed]
            if key in first[:1]:
                raise StoreBusy("leased by another process")

    with StoreWriter(node.laptop.store, [node.device], keeper=Keeper()) as writer:
        other = node.open(writer)
        other.gate.allow(other.gate.identify(node.request(token)), node.read())
        other.close()
    node.visit(token, node.read())
    assert len(node.visits()) == 2
    assert {"visits", "visits 2"} <= set(_feed_names(node))


def test_two_server_processes_of_one_store(world: Any, empty_postgres: str) -> None:
    """On PostgreSQL, each with its own connections, leases and nonces in the store."""
    from api.access.nonces import StoredNonces
    from ledger.storage.engine import open_store
    from ledger.storage.leases import keeper_for

    laptop = world.replica("laptop", empty_postgres)
    own, key = world.identity, laptop.device.public_key
    stores = [open_store(empty_postgres) for _ in range(2)]
    served = []
    for store in stores:
        writer = StoreWriter(store, [laptop.device], keeper=keeper_for(store))
        standing, revocations = StandingReader(store, own), Revocations(store, own)

        def begin(name: str, store: Any = store) -> Any:
            return create_feed(store, laptop.device, own, name)

        feed = VisitFeed(store, writer, key, begin, world.now_ms)
        desk = VisitorDesk(standing, revocations, feed, world.now_ms)
        nonces = StoredNonces(store)
        gate = Gate(standing, nonces, lambda: world.now_ms() // 1000, visitors=desk)
        served.append((writer, Access(gate, standing, revocations, feed, nonces, world.now_ms)))
    try:
        (_, one), (_, other) = served
        terms = Terms(APP.public_key, world.uid, frozenset({Operation.READ}), world.now_ms() // 1000 + 60)
        token, granted = one.grant(bytes([101]) * 32, key, terms)
        bare = HttpRequest("GET", URL, (("authorization", authorization_of(token)),))
        added = sign_request(APP, bare, created=world.now_ms() // 1000, nonce="N" * 22)
        request, action = HttpRequest("GET", URL, (*bare.headers, *added)), Action(Operation.READ, world.uid, "a", "b")
        caller = one.gate.identify(request)
        one.gate.allow(caller, action)
        with pytest.raises(Unauthenticated) as caught:
            other.gate.identify(request)
        assert caught.value.reason == "REPLAYED"
        other.gate.allow(caller, action)
        other.revoke(granted.id, key, "enough")
        for access in (one, other):
            with pytest.raises(Forbidden) as refused:
                access.gate.allow(caller, action)
            assert refused.value.reason == "REVOKED"
        reasons = [record.reason for record in read_records(stores[0], own) if isinstance(record, Visit)]
        assert sorted(reasons) == ["", "", "REPLAYED", "REVOKED", "REVOKED"]
    finally:
        for writer, access in served:
            access.close()
            writer.close()
        for store in stores:
            store.close()


def _feed_names(node: Node) -> list[str]:
    from ledger.manifest import describe, parse_manifest

    with node.laptop.store.read() as tx:
        described = [describe(parse_manifest(state.manifest)) for state in tx.feeds()]
    return [one.name for one in described if one is not None]


# --- the format -------------------------------------------------------------------------------------------------------

RECORDS: list[Record] = [
    Visit(
        5, b"t" * 32, (b"i" * 64,), b"k" * 32, {"op": "read", "db": b"d" * 32, "col": "a", "key": "b"}, "", b"p" * 32
    ),
    Visit(5, b"t" * 32, (), None, {"line": "GET /x"}, "HOLDER", None),
    Granted(5, b"t" * 32, b"i" * 64, b"d" * 32, Terms(b"h" * 32, b"d" * 32, frozenset({Operation.READ}), 9)),
    Refusals(5, "UNKNOWN_KEY", 7, 1),
    Revoked(5, b"i" * 64, b"k" * 32, "why"),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda one: type(one).__name__)
def test_records_are_read_back_and_nothing_else_is(record: Record) -> None:
    entry = parse_entry(encode_entry(record_entry(record)))
    assert parse_record(entry) == record
    for name in entry.body:
        with pytest.raises(MalformedError):
            parse_record(Entry(entry.kind, 5, {one: value for one, value in entry.body.items() if one != name}))
        with pytest.raises(MalformedError):
            parse_record(Entry(entry.kind, 5, {**entry.body, name: 1.5}))
    with pytest.raises(MalformedError):
        parse_record(Entry(entry.kind, 5, {**entry.body, "more": 1}))
    assert parse_record(Entry("note", 5, entry.body)) is None
