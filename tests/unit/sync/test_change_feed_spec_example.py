"""The worked example of docs/spec/change-feed.md."""

from __future__ import annotations

import json
import re
from pathlib import Path

from ledger.values import Reference
from sync.changefeed import ChangeEvent, ChangeKind, Position, event_json, parse_position
from sync.transaction import DocumentId
from sync.view import Conflict, ConflictKind

SPEC = (Path(__file__).resolve().parents[3] / "docs" / "spec" / "change-feed.md").read_text("utf-8")

LEAF = b"\6" * 32
EXAMPLE = ChangeEvent(
    cursor=Position(4, LEAF, 7).text(),
    database=b"\1" * 32,
    transaction=Reference(b"\2" * 32, 3, LEAF),
    document=DocumentId("accounts", "4711"),
    kind=ChangeKind.CHANGED,
    old={"owner": "Novak", "balance": {"$dec": "12.30"}},
    new={"owner": "Nowak", "balance": {"$dec": "12.30"}},
    etag="1.K5rW5XlQW0Yb3nNq5n1E",
    conflicts=(Conflict(ConflictKind.SIBLINGS, "/owner"),),
    contests=(),
    note="spelling",
    device=b"\5" * 32,
    identity=b"\3" * 32,
    claimed_ms=1_800_000_000_000,
)


def test_the_event_is_what_its_inputs_give() -> None:
    (fence,) = re.findall(r"```json\n(.*?)```", SPEC, re.DOTALL)
    assert json.loads(fence) == event_json(EXAMPLE)
    assert list(json.loads(fence)) == list(event_json(EXAMPLE))


def test_the_cursor_is_what_its_form_says() -> None:
    position = parse_position(EXAMPLE.cursor)
    assert (position.place, position.document) == (4, 7)
    assert position.stands_on(LEAF)
