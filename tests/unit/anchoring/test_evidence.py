"""Evidence files: one text for one evidence, and everything else refused with the member's name."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchoring.evidence import (
    MAX_EVIDENCE_BYTES,
    MEDIA_TYPE,
    CheckpointEvidence,
    DescriptorEvidence,
    Evidence,
    LeafEvidence,
    encode_evidence,
    parse_evidence,
)
from anchoring.receipt import AnchorReceipt
from anchoring.timestamp import TimestampEvidence
from identity.errors import LimitExceeded, MalformedError

HASH = bytes(range(32))

EVIDENCE = Evidence(
    manifest=b"manifest",
    proof=b"proof",
    events=(b"event 0", b"event 1"),
    descriptor=DescriptorEvidence(b"descriptor", (HASH,)),
    checkpoints=(
        CheckpointEvidence(
            note="log\n2\n\n— log\n",
            consistency=(),
            leaves=(LeafEvidence(1, b"leaf 1", (HASH, HASH)), LeafEvidence(2, b"leaf 2", ())),
            timestamps=(TimestampEvidence(b"response", (b"certificate",), (b"crl",), (b"ocsp",)),),
            anchor=AnchorReceipt(b"header", (b"node", b"node"), ((b"meta",), (b"root", b"root"))),
        ),
        CheckpointEvidence("log\n9\n", (HASH, HASH), (), (), None),
    ),
)
DOCUMENT: dict[str, Any] = json.loads(encode_evidence(EVIDENCE))

binary = st.binary(max_size=40)
hashes = st.lists(st.binary(min_size=32, max_size=32), max_size=3).map(tuple)
material = st.lists(binary, max_size=2, unique=True).map(tuple)
nodes = st.lists(binary, max_size=3).map(tuple)
leaves = st.builds(LeafEvidence, st.integers(1, 2**53 - 1), binary, hashes)
timestamps = st.builds(TimestampEvidence, binary, material, material, material)
receipts = st.builds(AnchorReceipt, binary, nodes, st.tuples(nodes, nodes))
checkpoints = st.builds(
    CheckpointEvidence,
    st.text(max_size=40),
    hashes,
    st.lists(leaves, max_size=2, unique=True).map(tuple),
    st.lists(timestamps, max_size=2, unique=True).map(tuple),
    st.none() | receipts,
)
evidences = st.builds(
    Evidence,
    binary,
    binary,
    st.lists(binary, min_size=1, max_size=3, unique=True).map(tuple),
    st.builds(DescriptorEvidence, binary, hashes),
    st.lists(checkpoints, min_size=1, max_size=2, unique=True).map(tuple),
)


def changed(change: Callable[[dict[str, Any]], object]) -> bytes:
    document = deepcopy(DOCUMENT)
    change(document)
    return json.dumps(document).encode()


def first(document: dict[str, Any]) -> dict[str, Any]:
    member: dict[str, Any] = document["log"]["checkpoints"][0]
    return member


@given(evidences)
def test_round_trip(evidence: Evidence) -> None:
    data = encode_evidence(evidence)
    assert parse_evidence(data) == evidence
    assert encode_evidence(parse_evidence(data)) == data


def test_white_space_and_order_carry_nothing() -> None:
    assert parse_evidence(json.dumps(DOCUMENT, separators=(",", ":"), sort_keys=True).encode()) == EVIDENCE


@given(st.binary(max_size=300))
def test_any_bytes_are_malformed(data: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_evidence(data)


OBJECTS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "evidence": lambda d: d,
    "feed": lambda d: d["feed"],
    "identity": lambda d: d["identity"],
    "log": lambda d: d["log"],
    "log.descriptor": lambda d: d["log"]["descriptor"],
    "log.checkpoints[0]": first,
    "log.checkpoints[0].leaves[1]": lambda d: first(d)["leaves"][1],
    "log.checkpoints[0].timestamps[0]": lambda d: first(d)["timestamps"][0],
    "log.checkpoints[0].anchor": lambda d: first(d)["anchor"],
}
MEMBERS = [(name, member) for name, find in OBJECTS.items() for member in find(DOCUMENT)]


@pytest.mark.parametrize(("name", "member"), MEMBERS)
def test_every_member_is_needed(name: str, member: str) -> None:
    with pytest.raises(MalformedError, match=f"lacks the member '{member}'") as caught:
        parse_evidence(changed(lambda d: OBJECTS[name](d).pop(member)))
    assert name in str(caught.value)


@pytest.mark.parametrize("name", OBJECTS)
def test_no_other_member_is_read(name: str) -> None:
    with pytest.raises(MalformedError, match="unknown member 'comment'") as caught:
        parse_evidence(changed(lambda d: OBJECTS[name](d).update(comment="")))
    assert name in str(caught.value)


LISTS = {"proof", "consistency", "leaves", "timestamps", "certificates", "crls", "ocsps", "account_proof"}


def fits(name: str, member: str, odd: object) -> bool:
    """Whether an odd value happens to be one that may stand there."""
    if member in LISTS and name != "feed":
        return odd == []
    return (
        (member, odd) == ("note", "?") or (member, odd) == ("anchor", None) or (member == "index" and type(odd) is int)
    )


@pytest.mark.parametrize(("name", "member"), MEMBERS)
@pytest.mark.parametrize("odd", [None, True, 1, 1.5, "?", [], ["?"], [[["AA=="]]], {}], ids=repr)
def test_a_member_of_another_type_is_refused(name: str, member: str, odd: object) -> None:
    if not fits(name, member, odd):
        with pytest.raises(MalformedError):
            parse_evidence(changed(lambda d: OBJECTS[name](d).update({member: odd})))


@pytest.mark.parametrize(
    "text",
    ["AA=", "AA", "A A==", "AA==\n", "AB==", "AAB=", "AA==AA==", "_-==", "AA===", "=", "ä"],
)
def test_only_canonical_base64_is_read(text: str) -> None:
    with pytest.raises(MalformedError, match=r"feed\.manifest"):
        parse_evidence(changed(lambda d: d["feed"].update(manifest=text)))


@pytest.mark.parametrize("index", [0, -1, 2**53, 10**40])
def test_an_index_out_of_range_is_refused(index: int) -> None:
    with pytest.raises(MalformedError, match=r"leaves\[0\]\.index"):
        parse_evidence(changed(lambda d: first(d)["leaves"][0].update(index=index)))


@pytest.mark.parametrize("length", [0, 31, 33])
@pytest.mark.parametrize("name", ["log.descriptor", "log.checkpoints[0].leaves[1]"])
def test_a_hash_has_32_bytes(name: str, length: int) -> None:
    short = json.loads(encode_evidence(Evidence(bytes(length), b"", EVIDENCE.events, EVIDENCE.descriptor, ())))
    with pytest.raises(MalformedError, match=f"has {length} bytes"):
        parse_evidence(changed(lambda d: OBJECTS[name](d).update(proof=[short["feed"]["manifest"]])))


def numbered(count: int) -> list[str]:
    """Distinct base64 texts of 32 bytes."""
    made: list[str] = json.loads(
        encode_evidence(Evidence(b"", b"", tuple(n.to_bytes(32, "big") for n in range(count)), EVIDENCE.descriptor, ()))
    )["identity"]["events"]
    return made


def checkpoint(number: int) -> dict[str, Any]:
    return {"note": str(number), "consistency": [], "leaves": [], "timestamps": [], "anchor": None}


BOUNDS: dict[str, tuple[int, Callable[[dict[str, Any], list[str]], object]]] = {
    "events": (10_000, lambda d, items: d["identity"].update(events=items)),
    "descriptor.proof": (54, lambda d, items: d["log"]["descriptor"].update(proof=items)),
    "checkpoints": (16, lambda d, items: d["log"].update(checkpoints=[checkpoint(n) for n in range(len(items))])),
    "consistency": (54, lambda d, items: first(d).update(consistency=items)),
    "leaves": (
        64,
        lambda d, items: first(d).update(leaves=[{"index": 1, "leaf": item, "proof": []} for item in items]),
    ),
    "leaf proof": (54, lambda d, items: first(d)["leaves"][0].update(proof=items)),
    "timestamps": (
        16,
        lambda d, items: first(d).update(
            timestamps=[{"response": item, "certificates": [], "crls": [], "ocsps": []} for item in items]
        ),
    ),
    "certificates": (16, lambda d, items: first(d)["timestamps"][0].update(certificates=items)),
    "crls": (16, lambda d, items: first(d)["timestamps"][0].update(crls=items)),
    "ocsps": (16, lambda d, items: first(d)["timestamps"][0].update(ocsps=items)),
    "account_proof": (65, lambda d, items: first(d)["anchor"].update(account_proof=items)),
    "storage proof": (65, lambda d, items: first(d)["anchor"].update(storage_proofs=[items, []])),
}


@pytest.mark.parametrize("name", BOUNDS)
def test_lists_are_bounded(name: str) -> None:
    most, put = BOUNDS[name]
    parse_evidence(changed(lambda d: put(d, numbered(most))))
    with pytest.raises(LimitExceeded):
        parse_evidence(changed(lambda d: put(d, numbered(most + 1))))


@pytest.mark.parametrize("name", ["events", "checkpoints"])
def test_lists_that_must_not_be_empty(name: str) -> None:
    with pytest.raises(MalformedError, match="at least 1"):
        parse_evidence(changed(lambda d: BOUNDS[name][1](d, [])))


@pytest.mark.parametrize("count", [0, 1, 3])
def test_there_are_two_storage_proofs(count: int) -> None:
    with pytest.raises(MalformedError, match="storage_proofs"):
        parse_evidence(changed(lambda d: first(d)["anchor"].update(storage_proofs=[[] for _ in range(count)])))


DISTINCT: dict[str, Callable[[dict[str, Any]], list[Any]]] = {
    "identity.events": lambda d: d["identity"]["events"],
    "log.checkpoints": lambda d: d["log"]["checkpoints"],
    "leaves": lambda d: first(d)["leaves"],
    "timestamps": lambda d: first(d)["timestamps"],
    "certificates": lambda d: first(d)["timestamps"][0]["certificates"],
    "crls": lambda d: first(d)["timestamps"][0]["crls"],
    "ocsps": lambda d: first(d)["timestamps"][0]["ocsps"],
}


@pytest.mark.parametrize("name", DISTINCT)
def test_no_item_stands_twice(name: str) -> None:
    def double(document: dict[str, Any]) -> None:
        items = DISTINCT[name](document)
        items.append(deepcopy(items[0]))

    with pytest.raises(MalformedError, match="holds one item twice"):
        parse_evidence(changed(double))


def test_equal_items_are_found_whatever_the_order_of_their_members() -> None:
    def double(document: dict[str, Any]) -> None:
        leaves_ = first(document)["leaves"]
        leaves_.append(dict(reversed(leaves_[0].items())))

    with pytest.raises(MalformedError, match="holds one item twice"):
        parse_evidence(changed(double))


@pytest.mark.parametrize(
    "media_type", ["", "application/json", MEDIA_TYPE.replace("=1", "=2"), MEDIA_TYPE.upper(), MEDIA_TYPE + " "]
)
def test_only_this_version_is_read(media_type: str) -> None:
    with pytest.raises(MalformedError, match="mediaType"):
        parse_evidence(changed(lambda d: d.update(mediaType=media_type)))


@pytest.mark.parametrize(
    "data",
    {
        "empty": b"",
        "no object": b"[]",
        "two texts": json.dumps(DOCUMENT).encode() * 2,
        "byte order mark": b"\xef\xbb\xbf" + json.dumps(DOCUMENT).encode(),
        "UTF-16": json.dumps(DOCUMENT).encode("utf-16"),
        "broken UTF-8": json.dumps(DOCUMENT).encode() + b"\xff",
        "NaN": json.dumps(DOCUMENT).replace('"index": 1', '"index": NaN').encode(),
        "exponent": json.dumps(DOCUMENT).replace('"index": 1', '"index": 1e0').encode(),
        "deep": b"[" * 100_000,
        "comment": b"// evidence\n" + json.dumps(DOCUMENT).encode(),
        "duplicate key": json.dumps(DOCUMENT).replace('"feed"', '"feed": {}, "feed"', 1).encode(),
        "duplicate key by escape": json.dumps(DOCUMENT).replace('"feed"', '"f\\u0065ed": {}, "feed"', 1).encode(),
    }.values(),
    ids=lambda data: repr(data[:20]),
)
def test_what_is_not_one_strict_json_text_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_evidence(data)


def test_a_large_file_is_not_read() -> None:
    data = json.dumps(DOCUMENT).encode()
    assert parse_evidence(data.ljust(MAX_EVIDENCE_BYTES)) == EVIDENCE
    with pytest.raises(LimitExceeded):
        parse_evidence(data.ljust(MAX_EVIDENCE_BYTES + 1))
