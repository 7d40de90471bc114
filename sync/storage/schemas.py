"""Which schema was in force where an entry was written, and whether the entry fits it.

Implements docs/spec/transaction.md, section "Taking an entry in", judgement 3. A schema is a document, so several can
stand side by side, and what was in force depends on what the entry had seen, and on who was excluded as far as was
known there: each replica comes to the same, whatever came first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

from identity.encoding import decode
from identity.errors import AuditError, DamagedFile
from sync.cells import LiveDot, StoredOp, deaths
from sync.schema import Schema, check_op, check_schema_op, parse_schema
from sync.storage.branches import Branches
from sync.storage.documents import Document, Documents
from sync.storage.standing import Standing
from sync.transaction import SCHEMAS, DocumentId, Op
from sync.vector import Vector, covers, join, sees
from sync.view import RankOf

__all__ = ["Schemas", "schema_in_force"]


class Schemas:
    """The schemas of one database while entries are taken in."""

    def __init__(
        self,
        documents: Documents,
        branches: Branches,
        standing: Standing,
        history: Callable[[Document], Iterable[tuple[StoredOp, bool]]],
    ) -> None:
        """``history`` gives every operation of a document, and whether it is masked."""
        self._documents = documents
        self._branches = branches
        self._standing = standing
        self._history = history
        self._without: set[str] = set()
        self._writers: dict[str, tuple[int, dict[int, int]]] = {}
        """By collection, the place of the document that holds its schema, and who wrote to it up to then."""

    def expect(self, collection: str) -> None:
        """An operation on the collection's schema is about to be kept: the document stays in its place by one that does
        not count, which is in the past of what has seen it all the same."""
        self._without.discard(collection)
        self._writers.pop(collection, None)

    def misfit(self, ops: Sequence[Op], past: Vector, *, is_complete: bool) -> str | None:
        """Why operations do not fit the schemas that were in force in ``past``; ``is_complete``: that is everything."""
        as_it_stands = is_complete and not self._vouches_for_sides()
        schemas: dict[str, Schema | None] = {}
        for op in ops:
            collection = op.document.collection
            if collection == SCHEMAS:
                reason = check_schema_op(op)
            else:
                if collection not in schemas:
                    schemas[collection] = self.in_force(collection, None if as_it_stands else past)
                schema = schemas[collection]
                reason = None if schema is None else check_op(schema, op)
            if reason is not None:
                return f"schema: {op.document}: {reason}"
        return None

    def in_force(self, collection: str, past: Vector | None = None) -> Schema | None:
        """The schema of a collection that was in force in ``past``; None: now."""
        if collection in self._without:
            return None
        document = self._documents.find(DocumentId(SCHEMAS, collection))
        if document is None:
            self._without.add(collection)
            return None
        dots = document.live.get("/schema", [])
        if past is not None and self._was_otherwise(document, past):
            dots = self._live_in(document, past)
        return schema_in_force(dots, self._documents.rank)

    def _vouches_for_sides(self) -> bool:
        """Whether it takes more than indexes to say what is excluded. That can come later; what was judged stays so."""
        membership = self._standing.within(None)
        ends = ((branch.excluded_from, branch.author) for branch in self._branches)
        return any(end is not None and end != membership.cut(author) for end, author in ends)

    def _was_otherwise(self, document: Document, past: Vector) -> bool:
        """Whether something that is now in force, or not any more, was not known in ``past`` or counted otherwise."""
        writers = self._writers_of(document)
        if not covers(past, writers):
            return True
        membership, branches = self._standing.within(past), map(self._branches.__getitem__, writers)
        return any(membership.cut(branch.author) != branch.excluded_from for branch in branches)

    def _writers_of(self, document: Document) -> Vector:
        """The newest entry of each branch that wrote to a document."""
        place, writers = self._writers.get(document.name.key, (None, {}))
        if place != document.place:
            writers = {}
            for one, masked in self._history(document):
                if not masked:
                    join(writers, {one.dot.branch: one.dot.seq})
            self._writers[document.name.key] = (document.place, writers)
        return writers

    def _live_in(self, document: Document, past: Vector) -> list[LiveDot]:
        """The dots that were live in ``past``: who was excluded is judged by what was known there, too."""
        membership = self._standing.within(past)
        ends = {branch.id: membership.cut(branch.author) for branch in self._branches}
        ops = [
            one
            for one, masked in self._history(document)
            if not masked and sees(past, one.dot.branch, one.dot.seq) and _is_before(one.dot, ends[one.dot.branch])
        ]
        dead = deaths(ops, self._branches.past_of)
        return [one.dot for one in ops if one.dot.place not in dead and one.dot.path == "/schema"]


def _is_before(dot: LiveDot, end: int | None) -> bool:
    return end is None or dot.seq < end


def schema_in_force(dots: Iterable[LiveDot], rank: RankOf) -> Schema | None:
    """The schema that the live dots of its document say: of several that stand side by side, the last in their order.

    Whether a branch is disputed is left out: that can become known later, and what was judged by a schema stays so.
    """
    found = [dot for dot in dots if dot.path == "/schema"]
    return _parse_schema(max(found, key=lambda dot: (rank(dot)[1:], dot.op)).val) if found else None


@lru_cache(maxsize=256)
def _parse_schema(val: bytes) -> Schema:
    try:
        return parse_schema(decode(val))
    except AuditError as exc:
        raise DamagedFile(f"the database holds a schema that is none: {exc}") from exc
