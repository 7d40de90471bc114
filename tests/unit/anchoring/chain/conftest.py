"""A development chain with a funded key and a deployed contract: made once, copied for each test."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from anchoring.chain.deploy import deploy_contract
from anchoring.chain.dev import DevChain
from anchoring.chain.outbox import AnchorTarget
from anchoring.chain.transactions import LocalKey
from anchoring.contracts import load_contract
from anchoring.receipt import DEVELOPMENT_CHAIN_ID

GENESIS_S = 1_790_000_000
LOG_ID = sha256(b"a log").digest()


class Clock:
    """Seconds since the epoch, moved by the test."""

    def __init__(self, now_s: float = GENESIS_S) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def key() -> LocalKey:
    return LocalKey(sha256(b"an anchor key").digest())


@pytest.fixture(scope="session")
def deployed(tmp_path_factory: pytest.TempPathFactory, key: LocalKey) -> tuple[Path, AnchorTarget]:
    path = tmp_path_factory.mktemp("chain") / "chain.db"
    with DevChain(path, create=True, clock_s=Clock()) as chain:
        chain.fund(key.address, 10**18)
        contract = deploy_contract(chain, key)
    target = AnchorTarget(DEVELOPMENT_CHAIN_ID, contract, key.address, LOG_ID, load_contract().code_hash)
    return path, target


@pytest.fixture
def target(deployed: tuple[Path, AnchorTarget]) -> AnchorTarget:
    return deployed[1]


@pytest.fixture
def chain_path(deployed: tuple[Path, AnchorTarget], tmp_path: Path) -> Path:
    """A copy of the chain, closed."""
    return Path(shutil.copy(deployed[0], tmp_path / "chain.db"))


@pytest.fixture
def chain(chain_path: Path, clock: Clock) -> Iterator[DevChain]:
    with DevChain(chain_path, clock_s=clock) as opened:
        yield opened
