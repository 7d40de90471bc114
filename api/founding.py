"""Founding a home: its identity, devices, store, log and policy, whole or not at all.

The order matters (docs/spec/identity.md): inception, devices, contract, descriptor, ``bind_log``. Where the root is in
several hands the store begins without an identity, and all of these events wait in a signing request.

Everything is made in a directory beside the home's and moved into place as the last step, so that a failure leaves
nothing behind that looks like a home.
"""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

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
    fold_proposed,
    key_commitment,
    sign_event,
)
from identity.keys import Ed25519Signer, Signer, generate_seed
from identity.keystore import ARGON2ID_2026, SECP256K1_ORDER, KdfProfile, KeyRing, create_keystore
from identity.pkcs11 import Pkcs11Signer
from identity.recovery import generate_phrase, root_seed
from identity.request import SigningRequest, encode_request, propose
from identity.rootcard import RootCard, check_cards
from ledger.identities import add_events
from ledger.log_writer import LogWriter
from ledger.statement import ChainBinding, LogDescriptor
from ledger.storage.engine import open_store
from ledger.storage.location import PostgresLocation, StoreLocation
from ledger.storage.sql import SqlStore

__all__ = [
    "Founded",
    "Founding",
    "TokenMaker",
    "check_vacant",
    "found_home",
    "generate_anchor_key",
    "in_place_of",
    "new_store",
]


@dataclass(frozen=True, slots=True)
class Founding:
    """What a new home is to be. ``chain`` is where the log is anchored, or None for a log that never can be.

    ``cards`` are those of the holders of the root keys, of which ``threshold`` have to sign now and ``next_threshold``
    after the first rotation; without any, one root key is made. ``token`` makes the root and device keys in a hardware
    token. ``database`` is where its store is made, by default a file in the home. ``contract`` is one that is deployed
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
    cards: Sequence[RootCard] = ()
    threshold: int = 1
    next_threshold: int = 1
    token: TokenMaker | None = None
    kdf: KdfProfile = ARGON2ID_2026
    k: int = 1


@dataclass(frozen=True, slots=True)
class Founded:
    """What was founded. ``phrase`` is shown once and kept nowhere: only it gives the next root key.

    With several root holders there is no phrase but theirs, and ``request`` is what they have to sign.
    """

    identity: bytes
    log_id: bytes
    log_name: str
    devices: Mapping[str, bytes]
    binding: ChainBinding | None
    phrase: str | None
    request: SigningRequest | None = None


class TokenMaker(Protocol):
    """Makes keys in one hardware token, and destroys them again when there is no use for them."""

    def make(self, name: str) -> Pkcs11Signer:
        """A new key; ``name`` is part of what the token calls it."""

    def discard(self) -> None:
        """Destroy what was made."""


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
    with _discarding(founding.token), ExitStack() as made, in_place_of(home.root) as draft_root:
        draft = Home(draft_root)
        phrase = None if founding.cards else generate_phrase()
        keys = _new_keys(founding, phrase)
        events = _first_events(founding, keys, phrase, now_ms)
        # What a name may be is said by what carries it, before a contract is paid for.
        log_key = Ed25519Signer(_present(keys.ring.log_seed))
        unbound = LogDescriptor(name=founding.log_name, key=log_key.public_key)
        create_keystore(draft.keystore, passphrase, keys.ring, profile=founding.kdf)
        binding = _bind_chain(founding, keys.ring)
        store = made.enter_context(new_store(founding.database or draft.database, home))
        log_id, request = _fill_store(store, replace(unbound, chain=binding), log_key, keys, events, now_ms)
        store.close()
        if request is not None:
            _write_durably(draft.founding_request, encode_request(request))
        identity = event_digest(events[0].event)
        trusted = policy_text(identity, log_id, founding.authorities, binding, load_contract().code_hash, founding.k)
        _write_durably(draft.headers, b"")
        _write_durably(draft.settings, founding.settings.encode())
        _write_durably(draft.policy, trusted.encode())
        for name, content in founding.files.items():
            _write_durably(draft.root / name, content)
        if keep_phrase is not None and phrase is not None:
            keep_phrase(phrase)
    return Founded(identity, log_id, founding.log_name, keys.ring.device_keys(), binding, phrase, request)


@contextmanager
def _discarding(token: TokenMaker | None) -> Iterator[None]:
    """Keys that were made in a token are destroyed when the home they are for does not come to be."""
    try:
        yield
    except BaseException:
        if token is not None:
            token.discard()
        raise


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
    keys: _Keys,
    events: Sequence[SignedEvent],
    now_ms: int,
) -> tuple[bytes, SigningRequest | None]:
    """Give the store its log, and the identity that binds it or, when others sign for that, the request to them.

    Returns the log's id.
    """
    log_id = LogWriter(store, log_key).create(descriptor)
    after = fold_proposed([], events)[-1].after
    bind = keys.sign(build_bind_log(after, log=log_id, time_ms=now_ms))
    if not keys.roots:
        return log_id, propose([], [*events, bind])
    with store.write() as tx:
        add_events(tx, after.identity, [*events, bind])
    return log_id, None


@dataclass(frozen=True, slots=True)
class _Keys:
    """The new home's keys and what signs with them. ``roots`` is empty when others hold the root."""

    ring: KeyRing
    roots: Sequence[tuple[int, Signer]]
    devices: Mapping[str, Signer]

    def sign(self, event: bytes, *others: tuple[int, Signer]) -> SignedEvent:
        """The event with the signatures that can be made here: the root's, if it is here, and others'."""
        signers = [*self.roots, *others]
        return sign_event(event, signers) if signers else SignedEvent(event, ())


