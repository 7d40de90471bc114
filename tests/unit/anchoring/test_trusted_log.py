from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest

from anchoring.evidence import CheckpointEvidence, DescriptorEvidence, LeafEvidence
from anchoring.trusted_log import verify_log
from api.demo.forgery import ForgedLog
from identity.errors import AuditError, MalformedError, RootMismatch, SignatureMismatch, VerificationError
from identity.keys import Ed25519Signer
from ledger.log import consistency_proof, hash_leaf, inclusion_proof
from ledger.statement import FeedHead, IdentityHead, LogDescriptor, encode_statement
from ledger.storage.memory import MemoryStore
from ledger.store import StoredCheckpoint

KEY, THIEF = Ed25519Signer(bytes(32)), Ed25519Signer(bytes([1]) * 32)
DESCRIPTOR = LogDescriptor("vault.example", KEY.public_key)
Member = CheckpointEvidence


def who(seq: int) -> IdentityHead:
    return IdentityHead(bytes(32), seq, bytes(32))


def what(length: int) -> FeedHead:
    return FeedHead(bytes(32), length, bytes(32))


class Log:
    """Three checkpoints: leaves 1 and 2, then 3 and 4, then 5."""

    def __init__(self, store: MemoryStore, signer: Ed25519Signer = KEY, descriptor: LogDescriptor = DESCRIPTOR) -> None:
        self.store = store
        forged = ForgedLog(store, signer, descriptor)
        self.checkpoints = [forged.add(batch) for batch in ((who(0), what(1)), (who(1), what(2)), (who(2),))]
        with store.read() as tx:
            self.leaves = list(tx.log_leaves(0, 6))

    def descriptor(self, size: int = 3) -> DescriptorEvidence:
        with self.store.read() as tx:
            return DescriptorEvidence(self.leaves[0], tuple(inclusion_proof(tx.log_node, 0, size)))

    def leaf(self, index: int, size: int) -> LeafEvidence:
        with self.store.read() as tx:
            return LeafEvidence(index, self.leaves[index], tuple(inclusion_proof(tx.log_node, index, size)))

    def member(self, number: int, *leaves: int, after: int = 0) -> Member:
        checkpoint: StoredCheckpoint = self.checkpoints[number]
        with self.store.read() as tx:
            consistency = tuple(consistency_proof(tx.log_node, after, checkpoint.size)) if after else ()
        shown = tuple(self.leaf(index, checkpoint.size) for index in leaves)
        return CheckpointEvidence(checkpoint.note, consistency, shown, (), None)


@pytest.fixture
def log() -> Iterator[Log]:
    with closing(MemoryStore()) as store:
        yield Log(store)


def test_what_is_shown_is_what_the_log_holds(log: Log) -> None:
    members = (log.member(0, 1, 2), log.member(1, 4, after=3), log.member(2, 5, after=5))
    view = verify_log(log.descriptor(), members)
    assert (view.log_id, view.descriptor) == (hash_leaf(log.leaves[0]), DESCRIPTOR)
    assert [checkpoint.size for checkpoint in view.checkpoints] == [3, 5, 6]
    assert [(leaf.index, leaf.checkpoint, leaf.statement) for leaf in view.leaves] == [
        (1, 0, who(0)),
        (2, 0, what(1)),
        (4, 1, what(2)),
        (5, 2, who(2)),
    ]
    assert [head for _, head in view.statements(IdentityHead)] == [who(0), who(2)]
    assert [leaf.index for leaf, _ in view.statements(FeedHead)] == [2, 4]
    assert [view.position(size) for size in (2, 3, 5, 6)] == [None, 0, 1, 2]


def test_a_leaf_stands_under_the_first_checkpoint_that_is_shown_and_covers_it(log: Log) -> None:
    view = verify_log(log.descriptor(6), (log.member(2, 1, 5),))
    assert [leaf.index for leaf in view.leaves] == [1, 5]


def refused(error: type[AuditError], descriptor: DescriptorEvidence, *members: Member) -> None:
    with pytest.raises(error) as found:
        verify_log(descriptor, members)
    assert type(found.value) is error


