"""The anchor contract as it ships: its code, and its calls as the EVM wants them.

Anchor.vy is the source, anchor.json what the compiler made of it; ``python -m anchoring.contracts.build`` makes it
again. Users never compile.

Spec: docs/spec/anchor.md.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from eth_hash.auto import keccak

__all__ = ["AnchorContract", "anchor_call", "close_call", "load_contract", "records_call"]


@dataclass(frozen=True, slots=True)
class AnchorContract:
    """A compiled contract. ``creation_code`` deploys ``runtime_code``; ``code_hash`` is Keccak-256 of the latter."""

    abi: tuple[dict[str, Any], ...]
    creation_code: bytes
    runtime_code: bytes
    code_hash: bytes
    compiler: str
    source_sha256: bytes


@cache
def load_contract() -> AnchorContract:
    """The contract that this version of holdfast deploys and recognises."""
    artifact = json.loads(files(__package__).joinpath("anchor.json").read_text(encoding="utf-8"))
    return AnchorContract(
        abi=tuple(artifact["abi"]),
        creation_code=bytes.fromhex(artifact["bytecode"]),
        runtime_code=bytes.fromhex(artifact["runtime"]),
        code_hash=bytes.fromhex(artifact["code_hash"]),
        compiler=artifact["compiler"],
        source_sha256=bytes.fromhex(artifact["source_sha256"]),
    )


def anchor_call(log_id: bytes, prev_size: int, size: int, root: bytes) -> bytes:
    """Call data of ``anchor``: ``log_id`` and ``root`` of 32 bytes, sizes below 2^64."""
    return _call("anchor(bytes32,uint64,uint64,bytes32)", log_id, _word(prev_size), _word(size), root)


def close_call(log_id: bytes, successor: bytes) -> bytes:
    """Call data of ``close``; ``successor`` is a log id or 32 zero bytes."""
    return _call("close(bytes32,bytes32)", log_id, successor)


def records_call(owner: bytes, log_id: bytes) -> bytes:
    """Call data of the getter that returns (meta, root, successor), for looking at a node's state without proof."""
    return _call("records(address,bytes32)", owner.rjust(32, b"\0"), log_id)


def _call(signature: str, *words: bytes) -> bytes:
    return keccak(signature.encode())[:4] + b"".join(words)


def _word(number: int) -> bytes:
    return number.to_bytes(32, "big")
