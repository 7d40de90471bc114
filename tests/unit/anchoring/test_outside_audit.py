"""An outsider's audit, as far as it needs no chain. With one: tests/faults/test_rollback.py, chain/test_check.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Final

import pytest

from anchoring.chain.check import ChainView
from anchoring.chain.deploy import close_log, deploy_contract
from anchoring.chain.dev import DevChain
from anchoring.chain.outbox import AnchorTarget
from anchoring.chain.transactions import LocalKey
from anchoring.contracts import load_contract
from anchoring.outside_audit import OutsideAudit, audit_export, read_descriptor
from anchoring.receipt import DEVELOPMENT_CHAIN_ID
from anchoring.rollback import RollbackState
from api.demo.forgery import ForgedLog, send_anchor
from identity.errors import AuditError, LogRuleViolation, MalformedError, TransportError, VerificationError
from identity.history import SignedEvent, build_bind_log, build_inception, fold, key_commitment, sign_event
from identity.keys import Ed25519Signer
from identity.keystore import KeyRing
from ledger.identities import add_events
from ledger.log import root_at
from ledger.log_transfer import export_log
from ledger.log_writer import LogWriter
from ledger.statement import ChainBinding, FeedHead, IdentityHead, LogDescriptor
from ledger.storage.memory import MemoryStore
from ledger.store import StoredCheckpoint

ROOT, LOG_KEY = Ed25519Signer(bytes(32)), Ed25519Signer(bytes([1]) * 32)
OWNER: Final = sha256(b"owner").digest()
NOW: Final = 1_767_225_600_000


class Log:
    """An identity's log; each checkpoint restates the identity and nothing else."""

    def __init__(self, store: MemoryStore, descriptor: LogDescriptor) -> None:
        self.store, self.descriptor = store, descriptor
        self.id = LogWriter(store, LOG_KEY).create(descriptor)
        inception = build_inception(
            label="x", root_keys=[ROOT.public_key], next_digests=[key_commitment(bytes(32))], time_ms=0
        )
        self.events: list[SignedEvent] = [sign_event(inception, [(0, ROOT)])]
        self.events.append(sign_event(build_bind_log(fold(self.events), log=self.id, time_ms=0), [(0, ROOT)]))
        with store.write() as tx:
            add_events(tx, fold(self.events).identity, self.events)

    def add(self) -> StoredCheckpoint:
        return LogWriter(self.store, LOG_KEY).append_checkpoint(restate=True)

    def export(self) -> bytes:
        data = BytesIO()
        export_log(self.store, data)
        return data.getvalue()


def audit(
    log: Log,
    view: Callable[[LogDescriptor], ChainView | None] = lambda _: None,
    *,
    data: bytes | None = None,
    trusted: Sequence[bytes] | None = None,
) -> OutsideAudit:
    exported = log.export() if data is None else data

    def reopen() -> BinaryIO:
        return BytesIO(exported)

    return audit_export(reopen, frozenset([log.id] if trusted is None else trusted), view, NOW)


@pytest.fixture
def log() -> Iterator[Log]:
    """Without a chain."""
    with closing(MemoryStore()) as store:
        yield Log(store, LogDescriptor("vault.example", LOG_KEY.public_key))


def test_the_descriptor_is_the_first_leaf(log: Log) -> None:
    log.add()
    assert read_descriptor(BytesIO(log.export())) == (log.id, log.descriptor)


@pytest.mark.parametrize("data", [b"", b"holdfast/v1 log-export\n", b"\0" * 100])
def test_what_is_no_export(log: Log, data: bytes) -> None:
    with pytest.raises(MalformedError):
        read_descriptor(BytesIO(data))
    with pytest.raises(MalformedError):
        audit(log, data=data)


def test_a_cut_export_is_none(log: Log) -> None:
    log.add()
    data = log.export()
    for length in range(30, len(data), 7):
        with pytest.raises(AuditError):
            audit(log, data=data[:length])


def test_a_log_that_the_policy_does_not_name_is_refused(log: Log) -> None:
    log.add()
    with pytest.raises(VerificationError, match="does not name"):
        audit(log, trusted=[bytes(32)])


def test_a_log_without_a_chain_is_replayed_and_no_more(log: Log) -> None:
    log.add()
    found = audit(log)
    assert (found.check.state, found.check.local_size) == (RollbackState.NO_CHAIN, 2)
    assert found.log.replay.checkpoints == 1
    assert set(found.log.histories) == {fold(log.events).identity}


