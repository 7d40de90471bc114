from __future__ import annotations

from hashlib import sha256
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from identity.encoding import encode
from identity.errors import LimitExceeded, MalformedError, UnsupportedVersion
from ledger.log import hash_leaf
from ledger.statement import (
    MAX_STATEMENT_BYTES,
    AnchorStatement,
    ChainBinding,
    FeedHead,
    IdentityHead,
    LogDescriptor,
    Predecessor,
    Statement,
    TimeStatement,
    encode_statement,
    feed_head_key,
    log_id,
    log_origin,
    parse_statement,
)

digests = st.binary(min_size=32, max_size=32)
sizes = st.integers(1, 2**53)
digest_lists = st.lists(digests, max_size=4, unique=True).map(lambda items: tuple(sorted(items)))
chains = st.builds(
    ChainBinding,
    id=st.integers(1, 2**63 - 1),
    contract=st.binary(min_size=20, max_size=20),
    owner=st.binary(min_size=20, max_size=20),
)
statements: st.SearchStrategy[Statement] = st.one_of(
    st.builds(
        LogDescriptor,
        name=st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,98}[a-z0-9])?", fullmatch=True),
        key=digests,
        chain=st.none() | chains,
        predecessor=st.none() | st.builds(Predecessor, log=digests, size=sizes, root=digests),
    ),
    st.builds(IdentityHead, identity=digests, seq=st.integers(0, 2**53), digest=digests),
    st.builds(FeedHead, key=digests, length=st.integers(1, 2**52), tree_hash=digests),
    st.builds(
        TimeStatement,
        size=sizes,
        responses=digest_lists.filter(len),
        certificates=digest_lists,
        crls=digest_lists,
        ocsps=digest_lists,
    ),
    st.builds(AnchorStatement, size=sizes, block=digests, number=st.integers(0, 2**63 - 1), receipt=digests),
)

D = bytes(range(32))
ADDRESS = bytes(range(20))
DESCRIPTOR = LogDescriptor("vault.example", D, ChainBinding(1, ADDRESS, ADDRESS), Predecessor(D, 7, D))


def leaf(kind: str, members: Any) -> bytes:
    return b"holdfast/v1 " + kind.encode() + b"\n" + encode(members)


def members(kind: str) -> dict[str, Any]:
    all_members: dict[str, dict[str, Any]] = {
        "log": {
            "name": "vault.example",
            "key": D,
            "chain": {"id": 1, "contract": ADDRESS, "owner": ADDRESS},
            "predecessor": {"log": D, "size": 7, "root": D},
        },
        "identity": {"id": D, "seq": 3, "digest": D},
        "feed": {"key": D, "length": 5, "tree": D},
        "time": {"size": 9, "responses": [D], "certificates": [], "crls": [D], "ocsps": []},
        "anchor": {"size": 9, "block": D, "number": 77, "receipt": D},
    }
    return all_members[kind]


PARSED: dict[str, Statement] = {
    "log": DESCRIPTOR,
    "identity": IdentityHead(D, 3, D),
    "feed": FeedHead(D, 5, D),
    "time": TimeStatement(9, (D,), (), (D,), ()),
    "anchor": AnchorStatement(9, D, 77, D),
}


@pytest.mark.parametrize("kind", PARSED)
def test_the_bytes_are_a_line_and_a_map(kind: str) -> None:
    assert parse_statement(leaf(kind, members(kind))) == PARSED[kind]
    assert encode_statement(PARSED[kind]) == leaf(kind, members(kind))


@given(statements)
def test_round_trip(statement: Statement) -> None:
    data = encode_statement(statement)
    assert parse_statement(data) == statement
    assert len(data) <= MAX_STATEMENT_BYTES
    expected = statement.key if isinstance(statement, FeedHead) else None
    assert feed_head_key(data) == expected


