"""Rows B3, B4 and B9 of the fault catalogue for an auditor who has an archive, a policy and the chain (P4, P5)."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from anchoring.archive_file import write_archive
from anchoring.audit_report import ArchiveAudit, AuditFinding, Subject
from anchoring.chain.check import ChainView
from anchoring.complete_audit import audit_archive
from anchoring.contracts import load_contract
from anchoring.policy import Policy
from anchoring.receipt import DEVELOPMENT_CHAIN_ID
from anchoring.rollback import RollbackState
from api.demo.forgery import ForgedLog, copy_feed
from api.vault import log_signer
from identity.encoding import decode, encode
from identity.errors import MalformedError, TransportError
from identity.event import RevocationReason
from identity.keys import Ed25519Signer
from identity.verdict import Status
from ledger.archive import ArchiveHeader, ArchiveReader, ArchiveWriter, LogFacts, Purpose
from ledger.entry import Entry, record_entry
from ledger.fork import parse_fork, verify_fork
from ledger.identities import add_events, key_history
from ledger.log_transfer import export_log
from ledger.log_writer import LogWriter
from ledger.manifest import device_key, parse_manifest
from ledger.merkle import TreeBuilder
from ledger.statement import IdentityHead, LogDescriptor
from ledger.storage.memory import MemoryStore
from ledger.store import stored_tree_hash
from ledger.transfer import write_feed

pytestmark = pytest.mark.fault

World = Any
"""``conftest.World``."""
Parts = list[tuple[str, dict[str, Any], bytes]]


@pytest.fixture(scope="module")
def honest(founded: World, clone: Callable[..., World], tmp_path_factory: pytest.TempPathFactory) -> World:
    """Two feeds, three sealed checkpoints, a revoked phone; "yesterday" is from before the last two."""
    world = clone(founded, tmp_path_factory.mktemp("honest"))
    world.append("one", "two", "three")
    world.append("pay", feed="approvals")
    world.seal()
    world.copy("yesterday")
    world.append("four")
    world.seal()
    with world.session() as session:
        phone = next(one.key for one in session.vault.history().devices.values() if one.name == "phone")
        session.vault.revoke_device(world.ring, phone, RevocationReason.STOLEN, time_ms=world.clock())
    world.append("five", "six")
    world.seal()
    world.append("late")
    world.checkpoint()
    return world


@pytest.fixture
def world(honest: World, clone: Callable[..., World], tmp_path: Path) -> World:
    world = clone(honest, tmp_path)
    shutil.copytree(honest.home.root.with_name("yesterday"), tmp_path / "yesterday")
    return world


def archive_of(world: World) -> bytes:
    out = io.BytesIO()
    with world.unguarded() as store, store.read() as tx:
        write_archive(tx, out, Purpose.EXPORT, archive_id=b"\5" * 32, made_ms=7)
    return out.getvalue()


@pytest.fixture(scope="module")
def archive(honest: World) -> bytes:
    return archive_of(honest)


def audit(world: World, data: bytes, policy: Policy | None = None, *, node: Any = None) -> ArchiveAudit:
    """What the auditor finds, who asks the world's chain, or ``node``."""
    trusted = policy or world.policy()
    with world.chain() as chain:
        view = ChainView({"node": node or chain}, DEVELOPMENT_CHAIN_ID, load_contract().code_hash)
        return audit_archive(io.BytesIO(data), trusted, lambda _: view, world.clock())


def named(found: ArchiveAudit) -> list[tuple[Subject, Status, str]]:
    """Everything that did not pass."""
    return [(one.subject, one.status, one.reason) for one in found.findings if one.status is not Status.PASSED]


def only(found: ArchiveAudit, reason: str) -> AuditFinding:
    (one,) = (finding for finding in found.findings if finding.reason == reason)
    return one


def take_apart(data: bytes) -> tuple[ArchiveHeader, Parts]:
    reader = ArchiveReader(io.BytesIO(data))
    names = ("key", "length", "tree", "local", "retired")
    return reader.header, [
        (section.name, {name: section.facts.value(name) for name in names if section.facts.has(name)}, content)
        for section in reader.sections()
        if (content := section.content.read()) is not None
    ]


def put_together(header: ArchiveHeader, parts: Parts) -> bytes:
    out = io.BytesIO()
    writer = ArchiveWriter(out, header)
    for name, facts, content in parts:
        with writer.section(name, facts) as stream:
            stream.write(content)
    writer.finish()
    return out.getvalue()


