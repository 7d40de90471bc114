"""State roots and proofs of documents in them: mostly of what must not pass."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity.errors import MalformedError, MissingEvidenceError, RootMismatch
from sync.cells import CellKind
from sync.stateroot import (
    CellContent,
    DocumentContent,
    DocumentProof,
    Leaf,
    content_of,
    digest_content,
    leaf_of,
    prove_document,
    state_root,
    verify_document,
)
from sync.transaction import DocumentId
from sync.view import Cell, View

NAME = DocumentId("accounts", "1")


def leaves(count: int) -> list[Leaf]:
    return [Leaf(DocumentId("c", f"{number:03}"), bytes([number]) * 32, bytes(32)) for number in range(count)]


@given(st.integers(1, 40), st.data())
def test_every_document_is_proven(count: int, data: st.DataObject) -> None:
    every = leaves(count)
    chosen = data.draw(st.sampled_from(every))
    root, leaf, proof = prove_document(every, chosen.document)
    assert (root, leaf, proof.documents) == (state_root(every), chosen, count)
    verify_document(root, leaf, proof)


@given(st.integers(1, 20), st.data())
def test_no_mutation_passes(count: int, data: st.DataObject) -> None:
    every = leaves(count)
    root, leaf, proof = prove_document(every, data.draw(st.sampled_from(every)).document)
    place, documents, path = proof
    wrong: list[tuple[Leaf, DocumentProof]] = [
        (leaf._replace(document=DocumentId("c", "other")), proof),
        (leaf._replace(document=DocumentId("d", leaf.document.key)), proof),
        (leaf._replace(version=bytes(31) + b"\xff"), proof),
        (leaf._replace(content=bytes(31) + b"\xff"), proof),
        (leaf, DocumentProof(place, documents + 1, path)),
        (leaf, DocumentProof(place, documents - 1, path)),
        (leaf, DocumentProof(place + 1, documents, path)),
        (leaf, DocumentProof(place - 1, documents, path)),
        (leaf, DocumentProof(place, documents, (*path, bytes(32)))),
        (leaf, DocumentProof(place, documents, path[:-1] if path else (bytes(32),))),
        (leaf, DocumentProof(place, documents, tuple(bytes(32) for _ in path) or (bytes(31),))),
    ]
    for one, other in wrong:
        with pytest.raises((RootMismatch, MalformedError)):
            verify_document(root, one, other)
    with pytest.raises(RootMismatch):
        verify_document(bytes(32), leaf, proof)


def test_a_document_that_is_not_there_has_no_proof() -> None:
    with pytest.raises(MissingEvidenceError):
        prove_document(leaves(3), NAME)
    with pytest.raises(MissingEvidenceError):
        prove_document([], NAME)


@pytest.mark.parametrize("order", [[0, 0], [1, 0], [0, 2, 1]])
def test_documents_come_once_and_in_order(order: list[int]) -> None:
    every = leaves(3)
    with pytest.raises(MalformedError):
        state_root(every[number] for number in order)
    with pytest.raises(MalformedError):
        prove_document([every[number] for number in order], every[0].document)


def test_the_number_of_documents_is_part_of_the_root() -> None:
    roots = {state_root(leaves(count)) for count in range(6)}
    assert len(roots) == 6


def test_content_is_what_a_view_shows() -> None:
    view = View((Cell("/a", CellKind.REG, (1, 2), ()), Cell("/n", CellKind.CTR, ({"$dec": "1.50"},), ())), deleted=True)
    content = content_of(view)
    cells = (CellContent("/a", "reg", (1, 2)), CellContent("/n", "ctr", ({"$dec": "1.50"},)))
    assert content == DocumentContent(deleted=True, purged=False, cells=cells)
    assert leaf_of(NAME, bytes(32), view) == Leaf(NAME, bytes(32), digest_content(content))


def test_every_part_of_the_content_is_in_its_digest() -> None:
    cell = CellContent("/a", "reg", (1, 2))
    content = DocumentContent(deleted=False, purged=False, cells=(cell,))
    others = [
        replace(content, deleted=True),
        replace(content, purged=True),
        replace(content, cells=()),
        replace(content, cells=(cell, cell)),
        *(
            replace(content, cells=(one,))
            for one in (
                cell._replace(path="/b"),
                cell._replace(kind="lww"),
                cell._replace(values=(2, 1)),
                cell._replace(values=(1,)),
                cell._replace(values=(1, 2, 2)),
                cell._replace(values=(1, "2")),
            )
        ),
        replace(content, cells=(cell._replace(values=(1,)), cell._replace(values=(2,)))),
    ]
    digests = {digest_content(one) for one in (content, *others)}
    assert len(digests) == 1 + len(others)


def test_a_document_may_be_larger_than_one_value() -> None:
    cells = tuple(CellContent(f"/{number}", "reg", ("x" * 500_000,)) for number in range(4))
    assert len(digest_content(DocumentContent(deleted=False, purged=False, cells=cells))) == 32
