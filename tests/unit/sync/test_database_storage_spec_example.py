"""The worked example of docs/spec/database-storage.md."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

SPEC = (Path(__file__).resolve().parents[3] / "docs" / "spec" / "database-storage.md").read_text("utf-8")

OP = ("place", "branch", "seq", "op", "document", "path", "verb", "val", "dead")
DOCUMENT = ("id", "collection", "key", "place", "shown", "conflicts", "exact_from")


def shown(value: object) -> str:
    return "-" if value is None else value.hex() if isinstance(value, bytes) else str(value)


def test_the_rows_are_what_the_transactions_give(world: Any) -> None:
    laptop = world.replica("laptop")
    laptop.put("accounts", "4711", owner="Novak")
    laptop.put("accounts", "4711", owner="Svoboda")
    lines = []
    with laptop.store.read() as tx:
        for table, columns in (("op", OP), ("document", DOCUMENT)):
            rows = tx.fetch_all(f"SELECT {', '.join(columns)} FROM database_{table} ORDER BY place")
            lines += [
                " ".join([table, *(f"{name}={shown(value)}" for name, value in zip(columns, row, strict=True))])
                for row in rows
            ]
    (fence,) = re.findall(r"```text\n(.*?)```", SPEC, re.DOTALL)
    assert fence.splitlines() == lines
