"""Rows B1, B2, B3, B4 and B9 of the fault catalogue: whoever goes back in time is found out (docs/spec/rollback.md)."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from anchoring.chain.deploy import close_log, deploy_contract
from anchoring.chain.dev import DevChain
from anchoring.chain.outbox import AnchorTarget
from anchoring.chain.transactions import LocalKey
from anchoring.contracts import load_contract
from anchoring.evidence import encode_evidence
from anchoring.rollback import RollbackState
from anchoring.storage import AnchorState
from api.cli.times import parse_time
from api.demo.forgery import ForgedLog, copy_feed, cut_feed, prove_fork, roots_at, send_anchor, unlocked
from api.root_events import close_event
from api.vault import Vault, log_signer
from identity.errors import ReadOnlyState, RefusedError, TransportError
from identity.event import DeviceClass, RevocationReason
from identity.history import parse_signed_event
from identity.keys import Ed25519Signer, generate_seed
from identity.verdict import Status
from ledger.audit import audit_feed
from ledger.completeness import find_shortfalls
from ledger.entry import Entry
from ledger.identities import add_events, key_history
from ledger.log_transfer import export_log
from ledger.log_writer import LogWriter
from ledger.manifest import device_key, parse_manifest
from ledger.statement import ChainBinding, FeedHead, IdentityHead, LogDescriptor, parse_statement
from ledger.storage.memory import MemoryStore
from ledger.store import FeedKey, Store, StoredCheckpoint

World = Any
"""``conftest.World``."""


@pytest.fixture
def world(dated_world: World) -> World:
    return dated_world


@pytest.fixture
def yesterday(world: World) -> World:
    return type(world)(world.home.root.with_name("yesterday"), world.dev, world.clock)


@pytest.fixture(params=["database", "home"])
def restored(request: pytest.FixtureRequest, world: World, yesterday: World) -> World:
    """B1: only the database is yesterday's. B2: keys, policy and pinned headers are, too."""
    if request.param == "home":
        world.restore(yesterday)
    else:
        for path in world.home.root.glob("vault.db*"):
            path.unlink()
        shutil.copy(yesterday.home.database, world.home.database)
    return world


def sizes(world: World) -> tuple[int, int]:
    """How many leaves the log has, and how many the chain holds of it."""
    check = world.check()
    return check.local_size, check.anchored_size


def contents(world: World) -> dict[str, list[tuple[Any, ...]]]:
    with closing(sqlite3.connect(world.home.database)) as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: database.execute(f'SELECT * FROM "{name}"').fetchall() for name in tables}


# --- B1, B2: an old copy --------------------------------------------------------------------------------------------


def test_B1_B2_a_restored_copy_is_behind_its_anchor(restored: World) -> None:
    check = restored.check()
    assert check.state is RollbackState.BEHIND_ANCHOR
    assert check.local_size < check.anchored_size
    assert f"{check.anchored_size - check.local_size} statements are missing" in check.detail


WRITES: dict[str, Callable[[World, Vault], object]] = {
    "append": lambda world, vault: vault.append(world.ring, vault.find_feed("ledger").state.key, [world.entry("x")]),
    "import_blocks": lambda world, vault: vault.import_blocks(
        world.ring, vault.find_feed("ledger").state.key, iter([b"x"]), batch=1, on_batch=lambda _: None
    ),
    "start_writer": lambda world, vault: vault.start_writer(world.ring),
    "create_feed": lambda world, vault: vault.create_feed(world.ring, "laptop", "another"),
    "open_writer": lambda world, vault: vault.open_writer(world.ring, vault.find_feed("ledger").state.key),
    "checkpoint": lambda world, vault: vault.checkpoint(world.ring, restate=True),
    "add_device": lambda world, vault: vault.add_device(
        world.ring, "tablet", generate_seed(), device_class=DeviceClass.DEVICE, time_ms=0
    ),
    "revoke_device": lambda world, vault: vault.revoke_device(
        world.ring,
        Ed25519Signer(world.ring.devices["phone"]).public_key,
        RevocationReason.LOST,
        time_ms=0,
    ),
    "rotate_root": lambda world, vault: vault.rotate_root(PHRASE, time_ms=0),
    "sign_event_by_root": lambda world, vault: vault.sign_event_by_root(world.ring, close_event(0)),
    "append_events": lambda world, vault: vault.append_events(vault.signed_events()),
    "submit": lambda world, vault: vault.submit([vault.propose(close_event(0))]),
    "import_events": lambda world, vault: vault.import_events(
        [parse_signed_event(event.signed_event) for event in vault.events()]
    ),
}

