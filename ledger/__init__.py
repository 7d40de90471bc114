"""What was said, and in which order: Merkle feeds, signed heads, proofs, and the checkpoint log of heads.

Everything named here is pure: it takes bytes and gives bytes or values. Storage is ``ledger.storage``.
"""

from __future__ import annotations

from ledger.fork import Branch, ForkProof, VerifiedFork, encode_fork, make_fork, parse_fork, verify_fork
from ledger.head import FORK, VerifiedHead, sign_head, signable, verify_head
from ledger.manifest import (
    Continuation,
    FeedDescription,
    Manifest,
    ManifestSigner,
    Prologue,
    describe,
    device_key,
    device_manifest,
    encode_manifest,
    feed_key,
    parse_manifest,
)
from ledger.merkle import Node, TreeBuilder, leaf_node, parent_node, tree_hash
from ledger.proof import Proof, encode_proof, parse_evidence_proof, parse_proof
from ledger.proof_checking import (
    VerifiedAnswer,
    VerifiedBlock,
    VerifiedProof,
    VerifiedUpgrade,
    verify_answer,
    verify_block,
    verify_proof,
    verify_upgrade,
)
from ledger.proof_making import NodeSource, answer_request, make_proof
from ledger.request import Request, Seek, Target, Upgrade, encode_request, parse_request

__all__ = [
    "FORK",
    "Branch",
    "Continuation",
    "FeedDescription",
    "ForkProof",
    "Manifest",
    "ManifestSigner",
    "Node",
    "NodeSource",
    "Prologue",
    "Proof",
    "Request",
    "Seek",
    "Target",
    "TreeBuilder",
    "Upgrade",
    "VerifiedAnswer",
    "VerifiedBlock",
    "VerifiedFork",
    "VerifiedHead",
    "VerifiedProof",
    "VerifiedUpgrade",
    "answer_request",
    "describe",
    "device_key",
    "device_manifest",
    "encode_fork",
    "encode_manifest",
    "encode_proof",
    "encode_request",
    "feed_key",
    "leaf_node",
    "make_fork",
    "make_proof",
    "parent_node",
    "parse_evidence_proof",
    "parse_fork",
    "parse_manifest",
    "parse_proof",
    "parse_request",
    "sign_head",
    "signable",
    "tree_hash",
    "verify_answer",
    "verify_block",
    "verify_fork",
    "verify_head",
    "verify_proof",
    "verify_upgrade",
]
