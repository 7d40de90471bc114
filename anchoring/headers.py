"""Trusted block headers: which block hashes the verifier accepts, and who said so (docs/spec/policy.md).

A line for each header, JSON: chain id, block number, block hash, the source that vouched for it, and when it was seen.
The verifier reads pinned hashes only; it never asks a node.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from identity.errors import MalformedError
from identity.jsontext import parse_json
from identity.textforms import parse_hex, to_hex

__all__ = ["MAX_HEADER_NUMBER", "TrustedHeader", "TrustedHeaders", "encode_header_line", "parse_headers"]

MAX_HEADER_NUMBER = 2**53 - 1
_MAX_LINE_BYTES = 2_000
_MAX_LINES = 1_000_000
_KEYS = {"chain", "number", "hash", "source", "seen"}


@dataclass(frozen=True, slots=True)
class TrustedHeader:
    """One pinned header. ``hash`` is the 32-byte block hash, ``seen_ms`` when the source was asked."""

    chain: int
    number: int
    hash: bytes
    source: str
    seen_ms: int


class TrustedHeaders:
    """The pinned headers of one or several chains, looked up by chain and number."""

    def __init__(self, headers: Iterable[TrustedHeader] = ()) -> None:
        """Raises ``MalformedError`` when two headers give one block two hashes: then neither can be trusted."""
        self._by_place: dict[tuple[int, int], TrustedHeader] = {}
        for header in headers:
            known = self._by_place.setdefault((header.chain, header.number), header)
            if known.hash != header.hash:
                raise MalformedError(
                    f"trusted headers: block {header.number} of chain {header.chain} has two hashes, "
                    f"{known.hash.hex()} from {known.source} and {header.hash.hex()} from {header.source}"
                )

    def find(self, chain: int, number: int) -> TrustedHeader | None:
        """The pinned header of that block, or None."""
        return self._by_place.get((chain, number))

    def newest(self, chain: int) -> TrustedHeader | None:
        """The pinned header with the highest number on that chain, or None."""
        numbers = [number for its_chain, number in self._by_place if its_chain == chain]
        return self._by_place[chain, max(numbers)] if numbers else None

    def __len__(self) -> int:
        return len(self._by_place)


def encode_header_line(header: TrustedHeader) -> str:
    """The header's line, without the line feed."""
    return json.dumps(
        {
            "chain": header.chain,
            "number": header.number,
            "hash": to_hex(header.hash),
            "source": header.source,
            "seen": header.seen_ms,
        },
        separators=(", ", ": "),
        ensure_ascii=False,
    )


def parse_headers(text: bytes) -> TrustedHeaders:
    """Parse a trusted-headers file. Raises ``MalformedError``, naming the line, for anything not of the format."""
    lines = text.split(b"\n")
    if lines and lines[-1] == b"":
        lines.pop()
    if len(lines) > _MAX_LINES:
        raise MalformedError(f"trusted headers: {len(lines)} lines, at most {_MAX_LINES} are read")
    return TrustedHeaders(_parse_line(line, number) for number, line in enumerate(lines, start=1))


def _parse_line(line: bytes, line_number: int) -> TrustedHeader:
    what = f"trusted headers line {line_number}"
    value = parse_json(line, what=what, max_bytes=_MAX_LINE_BYTES, max_depth=1)
    if not isinstance(value, dict) or value.keys() != _KEYS:
        raise MalformedError(f"{what}: needs exactly the keys {', '.join(sorted(_KEYS))}")
    for key in ("chain", "number", "seen"):
        if type(value[key]) is not int or not 0 <= value[key] <= MAX_HEADER_NUMBER:
            raise MalformedError(f"{what}: {key} is not a whole number from 0 to {MAX_HEADER_NUMBER}")
    for key in ("hash", "source"):
        if not isinstance(value[key], str):
            raise MalformedError(f"{what}: {key} is not a text")
    try:
        block_hash = parse_hex(value["hash"], 32)
    except MalformedError as exc:
        raise MalformedError(f"{what}: hash: {exc}") from exc
    return TrustedHeader(
        chain=value["chain"],
        number=value["number"],
        hash=block_hash,
        source=value["source"],
        seen_ms=value["seen"],
    )
