"""Evidence: one JSON file that shows an entry, who wrote it, its place in the log and since when it existed.

The format is docs/spec/evidence.md (``application/vnd.holdfast.evidence+json;version=1``). This module reads and
writes it and decides nothing: binary members come out as bytes, each list within its bounds, and everything that is
not exactly in the format is refused. What the bytes claim is for ``anchoring.verifier``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from anchoring.receipt import AnchorReceipt
from anchoring.timestamp import TimestampEvidence
from anchoring.trie_proof import MAX_PROOF_NODES
from identity.errors import LimitExceeded, MalformedError
from identity.jsontext import parse_json
from identity.textforms import parse_base64, to_base64

__all__ = [
    "MAX_CHECKPOINTS",
    "MAX_EVIDENCE_BYTES",
    "MEDIA_TYPE",
    "CheckpointEvidence",
    "DescriptorEvidence",
    "Evidence",
    "LeafEvidence",
    "encode_evidence",
    "parse_evidence",
]

MEDIA_TYPE: Final = "application/vnd.holdfast.evidence+json;version=1"
MAX_EVIDENCE_BYTES: Final = 8 << 20
_MAX_DEPTH = 9

# Bounds on list lengths. A Merkle path over 2^53 leaves has 53 hashes; a consistency proof one more. The others are
# far above what an exporter writes and keep the work of a verifier small.
_MAX_PATH = 54
_MAX_EVENTS = 10_000
MAX_CHECKPOINTS: Final = 16
_MAX_LEAVES = 64
_MAX_TIMESTAMPS = 16
_MAX_MATERIAL = 16

T = TypeVar("T", bound=Hashable)


@dataclass(frozen=True, slots=True)
class LeafEvidence:
    """A leaf of the log, with its inclusion proof in the checkpoint it stands under."""

    index: int
    leaf: bytes
    proof: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class DescriptorEvidence:
    """Leaf 0 of the log, with its inclusion proof in the first checkpoint."""

    leaf: bytes
    proof: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class CheckpointEvidence:
    """A signed checkpoint and what stands under it. ``consistency`` leads from the previous checkpoint to this one."""

    note: str
    consistency: tuple[bytes, ...]
    leaves: tuple[LeafEvidence, ...]
    timestamps: tuple[TimestampEvidence, ...]
    anchor: AnchorReceipt | None


@dataclass(frozen=True, slots=True)
class Evidence:
    """An evidence file as read: well-formed, nothing in it verified.

    ``manifest`` and ``proof`` are Hypercore's bytes, ``events`` the identity's signed events as ``SignedEvent.encode``
    writes them, oldest first.
    """

    manifest: bytes
    proof: bytes
    events: tuple[bytes, ...]
    descriptor: DescriptorEvidence
    checkpoints: tuple[CheckpointEvidence, ...]


def encode_evidence(evidence: Evidence) -> bytes:
    """The evidence file: UTF-8 JSON, the same bytes for the same evidence."""
    document = {
        "mediaType": MEDIA_TYPE,
        "feed": {"manifest": to_base64(evidence.manifest), "proof": to_base64(evidence.proof)},
        "identity": {"events": _texts(evidence.events)},
        "log": {
            "descriptor": {"leaf": to_base64(evidence.descriptor.leaf), "proof": _texts(evidence.descriptor.proof)},
            "checkpoints": [_checkpoint_document(checkpoint) for checkpoint in evidence.checkpoints],
        },
    }
    return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode("utf-8")


def parse_evidence(data: bytes) -> Evidence:
    """Read an evidence file. Raises ``MalformedError``, naming the member, for anything that is not exactly one."""
    document = parse_json(data, what="evidence", max_bytes=MAX_EVIDENCE_BYTES, max_depth=_MAX_DEPTH)
    top = _members(document, "evidence", {"mediaType", "feed", "identity", "log"})
    if top["mediaType"] != MEDIA_TYPE:
        raise MalformedError(f"evidence: mediaType is {top['mediaType']!r}, this reader knows {MEDIA_TYPE!r}")
    feed = _members(top["feed"], "feed", {"manifest", "proof"})
    identity = _members(top["identity"], "identity", {"events"})
    log = _members(top["log"], "log", {"descriptor", "checkpoints"})
    descriptor = _members(log["descriptor"], "log.descriptor", {"leaf", "proof"})
    return Evidence(
        manifest=_binary(feed["manifest"], "feed.manifest"),
        proof=_binary(feed["proof"], "feed.proof"),
        events=_items(identity["events"], "identity.events", _MAX_EVENTS, _binary, least=1),
        descriptor=DescriptorEvidence(
            leaf=_binary(descriptor["leaf"], "log.descriptor.leaf"),
            proof=_path(descriptor["proof"], "log.descriptor.proof"),
        ),
        checkpoints=_items(log["checkpoints"], "log.checkpoints", MAX_CHECKPOINTS, _checkpoint, least=1),
    )


def _checkpoint_document(checkpoint: CheckpointEvidence) -> dict[str, Any]:
    anchor = checkpoint.anchor
    return {
        "note": checkpoint.note,
        "consistency": _texts(checkpoint.consistency),
        "leaves": [
            {"index": leaf.index, "leaf": to_base64(leaf.leaf), "proof": _texts(leaf.proof)}
            for leaf in checkpoint.leaves
        ],
        "timestamps": [
            {
                "response": to_base64(timestamp.response),
                "certificates": _texts(timestamp.certificates),
                "crls": _texts(timestamp.crls),
                "ocsps": _texts(timestamp.ocsps),
            }
            for timestamp in checkpoint.timestamps
        ],
        "anchor": None
        if anchor is None
        else {
            "header": to_base64(anchor.header),
            "account_proof": _texts(anchor.account_proof),
            "storage_proofs": [_texts(proof) for proof in anchor.storage_proofs],
        },
    }


def _checkpoint(value: Any, name: str) -> CheckpointEvidence:
    members = _members(value, name, {"note", "consistency", "leaves", "timestamps", "anchor"})
    note = members["note"]
    if not isinstance(note, str):
        raise MalformedError(f"evidence: {name}.note is not a text")
    return CheckpointEvidence(
        note=note,
        consistency=_path(members["consistency"], f"{name}.consistency"),
        leaves=_items(members["leaves"], f"{name}.leaves", _MAX_LEAVES, _leaf),
        timestamps=_items(members["timestamps"], f"{name}.timestamps", _MAX_TIMESTAMPS, _timestamp),
        anchor=None if members["anchor"] is None else _anchor(members["anchor"], f"{name}.anchor"),
    )


def _leaf(value: Any, name: str) -> LeafEvidence:
    members = _members(value, name, {"index", "leaf", "proof"})
    index = members["index"]
    if type(index) is not int or not 1 <= index < 2**53:
        raise MalformedError(f"evidence: {name}.index is not a whole number from 1 (leaf 0 is log.descriptor)")
    return LeafEvidence(index, _binary(members["leaf"], f"{name}.leaf"), _path(members["proof"], f"{name}.proof"))


def _timestamp(value: Any, name: str) -> TimestampEvidence:
    members = _members(value, name, {"response", "certificates", "crls", "ocsps"})
    return TimestampEvidence(
        response=_binary(members["response"], f"{name}.response"),
        certificates=_items(members["certificates"], f"{name}.certificates", _MAX_MATERIAL, _binary),
        crls=_items(members["crls"], f"{name}.crls", _MAX_MATERIAL, _binary),
        ocsps=_items(members["ocsps"], f"{name}.ocsps", _MAX_MATERIAL, _binary),
    )


def _anchor(value: Any, name: str) -> AnchorReceipt:
    members = _members(value, name, {"header", "account_proof", "storage_proofs"})
    proofs = _items(members["storage_proofs"], f"{name}.storage_proofs", 2, _trie_nodes, least=2, distinct=False)
    return AnchorReceipt(
        header=_binary(members["header"], f"{name}.header"),
        account_proof=_trie_nodes(members["account_proof"], f"{name}.account_proof"),
        storage_proofs=(proofs[0], proofs[1]),
    )


def _trie_nodes(value: Any, name: str) -> tuple[bytes, ...]:
    return _items(value, name, MAX_PROOF_NODES, _binary, distinct=False)


def _path(value: Any, name: str) -> tuple[bytes, ...]:
    # Two subtrees with equal statements have equal hashes, so a consistency path may hold one hash twice.
    return _items(value, name, _MAX_PATH, _hash, distinct=False)


def _hash(value: Any, name: str) -> bytes:
    digest = _binary(value, name)
    if len(digest) != 32:
        raise MalformedError(f"evidence: {name} has {len(digest)} bytes, a hash has 32")
    return digest


def _binary(value: Any, name: str) -> bytes:
    if not isinstance(value, str):
        raise MalformedError(f"evidence: {name} is not a base64 text")
    try:
        return parse_base64(value)
    except MalformedError as exc:
        raise MalformedError(f"evidence: {name}: {exc}") from exc


def _items(
    value: Any, name: str, most: int, read: Callable[[Any, str], T], *, least: int = 0, distinct: bool = True
) -> tuple[T, ...]:
    if not isinstance(value, list):
        raise MalformedError(f"evidence: {name} is not a list")
    if len(value) > most:
        raise LimitExceeded(f"evidence: {name} has {len(value)} items, at most {most} are read")
    if len(value) < least:
        raise MalformedError(f"evidence: {name} has {len(value)} items, at least {least} are needed")
    items = tuple(read(item, f"{name}[{position}]") for position, item in enumerate(value))
    if distinct and len(set(items)) != len(items):
        raise MalformedError(f"evidence: {name} holds one item twice")
    return items


def _members(value: Any, name: str, keys: set[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise MalformedError(f"evidence: {name} is not an object")
    for key in sorted(keys - value.keys()):
        raise MalformedError(f"evidence: {name} lacks the member {key!r}")
    for key in sorted(value.keys() - keys):
        raise MalformedError(f"evidence: {name} has the unknown member {key!r}")
    return value


def _texts(items: tuple[bytes, ...]) -> list[str]:
    return [to_base64(item) for item in items]
