"""Founding a home: its identity, devices, store, log and policy, whole or not at all.

The order matters (docs/spec/identity.md): inception, devices, contract, descriptor, ``bind_log``. Everything is made in
a directory beside the home's and moved into place as the last step, so that a failure leaves nothing behind that looks
like a home.
"""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from eth_hash.auto import keccak

from anchoring.chain.client import Chain
from anchoring.chain.deploy import deploy_contract
from anchoring.chain.transactions import LocalKey
from anchoring.contracts import load_contract
from anchoring.timestamp import Authority
from api.home import Home
from api.policy_text import policy_text
from identity.durable import create_file, sync_directory
from identity.errors import AuditError, RefusedError, StorageError
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
from identity.keystore import ARGON2ID_2026, SECP256K1_ORDER, KdfProfile, KeyRing, create_keystore
from identity.recovery import generate_phrase, root_seed
from ledger.identities import add_events
from ledger.log_writer import LogWriter
from ledger.statement import ChainBinding, LogDescriptor
from ledger.storage.engine import open_store
from ledger.storage.location import PostgresLocation, StoreLocation
from ledger.storage.sql import SqlStore

__all__ = ["Founded", "Founding", "found_home", "generate_anchor_key", "in_place_of", "new_store"]


@dataclass(frozen=True, slots=True)
class Founding:
    """What a new home is to be. ``chain`` is where the log is anchored, or None for a log that never can be.

    ``database`` is where its store is made, by default a file in the home. ``contract`` is one that is deployed
    already, to be used instead of a new one; ``anchor_key`` a key (secp256k1, 32 bytes) that has coins, instead of a
    new one. ``fund`` gives the anchor key's address coins, where somebody can: on the development chain.
    ``authorities`` are those that its policy trusts, ``k`` of which must agree. ``settings`` is the text of its
    ``holdfast.toml``, ``files`` are what that names, by file name.
    """

    label: str
    devices: Mapping[str, DeviceClass]
    log_name: str
    chain: Chain | None
    fund: Callable[[bytes], None] | None
    authorities: Sequence[Authority]
    settings: str
    database: PostgresLocation | None = None
    contract: bytes | None = None
    anchor_key: bytes | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)
    kdf: KdfProfile = ARGON2ID_2026
    k: int = 1


@dataclass(frozen=True, slots=True)
class Founded:
    """What was founded. ``phrase`` is shown once and kept nowhere: only it gives the next root key."""

    identity: bytes
    log_id: bytes
    log_name: str
    devices: Mapping[str, bytes]
    binding: ChainBinding | None
    phrase: str


def found_home(
    home: Home,
    founding: Founding,
    passphrase: str,
    *,
    now_ms: int,
    keep_phrase: Callable[[str], None] | None = None,
) -> Founded:
    """Found a home. Raises ``RefusedError`` when something is there already; then nothing has changed.

    ``keep_phrase`` is given the recovery phrase before the home is in its place; when it raises, there is no home: one
    whose phrase nobody has could never replace its root key.
    """
    with ExitStack() as made, in_place_of(home.root) as draft_root:
        draft = Home(draft_root)
        phrase = generate_phrase()
        ring = _new_keys(founding, phrase)
        events = _first_events(founding, ring, phrase, now_ms)
        # What a name may be is said by what carries it, before a contract is paid for.
        log_key = Ed25519Signer(_present(ring.log_seed))
        unbound = LogDescriptor(name=founding.log_name, key=log_key.public_key)
        create_keystore(draft.keystore, passphrase, ring, profile=founding.kdf)
        binding = _bind_chain(founding, ring)
        place = founding.database or draft.database
        store = made.enter_context(new_store(place, home))
        identity, log_id = _fill_store(store, replace(unbound, chain=binding), log_key, ring, events, now_ms)
        store.close()
        trusted = policy_text(identity, log_id, founding.authorities, binding, load_contract().code_hash, founding.k)
        _write_durably(draft.headers, b"")
        _write_durably(draft.settings, founding.settings.encode())
        _write_durably(draft.policy, trusted.encode())
        for name, content in founding.files.items():
            _write_durably(draft.root / name, content)
        if keep_phrase is not None:
            keep_phrase(phrase)
    devices = {name: Ed25519Signer(seed).public_key for name, seed in ring.devices.items()}
    return Founded(identity, log_id, founding.log_name, devices, binding, phrase)


@contextmanager
def new_store(place: StoreLocation, home: Home) -> Iterator[SqlStore]:
    """A new store. One that is not in the home's directory is removed again when the home does not come to be."""
    store = open_store(place, create=True)
    try:
        yield store
    except BaseException as exc:
        store.close()
        if isinstance(place, PostgresLocation) and not home.settings.exists():
            _drop(place, exc)
        raise
    finally:
        store.close()


def _drop(place: PostgresLocation, because: BaseException) -> None:
    from ledger.storage.postgres import drop_postgres

    try:
        drop_postgres(place)
    except StorageError as exc:
        if isinstance(because, AuditError):
            because.hint = f"the schema of {place} has to be removed by hand: {exc}"


def _fill_store(
    store: SqlStore,
    descriptor: LogDescriptor,
    log_key: Ed25519Signer,
    ring: KeyRing,
    events: Sequence[SignedEvent],
    now_ms: int,
) -> tuple[bytes, bytes]:
    """Give the store its identity and its log, which the identity binds. Returns the ids of both."""
    identity = event_digest(events[0].event)
    log_id = LogWriter(store, log_key).create(descriptor)
    bind = build_bind_log(fold(events), log=log_id, time_ms=now_ms)
    bound = sign_event(bind, [(0, Ed25519Signer(ring.root_seeds[0]))])
    with store.write() as tx:
        add_events(tx, identity, [*events, bound])
    return identity, log_id


def _new_keys(founding: Founding, phrase: str) -> KeyRing:
    return KeyRing(
        root_seeds=(root_seed(phrase, 0),),
        generation=0,
        devices={name: generate_seed() for name in founding.devices},
        log_seed=generate_seed(),
        anchor_key=None if founding.chain is None else founding.anchor_key or generate_anchor_key(),
    )


def generate_anchor_key() -> bytes:
    """A secp256k1 secret below the group order, uniformly but for a bias of 2^-128."""
    return (secrets.randbelow(SECP256K1_ORDER - 1) + 1).to_bytes(32, "big")


def _bind_chain(founding: Founding, ring: KeyRing) -> ChainBinding | None:
    """Where the log is going to be anchored: a contract that is there, or one that is deployed now."""
    if founding.chain is None:
        return None
    key = LocalKey(_present(ring.anchor_key))
    if founding.fund is not None:
        founding.fund(key.address)
    contract = founding.contract
    if contract is None:
        contract = deploy_contract(founding.chain, key)
    elif keccak(founding.chain.code(contract)) != load_contract().code_hash:
        raise RefusedError(f"what is at 0x{contract.hex()} on that chain is not the anchor contract")
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


def _write_durably(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(exist_ok=True)
        create_file(path, content)
    except OSError as exc:
        raise StorageError(f"cannot write {path.name}: {exc.strerror}") from exc


@contextmanager
def in_place_of(root: Path) -> Iterator[Path]:
    """A directory that becomes ``root`` when the block ends well, and nothing when it does not."""
    try:
        if root.exists() and not (root.is_dir() and not any(root.iterdir())):
            raise RefusedError(f"{root} is not an empty directory; a home is never overwritten")
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
        sync_directory(root)
        sync_directory(root.parent)
    except OSError as exc:
        raise StorageError(f"cannot put the home in place at {root}: {exc.strerror}") from exc
