"""Whether the entries of a feed count, for all of them at once: the verdict table of docs/spec/identity.md. Pure.

Entries that the log covers at the same leaf have the same proof of existence, so a feed falls into as many segments as
the log states heads of it, divided once more where a revocation stops vouching.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from identity.history import KeyHistory
from identity.verdict import Verdict, judge_entry

__all__ = ["Proven", "Segment", "judge_feed"]


@dataclass(frozen=True, slots=True)
class Proven:
    """A checkpoint that k authorities date: by when it existed, and the earliest time that any of them allows."""

    size: int
    existence_ms: int
    earliest_ms: int


@dataclass(frozen=True, slots=True)
class Segment:
    """The entries ``start`` to ``stop - 1`` and what the key history says of each of them."""

    start: int
    stop: int
    verdict: Verdict


def judge_feed(
    history: KeyHistory,
    device: bytes,
    key: bytes,
    length: int,
    trees: Mapping[int, bytes],
    *,
    logged: Sequence[tuple[int, int]],
    times: Sequence[Proven],
    revocation_leaf: int | None,
) -> list[Segment]:
    """The verdict on each entry of a feed of ``length``, neighbours of one verdict together.

    ``logged`` are the heads that the log states of it: leaf index and length, ascending; ``times`` are the checkpoints
    that k authorities date, sizes ascending; ``revocation_leaf`` is the first leaf that shows the device's revocation.
    ``trees`` as in ``judge_entry``.
    """
    known = history.devices.get(device)
    revocation = None if known is None else known.revocation
    last_good = None if revocation is None else revocation.last_good.get(key)
    edges = {head for _, head in logged} | {length} | ({last_good.length} if last_good is not None else set())
    revoked = None if revocation_leaf is None else _covering(times, revocation_leaf)
    segments: list[Segment] = []
    start = 0
    for stop in sorted(edge for edge in edges if 0 < edge <= length):
        leaf = next((leaf for leaf, head in logged if head > start), None)
        proven = None if leaf is None else _covering(times, leaf)
        verdict = judge_entry(
            history,
            device,
            key,
            start,
            trees,
            proven_before_ms=None if proven is None else proven.existence_ms,
            revoked_before_ms=None if revoked is None else revoked.earliest_ms,
            logged_before_revocation=proven is not None
            and revocation_leaf is not None
            and proven.size <= revocation_leaf,
        )
        if segments and segments[-1].verdict == verdict:
            segments[-1] = replace(segments[-1], stop=stop)
        else:
            segments.append(Segment(start, stop, verdict))
        start = stop
    return segments


def _covering(times: Sequence[Proven], leaf: int) -> Proven | None:
    """The first dated checkpoint that covers the leaf."""
    place = bisect_right(times, leaf, key=lambda proven: proven.size)
    return times[place] if place < len(times) else None
