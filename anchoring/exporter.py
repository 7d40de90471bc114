"""Making evidence: collect from a store what ``anchoring.verifier`` needs to judge one entry.

The exporter decides nothing that the verifier relies on; it only chooses which of the log's leaves and checkpoints to
show (docs/spec/evidence.md, section "Choosing what to show"):

* the first logged head longer than the entry's index, under the first checkpoint that covers it and that enough
  authorities have stamped;
* the newest identity head, and the newest ``time`` leaf before it, for freshness;
* when the entry's device was revoked, the first identity head that shows it;
* the first checkpoint from there on whose anchor is final;
* where later tokens end later than the ones shown: the ``time`` leaves and checkpoints that keep these alive.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from anchoring.evidence import MAX_CHECKPOINTS, CheckpointEvidence, DescriptorEvidence, Evidence, LeafEvidence
from anchoring.receipt import AnchorReceipt
from anchoring.stamps import Judge, Stamps, take_at_its_word
from anchoring.timestamp import TimestampEvidence
from identity.errors import MissingEvidenceError
from identity.history import KeyHistory, fold, parse_signed_event
from ledger.feed import block_proof
from ledger.log import consistency_proof, inclusion_proof
from ledger.manifest import describe, device_key, parse_manifest
from ledger.statement import FeedHead, IdentityHead, Statement, TimeStatement, feed_head_key, parse_statement
from ledger.store import FeedKey, LogState, ReadTransaction, StoredCheckpoint

__all__ = ["Archive", "export_evidence"]


@dataclass(frozen=True, slots=True)
class Archive:
    """Where tokens and receipts are kept, by the size of the checkpoint they belong to.

    ``judge`` says what a token is worth to those who are to be shown the evidence, and ``k`` how many independent
    authorities they ask for. By default any token is as good as another.
    """

    timestamps: Callable[[int], Sequence[TimestampEvidence]]
    receipt: Callable[[int], AnchorReceipt | None]
    judge: Judge = take_at_its_word
    k: int = 1


@dataclass(slots=True)
class _Scan:
    """What one pass over the log's leaves found: indices, and for heads what they state."""

    head: tuple[int, FeedHead] | None = None
    identity_heads: list[tuple[int, IdentityHead]] = field(default_factory=list)
    times: list[tuple[int, TimeStatement]] = field(default_factory=list)


@dataclass(slots=True)
class _Choice:
    """What to show: leaves by index; checkpoints, and among them those with their tokens, by size.

    ``times`` are the statements shown about tokens that are shown, by the size that they are about.
    """

    leaves: set[int]
    shown: set[int]
    timestamped: set[int]
    anchored: int | None = None
    times: dict[int, TimeStatement] = field(default_factory=dict)

    def show(self, leaf: int, sizes: list[int]) -> set[int]:
        """Show the leaf under the first of those checkpoints, if there is one; return that one's size."""
        if not sizes:
            return set()
        self.leaves.add(leaf)
        self.shown.add(sizes[0])
        return {sizes[0]}


def export_evidence(tx: ReadTransaction, archive: Archive, key: FeedKey, index: int) -> Evidence:
    """The evidence for entry ``index`` of feed ``key``.

    Raises ``MissingEvidenceError``, with a hint, when the entry is unknown or not yet under a timestamped checkpoint.
    """
    state = tx.feed(key)
    if state is None or not 0 <= index < state.length:
        raise MissingEvidenceError("there is no such entry in this store")
    manifest = parse_manifest(state.manifest)
    description = describe(manifest)
    log = tx.log()
    if description is None or log is None:
        raise MissingEvidenceError("the entry is in a feed without identity, or this store has no checkpoint log")

    scan = _scan_log(tx, log, key, index, description.identity)
    if scan.head is None:
        raise MissingEvidenceError(
            f"entry {index} is not under a checkpoint yet", hint="run 'holdfast checkpoint create' first"
        )
    head_index, head = scan.head
    checkpoints = list(tx.checkpoints())
    stamps = Stamps(archive.timestamps, archive.judge, archive.k, scan.times, [c.size for c in checkpoints])
    first = stamps.first(head_index)
    if first is None:
        raise MissingEvidenceError(
            f"the checkpoint that covers entry {index} is not timestamped yet", hint="run 'holdfast anchor run' first"
        )

    events, history = _events_up_to(tx, description.identity, scan)
    device = device_key(manifest)
    later = [checkpoint.size for checkpoint in checkpoints if checkpoint.size >= first]
    choice = _choose(scan, history, device, later, archive, stamps, head_index)
    _renew(choice, stamps)
    return Evidence(
        manifest=state.manifest,
        proof=_proof(tx, key, index, head.length, history, device),
        events=tuple(events),
        descriptor=DescriptorEvidence(
            leaf=next(iter(tx.log_leaves(0, 1))), proof=tuple(inclusion_proof(tx.log_node, 0, first))
        ),
        checkpoints=_checkpoint_members(tx, archive, stamps, checkpoints, choice),
    )


