"""What the commands of ``holdfast identity`` share: their group, and how the things of an identity are named."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from api.cli.exit_codes import UsageError
from api.cli.group import CommandGroup
from api.cli.session import named_feed

if TYPE_CHECKING:
    from api.bootstrap import Session
    from identity.history import Device, DeviceClass, KeyHistory, RevocationReason
    from ledger.store import FeedKey

__all__ = [
    "Identity",
    "device_class",
    "group",
    "last_event",
    "lengths",
    "meant",
    "named_device",
    "revocation_reason",
    "the_one",
]

group = CommandGroup(
    "identity",
    "The identity: its devices, their history, its root key and its log.",
    order=(
        "add-device",
        "revoke-device",
        "rotate-root",
        "bind-log",
        "close",
        "recover",
        "review",
        "sign",
        "submit",
        "list",
        "show",
        "devices",
        "events",
        "export",
        "import",
    ),
)

Identity = Annotated[
    str | None,
    typer.Argument(metavar="[ID]", help="An identity that this store knows; default: its own.", show_default=False),
]


def meant(session: Session, text: str | None) -> bytes:
    """The identity whose id is, or alone begins with, ``text``; the store's own for None. Raises ``UsageError``."""
    from identity.textforms import to_hex

    if text is None:
        return session.vault.history().identity
    matches = [one for one in session.vault.identities() if text and to_hex(one).startswith(text)]
    return the_one(matches, f"an id that begins with {text!r}")


def the_one(matches: Sequence[bytes], what: str) -> bytes:
    """The only identity that has what was asked for. Raises ``UsageError`` when there is none, or several."""
    if len(matches) != 1:
        counted = "no identity has" if not matches else f"{len(matches)} identities have"
        more = "" if matches else ", and 'holdfast identity import' for those that are not known here"
        raise UsageError(f"{counted} {what}", hint=f"see 'holdfast identity list'{more}")
    return matches[0]


def device_class(text: str) -> DeviceClass:
    """The class that the command line names. Raises ``UsageError``."""
    from identity.event import DeviceClass

    try:
        return DeviceClass(text)
    except ValueError as exc:
        raise UsageError(f"{text!r} is no class of device", hint="admin, device or service") from exc


def revocation_reason(text: str) -> RevocationReason:
    """The reason that the command line names. Raises ``UsageError``."""
    from identity.event import RevocationReason

    try:
        return RevocationReason(text)
    except ValueError as exc:
        raise UsageError(f"{text!r} is no reason", hint=", ".join(item.value for item in RevocationReason)) from exc


def named_device(history: KeyHistory, name: str) -> Device:
    """The device that is meant: of several with one name, the one that is not revoked."""
    from identity.textforms import to_did_key

    matches = [one for one in history.devices.values() if name in (one.name, to_did_key(one.key))]
    matches = [one for one in matches if one.revocation is None] or matches
    if len(matches) != 1:
        counted = "no device is" if not matches else f"{len(matches)} devices are"
        raise UsageError(f"{counted} called {name!r}", hint="name it by its key, see 'holdfast identity devices'")
    return matches[0]


def lengths(session: Session, device: Device, vouch: list[str]) -> dict[FeedKey, int]:
    """How much of the device's feeds is vouched for, from ``FEED=LENGTH`` each. Raises ``UsageError``."""
    found: dict[FeedKey, int] = {}
    for item in vouch:
        name, equals, length = item.rpartition("=")
        if not equals or not (length.isascii() and length.isdigit() and len(length) < 17):
            raise UsageError(f"{item!r} is not FEED=LENGTH")
        feed = named_feed(session, name)
        if feed.device != device.key:
            raise UsageError(f"feed {name!r} is not of device {device.name!r}", hint="see 'holdfast feed list'")
        if feed.state.key in found:
            raise UsageError(f"feed {name!r} is vouched for twice")
        found[feed.state.key] = int(length)
    return found


def last_event(history: KeyHistory, text: str) -> bytes:
    """The digest of the event that the command line names by its seq or its digest. Raises ``UsageError``."""
    for record in history.events:
        if text in (str(record.seq), record.digest.hex()):
            return record.digest
    raise UsageError(f"no event is {text!r}", hint="its seq or its digest, see 'holdfast identity events'")
