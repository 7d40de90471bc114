"""What a node needs to decide who may do what, put together for an open home."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256

from api.access.capability import Terms, mint, revocation_ids
from api.access.gate import REQUESTS_A_MINUTE, Gate
from api.access.nonces import Nonces, nonces_for
from api.access.records import Granted, Revoked
from api.access.standing import StandingReader
from api.access.visiting import VisitorDesk
from api.access.visits import Revocations, VisitFeed
from api.bootstrap import Session
from identity.errors import AuditError, Forbidden, RefusedError
from identity.history import KeyHistory
from identity.keystore import KeyRing
from ledger.writer import StoreWriter
from sync.acts import Role

__all__ = ["Access", "minting_device", "open_access", "token_seed"]


@dataclass(frozen=True, slots=True)
class Access:
    """The gate of a node, and what is behind it. ``close`` it before the writer."""

    gate: Gate
    standing: StandingReader
    revocations: Revocations
    feed: VisitFeed
    nonces: Nonces
    now_ms: Callable[[], int]

    def grant(self, seed: bytes, device: bytes, terms: Terms) -> tuple[bytes, Granted]:
        """Mint a token by the device with that key, and record it.

        Raises ``Forbidden`` when the device may not admit visitors to that database, and as ``mint``.
        """
        if self.standing.now().member(device, terms.database).role is Role.READER:
            raise Forbidden("ROLE", "a reader admits no visitors")
        now_ms = self.now_ms()
        token = mint(seed, terms, now_ms // 1000)
        root = revocation_ids(token, device)[0]
        granted = Granted(now_ms, sha256(token).digest(), root, device, terms)
        self.feed.add_grant(granted)
        return token, granted

    def revoke(self, id: bytes, by: bytes, why: str) -> None:
        """End every token that has a block with this revocation id, at once. ``by`` is the key of who wants it."""
        self.feed.revoke(Revoked(self.now_ms(), id, by, why))

    def close(self) -> None:
        """Write what is left to tell, and release what is held."""
        with suppress(AuditError):
            self.feed.flush(all_of_it=True)
        self.nonces.close()


def open_access(
    session: Session,
    ring: KeyRing,
    writer: StoreWriter,
    device: str,
    *,
    requests_a_minute: int = REQUESTS_A_MINUTE,
) -> Access:
    """The gate of a home, whose visit feeds are written by ``writer`` as ``device``, a name in the keystore.

    Raises ``RefusedError`` for a device that is not in it.
    """
    vault = session.vault
    own = vault.history().identity
    keys = ring.device_keys()
    if device not in keys:
        raise RefusedError(f"the keystore holds no device {device!r}")
    standing = StandingReader(vault.store, own)
    revocations = Revocations(vault.store, own)
    feed = VisitFeed(
        vault.store, writer, keys[device], lambda name: vault.create_feed(ring, device, name), session.now_ms
    )
    nonces = nonces_for(vault.store, session.home.nonces)
    desk = VisitorDesk(standing, revocations, feed, session.now_ms)
    gate = Gate(
        standing,
        nonces,
        lambda: session.now_ms() // 1000,
        visitors=desk,
        own=keys[device],
        requests_a_minute=requests_a_minute,
    )
    return Access(gate, standing, revocations, feed, nonces, session.now_ms)


def minting_device(history: KeyHistory, ring: KeyRing, device: str | None) -> str:
    """The name of the device that admits visitors: the one that is named, or the only good one of the keystore.

    Raises ``RefusedError`` when none can be meant.
    """
    if device is not None:
        return device
    good = sorted(
        name
        for name, key in ring.device_keys().items()
        if key in history.devices and history.devices[key].revocation is None
    )
    if len(good) != 1:
        raise RefusedError("which device is it?", hint=f"--device with one of: {', '.join(good) or 'none'}")
    return good[0]


def token_seed(ring: KeyRing, device: str) -> bytes:
    """The private key of a device, which minting takes.

    Raises ``RefusedError`` for one that is not in the keystore, or whose key does not leave its hardware token.
    """
    if device in ring.token_devices:
        raise RefusedError(
            f"the key of device {device!r} is in a hardware token, which signs no capability",
            hint="let another device of this home admit visitors: --device NAME",
        )
    if device not in ring.devices:
        known = ", ".join(sorted(ring.devices)) or "none"
        raise RefusedError(f"the keystore holds no device {device!r}", hint=f"devices in it: {known}")
    return ring.devices[device]
