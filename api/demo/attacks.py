"""The five attacks of the demonstration. Each is carried out for real on a copy, and returns what noticed it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from anchoring.chain.check import ChainView
from anchoring.contracts import load_contract
from anchoring.evidence import encode_evidence
from anchoring.exporter import export_evidence
from anchoring.rollback import RollbackState
from anchoring.tsa.source import TimestampSource
from anchoring.verifier import verify_evidence
from anchoring.witness import pending_witnesses
from api.bootstrap import now_ms, open_dev_chain
from api.demo import forgery
from api.demo.bank import APPROVALS, FEED, Bank, feed_key
from api.demo.forgery import ForgedLog
from api.home import Home
from api.vault import device_signer, log_signer
from identity.errors import ReadOnlyState
from identity.event import RevocationReason
from identity.history import parse_signed_event
from identity.keys import Ed25519Signer, generate_seed
from identity.keystore import KeyRing
from identity.verdict import Status
from ledger.audit import audit_feed
from ledger.completeness import find_shortfalls
from ledger.entry import Entry, Record, encode_entry, record_entry
from ledger.feed import FeedWriter
from ledger.identities import add_events, key_history
from ledger.log import root_at
from ledger.log_transfer import audit_log, feeds_at_hand, log_records
from ledger.log_writer import LogWriter
from ledger.manifest import describe, device_key, parse_manifest
from ledger.statement import FeedHead, IdentityHead, LogDescriptor, Statement
from ledger.storage.memory import MemoryStore
from ledger.store import FeedKey, ReadTransaction, Store
from ledger.values import decimal_value

__all__ = [
    "ATTACKS",
    "Attack",
    "Catch",
    "approval",
    "delete_newest",
    "edit_amount",
    "restore_yesterday",
    "rewrite_history",
    "steal_phone",
]

EDITED_ENTRY = 1234
DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class Catch:
    """How an attack was noticed. ``caught`` False would be a failure of holdfast."""

    caught: bool
    lines: tuple[str, ...]
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Attack:
    """An attack: what it is called, what the attacker does, and doing it."""

    title: str
    told: tuple[str, ...]
    run: Callable[[Bank], Catch]


def approval(text: str, amount: str, claimed_ms: int) -> Entry:
    """An entry such as a manager signs on the phone."""
    return record_entry(Record(APPROVALS, {"text": text, "amount": decimal_value(amount)}), claimed_ms)


def edit_amount(bank: Bank) -> Catch:
    """One amount is changed in the database file, below everything that checks."""
    copy = bank.copy("edited")
    with closing(forgery.unlocked(copy.database)) as database:
        before, after = forgery.raise_amount(database, EDITED_ENTRY)
        database.commit()
    with bank.open(copy) as session:
        audit = audit_feed(session.vault.store, feed_key(session, FEED))
    bad = audit.first_bad
    caught = bad is not None and bad.index == EDITED_ENTRY
    found = "nothing" if bad is None else f"entry {bad.index} is not what was signed ({bad.reason.value})"
    return Catch(
        caught,
        (f"{before} became {after} in entry {EDITED_ENTRY}.", f"The audit names it: {found}"),
        {"edited": EDITED_ENTRY, "named": None if bad is None else bad.index},
    )


def delete_newest(bank: Bank) -> Catch:
    """The newest rows are deleted so well that the feed is a valid, shorter feed."""
    copy = bank.copy("shortened")
    with bank.open(copy) as session, session.vault.store.read() as tx:
        key = feed_key(session, FEED)
        heads = list(tx.heads(key))
        keep = heads[-2]
        roots = forgery.roots_at(tx, key, keep.length)
    with closing(forgery.unlocked(copy.database)) as database:
        forgery.cut_feed(database, key, keep.length, roots)
        database.commit()
    with bank.open(copy) as session, session.vault.store.read() as tx:
        feed_says = audit_feed(session.vault.store, key)
        replay = audit_log(log_records(tx), tree_hash_at=feeds_at_hand(tx)).replay
        shortfalls = find_shortfalls(tx, replay.feeds)
    found = [short for short in shortfalls if short.key == key]
    lines = [
        (
            f"{heads[-1].length - keep.length} transactions are gone; the feed by itself "
            f"{'looks whole' if feed_says.first_bad is None else 'looks damaged'}."
        )
    ]
    lines += [
        f"The log remembers: it states {short.stated} entries, {short.stated - short.held} are missing."
        for short in found
    ]
    return Catch(bool(found), tuple(lines), {"missing": sum(short.stated - short.held for short in found)})


def restore_yesterday(bank: Bank) -> Catch:
    """A backup is put back after the bank went on, and somebody tries to go on from it."""
    yesterday = bank.copy("yesterday")
    ring = bank.keys()
    with bank.open() as session:
        key = feed_key(session, APPROVALS)
        session.vault.append(ring, key, [approval("payment to supplier", "18250.00", now_ms())])
        bank.seal(session, ring)
    today = bank.copy("today")
    bank.restore(yesterday)
    wanted = [approval("payment to a friend", "18250.00", now_ms())]
    try:
        with bank.open() as session:
            check = session.check_rollback()
            refusal = _refusal(lambda: session.vault.append(ring, key, wanted))
        with bank.open(yesterday) as session:
            signer = device_signer(ring, "phone")
            FeedWriter(session.vault.store, key, signer).append([encode_entry(entry) for entry in wanted])
            with session.vault.store.read() as tx:
                times, anchors = pending_witnesses(tx)
            writer = LogWriter(session.vault.store, log_signer(ring))
            while writer.append_checkpoint(times=times, anchors=anchors, restate=True).size < check.anchored_size:
                times, anchors = [], []
            continued = session.check_rollback()
    finally:
        bank.restore(today)
    caught = (
        check.state is RollbackState.BEHIND_ANCHOR and refusal is not None and continued.state is RollbackState.DIVERGED
    )
    return Catch(
        caught,
        (
            f"At its start the store finds itself {check.state.value}: {check.detail}.",
            "It did NOT refuse to write." if refusal is None else "It refuses to write anything.",
            f"Forced past that until its log is as long again, it is {continued.state.value}: {continued.detail}.",
        ),
        {"state": check.state.value, "continued": continued.state.value},
    )


def rewrite_history(bank: Bank) -> Catch:
    """The key owner, with all real keys, writes the whole history again with one amount changed, and anchors it."""
    ring = bank.keys()
    outside = bank.copy_outside("outside-rewritten")
    with bank.open() as session, session.vault.store.read() as genuine, open_dev_chain(outside) as chain:
        log_id, descriptor = session.vault.log_descriptor()
        assert descriptor.chain is not None
        with closing(MemoryStore()) as store:
            key = _rewrite(genuine, store, ring, descriptor)
            anchored = session.check_rollback().anchored_size
            forged = ForgedLog(store, log_signer(ring))
            with store.read() as tx:
                state = tx.log()
                assert state is not None
                root = root_at(tx.log_node, state.size)
                fork = forgery.prove_fork(genuine, tx, key)
            same = forgery.send_anchor(chain, ring, descriptor.chain, log_id, (anchored, anchored), root)
            while (longer := forged.add(_restatements(store))).size <= anchored:
                pass
            taken = forgery.send_anchor(chain, ring, descriptor.chain, log_id, (anchored, longer.size), longer.root)
            view = ChainView({"development chain": chain}, descriptor.chain.id, load_contract().code_hash)
            check = forgery.outside_view(store, log_id, view, now_ms())
    return Catch(
        not same and check.state is RollbackState.DIVERGED,
        (
            (
                "Every signature in it is genuine. "
                f"In place of what is anchored the contract {'TOOK it' if same else 'refuses it'}."
            ),
            f"Made longer, the contract {'takes' if taken else 'refuses'} it; but older blocks keep what they held:",
            f"an auditor who is given the new log finds it {check.state.value}: {check.detail}.",
            f"The two signed heads of one length are a proof of the fraud that anybody can keep: {len(fork)} bytes.",
        ),
        {"state": check.state.value, "fork_proof_bytes": len(fork)},
    )


def steal_phone(bank: Bank) -> Catch:
    """A stolen phone's key signs after its revocation and claims to have done so the day before."""
    ring = bank.keys()
    forged = approval("credit line for A. Friend", "900000.00", now_ms() - DAY_MS)
    stolen = bank.copy("stolen")
    with bank.open() as session:
        key = feed_key(session, APPROVALS)
        session.vault.revoke_device(ring, bank.founded.devices["phone"], RevocationReason.STOLEN, time_ms=now_ms())
        bank.seal(session, ring)
        session.vault.checkpoint(ring, restate=True)
    colluding = bank.copy("colluding")
    evidence = {
        "With a log of the thief's own": _with_own_log(bank, stolen, ring, key, forged),
        "With the bank's own log, its operator helping": _with_the_banks_log(bank, colluding, ring, key, forged),
    }
    policy = bank.policy()
    reports = {told: verify_evidence(data, policy, now_ms()) for told, data in evidence.items()}
    lines = [
        f"{told}: {report.overall.value}: "
        + ", ".join(
            f"{finding.detail} ({finding.claim.value}: {finding.reason})"
            for finding in report.findings
            if finding.status is Status.FAILED
        )
        for told, report in reports.items()
    ]
    verdicts = [report.overall.value for report in reports.values()]
    return Catch(set(verdicts) == {"FAILED"}, tuple(lines), {"verdicts": verdicts})


