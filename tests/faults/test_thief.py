"""Items 1 to 8 of docs/threat-model.md: evidence that a thief makes, as well as it can be made, and what is found.

Row B10 of the fault catalogue says it in short: a key that was stolen, revoked or rotated out. A phone of the bank is
stolen, reported and revoked. What the bank publishes (its log, tokens, receipts and events) the thief has, as everybody
does; authorities stamp whatever they are given, and anybody may use the contract under an address of their own. Each
test says which keys the thief holds besides. All evidence is judged under the bank's own policy, which demands every
claim, with every block of the chain pinned.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from anchoring.chain.transactions import LocalKey
from anchoring.evidence import CheckpointEvidence, Evidence, LeafEvidence, encode_evidence
from anchoring.exporter import Archive, export_evidence
from anchoring.receipt import AnchorReceipt, slots
from anchoring.report import Claim, Report
from anchoring.tsa.source import EmbeddedSource
from anchoring.witness import open_archive, pending_witnesses
from api.demo.forgery import ForgedLog, copy_feed, send_anchor
from api.vault import device_signer, log_signer
from identity.event import DeviceClass, RevocationReason
from identity.history import (
    SignedEvent,
    build_add_device,
    build_inception,
    event_digest,
    fold,
    key_commitment,
    parse_signed_event,
    sign_event,
)
from identity.keys import Ed25519Signer
from identity.keystore import KeyRing
from identity.textforms import parse_base64
from identity.verdict import Status
from ledger.checkpoint import Checkpoint, sign_checkpoint
from ledger.entry import encode_entry
from ledger.feed import FeedWriter, block_proof
from ledger.head import sign_head
from ledger.identities import add_events, key_history
from ledger.log import hash_leaf, inclusion_proof
from ledger.manifest import (
    Continuation,
    FeedDescription,
    Manifest,
    ManifestSigner,
    Prologue,
    device_manifest,
    encode_description,
    encode_manifest,
    feed_key,
    parse_manifest,
)
from ledger.merkle import EMPTY_TREE_HASH, TreeBuilder
from ledger.proof import encode_proof, parse_proof
from ledger.statement import FeedHead, IdentityHead, LogDescriptor, Statement, log_origin, parse_statement
from ledger.storage.memory import MemoryStore
from ledger.store import FeedKey, ReadTransaction, SignedHead, Store, StoredCheckpoint

World = Any
"""``conftest.World``."""

DAY_MS = 86_400_000
HONEST = 3
"""Entries that the phone's owner wrote."""

Found = set[tuple[str, str, str]]

BEYOND_LAST_GOOD = ("origin", "FAILED", "REVOKED")
NOT_LOGGED: Found = {(claim, "INDETERMINATE", "HEAD_NOT_LOGGED") for claim in ("log", "time", "anchor")}


def open_findings(report: Report) -> Found:
    """Every finding but those that are PASSED."""
    return {
        (finding.claim.value, finding.status.value, finding.reason)
        for finding in report.findings
        if finding.status is not Status.PASSED
    }


def judge(world: World, evidence: Evidence, at_ms: int | None = None) -> Found:
    """What is found about the evidence, and never that it holds."""
    report = world.verify(encode_evidence(evidence), at_ms)
    assert report.exit_code != 0
    assert report.overall is not Status.PASSED
    return open_findings(report)


@pytest.fixture(scope="module")
def trading_world(founded: World, clone: Callable[..., World], tmp_path_factory: pytest.TempPathFactory) -> World:
    """The bank before the theft: its owner's entries are sealed."""
    world = clone(founded, tmp_path_factory.mktemp("trading"))
    for text in ("one", "two", "three"):
        world.append(text, feed="approvals")
    world.seal_and_show()
    world.clock.tick(DAY_MS)
    return world


@pytest.fixture(scope="module")
def robbed_world(trading_world: World, clone: Callable[..., World], tmp_path_factory: pytest.TempPathFactory) -> World:
    """The bank after the revocation was sealed and is public; ``honest`` beside it is its home before."""
    world = clone(trading_world, tmp_path_factory.mktemp("robbed"))
    world.copy("honest")
    revoke(world)
    world.seal_and_show()
    world.clock.tick(DAY_MS)
    return world


def revoke(world: World) -> None:
    """Report the phone as stolen, vouching for what its owner wrote."""
    with world.session() as session:
        true_feed = next(info.state.key for info in session.vault.feeds() if info.name == "approvals")
        phone = phone_of(world).public_key
        vouched = {true_feed: HONEST}
        session.vault.revoke_device(
            world.ring, phone, RevocationReason.STOLEN, time_ms=world.clock(), vouch_for=vouched
        )


@pytest.fixture
def unsuspecting(trading_world: World, clone: Callable[..., World], tmp_path: Path) -> World:
    """The bank and everything around it before the revocation."""
    return clone(trading_world, tmp_path)


@pytest.fixture
def bank(robbed_world: World, clone: Callable[..., World], tmp_path: Path) -> World:
    """The bank after the revocation."""
    return clone(robbed_world, tmp_path)


