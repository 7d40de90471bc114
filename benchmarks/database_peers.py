"""Merging beside pycrdt (Yrs) and Loro, in turns within one run.

    python -m benchmarks.database_peers [--rounds 3] [--ops 100000] [--json figures.json]

The operations are those that ``benchmarks.database`` merges. Ours takes them in from a feed that is in the store. A
peer imports into a new document what another of its documents exports: a map with a map for each of our documents,
which holds its fields. *An update each* is what its author sends while writing, one for each of our transactions; *one
update* is all of it at once, from which pycrdt leaves out what was overwritten. Loro's snapshots are not used: it reads
those only when somebody looks.

The three do not promise the same. Ours writes rows to a disk, and knows of each operation who wrote it, whether that
device might, what it replaced, and what every document was at any place in between. The peers keep a document in
memory; they sign nothing, and whoever sends an update may put anybody's name on it. Loro keeps what was overwritten and
can go back to it; pycrdt drops it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from importlib import import_module
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any, Final, NamedTuple

from pycrdt import Doc, Map

from benchmarks._measure import Comparison, Work, compare, option_parser, report
from benchmarks.database import operations, ready_to_merge
from sync.transaction import Op

Shown = dict[str, Any]
"""By the key of a document its fields."""

_ROOT: Final = "accounts"

loro: Any = import_module("loro")
"""Its type information lacks what a map takes and gives."""


class Written(NamedTuple):
    """What a peer has to import: all that was written, in one update and in one for each transaction."""

    whole: bytes
    each: list[bytes]


class Peer(NamedTuple):
    """A library: what writes with it, and what imports into a new document and says what that shows."""

    name: str
    write: Callable[[Iterable[list[Op]]], Written]
    read: Callable[[Iterable[bytes]], Callable[[], Shown]]


# --- pycrdt ---


def write_pycrdt(transactions: Iterable[list[Op]]) -> Written:
    doc = Doc[Any]()
    each: list[bytes] = []
    root = doc.get(_ROOT, type=Map[Any])
    subscription = doc.observe(lambda event: each.append(event.update))
    for ops in transactions:
        with doc.transaction():
            for op in ops:
                if op.document.key not in root:
                    root[op.document.key] = Map()
                root[op.document.key][op.path[0]] = op.value
    doc.unobserve(subscription)
    return Written(doc.get_update(), each)


def read_pycrdt(updates: Iterable[bytes]) -> Callable[[], Shown]:
    doc = Doc[Any]()
    root = doc.get(_ROOT, type=Map[Any])
    for update in updates:
        doc.apply_update(update)
    return lambda: root.to_py() or {}


# --- Loro ---


def write_loro(transactions: Iterable[list[Op]]) -> Written:
    doc = loro.LoroDoc()
    each: list[bytes] = []
    root = doc.get_map(_ROOT)

    def keep(update: bytes) -> bool:
        each.append(bytes(update))
        return True

    subscription = doc.subscribe_local_update(keep)
    for ops in transactions:
        for op in ops:
            root.get_or_create_container(op.document.key, loro.LoroMap()).insert(op.path[0], op.value)
        doc.commit()
    del subscription
    return Written(doc.export(loro.ExportMode.Updates(loro.VersionVector())), each)


def read_loro(updates: Iterable[bytes]) -> Callable[[], Shown]:
    doc = loro.LoroDoc()
    for update in updates:
        doc.import_(update)
    return lambda: dict(doc.get_map(_ROOT).get_deep_value())


PEERS: Final = (Peer("pycrdt", write_pycrdt, read_pycrdt), Peer("loro", write_loro, read_loro))


# --- side by side ---


def beside(directory: Path, ops: int, rounds: int, *, at_random: bool) -> list[Comparison]:
    """A row for each peer and each way to import."""
    names, wanted = count(), operations(ops, max(ops // 100, 1), at_random=at_random)
    order = "at random" if at_random else "in order"
    rows = []
    for peer in PEERS:
        written = peer.write(wanted)
        for way, updates in (("an update each", written.each), ("one update", [written.whole])):
            check(peer.read(updates)(), wanted)
            theirs = importing(peer, updates, ops)
            ready = [ready_to_merge(directory / f"{order}-{next(names)}.db", wanted)[0] for _ in range(rounds + 1)]

            def ours(ready: list[Any] = ready) -> int:
                place = ready.pop()
                assert place.database.take_new() == len(wanted)
                place.close()
                return ops

            rows.append(compare(f"{order}, {peer.name}, {way}", ours, theirs, rounds=rounds))
    return rows


def importing(peer: Peer, updates: list[bytes], ops: int) -> Work:
    def work() -> int:
        peer.read(updates)
        return ops

    return work


def check(shown: Shown, transactions: Iterable[list[Op]]) -> None:
    """That a peer shows what was written last."""
    expected: Shown = {}
    for ops in transactions:
        for op in ops:
            expected.setdefault(op.document.key, {})[op.path[0]] = op.value
    assert shown == expected


def main() -> None:
    parser = option_parser(__doc__, rounds=3)
    parser.add_argument("--ops", type=int, default=100_000, help="operations of a merge (default: 100,000)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as name:
        rows = [
            row
            for at_random in (False, True)
            for row in beside(Path(name), options.ops, options.rounds, at_random=at_random)
        ]
    floor = ", ".join(f"{peer.name} {version(peer.name)}" for peer in PEERS)
    report("merge, beside pycrdt and Loro", f"{floor}; in memory, without signatures", rows, options.json)


if __name__ == "__main__":
    main()