def _refusal(write: Callable[[], object]) -> ReadOnlyState | None:
    try:
        write()
    except ReadOnlyState as exc:
        return exc
    return None


def _rewrite(genuine: ReadTransaction, store: Store, ring: KeyRing, descriptor: LogDescriptor) -> FeedKey:
    """Write every feed and the log of the bank again, with one amount changed. Returns the key of the changed feed."""
    (identity,) = genuine.identities()
    events = [parse_signed_event(event.signed_event) for event in genuine.identity_events(identity)]
    with store.write() as tx:
        add_events(tx, identity, events)
    signers = {Ed25519Signer(seed).public_key: Ed25519Signer(seed) for seed in ring.devices.values()}
    changed = None
    for feed in genuine.feeds():
        manifest = parse_manifest(feed.manifest)
        description = describe(manifest)
        is_target = description is not None and description.name == FEED
        forgery.copy_feed(genuine, store, feed.key, signers[device_key(manifest)], _raise if is_target else _keep)
        changed = feed.key if is_target else changed
    writer = LogWriter(store, log_signer(ring))
    writer.create(descriptor)
    writer.append_checkpoint()
    assert changed is not None
    return changed


def _restatements(store: Store) -> list[Statement]:
    """What a checkpoint without news states: the identities' heads."""
    with store.read() as tx:
        histories = [key_history(tx, identity) for identity in sorted(tx.identities())]
    return [IdentityHead(history.identity, history.seq, history.head) for history in histories]


