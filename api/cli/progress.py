"""How far a long operation has come: a bar on a terminal, a JSON line a second under ``--json``, otherwise silence."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from api.cli.output import Output

__all__ = ["Advance", "progress"]

Advance = Callable[[int], None]
"""Called with how many units were done since the last call."""

_JSON_INTERVAL_S: Final = 1.0


@contextmanager
def progress(out: Output, what: str, *, total: int | None = None, unit: str = "entries") -> Iterator[Advance]:
    """Show progress while the block runs. ``total`` is None where the end cannot be known beforehand."""
    if out.shows_progress:
        with _bar(out, what, total, unit) as advance:
            yield advance
    elif out.json and not out.quiet:
        yield _json_lines(out, what, total, unit)
    else:
        yield lambda _: None


@contextmanager
def _bar(out: Output, what: str, total: int | None, unit: str) -> Iterator[Advance]:
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn() if total is None else BarColumn(),
        TextColumn("{task.completed:,.0f}" if total is None else "{task.completed:,.0f} of {task.total:,.0f}"),
        TextColumn(unit, markup=False),
        TimeElapsedColumn(),
    )
    with Progress(
        TextColumn("{task.description}", markup=False), *columns, console=out.console(out.stderr), transient=True
    ) as bar:
        task = bar.add_task(what, total=total)
        yield lambda count: bar.advance(task, count)


def _json_lines(out: Output, what: str, total: int | None, unit: str) -> Advance:
    done, last = 0, time.monotonic()

    def advance(count: int) -> None:
        nonlocal done, last
        done += count
        if time.monotonic() - last >= _JSON_INTERVAL_S:
            last = time.monotonic()
            out.event("progress", {"what": what, "done": done, "total": total, "unit": unit})

    return advance
