"""The ledger: feeds with their heads, blocks and proofs, the checkpoint log, anchors, and whether all of it holds.

What is about the feeds of one database is for whoever may prove things of it, if the request names it. All else is the
node's.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Final

from fastapi import Query
from fastapi.responses import Response

from anchoring.storage import load_anchors, load_timestamps
from api.access.action import Operation
from api.models import (
    AnchorList,
    AuditModel,
    BlockList,
    CheckpointList,
    CheckpointModel,
    FeedList,
    FeedModel,
    HeadList,
    NewCheckpoint,
    RollbackModel,
)
from api.problems import NotFound
from api.routes.dependencies import Call, Called, Limit, Routes, answer
from api.routes.forms import time_json
from api.store_audit import audit_store, database_faults
from api.vault import FeedInfo
from identity.errors import MalformedError, MissingEvidenceError, RefusedError, StoreBusy
from identity.textforms import parse_zbase32, to_base64, to_did_key, to_hex
from ledger.manifest import parse_manifest
from ledger.proof import encode_proof
from ledger.proof_making import make_proof
from ledger.sparse_fetch import StoredTree
from ledger.store import StoredCheckpoint, newest_checkpoint
from sync.storage.projection import feed_name

__all__ = ["feed_of", "routes"]

routes = Routes("ledger")

_MAX_BLOCKS: Final = 1000
_MAX_BLOCK_BYTES: Final = 8 * 1024 * 1024
"""Of the blocks of one answer; one that is larger by itself is given alone."""

Database = Annotated[
    str | None,
    Query(description="The database that it is about: then its members may ask, else only the node's own devices."),
]
Index = Annotated[int, Query(ge=0, le=2**53 - 1)]


# --- asking ---------------------------------------------------------------------------------------------------------


def _allow(call: Call, database: str | None) -> bytes | None:
    """Ask for a proof about a database, or about the node. Returns the database's id."""
    if database is None:
        call.allow()
        return None
    return call.on(database).database.uid


def feed_of(call: Call, database: str | None, key: str) -> FeedInfo:
    """The feed with this key. Raises ``Forbidden``, ``NotFound`` when there is none, or it is not of that database."""
    uid = _allow(call, database)
    parse_zbase32(key)
    try:
        info = call.node.session.vault.find_feed(key)
    except MissingEvidenceError as exc:
        raise NotFound(f"there is no feed {key}") from exc
    if uid is not None and not _is_of(info, uid):
        raise NotFound(f"the database has no feed {key}")
    return info


def _is_of(info: FeedInfo, uid: bytes) -> bool:
    return info.description is not None and info.description.name == feed_name(uid)


# --- feeds ----------------------------------------------------------------------------------------------------------


@routes.declare("GET", "/feeds", Operation.PROVE, answers=FeedList)
def read_feeds(call: Called, database: Database = None) -> Response:
    """Every feed of the node, or those of a database."""
    uid = _allow(call, database)
    infos = call.node.session.vault.feeds()
    rows = [_feed(info) for info in infos if uid is None or _is_of(info, uid)]
    return answer({"v": 1, "kind": "feeds", "feeds": rows})


@routes.declare("GET", "/feeds/{feed}", Operation.PROVE, answers=FeedModel)
def read_feed(call: Called, feed: str, database: Database = None) -> Response:
    """A feed, with its newest signed head and its manifest."""
    info = feed_of(call, database, feed)
    with call.node.session.vault.store.read() as tx:
        head = tx.head(info.state.key, info.state.length)
    facts = None if head is None else _head(head.length, head.tree_hash, head.signature)
    return answer({**_feed(info), "manifest": to_base64(info.state.manifest), "head": facts})


@routes.declare("GET", "/feeds/{feed}/heads", Operation.PROVE, answers=HeadList)
def read_heads(call: Called, feed: str, above: Index = 0, limit: Limit = 100, database: Database = None) -> Response:
    """Every head that was signed, above a length. ``more``: there are longer ones."""
    info = feed_of(call, database, feed)
    rows: list[dict[str, Any]] = []
    with call.node.session.vault.store.read() as tx:
        for head in tx.heads(info.state.key, above):
            rows.append(_head(head.length, head.tree_hash, head.signature))
            if len(rows) > limit:
                break
    return answer({"v": 1, "kind": "heads", "heads": rows[:limit], "more": len(rows) > limit})


@routes.declare("GET", "/feeds/{feed}/blocks", Operation.PROVE, answers=BlockList)
def read_blocks(
    call: Called,
    feed: str,
    start: Index = 0,
    limit: Annotated[int, Query(ge=1, le=_MAX_BLOCKS, description="How many, at most.")] = 100,
    database: Database = None,
) -> Response:
    """Blocks from ``start`` on, in base64: as many as are asked for, and fit into one answer."""
    info = feed_of(call, database, feed)
    blocks: list[str] = []
    size = 0
    with call.node.session.vault.store.read() as tx:
        for block in tx.blocks(info.state.key, start, min(start + limit, info.state.length)):
            size += len(block)
            if blocks and size > _MAX_BLOCK_BYTES:
                break
            blocks.append(to_base64(block))
    facts = {"start": start, "blocks": blocks, "length": info.state.length}
    return answer({"v": 1, "kind": "blocks", "feed": info.key_text, **facts})


@routes.declare("GET", "/feeds/{feed}/proofs/{index}", Operation.PROVE, media="application/octet-stream")
def read_proof(call: Called, feed: str, index: int, since: Index = 0, database: Database = None) -> Response:
    """An entry with the proof that it is in the feed, under the newest signed head: a message of Hypercore's.

    ``since``: the length that the reader holds already.
    """
    info = feed_of(call, database, feed)
    key, length = info.state.key, info.state.length
    with call.node.session.vault.store.read() as tx:
        head = tx.head(key, length)
        if head is None or not since <= index < length:
            raise NotFound(f"the feed has {length} entries: there is no entry {index} from {since} on")
        made = make_proof(StoredTree(tx, key, length), head, block=index, upgrade=(since, length - since))
        data = encode_proof(replace(made, manifest=parse_manifest(info.state.manifest)))
    return Response(data, media_type="application/octet-stream")


