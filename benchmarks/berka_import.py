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
from benchmarks._measure import arguments, compare, report
from benchmarks.append import DEVICE_SEED, Floor, device_of_new_identity
from identity.keystore import KeyRing
from ledger.feed import create_feed
from ledger.storage.sqlite import open_sqlite

ROOT: Final = Path(__file__).resolve().parent.parent
SHARED: Final = Path(os.environ.get("SHARED_DIR", ROOT.parent / "shared"))
DECIMAL: Final = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?")
CLAIMED_MS: Final = 1_790_000_000_000


class AnybodyMayWrite:
    """A guard for a store without a chain."""

    def require_writable(self, vault: Vault) -> None:
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
    begun, blocks = floor.length, straight_rows(file)
    floor.db.execute("BEGIN IMMEDIATE")
    while chunk := list(islice(blocks, DEFAULT_BATCH)):
        floor.write(chunk)
    floor.db.execute("COMMIT")
    return floor.length - begun


def main() -> None:
    options = arguments(__doc__ or "")
    file = table()
    with tempfile.TemporaryDirectory(dir=options.directory) as name:
        vault = Vault(open_sqlite(Path(name) / "ours.db", create=True), AnybodyMayWrite())
        signer, identity = device_of_new_identity(vault.store)
        ring = KeyRing(root_seeds=(), generation=0, devices={"benchmark": DEVICE_SEED}, log_seed=None, anchor_key=None)
        key = create_feed(vault.store, signer, identity, FEED)
        floor = Floor(Path(name) / "floor.db")

        def ours() -> int:
            result = vault.import_blocks(ring, key, transactions(file), batch=DEFAULT_BATCH, on_batch=lambda _: None)
            assert result is not None
            return result.length - result.start

        row = compare(f"import of {file.name}", ours, lambda: straight_import(floor, file), rounds=options.rounds)
        vault.close()
    title = f"{file.name}: rows a second, {DEFAULT_BATCH} to a signature, one transaction"
    report(title, "csv, regular expressions, libipld, BLAKE2b tree, PyNaCl, sqlite3", [row], options.json)


if __name__ == "__main__":
    main()
