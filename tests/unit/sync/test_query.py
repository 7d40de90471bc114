"""Queries: what a filter means, and that what indexes find on both engines is what fits of all documents."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from identity.errors import LimitExceeded, MalformedError, RefusedError
from ledger.values import from_python
from sync.changes import Changes
from sync.filtertext import parse_filter
from sync.indexkey import index_key, index_text, read_index_key
from sync.query import (
    KEY,
    Comparison,
    Filter,
    Operator,
    Query,
    bind,
    decode_cursor,
    encode_cursor,
    matcher,
    project,
    query_digest,
    text_after,
)
from sync.schema import parse_schema
from sync.storage.fieldindex import condition_of, index_name, indexes_of, key_expression, quoted
from sync.storage.queries import queries_for
from sync.storage.query import explain, run_query
from sync.storage.scan import iterate

AMOUNT = {"$dec": "12.30"}


def fits(text: str, key: str = "k", **fields: Any) -> bool:
    return matcher(parse_filter(text))(key, fields)


# --- what a filter means


@pytest.mark.parametrize(
    "text",
    [
        "a = 12.30",
        "a = 12.3",
        "a != 12",
        "a < 12.31",
        "a <= 12.30",
        "a > 12",
        "a >= 12.300",
        "a in (1, 12.30)",
        "a exists",
        "b absent",
        'b absent and a exists or $key = "x"',
        '$key = "k"',
        '$key ^= ""',
        '$key in ("j", "k")',
        '$key < "l"',
        "m/n = 1",
        "m exists",
        "n = null",
        "n exists",
        'a != "12.30"',
        "l != 1",
        "l exists",
        'd > 2026-01-01 and s ^= "No"',
        's > "Na"',
    ],
)
def test_what_fits(text: str) -> None:
    day = {"$date": "2026-11-22"}
    assert fits(text, a=AMOUNT, m={"n": 1}, n=None, l=[1], d=day, s="Novak")


@pytest.mark.parametrize(
    "text",
    [
        "a = 12.31",
        'a = "12.30"',
        "a != 12.30",
        "a < 12.30",
        "a > 12.30",
        'a < "z"',
        "a > 2020-01-01",
        "a in (1, 2)",
        'a ^= "12"',
        "a absent",
        "b exists",
        "b = null",
        "b != 1",
        "b < 1",
        "l = 1",
        "l < 1",
        "m = 1",
        "m/x exists",
        "a/b exists",
        'a/"dec" exists',
        "t = 1",
        "t >= 0",
        "n != null",
        'a exists and $key = "x"',
    ],
)
def test_what_does_not_fit(text: str) -> None:
    assert not fits(text, a=AMOUNT, m={"n": 1}, n=None, l=[1], t=True)


def test_texts_stand_in_the_order_of_their_code_points() -> None:
    assert fits('s > "\uffff"', s="😀")
    assert not fits('s > "😀"', s="\uffff")


def test_projection() -> None:
    fields: dict[str, Any] = {"a": 1, "m": {"x": 1, "y": {"z": 2}}, "l": [1]}
    assert project(fields, [("a",), ("m", "y", "z"), ("no",), ("a", "b"), KEY]) == {"a": 1, "m": {"y": {"z": 2}}}
    assert project(fields, [("m",), ("m", "x")]) == {"m": {"x": 1, "y": {"z": 2}}}
    assert project(fields, [("m", "x"), ("m", "y")]) == {"m": {"x": 1, "y": {"z": 2}}}
    assert fields == {"a": 1, "m": {"x": 1, "y": {"z": 2}}, "l": [1]}


@pytest.mark.parametrize(
    ("prefix", "after"),
    [
        ("a", "b"),
        ("az", "a{"),
        ("", None),
        ("a\U0010ffff", "b"),
        ("\U0010ffff", None),
        ("\ud7ff", "\ue000"),
        ("\uffff", "\U00010000"),
    ],
)
def test_the_text_after_a_prefix(prefix: str, after: str | None) -> None:
    assert text_after(prefix) == after


@given(st.text(max_size=3), st.text(max_size=3))
def test_what_begins_with_a_prefix_lies_before_the_text_after_it(prefix: str, text: str) -> None:
    after = text_after(prefix)
    assert (prefix <= text and (after is None or text < after)) == text.startswith(prefix)


SCHEMA = parse_schema(
    {
        "type": "object",
        "properties": {
            "opened": {"type": "date", "indexed": True},
            "seen": {"type": ["null", "timestamp"]},
            "balance": {"type": "decimal", "cell": "ctr", "indexed": True},
            "owner": {"type": "text", "sealed": True},
            "bank": {"type": "reference", "collection": "banks"},
            "tags": {"type": "array", "cell": "set"},
            "any": {},
            "address": {"type": "object", "cell": "map", "properties": {"city": {"type": "text"}}},
        },
    }
)


def bound(text: str) -> Comparison:
    return bind(parse_filter(text), SCHEMA).alternatives[0][0]


def test_texts_are_read_as_the_schema_says() -> None:
    assert bound('opened = "1995-01-31"').values == ({"$date": "1995-01-31"},)
    assert bound('opened in ("1995-01-31", 1996-01-31)').values[1] == {"$date": "1996-01-31"}
    assert bound('balance > "12.30"').values == (AMOUNT,)
    assert bound("balance > 12").values == (12,)
    assert bound('bank = "7"').values == ("7",)
    assert bound('any = "1995-01-31"').values == ("1995-01-31",)
    assert bound('unknown = "x"').values == ("x",)
    assert bound('address/city = "Praha"').values == ("Praha",)
    assert bound("owner exists").operator is Operator.EXISTS
    assert bind(parse_filter("x = 1"), None) == parse_filter("x = 1")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("opened = 5", "is date, and never"),
        ('opened = "soon"', "not a day"),
        ('opened ^= "1995"', "not a day"),
        ("balance = null", "is decimal, and never"),
        ("balance = true", "is decimal, and never"),
        ('seen > ""', "compares numbers"),
        ('owner = "Jana"', "is sealed"),
        ("tags = 1", "is array, and never"),
        ("address = 1", "is object, and never"),
        ("address/city = 5", "/address/city: is text"),
    ],
)
def test_comparisons_that_could_find_nothing(text: str, reason: str) -> None:
    with pytest.raises(MalformedError, match=reason):
        bound(text)


def test_cursors() -> None:
    cursor = encode_cursor(b"digest", "sort", "kéy")
    assert decode_cursor(cursor, bytes, str, str) == [b"digest", "sort", "kéy"]
    for wrong in ("", "x", cursor[:-1], cursor + "A", cursor + "=", "A" * 9000, encode_cursor("kéy")):
        with pytest.raises(MalformedError, match="cursor"):
            decode_cursor(wrong, bytes, str, str)


# --- SQL


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str:
    """Where the store of a replica is: in a file of its own, or on a server."""
    return "" if request.param == "sqlite" else str(request.getfixturevalue("empty_postgres"))


HOSTILE = [
    "accounts",
    "o'brien",
    "''",
    "'; DROP TABLE database_document; --",
    '"quoted"',
    "back\\slash",
    "\\' OR 1=1 --",
    "%s %% %(x)s %",
    "? :many ?1 $1 :name",
    "$$tag$$",
    "/* */ --",
    "E'\\x41'",
    "Příliš žluťoučký kůň 😀",
    "a=b",
    "~61",
    "x" * 200,
]
NAMES = [name for name in HOSTILE if not name.startswith("$")]


def test_whatever_a_collection_or_a_field_is_called(world: Any, url: str) -> None:
    """Each name is a collection with a third of the names as indexed fields; a query finds one document by each."""
    laptop = world.replica("laptop", url)
    properties = {name: {"type": "text", "indexed": True} for name in NAMES}
    schemas, documents = Changes(), Changes()
    for number, collection in enumerate(NAMES):
        chosen = {name: properties[name] for name in NAMES[number % 3 :: 3]}
        schemas.put("$schema", collection, {"schema": {"type": "object", "properties": chosen}})
        for key in NAMES:
            documents.put(collection, key, {name: name + key for name in chosen})
    laptop.db.commit(schemas)
    laptop.db.commit(documents)
    for number, collection in enumerate(NAMES):
        for name in NAMES[number % 3 :: 3]:
            where = Filter(((Comparison((name,), Operator.EQUAL, (name + collection,)),),))
            (found,) = laptop.db.query(Query(collection, where)).documents
            assert found.name == (collection, collection)
    with laptop.db.read() as reader:
        for collection in NAMES:
            assert [state.name.key for state in iterate(reader, collection)] == sorted(NAMES)


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
def test_literals_that_are_refused(dialect: str) -> None:
    for text in ("a\0b", "\ud800"):
        with pytest.raises(MalformedError):
            quoted(text, queries_for(dialect))


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_a_literal_is_read_as_the_text(text: str) -> None:
    import sqlite3

    assert sqlite3.connect(":memory:").execute(f"SELECT {quoted(text, queries_for('sqlite'))}").fetchone() == (text,)


def test_literals_and_expressions_on_both_engines(world: Any, url: str) -> None:
    """The literal is the text, and the expression finds in a text what Python does."""
    laptop = world.replica("laptop", url)
    queries = queries_for(laptop.store.dialect)
    fields: dict[str, Any] = {name: f"={name}\n~" for name in NAMES}
    with laptop.store.read() as tx:
        for text in HOSTILE:
            assert tx.fetch_one(f"SELECT {quoted(text, queries)}, {queries.mark}", ("x",))[0] == text
        for names in (NAMES, NAMES[:3], NAMES[3:], []):
            kept = index_text(fields, names)
            for name in NAMES:
                expression = key_expression(name, queries)
                row = tx.fetch_one(f"SELECT {expression} FROM (SELECT {queries.mark} AS sort_keys) AS one", (kept,))
                assert row[0] == read_index_key(kept, name)


def test_names_of_indexes_are_short_and_plain() -> None:
    names = {index_name(uid, collection, field) for uid in (b"1", b"2") for collection in NAMES for field in NAMES}
    assert len(names) == 2 * len(NAMES) ** 2
    assert all(name.isascii() and name.isidentifier() and name == name.lower() and len(name) < 64 for name in names)


# --- against a filter over all documents

DECLARED = {
    "type": "object",
    "properties": {
        "balance": {"type": ["integer", "decimal"], "cell": "ctr", "indexed": True},
        "owner": {"type": ["null", "text", "bytes"], "indexed": True},
        "opened": {"type": ["date", "timestamp", "boolean"], "cell": "lww", "indexed": True},
    },
}
OWNERS = ["", "A", "B", "Novak", "Novák", "N" * 300, "N" * 300 + "x", "N" * 256, "€" * 101, "€" * 102 + "a", "😀" * 80]
DAYS = [date(1995, 1, 31), date(2026, 11, 22), True, False]


def some_fields(chance: random.Random) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if chance.random() < 0.8:
        fields["balance"] = chance.choice([chance.randint(-3, 3), Decimal(chance.randint(-9, 9)).scaleb(-1)])
    if chance.random() < 0.8:
        fields["owner"] = chance.choice([*OWNERS, None, b"\0", b"\xff" * 300])
    if chance.random() < 0.8:
        fields["opened"] = chance.choice(DAYS)
    if chance.random() < 0.5:
        fields["extra"] = chance.choice([1, "x", [1], {"deep": 1}])
    return fields


@contextmanager
def bank(make_world: Any, directory: Path, url: str) -> Iterator[Any]:
    """A replica with documents of two devices, of which some conflict, are deleted, or were there before the schema."""
    chance = random.Random(7)
    world = make_world(directory, "bank")
    laptop, phone = world.replica("laptop", url), world.replica("phone")
    changes = Changes()
    for number in range(30):
        changes.put(
            "accounts", f"old{number}", {**some_fields(chance), "owner": chance.choice([["list"], {"a": 1}, 5])}
        )
    laptop.db.commit(changes)
    laptop.put("$schema", "accounts", schema=DECLARED)
    world.exchange()
    for replica in (laptop, phone):
        changes = Changes()
        for number in range(60):
            changes.put("accounts", chance.choice([f"k{number}", f"é{number}", f"K{number:03}"]), some_fields(chance))
        replica.db.commit(changes)
        changes = Changes()
        for number in range(0, 30, 5):
            changes.delete("accounts", f"old{number}")
            changes.patch("accounts", f"old{number + 1}", {"owner": replica.name})
        replica.db.commit(changes)
    world.exchange()
    yield laptop
    world.close()


values = st.one_of(
    st.integers(-3, 3),
    st.integers(-9, 9).map(lambda number: Decimal(number).scaleb(-1)),
    st.sampled_from([None, True, False, b"\0", b"\xff" * 300, b"\xff" * 299, *DAYS]),
    st.sampled_from(OWNERS).flatmap(lambda text: st.integers(0, len(text)).map(lambda length: text[:length])),
    st.sampled_from(OWNERS),
)
FIELDS = ("balance", "owner", "opened", "extra")
ORDERED = (Operator.LESS, Operator.AT_MOST, Operator.MORE, Operator.AT_LEAST)


@st.composite
def comparisons(draw: st.DrawFn, fields: tuple[str, ...] = FIELDS) -> Comparison:
    path = (draw(st.sampled_from(fields)),)
    operator = draw(st.sampled_from(Operator))
    if operator in (Operator.EXISTS, Operator.ABSENT):
        return Comparison(path, operator)
    if operator is Operator.PREFIX:
        return Comparison(path, operator, (draw(values.filter(lambda value: isinstance(value, str))),))
    wanted = values
    if operator in ORDERED:
        wanted = values.filter(lambda value: value is not None and not isinstance(value, bool))
    count = draw(st.integers(1, 3)) if operator is Operator.IN else 1
    return Comparison(path, operator, tuple(from_python(draw(wanted)) for _ in range(count)))


keyed = st.sampled_from(['$key ^= "k1"', '$key > "k3"', '$key <= "é3"', '$key in ("k1", "K002")', '$key != "k1"'])
conjunctions = st.tuples(st.lists(comparisons(), max_size=3), st.none() | keyed).map(
    lambda found: (*found[0], *(() if found[1] is None else parse_filter(found[1]).alternatives[0]))
)
filters = st.lists(conjunctions, min_size=1, max_size=3).map(lambda found: Filter(tuple(found)))


def sort_of(state: Any, order: tuple[str, ...]) -> tuple[str, str]:
    fields = state.view.fields
    key = index_key(fields[order[0]]) if order != KEY and order[0] in fields else ""
    return key, state.name.key


def is_read_as_declared(where: Filter) -> bool:
    try:
        return bind(where, parse_schema(from_python(DECLARED))) == where
    except MalformedError:
        return False


def test_queries_equal_a_filter_over_all_documents(make_world: Any, tmp_path: Path, url: str) -> None:
    with bank(make_world, tmp_path, url) as replica, replica.db.read() as reader:
        everything = list(iterate(reader, "accounts"))
        assert len(everything) > 80
        assert any(state.view.conflicts for state in everything)

        @settings(
            max_examples=20 if url else 60,
            deadline=None,
            database=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        )
        @given(
            filters.filter(is_read_as_declared),
            st.sampled_from([KEY, ("balance",), ("owner",), ("opened",)]),
            st.booleans(),
            st.integers(8, 40),
        )
        def check(where: Filter, order: Any, descending: bool, limit: int) -> None:
            judge = matcher(where)
            wanted = [state for state in everything if judge(state.name.key, state.view.fields)]
            wanted.sort(key=lambda state: sort_of(state, order), reverse=descending)
            query = Query("accounts", where, order, descending, scan=True)
            found: list[Any] = []
            cursor, more = None, True
            while more:
                page = run_query(reader, query, limit=limit, after=cursor)
                assert len(page.documents) == limit or page.cursor is None
                found += page.documents
                cursor, more = page.cursor, page.cursor is not None
            assert [(one.name, one.etag) for one in found] == [(state.name, state.etag) for state in wanted]

        check()


# --- planning


def test_the_engine_uses_the_index(world: Any, url: str) -> None:
    laptop = world.replica("laptop", url)
    properties = {"balance": {"type": "integer", "indexed": True}, "owner": {"type": "text", "indexed": True}}
    laptop.put("$schema", "accounts", schema={"type": "object", "properties": properties})
    for first in range(0, 600, 300):
        changes = Changes()
        for number in range(first, first + 300):
            changes.put("accounts", f"k{number}", {"balance": number, "owner": f"o{number % 50}"})
        laptop.db.commit(changes)
    if url:
        with laptop.store.write() as tx:
            tx.execute("ANALYZE database_document", ())
    for text, order, *fields in [
        ("balance = 7", KEY, "balance"),
        ("balance > 590", KEY, "balance"),
        ("balance >= 5 and balance < 9", ("balance",), "balance"),
        ('owner = "o7" and balance > 5', KEY, "owner", "balance"),  # which of the two is the engine's to say
        ('owner ^= "o49"', ("owner",), "owner"),
        ('owner in ("o1", "o2")', ("owner",), "owner"),
        ("balance absent", KEY, "balance"),
        ("balance exists", ("balance",), "balance"),
    ]:
        with laptop.db.read() as reader:
            plan = "\n".join(explain(reader, Query("accounts", parse_filter(text), order)))
            assert any(index_name(reader.uid, "accounts", field) in plan for field in fields), (text, plan)
    with laptop.db.read() as reader:
        alternatives = parse_filter('balance < 5 or owner = "o3"')
        plan = "\n".join(explain(reader, Query("accounts", alternatives)))
        assert all(index_name(reader.uid, "accounts", field) in plan for field in ("balance", "owner"))


def test_what_no_index_answers_is_refused(world: Any) -> None:
    laptop = world.replica("laptop")
    laptop.put("accounts", "1", balance=1, owner="A")
    for query in (Query("accounts", parse_filter("balance = 1")), Query("accounts", parse_filter("a/b = 1"))):
        with pytest.raises(RefusedError, match="no index") as found:
            laptop.db.query(query)
        assert "indexed" in found.value.hint
        assert "scan" in found.value.hint
    with pytest.raises(RefusedError, match="ordered by"):
        laptop.db.query(Query("accounts", order=("balance",), scan=True))
    (one,) = laptop.db.query(Query("accounts", parse_filter("balance = 1"), scan=True)).documents
    assert one.fields == {"balance": 1, "owner": "A"}
    (one,) = laptop.db.query(Query("accounts", parse_filter('$key = "1"'), select=(("owner",),))).documents
    assert one.fields == {"owner": "A"}
    assert one.state.view.fields == {"balance": 1, "owner": "A"}
    assert laptop.db.query(Query("nothing")).documents == ()


def test_cursors_are_of_one_query(world: Any) -> None:
    laptop = world.replica("laptop")
    for key in "abc":
        laptop.put("accounts", key, owner="A")
    query = Query("accounts", parse_filter('$key > "0"'))
    page = laptop.db.query(query, limit=1)
    assert page.cursor is not None
    assert query_digest(query) != query_digest(Query("accounts"))
    for other in (Query("accounts"), Query("accounts", query.where, descending=True), Query("x", query.where)):
        with pytest.raises(MalformedError, match="another query"):
            laptop.db.query(other, after=page.cursor)
    same = Query("accounts", query.where, select=(("owner",),), scan=True)
    assert laptop.db.query(same, after=page.cursor).documents[0].name.key == "b"
    for limit in (0, -1, 10_001):
        with pytest.raises(MalformedError, match="page"):
            laptop.db.query(query, limit=limit)


def test_paging_meets_each_document_once(world: Any, url: str) -> None:
    """However many are written and deleted between two pages, in an order with few different values."""
    laptop = world.replica("laptop", url)
    properties = {"status": {"type": "text", "indexed": True}}
    laptop.put("$schema", "accounts", schema={"type": "object", "properties": properties})
    changes = Changes()
    for number in range(40):
        changes.put("accounts", f"k{number:02}", {"status": "open" if number % 3 else "closed"})
    laptop.db.commit(changes)
    for order, descending in ((KEY, False), (KEY, True), (("status",), False), (("status",), True)):
        query = Query("accounts", parse_filter("status exists"), order, descending)
        met: list[str] = []
        page = laptop.db.query(query, limit=7)
        while True:
            met += [one.name.key for one in page.documents]
            if page.cursor is None:
                break
            changes = Changes()
            changes.put("accounts", f"k{len(met):02}x", {"status": "open"})
            changes.put("accounts", "a", {"status": "closed"})
            changes.put("accounts", "z", {"status": "open"})
            laptop.db.commit(changes)
            page = laptop.db.query(query, limit=7, after=page.cursor)
        steady = [key for key in met if key.startswith("k") and not key.endswith("x")]
        assert sorted(steady) == [f"k{number:02}" for number in range(40)]
        assert len(set(met)) == len(met)


# --- indexes follow schemas


def held_indexes(replica: Any) -> set[str]:
    with replica.store.read() as tx:
        if replica.store.dialect == "sqlite":
            rows = tx.fetch_all("SELECT name FROM sqlite_master WHERE name LIKE 'ix_field_%'")
        else:
            rows = tx.fetch_all("SELECT indexname::text FROM pg_indexes WHERE indexname LIKE 'ix_field_%%'")
    return {name for (name,) in rows}


def declare(replica: Any, *fields: str) -> None:
    properties = {field: {"type": "integer", "indexed": True} for field in fields}
    replica.put("$schema", "accounts", schema={"type": "object", "properties": {"x": {}, **properties}})


def keys_found(replica: Any, text: str) -> list[str]:
    return [one.name.key for one in replica.db.query(Query("accounts", parse_filter(text))).documents]


def test_indexes_follow_the_schema(world: Any, url: str) -> None:
    laptop = world.replica("laptop", url)
    for number in range(5):
        laptop.put("accounts", f"k{number}", a=number, b=-number)
    declare(laptop, "a")
    assert keys_found(laptop, "a >= 3") == ["k3", "k4"]
    assert held_indexes(laptop) == {index_name(world.uid, "accounts", "a")}
    declare(laptop, "a", "b")
    assert keys_found(laptop, "b <= -3 and a = 4") == ["k4"]
    declare(laptop, "b")
    assert held_indexes(laptop) == {index_name(world.uid, "accounts", "b")}
    with pytest.raises(RefusedError):
        keys_found(laptop, "a >= 3")
    changes = Changes()
    changes.unset("$schema", "accounts", "schema")
    laptop.db.commit(changes)
    assert held_indexes(laptop) == set()
    laptop.put("accounts", "k9", a=9, b=-9)
    declare(laptop, "a", "b")
    assert keys_found(laptop, "b < -3") == ["k4", "k9"]


def test_a_schema_that_comes_from_elsewhere_has_its_indexes(world: Any) -> None:
    laptop, phone = world.replica("laptop"), world.replica("phone")
    laptop.put("accounts", "k1", a=1)
    world.exchange()
    declare(phone, "a")
    phone.put("accounts", "k2", a=2)
    laptop.put("accounts", "k3", a=3)
    world.exchange()
    for replica in (laptop, phone):
        assert keys_found(replica, "a >= 1") == ["k1", "k2", "k3"]
        assert len(held_indexes(replica)) == 1


def test_indexes_are_there_again_after_all_was_made_anew(world: Any, url: str) -> None:
    laptop = world.replica("laptop", url)
    laptop.put("accounts", "k1", a=1)
    declare(laptop, "a")
    laptop.put("accounts", "k2", a=2)
    before = held_indexes(laptop)
    laptop.db.rebuild()
    assert held_indexes(laptop) == before
    assert keys_found(laptop, "a >= 1") == ["k1", "k2"]


def test_a_store_without_its_indexes_says_so_and_gets_them(world: Any) -> None:
    """As one that an older program has written: the next writer makes them."""
    laptop = world.replica("laptop")
    declare(laptop, "a")
    laptop.put("accounts", "k1", a=1)
    with laptop.store.write() as tx:
        for name in held_indexes(laptop):
            tx.execute(f"DROP INDEX {name}", ())
        tx.execute("UPDATE database_document SET sort_keys = NULL", ())
    with pytest.raises(RefusedError, match="no index"):
        keys_found(laptop, "a = 1")
    laptop.writer.close()
    laptop.open()
    laptop.put("others", "x", y=1)
    assert keys_found(laptop, "a = 1") == ["k1"]


def test_a_store_that_is_only_read_answers(world: Any, tmp_path: Path) -> None:
    from ledger.storage.engine import open_store
    from sync.database import Database

    laptop = world.replica("laptop")
    declare(laptop, "a")
    laptop.put("accounts", "k1", a=1)
    laptop.close()
    with_read = open_store(tmp_path / "laptop.db", read_only=True)
    database = Database(with_read, world.uid, world.now_ms)
    assert [one.name.key for one in database.query(Query("accounts", parse_filter("a = 1"))).documents] == ["k1"]
    with_read.close()
    laptop.reopen()


def test_what_was_at_a_cut(world: Any) -> None:
    laptop = world.replica("laptop")
    declare(laptop, "a")
    laptop.put("accounts", "k1", a=1)
    laptop.put("accounts", "k2", a=1)
    with laptop.db.read() as reader:
        cut = reader.now()
    laptop.put("accounts", "k1", a=2)
    laptop.put("accounts", "k3", a=1)
    query = Query("accounts", parse_filter("a = 1"), scan=True)
    assert [one.name.key for one in laptop.db.query(query, at=cut).documents] == ["k1", "k2"]
    page = laptop.db.query(query, at=cut, limit=1)
    assert [one.name.key for one in laptop.db.query(query, at=cut, after=page.cursor).documents] == ["k2"]
    with pytest.raises(RefusedError, match="only what is now"):
        laptop.db.query(Query("accounts", parse_filter("a = 1")), at=cut)
    for other in (Query("accounts", order=("a",), scan=True), Query("accounts", descending=True)):
        with pytest.raises(RefusedError):
            laptop.db.query(other, at=cut)


def test_the_longest_names_and_values_fit_an_index(world: Any, url: str) -> None:
    """Text that can't be compressed, in characters of four bytes: an index row of PostgreSQL holds 2,704."""
    chance = random.Random(5)

    def wide(length: int) -> str:
        return "".join(chr(chance.randrange(0x10000, 0x10FFFF)) for _ in range(length))

    laptop = world.replica("laptop", url)
    properties = {"text": {"type": "text", "indexed": True}, "n": {"type": "integer", "cell": "ctr"}}
    laptop.put("$schema", "c", schema={"type": "object", "properties": properties})
    key, text, path = wide(511), wide(256), [wide(62), *(wide(64) for _ in range(7))]
    changes = Changes()
    changes.put("c", key, {"text": text})
    changes.increment("c", key, path, 1)
    laptop.db.commit(changes)
    found = laptop.db.query(Query("c", Filter(((Comparison(("text",), Operator.EQUAL, (text,)),),)), ("text",)))
    assert [one.name.key for one in found.documents] == [key]
    too_long = Changes()
    too_long.put("c", wide(512), {"text": text})
    too_deep = Changes()
    too_deep.increment("c", key, [wide(64) for _ in range(8)], 1)
    for wrong in (too_long, too_deep):
        with pytest.raises(LimitExceeded, match="2048 bytes"):
            laptop.db.commit(wrong)


