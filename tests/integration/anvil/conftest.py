"""Chains that pass one suite: the embedded one in this process, the same behind its RPC server, and anvil.

anvil comes from npm: package-lock.json beside this file pins it by its hash. geth takes part where it is installed; its
development mode is a fourth opinion, and nothing here needs it.
"""

from __future__ import annotations

import itertools
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from anchoring.chain.client import Chain
from anchoring.chain.deploy import deploy_contract
from anchoring.chain.dev import DevChain
from anchoring.chain.jsonrpc import JsonRpcChain
from anchoring.chain.outbox import AnchorTarget
from anchoring.chain.transactions import LocalKey, Transaction
from anchoring.contracts import load_contract
from anchoring.receipt import DEVELOPMENT_CHAIN_ID
from identity.errors import TransportError

ANVIL_ID: Final = 31337
GETH_ID: Final = 1337
FUNDS: Final = 10**20
PATIENCE_S: Final = 60.0

KEY: Final = LocalKey(sha256(b"the anchor key of these tests").digest())
_FAUCET: Final = LocalKey((1).to_bytes(32, "big"))


@pytest.fixture(scope="session")
def anvil_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """anvil's program, installed by npm from the lock file."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed, and anvil comes from it")
    folder = tmp_path_factory.mktemp("anvil")
    for name in ("package.json", "package-lock.json"):
        shutil.copy(Path(__file__).parent / name, folder)
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    installed = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
    if installed.returncode:
        pytest.skip(f"anvil cannot be had from npm: {installed.stderr.strip()[-300:]}")
    programs = list(folder.glob("node_modules/@foundry-rs/anvil-*/bin/anvil"))
    if not programs:
        pytest.skip("the pinned anvil is for Linux on x86-64 only")
    return programs[0]


class Node:
    """A chain that can be stopped hard, started again, and reached by a client made anew each time."""

    chain_id = DEVELOPMENT_CHAIN_ID
    proves_history = True
    """Whether it still proves states from before its last start."""

    @contextmanager
    def connect(self) -> Iterator[Chain]:
        """A client of the running node."""
        raise TypeError("a node says how it is reached")
        yield  # makes it a generator

    def fund(self, address: bytes, wei: int = FUNDS) -> None:
        """Give the address coins."""
        with self.connect() as chain:
            fees = chain.fees()
            nonce = chain.transaction_count(_FAUCET.address)
            fee = 2 * fees.base + fees.priority
            chain.send_raw(
                _FAUCET.sign(Transaction(self.chain_id, nonce, address, b"", 21_000, fee, fees.priority, wei))
            )

    def mine(self, blocks: int) -> None:
        """Add empty blocks, where blocks have to be added for others to become final."""

    def save(self) -> None:
        """Wait until nothing that was done would be lost with the node."""

    def start(self) -> None:
        """Run. The chain is what it was, or what is left of it."""

    def kill(self) -> None:
        """End it as ``kill -9`` does."""


class InProcess(Node):
    """The embedded chain, opened for each use. That it survives kill -9 is tests/faults/test_dev_chain_kill9.py."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "chain.db"
        DevChain(self.path, create=True).close()

    @contextmanager
    def connect(self) -> Iterator[Chain]:
        with DevChain(self.path) as chain:
            yield chain


class Process(Node):
    """A node in a process of its own, on a port that it keeps."""

    confirmations: int | None = 2

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        raise TypeError("a node says how it is started")

    def start(self) -> None:
        with (self.directory / "output").open("ab") as output:
            self.process = subprocess.Popen(self.command(), stdout=output, stderr=output)
        wait_until(self.answers, f"{self.command()[0]} does not answer")

    def answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.directory / "output").read_text()[-2000:]
        try:
            with self.connect() as chain:
                return chain.head_number() >= 0
        except TransportError:
            return False

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    @contextmanager
    def connect(self) -> Iterator[Chain]:
        with JsonRpcChain([self.url], chain_id=self.chain_id, confirmations=self.confirmations) as chain:
            yield chain

    def do(self, method: str, *params: object) -> Any:
        """A call that only nodes for testing answer."""
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        answer = httpx.post(self.url, json=body, timeout=30, trust_env=False).json()
        assert "error" not in answer, answer
        return answer["result"]


class Served(Process):
    """``holdfast devchain serve``."""

    confirmations = None

    def command(self) -> list[str]:
        script = (
            "import sys; from pathlib import Path; from anchoring.chain.dev import DevChain; "
            "from anchoring.chain.rpc_server import DevChainServer; "
            "DevChainServer(DevChain(Path(sys.argv[1]), create=True), int(sys.argv[2])).serve_forever()"
        )
        return [sys.executable, "-c", script, str(self.directory / "chain.db"), str(self.port)]


