"""Membership: who may write to a database, and which of the entries that were written count.

Implements docs/spec/membership.md. Standing counts only through entries of kind ``member``,
which carry the identity events they rely on, so that causal dependencies put them in an order. ``fold_members`` makes
of a *set* of such acts who is a member, in what role, and where the feeds end of those who were dismissed or whose
device was revoked. The caller folds twice: over the acts in an entry's causal past, to ask ``may_write``; and over all
acts that the replica has, to ask ``excluded``. An entry counts when neither refuses it.

What is decided how:

1. Identity events are certified by their own signatures, so they count whoever carried them. Of one identity they form
   a tree by ``prev``; an event holds when the chain from the inception to it folds (``identity.history.fold``). What
   does not hold is left out. More events make more of them hold and never fewer: what was revoked stays revoked. Two
   chains of which neither continues the other make the identity disputed; then a device is good when every chain
   authorises it, and a revocation on any chain counts.
2. The claim of an act is judged in the fold of its own past: its author was an admin with a good device, and no junior
   of those whom the act is about. This never changes. A claim rests on the admissions that made the author an admin.
3. The rank of an act is 0 for the founder's and otherwise one more than the smallest rank of a counting admission that
   its claim rests on. Ranks are worked off from 0 upwards, in each the dismissals before the admissions. An act counts
   unless its device's revocation or a counting dismissal excludes its index. Between dismissals of one rank the one
   that no other excludes comes first; where they exclude each other in a circle, the smallest entry id of the circle
   does. What has come to count stays, also where the last one of an odd circle would exclude the first.
4. An act that never gets a rank rests on admissions that do not count, and does not count either.

It terminates: a past is smaller than a set that contains it, each rank takes at least one act out of those that are
left, and so does each step within a rank. The order in which acts are given cannot matter: they are keyed by entry id,
and each decision is a function of sets, with ranks and entry ids, which the entries' hashes fix, as the only
tie-breaks. Who is of equal rank can try out many entry ids, so only somebody of a smaller rank ends a dispute between
equals for good.

Dismissal and return. A dismissal ends every admission that has not seen it, and keeps of each feed what ``last_good``
says. An ``admit`` that has the dismissal in its past is a new membership. It never re-opens a feed that ``last_good``
names: who returns writes to a new one. Feeds that ``last_good`` left out are excluded whole until such an admission
counts, and are forgiven by it. A closed identity and a smaller role bind the entries that have seen them, no others.
The founding is proven by the database's id, so nothing excludes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from types import MappingProxyType
from typing import Final, NamedTuple

from identity.errors import MalformedError, VerificationError
from identity.event import LastGood, SignedEvent
from identity.history import KeyHistory, fold
from ledger.values import Reference
from sync.acts import Act, Admit, CarryEvents, Dismiss, Found, MemberEntry, Role, event_link
from sync.transaction import Stamp, database_id, entry_id

__all__ = [
    "Author",
    "Ending",
    "Member",
    "Membership",
    "PlacedAct",
    "Refusal",
    "fold_members",
]


class Refusal(StrEnum):
    """Why an entry does not count. The names are stable."""

    NOT_A_MEMBER = "NOT_A_MEMBER"
    """Never admitted, or by acts of which none counts."""
    DISMISSED = "DISMISSED"
    """The membership ended, or this feed did with an earlier one."""
    UNKNOWN_DEVICE = "UNKNOWN_DEVICE"
    REVOKED_DEVICE = "REVOKED_DEVICE"
    IDENTITY_CLOSED = "IDENTITY_CLOSED"
    IDENTITY_DISPUTED = "IDENTITY_DISPUTED"
    """The identity contradicts itself, and not all that it says authorises the device."""
    READ_ONLY_ROLE = "READ_ONLY_ROLE"
    NOT_AN_ADMIN = "NOT_AN_ADMIN"
    """A purge or an erasure, which nobody can bring back, or a hold, which stands in their way."""


# --- key histories --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _KeyLog:
    """All that the known events of one identity say: a history for each chain that no other one continues."""

    branches: tuple[KeyHistory, ...]
    history: KeyHistory | None
    """The first branch; when there are several, with the duplicity that the second makes."""
    holding: frozenset[bytes]
    """Digests of the events that hold."""

    def refuse(self, device: bytes) -> Refusal | None:
        """Why the device may not sign for the identity, as far as these events are known."""
        if any(branch.closed for branch in self.branches):
            return Refusal.IDENTITY_CLOSED
        found = [branch.devices[device] for branch in self.branches if device in branch.devices]
        if not found:
            return Refusal.UNKNOWN_DEVICE
        if any(one.revocation is not None for one in found):
            return Refusal.REVOKED_DEVICE
        return None if len(found) == len(self.branches) else Refusal.IDENTITY_DISPUTED

    def endings(self, device: bytes, feed: bytes) -> list[Ending]:
        """Where revocations of the device end the feed."""
        known = [branch.devices[device] for branch in self.branches if device in branch.devices]
        revocations = [one.revocation for one in known if one.revocation is not None]
        return [_ending(revocation.last_good.get(feed)) for revocation in revocations]

    def cut(self, device: bytes, feed: bytes) -> int | None:
        """The length at which revocations of the device end the feed; None when there are none."""
        return min((ending.cut for ending in self.endings(device, feed)), default=None)


_NO_KEYS: Final = _KeyLog((), None, frozenset())


@lru_cache(maxsize=1024)  # signatures are verified once for a set of events, not once for each act that is judged
def _key_log(identity: bytes, events: frozenset[SignedEvent]) -> _KeyLog:
    """What the events of an identity amount to. Costs a fold of the whole chain for every chain that they form."""
    chains = {tuple(event_link(signed).digest for signed in chain): chain for chain in _chains(identity, events)}
    ends = sorted(
        (path for path in chains if not any(other != path and other[: len(path)] == path for other in chains)),
        key=lambda path: (-len(path), path),
    )
    if not ends:
        return _NO_KEYS
    branches = tuple(fold(chains[path]) for path in ends)
    history = branches[0]
    if len(ends) > 1:
        parting = next(place for place, (one, other) in enumerate(zip(ends[0], ends[1], strict=False)) if one != other)
        history = fold([*chains[ends[0]], chains[ends[1]][parting]])
    return _KeyLog(branches, history, frozenset(digest for path in ends for digest in path))


def _chains(identity: bytes, events: Iterable[SignedEvent]) -> list[tuple[SignedEvent, ...]]:
    """For each event that none follows: as much of the chain that leads to it as folds, and not nothing."""
    spellings: dict[bytes, list[SignedEvent]] = {}
    prev: dict[bytes, bytes | None] = {}
    for signed in sorted(events, key=SignedEvent.encode):
        link = event_link(signed)
        spellings.setdefault(link.digest, []).append(signed)
        prev[link.digest] = link.prev
    chains = []
    for tip in prev.keys() - set(prev.values()):
        path: list[bytes] = []
        at: bytes | None = tip
        while at is not None and at in prev:
            path.append(at)
            at = prev[at]
        if path[-1] == identity:
            chains.append(_longest([spellings[digest] for digest in reversed(path)]))
    return [chain for chain in chains if chain]


def _longest(path: Sequence[Sequence[SignedEvent]]) -> tuple[SignedEvent, ...]:
    """The longest beginning of a chain that folds. An event with other signatures beside it is another spelling of it:
    the first that holds is taken, so nobody can spoil an event by spreading it with bad ones."""
    chain = [spellings[0] for spellings in path]
    tried = [0] * len(path)
    sound = _sound(chain, 0)
    while sound < len(path) and tried[sound] + 1 < len(path[sound]):
        tried[sound] += 1
        chain[sound] = path[sound][tried[sound]]
        sound = _sound(chain, sound)
    return tuple(chain[:sound])


def _sound(chain: Sequence[SignedEvent], low: int) -> int:
    """How many events from the first on fold, found by halving. That the first ``low`` do is known."""
    if _folds(chain):
        return len(chain)
    high = len(chain)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _folds(chain[:middle]) else (low, middle)
    return low


def _folds(chain: Sequence[SignedEvent]) -> bool:
    try:
        fold(chain)
    except (VerificationError, MalformedError):
        return False
    return True


# --- the result -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Author:
    """Who wrote an entry, from its feed's manifest: the feed's key, the key that signs it, the identity behind that."""

    feed: bytes
    device: bytes
    identity: bytes


@dataclass(frozen=True, slots=True)
class PlacedAct:
    """An act and where it stands. ``past`` are the entry ids of all member entries in its causal past."""

    reference: Reference
    author: Author
    entry: MemberEntry
    past: frozenset[bytes]


@dataclass(frozen=True, slots=True)
class Member:
    """A membership, present or past.

    ``history`` is None while nobody has carried events of the identity. ``admitted_by`` is the identity of the admin
    who gave the role, None for the founder. ``depth`` is 0 for the founder, else one more than the smallest rank of an
    admission that counts: an act of a larger rank cannot dismiss the member. After a dismissal the last role is kept.
    """

    role: Role
    history: KeyHistory | None
    admitted_by: bytes | None
    depth: int
    dismissed: bool


class _Authority(NamedTuple):
    """What an act of an admin rests on: the admissions that give the role now, and the rank that the act would have."""

    supports: frozenset[bytes]
    rank: int


class Ending(NamedTuple):
    """Where a feed ends: entries from index ``cut`` on do not count. ``tree_hash`` is that of the first ``length``
    blocks, which somebody vouches for, so of a feed that forked it says which side is meant; empty for length 0."""

    cut: int
    length: int
    tree_hash: bytes


def _ending(good: LastGood | None) -> Ending:
    return Ending(0, 0, b"") if good is None else Ending(good.length, good.length, good.tree_hash)


class _End(NamedTuple):
    """A dismissal that counts, and whether an admission that counts has seen it."""

    act: Dismiss
    place: Reference
    readmitted: bool

    def ending(self, feed: bytes) -> Ending | None:
        """Where the feed ends, None when it goes on.

        Who leaves by an act of their own vouches for what comes before it, and can't name the act: it is included.
        """
        good = self.act.last_good.get(feed)
        if good is None and self.readmitted:
            return None
        ending = _ending(good)
        is_own = (feed, ending.length) == (self.place.feed, self.place.index)
        return ending._replace(cut=ending.cut + 1) if is_own else ending

    def cut(self, feed: bytes) -> int | None:
        """The length at which the feed ends, None when it goes on."""
        ending = self.ending(feed)
        return None if ending is None else ending.cut


@dataclass(frozen=True, slots=True)
class Membership:
    """What a set of acts amounts to.

    ``members`` has, by identity, everybody whom an act that counts admitted, also those who were dismissed. ``void``
    has, by entry id, why an act does not count; when it is a ``CarryEvents`` those of its events that hold do count.
    """

    members: Mapping[bytes, Member]
    void: Mapping[bytes, str]
    _keys: Mapping[bytes, _KeyLog]
    _ends: Mapping[bytes, tuple[_End, ...]]
    _authority: Mapping[bytes, _Authority]

    def may_write(self, author: Author) -> Refusal | None:
        """Why an entry of this author does not count, with these acts as the ones in its causal past; None: it does.

        An entry that carries events needs no standing, and the founding has none yet.
        """
        member = self.members.get(author.identity)
        if member is None:
            return Refusal.NOT_A_MEMBER
        if member.dismissed or any(author.feed in end.act.last_good for end in self._ends.get(author.identity, ())):
            return Refusal.DISMISSED
        refusal = self._key_log(author.identity).refuse(author.device)
        if refusal is None and member.role is Role.READER:
            return Refusal.READ_ONLY_ROLE
        return refusal

    def excluded(self, author: Author, index: int) -> Refusal | None:
        """Why the entry at ``index`` of the feed does not count whatever it had seen; None when nothing is against it.

        A feed that forked is judged by index alone: which side ``last_good`` speaks of follows from ``endings``.
        """
        if author.identity not in self.members:
            return Refusal.NOT_A_MEMBER
        revoked = self._key_log(author.identity).cut(author.device, author.feed)
        if revoked is not None and index >= revoked:
            return Refusal.REVOKED_DEVICE
        dismissed = self._dismissed_at(author)
        return Refusal.DISMISSED if dismissed is not None and index >= dismissed else None

    def cut(self, author: Author) -> int | None:
        """The smallest index of the author's feed that ``excluded`` refuses; None when it refuses none."""
        if author.identity not in self.members:
            return 0
        cuts = (self._key_log(author.identity).cut(author.device, author.feed), self._dismissed_at(author))
        return min((cut for cut in cuts if cut is not None), default=None)

    def endings(self, author: Author) -> list[Ending]:
        """Where the author's feed ends, with what vouches for it up to there: each of them is the case."""
        dismissed = (end.ending(author.feed) for end in self._ends.get(author.identity, ()))
        revoked = self._key_log(author.identity).endings(author.device, author.feed)
        return [*revoked, *(ending for ending in dismissed if ending is not None)]

    def disputed(self, identity: bytes) -> bool:
        """Whether two events with one ``prev`` hold. That alone takes nothing away from what it wrote before."""
        return len(self._key_log(identity).branches) > 1

    def _key_log(self, identity: bytes) -> _KeyLog:
        return self._keys.get(identity, _NO_KEYS)

    def _dismissed_at(self, author: Author) -> int | None:
        cuts = (end.cut(author.feed) for end in self._ends.get(author.identity, ()))
        return min((cut for cut in cuts if cut is not None), default=None)