@pytest.fixture
def honest(robbed_world: World, bank: World, tmp_path: Path) -> World:
    """The bank's home as it was before the revocation, in the present surroundings."""
    home = shutil.copytree(robbed_world.home.root.with_name("honest"), tmp_path / "honest")
    return type(bank)(home, bank.dev, bank.clock)


# --- what thieves do ------------------------------------------------------------------------------------------------


def phone_of(world: World) -> Ed25519Signer:
    """The stolen key."""
    return device_signer(world.ring, "phone")


def forged_block(world: World, text: str = "credit line for a friend") -> bytes:
    """An entry that claims to be a week old."""
    block: bytes = encode_entry(world.entry(text, world.clock() - 7 * DAY_MS))
    return block


@contextmanager
def stolen_copy(world: World, *, keep: int = HONEST) -> Iterator[tuple[MemoryStore, FeedKey]]:
    """A store of the thief's own, with the bank's events and the first ``keep`` entries of the phone's feed."""
    key = world.key("approvals")
    with closing(MemoryStore()) as store, world.unguarded() as genuine, genuine.read() as tx:
        copy_events(tx, store)
        if keep == HONEST:
            copy_feed(tx, store, key, phone_of(world))
        else:
            manifest = parse_manifest(tx.feed(key).manifest)
            write_feed(store, manifest, phone_of(world), list(tx.blocks(key, 0, keep)))
        yield store, key


def copy_events(tx: ReadTransaction, store: Store) -> None:
    for identity in tx.identities():
        events = [parse_signed_event(event.signed_event) for event in tx.identity_events(identity)]
        with store.write() as write:
            add_events(write, identity, events)


def write_feed(store: Store, manifest: Manifest, signer: Ed25519Signer, blocks: Sequence[bytes]) -> FeedKey:
    """A feed under any manifest, its one head signed by any key."""
    key = feed_key(manifest)
    with store.write() as tx:
        state = tx.create_feed(key, encode_manifest(manifest), local=True)
        if blocks:
            tree = TreeBuilder()
            nodes = [tree.append(block) for block in blocks]
            signature = sign_head(signer, key, tree.tree_hash(), tree.length)
            tx.append(state, blocks, nodes, SignedHead(tree.length, tree.tree_hash(), signature), tree.roots)
    return key


def proof_of(store: Store, key: FeedKey, index: int, length: int, head_length: int | None = None) -> bytes:
    with store.read() as tx:
        return block_proof(tx, key, index, length=length, head_length=head_length or length)


def with_feed(evidence: Evidence, store: Store, key: FeedKey, proof: bytes) -> Evidence:
    """Evidence with another feed, or another proof, in the place of its own."""
    with store.read() as tx:
        state = tx.feed(key)
    assert state is not None
    return replace(evidence, manifest=state.manifest, proof=proof)


def append(store: Store, key: FeedKey, signer: Ed25519Signer, *blocks: bytes) -> int:
    """Append with the key, by a program that knows of no revocation; the new length."""
    return FeedWriter(store, key, signer).append(list(blocks)).length


def restated(tx: ReadTransaction) -> list[Statement]:
    histories = [key_history(tx, identity) for identity in sorted(tx.identities())]
    return [IdentityHead(history.identity, history.seq, history.head) for history in histories]


def log_by_operator(world: World, key: FeedKey, length: int) -> None:
    """The operator logs a head of the feed, whatever the rules, and has it stamped, anchored and shown to be fresh."""
    with world.unguarded() as store:
        with store.read() as tx:
            head = tx.head(key, length)
            statements = [*restated(tx), FeedHead(key, length, head.tree_hash)]
        ForgedLog(store, log_signer(world.ring)).add(statements)
    world.anchor()
    world.clock.tick()
    world.checkpoint(restate=True)


def export(world: World, key: FeedKey, index: int) -> Evidence:
    with world.unguarded() as store, store.read() as tx:
        return export_evidence(tx, open_archive(tx), key, index)


def before_revocation(evidence: Evidence) -> Evidence:
    """Without the event that revokes the phone."""
    events = [parse_signed_event(event) for event in evidence.events]
    kept = next(n for n in range(len(events), 0, -1) if all(d.revocation is None for d in devices(events[:n])))
    assert kept < len(events)
    return replace(evidence, events=evidence.events[:kept])


def devices(events: Sequence[SignedEvent]) -> list[Any]:
    return list(fold(events).devices.values())


def leaf_of(tx: ReadTransaction, index: int, size: int) -> LeafEvidence:
    leaf = next(iter(tx.log_leaves(index, index + 1)))
    return LeafEvidence(index, leaf, tuple(inclusion_proof(tx.log_node, index, size)))


def only(checkpoint: CheckpointEvidence, kind: type[Statement]) -> CheckpointEvidence:
    """The checkpoint with no other leaves than those."""
    kept = tuple(leaf for leaf in checkpoint.leaves if isinstance(parse_statement(leaf.leaf), kind))
    return replace(checkpoint, leaves=kept)


