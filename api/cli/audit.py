"""``holdfast audit``: re-read everything, or replay a complete log as an outsider."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, TypeVar

import typer

from api.cli.exit_codes import ExitCode, UsageError
from api.cli.files import open_input, open_output, written
from api.cli.group import CommandGroup, invocation
from api.cli.progress import progress
from api.cli.session import opened
from api.settings import find_home, load_settings

if TYPE_CHECKING:
    from anchoring.chain.check import ChainView
    from anchoring.health import BlindWindow
    from anchoring.policy import Policy
    from anchoring.rollback import PredecessorCheck, RollbackCheck
    from api.bootstrap import Session
    from api.cli.output import Output, Plain
    from api.store_audit import StoreAudit
    from api.vault import FeedInfo
    from ledger.completeness import Shortfall
    from ledger.log_transfer import LogAudit
    from ledger.statement import LogDescriptor

__all__ = ["audit_one", "group"]

T = TypeVar("T")

group = CommandGroup("audit", "Re-read every entry and replay the log; or audit somebody else's complete log.")


@group.add(
    "audit",
    examples=[
        "holdfast audit",
        "holdfast audit --log",
        "holdfast audit --export bank.archive",
        "holdfast audit bank.archive --policy bank.toml --rpc http://127.0.0.1:8545 --forks proofs",
        "holdfast audit --log complete.log --policy bank.toml --dev-chain ~/.local/state/holdfast/dev",
    ],
)
def audit(
    ctx: typer.Context,
    export: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FILE]",
            help="An archive instead of this home; with --log, a bare log export; - for stdin.",
        ),
    ] = None,
    log_only: Annotated[bool, typer.Option("--log", help="Only the checkpoint log, not feeds and databases.")] = False,
    policy: Annotated[Path | None, typer.Option("--policy", metavar="FILE", help="With FILE: what to trust.")] = None,
    rpc: Annotated[
        list[str] | None, typer.Option("--rpc", metavar="URL", help="With FILE: a node of the chain; may be repeated.")
    ] = None,
    dev_chain: Annotated[
        Path | None, typer.Option("--dev-chain", metavar="DIR", help="With FILE: the development directory of a test.")
    ] = None,
    forks: Annotated[
        Path | None, typer.Option("--forks", metavar="DIR", help="With an archive: write proofs of forks there.")
    ] = None,
    export_to: Annotated[
        Path | None,
        typer.Option("--export", metavar="FILE", help="Audit nothing: write the log and its feeds; - for stdout."),
    ] = None,
) -> ExitCode:
    """Audit this home: every byte of every feed, every leaf of the log, every row, and the log against its chain.

    With FILE, an outsider's audit of what --export wrote: everything in it is read again and compared with the log, the
    log with the chain, the tokens with the authorities of the policy. Needs no home and no keys. --log FILE takes what
    'checkpoint export' wrote: the log alone, so all that it says of feeds is only chained.
    """
    for_file = bool(policy is not None or rpc or dev_chain is not None or forks is not None)
    if export_to is not None:
        if export is not None or log_only or for_file:
            raise UsageError("--export writes a file and audits nothing", hint="holdfast audit --export FILE")
        return _export(ctx, export_to)
    if export is None:
        if for_file:
            raise UsageError(
                "--policy, --rpc, --dev-chain and --forks are for the audit of a FILE", hint="holdfast audit --log"
            )
        return _audit_home(ctx, log_only=log_only)
    return _audit_file(ctx, export, policy, rpc or [], dev_chain, forks, log_only=log_only)


def _audit_file(
    ctx: typer.Context,
    file: Path,
    policy: Path | None,
    urls: list[str],
    dev_chain: Path | None,
    forks: Path | None,
    *,
    log_only: bool,
) -> ExitCode:
    """An outsider's audit: of an archive, or of a bare log export."""
    if policy is None:
        raise UsageError(
            "a FILE is audited with --policy",
            hint="holdfast audit FILE --policy POLICY --rpc URL; without FILE, this home is audited",
        )
    if urls and dev_chain is not None:
        raise UsageError("either --rpc or --dev-chain")
    if not log_only:
        return _audit_archive(ctx, file, policy, urls, dev_chain, forks)
    if forks is not None:
        raise UsageError("--forks is for the audit of an archive: a bare log holds no feeds")
    return _audit_outside(ctx, file, policy, urls, dev_chain)


