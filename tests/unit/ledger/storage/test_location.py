"""Where a store is: which texts are URLs, and that no password shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from identity.errors import MalformedError
from ledger.storage.location import PostgresLocation, parse_location


@pytest.mark.parametrize("text", ["vault.db", "/var/vault.db", "postgresql", "postgresql:/x", "sqlite://x", ""])
def test_path(text: str) -> None:
    assert parse_location(text) == parse_location(Path(text)) == Path(text)


@pytest.mark.parametrize(
    ("url", "for_libpq", "schema", "shown"),
    [
        ("postgresql://h/db", "postgresql://h/db", "holdfast", "postgresql://h/db?schema=holdfast"),
        ("postgres://h/db?schema=two", "postgres://h/db", "two", "postgresql://h/db?schema=two"),
        (
            "postgresql://bob:s3cret@h1:1,h2:2/db?sslmode=require&schema=a_1&connect_timeout=2",
            "postgresql://bob:s3cret@h1:1,h2:2/db?sslmode=require&connect_timeout=2",
            "a_1",
            "postgresql://bob@h1:1,h2:2/db?schema=a_1",
        ),
        (
            "postgresql:///db?host=%2Frun&password=s3cret",
            "postgresql:///db?host=%2Frun&password=s3cret",
            "holdfast",
            "postgresql:///db?schema=holdfast",
        ),
    ],
)
def test_url(url: str, for_libpq: str, schema: str, shown: str) -> None:
    location = parse_location(url)
    assert isinstance(location, PostgresLocation)
    assert (location.url, location.schema, str(location)) == (for_libpq, schema, shown)
    assert location.has_secret == ("s3cret" in url)
    assert "s3cret" not in f"{location} {location!r}"
    assert parse_location(location) is location


@pytest.mark.parametrize(
    "query",
    [
        "schema=",
        "schema=Upper",
        "schema=pg_mine",
        "schema=a;b",
        'schema=a"b',
        "schema=1a",
        "schema=%61",
        "schema=" + "a" * 64,
        "schema=a&schema=b",
        "application_name=a b",
        "application_name=a\n",
        "#fragment",
    ],
)
def test_url_that_is_refused_without_being_shown(query: str) -> None:
    with pytest.raises(MalformedError) as caught:
        parse_location(f"postgresql://bob:s3cret@h/db?{query}")
    assert "s3cret" not in str(caught.value)
