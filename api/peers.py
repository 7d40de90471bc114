"""The nodes that a home was paired with, kept in it: where they are, and whom it met there.

Which databases a home has in common with a node is decided by members' entries, not by this file. It says where to go
and which key has to answer there, so what it says is worth protecting: only the home's owner can write to it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from api.home import Home
from api.pairing import Party
from identity.durable import PRIVATE, replace_file
from identity.errors import ConfigurationError, DamagedFile, MalformedError, MissingEvidenceError
from identity.jsontext import parse_json
from identity.textforms import check_name, parse_did_key, parse_hex, to_did_key

__all__ = ["PairedNode", "encode_peers", "find_peer", "forget_peer", "keep_peer", "load_peers", "parse_peers"]

_MAX_BYTES: Final = 1 << 20
_MOST: Final = 1024
_MAX_URL: Final = 2048
_MOST_MS: Final = 1 << 53


@dataclass(frozen=True, slots=True)
class PairedNode:
    """A node: its address, who answers there, what that identity calls itself, and when the two met."""

    url: str
    party: Party
    label: str
    paired_ms: int


def load_peers(home: Home) -> list[PairedNode]:
    """Every node that the home was paired with, in the order of their addresses. Raises ``DamagedFile``."""
    from anchoring.policy_file import read_bounded

    if not home.peers.exists():
        return []
    try:
        return parse_peers(read_bounded(home.peers, _MAX_BYTES))
    except (ConfigurationError, MalformedError) as exc:
        raise DamagedFile(f"{home.peers}: {exc}") from exc


def keep_peer(home: Home, node: PairedNode) -> None:
    """Remember a node, in the place of what was known under its address. Raises ``StorageError``."""
    others = [one for one in load_peers(home) if one.url != node.url]
    replace_file(home.peers, encode_peers([*others, node]), mode=PRIVATE)


def forget_peer(home: Home, identity: bytes) -> int:
    """Forget the nodes of an identity. Returns how many there were."""
    known = load_peers(home)
    kept = [one for one in known if one.party.identity != identity]
    if len(kept) < len(known):
        replace_file(home.peers, encode_peers(kept), mode=PRIVATE)
    return len(known) - len(kept)


def find_peer(home: Home, url: str) -> PairedNode:
    """The node at an address. Raises ``MissingEvidenceError`` when the home was not paired with it."""
    found = next((one for one in load_peers(home) if one.url == url), None)
    if found is None:
        raise MissingEvidenceError(f"this home was not paired with {url}", hint=f"holdfast pair {url} CODE")
    return found


def encode_peers(nodes: Iterable[PairedNode]) -> bytes:
    """The file's content."""
    rows = [
        {
            "url": one.url,
            "identity": one.party.identity.hex(),
            "device": to_did_key(one.party.device),
            "label": one.label,
            "paired": one.paired_ms,
        }
        for one in sorted(nodes, key=lambda one: one.url)
    ]
    return json.dumps({"v": 1, "nodes": rows}, indent=1).encode()


def parse_peers(data: bytes) -> list[PairedNode]:
    """The other way round. Raises ``MalformedError`` for anything that ``encode_peers`` does not write."""
    match parse_json(data, what="peers", max_bytes=_MAX_BYTES):
        case {"v": 1, "nodes": list(rows), **rest} if not rest and len(rows) <= _MOST:
            nodes = [_parse_node(row) for row in rows]
            urls = [node.url for node in nodes]
            if urls == sorted(set(urls)):
                return nodes
    raise MalformedError("peers: not a file of these")


def _parse_node(row: Any) -> PairedNode:
    match row:
        case {
            "url": str(url),
            "identity": str(identity),
            "device": str(device),
            "label": str(label),
            "paired": int(paired_ms),
            **rest,
        } if not rest and len(url) <= _MAX_URL and 0 <= paired_ms <= _MOST_MS and not isinstance(paired_ms, bool):
            party = Party(parse_hex(identity, 32), parse_did_key(device))
            return PairedNode(url, party, check_name(label, "label"), paired_ms)
    raise MalformedError("peers: not a node")