def test_leaves_out_of_place(log: Log) -> None:
    good = log.member(0)
    for leaves in ((2, 1), (1, 1)):
        refused(MalformedError, log.descriptor(), log.member(0, *leaves))
    for index in (3, 4, 6, 2**53):
        refused(MalformedError, log.descriptor(), replace(good, leaves=(replace(log.leaf(1, 3), index=index),)))
    refused(MalformedError, log.descriptor(), good, log.member(1, 2, after=3))
    refused(MalformedError, log.descriptor(), replace(good, leaves=(log.leaf(0, 3),)))


def test_paths_that_lead_elsewhere(log: Log) -> None:
    good = log.leaf(1, 3)
    for leaf, error in (
        (replace(good, index=2), MalformedError),
        (replace(good, leaf=log.leaves[2]), RootMismatch),
        (replace(good, proof=good.proof[:-1]), MalformedError),
        (replace(good, proof=(*good.proof, bytes(32))), MalformedError),
        (replace(good, proof=(bytes(32), *good.proof[1:])), RootMismatch),
    ):
        refused(error, log.descriptor(), replace(log.member(0), leaves=(leaf,)))
    refused(RootMismatch, replace(log.descriptor(), proof=(bytes(32), bytes(32))), log.member(0))
    refused(MalformedError, log.descriptor(6), log.member(0))


def test_a_leaf_that_is_no_statement(log: Log) -> None:
    with closing(MemoryStore()) as store:
        other = Log(store)
        bad = b"holdfast/v1 rumour\n\xa0"
        leaf = replace(other.leaf(1, 3), leaf=bad)
        with pytest.raises((MalformedError, RootMismatch)):
            verify_log(other.descriptor(), (replace(other.member(0), leaves=(leaf,)),))


def test_the_order_of_checkpoints(log: Log) -> None:
    first, second = log.member(0), log.member(1, after=3)
    refused(MalformedError, log.descriptor(5), log.member(1), replace(first, consistency=second.consistency))
    refused(MalformedError, log.descriptor(), first, first)
    refused(MalformedError, log.descriptor(), first, log.member(1))
    refused(MalformedError, log.descriptor(5), second)
    refused(RootMismatch, log.descriptor(), first, replace(second, consistency=(bytes(32),) * len(second.consistency)))


def test_another_history_of_the_same_log_is_not_consistent(log: Log) -> None:
    with closing(MemoryStore()) as store:
        forged = ForgedLog(store, KEY, DESCRIPTOR)
        forged.add((who(0), what(9)))
        longer = forged.add((who(1), what(10)))
        with store.read() as tx:
            consistency = tuple(consistency_proof(tx.log_node, 3, 5))
    refused(RootMismatch, log.descriptor(), log.member(0), Member(longer.note, consistency, (), (), None))


def test_notes_of_others(log: Log) -> None:
    with closing(MemoryStore()) as store:
        by_thief = Log(store, THIEF).member(0)
    refused(SignatureMismatch, log.descriptor(), by_thief)
    with closing(MemoryStore()) as store:
        elsewhere = Log(store, KEY, replace(DESCRIPTOR, name="elsewhere.example")).member(0)
    refused(VerificationError, log.descriptor(), elsewhere)
    with closing(MemoryStore()) as store:
        # A name is not enough: the log id is in the origin, and the key is in the id.
        namesake = Log(store, THIEF, replace(DESCRIPTOR, key=THIEF.public_key)).member(0)
    refused(VerificationError, log.descriptor(), namesake)


@pytest.mark.parametrize("line", ["\u2014 witness.example AAAAAAAA\n", "\u2014 {origin} AAAAAAAA\n"])
def test_a_note_with_lines_of_others(log: Log, line: str) -> None:
    member = log.member(0)
    origin = member.note.split("\n")[0]
    more = replace(member, note=member.note + line.format(origin=origin))
    refused(MalformedError, log.descriptor(), more)


@pytest.mark.parametrize("leaf", [b"", b"holdfast/v1 log\n", encode_statement(who(0)), encode_statement(what(1))])
def test_a_descriptor_that_is_none(log: Log, leaf: bytes) -> None:
    refused(MalformedError, replace(log.descriptor(), leaf=leaf), log.member(0))


def test_a_descriptor_of_a_version_that_is_not_known(log: Any) -> None:
    with pytest.raises(MalformedError):
        verify_log(replace(log.descriptor(), leaf=log.leaves[0].replace(b"/v1 ", b"/v2 ")), (log.member(0),))
