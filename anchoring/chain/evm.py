"""py-evm as the machine of the development chain: mines each transaction at once, keeps everything in a key-value file.

Importing this module loads py-evm, which takes more than a second: only ``anchoring.chain.dev`` does, when it has to.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, cast

import rlp
from eth.abc import BlockHeaderAPI, ReceiptAPI, SignedTransactionAPI, VirtualMachineAPI
from eth.chains.base import MiningChain
from eth.constants import POST_MERGE_DIFFICULTY, POST_MERGE_MIX_HASH, POST_MERGE_NONCE, ZERO_ADDRESS
from eth.db.atomic import AtomicDB
from eth.db.backends.base import BaseDB
from eth.exceptions import PyEVMError, Revert, TransactionNotFound, VMError
from eth.typing import AccountDetails
from eth.vm.forks.cancun import CancunVM
from eth.vm.interrupt import EVMMissingData
from eth.vm.spoof import SpoofTransaction
from eth_hash.auto import keccak
from eth_typing import Address, BlockNumber, Hash32
from eth_utils.exceptions import ValidationError
from trie.exceptions import MissingTrieNode

from anchoring.chain.client import CallReverted, Inclusion, SendRefused, WhyRefused
from anchoring.chain.keyvalue import KeyValueFile
from anchoring.chain.transactions import contract_address
from anchoring.receipt import DEVELOPMENT_CHAIN_ID
from identity.errors import DamagedFile, TransportError

__all__ = ["Evm", "Executed"]

_ERROR_SELECTOR: Final = bytes.fromhex("08c379a0")
"""Of ``Error(string)``, in which contracts give their reasons."""

_UNREADABLE: Final = (
    PyEVMError,
    MissingTrieNode,
    rlp.exceptions.RLPException,
    ValidationError,
    LookupError,
    ValueError,
    TypeError,
)
"""What py-evm raises when its database does not hold what it put there."""

_GAS_LIMIT: Final = 30_000_000
_FUNDS: Final = 10**30
"""Wei at the faucet's address in the first block: more than anybody will spend."""


@dataclass(frozen=True, slots=True)
class Executed:
    """A mined transaction and its effect. ``contract`` is the address of what it created; ``logs`` are (address,
    topics, data); amounts are gas, and wei for each unit of gas.
    """

    hash: bytes
    kind: int
    sender: bytes
    to: bytes | None
    contract: bytes | None
    succeeded: bool
    gas_used: int
    cumulative_gas_used: int
    gas_price: int
    bloom: int
    logs: tuple[tuple[bytes, tuple[bytes, ...], bytes], ...]


