"""The database as an oracle in memory: what feeds amount to, straight from the definitions and without cleverness.

Everything is a set of entries and of operations with what their authors had seen, and whatever is asked is asked of all
of them at once: docs/spec/transaction.md in the order of its sections. Nothing is shared with ``sync.storage`` or
``sync.replay`` but reading single entries, the fold of member entries, and whether an operation fits a schema.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property, lru_cache
from hashlib import sha256
from typing import Any

from identity.contexts import BRANCH_ID, DOCUMENT_VERSION
from identity.encoding import decode, encode
from identity.errors import MalformedError
from identity.textforms import to_base64
from ledger.entry import Entry, parse_entry
from ledger.manifest import Continuation
from ledger.merkle import TreeBuilder, leaf_node, tree_hash
from ledger.values import Reference
from sync.acts import Role, parse_member
from sync.cells import KIND_OF, WRITES, CellKind
from sync.lines import KnownBlock
from sync.membership import Author, Ending, Membership, PlacedAct, fold_members
from sync.schema import Schema, check_op, parse_schema
from sync.transaction import (
    CKPT,
    ERASE,
    MEMBER,
    TXN,
    DocumentId,
    Dot,
    Erasure,
    Op,
    Stamp,
    StateRoot,
    Transaction,
    Verb,
    entry_id,
    parse_erasure,
    parse_stamp_of,
    parse_state_root,
    parse_transaction,
    path_text,
)

Name = tuple[Reference, int]
"""An operation, anywhere: its entry and its place there."""

Names = frozenset[Reference]


@dataclass(frozen=True)
class Known:
    """An entry, and all that decides about it."""

    reference: Reference
    author: Author
    before: Reference | None
    """The one before it in its feed."""
    past: Names
    lamport: int
    reading: int
    content: Any
    """What it carries; None when it is malformed."""
    reason: str
    """Why it is masked; empty when it is not."""
    ops: tuple[Op, ...] = ()


@dataclass(frozen=True)
class Feed:
    """A feed as a replica has it: each of its histories, from the first block on."""

    author: Author
    lines: tuple[tuple[bytes, ...], ...]
    continues: Continuation | None = None
    """What it goes on from."""

    def known(self, line: int = 0) -> list[KnownBlock]:
        """The blocks of a line with what a reader verified of them."""
        blocks = enumerate(self.lines[line])
        return [KnownBlock(index, leaf_node(index, block).hash, block) for index, block in blocks]


@dataclass(frozen=True)
class Shown:
    """A document: its live operations with the branches that they stand on, and what its cells show."""

    live: frozenset[tuple[Name, bytes]]
    etag: str
    cells: dict[tuple[str, CellKind], list[bytes]]
    """By path and kind the values: of a register each one with the winner first, of a counter the sum."""
    deleted: bool
    conflicts: frozenset[tuple[str, str]]
    """What needs a decision, and at which path."""
    fields: dict[str, Any] | None
    """As a reader finds it."""

    @property
    def names(self) -> set[Name]:
        """The live operations."""
        return {name for name, _ in self.live}


class Oracle:
    """A set of feeds, judged. With ``within`` only those of their entries are known, as far as their past is."""

    def __init__(self, database: bytes, feeds: Iterable[Feed], within: Names | None = None) -> None:
        self.database = database
        self.entries: dict[Reference, Known] = {}
        self.strays: set[Reference] = set()
        """Entries without a place: they do not name the one before them."""
        self._feeds = {feed.author.feed: feed for feed in feeds}
        self._behind: dict[tuple[bytes, Reference | None], int] = {}
        """How many entries stand behind each one in its feed."""
        self._folds: dict[Names, Membership] = {}
        lines = [
            _Line(feed, self._of_ours(feed, number))
            for feed in self._feeds.values()
            for number in range(len(feed.lines))
        ]
        while sum(self._place_some(line, within) for line in lines):
            pass
        self.membership = self._fold(frozenset(self.entries))

    # Placing.

    def _of_ours(self, feed: Feed, line: int) -> list[tuple[Reference, Entry]]:
        found = []
        for index, leaf, block in feed.known(line):
            with suppress(MalformedError):
                entry = parse_entry(block)
                if entry.kind in (TXN, MEMBER, CKPT, ERASE) and entry.body.get("db") == self.database:
                    found.append((Reference(feed.author.feed, index, leaf), entry))
        return found

    def _place_some(self, line: _Line, within: Names | None) -> int:
        """Place what can be of one line. Returns how many entries."""
        start = line.read
        for reference, entry in line.entries[start:]:
            content, stamp, reason = _read(entry)
            if stamp is None or stamp.back != line.before:
                self.strays.add(reference)
            elif (within is not None and reference not in within) or any(
                dep.feed != reference.feed and dep not in self.entries for dep in stamp.deps
            ):
                break
            else:
                if reference not in self.entries:
                    self.entries[reference] = self._judge(line, reference, content, stamp, reason)
                    where = (reference.feed, line.before)
                    self._behind[where] = self._behind.get(where, 0) + 1
                line.before = reference
            line.read += 1
        return line.read - start

    def _judge(self, line: _Line, reference: Reference, content: Any, stamp: Stamp, reason: str) -> Known:
        """The entry in its place; everything that it names is here."""
        author, before = line.feed.author, None if line.before is None else self.entries[line.before]
        past = frozenset() if before is None else before.past | {before.reference}
        lamport, reading = (0, 0) if before is None else (before.lamport + 1, before.reading)
        untrue = Known(reference, author, line.before, past, lamport, reading, None, "its stamp is not true")
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
        if isinstance(content, StateRoot) and set(content.cut) != self._newest(past):
            reason = "its cut is not what it had seen"
        if not reason and not hasattr(content, "act"):
            reason = self._standing(author, past, content) or self._misfit(ops, past)
        return Known(reference, author, line.before, past, stamp.lamport, stamp.reading, content, reason, ops)

    def _has_context(self, op: Op, past: Names) -> bool:
        """Whether every dot that the operation names was seen, and is of its cell."""
        for dot in op.context or ():
            entry = self.entries.get(dot.entry)
            if entry is None or dot.entry not in past or dot.op >= len(entry.ops):
                return False
            victim = entry.ops[dot.op]
            if victim.verb is Verb.INC or not same_cell(op, victim):
                return False
        return True

    def _newest(self, past: Names) -> set[Reference]:
        """Of each feed the newest entries in a past."""
        return set(past) - {self.entries[one].before for one in past}

    # Branches.

    def branch(self, reference: Reference) -> bytes:
        """What names the part without a fork, of the tree that the entries of the feed are, in which one stands."""
        at = reference
        while True:
            before = self.entries[at].before
            if self._behind[at.feed, before] > 1:
                return sha256(BRANCH_ID + at.feed + at.index.to_bytes(8, "big") + at.leaf_hash).digest()
            if before is None:
                return at.feed
            at = before

    # Who may write, and the schema of the time.

    def _fold(self, past: Names) -> Membership:
        acts = frozenset(one for one in past if _is_act(self.entries[one]) and not self.entries[one].reason)
        if acts not in self._folds:
            self._folds[acts] = fold_members(self.database, [self._placed(self.entries[one], acts) for one in acts])
        return self._folds[acts]

    def _placed(self, act: Known, acts: Names) -> PlacedAct:
        return PlacedAct(act.reference, act.author, act.content, frozenset(map(entry_id, acts & act.past)))

    def _standing(self, author: Author, past: Names, content: Any) -> str:
        membership, ops = self._fold(past), content.ops if isinstance(content, Transaction) else ()
        refusal = membership.may_write(author)
        takes_an_admin = isinstance(content, Erasure) or any(op.verb is Verb.PURGE for op in ops)
        if refusal is None and takes_an_admin and membership.members[author.identity].role is not Role.ADMIN:
            return "it takes an admin"
        return str(refusal or "")

    def _misfit(self, ops: Sequence[Op], past: Names) -> str:
        for op in ops:
            if op.document.collection == "$schema":
                if op.verb is not Verb.DEL and not _is_schema(op):
                    return "schema"
            else:
                schema = self._schema(op.document.collection, past)
                if schema is not None and check_op(schema, op) is not None:
                    return "schema"
        return ""

    def _schema(self, collection: str, past: Names) -> Schema | None:
        """The one that was in force for an entry with this past. What becomes known later of forks, and of the sides
        that somebody vouches for, is left out of it: what was judged stays so."""
        membership = self._fold(past)

        def counts(entry: Known) -> bool:
            cut = membership.cut(entry.author)
            return not entry.reason and (cut is None or entry.reference.index < cut)

        ops = self._ops_of(DocumentId("$schema", collection), past, counts)
        found = [name for name in self._live(ops) if ops[name].path == ("schema",)]
        if not found:
            return None
        _, value = max((self._age(name), encode(ops[name].value)) for name in found)
        return parse_schema(decode(value))

    # What counts, and what of it is live.

    def counts(self, entry: Known) -> bool:
        """Whether the entry's operations have an effect."""
        if entry.reason or entry.author.identity not in self.membership.members:
            return False
        return all(self._is_vouched_for(entry.reference, one) for one in self.membership.endings(entry.author))

    def _is_vouched_for(self, reference: Reference, ending: Ending) -> bool:
        """Whether a revocation or a dismissal leaves the entry: it stands in front of the length that is named, and,
        where a line of its feed has the tree that is named, on such a line."""
        lines, length = self._feeds[reference.feed].lines, ending.length
        good = [line for line in lines if 0 < length <= len(line) and _tree(line[:length]) == ending.tree_hash]
        if reference.index >= ending.cut:
            return False
        held = [line[reference.index] for line in good if reference.index < len(line)]
        return not good or reference.leaf_hash in {leaf_node(reference.index, block).hash for block in held}

    def _ops_of(
        self, document: DocumentId, within: Iterable[Reference], counts: Callable[[Known], bool]
    ) -> dict[Name, Op]:
        entries = [self.entries[one] for one in within]
        return {
            (entry.reference, at): op
            for entry in entries
            if any(op.document == document for op in entry.ops) and counts(entry)
            for at, op in enumerate(entry.ops)
            if op.document == document
        }

    def _live(self, ops: Mapping[Name, Op]) -> set[Name]:
        return {name for name, op in ops.items() if op.verb in WRITES and not any(self.killers(name, ops))}

    def killers(self, victim: Name, ops: Mapping[Name, Op]) -> Iterator[Name]:
        """The operations that replaced one: it is in their cell, their author had seen it, and they mean it."""
        for name, op in ops.items():
            seen = victim[0] in self.entries[name[0]].past or (victim[0] == name[0] and victim[1] < name[1])
            if seen and same_cell(op, ops[victim]):
                named = op.context is None or (ops[victim].verb is not Verb.INC and Dot(*victim) in op.context)
                if named:
                    yield name

    def newest_that_count(self) -> list[Known]:
        """Of each device that may write the newest entry on each side of its feed, when nothing ends there."""
        newest = [self.entries[one] for one in self._newest(frozenset(self.entries))]
        continued = {one.key for feed in self._feeds.values() for one in [feed.continues] if one is not None}
        return [
            entry
            for entry in newest
            if entry.reference.feed not in continued and self.membership.may_write(entry.author) is None
        ]

    # What documents show.

    @cached_property
    def documents(self) -> dict[DocumentId, Shown]:
        """Every document that an operation is about, or a guard of a transaction that is not masked."""
        names = {op.document for entry in self.entries.values() for op in entry.ops}
        names |= {guard.document for entry in self._good() for guard in entry.content.guards}
        return {name: self._shown(name, self._ops_of(name, self.entries, self.counts)) for name in names}

    def _shown(self, document: DocumentId, ops: dict[Name, Op]) -> Shown:
        live = self._live(ops)
        named = frozenset((name, self.branch(name[0])) for name in live)
        etag = self._etag(document, {name: ops[name] for name in live})
        if any(ops[name].verb is Verb.PURGE for name in live):
            return Shown(named, etag, {}, True, frozenset(), None)
        hiding = [name for name in live if ops[name].verb is Verb.HIDE]
        content = [name for name in live if ops[name].verb is not Verb.HIDE]
        grouped: dict[tuple[str, CellKind], list[Name]] = {}
        for name in content:
            grouped.setdefault((path_text(ops[name].path), KIND_OF[ops[name].verb]), []).append(name)
        deleted = self._is_hidden(hiding, content, ops)
        cells = {cell: self._values(cell[1], names, ops) for cell, names in grouped.items()}
        is_edited = bool(cells) and not deleted and any(ops[flag].value is True for flag in hiding)
        conflicts = _conflicts(cells) | ({("deleted-and-edited", "")} if is_edited else set())
        return Shown(named, etag, cells, deleted, conflicts, None if deleted or not cells else _fields(cells))

    def _is_hidden(self, flags: Sequence[Name], content: Sequence[Name], ops: Mapping[Name, Op]) -> bool:
        """A deletion hides a document unless somebody undeleted it or wrote to it without knowing of the deletion."""
        if any(ops[flag].value is not True for flag in flags):
            return False
        return any(all(one == flag[0] or one in self.entries[flag[0]].past for one, _ in content) for flag in flags)

    def _values(self, kind: CellKind, names: Sequence[Name], ops: Mapping[Name, Op]) -> list[bytes]:
        """What a cell shows: of a register each value with the winner first, of a counter the sum."""
        values = [(self._rank(name), ops[name].value) for name in names]
        if kind is CellKind.CTR:
            return [encode(_as_value(sum((_amount(value) for _, value in values), Decimal(0))))]
        if kind is CellKind.SET:
            return sorted({encode(value) for _, value in values})
        ranked = [encode(value) for _, value in sorted(values, key=lambda one: one[0], reverse=True)]
        return ranked[:1] if kind is CellKind.LWW else ranked

    def _rank(self, name: Name) -> tuple[bool, int, bytes, int]:
        author = self.entries[name[0]].author
        is_disputed = self.branch(name[0]) != name[0].feed or self.membership.disputed(author.identity)
        return (not is_disputed, *self._age(name))

    def _age(self, name: Name) -> tuple[int, bytes, int]:
        return (self.entries[name[0]].reading, entry_id(name[0]), name[1])

    def _etag(self, document: DocumentId, live: Mapping[Name, Op]) -> str:
        """As section "What a document shows" has it; a document of the tests has never more than 4,096 parts."""
        if not live:
            return ""
        dots = [[self.branch(name[0]), name[0].index, name[1]] for name, op in live.items() if op.verb is not Verb.INC]
        runs: dict[tuple[str, bytes], list[tuple[int, int]]] = {}
        for (reference, at), op in live.items():
            if op.verb is Verb.INC:
                runs.setdefault((path_text(op.path), self.branch(reference)), []).append((reference.index, at))
        sums = [[path, branch, min(run)[0], *max(run)] for (path, branch), run in runs.items()]
        version = sha256(DOCUMENT_VERSION + encode([self.database, [*document], sorted(dots), sorted(sums)])).digest()
        return "1." + to_base64(version[:15]).replace("+", "-").replace("/", "_")

    # What holds of all entries.

    @cached_property
    def contests(self) -> set[tuple[DocumentId, Reference, Reference]]:
        """Every guarded entry with every one that wrote to what it guards, when neither had seen the other."""
        good = self._good()
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

    def _good(self) -> list[Known]:
        """The transactions that are not masked."""
        return [entry for entry in self.entries.values() if isinstance(entry.content, Transaction) and not entry.reason]

    def linear_order(self) -> list[Reference]:
        """Each entry behind its past, and of those that could be next the one with the smallest reading, then id."""
        order: list[Reference] = []
        left = dict(self.entries)
        while left:
            ready = [entry for entry in left.values() if entry.past.isdisjoint(left)]
            first = min(ready, key=lambda entry: (entry.reading, entry_id(entry.reference)))
            order.append(first.reference)
            del left[first.reference]
        return order


