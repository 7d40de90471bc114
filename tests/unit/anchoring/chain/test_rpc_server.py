"""The served development chain: bounded, and usable with a common library."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from anchoring.chain.dev import DevChain
from anchoring.chain.outbox import AnchorTarget
from anchoring.chain.rpc_server import DevChainServer
from anchoring.chain.transactions import LocalKey
from anchoring.contracts import anchor_call, load_contract
from anchoring.receipt import DEVELOPMENT_CHAIN_ID


@pytest.fixture
def server(chain: DevChain) -> Iterator[DevChainServer]:
    with DevChainServer(chain) as running:
        yield running


CLIENT = httpx.Client(trust_env=False, timeout=10)


def ask(server: DevChainServer, method: Any, *params: Any) -> Any:
    request = {"jsonrpc": "2.0", "id": "a", "method": method, "params": list(params)}
    answer = CLIENT.post(server.url, json=request).json()
    assert (answer["jsonrpc"], answer["id"]) == ("2.0", "a")
    return answer["error"]["code"] if "error" in answer else answer["result"]


ADDRESS, SLOT = "0x" + "11" * 20, "0x" + "00" * 32


def test_it_listens_on_the_loopback_interface_only(server: DevChainServer) -> None:
    assert server.url.startswith("http://127.0.0.1:")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", -32700),
        (b"{", -32700),
        (b"\xff", -32700),
        (b'{"jsonrpc":"2.0","jsonrpc":"2.0","id":1,"method":"eth_chainId"}', -32700),
        (b"[" * 100 + b"]" * 100, -32700),
        (b"[]", -32600),
        (b'[{"jsonrpc":"2.0","id":1,"method":"eth_chainId","params":[]}]', -32600),
        (b'"eth_chainId"', -32600),
        (b'{"id":1,"method":"eth_chainId","params":[]}', -32600),
        (b'{"jsonrpc":"2.0","method":"eth_chainId","params":[]}', -32600),
        (b'{"jsonrpc":"2.0","id":null,"method":"eth_chainId","params":[]}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":5,"params":[]}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":"eth_chainId","params":{}}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":"eth_accounts","params":[]}', -32601),
        (b'{"jsonrpc":"2.0","id":1,"method":"eth_chainId","params":[1]}', -32602),
    ],
)
def test_requests_that_are_none(server: DevChainServer, body: bytes, code: int) -> None:
    answer = CLIENT.post(server.url, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 200
    assert answer.json()["error"]["code"] == code


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("eth_getBalance", []),
        ("eth_getBalance", ["0x11"]),
        ("eth_getBalance", [ADDRESS, "yesterday"]),
        ("eth_getBalance", [ADDRESS, "0x0"]),
        ("eth_getBalance", [ADDRESS, 2]),
        ("eth_getBalance", [["0x11"]]),
        ("eth_getCode", [ADDRESS[2:]]),
        ("eth_getTransactionCount", [None]),
        ("eth_getBlockByNumber", ["0xzz", False]),
        ("eth_getBlockByNumber", ["0x" + "1" * 17, False]),
        ("eth_getBlockByNumber", ["latest", True]),
        ("eth_getBlockByNumber", [[], False]),
        ("eth_getBlockByHash", ["0x11", False]),
        ("eth_getProof", [ADDRESS, SLOT, "latest"]),
        ("eth_getProof", [ADDRESS, ["0x0"], "latest"]),
        ("eth_getProof", [ADDRESS, [SLOT] * 17, "latest"]),
        ("eth_getProof", [ADDRESS, [SLOT]]),
        ("eth_getTransactionReceipt", ["0x11"]),
        ("eth_sendRawTransaction", ["raw"]),
        ("eth_call", [{}, "latest"]),
        ("eth_call", [ADDRESS, "latest"]),
        ("eth_call", [{"to": ADDRESS, "data": 5}, "latest"]),
    ],
)
def test_parameters_that_are_none(server: DevChainServer, method: str, params: list[Any]) -> None:
    assert ask(server, method, *params) == -32602


def test_what_the_chain_refuses_is_an_error(server: DevChainServer) -> None:
    assert ask(server, "eth_sendRawTransaction", "0x02c0") == -32000
    assert ask(server, "eth_getProof", ADDRESS, [], "0x99") == -32000


def test_what_is_not_there_is_null(server: DevChainServer) -> None:
    assert ask(server, "eth_getBlockByNumber", "0x99", False) is None
    assert ask(server, "eth_getBlockByHash", SLOT, False) is None
    assert ask(server, "eth_getTransactionReceipt", SLOT) is None


def test_tags_and_hashes_name_blocks(server: DevChainServer) -> None:
    newest = ask(server, "eth_getBlockByNumber", "latest", False)
    assert newest["number"] == "0x2" == ask(server, "eth_blockNumber")
    for tag in ("finalized", "safe", "pending", "0x2"):
        assert ask(server, "eth_getBlockByNumber", tag, False) == newest
    assert ask(server, "eth_getBlockByHash", newest["hash"], False) == newest
    assert ask(server, "eth_getBlockByNumber", "earliest", False)["number"] == "0x0"


def test_simple_answers(server: DevChainServer) -> None:
    assert ask(server, "eth_chainId") == hex(DEVELOPMENT_CHAIN_ID)
    assert ask(server, "net_version") == str(DEVELOPMENT_CHAIN_ID)
    assert ask(server, "web3_clientVersion") == "holdfast-devchain"
    assert int(ask(server, "eth_gasPrice"), 16) > int(ask(server, "eth_maxPriorityFeePerGas"), 16) > 0


@pytest.mark.parametrize(
    ("request_text", "status"),
    [
        ("POST / HTTP/1.1\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}", b"415"),
        ("POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}", b"415"),
        ("POST / HTTP/1.1\r\nContent-Type: application/json\r\n\r\n", b"411"),
        ("POST / HTTP/1.1\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"411"),
        ("POST / HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: -1\r\n\r\n", b"411"),
        ("POST / HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 9999999\r\n\r\n", b"413"),
        ("POST / HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: " + "9" * 5000 + "\r\n\r\n", b"413"),
        ("GET / HTTP/1.1\r\n\r\n", b"501"),
    ],
)
def test_http_that_is_refused(server: DevChainServer, request_text: str, status: bytes) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(request_text.encode())
        assert connection.recv(4096).split()[1] == status


def test_a_common_library_can_use_it(server: DevChainServer, target: AnchorTarget, key: LocalKey) -> None:
    web3 = pytest.importorskip("web3", reason="web3 is not installed")
    node = web3.Web3(web3.Web3.HTTPProvider(server.url))
    owner = web3.Web3.to_checksum_address(key.address)
    contract = node.eth.contract(address=web3.Web3.to_checksum_address(target.contract), abi=load_contract().abi)
    root = b"\x05" * 32
    call = contract.functions.anchor(target.log_id, 0, 5, root)
    assert call._encode_transaction_data() == "0x" + anchor_call(target.log_id, 0, 5, root).hex()
    fields = {"from": owner, "nonce": node.eth.get_transaction_count(owner), "gas": 150_000}
    fees = {"maxFeePerGas": 4 * node.eth.gas_price, "maxPriorityFeePerGas": node.eth.max_priority_fee}
    signed = key._account.sign_transaction(call.build_transaction(fields | fees))
    receipt = node.eth.wait_for_transaction_receipt(node.eth.send_raw_transaction(signed.raw_transaction))
    (event,) = contract.events.Anchored().process_receipt(receipt)
    assert (receipt["status"], event["args"]["size"], event["args"]["root"]) == (1, 5, root)
    meta, shown, successor = contract.functions.records(owner, target.log_id).call()
    assert (meta & 2**64 - 1, shown, successor) == (5, root, bytes(32))
    with pytest.raises(web3.exceptions.Web3Exception, match="stale"):
        contract.functions.anchor(target.log_id, 0, 9, root).call({"from": owner})


def test_answers_are_one_line_of_json(server: DevChainServer) -> None:
    body = {"jsonrpc": "2.0", "id": 1, "method": "eth_chainId", "params": []}
    assert json.loads(CLIENT.post(server.url, json=body).content)["result"] == hex(DEVELOPMENT_CHAIN_ID)


def test_a_client_that_leaves_before_its_answer(
    server: DevChainServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It resets the connection while the answer is made: that is no error of the server's, and the next one is fine."""
    left = threading.Event()
    answered = threading.Event()

    def slow(_self: Any, _body: bytes) -> bytes:
        left.wait(10)
        answered.set()
        return b" " * 2**20

    monkeypatch.setattr("anchoring.chain.rpc_server._Methods.answer", slow)
    port = int(server.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.sendall(b"POST / HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")
        time.sleep(0.1)
    left.set()
    assert answered.wait(10)
    monkeypatch.undo()
    assert ask(server, "net_version") == "1212434006"
    server.close()
    assert "Traceback" not in capsys.readouterr().err


def test_an_error_of_the_server_itself_is_not_hidden(
    server: DevChainServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_self: Any, _body: bytes) -> bytes:
        raise ZeroDivisionError

    monkeypatch.setattr("anchoring.chain.rpc_server._Methods.answer", broken)
    with pytest.raises(httpx.HTTPError):
        ask(server, "net_version")
    assert "ZeroDivisionError" in capsys.readouterr().err
