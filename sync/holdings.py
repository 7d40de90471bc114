"""What a store has of a database and others may lack: its founding, its feeds, their lines, and who wrote them."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from identity.errors import MalformedError
from ledger.entry import parse_entry
from ledger.manifest import Manifest, describe, parse_manifest
from ledger.store import FeedKey
from sync.acts import Found, parse_member
from sync.bundle import Point
from sync.lineage import description_of
from sync.storage.branches import Branches
from sync.storage.projection import KIND_NUMBER, feed_name
from sync.storage.queries import Queries
from sync.storage.sides import Line, Sides
from sync.transaction import MEMBER, Founding, database_id

__all__ = ["authors", "feeds_in_order", "find_founding", "manifests", "point_of"]


def find_founding(tx: Any, queries: Queries, number: int, database: bytes) -> Founding | None:
    """What the database was founded with; None when that is not here."""
    branches = Branches(tx, queries, number)
    for branch, seq, kind, leaf, _ in tx.fetch_all(queries.others, (number,)):
        if kind == KIND_NUMBER[MEMBER]:
            try:
                act = parse_member(parse_entry(branches.block(branch, seq, leaf))).act
            except MalformedError:
                continue  # masked
            if isinstance(act, Found) and database_id(act.founding) == database:
                return act.founding
    return None


def manifests(tx: Any, sides: Sides, database: bytes) -> dict[FeedKey, Manifest]:
    """The manifests of the database's feeds that are not empty."""
    name = feed_name(database)
    found = {state.key: _parsed(state.manifest) for state in tx.feeds() if state.length}
    found = {key: manifest for key, manifest in found.items() if _is_named(manifest, name)}
    for feed in sides.feeds():
        told = sides.manifest(feed)
        if feed not in found and told is not None:
            found[feed] = _parsed(told)
    return found


@lru_cache(maxsize=4096)  # a session looks at the same ones for each frame
def _parsed(manifest: bytes) -> Manifest:
    return parse_manifest(manifest)


def _is_named(manifest: Manifest, name: str) -> bool:
    description = describe(manifest)
    return description is not None and description.name == name


def feeds_in_order(found: dict[FeedKey, Manifest]) -> dict[FeedKey, Manifest]:
    """Each feed behind the one that it continues."""
    ordered: dict[FeedKey, Manifest] = {}
    for feed in found:
        chain: list[FeedKey] = []
        at: FeedKey | None = feed
        while at is not None and at in found and at not in ordered:
            chain.append(at)
            continues = description_of(found[at]).continues
            at = None if continues is None else continues.key
        ordered.update((one, found[one]) for one in reversed(chain))
    return ordered


def authors(found: dict[FeedKey, Manifest]) -> list[bytes]:
    """The identities that the feeds belong to, ascending."""
    return sorted({description_of(manifest).identity for manifest in found.values()})


def point_of(line: Line) -> Point:
    """As far as the line is here."""
    return Point(line.feed, line.length, line.tree_hash(line.length))
