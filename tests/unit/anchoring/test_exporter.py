"""Which of the log's leaves and checkpoints evidence shows (docs/spec/evidence.md, "Choosing what to show")."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Final

import pytest

from anchoring.evidence import Evidence, encode_evidence, parse_evidence
from anchoring.exporter import Archive, export_evidence
from anchoring.receipt import AnchorReceipt
from anchoring.timestamp import TimestampEvidence
from anchoring.trusted_log import LogView, verify_log
from anchoring.witness import time_statement
from api.demo.forgery import ForgedLog
from identity.errors import MissingEvidenceError
from identity.event import RevocationReason
from identity.history import (
    LastGood,
    SignedEvent,
    build_add_device,
    build_bind_log,
    build_close,
    build_inception,
    build_revoke_device,
    fold,
    key_commitment,
    parse_signed_event,
    sign_event,
)
from identity.keys import Ed25519Signer
from ledger.entry import Entry, encode_entry
from ledger.feed import FeedWriter, create_feed
from ledger.identities import add_events
from ledger.manifest import Manifest, ManifestSigner, encode_manifest, feed_key, parse_manifest
from ledger.proof import parse_evidence_proof
from ledger.proof_checking import verify_proof
from ledger.statement import FeedHead, IdentityHead, LogDescriptor, Statement
from ledger.storage.memory import MemoryStore
from ledger.store import FeedKey, StoredCheckpoint

ROOT, PHONE, LOG_KEY = (Ed25519Signer(bytes([number]) * 32) for number in (1, 2, 3))
DESCRIPTOR: Final = LogDescriptor("vault.example", LOG_KEY.public_key)
OTHER_IDENTITY: Final = IdentityHead(bytes(32), 0, bytes(32))
RECEIPT: Final = AnchorReceipt(b"header", (b"account",), ((b"meta",), (b"root",)))


@dataclass
class Node:
    """A store with a phone's feed, and a log into which a test puts anything. Tokens and receipts are stand-ins."""

    store: MemoryStore
    events: list[SignedEvent] = field(default_factory=list)
    tokens: dict[int, list[TimestampEvidence]] = field(default_factory=dict)
    receipts: dict[int, AnchorReceipt] = field(default_factory=dict)

    def __post_init__(self) -> None:
        inception = build_inception(
            label="x", root_keys=[ROOT.public_key], next_digests=[key_commitment(bytes(32))], time_ms=0
        )
        self.accept(inception)
        self.accept(build_add_device(fold(self.events), device=PHONE.public_key, name="phone", time_ms=0), PHONE)
        self.log = ForgedLog(self.store, LOG_KEY, DESCRIPTOR)
        with self.store.read() as tx:
            state = tx.log()
        assert state is not None
        self.accept(build_bind_log(fold(self.events), log=state.log_id, time_ms=0))
        self.identity = fold(self.events).identity
        self.key = create_feed(self.store, PHONE, self.identity, "ledger")

    def accept(self, event: bytes, *others: Ed25519Signer) -> None:
        signed = sign_event(event, list(enumerate([ROOT, *others])))
        self.events.append(signed)
        with self.store.write() as tx:
            add_events(tx, fold(self.events).identity, [signed])

    def append(self, count: int = 1) -> None:
        FeedWriter(self.store, self.key, PHONE).append([encode_entry(Entry("note", 0, {}))] * count)

    def revoke(self, length: int) -> None:
        with self.store.read() as tx:
            head = tx.head(self.key, length)
        assert head is not None
        event = build_revoke_device(
            fold(self.events),
            device=PHONE.public_key,
            last_good={self.key: LastGood(length, head.tree_hash)},
            reason=RevocationReason.LOST,
            time_ms=0,
        )
        self.accept(event)

    def who(self) -> IdentityHead:
        history = fold(self.events)
        return IdentityHead(history.identity, history.seq, history.head)

    def what(self) -> FeedHead:
        with self.store.read() as tx:
            *_, head = tx.heads(self.key)
        return FeedHead(self.key, head.length, head.tree_hash)

    def when(self, checkpoint: StoredCheckpoint) -> Statement:
        return time_statement(checkpoint.size, self.tokens[checkpoint.size])

    def add(self, *statements: Statement, stamped: bool = False, anchored: bool = False) -> StoredCheckpoint:
        checkpoint = self.log.add(statements)
        if stamped:
            self.tokens[checkpoint.size] = [TimestampEvidence(b"token %d" % checkpoint.size)]
        if anchored:
            self.receipts[checkpoint.size] = RECEIPT
        return checkpoint

    def export(self, index: int, key: FeedKey | None = None, k: int = 1) -> Evidence:
        archive = Archive(lambda size: self.tokens.get(size, []), self.receipts.get, k=k)
        with self.store.read() as tx:
            evidence = export_evidence(tx, archive, key or self.key, index)
        assert parse_evidence(encode_evidence(evidence)) == evidence
        return evidence


