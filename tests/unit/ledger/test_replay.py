from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from identity.errors import (
    LogRuleViolation,
    MalformedError,
    RootMismatch,
    SignatureMismatch,
    UnsupportedVersion,
    VerificationError,
)
from identity.keys import Ed25519Signer
from ledger.checkpoint import Checkpoint, sign_checkpoint
from ledger.log import Frontier, hash_leaf
from ledger.replay import LogReplay, ReplayResult
from ledger.statement import (
    AnchorStatement,
    ChainBinding,
    FeedHead,
    IdentityHead,
    LogDescriptor,
    Statement,
    TimeStatement,
    encode_statement,
    log_origin,
)

SIGNER = Ed25519Signer(bytes(range(32)))
CHAIN = ChainBinding(31337, bytes(20), bytes(20))
DESCRIPTOR = LogDescriptor("vault.example", SIGNER.public_key, CHAIN)
LOG_ID = hash_leaf(encode_statement(DESCRIPTOR))


def digest(number: int) -> bytes:
    return number.to_bytes(32, "big")


ALICE, BOB = digest(1), digest(2)
FEED_1, FEED_2 = digest(11), digest(12)


def identity(who: bytes, seq: int, value: int | None = None) -> IdentityHead:
    return IdentityHead(who, seq, digest(1000 + seq if value is None else value))


def feed(key: bytes, length: int, value: int | None = None) -> FeedHead:
    return FeedHead(key, length, digest(2000 + length if value is None else value))


def time(size: int, value: int = 5) -> TimeStatement:
    return TimeStatement(size, (digest(value),))


def anchor(size: int, value: int = 6) -> AnchorStatement:
    return AnchorStatement(size, digest(value), value, digest(value))


class Log:
    """Writes a log as it is told, right or wrong, and replays it as it goes."""

    def __init__(self, descriptor: LogDescriptor = DESCRIPTOR, **options: Any) -> None:
        self.descriptor = descriptor
        self.replay = LogReplay(**options)
        self.frontier = Frontier()
        self.add(descriptor)

    def add(self, *statements: Statement) -> Log:
        for statement in statements:
            leaf = encode_statement(statement)
            self.replay.add_leaf(leaf)
            self.frontier.append(hash_leaf(leaf))
        return self

    def note(self, **changes: Any) -> str:
        origin = log_origin(self.descriptor, hash_leaf(encode_statement(self.descriptor)))
        members = {"origin": origin, "size": self.frontier.size, "root": self.frontier.root(), **changes}
        return sign_checkpoint(SIGNER, Checkpoint(**members))

    def sign(self) -> Log:
        self.replay.add_checkpoint(self.note())
        return self

    def batch(self, *statements: Statement) -> Log:
        return self.add(*statements).sign()


def started() -> Log:
    """Descriptor, alice and feed 1 at length 3: a checkpoint of size 3."""
    return Log().batch(identity(ALICE, 0), feed(FEED_1, 3))


def refuse(log: Log, statements: Sequence[Statement], reason: str) -> None:
    """The last of the statements is the one that is refused."""
    log.add(*statements[:-1])
    size = log.replay.size
    with pytest.raises(LogRuleViolation, match=reason) as caught:
        log.add(statements[-1])
    assert caught.value.index == size


def test_a_log_with_everything() -> None:
    log = started()
    log.batch(time(3), anchor(3), identity(ALICE, 1), identity(BOB, 0), feed(FEED_1, 4), feed(FEED_2, 1))
    log.batch(identity(ALICE, 1), identity(BOB, 0))
    log.batch(time(3, 9), time(9), time(11), anchor(9), identity(ALICE, 2), identity(BOB, 0), feed(FEED_2, 2))
    result = log.replay.finish()
    assert result == ReplayResult(
        log_id=LOG_ID,
        descriptor=DESCRIPTOR,
        checkpoints=4,
        last=result.last,
        feeds={FEED_1: feed(FEED_1, 4), FEED_2: feed(FEED_2, 2)},
        identities={ALICE: identity(ALICE, 2), BOB: identity(BOB, 0)},
        feed_heads_read=0,
        feed_heads_chained=4,
        identity_heads_read=0,
        identity_heads_chained=7,
    )
    assert result.last.size == log.replay.size == log.frontier.size
    assert result.last.root == log.frontier.root()


# --- rule 1: the descriptor -----------------------------------------------------------------------------------------


