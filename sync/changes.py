"""Changes: what somebody wants a database to be, and the operations that make it so.

A ``Changes`` collects wishes; nothing is read or written while it is made. When it is committed the wishes are turned
into operations against the documents as they stand then (``resolve``), in the transaction that writes them, so that
what was checked is what is replaced. Wishes are idempotent where that can be: what is already so takes no operation.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Final, Protocol

from identity.encoding import Value, decode, encode
from identity.errors import ConflictError, MalformedError, RefusedError
from ledger.values import from_python
from sync.ahead import Ahead, number_of
from sync.cells import FLAGS, KIND_OF, CellKind, LiveDot, is_beneath
from sync.schema import Property, Schema, Shape
from sync.transaction import (
    MAX_CONTEXT,
    DocumentId,
    Dot,
    Guard,
    Op,
    Path,
    Verb,
    check_document,
    parse_path,
    path_text,
)
from sync.vector import Vector, sees
from sync.view import Cell, ConflictKind, CounterPart, View, exact_sum, total_of

__all__ = [
    "ANY_VERSION",
    "Changes",
    "Current",
    "Fields",
    "MissingDocument",
    "PurgedDocument",
    "StaleVersion",
    "Strength",
    "resolve",
]

ANY_VERSION: Final = "*"
"""In the place of an ETag: the document has to exist, in whatever version."""

Fields = Mapping[str, object]
"""Field names to Python values: None, bool, int, str, bytes, ``Decimal``, date, datetime, lists and maps of them."""


class Strength(StrEnum):
    """What the condition of a write means."""

    LOCAL = "local"
    """It held here, in the transaction that wrote."""
    CARRIED = "carried"
    """The same, and it stands in the signed entry: what was written elsewhere without knowing of it is a conflict."""
    SERIAL = "serial"
    """It held at the home of the collection, which decides one after the other: nothing is written elsewhere."""


class StaleVersion(ConflictError):
    """A document is not in the version that a write was conditional on. ``current`` is what it shows now."""

    def __init__(self, document: DocumentId, wanted: str | None, etag: str, current: View) -> None:
        have = f"its version is {etag}" if etag else "there is no such document"
        want = "it was to be absent" if wanted is None else f"{wanted} was expected"
        super().__init__(f"{document}: {have}, {want}", hint="read it again, and decide with what it shows now")
        self.document = document
        self.etag = etag
        self.current = current


@dataclass(frozen=True, slots=True)
class _Put:
    document: DocumentId
    fields: Mapping[str, Value]
    whole: bool
    """Fields that are not named are removed."""


@dataclass(frozen=True, slots=True)
class _Do:
    """One operation as it is."""

    op: Op


@dataclass(frozen=True, slots=True)
class _AddTo:
    """An operation that adds to a counter or a set."""

    op: Op


@dataclass(frozen=True, slots=True)
class _Hide:
    document: DocumentId
    hidden: bool


@dataclass(frozen=True, slots=True)
class _Choose:
    """One value in the place of all siblings, or the list of them all."""

    document: DocumentId
    path: Path
    value: Value
    all_of_them: bool


@dataclass(frozen=True, slots=True)
class _Accept:
    """What the document shows is what it is to be."""

    document: DocumentId


_UNCHOSEN: Final = frozenset({CellKind.CTR, CellKind.SET})
"""Kinds of cells in which everything counts, so that there is nothing to choose from."""

_Wish = _Put | _Do | _AddTo | _Hide | _Choose | _Accept


@dataclass(slots=True)
class Changes:
    """Wishes that take effect together, in the order in which they were made.

    A field is named by its name, or by a list of names from the outermost inwards. ``note`` is kept with the
    transaction. ``base`` is a context token of an earlier read: what came after it is never overwritten.
    """

    note: str = ""
    base: str | None = None
    strength: Strength = Strength.CARRIED
    _wishes: list[_Wish] = field(default_factory=list)
    _versions: dict[DocumentId, str | None] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self._wishes)

    @property
    def documents(self) -> set[DocumentId]:
        """The documents that the wishes are about, and those with a condition."""
        about = {wish.op.document if isinstance(wish, _Do | _AddTo) else wish.document for wish in self._wishes}
        return about | set(self._versions)

    def require(self, collection: str, key: str, etag: str | None) -> None:
        """Let all of it depend on the document's version; None: on its absence. Raises ``MalformedError``."""
        document = DocumentId(collection, key)
        if self._versions.setdefault(document, etag) != etag:
            raise MalformedError(f"{document}: two conditions that contradict each other")

    def put(
        self, collection: str, key: str, fields: Fields, *, if_match: str | None = None, if_absent: bool = False
    ) -> None:
        """Let the document have these fields and no others. A deleted document is undeleted by it.

        With ``if_match`` only if its ETag is that one, ``"*"``: if it exists; with ``if_absent`` only if it does not.
        Raises ``MalformedError`` for values that cannot be stored.
        """
        self._put(DocumentId(collection, key), fields, if_match, if_absent=if_absent, whole=True)

    def patch(self, collection: str, key: str, fields: Fields, *, if_match: str | None = None) -> None:
        """Let the document have these fields, and leave its others as they are."""
        self._put(DocumentId(collection, key), fields, if_match, if_absent=False, whole=False)

    def _put(self, document: DocumentId, fields: Fields, if_match: str | None, *, if_absent: bool, whole: bool) -> None:
        if if_absent and if_match is not None:
            raise MalformedError(f"{document}: if_match and if_absent exclude each other")
        if if_absent:
            self.require(*document, None)
        elif if_match is not None:
            self.require(*document, if_match)
        self._wishes.append(_Put(document, {name: from_python(value) for name, value in fields.items()}, whole))

    def unset(self, collection: str, key: str, where: str | Sequence[str]) -> None:
        """Remove a field, with everything beneath it."""
        self._do(Verb.DEL, collection, key, where, None)

    def increment(self, collection: str, key: str, where: str | Sequence[str], by: int | Decimal = 1) -> None:
        """Add to a counter; a negative amount takes away. A deleted document is undeleted by it."""
        self._add_to(Verb.INC, collection, key, where, from_python(by))

    def add(self, collection: str, key: str, where: str | Sequence[str], *elements: object) -> None:
        """Put elements into a set. A deleted document is undeleted by it."""
        for element in elements:
            self._add_to(Verb.ADD, collection, key, where, from_python(element))

    def remove(self, collection: str, key: str, where: str | Sequence[str], *elements: object) -> None:
        """Take elements out of a set."""
        for element in elements:
            self._do(Verb.REM, collection, key, where, from_python(element))

    def delete(self, collection: str, key: str, *, if_match: str | None = None) -> None:
        """Hide the document; it can be undeleted."""
        if if_match is not None:
            self.require(collection, key, if_match)
        self._wishes.append(_Hide(DocumentId(collection, key), hidden=True))

    def undelete(self, collection: str, key: str) -> None:
        """Show a deleted document again."""
        self._wishes.append(_Hide(DocumentId(collection, key), hidden=False))

    def choose(self, collection: str, key: str, where: str | Sequence[str], value: object) -> None:
        """Decide a conflict: let the field have this value, in the place of all that stand there side by side."""
        path = (where,) if isinstance(where, str) else tuple(where)
        self._wishes.append(_Choose(DocumentId(collection, key), path, from_python(value), all_of_them=False))

    def keep_all(self, collection: str, key: str, where: str | Sequence[str]) -> None:
        """Decide a conflict: let the field have the list of all values that stand there, the one that shows first."""
        path = (where,) if isinstance(where, str) else tuple(where)
        self._wishes.append(_Choose(DocumentId(collection, key), path, None, all_of_them=True))

    def accept(self, collection: str, key: str) -> None:
        """Decide all conflicts of the document that no other wish decides: what it shows is what it is to be."""
        self._wishes.append(_Accept(DocumentId(collection, key)))

    def do(self, op: Op) -> None:
        """An operation as it is, for what is made of operations: undo, restore, the resolution of a conflict."""
        self._wishes.append(_Do(op))

    def _add_to(self, verb: Verb, collection: str, key: str, where: str | Sequence[str], value: Value) -> None:
        path = (where,) if isinstance(where, str) else tuple(where)
        self._wishes.append(_AddTo(Op(verb, DocumentId(collection, key), path, value)))

    def _do(self, verb: Verb, collection: str, key: str, where: str | Sequence[str], value: Value) -> None:
        path = (where,) if isinstance(where, str) else tuple(where)
        self.do(Op(verb, DocumentId(collection, key), path, value))