def records_of(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    while content:
        size = int.from_bytes(content[1:5], "big")
        yield content[:1], content[5 : 5 + size]
        content = content[5 + size :]


def framed(kind: bytes, payload: bytes) -> bytes:
    return kind + len(payload).to_bytes(4, "big") + payload


def place_of(parts: Parts, key: bytes) -> int:
    return next(place for place, (_, facts, _) in enumerate(parts) if facts.get("key") == key)


# --- an honest archive


def test_an_honest_archive_passes(world: World, archive: bytes) -> None:
    found = audit(world, archive)
    assert named(found) == []
    assert found.verdict is Status.PASSED
    assert found.check is not None
    assert found.check.state is RollbackState.CONSISTENT
    assert "3 anchors that the chain ever held" in found.check.detail
    assert {(feed.name, feed.device_name, feed.length, feed.heads) for feed in found.feeds} == {
        ("ledger", "laptop", 7, 4),
        ("approvals", "phone", 1, 1),
    }
    assert all(feed.reread for feed in found.feeds)
    assert [one.size for one in found.checkpoints if one.existed_by_ms is not None and one.block is not None] == [
        one.size for one in found.checkpoints
    ]
    assert len(found.checkpoints) == 3


def test_what_is_blind_and_what_is_not_proven_is_said(world: World, archive: bytes) -> None:
    found = audit(world, archive)
    ledger = next(feed for feed in found.feeds if feed.name == "ledger")
    assert (ledger.logged, ledger.timestamped, ledger.anchored) == (7, 6, 6)
    assert (found.blind.entries, found.blind.since_ms) == (1, world.clock())
    assert found.anchored_size == found.checkpoints[-1].size
    assert any("1 entries after the newest anchor" in said for said in found.not_proven)
    assert any("embedded development chain" in said for said in found.development)


def test_the_oldest_claim_in_the_blind_window_need_not_be_the_first(world: World) -> None:
    with world.session() as session:
        key = session.vault.find_feed("ledger").state.key
        session.vault.append(world.ring, key, [world.entry("back-dated", claimed_ms=5)])
    found = audit(world, archive_of(world))
    assert (found.blind.entries, found.blind.since_ms) == (2, 5)
    assert found.verdict is Status.PASSED
    assert any("1 entries are not in the log yet" in said for said in found.not_proven)


def test_the_command(
    world: World, archive: bytes, cli: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bank.archive").write_bytes(archive)
    line = ("audit", tmp_path / "bank.archive", "--policy", world.home.policy, "--dev-chain", world.dev)
    assert cli(world, *line) == 0
    said = capsys.readouterr().out
    assert "RE-READ  7 entries" in said
    assert "blind window: 1 entries after the newest final anchor" in said
    assert cli(world, *line, "--json") == 0
    answers = [json.loads(answer) for answer in capsys.readouterr().out.splitlines()]
    assert answers[-1]["kind"] == "archive-audit"
    assert (answers[-1]["verdict"], answers[-1]["feeds_reread"], answers[-1]["entries"]) == ("PASSED", 2, 8)
    assert cli(world, *line[:4]) == 2
    capsys.readouterr()
    assert cli(world, "audit", "--log", *line[1:]) == 77


def test_entries_of_a_revoked_device_that_nothing_proves_older(world: World) -> None:
    """The thief goes on with the phone's key after it was reported stolen."""
    world.append_unguarded("theft", feed="approvals", device="phone")
    found = audit(world, archive_of(world))
    assert named(found) == [(Subject.FEED, Status.FAILED, "REVOKED")]
    assert only(found, "REVOKED").detail.startswith("entries 1 to 1:")


def test_a_successor_passes(
    world: World, cli: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world.restore(type(world)(world.home.root.with_name("yesterday"), world.dev, world.clock))
    assert cli(world, "recover", "succeed") == 0
    (tmp_path / "row.jsonl").write_text('{"text": "more"}\n')
    assert cli(world, "feed", "append", "ledger", tmp_path / "row.jsonl") == 0
    assert cli(world, "checkpoint", "create") == 0
    assert cli(world, "anchor", "run") == 0
    assert cli(world, "audit", "--export", tmp_path / "new.archive") == 0
    line = ("audit", tmp_path / "new.archive", "--policy", world.home.policy, "--dev-chain", world.dev, "--json")
    capsys.readouterr()
    assert cli(world, *line) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["predecessor"] == "closed"


def test_a_closed_log_names_its_successor(world: World, archive: bytes, cli: Callable[..., int]) -> None:
    world.restore(type(world)(world.home.root.with_name("yesterday"), world.dev, world.clock))
    assert cli(world, "recover", "succeed") == 0
    with world.session(read_only=True) as session:
        newer, _ = session.vault.log_descriptor()
    found = audit(world, archive)
    assert found.check is not None
    assert (found.check.state, found.successor) == (RollbackState.CLOSED, newer)


# --- attacks on feeds


def unsigned(content: bytes) -> tuple[bytes, bytes]:
    """The feed with its first block changed, all trees and heads rebuilt, and the old signatures."""
    tree, out, first = TreeBuilder(), bytearray(), content.index(b"\n") + 1
    out += content[:first]
    batch: list[bytes] = []
    for kind, payload in records_of(content[first:]):
        if kind == b"B":
            batch.append(payload.replace(b"one", b"won"))
            out += framed(kind, batch[-1])
        elif kind in (b"H", b"E"):
            tree.append_many(batch)
            batch = []
            fields: Any = decode(payload)
            out += framed(kind, encode({**fields, "tree": tree.tree_hash()}))
        else:
            out += framed(kind, payload)
    return bytes(out), tree.tree_hash()


def test_a_block_changed_with_everything_rebuilt_but_the_signatures(world: World, archive: bytes) -> None:
    key = world.key("ledger")
    header, parts = take_apart(archive)
    place = place_of(parts, key)
    content, tree = unsigned(parts[place][2])
    parts[place] = ("feed", parts[place][1] | {"tree": tree}, content)
    found = audit(world, put_together(header, parts))
    assert named(found) == [(Subject.FEED, Status.FAILED, "SIGNATURE")]
    assert only(found, "SIGNATURE").about == key
    assert {feed.key: feed.reread for feed in found.feeds} == {key: False, world.key("approvals"): True}


def test_a_feed_that_was_left_out(world: World, archive: bytes) -> None:
    key = world.key("ledger")
    header, parts = take_apart(archive)
    del parts[place_of(parts, key)]
    found = audit(world, put_together(replace(header, feeds=1), parts))
    assert named(found) == [(Subject.FEED, Status.FAILED, "MISSING_FEED")]
    chained = next(feed for feed in found.feeds if not feed.reread)
    assert (chained.key, chained.length) == (key, 7)
    assert any("1 feeds were only chained" in said for said in found.not_proven)


def test_a_feed_that_the_header_counts_and_nobody_gives(world: World, archive: bytes) -> None:
    header, parts = take_apart(archive)
    del parts[place_of(parts, world.key("ledger"))]
    reasons = {reason for _, _, reason in named(audit(world, put_together(header, parts)))}
    assert reasons == {"MISSING_SECTION", "MISSING_FEED"}


def test_a_feed_shorter_than_the_log_says(world: World, archive: bytes) -> None:
    """Cut to an older head, which is signed: the feed alone looks whole."""
    key = world.key("ledger")
    header, parts = take_apart(archive)
    older = next(part for part in take_apart(archive_of(older_copy(world)))[1] if part[1].get("key") == key)
    parts[place_of(parts, key)] = older
    found = audit(world, put_together(header, parts))
    assert named(found) == [(Subject.FEED, Status.FAILED, "SHORTER")]


def older_copy(world: World) -> World:
    return type(world)(world.home.root.with_name("yesterday"), world.dev, world.clock)


def other_history(world: World, key: bytes) -> tuple[str, dict[str, Any], bytes]:
    """The section of the same feed with another first entry, signed by the device itself."""

    def change(index: int, entry: Entry) -> Entry:
        return entry if index else record_entry(world_record("other"), entry.claimed_ms)

    with closing(MemoryStore()) as store, world.unguarded() as held, held.read() as tx:
        device = device_key(parse_manifest(tx.feed(key).manifest))
        signers = [Ed25519Signer(seed) for seed in world.ring.devices.values()]
        copy_feed(tx, store, key, next(one for one in signers if one.public_key == device), change)  # type: ignore[arg-type]
        out = io.BytesIO()
        with store.read() as copy:
            length = write_feed(copy, key, out, with_events=False)  # type: ignore[arg-type]
            tree = stored_tree_hash(copy, key, length)  # type: ignore[arg-type]
    facts = {"key": key, "length": length, "tree": tree, "local": False, "retired": False}
    return "feed", facts, out.getvalue()


def world_record(text: str) -> Any:
    from ledger.entry import Record

    return Record("notes", {"text": text})


def test_a_feed_forked_after_it_was_logged(world: World, archive: bytes) -> None:
    key = world.key("ledger")
    header, parts = take_apart(archive)
    parts[place_of(parts, key)] = other_history(world, key)
    found = audit(world, put_together(header, parts))
    assert named(found) == [(Subject.FEED, Status.FAILED, "OTHER_HISTORY")]
    assert only(found, "OTHER_HISTORY").about == key


def test_two_histories_of_a_feed_become_a_portable_proof(
    world: World, archive: bytes, cli: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = world.key("ledger")
    header, parts = take_apart(archive)
    parts.insert(place_of(parts, key) + 1, other_history(world, key))
    data = put_together(replace(header, feeds=3), parts)
    fork = only(audit(world, data), "FORK")
    proof = parse_fork(fork.proof)
    verify_fork(proof.manifest, proof)
    (tmp_path / "forked.archive").write_bytes(data)
    line = ("audit", tmp_path / "forked.archive", "--policy", world.home.policy, "--dev-chain", world.dev)
    assert cli(world, *line, "--forks", tmp_path / "forks") == 1
    (written,) = (tmp_path / "forks").iterdir()
    assert str(written) in capsys.readouterr().out
    assert cli(world, "proof", "check-fork", written) == 0


# --- attacks on the log


def test_a_history_rewritten_by_the_owner_of_all_keys(world: World) -> None:
    older = older_copy(world)
    size = audit(world, archive_of(world)).anchored_size
    world.restore(older)
    world.append_unguarded("other four", "other five")
    with world.unguarded() as store:
        writer = LogWriter(store, log_signer(world.ring))
        while writer.append_checkpoint(restate=True).size <= size:
            pass
    found = audit(world, archive_of(world))
    assert (Subject.CHAIN, Status.FAILED, "DIVERGED") in named(found) or (
        Subject.CHAIN,
        Status.FAILED,
        "FOREIGN_CHAIN",
    ) in named(found)
    assert found.verdict is Status.FAILED


def test_the_archive_of_a_shorter_log(world: World) -> None:
    found = audit(world, archive_of(older_copy(world)))
    assert (Subject.CHAIN, Status.FAILED, "BEHIND_ANCHOR") in named(found)


def test_a_second_log_of_one_identity(world: World, archive: bytes) -> None:
    """Made with its log key, complete in itself, and named by no event."""
    header, parts = take_apart(archive)
    with closing(MemoryStore()) as store:
        with world.unguarded() as held, held.read() as tx:
            (identity,) = tx.identities()
            from identity.history import parse_signed_event

            events = [parse_signed_event(event.signed_event) for event in tx.identity_events(identity)]
            history = key_history(tx, identity)
        signer = log_signer(world.ring)
        with store.write() as write:
            add_events(write, identity, events)
        log = ForgedLog(store, signer, LogDescriptor("second.example", signer.public_key))
        checkpoint = log.add([IdentityHead(identity, history.seq, history.head)])
        out = io.BytesIO()
        export_log(store, out)
        with store.read() as read:
            state = read.log()
            assert state is not None
    empty = {"timestamps": framed(b"E", encode({"timestamps": 0})), "anchors": framed(b"E", encode({"anchors": 0}))}
    changed = [
        (name, facts, out.getvalue() if name == "log" else empty.get(name, content)) for name, facts, content in parts
    ]
    data = put_together(replace(header, log=LogFacts(state.log_id, checkpoint.size)), changed)
    policy = replace(world.policy(), logs=frozenset({state.log_id}))
    found = audit(world, data, policy)
    assert (Subject.IDENTITY, Status.FAILED, "LOG_NOT_BOUND") in named(found)
    assert found.verdict is Status.FAILED


def test_a_log_that_breaks_a_rule_leaves_the_feeds_re_read(world: World, archive: bytes) -> None:
    header, parts = take_apart(archive)
    place = next(place for place, part in enumerate(parts) if part[0] == "log")
    note = parts[place][2].rindex("— ".encode())
    content = bytearray(parts[place][2])
    content[note + 80] ^= 1
    parts[place] = ("log", {}, bytes(content))
    found = audit(world, put_together(header, parts))
    assert found.verdict is Status.FAILED
    assert {subject for subject, status, _ in named(found) if status is Status.FAILED} == {Subject.LOG}
    assert (Subject.CHAIN, Status.INDETERMINATE, "NO_LOG") in named(found)
    assert all(feed.reread for feed in found.feeds)


# --- authorities, the chain, the policy


def test_tokens_of_another_authority(world: World, archive: bytes) -> None:
    policy = replace(world.policy(), authorities=(world.authority("another").authority,))
    found = audit(world, archive, policy)
    reasons = named(found)
    assert (Subject.TIME, Status.INDETERMINATE, "NOT_ENOUGH_AUTHORITIES") in reasons
    assert "UNKNOWN_AUTHORITY" in only(found, "NOT_ENOUGH_AUTHORITIES").detail
    assert found.verdict is Status.INDETERMINATE or (Subject.FEED, Status.INDETERMINATE, "NO_POE") in reasons


def test_two_authorities_are_asked_for_and_one_is_there(world: World, archive: bytes) -> None:
    policy = world.policy()
    found = audit(
        world, archive, replace(policy, authorities=(*policy.authorities, world.authority("b").authority), k=2)
    )
    assert (Subject.TIME, Status.INDETERMINATE, "NOT_ENOUGH_AUTHORITIES") in named(found)
    assert [len(one.authorities) for one in found.checkpoints] == [1, 1, 1]


def test_a_receipt_of_another_log(world: World, archive: bytes, other: World) -> None:
    def receipts(content: bytes) -> list[bytes]:
        return [payload for kind, payload in records_of(content) if kind == b"P"]

    header, parts = take_apart(archive)
    theirs = next(part[2] for part in take_apart(archive_of(other))[1] if part[0] == "anchors")
    place = next(place for place, part in enumerate(parts) if part[0] == "anchors")
    mine: Any = decode(receipts(parts[place][2])[0])
    false: Any = decode(receipts(theirs)[0])
    swapped = encode({**mine, "receipt": false["receipt"]})
    content = b"".join(
        framed(kind, swapped if payload == receipts(parts[place][2])[0] else payload)
        for kind, payload in records_of(parts[place][2])
    )
    parts[place] = ("anchors", {}, content)
    found = audit(world, put_together(header, parts))
    assert found.verdict is Status.FAILED
    said = [one.detail for one in found.findings if one.status is Status.FAILED]
    assert any("receipt" in one for one in said)


@pytest.fixture(scope="module")
def other(founded: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    """Another bank, with its own identity, log and chain."""
    import sys

    world = sys.modules[type(founded).__module__].found_world(tmp_path_factory.mktemp("other"))
    world.append("theirs")
    world.seal_and_show()
    return world


def test_an_archive_of_another_log_than_the_policy_names(world: World, other: World) -> None:
    found = audit(world, archive_of(other))
    assert {(Subject.LOG, Status.FAILED, "UNKNOWN_LOG")} <= set(named(found))
    assert (Subject.IDENTITY, Status.INDETERMINATE, "UNKNOWN_IDENTITY") in named(found)


class Unreachable:
    """A node that does not answer."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*_: Any) -> Any:
            raise TransportError("no route to the node")

        return call


def test_a_chain_that_cannot_be_reached(world: World, archive: bytes) -> None:
    """What the file alone shows stands; the pinned headers still vouch for the archived receipts."""
    found = audit(world, archive, node=Unreachable())
    assert named(found) == [(Subject.CHAIN, Status.INDETERMINATE, "UNVERIFIED")]
    assert "no route to the node" in only(found, "UNVERIFIED").detail
    assert found.anchored_size == found.checkpoints[-1].size
    assert any("that this is all of the log" in said for said in found.not_proven)


def test_no_chain_and_no_pinned_header(world: World, archive: bytes) -> None:
    policy = world.policy()
    found = audit(world, archive, replace(policy, chains={}), node=Unreachable())
    assert (Subject.ANCHOR, Status.INDETERMINATE, "HEADER_NOT_TRUSTED") in named(found)
    assert (found.verdict, found.anchored_size) == (Status.INDETERMINATE, 0)


def test_a_file_that_was_cut(world: World, archive: bytes) -> None:
    for length in (10, len(archive) // 2, len(archive) - 1):
        with pytest.raises(MalformedError):
            audit(world, archive[:length])
