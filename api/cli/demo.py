"""``holdfast demo``: the whole of holdfast in one story, and five attacks on it."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

import api
from api.cli.exit_codes import ExitCode, UsageError
from api.cli.group import CommandGroup, invocation
from identity.errors import RefusedError

__all__ = ["group"]

SAMPLE = Path(api.__file__).parent.parent / "examples" / "berka-transactions.csv"

group = CommandGroup("demo", "Real bank transactions, sealed, proven, and attacked five times.")


@group.add("demo", examples=["holdfast demo", "holdfast demo --keep demo.home"])
def demo(
    ctx: typer.Context,
    sample: Annotated[
        Path,
        typer.Argument(
            metavar="[FILE]", help="The transactions; default: examples/berka-transactions.csv.", show_default=False
        ),
    ] = SAMPLE,
    keep: Annotated[
        Path | None,
        typer.Option("--keep", metavar="DIR", help="Work in DIR, which must not exist, and leave it there."),
    ] = None,
) -> ExitCode:
    """Found a bank, import its transactions, seal and prove them, then attack it five times and show each catch.

    Everything happens on this machine with the embedded development authority and chain. Exit code 1 if an attack
    is not caught.
    """
    from api.demo import tell

    out = invocation(ctx).out
    if not sample.exists():
        raise UsageError(f"there is no {sample}", hint="name the file: holdfast demo examples/berka-transactions.csv")
    if keep is not None and keep.exists():
        raise RefusedError(f"{keep} exists", hint="name a new directory")
    directory = Path(tempfile.mkdtemp(prefix="holdfast-demo-")) if keep is None else keep.absolute()
    directory.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    caught = attacks = 0
    try:
        for step in tell(directory, sample):
            attacks += step.caught is not None
            caught += step.caught is True
            mark = "" if step.caught is None else ("   CAUGHT" if step.caught else "   NOT CAUGHT")
            text = "\n".join(["", f"{step.title}{mark}", *(f"  {line}".rstrip() for line in step.lines)])
            out.record(
                "step",
                {"title": step.title, "caught": step.caught, "lines": list(step.lines), **step.figures},
                text=text,
            )
            out.flush()
    finally:
        if keep is None:
            shutil.rmtree(directory, ignore_errors=True)
    seconds = time.perf_counter() - started
    out.record(
        "demo",
        {"attacks": attacks, "caught": caught, "seconds": round(seconds, 1)},
        text=f"\n{caught} of {attacks} attacks caught, in {seconds:.1f} s. "
        "The authority and the chain were the embedded ones: DEVELOPMENT ONLY.",
    )
    return ExitCode.OK if caught == attacks else ExitCode.FAILED