def _export(ctx: typer.Context, file: Path) -> ExitCode:
    """Write the archive for an outsider."""
    from api.backup import export_archive
    from api.bootstrap import now_ms

    run = invocation(ctx)
    settings = load_settings(find_home(run.named_home, run.environ), run.environ)
    with open_output(run.out, file) as stream, progress(run.out, f"export {file.name}") as advance:
        totals = export_archive(settings, stream, made_ms=now_ms(), advance=advance)
    written(run.out, "audit-export", file, {"sections": totals.sections, "digest": totals.digest.hex()})
    return ExitCode.OK


def _audit_home(ctx: typer.Context, *, log_only: bool) -> ExitCode:
    out = invocation(ctx).out
    with opened(ctx, read_only=True) as session:
        checks = () if log_only else (_audit_feeds, _audit_databases)
        verdicts = [_sound(out, partial(check, out, session), otherwise=False) for check in checks]
        code = _sound(out, partial(_audit_own_log, out, session), otherwise=ExitCode.FAILED)
    return code if all(verdicts) else ExitCode.FAILED


def _audit_feeds(out: Output, session: Session) -> bool:
    """Audit every feed, also after one that failed."""
    verdicts = [_sound(out, partial(audit_one, out, session, info), otherwise=False) for info in session.vault.feeds()]
    return all(verdicts)


def _audit_databases(out: Output, session: Session) -> bool:
    """Audit the tables of every database, also after one that failed."""
    from api.store_audit import database_faults

    clean = True
    for fault in database_faults(session.vault.store):
        _report_fault(out, fault)
        clean = False
    return clean


def _sound(out: Output, audit: Callable[[], T], *, otherwise: T) -> T:
    """What the audit answers, or, when it meets damage, that and ``otherwise``: then the next audit goes on.

    In one's own store nothing is input that could be refused, and nothing that belongs there may be missing.
    """
    from identity.errors import DamagedFile, MalformedError, MissingEvidenceError, VerificationError

    try:
        return audit()
    except (DamagedFile, MalformedError, MissingEvidenceError, VerificationError) as exc:
        _report_fault(out, str(exc))
        return otherwise


def _report_fault(out: Output, fault: str, verdict: str = "FAILED") -> None:
    out.record("store-fault", {"verdict": verdict, "detail": fault}, text=f"store: {verdict}: {fault}")


def audit_one(out: Output, session: Session, info: FeedInfo) -> bool:
    """Audit one feed and say what was found. True when every entry holds."""
    from ledger.audit import audit_feed
    from ledger.audit_processes import in_processes

    with progress(out, f"audit {info.name}", total=info.state.length) as advance:
        seen = 0

        def watch(done: int, _length: int) -> None:
            nonlocal seen
            advance(done - seen)
            seen = done

        store, cores = session.vault.store, os.cpu_count() or 1
        elsewhere = in_processes(store.reopen, cores) if cores > 1 else None
        found = audit_feed(store, info.state.key, watch, elsewhere=elsewhere)
    bad = found.first_bad
    verdict = "PASSED" if bad is None else "FAILED"
    said = (
        f"{found.entries} entries re-read, {found.bytes} bytes under {found.heads} signed heads"
        if bad is None
        else f"entry {bad.index}: {bad.reason.value}: {bad.detail}"
    )
    out.record(
        "feed-audit",
        {
            "feed": info.name,
            "key": info.key_text,
            "verdict": verdict,
            "entries": found.entries,
            "bytes": found.bytes,
            "heads": found.heads,
            "first_bad": None if bad is None else bad.index,
            "reason": None if bad is None else bad.reason.value,
            "detail": None if bad is None else bad.detail,
        },
        text=f"feed {info.name}: {verdict}: {said}",
    )
    return bad is None


