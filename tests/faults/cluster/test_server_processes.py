"""Several server processes on one PostgreSQL, kill -9 of one at random: nothing lost, no fork, no double checkpoint."""

from __future__ import annotations

import random
from typing import Any

import pytest

pytestmark = pytest.mark.fault

PROCESSES = 3
KILLS = 2


def test_a_server_process_is_killed_at_random(postgres: Any, new_fleet: Any) -> None:
    """The others go on; a new one takes over the feed of the killed one when its lease has run out."""
    chance = random.Random("which one")
    fleet = new_fleet(postgres.url(postgres.new_database()), PROCESSES)
    for number in range(PROCESSES):
        fleet.start(number, f"first {number}")
    fleet.wait_until_more(30, 3)
    for kill in range(KILLS):
        victim = chance.randrange(PROCESSES)
        fleet.kill(victim)
        fleet.wait_until_more(30, 3)
        fleet.start(victim, f"after kill {kill}")
    fleet.wait_until_more(30, 3)
    fleet.end()
    found = fleet.audit()
    assert found.faults == []
    assert (found.missing_entries, found.missing_heads, found.missing_notes) == ([], [], [])
    assert {feed for feed, _ in fleet.said.leaves} == set(fleet.feeds), "no feed had to be continued by another"
    assert (found.retired, found.successions, fleet.said.refused) == (set(), [], [])
    assert len([number for number in range(PROCESSES) if fleet.said.made[number]]) > 1, (
        "one process made all checkpoints"
    )
