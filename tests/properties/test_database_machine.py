"""Replicas of one database in every situation that can be met: apart, behind, doubled, out of order, lied to.

A machine lets two to five devices write and exchange what they have, in pieces, late, twice and in any order; clocks go
wrong, stores are closed and opened, devices are revoked, and the last device also writes entries that no honest one
would. What a replica shows is held against a model that keeps of every operation only what it is and what its author
had seen, and asks of all of them at once what is live; and against ``sync.replay``. Two replicas with the same entries
have to show the same, down to the ETag.

``FUZZ_EXAMPLES`` is how many histories are tried; ``make fuzz`` tries many, with new seeds.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cached_property
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from identity.encoding import decode, encode
from identity.errors import AuditError, MalformedError, RefusedError
from identity.event import LastGood
from identity.history import RevocationReason, build_revoke_device, fold
from ledger.entry import Entry, encode_entry, parse_entry
from ledger.feed import FeedWriter
from ledger.identities import add_events
from ledger.manifest import describe, device_key, parse_manifest
from ledger.merkle import leaf_node
from ledger.store import stored_tree_hash
from ledger.transfer import ingest_feed
from ledger.values import Reference
from sync.acts import parse_member
from sync.cells import KIND_OF, WRITES, CellKind
from sync.changes import Changes, MissingDocument, PurgedDocument, StaleVersion, Strength
from sync.clock import MAX_AHEAD_MS, reading_at, wall_ms
from sync.lines import KnownBlock, KnownFeed
from sync.membership import Author, Membership, PlacedAct, fold_members
from sync.replay import Replay
from sync.schema import Schema, check_op, parse_schema
from sync.stateroot import state_root
from sync.storage.state_leaves import leaves_now
from sync.transaction import (
    CKPT,
    ERASE,
    MEMBER,
    TXN,
    DocumentId,
    Dot,
    Op,
    Stamp,
    Transaction,
    Verb,
    entry_id,
    parse_erasure,
    parse_stamp_of,
    parse_state_root,
    parse_transaction,
    path_text,
    transaction_entry,
)

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "10"))
STEPS = 30 if EXAMPLES < 100 else 80
YEAR_MS = 365 * 24 * 3600 * 1000


# --- the model ------------------------------------------------------------------------------------------------------

Name = tuple[Reference, int]
"""An operation, anywhere: its entry and its place there."""


@dataclass(frozen=True)
class Known:
    """An entry, and all that decides about it."""

    reference: Reference
    author: Author
    past: frozenset[Reference]
    lamport: int
    reading: int
    content: Any
    """What it carries; None when it is malformed."""
    reason: str
    """Why it is masked; empty when it is not."""
    ops: tuple[Op, ...] = ()


@dataclass(frozen=True)
class Feed:
    """A feed as a replica has it."""

    author: Author
    blocks: tuple[bytes, ...]

    @property
    def known(self) -> list[KnownBlock]:
        return [KnownBlock(index, leaf_node(index, block).hash, block) for index, block in enumerate(self.blocks)]


class Model:
    """A set of feeds, judged straight from the definitions, with sets of entries and no cleverness."""

    def __init__(self, database: bytes, feeds: Iterable[Feed]) -> None:
        self.database = database
        self.entries: dict[Reference, Known] = {}
        self.strays: set[Reference] = set()
        """Entries without a place: they do not name the one before them."""
        self._heads: dict[bytes, Known] = {}
        waiting = {feed.author.feed: (feed.author, self._of_ours(feed)) for feed in feeds}
        while sum(self._place_some(author, entries) for author, entries in waiting.values()):
            pass
        self.membership = self._within(frozenset(self.entries))

    # Placing.

    def _of_ours(self, feed: Feed) -> list[tuple[Reference, Entry]]:
        found = []
        for index, leaf, block in feed.known:
            with suppress(MalformedError):
                entry = parse_entry(block)
                if entry.kind in (TXN, MEMBER, CKPT, ERASE) and entry.body.get("db") == self.database:
                    found.append((Reference(feed.author.feed, index, leaf), entry))
        return found

    def _place_some(self, author: Author, entries: list[tuple[Reference, Entry]]) -> int:
        """Place what can be of one feed, and take it out of the list. Returns how many."""
        placed = 0
        for reference, entry in entries:
            content, stamp, reason = _read(entry)
            before = self._heads.get(author.feed)
            if stamp is None or stamp.back != (None if before is None else before.reference):
                self.strays.add(reference)
            elif any(dep.feed != author.feed and dep not in self.entries for dep in stamp.deps):
                break
            else:
                self.entries[reference] = self._judge(author, reference, content, stamp, reason)
                self._heads[author.feed] = self.entries[reference]
            placed += 1
        del entries[:placed]
        return placed

    def _judge(self, author: Author, reference: Reference, content: Any, stamp: Stamp, reason: str) -> Known:
        """The entry in its place; everything that it names is here."""
        before = self._heads.get(author.feed)
        past = frozenset() if before is None else before.past | {before.reference}
        lamport, reading = (0, 0) if before is None else (before.lamport + 1, before.reading)
        untrue = Known(reference, author, past, lamport, reading, None, "its stamp is not true")
        if any(dep.feed == author.feed for dep in stamp.deps):
            return untrue
        seen = [self.entries[dep] for dep in stamp.deps]
        if stamp.lamport != max([lamport, *(one.lamport + 1 for one in seen)]):
            return untrue
        if before is not None and stamp.reading <= before.reading:
            return untrue
        past = past.union(*(one.past | {one.reference} for one in seen))
        ops = content.ops if isinstance(content, Transaction) else ()
        if not all(self._has_context(op, past) for op in ops):
            reason, ops = "context", ()
        if not reason and not hasattr(content, "act"):
            reason = self._standing(author, past) or self._misfit(ops, past)
        return Known(reference, author, past, stamp.lamport, stamp.reading, content, reason, ops)

    def _has_context(self, op: Op, past: frozenset[Reference]) -> bool:
        """Whether every dot that the operation names was seen, and is of its cell."""
        for dot in op.context or ():
            entry = self.entries.get(dot.entry)
            if entry is None or dot.entry not in past or dot.op >= len(entry.ops):
                return False
            victim = entry.ops[dot.op]
            if victim.verb is Verb.INC or not _same_cell(op, victim):
                return False
        return True

    # Who may write, and the schema of the time.

    def _within(self, past: frozenset[Reference]) -> Membership:
        acts = [self.entries[one] for one in past if not self.entries[one].reason]
        placed = [
            PlacedAct(
                act.reference,
                act.author,
                act.content,
                frozenset(
                    entry_id(other.reference) for other in acts if other.reference in act.past and _is_act(other)
                ),
            )
            for act in acts
            if _is_act(act)
        ]
        return fold_members(self.database, placed)

    def _standing(self, author: Author, past: frozenset[Reference]) -> str:
        return str(self._within(past).may_write(author) or "")

    def _misfit(self, ops: Sequence[Op], past: frozenset[Reference]) -> str:
        for op in ops:
            if op.document.collection == "$schema":
                if op.verb is not Verb.DEL and not _is_schema(op):
                    return "schema"
            else:
                schema = self._schema(op.document.collection, past)
                if schema is not None and check_op(schema, op) is not None:
                    return "schema"
        return ""

    def _schema(self, collection: str, past: frozenset[Reference]) -> Schema | None:
        """The one that was in force for an entry with this past."""
        membership = self._within(past)
        ops = self._ops_of(DocumentId("$schema", collection), past, membership)
        found = [name for name in self._live(ops) if ops[name].path == ("schema",)]
        if not found:
            return None
        _, value = max((self._rank(name), encode(ops[name].value)) for name in found)
        return parse_schema(decode(value))

    # What is live.

    def counts(self, entry: Known, membership: Membership | None = None) -> bool:
        """Whether the entry's operations have an effect."""
        cut = (membership or self.membership).cut(entry.author)
        return not entry.reason and (cut is None or entry.reference.index < cut)

    def _ops_of(
        self, document: DocumentId, within: Iterable[Reference], membership: Membership | None = None
    ) -> dict[Name, Op]:
        entries = [self.entries[one] for one in within]
        return {
            (entry.reference, at): op
            for entry in entries
            if self.counts(entry, membership)
            for at, op in enumerate(entry.ops)
            if op.document == document
        }

    def _live(self, ops: Mapping[Name, Op]) -> set[Name]:
        return {name for name, op in ops.items() if op.verb in WRITES and not any(self.killers(name, ops))}

    def killers(self, victim: Name, ops: Mapping[Name, Op]) -> Iterator[Name]:
        """The operations that replaced one: it is in their cell, their author had seen it, and they mean it."""
        for name, op in ops.items():
            seen = victim[0] in self.entries[name[0]].past or (victim[0] == name[0] and victim[1] < name[1])
            if seen and _same_cell(op, ops[victim]):
                named = op.context is None or (ops[victim].verb is not Verb.INC and Dot(*victim) in op.context)
                if named:
                    yield name

    @cached_property
    def documents(self) -> dict[DocumentId, Shown]:
        """Every document with an operation."""
        names = {op.document for entry in self.entries.values() for op in entry.ops}
        return {name: self._shown(self._ops_of(name, self.entries)) for name in names}

    def _shown(self, ops: dict[Name, Op]) -> Shown:
        live = self._live(ops)
        if any(ops[name].verb is Verb.PURGE for name in live):
            return Shown(frozenset(live), {}, deleted=True)
        hiding = [name for name in live if ops[name].verb is Verb.HIDE]
        content = [name for name in live if ops[name].verb is not Verb.HIDE]
        cells: dict[tuple[str, CellKind], list[Name]] = {}
        for name in content:
            cells.setdefault((path_text(ops[name].path), KIND_OF[ops[name].verb]), []).append(name)
        return Shown(
            frozenset(live),
            {cell: self._value(cell[1], names, ops) for cell, names in cells.items()},
            deleted=self._is_hidden(hiding, content, ops),
        )

    def _is_hidden(self, flags: Sequence[Name], content: Sequence[Name], ops: Mapping[Name, Op]) -> bool:
        """A deletion hides a document unless somebody undeleted it or wrote to it without knowing of the deletion."""
        if any(ops[flag].value is not True for flag in flags):
            return False
        return any(all(one == flag[0] or one in self.entries[flag[0]].past for one, _ in content) for flag in flags)

    def _value(self, kind: CellKind, names: Sequence[Name], ops: Mapping[Name, Op]) -> list[bytes]:
        """What a cell shows: of a register each value with the winner first, of a counter the sum."""
        values = [(self._rank(name), ops[name].value) for name in names]
        if kind is CellKind.CTR:
            return [encode(_as_value(sum((_amount(value) for _, value in values), Decimal(0))))]
        if kind is CellKind.SET:
            return sorted({encode(value) for _, value in values})
        return [encode(value) for _, value in sorted(values, key=lambda one: one[0], reverse=True)]

    def _rank(self, name: Name) -> tuple[int, bytes, int]:
        return (self.entries[name[0]].reading, entry_id(name[0]), name[1])

    @cached_property
    def contests(self) -> set[tuple[DocumentId, Reference, Reference]]:
        """Every guarded entry with every one that wrote to what it guards, when neither had seen the other."""
        good = [entry for entry in self.entries.values() if isinstance(entry.content, Transaction) and not entry.reason]
        return {
            (guard.document, entry.reference, other.reference)
            for entry in good
            for guard in entry.content.guards
            for other in good
            if any(op.document == guard.document for op in other.ops)
            and other is not entry
            and other.reference not in entry.past
            and entry.reference not in other.past
        }