def test_leaf_0_and_no_other_is_the_descriptor() -> None:
    with pytest.raises(LogRuleViolation, match="descriptor"):
        LogReplay().add_leaf(encode_statement(identity(ALICE, 0)))
    refuse(Log(), [DESCRIPTOR], "descriptor")
    refuse(started(), [LogDescriptor("other", SIGNER.public_key)], "descriptor")


def test_another_log_than_the_expected_one() -> None:
    assert Log(expected_log_id=LOG_ID).replay.log_id == LOG_ID
    with pytest.raises(VerificationError):
        Log(LogDescriptor("vault.example", SIGNER.public_key), expected_log_id=LOG_ID)


def test_leaves_that_are_no_statement() -> None:
    for leaf, error in ((b"", MalformedError), (b"holdfast/v1 note\n\xa0", UnsupportedVersion)):
        with pytest.raises(error):
            LogReplay().add_leaf(leaf)
        with pytest.raises(error):
            started().replay.add_leaf(leaf)


# --- rule 2: checkpoints --------------------------------------------------------------------------------------------


def test_a_checkpoint_of_another_size_or_root() -> None:
    for change in ({"size": 2}, {"size": 4}):
        log = Log().add(identity(ALICE, 0), feed(FEED_1, 3))
        with pytest.raises(LogRuleViolation, match="stands after 3 leaves"):
            log.replay.add_checkpoint(log.note(**change))
    log = Log().add(identity(ALICE, 0), feed(FEED_1, 3))
    with pytest.raises(RootMismatch) as caught:
        log.replay.add_checkpoint(log.note(root=bytes(32)))
    assert (caught.value.expected, caught.value.computed) == (bytes(32), log.frontier.root())


def test_a_leaf_that_is_not_the_one_that_was_signed() -> None:
    log = Log().add(identity(ALICE, 0))
    log.replay.add_leaf(encode_statement(feed(FEED_1, 4)))
    log.frontier.append(hash_leaf(encode_statement(feed(FEED_1, 3))))
    with pytest.raises(RootMismatch):
        log.sign()


def test_a_checkpoint_by_another_key_or_of_another_log() -> None:
    log = Log().add(identity(ALICE, 0))
    other = Checkpoint(log_origin(DESCRIPTOR, LOG_ID), log.frontier.size, log.frontier.root())
    with pytest.raises(SignatureMismatch):
        log.replay.add_checkpoint(sign_checkpoint(Ed25519Signer(bytes(32)), other))
    with pytest.raises(VerificationError):
        log.replay.add_checkpoint(log.note(origin="vault.example/" + "0" * 64))
    with pytest.raises(MalformedError):
        log.replay.add_checkpoint("")


def test_a_checkpoint_before_the_descriptor() -> None:
    with pytest.raises(MalformedError):
        LogReplay().add_checkpoint(started().note())


def test_two_checkpoints_without_a_leaf_between_them() -> None:
    with pytest.raises(LogRuleViolation, match="same size"):
        started().sign()


def test_leaves_after_the_last_checkpoint() -> None:
    for log in (Log(), Log().add(identity(ALICE, 0)), started().add(identity(ALICE, 0))):
        with pytest.raises(LogRuleViolation, match="does not end with a checkpoint"):
            log.replay.finish()
    with pytest.raises(LogRuleViolation):
        LogReplay().finish()


def test_a_checkpoint_behind_the_close() -> None:
    Log(closed_at=3).batch(identity(ALICE, 0), feed(FEED_1, 3)).replay.finish()
    with pytest.raises(LogRuleViolation, match="closed"):
        Log(closed_at=3).batch(identity(ALICE, 0), feed(FEED_1, 3)).batch(identity(ALICE, 0))


# --- rule 3: order --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statements",
    [
        [anchor(3), time(3)],
        [identity(ALICE, 0), time(3)],
        [identity(ALICE, 0), anchor(3)],
        [identity(ALICE, 0), feed(FEED_1, 4), time(3)],
        [identity(ALICE, 0), feed(FEED_1, 4), identity(BOB, 0)],
        [identity(BOB, 0), identity(ALICE, 0)],
        [identity(ALICE, 0), identity(ALICE, 0)],
        [identity(ALICE, 0), identity(ALICE, 1)],
        [identity(ALICE, 0), feed(FEED_2, 1), feed(FEED_1, 4)],
        [identity(ALICE, 0), feed(FEED_1, 4), feed(FEED_1, 5)],
        [time(3), time(3)],
        [time(3, 9), time(3, 5)],
        [anchor(3, 9), anchor(3, 5)],
    ],
)
def test_order_within_a_batch(statements: list[Statement]) -> None:
    refuse(started(), statements, "out of order, or twice")


