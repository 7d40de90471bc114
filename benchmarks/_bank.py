"""A bank for benchmarks of what needs more than a store: keys, a log, a chain and an authority.

Apart from ``benchmarks._engines``, because the processes of an audit import that, and this takes longer to import.
"""

from __future__ import annotations

from itertools import count
from typing import Final

from api.demo.bank import Bank
from benchmarks._engines import Engine
from ledger.storage.location import PostgresLocation, parse_location

__all__ = ["found_bank"]

_NUMBERS: Final = count()


def found_bank(engine: Engine) -> Bank:
    """A new bank with its store on ``engine``; all else of it lies in a directory."""
    place = parse_location(engine.location())
    directory = engine.directory / f"bank-{next(_NUMBERS)}"
    directory.mkdir()
    return Bank.found(directory, place if isinstance(place, PostgresLocation) else None)