def _new_keys(founding: Founding, phrase: str | None) -> _Keys:
    log_seed = generate_seed()
    anchor_key = None if founding.chain is None else founding.anchor_key or generate_anchor_key()
    if founding.token is not None:
        held = {name: founding.token.make(name) for name in founding.devices}
        root = None if phrase is None else founding.token.make("root")
        ring = KeyRing(
            root_seeds=(),
            generation=0,
            devices={},
            log_seed=log_seed,
            anchor_key=anchor_key,
            token_devices={name: signer.key for name, signer in held.items()},
            token_root=None if root is None else root.key,
        )
        return _Keys(ring, [] if root is None else [(0, root)], held)
    ring = KeyRing(
        root_seeds=() if phrase is None else (root_seed(phrase, 0),),
        generation=0,
        devices={name: generate_seed() for name in founding.devices},
        log_seed=log_seed,
        anchor_key=anchor_key,
    )
    devices = {name: Ed25519Signer(seed) for name, seed in ring.devices.items()}
    return _Keys(ring, [(0, Ed25519Signer(seed)) for seed in ring.root_seeds], devices)


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


def _first_events(founding: Founding, keys: _Keys, phrase: str | None, now_ms: int) -> list[SignedEvent]:
    if phrase is None:
        check_cards(founding.cards)
        root_keys, next_digests = [card.key for card in founding.cards], [card.next for card in founding.cards]
    else:
        root_keys = [signer.public_key for _, signer in keys.roots]
        next_digests = [key_commitment(Ed25519Signer(root_seed(phrase, 1)).public_key)]
    inception = build_inception(
        label=founding.label,
        root_keys=root_keys,
        next_digests=next_digests,
        time_ms=now_ms,
        threshold=founding.threshold,
        next_threshold=founding.next_threshold,
    )
    events = [keys.sign(inception)]
    for name, device_class in founding.devices.items():
        device = keys.devices[name]
        event = build_add_device(
            fold_proposed([], events)[-1].after,
            device=device.public_key,
            name=name,
            time_ms=now_ms,
            device_class=device_class,
        )
        events.append(keys.sign(event, (len(root_keys), device)))
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


def check_vacant(root: Path) -> None:
    """Raises ``RefusedError`` when something is there that a home would overwrite."""
    if root.exists() and not (root.is_dir() and not any(root.iterdir())):
        raise RefusedError(f"{root} is not an empty directory; a home is never overwritten")


@contextmanager
def in_place_of(root: Path) -> Iterator[Path]:
    """A directory that becomes ``root`` when the block ends well, and nothing when it does not."""
    try:
        check_vacant(root)
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