# --- the fold -------------------------------------------------------------------------------------------------------


class _Step(NamedTuple):
    """An act while it is judged. ``past`` has only acts that take part."""

    id: bytes
    stamp: Stamp
    place: Reference
    act: Act
    author: Author
    past: frozenset[bytes]


class _Claim(NamedTuple):
    """How an act stands by itself: why it cannot count (or nothing), and the admissions that it rests on."""

    reason: str
    supports: frozenset[bytes] = frozenset()


def fold_members(database: bytes, acts: Iterable[PlacedAct]) -> Membership:
    """What the acts amount to, whatever their order; how is said at the top of this module.

    Taken on trust: that ``acts`` has all well-formed acts in the past of each one, that ``past`` is what the references
    say, and that ``author`` signed. Raises nothing about what the acts say.
    """
    placed = {entry_id(one.reference): one for one in acts}
    here = {name for name, one in placed.items() if one.entry.stamp.database == database}
    steps = sorted(
        (
            _Step(name, one.entry.stamp, one.reference, one.entry.act, one.author, one.past & here)
            for name, one in placed.items()
            if name in here
        ),
        key=lambda step: (len(step.past), step.id),
    )
    judging = _Judging(database, steps)
    for step in steps:  # in this order those in the past of an act have been judged before it
        judging.judge(step)
    result = judging.fold(here)
    foreign = dict.fromkeys(placed.keys() - here, "an act of another database")
    return Membership(
        result.members,
        MappingProxyType({**result.void, **foreign}),
        result._keys,
        result._ends,
        result._authority,
    )


