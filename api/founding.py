"""Founding a home: its identity, devices, store, log and policy, whole or not at all.

The order is DESIGN 3.2's: inception, devices, contract, descriptor, ``bind_log``. Everything is made in a directory
beside the home's and moved into place as the last step, so that a failure leaves nothing behind that looks like a home.
"""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from anchoring.chain.client import Chain
from anchoring.chain.deploy import deploy_contract
from anchoring.chain.transactions import LocalKey
from anchoring.contracts import load_contract
from anchoring.timestamp import Authority
from api.home import Home
from api.policy_text import policy_text
from identity.errors import RefusedError, StorageError
from identity.event import DeviceClass
from identity.history import (
    SignedEvent,
    build_add_device,
    build_bind_log,
    build_inception,
    event_digest,
    fold,
    key_commitment,
    sign_event,
)
from identity.keys import Ed25519Signer, generate_seed
from identity.keystore import ARGON2ID_2026, KdfProfile, KeyRing, create_keystore
from identity.recovery import generate_phrase, root_seed
from ledger.identities import add_events
from ledger.log_writer import LogWriter
from ledger.statement import ChainBinding, LogDescriptor
from ledger.storage.sqlite import open_sqlite

__all__ = ["Founded", "Founding", "found_home"]


@dataclass(frozen=True, slots=True)
class Founding:
    """What a new home is to be. ``chain`` is where the log is anchored, or None for a log that never can be.

    ``fund`` gives the new anchor key's address coins, where somebody can: on the development chain. ``authorities`` are
    those that its policy trusts. ``settings`` is the text of its ``holdfast.toml``.
    """

    label: str
    devices: Mapping[str, DeviceClass]
    log_name: str
    chain: Chain | None
    fund: Callable[[bytes], None] | None
    authorities: Sequence[Authority]
    settings: str
    kdf: KdfProfile = ARGON2ID_2026


@dataclass(frozen=True, slots=True)
class Founded:
    """What was founded. ``phrase`` is shown once and kept nowhere: only it gives the next root key."""

    identity: bytes
    log_id: bytes
    log_name: str
    devices: Mapping[str, bytes]
    binding: ChainBinding | None
    phrase: str


def found_home(home: Home, founding: Founding, passphrase: str, *, now_ms: int) -> Founded:
    """Found a home. Raises ``RefusedError`` when something is there already; then nothing has changed."""
    with _in_place_of(home.root) as draft_root:
        draft = Home(draft_root)
        phrase = generate_phrase()
        ring = _new_keys(founding, phrase)
        create_keystore(draft.keystore, passphrase, ring, profile=founding.kdf)
        binding = _deploy(founding, ring)
        with closing(open_sqlite(draft.database, create=True)) as store:
            log = LogWriter(store, Ed25519Signer(_present(ring.log_seed)))
            events = _first_events(founding, ring, phrase, now_ms)
            with store.write() as tx:
                identity = add_events(tx, event_digest(events[0].event), events).identity
            descriptor = LogDescriptor(
                name=founding.log_name, key=Ed25519Signer(_present(ring.log_seed)).public_key, chain=binding
            )
            log_id = log.create(descriptor)
            root = Ed25519Signer(ring.root_seeds[0])
            bound = sign_event(build_bind_log(fold(events), log=log_id, time_ms=now_ms), [(0, root)])
            with store.write() as tx:
                add_events(tx, identity, [bound])
        draft.headers.touch(mode=0o644)
        draft.settings.write_text(founding.settings, encoding="utf-8")
        draft.policy.write_text(
            policy_text(identity, log_id, founding.authorities, binding, load_contract().code_hash),
            encoding="utf-8",
        )
    devices = {name: Ed25519Signer(seed).public_key for name, seed in ring.devices.items()}
    return Founded(identity, log_id, founding.log_name, devices, binding, phrase)


def _new_keys(founding: Founding, phrase: str) -> KeyRing:
    return KeyRing(
        root_seeds=(root_seed(phrase, 0),),
        generation=0,
        devices={name: generate_seed() for name in founding.devices},
        log_seed=generate_seed(),
        anchor_key=None if founding.chain is None else _new_anchor_key(),
    )


def _new_anchor_key() -> bytes:
    """A secp256k1 secret below the group order, uniformly but for a bias of 2^-128."""
    order = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141
    return (secrets.randbelow(order - 1) + 1).to_bytes(32, "big")


def _deploy(founding: Founding, ring: KeyRing) -> ChainBinding | None:
    if founding.chain is None:
        return None
    key = LocalKey(_present(ring.anchor_key))
    if founding.fund is not None:
        founding.fund(key.address)
    contract = deploy_contract(founding.chain, key)
    return ChainBinding(id=founding.chain.chain_id(), contract=contract, owner=key.address)


def _first_events(founding: Founding, ring: KeyRing, phrase: str, now_ms: int) -> list[SignedEvent]:
    root = Ed25519Signer(ring.root_seeds[0])
    following = Ed25519Signer(root_seed(phrase, 1)).public_key
    inception = build_inception(
        label=founding.label,
        root_keys=[root.public_key],
        next_digests=[key_commitment(following)],
        time_ms=now_ms,
    )
    events = [sign_event(inception, [(0, root)])]
    for name, device_class in founding.devices.items():
        device = Ed25519Signer(ring.devices[name])
        event = build_add_device(
            fold(events), device=device.public_key, name=name, time_ms=now_ms, device_class=device_class
        )
        events.append(sign_event(event, [(0, root), (1, device)]))
    return events


def _present(secret: bytes | None) -> bytes:
    assert secret is not None
    return secret


@contextmanager
def _in_place_of(root: Path) -> Iterator[Path]:
    """A directory that becomes ``root`` when the block ends well, and nothing when it does not."""
    if root.exists() and any(root.iterdir()):
        raise RefusedError(f"{root} is not empty; a home is never overwritten")
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=root.parent))
    except OSError as exc:
        raise StorageError(f"cannot create {root}: {exc.strerror}") from exc
    try:
        yield draft
        _move(draft, root)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _move(draft: Path, root: Path) -> None:
    try:
        # Replaces an empty directory, and fails on one that has been filled meanwhile.
        draft.rename(root)
    except OSError as exc:
        raise StorageError(f"cannot put the home in place at {root}: {exc.strerror}") from exc