@dataclass(frozen=True)
class Shown:
    """A document: its live operations, and by path and kind the values that its cells show."""

    live: frozenset[Name]
    cells: dict[tuple[str, CellKind], list[bytes]]
    deleted: bool


def _read(entry: Entry) -> tuple[Any, Stamp | None, str]:
    parsers = {TXN: parse_transaction, MEMBER: parse_member, "ckpt": parse_state_root, "erase": parse_erasure}
    try:
        content: Any = parsers[entry.kind](entry)
    except MalformedError as exc:
        return None, parse_stamp_of(entry), f"malformed: {exc}"
    return content, content.stamp, ""


def _is_act(entry: Known) -> bool:
    return entry.content is not None and hasattr(entry.content, "act")


def _is_schema(op: Op) -> bool:
    if op.verb is not Verb.SET or op.path != ("schema",):
        return False
    try:
        parse_schema(op.value)
    except MalformedError:
        return False
    return True


def _same_cell(op: Op, victim: Op) -> bool:
    """Whether the one replaces dots like the other's at all."""
    if op.document != victim.document or op.verb in (Verb.INC, Verb.PURGE):
        return False
    if op.verb is Verb.DEL:
        return victim.verb not in (Verb.HIDE, Verb.PURGE) and victim.path[: len(op.path)] == op.path
    if op.path != victim.path:
        return False
    if op.verb in (Verb.ADD, Verb.REM):
        return victim.verb is Verb.ADD and encode(victim.value) == encode(op.value)
    return op.verb is victim.verb


