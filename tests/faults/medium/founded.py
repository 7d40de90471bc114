"""The store of these tests: an identity with some devices, a feed of each, and the log that the identity has bound.

python founded.py LOCATION DEVICES      makes it and prints the keys of the feeds, a line each
python founded.py LOCATION              says what is in it now, as JSON, after auditing everything
"""

from __future__ import annotations

import json
import sys

from identity.history import SignedEvent, build_add_device, build_bind_log, build_inception, fold, key_commitment
from identity.history import sign_event as sign
from identity.keys import Ed25519Signer
from ledger.audit import audit_feed
from ledger.feed import check_tail, create_feed
from ledger.identities import add_events
from ledger.log_transfer import audit_log, feeds_at_hand, log_records
from ledger.log_writer import LogWriter
from ledger.row_audit import row_faults
from ledger.statement import LogDescriptor
from ledger.storage.sql import SqlStore
from ledger.storage.sqlite import open_sqlite
from ledger.store import FeedKey

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
    store = open_sqlite(location, create=True)
    log_id = LogWriter(store, LOG).create(LogDescriptor(name="faults.example", key=LOG.public_key))
    events.append(sign(build_bind_log(fold(events), log=log_id, time_ms=0), [(0, ROOT)]))
    with store.write() as tx:
        identity = add_events(tx, fold(events).identity, events).identity
    feeds = [create_feed(store, device(number), identity, "notes") for number in range(devices)]
    store.close()
    return feeds


def look(store: SqlStore) -> dict[str, object]:
    """Every signed head and every checkpoint, and everything that an audit finds wrong."""
    faults: list[str] = []
    with store.read() as tx:
        heads = {}
        for state in tx.feeds():
            check_tail(tx, state.key)
            heads[state.key.hex()] = {head.length: head.signature.hex() for head in tx.heads(state.key)}
        notes = {checkpoint.size: checkpoint.root.hex() for checkpoint in tx.checkpoints()}
        faults += row_faults(tx)
        if notes:
            audit_log(log_records(tx), tree_hash_at=feeds_at_hand(tx))
    for key in heads:
        bad = audit_feed(store, FeedKey(bytes.fromhex(key))).first_bad
        if bad is not None:
            faults.append(f"feed {key}: {bad}")
    return {"heads": heads, "notes": notes, "faults": faults}


def main() -> None:
    location, *devices = sys.argv[1:]
    if devices:
        print("\n".join(key.hex() for key in found(location, int(devices[0]))))
    else:
        print(json.dumps(look(open_sqlite(location))))


if __name__ == "__main__":
    main()
