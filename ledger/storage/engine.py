"""The one place that chooses the engine of a store: by the form of its location."""

from __future__ import annotations

import os

from identity.errors import ConfigurationError
from ledger.storage.location import PostgresLocation, StoreLocation, parse_location
from ledger.storage.sql import SqlStore

__all__ = ["open_store", "store_exists"]


def open_store(
    location: str | os.PathLike[str] | PostgresLocation, *, read_only: bool = False, create: bool = False
) -> SqlStore:
    """Open the store in a file, or in the schema that a ``postgresql://`` URL names.

    With ``create`` there must be none yet, and it appears whole or not at all; without, older tables are brought to the
    newest version. ``read_only`` changes nothing. Raises what ``open_sqlite`` and ``open_postgres`` do.
    """
    place = parse_location(location)
    if read_only and create:
        raise ConfigurationError("a store that is created is not opened for reading only")
    # Each driver is loaded by those who use it: the other's would be a good part of a short command's time.
    if isinstance(place, PostgresLocation):
        from ledger.storage.postgres import open_postgres

        return open_postgres(place, read_only=read_only, create=create)
    from ledger.storage.sqlite import open_sqlite

    return open_sqlite(place, read_only=read_only, create=create)


def store_exists(place: StoreLocation) -> bool:
    """Whether something is where a store would be created: a file, or a schema. Raises ``StorageError``."""
    if isinstance(place, PostgresLocation):
        from ledger.storage.postgres import schema_exists

        return schema_exists(place)
    return place.exists()
