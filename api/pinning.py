"""Pinning block headers for a policy: nodes are asked, and what all of them agree on is kept in the headers file.

Pinned headers are trust in those nodes, not proof; each line names them (docs/spec/policy.md).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from anchoring.headers import TrustedHeader, encode_header_line, parse_headers
from anchoring.policy_file import MAX_HEADERS_BYTES, read_bounded
from identity.durable import replace_file
from identity.errors import ConfigurationError, MalformedError, TransportError

if TYPE_CHECKING:
    from anchoring.chain.check import ChainView

__all__ = ["pin_headers"]


def pin_headers(file: Path, view: ChainView, numbers: Iterable[int], now_ms: int) -> list[TrustedHeader]:
    """Pin the headers of these blocks in ``file``, which is begun if there is none; return the ones that are new.

    Raises ``TransportError`` when the nodes disagree, do not have a block, or give another header than the pinned one;
    ``ConfigurationError`` when the file is not one of headers. Nothing is written then.
    """
    from anchoring.chain.check import fetch_header

    text = read_bounded(file, MAX_HEADERS_BYTES) if file.exists() else b""
    try:
        known = parse_headers(text)
    except MalformedError as exc:
        raise ConfigurationError(f"{file}: {exc}") from exc
    source = ", ".join(view.nodes)
    fresh = []
    for number in sorted(set(numbers)):
        header = fetch_header(view, number)
        pinned = known.find(view.chain_id, number)
        if pinned is not None and pinned.hash != header.hash:
            raise TransportError(f"block {number} is pinned with another hash, from {pinned.source}")
        if pinned is None:
            fresh.append(TrustedHeader(view.chain_id, number, header.hash, source, now_ms))
    if fresh:
        lines = "".join(encode_header_line(header) + "\n" for header in fresh)
        replace_file(file, text + (b"\n" if text and not text.endswith(b"\n") else b"") + lines.encode())
    return fresh
