"""Transactions: what an entry of a database says, decoded, and the causal stamp that all its entries carry.

Implements docs/spec/transaction.md. One entry is one atomic change of several documents. The stamp names what its
author had seen: ``back``, the entry of this database before it in the same feed, and ``deps``, entries of other feeds
that were new since then. Both are references by hash, so nobody can change afterwards what was seen.

Here it is decided whether bytes are in the format. Whether they may count is decided where they are taken in
(``sync.storage.projection``), by their causal past, and by ``sync.membership`` (standing).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from hashlib import sha256
from typing import Final, NamedTuple

from identity.contexts import DATABASE_ID, ENTRY_ID
from identity.encoding import MAX_INT, Fields, Value, encode
from identity.errors import LimitExceeded, MalformedError
from identity.textforms import MAX_NAME, check_name
from ledger.entry import Entry
from ledger.values import Reference, check_value, parse_reference
from sync.clock import MAX_READING, wall_ms

__all__ = [
    "CKPT",
    "ERASE",
    "HOLDS",
    "MAX_BASE",
    "MAX_CONTEXT",
    "MAX_INCREMENT_DIGITS",
    "MAX_INCREMENT_SCALE",
    "MAX_INDEXED",
    "MAX_KEY",
    "MAX_KIDS",
    "MAX_OPS",
    "MAX_PATH",
    "MAX_REFERENCES",
    "MEMBER",
    "SCHEMAS",
    "TXN",
    "DocumentId",
    "Dot",
    "Erasure",
    "Founding",
    "Guard",
    "IntentMark",
    "Op",
    "Path",
    "Stamp",
    "StateRoot",
    "Transaction",
    "Verb",
    "check_document",
    "check_op",
    "database_id",
    "entry_id",
    "erasure_entry",
    "op_fields",
    "parse_erasure",
    "parse_path",
    "parse_stamp",
    "parse_stamp_of",
    "parse_state_root",
    "parse_transaction",
    "path_text",
    "stamp_fields",
    "stamp_of",
    "state_root_entry",
    "transaction_entry",
]

TXN: Final = "txn"
MEMBER: Final = "member"
CKPT: Final = "ckpt"
ERASE: Final = "erase"

MAX_OPS: Final = 4096
MAX_PATH: Final = 8
MAX_KEY: Final = 512
"""Characters of a document's key."""
MAX_INDEXED: Final = 2048
"""Bytes of a collection and a key together, and of a path, in UTF-8: what every engine can keep in an index."""
MAX_CONTEXT: Final = 1000
"""Dots that one operation can name as what it replaces."""
MAX_INCREMENT_DIGITS: Final = 18
MAX_INCREMENT_SCALE: Final = 10
"""Of one increment, before and after the point: the sum of ten thousand million of them is still a decimal."""

MAX_REFERENCES: Final = 1024
"""Entries in ``deps``; and distinct ones that the contexts of one transaction can name, and that it can undo."""

MAX_BASE: Final = 65_536
"""Characters of the context token that an intent rests on."""

MAX_KIDS: Final = 4096
"""Keys that one erasure names."""

_MAX_TEXT: Final = 4096
"""Characters of a note, and of an erasure's reason."""
_MAX_POINTER: Final = MAX_PATH * (2 * MAX_NAME + 1)
SCHEMAS: Final = "$schema"
"""The collection that holds the schemas of the others."""
HOLDS: Final = "$hold"
"""The collection of legal holds."""
_SYSTEM_COLLECTIONS: Final = frozenset({SCHEMAS, HOLDS})

Path = tuple[str, ...]
"""Where in a document: names from the outermost inwards; empty for the document itself."""


class DocumentId(NamedTuple):
    """A document of a database: its collection and its key there."""

    collection: str
    key: str

    def __str__(self) -> str:
        return f"{self.collection}/{self.key}"


class Dot(NamedTuple):
    """One operation of one entry, anywhere: what a later one can name as replaced."""

    entry: Reference
    op: int