class _Judging:
    """The claims of acts, each judged in the fold of its own past."""

    def __init__(self, database: bytes, steps: Sequence[_Step]) -> None:
        self._database = database
        self._steps = steps
        self._claims: dict[bytes, _Claim] = {}
        self._folds: dict[frozenset[bytes], Membership] = {}

    def fold(self, names: Iterable[bytes]) -> Membership:
        """Of acts that are judged."""
        chosen = frozenset(names)
        found = self._folds.get(chosen)
        if found is None:
            found = _Folding([step for step in self._steps if step.id in chosen], self._claims).run()
            self._folds[chosen] = found
        return found

    def judge(self, step: _Step) -> None:
        match step.act:
            case Found() as act:
                claim = _Claim(_judge_founding(self._database, step, act))
            case CarryEvents():
                claim = _Claim("")
            case Admit() | Dismiss() as act:
                claim = self._judge_admin(step, act)
        self._claims[step.id] = claim

    def _judge_admin(self, step: _Step, act: Admit | Dismiss) -> _Claim:
        past = self.fold(step.past)
        refusal = past.may_write(step.author)
        if refusal is not None:
            return _Claim(f"its author might not write: {refusal}")
        authority = past._authority.get(step.author.identity)
        if authority is None:
            return _Claim("its author was no admin")
        if isinstance(act, Admit):
            reason = _judge_admission(past, authority.rank, act) or self._judge_events(step, act)
        else:
            reason = _judge_dismissal(past, step.author, authority.rank, act)
        return _Claim(reason, authority.supports)

    def _judge_events(self, step: _Step, act: Admit) -> str:
        known = {event for one in self._steps if one.id in step.past for event in _events_of(one.act, act.identity)}
        return _judge_carried(_key_log(act.identity, frozenset(known.union(act.events))), act.events)


