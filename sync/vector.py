"""Vectors: what an entry, a replica or a cut has of each branch.

A branch is one line of entries, a feed or one side of a feed that forked; within a store it has a small number. A
vector maps that number to the index in the feed of the newest entry that is included, so "has it seen this?" is one
comparison. Vectors are a local cache of what the hashes of ``back`` and ``deps`` say; they are never sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from identity.errors import DamagedFile

__all__ = ["Vector", "covers", "decode_vector", "encode_vector", "join", "sees"]

Vector: TypeAlias = Mapping[int, int]
"""Branch -> feed index of the newest entry that is included. A branch that is absent has nothing in it."""


def sees(vector: Vector, branch: int, index: int) -> bool:
    """Whether the entry at ``index`` of the branch is included."""
    return vector.get(branch, -1) >= index


def covers(vector: Vector, other: Vector) -> bool:
    """Whether everything of ``other`` is included."""
    return all(vector.get(branch, -1) >= index for branch, index in other.items())


def join(into: dict[int, int], other: Vector) -> None:
    """Include everything of ``other``."""
    for branch, index in other.items():
        if into.get(branch, -1) < index:
            into[branch] = index


def encode_vector(vector: Vector) -> bytes:
    """The form in which a store keeps it: pairs of varints (LEB128), branches ascending and as differences."""
    out = bytearray()
    last = 0
    for branch in sorted(vector):
        _write_varint(out, branch - last)
        _write_varint(out, vector[branch])
        last = branch
    return bytes(out)


def decode_vector(data: bytes) -> dict[int, int]:
    """Read ``encode_vector`` back. Raises ``DamagedFile``."""
    vector: dict[int, int] = {}
    position = branch = 0
    while position < len(data):
        step, position = _read_varint(data, position)
        index, position = _read_varint(data, position)
        branch += step
        if step == 0:
            raise DamagedFile("a vector names a branch twice")
        vector[branch] = index
    return vector


def _write_varint(out: bytearray, number: int) -> None:
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        if position >= len(data) or shift > 63:
            raise DamagedFile("a vector ends within a number")
        byte = data[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position
        shift += 7
