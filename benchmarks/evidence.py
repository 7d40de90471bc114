"""Making evidence and verifying it, against the work that cannot be left out.

    python -m benchmarks.evidence [--engine sqlite|postgresql|both] [--rounds 7] [--json figures.json]

Made: from a store with the sample's 5,000 entries and a log of some hundred checkpoints, as ``holdfast evidence
export`` does it. The floor makes the same file and knows beforehand which leaves and checkpoints to show.

Verified: the floor is the token's and the chain's checks alone, on parts of the same file. Warm is one process that
verifies again and again, its floor on parts that are parsed already; cold is a process from start to exit, ``holdfast
verify`` against one that imports those checks and runs them. No store takes part in it.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from anchoring.evidence import CheckpointEvidence, DescriptorEvidence, Evidence, LeafEvidence, encode_evidence
from anchoring.exporter import export_evidence
from anchoring.policy_file import load_policy
from anchoring.verifier import verify_evidence
from anchoring.witness import open_archive
from api.bootstrap import Session, now_ms
from api.demo.bank import BATCH, FEED, Bank, transactions
from benchmarks._bank import found_bank
from benchmarks._engines import Engine, add_engine_option, engines
from benchmarks._measure import Comparison, compare, option_parser, repeated, report
from benchmarks._witness_checks import prepare
from ledger.feed import block_proof
from ledger.log import consistency_proof, inclusion_proof
from ledger.storage.sql import SqlReadTransaction
from ledger.store import FeedKey

ROOT: Final = Path(__file__).resolve().parent.parent
SAMPLE: Final = ROOT / "examples" / "berka-transactions.csv"
CHECKPOINTS: Final = 300
SHOWN_ENTRY: Final = 4711
MADE, VERIFIED, STARTED = 20, 20, 2
"""Files or processes in a round."""


def busy_bank(engine: Engine) -> tuple[Bank, FeedKey]:
    """A bank with the sample in one feed, sealed, and many checkpoints after that."""
    bank = found_bank(engine)
    ring = bank.keys()
    with bank.open() as session:
        key = session.vault.create_feed(ring, "branch", FEED)
        session.vault.import_blocks(ring, key, transactions(SAMPLE), batch=BATCH, on_batch=lambda _: None)
        bank.seal(session, ring)
        for _ in range(CHECKPOINTS):
            session.vault.checkpoint(ring, restate=True)
    return bank, key


# Made.


def measure_making(session: Session, key: FeedKey, engine: str, rounds: int) -> tuple[Comparison, bytes]:
    """Ours against the floor, and the file that both make."""

    def export(tx: SqlReadTransaction) -> Evidence:
        return export_evidence(tx, open_archive(tx), key, SHOWN_ENTRY)

    with session.vault.store.read() as tx:
        wanted = export(tx)
        state = tx.log()
        assert state is not None

    def in_transaction(make: Callable[[SqlReadTransaction], Evidence]) -> bytes:
        with session.vault.store.read() as tx:
            return encode_evidence(make(tx))

    assert in_transaction(lambda tx: straight_evidence(tx, wanted, key)) == in_transaction(export)
    row = compare(
        f"{engine}, made, from a log of {state.size:,} leaves",
        repeated(MADE, lambda: in_transaction(export)),
        repeated(MADE, lambda: in_transaction(lambda tx: straight_evidence(tx, wanted, key))),
        rounds=rounds,
    )
    return row, encode_evidence(wanted)


def straight_evidence(tx: SqlReadTransaction, wanted: Evidence, key: FeedKey) -> Evidence:
    """The same evidence made anew, with nothing to find out: ``wanted`` says which leaves stand where."""
    state = tx.feed(key)
    assert state is not None
    archive = open_archive(tx)
    sizes = [size_of(checkpoint) for checkpoint in wanted.checkpoints]
    checkpoints = [
        straight_checkpoint(tx, size, previous, [leaf.index for leaf in checkpoint.leaves])
        for size, previous, checkpoint in zip(sizes, [0, *sizes], wanted.checkpoints, strict=False)
    ]
    first = CheckpointEvidence(
        checkpoints[0].note, (), checkpoints[0].leaves, tuple(archive.timestamps(sizes[0])), archive.receipt(sizes[0])
    )
    events = [event.signed_event for event in tx.identity_events(tx.identities()[0])]
    return Evidence(
        manifest=state.manifest,
        proof=block_proof(tx, key, SHOWN_ENTRY, length=state.length, head_length=state.length),
        events=tuple(events),
        descriptor=DescriptorEvidence(straight_leaf(tx, 0), tuple(inclusion_proof(tx.log_node, 0, sizes[0]))),
        checkpoints=(first, *checkpoints[1:]),
    )


def straight_checkpoint(tx: SqlReadTransaction, size: int, previous: int, leaves: Sequence[int]) -> CheckpointEvidence:
    stored = tx.checkpoint(size)
    assert stored is not None
    return CheckpointEvidence(
        note=stored.note,
        consistency=tuple(consistency_proof(tx.log_node, previous, size)) if previous else (),
        leaves=tuple(
            LeafEvidence(index, straight_leaf(tx, index), tuple(inclusion_proof(tx.log_node, index, size)))
            for index in leaves
        ),
        timestamps=(),
        anchor=None,
    )


def straight_leaf(tx: SqlReadTransaction, index: int) -> bytes:
    return next(iter(tx.log_leaves(index, index + 1)))


def size_of(checkpoint: CheckpointEvidence) -> int:
    return int(checkpoint.note.split("\n")[1])


# Verified.


def measure_verifying(data: bytes, evidence: Path, policy: Path, rounds: int) -> list[Comparison]:
    """Warm and cold, ours against the floor."""
    trusted, at_ms = load_policy(policy), now_ms()
    assert verify_evidence(data, trusted, at_ms).exit_code == 0
    check = prepare(data, trusted, at_ms)

    def start(module: str, *words: str) -> None:
        command = [sys.executable, "-m", module, *words]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, timeout=60)

    ours = ("api.cli", "verify", str(evidence), "--policy", str(policy))
    floor = ("benchmarks._witness_checks", str(evidence), str(policy))
    return [
        compare(
            "verified, warm",
            repeated(VERIFIED, lambda: verify_evidence(data, trusted, at_ms)),
            repeated(VERIFIED, check),
            rounds=rounds,
        ),
        compare(
            "verified, cold",
            repeated(STARTED, lambda: start(*ours)),
            repeated(STARTED, lambda: start(*floor)),
            rounds=rounds,
        ),
    ]


def main() -> None:
    parser = option_parser(__doc__, rounds=5)
    add_engine_option(parser)
    options = parser.parse_args()
    rows, data = [], b""
    with tempfile.TemporaryDirectory(dir=options.directory) as name, engines(options.engine, Path(name)) as chosen:
        for engine in chosen:
            bank, key = busy_bank(engine)
            with bank.open() as session:
                made, data = measure_making(session, key, engine.name, options.rounds)
            rows.append(made)
        evidence = Path(name) / "payment.evidence.json"
        evidence.write_bytes(data)
        rows += measure_verifying(data, evidence, bank.home.policy, options.rounds)
    title = f"evidence of {len(data):,} bytes"
    floor = "made: what to show is known; verified: token and chain checks alone"
    report(title, floor, rows, options.json)


if __name__ == "__main__":
    main()
