"""The part of a checkpoint log that evidence shows, with everything in it verified against the log's own key.

``verify_log`` takes the log members of an evidence file and returns a ``LogView``, or raises: the descriptor names the
log and its key; every checkpoint is signed by that key and consistent with the one before; every leaf stands where it
says. Whether that log is the right one is for the caller: it depends on the identity and the policy.

The rules, beyond RFC 9162's proofs (docs/spec/evidence.md):

* leaf 0 is the descriptor, and the origin of every note is ``<name>/<log id>``;
* a note carries the log's signature line and no other: what others signed, nothing here verifies;
* checkpoints stand in ascending size, each with a consistency proof from the previous one, the first with none;
* a leaf stands under the first checkpoint of the evidence that covers it, leaves in ascending order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

from anchoring.evidence import CheckpointEvidence, DescriptorEvidence
from identity.errors import MalformedError
from ledger.checkpoint import VerifiedCheckpoint, imprint_message, verify_checkpoint
from ledger.log import hash_leaf, verify_consistency, verify_inclusion
from ledger.statement import LogDescriptor, Statement, log_origin, parse_statement

__all__ = ["LogView", "VerifiedLeaf", "verify_log"]

S = TypeVar("S", bound=Statement)


@dataclass(frozen=True, slots=True)
class VerifiedLeaf:
    """A statement that stands in the log at ``index``; ``checkpoint`` is the position of the checkpoint it is under."""

    index: int
    checkpoint: int
    statement: Statement


@dataclass(frozen=True, slots=True)
class LogView:
    """What the evidence shows of a log, verified under the log's key."""

    log_id: bytes
    descriptor: LogDescriptor
    checkpoints: tuple[VerifiedCheckpoint, ...]
    leaves: tuple[VerifiedLeaf, ...]

    def statements(self, kind: type[S]) -> Iterator[tuple[VerifiedLeaf, S]]:
        """The leaves that carry that kind of statement, by index."""
        for leaf in self.leaves:
            if isinstance(leaf.statement, kind):
                yield leaf, leaf.statement

    def position(self, size: int) -> int | None:
        """The position of the checkpoint of exactly that size, or None."""
        for position, checkpoint in enumerate(self.checkpoints):
            if checkpoint.size == size:
                return position
        return None


def verify_log(descriptor: DescriptorEvidence, checkpoints: tuple[CheckpointEvidence, ...]) -> LogView:
    """Verify everything the evidence shows of the log. Raises ``MalformedError`` or a ``VerificationError``."""
    statement = parse_statement(descriptor.leaf)
    if not isinstance(statement, LogDescriptor):
        raise MalformedError("log.descriptor is not a log descriptor")
    log_id = hash_leaf(descriptor.leaf)
    origin = log_origin(statement, log_id)

    verified: list[VerifiedCheckpoint] = []
    leaves: list[VerifiedLeaf] = []
    for position, evidence in enumerate(checkpoints):
        checkpoint = verify_checkpoint(evidence.note, origin, statement.key)
        if imprint_message(evidence.note, origin, statement.key) != evidence.note.encode("utf-8"):
            raise MalformedError(f"checkpoint {checkpoint.size} carries signature lines that are not the log's")
        if position == 0:
            verify_inclusion(0, checkpoint.size, log_id, descriptor.proof, checkpoint.root)
        _verify_order(verified[-1] if verified else None, checkpoint, evidence.consistency)
        least = verified[-1].size if verified else 1
        for leaf in evidence.leaves:
            if not least <= leaf.index < checkpoint.size:
                raise MalformedError(f"log leaf {leaf.index} does not stand in its place under checkpoint {position}")
            verify_inclusion(leaf.index, checkpoint.size, hash_leaf(leaf.leaf), leaf.proof, checkpoint.root)
            leaves.append(VerifiedLeaf(leaf.index, position, parse_statement(leaf.leaf)))
            least = leaf.index + 1
        verified.append(checkpoint)
    return LogView(log_id, statement, tuple(verified), tuple(leaves))


def _verify_order(
    previous: VerifiedCheckpoint | None, checkpoint: VerifiedCheckpoint, consistency: tuple[bytes, ...]
) -> None:
    if previous is None:
        if consistency:
            raise MalformedError("the first checkpoint carries a consistency proof, and there is nothing before it")
        return
    if checkpoint.size <= previous.size:
        raise MalformedError(f"checkpoint {checkpoint.size} does not follow checkpoint {previous.size}")
    verify_consistency(previous.size, checkpoint.size, consistency, previous.root, checkpoint.root)