def _amount(value: Any) -> Decimal:
    return Decimal(value["$dec"]) if isinstance(value, dict) else Decimal(value)


def _as_value(total: Decimal) -> Any:
    if total.as_tuple().exponent == 0:
        return int(total)
    return {"$dec": f"{abs(total) if total.is_zero() else total:f}"}


# --- what a replica says --------------------------------------------------------------------------------------------


class Picture:
    """All that the tables of a replica say, in words that mean the same on every one."""

    def __init__(self, replica: Any) -> None:
        self.replica = replica
        with replica.store.read() as tx, replica.db.read() as reader:
            number = reader.number
            branches = dict(tx.fetch_all(f"SELECT id, feed FROM database_branch WHERE database = {number}"))
            chosen = f"branch IN (SELECT id FROM database_branch WHERE database = {number})"
            txns = tx.fetch_all(f"SELECT branch, seq, leaf, place, ops, masked FROM database_txn WHERE {chosen}")
            self.of_place = {place: Reference(branches[branch], seq, leaf) for branch, seq, leaf, place, _, _ in txns}
            strays = tx.fetch_all(f"SELECT feed, seq, leaf FROM database_stray WHERE database = {number}")
            self.strays = {Reference(*row) for row in strays}
            self.reasons = {self.of_place[place]: masked for *_, place, _, masked in txns}
            self._read_documents(tx, reader, number, chosen)
            contests = tx.fetch_all(
                f"SELECT document, guarded, other FROM database_contest WHERE document IN ({self.ids})"
            )
        self.contests = {(self.names[one], self.of_place[e], self.of_place[f]) for one, e, f in contests}

    def _read_documents(self, tx: Any, reader: Any, number: int, chosen: str) -> None:
        columns = "id, collection, key, etag, shown, conflicts"
        rows = tx.fetch_all(f"SELECT {columns} FROM database_document WHERE database = {number} ORDER BY id")
        self.ids = ", ".join(str(row[0]) for row in rows) or "0"
        self.names = {row[0]: DocumentId(*row[1:3]) for row in rows}
        self.rows = {self.names[row[0]]: tuple(row[3:]) for row in rows}
        self.states = {name: reader.document(name) for name in self.rows}
        ops = tx.fetch_all(f"SELECT place, branch, seq, op, document, dead FROM database_op WHERE {chosen}")
        entries = sorted(self.of_place)
        self.dead: dict[Name, int | None] = {}
        self.op_at: dict[int, Name] = {}
        for place, _, _, op, _, dead in ops:
            name = (self.of_place[max(one for one in entries if one < place)], op)
            self.dead[name], self.op_at[place] = dead, name

    def state(self) -> Any:
        """What two replicas with the same entries have in common."""
        documents = {
            name: (state.etag, state.view.cells and _cells(state.view), state.view.deleted, set(state.view.conflicts))
            for name, state in self.states.items()
        }
        return (
            self.reasons,
            self.strays,
            documents,
            self.rows,
            self.contests,
            {name for name, dead in self.dead.items() if not dead},
        )


