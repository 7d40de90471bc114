"""The development chain under SIGKILL: what was acknowledged is there, and the chain is sound at its last block."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path

import pytest
from eth_hash.auto import keccak

from anchoring.chain.deploy import deploy_contract
from anchoring.chain.dev import DevChain
from anchoring.chain.transactions import LocalKey
from anchoring.contracts import load_contract
from anchoring.receipt import AnchorReceipt, read_anchor, slots

pytestmark = pytest.mark.fault

REPOSITORY = Path(__file__).parents[2]
SECRET = sha256(b"an anchor key").digest()
LOG_ID = sha256(b"a log").digest()
ROUNDS = 3

# Anchors one size after another and says each one that is mined, until it is killed.
WRITER = """
import sys
from pathlib import Path
from anchoring.chain.dev import DevChain
from anchoring.chain.transactions import LocalKey, Transaction
from anchoring.contracts import anchor_call
path, secret, contract, log_id, size = sys.argv[1], *map(bytes.fromhex, sys.argv[2:5]), int(sys.argv[5])
chain, key = DevChain(Path(path)), LocalKey(secret)
nonce = chain.transaction_count(key.address)
while True:
    call = anchor_call(log_id, size, size + 1, bytes([size % 255 + 1]) * 32)
    raw = key.sign(Transaction(chain.chain_id(), nonce, contract, call, 150_000, 10**10, 10**9))
    chain.send_raw(raw)
    size, nonce = size + 1, nonce + 1
    print(size, flush=True)
"""


def shown_size(chain: DevChain, contract: bytes, owner: bytes, number: int) -> int:
    """The size in the state after a block, by a verified proof."""
    header = chain.header(number)
    proofs = chain.get_proof(contract, slots(owner, LOG_ID)[:2], number)
    record = read_anchor(
        AnchorReceipt(header, proofs.account_proof, (proofs.storage_proofs[0], proofs.storage_proofs[1])),
        contract=contract,
        owner=owner,
        log_id=LOG_ID,
        block_hash=keccak(header),
        code_hash=load_contract().code_hash,
    )
    return 0 if record is None else record.size


def write_until_killed(path: Path, contract: bytes, size: int, delay_s: float) -> int:
    """Run the writer, kill it some time after its first anchor, and return the last size that it acknowledged."""
    arguments = [str(path), SECRET.hex(), contract.hex(), LOG_ID.hex(), str(size)]
    writer = subprocess.Popen([sys.executable, "-c", WRITER, *arguments], stdout=subprocess.PIPE, cwd=REPOSITORY)
    with writer:
        assert writer.stdout is not None
        acknowledged = int(writer.stdout.readline())
        time.sleep(delay_s)
        writer.kill()
        lines = writer.stdout.read().split(b"\n")
    # The last piece is a line that was cut off, or nothing.
    return max([acknowledged, *map(int, lines[:-1])])


def test_acknowledged_anchors_survive_kill_9(tmp_path: Path) -> None:
    rng = random.Random(9)
    path = tmp_path / "chain.db"
    key = LocalKey(SECRET)
    with DevChain(path, create=True) as chain:
        chain.fund(key.address, 10**18)
        contract = deploy_contract(chain, key)
    size = 0
    for _ in range(ROUNDS):
        acknowledged = write_until_killed(path, contract, size, rng.random() * 0.4)
        with DevChain(path) as chain:
            head = chain.head_number()
            # One block for each anchor, after the two that set the chain up; at most one was not acknowledged.
            size = shown_size(chain, contract, key.address, head)
            assert acknowledged <= size <= acknowledged + 1
            assert head == size + 2
            assert chain.transaction_count(key.address) == size + 1
    with DevChain(path) as chain:
        for number in range(1, chain.head_number() + 1):
            assert chain.header(number)[4:36] == keccak(chain.header(number - 1))
            if number >= 2:
                assert shown_size(chain, contract, key.address, number) == number - 2
        chain.mine()
