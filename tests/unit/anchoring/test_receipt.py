"""Receipts: the example of docs/spec/anchor.md, crafted states, and every way to alter them."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import pytest
from eth_hash.auto import keccak
from hypothesis import given, settings
from hypothesis import strategies as st
from trie.hexary import HexaryTrie

from anchoring.contracts import load_contract
from anchoring.receipt import (
    DEVELOPMENT_CHAIN_ID,
    MAX_HEADER_BYTES,
    AnchorReceipt,
    AnchorRecord,
    VerifiedAnchor,
    encode_receipt,
    parse_header,
    parse_receipt,
    read_anchor,
    receipt_digest,
    slots,
    verify_receipt,
)
from anchoring.rlp_codec import Item, decode_rlp, encode_rlp, integer_to_rlp
from identity.encoding import encode
from identity.errors import LimitExceeded, MalformedError, ReceiptMismatch

SPEC = Path(__file__).parents[3] / "docs" / "spec" / "anchor.md"

CONTRACT, OWNER, LOG_ID, CODE_HASH = b"\xc0" * 20, b"\x0a" * 20, b"\x1d" * 32, keccak(b"code")
CLOSED = 1 << 255


@dataclass(frozen=True)
class Example:
    """The values of the specification's example."""

    texts: dict[str, list[str]]

    def one(self, name: str) -> bytes:
        (value,) = self.texts[name]
        return bytes.fromhex(value)

    def nodes(self, name: str) -> tuple[bytes, ...]:
        return tuple(map(bytes.fromhex, self.texts[f"{name} node"]))

    @property
    def receipt(self) -> AnchorReceipt:
        return AnchorReceipt(self.one("header"), self.nodes("account"), (self.nodes("meta"), self.nodes("root")))

    @property
    def trust(self) -> dict[str, bytes]:
        return {
            "contract": self.one("contract"),
            "owner": self.one("owner"),
            "log_id": self.one("log id"),
            "block_hash": self.one("block hash"),
            "code_hash": self.one("code hash"),
        }