def test_the_condition_names_the_collection() -> None:
    assert condition_of(3, "it's", queries_for("sqlite")) == "database = 3 AND collection = 'it''s' AND shown = 1"
    assert condition_of(3, "100%\\", queries_for("postgresql")) == (
        "database = 3 AND collection = E'100%%\\\\' AND shown = 1"
    )


def test_a_database_has_no_more_indexes_than_an_engine_bears(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fields are declared by whoever may write; those beyond the limit are found by a scan."""
    monkeypatch.setattr("sync.storage.fieldindex.MAX_INDEXES", 3)
    laptop = world.replica("laptop")
    shape = {name: {"type": "integer", "indexed": True} for name in ("a", "b")}
    for collection in ("c", "d"):
        laptop.db.set_schema(collection, {"type": "object", "properties": shape})
        laptop.put(collection, "1", a=1, b=2)
    assert [len(indexes_in(laptop, collection)) for collection in ("c", "d")] == [2, 1]
    (without,) = {"a", "b"} - indexes_in(laptop, "d")
    with pytest.raises(RefusedError, match="no index over it"):
        laptop.db.find("d", f"{without} >= 1")
    assert len(laptop.db.find("d", f"{without} >= 1", everywhere=True).documents) == 1
    laptop.put("d", "2", a=3, b=3)
    assert laptop.db.audit() == []
    laptop.close()
    laptop.reopen()
    with monkeypatch.context() as patch:  # what there is no room for does not cost each who opens the store
        patch.setattr("sync.storage.fieldindex._keys", lambda *_: pytest.fail("the keys are made anew"))
        laptop.put("d", "2", a=3, b=4)
    laptop.db.set_schema("c", {"type": "object"})
    laptop.db.rebuild()
    laptop.put("d", "3", a=4, b=4)
    assert indexes_in(laptop, "d") == {"a", "b"}
    assert len(laptop.db.find("d", f"{without} >= 3").documents) == 2
    assert laptop.db.audit() == []


def indexes_in(replica: Any, collection: str) -> frozenset[str]:
    with replica.db.read() as reader:
        return indexes_of(reader, collection, ("a", "b"))
