"""People of several identities in one database: who admits, dismisses and writes at once, and comes to the same.

Everybody has a device and a store. What anybody does is written as an act or a transaction whether it is allowed or
not; bundles carry it to some of the others, in any order. In the end every replica, a late one and the oracle agree on
who counts, and on what is left.
"""

from __future__ import annotations

import os
import random
import tempfile
from contextlib import suppress
from io import BytesIO
from itertools import permutations
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from identity.errors import RefusedError
from identity.event import LastGood
from ledger.store import stored_tree_hash
from sync.acts import Act, Admit, Dismiss, MemberEntry, Role
from sync.changes import Changes, PurgedDocument
from sync.transaction import DocumentId, Op, Verb

from .database_pictures import check_replica

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "4"))
PEOPLE = ("ada", "ben", "cid", "dan")
"""The first one founds the database, and admits the second as an admin."""

PERSON = st.integers(0, len(PEOPLE) - 1)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), PERSON, st.sampled_from("12"), st.integers(0, 3)),
        st.tuples(st.just("admit"), PERSON, PERSON, st.sampled_from(Role)),
        st.tuples(st.just("dismiss"), PERSON, PERSON, st.floats(0, 1)),
        st.tuples(st.just("dismiss each other"), PERSON, PERSON, st.floats(0, 1)),
        st.tuples(st.just("purge"), PERSON),
        st.tuples(st.just("give"), PERSON, PERSON),
        st.tuples(st.just("give"), PERSON, PERSON),
    ),
    min_size=8,
    max_size=25,
)


def gather(make_world: Any, directory: Path) -> tuple[Any, list[Any]]:
    """A database of the first person, and a replica for each of them; all in one world, which closes them."""
    world = make_world(directory, PEOPLE[0])
    replicas = [world.replica(PEOPLE[0])]
    for name in PEOPLE[1:]:
        home = make_world(directory, name)
        home.uid, home.founding, home.replicas = world.uid, world.founding, world.replicas
        replicas.append(home.newcomer(name))
    act(replicas[0], admission(replicas[1], Role.ADMIN))
    for replica in replicas[1:]:
        give(replicas[0], replica)
    return world, replicas


def admission(replica: Any, role: Role) -> Admit:
    return Admit(replica.world.identity, role, tuple(replica.world.events[:3]))


def dismissal(teller: Any, victim: Any, kept: float) -> Dismiss:
    """The teller vouches for a part of what is here of the victim's feed."""
    good = {}
    with teller.store.read() as tx:
        state = tx.feed(victim.feed)
        length = 0 if state is None else round(kept * state.length)
        if length:
            good[victim.feed] = LastGood(length, stored_tree_hash(tx, victim.feed, length))
    return Dismiss(victim.world.identity, good, "")


def act(replica: Any, what: Act) -> None:
    replica.db._submit(lambda writing: MemberEntry(writing.stamp(), what))


def give(sender: Any, receiver: Any) -> int:
    file = BytesIO()
    sender.db.export_bundle(file)
    return int(receiver.db.import_bundle(BytesIO(file.getvalue())).entries)


def take(replicas: list[Any], what: str, who: int, *rest: Any) -> None:
    """One step. Whoever knows that it is refused does not write it; who does not know does."""
    replica = replicas[who]
    with suppress(RefusedError, PurgedDocument):
        match what, *rest:
            case "write", key, number:
                changes = Changes()
                changes.patch("c", key, {"a": number})
                changes.increment("c", key, "n")
                replica.db._submit(lambda writing: replica.db._transaction(writing, changes))
            case "admit", whom, role:
                act(replica, admission(replicas[whom], role))
            case "dismiss", whom, kept:
                act(replica, dismissal(replica, replicas[whom], kept))
            case "dismiss each other", whom, kept:
                acts = [dismissal(replica, replicas[whom], kept), dismissal(replicas[whom], replica, kept)]
                act(replica, acts[0])
                act(replicas[whom], acts[1])
            case "purge", *_:
                changes = Changes()
                changes.do(Op(Verb.PURGE, DocumentId("c", "2"), (), None))
                replica.db._submit(lambda writing: replica.db._transaction(writing, changes))
            case "give", whom:
                if who != whom:
                    give(replica, replicas[whom])


def check(world: Any, replicas: list[Any], chance: random.Random) -> None:
    for sender, receiver in permutations(replicas, 2):
        give(sender, receiver)
    versions: dict[Any, Any] = {}
    states = [check_replica(replica, versions).state() for replica in replicas]
    assert all(state == states[0] for state in states)
    assert [replica.db.audit() for replica in replicas] == [[] for _ in replicas]
    late = world.newcomer("late")
    for sender in chance.sample(replicas, len(replicas)):
        give(sender, late)
    assert check_replica(late, versions).state() == states[0]


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, seed=st.integers(0, 1 << 32))
def test_whoever_is_a_member_is_so_everywhere(make_world: Any, steps: list[Any], seed: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        world, replicas = gather(make_world, Path(directory))
        try:
            for number, step in enumerate(steps):
                world.clock_ms += number % 2
                take(replicas, *step)
            check(world, replicas, random.Random(seed))
        finally:
            world.close()
