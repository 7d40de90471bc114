"""A database that is killed at every single call that it makes on the medium (kill -9 at every write point).

Whatever the call: nothing that was acknowledged is gone, the tables are what the feeds make them, and the next write
works and follows the last one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.fault

STEP = 1 if "CHAOS_ROUNDS" in os.environ else 6
"""Every sixth call, or with ``make chaos`` each."""


@pytest.mark.parametrize("halfway", [0, 1], ids=["before the call", "halfway through the call"])
def test_killed_at_every_write(medium: Any, make_world: Any, root: Path, halfway: int) -> None:
    world = make_world(medium.root, "medium")
    laptop, phone = world.replica("laptop"), world.replica("phone")
    laptop.put("accounts", "0", owner="nobody")
    world.exchange()
    for number in range(5):
        phone.put("accounts", str(number), owner="phone", since=number)
    arriving = medium.root / "arriving"
    arriving.write_bytes(phone.exported(phone.feed))
    before = laptop.db.get("accounts", "0").etag
    world.close()
    orders = [laptop.url, world.uid.hex(), laptop.feed.hex(), (b"\x65" * 32).hex(), arriving, halfway, STEP]
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("database_on_medium.py"), *map(str, orders)],
        env={**medium.environment, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    tried = [json.loads(line) for line in done.stdout.splitlines()]
    assert before
    for one in tried:
        assert one["audit"] == [], one
        assert one["sound"], one
        assert one["tables"] == ["ok"], one
        for index, leaf in one["acknowledged"]:
            assert one["leaves"][index] == leaf, one
        assert one["next"] == len(one["leaves"]), one
    acknowledged = {len(one["acknowledged"]) for one in tried}
    assert acknowledged == {0, 1, 2}, "it was killed before the first commit, between the two, and not at all"
    assert {one["late"] for one in tried} > {0}, "it was killed between taking blocks in and what they say"
