"""``holdfast proof``: parts of feeds, handed over and read one by one, and proofs of forks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from api.cli.exit_codes import ExitCode
from api.cli.files import open_output, read_input, written
from api.cli.forks import keeping_fork_proofs
from api.cli.group import CommandGroup, invocation
from api.cli.session import Force, OutputFile, named_feed, opened

if TYPE_CHECKING:
    from api.bootstrap import Session
    from ledger.sparse import HeldFeed
    from ledger.storage.sql import SqlReadTransaction

__all__ = ["group"]

Feed = Annotated[str, typer.Argument(metavar="FEED", help="The feed's name or key.")]
File = Annotated[Path, typer.Argument(metavar="FILE", help="The file; - for stdin.")]

group = CommandGroup("proof", "Proofs: single entries of a feed, handed over and taken in, and proofs of forks.")


@group.add("create", examples=["holdfast proof create ledger 41 -o 41.proof", "holdfast proof create ledger 41 -o -"])
def create(
    ctx: typer.Context,
    feed: Feed,
    index: Annotated[int, typer.Argument(metavar="INDEX", min=0, help="Which entry.")],
    output: OutputFile,
    since: Annotated[
        int, typer.Option("--from", min=0, metavar="LENGTH", help="The length that the reader holds already.")
    ] = 0,
    force: Force = False,
) -> None:
    """Write one entry with the proof that it is in the feed, under the newest signed head.

    The file is a message of Hypercore's, with the feed's manifest: Hypercore verifies it too.
    """
    from dataclasses import replace

    from identity.errors import MissingEvidenceError
    from ledger.manifest import parse_manifest
    from ledger.proof import encode_proof
    from ledger.proof_making import make_proof
    from ledger.sparse_fetch import StoredTree

    out = invocation(ctx).out
    with opened(ctx, read_only=True) as session, session.vault.store.read() as tx:
        info = named_feed(session, feed)
        key, length = info.state.key, info.state.length
        head = tx.head(key, length)
        if head is None or not since <= index < length:
            raise MissingEvidenceError(f"the feed has {length} entries: there is no entry {index} from {since} on")
        upgrade = (since, length - since)
        made = make_proof(StoredTree(tx, key, length), head, block=index, upgrade=upgrade)
        data = encode_proof(replace(made, manifest=parse_manifest(info.state.manifest)))
        with open_output(out, output, force=force) as stream:
            stream.write(data)
    written(out, "feed-proof", output, {"feed": info.name, "key": info.key_text, "index": index, "bytes": len(data)})


@group.add("ingest", examples=["holdfast proof ingest 41.proof", "holdfast proof ingest 41.proof --home copy.home"])
def ingest(ctx: typer.Context, file: File) -> None:
    """Take in what 'proof create' wrote. It is verified before anything is kept; the feed is then held in part."""
    from identity.textforms import to_zbase32
    from ledger.proof import MAX_PROOF_BYTES
    from ledger.sparse_fetch import ingest_proof

    out = invocation(ctx).out
    data = read_input(file, MAX_PROOF_BYTES)
    with opened(ctx) as session, keeping_fork_proofs(out, session):
        session.vault.require_writable()
        done = ingest_proof(session.vault.store, data)
    out.record("proof-ingest", {"key": to_zbase32(done.key), "index": done.block, "length": done.length})


@group.add(
    "read",
    examples=[
        "holdfast proof read ledger --offset 4096 --length 512 -o -",
        "holdfast proof read ledger --offset 0 --length 100 -o first.bin",
    ],
)
def read(
    ctx: typer.Context,
    feed: Feed,
    offset: Annotated[int, typer.Option("--offset", min=0, metavar="N", help="The first byte, from 0.")],
    length: Annotated[int, typer.Option("--length", min=0, metavar="N", help="How many bytes.")],
    output: OutputFile,
    force: Force = False,
) -> None:
    """Read bytes of a feed as if its entries stood one behind the other. The feed may be held in part."""
    from ledger.sparse import read_bytes

    out = invocation(ctx).out
    with opened(ctx, read_only=True) as session, session.vault.store.read() as tx:
        held = _held(session, tx, feed)
        with open_output(out, output, force=force) as stream:
            for piece in read_bytes(held, offset, length):
                stream.write(piece)
    written(out, "feed-bytes", output, {"feed": feed, "offset": offset, "length": length})


@group.add("list", examples=["holdfast proof list", "holdfast proof list --json"])
def list_(ctx: typer.Context) -> ExitCode:
    """Every feed that is held in part: its signed length, how many entries are here, and what is wrong with them.

    Every hash and signature of them is computed anew; a fault ends it with FAILED.
    """
    from identity.textforms import to_zbase32
    from ledger.storage.sparse import sparse_faults, sparse_feeds

    with opened(ctx, read_only=True) as session, session.vault.store.read() as tx:
        rows = [
            (to_zbase32(held.key), held.length, len(held.blocks()), "; ".join(sparse_faults(held)) or None)
            for held in sparse_feeds(tx.connection)
        ]
    invocation(ctx).out.table("partial-feed", ("key", "length", "held", "fault"), rows)
    return ExitCode.FAILED if any(fault for *_, fault in rows) else ExitCode.OK


@group.add("check-fork", examples=["holdfast proof check-fork 3f2a.fork", "holdfast proof check-fork 3f2a.fork --json"])
def check_fork(ctx: typer.Context, file: File) -> None:
    """Verify a proof of a fork: two signed heads of one feed that cannot both be true. Needs no home.

    It ends well when the proof holds, which means that the feed's signer told two histories.
    """
    from identity.textforms import to_zbase32
    from ledger.fork import MAX_FORK_BYTES, parse_fork, verify_fork

    proof = parse_fork(read_input(file, MAX_FORK_BYTES))
    fork = verify_fork(proof.manifest, proof)
    first, second = fork.first, fork.second
    invocation(ctx).out.record(
        "fork",
        {
            "key": to_zbase32(first.feed_key),
            "common": proof.common,
            "lengths": [first.length, second.length],
            "forks": [first.fork, second.fork],
            "trees": [first.tree_hash.hex(), second.tree_hash.hex()],
        },
    )


def _held(session: Session, tx: SqlReadTransaction, feed: str) -> HeldFeed:
    """A feed of the store by its name or key, whole or in part. Raises ``UsageError`` for one that is neither."""
    from identity.textforms import to_zbase32
    from ledger.sparse_fetch import StoredTree
    from ledger.storage.sparse import sparse_feeds

    for held in sparse_feeds(tx.connection):
        if to_zbase32(held.key) == feed:
            return held
    state = named_feed(session, feed).state
    return StoredTree(tx, state.key, state.length)
