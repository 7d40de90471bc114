"""The error tree of holdfast: one root, one branch for each thing a caller can do about it.

    AuditError
      MalformedError            the bytes are not in the format
        LimitExceeded           well-formed as far as read, larger than the format allows
        UnsupportedVersion      a version, kind or algorithm this reader does not know
      VerificationError         well-formed, but the claim is false
        SignatureMismatch
        RootMismatch            a recomputed Merkle root differs (carries both)
        ForkDetected            two histories under one key (carries both)
        HistoryError            an identity event that does not follow from those before it
        ImprintMismatch         a timestamp token covers other bytes
        TokenRejected           a timestamp token fails a named check
        ReceiptMismatch         a chain proof does not show what is claimed
        PeerMisbehaved          what a peer sent breaks the protocol, or is false (carries a reason)
        LogRuleViolation        a statement that the checkpoint log must not carry
      MissingEvidenceError      cannot be decided with what was given
        TokenUndecided          a timestamp token may be good; what would show it is missing (carries a reason)
      ConflictError             a compare-and-swap or a condition was lost
      RefusedError              the state of the store forbids it (read-only state, wrong passphrase, revoked key)
        PeerRefused             a peer has ended the session (carries its reason)
        WrongPassphrase
        WrongPin                a hardware token did not take the PIN
        ReadOnlyState           behind-anchor, diverged, foreign-chain, unverified
        Unauthenticated         a request over the network does not prove who sent it (carries a reason)
        Forbidden               it does, and the sender may not do that (carries a reason)
          TooMany               not now: more requests than a rate allows (carries when to try again)
      StorageError              the store could not do it
        StoreBusy               locked by another process: try again
        StoreUnreachable        its server does not answer: try again
        Unacknowledged          written, and what has to come before an acknowledgement failed
        UnknownOutcome          a commit was not answered: it may have happened or not
            NotRecorded         it happened, and the sentinel does not say so
        DamagedFile             a file of ours is truncated or altered
      TransportError            a peer, an authority, a node or a token could not be reached, or failed
      ConfigurationError        settings, policy or home cannot be used
        NewerFormat             written by a newer holdfast

Errors carry data; the text is made from it. The command line maps this tree to exit codes in one place.
"""

from __future__ import annotations

__all__ = [
    "AuditError",
    "ConfigurationError",
    "ConflictError",
    "DamagedFile",
    "Forbidden",
    "ForkDetected",
    "HistoryError",
    "ImprintMismatch",
    "LimitExceeded",
    "LogRuleViolation",
    "MalformedError",
    "MissingEvidenceError",
    "NewerFormat",
    "NotRecorded",
    "PeerMisbehaved",
    "PeerRefused",
    "ReadOnlyState",
    "ReceiptMismatch",
    "RefusedError",
    "RootMismatch",
    "SignatureMismatch",
    "StorageError",
    "StoreBusy",
    "StoreUnreachable",
    "TokenRejected",
    "TokenUndecided",
    "TooMany",
    "TransportError",
    "Unacknowledged",
    "Unauthenticated",
    "UnknownOutcome",
    "UnsupportedVersion",
    "VerificationError",
    "WrongPassphrase",
    "WrongPin",
]


class AuditError(Exception):
    """Root of every error that holdfast raises on purpose.

    ``hint`` is what the user can do about it, for the command line; it is empty where nothing useful can be said.
    """

    hint: str = ""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint or type(self).hint


class MalformedError(AuditError):
    """The bytes are not in the format. Nothing was taken from them."""


class LimitExceeded(MalformedError):
    """The input is larger, deeper or longer than its format allows."""


class UnsupportedVersion(MalformedError):
    """A version, kind or algorithm that this reader does not know."""


class VerificationError(AuditError):
    """Well-formed, but the claim it makes is false."""


class SignatureMismatch(VerificationError):
    """A signature is not by the key over the bytes."""


class RootMismatch(VerificationError):
    """A Merkle root recomputed from the proof differs from the one that was claimed."""

    def __init__(self, what: str, *, expected: bytes, computed: bytes) -> None:
        super().__init__(f"{what}: expected {expected.hex()}, computed {computed.hex()}")
        self.expected = expected
        self.computed = computed


class ForkDetected(VerificationError):
    """Two histories under one key. ``first`` and ``second`` are the signed statements that contradict each other.

    ``proof`` is a fork proof that anybody can check, where one can be made of what was met; else empty.
    """

    def __init__(self, message: str, *, first: bytes, second: bytes, proof: bytes = b"") -> None:
        super().__init__(message)
        self.first = first
        self.second = second
        self.proof = proof


class HistoryError(VerificationError):
    """An identity event that does not follow from the events before it. ``seq`` is its position."""

    def __init__(self, seq: int, reason: str) -> None:
        super().__init__(f"identity event {seq}: {reason}")
        self.seq = seq
        self.reason = reason


