"""Times on the command line: how they are written for people and for programs, and how they are read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from anchoring.report import format_time
from api.cli.exit_codes import UsageError
from api.cli.output import Output

__all__ = ["parse_time", "time_text"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


def time_text(out: Output, milliseconds: int) -> str:
    """A time in milliseconds UTC since 1970: as RFC 3339 writes it under ``--json``, otherwise easier to read."""
    if not out.json:
        return format_time(milliseconds)
    try:
        moment = _EPOCH + milliseconds * _MILLISECOND
    except OverflowError:  # a claimed time may be any number
        return format_time(milliseconds)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_time(text: str) -> int:
    """Milliseconds of an RFC 3339 time with a zone, or of one as ``time_text`` writes it. Raises ``UsageError``."""
    try:
        moment = datetime.fromisoformat(text.removesuffix(" UTC") + "Z" if text.endswith(" UTC") else text)
    except ValueError as exc:
        raise UsageError(f"{text!r} is not a time", hint="write it as 2026-12-31T23:59:59Z") from exc
    if moment.tzinfo is None:
        is_day = len(text) == len("2026-12-31")
        hint = f"a day is no point in time: {text}T23:59:59Z, for example" if is_day else "append Z for UTC"
        raise UsageError(f"{text!r} has no time zone", hint=hint)
    return (moment - _EPOCH) // _MILLISECOND
