"""Rows B1, B2, B3, B4, B5 and B9: what the sentinel finds at once, and the ways out (docs/spec/rollback.md)."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from anchoring.chain.closing import load_closing
from anchoring.chain.deploy import close_log
from anchoring.chain.dev import DevChain
from anchoring.chain.outbox import AnchorTarget
from anchoring.chain.transactions import LocalKey
from anchoring.contracts import load_contract
from anchoring.rollback import RollbackState
from anchoring.storage import AnchorState
from api.demo.forgery import cut_feed, roots_at, unlocked
from api.settings import load_settings
from identity.errors import ForkDetected, ReadOnlyState, RefusedError, TransportError
from identity.keys import Ed25519Signer
from ledger.feed import FeedWriter
from ledger.fork import parse_fork, verify_fork
from ledger.manifest import describe, feed_key, parse_manifest
from ledger.sentinel import FILE_BYTES, Reason
from ledger.sentinel_file import SentinelFile
from ledger.storage.memory import MemoryStore
from ledger.storage.sqlite import open_sqlite
from ledger.storage.start_up import load_successions
from ledger.store import FeedKey, Store
from ledger.transfer import export_feed, ingest_feed

World = Any
"""``conftest.World``."""
Cli = Callable[..., int]
Signed = dict[tuple[bytes, int], bytes]
"""Feed and length -> the tree hash that was signed."""


@pytest.fixture
def world(dated_world: World) -> World:
    return dated_world


def copy_named(world: World, name: str) -> World:
    return type(world)(world.home.root.with_name(name), world.dev, world.clock)


def reason(world: World) -> Reason:
    with world.session(read_only=True) as session:
        found: Reason = session.start_up.sentinel().reason
    return found


def killed(world: World, patch: Callable[[], object], *texts: str) -> None:
    """Append in another process that is killed with -9 where ``patch`` has put it."""
    child = os.fork()
    if child == 0:  # pragma: no cover
        patch()
        world.append(*texts)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL


def die(*_args: object, **_kwargs: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def sentinel_files(world: World) -> list[Path]:
    return sorted((world.dev.parent / "sentinels").glob("*"))


def signed_in(store: Store) -> Signed:
    """Every head that the store holds a signature of."""
    with store.read() as tx:
        return {(feed.key, head.length): head.tree_hash for feed in tx.feeds() for head in tx.heads(feed.key)}


def signed(world: World) -> Signed:
    with world.unguarded() as store:
        return signed_in(store)


def merge(*found: Signed) -> Signed:
    """All signatures that ever left, after checking that no length of a feed was signed twice for two histories."""
    merged: Signed = {}
    for part in found:
        for place, tree_hash in part.items():
            assert merged.setdefault(place, tree_hash) == tree_hash, f"{place} was signed twice"
    return merged


def feeds_named(world: World, name: str) -> list[Any]:
    with world.session(read_only=True) as session:
        return [info for info in session.vault.feeds() if info.name == name]


# --- B1: the database restored from an old backup -------------------------------------------------------------------


def test_B1_an_old_copy_is_behind_and_is_told_what_it_lacks(
    world: World, cli: Cli, tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "row.jsonl").write_text('{"text": "more"}\n')
    world.restore(copy_named(world, "yesterday"))
    assert world.check().state is RollbackState.BEHIND_ANCHOR
    assert reason(world) is Reason.BEHIND
    assert cli(world, "feed", "append", "ledger", tmp_path / "row.jsonl") == 77
    said = capsys.readouterr().err
    assert "3 of 5 entries are here" in said
    assert "holdfast recover fetch" in said


@pytest.fixture
def exports(world: World, cli: Cli, tmp_path: Path) -> list[Path]:
    """What a peer holds: the complete log and the feed, as they were exported before the fault."""
    files = [tmp_path / "complete.log", tmp_path / "ledger.feed"]
    assert cli(world, "checkpoint", "export", "-o", files[0]) == 0
    assert cli(world, "feed", "export", "ledger", "-o", files[1]) == 0
    return files


def test_B1_a_peers_exports_lead_out_and_writing_goes_on_in_new_feeds(
    world: World, cli: Cli, exports: list[Path], capsys: Any
) -> None:
    before = signed(world)
    old = world.key("ledger")
    world.restore(copy_named(world, "yesterday"))
    capsys.readouterr()
    assert cli(world, "recover", "fetch", *exports, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["state"], told["entries"]) == ("consistent", 2)
    assert all("log leaf" in missing for missing in told["missing"])  # tokens and receipts are in no export
    assert told["statements"] > 0
    assert world.check().state is RollbackState.CONSISTENT
    world.append("six")
    newest = world.key("ledger")
    assert newest != old
    merge(before, signed(world))
    description = describe(parse_manifest(feeds_named(world, "ledger")[-1].state.manifest))
    assert description is not None
    assert description.continues is not None
    assert (description.continues.key, description.continues.length) == (old, 5)
    world.seal()
    assert world.check().state is RollbackState.CONSISTENT


def test_B1_a_newer_copy_of_the_store_leads_out_too(world: World, cli: Cli) -> None:
    today = copy_named(world, "today")
    world.restore(copy_named(world, "yesterday"))
    assert cli(world, "recover", "fetch", today.home.database) == 0
    assert world.check().state is RollbackState.CONSISTENT
    world.append("six")
    world.seal()
    assert cli(world, "audit") == 0


@pytest.mark.parametrize("given", [0, 1])
def test_B1_half_of_what_is_missing_is_not_kept(world: World, cli: Cli, exports: list[Path], given: int) -> None:
    world.restore(copy_named(world, "yesterday"))
    before = signed(world)
    assert cli(world, "recover", "fetch", exports[given]) == 77
    assert signed(world) == before
    assert world.check().state is RollbackState.BEHIND_ANCHOR


def test_B1_a_dry_run_changes_nothing(world: World, cli: Cli, exports: list[Path], capsys: Any) -> None:
    world.restore(copy_named(world, "yesterday"))
    before = signed(world)
    capsys.readouterr()
    assert cli(world, "recover", "fetch", *exports, "--dry-run", "--json") == 0
    assert json.loads(capsys.readouterr().out)["state"] == "consistent"
    assert signed(world) == before
    assert world.check().state is RollbackState.BEHIND_ANCHOR


def test_B1_an_altered_export_is_not_taken(world: World, cli: Cli, exports: list[Path]) -> None:
    world.restore(copy_named(world, "yesterday"))
    data = bytearray(exports[0].read_bytes())
    data[-200] ^= 1
    exports[0].write_bytes(data)
    assert cli(world, "recover", "fetch", *exports) != 0
    assert world.check().state is RollbackState.BEHIND_ANCHOR


# --- B2: what the client remembers is restored as well --------------------------------------------------------------


def test_B2_database_and_sentinel_restored_together_are_found_by_the_chain(world: World) -> None:
    yesterday = copy_named(world, "yesterday")
    world.restore(yesterday)
    with world.session() as session:
        session.start_up.adopt()  # as it was when the copy was taken
    assert reason(world) is Reason.SAME
    assert world.check().state is RollbackState.BEHIND_ANCHOR
    with pytest.raises(ReadOnlyState):
        world.append("six")


# --- B3: an old copy, continued to the same size --------------------------------------------------------------------


def test_B3_a_rewritten_history_of_the_same_size_is_noticed_by_the_sentinel_too(world: World) -> None:
    size, _ = sizes(world)
    world.restore(copy_named(world, "yesterday"))
    world.append_unguarded("other four", "other five")
    with world.unguarded() as store:
        from api.vault import log_signer
        from ledger.log_writer import LogWriter

        writer = LogWriter(store, log_signer(world.ring))
        while writer.append_checkpoint(restate=True).size < size:
            pass
    assert world.check().state is RollbackState.DIVERGED
    assert reason(world) is Reason.REWRITTEN


def sizes(world: World) -> tuple[int, int]:
    check = world.check()
    return check.local_size, check.anchored_size


# --- B4: inside the blind window ------------------------------------------------------------------------------------


def test_B4_a_rollback_inside_the_blind_window_is_found_by_the_sentinel_on_the_same_machine(
    world: World, cli: Cli, capsys: Any
) -> None:
    before = world.copy("before")
    world.append("six", "seven")
    lost = signed(world)
    capsys.readouterr()
    assert cli(world, "status", "--json") == 0
    assert json.loads(capsys.readouterr().out)["blind_entries"] == 2
    world.restore(before)
    assert world.check().state is RollbackState.CONSISTENT
    assert reason(world) is Reason.BEHIND
    world.append("another six")
    merge(lost, signed(world))
    capsys.readouterr()
    assert cli(world, "status", "--json") == 0
    status = json.loads(capsys.readouterr().out)
    assert (status["sentinel"], status["new_feeds"]) == ("same", 1)
    assert "behind" in status["new_feeds_why"]


def test_B4_it_is_said_once(world: World, cli: Cli, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "row.jsonl").write_text('{"text": "more"}\n')
    before = world.copy("before")
    world.append("six")
    world.restore(before)
    said = []
    for _ in range(2):
        capsys.readouterr()
        assert cli(world, "feed", "append", "ledger", tmp_path / "row.jsonl") == 0
        said.append("are retired" in capsys.readouterr().err)
    assert said == [True, False]


# --- B5: equivocation -----------------------------------------------------------------------------------------------


def exported(world: World, key: FeedKey, file: Path) -> Path:
    with world.unguarded() as store, file.open("xb") as stream:
        export_feed(store, key, stream)
    return file


def ingest(peer: Store, file: Path) -> int:
    """How far the peer holds the feed afterwards."""
    with file.open("rb") as stream:
        return ingest_feed(peer, stream).length


def test_B5_two_heads_with_one_key_leave_a_portable_proof_with_both_peers(world: World, tmp_path: Path) -> None:
    """Whoever goes around the start-up gives each peer another sixth entry; the peers meet.

    Each keeps the branch that it holds, as docs/spec/feed.md section 3.2 says: of the other one it takes nothing, now
    or later.
    """
    key = world.key("ledger")
    sides = {"first": world, "second": world.copy("other")}
    for name, side in sides.items():
        side.append_unguarded(f"six for the {name}")
    sixth = {name: exported(side, key, tmp_path / f"{name} 6") for name, side in sides.items()}
    for name, side in sides.items():
        side.append_unguarded(f"seven for the {name}")
    seventh = {name: exported(side, key, tmp_path / f"{name} 7") for name, side in sides.items()}
    proofs = []
    for mine, theirs in (("first", "second"), ("second", "first")):
        with closing(MemoryStore()) as peer:
            assert ingest(peer, sixth[mine]) == 6
            with pytest.raises(ForkDetected) as found:
                ingest(peer, sixth[theirs])
            assert found.value.first != found.value.second
            proofs.append(found.value.proof)
            with pytest.raises(ForkDetected):
                ingest(peer, seventh[theirs])
            with peer.read() as tx:
                assert list(tx.blocks(key, 0, 6)) == blocks_of(sides[mine], key)[:6]
            assert ingest(peer, seventh[mine]) == 7
    assert proofs[0] == proofs[1]
    proof = parse_fork(proofs[0])
    assert feed_key(proof.manifest) == key
    fork = verify_fork(proof.manifest, proof)
    assert (fork.first.length, fork.second.length) == (6, 6)
    assert fork.first.tree_hash != fork.second.tree_hash


def blocks_of(world: World, key: FeedKey) -> list[bytes]:
    with world.unguarded() as store, store.read() as tx:
        return list(tx.blocks(key, 0, tx.feed(key).length))


# --- B9: the newest rows are deleted --------------------------------------------------------------------------------


def test_B9_deleted_rows_are_noticed_by_the_sentinel_before_anything_is_logged(world: World) -> None:
    world.append("six")
    key = world.key("ledger")
    with world.unguarded() as store, store.read() as tx:
        roots = roots_at(tx, key, 5)
    with closing(unlocked(world.home.database)) as database:
        cut_feed(database, key, 5, roots)
        database.commit()
    assert world.check().state is RollbackState.CONSISTENT
    assert reason(world) is Reason.BEHIND
    with world.session(read_only=True) as session:
        assert any("5 of 6 entries" in said for said in session.start_up.missing())


# --- a copy on another machine --------------------------------------------------------------------------------------


def other_machine(world: World) -> World:
    """The whole disk, cloned: home, development chain and sentinel at the same places, on a machine of another id."""

    class Elsewhere(type(world)):  # type: ignore[misc]
        def session(self, *, read_only: bool = False) -> Any:
            from contextlib import contextmanager

            from api.bootstrap import open_session

            @contextmanager
            def opened() -> Iterator[Any]:
                environ = {"HOLDFAST_DEV_DIR": str(self.dev), "HOLDFAST_MACHINE": "another"}
                with open_session(self.home, load_settings(self.home, environ), read_only=read_only) as session:
                    yield session

            return opened()

    return Elsewhere(world.home.root, world.dev, world.clock)  # type: ignore[no-any-return]


def test_a_clone_on_another_machine_signs_nothing_that_the_other_signs(world: World) -> None:
    image = world.home.root.with_name("image")
    shutil.copytree(world.home.root, image / "home")
    shutil.copytree(world.dev.parent / "sentinels", image / "sentinels")
    world.append("six here")
    here = signed(world)
    shutil.rmtree(world.home.root)
    shutil.rmtree(world.dev.parent / "sentinels")
    for name in ("home", "sentinels"):
        shutil.copytree(image / name, world.dev.parent / name)
    clone = other_machine(world)
    assert reason(clone) is Reason.OTHER_MACHINE
    clone.append("six there")
    assert reason(clone) is Reason.SAME
    merge(here, signed(clone))


def test_a_copy_beside_it_on_the_same_machine_has_no_sentinel(world: World) -> None:
    copy = world.copy("beside")
    assert reason(copy) is Reason.MISSING
    world.append("six here")
    copy.append("six there")
    copy.append("seven there")
    world.append("seven here")
    assert (reason(world), reason(copy)) == (Reason.SAME, Reason.SAME)
    merge(signed(world), signed(copy))
    assert len(feeds_named(copy, "ledger")) == 2


# --- the sentinel itself --------------------------------------------------------------------------------------------


def test_without_its_sentinel_a_store_goes_on_in_new_feeds(world: World) -> None:
    for file in sentinel_files(world):
        file.unlink()
    before = signed(world)
    world.append("six")
    merge(before, signed(world))
    assert len(feeds_named(world, "ledger")) == 2
    with world.unguarded() as store, store.read() as tx:
        assert [one.reason for one in load_successions(tx.connection)] == ["missing"]


def before_the_sentinel() -> None:
    SentinelFile.add = die  # type: ignore[method-assign,assignment]


def within_the_sentinels_write() -> None:
    pwrite = os.pwrite

    def half(descriptor: int, data: bytes, offset: int) -> int:
        pwrite(descriptor, data[: len(data) // 3], offset)
        die()
        return 0

    os.pwrite = half


def before_the_sentinel_is_begun() -> None:
    SentinelFile.begin = die  # type: ignore[method-assign,assignment]


@pytest.mark.parametrize("patch", [before_the_sentinel, within_the_sentinels_write])
def test_killed_between_commit_and_sentinel_the_next_start_works(world: World, patch: Callable[[], None]) -> None:
    world.append("six")
    before = signed(world)
    killed(world, patch, "seven")
    after = merge(before, signed(world))
    assert len(after) == len(before) + 1  # it was committed, and nobody was told
    assert reason(world) is Reason.SAME
    world.append("eight")
    merge(after, signed(world))
    assert len(feeds_named(world, "ledger")) == 1
    assert reason(world) is Reason.SAME


def test_killed_between_retiring_and_the_new_sentinel_the_feeds_stay_retired(world: World) -> None:
    before = world.copy("before")
    world.append("six")
    signed_before = signed(world)
    world.restore(before)
    killed(world, before_the_sentinel_is_begun, "another six")
    assert reason(world) is Reason.BEHIND
    world.append("another six")
    merge(signed_before, signed(world))
    assert len(feeds_named(world, "ledger")) == 2


def test_killed_between_commit_and_sentinel_the_store_is_ahead_and_goes_on(world: World) -> None:
    world.append_unguarded("six")
    assert reason(world) is Reason.SAME
    world.append("seven")
    assert len(feeds_named(world, "ledger")) == 1
    assert len(sentinel_files(world)) == 1


@pytest.mark.parametrize("torn", [0, 1])
def test_a_slot_that_was_torn_leaves_the_other_one_to_decide(world: World, torn: int) -> None:
    world.append("six")
    (file,) = sentinel_files(world)
    data = bytearray(file.read_bytes())
    assert len(data) == FILE_BYTES
    half = FILE_BYTES // 2
    data[torn * half + 700 : (torn + 1) * half] = bytes(half - 700)
    file.write_bytes(data)
    before = signed(world)
    world.append("seven")
    merge(before, signed(world))
    assert reason(world) is Reason.SAME


# --- unverified -----------------------------------------------------------------------------------------------------


def continuing(world: World) -> World:
    text = world.home.settings.read_text()
    world.home.settings.write_text(text.replace("format = 1", 'format = 1\nunverified = "continue"'))
    return world


def test_unverified_stops_by_default(world: World, tmp_path: Path) -> None:
    shutil.move(world.dev / "chain.db", tmp_path / "elsewhere.db")
    with pytest.raises(TransportError, match="unverified"):
        world.append("six")


def test_unverified_continues_in_new_feeds_when_the_settings_say_so(world: World, tmp_path: Path) -> None:
    continuing(world)
    before = signed(world)
    shutil.move(world.dev / "chain.db", tmp_path / "elsewhere.db")
    with world.session() as session:
        key = session.vault.find_feed("ledger").state.key
        first = session.vault.append(world.ring, key, [world.entry("six")])
        second = session.vault.append(world.ring, key, [world.entry("seven")])
        assert first.key == second.key != key
        with pytest.raises(TransportError):
            session.vault.checkpoint(world.ring, restate=True)
    assert world.append("eight") is not None
    assert len(feeds_named(world, "ledger")) == 3
    merge(before, signed(world))
    shutil.move(tmp_path / "elsewhere.db", world.dev / "chain.db")
    world.append("nine")
    assert len(feeds_named(world, "ledger")) == 3
    world.seal()


# --- a successor log ------------------------------------------------------------------------------------------------


def test_a_store_that_is_put_back_twice_never_signs_an_index_twice(world: World) -> None:
    """What it began after the first time it has forgotten, and its continuation is another feed the second time."""
    yesterday = world.copy("before")
    world.append("six")
    found = [signed(world)]
    for text in ("once", "twice"):
        world.restore(yesterday)
        world.append(text)
        found.append(signed(world))
    merge(*found)


@pytest.fixture
def lost(world: World) -> World:
    """Yesterday's copy, and nobody has the rest."""
    world.restore(copy_named(world, "yesterday"))
    shutil.rmtree(world.home.root.with_name("today"))
    return world