PURSE = sha256(b"the thief's purse").digest()
"""The secret of an address of the thief's own."""


def anchor_as(world: World, secret: bytes, log: ForgedLog, checkpoint: StoredCheckpoint) -> AnchorReceipt:
    """Anchor the log's checkpoint in the bank's contract under that key's address, and fetch the receipt."""
    with world.session(read_only=True) as session:
        _, descriptor = session.vault.log_descriptor()
    with log.store.read() as tx:
        state = tx.log()
    assert state is not None
    binding = replace(descriptor.chain, owner=LocalKey(secret).address)
    meta, root, _ = slots(binding.owner, state.log_id)
    with world.chain() as chain:
        chain.fund(binding.owner, 10**18)
        anchored = world.check().anchored_size if binding == descriptor.chain else 0
        ring = KeyRing((), 0, {}, None, secret)
        assert send_anchor(chain, ring, binding, state.log_id, (anchored, checkpoint.size), checkpoint.root)
        number = chain.head_number()
        proofs = chain.get_proof(binding.contract, (meta, root), number)
        one, other = proofs.storage_proofs
        return AnchorReceipt(chain.header(number), proofs.account_proof, (one, other))


def begin_own_log(world: World, store: Store) -> ForgedLog:
    """A log with a key of the thief's own, called as the bank's, to be anchored by an address of the thief's own."""
    with world.session(read_only=True) as session:
        _, genuine = session.vault.log_descriptor()
    signer = Ed25519Signer(sha256(b"the thief's log").digest())
    binding = replace(genuine.chain, owner=LocalKey(PURSE).address)
    return ForgedLog(store, signer, LogDescriptor(genuine.name, signer.public_key, binding))


def log_head(world: World, log: ForgedLog, key: FeedKey, length: int) -> StoredCheckpoint:
    """The feed's head in the log, with a genuine token; then that token, and the identity's newest event once more."""
    with log.store.read() as tx:
        head = tx.head(key, length)
        heads = restated(tx)
    assert head is not None
    checkpoint = log.add([*heads, FeedHead(key, length, head.tree_hash)])
    token = log.timestamp(checkpoint, EmbeddedSource(world.authority()), world.clock())
    world.clock.tick()
    log.add([token, *heads])
    return checkpoint


def own_evidence(
    log: ForgedLog, key: FeedKey, index: int, receipts: Mapping[int, AnchorReceipt] | None = None
) -> Evidence:
    """What the log shows of an entry. ``receipts`` by the size that they are shown with."""
    archive = Archive(log.archive().timestamps, (receipts or {}).get)
    with log.store.read() as tx:
        return export_evidence(tx, archive, key, index)


# --- the bank itself ------------------------------------------------------------------------------------------------


def test_what_the_owner_wrote_before_passes(bank: World) -> None:
    """The forgeries below fail for what is forged in them, and for nothing else."""
    for index in range(HONEST):
        report = bank.verify(encode_evidence(bank.evidence("approvals", index)))
        assert open_findings(report) == set()
        assert report.exit_code == 0


def test_a_thiefs_own_log_is_as_good_as_any_for_a_policy_that_names_it(bank: World) -> None:
    """Nothing is missing in it: what fails in test 6 is only that the log is not the bank's."""
    with stolen_copy(bank) as (store, key):
        own = begin_own_log(bank, store)
        checkpoint = log_head(bank, own, key, HONEST)
        receipt = anchor_as(bank, PURSE, own, checkpoint)
        report = bank.verify(encode_evidence(own_evidence(own, key, 2, {checkpoint.size: receipt})))
    assert {claim for claim in Claim if report.status(claim) is Status.PASSED} == {
        Claim.INTEGRITY,
        Claim.TIME,
        Claim.ANCHOR,
    }


# --- 1: without the device's key ------------------------------------------------------------------------------------


def test_1_an_entry_under_another_signature(bank: World) -> None:
    """The thief holds no key of the bank: the phone's feed, signed with another key."""
    genuine = bank.evidence("approvals", 2)
    with closing(MemoryStore()) as store:
        manifest = parse_manifest(genuine.manifest)
        key = write_feed(store, manifest, Ed25519Signer(bytes(32)), [forged_block(bank)] * HONEST)
        forged = with_feed(genuine, store, key, proof_of(store, key, 2, HONEST))
    assert ("integrity", "FAILED", "SIGNATURE") in judge(bank, forged)


def test_1_an_altered_entry_under_the_genuine_signature(bank: World) -> None:
    """The thief holds no key: the text of the entry is another, everything else as it was."""
    genuine = bank.evidence("approvals", 2)
    proof = parse_proof(genuine.proof)
    assert proof.block is not None
    altered = replace(proof.block, value=proof.block.value.replace(b"three", b"THREE"))
    assert altered != proof.block
    forged = replace(genuine, proof=encode_proof(replace(proof, block=altered)))
    assert ("integrity", "FAILED", "SIGNATURE") in judge(bank, forged)