class ImprintMismatch(VerificationError):
    """A timestamp token covers other bytes than the ones it is offered for."""

    def __init__(self, *, expected: bytes, found: bytes) -> None:
        super().__init__(f"timestamp imprint: expected {expected.hex()}, the token covers {found.hex()}")
        self.expected = expected
        self.found = found


class TokenRejected(VerificationError):
    """A timestamp token fails a check. ``reason`` is the check's name, stable, in upper case with underscores."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"timestamp token {reason}: {detail}")
        self.reason = reason


class ReceiptMismatch(VerificationError):
    """A chain proof does not show what is claimed. ``reason`` is stable, in upper case with underscores."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"chain receipt {reason}: {detail}")
        self.reason = reason


class PeerMisbehaved(VerificationError):
    """What a peer has sent breaks the rules of the protocol, or claims what is false. Nothing of that frame was kept.

    ``reason`` is stable, in upper case with underscores.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"the peer is cut off, {reason}: {detail}")
        self.reason = reason
        self.detail = detail


class LogRuleViolation(VerificationError):
    """A statement that the checkpoint log must not carry. ``index`` is the leaf's."""

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(f"log leaf {index}: {reason}")
        self.index = index
        self.reason = reason


class MissingEvidenceError(AuditError):
    """The question cannot be decided with what was given."""


class TokenUndecided(MissingEvidenceError):
    """A timestamp token that may be good, but what would show it is missing. ``reason`` as in ``TokenRejected``."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"timestamp token {reason}: {detail}")
        self.reason = reason


class ConflictError(AuditError):
    """A compare-and-swap or a condition was lost: somebody else wrote first."""


class RefusedError(AuditError):
    """The state of the store, or a rule, forbids the operation."""


class PeerRefused(RefusedError):
    """A peer has ended the session. ``reason`` as in ``PeerMisbehaved``; ``proof`` shows what was wrong, if it can."""

    def __init__(self, reason: str, detail: str, proof: bytes = b"") -> None:
        super().__init__(f"the peer has refused, {reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.proof = proof


class WrongPassphrase(RefusedError):
    """The keystore does not open with this passphrase."""

    hint = (
        "check the passphrase; when it is lost for good the recovery phrase helps: holdfast identity recover,"
        " or for a root holder's keystore holdfast root restore"
    )


class WrongPin(RefusedError):
    """A hardware token did not take the PIN. ``token`` is its label."""

    hint = "check the PIN before the next try"

    def __init__(self, token: str, what: str, *, hint: str = "") -> None:
        super().__init__(f"the PIN of token {token!r} {what}", hint=hint)
        self.token = token


class ReadOnlyState(RefusedError):
    """The store is in a state in which it must not be written to. ``state`` is its name."""

    def __init__(self, state: str, message: str, *, hint: str = "") -> None:
        super().__init__(f"{state}: {message}", hint=hint)
        self.state = state


class Unauthenticated(RefusedError):
    """A request that does not prove who sent it. ``reason`` is stable, in upper case with underscores."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


class Forbidden(RefusedError):
    """Who sent a request is known, and may not have what it asks for. ``reason`` as in ``Unauthenticated``."""

    def __init__(self, reason: str, detail: str, *, hint: str = "") -> None:
        super().__init__(f"{reason}: {detail}", hint=hint)
        self.reason = reason


class TooMany(Forbidden):
    """More requests in a minute than the sender may make. ``retry_after_s``: when to try again."""

    def __init__(self, reason: str, detail: str, *, retry_after_s: int) -> None:
        super().__init__(reason, detail)
        self.retry_after_s = retry_after_s


class StorageError(AuditError):
    """The store could not do what was asked of it."""


class StoreBusy(StorageError):
    """Another process holds the store. Trying again later can succeed."""


class StoreUnreachable(StorageError):
    """The store's server does not answer, so nothing was done. Trying again later can succeed."""


class Unacknowledged(StorageError):
    """It was written as blocks ``start`` to ``length - 1``, and what has to come before an acknowledgement failed."""

    hint = "it is in the feed: do not write it again"

    def __init__(self, start: int, length: int, reason: str) -> None:
        super().__init__(f"written as blocks {start} to {length - 1}, but what has to follow a commit failed: {reason}")
        self.start = start
        self.length = length


class UnknownOutcome(StorageError):
    """A commit was not answered, or not by all who have to keep it: it may have happened or not.

    Whoever gets this reads the head again before doing anything else; nothing that was written may be shown as stored.
    """

    hint = "read what the store holds before trying again: what was written may be there"


class NotRecorded(UnknownOutcome):
    """What was written is durable, and what has to know of it before anybody is answered could not be told."""


class DamagedFile(StorageError):
    """A file of ours is truncated or altered."""


class TransportError(AuditError):
    """A peer, an authority, a node or a token could not be reached, or did not answer as its protocol says."""


class ConfigurationError(AuditError):
    """Settings, a policy or a home directory cannot be used as they are."""


class NewerFormat(ConfigurationError):
    """Written by a newer holdfast than this one."""

    hint = "use the newer holdfast; this one has changed nothing"
