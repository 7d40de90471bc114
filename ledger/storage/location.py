"""Where a store is: a file, or a schema of a PostgreSQL database named by a URL.

The form is that of docs/spec/storage.md section 5.1. A URL may hold a password, so nothing here or above shows one.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from identity.errors import MalformedError

__all__ = ["DEFAULT_SCHEMA", "PostgresLocation", "StoreLocation", "parse_location"]

DEFAULT_SCHEMA: Final = "holdfast"

_SCHEMES: Final = ("postgresql://", "postgres://")
_SCHEMA: Final = re.compile(r"(?!pg_)[a-z_][a-z0-9_]{0,62}")
_NOT_SHOWN: Final = ("password", "sslpassword", "sslkey", "passfile")


@dataclass(frozen=True, slots=True)
class PostgresLocation:
    """A store in a schema of a PostgreSQL database. Its text form, and its ``repr``, hold no secret."""

    url: str = field(repr=False)
    """For libpq: the URL without what is ours. It may hold a password."""
    schema: str
    shown: str
    """The URL for messages: scheme, user, hosts, database, schema."""
    has_secret: bool
    """Whether the URL holds a password, or names a file with a secret."""

    def __str__(self) -> str:
        return self.shown

    def beside(self, schema: str) -> PostgresLocation:
        """Another schema of the same database."""
        return replace(self, schema=schema, shown=f"{self.shown.removesuffix(self.schema)}{schema}")

    def full_url(self) -> str:
        """The URL that ``parse_location`` takes. It may hold a password: it goes into settings and nowhere else."""
        return f"{self.url}{'&' if '?' in self.url else '?'}schema={self.schema}"


StoreLocation = Path | PostgresLocation


def parse_location(location: str | os.PathLike[str] | PostgresLocation) -> StoreLocation:
    """A ``postgresql://`` URL or the path of a file. Raises ``MalformedError``, without showing the URL."""
    if isinstance(location, PostgresLocation):
        return location
    text = os.fspath(location)
    return _parse_url(text) if text.startswith(_SCHEMES) else Path(text)


def _parse_url(text: str) -> PostgresLocation:
    if not text.isprintable() or " " in text or "#" in text:
        raise MalformedError("the database URL holds a character that belongs percent-encoded")
    rest, _, query = text.partition("?")
    options = query.split("&") if query else []
    schemas = [option.partition("=")[2] for option in options if option.partition("=")[0] == "schema"]
    if len(schemas) > 1:
        raise MalformedError("the database URL names its schema more than once")
    schema = schemas[0] if schemas else DEFAULT_SCHEMA
    if _SCHEMA.fullmatch(schema) is None:
        raise MalformedError(
            "the schema of the database URL: a-z, 0-9 and '_', at most 63, beginning with no digit and not with 'pg_'"
        )
    others = [option for option in options if option.partition("=")[0] != "schema"]
    userinfo, at, place = rest.partition("://")[2].rpartition("@")
    user, colon, _ = userinfo.partition(":")
    return PostgresLocation(
        url="?".join([rest, "&".join(others)]) if others else rest,
        schema=schema,
        shown=f"postgresql://{user}{at}{place}?schema={schema}",
        has_secret=bool(colon) or any(option.partition("=")[0] in _NOT_SHOWN for option in others),
    )