class Verb(StrEnum):
    """What an operation does to the cell at its path.

    Each writes at most one dot, its own, and replaces the dots that are its context.
    """

    SET = "set"
    """A register that keeps concurrent values side by side: writes a value, replaces those it saw."""
    LWW = "lww"
    """The same for a register of which only the winner shows."""
    INC = "inc"
    """Adds to a counter, an integer or a decimal. Replaces nothing."""
    ADD = "add"
    """Puts an element into a set."""
    REM = "rem"
    """Takes an element out of a set, as far as it was seen: an add that was not seen stays."""
    DEL = "del"
    """Resets everything at the path and beneath it, of any kind, as far as it was seen."""
    HIDE = "hide"
    """Sets the document's delete flag to its value, true or false."""
    PURGE = "purge"
    """Ends the document for good, whatever anybody wrote to it without knowing. Only an admin's counts."""


class Op(NamedTuple):
    """One operation. ``context`` None: it replaces all that is live in its cell in the entry's causal past."""

    verb: Verb
    document: DocumentId
    path: Path
    value: Value
    context: tuple[Dot, ...] | None = None


class Guard(NamedTuple):
    """What a document's version had to be where the transaction was written; ``etag`` None: it had to be absent."""

    document: DocumentId
    etag: str | None


@dataclass(frozen=True, slots=True)
class Stamp:
    """The causal header of an entry: its database, what its author had seen, and how its clock stood."""

    database: bytes
    back: Reference | None
    deps: tuple[Reference, ...]
    lamport: int
    reading: int
    """Of a hybrid logical clock (``sync.clock``)."""


@dataclass(frozen=True, slots=True)
class IntentMark:
    """Who wanted a transaction that somebody else's feed carries: ``key``, of ``identity`` when it is a device's.

    ``sequence`` is the key's own number for it, ``base`` the context token that it rests on. ``signature`` is over
    these and the operations (``sync.intent``).
    """

    identity: bytes | None
    key: bytes
    sequence: int
    base: str | None
    signature: bytes


@dataclass(frozen=True, slots=True)
class Transaction:
    """Operations that take effect together. ``undoes`` names the transactions that it takes back, oldest first.

    ``decides`` names the proposal that it carries out (``sync.serial``).
    """

    stamp: Stamp
    ops: tuple[Op, ...]
    guards: tuple[Guard, ...] = ()
    note: str = ""
    undoes: tuple[Reference, ...] = ()
    decides: Reference | None = None
    intent: IntentMark | None = None


@dataclass(frozen=True, slots=True)
class StateRoot:
    """A statement of what the database was: the root over all documents (``sync.stateroot``) at ``cut``.

    ``cut`` names the newest entry of each feed that is included, by feed key and index: exactly the statement's causal
    past. ``rules`` is the version of the rules by which entries become a state.
    """

    stamp: Stamp
    cut: tuple[Reference, ...]
    root: bytes
    rules: int