def _judge_founding(database: bytes, step: _Step, act: Found) -> str:
    if database_id(act.founding) != database:
        return "the founding of another database"
    if step.stamp.back is not None or step.stamp.deps:
        return "a founding that is not the first entry"
    if step.author.identity != act.identity:
        return "a founding in a feed of somebody else"
    refusal = _key_log(act.identity, frozenset(act.events)).refuse(step.author.device)
    return "" if refusal is None else f"its author might not write: {refusal}"


def _judge_admission(past: Membership, rank: int, act: Admit) -> str:
    member = past.members.get(act.identity)
    if member is None or member.dismissed:
        return ""
    if member.depth == 0:
        return "the founder stays an admin"
    return "gives a senior another role" if rank > member.depth else ""


def _judge_dismissal(past: Membership, author: Author, rank: int, act: Dismiss) -> str:
    member = past.members.get(act.identity)
    if member is None:
        return "dismisses somebody who was no member"
    if member.depth == 0 and author.identity != act.identity:
        return "nobody else can dismiss the founder"
    return "dismisses a senior" if rank > member.depth else ""


def _judge_carried(keys: _KeyLog, events: Sequence[SignedEvent]) -> str:
    loose = sum(event_link(signed).digest not in keys.holding for signed in events)
    return f"{loose} of its {len(events)} identity events do not follow from those that are known" if loose else ""