def _cells(view: Any) -> dict[tuple[str, CellKind], list[bytes]]:
    return {(cell.path, cell.kind): [encode(value) for value in cell.values] for cell in view.cells}


def feeds_of(replica: Any) -> list[Feed]:
    """The database's feeds as they stand in the replica's store."""
    found = []
    for key in replica.feeds():
        with replica.store.read() as tx:
            state = tx.feed(key)
            manifest = parse_manifest(state.manifest)
            author = Author(key, device_key(manifest), describe(manifest).identity)  # type: ignore[union-attr]
            found.append(Feed(author, tuple(tx.blocks(key, 0, state.length))))
    return found


def check_replica(replica: Any, versions: dict[Any, Any]) -> Picture:
    """Hold what a replica shows against the feeds that it has. ``versions``: what each ETag has stood for so far."""
    feeds = feeds_of(replica)
    model = Model(replica.world.uid, feeds)
    picture = Picture(replica)
    assert picture.reasons.keys() == model.entries.keys()
    assert picture.strays == model.strays
    assert {one for one, why in picture.reasons.items() if why} == {
        one for one, entry in model.entries.items() if entry.reason
    }
    assert picture.contests == model.contests
    assert picture.states.keys() == model.documents.keys()
    for name, shown in model.documents.items():
        _check_document(name, picture, shown, versions)
    _check_deaths(model, picture)
    _check_replay(Replay(replica.world.uid, [KnownFeed(feed.author, feed.known) for feed in feeds]), picture)
    return picture


def _check_document(name: DocumentId, picture: Picture, shown: Shown, versions: dict[Any, Any]) -> None:
    state, (etag, flag, conflicts) = picture.states[name], picture.rows[name]
    assert _cells(state.view) == shown.cells
    assert state.view.deleted == shown.deleted
    assert state.etag == etag
    assert flag == (0 if not shown.live else 1 if state.view.exists else 2 if shown.deleted else 0)
    assert conflicts == len(state.view.conflicts)
    assert {one for one, dead in picture.dead.items() if not dead} >= shown.live
    # An ETag stands for what is live, and for nothing else.
    assert (etag == "") == (not shown.live)
    assert versions.setdefault((name, etag), shown.live) == shown.live
    assert versions.setdefault((name, shown.live), etag) == etag


def _check_deaths(model: Model, picture: Picture) -> None:
    """Nothing is lost: what was written is live, or was replaced by somebody who had seen it, or is masked."""
    everything = {(entry.reference, at): op for entry in model.entries.values() for at, op in enumerate(entry.ops)}
    assert picture.dead.keys() == everything.keys()
    live = frozenset[Name]().union(*(shown.live for shown in model.documents.values()))
    assert {name for name, dead in picture.dead.items() if dead is None} == live
    counting = {name: op for name, op in everything.items() if model.counts(model.entries[name[0]])}
    for name, op in counting.items():
        if name not in live and op.verb in WRITES:
            killer = picture.op_at[picture.dead[name]]  # type: ignore[index]
            assert killer in set(model.killers(name, counting))


def check_as_of(replica: Any, chance: random.Random) -> None:
    """At a cut a replica shows what a fresh one would that was given only that much of each feed."""
    feeds = feeds_of(replica)
    with replica.db.read() as reader:
        branches = {branch.feed: branch.id for branch in reader.branches}
        known = reader.known(chance.randint(0, reader.newest_place()))
        lengths = {feed: known.vector.get(branch, -1) + 1 for feed, branch in branches.items()}
        _check_cut(reader, known, Model(replica.world.uid, [_beginning(feed, lengths) for feed in feeds]))
        lengths = {feed.author.feed: chance.randint(0, len(feed.blocks)) for feed in feeds}
        model = Model(replica.world.uid, [_beginning(feed, lengths) for feed in feeds])
        newest = {branches[one.feed]: one.index for one in sorted(model.entries, key=_spelled)}
        _check_cut(reader, reader.of_vector(newest), model)


def _beginning(feed: Feed, lengths: Mapping[bytes, int]) -> Feed:
    return replace(feed, blocks=feed.blocks[: lengths[feed.author.feed]])


def _check_cut(reader: Any, cut: Any, model: Model) -> None:
    rows = reader.tx.fetch_all(f"SELECT collection, key FROM database_document WHERE database = {reader.number}")
    for name in (DocumentId(*row) for row in rows):
        _check_state(reader.document_at(name, cut), model.documents.get(name))


def _check_state(state: Any, shown: Shown | None) -> None:
    if state is None:
        assert shown is None or not shown.live
    else:
        assert shown is not None
        assert _cells(state.view) == shown.cells
        assert state.view.deleted == shown.deleted


def _check_replay(replay: Replay, picture: Picture) -> None:
    assert {one: why for one, why in picture.reasons.items() if why} == replay.masked
    assert {entry.reference for entry in replay.entries()} == picture.reasons.keys()
    assert {tuple(contest) for contest in replay.contests()} == picture.contests
    replayed = {document.name: document for document in replay.documents()}
    assert replayed.keys() == picture.states.keys()
    for name, document in replayed.items():
        state = picture.states[name]
        assert document.etag == state.etag
        assert document.view.fields == state.view.fields
        assert set(document.view.conflicts) == set(state.view.conflicts)


