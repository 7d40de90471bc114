"""Index keys: shortened sort keys in the order of the values, and the text that holds a document's."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.values import Sealed, from_python
from sync.indexkey import MAX_INDEX_KEY, UNKEYED, index_key, index_line, index_prefix, index_text, read_index_key
from sync.sortkey import is_cut, sort_key

wide = st.text("aé€😀~ ", max_size=300)
"""Texts whose keys are many times as long as they are."""
values: Any = st.one_of(st.none(), st.booleans(), st.integers(-99, 99), st.decimals(-9, 9, places=2), wide, st.binary())
names = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8)


@given(wide, wide)
def test_shortened_keys_keep_the_order(first: str, second: str) -> None:
    low, high = sorted((first, second))
    assert index_key(low) <= index_key(high)
    if index_key(low) == index_key(high) and low != high:
        assert is_cut(index_key(low))


@given(values)
def test_no_key_is_too_long_or_empty(value: Any) -> None:
    key = index_key(from_python(value))
    assert 0 < len(key) <= MAX_INDEX_KEY
    assert key.isascii()
    assert key.isprintable()


@given(wide, wide)
def test_a_prefix_covers_what_begins_with_it(prefix: str, rest: str) -> None:
    low, high = index_prefix(prefix)
    assert low <= index_key(prefix + rest) < high


@given(wide, wide)
def test_a_prefix_covers_nothing_else(prefix: str, text: str) -> None:
    low, high = index_prefix(prefix)
    if low <= index_key(text) < high and not text.startswith(prefix):
        assert is_cut(low)


@pytest.mark.parametrize("length", [*range(98, 106), 255, 256, 257, 300])
def test_a_prefix_at_the_length_where_keys_are_cut(length: int) -> None:
    """A character of six: the cut comes within one, at its end and behind it."""
    prefix = "€" * length
    for text in (prefix, prefix + "€", prefix + "a", prefix + "😀"):
        low, high = index_prefix(prefix)
        assert low <= index_key(text) < high


@pytest.mark.parametrize("value", [[], [1], {}, {"a": 1}, from_python(Sealed(b"k" * 16, b"c" * 32, b"x" * 80))])
def test_what_has_no_sort_key_stands_above_all(value: Any) -> None:
    assert index_key(value) == UNKEYED
    reference = from_python(b"\xff" * 300), {"$ref": [b"\xff" * 32, 2**52 - 1, b"\xff" * 32]}
    assert all(index_key(one) < UNKEYED for one in reference)


@given(st.dictionaries(names, values), st.lists(names))
def test_the_text_gives_each_key_back(fields: dict[str, Any], others: list[str]) -> None:
    stored = {name: from_python(value) for name, value in fields.items()}
    text = index_text(stored, fields)
    assert text.isascii()
    for name, value in stored.items():
        assert read_index_key(text, name) == index_key(value)
    for name in set(others) - set(fields):
        assert read_index_key(text, name) == ""


@given(st.lists(names, unique=True, min_size=2, max_size=2))
def test_labels_are_told_apart(pair: list[str]) -> None:
    first, second = map(index_line, pair)
    assert first != second
    assert not first.startswith(second)


def test_examples() -> None:
    assert index_text(
        {"owner": "Novák", "balance": {"$dec": "42.00"}, "tags": []}, ("owner", "balance", "tags", "x")
    ) == ("\nbalance=325242\nowner=6Nov~00e1k\ntags=9\n")
    assert index_line("číslo") == "\n~c48dc3ad736c6f="
    assert index_key("a" * 256) == sort_key("a" * 256)
    assert index_key("€" * 102) == ("6" + "~20ac" * 102)[:510] + "~z"
    assert index_text({}, ("a",)) == "\n"
