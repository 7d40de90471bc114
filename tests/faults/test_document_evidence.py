"""Evidence of a document's state: it verifies offline, says what it proves, and no change of it passes."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from anchoring.evidence import encode_evidence
from anchoring.exporter import export_evidence
from anchoring.report import Claim
from anchoring.witness import open_archive
from api.databases import Databases
from api.document_evidence import export_document_evidence, verify_document_evidence
from identity.encoding import encode
from identity.errors import MissingEvidenceError
from identity.textforms import to_base64
from identity.verdict import Status
from ledger.store import FeedKey
from sync.changes import Changes
from sync.document_evidence import DocumentEvidence, encode_document_evidence, is_document_evidence
from sync.stateroot import RULES, CellContent, DocumentContent, DocumentProof, Leaf, digest_content, state_root
from sync.storage.state_roots import founding_of
from sync.transaction import DocumentId, StateRoot

NAME = DocumentId("accounts", "4711")


class Bank:
    """A home with a database whose state was stated, sealed, and changed since."""

    def __init__(self, world: Any) -> None:
        self.world = world
        with self.databases() as databases:
            bank = databases.create("bank", device="laptop")
            changes = Changes()
            changes.put(*NAME, {"owner": "Novak", "balance": Decimal("12.30"), "seal": b"\0\xff"})
            changes.put("accounts", "4712", {"owner": "Dvorak"})
            bank.commit(changes)
            self.stated = bank.checkpoint_state()
        self.now_ms = 1 << 42
        world.seal_and_show()
        with self.databases() as databases:
            databases.open("bank").put(*NAME, {"owner": "Svoboda"})

    @contextmanager
    def databases(self) -> Iterator[Databases]:
        with self.world.session() as session, Databases(session, self.world.ring) as databases:
            yield databases

    def export(self, document: DocumentId = NAME, at_ms: int | None = None) -> bytes:
        with self.databases() as databases:
            return export_document_evidence(databases.open("bank"), document, self.now_ms if at_ms is None else at_ms)

    def verify(self, data: bytes) -> Any:
        return verify_document_evidence(data, self.world.policy(), self.world.clock())


@pytest.fixture(scope="module")
def bank(founded: Any, clone: Callable[[Any, Path], Any], tmp_path_factory: pytest.TempPathFactory) -> Bank:
    return Bank(clone(founded, tmp_path_factory.mktemp("bank")))


@pytest.fixture(scope="module")
def evidence(bank: Bank) -> bytes:
    return bank.export()


def test_it_shows_what_the_document_was(bank: Bank, evidence: bytes) -> None:
    assert is_document_evidence(evidence)
    report = bank.verify(evidence)
    assert (report.overall, report.exit_code, report.state.status) == (Status.PASSED, 0, Status.PASSED)
    cells = {cell["path"]: cell["values"] for cell in report.facts["cells"]}
    assert cells == {"/owner": ["Novak"], "/balance": [{"$dec": "12.30"}], "/seal": [{"$hex": "00ff"}]}
    assert (report.facts["collection"], report.facts["key"], report.facts["documents"]) == (*NAME, 2)
    said = report.to_json()
    assert (said["overall"], said["claims"]["state"], said["claims"]["time"]) == ("PASSED", "PASSED", "PASSED")
    assert json.loads(json.dumps(said)) == said
    text = report.to_text()
    assert '/owner (reg): "Novak"' in text
    assert "The device below stated this" in text


def test_the_entry_in_it_is_evidence_by_itself(bank: Bank, evidence: bytes) -> None:
    entry = json.dumps(json.loads(evidence)["entry"]).encode()
    assert not is_document_evidence(entry)
    assert bank.world.verify(entry).overall is Status.PASSED


def test_what_was_not_stated_by_then_or_not_there_is_said(bank: Bank) -> None:
    with pytest.raises(MissingEvidenceError, match="is stated and timestamped") as raised:
        bank.export(at_ms=1_000)
    assert "holdfast checkpoint create" in raised.value.hint
    with pytest.raises(MissingEvidenceError, match="was not in the database then"):
        bank.export(DocumentId("accounts", "none"))


def members(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to each thing in a JSON value that has no parts."""
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from members(item, (*path, key))
    else:
        yield path


def changed(value: Any, chance: random.Random) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    at = chance.randrange(len(value))
    return value[:at] + chance.choice("ABCDabcd0123".replace(value[at], "")) + value[at + 1 :]


