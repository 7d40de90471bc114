"""The other way out: closing a log on chain and beginning its one successor, in a store of its own.

Implements docs/spec/rollback.md, section "Ways out". The steps can be stopped anywhere and the command run again:

1. the successor's store is made beside the present one, whole: events, feeds, descriptor, ``bind_log``, the close;
2. the policy of the home trusts the new log too;
3. the settings name the new store, in one step; the one before stays as it is, for everything that it can prove;
4. the close is sent and followed until it is final.

What is not there is said: a lost log key is replaced by a new one, and without the anchor key or the chain nothing is
closed, so nothing but the identity's own event shows which log goes on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from contextlib import closing as closed_after
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from anchoring.chain.closing import Closing, add_closing, read_closing
from anchoring.chain.deploy import deploy_contract
from anchoring.chain.outbox import AnchorTarget
from anchoring.chain.transactions import LocalKey
from anchoring.contracts import load_contract
from anchoring.policy_file import load_policy
from anchoring.receipt import AnchorRecord
from anchoring.storage import AnchorState
from api.databases import take_in
from api.founding import generate_anchor_key
from api.settings import Settings, load_settings
from api.vault import log_descriptor_in, own_history, root_signers
from identity.durable import replace_file
from identity.errors import (
    ConfigurationError,
    MalformedError,
    RefusedError,
    StorageError,
    TransportError,
    VerificationError,
)
from identity.history import KeyHistory, build_bind_log, sign_event
from identity.keys import Ed25519Signer, Signer, generate_seed
from identity.keystore import KeyRing
from identity.textforms import to_hex
from ledger.identities import add_events
from ledger.log_writer import begin_log
from ledger.statement import ChainBinding, LogDescriptor, Predecessor
from ledger.storage.engine import open_store, store_exists
from ledger.storage.location import PostgresLocation, StoreLocation
from ledger.storage.start_up import Succession, add_succession
from ledger.succession import copy_feed_to
from sync.document_keys import DocumentKeys

if TYPE_CHECKING:
    from anchoring.chain.client import Chain, ChainReader
    from api.bootstrap import Session
    from ledger.storage.sql import SqlReadTransaction, SqlWriteTransaction

__all__ = [
    "Plan",
    "begin_successor",
    "bind_successor",
    "holds_owner_key",
    "plan_successor",
    "successor_keys",
    "switch_home",
]

_SUCCEEDED: Final = "succeeded"
_SCHEMA_LENGTH: Final = 63
"""That PostgreSQL allows a name."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is going to happen: which log ends where, where its successor's store will lie, and what cannot be done.

    ``closable`` is False when nothing can be closed on chain; ``because`` says why, in that case, and which keys are
    new. ``database`` exists already when an earlier call was stopped after it had been made.
    """

    predecessor: Predecessor
    descriptor: LogDescriptor
    database: StoreLocation
    closable: bool
    because: tuple[str, ...]


def plan_successor(session: Session, ring: KeyRing, chain: Chain | None, *, chain_is_gone: bool) -> Plan:
    """Find out where the log ends and whether it can be closed. Changes nothing.

    ``chain_is_gone``: for good. Raises ``TransportError`` when the chain cannot be read and
    that was not said, ``RefusedError`` when the contract names another successor already, or the log is fine.
    """
    log_id, descriptor = session.vault.log_descriptor()
    _require_root(session, ring)
    with session.vault.store.read() as tx:
        newest = max(tx.checkpoints(), key=lambda checkpoint: checkpoint.size, default=None)
    database = _database_of(session.settings, log_id)
    because: list[str] = []
    size, root = (0, b"") if newest is None else (newest.size, newest.root)
    closable = descriptor.chain is not None and not chain_is_gone
    if descriptor.chain is not None and not chain_is_gone:
        if chain is None:
            raise ConfigurationError("the settings name no chain, and the log is bound to one")
        record, successor = _read(chain, log_id, descriptor.chain)
        if record is not None and record.closed and successor != _successor_in(database):
            if any(successor):
                raise RefusedError(f"the log was closed on chain, and log {successor.hex()} is its one successor")
            closable = False
            because.append("the log was closed on chain without a successor: the chain will not name this one")
        if record is not None and record.size:
            size, root = record.size, record.root
        if not holds_owner_key(ring, descriptor.chain):
            closable = False
            because.append("the keystore does not hold the anchor key: the log cannot be closed on chain")
    if chain_is_gone:
        because.append("the chain is not asked: the log is not closed on it")
    if size == 0:
        raise RefusedError("the log has no checkpoint yet, so there is nothing to go on from")
    if ring.log_seed is None or Ed25519Signer(ring.log_seed).public_key != descriptor.key:
        because.append("the log's key is lost: the successor has another one")
    return Plan(Predecessor(log_id, size, root), descriptor, database, closable, tuple(because))


def _require_root(session: Session, ring: KeyRing) -> None:
    """The root signs for the successor; whether it can is known before anything is made or paid for."""
    try:
        root_signers(ring, session.vault.history(), open_token=session.tokens.signer)
    except RefusedError as exc:
        raise RefusedError(
            f"a successor is bound by the root, and this keystore cannot sign for it: {exc}",
            hint="it takes one keystore that can: see docs/how-to/recover.md, 'Whose signature it takes'",
        ) from exc


def begin_successor(session: Session, ring: KeyRing, plan: Plan, binding: ChainBinding | None, *, now_ms: int) -> bytes:
    """Make the successor's store, whole, unless it is there already; returns the successor's log id.

    The tables of its databases are made anew from the feeds.
    ``ring`` holds the log key that the successor is to have, ``binding`` is where it is going to be anchored. Raises
    ``RefusedError`` when the file is there and is something else, or the keystore lacks the root key.
    """
    if not store_exists(plan.database):
        open_store(plan.database, create=True).close()
    with closed_after(open_store(plan.database)) as store:
        with store.read() as tx:
            log_id = None if tx.log() is None else _found(tx, plan)
        if log_id is None:
            with session.vault.store.read() as source, store.write() as write:
                roots = partial(root_signers, ring, open_token=session.tokens.signer)
                log_id = _fill(source, write, ring, roots, plan, binding, now_ms)
        with DocumentKeys(session.home.document_keys) as keys:
            take_in(store, keys, lambda: now_ms)
        return log_id


def _found(tx: SqlReadTransaction, plan: Plan) -> bytes:
    predecessor = log_descriptor_in(tx).predecessor
    state = tx.log()
    if state is None or predecessor is None or predecessor.log != plan.predecessor.log:
        raise RefusedError(f"{plan.database} is another store", hint="move it away")
    return state.log_id


def _fill(
    source: SqlReadTransaction,
    tx: SqlWriteTransaction,
    ring: KeyRing,
    roots: Callable[[KeyHistory], list[tuple[int, Signer]]],
    plan: Plan,
    binding: ChainBinding | None,
    now_ms: int,
) -> bytes:
    """Everything of the successor's store in one transaction."""
    history = own_history(source)
    for identity in source.identities():
        for event in source.identity_events(identity):
            tx.add_identity_event(event)
    feeds = source.feeds()
    for feed in feeds:
        copy_feed_to(tx, source, feed)
    if ring.log_seed is None:
        raise RefusedError("the keystore does not hold a key for the successor log")
    key = Ed25519Signer(ring.log_seed).public_key
    log_id = begin_log(tx, replace(plan.descriptor, key=key, chain=binding, predecessor=plan.predecessor))
    bind = build_bind_log(history, log=log_id, time_ms=now_ms)
    add_events(tx, history.identity, [sign_event(bind, roots(history))])
    local = sum(feed.local for feed in feeds)
    detail = f"the log goes on from {plan.predecessor.log.hex()}, which ends at size {plan.predecessor.size}"
    add_succession(tx.connection, Succession(_SUCCEEDED, detail, local, now_ms))
    if plan.closable:
        older = plan.descriptor.chain
        assert older is not None
        pending = Closing(
            plan.predecessor.log, log_id, older.id, older.contract, older.owner, AnchorState.PENDING, None, now_ms
        )
        add_closing(tx.connection, pending)
    return log_id


