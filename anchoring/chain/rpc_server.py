"""``devchain serve``: the development chain behind JSON-RPC 2.0, on the loopback interface only.

For using the chain from more than one process, and from common tools. The methods are those that anchoring's own
client needs and a few that tools expect. Block headers are given exactly, so that they rebuild to their hash.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
import threading
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Final, Self

from eth_hash.auto import keccak

from anchoring.chain.client import CallReverted
from anchoring.chain.dev import DevChain, MinedBlock
from anchoring.chain.jsonrpc import HEADER_FIELDS
from anchoring.rlp_codec import decode_rlp
from identity.errors import AuditError, MalformedError
from identity.jsontext import parse_json

__all__ = ["DevChainServer"]

_MAX_BODY_BYTES: Final = 256 * 1024
_MAX_SLOTS: Final = 16

# JSON-RPC 2.0, section 5.1; 3 is what nodes answer when a call reverts.
_PARSE_ERROR: Final = -32700
_INVALID_REQUEST: Final = -32600
_METHOD_NOT_FOUND: Final = -32601
_INVALID_PARAMS: Final = -32602
_SERVER_ERROR: Final = -32000
_REVERTED: Final = 3

_LATEST: Final = ("latest", "safe", "finalized", "pending")


class DevChainServer:
    """Serves one chain until closed. Use ``with`` to serve in the background, ``serve_forever`` to serve here."""

    def __init__(self, chain: DevChain, port: int = 0) -> None:
        """Listen on the loopback interface; port 0 takes a free one. Raises ``OSError`` when the port is taken."""
        self._server = _Server(("127.0.0.1", port), _Methods(chain))
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Where the chain is reached."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def serve_forever(self) -> None:
        """Answer requests until ``close`` is called from another thread."""
        self._server.serve_forever(poll_interval=0.1)

    def close(self) -> None:
        """Stop serving and free the port. The chain stays open."""
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._thread = None
        self._server.server_close()

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], methods: _Methods) -> None:
        super().__init__(address, _Handler)
        self.methods = methods

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves before it has its answer is no error of ours."""
        if not isinstance(sys.exception(), (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """HTTP around the methods: POST only, bounded, JSON only, so that no web page can reach it unasked."""

    # HTTP/1.0, a connection for each request: none outlives the server.
    timeout: ClassVar[float | None] = 30.0

    def do_POST(self) -> None:
        assert isinstance(self.server, _Server)
        length = self.headers.get("Content-Length", "")
        if self.headers.get_content_type() != "application/json":
            self._send(415, b"")
        elif not length.isascii() or not length.isdigit():
            self._send(411, b"")
        elif len(length) > 9 or int(length) > _MAX_BODY_BYTES:
            self._send(413, b"")
        else:
            self._send(200, self.server.methods.answer(self.rfile.read(int(length))))

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not logged."""


class _RpcError(Exception):
    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class _Methods:
    """The JSON-RPC methods, over a chain."""

    def __init__(self, chain: DevChain) -> None:
        self._chain = chain
        self._methods: dict[str, Callable[..., Any]] = {
            "eth_blockNumber": lambda: hex(chain.head_number()),
            "eth_call": self._call,
            "eth_chainId": lambda: hex(chain.chain_id()),
            "eth_gasPrice": lambda: hex(chain.fees().base + chain.fees().priority),
            "eth_getBalance": self._balance,
            "eth_getBlockByHash": self._block_by_hash,
            "eth_getBlockByNumber": self._block_by_number,
            "eth_getCode": self._code,
            "eth_getProof": self._proof,
            "eth_getTransactionCount": self._transaction_count,
            "eth_getTransactionReceipt": self._receipt,
            "eth_maxPriorityFeePerGas": lambda: hex(chain.fees().priority),
            "eth_sendRawTransaction": lambda raw: _hex(chain.send_raw(_data(raw))),
            "net_version": lambda: str(chain.chain_id()),
            "web3_clientVersion": lambda: "holdfast-devchain",
        }

    def answer(self, body: bytes) -> bytes:
        """The answer to one request body, whatever it is."""
        request_id = None
        try:
            request = _parse_request(body)
            request_id = request["id"]
            reply = {"jsonrpc": "2.0", "id": request_id, "result": self._dispatch(request["method"], request["params"])}
        except _RpcError as exc:
            reply = _error(request_id, exc.code, exc.message)
        except CallReverted as exc:
            reply = _error(request_id, _REVERTED, str(exc))
            reply["error"]["data"] = _hex(exc.data)
        except AuditError as exc:
            reply = _error(request_id, _SERVER_ERROR, str(exc))
        return json.dumps(reply).encode()

    def _dispatch(self, method: str, params: Sequence[Any]) -> Any:
        function = self._methods.get(method)
        if function is None:
            raise _RpcError(_METHOD_NOT_FOUND, f"no method {method[:100]}")
        try:
            inspect.signature(function).bind(*params)
        except TypeError as exc:
            raise _RpcError(_INVALID_PARAMS, f"{method}: wrong number of parameters") from exc
        return function(*params)

    def _call(self, message: Any, tag: Any = "latest") -> str:
        self._require_newest(tag)
        if not isinstance(message, dict) or "to" not in message:
            raise _RpcError(_INVALID_PARAMS, "eth_call needs an object with the contract in 'to'")
        data = message.get("data", message.get("input", "0x"))
        return _hex(self._chain.call(_data(message["to"], 20), _data(data), _data(message.get("from", _ZERO), 20)))

    def _balance(self, address: Any, tag: Any = "latest") -> str:
        self._require_newest(tag)
        return hex(self._chain.balance(_data(address, 20)))

    def _code(self, address: Any, tag: Any = "latest") -> str:
        self._require_newest(tag)
        return _hex(self._chain.code(_data(address, 20)))

    def _transaction_count(self, address: Any, tag: Any = "latest") -> str:
        self._require_newest(tag)
        return hex(self._chain.transaction_count(_data(address, 20)))

    def _block_by_number(self, tag: Any, full: Any = False) -> dict[str, Any] | None:
        number = self._number(tag)
        if full is not False:
            raise _RpcError(_INVALID_PARAMS, "blocks are given with transaction hashes only")
        return None if number > self._chain.head_number() else _block_json(self._chain.block(number))

    def _block_by_hash(self, block_hash: Any, full: Any = False) -> dict[str, Any] | None:
        number = self._chain.block_number(_data(block_hash, 32))
        return None if number is None else self._block_by_number(hex(number), full)

    def _proof(self, contract: Any, slots: Any, tag: Any) -> dict[str, Any]:
        if not isinstance(slots, list) or len(slots) > _MAX_SLOTS:
            raise _RpcError(_INVALID_PARAMS, f"eth_getProof takes a list of at most {_MAX_SLOTS} slots")
        numbers = [int.from_bytes(_data(slot, 32), "big") for slot in slots]
        proofs = self._chain.get_proof(_data(contract, 20), numbers, self._number(tag))
        return {
            "address": contract,
            "accountProof": [_hex(node) for node in proofs.account_proof],
            "storageProof": [
                {"key": slot, "proof": [_hex(node) for node in nodes]}
                for slot, nodes in zip(slots, proofs.storage_proofs, strict=True)
            ],
        }

    def _receipt(self, transaction_hash: Any) -> dict[str, Any] | None:
        wanted = _data(transaction_hash, 32)
        inclusion = self._chain.inclusion(wanted)
        return None if inclusion is None else _receipt_json(self._chain.block(inclusion.number), wanted)

    def _number(self, tag: Any) -> int:
        if tag in _LATEST:
            return self._chain.head_number()
        return 0 if tag == "earliest" else _quantity(tag)

    def _require_newest(self, tag: Any) -> None:
        if self._number(tag) != self._chain.head_number():
            raise _RpcError(_INVALID_PARAMS, "only the newest state is served; ask for a proof of an older one")


_ZERO: Final = "0x" + bytes(20).hex()


def _parse_request(body: bytes) -> dict[str, Any]:
    """A request's id, method and params. A batch is refused: nothing here needs one."""
    try:
        request = parse_json(body, what="request", max_bytes=_MAX_BODY_BYTES)
    except MalformedError as exc:
        raise _RpcError(_PARSE_ERROR, str(exc)) from exc
    if isinstance(request, list):
        raise _RpcError(_INVALID_REQUEST, "batches are not served")
    if not isinstance(request, dict) or request.get("jsonrpc") != "2.0":
        raise _RpcError(_INVALID_REQUEST, "not a JSON-RPC 2.0 request")
    request_id, method, params = request.get("id"), request.get("method"), request.get("params", [])
    if not isinstance(method, str) or not isinstance(params, list) or not isinstance(request_id, (str, int)):
        raise _RpcError(_INVALID_REQUEST, "a request needs a method, a list of params, and a text or number as id")
    return {"id": request_id, "method": method, "params": params}


def _error(request_id: Any, code: int, message: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": request_id, "error": {"code": code, "message": message}}


def _block_json(block: MinedBlock) -> dict[str, Any]:
    fields = decode_rlp(block.header, what="block header", max_depth=1)
    members: dict[str, Any] = {}
    for field, (name, is_number) in zip(fields, HEADER_FIELDS, strict=False):
        assert isinstance(field, bytes)
        members[name] = hex(int.from_bytes(field, "big")) if is_number else _hex(field)
    return members | {
        "hash": _hex(keccak(block.header)),
        "size": hex(len(block.header)),
        "transactions": [_hex(executed.hash) for executed in block.executed],
        "uncles": [],
        "withdrawals": [],
    }


def _receipt_json(block: MinedBlock, wanted: bytes) -> dict[str, Any]:
    header = _block_json(block)
    index, executed = next((i, found) for i, found in enumerate(block.executed) if found.hash == wanted)
    place = {
        "blockHash": header["hash"],
        "blockNumber": header["number"],
        "transactionHash": _hex(wanted),
        "transactionIndex": hex(index),
    }
    logs = [
        place
        | {"address": _hex(address), "topics": [_hex(topic) for topic in topics], "data": _hex(data)}
        # One transaction in a block: its logs are the block's.
        | {"logIndex": hex(position), "removed": False}
        for position, (address, topics, data) in enumerate(executed.logs)
    ]
    return place | {
        "type": hex(executed.kind),
        "status": hex(executed.succeeded),
        "from": _hex(executed.sender),
        "to": None if executed.to is None else _hex(executed.to),
        "contractAddress": None if executed.contract is None else _hex(executed.contract),
        "gasUsed": hex(executed.gas_used),
        "cumulativeGasUsed": hex(executed.cumulative_gas_used),
        "effectiveGasPrice": hex(executed.gas_price),
        "logsBloom": _hex(executed.bloom.to_bytes(256, "big")),
        "logs": logs,
    }


def _hex(data: bytes) -> str:
    return "0x" + data.hex()


def _data(value: Any, length: int | None = None) -> bytes:
    if not isinstance(value, str) or not re.fullmatch(r"0x([0-9a-fA-F]{2})*", value):
        raise _RpcError(_INVALID_PARAMS, "a parameter is not hexadecimal data")
    data = bytes.fromhex(value[2:])
    if length is not None and len(data) != length:
        raise _RpcError(_INVALID_PARAMS, f"a parameter has {len(data)} bytes, not {length}")
    return data


def _quantity(value: Any) -> int:
    if not isinstance(value, str) or not re.fullmatch(r"0x[0-9a-fA-F]{1,16}", value):
        raise _RpcError(_INVALID_PARAMS, "a parameter is not a hexadecimal quantity")
    return int(value, 16)
