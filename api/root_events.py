"""The events that change an identity, each as what makes it from the history it is going to follow.

What is made here lacks the signatures of the root: a store adds them when its keystore holds the root
(``Vault.sign_event_by_root``), or writes a signing request for those who hold it (``Vault.propose``). A device that is
added has signed for itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from identity.errors import RefusedError
from identity.event import DeviceClass, LastGood, RevocationReason, SignedEvent, parse_signed_event
from identity.history import (
    KeyHistory,
    build_add_device,
    build_bind_log,
    build_close,
    build_revoke_device,
    build_rotate_root,
    sign_event,
)
from identity.keys import Ed25519Signer, Signer
from identity.keystore import KeyRing
from identity.rootcard import RootCard, order_cards

__all__ = [
    "MakeEvent",
    "OpenToken",
    "add_device_event",
    "bind_log_event",
    "close_event",
    "revoke_device_event",
    "root_signers",
    "rotate_root_event",
    "with_signatures",
]

from identity.keys import TokenKey

MakeEvent = Callable[[KeyHistory], SignedEvent]
"""Makes the next event of a history, with no signatures but a new device's own."""

OpenToken = Callable[[TokenKey], Signer]
"""Opens a key that a keystore names in a token."""


def add_device_event(
    name: str, device: Signer, device_class: DeviceClass, time_ms: int, *, by: Signer | None = None
) -> MakeEvent:
    """Authorise ``device``; with ``by``, an admin's key, with all signatures it takes.

    Making it raises ``RefusedError`` when a device of that name is not revoked.
    """

    def make(history: KeyHistory) -> SignedEvent:
        if any(known.name == name and known.revocation is None for known in history.devices.values()):
            raise RefusedError(f"the identity has a device {name!r} already")
        event = build_add_device(
            history,
            device=device.public_key,
            name=name,
            time_ms=time_ms,
            device_class=device_class,
            by=None if by is None else by.public_key,
        )
        if by is not None:
            return sign_event(event, [(0, by), (1, device)])
        return sign_event(event, [(len(history.root_keys), device)])

    return make


def revoke_device_event(
    device: bytes,
    last_good: Mapping[bytes, LastGood],
    reason: RevocationReason,
    time_ms: int,
    *,
    compromised_since_ms: int | None = None,
    last_event: bytes | None = None,
) -> MakeEvent:
    """End a device key, vouching for ``last_good``; ``last_event`` as in ``RevokeDevice``."""
    return lambda history: SignedEvent(
        build_revoke_device(
            history,
            device=device,
            last_good=last_good,
            reason=reason,
            time_ms=time_ms,
            compromised_since_ms=compromised_since_ms,
            last_event=last_event,
        ),
        (),
    )


def bind_log_event(log: bytes, time_ms: int) -> MakeEvent:
    """Bind a checkpoint log by its id."""
    return lambda history: SignedEvent(build_bind_log(history, log=log, time_ms=time_ms), ())


def close_event(time_ms: int) -> MakeEvent:
    """Close the identity."""
    return lambda history: SignedEvent(build_close(history, time_ms=time_ms), ())


def rotate_root_event(cards: Sequence[RootCard], next_threshold: int, time_ms: int) -> MakeEvent:
    """Reveal the next root keys, of which each holder has handed over the card; signed by those new keys.

    Making it raises ``RefusedError`` when the cards are not of all the keys that were committed to.
    """

    def make(history: KeyHistory) -> SignedEvent:
        ordered = order_cards(cards, history.next_digests)
        event = build_rotate_root(
            history,
            root_keys=[card.key for card in ordered],
            next_digests=[card.next for card in ordered],
            time_ms=time_ms,
            next_threshold=next_threshold,
        )
        return SignedEvent(event, ())

    return make


def root_signers(ring: KeyRing, history: KeyHistory, open_token: OpenToken | None = None) -> list[tuple[int, Signer]]:
    """The root signers of a keystore with their places.

    Raises ``RefusedError`` when it holds no root key, that of another generation, or too few of several.
    """
    if not ring.root_seeds and ring.token_root is None:
        raise RefusedError(
            "the keystore does not hold the root key",
            hint="its holders sign: give --propose FILE, and see docs/how-to/several-root-holders.md",
        )
    if ring.generation != history.generation:
        raise RefusedError(
            f"the keystore holds the root key of generation {ring.generation}, the identity is at {history.generation}",
            hint="holdfast identity rotate-root puts the present one in",
        )
    signers: list[Signer] = [Ed25519Signer(seed) for seed in ring.root_seeds]
    if ring.token_root is not None and open_token is not None:
        signers.append(open_token(ring.token_root))
    places = {key: place for place, key in enumerate(history.root_keys)}
    found = [(places[signer.public_key], signer) for signer in signers if signer.public_key in places]
    if len(found) < history.root_threshold:
        raise RefusedError(
            f"the root takes {history.root_threshold} signatures, and this keystore can make {len(found)}",
            hint="the other holders sign: give --propose FILE",
        )
    return sorted(found, key=lambda placed: placed[0])


def with_signatures(made: SignedEvent, signers: Sequence[tuple[int, Signer]]) -> SignedEvent:
    """The event with more signatures."""
    fresh = sign_event(made.event, signers).signatures
    return parse_signed_event(SignedEvent(made.event, tuple(sorted([*made.signatures, *fresh]))).encode())