def _with_own_log(bank: Bank, stolen: Home, ring: KeyRing, key: FeedKey, forged: Entry) -> bytes:
    """The thief's best without the bank's log key: genuine events up to before the revocation, a log of their own."""
    phone = device_signer(ring, "phone")
    own_key = Ed25519Signer(generate_seed())
    with bank.open(stolen) as session, closing(MemoryStore()) as store:
        _, descriptor = session.vault.log_descriptor()
        with session.vault.store.read() as tx:
            (identity,) = tx.identities()
            events = [parse_signed_event(event.signed_event) for event in tx.identity_events(identity)]
            with store.write() as own:
                add_events(own, identity, events)
            forgery.copy_feed(tx, store, key, phone)
        length = FeedWriter(store, key, phone).append([encode_entry(forged)]).length
        log = ForgedLog(store, own_key, LogDescriptor(descriptor.name, own_key.public_key))
        return _show(log, session.sources()[0], key, length)


def _with_the_banks_log(bank: Bank, colluding: Home, ring: KeyRing, key: FeedKey, forged: Entry) -> bytes:
    """The operator lends the log's key and skips the rule that a revoked device's new heads are not logged."""
    phone = device_signer(ring, "phone")
    with bank.open(colluding) as session:
        length = FeedWriter(session.vault.store, key, phone).append([encode_entry(forged)]).length
        return _show(ForgedLog(session.vault.store, log_signer(ring)), session.sources()[0], key, length)


def _show(log: ForgedLog, source: TimestampSource, key: FeedKey, length: int) -> bytes:
    """Log the feed's head, get a genuine token for it, restate the identity, and export the last entry's evidence."""
    with log.store.read() as tx:
        head = tx.head(key, length)
    assert head is not None
    checkpoint = log.add([*_restatements(log.store), FeedHead(key, length, head.tree_hash)])
    log.add([log.timestamp(checkpoint, source, now_ms()), *_restatements(log.store)])
    with log.store.read() as tx:
        return encode_evidence(export_evidence(tx, log.archive(), key, length - 1))


def _keep(_index: int, entry: Entry) -> Entry:
    return entry


def _raise(index: int, entry: Entry) -> Entry:
    """The entry as it is, but for one whose amount becomes larger."""
    if index != EDITED_ENTRY:
        return entry
    fields = entry.body["fields"]
    assert isinstance(fields, dict)
    raised = {**fields, "amount": decimal_value("999999.00")}
    return Entry(entry.kind, entry.claimed_ms, {**entry.body, "fields": raised})


ATTACKS = (
    Attack(
        "Attack 1: an amount is edited in the database file",
        ("Somebody with access to the disk changes one amount, past every lock of the database.",),
        edit_amount,
    ),
    Attack(
        "Attack 2: the newest transactions are deleted",
        ("The administrator deletes the newest rows and repairs every trace of them in the database.",),
        delete_newest,
    ),
    Attack(
        "Attack 3: yesterday's copy is restored, and continued",
        ("After a payment that should not have been seen, the operator puts yesterday's backup back.",),
        restore_yesterday,
    ),
    Attack(
        "Attack 4: the key owner rewrites history with the real keys",
        ("The bank itself, holding every key, writes all its transactions again with one amount changed.",),
        rewrite_history,
    ),
    Attack(
        "Attack 5: a stolen phone signs after its revocation, with yesterday's date",
        ("The phone is reported stolen and revoked. The thief signs a credit line and dates it back a day.",),
        steal_phone,
    ),
)