def test_a_chain_that_the_policy_does_not_name_leaves_it_open() -> None:
    with closing(MemoryStore()) as store:
        log = Log(store, LogDescriptor("vault.example", LOG_KEY.public_key, ChainBinding(1, bytes(20), bytes(20))))
        log.add()
        found = audit(log)
    assert found.check.state is RollbackState.UNVERIFIED
    assert "does not name chain 1" in found.check.detail


def test_a_log_that_restates_an_older_identity_head_breaks_a_rule(log: Log) -> None:
    """What one evidence file cannot show (docs/limitations.md)."""
    log.add()
    older = log.events[0]
    first = fold([older])
    ForgedLog(log.store, LOG_KEY).add([IdentityHead(first.identity, first.seq, first.head)])
    with pytest.raises(LogRuleViolation, match="goes back"):
        audit(log)


# --- with a chain ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevChain]:
    path: Path = tmp_path_factory.mktemp("chain") / "chain.db"
    with DevChain(path, create=True, clock_s=lambda: NOW // 1000) as opened:
        opened.fund(LocalKey(OWNER).address, 10**20)
        yield opened


@pytest.fixture
def anchored(chain: DevChain) -> Iterator[Log]:
    """Three checkpoints, of sizes 2, 3 and 4; the first two are anchored. Each test has a contract of its own."""
    key = LocalKey(OWNER)
    nonce = chain.transaction_count(key.address)
    contract = deploy_contract(chain, key)
    with closing(MemoryStore()) as store:
        name = f"vault-{nonce}.example"
        log = Log(
            store, LogDescriptor(name, LOG_KEY.public_key, ChainBinding(DEVELOPMENT_CHAIN_ID, contract, key.address))
        )
        before = 0
        for _ in range(2):
            checkpoint = log.add()
            send(chain, log, before, checkpoint)
            before = checkpoint.size
        log.add()
        yield log


def send(chain: DevChain, log: Log, before: int, checkpoint: StoredCheckpoint) -> None:
    assert log.descriptor.chain is not None
    ring = KeyRing((), 0, {}, None, OWNER)
    assert send_anchor(chain, ring, log.descriptor.chain, log.id, (before, checkpoint.size), checkpoint.root)


def trusting(*nodes: Any) -> Callable[[LogDescriptor], ChainView]:
    named = {f"node {number}": node for number, node in enumerate(nodes)}
    return lambda _: ChainView(named, DEVELOPMENT_CHAIN_ID, load_contract().code_hash)


def test_every_anchor_is_a_prefix(chain: DevChain, anchored: Log) -> None:
    check = audit(anchored, trusting(chain)).check
    assert (check.state, check.local_size, check.anchored_size) == (RollbackState.CONSISTENT, 4, 3)
    assert "all 2 anchors" in check.detail


def test_a_closed_log_is_read_back_as_well(chain: DevChain, anchored: Log) -> None:
    binding = anchored.descriptor.chain
    assert binding is not None
    target = AnchorTarget(binding.id, binding.contract, binding.owner, anchored.id, load_contract().code_hash)
    close_log(chain, LocalKey(OWNER), target, bytes(32))
    check = audit(anchored, trusting(chain)).check
    assert check.state is RollbackState.CLOSED
    assert "all 2 anchors" in check.detail


def test_an_anchor_at_a_size_without_a_checkpoint_is_of_another_history(chain: DevChain, anchored: Log) -> None:
    """Only checkpoints are anchored. That the log has these very leaves makes no difference."""
    history = fold(anchored.events)
    head = IdentityHead(history.identity, history.seq, history.head)
    ForgedLog(anchored.store, LOG_KEY).add([head, FeedHead(bytes(32), 1, bytes(32))])
    assert audit(anchored, trusting(chain)).check.state is RollbackState.CONSISTENT
    with anchored.store.read() as tx:
        between = StoredCheckpoint(5, root_at(tx.log_node, 5), "")
    send(chain, anchored, 3, between)
    assert audit(anchored, trusting(chain)).check.state is RollbackState.DIVERGED


def test_a_node_without_old_states_leaves_it_open_and_says_how_far_it_came(chain: DevChain, anchored: Log) -> None:
    newest = chain.head_number()

    class Pruned:
        def __getattr__(self, name: str) -> Any:
            return getattr(chain, name)

        def get_proof(self, contract: bytes, slots: Sequence[int], number: int) -> Any:
            if number < newest:
                raise TransportError("missing trie node")
            return chain.get_proof(contract, slots, number)

    check = audit(anchored, trusting(Pruned())).check
    assert check.state is RollbackState.UNVERIFIED
    assert "only 1 anchors could be read back" in check.detail