def read_example() -> Example:
    texts: dict[str, list[str]] = {}
    name = ""
    for block in re.findall(r"^```text\n(.*?)^```$", SPEC.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            if line[:16].strip():
                name = line[:16].strip()
                texts.setdefault(name, []).append(line[16:].strip())
            else:
                texts[name][-1] += line.strip()
    return Example(texts)


EXAMPLE = read_example()


def craft(words: dict[int, int], *, number: int = 9, time_s: int = 1000, account: Item | None = None) -> AnchorReceipt:
    """A receipt from a made-up state in which the contract's slots hold ``words``."""
    storage, state = HexaryTrie({}), HexaryTrie({})
    for slot, word in {**words, 7: 1}.items():
        storage[keccak(slot.to_bytes(32, "big"))] = encode_rlp(integer_to_rlp(word))
    default = (b"\1", b"", storage.root_hash, CODE_HASH)
    state[keccak(CONTRACT)] = encode_rlp(default if account is None else account)
    state[keccak(b"somebody")] = encode_rlp(default)
    meta, root, _ = slots(OWNER, LOG_ID)
    return AnchorReceipt(
        header=header(state_root=state.root_hash, number=integer_to_rlp(number), timestamp=integer_to_rlp(time_s)),
        account_proof=proof(state, CONTRACT),
        storage_proofs=(proof(storage, meta.to_bytes(32, "big")), proof(storage, root.to_bytes(32, "big"))),
    )


def proof(trie: HexaryTrie, name: bytes) -> tuple[bytes, ...]:
    return tuple(encode_rlp(node) for node in trie.get_proof(keccak(name)))  # type: ignore[no-untyped-call]


def header(
    *, state_root: bytes = bytes(32), number: bytes = b"\x09", timestamp: bytes = b"\x01", more: tuple[bytes, ...] = ()
) -> bytes:
    root, integer = bytes(32), b""
    before = (root, root, bytes(20), state_root, root, root, bytes(256), integer, number, b"\1", b"\1", timestamp)
    return encode_rlp((*before, b"extra", root, bytes(8), *more))


def read(receipt: AnchorReceipt) -> AnchorRecord | None:
    return read_anchor(
        receipt,
        contract=CONTRACT,
        owner=OWNER,
        log_id=LOG_ID,
        block_hash=keccak(receipt.header),
        code_hash=CODE_HASH,
    )


def verify(receipt: AnchorReceipt) -> VerifiedAnchor:
    return verify_receipt(
        receipt,
        contract=CONTRACT,
        owner=OWNER,
        log_id=LOG_ID,
        block_hash=keccak(receipt.header),
        code_hash=CODE_HASH,
    )


META, ROOT, SUCCESSOR = slots(OWNER, LOG_ID)
ANCHORED = {META: 5 | 900 << 64 | 8 << 128, ROOT: 77}


# The specification's example


def test_the_example_verifies() -> None:
    anchor = verify_receipt(EXAMPLE.receipt, **EXAMPLE.trust)
    meta = int.from_bytes(EXAMPLE.one("meta word"), "big")
    assert anchor.record == AnchorRecord(12, 1_790_001_920, 7, False, EXAMPLE.one("root word"))
    assert meta == 12 | 1_790_001_920 << 64 | 7 << 128
    assert (anchor.header.number, anchor.header.timestamp_s) == (7, 1_790_001_920)
    assert anchor.header.hash == keccak(EXAMPLE.one("header")) == EXAMPLE.one("block hash")
    assert read_anchor(EXAMPLE.receipt, **EXAMPLE.trust) == anchor.record


def test_the_example_names_its_slots_digest_chain_and_code() -> None:
    named = [EXAMPLE.one(f"{name} slot") for name in ("meta", "root", "successor")]
    assert [slot.to_bytes(32, "big") for slot in slots(EXAMPLE.one("owner"), EXAMPLE.one("log id"))] == named
    message = b"holdfast/v1/anchor-receipt-digest\0" + encode_receipt(EXAMPLE.receipt)
    assert receipt_digest(EXAMPLE.receipt) == EXAMPLE.one("digest") == sha256(message).digest()
    assert EXAMPLE.texts["chain"] == [str(DEVELOPMENT_CHAIN_ID)]
    assert load_contract().code_hash == EXAMPLE.one("code hash")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("contract", "PROOF_[A-Z_]+|NO_CONTRACT"),
        ("owner", "PROOF_[A-Z_]+|NO_ANCHOR"),
        ("log_id", "PROOF_[A-Z_]+|NO_ANCHOR"),
        ("block_hash", "HEADER_HASH"),
        ("code_hash", "CODE_HASH"),
    ],
)
def test_another_question_is_not_answered(name: str, reason: str) -> None:
    for flip in range(20):
        trust = EXAMPLE.trust
        value = bytearray(trust[name])
        value[flip % len(value)] ^= 1 << flip % 8
        with pytest.raises(ReceiptMismatch) as caught:
            verify_receipt(EXAMPLE.receipt, **{**trust, name: bytes(value)})
        assert re.fullmatch(reason, caught.value.reason)


def mutations() -> list[Callable[[random.Random, bytes], bytes]]:
    def flip(rng: random.Random, data: bytes) -> bytes:
        changed = bytearray(data)
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        return bytes(changed)

    return [
        flip,
        lambda rng, data: data[: rng.randrange(len(data))],
        lambda rng, data: data + rng.randbytes(rng.randrange(1, 4)),
        lambda rng, data: rng.randbytes(rng.randrange(80)),
    ]


def test_thousands_of_altered_receipts_are_refused() -> None:
    rng = random.Random(20_261_122)
    genuine = EXAMPLE.receipt
    parts = [genuine.header, *genuine.account_proof, *genuine.storage_proofs[0], *genuine.storage_proofs[1]]
    for _ in range(4000):
        changed = list(parts)
        index = rng.randrange(len(parts))
        changed[index] = rng.choice(mutations())(rng, parts[index])
        receipt = AnchorReceipt(changed[0], tuple(changed[1:3]), (tuple(changed[3:5]), tuple(changed[5:7])))
        if receipt == genuine:
            continue
        with pytest.raises((ReceiptMismatch, MalformedError)):
            verify_receipt(receipt, **EXAMPLE.trust)


def test_every_byte_of_the_receipt_matters() -> None:
    genuine = EXAMPLE.receipt
    for position in range(len(genuine.header)):
        changed = bytearray(genuine.header)
        changed[position] ^= 0x01
        with pytest.raises((ReceiptMismatch, MalformedError)):
            verify_receipt(replace(genuine, header=bytes(changed)), **EXAMPLE.trust)


