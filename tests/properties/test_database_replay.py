"""A database made from its entries alone is the one that the tables hold, whatever came first.

Replicas write apart and meet now and then. Then the feeds are replayed, given in several orders and cut off at several
lengths; what is live is asked of sets of entry ids, pair by pair; and tables are made anew.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Iterator
from decimal import Decimal
from itertools import combinations, count
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from identity.errors import ConflictError
from ledger.manifest import describe, device_key, parse_manifest
from ledger.store import FeedKey
from ledger.values import Reference, from_python
from sync.cells import FLAGS, WRITES
from sync.changes import Changes
from sync.lines import KnownFeed, ReplayedEntry
from sync.liveness import ReplayedOp
from sync.membership import Author
from sync.replay import Replay
from sync.stateroot import leaf_of, state_root
from sync.storage.stored_feeds import StoredBlocks
from sync.transaction import DocumentId, Op, Verb

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "6"))
LABELS = count()


def write(chance: random.Random, replica: Any) -> None:
    """One change of some document, with a condition or from a stale base now and then."""
    key = chance.choice("123")
    state = replica.db.get("c", key)
    changes = Changes(base=chance.choice([None, replica.base]))
    kind = chance.randrange(6)
    if kind == 0:
        changes.put("c", key, {chance.choice("ab"): chance.randrange(3)}, if_match=state.etag if state else None)
    elif kind == 1:
        # As an operation: the wish is refused where something else stands, and that is what is to be met.
        amount = from_python(Decimal(chance.randrange(5)) / 2)
        changes.do(Op(Verb.INC, DocumentId("c", key), (chance.choice("ab"),), amount))
    elif kind == 2:
        changes.add("c", key, "s", chance.randrange(3))
        changes.unset("c", key, chance.choice("ab"))
    elif kind == 3 and state is not None:
        changes.delete("c", key)
    else:
        changes.patch("c", key, {chance.choice("ab"): chance.randrange(3)})
        changes.increment("c", chance.choice("123"), "n", 1)
    try:
        replica.db.commit(changes)
    except ConflictError:
        return
    if chance.random() < 0.2:
        replica.base = replica.db.context()


def history(chance: random.Random, world: Any, urls: Iterator[str]) -> list[Any]:
    """Replicas that have written and met, and all know everything at the end."""
    replicas = [world.replica(name, next(urls)) for name in "abcd"[: chance.randrange(2, 5)]]
    for replica in replicas:
        replica.base = None
    for _ in range(chance.randrange(5, 40)):
        world.clock_ms += chance.randrange(3)
        if chance.random() < 0.2:
            chance.choice(replicas).receive(*chance.sample(replicas, 1))
        else:
            write(chance, chance.choice(replicas))
    world.exchange()
    return replicas


def feeds_of(replica: Any, tx: Any) -> list[KnownFeed]:
    found = []
    for key in replica.feeds():
        state = tx.feed(FeedKey(key))
        manifest = parse_manifest(state.manifest)
        author = Author(key, device_key(manifest), describe(manifest).identity)  # type: ignore[union-attr]
        found.append(KnownFeed(author, list(StoredBlocks(tx, FeedKey(key), state.length))))
    return found


def check(chance: random.Random, world: Any, replicas: list[Any]) -> None:
    first = replicas[0]
    with first.store.read() as tx:
        feeds = feeds_of(first, tx)
    replay = Replay(world.uid, feeds)
    assert not replay.parked
    check_order(replay)
    check_liveness(replay)
    root = root_of(replay)
    for replica in replicas:
        assert replica.db.audit() == []
    chance.shuffle(feeds)
    again = Replay(world.uid, feeds)
    assert root_of(again) == root
    assert (again.masked, again.contests()) == (replay.masked, replay.contests())
    assert (again.linear_order(), again.heads()) == (replay.linear_order(), replay.heads())
    check_parts(chance, world.uid, feeds, replay)
    stated = first.db.checkpoint_state()
    assert first.db.verify_state_root(stated.reference).stated.statement.root == root
    first.db.rebuild()
    assert first.db.audit() == []
    second = first.db.checkpoint_state()
    assert first.db.verify_state_root(second.reference).stated.statement.root == root


def root_of(replay: Replay) -> bytes:
    leaves = [leaf_of(one.name, one.version, one.view) for one in replay.documents(parts=2) if one.version]
    return state_root(sorted(leaves))


def check_parts(chance: random.Random, database: bytes, feeds: list[KnownFeed], whole: Replay) -> None:
    """Of some blocks of each feed those entries are placed whose past is there, and what is placed is what it was."""
    part = [KnownFeed(feed.author, feed.blocks[: chance.randrange(len(feed.blocks) + 1)]) for feed in feeds]
    replay = Replay(database, part)
    placed = {entry.reference for entry in replay.entries()}
    for entry in replay.entries():
        assert past_of(whole, entry) <= placed
        assert replay.masked.get(entry.reference) == whole.masked.get(entry.reference)
    known = {Reference(one.author.feed, block.seq, block.leaf_hash) for one in part for block in one.blocks}
    assert placed | replay.parked.keys() == known & {entry.reference for entry in whole.entries()}


def past_of(replay: Replay, entry: ReplayedEntry) -> set[Reference]:
    """The past of an entry by going back, one entry after the other."""
    found: set[Reference] = set()
    waiting = list(entry.follows)
    while waiting:
        one = replay.entry(*waiting.pop())
        if one.reference not in found:
            found.add(one.reference)
            waiting += one.follows
    return found


def check_order(replay: Replay) -> None:
    """The linear order has every entry once, behind its past; guards are contested pair by pair."""
    order = replay.linear_order()
    entries = {entry.reference: entry for entry in replay.entries()}
    assert len(order) == len(entries) == len(set(order))
    pasts = {reference: past_of(replay, entry) for reference, entry in entries.items()}
    for place, reference in enumerate(order):
        assert pasts[reference] <= set(order[:place])
    writes: dict[Reference, set[DocumentId]] = {}
    for document in replay.documents():
        for line, index, _ in ops_of(replay, document.name):
            writes.setdefault(replay.entry(line, index).reference, set()).add(document.name)
    contests = set()
    for one, other in combinations(order, 2):
        if one in pasts[other] or entries[one].masked or entries[other].masked:
            continue
        for guarded, writer in ((one, other), (other, one)):
            for guard in entries[guarded].guards:
                if guard.document in writes.get(writer, ()):
                    contests.add((guard.document, guarded, writer))
    assert {tuple(contest) for contest in replay.contests()} == contests


def ops_of(replay: Replay, document: DocumentId) -> dict[tuple[int, int, int], ReplayedOp]:
    return {
        op.key: op
        for entry, ops in replay.transactions()
        for op in (replay.operation(entry, at, one) for at, one in enumerate(ops) if one.document == document)
    }


def check_liveness(replay: Replay) -> None:
    """An operation is live when it counts, writes, and none that counts replaces it."""
    for document in replay.documents():
        ops = [op for op in ops_of(replay, document.name).values() if replay.counts(op.line, op.seq)]
        live = {op.key for op in ops if op.verb in WRITES and not any(replaces(replay, one, op) for one in ops)}
        assert live == document.live


def replaces(replay: Replay, one: ReplayedOp, other: ReplayedOp) -> bool:
    if one.verb in (Verb.INC, Verb.PURGE):
        return False
    if one.verb is Verb.DEL:
        if other.verb in FLAGS or not (other.path + "/").startswith(one.path + "/"):
            return False
    elif one.path != other.path:
        return False
    elif one.verb in (Verb.ADD, Verb.REM):
        if other.verb is not Verb.ADD or one.val != other.val:
            return False
    elif one.verb is not other.verb:
        return False
    if one.context is not None:
        return other.verb is not Verb.INC and other.key in one.context
    mine, its = replay.entry(one.line, one.seq), replay.entry(other.line, other.seq)
    if mine is its:
        return other.op < one.op
    return its.reference in past_of(replay, mine)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1 << 32))
def test_tables_are_what_the_entries_make(make_world: Any, seed: int) -> None:
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as directory:
        world = make_world(Path(directory), "bank")
        try:
            urls = (f"{directory}/{number}.db" for number in count())
            check(chance, world, history(chance, world, urls))
        finally:
            world.close()


def test_the_same_on_postgresql(make_world: Any, empty_postgres: str, tmp_path: Path) -> None:
    """One replica on a server, the others beside it."""
    for seed in range(2):
        directory = tmp_path / str(seed)
        directory.mkdir()
        chance = random.Random(seed)
        world = make_world(directory, f"bank {next(LABELS)}")
        try:
            urls = (empty_postgres if number == 0 else f"{directory}/{number}.db" for number in count())
            check(chance, world, history(chance, world, urls))
        finally:
            world.close()
