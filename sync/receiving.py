"""Identity events and runs of blocks on their way into a store, in one write transaction: everything verified first.

Implements docs/spec/bundle.md, sections "Reading" and "Forks", for whatever carries them: a bundle, or one frame of a
session. What goes beyond the ledger's line of its feed is appended to that, as an import of feeds would. What is signed
against it, or against another feed, ends nothing: it is kept beside the ledger (``sync.storage.sides``), because others
have seen those entries, and reported with the proof. When anything here raises, the transaction must not be committed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from identity.errors import (
    LimitExceeded,
    MalformedError,
    MissingEvidenceError,
    RefusedError,
    RootMismatch,
    VerificationError,
)
from identity.event import SignedEvent, event_digest, parse_event, parse_signed_event
from identity.history import KeyHistory
from ledger.identities import add_events, key_history
from ledger.manifest import Manifest, describe, encode_manifest, feed_key, parse_manifest
from ledger.merkle import Node, TreeBuilder
from ledger.store import FeedKey, FeedState, SignedHead
from ledger.succession import was_written_here
from ledger.transfer import MAX_EVENTS, MAX_EVENTS_BYTES
from sync.lineage import Lineage, description_of, rival_proof
from sync.report import FoundFork, SideReason
from sync.runs import Grown, Run
from sync.storage.projection import feed_name
from sync.storage.sides import LEDGER, MAX_SIDES, Line, Sides

__all__ = ["MAX_FEEDS", "MAX_IDENTITIES", "Advance", "Receiving"]

MAX_IDENTITIES: Final = 4096
"""Identities whose events one bundle can carry."""

MAX_FEEDS: Final = 65_536
"""Feeds that one bundle can have something of."""

Advance = Callable[[int], None]
"""Called with how many blocks were just written or taken in."""


class Receiving:
    """What comes in within one transaction. ``what`` carries it, for error messages."""

    def __init__(self, tx: Any, sides: Sides, database: bytes, what: str, advance: Advance | None = None) -> None:
        self.tx = tx
        self.sides = sides
        self.what = what
        self.lineage = Lineage(tx)
        self.grown: set[FeedKey] = set()
        self.blocks = self.events = 0
        """How many were new."""
        self.forks: list[FoundFork] = []
        self._name = feed_name(database)
        self._advance = advance
        self._events: list[SignedEvent] = []
        self._events_bytes = 0
        self._digests: set[bytes] = set()
        self._identity = b""
        self._identities = 0
        self._histories: dict[bytes, KeyHistory] = {}
        self._feeds: set[FeedKey] = set()
        self._feed: _Feed | None = None

    # Events come by ascending identity, then by seq. ``end_events`` stands behind the last one of all.

    def take_event(self, encoded: bytes) -> None:
        """The next identity event."""
        signed = parse_signed_event(encoded)
        event, digest = parse_event(signed.event), event_digest(signed.event)
        identity = digest if event.identity is None else event.identity
        if identity != self._identity:
            self.end_events()
            if identity < self._identity:
                raise MalformedError(f"{self.what}: identities are not in ascending order")
            self._identity, self._identities = identity, self._identities + 1
            if self._identities > MAX_IDENTITIES:
                raise LimitExceeded(f"{self.what}: more than {MAX_IDENTITIES} identities")
        elif not self._events or event.seq < parse_event(self._events[-1].event).seq or digest in self._digests:
            raise MalformedError(f"{self.what}: identity events are doubled or out of order")
        self._digests.add(digest)
        self._events_bytes += len(encoded)
        if len(self._events) == MAX_EVENTS or self._events_bytes > MAX_EVENTS_BYTES:
            raise LimitExceeded(
                f"{self.what}: more than {MAX_EVENTS} events of an identity, or {MAX_EVENTS_BYTES} bytes"
            )
        self._events.append(signed)

    def end_events(self) -> None:
        """What comes next is not about the same identity: keep the events, if they fold."""
        if self._events:
            self._histories = {}
            before = len(self.tx.identity_events(self._identity))
            add_events(self.tx, self._identity, self._events)
            self.events += len(self.tx.identity_events(self._identity)) - before
            self._events, self._events_bytes, self._digests = [], 0, set()

    # Runs: a feed, and then as often as there are runs of it ``begin_run``, blocks and their heads.

    def begin_feed(self, manifest: Manifest) -> None:
        """What follows is of the feed with this manifest, of which nothing has come yet."""
        key = feed_key(manifest)
        self._check_name(key, manifest)
        if key in self._feeds:
            raise MalformedError(f"{self.what}: feed {key.hex()} stands in it twice")
        self._enter(key, manifest)

    def go_on_with(self, key: FeedKey, manifest: bytes | None) -> None:
        """What follows is of that feed, of which something may have come before.

        Without a manifest it is one that is here, else ``MissingEvidenceError`` is raised.
        """
        if self._feed is not None and self._feed.key == key and manifest is None:
            return
        parsed = self._manifest_here(key) if manifest is None else parse_manifest(manifest)
        if feed_key(parsed) != key:
            raise VerificationError(f"{self.what}: the manifest is not that of feed {key.hex()}")
        self._check_name(key, parsed)
        self._enter(key, parsed)

    def begin_run(self, start: int, digest: bytes) -> None:
        """What follows are its blocks from ``start`` on, behind a tree with this hash."""
        self._current().begin_run(start, digest)

    def take_block(self, block: bytes) -> None:
        """The next block."""
        self._current().run.take_block(block)

    def take_head(self, head: SignedHead) -> None:
        """The head that signs the blocks up to here."""
        self._current().run.take_head(head)

    def kept(self, feed: FeedKey, blocks: int) -> None:
        """So many blocks were new."""
        self.grown.add(feed)
        self.blocks += blocks

    def passed(self, blocks: int) -> None:
        """So many blocks were verified."""
        if self._advance is not None:
            self._advance(blocks)

    def _current(self) -> _Feed:
        assert self._feed is not None, "a feed comes before its runs"
        return self._feed

    def _manifest_here(self, key: FeedKey) -> Manifest:
        state = self.tx.feed(key)
        held = self.sides.manifest(key) if state is None else state.manifest
        if held is None:
            raise MissingEvidenceError(
                f"{self.what}: nothing of feed {key.hex()} is here, and its manifest is not there"
            )
        return parse_manifest(held)

    def _check_name(self, key: FeedKey, manifest: Manifest) -> None:
        description = describe(manifest)
        if description is None or description.name != self._name:
            raise RefusedError(f"{self.what}: feed {key.hex()} is not one of this database")

    def _enter(self, key: FeedKey, manifest: Manifest) -> None:
        self._feeds.add(key)
        if len(self._feeds) > MAX_FEEDS:
            raise LimitExceeded(f"{self.what}: more than {MAX_FEEDS} feeds")
        identity = description_of(manifest).identity
        if identity not in self._histories:
            self._histories[identity] = key_history(self.tx, identity)
        if manifest.signers[0].public_key not in self._histories[identity].devices:
            raise VerificationError(
                f"{self.what}: the key that signs feed {key.hex()} was never a device of its identity"
            )
        self._feed = _Feed(self, key, manifest)


class _Feed:
    """One feed that something comes of: its lines that are here, and the run that is being read."""

    run: Run

    def __init__(self, receiving: Receiving, key: FeedKey, manifest: Manifest) -> None:
        self.receiving = receiving
        self.what = receiving.what
        self.key = key
        self.manifest = manifest
        self.lines = receiving.sides.lines(key)
        self._state: FeedState | None = receiving.tx.feed(key)

    def begin_run(self, start: int, digest: bytes) -> None:
        """Find the lines that the run joins. Raises ``MissingEvidenceError`` when there is none."""
        joined = [line for line in self.lines if line.length >= start and line.tree_hash(start) == digest]
        if start and not joined:
            held = max((line.length for line in self.lines), default=0)
            where = f"this {self.what} begins at block {start} of feed {self.key.hex()}"
            if held < start:
                raise MissingEvidenceError(f"{where}, {held} are here", hint="ask for a bundle since what is here")
            raise MissingEvidenceError(f"{where}, in a history that is not here", hint="ask for a complete bundle")
        roots = joined[0].roots(start) if start else ()
        tree = TreeBuilder(roots, start)
        if tree.tree_hash() != digest:
            raise RootMismatch(f"{self.what}: feed {self.key.hex()}", expected=digest, computed=tree.tree_hash())
        self.run = Run(self, tree, joined)

    def passed(self, blocks: int) -> None:
        """So many blocks were verified."""
        self.receiving.passed(blocks)

    # What a run has that is not here goes on a line, one of these. None: there are too many sides already.

    def append(
        self, line: Line, blocks: Sequence[bytes], nodes: Sequence[Sequence[Node]], head: SignedHead, tree: TreeBuilder
    ) -> None:
        """Let a line go on."""
        if line.side != LEDGER:
            self.receiving.sides.append(line, blocks, nodes, head)
        else:
            assert self._state is not None
            self._state = self.receiving.tx.append(self._state, blocks, nodes, head, tree.roots)
            line.length = line.first = head.length
            if self._state.local:
                self._retire(self.key)  # others hold more of it than the node that signs it
        self.receiving.kept(self.key, len(blocks))

    def line_behind(self, line: Line, grown: Grown) -> Line | None:
        """The line to go on with where one ends: itself, or a side when it is the ledger's and would contradict."""
        if line.side != LEDGER or not self.receiving.lineage.contradicts(self.key, self.manifest, line.length, grown):
            return line
        return self._aside(line, line.length, SideReason.OTHER_CONTINUATION, b"")

    def first_line(self, head: SignedHead) -> Line | None:
        """The line of a feed of which nothing is here, whose first head is given."""
        conflict = self.receiving.lineage.conflict_of(self.key, self.manifest)
        if conflict is None:
            tx = self.receiving.tx
            # What this node wrote and has forgotten is its own, and retired with the first block that comes.
            local = was_written_here(tx, self.manifest)
            self._state = tx.create_feed(self.key, encode_manifest(self.manifest), local=local)
            self.receiving.lineage.add(self.key, self.manifest)
            line = Line(tx, self.receiving.sides.queries, self.key, LEDGER, 0, 0)
            self.lines.append(line)
            return line
        reason, rival = conflict
        proof = b"" if rival is None else rival_proof(self.receiving.tx, rival, self.key, self.manifest, head)
        if rival is not None and rival.local and parse_manifest(rival.manifest).signers == self.manifest.signers:
            self._retire(rival.key)  # somebody else has this device's key
        return self._aside(None, 0, reason, proof)

    def side_of(self, line: Line, at: int, proof: bytes) -> Line | None:
        """The side that leaves ``line`` at block ``at``."""
        if self._state is not None and self._state.local:
            self._retire(self.key)  # somebody else has this device's key
        return self._aside(line, at, SideReason.FORKED, proof)

    def _aside(self, base: Line | None, at: int, reason: SideReason, proof: bytes) -> Line | None:
        sides, manifest = self.receiving.sides, encode_manifest(self.manifest)
        held = sides.of_feed(self.key)
        refused = sum(not side.refused for side in held) >= MAX_SIDES
        self.receiving.forks.append(FoundFork(self.key, at, reason, proof, refused))
        if not refused:
            self.lines.append(sides.add(self.key, manifest, base, at, reason, proof))
            return self.lines[-1]
        if not any(side.refused for side in held):
            sides.add(self.key, manifest, base, at, reason, proof, refused=True)
        return None

    def _retire(self, key: FeedKey) -> None:
        self.receiving.tx.retire_feed(key)
