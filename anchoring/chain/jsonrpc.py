"""An EVM chain behind JSON-RPC nodes: a strict client for the few methods that anchoring needs.

Answers are bounded in size and time, read once, and believed as little as possible: a block header is rebuilt from the
node's fields and must hash to the block hash the node gives. Where a fork has added a field that this code does not
know, the hash does not come out and the header is refused, unless the node gives its raw bytes.

Several URLs are alternatives of one chain: the next one is asked when one cannot be reached. Whether nodes agree is
found out by asking each through a client of its own.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from typing import Any, Final, Self

import httpx
from eth_hash.auto import keccak

from anchoring.chain.client import Fees, Inclusion, SendRefused, SlotProofs, WhyRefused
from anchoring.chain.transactions import transaction_hash
from anchoring.deadline import within
from anchoring.receipt import parse_header
from anchoring.rlp_codec import encode_rlp, integer_to_rlp
from identity.errors import ConfigurationError, MalformedError, TransportError
from identity.jsontext import parse_json

__all__ = ["HEADER_FIELDS", "JsonRpcChain", "NodeError"]

_MAX_ANSWER_BYTES: Final = 4 * 2**20
_GRACE_S: Final = 1.0
_MAX_PRIORITY_FEE_GUESS: Final = 10**9
"""Wei, for nodes that do not suggest a tip."""

_QUANTITY: Final = re.compile(r"0x(0|[1-9a-fA-F][0-9a-fA-F]{0,63})")
_DATA: Final = re.compile(r"0x([0-9a-fA-F]{2})*")

HEADER_FIELDS: Final = (
    ("parentHash", False),
    ("sha3Uncles", False),
    ("miner", False),
    ("stateRoot", False),
    ("transactionsRoot", False),
    ("receiptsRoot", False),
    ("logsBloom", False),
    ("difficulty", True),
    ("number", True),
    ("gasLimit", True),
    ("gasUsed", True),
    ("timestamp", True),
    ("extraData", False),
    ("mixHash", False),
    ("nonce", False),
    # Appended by later forks: London, Shanghai, Cancun (three), Prague.
    ("baseFeePerGas", True),
    ("withdrawalsRoot", False),
    ("blobGasUsed", True),
    ("excessBlobGas", True),
    ("parentBeaconBlockRoot", False),
    ("requestsHash", False),
)
"""A block header's fields in order, by their JSON names; True where the value is a number."""

_CLASSIC_FIELDS: Final = 15

# What nodes say instead of a code when they refuse a transaction. The first row is no refusal.
_ALREADY_KNOWN: Final = ("already known", "already imported", "known transaction", "alreadyknown", "already exists")
_REFUSALS: Final = (
    (WhyRefused.NONCE_USED, ("nonce too low", "nonce is too low", "nonce-used", "oldnonce")),
    (WhyRefused.UNDERPRICED, ("underpriced", "fee too low", "feetoolow", "less than block base fee", "price too low")),
    (WhyRefused.NO_FUNDS, ("insufficient funds", "insufficientfunds", "no-funds")),
)


class NodeError(TransportError):
    """The node answered with an error. ``code`` and ``message`` are its own."""

    def __init__(self, method: str, code: int, message: str) -> None:
        super().__init__(f"{method}: the node answered {code}: {message}")
        self.code = code
        self.message = message


