"""``holdfast feed``: feeds of entries: writing, reading, checking, handing over."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from api.cli.exit_codes import ExitCode, UsageError
from api.cli.files import open_input, open_output, read_input, source_name, written
from api.cli.forks import keeping_fork_proofs
from api.cli.group import CommandGroup, invocation
from api.cli.progress import Advance, progress
from api.cli.rows import read_rows, record_blocks, skip_file, skipping, table_kind
from api.cli.session import Force, OutputFile, PassphraseFile, check_names, named_feed, opened, unlock
from api.cli.times import time_text
from api.tabular import ENCODINGS, read_json_lines
from identity.errors import ConflictError, RefusedError

if TYPE_CHECKING:
    from api.bootstrap import Session
    from api.cli.output import Output, Plain
    from api.vault import FeedInfo
    from identity.keystore import KeyRing
    from ledger.store import FeedKey

__all__ = ["group"]

DEFAULT_BATCH = 1000
MAX_APPEND_BYTES = 64 << 20

Feed = Annotated[str, typer.Argument(metavar="FEED", help="The feed's name or key.")]

group = CommandGroup("feed", "Feeds: one writer's append-only, signed sequence of entries.")


@group.add("create", examples=["holdfast feed create ledger", "holdfast feed create till-3 --device main"])
def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to call the feed; it stays its name for ever.")],
    device: Annotated[
        str | None, typer.Option("--device", metavar="NAME", help="Whose feed it is; default: the only device.")
    ] = None,
    continues: Annotated[
        str | None,
        typer.Option("--continues", metavar="FEED", help="The older feed that this one goes on from; it is retired."),
    ] = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Begin a feed of one of your devices."""
    check_names(feed=name)
    from identity.textforms import to_zbase32
    from ledger.manifest import NONCE_BYTES, Continuation
    from ledger.merkle import tree_hash

    with opened(ctx) as session:
        older = None
        if continues is not None:
            state = named_feed(session, continues).state
            older = Continuation(state.key, state.length, tree_hash(state.roots), secrets.token_bytes(NONCE_BYTES))
        ring = unlock(ctx, session, passphrase_file)
        chosen = device or _only_device(session, ring)
        try:
            key = session.vault.create_feed(ring, chosen, name, continues=older)
        except ConflictError as exc:  # nothing that trying again could change
            raise RefusedError(f"{chosen!r} has a feed {name!r} already", hint="see 'holdfast feed list'") from exc
    invocation(ctx).out.record("feed", {"name": name, "key": to_zbase32(key), "device": chosen})


def _only_device(session: Session, ring: KeyRing) -> str:
    """The one device of the keystore that is not revoked. Raises ``UsageError`` when there are several, or none."""
    known = session.vault.history().devices
    names = sorted(name for name, key in ring.device_keys().items() if key in known and known[key].revocation is None)
    if len(names) != 1:
        raise UsageError("whose feed is it to be?", hint=f"--device with one of: {', '.join(names) or 'none'}")
    return names[0]


@group.add("list", examples=["holdfast feed list", "holdfast feed list --json"])
def list_(ctx: typer.Context) -> None:
    """Every feed of this store. A local one is written here; a retired one is continued by another."""
    with opened(ctx, read_only=True) as session:
        rows = [_listed(info) for info in session.vault.feeds()]
    columns = ("name", "key", "length", "bytes", "local", "retired", "device", "identity")
    invocation(ctx).out.table("feed", columns, rows)


def _listed(info: FeedInfo) -> tuple[Plain, ...]:
    from identity.textforms import to_did_key, to_hex

    return (
        info.name,
        info.key_text,
        info.state.length,
        info.state.byte_length,
        info.state.local,
        info.state.retired,
        None if info.device is None else to_did_key(info.device),
        None if info.description is None else to_hex(info.description.identity),
    )


# --- writing --------------------------------------------------------------------------------------------------------


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
    file: Annotated[
        Path, typer.Argument(metavar="[FILE]", help="JSON Lines, a record a line; - for stdin.", show_default=False)
    ] = Path("-"),
    table: Annotated[str, typer.Option("--table", metavar="NAME", help="The table of the records.")] = "records",
    passphrase_file: PassphraseFile = None,
) -> None:
    """Append records as one signed, durable batch."""
    out = invocation(ctx).out
    if str(file) == "-" and sys.stdin.isatty():
        out.note("JSON Lines from the terminal, a record a line; Ctrl-D ends them")
    check_names(table=table)
    blocks = _whole_batch(file, table)
    with opened(ctx) as session:
        key = named_feed(session, feed).state.key
        writer = session.vault.open_writer(unlock(ctx, session, passphrase_file, appending=True), key)
        result = writer.append(blocks)
    out.record(
        "append",
        {
            "feed": feed,
            "table": table,
            "key": _written_to(out, key, result.key),
            "entries": result.length - result.start,
            "first": result.start,
            "length": result.length,
            "tree": result.head.tree_hash.hex(),
        },
    )


