"""The worked examples of docs/spec/state-root.md and docs/spec/document-evidence.md."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from identity.errors import RootMismatch
from ledger.entry import encode_entry
from ledger.log import hash_children, hash_leaf
from ledger.values import Reference
from sync.clock import reading_at
from sync.document_evidence import encode_document_evidence, parse_document_evidence, verify_document_state
from sync.stateroot import (
    CellContent,
    DocumentContent,
    Leaf,
    digest_content,
    prove_document,
    state_root,
)
from sync.transaction import DocumentId, Founding, Stamp, StateRoot, database_id, state_root_entry

SPECS = Path(__file__).resolve().parents[3] / "docs" / "spec"
ROOT_SPEC = (SPECS / "state-root.md").read_text("utf-8")
EVIDENCE_SPEC = (SPECS / "document-evidence.md").read_text("utf-8")

FIRST = DocumentContent(
    deleted=False,
    purged=False,
    cells=(CellContent("/balance", "ctr", ({"$dec": "12.30"},)), CellContent("/owner", "reg", ("Novak", "Novotny"))),
)
SECOND = DocumentContent(deleted=True, purged=False, cells=(CellContent("/owner", "reg", ("Dvorak",)),))
LEAVES = [
    Leaf(DocumentId("accounts", "4711"), b"\1" * 32, digest_content(FIRST)),
    Leaf(DocumentId("accounts", "4712"), b"\2" * 32, digest_content(SECOND)),
]
FOUNDING = Founding("bank", b"\3" * 32, b"\4" * 16)


def stated() -> dict[str, bytes]:
    (fence,) = re.findall(r"```text\n(.*?)```", ROOT_SPEC, re.DOTALL)
    parts = re.split(r"^(\w[\w ]*) =", fence, flags=re.MULTILINE)[1:]
    return {name: bytes.fromhex("".join(digits.split())) for name, digits in zip(parts[::2], parts[1::2], strict=True)}


def test_the_example_of_a_state_root_is_what_its_inputs_give() -> None:
    first, second = LEAVES
    tree = hash_children(hash_leaf(first.encode()), hash_leaf(second.encode()))
    assert stated() == {
        "content 4711": first.content,
        "content 4712": second.content,
        "leaf 4711": first.encode(),
        "leaf 4712": second.encode(),
        "tree": tree,
        "root": state_root(LEAVES),
    }


def test_the_example_of_document_evidence() -> None:
    (fence,) = re.findall(r"```json\n(.*?)```", EVIDENCE_SPEC, re.DOTALL)
    evidence = parse_document_evidence(fence.encode())
    root, leaf, proof = prove_document(LEAVES, DocumentId("accounts", "4711"))
    assert (evidence.founding, evidence.document, evidence.version) == (FOUNDING, leaf.document, leaf.version)
    assert (evidence.content, evidence.proof) == (FIRST, proof)
    assert json.loads(encode_document_evidence(evidence)) == json.loads(fence)
    stamp = Stamp(database_id(FOUNDING), None, (), 0, reading_at(1_800_000_000_000))
    cut = (Reference(b"\5" * 32, 0, b"\6" * 32),)
    block = encode_entry(state_root_entry(StateRoot(stamp, cut, root, 1)))
    assert verify_document_state(block, evidence).root == root
    with pytest.raises(RootMismatch):
        verify_document_state(encode_entry(state_root_entry(StateRoot(stamp, cut, bytes(32), 1))), evidence)
