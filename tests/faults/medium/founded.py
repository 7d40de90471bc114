"""The store of these tests: an identity with some devices, a feed of each, and the log that the identity has bound."""

from __future__ import annotations

from pathlib import Path

from identity.history import SignedEvent, build_add_device, build_bind_log, build_inception, fold, key_commitment
from identity.history import sign_event as sign
from identity.keys import Ed25519Signer
from ledger.audit import audit_feed
from ledger.feed import check_tail, create_feed
from ledger.identities import add_events
from ledger.log import root_at
from ledger.log_transfer import audit_log, feeds_at_hand, log_records
from ledger.log_writer import LogWriter
from ledger.row_audit import row_faults
from ledger.sentinel import decide, describe_store, find_shorter, machine_digest
from ledger.sentinel_file import SentinelFile
from ledger.statement import LogDescriptor
from ledger.storage.engine import open_store
from ledger.storage.location import PostgresLocation, parse_location
from ledger.storage.postgres import open_postgres
from ledger.storage.sql import SqlReadTransaction, SqlStore
from ledger.storage.sqlite import open_sqlite
from ledger.storage.start_up import load_store_id
from ledger.storage.strays import stray_rows
from ledger.store import FeedKey

PATIENCE_MS = 30_000
MACHINE = machine_digest(b"this one")
ROOT, FOLLOWING, LOG = (Ed25519Signer(bytes([number]) * 32) for number in (1, 2, 4))


def device(number: int) -> Ed25519Signer:
    """The key of a device, from 0."""
    return Ed25519Signer(bytes([100 + number]) * 32)


def found(location: str, devices: int) -> list[FeedKey]:
    """Make the store; returns the devices' feeds."""
    inception = build_inception(
        label="faults", root_keys=[ROOT.public_key], next_digests=[key_commitment(FOLLOWING.public_key)], time_ms=0
    )
    events: list[SignedEvent] = [sign(inception, [(0, ROOT)])]
    for number in range(devices):
        key = device(number)
        added = build_add_device(fold(events), device=key.public_key, name=f"device {number}", time_ms=0)
        events.append(sign(added, [(0, ROOT), (1, key)]))
    store = open_store(location, create=True)
    log_id = LogWriter(store, LOG).create(LogDescriptor(name="faults.example", key=LOG.public_key))
    events.append(sign(build_bind_log(fold(events), log=log_id, time_ms=0), [(0, ROOT)]))
    with store.write() as tx:
        identity = add_events(tx, fold(events).identity, events).identity
    feeds = [create_feed(store, device(number), identity, "notes") for number in range(devices)]
    store.close()
    return feeds


def open_patiently(location: str) -> SqlStore:
    """Open it for writing, as one of several processes."""
    place = parse_location(location)
    if isinstance(place, PostgresLocation):
        return open_postgres(place, busy_timeout_ms=PATIENCE_MS)
    return open_sqlite(place, busy_timeout_ms=PATIENCE_MS)


def begin_sentinel(store: SqlStore, path: str) -> SentinelFile:
    """The sentinel of the store, as it is or begun anew."""
    with store.read() as tx:
        name = load_store_id(tx.connection)
        file = SentinelFile(Path(path), name)
        if file.read().newest is None:
            file.begin(describe_store(tx, name, MACHINE, sequence=0))
    return file


def judge_sentinel(tx: SqlReadTransaction, path: str) -> str:
    """What a start makes of the store and its sentinel."""
    name = load_store_id(tx.connection)
    reading = SentinelFile(Path(path), name).read()
    was, now = reading.newest, describe_store(tx, name, MACHINE, sequence=0)
    shorter = [] if was is None else find_shorter(was, tx)
    root = b"" if was is None else root_at(tx.log_node, min(was.log_size, now.log_size))
    active = sum(feed.local and not feed.retired for feed in tx.feeds())
    return decide(reading, MACHINE, now, shorter, root, active=active).reason.value


def look_at(location: str, sentinel: str | None = None) -> dict[str, object]:
    """``look`` at the store that lies there."""
    return look(open_patiently(location), sentinel)


def look(store: SqlStore, sentinel: str | None = None) -> dict[str, object]:
    """Every signed head, every checkpoint, how every block begins, and everything that an audit finds wrong."""
    faults: list[str] = []
    with store.read() as tx:
        heads, blocks = {}, []
        for state in tx.feeds():
            check_tail(tx, state.key)
            heads[state.key.hex()] = {head.length: head.signature.hex() for head in tx.heads(state.key)}
            blocks += [block[:16].hex() for block in tx.blocks(state.key, 0, state.length)]
        notes = {checkpoint.size: checkpoint.root.hex() for checkpoint in tx.checkpoints()}
        faults += row_faults(tx)
        faults += stray_rows(tx.connection)
        if notes:
            audit_log(log_records(tx), tree_hash_at=feeds_at_hand(tx))
        reason = None if sentinel is None else judge_sentinel(tx, sentinel)
    for key in heads:
        bad = audit_feed(store, FeedKey(bytes.fromhex(key))).first_bad
        if bad is not None:
            faults.append(f"feed {key}: {bad}")
    store.close()
    return {"heads": heads, "notes": notes, "blocks": blocks, "faults": faults, "sentinel": reason}