@pytest.fixture
def node() -> Iterator[Node]:
    with closing(MemoryStore()) as store:
        yield Node(store)


def view(evidence: Evidence) -> LogView:
    """The log as a verifier sees it: every proof holds."""
    return verify_log(evidence.descriptor, evidence.checkpoints)


def shown(evidence: Evidence) -> list[tuple[int, list[int], bool, bool]]:
    """For each checkpoint its size, its leaves, and whether it comes with tokens and with a receipt."""
    return [
        (
            checkpoint.size,
            [leaf.index for leaf in member.leaves],
            bool(member.timestamps),
            member.anchor is not None,
        )
        for checkpoint, member in zip(view(evidence).checkpoints, evidence.checkpoints, strict=True)
    ]


# --- what there is no evidence for ----------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [-1, 1, 2**40])
def test_an_entry_that_does_not_exist(node: Node, index: int) -> None:
    node.append()
    node.add(node.who(), node.what(), stamped=True)
    with pytest.raises(MissingEvidenceError, match="no such entry"):
        node.export(index)


def test_a_feed_that_does_not_exist(node: Node) -> None:
    with pytest.raises(MissingEvidenceError, match="no such entry"):
        node.export(0, FeedKey(bytes(32)))


def test_a_foreign_feed(node: Node) -> None:
    manifest = Manifest(1, 1, (ManifestSigner(PHONE.public_key),))
    key = feed_key(manifest)
    with node.store.read() as tx:
        state = tx.feed(node.key)
    node.append()
    with node.store.read() as tx:
        nodes, (head,) = [tx.node(node.key, 0)], tx.heads(node.key)
        block = tx.block(node.key, 0)
    assert state is not None
    with node.store.write() as write:
        write.append(write.create_feed(key, encode_manifest(manifest), local=False), [block], [nodes], head, nodes)
    with pytest.raises(MissingEvidenceError, match="without identity"):
        node.export(0, key)


def test_a_store_without_a_log(node: Node) -> None:
    with closing(MemoryStore()) as bare:
        with bare.write() as tx:
            add_events(tx, node.identity, node.events)
        key = create_feed(bare, PHONE, node.identity, "ledger")
        FeedWriter(bare, key, PHONE).append([encode_entry(Entry("note", 0, {}))])
        with bare.read() as tx, pytest.raises(MissingEvidenceError, match="no checkpoint log"):
            export_evidence(tx, Archive(lambda _: [], lambda _: None), key, 0)


def test_an_entry_that_is_not_under_a_checkpoint(node: Node) -> None:
    node.append()
    node.add(node.who(), node.what(), stamped=True)
    node.append()
    assert node.export(0)
    with pytest.raises(MissingEvidenceError) as missing:
        node.export(1)
    assert "checkpoint create" in missing.value.hint


def test_an_entry_whose_checkpoint_is_not_timestamped(node: Node) -> None:
    node.append()
    node.add(node.who(), node.what(), anchored=True)
    with pytest.raises(MissingEvidenceError) as missing:
        node.export(0)
    assert "anchor run" in missing.value.hint


