"""The audit of a complete log by somebody who has only its export, a policy and a way to ask the chain.

It proves P4 and P5 for the log (docs/threat-model.md): every leaf and checkpoint follows the rules, and the newest
anchor on the chain is a prefix of what was given. Whoever gives less than what is anchored is found out by size;
whoever gives another history, by root.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import BinaryIO

from anchoring.chain.check import (
    ChainView,
    LogPosition,
    check_rollback,
    fetch_final_header,
    read_anchor_history,
)
from anchoring.chain.predecessor import check_predecessor
from anchoring.rollback import PredecessorCheck, RollbackCheck, RollbackState
from identity.errors import MalformedError, StorageError, TransportError, VerificationError
from ledger.checkpoint import VerifiedCheckpoint
from ledger.log import hash_leaf
from ledger.log_transfer import LeafRecord, LogAudit, audit_log, read_log_export
from ledger.statement import LogDescriptor, parse_statement

__all__ = ["OutsideAudit", "audit_export", "compare_log", "read_descriptor"]


@dataclass(frozen=True, slots=True)
class OutsideAudit:
    """What the audit found: the replayed log, where it stands against the chain, and what became of the log before."""

    log: LogAudit
    check: RollbackCheck
    predecessor: PredecessorCheck | None


def read_descriptor(stream: BinaryIO) -> tuple[bytes, LogDescriptor]:
    """The log id and descriptor of an export, from its first leaf. Raises ``MalformedError``."""
    for record in read_log_export(stream):
        if isinstance(record, LeafRecord):
            statement = parse_statement(record.leaf)
            if not isinstance(statement, LogDescriptor):
                raise MalformedError("log export: the first leaf is not a descriptor")
            return hash_leaf(record.leaf), statement
    raise MalformedError("log export: no leaf")


def audit_export(
    open_export: Callable[[], BinaryIO],
    trusted_logs: frozenset[bytes],
    view_of: Callable[[LogDescriptor], ChainView | None],
    now_ms: int,
) -> OutsideAudit:
    """Replay the exported log and compare it with its chain.

    ``open_export`` is called twice: once for the descriptor, once for the replay. ``view_of`` gives the chain that the
    policy trusts for a descriptor, None when there is none. Raises ``VerificationError`` when the log breaks a rule or
    is none of ``trusted_logs``, ``MalformedError`` when the file is not an export.
    """
    with open_export() as stream:
        log_id, descriptor = read_descriptor(stream)
    if log_id not in trusted_logs:
        raise VerificationError(f"the policy does not name the log {descriptor.name}/{log_id.hex()}")
    roots: dict[int, bytes] = {}

    def keep(checkpoint: VerifiedCheckpoint) -> None:
        roots[checkpoint.size] = checkpoint.root

    with open_export() as stream:
        audit = audit_log(read_log_export(stream), expected_log_id=log_id, on_checkpoint=keep)
    view = view_of(descriptor)
    check = compare_log(log_id, descriptor, audit.replay.last.size, roots, view, None, now_ms)
    return OutsideAudit(audit, check, check_predecessor(view, log_id, descriptor, now_ms))


def compare_log(
    log_id: bytes,
    descriptor: LogDescriptor,
    size: int,
    roots: Mapping[int, bytes],
    view: ChainView | None,
    archived: tuple[int, int, bytes] | None,
    now_ms: int,
) -> RollbackCheck:
    """Compare a replayed log with everything that its chain ever held for it.

    ``roots`` are those of all its checkpoints, by size; ``archived`` as in ``check_rollback``. ``view`` None: the
    policy does not name the log's chain. Never raises for what the chain does.
    """
    if descriptor.chain is None:
        return RollbackCheck(RollbackState.NO_CHAIN, size, 0, "the log's descriptor names no chain")
    if view is None:
        return RollbackCheck(RollbackState.UNVERIFIED, size, 0, f"the policy does not name chain {descriptor.chain.id}")
    # Only checkpoints are anchored: a size at which this log has none was anchored by another history.
    position = LogPosition(log_id, descriptor.chain, size, lambda anchored: roots.get(anchored, b""))
    check = check_rollback(view, position, archived, now_ms)
    if check.state in (RollbackState.CONSISTENT, RollbackState.CLOSED):
        return _check_older_anchors(view, position, check, now_ms)
    return check


def _check_older_anchors(view: ChainView, log: LogPosition, check: RollbackCheck, now_ms: int) -> RollbackCheck:
    """The contract keeps one record, so a longer rewritten history fits the newest anchor. The older ones tell."""
    count = 0
    try:
        header = fetch_final_header(view, now_ms)
        for record in read_anchor_history(view, header, log.log_id, log.binding):
            count += 1
            if log.root_at(record.size) != record.root:
                return replace(
                    check,
                    state=RollbackState.DIVERGED,
                    detail=f"block {record.block} holds another history than this log at size {record.size}",
                )
    except (TransportError, StorageError, MalformedError, VerificationError) as exc:
        return replace(
            check,
            state=RollbackState.UNVERIFIED,
            detail=f"the newest anchor fits, but only {count} anchors could be read back: {exc}",
        )
    return replace(check, detail=f"{check.detail}; so are all {count} anchors that the chain ever held")
