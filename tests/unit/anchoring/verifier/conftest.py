"""A bench for evidence: an identity, its feed and its log, with any statement a test wants, and real witnesses."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import count
from typing import Any

import pytest

from anchoring.chain.deploy import deploy_contract
from anchoring.chain.dev import DevChain
from anchoring.chain.transactions import LocalKey
from anchoring.contracts import load_contract
from anchoring.evidence import CheckpointEvidence as Shown
from anchoring.evidence import DescriptorEvidence, Evidence, LeafEvidence, encode_evidence
from anchoring.exporter import Archive, export_evidence
from anchoring.headers import TrustedHeader, TrustedHeaders
from anchoring.policy import ChainTrust, Policy
from anchoring.receipt import DEVELOPMENT_CHAIN_ID, AnchorReceipt, parse_header, receipt_digest, slots
from anchoring.report import Claim, Report
from anchoring.timestamp import Authority, TimestampEvidence
from anchoring.tsa.dev import DevelopmentAuthority
from anchoring.tsa.source import EmbeddedSource
from anchoring.verifier import verify_evidence
from anchoring.witness import time_statement
from api.demo.forgery import ForgedLog, send_anchor
from identity.event import RevocationReason
from identity.history import (
    LastGood,
    SignedEvent,
    build_add_device,
    build_bind_log,
    build_inception,
    build_revoke_device,
    event_digest,
    fold,
    key_commitment,
    sign_event,
)
from identity.keys import Ed25519Signer
from identity.keystore import KeyRing
from identity.verdict import Status
from ledger.checkpoint import imprint_message
from ledger.entry import Entry, encode_entry
from ledger.feed import FeedWriter, block_proof
from ledger.identities import add_events
from ledger.log import consistency_proof, inclusion_proof
from ledger.manifest import FeedDescription, device_manifest, encode_manifest, feed_key
from ledger.statement import (
    AnchorStatement,
    ChainBinding,
    FeedHead,
    IdentityHead,
    LogDescriptor,
    Statement,
    encode_statement,
    log_origin,
)
from ledger.storage.memory import MemoryStore
from ledger.store import StoredCheckpoint

START_MS = 1_767_225_600_000
MINUTE_MS, DAY_MS = 60_000, 86_400_000
OWNER = sha256(b"the owner of the log").digest()
EVERYTHING = frozenset(Claim)

Found = set[str]
"""Findings that are not PASSED, each as ``claim STATUS REASON``."""


def signer(name: str) -> Ed25519Signer:
    return Ed25519Signer(sha256(name.encode()).digest())


class Clock:
    def __init__(self) -> None:
        self.now_ms = START_MS

    def __call__(self) -> int:
        return self.now_ms


@dataclass
class Surroundings:
    """One chain and two authorities for all tests; their clock only goes forward."""

    chain: DevChain
    contract: bytes
    first: DevelopmentAuthority
    second: DevelopmentAuthority
    clock: Clock


@pytest.fixture(scope="session")
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Surroundings]:
    root = tmp_path_factory.mktemp("surroundings")
    clock = Clock()
    with DevChain(root / "chain.db", create=True, clock_s=lambda: clock() // 1000) as chain:
        key = LocalKey(OWNER)
        chain.fund(key.address, 10**20)
        contract = deploy_contract(chain, key)
        first, second = (DevelopmentAuthority(root / name, clock=clock) for name in ("first", "second"))
        yield Surroundings(chain, contract, first, second, clock)


@dataclass
class Bench:
    """An identity with a phone, its feed, its log, and whatever statements a test wants in it."""

    around: Surroundings
    name: str
    store: MemoryStore = field(default_factory=MemoryStore)
    events: list[SignedEvent] = field(default_factory=list)
    tokens: dict[int, tuple[TimestampEvidence, ...]] = field(default_factory=dict)
    receipts: dict[int, AnchorReceipt] = field(default_factory=dict)
    has_chain: bool = True
    first: StoredCheckpoint | None = None
    second: StoredCheckpoint | None = None

    def __post_init__(self) -> None:
        self.root, self.phone, self.log_key = (signer(f"{self.name} {role}") for role in ("root", "phone", "log"))
        inception = build_inception(
            label=self.name,
            root_keys=[self.root.public_key],
            next_digests=[key_commitment(signer(f"{self.name} next").public_key)],
            time_ms=0,
        )
        self.accept(inception)
        self.accept(
            build_add_device(fold(self.events), device=self.phone.public_key, name="phone", time_ms=0), self.phone
        )
        owner = LocalKey(OWNER).address
        chain = ChainBinding(DEVELOPMENT_CHAIN_ID, self.around.contract, owner) if self.has_chain else None
        self.descriptor = LogDescriptor(self.name, self.log_key.public_key, chain)
        self.log = ForgedLog(self.store, self.log_key, self.descriptor)
        with self.store.read() as tx:
            state = tx.log()
        assert state is not None
        self.log_id = state.log_id
        self.accept(build_bind_log(fold(self.events), log=self.log_id, time_ms=0))
        manifest = device_manifest(self.phone.public_key, FeedDescription(self.identity, "ledger"))
        self.key = feed_key(manifest)
        with self.store.write() as tx:
            tx.create_feed(self.key, encode_manifest(manifest), local=True)

    @staticmethod
    def signer(name: str) -> Ed25519Signer:
        return signer(name)

    @property
    def owner(self) -> LocalKey:
        """The key that anchors."""
        return LocalKey(OWNER)

    @property
    def identity(self) -> bytes:
        return event_digest(self.events[0].event)

    def accept(self, event: bytes, *others: Ed25519Signer) -> None:
        signed = sign_event(event, list(enumerate([self.root, *others])))
        self.events.append(signed)
        with self.store.write() as tx:
            add_events(tx, self.identity, [signed])

    def append(self, *texts: str) -> int:
        blocks = [encode_entry(Entry("note", 0, {"text": text})) for text in texts]
        return FeedWriter(self.store, self.key, self.phone).append(blocks).length

    def revoke(self, length: int | None, reason: RevocationReason, since_ms: int | None = None) -> None:
        """``length`` None: the feed is left out of ``last_good``."""
        last_good = {}
        if length is not None:
            with self.store.read() as tx:
                head = tx.head(self.key, length)
            assert head is not None
            last_good[bytes(self.key)] = LastGood(length, head.tree_hash)
        self.accept(
            build_revoke_device(
                fold(self.events),
                device=self.phone.public_key,
                last_good=last_good,
                reason=reason,
                time_ms=0,
                compromised_since_ms=since_ms,
            )
        )

    # Statements.

    def who(self) -> IdentityHead:
        history = fold(self.events)
        return IdentityHead(history.identity, history.seq, history.head)

    def what(self, length: int) -> FeedHead:
        with self.store.read() as tx:
            head = tx.head(self.key, length)
        assert head is not None
        return FeedHead(self.key, length, head.tree_hash)

    def when(self, checkpoint: StoredCheckpoint) -> Statement:
        return time_statement(checkpoint.size, self.tokens[checkpoint.size])

    def where(self, checkpoint: StoredCheckpoint) -> AnchorStatement:
        receipt = self.receipts[checkpoint.size]
        header = parse_header(receipt.header)
        return AnchorStatement(checkpoint.size, header.hash, header.number, receipt_digest(receipt))

    def add(self, *statements: Statement) -> StoredCheckpoint:
        """A checkpoint over these statements; a minute has passed."""
        self.around.clock.now_ms += MINUTE_MS
        return self.log.add(statements)

    # Witnesses.

    def stamp(self, checkpoint: StoredCheckpoint, *authorities: DevelopmentAuthority) -> None:
        message = imprint_message(checkpoint.note, log_origin(self.descriptor, self.log_id), self.log_key.public_key)
        for authority in authorities or (self.around.first,):
            token = EmbeddedSource(authority).acquire(message, self.around.clock()).evidence
            self.tokens[checkpoint.size] = (*self.tokens.get(checkpoint.size, ()), token)

    def anchor(self, checkpoint: StoredCheckpoint, before: int = 0) -> None:
        chain, binding = self.around.chain, self.descriptor.chain
        assert binding is not None
        ring = KeyRing((), 0, {}, None, OWNER)
        assert send_anchor(chain, ring, binding, self.log_id, (before, checkpoint.size), checkpoint.root)
        self.receipts[checkpoint.size] = self.fetch_receipt()

    def fetch_receipt(self) -> AnchorReceipt:
        chain, binding = self.around.chain, self.descriptor.chain
        assert binding is not None
        number = chain.head_number()
        meta, root, _ = slots(binding.owner, self.log_id)
        one, other = (proofs := chain.get_proof(binding.contract, (meta, root), number)).storage_proofs
        return AnchorReceipt(chain.header(number), proofs.account_proof, (one, other))

    # Evidence.

    def export(self, index: int) -> Evidence:
        archive = Archive(lambda size: self.tokens.get(size, ()), self.receipts.get)
        with self.store.read() as tx:
            return export_evidence(tx, archive, self.key, index)

    def show(self, checkpoint: StoredCheckpoint, *leaves: int, after: int = 0, bare: bool = False) -> Shown:
        """A checkpoint with those leaves and, unless it is ``bare``, with its tokens and its receipt."""
        size = checkpoint.size
        with self.store.read() as tx:
            return Shown(
                note=checkpoint.note,
                consistency=tuple(consistency_proof(tx.log_node, after, size)) if after else (),
                leaves=tuple(
                    LeafEvidence(
                        index,
                        next(iter(tx.log_leaves(index, index + 1))),
                        tuple(inclusion_proof(tx.log_node, index, size)),
                    )
                    for index in leaves
                ),
                timestamps=() if bare else self.tokens.get(size, ()),
                anchor=None if bare else self.receipts.get(size),
            )

    def assemble(self, proof: bytes, *shown: Shown) -> Evidence:
        with self.store.read() as tx:
            state = tx.feed(self.key)
            size = int(shown[0].note.split("\n")[1])
            descriptor = DescriptorEvidence(
                encode_statement(self.descriptor), tuple(inclusion_proof(tx.log_node, 0, size))
            )
        assert state is not None
        return Evidence(state.manifest, proof, tuple(event.encode() for event in self.events), descriptor, shown)

    def proof(self, index: int, length: int, head_length: int | None = None) -> bytes:
        with self.store.read() as tx:
            return block_proof(tx, self.key, index, length=length, head_length=head_length or length)

    def policy(self, **changes: Any) -> Policy:
        """Trusts this identity, this log, the first authority and every block, and demands everything."""
        chain = self.around.chain
        headers = [parse_header(chain.header(number)) for number in range(chain.head_number() + 1)]
        pinned = TrustedHeaders(
            TrustedHeader(DEVELOPMENT_CHAIN_ID, header.number, header.hash, "the test", 0) for header in headers
        )
        policy = Policy(
            identities=frozenset({self.identity}),
            logs=frozenset({self.log_id}),
            k=1,
            max_identity_age_ms=30 * DAY_MS,
            authorities=(self.around.first.authority,),
            chains={DEVELOPMENT_CHAIN_ID: ChainTrust(DEVELOPMENT_CHAIN_ID, load_contract().code_hash, pinned)},
            require=EVERYTHING,
        )
        return replace(policy, **changes)

    @property
    def both(self) -> tuple[Authority, Authority]:
        return self.around.first.authority, self.around.second.authority

    @staticmethod
    def not_passed(report: Report) -> Found:
        """Every finding but those that are PASSED."""
        found = {f"{f.claim} {f.status} {f.reason}" for f in report.findings if f.status is not Status.PASSED}
        assert all(finding.reason == "OK" for finding in report.findings if finding.status is Status.PASSED)
        if report.required == EVERYTHING:
            assert report.exit_code == (1 if any(" FAILED " in finding for finding in found) else 2 if found else 0)
        return found

    @staticmethod
    def altered(evidence: Evidence, position: int, **changes: Any) -> Evidence:
        """With members of one checkpoint replaced."""
        shown = list(evidence.checkpoints)
        shown[position] = replace(shown[position], **changes)
        return replace(evidence, checkpoints=tuple(shown))

    def report(self, evidence: Evidence, at_ms: int | None = None, **changes: Any) -> Report:
        at_ms = self.around.clock() + MINUTE_MS if at_ms is None else at_ms
        report = verify_evidence(encode_evidence(evidence), self.policy(**changes), at_ms)
        json.dumps(report.to_json())
        assert report.overall.value in report.to_text()
        return report

    def find(self, evidence: Evidence, at_ms: int | None = None, **changes: Any) -> Found:
        """What is open or failed about the evidence, under the policy with these changes."""
        return self.not_passed(self.report(evidence, at_ms, **changes))


@pytest.fixture(scope="session")
def make(surroundings: Surroundings) -> Callable[..., Bench]:
    """A bench with a log of its own."""
    names = (f"bench-{number}" for number in count())

    def bench(**changes: Any) -> Bench:
        surroundings.clock.now_ms += MINUTE_MS
        return Bench(surroundings, next(names), **changes)

    return bench


@pytest.fixture
def bench(make: Callable[..., Bench]) -> Bench:
    """A new bench, with nothing in its log."""
    return make()


@pytest.fixture(scope="session")
def sealed(make: Callable[..., Bench]) -> Bench:
    """Four entries under one head; ``first`` is stamped and anchored; ``second`` states that, and who is who.

    The leaves: 0 descriptor, 1 identity, 2 feed | 3 time, 4 anchor, 5 identity. One for all tests: they add nothing.
    """
    return seal(make())


@pytest.fixture
def own(make: Callable[..., Bench]) -> Bench:
    """The same as ``sealed``, for this test alone."""
    return seal(make())


def seal(bench: Bench) -> Bench:
    bench.append("a", "b", "c", "d")
    bench.first = bench.add(bench.who(), bench.what(4))
    bench.stamp(bench.first)
    bench.anchor(bench.first)
    bench.second = bench.add(bench.when(bench.first), bench.where(bench.first), bench.who())
    return bench