def test_1_a_manifest_that_needs_no_signature(bank: World) -> None:
    """The thief holds no key: Hypercore's prologue vouches for a tree by itself, whoever is named as signer."""
    genuine = bank.evidence("approvals", 2)
    tree = TreeBuilder()
    tree.append(forged_block(bank))
    device = phone_of(bank).public_key
    description = encode_description(FeedDescription(fold_identity(genuine), "approvals"))
    manifest = Manifest(2, 1, (ManifestSigner(device),), prologue=Prologue(tree.tree_hash(), 1), user_data=description)
    with closing(MemoryStore()) as store:
        key = write_feed(store, manifest, Ed25519Signer(bytes(32)), [forged_block(bank)])
        proof = parse_proof(proof_of(store, key, 0, 1))
    assert proof.upgrade is not None
    unsigned = replace(proof, upgrade=replace(proof.upgrade, signature=b""))
    forged = replace(genuine, manifest=encode_manifest(manifest), proof=encode_proof(unsigned))
    assert ("integrity", "FAILED", "MALFORMED") in judge(bank, forged)


def fold_identity(evidence: Evidence) -> bytes:
    return event_digest(parse_signed_event(evidence.events[0]).event)


# --- 2: with a key that is not a device of the bank -----------------------------------------------------------------


def log_feed_of(bank: World, signer: Ed25519Signer, identity: bytes) -> FeedKey:
    """A feed by that key that says it is the identity's, logged and anchored by the bank's own operator."""
    manifest = device_manifest(signer.public_key, FeedDescription(identity, "approvals"))
    with bank.unguarded() as store:
        key = write_feed(store, manifest, signer, [forged_block(bank)])
    log_by_operator(bank, key, 1)
    return key


def test_2_a_device_that_the_identity_never_added(bank: World) -> None:
    """The thief holds a key of their own; the operator helps with the log key and the anchor key."""
    identity = fold_identity(bank.evidence("approvals", 0))
    key = log_feed_of(bank, Ed25519Signer(sha256(b"own").digest()), identity)
    assert judge(bank, export(bank, key, 0)) == {("origin", "FAILED", "UNKNOWN_DEVICE")}


def test_2_a_device_before_it_was_added(bank: World) -> None:
    """The key is added later, but the evidence is of before. Later evidence counts: adding the key accepted it."""
    tablet = Ed25519Signer(sha256(b"tablet").digest())
    key = log_feed_of(bank, tablet, fold_identity(bank.evidence("approvals", 0)))
    before = export(bank, key, 0)
    with bank.session() as session:
        history = session.vault.history()
        event = build_add_device(history, device=tablet.public_key, name="tablet", time_ms=0)
        root = Ed25519Signer(bank.ring.root_seeds[0])
        session.vault.add_event(lambda _: sign_event(event, [(0, root), (1, tablet)]))
    bank.seal_and_show()
    assert judge(bank, before) == {("origin", "FAILED", "UNKNOWN_DEVICE")}
    newer = replace(before, events=export(bank, key, 0).events)
    assert judge(bank, newer) == {("origin", "INDETERMINATE", "NO_FRESH_IDENTITY")}
    assert bank.verify(encode_evidence(export(bank, key, 0))).exit_code == 0


def test_2_a_device_of_another_identity(bank: World) -> None:
    """The thief holds a device of an identity of their own; the operator helps with the log key and the anchor key."""
    root, device = Ed25519Signer(sha256(b"their root").digest()), Ed25519Signer(sha256(b"their device").digest())
    inception = build_inception(
        label="bank", root_keys=[root.public_key], next_digests=[key_commitment(bytes(32))], time_ms=0
    )
    events = [sign_event(inception, [(0, root)])]
    added = build_add_device(fold(events), device=device.public_key, name="phone", time_ms=0)
    events.append(sign_event(added, [(0, root), (1, device)]))
    theirs = event_digest(events[0].event)
    as_the_banks = log_feed_of(bank, device, fold_identity(bank.evidence("approvals", 0)))
    assert judge(bank, export(bank, as_the_banks, 0)) == {("origin", "FAILED", "UNKNOWN_DEVICE")}
    with closing(MemoryStore()) as store:
        manifest = device_manifest(device.public_key, FeedDescription(theirs, "approvals"))
        key = write_feed(store, manifest, device, [forged_block(bank)])
        as_their_own = with_feed(export(bank, as_the_banks, 0), store, key, proof_of(store, key, 0, 1))
    assert ("origin", "FAILED", "OTHER_IDENTITY") in judge(bank, as_their_own)
    own_events = replace(as_their_own, events=tuple(event.encode() for event in events))
    found = judge(bank, own_events)
    assert {("log", "FAILED", "LOG_NOT_BOUND"), ("origin", "INDETERMINATE", "UNKNOWN_IDENTITY")} <= found


# --- 3: after the revocation, with a claim of before ----------------------------------------------------------------


