"""The banks whose evidence the cases show: homes that live for a moment, with their chain and their authorities."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from anchoring.evidence import CheckpointEvidence, Evidence, LeafEvidence
from anchoring.exporter import export_evidence
from anchoring.timestamp import Authority, TimestampEvidence
from anchoring.tsa.dev import DevelopmentAuthority, system_clock
from anchoring.tsa.source import AcquiredToken, EmbeddedSource
from anchoring.witness import open_archive
from anchoring.worker import run_round
from api.bootstrap import Session, open_dev_chain, open_session
from api.founding import Founding, found_home
from api.home import Home
from api.settings import default_settings_text, load_settings
from api.vault import device_signer
from identity.event import DeviceClass, RevocationReason
from identity.history import parse_signed_event
from identity.keystore import ONLY_FOR_TESTING, KeyRing, open_keystore
from ledger.checkpoint import imprint_message
from ledger.entry import Entry, Record, encode_entry, record_entry
from ledger.feed import FeedWriter, block_proof, create_feed
from ledger.identities import add_events
from ledger.log import consistency_proof, inclusion_proof
from ledger.statement import FeedHead, Statement, log_origin, parse_statement
from ledger.storage.memory import MemoryStore
from ledger.storage.sql import SqlReadTransaction
from ledger.store import StoredCheckpoint
from ledger.values import decimal_value

__all__ = ["LEDGER", "TILL", "Bank", "Clerk"]

LEDGER, TILL = "ledger", "till"
_DEVICES = {LEDGER: "branch", TILL: "phone"}
_PASSPHRASE = "evidence cases"
_COINS = 10**20


class Clerk:
    """A development authority as a source of tokens, with a name of its own and a clock that can be ahead."""

    def __init__(self, directory: Path, name: str, *, ahead_ms: int = 0) -> None:
        self.name = name
        self.ahead_ms = ahead_ms
        self._source = EmbeddedSource(DevelopmentAuthority(directory / name, clock=self.clock))

    def clock(self) -> int:
        """Milliseconds UTC as this authority has them."""
        return system_clock() + self.ahead_ms

    @property
    def authority(self) -> Authority:
        """See ``TimestampSource``."""
        return self._source.authority

    def acquire(self, message: bytes, now_ms: int) -> AcquiredToken:
        """See ``TimestampSource``."""
        return self._source.acquire(message, now_ms)


@dataclass(frozen=True)
class Bank:
    """A bank with a ledger, written by its branch, and a till, written by a phone."""

    home: Home
    outside: Path
    clerks: Sequence[Clerk]

    @classmethod
    def found(cls, directory: Path, label: str, clerks: Sequence[Clerk], *, anchored: bool = True) -> Bank:
        """A new home below ``directory``, whose policy trusts the ``clerks``."""
        bank = cls(Home(directory / label), directory / "outside", clerks)
        with ExitStack() as stack:
            chain = stack.enter_context(open_dev_chain(bank.outside)) if anchored else None
            founding = Founding(
                label=label,
                devices=dict.fromkeys(_DEVICES.values(), DeviceClass.DEVICE),
                log_name=f"{label}.example",
                chain=chain,
                fund=None if chain is None else lambda address: chain.fund(address, _COINS),
                authorities=[clerk.authority for clerk in clerks],
                settings=default_settings_text({"kind": "dev" if anchored else "none"}, []),
                kdf=ONLY_FOR_TESTING,
            )
            found_home(bank.home, founding, _PASSPHRASE, now_ms=system_clock())
        with bank.open() as session:
            for name, device in _DEVICES.items():
                session.vault.create_feed(bank.keys(), device, name)
        return bank

    @contextmanager
    def open(self) -> Iterator[Session]:
        """The home, open."""
        settings = load_settings(self.home, {"HOLDFAST_DEV_DIR": str(self.outside)})
        with open_session(self.home, settings) as session:
            yield session

    def keys(self) -> KeyRing:
        """All of its keys."""
        return open_keystore(self.home.keystore, _PASSPHRASE)

    def book(self, feed: str, *amounts: str) -> None:
        """Append a payment for each amount, under one signature."""
        with self.open() as session:
            key = session.vault.find_feed(feed).state.key
            session.vault.append(self.keys(), key, [payment(amount) for amount in amounts])

    def seal(self, *, clerks: Sequence[Clerk] | None = None) -> int:
        """Checkpoint what is new, have it timestamped and anchored, and log that; return the checkpoint's size."""
        size = self.checkpoint()
        with self.open() as session:
            log_id, descriptor = session.vault.log_descriptor()
            sources = self.clerks if clerks is None else clerks
            sender = session.sender(self.keys())
            done = run_round(session.vault.store, log_id, descriptor, sources, sender, system_clock())
            for failure in done.failures:
                raise failure.error
            if sender is not None:
                session.pin_final_anchors()
        return size

    def stamp(self, clerk: Clerk) -> None:
        """Have the newest checkpoint timestamped by that clerk, and not anchored."""
        with self.open() as session:
            log_id, descriptor = session.vault.log_descriptor()
            done = run_round(session.vault.store, log_id, descriptor, [clerk], None, clerk.clock())
            for failure in done.failures:
                raise failure.error

    def checkpoint(self) -> int:
        """A checkpoint of whatever came since the last, identities at least; return its size."""
        with self.open() as session:
            return session.vault.checkpoint(self.keys(), restate=True).size

    def revoke_phone(self, vouched: int) -> None:
        """Report the phone as stolen, vouching for the first ``vouched`` entries of the till."""
        with self.open() as session:
            key = session.vault.find_feed(TILL).state.key
            device = device_signer(self.keys(), _DEVICES[TILL]).public_key
            session.vault.revoke_device(
                self.keys(), device, RevocationReason.STOLEN, time_ms=system_clock(), vouch_for={key: vouched}
            )

    def evidence(self, feed: str, index: int) -> Evidence:
        """What ``holdfast evidence export`` shows of the entry."""
        with self.open() as session, session.vault.store.read() as tx:
            return export_evidence(tx, open_archive(tx), session.vault.find_feed(feed).state.key, index)

    def second_token(self, size: int) -> TimestampEvidence:
        """One more token of the first clerk on the checkpoint of that size."""
        with self.open() as session, session.vault.store.read() as tx:
            checkpoint = tx.checkpoint(size)
            assert checkpoint is not None
            log_id, descriptor = session.vault.log_descriptor()
            message = imprint_message(checkpoint.note, log_origin(descriptor, log_id), descriptor.key)
        return self.clerks[0].acquire(message, self.clerks[0].clock()).evidence

    def with_leaf(self, evidence: Evidence, wanted: type[Statement], position: int, feed: str = "") -> Evidence:
        """The evidence with one more leaf of that kind (and feed), under its checkpoint at that position."""
        with self.open() as session, session.vault.store.read() as tx:
            key = session.vault.find_feed(feed).state.key if feed else None
            sizes = [0, *(tx_size(tx, checkpoint.note) for checkpoint in evidence.checkpoints)]
            index = next(
                index
                for index, leaf in enumerate(tx.log_leaves(0, sizes[position + 1]))
                if index >= sizes[position]
                and isinstance(found := parse_statement(leaf), wanted)
                and (not isinstance(found, FeedHead) or found.key == key)
            )
            shown = evidence.checkpoints[position]
            leaves = sorted((*shown.leaves, leaf_member(tx, index, sizes[position + 1])), key=lambda leaf: leaf.index)
        checkpoints = list(evidence.checkpoints)
        checkpoints[position] = replace(shown, leaves=tuple(leaves))
        return replace(evidence, checkpoints=tuple(checkpoints))

    def with_checkpoints(self, evidence: Evidence, shown: Sequence[tuple[int, Sequence[type[Statement]]]]) -> Evidence:
        """The evidence with these checkpoints after its first: size, and which of its own leaves to show under it.

        Tokens are shown on those between the first and the last.
        """
        members = [evidence.checkpoints[0]]
        with self.open() as session, session.vault.store.read() as tx:
            archive = open_archive(tx)
            previous = tx_size(tx, members[0].note)
            for size, kinds in shown:
                checkpoint = tx.checkpoint(size)
                assert checkpoint is not None
                under = [
                    leaf_member(tx, index, size)
                    for index, leaf in enumerate(tx.log_leaves(previous, size), previous)
                    if isinstance(parse_statement(leaf), tuple(kinds))
                ]
                tokens = () if (size, kinds) == shown[-1] else tuple(archive.timestamps(size))
                members.append(checkpoint_member(tx, checkpoint, previous, under, tokens))
                previous = size
        return replace(evidence, checkpoints=tuple(members))

    def rewritten(self, evidence: Evidence, feed: str, index: int, blocks: Sequence[tuple[str, ...]]) -> Evidence:
        """The evidence with a proof from another history of the feed, signed with the real key."""
        with self.open() as session:
            history = session.vault.history()
            events = [parse_signed_event(event.signed_event) for event in session.vault.events()]
        signer, store = device_signer(self.keys(), _DEVICES[feed]), MemoryStore()
        with store.write() as tx:
            add_events(tx, history.identity, events)
        key = create_feed(store, signer, history.identity, feed)
        writer, length = FeedWriter(store, key, signer), 0
        for amounts in blocks:
            length = writer.append([encode_entry(payment(amount)) for amount in amounts]).length
        with store.read() as tx:
            return replace(evidence, proof=block_proof(tx, key, index, length=length, head_length=length))


def payment(amount: str) -> Entry:
    """A payment of that amount."""
    return record_entry(Record("payments", {"amount": decimal_value(amount), "to": "4711"}), system_clock())


def tx_size(tx: SqlReadTransaction, note: str) -> int:
    """The size of the checkpoint with that note."""
    return next(checkpoint.size for checkpoint in tx.checkpoints() if checkpoint.note == note)


def leaf_member(tx: SqlReadTransaction, index: int, size: int) -> LeafEvidence:
    """A leaf with its proof in the checkpoint of that size."""
    leaf = next(iter(tx.log_leaves(index, index + 1)))
    return LeafEvidence(index, leaf, tuple(inclusion_proof(tx.log_node, index, size)))


def checkpoint_member(
    tx: SqlReadTransaction,
    checkpoint: StoredCheckpoint,
    previous: int,
    leaves: Sequence[LeafEvidence],
    tokens: Sequence[TimestampEvidence],
) -> CheckpointEvidence:
    """A checkpoint after the one of size ``previous``, without an anchor."""
    consistency = tuple(consistency_proof(tx.log_node, previous, checkpoint.size))
    return CheckpointEvidence(checkpoint.note, consistency, tuple(leaves), tuple(tokens), None)