def switch_home(session: Session, plan: Plan, log_id: bytes, environ: Mapping[str, str]) -> list[str]:
    """Let the home's settings name the successor's store, and its policy trust the successor.

    Returns what the user has to do by hand, a sentence each. Raises ``ConfigurationError`` when the environment names
    the store, so that the settings have no say in it.
    """
    if "HOLDFAST_DATABASE" in environ:
        raise ConfigurationError(
            "HOLDFAST_DATABASE names the store", hint=f"let it name {plan.database}, and run the command again"
        )
    by_hand = []
    older, newer = to_hex(plan.predecessor.log), to_hex(log_id)
    text = session.home.policy.read_text(encoding="utf-8") if session.home.policy.exists() else ""
    if newer not in text:
        changed = text.replace(f'"{older}"', f'"{older}", "{newer}"', 1)
        if _trusts(session.home.policy, changed, log_id):
            replace_file(session.home.policy, changed.encode())
        else:
            by_hand.append(f"add log {newer} to the logs of {session.home.policy}")
    if isinstance(plan.database, PostgresLocation):
        by_hand.append(f"whoever else uses {session.settings.database}: let their settings name {plan.database} too")
    _rewrite_settings(session, plan.database, environ)  # last: with it, nothing is left but the close
    return by_hand


