"""Reading a log's record with its proof, and what the contract would say to an anchor."""

from __future__ import annotations

from dataclasses import replace

import pytest
from eth_hash.auto import keccak

from anchoring.chain.dev import DevChain
from anchoring.chain.outbox import AnchorTarget
from anchoring.chain.record import RecordReader, refusal, shows
from anchoring.receipt import AnchorRecord
from identity.errors import ReceiptMismatch, TransportError

ROOT = b"\x05" * 32
RECORD = AnchorRecord(5, 1000, 3, False, ROOT)


def test_what_the_contract_refuses() -> None:
    assert refusal(None, 5) is None
    assert refusal(RECORD, 6) is None
    assert refusal(RECORD, 5) == refusal(RECORD, 4) == "STALE"
    assert refusal(replace(RECORD, closed=True), 6) == "CLOSED"


def test_which_record_shows_an_anchor() -> None:
    assert shows(RECORD, 5, ROOT)
    assert not shows(RECORD, 5, bytes(32))
    assert not shows(RECORD, 6, ROOT)
    assert not shows(None, 5, ROOT)


def test_a_log_that_nobody_anchored_has_no_record(chain: DevChain, target: AnchorTarget) -> None:
    reader = RecordReader(chain, target)
    number = chain.head_number()
    assert reader.record(number) is None
    receipt = reader.receipt(number, chain.header(number))
    assert reader.verify(receipt, keccak(chain.header(number))) is None
    with pytest.raises(ReceiptMismatch, match="HEADER_HASH"):
        reader.verify(receipt, bytes(32))
    with pytest.raises(ReceiptMismatch, match="NO_CONTRACT"):
        reader.record(0)
    with pytest.raises(TransportError):
        reader.record(number + 1)
