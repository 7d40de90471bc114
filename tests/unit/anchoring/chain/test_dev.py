"""The development chain: durable, sound after every failure, never ahead of the clock, held by one process."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
import threading
from hashlib import sha256
from pathlib import Path

import pytest
from eth_hash.auto import keccak

from anchoring.chain.client import SendRefused, WhyRefused
from anchoring.chain.dev import DevChain, DevChainReader
from anchoring.chain.keyvalue import KeyValueFile
from anchoring.chain.outbox import AnchorTarget
from anchoring.chain.transactions import LocalKey, Transaction, contract_address, transaction_hash
from anchoring.contracts import load_contract
from anchoring.receipt import DEVELOPMENT_CHAIN_ID, parse_header
from anchoring.trie_proof import verify_trie_proof
from identity.errors import (
    ConfigurationError,
    DamagedFile,
    NewerFormat,
    RefusedError,
    StorageError,
    StoreBusy,
    TransportError,
)

REPOSITORY = Path(__file__).parents[4]
SOMEBODY = b"\x5b" * 20


def transfer(chain: DevChain, key: LocalKey, **changes: int) -> bytes:
    fields = {"chain_id": DEVELOPMENT_CHAIN_ID, "nonce": chain.transaction_count(key.address), "gas": 21_000}
    fields |= {"max_fee": 10**10, "priority_fee": 1, "value": 1} | changes
    return key.sign(Transaction(to=SOMEBODY, data=b"", **fields))


# Opening


def test_a_chain_is_not_created_by_accident(tmp_path: Path) -> None:
    for kind in (DevChain, DevChainReader):
        with pytest.raises(StorageError, match="no development chain"):
            kind(tmp_path / "chain.db")
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot open"):
        DevChain(tmp_path / "absent" / "chain.db", create=True)


def test_two_chains_are_two_chains(tmp_path: Path) -> None:
    clock = lambda: 1_790_000_000.0  # noqa: E731
    with (
        DevChain(tmp_path / "a.db", create=True, clock_s=clock) as first,
        DevChain(tmp_path / "b.db", create=True, clock_s=clock) as second,
    ):
        assert first.chain_id() == second.chain_id() == DEVELOPMENT_CHAIN_ID
        assert first.header(0) != second.header(0)


def test_it_comes_back_as_it_was(chain_path: Path, key: LocalKey, target: AnchorTarget) -> None:
    with DevChain(chain_path) as chain:
        headers = [chain.header(number) for number in range(chain.head_number() + 1)]
        sent = chain.send_raw(transfer(chain, key))
    with DevChain(chain_path, create=True) as chain:
        assert [chain.header(number) for number in range(len(headers))] == headers
        assert chain.head_number() == chain.final_number() == len(headers)
        assert chain.inclusion(sent) is not None
        assert chain.balance(SOMEBODY) == 1
        assert chain.code(target.contract) == load_contract().runtime_code
        assert chain.code(SOMEBODY) == chain.code(b"\x77" * 20) == b""


def test_headers_form_a_chain(chain: DevChain) -> None:
    chain.mine()
    for number in range(1, chain.head_number() + 1):
        header = parse_header(chain.header(number))
        assert (header.number, header.hash) == (number, keccak(chain.header(number)))
        assert chain.header(number)[4:36] == keccak(chain.header(number - 1))
        assert chain.block_number(header.hash) == number
    assert chain.block_number(bytes(32)) is None
    for absent in (chain.head_number() + 1, 2**64):
        with pytest.raises(TransportError):
            chain.header(absent)
        with pytest.raises(TransportError):
            chain.block(absent)


def test_a_file_that_is_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE kv (k, v)")
    for create in (False, True):
        with pytest.raises(ConfigurationError, match="not a development chain"):
            DevChain(path, create=create)
    path.write_bytes(b"text, and enough of it to look at" * 100)
    with pytest.raises(DamagedFile):
        DevChain(path)
    path.write_bytes(b"")
    with pytest.raises(ConfigurationError):
        DevChain(path)


def test_a_newer_format_is_refused(chain_path: Path) -> None:
    with sqlite3.connect(chain_path) as database:
        database.execute("PRAGMA user_version = 2")
    with pytest.raises(NewerFormat):
        DevChain(chain_path)


def test_a_failed_opening_lets_go_of_the_lock(chain_path: Path) -> None:
    good = chain_path.read_bytes()
    chain_path.write_bytes(b"x" * len(good))
    with pytest.raises(DamagedFile):
        DevChain(chain_path)
    chain_path.write_bytes(good)
    DevChain(chain_path, wait_s=0).close()


# One process at a time


def test_a_second_opening_is_refused_until_the_first_ends(chain_path: Path) -> None:
    first = DevChain(chain_path)
    with pytest.raises(StoreBusy):
        DevChain(chain_path, wait_s=0.1)
    threading.Timer(0.2, first.close).start()
    DevChain(chain_path, wait_s=5).close()


def test_another_process_holds_it(chain_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from anchoring.chain.dev import DevChain\n"
        "chain = DevChain(Path(sys.argv[1])); print('open', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(chain_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=REPOSITORY
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"
        with pytest.raises(StoreBusy, match="another process"):
            DevChain(chain_path, wait_s=0)
        with DevChainReader(chain_path) as reader:
            assert reader.head_number() == 2
        holder.kill()
    DevChain(chain_path, wait_s=5).close()


def test_threads_take_turns(chain: DevChain, key: LocalKey) -> None:
    payments = [transfer(chain, key, nonce=chain.transaction_count(key.address) + place) for place in range(6)]
    failures: list[BaseException] = []

    def read() -> None:
        try:
            for _ in range(50):
                header = parse_header(chain.header(chain.head_number()))
                proofs = chain.get_proof(SOMEBODY, (0,), header.number)
                verify_trie_proof(header.state_root, keccak(SOMEBODY), proofs.account_proof, what="test")
        except BaseException as exc:  # noqa: BLE001
            failures.append(exc)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for thread in readers:
        thread.start()
    for payment in payments:
        chain.send_raw(payment)
    for thread in readers:
        thread.join()
    assert failures == []
    assert chain.balance(SOMEBODY) == 6


# Reading without the machine


def test_the_reader_sees_what_was_committed_and_loads_no_evm(chain: DevChain, chain_path: Path, key: LocalKey) -> None:
    chain.send_raw(transfer(chain, key))
    code = (
        "import sys; from pathlib import Path; from anchoring.chain.dev import DevChainReader\n"
        "reader = DevChainReader(Path(sys.argv[1])); number = reader.final_number()\n"
        "print(number, reader.header(number).hex(), len(reader.get_proof(bytes(20), (0,), number).account_proof))\n"
        "heavy = {'eth', 'web3', 'eth_account', 'eth_utils', 'rlp', 'trie', 'sqlalchemy', 'httpx'} & set(sys.modules)\n"
        "sys.exit(repr(heavy) if heavy else 0)"
    )
    command = [sys.executable, "-c", code, str(chain_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert done.returncode == 0, done.stderr
    number, header, nodes = done.stdout.split()
    assert (int(number), bytes.fromhex(header)) == (chain.head_number(), chain.header(chain.head_number()))
    assert int(nodes) > 0


def test_old_states_stay_provable(chain: DevChain, key: LocalKey) -> None:
    numbers = {}
    for _ in range(4):
        chain.send_raw(transfer(chain, key))
        numbers[chain.head_number()] = chain.balance(SOMEBODY)
    for number, balance in numbers.items():
        header = parse_header(chain.header(number))
        proof = chain.get_proof(SOMEBODY, (), number).account_proof
        account = verify_trie_proof(header.state_root, keccak(SOMEBODY), proof, what="test")
        assert account is not None
        assert account[2:4] == bytes([0x80, balance])


def test_slots_of_an_account_that_is_not_there(chain: DevChain) -> None:
    header = parse_header(chain.header(0))
    proofs = chain.get_proof(SOMEBODY, (0, 1), 0)
    assert verify_trie_proof(header.state_root, keccak(SOMEBODY), proofs.account_proof, what="test") is None
    assert proofs.storage_proofs == ((), ())


# Time


def test_blocks_carry_the_clock_and_never_run_ahead(chain: DevChain, clock: pytest.FixtureRequest) -> None:
    for now_s in (1_790_000_100.9, 1_790_000_100.9, 1_790_000_101.0, 1_790_000_050.0, 1_790_000_200.0):
        clock.now_s = now_s  # type: ignore[attr-defined]
        chain.mine()
    first = chain.head_number() - 4
    times = [parse_header(chain.header(number)).timestamp_s for number in range(first, first + 5)]
    # A clock that goes back holds the chain's time still.
    assert times == [1_790_000_100, 1_790_000_100, 1_790_000_101, 1_790_000_101, 1_790_000_200]


# Sending


def test_sending_again_changes_nothing(chain: DevChain, key: LocalKey) -> None:
    raw = transfer(chain, key)
    assert chain.send_raw(raw) == chain.send_raw(raw) == transaction_hash(raw)
    assert chain.balance(SOMEBODY) == 1


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"nonce": 0}, WhyRefused.NONCE_USED),
        ({"nonce": 7}, WhyRefused.OTHER),
        ({"chain_id": 1}, WhyRefused.OTHER),
        ({"max_fee": 10, "priority_fee": 1}, WhyRefused.UNDERPRICED),
        ({"value": 10**19}, WhyRefused.NO_FUNDS),
        ({"gas": 20_000}, WhyRefused.OTHER),
        ({"gas": 40_000_000, "max_fee": 2 * 10**9}, WhyRefused.OTHER),
    ],
)
def test_refused_transactions_leave_no_trace(
    chain: DevChain, key: LocalKey, changes: dict[str, int], why: WhyRefused
) -> None:
    before = chain.head_number()
    with pytest.raises(SendRefused) as caught:
        chain.send_raw(transfer(chain, key, **changes))
    assert caught.value.why is why
    assert chain.head_number() == before
    chain.send_raw(transfer(chain, key))
    assert chain.head_number() == before + 1


def test_bytes_that_are_no_transaction_are_refused(chain: DevChain, key: LocalKey) -> None:
    rng = random.Random(3)
    raw = transfer(chain, key)
    before = chain.head_number()
    for _ in range(50):
        flipped = bytearray(raw)
        flipped[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
        for data in (bytes(flipped), raw[: rng.randrange(len(raw))], rng.randbytes(rng.randrange(60))):
            with pytest.raises(SendRefused):
                chain.send_raw(data)
    assert chain.head_number() == before


def test_a_disk_that_fails_in_the_middle_leaves_the_last_block(
    chain: DevChain, key: LocalKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = KeyValueFile.put
    left = [10**6]

    def fail(self: KeyValueFile, name: bytes, value: bytes) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise StorageError("the disk is full")
        put(self, name, value)

    monkeypatch.setattr(KeyValueFile, "put", fail)
    chain.send_raw(transfer(chain, key))
    writes = 10**6 - left[0]
    header, raw = chain.header(chain.head_number()), transfer(chain, key)
    for allowed in range(writes):
        left[0] = allowed
        with pytest.raises(StorageError):
            chain.send_raw(raw)
        assert chain.header(chain.head_number()) == header
        assert chain.inclusion(transaction_hash(raw)) is None
    left[0] = 10**6
    chain.send_raw(raw)
    assert chain.balance(SOMEBODY) == 2


def test_altered_values_are_noticed(chain_path: Path, target: AnchorTarget) -> None:
    with sqlite3.connect(chain_path) as database:
        rows = database.execute("SELECT k, v FROM kv WHERE length(k) = 32").fetchall()
        database.executemany("UPDATE kv SET v = ? WHERE k = ?", [(value + b"\0", name) for name, value in rows])
    with DevChainReader(chain_path) as reader:
        for read in (reader.head_number, lambda: reader.header(1), lambda: reader.get_proof(target.contract, (0,), 1)):
            with pytest.raises(DamagedFile):
                read()


def test_a_lost_head_is_noticed(chain_path: Path) -> None:
    with sqlite3.connect(chain_path) as database:
        database.execute("DELETE FROM kv WHERE k = ?", (b"v1:canonical_head_hash",))
    with DevChain(chain_path) as chain:
        for read in (chain.head_number, chain.fees):
            with pytest.raises(DamagedFile):
                read()


# Keys


def test_public_keys_sign_for_the_development_chain_only() -> None:
    for number in range(1, 11):
        known = LocalKey(number.to_bytes(32, "big"))
        fields = {"nonce": 0, "to": SOMEBODY, "data": b"", "gas": 21_000, "max_fee": 1, "priority_fee": 1}
        assert known.sign(Transaction(chain_id=DEVELOPMENT_CHAIN_ID, **fields))  # type: ignore[arg-type]
        for chain_id in (1, 11_155_111, 31_337, 131_277_322_940_537):
            with pytest.raises(RefusedError, match="public"):
                known.sign(Transaction(chain_id=chain_id, **fields))  # type: ignore[arg-type]


@pytest.mark.parametrize("secret", [b"", bytes(32), b"\xff" * 32, b"a" * 31, b"a" * 33])
def test_what_is_no_private_key_is_refused_without_showing_it(secret: bytes) -> None:
    with pytest.raises(ConfigurationError) as caught:
        LocalKey(secret)
    assert secret.hex() not in str(caught.value) or not secret
    assert caught.value.__cause__ is None


def test_the_contract_address_follows_from_sender_and_nonce(target: AnchorTarget, key: LocalKey) -> None:
    assert contract_address(key.address, 0) == target.contract
    # The example of EIP-1014's neighbourhood: known sender, nonces 0 to 2.
    sender = bytes.fromhex("6ac7ea33f8831ea9dcc53393aaa88b25a785dbf0")
    known = ["cd234a471b72ba2f1ccf0a70fcaba648a5eecd8d", "343c43a37d37dff08ae8c4a11544c718abb4fcf8"]
    assert [contract_address(sender, nonce).hex() for nonce in range(2)] == known


def test_the_faucet_gives_coins(chain: DevChain) -> None:
    somebody = sha256(b"somebody").digest()[:20]
    chain.fund(somebody, 10**18)
    chain.fund(somebody, 1)
    assert chain.balance(somebody) == 10**18 + 1


def test_file_and_lock_are_private(tmp_path: Path) -> None:
    with DevChain(tmp_path / "chain.db", create=True):
        assert (tmp_path / "chain.db.lock").stat().st_mode & 0o077 == 0
