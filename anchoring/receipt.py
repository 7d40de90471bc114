"""The anchor receipt: what shows, from one trusted block hash, which size and root a log had in the anchor contract.

A receipt is the block header's RLP, the proof of the contract's account in the header's state root, and the proofs of
two storage slots in the account's storage root. Everything in it is covered by the block hash; who vouches for that
hash is the verifier's policy, not this module. The slots are derived here from the owner and the log id, never read
from the receipt, because a proof of another slot would be a valid proof of nothing.

Spec: docs/spec/anchor.md. The contract is anchoring/contracts/Anchor.vy.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from eth_hash.auto import keccak

from anchoring.rlp_codec import Item, decode_rlp, integer_from_rlp
from anchoring.trie_proof import MAX_PROOF_NODES, verify_trie_proof
from identity.contexts import ANCHOR_RECEIPT_DIGEST
from identity.encoding import Fields, decode, encode
from identity.errors import LimitExceeded, MalformedError, ReceiptMismatch

__all__ = [
    "DEVELOPMENT_CHAIN_ID",
    "MAX_HEADER_BYTES",
    "AnchorReceipt",
    "AnchorRecord",
    "BlockHeader",
    "VerifiedAnchor",
    "encode_receipt",
    "parse_header",
    "parse_receipt",
    "read_anchor",
    "read_successor",
    "receipt_digest",
    "slots",
    "verify_receipt",
]

DEVELOPMENT_CHAIN_ID: Final = 0x4844_4656
"""The embedded chain's id. No public network has it; what is anchored there proves nothing to an outsider."""

MAX_HEADER_BYTES: Final = 16_384
"""Ethereum's headers have about 650 bytes; chains with signed extra data need more."""

_SLOT_MASK: Final = 2**256 - 1
_UINT64: Final = 2**64 - 1
_CLOSED: Final = 1 << 255
_EMPTY_ROOT: Final = bytes(32)

# The classic header fields: what they are called in the yellow paper, and their length in bytes where it is fixed.
_HEADER_FIELDS: Final = (
    ("parentHash", 32),
    ("ommersHash", 32),
    ("beneficiary", 20),
    ("stateRoot", 32),
    ("transactionsRoot", 32),
    ("receiptsRoot", 32),
    ("logsBloom", 256),
    ("difficulty", None),
    ("number", None),
    ("gasLimit", None),
    ("gasUsed", None),
    ("timestamp", None),
    ("extraData", None),
    ("mixHash", 32),
    ("nonce", 8),
)
_STATE_ROOT: Final = 3
_NUMBER: Final = 8
_TIMESTAMP: Final = 11
_MAX_HEADER_FIELDS: Final = 40


@dataclass(frozen=True, slots=True)
class AnchorRecord:
    """What the contract holds for one owner and log: the newest anchor.

    ``size`` and ``root`` are the checkpoint's; ``time_s`` (seconds since the epoch) and ``block`` say where the anchor
    was mined. A log that was closed without ever being anchored has size 0 and a root of zeros.
    """

    size: int
    time_s: int
    block: int
    closed: bool
    root: bytes


@dataclass(frozen=True, slots=True)
class BlockHeader:
    """The parts of a block header that matter here. ``hash`` is Keccak-256 of the header's RLP."""

    hash: bytes
    number: int
    timestamp_s: int
    state_root: bytes


@dataclass(frozen=True, slots=True)
class AnchorReceipt:
    """A receipt as it was fetched, nothing checked: RLP bytes throughout.

    ``storage_proofs`` are those of the meta slot and of the root slot, in this order; a proof is the list of trie
    nodes from the root to the value, empty for an empty trie.
    """

    header: bytes
    account_proof: tuple[bytes, ...]
    storage_proofs: tuple[tuple[bytes, ...], tuple[bytes, ...]]


@dataclass(frozen=True, slots=True)
class VerifiedAnchor:
    """An anchor that stands in the contract's storage under a trusted block hash."""

    record: AnchorRecord
    header: BlockHeader


def slots(owner: bytes, log_id: bytes) -> tuple[int, int, int]:
    """The storage slots of (owner, log): meta, root, successor.

    ``owner`` is the 20-byte address that anchors, ``log_id`` 32 bytes.
    """
    by_owner = keccak(bytes(32) + owner.rjust(32, b"\0"))
    meta = int.from_bytes(keccak(by_owner + log_id), "big")
    return meta, meta + 1 & _SLOT_MASK, meta + 2 & _SLOT_MASK