# --- what devices do ------------------------------------------------------------------------------------------------

DOCUMENTS = st.sampled_from([("c", "1"), ("c", "1"), ("c", "2"), ("typed", "1")])
REGISTERS = st.sampled_from(["a", "b"])
COUNTERS = st.sampled_from(["n", "n", ("m", "x"), "a"])
SETS = st.sampled_from(["s", "s", ("m", "s"), "b"])
SCALARS = st.one_of(
    st.none(), st.integers(-3, 3), st.sampled_from(["x", "y"]), st.sampled_from([Decimal("1.50"), Decimal(-2)])
)
FIELDS = st.dictionaries(REGISTERS, SCALARS, max_size=2)
AMOUNTS = st.one_of(st.integers(-5, 5), st.sampled_from([Decimal("0.10"), Decimal("-12.345"), 10**17]))
ELEMENTS = st.lists(st.sampled_from([1, 2, "x"]), min_size=1, max_size=2)

WISHES = st.one_of(
    st.tuples(st.just("put"), DOCUMENTS, FIELDS),
    st.tuples(st.just("patch"), DOCUMENTS, FIELDS),
    st.tuples(st.just("put"), DOCUMENTS, st.fixed_dictionaries({"s": ELEMENTS}, optional={"n": st.integers(-9, 9)})),
    st.tuples(st.just("unset"), DOCUMENTS, st.sampled_from(["a", "n", "s", "m", ("m", "x")])),
    st.tuples(st.just("increment"), DOCUMENTS, COUNTERS, AMOUNTS),
    st.tuples(st.just("increment"), DOCUMENTS, COUNTERS, AMOUNTS),
    st.tuples(st.just("add"), DOCUMENTS, SETS, ELEMENTS),
    st.tuples(st.just("remove"), DOCUMENTS, SETS, ELEMENTS),
    st.tuples(st.just("delete"), DOCUMENTS),
    st.tuples(st.just("undelete"), DOCUMENTS),
)


def wish(changes: Changes, what: str, document: tuple[str, str], *rest: Any) -> None:
    """Add one wish, as it was drawn, to changes."""
    method = getattr(changes, what)
    if what in ("add", "remove"):
        where, elements = rest
        method(*document, where, *elements)
    else:
        method(*document, *rest)


TYPES = {
    "numbers": {"type": "object", "properties": {"a": {"type": "integer"}}},
    "texts": {
        "type": "object",
        "properties": {"a": {"type": "text", "indexed": True}, "n": {"type": "integer", "cell": "ctr"}},
    },
}

Forge = Callable[["Machine", Any, Stamp], Iterable[bytes]]
FORGERIES: dict[str, Forge] = {}
"""Ways to write what no honest device would: from the stamp that would be right to the blocks that are written."""


def forgery(make: Forge) -> Forge:
    FORGERIES[make.__name__] = make
    return make


def block_of(stamp: Stamp, *ops: Op, guards: tuple[Any, ...] = ()) -> bytes:
    """The block of a transaction, by default a plain one."""
    plain = Op(Verb.SET, DocumentId("c", "1"), ("a",), "forged")
    return encode_entry(transaction_entry(Transaction(stamp, ops or (plain,), guards)))


@forgery
def wrong_lamport(machine: Machine, device: Any, stamp: Stamp) -> Iterator[bytes]:
    yield block_of(replace(stamp, lamport=stamp.lamport + 1))


@forgery
def huge_lamport(machine: Machine, device: Any, stamp: Stamp) -> Iterator[bytes]:
    yield block_of(replace(stamp, lamport=(1 << 63) - 1))


@forgery
def no_back(machine: Machine, device: Any, stamp: Stamp) -> Iterator[bytes]:
    yield block_of(replace(stamp, back=None))


@forgery
def back_elsewhere(machine: Machine, device: Any, stamp: Stamp) -> Iterator[bytes]:
    yield block_of(replace(stamp, back=machine.some_entry(device)))


@forgery
def deps_left_out(machine: Machine, device: Any, stamp: Stamp) -> Iterator[bytes]:
    """It claims to have seen nothing of the others: its writes look concurrent, and nothing else comes of it."""
    yield machine.blind(device, stamp)


@forgery
def deps_that_are_none(machine: Machine, device: Any, stamp: Stamp) -> Iterator[bytes]:
    """It names an entry that nobody has: its feed waits for ever, and with it all that it writes later."""
    forged = Reference(b"\xee" * 32, 0, bytes(32))
    yield block_of(replace(stamp, deps=tuple(sorted((*stamp.deps, forged), key=_spelled))))


@forgery
def deps_of_itself(machine: Machine, device: Any, stamp: Stamp) -> Iterator[bytes]:
    forged = stamp.back or Reference(device.feed, 0, bytes(32))
    yield block_of(replace(stamp, deps=tuple(sorted({*stamp.deps, forged}, key=_spelled))))


@forgery
def context_beyond_its_past(machine: Machine, device: Any, stamp: Stamp) -> Iterator[bytes]:
    named = Dot(machine.some_entry(device), 0)
    yield machine.blind(device, stamp, Op(Verb.SET, DocumentId("c", "1"), ("a",), "forged", (named,)))


