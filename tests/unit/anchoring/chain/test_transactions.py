"""Signed transactions read back: what was asked for, and nothing that is not in the one form."""

from __future__ import annotations

import pytest

from anchoring.chain.transactions import LocalKey, Transaction, parse_transaction, transaction_sender
from anchoring.rlp_codec import decode_rlp, encode_rlp
from identity.errors import MalformedError

KEY = LocalKey(bytes([9]) * 32)
ASKED = Transaction(1337, 5, bytes([1]) * 20, b"call", 150_000, 7 * 10**9, 10**9)
RAW = KEY.sign(ASKED)


@pytest.mark.parametrize("asked", [ASKED, Transaction(1, 0, None, b"", 21_000, 1, 0, value=10**18)])
def test_what_was_asked_for_and_by_whom(asked: Transaction) -> None:
    raw = KEY.sign(asked)
    assert parse_transaction(raw) == asked
    assert transaction_sender(raw) == KEY.address


@pytest.mark.parametrize(
    ("index", "value"),
    [
        (0, b"\0\1"),  # an integer with a leading zero
        (1, bytes([255]) * 9),
        (5, bytes(19)),
        (5, (b"",)),
        (7, (b"",)),
        (8, ((bytes(20), ()),)),
        (9, b"\2"),
        (10, b""),
        (11, bytes([255]) * 32),
    ],
)
def test_fields_that_no_signer_writes(index: int, value: object) -> None:
    fields = list(decode_rlp(RAW[1:], what="test", max_depth=2))
    fields[index] = value  # type: ignore[call-overload]
    with pytest.raises(MalformedError):
        parse_transaction(RAW[:1] + encode_rlp(tuple(fields)))


@pytest.mark.parametrize("raw", [b"", b"\2", b"\1" + RAW[1:], RAW + b"\0", RAW[:-1], b"\2\xc0"])
def test_bytes_that_are_no_transaction(raw: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_transaction(raw)


def test_another_signature_is_somebody_elses_or_nobodys() -> None:
    altered = RAW[:-1] + bytes([RAW[-1] ^ 1])
    try:
        sender: bytes | None = transaction_sender(altered)
    except MalformedError:
        sender = None
    assert sender != KEY.address
