"""Evidence of a document's state: one JSON file that shows what a device stated a document to be.

Implements docs/spec/document-evidence.md (``application/vnd.holdfast.document-evidence+json;version=1``). The file
holds the evidence of the entry that states a root, which is for others to verify, the document, and its place under the
root. Here the file is read and written, and it is verified that the document follows from the entry, once that is
proven.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from identity.encoding import MAX_ITEMS, Value, decode, encode
from identity.errors import LimitExceeded, MalformedError, MissingEvidenceError, VerificationError
from identity.jsontext import parse_json
from identity.textforms import check_name, parse_base64, to_base64
from ledger.entry import parse_entry
from ledger.log import MAX_LOG_SIZE
from ledger.values import check_value
from sync.cells import CellKind
from sync.stateroot import RULES, CellContent, DocumentContent, DocumentProof, Leaf, digest_content, verify_document
from sync.transaction import (
    CKPT,
    DocumentId,
    Founding,
    StateRoot,
    check_document,
    database_id,
    parse_path,
    parse_state_root,
)

__all__ = [
    "MAX_DOCUMENT_EVIDENCE_BYTES",
    "MEDIA_TYPE",
    "DocumentEvidence",
    "encode_document_evidence",
    "is_document_evidence",
    "parse_document_evidence",
    "verify_document_state",
]

MEDIA_TYPE: Final = "application/vnd.holdfast.document-evidence+json;version=1"
MAX_DOCUMENT_EVIDENCE_BYTES: Final = 32 << 20
_MAX_DEPTH: Final = 10
_MAX_PATH: Final = 54
_MAX_TEXT: Final = 4096
_KINDS: Final = frozenset(kind.value for kind in CellKind) - {CellKind.FLAG.value}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class DocumentEvidence:
    """A file as read: well-formed, nothing in it verified. ``entry`` is an evidence file by itself."""

    entry: bytes
    founding: Founding
    document: DocumentId
    version: bytes
    content: DocumentContent
    proof: DocumentProof


def encode_document_evidence(evidence: DocumentEvidence) -> bytes:
    """The file: UTF-8 JSON, the same bytes for the same evidence."""
    content = evidence.content
    document = {
        "mediaType": MEDIA_TYPE,
        "entry": json.loads(evidence.entry),
        "database": {
            "name": evidence.founding.name,
            "identity": to_base64(evidence.founding.identity),
            "salt": to_base64(evidence.founding.salt),
        },
        "document": {
            "collection": evidence.document.collection,
            "key": evidence.document.key,
            "version": to_base64(evidence.version),
            "deleted": content.deleted,
            "purged": content.purged,
            "cells": [
                {"path": cell.path, "kind": cell.kind, "values": [to_base64(encode(value)) for value in cell.values]}
                for cell in content.cells
            ],
        },
        "proof": {
            "place": evidence.proof.place,
            "documents": evidence.proof.documents,
            "path": [to_base64(digest) for digest in evidence.proof.path],
        },
    }
    return _to_json(document)


def is_document_evidence(data: bytes) -> bool:
    """Whether a file says that it is one: another reader than that of an entry's evidence is for it. Total."""
    try:
        document = _parse(data)
    except MalformedError:
        return False
    return isinstance(document, dict) and document.get("mediaType") == MEDIA_TYPE


def parse_document_evidence(data: bytes) -> DocumentEvidence:
    """Read a file. Raises ``MalformedError``, naming the member, for anything that is not exactly one."""
    top = _members(_parse(data), "the file", {"mediaType", "entry", "database", "document", "proof"})
    if top["mediaType"] != MEDIA_TYPE:
        raise MalformedError(f"document evidence: mediaType is {top['mediaType']!r}, this reader knows {MEDIA_TYPE!r}")
    if not isinstance(top["entry"], dict):
        raise _wrong("entry", "an object")
    document = _members(top["document"], "document", {"collection", "key", "version", "deleted", "purged", "cells"})
    name = DocumentId(_text(document["collection"], "collection"), _text(document["key"], "key"))
    check_document(name)
    return DocumentEvidence(
        entry=_to_json(top["entry"]),
        founding=_read_founding(top["database"]),
        document=name,
        version=_bytes(document["version"], "version", 32),
        content=DocumentContent(
            deleted=_flag(document["deleted"], "deleted"),
            purged=_flag(document["purged"], "purged"),
            cells=tuple(_items(document["cells"], "cells", MAX_ITEMS, _read_cell)),
        ),
        proof=_read_proof(top["proof"]),
    )


