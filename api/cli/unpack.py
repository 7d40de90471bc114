"""The parts of an evidence file as files, for whoever checks them with tools of their own.

entry.cbor  manifest.bin  proof.bin             the entry, and Hypercore's bytes about it
event-0.cbor ...                                the identity's signed events
log.vkey                                        the log's key, as Go's sumdb/note and witnesses read it
checkpoint-4.note                               a signed checkpoint; its bytes are what its tokens cover
checkpoint-4-token-0.tsr                        an RFC 3161 response, and -certificate-0.der, -crl-0.der, -ocsp-0.der
checkpoint-4-leaf-2.bin                         a leaf of the log under that checkpoint
checkpoint-4-header.rlp                         the block header that its anchor is proven under
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from anchoring.evidence import CheckpointEvidence, Evidence, parse_evidence
from anchoring.timestamp import TimestampEvidence
from identity.errors import MalformedError, RefusedError, StorageError
from ledger.checkpoint import parse_checkpoint, parse_note, verifier_key
from ledger.log import hash_leaf
from ledger.proof import parse_evidence_proof
from ledger.statement import LogDescriptor, log_origin, parse_statement

__all__ = ["unpack_evidence"]


def unpack_evidence(data: bytes, directory: Path) -> int:
    """Write the parts of an evidence file into a new directory; return how many. Nothing in them is verified by that.

    Raises ``MalformedError`` when it is no evidence, ``RefusedError`` when the directory is there already.
    """
    parts = dict(_parts(parse_evidence(data)))
    try:
        directory.mkdir()
        for name, content in parts.items():
            (directory / name).write_bytes(content)
    except FileExistsError as exc:
        raise RefusedError(f"{directory} exists") from exc
    except OSError as exc:
        raise StorageError(f"cannot write {directory}: {exc.strerror}") from exc
    return len(parts)


def _parts(evidence: Evidence) -> Iterator[tuple[str, bytes]]:
    block = parse_evidence_proof(evidence.proof).block
    if block is not None:
        yield "entry.cbor", block.value
    yield "manifest.bin", evidence.manifest
    yield "proof.bin", evidence.proof
    for number, event in enumerate(evidence.events):
        yield f"event-{number}.cbor", event
    leaf = evidence.descriptor.leaf
    descriptor = parse_statement(leaf)
    if not isinstance(descriptor, LogDescriptor):
        raise MalformedError("evidence: log.descriptor: not a descriptor")
    yield "log.vkey", (verifier_key(log_origin(descriptor, hash_leaf(leaf)), descriptor.key) + "\n").encode()
    for checkpoint in evidence.checkpoints:
        yield from _checkpoint_parts(checkpoint)


def _checkpoint_parts(checkpoint: CheckpointEvidence) -> Iterator[tuple[str, bytes]]:
    name = f"checkpoint-{parse_checkpoint(parse_note(checkpoint.note).text).size}"
    yield f"{name}.note", checkpoint.note.encode()
    for leaf in checkpoint.leaves:
        yield f"{name}-leaf-{leaf.index}.bin", leaf.leaf
    for number, token in enumerate(checkpoint.timestamps):
        yield from _token_parts(f"{name}-token-{number}", token)
    if checkpoint.anchor is not None:
        yield f"{name}-header.rlp", checkpoint.anchor.header


def _token_parts(name: str, token: TimestampEvidence) -> Iterator[tuple[str, bytes]]:
    yield f"{name}.tsr", token.response
    for kind, items in (("certificate", token.certificates), ("crl", token.crls), ("ocsp", token.ocsps)):
        for number, item in enumerate(items):
            yield f"{name}-{kind}-{number}.der", item
