"""Steps 1 to 6 of docs/spec/evidence.md, and the table of reasons in docs/spec/report.md."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from anchoring import anchors, times, usage, verifier
from anchoring import report as report_module
from anchoring.chain.deploy import close_log
from anchoring.chain.outbox import AnchorTarget
from anchoring.contracts import load_contract
from anchoring.evidence import encode_evidence
from anchoring.headers import TrustedHeaders
from anchoring.receipt import DEVELOPMENT_CHAIN_ID
from anchoring.report import Claim
from anchoring.verifier import verify_evidence
from api.demo.forgery import ForgedLog
from identity import verdict
from identity.history import (
    build_close,
    fold,
    sign_event,
)
from identity.verdict import Status
from ledger.entry import Entry, encode_entry
from ledger.feed import FeedWriter, block_proof
from ledger.statement import (
    encode_statement,
)
from ledger.storage.memory import MemoryStore

Bench = Any
"""``conftest.Bench``."""

MINUTE_MS, DAY_MS = 60_000, 86_400_000


EVERYTHING = frozenset(Claim)


def flipped(data: bytes, position: int = -1) -> bytes:
    changed = bytearray(data)
    changed[position] ^= 1
    return bytes(changed)


# --- what passes ----------------------------------------------------------------------------------------------------


def test_exported_evidence_passes_and_says_what_is_established(sealed: Bench) -> None:
    report = sealed.report(sealed.export(2))
    assert sealed.not_passed(report) == set()
    assert {claim: report.status(claim) for claim in Claim} == dict.fromkeys(Claim, Status.PASSED)
    facts = report.facts
    assert facts["entry"] == {"kind": "note", "claimed": 0, "body": {"text": "c"}}
    assert (facts["index"], facts["feed_name"], facts["device_name"]) == (2, "ledger", "phone")
    assert facts["identity_head"] == {"seq": 2, "leaf": 5}
    assert facts["identity_not_before"] < facts["existed_by"] <= facts["anchor"]["time"] + 1000
    assert len(report.development) == 2


def test_by_hand_and_by_the_exporter_it_is_the_same_file(sealed: Bench) -> None:
    by_hand = sealed.assemble(
        sealed.proof(2, 4),
        sealed.show(sealed.first, 2),
        sealed.show(sealed.second, 3, 5, after=sealed.first.size),
    )
    assert encode_evidence(by_hand) == encode_evidence(sealed.export(2))


def test_a_claim_that_is_not_demanded_may_be_open_but_not_failed(sealed: Bench) -> None:
    evidence = sealed.altered(sealed.export(2), 0, anchor=None)
    without = EVERYTHING - {Claim.ANCHOR}
    assert sealed.report(evidence).exit_code == 2
    assert sealed.report(evidence, require=without).exit_code == 0
    receipt = sealed.receipts[sealed.first.size]
    broken = sealed.altered(sealed.export(2), 0, anchor=replace(receipt, header=flipped(receipt.header)))
    assert sealed.report(broken, require=without).exit_code == 1


@pytest.mark.parametrize("claim", Claim)
def test_each_claim_alone_can_be_demanded(sealed: Bench, claim: Claim) -> None:
    assert sealed.report(sealed.export(2), require=frozenset({claim})).exit_code == 0


def test_a_receipt_on_a_later_checkpoint_covers_the_entry_as_well(bench: Bench) -> None:
    bench.append("a")
    first = bench.add(bench.who(), bench.what(1))
    bench.stamp(first)
    second = bench.add(bench.when(first), bench.who())
    bench.anchor(second)
    assert bench.find(bench.export(0)) == set()


def test_a_log_that_was_closed_since_is_named_in_the_finding(bench: Bench) -> None:
    bench.append("a")
    first = bench.add(bench.who(), bench.what(1))
    bench.stamp(first)
    bench.anchor(first)
    bench.add(bench.when(first), bench.who())
    key, binding = bench.owner, bench.descriptor.chain
    target = AnchorTarget(binding.id, binding.contract, binding.owner, bench.log_id, load_contract().code_hash)
    close_log(bench.around.chain, key, target, bytes(32))
    bench.receipts[first.size] = bench.fetch_receipt()
    report = bench.report(bench.export(0))
    assert report.exit_code == 0
    assert "the log is closed on chain" in report.to_text()


# --- step 1: the file -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"{}", b"null", b"\xff", b'{"mediaType": "text/plain"}', b"[" * 100_000])
def test_what_is_no_evidence_file_is_malformed_and_nothing_else_is_judged(bench: Bench, data: bytes) -> None:
    report = verify_evidence(data, bench.policy(), 0)
    assert bench.not_passed(report) == {"integrity FAILED MALFORMED"}
    assert report.exit_code == 1
    assert report.facts == {}


# --- step 2: the log ------------------------------------------------------------------------------------------------


def test_a_note_of_another_key_is_no_note_of_the_log(own: Bench) -> None:
    thief = ForgedLog(own.store, own.signer("thief"))
    forged = thief.add([own.who()])
    evidence = own.assemble(own.proof(2, 4), own.show(forged, 2))
    assert own.find(evidence) == {"log FAILED SIGNATURE"}


def test_a_note_of_another_log_of_the_same_key_is_refused(sealed: Bench) -> None:
    other = ForgedLog(MemoryStore(), sealed.log_key, replace(sealed.descriptor, name="other.example"))
    note = other.add([sealed.who()]).note
    assert sealed.find(sealed.altered(sealed.export(2), 0, note=note)) == {"log FAILED REFUSED"}


def test_signature_lines_of_others_have_no_place_in_evidence(sealed: Bench) -> None:
    note = sealed.first.note + "\u2014 witness.example AAAAAAAA\n"
    assert sealed.find(sealed.altered(sealed.export(2), 0, note=note)) == {"log FAILED MALFORMED"}


def test_inclusion_and_consistency_must_lead_to_the_signed_roots(sealed: Bench) -> None:
    evidence = sealed.export(2)
    leaf, *_ = evidence.checkpoints[0].leaves
    other_path = replace(leaf, proof=(flipped(leaf.proof[0]), *leaf.proof[1:]))
    assert sealed.find(sealed.altered(evidence, 0, leaves=(other_path,))) == {"log FAILED ROOT"}
    consistency = evidence.checkpoints[1].consistency
    other_way = sealed.altered(evidence, 1, consistency=(flipped(consistency[0]), *consistency[1:]))
    assert sealed.find(other_way) == {"log FAILED ROOT"}
    path = evidence.descriptor.proof
    other_descriptor = replace(evidence.descriptor, proof=(flipped(path[0]), *path[1:]))
    assert sealed.find(replace(evidence, descriptor=other_descriptor)) == {"log FAILED ROOT"}


def test_the_order_of_checkpoints_and_leaves(sealed: Bench) -> None:
    evidence = sealed.export(2)
    first, second = evidence.checkpoints
    assert sealed.find(replace(evidence, checkpoints=(second, first))) == {"log FAILED MALFORMED"}
    moved = sealed.assemble(
        sealed.proof(2, 4), sealed.show(sealed.first), sealed.show(sealed.second, 2, 3, 5, after=sealed.first.size)
    )
    assert sealed.find(moved) == {"log FAILED MALFORMED"}
    assert sealed.find(sealed.altered(evidence, 1, leaves=second.leaves[::-1])) == {"log FAILED MALFORMED"}
    assert sealed.find(sealed.altered(evidence, 0, consistency=second.consistency)) == {"log FAILED MALFORMED"}


def test_what_stands_as_descriptor_must_be_one(sealed: Bench) -> None:
    evidence = sealed.export(2)
    for leaf in (encode_statement(sealed.who()), b"holdfast/v1 log\n", b""):
        changed = replace(evidence, descriptor=replace(evidence.descriptor, leaf=leaf))
        assert sealed.find(changed) == {"log FAILED MALFORMED"}


def test_a_log_that_the_identity_has_not_bound(sealed: Bench, make: Callable[..., Bench]) -> None:
    evidence = sealed.export(2)
    unbound = replace(evidence, events=evidence.events[:2])
    found = sealed.find(unbound)
    assert "log FAILED LOG_NOT_BOUND" in found
    assert "origin FAILED EVENTS_TRUNCATED" in found


def test_a_log_that_the_policy_does_not_name_shows_no_fresh_identity_either(sealed: Bench) -> None:
    found = sealed.find(sealed.export(2), logs=frozenset({bytes(32)}))
    assert found == {"log INDETERMINATE UNKNOWN_LOG", "origin INDETERMINATE NO_FRESH_IDENTITY"}
    assert sealed.report(sealed.export(2), logs=frozenset(), require=frozenset({Claim.ORIGIN})).exit_code == 2


# --- step 3: the feed -----------------------------------------------------------------------------------------------


def test_the_feed_part_must_verify(sealed: Bench) -> None:
    evidence = sealed.export(2)
    not_logged = {"log FAILED UNREFERENCED"}
    for changed, reason in (
        (replace(evidence, manifest=b"\0"), "MALFORMED"),
        (replace(evidence, manifest=flipped(evidence.manifest)), "MALFORMED"),
        (replace(evidence, proof=evidence.proof + b"\0"), "MALFORMED"),
        (replace(evidence, proof=flipped(evidence.proof, -30)), "SIGNATURE"),
        (replace(evidence, proof=sealed.proof(2, 4).replace(b"textac", b"textaC")), "SIGNATURE"),
    ):
        found = sealed.find(changed)
        assert f"integrity FAILED {reason}" in found
        assert not found & not_logged, "what depends on it is not judged"


def test_a_block_that_is_no_entry_is_malformed(bench: Bench) -> None:
    FeedWriter(bench.store, bench.key, bench.phone).append([b"not CBOR"])
    first = bench.add(bench.who(), bench.what(1))
    bench.stamp(first)
    evidence = bench.assemble(bench.proof(0, 1), bench.show(first, 2))
    assert "integrity FAILED MALFORMED" in bench.find(evidence)


def test_a_proof_that_leads_to_a_tree_that_nothing_asks_for(bench: Bench) -> None:
    """Genuine and verified, and still not what the file is for."""
    bench.append("a")
    bench.append("b")
    first = bench.add(bench.who(), bench.what(1))
    bench.stamp(first)
    bench.anchor(first)
    second = bench.add(bench.when(first), bench.who())
    shown = (bench.show(first, 2), bench.show(second, 3, 4, after=first.size))
    assert bench.find(bench.assemble(bench.proof(0, 1), *shown)) == set()
    assert bench.find(bench.assemble(bench.proof(0, 1, 2), *shown)) == {"integrity FAILED UNREFERENCED"}


# --- step 4: the identity -------------------------------------------------------------------------------------------


def test_the_events_of_another_identity(sealed: Bench, make: Callable[..., Bench]) -> None:
    events = tuple(event.encode() for event in make().events)
    found = sealed.find(replace(sealed.export(2), events=events))
    assert found == {"origin FAILED OTHER_IDENTITY"}


def test_events_must_follow_from_each_other(sealed: Bench) -> None:
    evidence = sealed.export(2)
    for events, reason in (
        (evidence.events[1:], "IDENTITY_EVENT"),
        ((evidence.events[0], evidence.events[2]), "IDENTITY_EVENT"),
        ((*evidence.events[:2], flipped(evidence.events[2])), "SIGNATURE"),
        ((*evidence.events, b"\xa0"), "MALFORMED"),
    ):
        assert sealed.find(replace(evidence, events=events)) == {f"origin FAILED {reason}"}


def test_an_identity_that_the_policy_does_not_name(sealed: Bench) -> None:
    assert sealed.find(sealed.export(2), identities=frozenset()) == {"origin INDETERMINATE UNKNOWN_IDENTITY"}


def test_an_identity_with_two_histories(sealed: Bench) -> None:
    evidence = sealed.export(2)
    rival = build_close(fold(sealed.events[:2]), time_ms=0)
    signed = sign_event(rival, [(0, sealed.root)])
    found = sealed.find(replace(evidence, events=(*evidence.events, signed.encode())))
    assert found == {"origin INDETERMINATE DUPLICITOUS"}


# --- step 5: the place ----------------------------------------------------------------------------------------------


HEAD_NOT_LOGGED = {f"{claim} INDETERMINATE HEAD_NOT_LOGGED" for claim in ("log", "time", "anchor")}


def test_without_a_logged_head_place_time_and_anchor_are_open(sealed: Bench) -> None:
    """Each by itself too: a token and an anchor on some checkpoint say nothing about this entry."""
    evidence = sealed.altered(sealed.export(2), 0, leaves=())
    assert sealed.find(evidence) == HEAD_NOT_LOGGED
    for claim in (Claim.LOG, Claim.TIME, Claim.ANCHOR):
        assert sealed.report(evidence, require=frozenset({claim})).exit_code == 2


def test_a_head_that_stands_under_a_later_checkpoint_does_not_count(bench: Bench) -> None:
    bench.append("a")
    first = bench.add(bench.who())
    bench.stamp(first)
    bench.anchor(first)
    second = bench.add(bench.when(first), bench.who(), bench.what(1))
    evidence = bench.assemble(bench.proof(0, 1), bench.show(first), bench.show(second, 2, 3, 4, after=first.size))
    assert bench.find(evidence) == HEAD_NOT_LOGGED | {"log FAILED UNREFERENCED"}


def test_the_entry_of_another_history_than_the_logged_one(sealed: Bench) -> None:
    fork = MemoryStore()
    with sealed.store.read() as tx:
        state = tx.feed(sealed.key)
    with fork.write() as write:
        write.create_feed(sealed.key, state.manifest, local=True)
    blocks = [encode_entry(Entry("note", 0, {"text": text})) for text in "abXd"]
    FeedWriter(fork, sealed.key, sealed.phone).append(blocks)
    with fork.read() as tx:
        proof = block_proof(tx, sealed.key, 2, length=4, head_length=4)
    found = sealed.find(replace(sealed.export(2), proof=proof))
    assert found == {"log FAILED OTHER_HISTORY", *(HEAD_NOT_LOGGED - {"log INDETERMINATE HEAD_NOT_LOGGED"})}


# --- step 6: the anchors --------------------------------------------------------------------------------------------


def test_no_receipt(sealed: Bench) -> None:
    assert sealed.find(sealed.altered(sealed.export(2), 0, anchor=None)) == {"anchor INDETERMINATE NOT_ANCHORED"}


def test_a_block_that_is_not_pinned(sealed: Bench) -> None:
    trust = sealed.policy().chains[DEVELOPMENT_CHAIN_ID]
    chains = {trust.id: replace(trust, headers=TrustedHeaders())}
    assert sealed.find(sealed.export(2), chains=chains) == {"anchor INDETERMINATE HEADER_NOT_TRUSTED"}


def test_a_chain_that_the_policy_does_not_name(sealed: Bench) -> None:
    assert sealed.find(sealed.export(2), chains={}) == {"anchor INDETERMINATE UNKNOWN_CHAIN"}


def test_an_open_anchor_does_not_make_its_statement_in_the_log_needless(sealed: Bench) -> None:
    evidence = sealed.assemble(
        sealed.proof(2, 4),
        sealed.show(sealed.first, 2),
        sealed.show(sealed.second, 3, 4, 5, after=sealed.first.size),
    )
    assert sealed.find(evidence) == set()
    assert sealed.find(evidence, chains={}) == {"anchor INDETERMINATE UNKNOWN_CHAIN"}


def test_a_log_without_a_chain(make: Callable[..., Bench], sealed: Bench) -> None:
    bench: Bench = make(has_chain=False)
    bench.append("a")
    first = bench.add(bench.who(), bench.what(1))
    bench.stamp(first)
    bench.add(bench.when(first), bench.who())
    assert bench.find(bench.export(0)) == {"anchor INDETERMINATE NO_CHAIN"}
    assert bench.report(bench.export(0), require=EVERYTHING - {Claim.ANCHOR}).exit_code == 0
    surplus = sealed.altered(bench.export(0), 0, anchor=sealed.receipts[sealed.first.size])
    assert bench.find(surplus) == {"anchor INDETERMINATE NO_CHAIN", "anchor FAILED UNREFERENCED"}
    assert bench.report(surplus, require=EVERYTHING - {Claim.ANCHOR}).exit_code == 1


def test_receipts_that_do_not_show_the_checkpoint(sealed: Bench, make: Callable[..., Bench]) -> None:
    evidence, receipt = sealed.export(2), sealed.receipts[sealed.first.size]
    for changed, reason in (
        (replace(receipt, header=b"\xc0"), "MALFORMED"),
        (replace(receipt, header=flipped(receipt.header, -30)), "HEADER_HASH"),
        (replace(receipt, account_proof=(flipped(receipt.account_proof[0]),)), "PROOF_HASH"),
    ):
        assert sealed.find(sealed.altered(evidence, 0, anchor=changed)) == {f"anchor FAILED {reason}"}
    trust = sealed.policy().chains[DEVELOPMENT_CHAIN_ID]
    other_code = {trust.id: replace(trust, code_hash=bytes(32))}
    assert sealed.find(evidence, chains=other_code) == {"anchor FAILED CODE_HASH"}


def test_a_receipt_from_before_the_log_was_anchored(sealed: Bench, make: Callable[..., Bench]) -> None:
    other = make()
    receipt = other.fetch_receipt()
    other.append("a")
    first = other.add(other.who(), other.what(1))
    other.stamp(first)
    other.receipts[first.size] = receipt
    other.add(other.when(first), other.who())
    assert other.find(other.export(0)) == {"anchor FAILED NO_ANCHOR"}


def test_a_receipt_of_another_size_or_root(own: Bench) -> None:
    size = own.second.size
    own.anchor(own.second, before=own.first.size)
    newer = own.receipts[size]
    assert own.find(own.altered(own.export(2), 0, anchor=newer)) == {"anchor FAILED OTHER_SIZE"}


def test_an_anchor_of_another_root(bench: Bench) -> None:
    bench.append("a")
    first = bench.add(bench.who(), bench.what(1))
    bench.stamp(first)
    bench.anchor(replace(first, root=sha256(b"another history").digest()))
    bench.add(bench.when(first), bench.who())
    assert bench.find(bench.export(0)) == {"anchor FAILED ROOT"}


# --- the table and the code -----------------------------------------------------------------------------------------


def test_every_reason_of_the_table_is_reached_here(root: Path) -> None:
    here = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    reasons = {reason for _, _, reason in reasons_of_the_table(root)} - {"OK"}
    assert {reason for reason in reasons if not re.search(rf"\b{reason}\b", here)} == set()


def test_every_reason_in_the_code_is_in_the_table(root: Path) -> None:
    known = {reason for _, _, reason in reasons_of_the_table(root)}
    for module in (verifier, anchors, times, usage, report_module, verdict):
        tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
        named = {
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and re.fullmatch(r"[A-Z][A-Z_]+", node.value)
            and node.value not in set(Status)
        }
        assert named <= known | {"DEVELOPMENT"}, module.__name__


def reasons_of_the_table(root: Path) -> list[tuple[str, str, str]]:
    """(claim, status, reason) of evidence in docs/spec/report.md, without rows that refer to another table."""
    rows = []
    page = (root / "docs" / "spec" / "report.md").read_text(encoding="utf-8")
    for line in page.partition("\n## Audit of an archive")[0].splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) == 6 and cells[2] in {status.value for status in Status}:
            rows += [(cells[1], cells[2], reason) for reason in re.findall(r"\b[A-Z][A-Z_]+\b", cells[3])]
    assert len(rows) > 35
    return rows