class Current(Protocol):
    """The documents as they stand in the transaction in which wishes become operations."""

    def dots(self, document: DocumentId) -> Sequence[LiveDot]:
        """What is live in it, without increments."""

    def counters(self, document: DocumentId) -> Sequence[CounterPart]:
        """Its counters."""

    def view(self, document: DocumentId) -> View:
        """What it shows."""

    def etag(self, document: DocumentId) -> str:
        """Its version; ``ABSENT_ETAG`` when nothing is live in it."""

    def schema(self, collection: str) -> Schema | None:
        """The collection's schema."""

    def dot_name(self, dot: LiveDot) -> Dot:
        """What names a dot on every replica."""

    def expect_sealing(self, documents: Collection[DocumentId]) -> None:
        """Values of these documents are likely to be sealed: get all that it takes at once."""

    def seal(self, document: DocumentId, path: Path, value: Value) -> Value:
        """The value sealed under the document's key. Raises ``ConfigurationError`` when this replica keeps no keys."""

    def opened(self, document: DocumentId, path: Path, value: Value) -> Value:
        """What was sealed in a value; the value as it is when it does not open here, or is not sealed."""


def resolve(changes: Changes, current: Current, base: Vector | None) -> tuple[list[Op], list[Guard]]:
    """The operations that make the wishes true, and the conditions that the entry carries.

    ``base`` is what the client had seen, None when that is everything here: dots that it had not seen are left beside
    the new ones. Raises ``StaleVersion`` when a condition does not hold, ``MalformedError`` for what cannot be.
    """
    for document in changes.documents:
        check_document(document)  # before it is looked for: no engine can be asked for a lone surrogate
    for document, wanted in changes._versions.items():
        _check_version(document, wanted, current)
    for document in changes.documents:
        if current.view(document).purged:
            raise PurgedDocument(document)
    current.expect_sealing(_to_be_sealed(changes, current))
    resolving = _Resolving(current, base)
    for wish in changes._wishes:
        match wish:
            case _Put():
                resolving.put(wish)
            case _Hide():
                resolving.hide(wish.document, wish.hidden)
            case _Do():
                resolving.do(wish.op)
            case _AddTo():
                resolving.add_to(wish.op)
            case _Choose():
                resolving.choose(wish)
            case _Accept():
                resolving.accept(wish.document)
    guards = []
    if changes.strength is not Strength.LOCAL:
        versions = changes._versions.items()
        guards = [Guard(document, None if etag is None else current.etag(document)) for document, etag in versions]
    return resolving.ops, sorted(guards)