PHRASE = " ".join(["abandon"] * 23 + ["art"])


@pytest.mark.parametrize("write", WRITES)
def test_nothing_can_be_written_to_it(world: World, yesterday: World, write: str) -> None:
    world.restore(yesterday)
    before = contents(world)
    with world.session() as session, pytest.raises(ReadOnlyState) as refusal:
        WRITES[write](world, session.vault)
    assert refusal.value.state == "behind-anchor"
    assert refusal.value.hint
    assert contents(world) == before


def test_every_write_of_a_vault_is_among_those(world: World) -> None:
    """A method that is not listed here does not ask the guard, or is missing from the test above."""
    reading = {
        "blind_window",
        "close",
        "events",
        "evidence",
        "feeds",
        "find_feed",
        "history",
        "identities",
        "last_good",
        "log_descriptor",
        "pending_checkpoint",
        "require_appendable",
        "propose",
        "require_writable",
        "signed_events",
    }
    public = {name for name in vars(Vault) if not name.startswith("_")}
    # What it takes to sign an event comes with the call, so the others stand for it.
    assert public == reading | set(WRITES) | {"add_event"}


COMMANDS = [
    ("feed", "append", "ledger", "{row}"),
    ("feed", "import", "ledger", "{row}"),
    ("feed", "create", "another", "--device", "laptop"),
    ("feed", "ingest", "{feed}"),
    ("checkpoint", "create"),
    ("checkpoint", "create", "--restate"),
    ("anchor", "run"),
    ("identity", "revoke-device", "phone", "--reason", "lost"),
    ("identity", "add-device", "tablet"),
    ("status",),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_the_commands_refuse(
    world: World,
    yesterday: World,
    cli: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: tuple[str, ...],
) -> None:
    (tmp_path / "row.jsonl").write_text('{"text": "more"}\n')
    assert cli(world, "feed", "export", "ledger", "-o", tmp_path / "ledger.feed") == 0
    world.restore(yesterday)
    before = contents(world)
    capsys.readouterr()
    code = cli(world, *(part.format(row=tmp_path / "row.jsonl", feed=tmp_path / "ledger.feed") for part in command))
    said = capsys.readouterr()
    assert code == 77
    assert "behind-anchor" in said.out + said.err
    assert "Traceback" not in said.err
    assert contents(world) == before


def test_reading_exporting_and_auditing_go_on(
    restored: World, cli: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evidence, complete = tmp_path / "one.json", tmp_path / "complete.log"
    for command in (
        ("feed", "list"),
        ("feed", "read", "ledger"),
        ("feed", "audit", "ledger"),
        ("checkpoint", "list"),
        ("checkpoint", "export", "-o", complete),
        ("anchor", "status"),
        ("identity", "show"),
        ("evidence", "export", "ledger", "1", "-o", evidence),
    ):
        assert cli(restored, *command) == 0, capsys.readouterr().err
    assert restored.verify(evidence.read_bytes()).overall is Status.PASSED
    capsys.readouterr()
    assert cli(restored, "audit") == 1
    said = capsys.readouterr().out
    assert "feed ledger: PASSED" in said
    assert "behind-anchor" in said


def test_the_newest_copy_is_the_way_out(world: World, yesterday: World) -> None:
    today = type(world)(world.home.root.with_name("today"), world.dev, world.clock)
    world.restore(yesterday)
    assert world.check().state is RollbackState.BEHIND_ANCHOR
    world.restore(today)
    assert world.check().state is RollbackState.CONSISTENT
    world.append("six")


# --- B3: an old copy, continued -------------------------------------------------------------------------------------


def continue_past_the_guard(world: World, size: int) -> None:
    """Write other entries and checkpoints with the real keys, by a program that asks nobody, up to that log size."""
    world.append_unguarded("other four", "other five")
    with world.unguarded() as store:
        writer = LogWriter(store, log_signer(world.ring))
        while writer.append_checkpoint(restate=True).size < size:
            pass


@pytest.mark.parametrize("beyond", [0, 5])
def test_B3_a_copy_that_was_continued_has_diverged(
    world: World, yesterday: World, cli: Callable[..., int], capsys: pytest.CaptureFixture[str], beyond: int
) -> None:
    world.restore(yesterday)
    _, anchored = sizes(world)
    continue_past_the_guard(world, anchored + beyond)
    local, _ = sizes(world)
    assert local == anchored if beyond == 0 else local >= anchored + beyond
    assert world.check().state is RollbackState.DIVERGED
    with pytest.raises(ReadOnlyState) as refusal:
        world.append("once more")
    assert refusal.value.state == "diverged"
    assert cli(world, "checkpoint", "create", "--restate") == 77
    assert "diverged" in capsys.readouterr().err
    assert cli(world, "audit") == 1


def audit_outside(cli: Callable[..., int], world: World, log: Path) -> int:
    return cli(world, "audit", "--log", log, "--policy", world.home.policy, "--dev-chain", world.dev)


def test_an_outsider_is_told_the_same(
    world: World, yesterday: World, cli: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Given the complete log, the policy and the chain, and nothing of the home."""
    policy = shutil.copytree(world.home.root, tmp_path / "policy") / "policy.toml"

    def told(log: Path) -> tuple[int, str]:
        capsys.readouterr()
        code = cli(world, "audit", "--log", log, "--policy", policy, "--dev-chain", world.dev)
        return code, capsys.readouterr().out

    code, said = told(world.export(tmp_path / "true.log"))
    assert (code, "consistent" in said) == (0, True)
    world.restore(yesterday)
    code, said = told(world.export(tmp_path / "short.log"))
    assert (code, "behind-anchor" in said) == (1, True)
    _, anchored = sizes(world)
    continue_past_the_guard(world, anchored)
    code, said = told(world.export(tmp_path / "other.log"))
    assert (code, "diverged" in said) == (1, True)


# --- B4: the blind window -------------------------------------------------------------------------------------------


def test_B4_within_the_blind_window_a_rollback_is_not_noticed_and_its_width_is_reported(
    world: World, cli: Callable[..., int], capsys: pytest.CaptureFixture[str], root: Path
) -> None:
    def status() -> tuple[str, int, int | None]:
        capsys.readouterr()
        assert cli(world, "status", "--json") == 0
        facts = json.loads(capsys.readouterr().out)
        since = facts["blind_since"]
        return facts["state"], facts["blind_entries"], None if since is None else parse_time(since)

    before = world.copy("before")
    assert status() == ("consistent", 0, None)
    since = world.clock()
    world.append("six", "seven")
    world.clock.tick()
    world.append("pay more", feed="approvals")
    world.checkpoint()
    assert status() == ("consistent", 3, since)
    world.restore(before)
    assert status() == ("consistent", 0, None)
    limits = (root / "docs" / "limitations.md").read_text(encoding="utf-8")
    assert "**The blind window.**" in limits
    # It ends with the next final anchor.
    world.append("six, as it was")
    world.seal()
    world.restore(before)
    assert world.check().state is RollbackState.BEHIND_ANCHOR


# --- B9: the newest rows are deleted --------------------------------------------------------------------------------


def cut_newest_entries(world: World, feed: str) -> FeedKey:
    """Delete the newest batch of a feed so well that the feed is a valid, shorter one."""
    key: FeedKey = world.key(feed)
    with world.unguarded() as store, store.read() as tx:
        *_, keep, _ = tx.heads(key)
        roots = roots_at(tx, key, keep.length)
    with closing(unlocked(world.home.database)) as database:
        cut_feed(database, key, keep.length, roots)
        database.commit()
    return key


def test_B9_entries_deleted_from_a_feed_are_missed_by_the_log(
    world: World, cli: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    key = cut_newest_entries(world, "ledger")
    with world.unguarded() as store:
        assert audit_feed(store, key).first_bad is None
        with store.read() as tx:
            stated = next(head for head in map_heads(tx) if head.key == key)
            (short,) = find_shortfalls(tx, {key: stated})
    assert (short.held, short.stated) == (3, 5)
    capsys.readouterr()
    assert cli(world, "audit") == 1
    assert "the log states 5 entries, 2 of them are missing here" in capsys.readouterr().out
    assert cli(world, "checkpoint", "create", "--restate") == 77
    assert "older than its log" in capsys.readouterr().err


def map_heads(tx: Any) -> Iterator[FeedHead]:
    """The feed heads of the log, newest first."""
    for leaf in reversed(list(tx.log_leaves(0, tx.log().size))):
        statement = parse_statement(leaf)
        if isinstance(statement, FeedHead):
            yield statement


def test_B9_a_feed_that_is_gone_altogether_is_missed_by_the_log(world: World, cli: Callable[..., int]) -> None:
    key = world.key("approvals")
    with closing(unlocked(world.home.database)) as database:
        cut_feed(database, key, 0, [])
        database.execute("DELETE FROM feed WHERE key = ?", (key,))
        database.commit()
    assert cli(world, "audit") == 1


def test_B9_statements_deleted_from_the_log_as_well_are_missed_by_the_chain(
    world: World, yesterday: World, cli: Callable[..., int]
) -> None:
    """Whoever deletes them everywhere has yesterday's store, except for rows that nobody would look at."""
    world.restore(yesterday)
    assert world.check().state is RollbackState.BEHIND_ANCHOR
    assert cli(world, "audit", "--log") == 1


# --- the key owner rewrites history ---------------------------------------------------------------------------------


def rewrite(world: World, store: Store) -> LogDescriptor:
    """Write all of it again into ``store``, with the real keys and the real descriptor, one text changed."""

    def change(index: int, entry: Entry) -> Entry:
        return world.entry("rewritten") if index == 1 else entry

    with world.unguarded() as genuine, genuine.read() as tx:
        (identity,) = tx.identities()
        events = [parse_signed_event(event.signed_event) for event in tx.identity_events(identity)]
        with store.write() as write:
            add_events(write, identity, events)
        signers = [Ed25519Signer(seed) for seed in world.ring.devices.values()]
        for feed in tx.feeds():
            device = device_key(parse_manifest(feed.manifest))
            copy_feed(tx, store, feed.key, next(s for s in signers if s.public_key == device), change)
    with world.session(read_only=True) as session:
        log_id, descriptor = session.vault.log_descriptor()
    writer = LogWriter(store, log_signer(world.ring))
    assert writer.create(descriptor) == log_id
    writer.append_checkpoint()
    return descriptor


def lengthen(world: World, store: Store, size: int) -> StoredCheckpoint:
    """Checkpoints without news, past the writer's rules, until the log has that size or the one above."""
    log = ForgedLog(store, log_signer(world.ring))
    with store.read() as tx:
        histories = [key_history(tx, identity) for identity in tx.identities()]
    heads = [IdentityHead(history.identity, history.seq, history.head) for history in histories]
    while (checkpoint := log.add(heads)).size < size:
        pass
    return checkpoint


def outside(world: World, store: Store, cli: Callable[..., int], path: Path) -> int:
    data = BytesIO()
    export_log(store, data)
    path.write_bytes(data.getvalue())
    return audit_outside(cli, world, path)


def test_the_contract_takes_no_rewritten_history_in_place_of_what_is_anchored(
    world: World, cli: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, anchored = sizes(world)
    with closing(MemoryStore()) as store:
        binding = rewrite(world, store).chain
        checkpoint = lengthen(world, store, anchored)
        assert checkpoint.size == anchored
        with world.session(read_only=True) as session:
            log_id, _ = session.vault.log_descriptor()
        with world.chain() as chain:
            for before, after in ((anchored, anchored), (0, anchored), (anchored - 1, anchored), (anchored, 1)):
                assert not send_anchor(chain, world.ring, binding, log_id, (before, after), checkpoint.root)
        assert outside(world, store, cli, tmp_path / "rewritten.log") == 1
    assert "diverged" in capsys.readouterr().out
    assert world.check().state is RollbackState.CONSISTENT


def test_a_longer_rewritten_history_is_anchored_and_older_blocks_still_tell(
    world: World, cli: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The owner of every key, the anchor key included. The newest record fits; the ones before it do not."""
    _, anchored = sizes(world)
    with closing(MemoryStore()) as store:
        binding = rewrite(world, store).chain
        checkpoint = lengthen(world, store, anchored + 1)
        with world.session(read_only=True) as session:
            log_id, _ = session.vault.log_descriptor()
        with world.chain() as chain:
            assert send_anchor(chain, world.ring, binding, log_id, (anchored, checkpoint.size), checkpoint.root)
        assert outside(world, store, cli, tmp_path / "rewritten.log") == 1
    said = capsys.readouterr().out
    assert "diverged" in said
    assert f"at size {anchored}" in said
    # And whoever holds the true store learns at the next start that another history was anchored.
    assert world.check().state is RollbackState.DIVERGED


def test_the_outbox_gives_up_an_anchor_that_the_contract_refuses(world: World, yesterday: World) -> None:
    world.restore(yesterday)
    continue_past_the_guard(world, 0)
    done = world.anchor()
    assert [(change.after, change.reason) for change in done.changes] == [(AnchorState.FAILED, "STALE")]


def test_one_feed_head_for_two_histories_is_a_portable_proof(world: World) -> None:
    with closing(MemoryStore()) as store:
        rewrite(world, store)
        with world.unguarded() as genuine, genuine.read() as one, store.read() as other:
            assert prove_fork(one, other, world.key("ledger"))


# --- another chain, or none -----------------------------------------------------------------------------------------


def chain_file(world: World) -> Path:
    path: Path = world.dev / "chain.db"
    return path


@contextmanager
def new_chain(world: World) -> Iterator[DevChain]:
    """The development chain, begun anew."""
    for path in world.dev.glob("chain.db*"):
        path.unlink()
    with DevChain(chain_file(world), create=True, clock_s=lambda: world.clock() // 1000) as chain:
        yield chain


def assert_refused(world: World, cli: Callable[..., int], tmp_path: Path, state: str, code: int) -> None:
    (tmp_path / "row.jsonl").write_text('{"text": "more"}\n')
    assert cli(world, "status") == code
    assert cli(world, "feed", "append", "ledger", tmp_path / "row.jsonl") == code
    assert cli(world, "checkpoint", "create", "--restate") == code
    assert cli(world, "anchor", "run") == code
    assert cli(world, "feed", "read", "ledger", "0") == 0
    assert world.check().state == state


def test_a_chain_that_was_reset_is_a_foreign_one(world: World, cli: Callable[..., int], tmp_path: Path) -> None:
    with new_chain(world):
        pass
    assert_refused(world, cli, tmp_path, "foreign-chain", 77)


def test_a_reset_chain_on_which_an_old_copy_was_anchored_again_is_a_foreign_one(
    world: World, yesterday: World, cli: Callable[..., int], tmp_path: Path
) -> None:
    """The operator of the chain makes it fit: the same contract at the same address, and yesterday's root in it."""
    with yesterday.session(read_only=True) as session:
        log_id, descriptor = session.vault.log_descriptor()
    with yesterday.unguarded() as store, store.read() as tx:
        *_, checkpoint = tx.checkpoints()
    world.restore(yesterday)
    binding = descriptor.chain
    assert isinstance(binding, ChainBinding)
    with new_chain(world) as chain:
        chain.fund(binding.owner, 10**20)
        assert deploy_contract(chain, LocalKey(world.ring.anchor_key)) == binding.contract
        assert send_anchor(chain, world.ring, binding, log_id, (0, checkpoint.size), checkpoint.root)
        while chain.head_number() < 10:
            chain.mine()
    assert_refused(world, cli, tmp_path, "foreign-chain", 77)


def test_without_its_chain_a_store_is_unverified(world: World, cli: Callable[..., int], tmp_path: Path) -> None:
    shutil.move(chain_file(world), tmp_path / "elsewhere.db")
    assert_refused(world, cli, tmp_path, "unverified", 75)
    with world.session() as session, pytest.raises(TransportError, match="unverified"):
        session.vault.append(world.ring, world.key("ledger"), [world.entry("x")])
    shutil.move(tmp_path / "elsewhere.db", chain_file(world))
    assert world.check().state is RollbackState.CONSISTENT


@pytest.mark.parametrize("damage", ["noise", "emptied", "another program's", "holed"])
def test_with_a_chain_that_cannot_be_read_a_store_is_unverified(
    world: World, cli: Callable[..., int], tmp_path: Path, damage: str
) -> None:
    for path in world.dev.glob("chain.db-*"):
        path.unlink()
    path = chain_file(world)
    match damage:
        case "noise":
            path.write_bytes(os.urandom(65_536))
        case "emptied":
            path.write_bytes(b"")
        case "another program's":
            path.unlink()
            with closing(sqlite3.connect(path)) as database:
                database.execute("CREATE TABLE notes (text)")
        case "holed":
            with closing(sqlite3.connect(path)) as database:
                database.execute("DELETE FROM kv WHERE length(v) < 300 AND length(k) = 32")
                database.commit()
    assert_refused(world, cli, tmp_path, "unverified", 75)


def test_a_log_that_was_closed_on_chain_takes_nothing_more(
    world: World, cli: Callable[..., int], tmp_path: Path
) -> None:
    with world.session(read_only=True) as session:
        log_id, descriptor = session.vault.log_descriptor()
    binding = descriptor.chain
    assert isinstance(binding, ChainBinding)
    target = AnchorTarget(binding.id, binding.contract, binding.owner, log_id, load_contract().code_hash)
    with world.chain() as chain:
        close_log(chain, LocalKey(world.ring.anchor_key), target, bytes(32))
    assert_refused(world, cli, tmp_path, "closed", 77)


def test_a_copy_from_before_the_first_anchor_is_behind_as_well(founded: World, world: World) -> None:
    for path in world.home.root.glob("vault.db*"):
        path.unlink()
    shutil.copy(founded.home.database, world.home.database)
    assert world.check().state is RollbackState.BEHIND_ANCHOR


def test_evidence_from_before_a_rollback_still_verifies(world: World, yesterday: World) -> None:
    """What one file proves does not depend on what became of the store since."""
    evidence = encode_evidence(world.evidence("ledger", 4))
    world.restore(yesterday)
    assert world.verify(evidence).overall is Status.PASSED


def test_the_log_writer_itself_refuses_a_store_that_is_shorter_than_its_log(world: World) -> None:
    cut_newest_entries(world, "ledger")
    with world.unguarded() as store, pytest.raises(RefusedError, match="states length 5"):
        LogWriter(store, log_signer(world.ring)).append_checkpoint(restate=True)
