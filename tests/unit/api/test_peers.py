"""The file of nodes that a home was paired with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.home import Home
from api.pairing import Party
from api.peers import PairedNode, encode_peers, find_peer, forget_peer, keep_peer, load_peers, parse_peers
from identity.errors import DamagedFile, MalformedError, MissingEvidenceError
from identity.keys import Ed25519Signer

PARTIES = [Party(bytes([one]) * 32, Ed25519Signer(bytes([one]) * 32).public_key) for one in range(1, 5)]
NODE = PairedNode("http://127.0.0.1:8463", PARTIES[0], "desk", 1_800_000_000_000)

NODES = st.lists(
    st.builds(
        PairedNode,
        st.from_regex(r"https://[a-z]{1,9}\.example", fullmatch=True),
        st.sampled_from(PARTIES),
        st.sampled_from(["desk", "Büro", "a b"]),
        st.integers(0, 1 << 53),
    ),
    unique_by=lambda one: one.url,
    max_size=5,
)


@given(NODES)
def test_what_is_written_is_read(nodes: list[PairedNode]) -> None:
    assert parse_peers(encode_peers(nodes)) == sorted(nodes, key=lambda one: one.url)


def test_a_node_is_kept_replaced_found_and_forgotten(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert load_peers(home) == []
    keep_peer(home, NODE)
    moved = PairedNode(NODE.url, PARTIES[1], "new", 5)
    keep_peer(home, PairedNode("https://bank.example", PARTIES[0], "bank", 6))
    keep_peer(home, moved)
    assert find_peer(home, NODE.url) == moved
    assert home.peers.stat().st_mode & 0o077 == 0
    assert forget_peer(home, PARTIES[1].identity) == 1
    assert forget_peer(home, PARTIES[1].identity) == 0
    with pytest.raises(MissingEvidenceError):
        find_peer(home, NODE.url)
    assert [one.url for one in load_peers(home)] == ["https://bank.example"]


def altered(**fields: Any) -> bytes:
    (row,) = json.loads(encode_peers([NODE]))["nodes"]
    row = {key: value for key, value in {**row, **fields}.items() if value is not None}
    return json.dumps({"v": 1, "nodes": [row]}).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b'{"v": 2, "nodes": []}',
        b'{"v": 1, "nodes": [], "more": 1}',
        b'{"v": 1, "nodes": [7]}',
        altered(url=None),
        altered(url=7),
        altered(url="x" * 4000),
        altered(more="x"),
        altered(identity="00"),
        altered(identity=NODE.party.identity.hex().upper() + "A"),
        altered(device="did:key:z6Mk"),
        altered(label="\n"),
        altered(paired=-1),
        altered(paired=True),
        altered(paired=1 << 60),
        json.dumps({"v": 1, "nodes": json.loads(encode_peers([NODE]))["nodes"] * 2}).encode(),
    ],
)
def test_anything_else_is_refused(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(MalformedError):
        parse_peers(data)
    home = Home(tmp_path)
    home.peers.write_bytes(data)
    with pytest.raises(DamagedFile):
        load_peers(home)
    with pytest.raises(DamagedFile):
        keep_peer(home, NODE)
    assert home.peers.read_bytes() == data, "what cannot be read is not written over"