def test_3_a_backdated_entry_by_the_thief_alone(bank: World) -> None:
    """The thief holds the phone's key. No checkpoint of the bank has such a head, so the nearest is shown."""
    genuine = bank.evidence("approvals", 2)
    with stolen_copy(bank) as (store, key):
        length = append(store, key, phone_of(bank), forged_block(bank))
        forged = with_feed(genuine, store, key, proof_of(store, key, HONEST, length))
        assert judge(bank, forged) == NOT_LOGGED | {BEYOND_LAST_GOOD}
        # Even less is shown: not what the log says about the true feed, which covers nothing of this.
        first, *rest = forged.checkpoints
        less = replace(forged, checkpoints=(only(first, IdentityHead), *rest))
        assert judge(bank, less) == NOT_LOGGED | {BEYOND_LAST_GOOD}


def test_3_a_backdated_entry_with_the_operators_help(bank: World) -> None:
    """The thief holds the phone's key, the log key and the anchor key: every proof in it is genuine."""
    key = bank.key("approvals")
    with bank.unguarded() as store:
        length = append(store, key, phone_of(bank), forged_block(bank))
    log_by_operator(bank, key, length)
    forged = export(bank, key, HONEST)
    assert judge(bank, forged) == {BEYOND_LAST_GOOD}
    report = bank.verify(encode_evidence(forged))
    claimed = report.facts["entry"]["claimed"]
    assert claimed < report.facts["identity_not_before"] - DAY_MS < report.facts["existed_by"]


def test_3_an_entry_that_was_logged_before_anybody_knew(unsuspecting: World) -> None:
    """The thief holds the phone's key and was faster than the revocation: nobody can tell who signed, so it is open."""
    world = unsuspecting
    world.append_unguarded("credit line for a friend", feed="approvals", device="phone")
    world.seal_and_show()
    world.clock.tick(DAY_MS)
    revoke(world)
    world.seal_and_show()
    key = world.key("approvals")
    assert judge(world, export(world, key, HONEST)) == {("origin", "INDETERMINATE", "REPUDIATED")}
    assert world.verify(encode_evidence(export(world, key, HONEST - 1))).exit_code == 0


# --- 4: fewer identity events ---------------------------------------------------------------------------------------


def logged_by_operator(bank: World) -> tuple[FeedKey, Evidence]:
    """The forgery of test 3 with everybody's help."""
    key = bank.key("approvals")
    with bank.unguarded() as store:
        length = append(store, key, phone_of(bank), forged_block(bank))
    log_by_operator(bank, key, length)
    return key, export(bank, key, HONEST)


def test_4_events_that_end_before_the_revocation(bank: World) -> None:
    """The thief holds the phone's key, the log key and the anchor key, and leaves the last event out."""
    _, forged = logged_by_operator(bank)
    truncated = before_revocation(forged)
    assert judge(bank, truncated) == {("origin", "FAILED", "EVENTS_TRUNCATED")}
    without_log = replace(truncated, events=truncated.events[:3])
    assert ("log", "FAILED", "LOG_NOT_BOUND") in judge(bank, without_log)


def test_4_and_no_identity_head_at_all(bank: World) -> None:
    """As above; what the log says about the identity is left out, too."""
    _, forged = logged_by_operator(bank)
    silent = replace(before_revocation(forged), checkpoints=(only(forged.checkpoints[0], FeedHead),))
    assert judge(bank, silent) == {("origin", "INDETERMINATE", "NO_FRESH_IDENTITY")}


# --- 5: an older identity head --------------------------------------------------------------------------------------


def test_5_an_older_identity_head_of_the_same_log(bank: World) -> None:
    """The thief holds the phone's key, the log key and the anchor key, and shows the head of before the revocation.

    It stands far before the forged entry's checkpoint, and so does every token that could say since when.
    """
    _, forged = logged_by_operator(bank)
    truncated = before_revocation(forged)
    newest = fold([parse_signed_event(event) for event in truncated.events])
    first = only(truncated.checkpoints[0], FeedHead)
    with bank.unguarded() as store, store.read() as tx:
        leaves = [parse_statement(leaf) for leaf in tx.log_leaves(0, tx.log().size)]
        size = int(first.note.split("\n")[1])
        older = max(
            index
            for index, head in enumerate(leaves)
            if isinstance(head, IdentityHead) and head.digest == newest.head and index < size
        )
        shown = replace(first, leaves=(leaf_of(tx, older, size), *first.leaves))
    assert judge(bank, replace(truncated, checkpoints=(shown,))) == {("origin", "INDETERMINATE", "NO_FRESH_IDENTITY")}


def test_5_an_older_identity_head_counts_as_long_as_the_policy_lets_it_and_no_longer(unsuspecting: World) -> None:
    """The thief holds the phone's key and was faster than the revocation; the evidence made then is kept.

    It says itself as of which identity head it is. After the policy's ``max_identity_age`` that is not enough.
    """
    world = unsuspecting
    world.append_unguarded("credit line for a friend", feed="approvals", device="phone")
    world.seal_and_show()
    kept = export(world, world.key("approvals"), HONEST)
    made = world.clock()
    age = world.policy().max_identity_age_ms
    assert age == 30 * DAY_MS
    assert world.verify(encode_evidence(kept), made + age - DAY_MS).exit_code == 0
    late = judge(world, kept, made + age + DAY_MS)
    assert late == {("origin", "INDETERMINATE", "NO_FRESH_IDENTITY")}