class Anvil(Process):
    """anvil, which mines a block for each transaction and writes its state to a file every second."""

    chain_id = ANVIL_ID
    proves_history = False

    def __init__(self, directory: Path, program: Path, *options: str, persistent: bool = True) -> None:
        super().__init__(directory)
        self.program = program
        self.state = directory / "state.json"
        self.options = [*options, *(("--state", str(self.state), "--state-interval", "1") if persistent else ())]

    def command(self) -> list[str]:
        return [
            *(str(self.program), "--silent", "--chain-id", str(ANVIL_ID), "--port", str(self.port)),
            *("--accounts", "1", *self.options),
        ]

    def fund(self, address: bytes, wei: int = FUNDS) -> None:
        self.do("anvil_setBalance", "0x" + address.hex(), hex(wei))

    def mine(self, blocks: int) -> None:
        self.do("anvil_mine", hex(blocks))

    def save(self) -> None:
        """All that was done is in the file when it was written twice: it is written each second."""
        for _ in range(2):
            before = self.state.stat().st_mtime_ns if self.state.exists() else 0
            wait_until(
                lambda before=before: self.state.exists() and self.state.stat().st_mtime_ns > before,
                "anvil does not save its state",
            )


class Geth(Process):
    """geth in development mode, which mines when there is something to mine."""

    chain_id = GETH_ID
    proves_history = False

    def command(self) -> list[str]:
        geth = shutil.which("geth")
        assert geth is not None
        return [
            *(geth, "--dev", "--datadir", str(self.directory / "data"), "--verbosity", "1", "--ipcdisable"),
            *("--http", "--http.port", str(self.port), "--http.api", "eth,net,debug,web3", "--port", "0"),
            *("--authrpc.port", str(free_port()), "--state.scheme", "hash", "--gcmode", "archive"),
        ]

    def fund(self, address: bytes, wei: int = FUNDS) -> None:
        (account,) = self.do("eth_accounts")
        sent = self.do(
            "eth_sendTransaction", {"from": account, "to": "0x" + address.hex(), "value": hex(wei), "gas": hex(21_000)}
        )
        wait_until(lambda: self.do("eth_getTransactionReceipt", sent) is not None, "geth does not mine")

    def mine(self, blocks: int) -> None:
        for _ in range(blocks):
            self.fund(bytes(20), 1)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def wait_until(condition: Callable[[], bool], complaint: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, complaint
        time.sleep(0.05)


NAMES: Final = ["embedded", "embedded-rpc", "anvil", *(["geth"] if shutil.which("geth") else [])]


@pytest.fixture(scope="module", params=NAMES)
def node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A running node with a funded key and a deployed contract, which survive whatever happens to it."""
    directory = tmp_path_factory.mktemp(request.param)
    made: Node
    match request.param:
        case "embedded":
            made = InProcess(directory)
        case "embedded-rpc":
            made = Served(directory)
        case "anvil":
            made = Anvil(directory, request.getfixturevalue("anvil_program"))
        case _:
            made = Geth(directory)
    made.start()
    try:
        prepare(made)
        yield made
    finally:
        made.kill()


def prepare(node: Node) -> bytes:
    """Coins for the key, and the contract; returns its address."""
    node.fund(KEY.address)
    with node.connect() as chain:
        contract = deploy_contract(chain, KEY)
        assert deploy_contract(chain, KEY) == contract
    node.mine(3)
    node.save()
    return contract


@pytest.fixture(scope="module")
def contract(node: Node) -> bytes:
    with node.connect() as chain:
        return deploy_contract(chain, KEY)


_LOGS: Final = itertools.count()


@pytest.fixture
def new_target(node: Node, contract: bytes) -> Callable[[], AnchorTarget]:
    """Makes logs that nobody has anchored yet."""

    def make() -> AnchorTarget:
        log_id = sha256(b"log %d" % next(_LOGS)).digest()
        return AnchorTarget(node.chain_id, contract, KEY.address, log_id, load_contract().code_hash)

    return make


@pytest.fixture
def target(new_target: Callable[[], AnchorTarget]) -> AnchorTarget:
    return new_target()


@pytest.fixture(scope="session")
def anchor_key() -> LocalKey:
    return KEY


@pytest.fixture
def own_anvil(anvil_program: Path, tmp_path: Path) -> Iterator[Callable[..., Anvil]]:
    """Starts nodes that a test has for itself, with the key funded and nothing deployed."""
    started: list[Anvil] = []

    def start(*options: str, persistent: bool = False) -> Anvil:
        directory = tmp_path / f"node{len(started)}"
        directory.mkdir()
        made = Anvil(directory, anvil_program, *options, persistent=persistent)
        made.start()
        started.append(made)
        made.fund(KEY.address)
        return made

    yield start
    for made in started:
        made.kill()