def _feed(info: FeedInfo) -> dict[str, Any]:
    return {
        "v": 1,
        "kind": "feed",
        "name": info.name,
        "key": info.key_text,
        "length": info.state.length,
        "bytes": info.state.byte_length,
        "local": info.state.local,
        "retired": info.state.retired,
        "device": None if info.device is None else to_did_key(info.device),
        "identity": None if info.description is None else to_hex(info.description.identity),
    }


def _head(length: int, tree_hash: bytes, signature: bytes) -> dict[str, Any]:
    return {"length": length, "tree": to_hex(tree_hash), "signature": to_hex(signature)}


# --- the checkpoint log ---------------------------------------------------------------------------------------------


@routes.declare("GET", "/checkpoints", Operation.PROVE, answers=CheckpointList)
def read_checkpoints(call: Called, above: Index = 0, limit: Limit = 100, database: Database = None) -> Response:
    """The checkpoints of the node's log above a size, with their tokens and anchors. ``more``: there are others."""
    _allow(call, database)
    rows: list[dict[str, Any]] = []
    with call.node.session.vault.store.read() as tx:
        states = {anchor.size: anchor.state.value for anchor in load_anchors(tx.connection)}
        for one in tx.checkpoints(above):
            tokens = len(load_timestamps(tx.connection, one.size))
            rows.append(
                {"size": one.size, "root": one.root.hex(), "tokens": tokens, "anchor": states.get(one.size, "none")}
            )
            if len(rows) > limit:
                break
    return answer({"v": 1, "kind": "checkpoints", "checkpoints": rows[:limit], "more": len(rows) > limit})


@routes.declare("GET", "/checkpoints/newest", Operation.PROVE, media="text/plain")
def read_newest_checkpoint(call: Called, database: Database = None) -> Response:
    """The newest checkpoint: a signed note, as other tools read it."""
    _allow(call, database)
    with call.node.session.vault.store.read() as tx:
        return _note(newest_checkpoint(tx))


@routes.declare("GET", "/checkpoints/{size}", Operation.PROVE, media="text/plain")
def read_checkpoint(call: Called, size: int, database: Database = None) -> Response:
    """A checkpoint's signed note."""
    _allow(call, database)
    if not 0 <= size < 2**53:
        raise MalformedError("size: not one of a checkpoint")
    with call.node.session.vault.store.read() as tx:
        return _note(tx.checkpoint(size))


def _note(found: StoredCheckpoint | None) -> Response:
    if found is None:
        raise NotFound("there is no such checkpoint")
    return Response(found.note, media_type="text/plain; charset=utf-8")


@routes.declare("POST", "/checkpoints", Operation.OPERATE, answers=CheckpointModel, status=201, body=NewCheckpoint)
def create_checkpoint(call: Called) -> Response:
    """Log every head that has changed, with the tokens and anchors that came since, and sign it."""
    body = call.read(NewCheckpoint)
    call.allow()
    ring = call.node.ring
    if ring is None:
        raise RefusedError("this node is open for reading only")

    def create() -> Response:
        made = call.node.session.vault.checkpoint(ring, restate=body.restate)
        facts = {"size": made.size, "root": made.root.hex(), "note": made.note}
        return answer({"v": 1, "kind": "checkpoint", **facts}, 201)

    return call.once(create)


@routes.declare("GET", "/anchors", Operation.PROVE, answers=AnchorList)
def read_anchors(call: Called, database: Database = None) -> Response:
    """Every anchor with its state and since when. Nothing below final is an anchor."""
    _allow(call, database)
    with call.node.session.vault.store.read() as tx:
        rows = [
            {
                "size": one.size,
                "root": one.root.hex(),
                "anchor": one.state.value,
                "block": one.block_number,
                "block_hash": None if one.block_hash is None else one.block_hash.hex(),
                "since": time_json(one.changed_ms),
                "reason": one.reason,
            }
            for one in load_anchors(tx.connection)
        ]
    return answer({"v": 1, "kind": "anchors", "anchors": rows})


# --- whether it holds -----------------------------------------------------------------------------------------------


@routes.declare("GET", "/rollback", Operation.PROVE, answers=RollbackModel)
def read_rollback(call: Called, database: Database = None) -> Response:
    """Whether the chain agrees with the node's log: asked now, or a moment ago."""
    _allow(call, database)
    found = call.node.standing()
    return answer(
        {"v": 1, "kind": "rollback", "state": found.state, "writable": found.writable, "detail": found.detail}
    )


@routes.declare("POST", "/audit", Operation.OPERATE, answers=AuditModel)
def audit(call: Called) -> Response:
    """Replay the log, and compare every row, and the tables of every database, with what follows from the feeds.

    The blocks of the feeds are for 'holdfast audit'. One audit goes on at a time.
    """
    call.allow()
    with call.node.auditing() as is_first:
        if not is_first:
            raise StoreBusy("an audit is under way")
        session = call.node.session
        log_id, _ = session.vault.log_descriptor()
        with session.vault.store.read() as tx:
            found = audit_store(tx, log_id, call.node.trusted()[0])
        faults = [*found.faults, *database_faults(session.vault.store)]
    verdict = "FAILED" if faults else "PASSED"
    return answer({"v": 1, "kind": "audit", "verdict": verdict, "faults": faults, "doubts": found.doubts})
