"""How the audit of an archive is told: lines for people, an object for each thing under ``--json``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from anchoring.report import format_time
from api.cli.times import time_text
from identity.textforms import to_did_key, to_hex, to_zbase32
from identity.verdict import Status

if TYPE_CHECKING:
    from anchoring.audit_report import ArchiveAudit, AuditFinding, CheckpointStanding, FeedReading
    from anchoring.health import BlindWindow
    from api.cli.output import Output, Plain

__all__ = ["blind_text", "report_archive", "write_proofs"]


def write_proofs(out: Output, audit: ArchiveAudit, folder: Path | None) -> dict[bytes, str]:
    """Write the portable fork proofs, each once, to files in ``folder``; returns their paths. None writes nothing."""
    from api.cli.files import open_output

    written = {}
    for finding in audit.findings if folder is not None else ():
        if finding.proof and folder is not None:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            path = folder / f"{sha256(finding.proof).hexdigest()[:16]}.fork"
            with open_output(out, path, force=True) as stream:
                stream.write(finding.proof)
            written[finding.proof] = str(path)
    return written


def report_archive(out: Output, audit: ArchiveAudit, proofs: Mapping[bytes, str]) -> None:
    """Say everything that was found; the verdict stands last. ``proofs`` are the files of fork proofs."""
    for feed in audit.feeds:
        out.record("audit-feed", _feed_facts(audit, feed), text="\n".join(_feed_lines(audit, feed)))
    for checkpoint in audit.checkpoints:
        facts = _checkpoint_facts(out, audit, checkpoint)
        out.record("audit-checkpoint", facts, text=_checkpoint_line(audit, checkpoint))
    for finding in audit.findings:
        if out.json or finding.status is not Status.PASSED:
            out.record("audit-finding", _finding_facts(finding, proofs), text=_finding_line(finding, proofs))
    out.record("archive-audit", _facts(out, audit), text="\n".join(_lines(audit)))


def blind_text(blind: BlindWindow, anchored: int) -> str:
    """How wide the blind window is, in words."""
    after = f"after the newest final anchor, of size {anchored}" if anchored else "and no anchor that counts"
    oldest = "" if blind.since_ms is None else f"; the oldest claims {format_time(blind.since_ms)}, its author's word"
    return f"blind window: {blind.entries} entries {after}{oldest}"


def _feed_verdict(audit: ArchiveAudit, feed: FeedReading) -> str:
    found = {finding.status for finding in audit.findings if finding.about == feed.key}
    order = (Status.FAILED, Status.INDETERMINATE, Status.PASSED)
    return next((status.value for status in order if status in found), Status.INDETERMINATE.value)


def _feed_facts(audit: ArchiveAudit, feed: FeedReading) -> dict[str, Plain]:
    return {
        "feed": feed.name or None,
        "key": to_zbase32(feed.key),
        "verdict": _feed_verdict(audit, feed),
        "reread": feed.reread,
        "entries": feed.length,
        "bytes": feed.byte_length,
        "heads": feed.heads,
        "entries_per_signature": round(feed.entries_per_signature, 3),
        "identity": to_hex(feed.identity) or None,
        "device": to_did_key(feed.device) if feed.device else None,
        "device_name": feed.device_name or None,
        "logged": feed.logged,
        "timestamped": feed.timestamped,
        "anchored": feed.anchored,
    }


def _feed_lines(audit: ArchiveAudit, feed: FeedReading) -> Iterator[str]:
    yield f"feed {feed.name or '(only in the log)'} {to_zbase32(feed.key)}: {_feed_verdict(audit, feed)}"
    if not feed.reread:
        yield f"  CHAINED  the log states {feed.length} entries; the file does not hold them"
        return
    yield (
        f"  RE-READ  {feed.length} entries, {feed.byte_length} bytes, under {feed.heads} signed heads: "
        f"{feed.entries_per_signature:.1f} entries a signature"
    )
    label = audit.labels.get(feed.identity, "")
    yield f"  signed by device {feed.device_name} {to_did_key(feed.device)} of {label} {to_hex(feed.identity)}"
    yield f"  {feed.logged} in the log, {feed.timestamped} timestamped, {feed.anchored} anchored"


def _checkpoint_facts(out: Output, audit: ArchiveAudit, checkpoint: CheckpointStanding) -> dict[str, Plain]:
    return {
        "size": checkpoint.size,
        "existed_by": None if checkpoint.existed_by_ms is None else time_text(out, checkpoint.existed_by_ms),
        "authorities": list(checkpoint.authorities),
        "wanted": audit.wanted,
        "block": checkpoint.block,
        "block_time": None if checkpoint.block_ms is None else time_text(out, checkpoint.block_ms),
    }


def _checkpoint_line(audit: ArchiveAudit, checkpoint: CheckpointStanding) -> str:
    names = ", ".join(checkpoint.authorities) or "none that counts"
    since = "no time" if checkpoint.existed_by_ms is None else f"existed by {format_time(checkpoint.existed_by_ms)}"
    said = f"size {checkpoint.size}: {since}, {len(checkpoint.authorities)} of {audit.wanted} authorities: {names}"
    if checkpoint.block is None or checkpoint.block_ms is None:
        return said
    return f"{said}; in block {checkpoint.block} of {format_time(checkpoint.block_ms)}"


def _finding_facts(finding: AuditFinding, proofs: Mapping[bytes, str]) -> dict[str, Plain]:
    return {
        "subject": finding.subject.value,
        "about": _about(finding) or None,
        "verdict": finding.status.value,
        "reason": finding.reason,
        "detail": finding.detail,
        "proof": to_hex(finding.proof) or None,
        "proof_file": proofs.get(finding.proof),
    }


def _about(finding: AuditFinding) -> str:
    return to_zbase32(finding.about) if finding.subject.value == "feed" else to_hex(finding.about)


def _finding_line(finding: AuditFinding, proofs: Mapping[bytes, str]) -> str:
    about = " ".join(part for part in (finding.subject.value, _about(finding)) if part)
    line = f"{about}: {finding.status.value}: {finding.reason}: {finding.detail}"
    if not finding.proof:
        return line
    where = proofs.get(finding.proof)
    return f"{line}\n  proof: {where if where is not None else to_hex(finding.proof)}"


def _facts(out: Output, audit: ArchiveAudit) -> dict[str, Plain]:
    reread = [feed for feed in audit.feeds if feed.reread]
    return {
        "verdict": audit.verdict.value,
        "log": _origin(audit),
        "size": audit.size,
        "checkpoints": audit.checkpoint_count,
        "feeds_reread": len(reread),
        "feeds_chained": len(audit.feeds) - len(reread),
        "entries": sum(feed.length for feed in reread),
        "heads": sum(feed.heads for feed in reread),
        "state": None if audit.check is None else audit.check.state.value,
        "anchored_size": audit.anchored_size,
        "detail": None if audit.check is None else audit.check.detail,
        "predecessor": None if audit.predecessor is None else audit.predecessor.state.value,
        "predecessor_detail": None if audit.predecessor is None else audit.predecessor.detail,
        "successor": None if audit.successor is None else to_hex(audit.successor),
        "blind_entries": audit.blind.entries,
        "blind_since": None if audit.blind.since_ms is None else time_text(out, audit.blind.since_ms),
        "not_proven": list(audit.not_proven),
        "development": list(audit.development),
    }


def _lines(audit: ArchiveAudit) -> Iterator[str]:
    yield f"log {_origin(audit) or '(none)'}: {audit.verdict.value}"
    chained = sum(not feed.reread for feed in audit.feeds)
    yield f"  RE-READ  {audit.size} leaves under {audit.checkpoint_count} checkpoints"
    yield f"  CHAINED  {chained} feeds that the log states and the file does not hold"
    if audit.check is not None:
        yield f"  {audit.check.state.value}: {audit.check.detail}"
    if audit.predecessor is not None:
        yield f"  predecessor {audit.predecessor.state.value}: {audit.predecessor.detail}"
    if audit.successor is not None:
        yield f"  successor: log {to_hex(audit.successor)} goes on; it is for an audit of its own"
    yield f"  {blind_text(audit.blind, audit.anchored_size)}"
    yield from (f"  not proven: {said}" for said in audit.not_proven)
    yield from (f"  rests on what proves nothing to others: {said}" for said in audit.development)


def _origin(audit: ArchiveAudit) -> str | None:
    if audit.log_id is None:
        return None
    return to_hex(audit.log_id) if audit.descriptor is None else f"{audit.descriptor.name}/{to_hex(audit.log_id)}"
