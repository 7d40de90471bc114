"""State roots: one hash that stands for everything a database showed at a cut, and proofs about one document.

Implements docs/spec/state-root.md. The documents in which something is live are the leaves of an RFC 6962 tree, in the
order of their names; the state root is a hash of its root and of their number. A leaf commits to a document's version,
which says what is live in it, and to its content, which says what that shows: so whoever has only the content can
check it, and whoever has the feeds can check that it follows from them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, NamedTuple

from identity.contexts import DOCUMENT_CONTENT, STATE_ROOT
from identity.encoding import Value, encode, encode_stored
from identity.errors import MalformedError, MissingEvidenceError, RootMismatch
from ledger.log import Frontier, hash_children, hash_leaf, included_in, inclusion_proof
from sync.transaction import DocumentId
from sync.view import View

__all__ = [
    "RULES",
    "CellContent",
    "DocumentContent",
    "DocumentProof",
    "Leaf",
    "content_of",
    "digest_content",
    "leaf_of",
    "prove_document",
    "state_root",
    "verify_document",
]

RULES: Final = 1
"""The version of the rules by which entries become a state, and a state a root."""


class CellContent(NamedTuple):
    """What one cell holds: the live values, the one that shows first; of a set its elements."""

    path: str
    kind: str
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class DocumentContent:
    """What a document shows. ``cells`` stand in the order of path and kind."""

    deleted: bool
    purged: bool
    cells: tuple[CellContent, ...]


class Leaf(NamedTuple):
    """One document of a state: its name, its version (32 bytes), the digest of its content (32 bytes)."""

    document: DocumentId
    version: bytes
    content: bytes

    def encode(self) -> bytes:
        """The leaf's bytes, which the tree hashes."""
        return encode([*self.document, self.version, self.content])


class DocumentProof(NamedTuple):
    """Where a document stands among the ``documents`` of a state, and the RFC 9162 inclusion proof."""

    place: int
    documents: int
    path: tuple[bytes, ...]


# --- leaves ---------------------------------------------------------------------------------------------------------


def content_of(view: View) -> DocumentContent:
    """What a view shows, without what it shows it for."""
    cells = (CellContent(cell.path, cell.kind.value, cell.values) for cell in view.cells)
    return DocumentContent(view.deleted, view.purged, tuple(cells))


def digest_content(content: DocumentContent) -> bytes:
    """32 bytes that only this content has. Hashed value by value, so it may be larger than what can be encoded."""
    digest = sha256(DOCUMENT_CONTENT)
    digest.update(encode([content.deleted, content.purged, len(content.cells)]))
    for cell in content.cells:
        digest.update(encode([cell.path, cell.kind, len(cell.values)]))
        for value in cell.values:
            digest.update(encode_stored(value))
    return digest.digest()


def leaf_of(document: DocumentId, version: bytes, view: View) -> Leaf:
    """The leaf of a document in which something is live."""
    return Leaf(document, version, digest_content(content_of(view)))


# --- the tree -------------------------------------------------------------------------------------------------------


def state_root(leaves: Iterable[Leaf]) -> bytes:
    """The root of a state whose documents come in ascending order of collection and key, each once.

    Raises ``MalformedError`` when they do not.
    """
    frontier = Frontier()
    last: DocumentId | None = None
    for leaf in leaves:
        _check_order(last, leaf.document)
        last = leaf.document
        frontier.append(hash_leaf(leaf.encode()))
    return _seal(frontier.size, frontier.root())


def prove_document(leaves: Iterable[Leaf], document: DocumentId) -> tuple[bytes, Leaf, DocumentProof]:
    """The root of a state, the document's leaf in it, and the proof that ``verify_document`` takes.

    Raises ``MissingEvidenceError`` when there is no such leaf, ``MalformedError`` as ``state_root`` does.
    """
    hashes: list[bytes] = []
    found: Leaf | None = None
    place = 0
    last: DocumentId | None = None
    for leaf in leaves:
        _check_order(last, leaf.document)
        last = leaf.document
        if leaf.document == document:
            found, place = leaf, len(hashes)
        hashes.append(hash_leaf(leaf.encode()))
    if found is None:
        raise MissingEvidenceError(f"{document} is not in that state")
    levels = _levels(hashes)
    path = inclusion_proof(lambda level, index: levels[level][index], place, len(hashes))
    proof = DocumentProof(place, len(hashes), tuple(path))
    return _root_of(found, proof), found, proof


def verify_document(root: bytes, leaf: Leaf, proof: DocumentProof) -> None:
    """Return only when the state with that root has that leaf, in the place that the proof says.

    Raises ``RootMismatch`` when it has not, ``MalformedError`` for what cannot be a proof.
    """
    computed = _root_of(leaf, proof)
    if computed != root:
        raise RootMismatch(f"state root with {leaf.document}", expected=root, computed=computed)


def _root_of(leaf: Leaf, proof: DocumentProof) -> bytes:
    return _seal(proof.documents, included_in(proof.place, proof.documents, hash_leaf(leaf.encode()), proof.path))


def _seal(documents: int, tree: bytes) -> bytes:
    """Nobody can say another number of documents: an inclusion proof alone fits trees of several sizes."""
    return sha256(STATE_ROOT + encode([documents, tree])).digest()


def _levels(hashes: Sequence[bytes]) -> list[list[bytes]]:
    """The hashes of all complete subtrees, by level and index."""
    levels = [list(hashes)]
    while len(levels[-1]) > 1:
        below = levels[-1]
        levels.append([hash_children(below[at], below[at + 1]) for at in range(0, len(below) - 1, 2)])
    return levels


def _check_order(last: DocumentId | None, document: DocumentId) -> None:
    if last is not None and document <= last:
        raise MalformedError("state root: documents are not in ascending order")