def _events_of(act: Act, identity: bytes) -> tuple[SignedEvent, ...]:
    return act.events if not isinstance(act, Dismiss) and act.identity == identity else ()


class _Folding:
    """One fold of acts whose claims are known. ``steps`` are in one order, whatever order they came in."""

    def __init__(self, steps: Sequence[_Step], claims: Mapping[bytes, _Claim]) -> None:
        self._steps = steps
        self._claims = claims
        self._keys = _key_logs(steps)
        self._void: dict[bytes, str] = {}
        # What counts so far: the rank of each act, and by the identity that they are about, admissions and dismissals.
        self._ranks: dict[bytes, int] = {}
        self._grants: dict[bytes, list[_Step]] = {}
        self._endings: dict[bytes, list[tuple[_Step, Dismiss]]] = {}

    def run(self) -> Membership:
        pending = []
        for step in self._steps:
            reason = self._claims[step.id].reason
            if isinstance(step.act, CarryEvents):
                reason = _judge_carried(self._keys[step.act.identity], step.act.events)
            elif not reason and not isinstance(step.act, Found) and self._is_revoked(step):
                reason = "its device was revoked, and the entry is not vouched for"
            if reason:
                self._void[step.id] = reason
            elif isinstance(step.act, Found):
                self._grant(step, -1)
            elif not isinstance(step.act, CarryEvents):
                pending.append(step)
        self._settle(pending)
        return self._result()

    def _is_revoked(self, step: _Step) -> bool:
        keys = self._keys.get(step.author.identity, _NO_KEYS)
        cut = keys.cut(step.author.device, step.author.feed)
        return cut is not None and step.place.index >= cut

    def _grant(self, step: _Step, rank: int) -> None:
        self._ranks[step.id] = rank
        self._grants.setdefault(step.act.identity, []).append(step)

    def _settle(self, pending: list[_Step]) -> None:
        """Decide about acts by rank. An act is ready one rank after the first admission that it rests on counted."""
        rank = 0
        while ready := {step.id for step in pending if self._rests_on(step, rank - 1)}:
            now = [step for step in pending if step.id in ready]
            pending = [step for step in pending if step.id not in ready]
            self._settle_dismissals(rank, [(step, step.act) for step in now if isinstance(step.act, Dismiss)])
            for step in now:
                if isinstance(step.act, Admit):
                    if self._is_ended(step):
                        self._void[step.id] = _BEYOND
                    else:
                        self._grant(step, rank)
            rank += 1
        for step in pending:
            self._void[step.id] = "what made its author an admin does not count"

    def _rests_on(self, step: _Step, rank: int) -> bool:
        return any(self._ranks.get(support) == rank for support in self._claims[step.id].supports)

    def _settle_dismissals(self, rank: int, dismissals: Iterable[tuple[_Step, Dismiss]]) -> None:
        undecided = {}
        for step, act in dismissals:
            if self._is_ended(step):
                self._void[step.id] = _BEYOND
            elif self._is_shielded(rank, step, act):
                self._void[step.id] = "dismisses a senior"
            else:
                undecided[step.id] = (step, act)
        against = {
            name: frozenset(other for other, ending in undecided.items() if self._ends(ending, step))
            for name, (step, _) in undecided.items()
        }
        while undecided:
            against = {name: against[name] & undecided.keys() for name in undecided}
            for name in [name for name, others in against.items() if not others] or [_first_of_circle(against)]:
                step, act = undecided.pop(name)
                self._ranks[name] = rank
                self._endings.setdefault(act.identity, []).append((step, act))
            for name in [name for name, (step, _) in undecided.items() if self._is_ended(step)]:
                self._void[name] = _BEYOND
                del undecided[name]

    def _is_shielded(self, rank: int, step: _Step, act: Dismiss) -> bool:
        """Whether the member is a senior by an admission that the act had not seen, or that was in force where it was.

        An admission that has seen the act, or was ended in its past, says nothing about it.
        """
        before = [ending for ending, _ in self._endings.get(act.identity, ()) if ending.id in step.past]
        return any(
            self._ranks[grant.id] + 1 < rank
            for grant in self._grants.get(act.identity, ())
            if step.id not in grant.past and all(ending.id in grant.past for ending in before)
        )

    def _is_ended(self, step: _Step) -> bool:
        return any(self._ends(ending, step) for ending in self._endings.get(step.author.identity, ()))

    def _ends(self, ending: tuple[_Step, Dismiss], step: _Step) -> bool:
        """Whether the dismissal excludes the act's index. It does not exclude itself: one may leave."""
        if ending[1].identity != step.author.identity or ending[0].id == step.id:
            return False
        cut = self._end(*ending).cut(step.author.feed)
        return cut is not None and step.place.index >= cut

    def _end(self, step: _Step, act: Dismiss) -> _End:
        readmitted = any(step.id in grant.past for grant in self._grants.get(act.identity, ()))
        return _End(act, step.place, readmitted)

    def _result(self) -> Membership:
        members, authority = {}, {}
        for identity, grants in self._grants.items():
            endings = self._endings.get(identity, ())
            alive = [grant for grant in grants if all(ending.id in grant.past for ending, _ in endings)]
            newest = _newest(alive or grants)
            giving = min(newest, key=self._precedence)
            members[identity] = Member(
                role=_role(giving.act),
                history=self._keys[identity].history,
                admitted_by=None if isinstance(giving.act, Found) else giving.author.identity,
                depth=1 + min(self._ranks[grant.id] for grant in alive or grants),
                dismissed=not alive,
            )
            if alive and members[identity].role is Role.ADMIN:
                supports = frozenset(grant.id for grant in newest if _role(grant.act) is Role.ADMIN)
                authority[identity] = _Authority(supports, 1 + min(self._ranks[name] for name in supports))
        ends = {name: tuple(self._end(*ending) for ending in endings) for name, endings in self._endings.items()}
        return Membership(
            MappingProxyType(members),
            MappingProxyType(self._void),
            MappingProxyType(self._keys),
            MappingProxyType(ends),
            MappingProxyType(authority),
        )

    def _precedence(self, grant: _Step) -> tuple[int, int, bytes]:
        """Of admissions that have not seen each other: the most senior, then the one that allows least."""
        return self._ranks[grant.id], _CAUTION.index(_role(grant.act)), grant.id


