from __future__ import annotations

import re
from time import perf_counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity.errors import LimitExceeded, MalformedError
from sync.pattern import MAX_PATTERN, MAX_REPEAT, MAX_STATES, parse_pattern

ALPHABET = "abcAB01_ -.\n\r\u2028é😀^$"
DOT = r"[^\n\r\u2028\u2029]"


def as_python(pieces: str) -> re.Pattern[str]:
    """The same language in ``re``, which differs in '.' and '$' only: they stand as U+0001 and U+0002."""
    return re.compile(pieces.replace("\x01", DOT).replace("\x02", r"\Z"), re.ASCII)


def as_ours(pieces: str) -> str:
    return pieces.replace("\x01", ".").replace("\x02", "$")


literals = st.sampled_from([re.escape(one) if one in "^$.-" else one for one in ALPHABET])
escapes = st.sampled_from([r"\d", r"\D", r"\w", r"\W", r"\s", r"\S", r"\n", r"\t", r"\(", r"\\", r"\/"])
ranges = st.sampled_from(["a-c", "A-Z", "0-1", "é-😀", r"\d", r"\W", r"\]", r"\^", "b", "$", " ", "."])
classes = st.builds(
    lambda negated, dash, members: f"[{'^' * negated}{'-' * dash}{''.join(members)}]",
    st.booleans(),
    st.booleans(),
    st.lists(ranges, min_size=1, max_size=3),
)
atoms = st.one_of(literals, escapes, classes, st.just("\x01"))
quantifiers = st.sampled_from(["", "", "", "*", "+", "?", "{2}", "{0,2}", "{1,}", "{0,}", "{1,3}", "{0,1}"])


