"""The anchor contract: what ships is what the source compiles to, and it cannot go back."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
from eth_hash.auto import keccak

from anchoring.chain.client import Inclusion
from anchoring.chain.deploy import close_log, deploy_contract
from anchoring.chain.dev import DevChain
from anchoring.chain.outbox import AnchorTarget
from anchoring.chain.transactions import LocalKey, Transaction
from anchoring.contracts import anchor_call, close_call, load_contract, records_call
from anchoring.receipt import AnchorReceipt, AnchorRecord, read_anchor, slots
from identity.errors import TransportError

FILES = Path(__file__).parents[4] / "anchoring" / "contracts"
ZERO = bytes(32)

Send = Callable[..., Inclusion]


@pytest.fixture
def send(chain: DevChain, key: LocalKey, target: AnchorTarget) -> Send:
    """Send call data to the contract as the owner, or as somebody else."""

    def send(data: bytes, sender: LocalKey = key) -> Inclusion:
        fees = chain.fees()
        raw = sender.sign(
            Transaction(
                chain_id=target.chain_id,
                nonce=chain.transaction_count(sender.address),
                to=target.contract,
                data=data,
                gas=150_000,
                max_fee=2 * fees.base + fees.priority,
                priority_fee=fees.priority,
            )
        )
        inclusion = chain.inclusion(chain.send_raw(raw))
        assert inclusion is not None
        return inclusion

    return send


def record(chain: DevChain, target: AnchorTarget, number: int | None = None) -> AnchorRecord | None:
    """The log's record, by a verified receipt."""
    number = chain.head_number() if number is None else number
    meta, root, _ = slots(target.owner, target.log_id)
    proofs = chain.get_proof(target.contract, (meta, root), number)
    header = chain.header(number)
    return read_anchor(
        AnchorReceipt(header, proofs.account_proof, (proofs.storage_proofs[0], proofs.storage_proofs[1])),
        contract=target.contract,
        owner=target.owner,
        log_id=target.log_id,
        block_hash=keccak(header),
        code_hash=target.code_hash,
    )


def refusal(chain: DevChain, target: AnchorTarget, data: bytes) -> str:
    """The reason with which the contract refuses the owner's call."""
    with pytest.raises(TransportError, match="execution reverted: ") as caught:
        chain.call(target.contract, data, target.owner)
    return str(caught.value).removeprefix("execution reverted: ")


# What ships


def test_the_source_compiles_to_what_ships() -> None:
    pytest.importorskip("vyper", reason="the compiler is not installed")
    from anchoring.contracts.build import build

    source = (FILES / "Anchor.vy").read_text(encoding="utf-8")
    assert build(source) == json.loads((FILES / "anchor.json").read_text(encoding="utf-8"))


def test_the_shipped_file_is_consistent() -> None:
    shipped = json.loads((FILES / "anchor.json").read_text(encoding="utf-8"))
    contract = load_contract()
    assert sha256((FILES / "Anchor.vy").read_bytes()).digest() == contract.source_sha256
    assert keccak(contract.runtime_code) == contract.code_hash
    assert contract.runtime_code in contract.creation_code
    assert (shipped["compiler"], shipped["evm_version"]) == ("vyper 0.4.3", "cancun")


def test_the_storage_layout_is_the_one_that_proofs_assume() -> None:
    shipped = json.loads((FILES / "anchor.json").read_text(encoding="utf-8"))
    assert shipped["storage_layout"] == {
        "records": {"type": "HashMap[address, HashMap[bytes32, Record]]", "n_slots": 1, "slot": 0}
    }


def test_calls_are_those_of_the_abi() -> None:
    functions = {entry["name"]: entry for entry in load_contract().abi if entry["type"] == "function"}
    calls = {
        "anchor": anchor_call(ZERO, 1, 2, ZERO),
        "close": close_call(ZERO, ZERO),
        "records": records_call(bytes(20), ZERO),
    }
    assert functions.keys() == calls.keys()
    for name, data in calls.items():
        types = [parameter["type"] for parameter in functions[name]["inputs"]]
        assert data[:4] == keccak(f"{name}({','.join(types)})".encode())[:4]
        assert len(data) == 4 + 32 * len(types)


