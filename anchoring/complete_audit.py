"""The audit of everything that a store or an archive holds, under a policy and against the chain (P4, P5).

Whoever has only the archive, the policy and the chain gets every verdict that can be had with them: nothing that is
wrong keeps the rest from being examined. What decides is in ``audit_report`` and ``feed_standing``; here it is read.
Memory is bounded by one feed's append, one checkpoint's tokens, and what a replay of the log takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from anchoring.archive_file import Advance, archived_store
from anchoring.audit_report import (
    ArchiveAudit,
    AuditFinding,
    FeedReading,
    Subject,
    binding_findings,
    chain_findings,
    fault_finding,
    identity_findings,
    unproven,
)
from anchoring.audit_witnesses import Statements, Witnesses, read_statements, standings
from anchoring.chain.check import ChainView
from anchoring.chain.predecessor import check_predecessor, find_successor
from anchoring.contracts import load_contract
from anchoring.feed_standing import Proven, judge_feed
from anchoring.health import BlindWindow
from anchoring.outside_audit import compare_log
from anchoring.policy import Policy
from anchoring.receipt import DEVELOPMENT_CHAIN_ID
from anchoring.report import format_time
from anchoring.rollback import PredecessorCheck, RollbackCheck, RollbackState
from anchoring.storage import newest_final_anchor
from anchoring.times import JudgedTokens
from identity.errors import MalformedError
from identity.verdict import Status
from ledger.archive import Purpose
from ledger.archive_reader import ArchiveFault, LoadedArchive
from ledger.entry import parse_entry
from ledger.identities import key_history
from ledger.log_transfer import LogAudit
from ledger.log_writer import covered_lengths
from ledger.manifest import describe, device_key, parse_manifest
from ledger.statement import (
    LogDescriptor,
    log_origin,
)
from ledger.storage.sql import SqlReadTransaction
from ledger.store import FeedKey, FeedState, ReadTransaction, stored_tree_hash

__all__ = ["audit_archive", "blind_entries"]

ViewOf = Callable[[LogDescriptor], ChainView | None]


def audit_archive(
    source: BinaryIO,
    policy: Policy,
    view_of: ViewOf,
    now_ms: int,
    *,
    folder: Path | None = None,
    advance: Advance | None = None,
    threads: int = 2,
) -> ArchiveAudit:
    """Audit the archive that ``source`` holds from here to its end.

    ``view_of`` gives the chain that the policy trusts for a descriptor, None when there is none. All of the archive is
    read into a passing store in ``folder``, by default that for temporary files; ``threads`` verify signatures beside
    the hashing. Raises ``MalformedError`` for what cannot be read as an archive to its end, ``StorageError`` when the
    passing store cannot be written; everything else is in the result.
    """
    faults: list[ArchiveFault] = []
    code_hash = load_contract().code_hash
    with (
        archived_store(source, code_hash, folder=folder, advance=advance, faults=faults, threads=threads) as (
            store,
            loaded,
        ),
        store.read() as tx,
    ):
        if loaded.header.purpose is Purpose.LOG:
            raise MalformedError("an archive of a log alone: without the feeds nothing can be said to be complete")
        return _Examination(tx, policy, now_ms).run(loaded, faults, view_of)


def blind_entries(tx: ReadTransaction, feeds: Iterable[FeedState], anchored: int) -> BlindWindow:
    """The entries of these feeds that the log's first ``anchored`` leaves do not cover, and the oldest claimed time."""
    states = list(feeds)
    covered = covered_lengths(tx, anchored, {state.key for state in states if state.length})
    count, oldest = 0, None
    for state in states:
        start = covered.get(state.key, 0)
        count += max(0, state.length - start)
        for block in tx.blocks(state.key, start, max(start, state.length)):
            try:
                claimed_ms = parse_entry(block).claimed_ms
            except MalformedError:
                continue
            oldest = claimed_ms if oldest is None else min(oldest, claimed_ms)
    return BlindWindow(count, oldest)


