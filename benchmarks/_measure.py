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
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["Comparison", "arguments", "compare", "options_of", "report", "write_figures"]

Work = Callable[[], int]
"""Does a round of work; returns how many items it did."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Items per second, ours and the floor's, as medians over the rounds; ``ratio`` is ours over floor."""

    subject: str
    ours: float
    floor: float
    ratio: float
    rounds: int


def compare(subject: str, ours: Work, floor: Work, *, rounds: int) -> Comparison:
    """Run both in turns, ``rounds`` times after one round to warm up; who begins changes from round to round."""
    rates: list[tuple[float, float]] = []
    for number in range(rounds + 1):
        if number % 2:
            ours_rate, floor_rate = _rate(ours), _rate(floor)
        else:
            floor_rate, ours_rate = _rate(floor), _rate(ours)
        rates.append((ours_rate, floor_rate))
    measured = rates[1:]
    return Comparison(
        subject,
        statistics.median(one for one, _ in measured),
        statistics.median(other for _, other in measured),
        statistics.median(one / other for one, other in measured),
        rounds,
    )


def _rate(work: Work) -> float:
    begun = time.perf_counter()
    done = work()
    return done / (time.perf_counter() - begun)


def arguments(description: str) -> argparse.Namespace:
    """The options that every benchmark has: ``--rounds``, ``--json`` and ``--directory``."""
    return options_of(description).parse_args()


def options_of(description: str, *, rounds: int = 7) -> argparse.ArgumentParser:
    """The same as a parser, for a benchmark that has options of its own."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=rounds, help="interleaved rounds; the figures are their medians")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--directory", type=Path, help="where files go; a disk, since in memory a flush costs nothing")
    return parser


def report(title: str, floor: str, comparisons: Sequence[Comparison], path: Path | None) -> None:
    """Print the table; ``floor`` says what ours is held against. Write JSON to ``path`` when one is given."""
    print(f"{title}\nfloor: {floor}\n")
    width = max(len(row.subject) for row in comparisons)
    print(f"{'':{width}}  {'ours/s':>10}  {'floor/s':>10}  ratio")
    for row in comparisons:
        print(f"{row.subject:{width}}  {_shown(row.ours):>10}  {_shown(row.floor):>10}  {row.ratio:>5.2f}")
    if path is not None:
        write_figures(title, floor, comparisons, path)


def write_figures(title: str, floor: str, rows: Sequence[Any], path: Path) -> None:
    """Write the rows, dataclasses, as JSON, with the machine that they were measured on."""
    machine = {"cpus": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
    figures = [asdict(row) for row in rows]
    path.write_text(json.dumps({"title": title, "floor": floor, **machine, "rows": figures}, indent=2) + "\n")


def _shown(rate: float) -> str:
    """With three digits at least."""
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"