def test_nothing_in_the_contract_can_call_out_or_replace_it() -> None:
    """No CALL, CALLCODE, DELEGATECALL, STATICCALL, CREATE, CREATE2 or SELFDESTRUCT among the instructions."""
    code, position, instructions = load_contract().runtime_code, 0, set()
    # The jump table of the selectors stands behind the code, and the code ends with a revert.
    end = code.rindex(bytes.fromhex("5f80fd")) + 3
    while position < end:
        instructions.add(code[position])
        position += 1 + (code[position] - 0x5F if 0x60 <= code[position] <= 0x7F else 0)
    assert 0x55 in instructions  # SSTORE: the walk does see instructions
    assert not instructions & {0xF0, 0xF1, 0xF2, 0xF4, 0xF5, 0xFA, 0xFF}


# What it does


def test_a_record_is_what_the_proof_shows(chain: DevChain, target: AnchorTarget, send: Send) -> None:
    assert record(chain, target) is None
    first = send(anchor_call(target.log_id, 0, 5, b"\x05" * 32))
    second = send(anchor_call(target.log_id, 5, 2**64 - 1, b"\x06" * 32))
    time_s = 1_790_000_000
    assert record(chain, target) == AnchorRecord(2**64 - 1, time_s, second.number, False, b"\x06" * 32)
    assert record(chain, target, first.number) == AnchorRecord(5, time_s, first.number, False, b"\x05" * 32)
    assert record(chain, target, first.number - 1) is None


def test_the_getter_agrees_with_the_slots(chain: DevChain, target: AnchorTarget, send: Send) -> None:
    send(anchor_call(target.log_id, 0, 5, b"\x05" * 32))
    send(close_call(target.log_id, b"\x51" * 32))
    shown = chain.call(target.contract, records_call(target.owner, target.log_id))
    assert int.from_bytes(shown[:32], "big") == 5 | 1_790_000_000 << 64 | (chain.head_number() - 1) << 128 | 1 << 255
    assert shown[32:] == b"\x05" * 32 + b"\x51" * 32


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        ((4, 9, b"\x01" * 32), "stale"),
        ((0, 9, b"\x01" * 32), "stale"),
        ((6, 9, b"\x01" * 32), "stale"),
        ((5, 5, b"\x01" * 32), "no growth"),
        ((5, 4, b"\x01" * 32), "no growth"),
        ((5, 0, b"\x01" * 32), "no growth"),
        ((5, 6, ZERO), "empty root"),
        ((5, 2**64, b"\x01" * 32), ""),
        ((2**64 + 5, 2**64 + 9, b"\x01" * 32), ""),
    ],
)
def test_what_the_contract_refuses(
    chain: DevChain, target: AnchorTarget, send: Send, call: tuple[int, int, bytes], reason: str
) -> None:
    send(anchor_call(target.log_id, 0, 5, b"\x05" * 32))
    before = record(chain, target)
    data = anchor_call(target.log_id, *call)
    assert refusal(chain, target, data) == reason
    assert not send(data).succeeded
    assert record(chain, target) == before


def test_a_log_begins_at_size_0_only(chain: DevChain, target: AnchorTarget) -> None:
    assert refusal(chain, target, anchor_call(target.log_id, 1, 2, b"\x01" * 32)) == "stale"
    assert refusal(chain, target, anchor_call(target.log_id, 0, 0, b"\x01" * 32)) == "no growth"


def test_nothing_is_accepted_after_closing(chain: DevChain, target: AnchorTarget, send: Send) -> None:
    send(anchor_call(target.log_id, 0, 5, b"\x05" * 32))
    anchored = record(chain, target)
    assert anchored is not None
    assert send(close_call(target.log_id, b"\x51" * 32)).succeeded
    closed = AnchorRecord(5, anchored.time_s, anchored.block, True, anchored.root)
    assert record(chain, target) == closed
    for data in (
        anchor_call(target.log_id, 5, 6, b"\x01" * 32),
        anchor_call(target.log_id, 0, 6, b"\x01" * 32),
        anchor_call(target.log_id, 2**64 - 1, 6, b"\x01" * 32),
        close_call(target.log_id, b"\x52" * 32),
        close_call(target.log_id, ZERO),
    ):
        assert refusal(chain, target, data) in {"closed", ""}
        assert not send(data).succeeded
    assert record(chain, target) == closed


def test_a_log_without_an_anchor_can_be_closed(chain: DevChain, target: AnchorTarget, send: Send) -> None:
    assert send(close_call(target.log_id, ZERO)).succeeded
    assert record(chain, target) == AnchorRecord(0, 0, 0, True, ZERO)
    assert refusal(chain, target, anchor_call(target.log_id, 0, 5, b"\x05" * 32)) == "closed"