@forgery
def context_of_some_cell(machine: Machine, device: Any, stamp: Stamp) -> Iterator[bytes]:
    named = Dot(machine.some_entry(device), machine.chance.randrange(3))
    yield block_of(stamp, Op(Verb.DEL, DocumentId("c", "1"), (), None, (named,)))


@forgery
def clock_goes_back(machine: Machine, device: Any, stamp: Stamp) -> Iterator[bytes]:
    yield block_of(replace(stamp, reading=machine.chance.randrange(1, 1 << 40)))


@forgery
def clock_in_the_year_9999(machine: Machine, device: Any, stamp: Stamp) -> Iterator[bytes]:
    yield block_of(replace(stamp, reading=reading_at(253_402_300_000_000) + stamp.lamport))


@forgery
def claimed_time_of_another_clock(machine: Machine, device: Any, stamp: Stamp) -> Iterator[bytes]:
    entry = parse_entry(block_of(stamp))
    yield encode_entry(replace(entry, claimed_ms=entry.claimed_ms + 1))


@forgery
def another_database(machine: Machine, device: Any, stamp: Stamp) -> Iterator[bytes]:
    yield block_of(replace(stamp, database=b"\x01" * 32))


@forgery
def malformed(machine: Machine, device: Any, stamp: Stamp) -> Iterator[bytes]:
    entry = parse_entry(block_of(stamp))
    body = dict(entry.body)
    kind = machine.chance.choice(["txn", "member", "ckpt", "erase"])
    match machine.chance.randrange(6):
        case 0:
            body["ops"] = []
        case 1:
            body["ops"] = [["steal", 0, "/a", 1]]
        case 2:
            body["surplus"] = 1
        case 3:
            body["docs"] = [["$secret", "1"]]
        case 4:
            body["hlc"] = -1
        case _:
            body = {"db": body["db"], "back": 7}
    yield encode_entry(Entry(kind, entry.claimed_ms, body))


@forgery
def no_entry(machine: Machine, device: Any, stamp: Stamp) -> Iterator[bytes]:
    yield b"\xff\x00 this is not an entry"
    yield b""


@forgery
def against_the_schema(machine: Machine, device: Any, stamp: Stamp) -> Iterator[bytes]:
    yield block_of(stamp, Op(Verb.SET, DocumentId("typed", "1"), ("a",), machine.chance.choice([1, "text"])))


@forgery
def a_schema_that_is_none(machine: Machine, device: Any, stamp: Stamp) -> Iterator[bytes]:
    yield block_of(stamp, Op(Verb.SET, DocumentId("$schema", "typed"), ("schema",), {"type": "nothing"}))


def _spelled(reference: Reference) -> tuple[bytes, int, bytes]:
    return (reference.feed, reference.index, reference.leaf_hash)


# --- the machine ----------------------------------------------------------------------------------------------------