def _to_be_sealed(changes: Changes, current: Current) -> set[DocumentId]:
    """The documents in which a wish sets a field that is to be sealed."""
    schemas = {name: current.schema(name) for name in {document.collection for document in changes.documents}}
    sealing = {name: schema for name, schema in schemas.items() if schema is not None and schema.seals}
    wishes = (wish for wish in changes._wishes if isinstance(wish, _Put | _Choose)) if sealing else ()
    return {wish.document for wish in wishes if _takes_sealing(wish, sealing.get(wish.document.collection))}


def _takes_sealing(wish: _Put | _Choose, schema: Schema | None) -> bool:
    if schema is None:
        return False
    if isinstance(wish, _Choose):
        return schema.sealed(wish.path) and _is_plain(wish.value)
    return _has_plain(wish.fields, schema.shape)


def _has_plain(fields: Mapping[str, Value], shape: Shape | None) -> bool:
    """Whether any of the fields is to be sealed, and is not."""
    for name, value in fields.items():
        declared = None if shape is None else shape.properties.get(name)
        if declared is None:
            continue
        if declared.sealed and _is_plain(value):
            return True
        if declared.is_map and isinstance(value, dict) and _has_plain(value, declared.shape):
            return True
    return False


def _is_plain(value: Value) -> bool:
    return value is not None and not _is_sealed(value)


def _is_sealed(value: Value) -> bool:
    return isinstance(value, dict) and "$sealed" in value


def _check_version(document: DocumentId, wanted: str | None, current: Current) -> None:
    etag, view = current.etag(document), current.view(document)
    if wanted is None:
        holds = not view.exists
    elif wanted == ANY_VERSION:
        holds = view.exists
    else:
        holds = view.exists and etag == wanted
    if not holds:
        raise StaleVersion(document, wanted, etag if view.exists else "", view)