def test_nobody_writes_under_another_address(chain: DevChain, target: AnchorTarget, send: Send) -> None:
    squatter = LocalKey(sha256(b"squatter").digest())
    chain.fund(squatter.address, 10**18)
    send(anchor_call(target.log_id, 0, 5, b"\x05" * 32))
    before = record(chain, target)
    assert send(anchor_call(target.log_id, 0, 999, b"\x99" * 32), squatter).succeeded
    assert send(close_call(target.log_id, ZERO), squatter).succeeded
    assert record(chain, target) == before


def test_logs_of_one_owner_do_not_touch(chain: DevChain, target: AnchorTarget, send: Send) -> None:
    send(anchor_call(target.log_id, 0, 5, b"\x05" * 32))
    before = record(chain, target)
    send(anchor_call(b"\x77" * 32, 0, 9, b"\x09" * 32))
    send(close_call(b"\x77" * 32, ZERO))
    assert record(chain, target) == before


def test_the_contract_takes_no_coins_and_no_other_calls(chain: DevChain, target: AnchorTarget) -> None:
    with pytest.raises(TransportError):
        chain.call(target.contract, b"", target.owner)
    with pytest.raises(TransportError):
        chain.call(target.contract, b"\1\2\3\4", target.owner)


def test_events_say_what_happened(chain: DevChain, target: AnchorTarget, send: Send) -> None:
    anchored = send(anchor_call(target.log_id, 0, 5, b"\x05" * 32))
    closed = send(close_call(target.log_id, b"\x51" * 32))
    owner = target.owner.rjust(32, b"\0")
    expected = [
        ("Anchored(address,bytes32,uint64,uint64,bytes32)", (0).to_bytes(32, "big") + _word(5) + b"\x05" * 32),
        ("Closed(address,bytes32,uint64,bytes32)", _word(5) + b"\x51" * 32),
    ]
    for inclusion, (signature, data) in zip((anchored, closed), expected, strict=True):
        (executed,) = chain.block(inclusion.number).executed
        topics = (keccak(signature.encode()), owner, target.log_id)
        assert executed.logs == ((target.contract, topics, data),)


def test_gas_is_what_the_specification_says(chain: DevChain, target: AnchorTarget, send: Send) -> None:
    other = b"\x77" * 32
    used = [
        chain.block(chain.head_number()).executed[0].gas_used,
        *(
            chain.block(send(data).number).executed[0].gas_used
            for data in (
                anchor_call(target.log_id, 0, 5, b"\x05" * 32),
                anchor_call(target.log_id, 5, 9, b"\x09" * 32),
                close_call(target.log_id, b"\x51" * 32),
                close_call(other, b"\x51" * 32),
            )
        ),
    ]
    assert used == pytest.approx([312_200, 69_650, 35_450, 51_850, 68_950], abs=100)


# Deploying and closing


def test_deploying_again_finds_the_contract(chain: DevChain, target: AnchorTarget, key: LocalKey, send: Send) -> None:
    send(anchor_call(target.log_id, 0, 5, b"\x05" * 32))
    before = chain.head_number()
    assert deploy_contract(chain, key) == target.contract
    assert chain.head_number() == before


def test_deploying_without_coins_is_refused(chain: DevChain) -> None:
    with pytest.raises(TransportError, match="no-funds"):
        deploy_contract(chain, LocalKey(sha256(b"poor").digest()))


def test_a_deployment_that_is_not_mined_yet_can_be_looked_for_later(
    chain: DevChain, monkeypatch: pytest.MonkeyPatch
) -> None:
    another = LocalKey(sha256(b"another").digest())
    chain.fund(another.address, 10**18)
    monkeypatch.setattr(chain, "inclusion", lambda _: None)
    with pytest.raises(TransportError, match="not mined yet"):
        deploy_contract(chain, another, wait_s=0)
    monkeypatch.undo()
    before = chain.head_number()
    assert chain.code(deploy_contract(chain, another)) == load_contract().runtime_code
    assert chain.head_number() == before


def test_closing_twice_is_refused(chain: DevChain, target: AnchorTarget, key: LocalKey) -> None:
    close_log(chain, key, target, ZERO)
    with pytest.raises(TransportError, match="reverted"):
        close_log(chain, key, target, ZERO)


def _word(number: int) -> bytes:
    return number.to_bytes(32, "big")
