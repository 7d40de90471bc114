"""Filters as text and as JSON: what is read, exactly, and above all what is refused, by place."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity.errors import LimitExceeded, MalformedError
from identity.jsontext import parse_json
from sync.filtertext import MAX_FILTER_TEXT, parse_field, parse_filter
from sync.query import (
    KEY,
    MAX_ALTERNATIVES,
    MAX_CHOICES,
    MAX_COMPARISONS,
    Comparison,
    Filter,
    Operator,
    filter_from_json,
    filter_to_json,
)


def one(path: str | tuple[str, ...], operator: str, *values: Any) -> Filter:
    return Filter(((Comparison((path,) if isinstance(path, str) else path, Operator(operator), values),),))


GOOD = [
    ("a = 1", one("a", "=", 1)),
    ("a=1", one("a", "=", 1)),
    ("  a\t=\n1  ", one("a", "=", 1)),
    ("a = -1", one("a", "=", -1)),
    ("a = 12.30", one("a", "=", {"$dec": "12.30"})),
    ("a = 0.00", one("a", "=", {"$dec": "0.00"})),
    ("a = -0.00", one("a", "=", {"$dec": "0.00"})),
    ("a = 9223372036854775807", one("a", "=", 2**63 - 1)),
    ("a = 9223372036854775808", one("a", "=", {"$dec": "9223372036854775808"})),
    ('a != "x"', one("a", "!=", "x")),
    ('a ^= "x\\"\\u00e9\\n"', one("a", "^=", 'x"é\n')),
    ('a < "😀"', one("a", "<", "😀")),
    ('a < "\\ud83d\\ude00"', one("a", "<", "😀")),
    ("a >= 2026-11-22", one("a", ">=", {"$date": "2026-11-22"})),
    ("a > 2026-11-22T14:02:00Z", one("a", ">", {"$ts": 1_795_356_120_000_000})),
    ("a <= 2026-11-22T14:02:00.25Z", one("a", "<=", {"$ts": 1_795_356_120_250_000})),
    ("a = 0x", one("a", "=", b"")),
    ("a = 0x00ff", one("a", "=", b"\0\xff")),
    ("a = true", one("a", "=", True)),
    ("a = null", one("a", "=", None)),
    ("a in (1)", one("a", "in", 1)),
    ('a in (1, "b" ,null)', one("a", "in", 1, "b", None)),
    ("a exists", one("a", "exists")),
    ("a absent", one("a", "absent")),
    ('$key ^= "47"', one(KEY, "^=", "47")),
    ("address/city exists", one(("address", "city"), "exists")),
    ('"account id"/"and" exists', one(("account id", "and"), "exists")),
    ("číslo-1 exists", one("číslo-1", "exists")),
    ("a = 1 and b = 2", Filter((one("a", "=", 1).alternatives[0] + one("b", "=", 2).alternatives[0],))),
    ("a = 1 or b = 2", Filter((one("a", "=", 1).alternatives[0], one("b", "=", 2).alternatives[0]))),
]


@pytest.mark.parametrize(("text", "meant"), GOOD, ids=[text for text, _ in GOOD])
def test_what_is_read(text: str, meant: Filter) -> None:
    assert parse_filter(text) == meant
    assert filter_from_json(parse_json(json.dumps(filter_to_json(meant)).encode(), what="x", max_bytes=9999)) == meant


def test_and_binds_closer_than_or() -> None:
    found = parse_filter("a exists and b exists or c exists and d exists")
    assert [[one.path[0] for one in alternative] for alternative in found.alternatives] == [["a", "b"], ["c", "d"]]


BAD = [
    ("", 1, "a field is expected"),
    ("   ", 4, "a field is expected"),
    ("a", 2, "is expected"),
    ("a =", 4, "a value is expected"),
    ("a = b", 5, "a value is expected"),
    ("a == 1", 4, "a value is expected"),
    ("a = 1 b = 2", 7, "'and', 'or' or the end"),
    ("a = 1 and", 10, "a field is expected"),
    ("a = 1 or or", 10, "a field is expected"),
    ("and = 1", 1, "a field is expected"),
    ("exists exists", 1, "a field is expected"),
    ("a = 1;", 6, "can't be read"),
    ("a = 'x'", 5, "texts stand in double quotes"),
    ('a = "x', 5, "or that does not end"),
    ('a = "\x00"', 5, "can't be read"),
    ('a = "\\x"', 5, "can't be read"),
    ('a = "\\ud800"', 5, "lone surrogate"),
    ("a = 007", 5, "can't be read"),
    ("a = 1.", 5, "can't be read"),
    ("a = .5", 5, "can't be read"),
    ("a = 1e5", 5, "can't be read"),
    ("a = +1", 5, "can't be read"),
    ("a = 1_000", 5, "can't be read"),
    ("a = 12a", 5, "can't be read"),
    ("a = 0xF", 5, "can't be read"),
    ("a = 0xFF", 5, "can't be read"),
    ("a = 2026-13-01", 5, "month"),
    ("a = 2026-02-30", 5, "day"),
    ("a = 2026-2-3", 5, "can't be read"),
    ("a = 2026-11-22T14:02Z", 5, "can't be read"),
    ("a = 2026-11-22T14:02:00", 5, "can't be read"),
    ("a = 2026-11-22T25:00:00Z", 5, ""),
    ("a = " + "1" * 39, 5, "38 digits"),
    ("a in 1", 6, "'(' is expected"),
    ("a in ()", 7, "a value is expected"),
    ("a in (1,)", 9, "a value is expected"),
    ("a in (1 2)", 9, "')' is expected"),
    ("a exists 1", 10, "'and', 'or' or the end"),
    ("(a = 1)", 1, "no brackets"),
    ("a = 1 and (b = 2)", 11, "no brackets"),
    ("not a = 1", 5, "is expected"),
    ("a/ = 1", 4, "a field is expected"),
    ("/a = 1", 1, "a field is expected"),
    ("$id = 1", 1, "there is no field '$id'"),
    ("a/$key = 1", 1, "there is no field '$key'"),
    ('"" = 1', 1, "empty"),
    ('"a\\n" = 1', 1, "U+000A"),
    ("a < null", 1, "compares numbers"),
    ("a >= true", 1, "compares numbers"),
    ("a ^= 1", 1, "takes a text"),
    ("$key exists", 1, "always has a key"),
    ("$key absent", 1, "always has a key"),
    ("$key = 1", 1, "it is a text"),
    ('$key in ("a", 1)', 1, "it is a text"),
]


@pytest.mark.parametrize(("text", "character", "reason"), BAD, ids=[text[:20] for text, _, _ in BAD])
def test_what_is_refused_and_where(text: str, character: int, reason: str) -> None:
    with pytest.raises(MalformedError) as found:
        parse_filter(text)
    assert f"filter, character {character}:" in str(found.value)
    assert reason in str(found.value)


def test_limits() -> None:
    with pytest.raises(LimitExceeded):
        parse_filter("a exists" + " " * MAX_FILTER_TEXT)
    parse_filter(" or ".join(["a exists"] * MAX_ALTERNATIVES))
    with pytest.raises(LimitExceeded, match="alternatives"):
        parse_filter(" or ".join(["a exists"] * (MAX_ALTERNATIVES + 1)))
    parse_filter(" and ".join(["a exists"] * MAX_COMPARISONS))
    with pytest.raises(LimitExceeded, match="comparisons"):
        parse_filter(" and ".join(["a exists"] * (MAX_COMPARISONS + 1)))
    parse_filter(f"a in ({', '.join(['1'] * MAX_CHOICES)})")
    with pytest.raises(LimitExceeded, match="'in'"):
        parse_filter(f"a in ({', '.join(['1'] * (MAX_CHOICES + 1))})")
    parse_filter("/".join("abcdefgh") + " exists")
    with pytest.raises(LimitExceeded, match="1 to 8 names"):
        parse_filter("/".join("abcdefghi") + " exists")


pieces = st.sampled_from([*'a"\\()=<>!^,/$ \n', "and", "or", "in", "exists", " ", "1", "0x", "2026-11-22", '"x"', "é"])


@given(st.lists(pieces, max_size=12).map("".join) | st.text(max_size=20))
def test_every_text_is_a_filter_or_a_named_fault(text: str) -> None:
    try:
        found = parse_filter(text)
    except MalformedError as exc:
        fault = str(exc)
    else:
        fault = ""
        assert filter_from_json(filter_to_json(found)) == found
    assert not fault or fault.startswith("filter")


def test_fields() -> None:
    assert parse_field("balance") == ("balance",)
    assert parse_field('a / "b c"') == ("a", "b c")
    assert parse_field("$key") == KEY
    for text in ("", "a b", "a=", "$x", "/a", "(", "a/"):
        with pytest.raises(MalformedError, match="field"):
            parse_field(text)


# --- JSON


def test_json_says_the_same() -> None:
    assert filter_from_json({"field": "a", "is": "=", "value": 1}) == one("a", "=", 1)
    assert filter_from_json({"field": "a/b", "is": "exists"}) == one("a/b", "exists"), "a name, and not read as text is"
    assert filter_from_json({"field": "$key", "is": "=", "value": "x"}) == one(KEY, "=", "x")
    assert filter_from_json({"field": ["a", "b"], "is": "in", "values": [{"$hex": "00"}]}) == one(
        ("a", "b"), "in", b"\0"
    )
    conjunction = {"and": [{"field": "a", "is": "exists"}, {"field": "b", "is": "absent"}]}
    assert len(filter_from_json(conjunction).alternatives[0]) == 2
    assert filter_from_json({"or": [conjunction, {"field": "c", "is": "exists"}]}).alternatives[1][0].path == ("c",)
    assert filter_from_json({"and": []}).alternatives == ((),)


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        "a = 1",
        {},
        {"or": []},
        {"or": {}},
        {"or": [], "and": []},
        {"or": [{"or": [{"field": "a", "is": "exists"}]}]},
        {"and": [{"and": []}]},
        {"field": "a"},
        {"field": "a", "is": "="},
        {"field": "a", "is": "=", "value": 1, "values": [1]},
        {"field": "a", "is": "=", "values": [1]},
        {"field": "a", "is": "in", "value": 1},
        {"field": "a", "is": "in", "values": []},
        {"field": "a", "is": "in", "values": [1] * (MAX_CHOICES + 1)},
        {"field": "a", "is": "exists", "value": 1},
        {"field": "a", "is": "like", "value": "x"},
        {"field": "a", "is": ["exists"]},
        {"field": "", "is": "exists"},
        {"field": [], "is": "exists"},
        {"field": ["a", 1], "is": "exists"},
        {"field": ["a", "$b"], "is": "exists"},
        {"field": 1, "is": "exists"},
        {"field": "a", "is": "=", "value": [1]},
        {"field": "a", "is": "=", "value": {"b": 1}},
        {"field": "a", "is": "=", "value": {"$dec": "1e5"}},
        {"field": "a", "is": "=", "value": {"$sealed": []}},
        {"field": "a", "is": "<", "value": {"$ref": ["00" * 32, 0, "00" * 32]}},
        {"or": [{"field": "a", "is": "exists"}] * (MAX_ALTERNATIVES + 1)},
        {"and": [{"field": "a", "is": "exists"}] * (MAX_COMPARISONS + 1)},
    ],
    ids=str,
)
def test_json_that_is_no_filter(value: Any) -> None:
    with pytest.raises(MalformedError, match="filter"):
        filter_from_json(value)
