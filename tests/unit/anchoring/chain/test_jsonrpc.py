"""The JSON-RPC client against nodes that lie, fail, stall and differ."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from eth_hash.auto import keccak

from anchoring.chain.client import Fees, SendRefused, WhyRefused
from anchoring.chain.dev import DevChain
from anchoring.chain.jsonrpc import JsonRpcChain, NodeError
from anchoring.chain.rpc_server import DevChainServer
from anchoring.receipt import DEVELOPMENT_CHAIN_ID
from anchoring.rlp_codec import decode_rlp, encode_rlp
from identity.errors import ConfigurationError, TransportError

CHAIN_ID = 7
HASH = "0x" + "ab" * 32

Answers = dict[str, Any]


class Node:
    """Answers by method; a value is a result, an ``httpx.Response`` is sent as it is, an exception is raised."""

    def __init__(self, **answers: Any) -> None:
        self.answers: Answers = {"eth_chainId": hex(CHAIN_ID)} | answers
        self.asked: list[tuple[str, list[Any]]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        self.asked.append((body["method"], body["params"]))
        answer = self.answers.get(body["method"], Refusal(-32601, "the method does not exist"))
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, httpx.Response):
            return unread(answer) if answer.is_stream_consumed else answer
        member = {"error": vars(answer)} if isinstance(answer, Refusal) else {"result": answer}
        return unread(httpx.Response(200, json={"jsonrpc": "2.0", "id": 1, **member}))


def unread(response: httpx.Response) -> httpx.Response:
    """The same response as it comes from the network."""
    return httpx.Response(response.status_code, stream=httpx.ByteStream(response.content))


class Refusal:
    def __init__(self, code: int, message: str) -> None:
        self.code = code
        self.message = message


def client(*nodes: Node, confirmations: int | None = None) -> JsonRpcChain:
    by_host = {f"node{index}": node for index, node in enumerate(nodes)}
    return JsonRpcChain(
        [f"https://user:secret@{host}/key-of-mine" for host in by_host],
        chain_id=CHAIN_ID,
        confirmations=confirmations,
        transport=httpx.MockTransport(lambda request: by_host[request.url.host](request)),
    )


@pytest.fixture
def block(chain: DevChain) -> Iterator[dict[str, Any]]:
    """A block as a node gives it."""
    with DevChainServer(chain) as server:
        body = {"jsonrpc": "2.0", "id": 1, "method": "eth_getBlockByNumber", "params": ["0x2", False]}
        yield httpx.post(server.url, json=body).json()["result"]


# Headers


def test_a_header_is_rebuilt_exactly(block: dict[str, Any], chain: DevChain) -> None:
    assert client(Node(eth_getBlockByNumber=block)).header(2) == chain.header(2)


def test_every_altered_field_of_a_header_is_noticed(block: dict[str, Any]) -> None:
    fields = decode_rlp(client(Node(eth_getBlockByNumber=block)).header(2), what="test", max_depth=1)
    used = [name for name in block if name not in ("size", "transactions", "uncles", "withdrawals")]
    assert len(used) == len(fields) + 1
    for name in used:
        value = block[name]
        other = value[:-1] + ("0" if value[-1] != "0" else "1") if len(value) > 2 else "0x01"
        for changed in {other, None, 5, "text", "0x", "0x0g", value[2:]} - {value}:
            with pytest.raises(TransportError):
                client(Node(eth_getBlockByNumber={**block, name: changed})).header(2)


@pytest.mark.parametrize("answer", [None, [], "0x", {}, {"hash": HASH}])
def test_what_is_no_block_is_refused(answer: Any) -> None:
    with pytest.raises(TransportError):
        client(Node(eth_getBlockByNumber=answer)).header(2)


def test_another_block_than_the_one_asked_for_is_refused(block: dict[str, Any]) -> None:
    with pytest.raises(TransportError, match="gave block 2"):
        client(Node(eth_getBlockByNumber=block)).header(3)


def test_a_header_of_a_later_fork_comes_raw_or_not_at_all(block: dict[str, Any], chain: DevChain) -> None:
    fields = decode_rlp(chain.header(2), what="test", max_depth=1)
    raw = encode_rlp((*fields, bytes(32), b"\x11" * 32))
    later = {**block, "hash": "0x" + keccak(raw).hex(), "requestsHash": "0x" + "00" * 32, "fieldOfTomorrow": "0x11"}
    node = Node(eth_getBlockByNumber=later, debug_getRawHeader="0x" + raw.hex())
    assert client(node).header(2) == raw
    for refusal in (Refusal(-32601, "no such method"), "0x" + chain.header(1).hex(), "0x", 5):
        node.answers["debug_getRawHeader"] = refusal
        with pytest.raises(TransportError):
            client(node).header(2)


# Finality


def test_finality_by_tag(block: dict[str, Any]) -> None:
    node = Node(eth_getBlockByNumber=block)
    assert client(node).final_number() == 2
    assert node.asked[-1] == ("eth_getBlockByNumber", ["finalized", False])


def test_finality_by_confirmations() -> None:
    assert client(Node(eth_blockNumber="0x14"), confirmations=12).final_number() == 8
    assert client(Node(eth_blockNumber="0x3"), confirmations=12).final_number() == 0


# Proofs


SLOT = "0x" + "00" * 32


def proof(**changes: Any) -> Node:
    item = {"key": SLOT, "value": "0x0", "proof": ["0xc0"]}
    return Node(eth_getProof={"accountProof": ["0xc1c0"], "storageProof": [item], **changes})


def test_slots_are_asked_for_with_32_bytes() -> None:
    node = proof()
    proofs = client(node).get_proof(bytes(20), (0,), 5)
    assert (proofs.account_proof, proofs.storage_proofs) == ((b"\xc1\xc0",), ((b"\xc0",),))
    assert node.asked[-1] == ("eth_getProof", ["0x" + "00" * 20, [SLOT], "0x5"])


def test_an_empty_trie_has_an_empty_proof() -> None:
    for nodes in ([], ["0x80"]):
        item = {"key": "0x0", "proof": nodes}
        assert client(proof(storageProof=[item])).get_proof(bytes(20), (0,), 5).storage_proofs == ((),)


@pytest.mark.parametrize(
    "changes",
    [
        {"storageProof": []},
        {"storageProof": [{"key": "0x1", "proof": []}]},
        {"storageProof": [{"key": SLOT, "proof": []}] * 2},
        {"storageProof": [{"key": "slot", "proof": []}]},
        {"storageProof": [{"key": 0, "proof": []}]},
        {"storageProof": [{"key": SLOT, "proof": "0xc0"}]},
        {"storageProof": [{"key": SLOT, "proof": ["c0"]}]},
        {"storageProof": [{"key": SLOT, "proof": ["0xc"]}]},
        {"storageProof": [{"key": SLOT}]},
        {"storageProof": [SLOT]},
        {"storageProof": {}},
        {"accountProof": None},
        {"accountProof": "0xc0"},
        {"accountProof": [None]},
    ],
)
def test_what_is_no_proof_is_refused(changes: Any) -> None:
    with pytest.raises(TransportError):
        client(proof(**changes)).get_proof(bytes(20), (0,), 5)


# Answers


@pytest.mark.parametrize(
    "response",
    [
        httpx.Response(200, content=b""),
        httpx.Response(200, content=b"\xff"),
        httpx.Response(200, content=b"<html>"),
        httpx.Response(200, json=[]),
        httpx.Response(200, json={"jsonrpc": "2.0", "id": 1}),
        httpx.Response(200, json={"jsonrpc": "2.0", "id": 2, "result": "0x1"}),
        httpx.Response(200, json={"jsonrpc": "1.0", "id": 1, "result": "0x1"}),
        httpx.Response(200, json={"jsonrpc": "2.0", "id": 1, "result": "0x1", "error": "text"}),
        httpx.Response(200, content=b'{"jsonrpc":"2.0","id":1,"result":"0x1","result":"0x2"}'),
        httpx.Response(200, content=b'{"jsonrpc":"2.0","id":1,"result":"' + b"0" * 5 * 2**20 + b'"}'),
        httpx.Response(500, json={"jsonrpc": "2.0", "id": 1, "result": "0x1"}),
        httpx.Response(301, headers={"Location": "https://elsewhere/"}),
        httpx.Response(200, json={"jsonrpc": "2.0", "id": 1, "result": 5}),
        httpx.Response(200, json={"jsonrpc": "2.0", "id": 1, "result": "5"}),
        httpx.Response(200, json={"jsonrpc": "2.0", "id": 1, "result": "0x"}),
        httpx.Response(200, json={"jsonrpc": "2.0", "id": 1, "result": "0x05"}),
        httpx.Response(200, json={"jsonrpc": "2.0", "id": 1, "result": "0x" + "1" * 65}),
        httpx.Response(200, json={"jsonrpc": "2.0", "id": 1, "result": "-0x5"}),
        httpx.Response(200, json={"jsonrpc": "2.0", "id": 1, "result": None}),
        httpx.ConnectError("refused"),
        httpx.ReadTimeout("late"),
        httpx.RemoteProtocolError("not HTTP"),
    ],
)
def test_answers_that_are_none(response: httpx.Response | Exception) -> None:
    with pytest.raises(TransportError):
        client(Node(eth_blockNumber=response)).head_number()


def test_an_answer_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("anchoring.chain.jsonrpc.time.monotonic", lambda: now[0])

    class Drip(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            while True:
                now[0] += 1.0
                yield b" "

    with pytest.raises(TransportError, match="does not end"):
        client(Node(eth_blockNumber=httpx.Response(200, stream=Drip()))).head_number()


def test_errors_are_passed_on_and_bounded() -> None:
    with pytest.raises(NodeError) as caught:
        client(Node(eth_getCode=Refusal(-32000, "x" * 10_000))).code(bytes(20))
    assert caught.value.code == -32000
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "receipt",
    [
        {},
        [],
        {"transactionHash": HASH, "blockHash": HASH, "blockNumber": "0x1"},
        {"transactionHash": HASH, "blockHash": "0xab", "blockNumber": "0x1", "status": "0x1"},
        {"transactionHash": HASH, "blockHash": HASH, "blockNumber": 1, "status": "0x1"},
        {"transactionHash": "0x" + "cd" * 32, "blockHash": HASH, "blockNumber": "0x1", "status": "0x1"},
    ],
)
def test_what_is_no_transaction_receipt_is_refused(receipt: Any) -> None:
    with pytest.raises(TransportError):
        client(Node(eth_getTransactionReceipt=receipt)).inclusion(bytes.fromhex(HASH[2:]))


# Fees


def test_a_node_without_a_tip_gets_a_guess() -> None:
    node = Node(eth_getBlockByNumber={"baseFeePerGas": "0x64"})
    assert client(node).fees() == Fees(100, 10**9)
    node.answers["eth_maxPriorityFeePerGas"] = "0x5"
    assert client(node).fees() == Fees(100, 5)


def test_a_chain_without_a_base_fee_is_refused() -> None:
    with pytest.raises(TransportError, match="baseFeePerGas"):
        client(Node(eth_getBlockByNumber={"number": "0x1"})).fees()


# Sending


@pytest.mark.parametrize("message", ["already known", "transaction already imported", "ALREADY_EXISTS: already known"])
def test_known_transactions_are_a_success(message: str) -> None:
    raw = b"\2raw"
    assert client(Node(eth_sendRawTransaction=Refusal(-32000, message))).send_raw(raw) == keccak(raw)


@pytest.mark.parametrize(
    ("message", "why"),
    [
        ("nonce too low: next nonce 5, tx nonce 4", WhyRefused.NONCE_USED),
        ("replacement transaction underpriced", WhyRefused.UNDERPRICED),
        ("max fee per gas less than block base fee", WhyRefused.UNDERPRICED),
        ("Insufficient funds for gas * price + value", WhyRefused.NO_FUNDS),
        ("intrinsic gas too low", WhyRefused.OTHER),
    ],
)
def test_refusals_are_told_apart(message: str, why: WhyRefused) -> None:
    with pytest.raises(SendRefused) as caught:
        client(Node(eth_sendRawTransaction=Refusal(-32000, message))).send_raw(b"\2raw")
    assert caught.value.why is why


@pytest.mark.parametrize("answer", [HASH, "0x", None, 5])
def test_another_hash_is_refused(answer: Any) -> None:
    with pytest.raises(TransportError):
        client(Node(eth_sendRawTransaction=answer)).send_raw(b"\2raw")


# Several nodes


def test_the_next_node_is_asked_when_one_fails() -> None:
    broken, good = Node(eth_blockNumber=httpx.ConnectError("refused")), Node(eth_blockNumber="0x9")
    assert client(broken, good).head_number() == 9
    with pytest.raises(TransportError) as caught:
        client(broken, broken).head_number()
    assert "node0" in str(caught.value)
    assert "node1" in str(caught.value)


def test_secrets_in_a_url_are_not_shown() -> None:
    with pytest.raises(TransportError) as caught:
        client(Node(eth_blockNumber=httpx.ConnectError("refused"))).head_number()
    assert "secret" not in str(caught.value)
    assert "key-of-mine" not in str(caught.value)


def test_a_node_of_another_chain_is_never_used() -> None:
    other = Node(eth_chainId="0x1", eth_blockNumber="0x99")
    with pytest.raises(TransportError, match="chain 1, not 7"):
        client(other).head_number()
    assert client(other, Node(eth_blockNumber="0x9")).head_number() == 9
    assert [method for method, _ in other.asked] == ["eth_chainId"] * 2


@pytest.mark.parametrize(
    "urls",
    [
        [],
        ["ftp://node/"],
        ["https://"],
        ["node:8545"],
        ["https://good/", "file:///x"],
        ["https://a:b:c/"],
        ["http://\0/"],
    ],
)
def test_urls_that_are_none(urls: list[str]) -> None:
    with pytest.raises(ConfigurationError):
        JsonRpcChain(urls, chain_id=CHAIN_ID, confirmations=None)


def test_a_host_name_that_no_resolver_takes() -> None:
    chain = JsonRpcChain([f"http://{'a' * 300}.example/"], chain_id=CHAIN_ID, confirmations=None)
    with chain, pytest.raises(TransportError, match="eth_chainId"):
        chain.chain_id()


def test_a_served_chain_that_is_gone(chain: DevChain) -> None:
    with DevChainServer(chain) as server:
        url = server.url
        reached = JsonRpcChain([url], chain_id=DEVELOPMENT_CHAIN_ID, confirmations=None)
        assert reached.head_number() == 2
    ask: list[Callable[[], object]] = [reached.head_number, reached.chain_id, reached.fees, lambda: reached.header(1)]
    for question in ask:
        with pytest.raises(TransportError):
            question()
    reached.close()
