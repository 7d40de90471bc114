"""Importing a bank's transactions from CSV, against parsing and appending in a straight line.

    python -m benchmarks.berka_import [--rounds 7] [--json figures.json]

The whole table is read when ``shared/data`` lies beside the repository, else the sample in ``examples``. Ours is what
``holdfast feed import`` runs: typed columns, rows checked and named when they are wrong, all rows in one transaction,
1,000 to a signature. The floor reads the same file with ``csv``, checks the same types, encodes with libipld, hashes,
signs and stores as the floor of ``benchmarks.append``, in one transaction too; it takes the file to be right.
"""

from __future__ import annotations

import csv
import os
import re
import tempfile
from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, Final

import libipld

from api.cli.feed import DEFAULT_BATCH
from api.demo.bank import FEED, transactions
from api.vault import Vault
from benchmarks._engines import DEVICE_SEED, Engine, add_engine_option, device_of_new_identity, engines
from benchmarks._floor import Floor
from benchmarks._measure import Comparison, compare, option_parser, report
from identity.keystore import KeyRing
from ledger.feed import create_feed

ROOT: Final = Path(__file__).resolve().parent.parent
SHARED: Final = Path(os.environ.get("SHARED_DIR", ROOT.parent / "shared"))
DECIMAL: Final = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?")
CLAIMED_MS: Final = 1_790_000_000_000


class AnybodyMayWrite:
    """A guard for a store without a chain."""

    def require_writable(self, vault: Vault) -> None:
        """See ``Guard``."""

    def require_appendable(self, vault: Vault) -> bool:  # noqa: ARG002  (the protocol names it)
        """See ``Guard``."""
        return False

    def meet_history(self, tx: object, incarnation: str) -> bool:  # noqa: ARG002
        """See ``Guard``."""
        return False

    def check_log(self, tx: object) -> None:
        """See ``Guard``."""


def table() -> Path:
    """The largest file of transactions that is here."""
    whole = SHARED / "data" / "berka" / "trans.asc"
    return whole if whole.exists() else ROOT / "examples" / "berka-transactions.csv"


def straight_rows(file: Path) -> Iterator[bytes]:
    """Each row as the bytes of an entry."""
    days: dict[str, dict[str, str]] = {}
    with file.open(newline="", encoding="ascii") as stream:
        rows = csv.reader(stream, delimiter=";")
        next(rows)
        for number, account, day, kind, operation, amount, balance, symbol, bank, other in rows:
            date = days.get(day)
            if date is None:
                date = days[day] = {"$date": datetime.strptime(day, "%y%m%d").date().isoformat()}  # noqa: DTZ007
            if not (DECIMAL.fullmatch(amount) and DECIMAL.fullmatch(balance)):
                raise ValueError(f"row {number}: not a decimal")
            fields: dict[str, Any] = {
                "trans_id": int(number),
                "account_id": int(account),
                "date": date,
                "type": kind,
                "operation": operation or None,
                "amount": {"$dec": amount},
                "balance": {"$dec": balance},
                "k_symbol": symbol or None,
                "bank": bank or None,
                "account": int(other) if other else None,
            }
            body = {"table": FEED, "fields": fields}
            yield libipld.encode_dag_cbor({"v": 1, "k": "record", "t": CLAIMED_MS, "b": body})


def straight_import(floor: Floor, file: Path) -> int:
    """Parse and append everything in one transaction; returns the number of rows."""
    begun, blocks = floor.tree.length, straight_rows(file)
    with floor.transaction():
        while chunk := list(islice(blocks, DEFAULT_BATCH)):
            floor.write(chunk)
    return floor.tree.length - begun


def main() -> None:
    parser = option_parser(__doc__, rounds=3)
    add_engine_option(parser)
    parser.add_argument("--rows", type=int, help="only so many of the file's first rows")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as name, engines(options.engine, Path(name)) as chosen:
        file = first_rows(table(), options.rows, Path(name))
        rows = [measure(engine, file, options.rounds) for engine in chosen]
    title = f"{file.name}: rows a second, {DEFAULT_BATCH} to a signature, one transaction"
    report(title, "csv, regular expressions, libipld, BLAKE2b tree, PyNaCl, sqlite3 or COPY", rows, options.json)


def first_rows(file: Path, count: int | None, directory: Path) -> Path:
    """The file, or a copy of its beginning."""
    if count is None:
        return file
    with file.open("rb") as source:
        beginning = list(islice(source, count + 1))
    part = directory / file.name
    part.write_bytes(b"".join(beginning))
    return part


def measure(engine: Engine, file: Path, rounds: int) -> Comparison:
    """The same file again and again into one feed."""
    vault, floor = Vault(engine.store(), AnybodyMayWrite()), engine.floor()
    signer, identity = device_of_new_identity(vault.store)
    ring = KeyRing(root_seeds=(), generation=0, devices={"benchmark": DEVICE_SEED}, log_seed=None, anchor_key=None)
    key = create_feed(vault.store, signer, identity, FEED)

    def ours() -> int:
        result = vault.import_blocks(ring, key, transactions(file), batch=DEFAULT_BATCH, on_batch=lambda _: None)
        assert result is not None
        return result.length - result.start

    row = compare(f"{engine.name}, import", ours, lambda: straight_import(floor, file), rounds=rounds)
    vault.close()
    return row


if __name__ == "__main__":
    main()
