"""Row A4: bits flipped in the raw files of a store and of the embedded chain: noticed and named, or without effect.

A flip is without effect when everything that the store answers is as before: the whole audit, every block, the evidence
for every entry; of the chain every header, the proofs of every state, and the code. Otherwise something has to say what
is wrong, in a sentence. Nothing may end in a traceback, hang, or pass in silence. After each flip one more entry is
written, or a block mined: that works, and what is there then audits clean, or it is refused by name.

CHAOS_ROUNDS sets the number of flips in each file by four; ``make chaos`` makes 2,000.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from anchoring.chain.dev import DevChain, DevChainReader
from anchoring.receipt import slots
from identity.errors import AuditError

pytestmark = pytest.mark.fault

ROUNDS = int(os.environ.get("CHAOS_ROUNDS", "20"))
STORE_FLIPS = 4 * ROUNDS
LOG_FLIPS = ROUNDS
CHAIN_FLIPS = 4 * ROUNDS
FLIPS_A_COMMAND = 50
"""Once in so many flips of the chain a command asks it: it says what is wrong, or answers."""
LONGEST_S = 60
NAMED = {1, 2, 74, 75, 77, 78}
"""The exit codes that come with a sentence about what is wrong."""

Answers = tuple[object, ...]


@contextmanager
def no_longer_than(seconds: int) -> Iterator[None]:
    """What hangs is interrupted, and fails."""

    def ring(_number: int, _frame: object) -> None:
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def flip(data: bytes, chance: random.Random) -> tuple[bytes, int, int]:
    """The data with one bit changed, where, and which."""
    at, bit = chance.randrange(len(data)), chance.randrange(8)
    return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :], at, bit


def fold_log(database: Path) -> None:
    """Bring everything from the write-ahead log into the file."""
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def same_text(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if "consistent:" not in line)


# --- the store ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(founded: Any, clone: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Sealed entries in two feeds, and some that are in no checkpoint."""
    world = clone(founded, tmp_path_factory.mktemp("flips"))
    world.append("one", "two")
    world.append("approved", feed="approvals")
    world.seal_and_show()
    world.append("in no checkpoint")
    return world


class FlippedStore:
    """The home of a world, and what it answers."""

    def __init__(self, world: Any, cli: Callable[..., int], capsys: Any, folder: Path) -> None:
        self._world, self._cli, self._capsys, self._folder = world, cli, capsys, folder
        self.database: Path = world.home.database
        self._sentinels = world.sentinels()
        (folder / "row.jsonl").write_text('{"text": "one more"}\n')

    def put(self, files: Mapping[str, bytes]) -> None:
        """Make these the files of the database, by suffix, and its sentinel what it was."""
        for suffix in ("", "-wal", "-shm"):
            path = self.database.with_name(self.database.name + suffix)
            path.unlink(missing_ok=True)
            if suffix in files:
                path.write_bytes(files[suffix])
        self._world.put_sentinels(self._sentinels)

    def run(self, *command: str | Path) -> tuple[int, str]:
        with no_longer_than(LONGEST_S):
            code = self._cli(self._world, *command)
        said = self._capsys.readouterr()
        assert "Traceback" not in said.err
        assert code == 0 or (code in NAMED and ("FAILED: " in said.out or "holdfast: " in said.err)), (code, said)
        return code, said.out + said.err

    def answers(self) -> tuple[bool, Answers]:
        """Whether all is well, and everything that is answered."""
        audit = self.run("audit")
        found = [audit[0], same_text(audit[1])]
        whole = audit[0] == 0
        for feed, length in (("ledger", 2), ("approvals", 1)):
            for index in range(length):
                code, said = self.run("evidence", "export", feed, str(index), "-o", "-")
                found += [code, said]
                whole = whole and code == 0
            found += self.run("feed", "read", feed)
        return whole, tuple(found)

    def append(self) -> bool:
        return self.run("feed", "append", "ledger", self._folder / "row.jsonl")[0] == 0