@given(statements, st.data())
def test_a_flipped_bit_is_refused_or_says_something_else(statement: Statement, data: st.DataObject) -> None:
    encoded = bytearray(encode_statement(statement))
    bit = data.draw(st.integers(0, 8 * len(encoded) - 1))
    encoded[bit // 8] ^= 1 << bit % 8
    try:
        changed = parse_statement(bytes(encoded))
    except MalformedError:
        return
    assert changed != statement
    assert encode_statement(changed) == bytes(encoded)


@given(st.binary(max_size=200))
@example(b"holdfast/v1 feed\n")
def test_only_malformed_errors_come_out(data: bytes) -> None:
    for candidate in (data, b"holdfast/v1 feed\n" + data, b"holdfast/v1 log\n" + data):
        try:
            statement = parse_statement(candidate)
        except MalformedError:
            continue
        assert encode_statement(statement) == candidate


@pytest.mark.parametrize("kind", PARSED)
def test_every_member_is_needed_and_no_other_is_taken(kind: str) -> None:
    for key in members(kind):
        short = {name: value for name, value in members(kind).items() if name != key}
        with pytest.raises(MalformedError):
            parse_statement(leaf(kind, short))
    with pytest.raises(MalformedError):
        parse_statement(leaf(kind, {**members(kind), "extra": 0}))
    for other in PARSED.keys() - {kind}:
        with pytest.raises(MalformedError):
            parse_statement(leaf(kind, members(other)))


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        ("log", "name", ""),
        ("log", "name", "a" * 101),
        ("log", "name", "Vault"),
        ("log", "name", "a b"),
        ("log", "name", "a/b"),
        ("log", "name", "a+b"),
        ("log", "name", "a_b"),
        ("log", "name", "-a"),
        ("log", "name", "a."),
        ("log", "name", "a\n"),
        ("log", "name", "\u00e4"),
        ("log", "name", b"vault"),
        ("log", "key", D[:-1]),
        ("log", "key", None),
        ("log", "chain", {}),
        ("log", "chain", {"id": 0, "contract": ADDRESS, "owner": ADDRESS}),
        ("log", "chain", {"id": -1, "contract": ADDRESS, "owner": ADDRESS}),
        ("log", "chain", {"id": True, "contract": ADDRESS, "owner": ADDRESS}),
        ("log", "chain", {"id": 1, "contract": D, "owner": ADDRESS}),
        ("log", "chain", {"id": 1, "contract": ADDRESS, "owner": ADDRESS[1:]}),
        ("log", "chain", {"id": 1, "contract": ADDRESS, "owner": ADDRESS, "more": 1}),
        ("log", "predecessor", {}),
        ("log", "predecessor", {"log": D, "size": 0, "root": D}),
        ("log", "predecessor", {"log": D, "size": 2**53 + 1, "root": D}),
        ("log", "predecessor", {"log": D[1:], "size": 1, "root": D}),
        ("log", "predecessor", {"log": D, "size": 1, "root": D[1:]}),
        ("log", "predecessor", {"log": D, "size": 1, "root": D, "more": 1}),
        ("identity", "id", D + b"\0"),
        ("identity", "seq", -1),
        ("identity", "seq", 2**53 + 1),
        ("identity", "seq", "3"),
        ("identity", "digest", b""),
        ("feed", "key", D[1:]),
        ("feed", "length", 0),
        ("feed", "length", -1),
        ("feed", "length", 2**52 + 1),
        ("feed", "length", True),
        ("feed", "tree", D[1:]),
        ("time", "size", 0),
        ("time", "size", 2**53 + 1),
        ("time", "responses", []),
        ("time", "responses", [D, D]),
        ("time", "responses", [b"\1" * 32, b"\0" * 32]),
        ("time", "responses", [D[1:]]),
        ("time", "responses", D),
        ("time", "certificates", None),
        ("time", "crls", [1]),
        ("time", "ocsps", [D, None]),
        ("time", "ocsps", [bytes((0, number)) + bytes(30) for number in range(256)] + [b"\1" * 32]),
        ("anchor", "size", 0),
        ("anchor", "block", D[1:]),
        ("anchor", "number", -1),
        ("anchor", "receipt", D[1:]),
    ],
)
def test_values_out_of_bounds(kind: str, key: str, value: Any) -> None:
    with pytest.raises(MalformedError):
        parse_statement(leaf(kind, {**members(kind), key: value}))


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", MalformedError),
        (b"holdfast/v1 feed", MalformedError),
        (b"\n" + leaf("feed", members("feed")), MalformedError),
        (leaf("feed", members("feed")) + b"\0", MalformedError),
        (leaf("feed", [D, 5, D]), MalformedError),
        (b"holdfast/v1 feed\r\n" + encode(members("feed")), UnsupportedVersion),
        (b"holdfast/v1 feed \n" + encode(members("feed")), UnsupportedVersion),
        (b"holdfast/v1 Feed\n" + encode(members("feed")), UnsupportedVersion),
        (b"holdfast/v1 \n" + encode(members("feed")), UnsupportedVersion),
        (b"holdfast/v2 feed\n" + encode(members("feed")), UnsupportedVersion),
        (b"holdfast/v1 \xff\n" + encode(members("feed")), UnsupportedVersion),
        (leaf("log", members("log")) + bytes(MAX_STATEMENT_BYTES), LimitExceeded),
    ],
)
def test_leaves_that_are_no_statement(data: bytes, error: type[MalformedError]) -> None:
    with pytest.raises(error):
        parse_statement(data)
    with pytest.raises(error):
        log_id(data)


def test_the_largest_time_statement_fits() -> None:
    most = tuple(sorted(sha256(bytes((number,))).digest() for number in range(256)))
    statement = TimeStatement(2**53, most, most, most, most)
    assert parse_statement(encode_statement(statement)) == statement
    with pytest.raises(LimitExceeded):
        TimeStatement(1, (*most, b"\xff" * 32))


def test_the_log_id_is_the_hash_of_the_descriptor() -> None:
    data = encode_statement(DESCRIPTOR)
    assert log_id(data) == hash_leaf(data)
    assert log_origin(DESCRIPTOR, log_id(data)) == f"vault.example/{log_id(data).hex()}"
    with pytest.raises(MalformedError):
        log_id(encode_statement(PARSED["feed"]))


def test_feed_head_key_reads_no_other_leaf() -> None:
    for kind, statement in PARSED.items():
        assert (feed_head_key(encode_statement(statement)) is not None) == (kind == "feed")
