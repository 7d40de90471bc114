"""Requests: what a reader asks of a feed, in the bytes that Hypercore's replication asks with.

Implements docs/spec/feed.md section 2.7. A request says where the reader stands, so that the answer, a proof, carries
exactly what is missing: ``nodes`` is how many levels above the block the reader knows a node, ``upgrade`` begins at the
length it has verified.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from identity.errors import MalformedError
from ledger.codec import MAX_UINT, Reader, encode_uint
from ledger.merkle import MAX_LENGTH, MAX_PATH_NODES

__all__ = ["Request", "Seek", "Target", "Upgrade", "encode_request", "parse_request"]

_BLOCK, _HASH, _SEEK, _UPGRADE, _MANIFEST, _PRIORITY = 1, 2, 4, 8, 16, 32


class Target(NamedTuple):
    """A block by its number, or a node by its flat-tree index, and the levels above it up to a node that is known."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls here
    nodes: int = 0


class Seek(NamedTuple):
    """The byte of the feed that is looked for. ``padding`` bytes at the start of each block are not counted."""

    offset: int
    padding: int = 0


class Upgrade(NamedTuple):
    """From the blocks that the reader has to as many more."""

    start: int
    length: int


@dataclass(frozen=True, slots=True)
class Request:
    """One question. ``id`` is for whoever has several under way; ``manifest`` asks for the feed's manifest with it.

    Raises ``MalformedError`` for numbers beyond their limits. What no feed could answer is refused by who answers.
    """

    block: Target | None = None
    hash: Target | None = None
    seek: Seek | None = None
    upgrade: Upgrade | None = None
    id: int = 0
    fork: int = 0
    manifest: bool = False
    priority: int = 0

    def __post_init__(self) -> None:
        limits = [
            (self.block, (MAX_LENGTH - 1, MAX_PATH_NODES)),
            (self.hash, (MAX_UINT, MAX_PATH_NODES)),
            (self.seek, (MAX_UINT, MAX_UINT)),
            (self.upgrade, (MAX_LENGTH, MAX_LENGTH)),
            ((self.id, self.fork, self.priority), (MAX_UINT, MAX_UINT, MAX_UINT)),
        ]
        for numbers, maxima in limits:
            if numbers is not None and any(not 0 <= n <= most for n, most in zip(numbers, maxima, strict=True)):
                raise MalformedError(f"request: {tuple(numbers)} beyond {maxima}")


def encode_request(request: Request) -> bytes:
    """The request's one byte string."""
    parts = ((_BLOCK, request.block), (_HASH, request.hash), (_SEEK, request.seek), (_UPGRADE, request.upgrade))
    flags = sum(flag for flag, part in parts if part is not None)
    flags |= (_MANIFEST if request.manifest else 0) | (_PRIORITY if request.priority else 0)
    numbers = [flags, request.id, request.fork]
    for _, part in parts:
        numbers += part or ()
    if request.priority:
        numbers.append(request.priority)
    return b"".join(map(encode_uint, numbers))


def parse_request(data: bytes) -> Request:
    """The request that ``encode_request`` writes as ``data``. Raises ``MalformedError`` for any other bytes."""
    reader = Reader(data, "request")
    flags = reader.uint("flags", maximum=_BLOCK | _HASH | _SEEK | _UPGRADE | _MANIFEST | _PRIORITY)
    request_id, fork = reader.uint("id"), reader.uint("fork")

    def pair(flag: int, what: str) -> tuple[int, int] | None:
        return (reader.uint(what), reader.uint(what)) if flags & flag else None

    block, node = pair(_BLOCK, "block"), pair(_HASH, "hash")
    seek, upgrade = pair(_SEEK, "seek"), pair(_UPGRADE, "upgrade")
    priority = reader.uint("priority") if flags & _PRIORITY else 0
    reader.done()
    if flags & _PRIORITY and not priority:
        raise MalformedError("request: a priority of 0 is not written")
    return Request(
        block=None if block is None else Target(*block),
        hash=None if node is None else Target(*node),
        seek=None if seek is None else Seek(*seek),
        upgrade=None if upgrade is None else Upgrade(*upgrade),
        id=request_id,
        fork=fork,
        manifest=bool(flags & _MANIFEST),
        priority=priority,
    )