def test_a_log_whose_end_is_lost_is_closed_and_succeeded(lost: World, cli: Cli, tmp_path: Path, capsys: Any) -> None:
    _, anchored = sizes(lost)
    with lost.session(read_only=True) as session:
        older, _ = session.vault.log_descriptor()
    assert cli(lost, "recover", "succeed", "--dry-run") == 0
    assert lost.check().state is RollbackState.BEHIND_ANCHOR
    assert cli(lost, "recover", "succeed") == 0
    with lost.session() as session:
        newer, descriptor = session.vault.log_descriptor()
        assert descriptor.predecessor is not None
        assert (descriptor.predecessor.log, descriptor.predecessor.size) == (older, anchored)
        assert session.vault.history().logs[-1] == newer
        assert session.check_rollback().state is RollbackState.NOT_ANCHORED
        with session.vault.store.read() as tx:
            closed = load_closing(tx.connection)
        assert closed is not None
        assert closed.state in (AnchorState.MINED, AnchorState.FINAL)
    (tmp_path / "row.jsonl").write_text('{"text": "more"}\n')
    assert cli(lost, "feed", "append", "ledger", tmp_path / "row.jsonl") == 0
    assert cli(lost, "checkpoint", "create") == 0
    assert cli(lost, "anchor", "run") == 0
    capsys.readouterr()
    assert cli(lost, "audit", "--log", "--json") == 0
    assert json.loads(capsys.readouterr().out)["predecessor"] == "closed"
    assert cli(lost, "checkpoint", "export", "-o", tmp_path / "new.log") == 0
    policy = ("--policy", lost.home.policy, "--dev-chain", lost.dev)
    capsys.readouterr()
    assert cli(lost, "audit", "--log", tmp_path / "new.log", *policy) == 0
    assert f"goes on from log {older.hex()}, which ends at size {anchored}, and was closed" in capsys.readouterr().out
    assert cli(lost, "checkpoint", "create", "--restate") == 0
    assert cli(lost, "evidence", "export", "ledger", "0", "-o", tmp_path / "one.json") == 0
    capsys.readouterr()
    assert cli(lost, "verify", tmp_path / "one.json", "--policy", lost.home.policy) == 0
    assert f"goes on from log {older.hex()}" in capsys.readouterr().out
    assert cli(lost, "status", "--json") == 0
    status = json.loads(capsys.readouterr().out)
    assert status["predecessor"] == f"{older.hex()} at size {anchored}"
    assert status["state"] == "consistent"


