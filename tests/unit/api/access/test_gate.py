"""The gate, for devices: members by their role, the owner, and nobody who was revoked or dismissed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from api.access.action import ALLOWED_TO, Action, Caller, Operation, Token
from api.access.gate import Gate
from api.access.nonces import NonceFile
from api.access.request import HttpRequest
from api.access.signatures import sign_request
from api.access.standing import StandingReader
from api.members import admit, carry_events, dismiss
from identity.contexts import IDENTITY_EVENT_SIGNATURE
from identity.errors import Forbidden, TooMany, Unauthenticated
from identity.event import RevocationReason
from identity.history import (
    SignedEvent,
    build_add_device,
    build_close,
    build_inception,
    build_revoke_device,
    fold,
    key_commitment,
)
from identity.keys import Ed25519Signer
from ledger.identities import add_events
from sync.acts import Role

NOW = 1_800_000_000
URL = "https://node.example/v1/databases"


@dataclass
class Person:
    """Somebody else, with one device, whose events the node knows."""

    label: str
    seed: int
    events: list[SignedEvent] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.root = Ed25519Signer(bytes([self.seed]) * 32)
        self.device = Ed25519Signer(bytes([self.seed + 1]) * 32)
        following = key_commitment(Ed25519Signer(bytes([self.seed + 2]) * 32).public_key)
        self.sign(
            build_inception(label=self.label, root_keys=[self.root.public_key], next_digests=[following], time_ms=1),
            self.root,
        )
        self.add(self.device)

    @property
    def identity(self) -> bytes:
        return fold(self.events).identity

    def sign(self, event: bytes, *signers: Ed25519Signer) -> None:
        context = IDENTITY_EVENT_SIGNATURE + event
        self.events.append(SignedEvent(event, tuple((at, one.sign(context)) for at, one in enumerate(signers))))

    def add(self, device: Ed25519Signer) -> None:
        history = fold(self.events)
        name = f"device {len(self.events)}"
        self.sign(build_add_device(history, device=device.public_key, name=name, time_ms=2), self.root, device)

    def revoke(self) -> None:
        event = build_revoke_device(
            fold(self.events), device=self.device.public_key, last_good={}, reason=RevocationReason.LOST, time_ms=3
        )
        self.sign(event, self.root)


class Node:
    """A node that a laptop of the bank runs, and the gate of it."""

    def __init__(self, world: Any) -> None:
        self.world = world
        self.laptop = world.replica("laptop")
        self.owner = self.laptop.device
        self.now = NOW
        self.nonces = NonceFile(None)
        self.gate = self.open_gate()
        self._nonce = count()

    def open_gate(self, **options: Any) -> Gate:
        reader = StandingReader(self.laptop.store, self.world.identity)
        return Gate(reader, self.nonces, lambda: self.now, **options)

    def knows(self, person: Person) -> None:
        with self.laptop.store.write() as tx:
            add_events(tx, person.identity, person.events)

    def admits(self, person: Person, role: Role) -> None:
        self.knows(person)
        admit(self.laptop.db, self.world.identity, person.identity, role)

    def request(self, signer: Ed25519Signer, nonce: str | None = None) -> HttpRequest:
        nonce = f"{next(self._nonce):022d}" if nonce is None else nonce
        bare = HttpRequest("GET", URL, ())
        return HttpRequest("GET", URL, sign_request(signer, bare, created=self.now, nonce=nonce))

    def act(self, operation: Operation) -> Action:
        return Action(operation, self.world.uid, "accounts", "4711")


@pytest.fixture
def node(world: Any) -> Iterator[Node]:
    made = Node(world)
    yield made
    made.nonces.close()


def refused(gate: Gate, caller: Caller, action: Action, reason: str) -> None:
    with pytest.raises(Forbidden) as caught:
        gate.allow(caller, action)
    assert caught.value.reason == reason


def test_an_own_device_is_identified(node: Node) -> None:
    assert node.gate.identify(node.request(node.owner)) == Caller(node.owner.public_key)


def test_a_stranger_is_not(node: Node) -> None:
    with pytest.raises(Unauthenticated) as caught:
        node.gate.identify(node.request(Ed25519Signer(b"\x77" * 32)))
    assert caught.value.reason == "UNKNOWN_KEY"


def test_a_request_counts_once(node: Node) -> None:
    request = node.request(node.owner)
    node.gate.identify(request)
    for gate in (node.gate, node.open_gate()):  # another process of the same machine, too
        with pytest.raises(Unauthenticated) as caught:
            gate.identify(request)
        assert caught.value.reason == "REPLAYED"


def test_a_nonce_is_a_keys_own(node: Node) -> None:
    anna = Person("Anna", 40)
    node.knows(anna)
    node.gate.identify(node.request(node.owner, "A" * 16))
    assert node.gate.identify(node.request(anna.device, "A" * 16)).key == anna.device.public_key


def test_a_rate_for_each_key(node: Node) -> None:
    gate = node.open_gate(requests_a_minute=2)
    anna = Person("Anna", 40)
    node.knows(anna)
    for _ in range(2):
        gate.identify(node.request(node.owner))
    with pytest.raises(TooMany) as caught:
        gate.identify(node.request(node.owner))
    assert caught.value.retry_after_s == 60
    gate.identify(node.request(anna.device))
    node.now += 61
    gate.identify(node.request(node.owner))


@pytest.mark.parametrize("operation", [one for one in Operation if one is not Operation.PAIR])
def test_the_owner_may_do_everything(node: Node, operation: Operation) -> None:
    caller = Caller(node.owner.public_key)
    assert node.gate.allow(caller, node.act(operation)).identity == node.world.identity
    assert node.gate.allow(caller, Action(operation)).identity == node.world.identity


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("operation", Operation)
def test_members_by_their_role(node: Node, role: Role, operation: Operation) -> None:
    anna = Person("Anna", 40)
    node.admits(anna, role)
    caller = node.gate.identify(node.request(anna.device))
    if operation in ALLOWED_TO[role]:
        grant = node.gate.allow(caller, node.act(operation))
        assert (grant.identity, grant.fields) == (anna.identity, None)
    elif operation is Operation.OPERATE:
        refused(node.gate, caller, node.act(operation), "NOT_THE_OWNER")
    else:
        refused(node.gate, caller, node.act(operation), "ROLE")
    refused(node.gate, caller, Action(operation), "NOT_THE_OWNER")


def test_a_member_of_one_database_is_none_of_another(node: Node) -> None:
    anna = Person("Anna", 40)
    node.admits(anna, Role.ADMIN)
    action = Action(Operation.READ, b"\5" * 32, "accounts", "4711")
    refused(node.gate, Caller(anna.device.public_key), action, "NOT_A_MEMBER")


def test_who_is_only_known_may_do_nothing(node: Node) -> None:
    anna = Person("Anna", 40)
    node.knows(anna)
    refused(node.gate, node.gate.identify(node.request(anna.device)), node.act(Operation.READ), "NOT_A_MEMBER")


def test_a_role_changes_at_once(node: Node) -> None:
    anna = Person("Anna", 40)
    node.admits(anna, Role.READER)
    caller = Caller(anna.device.public_key)
    refused(node.gate, caller, node.act(Operation.CREATE), "ROLE")
    admit(node.laptop.db, node.world.identity, anna.identity, Role.WRITER)
    node.gate.allow(caller, node.act(Operation.CREATE))


def test_who_was_dismissed_is_refused_at_once(node: Node) -> None:
    anna = Person("Anna", 40)
    node.admits(anna, Role.ADMIN)
    caller = Caller(anna.device.public_key)
    node.gate.allow(caller, node.act(Operation.READ))
    dismiss(node.laptop.db, node.world.identity, anna.identity, "left")
    refused(node.gate, caller, node.act(Operation.READ), "DISMISSED")


@pytest.mark.parametrize("carried", [False, True], ids=["the store knows", "the database knows"])
def test_a_revoked_device_is_refused_at_once(node: Node, carried: bool) -> None:
    anna = Person("Anna", 40)
    node.admits(anna, Role.ADMIN)
    caller = Caller(anna.device.public_key)
    node.gate.allow(caller, node.act(Operation.READ))
    anna.revoke()
    node.knows(anna)
    if carried:
        carry_events(node.laptop.db)
    refused(node.gate, caller, node.act(Operation.READ), "REVOKED_DEVICE")


def test_a_closed_identity_is_refused_at_once(node: Node) -> None:
    anna = Person("Anna", 40)
    node.admits(anna, Role.WRITER)
    anna.sign(build_close(fold(anna.events), time_ms=5), anna.root)
    node.knows(anna)
    refused(node.gate, Caller(anna.device.public_key), node.act(Operation.READ), "IDENTITY_CLOSED")


def test_a_disputed_identity_is_refused(node: Node) -> None:
    anna = Person("Anna", 40)
    node.admits(anna, Role.WRITER)
    other = Person("Anna", 40)
    other.events = anna.events[:1]
    other.add(Ed25519Signer(b"\x61" * 32))
    with node.laptop.store.write() as tx:
        add_events(tx, anna.identity, other.events)
    refused(node.gate, Caller(anna.device.public_key), node.act(Operation.READ), "IDENTITY_DISPUTED")


def test_a_new_device_of_a_member_comes_before_the_database_knows_it(node: Node) -> None:
    anna = Person("Anna", 40)
    node.admits(anna, Role.WRITER)
    tablet = Ed25519Signer(b"\x60" * 32)
    anna.add(tablet)
    node.knows(anna)
    caller = node.gate.identify(node.request(tablet))
    assert node.gate.allow(caller, node.act(Operation.UPDATE)).identity == anna.identity


def test_the_owner_who_was_revoked_operates_nothing(node: Node) -> None:
    events = node.world.events
    history = fold(events)
    lost = build_revoke_device(
        history, device=node.owner.public_key, last_good={}, reason=RevocationReason.LOST, time_ms=20
    )
    with node.laptop.store.write() as tx:
        add_events(tx, node.world.identity, [*events, node.world.sign(lost, node.world.root)])
    refused(node.gate, Caller(node.owner.public_key), Action(Operation.OPERATE), "REVOKED_DEVICE")
    other = Ed25519Signer(b"\x66" * 32)  # the second device of the identity
    assert node.gate.allow(Caller(other.public_key), Action(Operation.OPERATE)).identity == node.world.identity


def test_nobody_visits_a_node_without_visitors(node: Node) -> None:
    refused(node.gate, Caller(node.owner.public_key, Token(b"x", b"y" * 32)), node.act(Operation.READ), "NO_VISITORS")


def test_what_is_asked_for_each_request_does_not_grow_with_the_database(node: Node) -> None:
    from api.access import standing

    with node.laptop.store.read() as tx:
        plan = [row[-1] for row in tx.fetch_all(f"EXPLAIN QUERY PLAN {standing._MARK}")]
    (step,) = (one for one in plan if "database_txn" in one)
    assert "ix_database_txn_others" in step, plan


# --- nonces -----------------------------------------------------------------------------------------------------------


def test_nonces_outlive_the_process(tmp_path: Path) -> None:
    for _ in range(2):
        nonces = NonceFile(tmp_path / "nonces.db")
        if _ == 0:
            assert nonces.remember(b"k" * 32, "n", NOW) == 1
        else:
            with pytest.raises(Unauthenticated):
                nonces.remember(b"k" * 32, "n", NOW + 1)
        nonces.close()


def test_nonces_are_forgotten_when_nobody_would_take_them(tmp_path: Path) -> None:
    nonces = NonceFile(None)
    assert nonces.remember(b"k" * 32, "n", NOW) == 1
    with pytest.raises(Unauthenticated):
        nonces.remember(b"k" * 32, "n", NOW + 120)
    assert nonces.remember(b"k" * 32, "n", NOW + 181) == 1


def test_a_damaged_file_of_nonces_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "nonces.db").write_bytes(b"no database" * 1000)
    nonces = NonceFile(tmp_path / "nonces.db")
    assert nonces.remember(b"k" * 32, "n", NOW) == 1
    nonces.close()


def test_the_memory_for_nonces_is_bounded() -> None:
    from identity.errors import StoreBusy

    nonces = NonceFile(None, most=3)
    for number in range(3):
        nonces.remember(b"k" * 32, str(number), NOW)
    with pytest.raises(StoreBusy):
        nonces.remember(b"j" * 32, "more", NOW)
    nonces.remember(b"j" * 32, "more", NOW + 200)


def test_server_processes_of_one_store_share_nonces(empty_postgres: str) -> None:
    from api.access.nonces import StoredNonces
    from ledger.storage.engine import open_store

    one, other = open_store(empty_postgres), open_store(empty_postgres)
    try:
        assert StoredNonces(one).remember(b"k" * 32, "n", NOW) == 1
        with one.write(), pytest.raises(Unauthenticated):  # no writer is waited for
            StoredNonces(other).remember(b"k" * 32, "n", NOW)
        assert StoredNonces(other).remember(b"k" * 32, "m", NOW + 1) == 2
        assert StoredNonces(one).remember(b"k" * 32, "n", NOW + 300) == 1
    finally:
        one.close()
        other.close()