def test_proofs_in_each_others_place_are_refused() -> None:
    genuine = EXAMPLE.receipt
    meta, root = genuine.storage_proofs
    for storage_proofs in [(root, meta), (meta, meta), (root, root), ((), root), (meta, ()), ((), ())]:
        with pytest.raises(ReceiptMismatch):
            verify_receipt(replace(genuine, storage_proofs=storage_proofs), **EXAMPLE.trust)
    with pytest.raises(ReceiptMismatch):
        verify_receipt(replace(genuine, account_proof=meta), **EXAMPLE.trust)


# Crafted states


def test_a_crafted_record_is_read() -> None:
    assert read(craft(ANCHORED)) == AnchorRecord(5, 900, 8, False, (77).to_bytes(32, "big"))
    assert verify(craft({**ANCHORED, META: ANCHORED[META] | CLOSED})).record.closed


def test_a_log_without_a_record() -> None:
    receipt = craft({SUCCESSOR: 1})
    assert read(receipt) is None
    with pytest.raises(ReceiptMismatch) as caught:
        verify(receipt)
    assert caught.value.reason == "NO_ANCHOR"


def test_a_log_closed_without_an_anchor() -> None:
    receipt = craft({META: CLOSED, SUCCESSOR: 1})
    assert read(receipt) == AnchorRecord(0, 0, 0, True, bytes(32))
    with pytest.raises(ReceiptMismatch, match="NO_ANCHOR"):
        verify(receipt)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ({ROOT: 77}, "a root without a size"),
        ({META: ANCHORED[META]}, "a size without a root"),
        ({META: 900 << 64 | 8 << 128, ROOT: 77}, "size 0 with a root"),
        ({META: 900 << 64 | 8 << 128}, "a time without a size"),
        ({META: CLOSED, ROOT: 77}, "closed at size 0 with a root"),
        ({META: CLOSED | 900 << 64}, "closed at size 0 with a time"),
        ({META: 5 | 900 << 64, ROOT: 77}, "no block"),
        ({META: 5 | 900 << 64 | 10 << 128, ROOT: 77}, "a block above the header's"),
        ({META: 5 | 900 << 64 | 1 << 254, ROOT: 77}, "a block number beyond all"),
        ({META: 5 | 1001 << 64 | 8 << 128, ROOT: 77}, "a time after the header's"),
    ],
)
def test_a_record_that_the_contract_cannot_have_written(words: dict[int, int], why: str) -> None:
    with pytest.raises(ReceiptMismatch) as caught:
        read(craft(words))
    assert caught.value.reason == "IMPOSSIBLE_RECORD"


def test_a_contract_that_is_not_there() -> None:
    receipt = craft(ANCHORED)
    state = HexaryTrie({})
    state[keccak(b"somebody")] = b"account"
    absent = replace(
        receipt,
        header=header(state_root=state.root_hash),
        account_proof=proof(state, CONTRACT),
        storage_proofs=((), ()),
    )
    with pytest.raises(ReceiptMismatch) as caught:
        read(absent)
    assert caught.value.reason == "NO_CONTRACT"


@pytest.mark.parametrize(
    "account",
    [
        b"text",
        (),
        (b"\1", b"", bytes(32)),
        (b"\1", b"", bytes(32), CODE_HASH, b""),
        (b"\0", b"", bytes(32), CODE_HASH),
        (b"\1" * 9, b"", bytes(32), CODE_HASH),
        (b"\1", b"\0\1", bytes(32), CODE_HASH),
        (b"\1", b"", bytes(31), CODE_HASH),
        (b"\1", b"", bytes(32), CODE_HASH[:31]),
        (b"\1", b"", bytes(32), ()),
    ],
)
def test_what_is_no_account_is_refused(account: Item) -> None:
    with pytest.raises(MalformedError):
        read(craft(ANCHORED, account=account))


@pytest.mark.parametrize("value", ["80", "00", "820001", "a1" + "01" * 33, "c0", "c101", "0101", "8101"])
def test_a_slot_holds_one_canonical_number(value: str) -> None:
    storage, state = HexaryTrie({}), HexaryTrie({})
    for slot in (META, ROOT):
        storage[keccak(slot.to_bytes(32, "big"))] = bytes.fromhex(value)
    state[keccak(CONTRACT)] = encode_rlp((b"\1", b"", storage.root_hash, CODE_HASH))
    receipt = AnchorReceipt(
        header(state_root=state.root_hash),
        proof(state, CONTRACT),
        (proof(storage, META.to_bytes(32, "big")), proof(storage, ROOT.to_bytes(32, "big"))),
    )
    with pytest.raises(MalformedError):
        read(receipt)


