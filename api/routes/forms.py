"""How answers are written: the same objects that the command line prints under ``--json`` (docs/reference/json.md)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from api.asof import AsOf, Axis, as_of, as_of_place
from api.problems import siblings_json
from api.routes.dependencies import On
from identity.errors import MalformedError
from identity.textforms import to_zbase32
from ledger.values import Reference, reference_text
from sync.database import Commit, Database
from sync.difference import CellChange
from sync.jsonform import to_json
from sync.storage.reader import Cut, DocumentState, Reader
from sync.transaction import DocumentId
from sync.unsealing import Unsealed, unseal_view
from sync.view import Conflict

__all__ = [
    "as_of_json",
    "change_json",
    "commit_json",
    "conflicts_json",
    "cut_of",
    "document_json",
    "listed_json",
    "parse_time",
    "place_json",
    "point_in_time",
    "time_json",
    "unsealed",
]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MS: Final = timedelta(milliseconds=1)
_PLACE: Final = re.compile(r"0|[1-9][0-9]{0,17}", re.ASCII)


# --- times ----------------------------------------------------------------------------------------------------------


def time_json(milliseconds: int | None) -> str | None:
    """A time in RFC 3339; None for none, and for a claim that no calendar has."""
    if milliseconds is None:
        return None
    try:
        return (_EPOCH + milliseconds * _MS).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except OverflowError:
        return None


def parse_time(text: str) -> int:
    """Milliseconds of an RFC 3339 time with its zone. Raises ``MalformedError``."""
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None or "T" not in text.upper():
            raise ValueError(text)
        return (moment - _EPOCH) // _MS
    except (ValueError, OverflowError) as exc:
        raise MalformedError(f"{text[:64]!r} is not a time", hint="write it as 2026-12-31T23:59:59Z") from exc


def point_in_time(reader: Reader, when: str | None, axis: str) -> AsOf | None:
    """The cut that ``as_of`` and ``axis`` mean; None without the first.

    Raises ``MalformedError``, ``MissingEvidenceError`` when nothing was anchored by then.
    """
    try:
        chosen = Axis(axis)
    except ValueError as exc:
        raise MalformedError(f"axis: not one of {', '.join(Axis)}") from exc
    if when is None:
        return None
    if not _PLACE.fullmatch(when):
        return as_of(reader, chosen, parse_time(when))
    if chosen is not Axis.KNOWN:
        raise MalformedError(f"as_of: {when} is the place of a commit, and goes with axis=known")
    if int(when) > reader.newest_place():
        raise MalformedError(f"as_of: no place {when} is here yet, the newest is {reader.newest_place()}")
    return as_of_place(reader, int(when))


def cut_of(reader: Reader, when: str | None, axis: str) -> Cut:
    """The same, as a cut: now when no time is named."""
    point = point_in_time(reader, when, axis)
    return reader.now() if point is None else point.cut


def as_of_json(point: AsOf | None) -> dict[str, Any] | None:
    """What an answer says about when it was so; None for now."""
    if point is None:
        return None
    return {
        "axis": point.axis.value,
        "time": time_json(point.at_ms),
        "place": point.cut.place,
        "checkpoint": point.checkpoint,
        "block": point.block,
        "left_out": point.left_out,
        "unbound": point.unbound,
    }


# --- documents ------------------------------------------------------------------------------------------------------


def unsealed(database: Database, state: DocumentState) -> Unsealed:
    """What a document shows, its sealed values opened as far as their keys are here."""
    if database.keys is None:
        return Unsealed(state.view, ())
    return unseal_view(state.view, database.uid, state.name, database.keys.find)


def document_json(on: On, state: DocumentState, point: AsOf | None, *, siblings: bool) -> dict[str, Any]:
    """A document, as much of it as may be seen."""
    shown = unsealed(on.database, state)
    view = shown.view
    found: dict[str, Any] = {
        "v": 1,
        "kind": "document",
        "document": str(state.name),
        "etag": state.etag,
        "fields": on.shown(to_json(dict(view.fields))),
        "conflicts": conflicts_json(on, view.conflicts),
        "sealed": [path for path in shown.closed if on.shows_path(path)],
        "as_of": as_of_json(point),
    }
    if siblings:
        found["siblings"] = {path: values for path, values in siblings_json(view).items() if on.shows_path(path)}
    return found


def listed_json(on: On, state: DocumentState) -> dict[str, Any]:
    """A document in a page."""
    return {
        "key": state.name.key,
        "etag": state.etag,
        "conflicts": len(conflicts_json(on, state.conflicts)),
        "fields": on.shown(to_json(dict(unsealed(on.database, state).view.fields))),
    }


def conflicts_json(on: On, conflicts: tuple[Conflict, ...]) -> list[dict[str, str]]:
    """What about a document needs a decision."""
    return [{"kind": one.kind.value, "path": one.path} for one in conflicts if on.shows_path(one.path)]


def change_json(change: CellChange) -> dict[str, Any]:
    """What one cell showed before and after."""
    return {
        "path": change.path,
        "kind": change.kind.value,
        "before": [to_json(value) for value in change.before],
        "after": [to_json(value) for value in change.after],
    }


# --- commits --------------------------------------------------------------------------------------------------------


def place_json(reference: Reference | None, place: int | None) -> dict[str, Any]:
    """Where an entry was written; without one nothing was."""
    return {
        "written": reference is not None,
        "entry": None if reference is None else reference_text(reference),
        "feed": None if reference is None else to_zbase32(reference.feed),
        "index": None if reference is None else reference.index,
        "place": None if reference is None else place,
    }


def commit_json(name: DocumentId | None, made: Commit, etags: Mapping[DocumentId, str] | None = None) -> dict[str, Any]:
    """What was written, and the version that a document has by now."""
    known = made.etags if etags is None else etags
    about = {} if name is None else {"document": str(name), "etag": known.get(name) or None}
    return {"v": 1, "kind": "commit", **about, **place_json(made.reference, made.place)}