class Evm:
    """A chain with one transaction in each block, and the blocks final as soon as they are mined.

    Not safe to use from two threads at once, and only one may exist for a file: its owner sees to both.
    """

    def __init__(self, store: KeyValueFile, faucet: bytes, clock_s: Callable[[], int]) -> None:
        """Open the chain in ``store``, or begin it there. ``faucet`` is the address that gets all the coins."""
        # What py-evm would log with an error is the content of its database; the error itself is raised.
        logging.getLogger("eth").setLevel(logging.CRITICAL + 1)
        self._store = store
        self._clock_s = clock_s
        self._database = AtomicDB(_Database(store))
        if store.is_empty():
            funds = AccountDetails(balance=_FUNDS, nonce=0, code=b"", storage={})
            with store.transaction():
                store.create_table()
                _Chain.from_genesis(self._database, self._genesis(), {Address(faucet): funds})
        self._chain = self._open()

    def _open(self) -> _Chain:
        with _readable():
            return _Chain(self._database)

    def _genesis(self) -> dict[str, Any]:
        return {
            "coinbase": ZERO_ADDRESS,
            "difficulty": POST_MERGE_DIFFICULTY,
            "gas_limit": _GAS_LIMIT,
            "mix_hash": POST_MERGE_MIX_HASH,
            "nonce": POST_MERGE_NONCE,
            "timestamp": self._clock_s(),
            # No two development chains are the same chain, although they share an id.
            "extra_data": secrets.token_bytes(32),
        }

    def send_raw(self, raw: bytes) -> None:
        """Execute a signed transaction and mine it into a block of its own. Raises ``SendRefused``."""
        transaction = self._decode(raw)
        self._check(transaction)
        try:
            with self._mining():
                self._chain.apply_transaction(transaction)
        except EVMMissingData as exc:
            raise DamagedFile(f"the development chain has lost a part of its state: {exc}") from exc
        except (ValidationError, PyEVMError) as exc:
            raise SendRefused(WhyRefused.OTHER, str(exc)) from exc

    def mine(self) -> None:
        """Add an empty block."""
        with _readable(), self._mining():
            pass

    def inclusion(self, transaction_hash: bytes) -> Inclusion | None:
        """Where a transaction was mined, or None."""
        with _readable():
            try:
                number, index = self._chain.chaindb.get_transaction_index(Hash32(transaction_hash))
            except TransactionNotFound:
                return None
            header = self._chain.get_canonical_block_header_by_number(number)
            receipt = self._chain.get_transaction_receipt_by_index(number, index)
            return Inclusion(header.hash, number, receipt.state_root == b"\x01")

    def executed(self, number: int) -> tuple[Executed, ...]:
        """What was executed in a canonical block."""
        gas_before = 0
        result = []
        with _readable():
            block = self._chain.get_canonical_block_by_number(BlockNumber(number))
            for transaction, receipt in zip(block.transactions, block.get_receipts(self._chain.chaindb), strict=True):
                result.append(_executed(transaction, receipt, gas_before, block.header.base_fee_per_gas or 0))
                gas_before = receipt.gas_used
        return tuple(result)

    def call(self, sender: bytes, contract: bytes, data: bytes) -> bytes:
        """What the contract returns in the newest state. Raises ``CallReverted`` when it refuses."""
        header = self._chain.get_canonical_head()
        nonce = self._chain.get_vm().state.get_nonce(Address(sender))
        transaction = self._chain.create_unsigned_transaction(
            nonce=nonce, gas_price=0, gas=_GAS_LIMIT, to=Address(contract), value=0, data=data
        )
        # Duck-typed by py-evm: a transaction that needs no signature because it only looks.
        unsigned = cast(SignedTransactionAPI, SpoofTransaction(transaction, from_=Address(sender)))
        try:
            return self._chain.get_transaction_result(unsigned, header)
        except Revert as exc:
            output = exc.args[0] if isinstance(exc.args[0], bytes) else b""
            raise CallReverted(_revert_reason(output), output) from exc
        except (VMError, ValidationError) as exc:
            raise TransportError(f"execution failed: {exc}") from exc

    def next_base_fee(self) -> int:
        """The base fee of the block that the next transaction goes into."""
        return self._chain.header.base_fee_per_gas or 0

    def _decode(self, raw: bytes) -> SignedTransactionAPI:
        try:
            transaction = self._chain.get_vm().get_transaction_builder().decode(raw)
            transaction.validate()
            transaction.check_signature_validity()
        except (ValidationError, PyEVMError, rlp.exceptions.RLPException, ValueError, IndexError, TypeError) as exc:
            raise SendRefused(WhyRefused.OTHER, f"not a signed transaction: {exc}") from exc
        if transaction.encode() != raw:
            raise SendRefused(WhyRefused.OTHER, "not the canonical bytes of a transaction")
        return transaction

    def _check(self, transaction: SignedTransactionAPI) -> None:
        """Say why a node would refuse it, as nodes do before they execute anything."""
        state = self._chain.get_vm().state
        nonce = state.get_nonce(transaction.sender)
        if transaction.chain_id != DEVELOPMENT_CHAIN_ID:
            raise SendRefused(WhyRefused.OTHER, f"signed for chain {transaction.chain_id}")
        if transaction.nonce < nonce:
            raise SendRefused(WhyRefused.NONCE_USED, f"nonce too low: {transaction.nonce}, next is {nonce}")
        if transaction.nonce > nonce:
            raise SendRefused(WhyRefused.OTHER, f"nonce too high: {transaction.nonce}, next is {nonce}")
        if transaction.max_fee_per_gas < self.next_base_fee():
            raise SendRefused(WhyRefused.UNDERPRICED, f"max fee below the base fee of {self.next_base_fee()} wei")
        cost = transaction.value + transaction.gas * transaction.max_fee_per_gas
        if cost > state.get_balance(transaction.sender):
            raise SendRefused(WhyRefused.NO_FUNDS, f"insufficient funds for {cost} wei")

    @contextmanager
    def _mining(self) -> Iterator[None]:
        """What is executed inside goes into the next block, in one transaction of the file."""
        parent = self._chain.get_canonical_head()
        self._chain.set_header_timestamp(max(self._clock_s(), parent.timestamp))
        try:
            with self._store.transaction():
                yield
                self._chain.mine_block(coinbase=ZERO_ADDRESS, mix_hash=Hash32(secrets.token_bytes(32)))
        except BaseException:
            # The chain object may hold what the file has not kept.
            self._chain = self._open()
            raise