class Machine(RuleBasedStateMachine):
    """Devices and what can happen to them. The last one also forges."""

    make_world: Callable[[Path, str], Any]
    directory: Path
    url = ""
    """Where the second replica has its store; empty: in a file, as the others."""
    numbers = count()

    def __init__(self) -> None:
        super().__init__()
        number = next(Machine.numbers)
        folder = self.directory / str(number)
        folder.mkdir()
        self.world = type(self).make_world(folder, f"world {number}")
        self.chance = random.Random(number)
        self.under_way: list[bytes] = []
        """Feeds as they were sent, at any time: they arrive, or not, or more than once."""
        self.bundles: list[bytes] = []
        """The same, of several feeds in a file."""
        self.written: list[Reference] = []
        self.tokens: list[str] = []
        self.etags: dict[tuple[str, str], list[str]] = {}
        self.versions: dict[Any, Any] = {}
        self.revoked: set[str] = set()
        self.readings: dict[str, int] = {}

    def teardown(self) -> None:
        try:
            if self.replicas:
                self.exchange_everything()
                self.deliver_everything_again()
                self.replay_from_nothing()
        finally:
            self.world.close()

    @property
    def replicas(self) -> list[Any]:
        return list(self.world.replicas.values())

    def replica(self, number: int) -> Any:
        return self.replicas[number % len(self.replicas)]

    @initialize(devices=st.integers(2, 5), seed=st.integers(0, 1 << 32))
    def found(self, devices: int, seed: int) -> None:
        self.chance.seed(seed)
        for number in range(devices):
            self.world.replica(f"device-{number}", self.url if number == 1 else "")

    # Writing.

    @rule(
        who=st.integers(0, 4),
        wishes=st.lists(WISHES, min_size=1, max_size=4),
        condition=st.sampled_from(["", "", "current", "current", "old", "absent", "any"]),
        base=st.sampled_from(["", "", "", "now", "old"]),
        local=st.booleans(),
    )
    def write(self, who: int, wishes: list[Any], condition: str, base: str, local: bool) -> None:
        replica = self.replica(who)
        if replica is self.replicas[-1]:
            replica.db.take_new()  # what it forged: a write takes it in, too, and then the condition is about that
        changes = Changes(strength=Strength.LOCAL if local else Strength.CARRIED, base=self.base(replica, base))
        for one in wishes:
            wish(changes, *one)
        document = wishes[0][1]
        holds = self.require(changes, replica, document, condition)
        before = {name: replica.db.get(*name) for name in changes.documents}
        try:
            commit = replica.db.commit(changes)
        except StaleVersion:
            assert not holds or base == "old"
        except (MissingDocument, MalformedError, RefusedError):
            after = {name: replica.db.get(*name) for name in changes.documents}
            assert after == before
        else:
            assert holds
            for name, etag in commit.etags.items():
                state = replica.db.get(*name)
                assert state is None or state.etag == etag
                self.etags.setdefault((name.collection, name.key), []).append(etag)
            self.tokens.append(replica.db.context())
            if commit.reference is not None:
                self.written.append(commit.reference)

    def base(self, replica: Any, which: str) -> str | None:
        if which == "old" and self.tokens:
            return self.chance.choice(self.tokens)
        return replica.db.context() if which == "now" else None

    def require(self, changes: Changes, replica: Any, document: tuple[str, str], condition: str) -> bool:
        """Make the changes conditional. Returns whether the condition holds."""
        state = replica.db.get(*document)
        wanted = {"absent": None, "any": "*", "current": "*" if state is None else state.etag}.get(condition)
        if condition == "old":
            wanted = self.chance.choice(self.etags.get(document, ["1.none"]))
        elif condition == "":
            return True
        changes.require(*document, wanted)
        if wanted is None or state is None:
            return state is None and wanted is None
        return wanted in ("*", state.etag)

    @rule(who=st.integers(0, 4), which=st.sampled_from(sorted(TYPES)))
    def set_schema(self, who: int, which: str) -> None:
        with suppress(RefusedError):  # when it is revoked, or its clock has come to its end
            self.replica(who).put("$schema", "typed", schema=TYPES[which])

    @rule(who=st.integers(0, 4))
    def purge(self, who: int) -> None:
        changes = Changes()
        changes.do(Op(Verb.PURGE, DocumentId("c", "2"), (), None))
        with suppress(RefusedError, PurgedDocument):
            self.replica(who).db.commit(changes)

    @precondition(lambda self: self.written)
    @rule(who=st.integers(0, 4), which=st.integers(0, 99), again=st.booleans())
    def undo(self, who: int, which: int, again: bool) -> None:
        database, reference = self.replica(who).db, self.written[which % len(self.written)]
        with suppress(AuditError):  # it is not here, or not undone, or nothing of it is left, or a schema is against it
            undone = database.redo(reference) if again else database.undo(reference)
            self.written += [] if undone.commit.reference is None else [undone.commit.reference]

    @rule(who=st.integers(0, 4))
    def state_a_root(self, who: int) -> None:
        with suppress(RefusedError):
            self.replica(who).db.checkpoint_state()

    # Exchange.

    @rule(source=st.integers(0, 4), feed=st.integers(0, 4))
    def send(self, source: int, feed: int) -> None:
        """A feed, as far as a replica has it, is on its way from now on."""
        replica = self.replica(source)
        feeds = sorted(replica.feeds())
        self.under_way.append(replica.exported(feeds[feed % len(feeds)]))

    @precondition(lambda self: self.under_way)
    @rule(number=st.integers(0, 99), to=st.integers(0, 4), take=st.booleans())
    def arrive(self, number: int, to: int, take: bool) -> None:
        replica = self.replica(to)
        ingest_feed(replica.store, BytesIO(self.under_way[number % len(self.under_way)]))
        if take:
            replica.db.take_new()

    @rule(source=st.integers(0, 4))
    def send_bundle(self, source: int) -> None:
        file = BytesIO()
        self.replica(source).db.export_bundle(file)
        self.bundles.append(file.getvalue())

    @precondition(lambda self: self.bundles)
    @rule(number=st.integers(0, 99), to=st.integers(0, 4))
    def bundle_arrives(self, number: int, to: int) -> None:
        self.replica(to).db.import_bundle(BytesIO(self.bundles[number % len(self.bundles)]))

    @rule(one=st.integers(0, 4), other=st.integers(0, 4))
    def receive(self, one: int, other: int) -> None:
        if self.replica(one) is not self.replica(other):
            self.replica(one).receive(self.replica(other))

    @rule(looked_at=st.sampled_from([False, False, True]))
    def exchange(self, looked_at: bool) -> None:
        if looked_at:
            self.exchange_everything()
        else:
            self.world.exchange()

    # What goes wrong.

    @rule(who=st.integers(0, 4))
    def restart(self, who: int) -> None:
        replica = self.replica(who)
        replica.close()
        replica.reopen()

    @rule(hours=st.integers(0, 100))
    def time_passes(self, hours: int) -> None:
        self.world.clock_ms += hours * 3_600_000

    @rule(who=st.integers(0, 4), how=st.sampled_from(["right", "frozen", "year 9999", "behind", "before 1970"]))
    def clock(self, who: int, how: str) -> None:
        replica, now = self.replica(who), self.world.clock_ms
        fixed = {"frozen": now, "year 9999": 253_402_300_000_000, "before 1970": -1}
        replica.clock = self.world.now_ms
        if how in fixed:
            replica.clock = lambda: fixed[how]
        elif how == "behind":
            replica.clock = lambda: self.world.clock_ms - 20 * YEAR_MS

    @precondition(lambda self: len(self.revoked) < len(self.replicas) - 1)
    @rule(who=st.integers(1, 4), by=st.integers(0, 4), kept=st.integers(0, 99))
    def revoke(self, who: int, by: int, kept: int) -> None:
        """The owner ends a device, and another one tells the database; what the owner vouches for is chosen freely."""
        victim, teller = self.replica(who), self.replica(by)
        if victim is teller or {victim.name, teller.name} & self.revoked:
            return
        with victim.store.read() as tx:
            heads = [head.length for head in tx.heads(victim.feed)]
            lengths = [0, *heads]
            length = lengths[kept % len(lengths)]
            good = {victim.feed: LastGood(length, stored_tree_hash(tx, victim.feed, length))} if length else {}
        event = build_revoke_device(
            fold(self.world.events),
            device=victim.device.public_key,
            last_good=good,
            reason=RevocationReason.STOLEN,
            time_ms=1_000,
        )
        self.world.events.append(self.world.sign(event, self.world.root))
        with teller.store.write() as tx:
            add_events(tx, self.world.identity, self.world.events)
        with suppress(RefusedError):  # when it is the one that forges, and its feed waits
            teller.db.introduce()
        self.revoked.add(victim.name)

    @rule(kind=st.sampled_from(sorted(FORGERIES)), take=st.booleans())
    def forge(self, kind: str, take: bool) -> None:
        device = self.replicas[-1]
        stamps: list[Stamp] = []
        try:
            device.db.write(lambda writing: stamps.append(writing.stamp()))
        except RefusedError:
            return  # its clock has come to its end, its feed waits, or it knows that it is revoked
        writer = FeedWriter(device.store, device.feed, device.device)
        for block in FORGERIES[kind](self, device, stamps[0]):
            writer.append([block])
        if take:
            device.db.take_new()

    def some_entry(self, device: Any) -> Reference:
        """One that exists, whether the device knows it or not."""
        everything = [entry for replica in self.replicas for entry in Picture(replica).reasons]
        return self.chance.choice(sorted(everything, key=_spelled))

    def blind(self, device: Any, stamp: Stamp, *ops: Op) -> bytes:
        """A transaction that claims to have seen only its own feed."""
        model = Model(self.world.uid, feeds_of(device))
        lamport = 0 if stamp.back is None else model.entries[stamp.back].lamport + 1
        return block_of(replace(stamp, deps=(), lamport=lamport), *ops)

    # What has to hold.

    @rule(who=st.integers(0, 4))
    def look(self, who: int) -> None:
        replica = self.replica(who)
        replica.db.take_new()
        check_replica(replica, self.versions)
        check_as_of(replica, self.chance)

    def exchange_everything(self) -> None:
        self.world.exchange()
        states = [check_replica(replica, self.versions).state() for replica in self.replicas]
        assert all(state == states[0] for state in states)

    def deliver_everything_again(self) -> None:
        """What is known already changes nothing."""
        states = [Picture(replica).state() for replica in self.replicas]
        for replica in self.replicas:
            assert replica.receive(*(other for other in self.replicas if other is not replica)) == 0
        assert [Picture(replica).state() for replica in self.replicas] == states
        assert [replica.db.audit() for replica in self.replicas] == [[] for _ in self.replicas]
        self.check_roots()

    def check_roots(self) -> None:
        """Whoever stated a root stated the one that follows from the feeds."""
        roots = set()
        for replica in self.replicas:
            with replica.db.read() as reader:
                roots.add(state_root(leaves_now(reader)))
            assert replica.db.rival_state_roots() == []
        assert len(roots) == 1
        for stated in self.replicas[0].db.state_roots():
            self.replicas[0].db.verify_state_root(stated.reference)

    def replay_from_nothing(self) -> None:
        """A device that comes late, and is told everything in some order, comes to the same."""
        late = self.world.newcomer("late")
        feeds = [self.replicas[0].exported(feed) for feed in self.replicas[0].feeds()]
        self.chance.shuffle(feeds)
        for feed in feeds:
            ingest_feed(late.store, BytesIO(feed))
            if self.chance.random() < 0.5:
                late.db.take_new()
        late.db.take_new()
        assert check_replica(late, self.versions).state() == Picture(self.replicas[0]).state()

    @invariant()
    def clocks_are_not_led_astray(self) -> None:
        """Whose clock is right stays near it, whatever readings it has seen."""
        for replica in self.replicas[:-1]:
            own, now = self.readings.get(replica.name, 0), replica.now_ms()
            with replica.store.read() as tx:
                state = tx.feed(replica.feed)
                if not state.length:
                    continue
                newest = parse_stamp_of(parse_entry(tx.block(replica.feed, state.length - 1)))
            reading = newest.reading  # type: ignore[union-attr]
            if reading != own:
                assert wall_ms(reading) <= max(wall_ms(own) + 1, now + MAX_AHEAD_MS + 1)
            self.readings[replica.name] = reading


def run(machine: type[Machine], examples: int) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )


def test_replicas_agree(make_world: Any, tmp_path: Path) -> None:
    run(type("Replicas", (Machine,), {"make_world": staticmethod(make_world), "directory": tmp_path}), EXAMPLES)


def test_engines_agree(make_world: Any, tmp_path: Path, empty_postgres: str) -> None:
    """The same with a replica on PostgreSQL: both engines and the model come to the same."""
    given = {"make_world": staticmethod(make_world), "directory": tmp_path, "url": empty_postgres}
    run(type("Engines", (Machine,), given), max(EXAMPLES // 4, 4))
