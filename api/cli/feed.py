"""``holdfast feed``: feeds of entries: writing, reading, checking, handing over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, cast

import typer

from api.cli.exit_codes import ExitCode, UsageError
from api.cli.files import open_input, open_output, read_input
from api.cli.group import CommandGroup, invocation
from api.cli.progress import progress
from api.cli.session import PassphraseFile, opened, unlock
from api.tabular import ENCODINGS, parse_columns, read_csv, read_json_lines

if TYPE_CHECKING:
    from api.cli.output import Plain
    from api.tabular import Row
    from ledger.entry import Entry

__all__ = ["group"]

DEFAULT_BATCH = 1000
MAX_APPEND_BYTES = 64 << 20

Feed = Annotated[str, typer.Argument(metavar="FEED", help="The feed's name or key.")]

group = CommandGroup("feed", "Feeds: one writer's append-only, signed sequence of entries.")


@group.add("create", examples=["holdfast feed create ledger --device main", "holdfast feed create till-3"])
def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to call the feed; it stays its name for ever.")],
    device: Annotated[str, typer.Option("--device", metavar="NAME", help="Whose feed it is.")] = "main",
    continues: Annotated[
        str | None, typer.Option("--continues", metavar="FEED", help="The older feed that this one goes on from.")
    ] = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Begin a feed of one of your devices."""
    from identity.textforms import to_zbase32
    from ledger.manifest import Continuation
    from ledger.merkle import tree_hash

    with opened(ctx) as session:
        older = None
        if continues is not None:
            state = session.vault.find_feed(continues).state
            older = Continuation(state.key, state.length, tree_hash(state.roots))
        ring = unlock(ctx, session, passphrase_file)
        key = session.vault.create_feed(ring, device, name, continues=older)
    invocation(ctx).out.record("feed", {"name": name, "key": to_zbase32(key)})


@group.add("list", examples=["holdfast feed list", "holdfast feed list --json"])
def list_(ctx: typer.Context) -> None:
    """Every feed of this store."""
    from identity.textforms import to_did_key

    with opened(ctx, read_only=True) as session:
        rows = [
            (
                info.name,
                info.key_text,
                info.state.length,
                info.state.byte_length,
                info.state.local,
                None if info.device is None else to_did_key(info.device),
            )
            for info in session.vault.feeds()
        ]
    invocation(ctx).out.table("feed", ("name", "key", "length", "bytes", "local", "device"), rows)


@group.add(
    "append",
    examples=[
        'echo \'{"amount": {"$dec": "12.30"}, "to": "4711"}\' | holdfast feed append ledger --table payments',
        "holdfast feed append ledger --table payments payment.json",
    ],
)
def append(
    ctx: typer.Context,
    feed: Feed,
    file: Annotated[Path, typer.Argument(metavar="[FILE]", help="JSON Lines, a record a line; - for stdin.")] = Path(
        "-"
    ),
    table: Annotated[str, typer.Option("--table", metavar="NAME", help="The table of the records.")] = "records",
    passphrase_file: PassphraseFile = None,
) -> None:
    """Append records as one signed, durable batch."""
    from io import BytesIO

    data = read_input(file, MAX_APPEND_BYTES)
    entries = list(_entries(read_json_lines(BytesIO(data), name=str(file)), table))
    with opened(ctx) as session:
        key = session.vault.find_feed(feed).state.key
        result = session.vault.append(unlock(ctx, session, passphrase_file), key, entries)
    invocation(ctx).out.record(
        "append",
        {"feed": feed, "first": result.start, "length": result.length, "tree": result.head.tree_hash.hex()},
    )


