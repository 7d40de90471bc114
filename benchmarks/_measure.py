"""Measuring two ways of doing one thing side by side: interleaved rounds, medians, a table and JSON.

Other work on the machine moves absolute figures by a factor of two and more, so a figure is never given alone: what is
compared runs in turns within one run, and the ratio is the median of the ratios of the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

__all__ = [
    "ROOT",
    "Comparison",
    "Figures",
    "Work",
    "compare",
    "in_child",
    "option_parser",
    "repeated",
    "report",
    "surroundings",
    "write_figures",
]

Work = Callable[[], int]
"""Does a round of work; returns how many items it did."""

Figures = dict[str, float]
"""What was measured, by what it is of."""

ROOT: Final = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Comparison:
    """Items per second, ours and the floor's, as medians over the rounds; ``ratio`` is ours over floor.

    ``cpu_ratio`` is the same in processor time, of this process or of those that it started, whichever is more: what
    other work on the machine disturbs least. What a server does is not in it. ``spread`` is the smallest and the
    largest ratio of a round.
    """

    subject: str
    ours: float
    floor: float
    ratio: float
    cpu_ratio: float
    spread: tuple[float, float]
    rounds: int


def compare(subject: str, ours: Work, floor: Work, *, rounds: int) -> Comparison:
    """Run both in turns, ``rounds`` times after one round to warm up; who begins changes from round to round."""
    pairs: list[tuple[_Rate, _Rate]] = []
    for number in range(rounds + 1):
        if number % 2:
            our_rate, floor_rate = _rate(ours), _rate(floor)
        else:
            floor_rate, our_rate = _rate(floor), _rate(ours)
        pairs.append((our_rate, floor_rate))
    measured = pairs[1:]
    ratios = [one.wall / other.wall for one, other in measured]
    return Comparison(
        subject,
        statistics.median(one.wall for one, _ in measured),
        statistics.median(other.wall for _, other in measured),
        statistics.median(ratios),
        statistics.median(one.cpu / other.cpu for one, other in measured),
        (min(ratios), max(ratios)),
        rounds,
    )


class _Rate(NamedTuple):
    """Items a second, by the clock and of processor time."""

    wall: float
    cpu: float


def _rate(work: Work) -> _Rate:
    begun, own, others = time.perf_counter(), time.process_time(), _children()
    done = work()
    wall, cpu = time.perf_counter() - begun, max(time.process_time() - own, _children() - others)
    return _Rate(done / wall, done / max(cpu, 1e-9))


def _children() -> float:
    """Processor time of the processes that were started and have ended."""
    times = os.times()
    return times.children_user + times.children_system


def repeated(times: int, work: Callable[[], object]) -> Work:
    """A round of that many."""

    def round_() -> int:
        for _ in range(times):
            work()
        return times

    return round_


def in_child(script: str, *words: object, environ: Mapping[str, str] | None = None) -> Figures:
    """What a benchmark measures in a process of its own, which ``--child`` and these words begin."""
    command = [sys.executable, "-m", script, "--child", *map(str, words)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=ROOT, env={**os.environ, **(environ or {})})
    figures: Figures = json.loads(done.stdout.splitlines()[-1])  # behind what a command prints
    return figures


def option_parser(description: str | None, *, rounds: int = 7) -> argparse.ArgumentParser:
    """The options that every benchmark has: ``--rounds``, ``--json`` and ``--directory``."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=rounds, help="interleaved rounds; the figures are their medians")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--directory", type=Path, help="where files go; a disk, since in memory a flush costs nothing")
    return parser


def report(title: str, floor: str, comparisons: Sequence[Comparison], path: Path | None) -> None:
    """Print the table; ``floor`` says what ours is held against. Write JSON to ``path`` when one is given."""
    print(f"{title}\nfloor: {floor}\n")
    width = max(len(row.subject) for row in comparisons)
    print(f"{'':{width}}  {'ours/s':>10}  {'floor/s':>10}  ratio  cpu ratio  spread")
    for row in comparisons:
        low, high = row.spread
        print(
            f"{row.subject:{width}}  {_shown(row.ours):>10}  {_shown(row.floor):>10}  {row.ratio:>5.2f}"
            f"  {row.cpu_ratio:>9.2f}  {low:.2f}-{high:.2f}"
        )
    print()
    if path is not None:
        write_figures(title, floor, comparisons, path)


def write_figures(title: str, floor: str, rows: Sequence[Any], path: Path) -> None:
    """Write the rows, dataclasses, as JSON, with the machine that they were measured on."""
    figures = [asdict(row) for row in rows]
    path.write_text(json.dumps({"title": title, "floor": floor, **surroundings(), "rows": figures}, indent=2) + "\n")


def surroundings() -> dict[str, object]:
    """When and on what it ran, for the JSON."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "load": os.getloadavg(),
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
    }


def _shown(rate: float) -> str:
    """With three digits at least."""
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"