def _audit_own_log(out: Output, session: Session) -> ExitCode:
    from anchoring.complete_audit import blind_entries
    from anchoring.rollback import RollbackState

    log_id, descriptor = session.vault.log_descriptor()
    found = _audit_store(out, session, log_id)
    # Also without any checkpoint here: the chain may know of one.
    check = session.check_rollback()
    holds = check.state in (RollbackState.CONSISTENT, RollbackState.CLOSED)
    anchored, blind = check.anchored_size if holds else 0, None
    if found.log is not None:
        served = [info.state for info in session.vault.feeds() if _is_of(info, found.log)]
        with session.vault.store.read() as tx:
            blind = blind_entries(tx, served, anchored)
    faulty = bool(found.faults or found.shortfalls or _is_behind_sentinel(out, session))
    code = _report(
        out, descriptor, log_id, found.log, check, session.check_predecessor(), blind, anchored, faulty=faulty
    )
    return ExitCode.INDETERMINATE if found.doubts and code == ExitCode.OK else code


def _is_behind_sentinel(out: Output, session: Session) -> bool:
    """Whether this machine knows of more, or of another history, than the store holds. Other findings are notes."""
    from identity.errors import StorageError
    from ledger.sentinel import Reason

    try:
        found = session.start_up.sentinel()
    except StorageError as exc:  # nothing is written, so nothing depends on it
        out.note(str(exc))
        return False
    if found.reason not in (Reason.BEHIND, Reason.REWRITTEN):
        if found.in_new_feeds:
            out.note(found.detail)
        return False
    _report_fault(out, f"{found.reason.value}: {found.detail}")
    return True


def _is_of(info: FeedInfo, found: LogAudit) -> bool:
    """Whether the feed belongs to an identity that the log serves."""
    return info.description is not None and info.description.identity in found.histories


def _audit_store(out: Output, session: Session, log_id: bytes) -> StoreAudit:
    """Audit all but the blocks, and say what was found."""
    from api.pool import trusted_by_home
    from api.store_audit import audit_store
    from identity.errors import ConfigurationError

    try:
        authorities, _ = trusted_by_home(session.home)
    except ConfigurationError as exc:
        out.note(f"who is trusted cannot be read: {exc}")
        authorities = ()
    with session.vault.store.read() as tx:
        found = audit_store(tx, log_id, authorities)
    for short in found.shortfalls:
        _report_shortfall(out, short)
    for fault in found.faults:
        _report_fault(out, fault)
    for doubt in found.doubts:
        _report_fault(out, doubt, "INDETERMINATE")
    return found


def _report_shortfall(out: Output, short: Shortfall) -> None:
    from identity.textforms import to_zbase32

    key = to_zbase32(short.key)
    said = (
        f"the log states {short.stated} entries, {short.stated - short.held} of them are missing here"
        if short.same_history
        else f"the store holds another history than the log states at length {short.stated}"
    )
    out.record(
        "shortfall",
        {"key": key, "verdict": "FAILED", "held": short.held, "stated": short.stated, "detail": said},
        text=f"feed {key}: FAILED: {said}",
    )


_EXITS = {"PASSED": ExitCode.OK, "FAILED": ExitCode.FAILED, "INDETERMINATE": ExitCode.INDETERMINATE}


def _audit_archive(
    ctx: typer.Context, file: Path, policy_path: Path, urls: list[str], dev_chain: Path | None, forks: Path | None
) -> ExitCode:
    from anchoring.complete_audit import audit_archive
    from anchoring.policy_file import load_policy
    from api.bootstrap import now_ms
    from api.cli.audit_report import report_archive, write_proofs
    from identity.errors import MalformedError

    out = invocation(ctx).out
    policy = load_policy(policy_path)
    with ExitStack() as stack:
        stream = stack.enter_context(open_input(file))
        advance = stack.enter_context(progress(out, f"audit {file.name}"))
        view_of = _view_of(policy, stack, urls, dev_chain)
        try:
            found = audit_archive(stream, policy, view_of, now_ms(), advance=advance)
        except MalformedError as exc:
            exc.hint = exc.hint or "an archive is what 'audit --export' writes; a bare log export is audited with --log"
            raise
    report_archive(out, found, write_proofs(out, found, forks))
    return _EXITS[found.verdict.value]


def _view_of(
    policy: Policy, stack: ExitStack, urls: list[str], dev_chain: Path | None
) -> Callable[[LogDescriptor], ChainView | None]:
    """What opens the chain that the policy trusts for a log."""
    from anchoring.chain.check import ChainView
    from api.bootstrap import open_nodes

    def view_of(descriptor: LogDescriptor) -> ChainView | None:
        trust = None if descriptor.chain is None else policy.chains.get(descriptor.chain.id)
        if trust is None:
            return None
        return ChainView(open_nodes(stack, trust.id, urls, dev_chain), trust.id, trust.code_hash)

    return view_of