def _scan_log(tx: ReadTransaction, log: LogState, key: FeedKey, index: int, identity: bytes) -> _Scan:
    scan = _Scan()
    parsed: dict[bytes, Statement] = {}
    for position, leaf in enumerate(tx.log_leaves(0, log.size)):
        # Most of a long log is heads of other feeds, which are passed by without being decoded, and identity heads,
        # which every checkpoint restates in the same bytes until they change.
        if (stated := feed_head_key(leaf)) is not None and (scan.head is not None or stated != key):
            continue
        statement = parsed.get(leaf) or parse_statement(leaf)
        if isinstance(statement, FeedHead):
            if scan.head is None and statement.key == key and statement.length > index:
                scan.head = position, statement
        elif isinstance(statement, IdentityHead):
            parsed[leaf] = statement
            if statement.identity == identity:
                scan.identity_heads.append((position, statement))
        elif isinstance(statement, TimeStatement):
            scan.times.append((position, statement))
    return scan


def _events_up_to(tx: ReadTransaction, identity: bytes, scan: _Scan) -> tuple[list[bytes], KeyHistory]:
    """The events that the log's newest head of the identity covers, and the history they fold to."""
    newest = max((head.seq for _, head in scan.identity_heads), default=-1)
    events = [event.signed_event for event in tx.identity_events(identity) if event.seq <= newest]
    if not events:
        raise MissingEvidenceError("the log does not state the identity's head yet")
    return events, fold([parse_signed_event(event) for event in events])


def _choose(
    scan: _Scan,
    history: KeyHistory,
    device: bytes,
    later: list[int],
    archive: Archive,
    stamps: Stamps,
    head_index: int,
) -> _Choice:
    """``later`` are the sizes of the checkpoints from the one that evidence begins with."""
    choice = _Choice(leaves={head_index}, shown={later[0]}, timestamped={later[0]})
    choice.anchored = next((size for size in later if archive.receipt(size) is not None), None)
    if choice.anchored is not None:
        choice.shown.add(choice.anchored)

    newest = scan.identity_heads[-1][0]
    choice.show(newest, [size for size in later if size > newest])
    revocation = history.devices[device].revocation if device in history.devices else None
    if revocation is not None:
        revoked = next(position for position, head in scan.identity_heads if head.seq >= revocation.seq)
        choice.timestamped |= choice.show(
            revoked, [size for size in later if size > revoked and archive.timestamps(size)]
        )
    stated = stamps.newest_statement(later[0], newest)
    if stated is not None:
        position, statement = stated
        choice.show(position, [size for size in later if size > position])
        choice.shown.add(statement.size)
        choice.timestamped.add(statement.size)
        choice.times[statement.size] = statement
    return choice


def _renew(choice: _Choice, stamps: Stamps) -> None:
    """Show what proves that the tokens shown are older than the end of their certificates, as far as there is room."""
    for begin in sorted(choice.timestamped):
        for leaf, statement, size in stamps.renewals(begin):
            if choice.times.setdefault(statement.size, statement) is not statement:
                break  # another statement about these tokens is shown; two might name different ones
            if size not in choice.shown and len(choice.shown) == MAX_CHECKPOINTS:
                return
            choice.leaves.add(leaf)
            choice.shown.add(size)
            choice.timestamped.add(size)


def _proof(tx: ReadTransaction, key: FeedKey, index: int, length: int, history: KeyHistory, device: bytes) -> bytes:
    """The block's proof up to the logged head and, when the device was revoked, to its last good head as well."""
    known = history.devices.get(device)
    revocation = known.revocation if known is not None else None
    last_good = revocation.last_good.get(key) if revocation is not None else None
    if last_good is None or last_good.length <= index or tx.head(key, last_good.length) is None:
        return block_proof(tx, key, index, length=length, head_length=length)
    return block_proof(tx, key, index, length=min(length, last_good.length), head_length=max(length, last_good.length))


def _checkpoint_members(
    tx: ReadTransaction, archive: Archive, stamps: Stamps, checkpoints: list[StoredCheckpoint], choice: _Choice
) -> tuple[CheckpointEvidence, ...]:
    members = []
    previous = 0
    for checkpoint in checkpoints:
        size = checkpoint.size
        if size not in choice.shown:
            continue
        under = sorted(leaf for leaf in choice.leaves if previous <= leaf < size)
        members.append(
            CheckpointEvidence(
                note=checkpoint.note,
                consistency=tuple(consistency_proof(tx.log_node, previous, size)) if previous else (),
                leaves=tuple(_leaf(tx, leaf, size) for leaf in under),
                timestamps=_tokens(archive, stamps, choice, size),
                anchor=archive.receipt(size) if size == choice.anchored else None,
            )
        )
        previous = size
    return tuple(members)


def _tokens(archive: Archive, stamps: Stamps, choice: _Choice, size: int) -> tuple[TimestampEvidence, ...]:
    """The checkpoint's tokens. Where the log is shown to name them, one that came too late to be named stays out."""
    if size not in choice.timestamped:
        return ()
    statement = choice.times.get(size)
    return tuple(archive.timestamps(size) if statement is None else stamps.named(statement))


def _leaf(tx: ReadTransaction, index: int, size: int) -> LeafEvidence:
    return LeafEvidence(
        index=index,
        leaf=next(iter(tx.log_leaves(index, index + 1))),
        proof=tuple(inclusion_proof(tx.log_node, index, size)),
    )