@contextmanager
def _readable() -> Iterator[None]:
    """Let what py-evm cannot read out as damage of the file."""
    try:
        yield
    except _UNREADABLE as exc:
        raise DamagedFile(f"the development chain has lost or altered a part of itself: {exc}") from exc


class _SameSecondVM(CancunVM):
    """Cancun, except that blocks of one second share its timestamp.

    The chain mines on demand, several blocks in a second. With strictly growing timestamps its time would run ahead of
    the clock, and anchors would claim to be younger than the tokens that follow them.
    """

    @classmethod
    def validate_header(cls, header: BlockHeaderAPI, parent_header: BlockHeaderAPI) -> None:
        if header.timestamp == parent_header.timestamp:
            header = header.copy(timestamp=header.timestamp + 1)
        super().validate_header(header, parent_header)


class _Chain(MiningChain):
    chain_id = DEVELOPMENT_CHAIN_ID
    vm_configuration: tuple[tuple[BlockNumber, type[VirtualMachineAPI]], ...] = ((BlockNumber(0), _SameSecondVM),)

    def create_header_from_parent(self, parent_header: BlockHeaderAPI, **header_params: Any) -> BlockHeaderAPI:
        # Left alone, py-evm lets the gas limit drift with use.
        return super().create_header_from_parent(parent_header, gas_limit=parent_header.gas_limit, **header_params)


class _Database(BaseDB):
    """py-evm's view of the file."""

    def __init__(self, store: KeyValueFile) -> None:
        self._store = store

    def __getitem__(self, key: bytes) -> bytes:
        value = self._store.get(key)
        if value is None:
            raise KeyError(key)
        # Headers, trie nodes and code stand under their hashes, py-evm's own pointers under names.
        if len(key) == 32 and not key.startswith(b"v1:") and keccak(value) != key:
            raise DamagedFile(f"the development chain has altered what hashes to {key.hex()}")
        return value

    def __setitem__(self, key: bytes, value: bytes) -> None:
        self._store.put(key, value)

    def __delitem__(self, key: bytes) -> None:
        self._store.delete(key)

    def _exists(self, key: bytes) -> bool:
        return self._store.get(key) is not None


def _executed(transaction: SignedTransactionAPI, receipt: ReceiptAPI, gas_before: int, base_fee: int) -> Executed:
    creates = transaction.to == b""
    return Executed(
        hash=transaction.hash,
        kind=transaction.type_id or 0,
        sender=transaction.sender,
        to=None if creates else transaction.to,
        contract=contract_address(transaction.sender, transaction.nonce) if creates else None,
        succeeded=receipt.state_root == b"\x01",
        gas_used=receipt.gas_used - gas_before,
        cumulative_gas_used=receipt.gas_used,
        gas_price=min(transaction.max_fee_per_gas, base_fee + transaction.max_priority_fee_per_gas),
        bloom=receipt.bloom,
        logs=tuple(
            (log.address, tuple(topic.to_bytes(32, "big") for topic in log.topics), log.data) for log in receipt.logs
        ),
    )


def _revert_reason(data: bytes) -> str:
    """The text of a revert's ``Error(string)``, as far as it is one."""
    length = int.from_bytes(data[36:68], "big")
    return data[68 : 68 + length].decode("utf-8", "replace") if data[:4] == _ERROR_SELECTOR else data.hex()