def parse_header(data: bytes) -> BlockHeader:
    """Parse a block header's RLP: the fifteen classic fields and whatever later forks append.

    Raises ``MalformedError``. The hash is computed, not checked against anything.
    """
    if len(data) > MAX_HEADER_BYTES:
        raise LimitExceeded(f"block header: {len(data)} bytes, at most {MAX_HEADER_BYTES} are read")
    fields = decode_rlp(data, what="block header", max_depth=1)
    if isinstance(fields, bytes) or not len(_HEADER_FIELDS) <= len(fields) <= _MAX_HEADER_FIELDS:
        raise MalformedError("block header: not a list of the fields of a header")
    for field, (name, length) in zip(fields, _HEADER_FIELDS, strict=False):
        if length is not None and len(field) != length:
            raise MalformedError(f"block header: {name} has {len(field)} bytes, not {length}")
    return BlockHeader(
        hash=keccak(data),
        number=integer_from_rlp(fields[_NUMBER], what="block header: number", max_bytes=8),
        timestamp_s=integer_from_rlp(fields[_TIMESTAMP], what="block header: timestamp", max_bytes=8),
        state_root=_bytes(fields[_STATE_ROOT], 32, "block header: stateRoot"),
    )


def verify_receipt(
    receipt: AnchorReceipt, *, contract: bytes, owner: bytes, log_id: bytes, block_hash: bytes, code_hash: bytes
) -> VerifiedAnchor:
    """The anchor that the receipt shows for (``contract``, ``owner``, ``log_id``) in the block of ``block_hash``.

    ``contract`` and ``owner`` are 20-byte addresses. ``block_hash`` and ``code_hash`` (Keccak-256 of the contract's
    runtime code) are taken on trust from the policy. Raises ``ReceiptMismatch`` with one of the reasons of
    docs/spec/anchor.md, NO_ANCHOR among them, and ``MalformedError`` for bytes that are no header or no trie node.
    """
    header = _verify_header(receipt.header, block_hash)
    record = _read_record(receipt, header, contract, owner, log_id, code_hash)
    if record is None or record.size == 0:
        raise ReceiptMismatch("NO_ANCHOR", f"block {header.number} holds no anchor of this log")
    return VerifiedAnchor(record, header)


def read_anchor(
    receipt: AnchorReceipt, *, contract: bytes, owner: bytes, log_id: bytes, block_hash: bytes, code_hash: bytes
) -> AnchorRecord | None:
    """Like ``verify_receipt``, for asking where a log stands: None when the receipt proves that there is no record.

    A log that was closed but never anchored has a record of size 0.
    """
    header = _verify_header(receipt.header, block_hash)
    return _read_record(receipt, header, contract, owner, log_id, code_hash)


def read_successor(
    receipt: AnchorReceipt,
    successor_proof: tuple[bytes, ...],
    *,
    contract: bytes,
    owner: bytes,
    log_id: bytes,
    block_hash: bytes,
    code_hash: bytes,
) -> tuple[AnchorRecord | None, bytes]:
    """Like ``read_anchor``, and which log goes on when this one was closed: its id, or 32 zero bytes for none."""
    header = _verify_header(receipt.header, block_hash)
    record = _read_record(receipt, header, contract, owner, log_id, code_hash)
    storage_root = _verify_account(header.state_root, receipt.account_proof, contract, code_hash)
    successor = _verify_slot(storage_root, slots(owner, log_id)[2], successor_proof, "successor slot")
    if successor and (record is None or not record.closed):
        raise ReceiptMismatch("IMPOSSIBLE_RECORD", "a successor of a log that is not closed")
    return record, successor.to_bytes(32, "big")


def encode_receipt(receipt: AnchorReceipt) -> bytes:
    """The receipt's canonical bytes, as they are archived and hashed."""
    return encode(
        {
            "header": receipt.header,
            "account_proof": list(receipt.account_proof),
            "storage_proofs": [list(nodes) for nodes in receipt.storage_proofs],
        }
    )


def parse_receipt(data: bytes) -> AnchorReceipt:
    """Parse canonical receipt bytes. Raises ``MalformedError``. Nothing is verified."""
    fields = Fields(decode(data), "anchor receipt")
    header = fields.bytes("header", max=MAX_HEADER_BYTES)
    account_proof = _nodes(fields.list("account_proof"))
    storage_proofs = fields.list("storage_proofs")
    fields.done()
    if len(storage_proofs) != 2:
        raise MalformedError(f"anchor receipt: {len(storage_proofs)} storage proofs, not 2")
    return AnchorReceipt(header, account_proof, (_nodes(storage_proofs[0]), _nodes(storage_proofs[1])))


