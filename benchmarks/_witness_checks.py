"""The floor of verification: what evidence says about its token and its receipt, and nothing else of it.

    python -m benchmarks._witness_checks EVIDENCE POLICY

Imports no more than that takes, because a process that is measured from start to exit pays for every import.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

from anchoring.evidence import parse_evidence
from anchoring.policy import Policy
from anchoring.policy_file import load_policy
from anchoring.receipt import parse_header, verify_receipt
from anchoring.timestamp import verify_token
from ledger.checkpoint import imprint_message
from ledger.log import hash_leaf
from ledger.statement import LogDescriptor, log_origin, parse_statement

__all__ = ["prepare"]


def prepare(data: bytes, policy: Policy, at_ms: int) -> Callable[[], None]:
    """What verifies the token and the receipt on the first checkpoint, all of it parsed beforehand."""
    evidence = parse_evidence(data)
    first = evidence.checkpoints[0]
    descriptor, log_id = parse_statement(evidence.descriptor.leaf), hash_leaf(evidence.descriptor.leaf)
    assert isinstance(descriptor, LogDescriptor)
    assert descriptor.chain is not None
    assert first.anchor is not None
    chain, receipt, (timestamp,) = descriptor.chain, first.anchor, first.timestamps
    trust = policy.chains[chain.id]
    pinned = trust.headers.find(chain.id, parse_header(receipt.header).number)
    assert pinned is not None
    message = imprint_message(first.note, log_origin(descriptor, log_id), descriptor.key)

    def check() -> None:
        verify_token(timestamp, message, policy.authorities[0], at_ms=at_ms)
        verify_receipt(
            receipt,
            contract=chain.contract,
            owner=chain.owner,
            log_id=log_id,
            block_hash=pinned.hash,
            code_hash=trust.code_hash,
        )

    return check


if __name__ == "__main__":
    prepare(Path(sys.argv[1]).read_bytes(), load_policy(Path(sys.argv[2])), time.time_ns() // 1_000_000)()
