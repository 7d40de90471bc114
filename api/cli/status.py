"""``holdfast status``: where the store stands, and whether it may be written to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from api.cli.exit_codes import ExitCode, UsageError
from api.cli.group import CommandGroup, invocation
from api.cli.session import opened
from api.cli.times import time_text

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from anchoring.health import Health, OpenAnchor
    from anchoring.rollback import RollbackState
    from api.bootstrap import Session
    from api.cli.output import Output, Plain

__all__ = ["group"]

_RENEW_MS = 30 * 86_400_000
"""So long before the newest tokens cease to count it is said."""

group = CommandGroup("status", "Where the store stands: feeds, checkpoints, tokens, anchors, rollback.")


@group.add(
    "status", examples=["holdfast status", "holdfast status --offline --json", "holdfast status --max-blind 24h"]
)
def status(
    ctx: typer.Context,
    offline: Annotated[
        bool, typer.Option("--offline", help="Do not ask the chain; repeat what the last check said, with its age.")
    ] = False,
    max_blind: Annotated[
        str | None,
        typer.Option("--max-blind", metavar="AGE", help="Exit code 1 when an entry waits longer for an anchor: 90m."),
    ] = None,
) -> ExitCode:
    """Show where the store stands. Compares the log with the chain, as every start does.

    Exit code 77 for a read-only state, 75 when the chain could not be asked.
    """
    from api.bootstrap import now_ms

    longest = None if max_blind is None else _duration(max_blind)
    out = invocation(ctx).out
    with opened(ctx, read_only=True) as session:
        facts, blind_since_ms = _stored_facts(out, session)
        facts |= _start_up_facts(out, session)
        code, check = _last_check(out, session) if offline else _check(out, session)
    out.record("status", {**facts, **check})
    if longest is not None and blind_since_ms is not None and now_ms() - blind_since_ms > longest:
        out.note(f"entries wait for an anchor longer than {max_blind}")
        return code or ExitCode.FAILED
    return code


def _check(out: Output, session: Session) -> tuple[ExitCode, dict[str, Plain]]:
    """The state of the log against its chain, asked now."""
    from api.bootstrap import now_ms

    at_ms = now_ms()
    found = session.check_rollback(at_ms)
    return _judge(out, found.state, found.detail, at_ms)


def _last_check(out: Output, session: Session) -> tuple[ExitCode, dict[str, Plain]]:
    """The state that the last check found; no state when there was none, or none that can be read."""
    from anchoring.rollback import RollbackState
    from ledger.entry import MAX_CLAIMED_MS

    match session.last_check():
        case {"state": str(name), "detail": str(detail), "checked": int(checked_ms)}:
            if name in set(RollbackState) and 0 <= checked_ms <= MAX_CLAIMED_MS:
                return _judge(out, RollbackState(name), detail, checked_ms)
    return ExitCode.OK, {"state": None, "detail": None, "checked": None}


def _judge(out: Output, state: RollbackState, detail: str, checked_ms: int) -> tuple[ExitCode, dict[str, Plain]]:
    from anchoring.rollback import RollbackState

    code = ExitCode.OK if state.writable else ExitCode.REFUSED
    if state is RollbackState.UNVERIFIED:
        code = ExitCode.TRY_AGAIN
    return code, {"state": state.value, "detail": detail, "checked": time_text(out, checked_ms)}


def _duration(text: str) -> int:
    from anchoring.policy import parse_duration
    from identity.errors import MalformedError

    try:
        return parse_duration(text)
    except MalformedError as exc:
        raise UsageError(str(exc)) from exc


def _start_up_facts(out: Output, session: Session) -> dict[str, Plain]:
    """What the sentinel says, how often writing had to go on in new feeds, and which log this one goes on from."""
    from anchoring.chain.closing import load_closing
    from identity.errors import StorageError
    from identity.textforms import to_hex
    from ledger.storage.start_up import load_successions

    try:
        found = session.start_up.sentinel()
        reason, says = found.reason.value, found.detail
    except StorageError as exc:  # nothing is written, so nothing depends on it
        reason, says = "unreadable", str(exc)
    _, descriptor = session.vault.log_descriptor()
    with session.vault.store.read() as tx:
        successions = load_successions(tx.connection)
        closing = load_closing(tx.connection)
    last = successions[-1] if successions else None
    before = descriptor.predecessor
    return {
        "sentinel": reason,
        "sentinel_says": says,
        "new_feeds": len(successions),
        "new_feeds_why": None if last is None else f"{time_text(out, last.recorded_ms)} {last.reason}: {last.detail}",
        "predecessor": None if before is None else f"{to_hex(before.log)} at size {before.size}",
        "closing": None if closing is None else closing.state.value,
    }


def _stored_facts(out: Output, session: Session) -> tuple[dict[str, Plain], int | None]:
    """What the store says about itself, and since when its oldest entry without a final anchor waits for one."""
    from anchoring.storage import load_timestamps
    from api.bootstrap import is_development, now_ms
    from api.health import read_health
    from identity.textforms import to_hex
    from ledger.store import newest_checkpoint

    vault = session.vault
    health = read_health(session, now_ms())
    history = vault.history()
    log_id, descriptor = vault.log_descriptor()
    feeds = vault.feeds()
    with vault.store.read() as tx:
        newest = newest_checkpoint(tx)
        tokens = 0 if newest is None else len(load_timestamps(tx.connection, newest.size))
        stamped = _stamped_facts(out, session, tx.connection, None if newest is None else newest.size)
    since_ms = health.blind.since_ms
    return {
        "identity": to_hex(history.identity),
        "label": history.label,
        "log": f"{descriptor.name}/{to_hex(log_id)}",
        "development": is_development(descriptor),
        "feeds": len(feeds),
        "entries": sum(info.state.length for info in feeds),
        "checkpoint": None if newest is None else newest.size,
        "tokens": tokens,
        **stamped,
        "anchored": health.lag.final_size,
        "anchors_open": len(health.lag.waiting),
        "anchors_failed": len(health.lag.failed),
        "blind_entries": health.blind.entries,
        "blind_since": None if since_ms is None else time_text(out, since_ms),
        **_health_facts(out, session, health),
    }, since_ms


def _health_facts(out: Output, session: Session, health: Health) -> dict[str, Plain]:
    """How well anchoring keeps up, and what of it is worth a warning."""
    from anchoring.health import warnings
    from api.bootstrap import now_ms
    from api.health import thresholds

    said = warnings(health, thresholds(session.settings.alarms), now_ms())
    for warning in said:
        out.note(f"warning: {warning}")
    since_ms = health.lag.final_ms
    return {
        "anchored_since": None if since_ms is None else time_text(out, since_ms),
        "checkpoints_behind": health.lag.checkpoints,
        "waiting": [_open_fields(out, anchor) for anchor in health.lag.waiting],
        "failed": [_open_fields(out, anchor) for anchor in health.lag.failed],
        "newest_tokens": {
            name: {"size": size, "time": time_text(out, time_ms)}
            for name, (size, time_ms) in health.tokens.newest.items()
        },
        "tokens_missing": list(health.tokens.missing),
        "failures": dict(health.failures),
        "warnings": said,
    }


def _open_fields(out: Output, anchor: OpenAnchor) -> dict[str, Plain]:
    since = time_text(out, anchor.since_ms)
    return {"size": anchor.size, "state": anchor.state, "since": since, "reason": anchor.reason}


def _stamped_facts(out: Output, session: Session, connection: Connection, newest: int | None) -> dict[str, Plain]:
    """Who has stamped the newest checkpoint, of those that the home's policy trusts, and until when that counts."""
    from api.bootstrap import now_ms
    from api.pool import pool_standing, trusted_by_home
    from identity.errors import ConfigurationError

    try:
        authorities, k = trusted_by_home(session.home)
    except ConfigurationError as exc:
        out.note(f"who is trusted cannot be read: {exc}")
        return {"authorities": None, "authorities_wanted": None, "tokens_expire": None}
    if newest is None or not authorities:
        return {"authorities": 0, "authorities_wanted": k if authorities else 0, "tokens_expire": None}
    standing = pool_standing(connection, newest, authorities, k)
    expires_ms = standing.expires_ms
    if expires_ms is not None and expires_ms - now_ms() < _RENEW_MS:
        out.note("the newest tokens cease to count soon: 'holdfast checkpoint create --restate', then 'anchor run'")
    return {
        "authorities": standing.authorities,
        "authorities_wanted": k,
        "tokens_expire": None if expires_ms is None else time_text(out, expires_ms),
    }