class _Examination:
    """One audit of one snapshot, whose feeds were read again already."""

    def __init__(self, tx: SqlReadTransaction, policy: Policy, now_ms: int) -> None:
        self._tx = tx
        self._policy = policy
        self._now_ms = now_ms
        self._findings: list[AuditFinding] = []
        self._development: list[str] = []

    def run(self, loaded: LoadedArchive, faults: Sequence[ArchiveFault], view_of: ViewOf) -> ArchiveAudit:
        self._findings += map(fault_finding, faults)
        if loaded.log is None:
            return self._without_log(loaded)
        log, replay = loaded.log, loaded.log.replay
        if replay.log_id not in self._policy.logs:
            origin = log_origin(replay.descriptor, replay.log_id)
            self._find(Subject.LOG, Status.FAILED, "UNKNOWN_LOG", f"the policy does not name the log {origin}")
        view = view_of(replay.descriptor)
        check, predecessor, successor = self._compare(log, view)
        stated = read_statements(self._tx, replay.last.size, self._revoked(log))
        witnesses = Witnesses(self._tx, replay.descriptor, replay.log_id, self._policy, self._now_ms)
        anchors = witnesses.verify_receipts(view, stated)
        judged = witnesses.judge_tokens(stated, anchors)
        self._findings += witnesses.findings
        self._development += witnesses.development
        self._judge_identities(log, successor)
        proven = _proven(judged, self._policy.k)
        holds = check.state in (RollbackState.CONSISTENT, RollbackState.CLOSED)
        anchored = check.anchored_size if holds else max(anchors, default=0)
        newest = proven[-1].size if proven else 0
        feeds = self._read_feeds(log, newest, anchored)
        self._judge_feeds(stated, proven)
        self._judge_proof_of_time(replay.last.size, proven, judged)
        blind = blind_entries(self._tx, self._tx.feeds(), anchored)
        self._pass_what_holds(feeds, replay.last.size)
        return ArchiveAudit(
            findings=tuple(self._findings),
            feeds=tuple(feeds),
            checkpoints=standings(judged, anchors, self._policy.k),
            log_id=replay.log_id,
            descriptor=replay.descriptor,
            size=replay.last.size,
            checkpoint_count=replay.checkpoints,
            wanted=self._policy.k,
            check=check,
            predecessor=predecessor,
            successor=successor,
            anchored_size=anchored,
            blind=blind,
            labels={one.identity: one.label for one in log.histories.values()},
            development=tuple(dict.fromkeys(self._development)),
            not_proven=tuple(unproven(check, feeds, blind, newest)),
        )

    def _without_log(self, loaded: LoadedArchive) -> ArchiveAudit:
        """Feeds, and no log that holds: who signed what, and nothing about when, where or whether that is all."""
        facts = loaded.header.log
        if facts is None or facts.size == 1:
            self._find(Subject.LOG, Status.INDETERMINATE, "NO_LOG", "the archive holds no checkpoint of a log")
        else:
            detail = f"log {facts.log_id.hex()} of {facts.size} leaves did not hold: it was not compared with its chain"
            self._find(Subject.CHAIN, Status.INDETERMINATE, "NO_LOG", detail)
        feeds = self._read_feeds(None, 0, 0)
        blind = blind_entries(self._tx, self._tx.feeds(), 0)
        return ArchiveAudit(
            findings=tuple(self._findings),
            feeds=tuple(feeds),
            checkpoints=(),
            log_id=None if facts is None else facts.log_id,
            descriptor=None,
            size=0,
            checkpoint_count=0,
            wanted=self._policy.k,
            check=None,
            predecessor=None,
            successor=None,
            anchored_size=0,
            blind=blind,
            labels={one: key_history(self._tx, one).label for one in self._tx.identities()},
            development=(),
            not_proven=tuple(unproven(None, feeds, blind, 0)),
        )

    # -- the chain ---------------------------------------------------------------------------------------------------

    def _compare(
        self, log: LogAudit, view: ChainView | None
    ) -> tuple[RollbackCheck, PredecessorCheck | None, bytes | None]:
        replay = log.replay
        roots = {checkpoint.size: checkpoint.root for checkpoint in self._tx.checkpoints()}
        final = newest_final_anchor(self._tx.connection)
        archived = None
        if final is not None and final.block_number is not None and final.block_hash is not None:
            archived = (final.size, final.block_number, final.block_hash)
        check = compare_log(replay.log_id, replay.descriptor, replay.last.size, roots, view, archived, self._now_ms)
        predecessor = check_predecessor(view, replay.log_id, replay.descriptor, self._now_ms)
        self._findings += chain_findings(check, predecessor)
        successor = None
        if check.state is RollbackState.CLOSED and view is not None and replay.descriptor.chain is not None:
            successor = find_successor(view, replay.log_id, replay.descriptor.chain, self._now_ms)
        chain = replay.descriptor.chain
        if chain is not None and chain.id == DEVELOPMENT_CHAIN_ID:
            self._development.append(f"chain {chain.id}: the embedded development chain")
        return check, predecessor, successor

    # -- identities --------------------------------------------------------------------------------------------------

    def _judge_identities(self, log: LogAudit, successor: bytes | None) -> None:
        older = log.replay.descriptor.predecessor
        before = None if older is None else older.log
        for history in log.histories.values():
            self._findings += identity_findings(history, self._policy.identities)
            self._findings += binding_findings(history, log.replay.log_id, before, successor, self._policy.logs)

    def _revoked(self, log: LogAudit) -> Mapping[FeedKey, tuple[bytes, int]]:
        """The feeds of revoked devices: identity, and the number of the event that revoked."""
        found = {}
        for state in self._tx.feeds():
            identity, device, _ = _described(state)
            known = log.histories[identity].devices.get(device) if identity in log.histories else None
            if known is not None and known.revocation is not None:
                found[state.key] = (identity, known.revocation.seq)
        return found

    # -- feeds -------------------------------------------------------------------------------------------------------

    def _read_feeds(self, log: LogAudit | None, timestamped: int, anchored: int) -> list[FeedReading]:
        """Every feed of the file, then those that only the log speaks of."""
        stated = {} if log is None else log.replay.feeds
        states = self._tx.feeds()
        keys = {state.key for state in states if state.length}
        dated = covered_lengths(self._tx, timestamped, keys) if log is not None else {}
        chained = covered_lengths(self._tx, anchored, keys) if log is not None else {}
        found = []
        for state in states:
            identity, device, name = _described(state)
            known = key_history(self._tx, identity).devices.get(device)
            found.append(
                FeedReading(
                    key=state.key,
                    reread=True,
                    length=state.length,
                    byte_length=state.byte_length,
                    heads=sum(1 for _ in self._tx.heads(state.key)),
                    name=name,
                    identity=identity,
                    device=device,
                    device_name="" if known is None else known.name,
                    logged=min(stated[state.key].length, state.length) if state.key in stated else 0,
                    timestamped=min(dated.get(state.key, 0), state.length),
                    anchored=min(chained.get(state.key, 0), state.length),
                )
            )
        held = {state.key for state in states}
        found += [
            FeedReading(head.key, False, head.length, 0, 0, "", b"", b"", "", head.length, 0, 0)
            for head in stated.values()
            if head.key not in held
        ]
        return found

    def _judge_feeds(self, stated: Statements, proven: Sequence[Proven]) -> None:
        """What the key histories say of entries: all of them count, unless their device was revoked."""
        for state in self._tx.feeds():
            identity, device, _ = _described(state)
            history = key_history(self._tx, identity)
            known = history.devices.get(device)
            revocation = None if known is None else known.revocation
            last_good = None if revocation is None else revocation.last_good.get(state.key)
            trees = {}
            if last_good is not None and last_good.length <= state.length:
                trees[last_good.length] = stored_tree_hash(self._tx, state.key, last_good.length)
            segments = judge_feed(
                history,
                device,
                state.key,
                state.length,
                trees,
                logged=stated.heads.get(state.key, ()),
                times=proven,
                revocation_leaf=stated.revocations.get(state.key),
            )
            for segment in segments:
                verdict = segment.verdict
                if verdict.status is not Status.PASSED:
                    detail = f"entries {segment.start} to {segment.stop - 1}: {verdict.detail}"
                    self._findings.append(AuditFinding(Subject.FEED, state.key, verdict.status, verdict.reason, detail))

    # -- findings ----------------------------------------------------------------------------------------------------

    def _judge_proof_of_time(self, size: int, proven: Sequence[Proven], judged: Mapping[int, JudgedTokens]) -> None:
        """Time is proven when k authorities date any checkpoint: how much lies beyond the last of those is reported."""
        if proven:
            newest = proven[-1]
            detail = f"size {newest.size} of {size} existed by {format_time(newest.existence_ms)}"
            self._find(Subject.TIME, Status.PASSED, "OK", detail)
            return
        most = max((tokens.authorities for tokens in judged.values()), default=0)
        reasons = sorted({finding.reason for tokens in judged.values() for finding in tokens.undecided})
        reason = "NOT_ENOUGH_AUTHORITIES" if judged else "NO_TIMESTAMP"
        detail = f"at most {most} of the {self._policy.k} authorities that the policy asks for date a checkpoint"
        said = f"{detail}; tokens that do not count: {', '.join(reasons)}" if reasons else detail
        self._find(Subject.TIME, Status.INDETERMINATE, reason, said)

    def _pass_what_holds(self, feeds: Sequence[FeedReading], size: int) -> None:
        """A finding for each feed and for the log of which nothing else was said."""
        named = {finding.about for finding in self._findings if finding.subject is Subject.FEED}
        for feed in feeds:
            if feed.reread and feed.key not in named:
                detail = f"{feed.length} entries re-read under {feed.heads} signed heads"
                self._findings.append(AuditFinding(Subject.FEED, feed.key, Status.PASSED, "OK", detail))
        if not any(finding.subject is Subject.LOG for finding in self._findings):
            self._find(Subject.LOG, Status.PASSED, "OK", f"{size} leaves replayed under every rule")

    def _find(self, subject: Subject, status: Status, reason: str, detail: str) -> None:
        self._findings.append(AuditFinding(subject, b"", status, reason, detail))


def _proven(judged: Mapping[int, JudgedTokens], k: int) -> list[Proven]:
    """The checkpoints that k authorities date, sizes ascending."""
    return [
        Proven(size, existence_ms, earliest_ms)
        for size, tokens in judged.items()
        if (existence_ms := tokens.existence_ms(k)) is not None and (earliest_ms := tokens.earliest_ms()) is not None
    ]


def _described(state: FeedState) -> tuple[bytes, bytes, str]:
    """Identity, device key and name of a feed of ours; an archive holds no others."""
    manifest = parse_manifest(state.manifest)
    description = describe(manifest)
    assert description is not None
    return description.identity, device_key(manifest), description.name