@contextmanager
def forked_log(honest: World) -> Iterator[tuple[ForgedLog, FeedKey, StoredCheckpoint]]:
    """The bank's log goes on from before the revocation, as if it had never come, signed with the log's own key."""
    key = honest.key("approvals")
    with honest.unguarded() as store:
        length = append(store, key, phone_of(honest), forged_block(honest))
        log = ForgedLog(store, log_signer(honest.ring))
        yield log, key, log_head(honest, log, key, length)


def test_5_a_log_that_goes_on_without_the_revocation_is_not_anchored(bank: World, honest: World) -> None:
    """The thief holds the phone's key and the log key. Only the anchor key could bring that log onto the chain."""
    genuine = next(c.anchor for c in bank.evidence("approvals", 2).checkpoints if c.anchor is not None)
    with forked_log(honest) as (log, key, checkpoint):
        assert judge(bank, own_evidence(log, key, HONEST)) == {("anchor", "INDETERMINATE", "NOT_ANCHORED")}
        borrowed = own_evidence(log, key, HONEST, {checkpoint.size: genuine})
        assert judge(bank, borrowed) == {("anchor", "FAILED", "OTHER_SIZE")}
        # Under an address of the thief's own it stands in another slot.
        squatted = anchor_as(honest, PURSE, log, checkpoint)
        forged = own_evidence(log, key, HONEST, {checkpoint.size: squatted})
        assert judge(bank, forged) == {("anchor", "FAILED", "PROOF_HASH")}