def test_an_identity_that_the_log_does_not_state(node: Node) -> None:
    node.append()
    node.add(OTHER_IDENTITY, node.what(), stamped=True)
    with pytest.raises(MissingEvidenceError, match="identity"):
        node.export(0)


# --- what is shown --------------------------------------------------------------------------------------------------


def test_the_first_head_that_covers_the_entry_under_the_first_timestamped_checkpoint(node: Node) -> None:
    node.append(2)
    node.add(node.who(), node.what())  # 1, 2
    node.append(2)
    node.add(node.who(), node.what(), stamped=True)  # 3, 4
    node.append()
    node.add(node.who(), node.what(), stamped=True, anchored=True)  # 5, 6
    for index, head, first in ((0, 2, 5), (1, 2, 5), (2, 4, 5), (3, 4, 5), (4, 6, 7)):
        evidence = node.export(index)
        size, leaves, stamped, _ = shown(evidence)[0]
        assert (size, stamped) == (first, True)
        assert head in leaves
        (statement,) = [statement for _, statement in view(evidence).statements(FeedHead)]
        proof = verify_proof(parse_manifest(evidence.manifest), parse_evidence_proof(evidence.proof))
        assert (proof.index, proof.trees) == (index, {statement.length: statement.tree_hash})


def test_the_newest_identity_head_and_the_newest_token_before_it(node: Node) -> None:
    node.append()
    first = node.add(node.who(), node.what(), stamped=True, anchored=True)  # 1, 2
    second = node.add(node.when(first), node.who(), stamped=True)  # 3, 4
    node.add(node.when(second), node.who(), stamped=True)  # 5, 6
    assert shown(node.export(0)) == [
        (3, [2], True, True),
        (5, [], True, False),
        (7, [5, 6], False, False),
    ]


def test_a_token_of_before_the_entry_cannot_be_shown(node: Node) -> None:
    """The first checkpoint of the file is the entry's, so an earlier one has no place in it."""
    before = node.add(node.who(), stamped=True)  # 1
    node.append()
    node.add(node.when(before), node.who(), node.what(), stamped=True)  # 2, 3, 4
    assert shown(node.export(0)) == [(5, [3, 4], True, False)]


def test_a_time_statement_without_its_tokens_is_not_shown(node: Node) -> None:
    node.append()
    first = node.add(node.who(), node.what(), stamped=True)
    second = node.add(node.when(first), node.who(), stamped=True)
    node.add(node.when(second), node.who())
    node.tokens[second.size] = []
    assert shown(node.export(0)) == [(3, [2], True, False), (5, [3], False, False), (7, [6], False, False)]


def test_a_token_that_came_after_the_log_had_named_the_others_is_left_out(node: Node) -> None:
    """Else the evidence would show other tokens than the log names, and fail."""
    node.append()
    first = node.add(node.who(), node.what(), stamped=True)
    node.add(node.when(first), node.who())
    named = tuple(node.tokens[first.size])
    node.tokens[first.size].append(TimestampEvidence(b"late"))
    assert node.export(0).checkpoints[0].timestamps == named


@pytest.mark.parametrize(
    ("anchored", "found"), [((0,), 3), ((1,), 4), ((2,), 5), ((1, 2), 4), ((), None), ((-1,), None)]
)
def test_the_first_final_anchor_that_covers_the_entry(node: Node, anchored: tuple[int, ...], found: int | None) -> None:
    node.receipts[1] = RECEIPT  # of a checkpoint before the entry
    node.append()
    node.add(node.who(), node.what(), stamped=True, anchored=0 in anchored)
    node.add(node.who(), anchored=1 in anchored)
    node.add(node.who(), anchored=2 in anchored)
    receipts = [size for size, _, _, has_receipt in shown(node.export(0)) if has_receipt]
    assert receipts == ([] if found is None else [found])


def test_events_up_to_the_newest_head_that_the_log_states(node: Node) -> None:
    node.append()
    node.add(node.who(), node.what(), stamped=True)
    node.accept(build_close(fold(node.events), time_ms=0))
    evidence = node.export(0)
    assert [parse_signed_event(event) for event in evidence.events] == node.events[:-1]
    node.add(node.who())
    assert [parse_signed_event(event) for event in node.export(0).events] == node.events