@dataclass
class _Line:
    """How far a line was read."""

    feed: Feed
    entries: list[tuple[Reference, Entry]]
    read: int = 0
    before: Reference | None = None


def _read(entry: Entry) -> tuple[Any, Stamp | None, str]:
    parsers = {TXN: parse_transaction, MEMBER: parse_member, CKPT: parse_state_root, ERASE: parse_erasure}
    try:
        content: Any = parsers[entry.kind](entry)  # type: ignore[operator]
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


@lru_cache
def _tree(blocks: tuple[bytes, ...]) -> bytes:
    tree = TreeBuilder()
    tree.append_many(blocks)
    return tree_hash(tree.roots)


def same_cell(op: Op, victim: Op) -> bool:
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


def _conflicts(cells: Mapping[tuple[str, CellKind], Sequence[bytes]]) -> frozenset[tuple[str, str]]:
    siblings = {("siblings", path) for (path, kind), held in cells.items() if kind is CellKind.REG and len({*held}) > 1}
    paths = [path for path, _ in cells]
    kinds = {("kinds", path) for path in paths if paths.count(path) > 1 or _is_covered(path, paths)}
    return frozenset(siblings | kinds)


def _is_covered(path: str, others: Iterable[str]) -> bool:
    """Whether a cell stands above this path: what is beneath it does not show."""
    return any(path.startswith(other + "/") for other in others)


def _fields(cells: Mapping[tuple[str, CellKind], Sequence[bytes]]) -> dict[str, Any]:
    """The cells as nested maps: where several kinds stand at one path the first by name shows."""
    fields: dict[str, Any] = {}
    paths = {path for path, _ in cells}
    for path in paths:
        if _is_covered(path, paths):
            continue
        kind = min(kind for where, kind in cells if where == path)
        values = [decode(value) for value in cells[path, kind]]
        *above, last = [step.replace("~1", "/").replace("~0", "~") for step in path.split("/")[1:]]
        within = fields
        for step in above:
            within = within.setdefault(step, {})
        within[last] = values if kind is CellKind.SET else values[0]
    return fields


def _amount(value: Any) -> Decimal:
    return Decimal(value["$dec"]) if isinstance(value, dict) else Decimal(value)


def _as_value(total: Decimal) -> Any:
    if total.as_tuple().exponent == 0:
        return int(total)
    return {"$dec": f"{abs(total) if total.is_zero() else total:f}"}
