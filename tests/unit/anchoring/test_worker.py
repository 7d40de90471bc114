"""What a round of anchoring does when a part of it fails. Cut off at any step: tests/faults/test_anchoring_crash.py."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import pytest

from anchoring.chain.outbox import AnchorTarget
from anchoring.chain.transactions import LocalKey
from anchoring.storage import AnchorState, load_anchors, load_timestamps
from anchoring.timestamp import Authority, TimestampEvidence, VerifiedToken
from anchoring.tsa.dev import DevelopmentAuthority
from anchoring.tsa.pool import PoolPolicy
from anchoring.tsa.source import AcquiredToken, EmbeddedSource
from anchoring.worker import AnchorSender, run_round
from identity.errors import (
    AuditError,
    ConfigurationError,
    MissingEvidenceError,
    StorageError,
    TokenRejected,
    TokenUndecided,
    TransportError,
)
from identity.history import build_bind_log, build_inception, fold, key_commitment, sign_event
from identity.keys import Ed25519Signer
from ledger.checkpoint import imprint_message
from ledger.identities import add_events
from ledger.log_writer import LogWriter
from ledger.statement import ChainBinding, LogDescriptor, log_origin
from ledger.storage.sql import SqlStore
from ledger.storage.sqlite import open_sqlite

NOW: Final = 1_767_225_600_000
LOG_KEY: Final = Ed25519Signer(bytes(range(32)))
ANCHOR_KEY: Final = LocalKey(sha256(b"anchor").digest())
CHAIN_ID: Final = 31337
DESCRIPTOR: Final = LogDescriptor(
    "vault.example", LOG_KEY.public_key, ChainBinding(CHAIN_ID, bytes(20), ANCHOR_KEY.address)
)


class Source:
    """An authority that answers with what the test says, or raises it."""

    def __init__(self, name: str, error: AuditError | None = None) -> None:
        self.name = name
        self.authority = Authority(b"", "1.2.3", f"CN={name}")
        self.error = error
        self.asked: list[tuple[bytes, int]] = []

    def acquire(self, message: bytes, now_ms: int) -> AcquiredToken:
        self.asked.append((message, now_ms))
        if self.error is not None:
            raise self.error
        verified = VerifiedToken(
            now_ms, 1, now_ms - 1, now_ms + 1, self.name, "1.2.3", 1, False, now_ms + 1, frozenset({self.name.encode()})
        )
        response = f"{self.name} {len(self.asked)}".encode()
        return AcquiredToken(TimestampEvidence(response, (b"certificate",), (b"crl",), (b"ocsp",)), verified)


class SilentChain:
    """A node that answers nothing but its chain id."""

    def __init__(self, chain_id: int = CHAIN_ID) -> None:
        self._chain_id = chain_id

    def chain_id(self) -> int:
        return self._chain_id

    def __getattr__(self, name: str) -> Any:
        def fail(*_arguments: object) -> None:
            raise TransportError(f"no answer to {name}")

        return fail


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlStore]:
    with closing(open_sqlite(tmp_path / "vault.db", create=True)) as opened:
        yield opened


@pytest.fixture
def log_id(store: SqlStore) -> bytes:
    return LogWriter(store, LOG_KEY).create(DESCRIPTOR)


@pytest.fixture
def size(store: SqlStore, log_id: bytes) -> int:
    """Of the newest checkpoint."""
    root = Ed25519Signer(bytes(32))
    inception = build_inception(
        label="x", root_keys=[root.public_key], next_digests=[key_commitment(bytes(32))], time_ms=0
    )
    events = [sign_event(inception, [(0, root)])]
    events.append(sign_event(build_bind_log(fold(events), log=log_id, time_ms=0), [(0, root)]))
    with store.write() as tx:
        add_events(tx, fold(events).identity, events)
    return LogWriter(store, LOG_KEY).append_checkpoint().size


def sender(chain: Any) -> AnchorSender:
    binding = DESCRIPTOR.chain
    assert binding is not None
    target = AnchorTarget(binding.id, binding.contract, binding.owner, bytes(32), bytes(32))
    return AnchorSender(chain, ANCHOR_KEY, target)


def tokens(store: SqlStore, size: int) -> list[tuple[str, bytes]]:
    with store.read() as tx:
        return [(stored.authority, stored.response) for stored in load_timestamps(tx.connection, size)]


def states(store: SqlStore) -> dict[int, AnchorState]:
    with store.read() as tx:
        return {anchor.size: anchor.state for anchor in load_anchors(tx.connection)}


def test_without_a_checkpoint_there_is_nothing_to_do(store: SqlStore, log_id: bytes) -> None:
    with pytest.raises(MissingEvidenceError) as missing:
        run_round(store, log_id, DESCRIPTOR, [Source("one")], None, NOW)
    assert missing.value.hint


def test_every_authority_stamps_the_newest_checkpoint_once(store: SqlStore, log_id: bytes, size: int) -> None:
    one, two = Source("one"), Source("two")
    done = run_round(store, log_id, DESCRIPTOR, [one, two], None, NOW)
    assert (done.size, sorted(done.tokens), done.changes, done.failures) == (size, ["one", "two"], [], [])
    with store.read() as tx:
        (checkpoint,) = tx.checkpoints()
        (first, _) = load_timestamps(tx.connection, size)
    message = imprint_message(checkpoint.note, log_origin(DESCRIPTOR, log_id), LOG_KEY.public_key)
    assert one.asked == two.asked == [(message, NOW)]
    assert (first.certificates, first.crls, first.ocsps) == ((b"certificate",), (b"crl",), (b"ocsp",))
    assert (first.gen_time_ms, first.acquired_ms) == (NOW, NOW)
    again = run_round(store, log_id, DESCRIPTOR, [one, two], None, NOW + 1)
    assert again.tokens == {}
    assert len(one.asked) == len(two.asked) == 1
    newer = LogWriter(store, LOG_KEY).append_checkpoint(restate=True).size
    run_round(store, log_id, DESCRIPTOR, [one], None, NOW + 2)
    assert tokens(store, newer) == [("one", b"one 2")]
    assert tokens(store, size) == [("one", b"one 1"), ("two", b"two 1")]


@pytest.mark.parametrize(
    "error",
    [
        TransportError("unreachable"),
        TokenRejected("POLICY", "another policy"),
        TokenUndecided("REVOCATION_MISSING", "no list"),
    ],
)
def test_an_authority_that_fails_stops_nothing_else_and_is_asked_again(
    store: SqlStore, log_id: bytes, size: int, error: AuditError
) -> None:
    bad, good = Source("bad", error), Source("good")
    done = run_round(store, log_id, DESCRIPTOR, [bad, good], None, NOW)
    assert [(failure.what, failure.error) for failure in done.failures] == [("bad", error)]
    assert tokens(store, size) == [("good", b"good 1")]
    bad.error = None
    assert list(run_round(store, log_id, DESCRIPTOR, [bad, good], None, NOW).tokens) == ["bad"]
    assert (len(bad.asked), len(good.asked)) == (2, 1)


def test_a_chain_that_fails_leaves_tokens_and_the_request(store: SqlStore, log_id: bytes, size: int) -> None:
    done = run_round(store, log_id, DESCRIPTOR, [Source("one")], sender(SilentChain()), NOW)
    assert [failure.what for failure in done.failures] == [f"chain {CHAIN_ID}"]
    assert isinstance(done.failures[0].error, TransportError)
    assert tokens(store, size) == [("one", b"one 1")]
    assert states(store) == {size: AnchorState.PENDING}
    newer = LogWriter(store, LOG_KEY).append_checkpoint(restate=True).size
    run_round(store, log_id, DESCRIPTOR, [], sender(SilentChain()), NOW)
    assert states(store) == {newer: AnchorState.PENDING}, "nothing was sent, so the newer one covers it"


def test_a_chain_that_is_another_one_is_not_a_matter_of_trying_again(store: SqlStore, log_id: bytes, size: int) -> None:
    with pytest.raises(ConfigurationError, match="chain"):
        run_round(store, log_id, DESCRIPTOR, [Source("one")], sender(SilentChain(1)), NOW)
    assert tokens(store, size) == [("one", b"one 1")], "what was acquired before is kept"


def test_without_a_chain_nothing_is_anchored(store: SqlStore, log_id: bytes, size: int) -> None:
    run_round(store, log_id, DESCRIPTOR, [Source("one")], None, NOW)
    assert states(store) == {}


def test_a_store_that_cannot_be_written_to_ends_the_round(
    store: SqlStore, log_id: bytes, tmp_path: Path, size: int
) -> None:
    store.close()
    with closing(open_sqlite(tmp_path / "vault.db", read_only=True)) as read_only, pytest.raises(StorageError):
        run_round(read_only, log_id, DESCRIPTOR, [Source("one")], None, NOW)


def test_how_many_have_stamped_is_counted_over_rounds_and_what_failed_waits(
    store: SqlStore, log_id: bytes, size: int, tmp_path: Path
) -> None:
    authority = DevelopmentAuthority(tmp_path / "tsa", clock=lambda: NOW)
    real, bad, twin = EmbeddedSource(authority), Source("bad", TransportError("down")), Source("twin")
    first = run_round(store, log_id, DESCRIPTOR, [real, bad], None, NOW, pool=PoolPolicy(k=2))
    assert (first.authorities, first.wanted, first.succeeded) == (1, 2, False)
    assert first.failures[0].by_authority
    second = run_round(
        store, log_id, DESCRIPTOR, [real, bad, twin], None, NOW + 1, pool=PoolPolicy(k=2), troubles=first.troubles
    )
    assert (second.authorities, second.wanted, second.succeeded) == (2, 2, True)
    assert (list(second.backed_off), second.failures, len(bad.asked)) == (["bad"], [], 1)
    gone = run_round(store, log_id, DESCRIPTOR, [real], None, NOW, troubles=second.troubles)
    assert gone.troubles == {}, "of an authority that is no longer there nothing is remembered"


def test_enough_authorities_are_a_success_whoever_else_failed(store: SqlStore, log_id: bytes, size: int) -> None:
    done = run_round(store, log_id, DESCRIPTOR, [Source("a"), Source("bad", TransportError("down"))], None, NOW)
    assert done.succeeded
    assert [failure.what for failure in done.failures] == ["bad"]


def test_a_chain_that_fails_is_no_success(store: SqlStore, log_id: bytes, size: int) -> None:
    assert not run_round(store, log_id, DESCRIPTOR, [Source("a")], sender(SilentChain()), NOW).succeeded


def test_without_authorities_none_are_wanted(store: SqlStore, log_id: bytes, size: int) -> None:
    assert run_round(store, log_id, DESCRIPTOR, [], None, NOW, pool=PoolPolicy(k=2)).succeeded