# --- a revoked device -----------------------------------------------------------------------------------------------


def test_the_first_head_that_shows_the_revocation_with_its_time(node: Node) -> None:
    node.append()
    first = node.add(node.who(), node.what(), stamped=True)  # 1, 2
    node.revoke(1)
    node.add(node.when(first), node.who(), stamped=True)  # 3, 4
    node.add(node.who(), stamped=True)  # 5
    assert shown(node.export(0)) == [(3, [2], True, False), (5, [3, 4], True, False), (6, [5], False, False)]


def test_a_revocation_whose_checkpoint_has_no_token_comes_with_the_next_that_has(node: Node) -> None:
    node.append()
    first = node.add(node.who(), node.what(), stamped=True)  # 1, 2
    node.revoke(1)
    node.add(node.when(first), node.who())  # 3, 4
    node.add(node.who(), stamped=True)  # 5
    assert shown(node.export(0)) == [(3, [2], True, False), (5, [3, 4], False, False), (6, [5], True, False)]


@pytest.mark.parametrize(
    ("logged", "last_good", "trees"),
    [(3, 3, {3}), (3, 2, {2, 3}), (2, 3, {2, 3}), (3, 1, {3})],
    ids=["the same", "last good is shorter", "last good is longer", "the entry is beyond"],
)
def test_the_proof_leads_to_the_logged_and_to_the_last_good_head(
    node: Node, logged: int, last_good: int, trees: set[int]
) -> None:
    for length in (1, 2, 3):
        node.append()
        if length == logged:
            node.add(node.who(), node.what(), stamped=True)
    node.revoke(last_good)
    node.add(node.who(), stamped=True)
    proof = node.export(1).proof
    verified = verify_proof(parse_manifest(node.export(1).manifest), parse_evidence_proof(proof))
    assert set(verified.trees) == trees


def test_a_last_good_head_that_is_not_here_is_not_led_to(node: Node) -> None:
    """The revocation came from elsewhere and vouches for more than this store holds."""
    node.append()
    node.add(node.who(), node.what(), stamped=True)
    event = build_revoke_device(
        fold(node.events),
        device=PHONE.public_key,
        last_good={node.key: LastGood(7, bytes(32))},
        reason=RevocationReason.LOST,
        time_ms=0,
    )
    node.accept(event)
    node.add(node.who(), stamped=True)
    evidence: Any = node.export(0)
    verified = verify_proof(parse_manifest(evidence.manifest), parse_evidence_proof(evidence.proof))
    assert set(verified.trees) == {1}


def test_the_first_checkpoint_that_k_authorities_have_stamped(node: Node) -> None:
    node.append()
    first = node.add(node.who(), node.what(), stamped=True, anchored=True)  # 1, 2
    second = node.add(node.when(first), node.who(), stamped=True)  # 3, 4
    node.tokens[second.size].append(TimestampEvidence(b"another"))
    node.add(node.when(second), node.who(), stamped=True)  # 5, 6
    assert shown(node.export(0, k=1))[0][0] == 3
    two = node.export(0, k=2)
    assert shown(two) == [(5, [2], True, False), (7, [5, 6], False, False)]
    assert len(two.checkpoints[0].timestamps) == 2
    assert shown(node.export(0, k=3))[0][0] == 3, "nowhere are there three: what there is"


def test_a_time_leaf_that_names_too_few_is_not_shown(node: Node) -> None:
    """What it does not name would have to stay out, and then too few would be left."""
    node.append()
    first = node.add(node.who(), node.what(), stamped=True, anchored=True)  # 1, 2
    named = node.when(first)
    node.tokens[first.size].append(TimestampEvidence(b"late"))
    node.add(named, node.who())  # 3, 4
    two = node.export(0, k=2)
    assert shown(two) == [(3, [2], True, True), (5, [4], False, False)]
    assert len(two.checkpoints[0].timestamps) == 2
    assert shown(node.export(0, k=1))[1][1] == [3, 4]