@dataclass(frozen=True, slots=True)
class Erasure:
    """That the keys ``kids`` of a document's sealed values were destroyed, and are to be wherever they are."""

    stamp: Stamp
    document: DocumentId
    kids: tuple[bytes, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Founding:
    """What a database was founded with; its hash is the database's id."""

    name: str
    identity: bytes
    salt: bytes

    def fields(self) -> dict[str, Value]:
        """As an entry carries it."""
        return {"name": self.name, "identity": self.identity, "salt": self.salt}


def database_id(founding: Founding) -> bytes:
    """The id of the database: 32 bytes."""
    return sha256(DATABASE_ID + encode(founding.fields())).digest()


def entry_id(reference: Reference) -> bytes:
    """32 bytes that stand for an entry where entries are put in an order that means nothing."""
    return sha256(ENTRY_ID + reference.feed + reference.index.to_bytes(8, "big") + reference.leaf_hash).digest()


@lru_cache(maxsize=4096)  # documents of one kind have the same fields
def path_text(path: Path) -> str:
    """The path as an RFC 6901 JSON Pointer: unique, and what entries and stores hold."""
    return "".join("/" + name.replace("~", "~0").replace("/", "~1") for name in path)


@lru_cache(maxsize=4096)
def parse_path(text: str) -> Path:
    """Read ``path_text`` back. Raises ``MalformedError`` for anything that it would not have written."""
    if not text:
        return ()
    if text[0] != "/" or len(text) > _MAX_POINTER:
        raise MalformedError("path: not a JSON Pointer")
    path = tuple(name.replace("~1", "/").replace("~0", "~") for name in text[1:].split("/"))
    if path_text(path) != text:
        raise MalformedError("path: not the canonical JSON Pointer")
    _check_path(path)
    return path


# --- checking -------------------------------------------------------------------------------------------------------


def check_op(op: Op) -> None:
    """Return only when the operation is well-formed. Raises ``MalformedError``, ``LimitExceeded``."""
    check_document(op.document)
    _check_path(op.path)
    _CHECKS[op.verb](op)
    if op.context is not None and len(op.context) > MAX_CONTEXT:
        raise LimitExceeded(f"operation: a context of {len(op.context)} dots, at most {MAX_CONTEXT} are allowed")


def check_document(document: DocumentId) -> None:
    """Return only when a document can be called so. Raises ``MalformedError``, ``LimitExceeded``."""
    collection, key = document
    check_name(collection, "collection")
    if collection.startswith("$") and collection not in _SYSTEM_COLLECTIONS:
        raise MalformedError(f"collection {collection!r}: names with '$' are reserved")
    if len(key) > MAX_KEY:
        raise LimitExceeded(f"document key: {len(key)} characters, at most {MAX_KEY} are allowed")
    check_name(key[:MAX_NAME], "document key")
    if len(key) > MAX_NAME:
        for start in range(MAX_NAME, len(key), MAX_NAME):
            check_name(key[start : start + MAX_NAME], "document key")
    _check_indexed(collection + key, "document")


def _check_path(path: Path) -> None:
    if len(path) > MAX_PATH:
        raise LimitExceeded(f"path: {len(path)} names, at most {MAX_PATH} are allowed")
    for name in path:
        check_name(name, "field")
        if name.startswith("$"):
            raise MalformedError(f"field {name!r}: names with '$' are reserved")
    if sum(map(len, path)) > MAX_INDEXED // 8:  # of shorter ones no pointer is too long
        _check_indexed(path_text(path), "path")


def _check_indexed(text: str, what: str) -> None:
    if len(text) > MAX_INDEXED // 4 and len(text.encode()) > MAX_INDEXED:
        raise LimitExceeded(f"{what}: more than {MAX_INDEXED} bytes in UTF-8")


def _check_valued(op: Op) -> None:
    if not op.path:
        raise MalformedError(f"operation: {op.verb} needs a field")
    check_value(op.value)


def _check_inc(op: Op) -> None:
    if not op.path:
        raise MalformedError("operation: inc needs a field")
    if op.context is not None:
        raise MalformedError("operation: inc replaces nothing, so it has no context")
    value = op.value
    if isinstance(value, dict):
        check_value(value)
        text = value.get("$dec")
        if not isinstance(text, str):
            raise MalformedError("operation: inc takes an integer or a decimal")
        whole, _, fraction = text.removeprefix("-").partition(".")
        if len(whole) > MAX_INCREMENT_DIGITS or len(fraction) > MAX_INCREMENT_SCALE:
            raise LimitExceeded(
                f"operation: an increment has at most {MAX_INCREMENT_DIGITS} digits before the point and"
                f" {MAX_INCREMENT_SCALE} after it"
            )
    elif not isinstance(value, int) or isinstance(value, bool):
        raise MalformedError("operation: inc takes an integer or a decimal")
    elif abs(value) >= 10**MAX_INCREMENT_DIGITS:
        raise LimitExceeded(f"operation: an increment has at most {MAX_INCREMENT_DIGITS} digits")


def _check_del(op: Op) -> None:
    if op.value is not None:
        raise MalformedError("operation: del has no value")


def _check_purge(op: Op) -> None:
    if op.path or op.value is not None or op.context is not None:
        raise MalformedError("operation: purge takes no field, no value and no context")


def _check_hide(op: Op) -> None:
    if op.path or not isinstance(op.value, bool):
        raise MalformedError("operation: hide takes no field, and true or false")


_CHECKS: Final = {
    Verb.SET: _check_valued,
    Verb.LWW: _check_valued,
    Verb.ADD: _check_valued,
    Verb.REM: _check_valued,
    Verb.INC: _check_inc,
    Verb.DEL: _check_del,
    Verb.HIDE: _check_hide,
    Verb.PURGE: _check_purge,
}


# --- stamps ---------------------------------------------------------------------------------------------------------


def stamp_fields(stamp: Stamp) -> dict[str, Value]:
    """The members of an entry's body that carry the stamp. Raises ``LimitExceeded`` when it names too many entries."""
    if len(stamp.deps) > MAX_REFERENCES:  # nobody could read it, and the feed would end with it
        raise LimitExceeded(f"stamp: {len(stamp.deps)} entries in 'deps', at most {MAX_REFERENCES} are allowed")
    return {
        "db": stamp.database,
        "back": None if stamp.back is None else stamp.back.members(),
        "deps": [reference.members() for reference in stamp.deps],
        "lam": stamp.lamport,
        "hlc": stamp.reading,
    }


def parse_stamp(fields: Fields) -> Stamp:
    """Read the stamp's members out of a body. Raises ``MalformedError``."""
    database = fields.bytes("db", length=32)
    back = fields.value("back")
    deps = _references(fields, "deps")
    return Stamp(
        database,
        None if back is None else parse_reference(back),
        deps,
        fields.int("lam", max=MAX_INT),
        fields.int("hlc", max=MAX_READING),
    )


def stamp_of(entry: Entry, fields: Fields) -> Stamp:
    """``parse_stamp`` of the entry's body, when its clock and the entry's claimed time agree. Raises as it does."""
    stamp = parse_stamp(fields)
    if wall_ms(stamp.reading) != entry.claimed_ms:
        raise MalformedError(f"{fields.what}: the claimed time is not its clock's")
    return stamp


def parse_stamp_of(entry: Entry) -> Stamp | None:
    """The stamp of an entry whose body is not as it should be otherwise; None when the stamp is not either."""
    try:
        return parse_stamp(Fields(dict(entry.body), "entry"))
    except MalformedError:
        return None


def _references(fields: Fields, key: str) -> tuple[Reference, ...]:
    """References in ascending order of feed key, index and leaf hash: a set has one spelling."""
    found = tuple(parse_reference(value) for value in fields.list(key, max=MAX_REFERENCES))
    ordered = [(one.feed, one.index, one.leaf_hash) for one in found]
    if any(ordered[i] >= ordered[i + 1] for i in range(len(ordered) - 1)):
        raise MalformedError(f"{fields.what}: {key!r} is not in ascending order")
    return found


def _in_order(references: Iterable[Reference]) -> list[Reference]:
    return sorted(set(references), key=lambda one: (one.feed, one.index, one.leaf_hash))


# --- transactions ---------------------------------------------------------------------------------------------------


def transaction_entry(transaction: Transaction) -> Entry:
    """The entry that carries the transaction; its claimed time is the clock's.

    Raises ``MalformedError`` or ``LimitExceeded`` when it is not well-formed.
    """
    if not transaction.ops or len(transaction.ops) > MAX_OPS:
        raise LimitExceeded(f"transaction: {len(transaction.ops)} operations, 1 to {MAX_OPS} are allowed")
    for op in transaction.ops:
        check_op(op)
    for guard in transaction.guards:
        check_document(guard.document)
    if len(transaction.note) > _MAX_TEXT:
        raise LimitExceeded(f"transaction: a note of {len(transaction.note)} characters, at most {_MAX_TEXT} are kept")
    documents = sorted({op.document for op in transaction.ops} | {guard.document for guard in transaction.guards})
    if len(documents) > MAX_OPS:
        raise LimitExceeded(f"transaction: about {len(documents)} documents, at most {MAX_OPS} are allowed")
    number = {document: place for place, document in enumerate(documents)}
    references = _in_order(dot.entry for op in transaction.ops for dot in op.context or ())
    if max(len(references), len(transaction.undoes)) > MAX_REFERENCES:
        raise LimitExceeded(f"transaction: it names more than {MAX_REFERENCES} entries")
    place_of = {reference: place for place, reference in enumerate(references)}
    ops: list[Value] = [_op_members(op, number[op.document], place_of) for op in transaction.ops]
    body: dict[str, Value] = {
        **stamp_fields(transaction.stamp),
        "docs": [list(document) for document in documents],
        "ops": ops,
    }
    if references:
        body["refs"] = [reference.members() for reference in references]
    if transaction.guards:
        guards = sorted(transaction.guards, key=lambda guard: guard.document)
        body["grd"] = [[number[guard.document], guard.etag] for guard in guards]
    if transaction.note:
        body["note"] = transaction.note
    if transaction.undoes:
        body["undo"] = [reference.members() for reference in _in_order(transaction.undoes)]
    if transaction.decides is not None:
        body["of"] = transaction.decides.members()
    if transaction.intent is not None:
        body["int"] = _intent_members(transaction.intent)
    return Entry(TXN, wall_ms(transaction.stamp.reading), body)


def op_fields(ops: Sequence[Op]) -> dict[str, Value]:
    """Operations by themselves, as the members ``docs``, ``ops`` and perhaps ``refs`` say them.

    Raises ``MalformedError`` or ``LimitExceeded`` when they are not well-formed.
    """
    body = dict(transaction_entry(Transaction(Stamp(bytes(32), None, (), 0, 0), tuple(ops))).body)
    return {name: body[name] for name in ("docs", "ops", "refs") if name in body}


def _intent_members(intent: IntentMark) -> dict[str, Value]:
    if len(intent.base or "") > MAX_BASE:
        raise LimitExceeded(f"intent: a base of more than {MAX_BASE} characters")
    return {
        "id": intent.identity,
        "key": intent.key,
        "seq": intent.sequence,
        "base": intent.base,
        "sig": intent.signature,
    }


def _parse_intent(fields: Fields) -> IntentMark:
    mark = IntentMark(
        fields.optional_bytes("id", length=32),
        fields.bytes("key", length=32),
        fields.int("seq"),
        fields.optional_text("base", min=1, max=MAX_BASE),
        fields.bytes("sig", length=64),
    )
    fields.done()
    return mark


def _op_members(op: Op, document: int, place_of: Mapping[Reference, int]) -> list[Value]:
    members: list[Value] = [op.verb.value, document, path_text(op.path), op.value]
    if op.context is not None:
        places = sorted({(place_of[dot.entry], dot.op) for dot in op.context})
        members.append([[place, at] for place, at in places])
    return members


def parse_transaction(entry: Entry) -> Transaction:
    """The transaction that an entry of kind ``txn`` carries. Raises ``MalformedError``, ``LimitExceeded``."""
    if entry.kind != TXN:
        raise MalformedError(f"entry: of kind {entry.kind!r}, not a transaction")
    fields = Fields(dict(entry.body), "transaction")
    stamp = stamp_of(entry, fields)
    documents = _parse_documents(fields.list("docs", min=1, max=MAX_OPS))
    references = _references(fields, "refs") if fields.has("refs") else ()
    reader = _OpReader(documents, references)
    ops = tuple(map(reader.read, fields.list("ops", min=1, max=MAX_OPS)))
    guards = tuple(map(reader.read_guard, fields.list("grd", min=1, max=MAX_OPS))) if fields.has("grd") else ()
    reader.done()
    if any(guards[i].document >= guards[i + 1].document for i in range(len(guards) - 1)):
        raise MalformedError("transaction: 'grd' is not in ascending order")
    note = fields.text("note", min=1, max=_MAX_TEXT) if fields.has("note") else ""
    undoes = _references(fields, "undo") if fields.has("undo") else ()
    decides = parse_reference(fields.value("of")) if fields.has("of") else None
    intent = _parse_intent(fields.map("int")) if fields.has("int") else None
    if intent is not None and (undoes or decides is not None):
        raise MalformedError("transaction: what undoes something or carries out a proposal carries no intent")
    fields.done()
    return Transaction(stamp, ops, guards, note, undoes, decides, intent)


def _parse_documents(values: Sequence[Value]) -> list[DocumentId]:
    documents = []
    for value in values:
        match value:
            case [str(collection), str(key)]:
                documents.append(DocumentId(collection, key))
            case _:
                raise MalformedError("transaction: a document is a collection and a key")
    if any(documents[i] >= documents[i + 1] for i in range(len(documents) - 1)):
        raise MalformedError("transaction: 'docs' is not in ascending order")
    for document in documents:
        check_document(document)
    return documents


class _OpReader:
    """Reads operations, and sees to it that every document and reference is used: each fact stands for something."""

    def __init__(self, documents: Sequence[DocumentId], references: Sequence[Reference]) -> None:
        self._documents = documents
        self._references = references
        self._used: set[int] = set()
        self._cited: set[int] = set()

    def read(self, value: Value) -> Op:
        context = None
        if type(value) is list and len(value) == 4:
            verb, document, path, content = value
        elif type(value) is list and len(value) == 5:
            verb, document, path, content, dots = value
            context = self._context(dots)
        else:
            raise MalformedError(
                "transaction: an operation is a verb, a document, a path, a value, and a context or not"
            )
        if type(verb) is not str or type(document) is not int or type(path) is not str:
            raise MalformedError("transaction: an operation begins with a verb, the number of a document and a path")
        if (known := _VERBS.get(verb)) is None:
            raise MalformedError("operation: an unknown verb")
        op = Op(known, self._document(document), parse_path(path), content, context)
        _CHECKS[known](op)
        return op

    def read_guard(self, value: Value) -> Guard:
        match value:
            case [int(document), str() | None as etag] if not isinstance(document, bool) and etag != "":
                check_name(etag or "-", "guard")
                return Guard(self._document(document), etag)
        raise MalformedError("transaction: a guard is a document and an ETag or null")

    def done(self) -> None:
        if len(self._used) != len(self._documents):
            raise MalformedError("transaction: a document that no operation is about")
        if len(self._cited) != len(self._references):
            raise MalformedError("transaction: a reference that no context names")

    def _document(self, place: int) -> DocumentId:
        if not 0 <= place < len(self._documents):
            raise MalformedError("transaction: a document that is not in the list")
        self._used.add(place)
        return self._documents[place]

    def _context(self, value: Value) -> tuple[Dot, ...]:
        if not isinstance(value, list):
            raise MalformedError("operation: a context is a list of dots")
        if len(value) > MAX_CONTEXT:
            raise LimitExceeded(f"operation: a context of {len(value)} dots, at most {MAX_CONTEXT} are allowed")
        dots: list[Dot] = []
        last = (-1, -1)
        for item in value:
            match item:
                case [int(place), int(op)] if not isinstance(place, bool) and not isinstance(op, bool):
                    if not (0 <= place < len(self._references) and 0 <= op < MAX_OPS) or (place, op) <= last:
                        raise MalformedError("operation: a context names dots once, in ascending order")
                case _:
                    raise MalformedError("operation: a dot is a reference and an operation")
            last = (place, op)
            self._cited.add(place)
            dots.append(Dot(self._references[place], op))
        return tuple(dots)


_VERBS: Final = {verb.value: verb for verb in Verb}


# --- state roots and erasures ---------------------------------------------------------------------------------------


def state_root_entry(statement: StateRoot) -> Entry:
    """The entry that carries the statement."""
    body: dict[str, Value] = {
        **stamp_fields(statement.stamp),
        "cut": [reference.members() for reference in _in_order(statement.cut)],
        "root": statement.root,
        "rules": statement.rules,
    }
    return Entry(CKPT, wall_ms(statement.stamp.reading), body)


def parse_state_root(entry: Entry) -> StateRoot:
    """The statement that an entry of kind ``ckpt`` carries. Raises ``MalformedError``."""
    if entry.kind != CKPT:
        raise MalformedError(f"entry: of kind {entry.kind!r}, not a state root")
    fields = Fields(dict(entry.body), "state root")
    stamp = stamp_of(entry, fields)
    cut = tuple(parse_reference(value) for value in fields.list("cut", min=1))
    statement = StateRoot(stamp, cut, fields.bytes("root", length=32), fields.int("rules", min=1))
    fields.done()
    if [*statement.cut] != _in_order(statement.cut):
        raise MalformedError("state root: 'cut' is not in ascending order")
    return statement


def erasure_entry(erasure: Erasure) -> Entry:
    """The entry that carries the erasure. Raises ``LimitExceeded`` when it is not well-formed."""
    if len(erasure.reason) > _MAX_TEXT or len(erasure.kids) > MAX_KIDS:
        raise LimitExceeded(f"erasure: more than {_MAX_TEXT} characters of reason, or {MAX_KIDS} keys")
    body: dict[str, Value] = {
        **stamp_fields(erasure.stamp),
        "doc": list(erasure.document),
        "kids": sorted(erasure.kids),  # type: ignore[dict-item]
        "reason": erasure.reason,
    }
    return Entry(ERASE, wall_ms(erasure.stamp.reading), body)


def parse_erasure(entry: Entry) -> Erasure:
    """The erasure that an entry of kind ``erase`` carries. Raises ``MalformedError``."""
    if entry.kind != ERASE:
        raise MalformedError(f"entry: of kind {entry.kind!r}, not an erasure")
    fields = Fields(dict(entry.body), "erasure")
    stamp = stamp_of(entry, fields)
    (document,) = _parse_documents([fields.value("doc")])
    kids = fields.bytes_list("kids", length=16, max=MAX_KIDS)
    erasure = Erasure(stamp, document, kids, fields.text("reason", max=_MAX_TEXT))
    fields.done()
    if list(kids) != sorted(set(kids)):
        raise MalformedError("erasure: 'kids' is not in ascending order")
    return erasure