def test_no_change_passes(bank: Bank, evidence: bytes) -> None:
    chance = random.Random(1)
    document = json.loads(evidence)
    ours = [path for path in members(document) if path[0] != "entry"]
    of_entry = [path for path in members(document) if path[0] == "entry"]
    for path in ours + chance.sample(of_entry, 12):
        tampered = json.loads(evidence)
        within = tampered
        for key in path[:-1]:
            within = within[key]
        within[path[-1]] = changed(within[path[-1]], chance)
        report = bank.verify(json.dumps(tampered).encode())
        assert report.overall is not Status.PASSED, path
        if path[0] != "entry":
            assert report.state.status is Status.FAILED, path


@pytest.mark.parametrize("member", ["entry", "database", "document", "proof", "mediaType"])
def test_every_member_has_to_be_there(bank: Bank, evidence: bytes, member: str) -> None:
    document = json.loads(evidence)
    del document[member]
    report = bank.verify(json.dumps(document).encode())
    assert (report.overall, report.state.reason) == (Status.FAILED, "MALFORMED")


def test_cells_cannot_be_left_out_doubled_or_swapped(bank: Bank, evidence: bytes) -> None:
    for change in (
        lambda cells: cells.pop(),
        lambda cells: cells.append(cells[0]),
        lambda cells: cells.reverse(),
        lambda cells: cells[0]["values"].append(to_base64(encode("more"))),
    ):
        document = json.loads(evidence)
        change(document["document"]["cells"])
        report = bank.verify(json.dumps(document).encode())
        assert (report.state.status, report.state.reason) == (Status.FAILED, "ROOT")


def test_the_evidence_of_another_entry_does_not_do(bank: Bank, evidence: bytes) -> None:
    document = json.loads(evidence)
    with bank.databases() as databases, databases.open("bank").read() as reader:
        feed = bank.stated.reference.feed
        other = encode_evidence(export_evidence(reader.tx, open_archive(reader.tx), feed, 1))
    document["entry"] = json.loads(other)
    report = bank.verify(json.dumps(document).encode())
    assert report.entry.status(Claim.INTEGRITY) is Status.PASSED
    assert (report.state.status, report.state.reason) == (Status.FAILED, "MALFORMED")
    assert report.overall is Status.FAILED


def test_without_an_entry_that_is_shown_nothing_is_said_of_the_state(bank: Bank, evidence: bytes) -> None:
    document = json.loads(evidence)
    document["entry"]["feed"]["proof"] = "AAAA"
    report = bank.verify(json.dumps(document).encode())
    assert (report.overall, report.state.status) == (Status.FAILED, Status.INDETERMINATE)
    assert report.facts == {}


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"\xff", b'{"mediaType": 1}', b"[" * 100])
def test_what_is_no_file_is_a_finding(bank: Bank, data: bytes) -> None:
    assert not is_document_evidence(data)
    report = bank.verify(data)
    assert (report.overall, report.state.reason) == (Status.FAILED, "MALFORMED")


@pytest.mark.parametrize(
    ("document", "cell"),
    [
        (NAME, CellContent('/owner (reg): "A"\n\nPASSED   of everything', "reg", ("v",))),
        (NAME, CellContent("/owner", "reg\nPASSED", ("v",))),
        (NAME, CellContent("", "reg", ("v",))),
        (NAME, CellContent("/owner", "flag", ("v",))),
        (NAME, CellContent("/owner", "reg", ({"$dec": "1e9"},))),
        (DocumentId("accounts", "4711\nPASSED"), CellContent("/owner", "reg", ("v",))),
    ],
)
def test_what_no_document_can_be_is_not_shown(
    founded: Any, clone: Callable[[Any, Path], Any], tmp_path: Path, document: DocumentId, cell: CellContent
) -> None:
    """A device can state anything; what looks like a line of the report is refused before it is shown."""
    bank = Bank(clone(founded, tmp_path))
    content = DocumentContent(deleted=False, purged=False, cells=(cell,))
    root = state_root([Leaf(document, bytes(32), digest_content(content))])
    with bank.databases() as databases:
        commit = databases.open("bank").write(
            lambda writing: StateRoot(writing.stamp(), writing.projection.heads(), root, RULES)
        )
    bank.world.seal_and_show()
    with bank.databases() as databases, databases.open("bank").read() as reader:
        entry = export_evidence(
            reader.tx, open_archive(reader.tx), FeedKey(commit.reference.feed), commit.reference.index
        )
        evidence = DocumentEvidence(
            encode_evidence(entry), founding_of(reader), document, bytes(32), content, DocumentProof(0, 1, ())
        )
    report = bank.verify(encode_document_evidence(evidence))
    assert (report.overall, report.state.reason, report.facts) == (Status.FAILED, "MALFORMED", {})