class JsonRpcChain:
    """A chain, reached through one or several nodes of it. Safe to use from several threads."""

    def __init__(
        self,
        urls: Sequence[str],
        *,
        chain_id: int,
        confirmations: int | None,
        timeout_s: float = 10.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """``chain_id`` is pinned: a node of another chain is never used.

        A block is final when the node's ``finalized`` tag says so, or, with ``confirmations`` given, when that many
        blocks stand above it. ``timeout_s`` bounds each answer as a whole, to a second. Nothing is connected
        yet. Raises ``ConfigurationError`` for what is no URL.
        """
        self._urls = [_parse_url(url) for url in urls]
        if not self._urls:
            raise ConfigurationError("a chain needs the URL of a node")
        self._chain_id = chain_id
        self._confirmations = confirmations
        self._timeout_s = timeout_s
        self._checked: set[httpx.URL] = set()
        # The environment's proxies are not used: which way the traffic goes is for the settings to say.
        self._http = httpx.Client(
            timeout=timeout_s, transport=transport, trust_env=False, headers={"Accept-Encoding": "identity"}
        )

    def chain_id(self) -> int:
        """The pinned id, after a node has confirmed it."""
        return _quantity(self._request("eth_chainId"), "eth_chainId")

    def head_number(self) -> int:
        """The number of the newest block."""
        return _quantity(self._request("eth_blockNumber"), "eth_blockNumber")

    def final_number(self) -> int:
        """The number of the newest final block."""
        if self._confirmations is not None:
            return max(0, self.head_number() - self._confirmations)
        return _quantity(_member(self._block("finalized"), "number", "eth_getBlockByNumber"), "finalized number")

    def header(self, number: int) -> bytes:
        """The RLP of the canonical block header of that number; it hashes to the hash that the node gives."""
        block = self._block(hex(number))
        block_hash = _data(_member(block, "hash", "block"), "block hash", 32)
        header = _rebuild_header(block)
        if keccak(header) != block_hash:
            header = self._raw_header(number, block_hash)
        try:
            found = parse_header(header).number
        except MalformedError as exc:
            raise TransportError(f"the node's {exc}") from exc
        if found != number:
            raise TransportError(f"the node was asked for block {number} and gave block {found}")
        return header

    def get_proof(self, contract: bytes, slots: Sequence[int], number: int) -> SlotProofs:
        """Proofs of the contract's account and of its storage slots, in the state after block ``number``."""
        # Always 32 bytes: the shortest form of slot 0 is refused by some nodes.
        keys = ["0x" + slot.to_bytes(32, "big").hex() for slot in slots]
        answer = self._request("eth_getProof", _hex(contract), keys, hex(number))
        items = _list(_member(answer, "storageProof", "eth_getProof"), "storageProof")
        if [_slot(_member(item, "key", "storageProof")) for item in items] != list(slots):
            raise TransportError("eth_getProof: the proofs are not of the slots that were asked for")
        return SlotProofs(
            _trie_nodes(_member(answer, "accountProof", "eth_getProof")),
            tuple(_trie_nodes(_member(item, "proof", "storageProof")) for item in items),
        )

    def code(self, address: bytes) -> bytes:
        """The code at the address, empty when there is none."""
        return _data(self._request("eth_getCode", _hex(address), "latest"), "eth_getCode")

    def balance(self, address: bytes) -> int:
        """The address's balance in wei."""
        return _quantity(self._request("eth_getBalance", _hex(address), "latest"), "eth_getBalance")

    def transaction_count(self, address: bytes) -> int:
        """How many transactions of the address are mined."""
        answer = self._request("eth_getTransactionCount", _hex(address), "latest")
        return _quantity(answer, "eth_getTransactionCount")

    def fees(self) -> Fees:
        """The newest block's base fee and the tip that the node suggests."""
        base = _quantity(_member(self._block("latest"), "baseFeePerGas", "block"), "baseFeePerGas")
        try:
            priority = _quantity(self._request("eth_maxPriorityFeePerGas"), "eth_maxPriorityFeePerGas")
        except NodeError:
            priority = _MAX_PRIORITY_FEE_GUESS
        return Fees(base, priority)

    def call(self, contract: bytes, data: bytes, sender: bytes = bytes(20)) -> bytes:
        """What the contract returns to ``sender``."""
        message = {"from": _hex(sender), "to": _hex(contract), "data": _hex(data)}
        return _data(self._request("eth_call", message, "latest"), "eth_call")

    def send_raw(self, raw: bytes) -> bytes:
        """Hand over a signed transaction; returns its hash. Raises ``SendRefused``."""
        sent = transaction_hash(raw)
        try:
            answer = _data(self._request("eth_sendRawTransaction", _hex(raw)), "eth_sendRawTransaction", 32)
        except NodeError as exc:
            message = exc.message.lower()
            if any(phrase in message for phrase in _ALREADY_KNOWN):
                return sent
            why = next((why for why, phrases in _REFUSALS if any(text in message for text in phrases)), None)
            raise SendRefused(why or WhyRefused.OTHER, exc.message) from exc
        if answer != sent:
            raise TransportError("eth_sendRawTransaction: the node calls the transaction by another hash")
        return sent

    def inclusion(self, transaction_hash: bytes) -> Inclusion | None:
        """Where the transaction was mined, or None."""
        method = "eth_getTransactionReceipt"
        answer = self._request(method, _hex(transaction_hash))
        if answer is None:
            return None
        if _data(_member(answer, "transactionHash", method), method, 32) != transaction_hash:
            raise TransportError(f"{method}: the receipt is of another transaction")
        return Inclusion(
            block_hash=_data(_member(answer, "blockHash", method), method, 32),
            number=_quantity(_member(answer, "blockNumber", method), method),
            succeeded=_quantity(_member(answer, "status", method), method) == 1,
        )

    def close(self) -> None:
        """Close the connections. Idempotent."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _block(self, tag: str) -> Any:
        block = self._request("eth_getBlockByNumber", tag, False)
        if block is None:
            raise TransportError(f"the node has no block {tag}")
        return block

    def _raw_header(self, number: int, block_hash: bytes) -> bytes:
        """The header from a node that gives raw ones, for forks whose fields are not known here."""
        refusal = f"the header of block {number} does not rebuild to its hash: it has fields that are not known here"
        try:
            header = _data(self._request("debug_getRawHeader", hex(number)), "debug_getRawHeader")
        except NodeError as exc:
            raise TransportError(refusal) from exc
        if keccak(header) != block_hash:
            raise TransportError(refusal)
        return header

    def _request(self, method: str, *params: Any) -> Any:
        """Ask the nodes in turn until one answers; an error is an answer."""
        failures = []
        for url in self._urls:
            try:
                if url not in self._checked:
                    self._check_chain(url)
                return self._ask(url, method, params)
            except NodeError:
                raise
            except TransportError as exc:
                # Only the host: the path or the user part of a node's URL is often a secret.
                failures.append(f"{url.host}: {exc}")
        raise TransportError("; ".join(failures))

    def _check_chain(self, url: httpx.URL) -> None:
        found = _quantity(self._ask(url, "eth_chainId", ()), "eth_chainId")
        if found != self._chain_id:
            raise TransportError(f"the node is on chain {found}, not {self._chain_id}")
        self._checked.add(url)

    def _ask(self, url: httpx.URL, method: str, params: Sequence[Any]) -> Any:
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}).encode()
        deadline = time.monotonic() + self._timeout_s

        def exchange() -> tuple[int, bytes]:
            with self._http.stream("POST", url, content=body, headers={"Content-Type": "application/json"}) as response:
                return response.status_code, _read_bounded(response, deadline)

        try:
            # A little longer, so that what the reading itself notices is named as what it is.
            status, data = within(self._timeout_s + _GRACE_S, method, exchange)
        except (httpx.HTTPError, UnicodeError) as exc:  # UnicodeError: a host whose name is too long for the resolver
            raise TransportError(f"{method}: {type(exc).__name__}") from exc
        return _read_answer(method, status, data)


def _parse_url(text: str) -> httpx.URL:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as exc:
        raise ConfigurationError(f"the URL of a chain's node cannot be read: {exc}") from exc
    if url.scheme not in ("http", "https") or not url.host:
        raise ConfigurationError("the URL of a chain's node begins with http:// or https:// and a host")
    return url


def _read_bounded(response: httpx.Response, deadline: float) -> bytes:
    data = bytearray()
    for chunk in response.iter_raw():
        data += chunk
        if len(data) > _MAX_ANSWER_BYTES or time.monotonic() > deadline:
            raise TransportError(f"an answer of more than {_MAX_ANSWER_BYTES} bytes, or one that does not end")
    return bytes(data)


def _read_answer(method: str, status: int, data: bytes) -> Any:
    """The result of a JSON-RPC answer. Many nodes send errors with an HTTP error status, so the body is read first."""
    try:
        answer = parse_json(data, what=method, max_bytes=_MAX_ANSWER_BYTES)
    except MalformedError as exc:
        raise TransportError(f"{method}: HTTP {status}, {exc}") from exc
    if not isinstance(answer, dict) or answer.get("jsonrpc") != "2.0" or answer.get("id") != 1:
        raise TransportError(f"{method}: HTTP {status}, not a JSON-RPC answer")
    error = answer.get("error")
    if isinstance(error, dict):
        code, message = error.get("code"), error.get("message")
        raise NodeError(method, code if isinstance(code, int) else 0, str(message)[:500])
    if status != 200 or error is not None or "result" not in answer:
        raise TransportError(f"{method}: HTTP {status}, without a result")
    return answer["result"]


def _rebuild_header(block: Any) -> bytes:
    fields = []
    for position, (name, is_number) in enumerate(HEADER_FIELDS):
        if position >= _CLASSIC_FIELDS and block.get(name) is None:
            break
        value = _member(block, name, "block")
        fields.append(integer_to_rlp(_quantity(value, name)) if is_number else _data(value, name))
    return encode_rlp(fields)


def _member(value: Any, key: str, what: str) -> Any:
    if not isinstance(value, dict) or value.get(key) is None:
        raise TransportError(f"{what}: the node's answer has no {key}")
    return value[key]


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise TransportError(f"{what}: the node's answer is not a list")
    return value


def _quantity(value: Any, what: str) -> int:
    if not isinstance(value, str) or not _QUANTITY.fullmatch(value):
        raise TransportError(f"{what}: the node's answer is not a hexadecimal quantity")
    return int(value, 16)


def _slot(value: Any) -> int:
    """A slot as nodes give it back: as it was sent, or in its shortest form."""
    if not isinstance(value, str) or not re.fullmatch(r"0x[0-9a-fA-F]{1,64}", value):
        raise TransportError("storageProof: the node's answer names no slot")
    return int(value, 16)


def _data(value: Any, what: str, length: int | None = None) -> bytes:
    if not isinstance(value, str) or not _DATA.fullmatch(value):
        raise TransportError(f"{what}: the node's answer is not hexadecimal data")
    data = bytes.fromhex(value[2:])
    if length is not None and len(data) != length:
        raise TransportError(f"{what}: the node's answer has {len(data)} bytes, not {length}")
    return data


def _trie_nodes(value: Any) -> tuple[bytes, ...]:
    nodes = tuple(_data(node, "proof") for node in _list(value, "proof"))
    # The proof of an empty trie is empty; some nodes give the empty node instead.
    return () if nodes == (b"\x80",) else nodes


def _hex(data: bytes) -> str:
    return "0x" + data.hex()