def joined(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    sequence = st.lists(st.builds(str.__add__, inner, quantifiers), min_size=1, max_size=3).map("".join)
    return st.builds(
        lambda opening, branches: f"{opening}{'|'.join(branches)})",
        st.sampled_from(["(", "(?:"]),
        st.lists(sequence, min_size=1, max_size=3),
    )


bodies = st.lists(
    st.builds(str.__add__, st.recursive(atoms, joined, max_leaves=6), quantifiers), min_size=0, max_size=4
).map("".join)
branches = st.builds(
    lambda start, body, end: start + body + end, st.sampled_from(["", "^"]), bodies, st.sampled_from(["", "\x02"])
)
patterns = st.lists(branches, min_size=1, max_size=3).map("|".join)


@given(patterns, st.lists(st.text(alphabet=ALPHABET, max_size=12), min_size=1, max_size=8))
def test_it_says_what_python_says(pieces: str, texts: list[str]) -> None:
    ours, python = parse_pattern(as_ours(pieces)), as_python(pieces)
    for text in texts:
        assert ours.found_in(text) == (python.search(text) is not None)


@given(st.text(alphabet=ALPHABET + "()[]{}|*+?\\,d3", max_size=20), st.text(max_size=5))
def test_any_text_is_a_pattern_or_malformed(source: str, text: str) -> None:
    try:
        pattern = parse_pattern(source)
    except MalformedError:
        return
    assert pattern.source == source
    assert pattern.found_in(text) in (True, False)


@pytest.mark.parametrize(
    ("source", "found", "not_found"),
    [
        ("", ["", "x"], []),
        ("b", ["abc"], ["", "aBc"]),
        ("^b", ["bc"], ["ab", ""]),
        ("b$", ["ab"], ["ba", "b\n"]),
        ("^$", [""], ["a", "\n"]),
        ("^a*$", ["", "aaa"], ["ab", "ba"]),
        ("^a|b$", ["ax", "xb"], ["xa", "bx"]),
        ("^(?:a|bc){2}$", ["aa", "abc", "bca"], ["a", "bcb", "aaa"]),
        ("^[A-Z]{2}[0-9]{2}$", ["CZ65"], ["CZ6", "cz65", "CZ655"]),
        (r"^\d+$", ["007"], ["٣", "", "1.0"]),
        (r"^\w$", ["_"], ["é"]),
        (r"^\s$", [" "], ["\u00a0"]),
        (r"^.$", ["😀", "\u0085"], ["\n", "\r", "\u2028", "ab"]),
        (r"^[^a]$", ["\n", "b"], ["a"]),
        (r"^[a\-z-]$", ["-", "a"], ["m"]),
        (r"^[.$^|?*+(){}]$", [".", "^", "}"], ["a"]),
        (r"^\^\$\\\.\*\+\?\(\)\[\]\{\}\|\/\-$", [r"^$\.*+?()[]{}|/-"], [""]),
        ("^a{0,2}$", ["", "aa"], ["aaa"]),
        ("^a{2,}$", ["aa", "aaaa"], ["a"]),
        ("^(a|b)*$|^x$", ["", "x", "abba"], ["xx", "ax"]),
    ],
)
def test_examples(source: str, found: list[str], not_found: list[str]) -> None:
    pattern = parse_pattern(source)
    assert [text for text in found if not pattern.found_in(text)] == []
    assert [text for text in not_found if pattern.found_in(text)] == []


@pytest.mark.parametrize(
    "source",
    [
        "(",
        ")",
        "a)",
        "(a",
        "()",
        "(a|)",
        "(|a)",
        "(?=a)",
        "(?<n>a)",
        "(?",
        "[",
        "[]",
        "[^]",
        "[a",
        "[a-",
        "[z-a]",
        r"[a-\d]",
        r"[\d-a]",
        "[a-c-e]",
        "[[a]",
        "]",
        "}",
        "{",
        "{2}",
        "a{",
        "a{}",
        "a{,2}",
        "a{2",
        "a{2,1}",
        "a{0}",
        "a{0,0}",
        "a{x}",
        "a{-1}",
        "a{٣}",
        "*",
        "+a",
        "?",
        "a**",
        "a*?",
        "a++",
        "a{2}?",
        "a{2}{3}",
        "a^",
        "(^a)",
        "^^a",
        "$a",
        "a$b",
        "(a$)",
        "a$$",
        "^*",
        "\\",
        r"\b",
        r"\1",
        r"\p{L}",
        r"\u0041",
        r"\ ",
        "|)",
        "^(a|$)",
    ],
)
def test_what_is_not_in_the_language(source: str) -> None:
    with pytest.raises(MalformedError, match=r"^pattern at character \d+: "):
        parse_pattern(source)


@pytest.mark.parametrize(
    "source",
    [
        "a" * (MAX_PATTERN + 1),
        f"a{{{MAX_REPEAT + 1}}}",
        "a{99999999999999999999}",
        "(a{500}){3}",
        "((((a{9}){9}){9}){9}){9}",
        "(((((((a?){1000}){1000}){1000}){1000}){1000}){1000}){1000}",
        "(" * 17 + "a" + ")" * 17,
        "(" * 400,
    ],
)
def test_limits(source: str) -> None:
    with pytest.raises(LimitExceeded):
        parse_pattern(source)


def test_the_largest_are_read() -> None:
    assert parse_pattern("a" * MAX_PATTERN).states == MAX_PATTERN
    assert parse_pattern(f"^a{{0,{MAX_REPEAT}}}$").states == MAX_STATES
    assert parse_pattern("(" * 16 + "a" + ")" * 16).found_in("a")


@pytest.mark.parametrize("source", ["^(a+)+$", "^(a|a)*$", "^(a?){300}a{300}$", "^(([a-z])+.)+[A-Z]$", "(a*)*b"])
def test_what_makes_others_run_for_years_ends_soon(source: str) -> None:
    pattern = parse_pattern(source)
    started = perf_counter()
    assert not pattern.found_in("a" * 5000 + "!")
    assert perf_counter() - started < 2


def test_patterns_are_equal_by_their_source() -> None:
    parsed = parse_pattern("^a$")
    assert parsed == parse_pattern("^a$")
    assert parsed != parse_pattern("^a")
    assert hash(parsed) == hash(parse_pattern("^a$"))