class _Resolving:
    """Wishes on their way to operations: ``ops`` has those that were made so far, and ``_ahead`` has them made."""

    def __init__(self, current: Current, base: Vector | None) -> None:
        self._current = current
        self._base = base
        self._ahead = Ahead(current)
        self.ops: list[Op] = []

    def put(self, wish: _Put) -> None:
        document = wish.document
        schema = self._current.schema(document.collection)
        if wish.whole or self._ahead.is_deleted(document):
            # Also where something shows a deleted document that is about to be removed.
            self.hide(document, hidden=False)
        if wish.whole:
            for name in _names_beneath(self._ahead, document, ()):
                if name not in wish.fields:
                    self.do(Op(Verb.DEL, document, (name,), None))
        for name, value in wish.fields.items():
            declared = None if schema is None else schema.property_at((name,))
            self._set(document, (name,), value, declared, whole=wish.whole)

    def hide(self, document: DocumentId, hidden: bool) -> None:
        flags = [dot for dot in self._ahead.dots(document) if dot.verb is Verb.HIDE]
        if hidden and not self._ahead.exists(document):
            raise MissingDocument(document)
        if hidden:
            self._require_seen(document, ())  # the entry has seen everything here: it would hide that as well
        if hidden or any(dot.val == encode(True) for dot in flags):
            self.do(Op(Verb.HIDE, document, (), hidden))

    def add_to(self, op: Op) -> None:
        """Add to a counter or a set. Raises ``MalformedError`` when the field is something else.

        Else one of the two would hide the other, and nobody had asked for that.
        """
        kind = KIND_OF[op.verb]
        schema = self._current.schema(op.document.collection)
        declared = None if schema is None else schema.property_at(op.path)
        there = self._ahead.kinds(op.document, op.path)
        what = f"{op.document}: {path_text(op.path)} is no {'counter' if kind is CellKind.CTR else 'set'}"
        if declared is not None and declared.cell not in (None, kind):
            raise MalformedError(what, hint=f'the schema can say that it is one: "cell": "{kind}"')
        if (there and kind not in there) or (not there and self._ahead.is_in_the_way(op.document, op.path)):
            raise MalformedError(what, hint="remove what stands there first, or take another field")
        if self._ahead.is_deleted(op.document):
            # Else what is added would show the document as edited by somebody who had not seen that it is deleted.
            self.hide(op.document, hidden=False)
        self.do(op)

    def choose(self, wish: _Choose) -> None:
        document, path = wish.document, wish.path
        schema = self._current.schema(document.collection)
        declared = None if schema is None else schema.property_at(path)
        kind = CellKind.REG if declared is None or declared.cell is None else declared.cell
        there = {cell.kind for cell in self._current.view(document).cells if cell.path == path_text(path)}
        if kind in _UNCHOSEN or (there and there <= _UNCHOSEN) or (declared is not None and declared.is_map):
            raise MalformedError(f"{document}: {path_text(path)} is no register, and has no values to choose from")
        value = self._all_siblings(document, path) if wish.all_of_them else wish.value
        self._set_register(document, path, value, kind, sealed=declared is not None and declared.sealed)

    def _all_siblings(self, document: DocumentId, path: Path) -> list[Value]:
        pointer = path_text(path)
        found = [cell for cell in self._current.view(document).cells if cell.path == pointer]
        values = {encode(value): value for cell in found if cell.kind is CellKind.REG for value in cell.values}
        if not values:
            raise MalformedError(f"{document}: {pointer} has no values side by side")
        if any(map(_is_sealed, values.values())):
            raise MalformedError(f"{document}: {pointer} is sealed: choose one of its values")
        return list(values.values())

    def accept(self, document: DocumentId) -> None:
        view = self._current.view(document)
        if not view.cells:
            raise MissingDocument(document)
        cleared: list[str] = []
        for pointer in sorted({one.path for one in view.conflicts if one.kind is ConflictKind.KINDS}):
            is_clear = any(is_beneath(pointer, one) for one in cleared)
            if not is_clear and not self._is_touched(document, parse_path(pointer)):
                cleared.append(pointer)
                self._keep_shown(document, pointer, view)
        for conflict in view.conflicts:
            path = parse_path(conflict.path)
            if conflict.kind is ConflictKind.SIBLINGS and not self._is_touched(document, path):
                (cell,) = (one for one in view.cells if (one.path, one.kind) == (conflict.path, CellKind.REG))
                self.do(Op(Verb.SET, document, path, cell.shown))
        done = [op.verb for op in self.ops if op.document == document]
        is_edited = any(one.kind is ConflictKind.DELETED_AND_EDITED for one in view.conflicts)
        if not done or (is_edited and Verb.HIDE not in done):
            self.do(Op(Verb.HIDE, document, (), False))  # that somebody saw it settles a condition that did not hold

    def _keep_shown(self, document: DocumentId, pointer: str, view: View) -> None:
        """Clear a path, and write again what shows there, if anything does."""
        path = parse_path(pointer)
        self.do(Op(Verb.DEL, document, path, None))
        cell = _shown_cell(view, pointer)
        if cell is not None:
            verb = next(verb for verb, kind in KIND_OF.items() if kind is cell.kind)
            for value in cell.values if cell.kind is CellKind.SET else cell.values[:1]:
                self.do(Op(verb, document, path, value))

    def do(self, op: Op) -> None:
        """Add an operation, with the context that its base makes necessary."""
        if op.context is None and op.verb is not Verb.INC and self._base is not None:
            op = op._replace(context=self._context(op, self._base))
        self.ops.append(op)
        self._ahead.take(op)

    def _set(self, document: DocumentId, path: Path, value: Value, declared: Property | None, *, whole: bool) -> None:
        """Let the cell at a path hold a value, by what its kind takes."""
        if declared is not None and declared.is_map and isinstance(value, dict):
            self._set_map(document, path, value, declared, whole=whole)
            return
        kind = self._kind(document, path, declared)
        if kind is CellKind.CTR:
            self._set_counter(document, path, value)
        elif kind is CellKind.SET:
            self._set_elements(document, path, value)
        else:
            self._set_register(document, path, value, kind, sealed=declared is not None and declared.sealed)

    def _kind(self, document: DocumentId, path: Path, declared: Property | None) -> CellKind:
        """The declared kind; without a schema that of the cell that is there, of several the first by name."""
        if declared is not None and declared.cell is not None:
            return declared.cell
        return min(self._ahead.kinds(document, path), default=CellKind.REG)

    def _set_map(
        self, document: DocumentId, path: Path, value: Mapping[str, Value], declared: Property, *, whole: bool
    ) -> None:
        shape = declared.shape
        if whole:
            for name in _names_beneath(self._ahead, document, path):
                if name not in value:
                    self.do(Op(Verb.DEL, document, (*path, name), None))
        for name, item in value.items():
            self._set(document, (*path, name), item, None if shape is None else shape.properties.get(name), whole=whole)

    def _set_register(self, document: DocumentId, path: Path, value: Value, kind: CellKind, *, sealed: bool) -> None:
        pointer = path_text(path)
        verb = Verb.LWW if kind is CellKind.LWW else Verb.SET
        held = [dot for dot in self._ahead.dots(document) if is_beneath(dot.path, pointer) and dot.verb not in FLAGS]
        counters = [part for part in self._ahead.counters(document) if is_beneath(part.path, pointer)]
        is_clear = not counters and all(dot.path == pointer and dot.verb is verb for dot in held)
        if is_clear and len(held) == 1 and self._is_so(document, path, held[0].val, value, sealed=sealed):
            return
        if not is_clear:
            self.do(Op(Verb.DEL, document, path, None))
        takes_sealing = sealed and not _is_sealed(value)
        self.do(Op(verb, document, path, self._current.seal(document, path, value) if takes_sealing else value))

    def _is_so(self, document: DocumentId, path: Path, held: bytes, value: Value, *, sealed: bool) -> bool:
        """Whether a cell holds a value; of one that is to be sealed, whether it does so sealed.

        Sealing is different each time, so that what is sealed has to be opened.
        """
        wanted = encode(value)
        if not sealed or _is_sealed(value):
            return held == wanted
        return held != wanted and encode(self._current.opened(document, path, decode(held))) == wanted

    def _is_touched(self, document: DocumentId, path: Path) -> bool:
        pointer = path_text(path)
        return any(
            op.document == document
            and (is_beneath(pointer, path_text(op.path)) or is_beneath(path_text(op.path), pointer))
            for op in self.ops
            if op.verb is not Verb.HIDE
        )

    def _set_counter(self, document: DocumentId, path: Path, value: Value) -> None:
        pointer = path_text(path)
        held = [part for part in self._ahead.counters(document) if part.path == pointer]
        self._require_seen(document, path)  # else the difference would take away what others have added
        difference = exact_sum([number_of(value), total_of(held).copy_negate()])
        if difference or not held:
            self.do(Op(Verb.INC, document, path, _amount_value(difference, value)))

    def _set_elements(self, document: DocumentId, path: Path, value: Value) -> None:
        if not isinstance(value, list):
            raise MalformedError(f"{document}: {path_text(path)} is a set, and takes a list of its elements")
        pointer = path_text(path)
        held = {dot.val for dot in self._ahead.dots(document) if dot.path == pointer and dot.verb is Verb.ADD}
        wanted = {encode(element): element for element in value}
        for val in sorted(held - set(wanted)):
            self.do(Op(Verb.REM, document, path, decode(val)))
        for val, element in wanted.items():
            if val not in held:
                self.do(Op(Verb.ADD, document, path, element))

    def _require_seen(self, document: DocumentId, path: Path) -> None:
        """Return only when the client has seen all that is live at a path and beneath it. Raises ``StaleVersion``."""
        base, pointer = self._base, path_text(path)
        if base is None:
            return
        dots = [dot for dot in self._current.dots(document) if dot.verb not in FLAGS]
        live = [(dot.path, dot.branch, dot.seq) for dot in dots]
        live += [(part.path, part.branch, part.last) for part in self._current.counters(document)]
        if any(is_beneath(at, pointer) and not sees(base, branch, seq) for at, branch, seq in live):
            etag, view = self._current.etag(document), self._current.view(document)
            raise StaleVersion(document, "an older version", etag, view)

    def _context(self, op: Op, base: Vector) -> tuple[Dot, ...] | None:
        """None when the client has seen all that the operation would replace; else the dots that it has seen."""
        pointer = path_text(op.path)
        candidates = [dot for dot in self._current.dots(op.document) if _could_replace(op, pointer, dot)]
        parts = self._current.counters(op.document) if op.verb is Verb.DEL else ()
        if any(is_beneath(part.path, pointer) and not sees(base, part.branch, part.last) for part in parts):
            raise StaleVersion(
                op.document, "an older version", self._current.etag(op.document), self._current.view(op.document)
            )
        seen = [dot for dot in candidates if sees(base, dot.branch, dot.seq)]
        if len(seen) == len(candidates):
            return None
        if len(seen) > MAX_CONTEXT:
            raise ConflictError(f"{op.document}: too much was written since it was read", hint="read it again")
        return tuple(self._current.dot_name(dot) for dot in seen)


