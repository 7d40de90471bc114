"""Scans: order, bounds, pages, the trash, and listings at a cut, on both engines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from identity.errors import MalformedError
from sync.changes import Changes
from sync.query import encode_cursor
from sync.storage.scan import MAX_PAGE, iterate, scan

KEYS = [
    "a",
    "a/b",
    "aé",
    "a\uffff",
    "a😀",
    "ab",
    "b",
    "B",
    "z" * 200,
    "0",
    "é",
    "\ud7ff",
    "\ue000",
    "\U0010ffff",
    "10",
    "9",
]


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str:
    """Where the store of a replica is: in a file of its own, or on a server."""
    return "" if request.param == "sqlite" else str(request.getfixturevalue("empty_postgres"))


def fill(replica: Any, *keys: str, collection: str = "c", **fields: Any) -> None:
    changes = Changes()
    for key in keys:
        changes.put(collection, key, {"key": key, **fields})
    replica.db.commit(changes)


def delete(replica: Any, *keys: str) -> None:
    changes = Changes()
    for key in keys:
        changes.delete("c", key)
    replica.db.commit(changes)


def keys_of(page: Any) -> list[str]:
    return [state.name.key for state in page.documents]


def pages(replica: Any, limit: int, **bounds: Any) -> list[list[str]]:
    found, cursor = [], None
    while True:
        page = replica.db.scan("c", limit=limit, after=cursor, **bounds)
        found.append(keys_of(page))
        cursor = page.cursor
        if cursor is None:
            return found


def test_keys_stand_in_the_order_of_their_bytes(world: Any, url: str) -> None:
    laptop = world.replica("laptop", url)
    fill(laptop, *KEYS)
    fill(laptop, "other", collection="d")
    expected = sorted(KEYS, key=lambda key: key.encode())
    assert keys_of(laptop.db.scan("c")) == expected
    for limit in (1, 3, 16, 17):
        found = pages(laptop, limit)
        assert [key for page in found for key in page] == expected
        assert all(len(page) == limit for page in found[:-1])
    with laptop.db.read() as reader:
        for state in iterate(reader, "c"):
            assert state == reader.document(state.name)
            assert state.view.fields == {"key": state.name.key}


def test_bounds(world: Any, url: str) -> None:
    laptop = world.replica("laptop", url)
    fill(laptop, *KEYS)
    choices = [None, "", *KEYS, "aa", "zz"]
    with laptop.db.read() as reader:

        @settings(max_examples=60, deadline=None, database=None)
        @given(st.sampled_from(choices), st.sampled_from(choices), st.sampled_from(choices), st.sampled_from(choices))
        def check(prefix: str | None, start: str | None, end: str | None, after: str | None) -> None:
            expected = sorted(
                key
                for key in KEYS
                if key.startswith(prefix or "")
                and key >= (start or "")
                and (end is None or key < end)
                and (after is None or key > after)
            )
            cursor = None if after is None else encode_cursor(after)
            assert keys_of(scan(reader, "c", prefix=prefix, start=start, end=end, after=cursor)) == expected
            if after is None:
                assert [one.name.key for one in iterate(reader, "c", prefix=prefix, start=start, end=end)] == expected

        check()


def test_what_is_written_between_pages_hides_nothing(world: Any) -> None:
    laptop = world.replica("laptop")
    fill(laptop, *"bdfhj")
    first = laptop.db.scan("c", limit=2)
    fill(laptop, "a", "e", "i")
    delete(laptop, "d", "h")
    second = laptop.db.scan("c", limit=2, after=first.cursor)
    delete(laptop, "f")
    third = laptop.db.scan("c", limit=9, after=second.cursor)
    assert [keys_of(page) for page in (first, second, third)] == [["b", "d"], ["e", "f"], ["i", "j"]]
    assert third.cursor is None
    with laptop.db.read() as reader:
        running = iterate(reader, "c")
        assert next(running).name.key == "a"
        fill(laptop, "aa")
        assert [one.name.key for one in running] == ["b", "e", "i", "j"], "one snapshot"


def test_a_page_that_ends_with_the_collection_has_no_cursor(world: Any) -> None:
    laptop = world.replica("laptop")
    assert laptop.db.scan("c").cursor is None
    fill(laptop, *"abcd")
    assert pages(laptop, 2) == [["a", "b"], ["c", "d"]]


def test_the_trash(world: Any, url: str) -> None:
    laptop = world.replica("laptop", url)
    fill(laptop, *"abcdef")
    delete(laptop, *"bdf")
    assert keys_of(laptop.db.scan("c")) == ["a", "c", "e"]
    assert pages(laptop, 2, deleted=True) == [["b", "d"], ["f"]]
    (gone, *_) = laptop.db.scan("c", deleted=True).documents
    assert gone.view.deleted
    assert gone.view.fields == {"key": "b"}
    fill(laptop, "d")
    assert pages(laptop, 9, deleted=True) == [["b", "f"]]


def test_documents_with_siblings_and_counters_read_as_alone(world: Any, url: str) -> None:
    laptop, phone = world.replica("laptop", url), world.replica("phone")
    for replica in (laptop, phone):
        fill(replica, *(f"k{number:03}" for number in range(150)), owner=replica.name)
        changes = Changes()
        for number in range(0, 150, 7):
            changes.increment("c", f"k{number:03}", "visits", 2)
            changes.add("c", f"k{number:03}", "tags", replica.name)
        replica.db.commit(changes)
    world.exchange()
    with laptop.db.read() as reader:
        found = list(iterate(reader, "c"))
        assert found == [reader.document(state.name) for state in found]
        assert len(found) == 150
        assert found[7].view.fields["visits"] == 4
        at = list(iterate(reader, "c", at=reader.now()))
        assert [(one.name, one.etag, one.view) for one in at] == [(one.name, one.etag, one.view) for one in found]


def test_a_cut_lists_what_was_there(world: Any, url: str) -> None:
    laptop, phone = world.replica("laptop", url), world.replica("phone")
    fill(laptop, *"abc", n=1)
    world.exchange()
    fill(phone, *"bcd", n=2)
    delete(laptop, "a")
    world.exchange()
    with laptop.db.read() as reader:
        cuts = [reader.known(place) for place in range(reader.newest_place() + 1)]
        half = reader.of_vector({**reader.branches.clock(), reader.branches.of_feed(phone.feed)[0].id: -1})
        for cut in (*cuts, half):
            for deleted in (False, True):
                listed = list(iterate(reader, "c", at=cut, deleted=deleted))
                alone = [reader.document_at(one.name, cut) for one in iterate(reader, "c", at=reader.now())]
                alone += [reader.document_at(one.name, cut) for one in iterate(reader, "c", deleted=True)]
                there = [one for one in alone if one is not None and (one.view.deleted if deleted else one.view.exists)]
                assert listed == sorted(there, key=lambda state: state.name)
        assert [one.name.key for one in iterate(reader, "c", at=half)] == ["b", "c"]
        assert [one.name.key for one in iterate(reader, "c", at=half, deleted=True)] == ["a"]
        page = scan(reader, "c", at=half, limit=1)
        assert keys_of(scan(reader, "c", at=half, limit=1, after=page.cursor)) == ["c"]


@pytest.mark.parametrize("limit", [0, -1, MAX_PAGE + 1])
def test_a_page_has_a_size(world: Any, limit: int) -> None:
    laptop = world.replica("laptop")
    with pytest.raises(MalformedError, match="a page"):
        laptop.db.scan("c", limit=limit)


@pytest.mark.parametrize(
    "cursor", ["", "x", "AAAA", encode_cursor(b"key"), encode_cursor("a", "b"), encode_cursor("a") + "="]
)
def test_cursors_that_are_none(world: Any, cursor: str) -> None:
    laptop = world.replica("laptop")
    with pytest.raises(MalformedError, match="cursor"):
        laptop.db.scan("c", after=cursor)


def test_many_documents_are_read_in_few_statements(world: Any, tmp_path: Path) -> None:
    """So that an export is a matter of rows, and not of documents."""
    laptop = world.replica("laptop")
    fill(laptop, *(f"k{number}" for number in range(600)))
    statements = 0
    with laptop.db.read() as reader:
        fetch_all = reader.tx.fetch_all

        def counted(*arguments: Any) -> Any:
            nonlocal statements
            statements += 1
            return fetch_all(*arguments)

        reader.tx.fetch_all = counted
        assert sum(1 for _ in iterate(reader, "c")) == 600
    assert statements < 30


def test_names_that_are_no_text_are_refused(world: Any, url: str) -> None:
    """What a shell hands over of a name that is not UTF-8."""
    laptop = world.replica("laptop", url)
    for ask in (
        lambda: laptop.db.get("accounts", "\udcff"),
        lambda: laptop.db.scan("\udcff"),
        lambda: laptop.db.scan("accounts", prefix="\udcff"),
        lambda: laptop.db.find("\udcff"),
        lambda: laptop.put("\udcff", "1", owner="A"),
    ):
        with pytest.raises(MalformedError, match=r"surrogate|not allowed"):
            ask()
