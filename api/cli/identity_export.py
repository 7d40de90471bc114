"""The file by which an identity's events are handed over: a line of base64 for each signed event."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from identity.errors import MalformedError
from identity.event import SignedEvent, parse_event, parse_signed_event
from identity.textforms import parse_base64, to_base64

__all__ = ["MAX_EVENTS_BYTES", "encode_export", "parse_export"]

MAX_EVENTS_BYTES: Final = 64 << 20
_MAGIC: Final = b"holdfast/v1 identity-events\n"


def encode_export(events: Iterable[bytes]) -> bytes:
    """The file of these signed events, given as bytes in the order of acceptance."""
    return _MAGIC + b"".join(to_base64(event).encode("ascii") + b"\n" for event in events)


def parse_export(data: bytes, name: str) -> list[SignedEvent]:
    """The events of an export; ``name`` is what errors call it. Raises ``MalformedError``."""
    if not data.startswith(_MAGIC):
        raise MalformedError(f"{name}: not an export of identity events")
    if not data.endswith(b"\n") or len(data) == len(_MAGIC):
        raise MalformedError(f"{name}: cut short")
    lines = data[len(_MAGIC) : -1].split(b"\n")
    if len(set(lines)) < len(lines):
        raise MalformedError(f"{name}: an event stands in it twice")
    events, newest = [], 0
    for number, line in enumerate(lines, start=2):
        try:
            signed = parse_signed_event(parse_base64(line.decode("ascii")))
            seq = parse_event(signed.event).seq
        except (MalformedError, UnicodeDecodeError) as exc:
            raise MalformedError(f"{name}:{number}: {exc}") from exc
        if seq < newest:
            raise MalformedError(f"{name}:{number}: event {seq} after event {newest}")
        events.append(signed)
        newest = seq
    return events
