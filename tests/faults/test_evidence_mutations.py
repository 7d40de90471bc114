"""Evidence with any byte changed, any member left out, doubled or swapped never passes, and never breaks the verifier.

Under a policy that demands every claim. The files are those of tests/evidence.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Any

import pytest

from anchoring.policy import Policy
from anchoring.policy_file import load_policy
from anchoring.report import Claim
from anchoring.verifier import verify_evidence

EVIDENCE = Path(__file__).resolve().parent.parent / "evidence"
MUTATIONS = 2_000
SEEDS = range(8)

# From the document to a value: names of members and positions in lists.
Place = tuple[str | int, ...]


@dataclass(frozen=True)
class Genuine:
    """Evidence that passes, and what it is judged with."""

    document: dict[str, Any]
    policy: Policy
    at_ms: int

    @classmethod
    def load(cls, case: str) -> Genuine:
        folder = EVIDENCE / case
        at = datetime.fromisoformat((folder / "at.txt").read_text().strip())
        return cls(
            json.loads((folder / "evidence.json").read_text()),
            load_policy(folder / "policy.toml"),
            int(at.timestamp() * 1000),
        )

    def judge(self, document: dict[str, Any] | bytes) -> int:
        """The exit code for that document in place of the genuine one."""
        data = document if isinstance(document, bytes) else json.dumps(document).encode()
        return verify_evidence(data, self.policy, self.at_ms).exit_code


CASES = ("genuine", "revoked_proven_before")


@pytest.fixture(scope="module", params=CASES)
def genuine(request: pytest.FixtureRequest) -> Genuine:
    return Genuine.load(request.param)


def places(value: Any, here: Place = ()) -> Iterator[Place]:
    """Every place below the document itself."""
    children: list[tuple[str | int, Any]] = []
    if isinstance(value, dict):
        children = list(value.items())
    elif isinstance(value, list):
        children = list(enumerate(value))
    for step, child in children:
        yield (*here, step)
        yield from places(child, (*here, step))


def value_at(document: Any, place: Place) -> Any:
    for step in place:
        document = document[step]
    return document


def changed(document: dict[str, Any], place: Place, value: Any) -> dict[str, Any]:
    """A copy with that value there."""
    copy = deepcopy(document)
    value_at(copy, place[:-1])[place[-1]] = value
    return copy


def binary_parts(document: dict[str, Any]) -> dict[Place, bytes]:
    """Every text but the media type, decoded: a note is its own bytes, everything else is base64."""
    texts = {place: value_at(document, place) for place in places(document)}
    return {
        place: text.encode() if place[-1] == "note" else b64decode(text, validate=True)
        for place, text in texts.items()
        if isinstance(text, str) and place != ("mediaType",)
    }


def with_bytes(document: dict[str, Any], place: Place, data: bytes) -> dict[str, Any]:
    text = data.decode() if place[-1] == "note" else b64encode(data).decode()
    return changed(document, place, text)


def mutations(document: dict[str, Any], seed: int, count: int) -> Iterator[tuple[Place, int, dict[str, Any]]]:
    """``count`` documents with one byte changed to another value, each byte as likely as every other."""
    random, parts = Random(seed), binary_parts(document)
    drawn = 0
    while drawn < count:
        (place,) = random.choices(list(parts), [len(data) for data in parts.values()])
        altered = bytearray(parts[place])
        position = random.randrange(len(altered))
        altered[position] ^= random.randrange(1, 256)
        try:
            yield place, position, with_bytes(document, place, bytes(altered))
        except UnicodeDecodeError:  # a note is a text: this would not be one
            continue
        drawn += 1


def test_the_policy_demands_everything_and_the_evidence_passes(genuine: Genuine) -> None:
    assert genuine.policy.require == frozenset(Claim)
    assert genuine.judge(genuine.document) == 0


@pytest.mark.parametrize("seed", SEEDS)
def test_a_changed_byte_never_passes(seed: int) -> None:
    genuine = Genuine.load("genuine")
    share = MUTATIONS // len(SEEDS)
    judged = [
        (genuine.judge(document), place, position)
        for place, position, document in mutations(genuine.document, seed, share)
    ]
    assert len(judged) == share
    assert [mutation for mutation in judged if mutation[0] not in (1, 2)] == []


def test_a_changed_byte_of_a_token_that_the_log_does_not_name_never_passes() -> None:
    """The evidence of a revoked device shows a token of whose digest it shows no ``time`` leaf."""
    genuine = Genuine.load("revoked_proven_before")
    random = Random(7)
    for place, data in binary_parts(genuine.document).items():
        if place[:4] == ("log", "checkpoints", 0, "timestamps"):
            for position in random.sample(range(len(data)), 60):
                altered = bytearray(data)
                altered[position] ^= random.randrange(1, 256)
                assert genuine.judge(with_bytes(genuine.document, place, bytes(altered))) in (1, 2), (place, position)


@pytest.mark.parametrize("change", ["longer", "longer in front", "shorter", "empty"])
def test_a_part_of_another_length_never_passes(change: str) -> None:
    genuine = Genuine.load("genuine")
    for place, data in binary_parts(genuine.document).items():
        altered = {"longer": data + b"\0", "longer in front": b"\0" + data, "shorter": data[:-1], "empty": b""}[change]
        assert genuine.judge(with_bytes(genuine.document, place, altered)) in (1, 2), place


def test_a_member_left_out_never_passes(genuine: Genuine) -> None:
    for place in places(genuine.document):
        document = deepcopy(genuine.document)
        del value_at(document, place[:-1])[place[-1]]
        assert genuine.judge(document) in (1, 2), place


def test_a_list_or_receipt_emptied_never_passes(genuine: Genuine) -> None:
    for place in places(genuine.document):
        value = value_at(genuine.document, place)
        if isinstance(value, list) and value:
            assert genuine.judge(changed(genuine.document, place, [])) in (1, 2), place
        if place[-1] == "anchor" and value is not None:
            assert genuine.judge(changed(genuine.document, place, None)) in (1, 2), place


def test_an_item_doubled_never_passes(genuine: Genuine) -> None:
    for place in places(genuine.document):
        if isinstance(place[-1], int):
            document = deepcopy(genuine.document)
            value_at(document, place[:-1]).insert(place[-1], deepcopy(value_at(document, place)))
            assert genuine.judge(document) in (1, 2), place


def test_a_member_doubled_never_passes(genuine: Genuine) -> None:
    for place in places(genuine.document):
        if isinstance(place[-1], str):
            # Python's objects hold a name once, so the second one is put into the text.
            document = changed(genuine.document, (*place[:-1], "again"), value_at(genuine.document, place))
            text = json.dumps(document).replace('"again":', f"{json.dumps(place[-1])}:")
            assert genuine.judge(text.encode()) in (1, 2), place


# What is swapped in comes from genuine evidence: of another identity, and of the same one about another entry or with
# a longer key history. Whatever differs between two files of one identity is tied to the rest of its file by a hash or
# a signature: the proof to its logged head, the head and the leaves to their checkpoint, token and receipt to the note,
# checkpoints to each other, the events to the logged identity head. So no single swap can turn one into the other. (It
# could between two entries under one and the same head, where only ``feed.proof`` differs; therefore none of these is.)
@pytest.mark.parametrize(
    ("case", "source"),
    [
        ("genuine", "genuine_two_authorities"),
        ("genuine", "genuine_later"),
        ("genuine", "revoked_proven_before"),
        ("revoked_proven_before", "genuine_two_authorities"),
        ("revoked_proven_before", "genuine"),
        ("revoked_proven_before", "genuine_later"),
    ],
)
def test_a_member_swapped_with_another_file_never_passes(case: str, source: str) -> None:
    genuine, other = Genuine.load(case), Genuine.load(source).document
    there = set(places(other))
    swapped = 0
    for place in places(genuine.document):
        if place in there and (value := value_at(other, place)) != value_at(genuine.document, place):
            assert genuine.judge(changed(genuine.document, place, value)) in (1, 2), place
            swapped += 1
    assert swapped > 25


ODD_VALUES: list[Any] = [None, True, 0, -1, 2**64, 1.5, "", "====", "AA==", [], [[]], ["AA=="], {}, {"": None}]


def test_a_value_of_another_type_never_passes() -> None:
    genuine = Genuine.load("genuine")
    for place in places(genuine.document):
        for odd in ODD_VALUES:
            if odd != value_at(genuine.document, place):
                assert genuine.judge(changed(genuine.document, place, odd)) in (1, 2), (place, odd)
