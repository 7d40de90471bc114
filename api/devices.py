"""The devices that may write to databases of a home, whosever they are: how each stands, and when it last wrote.

What is known of a device comes from two places, as at the gate (``api.access.standing``): the identity events that the
store keeps, and those that members have carried into a database. What either takes away is gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from api.pairing import Party, safety_number
from identity.errors import AuditError
from sync.clock import wall_ms
from sync.membership import Author, Member, Membership, Refusal

if TYPE_CHECKING:
    from api.bootstrap import Session
    from api.databases import Databases
    from identity.history import Device, KeyHistory

__all__ = ["WRITES", "KnownDevice", "list_devices"]

WRITES: Final = "writes"
"""The standing of a device whose entries count in a database at least."""

_READS: Final = "reads"
_NOT_YET: Final = "not-known-there-yet"
_ORDER: Final = (
    WRITES,
    _NOT_YET,
    _READS,
    "dismissed",
    "revoked-device",
    "identity-closed",
    "identity-disputed",
    "unknown-device",
    "not-a-member",
)


@dataclass(frozen=True, slots=True)
class KnownDevice:
    """A device of a member of databases. ``standing`` is the best that it has in one of ``databases``.

    ``written_ms`` is when its newest entry here claims to have been written, None when it never wrote.
    ``safety_number`` is the one that pairing would show; None for the device itself, and when this home has several
    devices of which none is meant. ``url`` is where it serves, when this home was paired with that.
    """

    identity: bytes
    label: str
    key: bytes
    name: str
    standing: str
    databases: tuple[str, ...]
    written_ms: int | None
    safety_number: str | None
    url: str | None


@dataclass(slots=True)
class _Found:
    name: str
    standings: set[str]
    databases: list[str]
    written_ms: int | None = None


def list_devices(session: Session, databases: Databases, own_device: bytes | None) -> list[KnownDevice]:
    """Every device that may write to a database of this home, or could once, this home's own identity first.

    ``own_device`` is the device that this home speaks with: safety numbers are with that one.
    """
    from api.peers import load_peers

    own = session.vault.history().identity
    found: dict[tuple[bytes, bytes], _Found] = {}
    histories = _histories(session)
    for info in databases.known():
        with databases.open_known(info.uid).read() as reader:
            membership = reader.standing.within(None)
            written = _written(reader.branches)
        for identity, member in membership.members.items():
            _add(found, info.name, identity, member, membership, histories.get(identity), own)
        for place, last in written.items():
            if place in found:
                found[place].written_ms = max(last, found[place].written_ms or 0)
    urls = {(one.party.identity, one.party.device): one.url for one in load_peers(session.home)}
    rows = []
    for (identity, key), one in found.items():
        number = None
        if own_device is not None and (identity, key) != (own, own_device):
            number = safety_number(Party(own, own_device), Party(identity, key))
        label = histories[identity].label if identity in histories else ""
        standing = min(one.standings, key=_ORDER.index)
        rows.append(
            KnownDevice(
                identity,
                label,
                key,
                one.name,
                standing,
                tuple(one.databases),
                one.written_ms,
                number,
                urls.get((identity, key)),
            )
        )
    return sorted(rows, key=lambda row: (row.identity != own, row.label, row.identity, row.name, row.key))


def _histories(session: Session) -> Mapping[bytes, KeyHistory]:
    """What the store's identity events say. Events that do not fold speak for nobody."""
    found = {}
    for identity in session.vault.identities():
        try:
            found[identity] = session.vault.history(identity)
        except AuditError:
            continue
    return found


def _written(branches: Iterable[object]) -> dict[tuple[bytes, bytes], int]:
    """By identity and device, when its newest entry claims to have been written."""
    from sync.storage.branches import Branch

    last: dict[tuple[bytes, bytes], int] = {}
    for branch in branches:
        assert isinstance(branch, Branch)
        if branch.head is not None:
            place = branch.author.identity, branch.author.device
            last[place] = max(last.get(place, 0), wall_ms(branch.head.reading))
    return last


def _add(
    found: dict[tuple[bytes, bytes], _Found],
    database: str,
    identity: bytes,
    member: Member,
    membership: Membership,
    history: KeyHistory | None,
    own: bytes,
) -> None:
    """What a database says of the devices of one member."""
    devices: dict[bytes, list[Device]] = {}
    for known in (member.history, history):
        for key, device in {} if known is None else known.devices.items():
            devices.setdefault(key, []).append(device)
    for key, told in devices.items():
        standing = _standing(membership, Author(b"", key, identity), told, is_own=identity == own)
        one = found.setdefault((identity, key), _Found(told[-1].name, set(), []))
        one.standings.add(standing)
        one.databases.append(database)


def _standing(membership: Membership, author: Author, told: Sequence[Device], *, is_own: bool) -> str:
    if any(device.revocation is not None for device in told):
        return "revoked-device"
    refusal = membership.may_write(author)
    if refusal is Refusal.UNKNOWN_DEVICE:  # the store knows it, and nobody has carried the event yet
        return WRITES if is_own else _NOT_YET
    if refusal is Refusal.READ_ONLY_ROLE:
        return _READS
    return WRITES if refusal is None else refusal.value.lower().replace("_", "-")