def check_flips(store: FlippedStore, pristine: Mapping[str, bytes], suffix: str, flips: int, seed: str) -> None:
    chance = random.Random(seed)
    store.put(pristine)
    before = store.answers()
    assert before[0]
    noticed = 0
    for _ in range(flips):
        data, at, bit = flip(pristine[suffix], chance)
        store.put({**pristine, suffix: data})
        status, _ = store.run("status")
        whole, found = store.answers()
        noticed += not whole
        assert not whole or found == before[1], f"byte {at} bit {bit}: passed in silence"
        if store.append() and whole:
            assert store.run("audit")[0] == 0, f"byte {at} bit {bit}: written to, and no longer whole"
        assert status in NAMED | {0}
    assert noticed or flips < 50


def test_a_flipped_bit_in_the_database_is_noticed_or_without_effect(
    written: Any, clone: Any, tmp_path: Path, cli: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    store = FlippedStore(clone(written, tmp_path / "whole"), cli, capsys, tmp_path)
    fold_log(store.database)
    check_flips(store, {"": store.database.read_bytes()}, "", STORE_FLIPS, "database")


def test_a_flipped_bit_in_the_write_ahead_log_is_noticed_or_without_effect(
    written: Any, clone: Any, tmp_path: Path, cli: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """The store of a process that was killed: its newest entries are in the log beside the file only."""
    world = clone(written, tmp_path / "killed")
    home = world.home
    with world.session() as session:
        key = session.vault.find_feed("ledger").state.key
        session.vault.append(world.ring, key, [world.entry("only in the log")])
        for suffix in ("", "-wal", "-shm"):
            shutil.copy(home.database.with_name(home.database.name + suffix), tmp_path / f"killed{suffix}.db")
    pristine = {suffix: (tmp_path / f"killed{suffix}.db").read_bytes() for suffix in ("", "-wal", "-shm")}
    assert pristine["-wal"]
    check_flips(FlippedStore(world, cli, capsys, tmp_path), pristine, "-wal", LOG_FLIPS, "log")


# --- the embedded chain ---------------------------------------------------------------------------------------------


def chain_answers(path: Path, contract: bytes, owner: bytes, log_id: bytes) -> Answers:
    with DevChainReader(path) as chain:
        head = chain.head_number()
        headers = [chain.header(number) for number in range(head + 1)]
        proofs = [chain.get_proof(contract, slots(owner, log_id), number) for number in range(2, head + 1)]
    with DevChain(path) as chain:
        rest = (chain.code(contract), chain.balance(owner), chain.transaction_count(owner), chain.fees())
        blocks = [chain.block(number) for number in range(1, head + 1)]
    return (headers, proofs, rest, blocks)


def test_a_flipped_bit_in_the_chain_is_noticed_or_without_effect(
    written: Any, clone: Any, tmp_path: Path, cli: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    world = clone(written, tmp_path / "chain")
    path = world.dev / "chain.db"
    fold_log(path)
    pristine = path.read_bytes()
    with world.session(read_only=True) as session:
        log_id, descriptor = session.vault.log_descriptor()
    binding = descriptor.chain
    assert binding is not None

    def answers() -> Answers:
        return chain_answers(path, binding.contract, binding.owner, log_id)

    store = FlippedStore(world, cli, capsys, tmp_path)
    before = answers()
    chance = random.Random("chain")
    noticed: list[str] = []
    for number in range(CHAIN_FLIPS):
        data, at, bit = flip(pristine, chance)
        for beside in path.parent.glob("chain.db*"):
            beside.unlink()
        path.write_bytes(data)
        if number % FLIPS_A_COMMAND == 0:
            store.run("status")
        with no_longer_than(LONGEST_S):
            try:
                assert answers() == before, f"byte {at} bit {bit}: passed in silence"
                with DevChain(path) as chain:
                    chain.mine()
                    assert chain.head_number() == len(before[0])  # type: ignore[arg-type]
            except AuditError as exc:
                noticed.append(str(exc))
    assert noticed
    assert all(noticed)