def _audit_outside(
    ctx: typer.Context, export: Path, policy_path: Path, urls: list[str], dev_chain: Path | None
) -> ExitCode:
    from anchoring.outside_audit import audit_export
    from anchoring.policy_file import load_policy
    from api.bootstrap import now_ms

    policy = load_policy(policy_path)
    with ExitStack() as stack, _reopenable(export) as reopen:
        found = audit_export(reopen, policy.logs, _view_of(policy, stack, urls, dev_chain), now_ms())
    replay = found.log.replay
    return _report(invocation(ctx).out, replay.descriptor, replay.log_id, found.log, found.check, found.predecessor)


@contextmanager
def _reopenable(file: Path) -> Iterator[Callable[[], BinaryIO]]:
    """What opens the file as often as needed. What comes through a pipe is kept on disk meanwhile."""
    with open_input(file) as stream, tempfile.NamedTemporaryFile() as copy:
        if str(file) != "-" and stream.seekable():
            yield partial(_open, file)
        else:
            shutil.copyfileobj(stream, copy)
            copy.flush()
            yield partial(_open, Path(copy.name))


def _open(file: Path) -> BinaryIO:
    return file.open("rb")


def _report(
    out: Output,
    descriptor: LogDescriptor,
    log_id: bytes,
    found: LogAudit | None,
    check: RollbackCheck,
    predecessor: PredecessorCheck | None,
    blind: BlindWindow | None = None,
    anchored: int = 0,
    *,
    faulty: bool = False,
) -> ExitCode:
    """Say what the replay and the chain amount to. ``found`` is None for a log that has no checkpoint yet.

    ``blind`` is what ``anchored`` leaves does not cover, None when no feeds are at hand.
    ``faulty`` when something in the store does not hold, whatever these say.
    """
    from anchoring.audit_report import chain_findings, overall
    from api.cli.audit_report import blind_text
    from api.cli.times import time_text
    from identity.textforms import to_hex

    replay = None if found is None else found.replay
    duplicitous = [] if found is None else [one for one in found.histories.values() if one.duplicity is not None]
    verdict = "FAILED" if duplicitous or faulty else overall(chain_findings(check, predecessor)).value
    facts: dict[str, Plain] = {
        "verdict": verdict,
        "log": f"{descriptor.name}/{to_hex(log_id)}",
        "size": check.local_size if replay is None else replay.last.size,
        "checkpoints": 0 if replay is None else replay.checkpoints,
        "feed_heads_read": 0 if replay is None else replay.feed_heads_read,
        "feed_heads_chained": 0 if replay is None else replay.feed_heads_chained,
        "identity_heads_read": 0 if replay is None else replay.identity_heads_read,
        "identities_duplicitous": [to_hex(one.identity) for one in duplicitous],
        "state": check.state.value,
        "anchored_size": check.anchored_size,
        "detail": check.detail,
        "predecessor": None if predecessor is None else predecessor.state.value,
        "predecessor_detail": None if predecessor is None else predecessor.detail,
        "blind_entries": None if blind is None else blind.entries,
        "blind_since": None if blind is None or blind.since_ms is None else time_text(out, blind.since_ms),
    }
    lines = [
        *_log_lines(facts, check, predecessor),
        *([] if blind is None else [f"  {blind_text(blind, anchored)}"]),
        *(f"  identity {to_hex(one.identity)} is DUPLICITOUS" for one in duplicitous),
    ]
    out.record("log-audit", facts, text="\n".join(lines))
    return _EXITS[verdict]


def _log_lines(facts: Mapping[str, Plain], check: RollbackCheck, predecessor: PredecessorCheck | None) -> Iterator[str]:
    yield f"log {facts['log']}: {facts['verdict']}"
    yield (
        f"  RE-READ  {facts['size']} leaves under {facts['checkpoints']} checkpoints, "
        f"{facts['feed_heads_read']} feed heads against their feeds"
    )
    yield f"  CHAINED  {facts['feed_heads_chained']} feed heads that the log states and nothing here shows"
    yield f"  {check.state.value}: {check.detail}"
    if predecessor is not None:
        yield f"  predecessor {predecessor.state.value}: {predecessor.detail}"
