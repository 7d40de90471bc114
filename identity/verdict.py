"""The verdict on an entry under its identity's key history, in the words of ETSI EN 319 102-1 clause 5.1.3.

Three values, because "cannot tell" must never be read as "passed" nor as "false". ``judge_entry`` is the table of
docs/spec/identity.md, section "Verdict", and nothing else: proofs have been verified before it is asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from identity.event import LastGood, RevocationReason
from identity.history import KeyHistory, Revocation

__all__ = ["Reason", "Status", "Verdict", "judge_entry"]


class Status(StrEnum):
    """The main indication of EN 319 102-1, which says TOTAL-PASSED and TOTAL-FAILED."""

    PASSED = "PASSED"
    FAILED = "FAILED"
    INDETERMINATE = "INDETERMINATE"


class Reason(StrEnum):
    """Why an entry got its status. Stable names, part of reports."""

    OK = "OK"
    UNKNOWN_DEVICE = "UNKNOWN_DEVICE"
    REVOKED = "REVOKED"
    OTHER_BRANCH = "OTHER_BRANCH"
    DUPLICITOUS = "DUPLICITOUS"
    LAST_GOOD_NOT_SHOWN = "LAST_GOOD_NOT_SHOWN"
    NO_POE = "NO_POE"
    REVOKED_NO_POE = "REVOKED_NO_POE"
    REPUDIATED = "REPUDIATED"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A status, the stable name of its reason, and a sentence for people."""

    status: Status
    reason: str
    detail: str


_PASSED: Final = Status.PASSED
_FAILED: Final = Status.FAILED
_INDETERMINATE: Final = Status.INDETERMINATE


def judge_entry(
    history: KeyHistory,
    device: bytes,
    feed: bytes,
    index: int,
    trees: Mapping[int, bytes],
    *,
    proven_before_ms: int | None,
    revoked_before_ms: int | None,
    logged_before_revocation: bool,
    rival_before_ms: int | None = None,
) -> Verdict:
    """What the key history says about entry ``index`` of ``feed``, whose manifest names the key ``device``.

    ``trees`` are the tree hashes that a verified proof shows for this feed, by length. T, ``proven_before_ms``, is the
    latest time the entry's proof of existence allows; R, ``revoked_before_ms``, the earliest time that the proof of
    the device's revocation allows; both ms UTC, None where nothing was shown. The entry counts as proven before the
    revocation when T < R and, with ``logged_before_revocation``, the log says the same. ``rival_before_ms`` is to a
    duplicitous history what R is to a revocation: the earliest time that the proof of either rival event allows.
    """
    known = history.devices.get(device)
    if history.duplicity is not None and not (known and _is_before(proven_before_ms, rival_before_ms)):
        return Verdict(
            _INDETERMINATE, Reason.DUPLICITOUS, "the identity has two histories; the entry was not proven before"
        )
    if known is None:
        return Verdict(_FAILED, Reason.UNKNOWN_DEVICE, "the identity has not authorised the device that signed")
    if known.revocation is None:
        return Verdict(_PASSED, Reason.OK, "signed by a device that is not revoked")
    early = logged_before_revocation and _is_before(proven_before_ms, revoked_before_ms)
    last_good = known.revocation.last_good.get(feed)
    if last_good is not None and trees.get(last_good.length, last_good.tree_hash) != last_good.tree_hash:
        return Verdict(_FAILED, Reason.OTHER_BRANCH, f"on another branch than the {last_good.length} vouched entries")
    if last_good is None or index >= last_good.length:
        return _judge_left_out(known.revocation, early)
    return _judge_within(known.revocation, last_good, trees, proven_before_ms if early else None)


def _is_before(time_ms: int | None, other_ms: int | None) -> bool:
    return time_ms is not None and other_ms is not None and time_ms < other_ms


def _judge_left_out(revocation: Revocation, early: bool) -> Verdict:
    """The entry is not among those that the revocation vouches for."""
    if early:
        detail = f"proven before the revocation at event {revocation.seq}, which leaves it out"
        return Verdict(_INDETERMINATE, Reason.REPUDIATED, detail)
    detail = f"left out by the revocation at event {revocation.seq} and not proven before it"
    return Verdict(_FAILED, Reason.REVOKED, detail)


def _judge_within(
    revocation: Revocation, last_good: LastGood, trees: Mapping[int, bytes], early_ms: int | None
) -> Verdict:
    """The entry is vouched for by length. ``early_ms`` is T when that is before the revocation, else None."""
    if last_good.length not in trees:
        detail = f"the proof does not show the tree of the {last_good.length} vouched entries"
        return Verdict(_INDETERMINATE, Reason.LAST_GOOD_NOT_SHOWN, detail)
    if revocation.reason is RevocationReason.RETIRED:
        return Verdict(_PASSED, Reason.OK, f"the device was retired at event {revocation.seq} and vouched for this far")
    if early_ms is None:
        detail = f"not proven to have existed before the revocation at event {revocation.seq}"
        return Verdict(_INDETERMINATE, Reason.NO_POE, detail)
    if revocation.compromised_since_ms is not None and early_ms >= revocation.compromised_since_ms:
        detail = "proven before the revocation, but not before the time since which the device counts as compromised"
        return Verdict(_INDETERMINATE, Reason.REVOKED_NO_POE, detail)
    return Verdict(_PASSED, Reason.OK, f"proven before the revocation at event {revocation.seq}")
