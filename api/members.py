"""Who may write to a database: the members, and the acts of an admin.

What would not count is refused before it is written, as far as this replica knows: an act stays in its feed for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from identity.errors import MissingEvidenceError, RefusedError
from identity.event import MAX_LAST_GOOD
from identity.history import LastGood, parse_signed_event
from ledger.lineage import first_feeds
from ledger.manifest import describe, parse_manifest
from ledger.storage.sql import SqlStore
from sync.acts import Act, Admit, CarryEvents, Dismiss, MemberEntry, Role
from sync.database import Commit, Database
from sync.membership import Member
from sync.storage.projection import feed_name
from sync.storage.writing import Writing

__all__ = ["MemberInfo", "admit", "carry_events", "dismiss", "list_members"]


@dataclass(frozen=True, slots=True)
class MemberInfo:
    """A membership, present or past, for people. ``label`` is what the identity calls itself, "" when not known."""

    identity: bytes
    label: str
    role: Role
    admitted_by: bytes | None
    dismissed: bool
    feeds: int
    """How many feeds of the member have entries here."""


def list_members(database: Database) -> list[MemberInfo]:
    """Everybody who is or was a member, the founder first, then by how they came in."""
    with database.read() as reader:
        members = reader.standing.within(None).members
        writers = [branch.author.identity for branch in reader.branches if branch.head is not None]
    rows = sorted(members.items(), key=lambda item: (item[1].depth, item[0]))
    return [_info(identity, member, writers.count(identity)) for identity, member in rows]


def _info(identity: bytes, member: Member, feeds: int) -> MemberInfo:
    label = "" if member.history is None else member.history.label
    return MemberInfo(identity, label, member.role, member.admitted_by, member.dismissed, feeds)


def admit(database: Database, own: bytes, identity: bytes, role: Role) -> Commit:
    """Make ``identity`` a member, or give a member another role, as the admin ``own``.

    Its events are carried along. Raises ``MissingEvidenceError`` when the store does not know the identity,
    ``RefusedError`` for what would not count, and as ``Database.write``.
    """

    def act(writing: Writing) -> Admit:
        admin, member = _admin(writing, own), _members(writing).get(identity)
        if member is not None and not member.dismissed:
            if member.role is role:
                raise RefusedError(f"identity {identity.hex()} is a {role} already")
            if member.depth == 0:
                raise RefusedError("the founder of a database stays an admin")
            _check_junior(admin, member)
        events = tuple(parse_signed_event(one.signed_event) for one in writing.projection.identity_events(identity))
        if not events:
            raise MissingEvidenceError(
                f"identity {identity.hex()} is not known here", hint="holdfast identity import FILE"
            )
        return Admit(identity, role, events)

    return _write(database, act)


def dismiss(database: Database, own: bytes, identity: bytes, reason: str) -> Commit:
    """End the membership of ``identity``, as the admin ``own``; what is here of its feeds goes on to count.

    Raises ``RefusedError`` for what would not count, and as ``Database.write``.
    """
    last_good = _last_good(database.store, feed_name(database.uid), identity)

    def act(writing: Writing) -> Dismiss:
        admin, member = _admin(writing, own), _members(writing).get(identity)
        if member is None or member.dismissed:
            raise RefusedError(f"identity {identity.hex()} is no member", hint="see 'holdfast db members'")
        if member.depth == 0 and identity != own:
            raise RefusedError("nobody else can dismiss the founder of a database")
        _check_junior(admin, member)
        return Dismiss(identity, last_good, reason)

    return _write(database, act)


def carry_events(database: Database) -> dict[bytes, int]:
    """Carry identity events of members that the store has and the database does not: new devices, revocations.

    Returns how many, by identity. Anybody who may write to a feed of the database can: the signatures of the events
    speak for themselves.
    """
    with database.read() as reader:
        identities = sorted(reader.standing.within(None).members)
    carried = {}
    for identity in identities:
        count = _carry(database, identity)
        if count:
            carried[identity] = count
    return carried


def _carry(database: Database, identity: bytes) -> int:
    count = 0

    def make(writing: Writing) -> MemberEntry | None:
        nonlocal count
        history = _members(writing)[identity].history
        known = set() if history is None else {event.digest for event in history.events}
        fresh = [one for one in writing.projection.identity_events(identity) if one.digest not in known]
        count = len(fresh)
        events = tuple(parse_signed_event(one.signed_event) for one in fresh)
        return MemberEntry(writing.stamp(), CarryEvents(identity, events)) if events else None

    database.write(make)
    return count


def _write(database: Database, act: Callable[[Writing], Act]) -> Commit:
    return database.write(lambda writing: MemberEntry(writing.stamp(), act(writing)))


def _members(writing: Writing) -> Mapping[bytes, Member]:
    return writing.projection.standing.within(None).members


def _admin(writing: Writing, own: bytes) -> Member:
    member = _members(writing).get(own)
    if member is None or member.dismissed or member.role is not Role.ADMIN:
        raise RefusedError("this home's identity is no admin of the database", hint="see 'holdfast db members'")
    return member


def _check_junior(admin: Member, member: Member) -> None:
    if admin.depth > member.depth:
        raise RefusedError("an admin can't decide about a member of longer standing")


def _last_good(store: SqlStore, name: str, identity: bytes) -> dict[bytes, LastGood]:
    """The feeds of the database that ``identity`` writes, each up to the last signed head that is here.

    Of more than a dismissal can name the first ones, so that nobody escapes it by beginning many.
    """
    found, described = {}, {}
    with store.read() as tx:
        for state in tx.feeds():
            description = describe(parse_manifest(state.manifest))
            if description is None or not state.length:
                continue
            head = tx.head(state.key, state.length)
            if description.name == name and description.identity == identity and head is not None:
                found[state.key] = LastGood(head.length, head.tree_hash)
                described[state.key] = description
    return {bytes(key): found[key] for key in first_feeds(described, MAX_LAST_GOOD)}