def test_5_with_every_key_of_the_operator_only_an_audit_tells(
    bank: World, honest: World, cli: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The thief holds the phone's key, the log key and the anchor key: the limit of one file (docs/limitations.md).

    The log was rewritten, and the audit of the complete log finds an anchor that it cannot explain.
    """
    with forked_log(honest) as (log, key, _):
        with log.store.read() as tx:
            heads = restated(tx)
        while (longer := log.add(heads)).size <= bank.check().anchored_size:
            pass
        receipt = anchor_as(honest, honest.ring.anchor_key, log, longer)
        evidence = own_evidence(log, key, HONEST, {longer.size: receipt})
    assert bank.verify(encode_evidence(evidence)).exit_code == 0
    export = honest.export(tmp_path / "rewritten.log")
    assert cli(honest, "audit", "--log", export, "--policy", bank.home.policy, "--dev-chain", bank.dev) == 1
    assert "diverged" in capsys.readouterr().out


# --- 6: a log of the thief's own ------------------------------------------------------------------------------------


NOT_THE_BANKS_LOG: Found = {
    ("log", "FAILED", "LOG_NOT_BOUND"),
    ("log", "INDETERMINATE", "UNKNOWN_LOG"),
    ("origin", "INDETERMINATE", "NO_FRESH_IDENTITY"),
}


def test_6_a_log_of_their_own(bank: World, honest: World) -> None:
    """The thief holds the phone's key. The log has the bank's events, as they were; its own key, name and anchor."""
    with stolen_copy(honest) as (store, key):
        length = append(store, key, phone_of(honest), forged_block(bank))
        own = begin_own_log(bank, store)
        checkpoint = log_head(bank, own, key, length)
        receipt = anchor_as(bank, PURSE, own, checkpoint)
        forged = own_evidence(own, key, HONEST, {checkpoint.size: receipt})
    assert judge(bank, forged) == NOT_THE_BANKS_LOG


def test_6_a_log_of_their_own_with_all_the_events(bank: World) -> None:
    """The thief holds the phone's key, and hides nothing."""
    with stolen_copy(bank) as (store, key):
        length = append(store, key, phone_of(bank), forged_block(bank))
        own = begin_own_log(bank, store)
        checkpoint = log_head(bank, own, key, length)
        receipt = anchor_as(bank, PURSE, own, checkpoint)
        forged = own_evidence(own, key, HONEST, {checkpoint.size: receipt})
    assert judge(bank, forged) == NOT_THE_BANKS_LOG | {BEYOND_LAST_GOOD}


def test_6_the_banks_descriptor_with_another_key(bank: World, honest: World) -> None:
    """The thief holds the phone's key. The log has the bank's id, so its notes must be the bank's."""
    with honest.session(read_only=True) as session:
        log_id, genuine = session.vault.log_descriptor()
    thief = Ed25519Signer(sha256(b"the thief's log").digest())
    with stolen_copy(honest) as (store, key):
        length = append(store, key, phone_of(honest), forged_block(bank))
        own = begin_own_log(bank, store)
        log_head(bank, own, key, length)
        forged = own_evidence(own, key, HONEST)
        with honest.unguarded() as theirs, theirs.read() as tx:
            descriptor = next(iter(tx.log_leaves(0, 1)))
    assert hash_leaf(descriptor) == log_id
    # Everything is signed as of the bank's log, by the thief's key.
    origin = log_origin(genuine, log_id)
    notes = []
    for shown in forged.checkpoints:
        _, size, root, *_ = shown.note.split("\n")
        note = sign_checkpoint(thief, Checkpoint(origin, int(size), parse_base64(root)))
        notes.append(replace(shown, note=note))
    forged = replace(forged, descriptor=replace(forged.descriptor, leaf=descriptor), checkpoints=tuple(notes))
    assert judge(bank, forged) == {("log", "FAILED", "SIGNATURE")}


# --- 7: a shadow feed, another branch -------------------------------------------------------------------------------


def test_7_a_shadow_feed_of_the_same_name(bank: World) -> None:
    """The thief holds the phone's key, the log key and the anchor key. The feed says that it continues the true one."""
    key = bank.key("approvals")
    with bank.unguarded() as store:
        with store.read() as tx:
            head = tx.head(key, HONEST)
        identity = fold_identity(bank.evidence("approvals", 0))
        description = FeedDescription(identity, "approvals", Continuation(key, HONEST, head.tree_hash))
        manifest = device_manifest(phone_of(bank).public_key, description)
        shadow = write_feed(store, manifest, phone_of(bank), [forged_block(bank)])
    log_by_operator(bank, shadow, 1)
    assert judge(bank, export(bank, shadow, 0)) == {BEYOND_LAST_GOOD}


def test_7_a_shadow_feed_that_was_logged_before_the_revocation(unsuspecting: World) -> None:
    """The thief holds the phone's key and was faster. The revocation does not vouch for that feed."""
    world = unsuspecting
    identity = fold_identity(world.evidence("approvals", 0))
    other = FeedDescription(identity, "approvals", Continuation(FeedKey(bytes(32)), 0, EMPTY_TREE_HASH))
    manifest = device_manifest(phone_of(world).public_key, other)
    with world.unguarded() as store:
        shadow = write_feed(store, manifest, phone_of(world), [forged_block(world)])
    world.seal_and_show()
    world.clock.tick(DAY_MS)
    revoke(world)
    world.seal_and_show()
    assert judge(world, export(world, shadow, 0)) == {("origin", "INDETERMINATE", "REPUDIATED")}


@pytest.fixture
def branch(bank: World) -> Iterator[tuple[MemoryStore, FeedKey]]:
    """Another history of the phone's feed: its first entry is the true one, the three after it are the thief's."""
    with closing(MemoryStore()) as store, bank.unguarded() as genuine:
        key = bank.key("approvals")
        with genuine.read() as tx:
            copy_events(tx, store)
            manifest = parse_manifest(tx.feed(key).manifest)
            with store.write() as write:
                write.create_feed(key, encode_manifest(manifest), local=True)
            append(store, key, phone_of(bank), tx.block(key, 0))
        append(store, key, phone_of(bank), forged_block(bank, "two for a friend"))
        append(store, key, phone_of(bank), forged_block(bank, "three for a friend"))
        append(store, key, phone_of(bank), forged_block(bank, "four for a friend"))
        yield store, key


def test_7_another_branch_below_the_last_good_head(bank: World, branch: tuple[MemoryStore, FeedKey]) -> None:
    """The thief holds the phone's key. The bank's log has the true head of that length."""
    store, key = branch
    genuine = bank.evidence("approvals", 1)
    forged = with_feed(genuine, store, key, proof_of(store, key, 1, 2, 3))
    assert judge(bank, forged) == {
        ("log", "FAILED", "OTHER_HISTORY"),
        ("origin", "FAILED", "OTHER_BRANCH"),
        ("time", "INDETERMINATE", "HEAD_NOT_LOGGED"),
        ("anchor", "INDETERMINATE", "HEAD_NOT_LOGGED"),
    }


@pytest.mark.parametrize(
    ("length", "found"),
    [
        (3, ("origin", "FAILED", "OTHER_BRANCH")),
        (4, ("origin", "INDETERMINATE", "LAST_GOOD_NOT_SHOWN")),
    ],
)
def test_7_another_branch_that_the_operator_logs(
    bank: World, branch: tuple[MemoryStore, FeedKey], length: int, found: tuple[str, str, str]
) -> None:
    """The thief holds the phone's key, the log key and the anchor key: the log states a longer head of that branch.

    The proof leads to that head by way of the last good length, or past it.
    """
    store, key = branch
    with store.read() as tx:
        head = tx.head(key, 4)
    assert head is not None
    with bank.unguarded() as theirs:
        with theirs.read() as tx:
            statements = [*restated(tx), FeedHead(key, 4, head.tree_hash)]
        ForgedLog(theirs, log_signer(bank.ring)).add(statements)
    bank.anchor()
    bank.clock.tick()
    # The bank's own writer refuses to go on with such a log.
    with bank.unguarded() as theirs:
        with theirs.read() as tx:
            times, anchors = pending_witnesses(tx)
            statements = [*times, *anchors, *restated(tx)]
        ForgedLog(theirs, log_signer(bank.ring)).add(statements)
        # The true feed is as long as it was, so the exporter is shown the other one.
        proof = proof_of(store, key, 1, length, 4)
        forged = with_feed(export_in_place_of(bank, theirs, store, key), store, key, proof)
    assert judge(bank, forged) == {found}


class Substitute:
    """A store's snapshot in which one feed is another store's."""

    def __init__(self, log: ReadTransaction, feeds: ReadTransaction) -> None:
        self._log, self._feeds = log, feeds

    def __getattr__(self, name: str) -> Any:
        return getattr(self._feeds if name in ("feed", "block", "node", "head", "heads") else self._log, name)


def export_in_place_of(bank: World, theirs: Any, store: Store, key: FeedKey) -> Evidence:
    """Evidence about the last entry of the branch: the log's part of it is what is wanted."""
    with theirs.read() as log, store.read() as feeds:
        tx: Any = Substitute(log, feeds)
        return export_evidence(tx, open_archive(log), key, HONEST)


# --- 8: all of it ---------------------------------------------------------------------------------------------------


def test_8_all_of_these_together(bank: World, honest: World) -> None:
    """The thief holds the phone's key: an own log, events and heads of before, a shadow feed, a claim of last week."""
    with stolen_copy(honest) as (store, key):
        with store.read() as tx:
            head = tx.head(key, HONEST)
            (identity,) = tx.identities()
        assert head is not None
        description = FeedDescription(identity, "approvals", Continuation(key, HONEST, head.tree_hash))
        manifest = device_manifest(phone_of(honest).public_key, description)
        shadow = write_feed(store, manifest, phone_of(honest), [forged_block(bank)])
        own = begin_own_log(bank, store)
        checkpoint = log_head(bank, own, shadow, 1)
        receipt = anchor_as(bank, PURSE, own, checkpoint)
        forged = own_evidence(own, shadow, 0, {checkpoint.size: receipt})
    assert judge(bank, forged) == NOT_THE_BANKS_LOG


def test_8_in_the_banks_log(bank: World, honest: World) -> None:
    """As above, with the log key: what the bank's own log would have been without the revocation."""
    key = honest.key("approvals")
    with honest.unguarded() as store:
        with store.read() as tx:
            head = tx.head(key, HONEST)
            (identity,) = tx.identities()
        description = FeedDescription(identity, "approvals", Continuation(key, HONEST, head.tree_hash))
        manifest = device_manifest(phone_of(honest).public_key, description)
        shadow = write_feed(store, manifest, phone_of(honest), [forged_block(bank)])
        log = ForgedLog(store, log_signer(honest.ring))
        checkpoint = log_head(honest, log, shadow, 1)
        squatted = anchor_as(honest, PURSE, log, checkpoint)
        assert judge(bank, own_evidence(log, shadow, 0)) == {("anchor", "INDETERMINATE", "NOT_ANCHORED")}
        forged = own_evidence(log, shadow, 0, {checkpoint.size: squatted})
    assert judge(bank, forged) == {("anchor", "FAILED", "PROOF_HASH")}


# --- B10: a key that was stolen, revoked or rotated out -------------------------------------------------------------


def test_B10_of_a_stolen_key_only_what_was_stamped_before_its_revocation_counts(bank: World) -> None:
    """The thief's entry claims to be a week old, older than the revocation: what it claims counts for nothing."""
    key = bank.key("approvals")
    genuine = bank.verify(encode_evidence(export(bank, key, HONEST - 1)))
    assert (genuine.exit_code, open_findings(genuine)) == (0, set())
    with bank.unguarded() as store:
        length = append(store, key, phone_of(bank), forged_block(bank))
    log_by_operator(bank, key, length)
    assert judge(bank, export(bank, key, HONEST)) == {BEYOND_LAST_GOOD}
    again = bank.verify(encode_evidence(export(bank, key, HONEST - 1)))
    assert (again.exit_code, again.facts["existed_by"]) == (0, genuine.facts["existed_by"])


def test_B10_a_device_key_that_was_rotated_out_signs_nothing_more(unsuspecting: World) -> None:
    """Another device took over and the phone was retired; months later somebody finds its key, and back-dates."""
    world = unsuspecting
    key, phone = world.key("approvals"), phone_of(world)
    with world.session() as session:
        vault, now = session.vault, world.clock()
        vault.add_device(world.ring, "new phone", sha256(b"new").digest(), device_class=DeviceClass.DEVICE, time_ms=now)
        vault.revoke_device(world.ring, phone.public_key, RevocationReason.RETIRED, time_ms=now)
    world.seal_and_show()
    world.clock.tick(90 * DAY_MS)
    with world.unguarded() as store:
        length = append(store, key, phone, encode_entry(world.entry("as it always was", world.clock() - 100 * DAY_MS)))
    log_by_operator(world, key, length)
    assert judge(world, export(world, key, HONEST)) == {BEYOND_LAST_GOOD}
    for index in range(HONEST):
        report = world.verify(encode_evidence(export(world, key, index)))
        assert (report.exit_code, open_findings(report)) == (0, set()), (
            "what it wrote while it was in use holds for ever"
        )
