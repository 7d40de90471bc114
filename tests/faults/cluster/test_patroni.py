"""Server processes on three PostgreSQL nodes under Patroni: the standbys are frozen, the primary is killed.

Strictly synchronous: nothing that was acknowledged is missing, no index is signed twice, writing goes on, and a commit
whose wait for a standby is cancelled is not acknowledged. Asynchronous: the same attack loses what was acknowledged, so
it has teeth; and holdfast says so, and signs no index twice either.
"""

from __future__ import annotations

import time
from typing import Any

import pytest

pytestmark = pytest.mark.fault

PROCESSES = 3
FROZEN_S = 1.0
UNSENT_BYTES = 200_000
"""So much of the log lies where no standby can come by it: in the primary, and not in the buffers of a socket."""


def cancel_a_commit(cluster: Any, fleet: Any, wait_until: Any) -> None:
    """The server reports such a commit as done, with no sign but a warning: it must not be acknowledged."""
    cancelled = wait_until("a commit that waits for a standby", cluster.waiting_commits)
    acknowledged = len(fleet.said.leaves)
    cluster.cancel(cancelled)
    wait_until("the next commit that waits for a standby", lambda: cluster.waiting_commits() - cancelled)
    assert len(fleet.said.leaves) == acknowledged


def test_the_primary_is_killed_behind_frozen_standbys(cluster: Any, new_fleet: Any, wait_until: Any) -> None:
    fleet = new_fleet(cluster.url, PROCESSES)
    *begins_early, late = range(PROCESSES)
    for number in begins_early:
        fleet.start(number, f"writer {number}")
    fleet.wait_until_more(50, 3)
    before = cluster.timeline()

    cluster.freeze_standbys()
    if cluster.strict:
        time.sleep(FROZEN_S)  # everybody waits for a standby: there is no event to wait for
        cancel_a_commit(cluster, fleet, wait_until)
    else:
        wait_until("entries that no standby has", lambda: cluster.lag() > UNSENT_BYTES)
        # Its feed, which every standby has, is leased and written only now: the lease is lost with the entries.
        fleet.start(late, f"writer {late}")
        wait_until("entries of a feed that was empty", lambda: fleet.said.entries[late] > 50)
    killed = cluster.kill_primary()
    cluster.thaw()

    if cluster.strict:
        fleet.wait_until_more(1, 0)
        fleet.start(late, f"writer {late}")
    fleet.wait_until_more(50, 1 if cluster.strict else 0)
    assert cluster.timeline() > before
    fleet.end()
    found = fleet.audit()
    assert found.faults == []
    begun = {feed for feed, _ in fleet.said.leaves} - set(fleet.feeds)
    written = set(fleet.feeds) if not cluster.strict else {fleet.feeds[number] for number in begins_early}
    assert found.retired == written, "exactly the feeds of the timeline before are retired"
    assert len(begun) == len(written), "each process goes on in one feed that continues its own"
    if cluster.strict:
        assert (found.missing_entries, found.missing_heads, found.missing_notes) == ([], [], [])
        assert (found.successions, found.known_to_sentinel, fleet.said.refused) == ([], [], [])
    else:
        assert found.missing_entries
        assert fleet.feeds[late] in {feed for feed, _ in found.missing_entries} <= set(fleet.feeds)
        assert {one.reason for one in found.successions} == {"behind"}
        assert all("missing" in one.detail for one in found.successions)
        assert any("are retired" in text for text in fleet.said.told)
        lost = {feed for feed, _ in found.missing_heads}
        assert len([said for said in found.known_to_sentinel if "entries are here" in said]) == len(lost)
        assert bool(found.missing_notes) == bool(fleet.said.refused), "a log that lacks what was signed went on"
        bring_back(cluster, fleet, killed)


def bring_back(cluster: Any, fleet: Any, killed: str) -> None:
    """What docs/how-to/patroni.md says of lost entries: from the disk of the old primary, before it rejoins."""
    archive = str(fleet.directory / "old-primary.archive")
    with cluster.alone(killed) as url:
        fleet.run("audit", "--export", archive, HOLDFAST_DATABASE=url)
    fleet.run("recover", "fetch", archive)
    found = fleet.audit()
    assert found.faults == []
    assert (found.missing_entries, found.missing_heads, found.missing_notes) == ([], [], [])
