"""Root cards: what a holder hands over, and what nobody should take for one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity.errors import AuditError, MalformedError, RefusedError, SignatureMismatch
from identity.event import key_commitment
from identity.keys import Ed25519Signer
from identity.rootcard import RootCard, check_cards, encode_card, order_cards, parse_card, sign_card

KEYS = [Ed25519Signer(bytes([n]) * 32) for n in range(1, 9)]


def card(number: int, following: int, holder: str = "Anna") -> RootCard:
    return sign_card(holder, KEYS[number], KEYS[following].public_key)


def test_round_trip() -> None:
    made = card(0, 1, "Zoë, Büro 2")
    assert parse_card(encode_card(made)) == made
    assert (made.key, made.next) == (KEYS[0].public_key, key_commitment(KEYS[1].public_key))


def test_every_byte_altered_and_every_truncation() -> None:
    data = encode_card(card(0, 1))
    for place in range(len(data)):
        for mask in (0x01, 0x20, 0x80):
            with pytest.raises((MalformedError, SignatureMismatch)):
                parse_card(data[:place] + bytes([data[place] ^ mask]) + data[place + 1 :])
        with pytest.raises(MalformedError):
            parse_card(data[:place])
    with pytest.raises(MalformedError):
        parse_card(data + b"\n")
    with pytest.raises(MalformedError, match="at most"):
        parse_card(data + b"x" * 2048)


@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    for prefix in (b"", b"holdfast/v1 root-card\n"):
        with pytest.raises(AuditError):
            parse_card(prefix + data)


def test_a_card_for_a_key_that_its_holder_does_not_have() -> None:
    mine, theirs = card(0, 1), card(2, 3)
    forged = RootCard(mine.holder, theirs.key, mine.next, mine.signature)
    with pytest.raises(SignatureMismatch, match=r"anna\.card: its key has not signed it"):
        parse_card(encode_card(forged), "anna.card")


@pytest.mark.parametrize("holder", ["", "a\nb", "x" * 201, "a\u2028b"])
def test_names_that_are_none(holder: str) -> None:
    with pytest.raises(MalformedError):
        card(0, 1, holder)


@pytest.mark.parametrize(
    ("cards", "says"),
    [
        ([], "0 root cards"),
        ([(0, 1), (0, 2)], "name one key"),
        ([(0, 1), (2, 1)], "promise one next key"),
        ([(0, 1), (1, 2)], "is a root key already"),
        ([(0, 0)], "is a root key already"),
    ],
)
def test_cards_that_cannot_be_one_set(cards: list[tuple[int, int]], says: str) -> None:
    with pytest.raises(RefusedError, match=says):
        check_cards([card(*pair) for pair in cards])


def test_more_cards_than_an_identity_has_keys() -> None:
    many = [sign_card("x", Ed25519Signer(bytes([n, 0]) * 16), bytes([n, 1]) * 16) for n in range(65)]
    with pytest.raises(RefusedError, match="65 root cards"):
        check_cards(many)
    check_cards(many[:64])


def test_cards_that_reveal_what_was_committed_to() -> None:
    digests = [key_commitment(KEYS[n].public_key) for n in (0, 1)]
    first, second = card(0, 2), card(1, 3)
    assert order_cards([second, first], digests) == [first, second]
    with pytest.raises(RefusedError, match="1 of the 2 next root keys are not revealed"):
        order_cards([second], digests)
    with pytest.raises(RefusedError, match="Bert: this key is not one"):
        order_cards([first, card(4, 5, "Bert")], digests)


def test_the_example_in_the_specification() -> None:
    text = (Path(__file__).parents[3] / "docs" / "spec" / "signing-request.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```text\n(holdfast/v1 root-card\n.*?)```", text, re.DOTALL)
    assert parse_card(block.encode()) == sign_card(
        "Anna, Zurich", Ed25519Signer(b"\x01" * 32), Ed25519Signer(b"\x0b" * 32).public_key
    )
