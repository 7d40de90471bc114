"""The audit of what is kept beside the ledger of feeds that forked: blocks, trees, signed heads and proofs.

Nothing else in a store says what these have to be, so they are verified as when they came: each head under the feed's
manifest, each block under a head, and that there is a reason to keep them aside.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from identity.encoding import Fields, decode
from identity.errors import AuditError, DamagedFile, MalformedError, VerificationError
from identity.textforms import to_zbase32
from ledger.flattree import full_roots
from ledger.fork import parse_fork, verify_fork
from ledger.head import FORK, SIGNABLE_BYTES, signable, verify_head
from ledger.manifest import MAX_MANIFEST_BYTES, Manifest, feed_key, parse_manifest
from ledger.merkle import TreeBuilder
from ledger.noderow import pack_nodes
from ledger.storage.rows import checked
from ledger.store import FeedKey
from sync.storage.audit_queries import AuditQueries, audit_queries_for
from sync.storage.sides import SideReason

__all__ = ["audit_sides"]

_ROWS_A_TIME: Final = 256


def audit_sides(tx: Any, dialect: str, database: int) -> Iterator[str]:
    """Each fault in words. Total."""
    queries = audit_queries_for(dialect)
    for row in tx.fetch_all(queries.sides, (database,)):
        try:
            _check_side(tx, queries, row)
        except AuditError as exc:
            yield f"side {row[0]} of a feed that forked: {exc}"


def _check_side(tx: Any, queries: AuditQueries, row: Sequence[Any]) -> None:
    number, feed, told, first, length, reason, proof, refused = checked(
        row, int, bytes, bytes, int, int, str, bytes, int
    )
    manifest = parse_manifest(told)
    if feed_key(manifest) != feed:
        raise VerificationError(f"the manifest is not that of feed {to_zbase32(feed)}")
    if reason not in {one.value for one in SideReason} or refused not in (0, 1):
        raise DamagedFile("it is kept for a reason that is none")
    _check_proof(manifest, SideReason(reason), proof)
    if refused:
        if length != first or tx.fetch_all(queries.side_blocks, (number, -1, 1)):
            raise DamagedFile("it was one too many, and has blocks")
        return
    roots = [tx.node(FeedKey(feed), index) for index in full_roots(first)]
    _check_blocks(tx, queries, number, manifest, TreeBuilder(roots, first), length)


def _check_blocks(
    tx: Any, queries: AuditQueries, number: int, manifest: Manifest, tree: TreeBuilder, length: int
) -> None:
    """Every block, the nodes that it completes, and the heads over them, from the block on at which ``tree`` stands."""
    heads = {row[0]: row[1:] for row in tx.fetch_all(queries.side_heads, (number,))}
    if not heads or max(heads) != length:
        raise DamagedFile("its last block is under no head")
    after = -1
    while rows := tx.fetch_all(queries.side_blocks, (number, after, _ROWS_A_TIME)):
        for row in rows:
            seq, nodes, data = checked(row, int, bytes, bytes)
            if seq != tree.length or nodes != pack_nodes(tree.append(data)):
                raise DamagedFile(f"block {seq} or its nodes are not those that were signed")
            if tree.length in heads:
                tree_hash, signature = checked(heads.pop(tree.length), bytes, bytes)
                verify_head(manifest, tree_hash, tree.length, FORK, signature, roots=tree.roots)
                if tree_hash != tree.tree_hash():
                    raise VerificationError(f"head {tree.length} is over another tree")
        after = rows[-1][0]
    if tree.length != length or heads:
        raise DamagedFile("blocks are missing, or heads are over blocks that are not there")


def _check_proof(manifest: Manifest, reason: SideReason, proof: bytes) -> None:
    """Return only when the proof shows why the side is kept."""
    if reason is SideReason.FORKED:
        verify_fork(manifest, parse_fork(proof))
    elif reason is SideReason.RIVAL:
        _check_rivals(manifest, proof)
    elif proof:
        raise DamagedFile("it has a proof, and nothing to prove")


def _check_rivals(manifest: Manifest, proof: bytes) -> None:
    fields = Fields(decode(proof), "rivals")
    manifests = [parse_manifest(_bytes(one)) for one in fields.list("manifests", min=2, max=2)]
    heads = [_bytes(one) for one in fields.list("heads", min=2, max=2)]
    fields.done()
    if manifests[1] != manifest or manifests[0] == manifest:
        raise VerificationError("the rivals are other feeds")
    for one, head in zip(manifests, heads, strict=True):
        if head:
            _check_statement(one, head)


def _check_statement(manifest: Manifest, head: bytes) -> None:
    # context, feed key, tree hash, length, fork counter
    tree_hash = head[SIGNABLE_BYTES - 48 : SIGNABLE_BYTES - 16]
    length = int.from_bytes(head[SIGNABLE_BYTES - 16 : SIGNABLE_BYTES - 8], "little")
    if head[:SIGNABLE_BYTES] != signable(feed_key(manifest), tree_hash, length):
        raise VerificationError("a head of the rivals is of another feed")
    verify_head(manifest, tree_hash, length, FORK, head[SIGNABLE_BYTES:])


def _bytes(value: object) -> bytes:
    if not isinstance(value, bytes) or len(value) > MAX_MANIFEST_BYTES:
        raise MalformedError("rivals: manifests and heads are bytes")
    return value