def receipt_digest(receipt: AnchorReceipt) -> bytes:
    """SHA-256 over the receipt's canonical bytes: what an ``anchor`` statement of the log names."""
    return sha256(ANCHOR_RECEIPT_DIGEST + encode_receipt(receipt)).digest()


def _verify_header(data: bytes, block_hash: bytes) -> BlockHeader:
    header = parse_header(data)
    if header.hash != block_hash:
        raise ReceiptMismatch("HEADER_HASH", f"the header hashes to {header.hash.hex()}, not {block_hash.hex()}")
    return header


def _read_record(
    receipt: AnchorReceipt, header: BlockHeader, contract: bytes, owner: bytes, log_id: bytes, code_hash: bytes
) -> AnchorRecord | None:
    storage_root = _verify_account(header.state_root, receipt.account_proof, contract, code_hash)
    meta_slot, root_slot, _ = slots(owner, log_id)
    meta_proof, root_proof = receipt.storage_proofs
    meta = _verify_slot(storage_root, meta_slot, meta_proof, "meta slot")
    root = _verify_slot(storage_root, root_slot, root_proof, "root slot")
    if meta == 0 and root == 0:
        return None
    return _parse_record(meta, root, header)


def _verify_account(state_root: bytes, proof: tuple[bytes, ...], contract: bytes, code_hash: bytes) -> bytes:
    """The storage root of the contract's account, whose code must be the expected one."""
    data = verify_trie_proof(state_root, keccak(contract), proof, what="account proof")
    if data is None:
        raise ReceiptMismatch("NO_CONTRACT", f"there is no account {contract.hex()} in this block")
    account = decode_rlp(data, what="account", max_depth=1)
    if isinstance(account, bytes) or len(account) != 4:
        raise MalformedError("account: not a list of nonce, balance, storage root and code hash")
    integer_from_rlp(account[0], what="account: nonce", max_bytes=8)
    integer_from_rlp(account[1], what="account: balance", max_bytes=32)
    found = _bytes(account[3], 32, "account: code hash")
    if found != code_hash:
        raise ReceiptMismatch("CODE_HASH", f"the account's code hashes to {found.hex()}, not {code_hash.hex()}")
    return _bytes(account[2], 32, "account: storage root")


def _verify_slot(storage_root: bytes, slot: int, proof: tuple[bytes, ...], what: str) -> int:
    """The slot's value; an absent slot is 0. A stored zero cannot be: the chain deletes such slots."""
    data = verify_trie_proof(storage_root, keccak(slot.to_bytes(32, "big")), proof, what=what)
    if data is None:
        return 0
    value = integer_from_rlp(decode_rlp(data, what=what, max_depth=0), what=what, max_bytes=32)
    if value == 0:
        raise MalformedError(f"{what}: a stored zero")
    return value


def _parse_record(meta: int, root: int, header: BlockHeader) -> AnchorRecord:
    """Unpack the meta word. The checks hold for anything that the contract can have written."""
    record = AnchorRecord(
        size=meta & _UINT64,
        time_s=meta >> 64 & _UINT64,
        block=(meta & ~_CLOSED) >> 128,
        closed=bool(meta & _CLOSED),
        root=root.to_bytes(32, "big"),
    )
    anchored = record.size > 0 and root != 0 and 0 < record.block <= header.number
    never_anchored = record == AnchorRecord(0, 0, 0, True, _EMPTY_ROOT)
    if not (anchored and record.time_s <= header.timestamp_s) and not never_anchored:
        raise ReceiptMismatch("IMPOSSIBLE_RECORD", f"the contract cannot have written {record}")
    return record


def _bytes(value: Item, length: int, what: str) -> bytes:
    if not isinstance(value, bytes) or len(value) != length:
        raise MalformedError(f"{what}: not {length} bytes")
    return value


def _nodes(value: object) -> tuple[bytes, ...]:
    if not isinstance(value, list) or len(value) > MAX_PROOF_NODES:
        raise MalformedError(f"anchor receipt: a proof is not a list of at most {MAX_PROOF_NODES} trie nodes")
    if not all(isinstance(node, bytes) for node in value):
        raise MalformedError("anchor receipt: a trie node is not a byte string")
    return tuple(value)
