"""An archive of one feed, audited as an outsider does it and in a straight line: for ``benchmarks.audit``."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from os import urandom
from pathlib import Path

from anchoring.chain.check import ChainView
from anchoring.complete_audit import audit_archive
from anchoring.policy import Policy
from api.backup import export_archive
from api.bootstrap import now_ms, open_nodes
from api.demo.bank import FEED, Bank
from api.settings import load_settings
from benchmarks._bank import found_bank
from benchmarks._engines import Engine, fill_floor
from benchmarks._floor import Head, SqliteFloor
from benchmarks.append import ENTRY_BYTES
from identity.verdict import Status
from ledger.statement import LogDescriptor

__all__ = ["ArchivedFeed"]


@dataclass(frozen=True, slots=True)
class ArchivedFeed:
    """An archive, what an outsider has beside it, and the same appends as the floor would have made them."""

    file: Path
    bank: Bank
    policy: Policy
    blocks: Sequence[bytes]
    heads: Sequence[Head]

    @classmethod
    def made(cls, directory: Path, batch: int, entries: int) -> ArchivedFeed:
        """A feed with one signature for ``batch`` entries, sealed."""
        bank = found_bank(Engine("SQLite", directory))
        ring, blocks = bank.keys(), [urandom(ENTRY_BYTES) for _ in range(batch)]
        with bank.open() as session:
            key = session.vault.create_feed(ring, "branch", FEED)
            many = (block for _ in range(entries // batch) for block in blocks)
            session.vault.import_blocks(ring, key, many, batch=batch, on_batch=lambda _: None)
            bank.seal(session, ring)
        file = bank.home.root / "bank.archive"
        with file.open("wb") as out:
            export_archive(load_settings(bank.home, bank.environ), out, made_ms=now_ms())
        return cls(file, bank, bank.policy(), blocks, _heads(directory, blocks, entries))

    def audit(self, threads: int) -> int:
        """The outsider's audit; the number of entries."""
        with ExitStack() as stack:

            def view_of(descriptor: LogDescriptor) -> ChainView:
                assert descriptor.chain is not None
                trust = self.policy.chains[descriptor.chain.id]
                return ChainView(open_nodes(stack, trust.id, [], self.bank.outside), trust.id, trust.code_hash)

            stream = stack.enter_context(self.file.open("rb"))
            found = audit_archive(stream, self.policy, view_of, now_ms(), folder=self.file.parent, threads=threads)
        assert found.verdict is Status.PASSED
        return sum(feed.length for feed in found.feeds)

    def straight(self) -> int:
        """Read the file; hash, verify and store the appends."""
        self.file.read_bytes()
        with tempfile.TemporaryDirectory(dir=self.file.parent) as passing:
            floor = SqliteFloor(Path(passing) / "passing.db")
            with floor.transaction():
                for head in self.heads:
                    floor.keep(self.blocks, head)
            floor.close()
        return floor.tree.length


def _heads(directory: Path, blocks: Sequence[bytes], entries: int) -> Sequence[Head]:
    """What the floor signs after each append of the same blocks, up to so many entries."""
    with tempfile.TemporaryDirectory(dir=directory) as passing:
        floor = SqliteFloor(Path(passing) / "signed.db")
        fill_floor(floor, list(blocks), entries)
        heads = list(floor.rows("SELECT pos, tree_hash, signature FROM head ORDER BY pos"))
        floor.close()
    return heads
