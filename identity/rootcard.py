"""Root cards: what the holder of a root key hands over, so that others can name the key in an event.

A card carries a public root key, the commitment to the key that will follow it, and a signature by the key, so that
nobody names a key that its holder does not have. It is text, short enough to be read out. Specified in
docs/spec/signing-request.md, section "Root card".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from identity.contexts import ROOT_CARD
from identity.encoding import encode
from identity.errors import LimitExceeded, MalformedError, RefusedError, SignatureMismatch
from identity.event import MAX_ROOT_KEYS, key_commitment
from identity.keys import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, Signer, verify_signature
from identity.textforms import check_name, parse_base64, parse_did_key, parse_hex, to_base64, to_did_key, to_hex

__all__ = ["MAX_CARD_BYTES", "RootCard", "check_cards", "encode_card", "order_cards", "parse_card", "sign_card"]

MAX_CARD_BYTES: Final = 2048
_MAGIC: Final = "holdfast/v1 root-card"
_NAMES: Final = ("holder", "key", "next", "signature")


@dataclass(frozen=True, slots=True)
class RootCard:
    """A holder's root key (32 bytes), the commitment to the one after it (32 bytes), and the key's signature over both.

    ``holder`` is what people call the holder; it stands in no event.
    """

    holder: str
    key: bytes
    next: bytes
    signature: bytes


def sign_card(holder: str, signer: Signer, following: bytes) -> RootCard:
    """The card of ``signer``'s key, which is to be followed by the public key ``following``."""
    check_name(holder, "holder")
    commitment = key_commitment(following)
    signature = signer.sign(_signed_bytes(holder, signer.public_key, commitment))
    return parse_card(encode_card(RootCard(holder, signer.public_key, commitment, signature)))


def encode_card(card: RootCard) -> bytes:
    """The card as the text that ``parse_card`` reads."""
    values = (card.holder, to_did_key(card.key), to_hex(card.next), to_base64(card.signature))
    lines = (f"{name} {value}\n" for name, value in zip(_NAMES, values, strict=True))
    return f"{_MAGIC}\n{''.join(lines)}".encode()


def parse_card(data: bytes, what: str = "root card") -> RootCard:
    """Read and verify a card. Raises ``MalformedError`` and ``SignatureMismatch``; ``what`` names the input."""
    if len(data) > MAX_CARD_BYTES:
        raise LimitExceeded(f"{what}: {len(data)} bytes, at most {MAX_CARD_BYTES}")
    try:
        lines = data.decode("utf-8").split("\n")
    except UnicodeDecodeError as exc:
        raise MalformedError(f"{what}: not UTF-8 text") from exc
    if lines[0] != _MAGIC or len(lines) != len(_NAMES) + 2 or lines[-1]:
        raise MalformedError(f"{what}: not a root card, or cut short")
    values = [_value(line, name, what) for line, name in zip(lines[1:-1], _NAMES, strict=True)]
    try:
        holder = check_name(values[0], "holder")
        card = RootCard(
            holder, parse_did_key(values[1]), parse_hex(values[2], 32), parse_base64(values[3], SIGNATURE_BYTES)
        )
    except MalformedError as exc:
        raise MalformedError(f"{what}: {exc}") from exc
    try:
        verify_signature(card.key, _signed_bytes(card.holder, card.key, card.next), card.signature)
    except SignatureMismatch as exc:
        raise SignatureMismatch(f"{what}: its key has not signed it") from exc
    return card


def check_cards(cards: Sequence[RootCard]) -> None:
    """Return only when the cards can be one set of root keys. Raises ``RefusedError``."""
    if not 1 <= len(cards) <= MAX_ROOT_KEYS:
        raise RefusedError(f"{len(cards)} root cards; an identity has 1 to {MAX_ROOT_KEYS} root keys")
    if len({card.key for card in cards}) < len(cards) or len({card.next for card in cards}) < len(cards):
        raise RefusedError("two root cards name one key, or promise one next key")
    if {key_commitment(card.key) for card in cards} & {card.next for card in cards}:
        raise RefusedError("a root card promises a key that is a root key already")


def order_cards(cards: Sequence[RootCard], digests: Sequence[bytes]) -> list[RootCard]:
    """The cards that reveal the keys committed to by ``digests``, in their order, each exactly once.

    Raises ``RefusedError`` naming the holder whose key nobody committed to, or how many cards are missing.
    """
    check_cards(cards)
    by_commitment = {key_commitment(card.key): card for card in cards}
    for commitment, card in by_commitment.items():
        if commitment not in digests:
            raise RefusedError(f"{card.holder}: this key is not one that the identity has committed to")
    missing = [digest for digest in digests if digest not in by_commitment]
    if missing:
        raise RefusedError(
            f"{len(missing)} of the {len(digests)} next root keys are not revealed",
            hint="all holders have to hand over the card of their next key",
        )
    return [by_commitment[digest] for digest in digests]


def _value(line: str, name: str, what: str) -> str:
    found, space, value = line.partition(" ")
    if found != name or not space:
        raise MalformedError(f"{what}: no line '{name}' where it belongs")
    return value


def _signed_bytes(holder: str, key: bytes, commitment: bytes) -> bytes:
    assert len(key) == PUBLIC_KEY_BYTES
    return ROOT_CARD + encode({"v": 1, "holder": holder, "key": key, "next": commitment})
