"""``holdfast anchor``: timestamps and the chain."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from api.cli.exit_codes import ExitCode
from api.cli.group import CommandGroup, invocation
from api.cli.session import PassphraseFile, opened, unlock
from api.cli.times import time_text

if TYPE_CHECKING:
    from anchoring.storage import StoredAnchor, StoredTimestamp
    from anchoring.worker import Round
    from api.bootstrap import Session
    from api.cli.output import Output, Plain
    from identity.keystore import KeyRing

__all__ = ["group"]

_POLL_S = 5.0

group = CommandGroup("anchor", "Timestamp and anchor checkpoints.")


@group.add(
    "run", examples=["holdfast anchor run", "holdfast anchor run --wait 900 --json", "holdfast anchor run --now"]
)
def run(
    ctx: typer.Context,
    wait: Annotated[
        float, typer.Option("--wait", metavar="SECONDS", min=0, help="Keep going until the anchor is final, that long.")
    ] = 0.0,
    now: Annotated[
        bool, typer.Option("--now", help="Ask authorities that failed lately too, not only when their time has come.")
    ] = False,
    passphrase_file: PassphraseFile = None,
) -> ExitCode:
    """Timestamp the newest checkpoint by the authorities that have not, and move its anchor on towards final.

    Can be run at any time and as often as you like. Exit code 75 when too few authorities have stamped it yet, or the
    chain has to be tried again. An authority that failed is asked again after a while.
    """
    out = invocation(ctx).out
    with opened(ctx) as session:
        ring = unlock(ctx, session, passphrase_file)
        done, tokens, failures = _run(out, session, ring, wait, now=now)
        if session.is_development():
            session.pin_final_anchors()
        anchor = _anchor(session, done.size)
    out.record(
        "anchor-round",
        {
            "size": done.size,
            "tokens": tokens,
            "authorities": done.authorities,
            "wanted": done.wanted,
            "anchor": None if anchor is None else anchor.state.value,
            "block": None if anchor is None else anchor.block_number,
            "reason": None if anchor is None else anchor.reason,
            "failures": failures,
        },
    )
    for what, error in failures.items():
        out.note(f"{what}: {error}; run it again later")
    if done.authorities < done.wanted:
        out.note(f"{done.authorities} of the {done.wanted} authorities that are wanted have stamped the checkpoint")
    return ExitCode.OK if done.succeeded and "close" not in failures else ExitCode.TRY_AGAIN


def _run(
    out: Output, session: Session, ring: KeyRing, wait: float, *, now: bool
) -> tuple[Round, dict[str, Plain], dict[str, Plain]]:
    """Rounds until nothing is open or the time is up: the last one, new tokens of all, and what failed in the last."""
    from anchoring.storage import AnchorState, load_anchors
    from anchoring.worker import run_round
    from api.bootstrap import now_ms
    from api.last_round import LastRound, keep_round
    from api.pool import keep_troubles, load_troubles, pool_policy

    log_id, descriptor = session.vault.log_descriptor()
    sources, sender = session.sources(), session.sender(ring)
    pool, troubles = pool_policy(session.settings), {} if now else load_troubles(session.home)
    deadline = time.monotonic() + wait
    tokens: dict[str, Plain] = {}
    while True:
        done = run_round(
            session.vault.store, log_id, descriptor, sources, sender, now_ms(), pool=pool, troubles=troubles
        )
        troubles = done.troubles
        keep_troubles(session.home, troubles)
        tokens |= {name: time_text(out, token.verified.gen_time_ms) for name, token in done.tokens.items()}
        failures = _failures(out, done)
        failures |= _advance_closing(session, ring)
        keep_round(session.home, LastRound(now_ms(), {what: str(said) for what, said in failures.items()}))
        with session.vault.store.read() as tx:
            is_open = load_anchors(tx.connection, AnchorState.PENDING, AnchorState.SUBMITTED, AnchorState.MINED)
        left_s = deadline - time.monotonic()
        if left_s <= 0 or (done.succeeded and not is_open):
            return done, tokens, failures
        time.sleep(min(_POLL_S, left_s))


def _failures(out: Output, done: Round) -> dict[str, Plain]:
    """What failed in a round, and the authorities that were not asked because they had failed before."""
    from anchoring.tsa.backoff import next_attempt_ms

    failures: dict[str, Plain] = {failure.what: str(failure.error) for failure in done.failures}
    for name, trouble in done.backed_off.items():
        failures[name] = f"not asked before {time_text(out, next_attempt_ms(trouble))}, because: {trouble.reason}"
    return failures


def _advance_closing(session: Session, ring: KeyRing) -> dict[str, Plain]:
    """Bring the close of the log before this one further, if there is one to bring; what failed."""
    from identity.errors import RefusedError, TransportError, VerificationError

    try:
        session.advance_closing(ring)
    except (TransportError, VerificationError, RefusedError) as exc:
        return {"close": str(exc)}
    return {}


def _anchor(session: Session, size: int) -> StoredAnchor | None:
    from anchoring.storage import find_anchor

    with session.vault.store.read() as tx:
        return find_anchor(tx.connection, size)


@group.add("work", examples=["holdfast anchor work", "holdfast anchor work --every 1h --json"])
def work(
    ctx: typer.Context,
    every: Annotated[
        str, typer.Option("--every", metavar="DURATION", help="Between two rounds: 90s, 15m, 1h.")
    ] = "15m",
    passphrase_file: PassphraseFile = None,
) -> ExitCode:
    """Run rounds of 'anchor run' until SIGTERM or SIGINT; one line for each change.

    What fails is tried again after 5 seconds, then twice as long each time, an hour at most, each part by itself. Ends
    with exit code 77 when the store must not be written to, which the chain is asked at every interval.
    """
    from api.cli.service import run_service

    with opened(ctx) as session:
        run_service(ctx, session, every, passphrase_file)
    return ExitCode.OK


@group.add("status", examples=["holdfast anchor status", "holdfast anchor status --json"])
def status(ctx: typer.Context) -> None:
    """Every anchor with its state, since when, and its tokens. Nothing below final is an anchor."""
    from anchoring.storage import load_anchors, load_timestamps

    out = invocation(ctx).out
    with opened(ctx, read_only=True) as session, session.vault.store.read() as tx:
        anchors = {anchor.size: anchor for anchor in load_anchors(tx.connection)}
        rows = [
            _row(out, checkpoint.size, load_timestamps(tx.connection, checkpoint.size), anchors.get(checkpoint.size))
            for checkpoint in tx.checkpoints()
        ]
    out.table("anchor", ("size", "tokens", "anchor", "block", "since", "reason"), rows)


def _row(out: Output, size: int, tokens: Sequence[StoredTimestamp], anchor: StoredAnchor | None) -> tuple[Plain, ...]:
    times = {token.authority: time_text(out, token.gen_time_ms) for token in tokens}
    if anchor is None:
        return size, times, "none", None, None, None
    return size, times, anchor.state.value, anchor.block_number, time_text(out, anchor.changed_ms), anchor.reason