# Headers


def test_headers_of_later_forks_are_read() -> None:
    for fields in range(25):
        assert parse_header(header(more=(b"\1",) * fields)).number == 9


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "nothing"),
        (b"\xc0", "no fields"),
        (encode_rlp(b"header"), "a string"),
        (header() + b"\0", "something after it"),
        (header(more=(b"",) * 26), "more fields than any fork"),
        (header(state_root=bytes(31)), "a short state root"),
        (header(number=b"\0\1"), "a number with a leading zero"),
        (header(number=b"\1" * 9), "a number beyond 64 bits"),
        (header(timestamp=b"\0"), "a timestamp with a leading zero"),
        (header(timestamp=b"\1" * 9), "a timestamp beyond 64 bits"),
        (encode_rlp(((),) * 15), "lists for fields"),
        (header()[:-1], "cut off"),
    ],
)
def test_what_is_no_header_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(MalformedError):
        parse_header(data)


def test_every_field_of_fixed_length_is_checked() -> None:
    fields = decode_rlp(header(), what="test", max_depth=1)
    for index, field in enumerate(fields):
        assert isinstance(field, bytes)
        if len(field) in (8, 20, 32, 256):
            for other in (field[1:], field + b"\0"):
                with pytest.raises(MalformedError):
                    parse_header(encode_rlp((*fields[:index], other, *fields[index + 1 :])))


def test_large_headers_are_refused_unread() -> None:
    with pytest.raises(LimitExceeded):
        parse_header(b"\xff" * (MAX_HEADER_BYTES + 1))


@settings(deadline=None)
@given(st.binary(max_size=700))
def test_parse_header_is_total(data: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_header(data)


# Canonical bytes


nodes = st.lists(st.binary(max_size=40), max_size=4).map(tuple)


@settings(deadline=None)
@given(st.binary(max_size=100), nodes, nodes, nodes)
def test_receipts_round_trip(
    header: bytes, account: tuple[bytes, ...], meta: tuple[bytes, ...], root: tuple[bytes, ...]
) -> None:
    receipt = AnchorReceipt(header, account, (meta, root))
    assert parse_receipt(encode_receipt(receipt)) == receipt
    assert receipt_digest(receipt) != receipt_digest(replace(receipt, header=header + b"\0"))


def test_altered_receipt_bytes_are_another_receipt_or_none() -> None:
    rng = random.Random(7)
    genuine = encode_receipt(EXAMPLE.receipt)
    for _ in range(1000):
        changed = rng.choice(mutations())(rng, genuine)
        try:
            assert changed == genuine or parse_receipt(changed) != EXAMPLE.receipt
        except MalformedError:
            continue


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        {"header": b"", "account_proof": []},
        {"header": b"", "account_proof": [], "storage_proofs": []},
        {"header": b"", "account_proof": [], "storage_proofs": [[]]},
        {"header": b"", "account_proof": [], "storage_proofs": [[], [], []]},
        {"header": b"", "account_proof": [], "storage_proofs": [[], b""]},
        {"header": b"", "account_proof": [], "storage_proofs": [[], ["text"]]},
        {"header": b"", "account_proof": [1], "storage_proofs": [[], []]},
        {"header": b"", "account_proof": [b""] * 66, "storage_proofs": [[], []]},
        {"header": "", "account_proof": [], "storage_proofs": [[], []]},
        {"header": b"", "account_proof": [], "storage_proofs": [[], []], "more": 1},
        {"header": bytes(MAX_HEADER_BYTES + 1), "account_proof": [], "storage_proofs": [[], []]},
    ],
)
def test_what_is_no_receipt_is_refused(value: object) -> None:
    with pytest.raises(MalformedError):
        parse_receipt(encode(value))


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_parse_receipt_is_total(data: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_receipt(data)


# The offline verifier's part


def test_no_chain_library_is_loaded() -> None:
    code = (
        "import sys, anchoring.receipt\n"
        "bad = {'web3', 'eth', 'eth_tester', 'eth_account', 'eth_utils', 'rlp', 'trie', 'sqlalchemy', 'httpx'}\n"
        "sys.exit(repr(bad & set(sys.modules)) if bad & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=SPEC.parents[2], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
