"""The embedded development chain: a real EVM in one file, for trying holdfast out and for its tests.

It keeps every promise of a chain except the one that matters to outsiders: it belongs to whoever runs it. Its id is
``DEVELOPMENT_CHAIN_ID`` and every report that rests on it says so. The file belongs outside the home, because a
restored home must not restore its chain.

``DevChainReader`` reads what the file holds, beside a running chain and without loading py-evm; ``DevChain`` is the one
process that writes.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from eth_hash.auto import keccak

from anchoring.chain.client import Fees, Inclusion, SlotProofs
from anchoring.chain.keyvalue import KeyValueFile
from anchoring.chain.transactions import LocalKey, Transaction, transaction_hash
from anchoring.receipt import DEVELOPMENT_CHAIN_ID, BlockHeader, parse_header
from anchoring.rlp_codec import decode_rlp
from anchoring.trie_proof import lookup
from identity.errors import DamagedFile, MalformedError, StorageError, StoreBusy, TransportError

if TYPE_CHECKING:
    from anchoring.chain.evm import Evm, Executed

__all__ = ["DevChain", "DevChainReader", "MinedBlock"]

_FAUCET_SECRET: Final = (1).to_bytes(32, "big")
_FAUCET_ADDRESS: Final = bytes.fromhex("7e5f4552091a69125d5dfcb7b8c2659029395bdf")
"""The address of the key 1: whoever can reach the chain may take coins, they are worth nothing."""

_PRIORITY_FEE: Final = 10**9
_TRANSFER_GAS: Final = 21_000

# py-evm's names for what a chain keeps besides trie nodes and headers, which stand under their own hashes.
_HEAD_KEY: Final = b"v1:canonical_head_hash"
_NUMBER_KEY: Final = b"block-number-to-hash:%d"


class _StoredChain:
    """Reading what the chain's file holds; every block of this chain is final."""

    def __init__(self, store: KeyValueFile) -> None:
        self._store = store
        self._mutex = threading.RLock()

    def chain_id(self) -> int:
        """``DEVELOPMENT_CHAIN_ID``."""
        return DEVELOPMENT_CHAIN_ID

    def head_number(self) -> int:
        """The number of the newest block."""
        return self._head().number

    def final_number(self) -> int:
        """The number of the newest block."""
        return self.head_number()

    def header(self, number: int) -> bytes:
        """The RLP of the block header. Raises ``TransportError`` when there is no such block yet."""
        with self._mutex:
            pointer = self._store.get(_NUMBER_KEY % number)
            if pointer is None:
                raise TransportError(f"the development chain has no block {number}")
            return self._fetch(pointer[1:])

    def get_proof(self, contract: bytes, slots: Sequence[int], number: int) -> SlotProofs:
        """Proofs in the state after block ``number``, any block since the first."""
        header = self._parse(self.header(number))
        with self._mutex:
            account, account_proof = self._prove(header.state_root, contract)
            if account is None:
                return SlotProofs(account_proof, tuple(() for _ in slots))
            keys = (slot.to_bytes(32, "big") for slot in slots)
            return SlotProofs(account_proof, tuple(self._prove(_account_field(account, 2), key)[1] for key in keys))

    def close(self) -> None:
        """Release the file. Idempotent."""
        with self._mutex:
            self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _head(self) -> BlockHeader:
        with self._mutex:
            pointer = self._store.get(_HEAD_KEY)
            if pointer is None:
                raise DamagedFile("the development chain has lost its newest block")
            return self._parse(self._fetch(pointer))

    def _account(self, address: bytes) -> bytes | None:
        """The account's RLP in the newest state, or None."""
        with self._mutex:
            return self._prove(self._head().state_root, address)[0]

    def _prove(self, root: bytes, name: bytes) -> tuple[bytes | None, tuple[bytes, ...]]:
        """The value under keccak(name), and the nodes on the way to it."""
        nodes: list[bytes] = []

        def fetch(node_hash: bytes) -> bytes:
            nodes.append(self._fetch(node_hash))
            return nodes[-1]

        try:
            value = lookup(root, keccak(name), fetch, what="development chain")
        except MalformedError as exc:
            raise DamagedFile(f"the development chain's state is damaged: {exc}") from exc
        return value, tuple(nodes)

    def _fetch(self, content_hash: bytes) -> bytes:
        content = self._store.get(content_hash)
        if content is None or keccak(content) != content_hash:
            raise DamagedFile(f"the development chain has lost or altered what hashes to {content_hash.hex()}")
        return content

    def _parse(self, header: bytes) -> BlockHeader:
        try:
            return parse_header(header)
        except MalformedError as exc:
            raise DamagedFile(f"the development chain's header is damaged: {exc}") from exc


class DevChainReader(_StoredChain):
    """Reads the chain's state beside the process that writes it. Any number may be open."""

    def __init__(self, path: Path) -> None:
        """Raises ``StorageError`` when there is no chain at ``path``."""
        super().__init__(KeyValueFile(path, read_only=True))