def test_the_store_before_stays_and_is_closed(lost: World, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    before = lost.home.database
    assert cli(lost, "recover", "succeed") == 0
    monkeypatch.setenv("HOLDFAST_DATABASE", str(before))
    assert cli(lost, "feed", "read", "ledger") == 0
    assert cli(lost, "checkpoint", "create", "--restate") == 77


def test_a_second_successor_is_refused(lost: World, cli: Cli, capsys: Any) -> None:
    with lost.session(read_only=True) as session:
        log_id, descriptor = session.vault.log_descriptor()
    binding = descriptor.chain
    target = AnchorTarget(binding.id, binding.contract, binding.owner, log_id, load_contract().code_hash)
    with lost.chain() as chain:
        close_log(chain, LocalKey(lost.ring.anchor_key), target, b"\x07" * 32)
    assert cli(lost, "recover", "succeed") == 77
    assert (b"\x07" * 32).hex() in capsys.readouterr().err


STEPS = ["create_store", "fill", "settings", "policy", "stored", "sent"]


@pytest.mark.parametrize("step", STEPS)
def test_interrupted_at_any_step_it_goes_on(lost: World, cli: Cli, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    import anchoring.chain.closing as closing_module
    import api.successor as module

    class Killed(BaseException):
        pass

    def die(*_args: object, **_kwargs: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        match step:
            case "create_store":
                patch.setattr(module, "_fill", die)
            case "fill":
                patch.setattr(module, "switch_home", die)
            case "settings":
                patch.setattr(module, "_trusts", die)
            case "policy":
                patch.setattr(closing_module, "advance_closing", die)
            case "stored":
                patch.setattr(DevChain, "send_raw", die)
            case "sent":
                patch.setattr(closing_module._Run, "_move", die)
        assert cli(lost, "recover", "succeed") == 70
    assert cli(lost, "recover", "succeed") == 0
    with lost.session(read_only=True) as session:
        assert session.check_rollback().state is RollbackState.NOT_ANCHORED
        history = session.vault.history()
        assert history.duplicity is None
        assert len(history.logs) == 2
        log_id, _ = session.vault.log_descriptor()
    assert log_id.hex() in lost.home.policy.read_text()


def test_a_lost_log_key_is_replaced(lost: World, cli: Cli) -> None:
    from dataclasses import replace

    from identity.keystore import replace_keystore

    ring = lost.ring
    replace_keystore(lost.home.keystore, "a passphrase", replace(ring, log_seed=None), expected=ring)
    assert cli(lost, "recover", "succeed") == 0
    with lost.session(read_only=True) as session:
        _, descriptor = session.vault.log_descriptor()
    assert lost.ring.log_seed is not None
    assert descriptor.key == Ed25519Signer(lost.ring.log_seed).public_key


def test_a_log_in_order_is_not_succeeded(world: World, cli: Cli) -> None:
    assert cli(world, "recover", "succeed") == 77


def test_the_retired_feeds_of_the_store_before_cannot_be_signed(lost: World, cli: Cli) -> None:
    key = lost.key("ledger")
    assert cli(lost, "recover", "succeed") == 0
    settings = load_settings(lost.home, {"HOLDFAST_DEV_DIR": str(lost.dev)})
    with closing(open_sqlite(settings.database)) as store:
        from api.vault import device_signer

        with pytest.raises(RefusedError, match="retired"):
            FeedWriter(store, key, device_signer(lost.ring, "laptop"))
