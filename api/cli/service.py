"""``holdfast anchor work``: the anchoring service in this process, with its signals and its lines."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from api.cli.exit_codes import UsageError
from api.cli.group import invocation
from api.cli.passphrase import read_passphrase
from api.cli.times import time_text
from identity.errors import MalformedError

if TYPE_CHECKING:
    from api.anchor_service import AnchorEvent, AnchorService
    from api.bootstrap import Session
    from api.cli.output import Output
    from identity.keystore import KeyRing

__all__ = ["anchoring", "run_service"]


def anchoring(
    session: Session, ring: KeyRing, interval_ms: int, stop: threading.Event, tell: Callable[[AnchorEvent], None]
) -> AnchorService:
    """The anchoring service of a home, with the clocks of this machine."""
    from api.anchor_service import AnchorService, Surroundings
    from api.bootstrap import now_ms
    from api.pool import pool_policy

    return AnchorService(
        session=session,
        sources={source.name: source for source in session.sources()},
        sender=session.sender(ring),
        interval_ms=interval_ms,
        around=Surroundings(
            now_ms=now_ms,
            ticks_ms=lambda: time.monotonic_ns() // 1_000_000,
            jitter=random.random,
            tell=tell,
        ),
        stop=stop,
        pool=pool_policy(session.settings),
        close=lambda: session.advance_closing(ring),
    )


def run_service(ctx: typer.Context, session: Session, every: str, passphrase_file: Path | None) -> None:
    """Anchor until a signal comes. The chain need not be reachable at the start."""
    from anchoring.policy import parse_duration
    from identity.keystore import open_keystore

    run = invocation(ctx)
    try:
        interval_ms = parse_duration(every)
    except MalformedError as exc:
        raise UsageError(str(exc)) from exc
    ring = open_keystore(session.settings.keystore, read_passphrase(passphrase_file, run.environ))
    with _until_signal() as stop:
        anchoring(session, ring, interval_ms, stop, lambda event: _print(run.out, event)).run()


@contextmanager
def _until_signal() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set. A second one interrupts at once."""
    stop = threading.Event()

    def ask(_number: int, _frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _print(out: Output, event: AnchorEvent) -> None:
    """One line, and at once: whoever reads along waits for it."""
    at = time_text(out, event.at_ms)
    said = [
        event.event,
        *([] if event.size is None else [f"of size {event.size}"]),
        *([] if event.state is None else [event.state]),
        *([] if event.detail is None else [f"({event.detail})"]),
    ]
    out.record(
        "anchor-event",
        {
            "at": at,
            "part": event.part,
            "event": event.event,
            "size": event.size,
            "state": event.state,
            "detail": event.detail,
        },
        text=f"{at}  {event.part}: {' '.join(said)}",
    )
    out.flush()