@dataclass(frozen=True, slots=True)
class MinedBlock:
    """A block: its header's RLP, and what was executed in it."""

    header: bytes
    executed: tuple[Executed, ...]


class DevChain(_StoredChain):
    """The chain itself. One process has it open at a time; its methods may be called from any thread."""

    def __init__(
        self, path: Path, *, create: bool = False, wait_s: float = 2.0, clock_s: Callable[[], float] = time.time
    ) -> None:
        """Open the chain at ``path``; with ``create``, begin one if there is none.

        Waits up to ``wait_s`` seconds for another process to let go of it, then raises ``StoreBusy``. ``clock_s`` gives
        the time of new blocks, in seconds since the epoch. Raises ``StorageError`` when there is no chain and it is not
        to be created.
        """
        if not create and not path.exists():
            raise StorageError(f"there is no development chain at {path}")
        self._clock_s = clock_s
        self._machine: Evm | None = None
        with ExitStack() as opened:
            opened.callback(os.close, _take_lock(path, wait_s))
            super().__init__(KeyValueFile(path, create=create))
            opened.callback(self._store.close)
            if self._store.is_empty():
                self._evm()
            self._opened = opened.pop_all()

    def code(self, address: bytes) -> bytes:
        """The code at the address, empty when there is none."""
        with self._mutex:
            account = self._account(address)
            code_hash = b"" if account is None else _account_field(account, 3)
            return b"" if code_hash in (b"", keccak(b"")) else self._fetch(code_hash)

    def balance(self, address: bytes) -> int:
        """The address's balance."""
        return self._account_number(address, 1)

    def transaction_count(self, address: bytes) -> int:
        """How many transactions of the address are mined."""
        return self._account_number(address, 0)

    def fees(self) -> Fees:
        """The base fee of the next block, and a tip that nobody needs."""
        with self._mutex:
            return Fees(self._evm().next_base_fee(), _PRIORITY_FEE)

    def call(self, contract: bytes, data: bytes, sender: bytes = bytes(20)) -> bytes:
        """What the contract returns to ``sender``. Raises ``CallReverted`` when it refuses."""
        with self._mutex:
            return self._evm().call(sender, contract, data)

    def send_raw(self, raw: bytes) -> bytes:
        """Execute and mine a signed transaction; when this returns it is durable. Raises ``SendRefused``."""
        sent = transaction_hash(raw)
        with self._mutex:
            if self.inclusion(sent) is None:
                self._evm().send_raw(raw)
        return sent

    def inclusion(self, transaction_hash: bytes) -> Inclusion | None:
        """Where the transaction was mined, or None."""
        with self._mutex:
            return self._evm().inclusion(transaction_hash)

    def block(self, number: int) -> MinedBlock:
        """A block with what was executed in it. Raises ``TransportError`` when there is no such block yet."""
        header = self.header(number)
        with self._mutex:
            return MinedBlock(header, self._evm().executed(number))

    def block_number(self, block_hash: bytes) -> int | None:
        """The number of the block of that hash, or None."""
        with self._mutex:
            header = self._store.get(block_hash)
        return None if header is None else self._parse(header).number

    def mine(self) -> None:
        """Add an empty block."""
        with self._mutex:
            self._evm().mine()

    def fund(self, address: bytes, wei: int) -> None:
        """Give the address coins, which have no value."""
        with self._mutex:
            fees = self.fees()
            transfer = Transaction(
                chain_id=DEVELOPMENT_CHAIN_ID,
                nonce=self.transaction_count(_FAUCET_ADDRESS),
                to=address,
                data=b"",
                gas=_TRANSFER_GAS,
                max_fee=fees.base + fees.priority,
                priority_fee=fees.priority,
                value=wei,
            )
            self.send_raw(LocalKey(_FAUCET_SECRET).sign(transfer))

    def close(self) -> None:
        """Release the chain. Idempotent."""
        with self._mutex:
            self._opened.close()

    def _account_number(self, address: bytes, field: int) -> int:
        with self._mutex:
            account = self._account(address)
            return 0 if account is None else int.from_bytes(_account_field(account, field), "big")

    def _evm(self) -> Evm:
        """The machine, loaded when something is to be executed."""
        if self._machine is None:
            from anchoring.chain.evm import Evm

            self._machine = Evm(self._store, _FAUCET_ADDRESS, lambda: int(self._clock_s()))
        return self._machine


def _account_field(account: bytes, index: int) -> bytes:
    """Field ``index`` of an account: nonce, balance, storage root, code hash."""
    fields = decode_rlp(account, what="account", max_depth=1)
    field = fields[index]
    assert isinstance(field, bytes)
    return field


def _take_lock(path: Path, wait_s: float) -> int:
    """The exclusive lock on the chain, as an open file. Not on the database itself: SQLite locks and closes that."""
    try:
        descriptor = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise StorageError(f"cannot open {path}.lock: {exc.strerror}") from exc
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError as exc:
            if time.monotonic() >= deadline:
                os.close(descriptor)
                raise StoreBusy(f"another process has the development chain at {path}") from exc
            time.sleep(0.05)