def _written_to(out: Output, named: FeedKey, written: FeedKey) -> str:
    """The key of the feed that was written, which is another one when the named one may not be signed any more."""
    from identity.textforms import to_zbase32

    if written != named:
        out.note(f"feed {to_zbase32(named)} is retired; feed {to_zbase32(written)} continues it")
    return to_zbase32(written)


def _whole_batch(file: Path, table: str) -> list[bytes]:
    """All records of a JSON Lines file, as the blocks that they are stored in."""
    name = source_name(file)
    source = BytesIO(read_input(file, MAX_APPEND_BYTES))
    blocks = list(record_blocks(read_json_lines(source, name=name), table, name))
    if not blocks:
        raise RefusedError(f"{name}: there is no record in it")
    return blocks


@group.add(
    "import",
    examples=[
        "holdfast feed import ledger payments.csv --columns 'id:int,booked:date,amount:dec,note:text?'",
        "holdfast feed import ledger payments.jsonl --table payments --dry-run",
        "holdfast feed import ledger payments.csv --on-error skip=unfit.jsonl",
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
    delimiter: Annotated[str, typer.Option("--delimiter", metavar="C", help="Between CSV fields; or: tab.")] = ",",
    encoding: Annotated[str, typer.Option("--encoding", help=f"Of a CSV file: {', '.join(ENCODINGS)}.")] = "utf-8",
    batch: Annotated[
        int, typer.Option("--batch", min=1, max=65_536, metavar="N", help="Entries to a signature, at most.")
    ] = DEFAULT_BATCH,
    on_error: Annotated[
        str | None,
        typer.Option("--on-error", metavar="skip=FILE", help="Write rows that do not fit to FILE and import the rest."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read and check every row, and write nothing.")] = False,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Import a table, whole or not at all: the first row that does not fit ends it, and nothing is written.

    With --on-error skip=FILE such rows go to FILE instead, with the reason, as JSON Lines; all others are imported.
    """
    kind = table_kind(file, format_)
    out = invocation(ctx).out
    name = source_name(file)
    into = ("records" if str(file) == "-" else file.stem) if table is None else table
    check_names(table=into)
    with opened(ctx, read_only=dry_run) as session, open_input(file) as stream, skipping(out, on_error) as skipped:
        key = named_feed(session, feed).state.key
        ring = None if dry_run else unlock(ctx, session, passphrase_file, appending=True)
        rows = read_rows(stream, kind, columns, name, delimiter, encoding, skipped)
        blocks = record_blocks(rows, into, name, skipped)
        with progress(out, f"import {name}") as advance:
            facts = _count(blocks, advance) if ring is None else _write(out, session, ring, key, blocks, batch, advance)
    unfit = 0 if skipped is None else skipped.count
    if unfit:
        out.note(
            f"{unfit} rows of {name} do not fit and were skipped; {skip_file(on_error)} has them, with the reasons"
        )
    if not facts["rows"]:
        out.note(f"{name} has no rows{' that fit' if unfit else ''}; nothing was written")
    out.record("import", {"feed": feed, "table": into, **facts, "skipped": unfit, "dry_run": dry_run})


def _count(blocks: Iterator[bytes], advance: Advance) -> dict[str, Plain]:
    count = 0
    for _ in blocks:
        count += 1
        advance(1)
    return {"key": None, "rows": count, "first": None, "length": None, "tree": None}


def _write(
    out: Output, session: Session, ring: KeyRing, key: FeedKey, blocks: Iterator[bytes], batch: int, advance: Advance
) -> dict[str, Plain]:
    result = session.vault.import_blocks(ring, key, blocks, batch=batch, on_batch=advance)
    if result is None:
        return {"key": None, "rows": 0, "first": None, "length": None, "tree": None}
    return {
        "key": _written_to(out, key, result.key),
        "rows": result.length - result.start,
        "first": result.start,
        "length": result.length,
        "tree": result.head.tree_hash.hex(),
    }


# --- reading --------------------------------------------------------------------------------------------------------


@group.add("read", examples=["holdfast feed read ledger 41", "holdfast feed read ledger 10:20 --json"])
def read(
    ctx: typer.Context,
    feed: Feed,
    where: Annotated[str, typer.Argument(metavar="[INDEX|START:STOP]", help="Which entries; all by default.")] = ":",
) -> None:
    """Show entries: index, kind, claimed time, content. The claimed time proves nothing.

    Under --json, decimals, dates and times keep their typed forms, such as {"$dec": "12.30"}: 'feed append' and
    'feed import' read them.
    """
    out = invocation(ctx).out
    with opened(ctx, read_only=True) as session, session.vault.store.read() as tx:
        info = named_feed(session, feed)
        start, stop = _range(where, info.state.length)
        rows = _shown(out, tx.blocks(info.state.key, start, stop), start)
        out.table("entry", ("index", "entry", "claimed", "content"), rows)


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


def _shown(out: Output, blocks: Iterator[bytes], start: int) -> Iterator[tuple[Plain, ...]]:
    from identity.errors import MalformedError
    from ledger.entry import parse_entry
    from ledger.values import to_plain

    show = _typed if out.json else to_plain
    for index, block in enumerate(blocks, start):
        try:
            entry = parse_entry(block)
        except MalformedError:
            yield index, "opaque", None, block.hex()
        else:
            yield index, entry.kind, time_text(out, entry.claimed_ms), cast("Plain", show(entry.body))


def _typed(value: object) -> object:
    """As it is stored, with bytes in hex."""
    match value:
        case bytes():
            return value.hex()
        case list():
            return [_typed(item) for item in value]
        case Mapping():
            return {key: _typed(item) for key, item in value.items()}
    return value


@group.add("heads", examples=["holdfast feed heads ledger", "holdfast feed heads ledger --json"])
def heads(ctx: typer.Context, feed: Feed) -> None:
    """Every signed head of a feed: length, tree hash, signature."""
    with opened(ctx, read_only=True) as session, session.vault.store.read() as tx:
        info = named_feed(session, feed)
        rows = ((head.length, head.tree_hash.hex(), head.signature.hex()) for head in tx.heads(info.state.key))
        invocation(ctx).out.table("head", ("length", "tree", "signature"), rows)


@group.add("audit", examples=["holdfast feed audit ledger", "holdfast feed audit ledger --json"])
def audit(ctx: typer.Context, feed: Feed) -> ExitCode:
    """Re-read every byte of a feed, recompute every hash and verify every signature; name the first bad entry."""
    from api.cli.audit import audit_one

    with opened(ctx, read_only=True) as session:
        clean = audit_one(invocation(ctx).out, session, named_feed(session, feed))
    return ExitCode.OK if clean else ExitCode.FAILED


# --- handing over ---------------------------------------------------------------------------------------------------


@group.add(
    "export", examples=["holdfast feed export ledger -o ledger.feed", "holdfast feed export ledger -o - | sha256sum"]
)
def export(ctx: typer.Context, feed: Feed, output: OutputFile, force: Force = False) -> None:
    """Write a feed with its identity's events and every signed head, for another store to ingest."""
    from ledger.transfer import export_feed

    out = invocation(ctx).out
    with opened(ctx, read_only=True) as session:
        info = named_feed(session, feed)
        with open_output(out, output, force=force) as stream:
            length = export_feed(session.vault.store, info.state.key, stream)
    written(out, "feed-export", output, {"feed": info.name, "key": info.key_text, "length": length})


@group.add("ingest", examples=["holdfast feed ingest ledger.feed", "holdfast feed ingest ledger.feed --home copy.home"])
def ingest(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What 'feed export' wrote; - for stdin.")],
) -> None:
    """Take in another writer's feed. Everything is verified before anything is kept: whole or nothing."""
    from api.databases import Databases
    from identity.textforms import to_hex, to_zbase32
    from ledger.transfer import ingest_feed

    out = invocation(ctx).out
    with opened(ctx) as session:
        with open_input(file) as stream, keeping_fork_proofs(out, session):
            session.vault.require_writable()
            result = ingest_feed(session.vault.store, stream)
        with Databases(session) as databases:
            databases.take_in()
    out.record(
        "ingest",
        {
            "key": to_zbase32(result.key),
            "identity": to_hex(result.identity),
            "first": result.start,
            "length": result.length,
            "new": result.length - result.start,
        },
    )