def _rewrite_settings(session: Session, database: StoreLocation, environ: Mapping[str, str]) -> None:
    """Set ``database`` in the file, and leave every other byte of it as it is."""
    file = session.home.settings
    text = file.read_text(encoding="utf-8")
    line = f"database = {json.dumps(_setting(session, database), ensure_ascii=False)}"
    head, separator, rest = text.partition("\n[")
    if re.search(r"^\s*database\s*=", head, re.MULTILINE):
        head = re.sub(r"^\s*database\s*=.*$", lambda _: line, head, count=1, flags=re.MULTILINE)
    else:
        head = re.sub(r"^(\s*format\s*=.*)$", lambda match: f"{match[1]}\n{line}", head, count=1, flags=re.MULTILINE)
    before = session.settings
    replace_file(file, (head + separator + rest).encode())
    if load_settings(session.home, environ) != before.model_copy(update={"database": database}):
        replace_file(file, text.encode())
        raise ConfigurationError(f"{file} cannot be changed safely", hint=f"write {line} into it")


def _setting(session: Session, database: StoreLocation) -> str:
    if isinstance(database, PostgresLocation):
        return database.full_url()
    return database.name if database.parent == session.home.root else str(database)


def _trusts(file: Path, text: str, log_id: bytes) -> bool:
    """Whether the policy, with this text, would trust the log."""
    draft = file.with_name(f".{file.name}.next")
    try:
        replace_file(draft, text.encode())
        return log_id in load_policy(draft).logs
    except (ConfigurationError, StorageError):
        return False
    finally:
        draft.unlink(missing_ok=True)


def _database_of(settings: Settings, log_id: bytes) -> StoreLocation:
    """Where the store of this log's successor lies, whenever it is asked for: beside the present one."""
    place = settings.database
    if isinstance(place, PostgresLocation):
        suffix = f"_after_{log_id.hex()[:16]}"
        return place.beside(place.schema[: _SCHEMA_LENGTH - len(suffix)] + suffix)
    return place.with_name(f"vault-after-{log_id.hex()[:16]}.db")


def _successor_in(database: StoreLocation) -> bytes:
    """The log of a successor's store that an earlier call has made; nothing when there is none."""
    if not store_exists(database):
        return b""
    with closed_after(open_store(database)) as store, store.read() as tx:
        state = tx.log()
        return b"" if state is None else state.log_id


def _read(chain: ChainReader, log_id: bytes, binding: ChainBinding) -> tuple[AnchorRecord | None, bytes]:
    """What the contract holds for the log now. Raises ``TransportError`` when the chain does not show it."""
    target = AnchorTarget(binding.id, binding.contract, binding.owner, log_id, load_contract().code_hash)
    try:
        if (found := chain.chain_id()) != binding.id:
            raise TransportError(f"the node is on chain {found}, the log is anchored on {binding.id}")
        return read_closing(chain, target, chain.head_number())
    except (TransportError, MalformedError, VerificationError, StorageError) as exc:
        raise TransportError(
            f"the chain does not show the log: {exc}",
            hint="try again; when its chain is gone for good: --chain-is-gone",
        ) from exc


def holds_owner_key(ring: KeyRing, binding: ChainBinding) -> bool:
    """Whether the keystore's anchor key is the one that the log is anchored by."""
    return ring.anchor_key is not None and LocalKey(ring.anchor_key).address == binding.owner


def successor_keys(ring: KeyRing, anchor_key: bytes | None) -> KeyRing:
    """The keys that the successor has: those of the keystore, and new ones in the place of those that are lost.

    ``anchor_key`` is one that has coins, to be used instead of the present one.
    """
    return replace(
        ring,
        log_seed=ring.log_seed or generate_seed(),
        anchor_key=anchor_key or ring.anchor_key or generate_anchor_key(),
    )


def bind_successor(
    plan: Plan, ring: KeyRing, chain: Chain | None, fund: Callable[[bytes], None] | None, *, chain_is_gone: bool
) -> ChainBinding | None:
    """Where the successor is anchored: in the contract of the log before, or in a new one when that is gone."""
    if chain is None:
        return None
    assert ring.anchor_key is not None
    key = LocalKey(ring.anchor_key)
    older = plan.descriptor.chain
    if older is not None and not chain_is_gone and key.address == older.owner:
        return older
    if fund is not None:
        fund(key.address)
    if older is not None and not chain_is_gone:
        return replace(older, owner=key.address)
    return ChainBinding(id=chain.chain_id(), contract=deploy_contract(chain, key), owner=key.address)