_BEYOND: Final = "its author was dismissed, and the entry is not vouched for"
_CAUTION: Final = (Role.READER, Role.WRITER, Role.ADMIN)


def _role(act: Act) -> Role:
    return act.role if isinstance(act, Admit) else Role.ADMIN


def _newest(grants: Sequence[_Step]) -> list[_Step]:
    """The admissions that no other one has seen."""
    seen = frozenset[bytes]().union(*(grant.past for grant in grants))
    return [grant for grant in grants if grant.id not in seen]


def _key_logs(steps: Iterable[_Step]) -> dict[bytes, _KeyLog]:
    """By identity, for everybody whom an act is about."""
    events: dict[bytes, set[SignedEvent]] = {}
    for step in steps:
        events.setdefault(step.act.identity, set()).update(_events_of(step.act, step.act.identity))
    return {identity: _key_log(identity, frozenset(found)) for identity, found in events.items()}


def _first_of_circle(against: Mapping[bytes, frozenset[bytes]]) -> bytes:
    """The smallest entry id of a circle of dismissals that nothing outside of it excludes; each is excluded by some.

    Fewest others lead to those of such a circle. There can be several; they do not touch each other.
    """
    above = {name: _leading_to(name, against) for name in against}
    return min((name for name in above if name in above[name]), key=lambda name: (len(above[name]), name))


def _leading_to(name: bytes, against: Mapping[bytes, frozenset[bytes]]) -> set[bytes]:
    found: set[bytes] = set()
    waiting = [name]
    while waiting:
        for other in against[waiting.pop()] - found:
            found.add(other)
            waiting.append(other)
    return found