def test_statements_of_an_earlier_size_come_first() -> None:
    log = started().batch(identity(ALICE, 0), feed(FEED_1, 4))
    refuse(log, [time(5), time(3)], "out of order")


def test_the_order_starts_anew_with_each_batch() -> None:
    started().batch(identity(ALICE, 0), feed(FEED_1, 4)).batch(time(3), identity(ALICE, 0)).replay.finish()


# --- rule 4: identities ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("statements", [[], [feed(FEED_1, 4)], [identity(BOB, 0)], [identity(BOB, 0), feed(FEED_1, 4)]])
def test_every_checkpoint_restates_every_identity(statements: list[Statement]) -> None:
    log = started().add(*statements)
    with pytest.raises(LogRuleViolation, match=r"states|same size"):
        log.sign()


def test_no_checkpoint_without_an_identity() -> None:
    for statements in ([], [feed(FEED_1, 1)]):
        log = Log().add(*statements)
        with pytest.raises(LogRuleViolation, match="0 of the log's 0 identities"):
            log.sign()


def test_an_identity_never_goes_back() -> None:
    log = Log().batch(identity(ALICE, 2))
    refuse(log, [identity(ALICE, 1)], "goes back from event 2 to 1")


def test_an_identity_has_one_event_of_a_number() -> None:
    refuse(started(), [identity(ALICE, 0, 77)], "has another event 0")


# --- rule 5: feeds --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (feed(FEED_1, 2), "goes back from length 3 to 2"),
        (feed(FEED_1, 3), "is stated again at length 3"),
        (feed(FEED_1, 3, 77), "has another tree than before at length 3"),
    ],
)
def test_a_feed_must_grow(head: FeedHead, reason: str) -> None:
    refuse(started(), [identity(ALICE, 0), head], reason)


# --- rule 6: time and anchor statements -----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 4, 2**53])
def test_a_statement_about_no_earlier_checkpoint(size: int) -> None:
    refuse(started(), [time(size)], "not the size of an earlier checkpoint")
    refuse(started(), [anchor(size)], "not the size of an earlier checkpoint")
    refuse(Log(), [time(size)], "not the size of an earlier checkpoint")


def test_a_statement_is_made_once() -> None:
    for statement in (time(3), anchor(3)):
        log = started().batch(statement, identity(ALICE, 0))
        refuse(log, [statement], "stands in the log already")
    started().batch(time(3), identity(ALICE, 0)).batch(time(3, 6), identity(ALICE, 0)).replay.finish()


def test_an_anchor_needs_a_chain() -> None:
    log = Log(LogDescriptor("vault.example", SIGNER.public_key))
    log.batch(identity(ALICE, 0), feed(FEED_1, 3))
    refuse(log, [anchor(3)], "names no chain")


# --- what stands behind the heads -----------------------------------------------------------------------------------


def test_heads_are_compared_with_what_is_at_hand() -> None:
    def tree_hash_at(key: bytes, length: int) -> bytes | None:
        return digest(2000 + length) if key == FEED_1 and length <= 4 else None

    def event_digest_at(who: bytes, seq: int) -> bytes | None:
        return digest(1000 + seq) if who == ALICE else None

    def log() -> Log:
        log = Log(tree_hash_at=tree_hash_at, event_digest_at=event_digest_at)
        return log.batch(identity(ALICE, 0), identity(BOB, 0), feed(FEED_1, 3), feed(FEED_2, 1, 99))

    result = log().batch(identity(ALICE, 1), identity(BOB, 0), feed(FEED_1, 4)).replay.finish()
    assert (result.feed_heads_read, result.feed_heads_chained) == (2, 1)
    assert (result.identity_heads_read, result.identity_heads_chained) == (2, 2)
    result = log().batch(identity(ALICE, 1), identity(BOB, 0), feed(FEED_1, 5)).replay.finish()
    assert (result.feed_heads_read, result.feed_heads_chained) == (1, 2)
    refuse(log(), [identity(ALICE, 0), identity(BOB, 0), feed(FEED_1, 4, 99)], "the feed itself holds")
    refuse(log(), [identity(ALICE, 1, 99)], "the identity itself holds")