def verify_document_state(block: bytes, evidence: DocumentEvidence) -> StateRoot:
    """The statement that the entry in ``block`` makes, when it is one about a state that had this document.

    Taken on trust: that ``block`` is the entry that the file's evidence proves. Raises ``RootMismatch`` when the
    document is not in that state, ``VerificationError`` for a statement about another database, ``MalformedError`` when
    the entry states no root, ``MissingEvidenceError`` for rules that this reader does not know.
    """
    entry = parse_entry(block)
    if entry.kind != CKPT:
        raise MalformedError(f"the entry is of kind {entry.kind!r}, and states no root")
    statement = parse_state_root(entry)
    if statement.stamp.database != database_id(evidence.founding):
        raise VerificationError("the entry is about another database than the one that the file names")
    if statement.rules != RULES:
        raise MissingEvidenceError(f"the root is by rules {statement.rules}, this reader knows {RULES}")
    leaf = Leaf(evidence.document, evidence.version, digest_content(evidence.content))
    verify_document(statement.root, leaf, evidence.proof)
    return statement


# --- members --------------------------------------------------------------------------------------------------------


def _parse(data: bytes) -> Any:
    return parse_json(data, what="document evidence", max_bytes=MAX_DOCUMENT_EVIDENCE_BYTES, max_depth=_MAX_DEPTH)


def _to_json(document: dict[str, Any]) -> bytes:
    try:
        return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode("utf-8")
    except TypeError as exc:  # a number with a fraction, which no member is
        raise MalformedError("document evidence: a number with a fraction") from exc


def _read_founding(value: Any) -> Founding:
    members = _members(value, "database", {"name", "identity", "salt"})
    identity, salt = _bytes(members["identity"], "identity", 32), _bytes(members["salt"], "salt", 16)
    return Founding(check_name(_text(members["name"], "name"), "document evidence: 'name'"), identity, salt)


def _read_cell(value: Any) -> CellContent:
    members = _members(value, "a cell", {"path", "kind", "values"})
    path, kind = _text(members["path"], "path"), _text(members["kind"], "kind")
    if not parse_path(path) or kind not in _KINDS:  # whoever states a root can put any text under it
        raise MalformedError("document evidence: a cell at no path, or of a kind that there is not")
    return CellContent(path, kind, tuple(_items(members["values"], "values", MAX_ITEMS, _read_value)))


def _read_value(value: Any) -> Value:
    stored = decode(_bytes(value, "a value"))
    check_value(stored)
    return stored


def _read_proof(value: Any) -> DocumentProof:
    members = _members(value, "proof", {"place", "documents", "path"})
    path = _items(members["path"], "path", _MAX_PATH, lambda item: _bytes(item, "path", 32))
    return DocumentProof(_count(members["place"], "place"), _count(members["documents"], "documents"), tuple(path))


def _members(value: Any, name: str, keys: set[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(name, "an object")
    if value.keys() != keys:
        wrong = min(value.keys() ^ keys)
        raise MalformedError(f"document evidence: {name} {'lacks' if wrong in keys else 'has the unknown'} {wrong!r}")
    return value


def _items(value: Any, name: str, most: int, read: Callable[[Any], T]) -> list[T]:
    if not isinstance(value, list):
        raise _wrong(name, "a list")
    if len(value) > most:
        raise LimitExceeded(f"document evidence: {name!r} has {len(value)} items, at most {most} are read")
    return [read(item) for item in value]


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str) or len(value) > _MAX_TEXT:
        raise _wrong(name, f"a text of at most {_MAX_TEXT} characters")
    return value


def _bytes(value: Any, name: str, length: int | None = None) -> bytes:
    if not isinstance(value, str):
        raise _wrong(name, "a base64 text")
    data = parse_base64(value)
    if length is not None and len(data) != length:
        raise _wrong(name, f"{length} bytes")
    return data


def _flag(value: Any, name: str) -> bool:
    if not isinstance(value, bool):
        raise _wrong(name, "true or false")
    return value


def _count(value: Any, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_LOG_SIZE:
        raise _wrong(name, "a whole number")
    return value


def _wrong(name: str, wanted: str) -> MalformedError:
    return MalformedError(f"document evidence: {name!r} must be {wanted}")