@group.add(
    "import",
    examples=[
        "holdfast feed import ledger payments.csv --columns 'id:int,booked:date,amount:dec,note:text?'",
        "holdfast feed import ledger payments.jsonl --table payments --batch 500",
    ],
)
def import_(
    ctx: typer.Context,
    feed: Feed,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="CSV, or JSON Lines if it ends in .jsonl; - for stdin.")],
    table: Annotated[
        str | None, typer.Option("--table", metavar="NAME", help="The table of the records; default: the file's name.")
    ] = None,
    columns: Annotated[
        str, typer.Option("--columns", metavar="SPEC", help="name:type,...; types: docs/reference/import.md")
    ] = "",
    format_: Annotated[
        str | None, typer.Option("--format", metavar="csv|jsonl", help="Whatever the name says.")
    ] = None,
    delimiter: Annotated[str, typer.Option("--delimiter", metavar="C", help="Between CSV fields.")] = ",",
    encoding: Annotated[str, typer.Option("--encoding", help=f"Of a CSV file: {', '.join(ENCODINGS)}.")] = "utf-8",
    batch: Annotated[
        int, typer.Option("--batch", min=1, max=65_536, metavar="N", help="Entries to a signature.")
    ] = DEFAULT_BATCH,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Import a table, whole or not at all: the first row that does not fit ends it, and nothing is written."""
    kind = format_ or ("jsonl" if file.suffix in (".jsonl", ".ndjson") else "csv")
    if kind not in ("csv", "jsonl"):
        raise UsageError(f"{kind!r} is not a format", hint="csv or jsonl")
    out = invocation(ctx).out
    name = table or (file.stem if str(file) != "-" else "records")
    with opened(ctx) as session, open_input(file) as stream, progress(out, f"import {file.name}") as advance:
        key = session.vault.find_feed(feed).state.key
        ring = unlock(ctx, session, passphrase_file)
        rows = _rows(stream, kind, columns, str(file), delimiter, encoding)
        result = session.vault.import_entries(ring, key, _entries(rows, name), batch=batch, on_batch=advance)
    if result is None:
        out.note(f"{file} has no rows; nothing was written")
        return
    out.record(
        "import",
        {
            "feed": feed,
            "table": name,
            "rows": result.length - result.start,
            "first": result.start,
            "length": result.length,
            "tree": result.head.tree_hash.hex(),
        },
    )


@group.add("read", examples=["holdfast feed read ledger 41", "holdfast feed read ledger 10:20 --json"])
def read(
    ctx: typer.Context,
    feed: Feed,
    where: Annotated[str, typer.Argument(metavar="[INDEX|START:STOP]", help="Which entries; all by default.")] = ":",
) -> None:
    """Show entries: index, kind, claimed time, content. The claimed time proves nothing."""
    with opened(ctx, read_only=True) as session, session.vault.store.read() as tx:
        info = session.vault.find_feed(feed)
        start, stop = _range(where, info.state.length)
        rows = _shown(tx.blocks(info.state.key, start, stop), start)
        invocation(ctx).out.table("entry", ("index", "entry", "claimed", "content"), rows)


@group.add("heads", examples=["holdfast feed heads ledger", "holdfast feed heads ledger --json"])
def heads(ctx: typer.Context, feed: Feed) -> None:
    """Every signed head of a feed: length, tree hash, signature."""
    with opened(ctx, read_only=True) as session, session.vault.store.read() as tx:
        info = session.vault.find_feed(feed)
        rows = ((head.length, head.tree_hash.hex(), head.signature.hex()) for head in tx.heads(info.state.key))
        invocation(ctx).out.table("head", ("length", "tree", "signature"), rows)


@group.add("audit", examples=["holdfast feed audit ledger", "holdfast feed audit ledger --json"])
def audit(ctx: typer.Context, feed: Feed) -> ExitCode:
    """Re-read every byte of a feed, recompute every hash and verify every signature; name the first bad entry."""
    from api.cli.audit import audit_one

    with opened(ctx, read_only=True) as session:
        clean = audit_one(invocation(ctx).out, session, session.vault.find_feed(feed))
    return ExitCode.OK if clean else ExitCode.FAILED


@group.add(
    "export", examples=["holdfast feed export ledger -o ledger.feed", "holdfast feed export ledger -o - | sha256sum"]
)
def export(
    ctx: typer.Context,
    feed: Feed,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Where to write; - for stdout.")],
    force: Annotated[bool, typer.Option("--force", help="Replace FILE.")] = False,
) -> None:
    """Write a feed with its identity's events and every signed head, for another store to ingest."""
    from ledger.transfer import export_feed

    out = invocation(ctx).out
    with opened(ctx, read_only=True) as session:
        info = session.vault.find_feed(feed)
        with open_output(out, output, force=force) as stream:
            export_feed(session.vault.store, info.state.key, stream)
    out.note(f"{info.state.length} entries of {info.name} are in {output}")


@group.add("ingest", examples=["holdfast feed ingest ledger.feed", "holdfast feed ingest ledger.feed --home copy.home"])
def ingest(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What 'feed export' wrote; - for stdin.")],
) -> None:
    """Take in another writer's feed. Everything is verified before anything is kept: whole or nothing."""
    from identity.textforms import to_zbase32
    from ledger.transfer import ingest_feed

    with opened(ctx) as session, open_input(file) as stream:
        session.vault.require_writable()
        result = ingest_feed(session.vault.store, stream)
    invocation(ctx).out.record(
        "ingest", {"key": to_zbase32(result.key), "first": result.start, "length": result.length}
    )


def _rows(stream: BinaryIO, kind: str, spec: str, name: str, delimiter: str, encoding: str) -> Iterator[Row]:
    columns = parse_columns(spec) if spec else ()
    if kind == "jsonl":
        return read_json_lines(stream, columns, name=name)
    return read_csv(stream, columns, name=name, delimiter=delimiter, encoding=encoding)


def _entries(rows: Iterator[Row], table: str) -> Iterator[Entry]:
    from api.bootstrap import now_ms
    from ledger.entry import Record, record_entry

    claimed_ms = now_ms()
    for row in rows:
        yield record_entry(Record(table, row.fields), claimed_ms)


def _shown(blocks: Iterator[bytes], start: int) -> Iterator[tuple[Plain, ...]]:
    from anchoring.report import format_time
    from identity.errors import MalformedError
    from ledger.entry import parse_entry
    from ledger.values import to_plain

    for index, block in enumerate(blocks, start):
        try:
            entry = parse_entry(block)
        except MalformedError:
            yield index, "opaque", None, block.hex()
        else:
            yield index, entry.kind, format_time(entry.claimed_ms), cast("Plain", to_plain(entry.body))


def _range(text: str, length: int) -> tuple[int, int]:
    """START:STOP or one INDEX, within the feed. Raises ``UsageError``."""
    first, colon, last = text.partition(":")
    if any(part and not (part.isascii() and part.isdigit() and len(part) < 17) for part in (first, last)):
        raise UsageError(f"{text!r} is not an index or START:STOP")
    if not colon:
        index = int(first) if first else -1
        if not 0 <= index < length:
            raise UsageError(f"there is no entry {text!r}", hint=f"the feed has {length} entries, from 0")
        return index, index + 1
    start, stop = int(first or 0), min(int(last or length), length)
    return min(start, stop), stop
