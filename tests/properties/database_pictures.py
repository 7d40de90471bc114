"""What a replica says of a database, in words that mean the same on every one, and what that is held against."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import note

from identity.encoding import decode, encode
from identity.keys import verify_signature
from ledger.fork import parse_fork, verify_fork
from ledger.manifest import describe, device_key, feed_key, parse_manifest
from ledger.values import Reference
from sync.cells import WRITES, CellKind
from sync.lines import KnownFeed
from sync.membership import Author
from sync.replay import Replay
from sync.stateroot import leaf_of, state_root
from sync.storage.projection import feed_name
from sync.storage.queries import queries_for
from sync.storage.sides import SideReason, Sides
from sync.storage.state_leaves import leaves_now
from sync.transaction import DocumentId

from .database_oracle import Feed, Name, Oracle, Shown

Versions = dict[Any, Any]
"""What each ETag has stood for so far, and the other way round."""


class Picture:
    """All that the tables of a replica say."""

    def __init__(self, replica: Any) -> None:
        self.replica = replica
        with replica.store.read() as tx, replica.db.read() as reader:
            number = reader.number
            rows = tx.fetch_all(f"SELECT id, feed, uid FROM database_branch WHERE database = {number}")
            branches = {row[0]: row[1:] for row in rows}
            chosen = f"branch IN (SELECT id FROM database_branch WHERE database = {number})"
            txns = tx.fetch_all(f"SELECT branch, seq, leaf, place, ops, masked FROM database_txn WHERE {chosen}")
            self.of_place = {
                place: Reference(branches[branch][0], seq, leaf) for branch, seq, leaf, place, _, _ in txns
            }
            self.branches = {self.of_place[place]: branches[branch][1] for branch, _, _, place, _, _ in txns}
            strays = tx.fetch_all(f"SELECT feed, seq, leaf FROM database_stray WHERE database = {number}")
            self.strays = {Reference(*row) for row in strays}
            self.reasons = {self.of_place[place]: masked for *_, place, _, masked in txns}
            self._read_documents(tx, reader, number, chosen)
            contests = tx.fetch_all(
                f"SELECT document, guarded, other FROM database_contest WHERE document IN ({self.ids})"
            )
            self.root = state_root(leaves_now(reader))
        self.contests = {(self.names[one], self.of_place[e], self.of_place[f]) for one, e, f in contests}

    def _read_documents(self, tx: Any, reader: Any, number: int, chosen: str) -> None:
        columns = "id, collection, key, etag, shown, conflicts"
        rows = tx.fetch_all(f"SELECT {columns} FROM database_document WHERE database = {number} ORDER BY id")
        self.ids = ", ".join(str(row[0]) for row in rows) or "0"
        self.names = {row[0]: DocumentId(*row[1:3]) for row in rows}
        self.rows = {self.names[row[0]]: tuple(row[3:]) for row in rows}
        self.states = {name: reader.document(name) for name in self.rows}
        ops = tx.fetch_all(f"SELECT place, branch, seq, op, document, dead FROM database_op WHERE {chosen}")
        entries = sorted(self.of_place)
        self.dead: dict[Name, int | None] = {}
        self.op_at: dict[int, Name] = {}
        for place, _, _, op, _, dead in ops:
            name = (self.of_place[max(one for one in entries if one < place)], op)
            self.dead[name], self.op_at[place] = dead, name

    def state(self) -> Any:
        """What two replicas with the same entries have in common."""
        documents = {
            name: (state.etag, state.view.cells and _cells(state.view), state.view.deleted, set(state.view.conflicts))
            for name, state in self.states.items()
        }
        return (
            self.reasons,
            self.branches,
            self.strays,
            documents,
            self.rows,
            self.contests,
            {name for name, dead in self.dead.items() if not dead},
            self.root,
        )


def _cells(view: Any) -> dict[tuple[str, CellKind], list[bytes]]:
    return {(cell.path, cell.kind): [encode(value) for value in cell.values] for cell in view.cells}


# --- the feeds ------------------------------------------------------------------------------------------------------


def feeds_of(replica: Any) -> list[Feed]:
    """The database's feeds as they stand in the replica's store, empty ones too, each with all its histories."""
    found = []
    with replica.store.read() as tx, replica.db.read() as reader:
        sides = Sides(tx, queries_for(replica.store.dialect), reader.number)
        for key in sorted({*(state.key for state in tx.feeds()), *sides.feeds()}):
            state = tx.feed(key)
            manifest = parse_manifest(sides.manifest(key) if state is None else state.manifest)  # type: ignore[arg-type]
            told = describe(manifest)
            if told is None or told.name != feed_name(replica.world.uid):
                continue
            lines = tuple(tuple(line.blocks(0, line.length)) for line in sides.lines(key))
            found.append(Feed(Author(key, device_key(manifest), told.identity), lines, told.continues))
    return found


def known_feed(feed: Feed) -> KnownFeed:
    """A feed in the form in which ``Replay`` takes it: of each side what leaves the first line."""
    first, *others = feed.lines
    sides = [feed.known(number)[_common(first, other) :] for number, other in enumerate(others, 1)]
    return KnownFeed(feed.author, feed.known(), tuple(sides))


def _common(one: tuple[bytes, ...], other: tuple[bytes, ...]) -> int:
    differing = (at for at, (mine, its) in enumerate(zip(one, other, strict=False)) if mine != its)
    return next(differing, min(len(one), len(other)))


def trees_of(replica: Any) -> set[tuple[bytes, int, bytes]]:
    """What the replica holds: of each history of each feed the tree hash at every length."""
    found = set()
    with replica.store.read() as tx, replica.db.read() as reader:
        sides = Sides(tx, queries_for(replica.store.dialect), reader.number)
        for key in {*replica.feeds(), *sides.feeds()}:
            for line in sides.lines(key):
                found |= {(key, length, line.tree_hash(length)) for length in range(1, line.length + 1)}
    return found


def check_evidence(replica: Any) -> None:
    """Of every feed of which two histories are here something is kept that proves it to anybody."""
    with replica.store.read() as tx, replica.db.read() as reader:
        sides = Sides(tx, queries_for(replica.store.dialect), reader.number)
        for key in sides.feeds():
            kept = sides.of_feed(key)
            for side in kept:
                if side.reason is SideReason.FORKED:
                    proof = parse_fork(side.proof)
                    verified = verify_fork(proof.manifest, proof)
                    assert {verified.first.feed_key, verified.second.feed_key} == {key}
                elif side.reason is SideReason.RIVAL:
                    _check_rivals(decode(side.proof), key)
            assert len(sides.lines(key)) == 1 or any(side.reason is not SideReason.RIVAL for side in kept)


def _check_rivals(proof: Any, feed: bytes) -> None:
    """Two feeds that begin or continue the same, and a signature under each that is not empty."""
    manifests = [parse_manifest(manifest) for manifest in proof["manifests"]]
    assert feed in [feed_key(manifest) for manifest in manifests]
    older = [describe(manifest).continues for manifest in manifests]  # type: ignore[union-attr]
    assert (older[0] and older[0].key) == (older[1] and older[1].key)
    for manifest, head in zip(manifests, proof["heads"], strict=True):
        if head:
            verify_signature(manifest.signers[0].public_key, head[:112], head[114:178])


# --- held against the oracle ----------------------------------------------------------------------------------------


def check_replica(replica: Any, versions: Versions) -> Picture:
    """Hold what a replica shows against the feeds that it has."""
    feeds = feeds_of(replica)
    oracle = Oracle(replica.world.uid, feeds)
    picture = Picture(replica)
    assert picture.reasons.keys() == oracle.entries.keys()
    assert picture.branches == {one: oracle.branch(one) for one in oracle.entries}
    assert picture.strays == oracle.strays
    masked = {one for one, why in picture.reasons.items() if why}
    assert masked == {one for one, entry in oracle.entries.items() if entry.reason}
    assert picture.contests == oracle.contests
    assert picture.states.keys() == oracle.documents.keys()
    for name, shown in oracle.documents.items():
        _check_document(name, picture, shown, versions)
    _check_deaths(oracle, picture)
    _check_replay(Replay(replica.world.uid, [known_feed(feed) for feed in feeds]), oracle, picture)
    return picture


def _check_document(name: DocumentId, picture: Picture, shown: Shown, versions: Versions) -> None:
    state, (etag, flag, conflicts) = picture.states[name], picture.rows[name]
    _check_view(state.view, shown)
    assert state.etag == etag == shown.etag
    assert flag == (0 if not shown.live else 1 if state.view.exists else 2 if shown.deleted else 0)
    assert conflicts == len(state.view.conflicts)
    assert {one for one, dead in picture.dead.items() if not dead} >= shown.names
    # An ETag stands for what is live and where, and for nothing else. Two entries at one index of a feed have one only
    # where nobody knows yet that it forked: each replica has another one of them.
    live = frozenset((branch, one.index, op) for (one, op), branch in shown.live)
    assert (etag == "") == (not live)
    assert versions.setdefault((name, etag), live) == live
    assert versions.setdefault((name, live), etag) == etag


def _check_view(view: Any, shown: Shown) -> None:
    assert _cells(view) == shown.cells
    assert view.deleted == shown.deleted
    assert {(str(one.kind), one.path) for one in view.conflicts} == shown.conflicts
    if shown.fields is not None:
        assert encode(view.fields) == encode(shown.fields)
    assert view.exists == (shown.fields is not None)


def _check_deaths(oracle: Oracle, picture: Picture) -> None:
    """Nothing is lost: what was written is live, or was replaced by somebody who had seen it, or is masked."""
    everything = {(entry.reference, at): op for entry in oracle.entries.values() for at, op in enumerate(entry.ops)}
    assert picture.dead.keys() == everything.keys()
    live = set[Name]().union(*(shown.names for shown in oracle.documents.values()))
    assert {name for name, dead in picture.dead.items() if dead is None} == live
    counting = {name: op for name, op in everything.items() if oracle.counts(oracle.entries[name[0]])}
    for name, op in counting.items():
        if name not in live and op.verb in WRITES:
            killer = picture.op_at[picture.dead[name]]  # type: ignore[index]
            assert killer in set(oracle.killers(name, counting))


def _check_replay(replay: Replay, oracle: Oracle, picture: Picture) -> None:
    assert {one: why for one, why in picture.reasons.items() if why} == replay.masked
    assert {entry.reference for entry in replay.entries()} == picture.reasons.keys()
    assert {tuple(contest) for contest in replay.contests()} == picture.contests
    assert replay.linear_order() == oracle.linear_order()
    replayed = {document.name: document for document in replay.documents()}
    assert replayed.keys() == picture.states.keys()
    for name, document in replayed.items():
        state = picture.states[name]
        assert document.etag == state.etag
        assert document.view.fields == state.view.fields
        assert set(document.view.conflicts) == set(state.view.conflicts)
    leaves = [leaf_of(one.name, one.version, one.view) for one in replayed.values() if one.version is not None]
    assert state_root(sorted(leaves)) == picture.root


# --- the past -------------------------------------------------------------------------------------------------------


def check_as_of(replica: Any, chance: random.Random) -> None:
    """At a cut a replica shows what a fresh one would that was given only that much of each feed."""
    feeds, picture = feeds_of(replica), Picture(replica)
    with replica.db.read() as reader:
        branches = {branch.uid: branch.id for branch in reader.branches}
        place = chance.randint(0, reader.newest_place())
        within = frozenset(one for at, one in picture.of_place.items() if at + _ops_of(picture, at) <= place)
        _check_cut(reader, reader.known(place), Oracle(replica.world.uid, feeds, within))
        within = frozenset(one for one in picture.reasons if chance.random() < 0.9)
        oracle = Oracle(replica.world.uid, feeds, within)
        newest: dict[int, int] = {}
        for one in oracle.entries:
            branch = branches[picture.branches[one]]
            newest[branch] = max(one.index, newest.get(branch, -1))
        _check_cut(reader, reader.of_vector(newest), oracle)


def _ops_of(picture: Picture, place: int) -> int:
    return sum(name[0] == picture.of_place[place] for name in picture.dead)


def _check_cut(reader: Any, cut: Any, oracle: Oracle) -> None:
    rows = reader.tx.fetch_all(f"SELECT collection, key FROM database_document WHERE database = {reader.number}")
    for name in (DocumentId(*row) for row in rows):
        state, shown = reader.document_at(name, cut), oracle.documents.get(name)
        if state is None:
            assert shown is None or not shown.live
        else:
            assert shown is not None
            note(f"{name} as of {cut}")
            _check_view(state.view, shown)
            assert state.etag == shown.etag
