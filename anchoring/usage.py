"""What of an evidence file serves a finding; the rest is refused (docs/spec/evidence.md, step 10).

Bytes that no finding needs could be added or altered unnoticed, and a reader would take them for proven. Whether
something serves a finding depends on the file alone: not on the policy, nor on the verdict.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from anchoring.evidence import CheckpointEvidence
from anchoring.report import Claim, Finding
from anchoring.times import CheckpointTimes
from anchoring.trusted_log import LogView
from identity.history import Device
from identity.verdict import Status
from ledger.proof_checking import VerifiedProof
from ledger.statement import TimeStatement

__all__ = ["Usage", "find_unused_trees"]


class Usage:
    """The log leaves and tokens that the steps of a verification have used so far."""

    def __init__(self) -> None:
        self._leaves: set[int] = set()
        # Positions of checkpoints whose tokens serve a finding; those on the first one always do.
        self._tokens: set[int] = {0}
        self._identity_leaf = 0

    def use_leaf(self, index: int) -> None:
        """The log leaf of that index serves a finding."""
        self._leaves.add(index)

    def use_identity_leaf(self, index: int) -> None:
        """The same for the newest identity head; what makes it fresh then serves a finding too."""
        self._leaves.add(index)
        self._identity_leaf = index

    def use_tokens(self, position: int) -> None:
        """The tokens on the checkpoint at that position serve a finding."""
        self._tokens.add(position)

    def find_unused(
        self, log: LogView, times: CheckpointTimes, checkpoints: Sequence[CheckpointEvidence]
    ) -> Iterator[Finding]:
        """FAILED for each leaf, token and checkpoint that serves nothing. To be asked after all other steps."""
        self._use_time_leaves(log, times)
        for leaf in log.leaves:
            if leaf.index not in self._leaves:
                yield _unreferenced(Claim.LOG, f"no finding needs log leaf {leaf.index}")
        for position in sorted(times.stamped - self._tokens):
            yield _unreferenced(Claim.TIME, f"no finding needs the tokens on checkpoint {position}")
        for position, checkpoint in enumerate(checkpoints):
            if position and not (checkpoint.leaves or checkpoint.timestamps or checkpoint.anchor):
                yield _unreferenced(Claim.LOG, f"no finding needs checkpoint {position}")

    def _use_time_leaves(self, log: LogView, times: CheckpointTimes) -> None:
        """A time leaf serves the identity head after it, and the tokens that it names when others cover it."""
        for leaf, statement in log.statements(TimeStatement):
            position = log.position(statement.size)
            if position is None or position not in times.stamped:
                continue
            if leaf.index < self._identity_leaf:
                self._leaves.add(leaf.index)
                self._tokens.add(position)
            later = {number for number in times.stamped if number >= max(leaf.checkpoint, position + 1)}
            if position in self._tokens and later:
                self._leaves.add(leaf.index)
                self._tokens |= later


def find_unused_trees(proof: VerifiedProof, logged_length: int, device: Device | None) -> Iterator[Finding]:
    """FAILED for each tree that the proof shows and no finding needs.

    Needed are the one of the logged length and, when the revocation of the entry's device vouches for the entry, the
    one of the vouched length.
    """
    needed = {logged_length}
    if device is not None and device.revocation is not None:
        last_good = device.revocation.last_good.get(proof.head.feed_key)
        if last_good is not None and last_good.length > proof.index:
            needed.add(last_good.length)
    for length in sorted(proof.trees.keys() - needed):
        yield _unreferenced(Claim.INTEGRITY, f"no finding needs the tree of {length} entries")


def _unreferenced(claim: Claim, detail: str) -> Finding:
    return Finding(claim, Status.FAILED, "UNREFERENCED", detail)
