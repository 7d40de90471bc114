"""``holdfast db``: exchange between devices by files, and what can be shown to others of a database's state."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from api.cli.db_common import DatabaseName, Device, entry_named, entry_text, group, place_of, reading, writing
from api.cli.exit_codes import ExitCode
from api.cli.files import open_input, open_output, rewindable, written
from api.cli.forks import keep_fork_proof
from api.cli.group import invocation
from api.cli.progress import progress
from api.cli.session import Force, OutputFile, PassphraseFile, opened
from api.cli.times import time_text

if TYPE_CHECKING:
    from api.bootstrap import Session
    from api.cli.output import Output, Plain
    from sync.bundle import Have
    from sync.exchange import FoundFork, ImportReport
    from sync.storage.state_roots import StatedRoot

__all__: list[str] = []


# --- bundles --------------------------------------------------------------------------------------------------------


@group.add(
    "bundle",
    examples=[
        "holdfast db bundle bank -o /mnt/stick/bank.bundle",
        "holdfast db bundle bank --since theirs.bundle -o news.bundle",
        "holdfast db bundle bank --only-have -o have.bundle",
    ],
)
def bundle(
    ctx: typer.Context,
    database: DatabaseName,
    output: OutputFile,
    since: Annotated[
        Path | None,
        typer.Option("--since", metavar="FILE", help="Leave out what this bundle of theirs says they have."),
    ] = None,
    only_have: Annotated[
        bool, typer.Option("--only-have", help="Say only what is here, so that others know what to leave out.")
    ] = False,
    force: Force = False,
) -> None:
    """Write a database for another device or person, as one file: all of it, or what they do not have.

    Keys of sealed values are not in it.
    """
    out = invocation(ctx).out
    have = None if since is None else _read_have(since)
    with (
        reading(ctx, database) as opening,
        open_output(out, output, force=force) as stream,
        progress(out, f"bundle {opening.database.name}") as advance,
    ):
        feeds = blocks = 0
        if only_have:
            opening.database.write_have(stream)
        else:
            sent = opening.database.export_bundle(stream, have, advance)
            feeds, blocks = sent.feeds, sent.blocks
        facts: dict[str, Plain] = {"database": opening.database.name, "id": opening.database.uid.hex()}
    written(out, "bundle", output, facts | {"feeds": feeds, "entries": blocks})


def _read_have(file: Path) -> Have:
    from sync.bundle import read_have

    with open_input(file) as stream:
        return read_have(stream)


@group.add(
    "receive",
    examples=["holdfast db receive /mnt/stick/bank.bundle", "holdfast db receive news.bundle --json"],
)
def receive(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What 'db bundle' wrote; - for stdin.")],
) -> ExitCode:
    """Take in a bundle, whole or not at all: everything in it is verified first. A database that is new is joined.

    Exit code 1 says that it proves somebody to have signed two histories. Both are kept, and so is the proof.
    """
    from api.databases import Databases

    out = invocation(ctx).out
    with opened(ctx) as session, Databases(session) as databases, open_input(file) as given:
        with rewindable(given) as stream, progress(out, f"receive {file.name}") as advance:
            info, report, joined = databases.receive(stream, advance)
        kept = [_fork_facts(out, session, fork) for fork in report.received.forks]
    facts: dict[str, Plain] = {"database": info.name, "id": info.uid.hex(), "joined": joined}
    out.record("bundle-import", facts | _report_facts(report) | {"forks": kept})
    _say_report(out, report)
    return ExitCode.FAILED if kept else ExitCode.OK


def _report_facts(report: ImportReport) -> dict[str, Plain]:
    from identity.textforms import to_zbase32

    return {
        "feeds": report.received.feeds,
        "new": report.received.blocks,
        "taken": report.entries,
        "conflicts": [str(one) for one in report.conflicts],
        "contested": [str(one) for one in report.contested],
        "waiting": [
            {"feed": to_zbase32(one.feed), "index": one.index, "for": entry_text(one.reference)}
            for one in report.waiting
        ],
    }


def _say_report(out: Output, report: ImportReport) -> None:
    if report.conflicts or report.contested:
        count = len({*report.conflicts, *report.contested})
        counted = "1 document has" if count == 1 else f"{count} documents have"
        out.note(f"{counted} new conflicts: see 'holdfast db conflicts'")
    if report.waiting:
        out.note(f"{len(report.waiting)} feeds wait for entries that are not here: ask for a bundle that has them")
    for fork in report.received.forks:
        out.note(f"feed {fork.feed.hex()} was signed twice from entry {fork.index} on: {fork.reason.value}")


def _fork_facts(out: Output, session: Session, fork: FoundFork) -> dict[str, Plain]:
    from identity.textforms import to_zbase32

    proof = None if not fork.proof else str(keep_fork_proof(out, session, fork.proof))
    facts: dict[str, Plain] = {"feed": to_zbase32(fork.feed), "index": fork.index, "reason": fork.reason.value}
    return facts | {"refused": fork.refused, "proof": proof}


# --- state roots ----------------------------------------------------------------------------------------------------


@group.add("state-root", examples=["holdfast db state-root bank", "holdfast db state-root bank --device laptop"])
def state_root(
    ctx: typer.Context, database: DatabaseName, device: Device = None, passphrase_file: PassphraseFile = None
) -> None:
    """State in a signed entry what every document is now, as one hash: by that it can be proven what one was."""
    with writing(ctx, database, passphrase_file, device) as opening:
        made = opening.database.checkpoint_state()
        stated = next(one for one in opening.database.state_roots() if one.reference == made.reference)
    facts: dict[str, Plain] = {"root": stated.statement.root.hex(), "rules": stated.statement.rules}
    invocation(ctx).out.record("state-root", facts | place_of(made))


@group.add("state-roots", examples=["holdfast db state-roots bank", "holdfast db state-roots bank --json"])
def state_roots(ctx: typer.Context, database: DatabaseName) -> None:
    """Every state root that was stated here or elsewhere. Two that contradict each other are marked as rivals."""
    out = invocation(ctx).out
    with reading(ctx, database) as opening:
        found = opening.database.state_roots()
        rivals = {one.reference for pair in opening.database.rival_state_roots() for one in pair}
    rows = [_root_row(out, one, is_rival=one.reference in rivals) for one in found]
    out.table("stated-root", ("entry", "root", "claimed", "feeds", "rival"), rows)


def _root_row(out: Output, one: StatedRoot, *, is_rival: bool) -> tuple[Plain, ...]:
    from sync.clock import wall_ms

    statement = one.statement
    claimed = time_text(out, wall_ms(statement.stamp.reading))
    return entry_text(one.reference), statement.root.hex(), claimed, len(statement.cut), is_rival


@group.add(
    "check-root",
    examples=["holdfast db check-root bank kjw8egyi1oru/12", "holdfast db check-root bank kjw8egyi1oru/12 --json"],
)
def check_root(
    ctx: typer.Context,
    database: DatabaseName,
    entry: Annotated[str, typer.Argument(metavar="ENTRY", help="FEED/INDEX, as 'db state-roots' shows it.")],
) -> None:
    """Make the state anew from the feeds alone, and compare its root with the one that an entry states."""
    with reading(ctx, database) as opening:
        with opening.database.read() as reader:
            reference = entry_named(reader, entry)
        found = opening.database.verify_state_root(reference)
    facts: dict[str, Plain] = {"entry": entry_text(reference), "root": found.stated.statement.root.hex()}
    invocation(ctx).out.record("state-check", {"verdict": "PASSED", **facts, "documents": found.documents})


# --- the tables -----------------------------------------------------------------------------------------------------


@group.add("audit", examples=["holdfast db audit bank", "holdfast db audit bank --json"])
def audit(ctx: typer.Context, database: DatabaseName) -> ExitCode:
    """Compare every row of the database's tables with what follows from its feeds. 'audit' is for the feeds themselves.

    Exit code 1 says that a row is not as it should be; 'db rebuild' makes all of them anew.
    """
    out = invocation(ctx).out
    with reading(ctx, database) as opening:
        name, faults = opening.database.name, opening.database.audit()
    for fault in faults:
        out.note(fault)
    out.record("database-audit", {"database": name, "verdict": "FAILED" if faults else "PASSED", "faults": faults})
    return ExitCode.FAILED if faults else ExitCode.OK


@group.add("rebuild", examples=["holdfast db rebuild bank", "holdfast db rebuild bank --json"])
def rebuild(ctx: typer.Context, database: DatabaseName) -> None:
    """Make the database's tables anew from its feeds. Nothing that was written is lost or changed by it.

    Places and cursors of 'db watch' begin anew: --axis known says from then on when the tables were made.
    """
    from api.databases import Databases

    with opened(ctx) as session, Databases(session) as databases:
        info = databases.find(database)
        session.vault.require_writable()
        entries = databases.open_known(info.uid).rebuild()
    invocation(ctx).out.record("rebuild", {"database": info.name, "entries": entries})