class PurgedDocument(RefusedError):
    """The document was purged: its key stays taken, and nothing can be written to it."""

    def __init__(self, document: DocumentId) -> None:
        super().__init__(f"{document} was purged", hint="use another key")
        self.document = document


class MissingDocument(ConflictError):
    """There is no such document, or it is deleted."""

    def __init__(self, document: DocumentId) -> None:
        super().__init__(f"{document}: there is no such document")
        self.document = document


def _names_beneath(current: Ahead, document: DocumentId, path: Path) -> list[str]:
    """The names directly beneath a path under which something is live."""
    pointer = path_text(path)
    paths = [dot.path for dot in current.dots(document) if dot.verb not in FLAGS]
    paths += [part.path for part in current.counters(document)]
    rest = (one[len(pointer) + 1 :] for one in paths if is_beneath(one, pointer) and one != pointer)
    return sorted({one.split("/", 1)[0].replace("~1", "/").replace("~0", "~") for one in rest})


def _shown_cell(view: View, pointer: str) -> Cell | None:
    """Of the cells at a path the one that shows; None when one above it is in the way."""
    shown: Value = dict(view.fields)
    for name in parse_path(pointer):
        if not isinstance(shown, dict) or name not in shown:
            return None
        shown = shown[name]
    cells = (cell for cell in view.cells if cell.path == pointer)
    return next((cell for cell in cells if encode(cell.shown) == encode(shown)), None)


def _could_replace(op: Op, pointer: str, dot: LiveDot) -> bool:
    if op.verb is Verb.DEL:
        return is_beneath(dot.path, pointer) and dot.verb not in FLAGS
    if dot.path != pointer:
        return False
    if op.verb in (Verb.ADD, Verb.REM):
        return dot.verb is Verb.ADD and dot.val == encode(op.value)
    return dot.verb is op.verb


def _amount_value(amount: Decimal, wanted: Value) -> Value:
    if isinstance(wanted, int) and amount == amount.to_integral_value() and abs(amount) < 1 << 63:
        return int(amount)
    return from_python(amount)
