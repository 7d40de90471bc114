"""What no honest device would write: each way to forge takes the stamp that would be right, and gives the blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ledger.entry import Entry, encode_entry, parse_entry
from ledger.values import Reference
from sync.clock import reading_at
from sync.transaction import (
    DocumentId,
    Dot,
    Guard,
    Op,
    Stamp,
    StateRoot,
    Transaction,
    Verb,
    state_root_entry,
    transaction_entry,
)

if TYPE_CHECKING:
    from .test_database_machine import Machine

FORGED_ROOT = bytes(32)

Forge = Callable[["Machine", Any, Stamp], Iterable[bytes]]
FORGERIES: dict[str, Forge] = {}
"""Ways to write what no honest device would: from the stamp that would be right to the blocks that are written."""


def forgery(make: Forge) -> Forge:
    FORGERIES[make.__name__] = make
    return make


def block_of(stamp: Stamp, *ops: Op, guards: tuple[Any, ...] = ()) -> bytes:
    """The block of a transaction, by default a plain one."""
    plain = Op(Verb.SET, DocumentId("c", "1"), ("a",), "forged")
    return encode_entry(transaction_entry(Transaction(stamp, ops or (plain,), guards)))


@forgery
def wrong_lamport(machine: Machine, device: Any, stamp: Stamp) -> Iterator[bytes]:
    yield block_of(replace(stamp, lamport=stamp.lamport + 1))


@forgery
def huge_lamport(machine: Machine, device: Any, stamp: Stamp) -> Iterator[bytes]:
    yield block_of(replace(stamp, lamport=(1 << 63) - 1))


@forgery
def no_back(machine: Machine, device: Any, stamp: Stamp) -> Iterator[bytes]:
    yield block_of(replace(stamp, back=None))


@forgery
def back_elsewhere(machine: Machine, device: Any, stamp: Stamp) -> Iterator[bytes]:
    yield block_of(replace(stamp, back=machine.some_entry(device)))


@forgery
def deps_left_out(machine: Machine, device: Any, stamp: Stamp) -> Iterator[bytes]:
    """It claims to have seen nothing of the others: its writes look concurrent, and nothing else comes of it."""
    yield machine.blind(device, stamp)


@forgery
def deps_that_are_none(machine: Machine, device: Any, stamp: Stamp) -> Iterator[bytes]:
    """It names an entry that nobody has: its feed waits for ever, and with it all that it writes later."""
    forged = Reference(b"\xee" * 32, 0, bytes(32))
    yield block_of(replace(stamp, deps=tuple(sorted((*stamp.deps, forged), key=spelled))))


@forgery
def deps_of_itself(machine: Machine, device: Any, stamp: Stamp) -> Iterator[bytes]:
    forged = stamp.back or Reference(device.feed, 0, bytes(32))
    yield block_of(replace(stamp, deps=tuple(sorted({*stamp.deps, forged}, key=spelled))))


@forgery
def context_beyond_its_past(machine: Machine, device: Any, stamp: Stamp) -> Iterator[bytes]:
    named = Dot(machine.some_entry(device), 0)
    yield machine.blind(device, stamp, Op(Verb.SET, DocumentId("c", "1"), ("a",), "forged", (named,)))


@forgery
def context_of_some_cell(machine: Machine, device: Any, stamp: Stamp) -> Iterator[bytes]:
    named = Dot(machine.some_entry(device), machine.chance.randrange(3))
    yield block_of(stamp, Op(Verb.DEL, DocumentId("c", "1"), (), None, (named,)))


@forgery
def clock_goes_back(machine: Machine, device: Any, stamp: Stamp) -> Iterator[bytes]:
    yield block_of(replace(stamp, reading=machine.chance.randrange(1, 1 << 40)))


@forgery
def clock_in_the_year_9999(machine: Machine, device: Any, stamp: Stamp) -> Iterator[bytes]:
    yield block_of(replace(stamp, reading=reading_at(253_402_300_000_000) + stamp.lamport))


@forgery
def claimed_time_of_another_clock(machine: Machine, device: Any, stamp: Stamp) -> Iterator[bytes]:
    entry = parse_entry(block_of(stamp))
    yield encode_entry(replace(entry, claimed_ms=entry.claimed_ms + 1))


@forgery
def another_database(machine: Machine, device: Any, stamp: Stamp) -> Iterator[bytes]:
    yield block_of(replace(stamp, database=b"\x01" * 32))


@forgery
def malformed(machine: Machine, device: Any, stamp: Stamp) -> Iterator[bytes]:
    entry = parse_entry(block_of(stamp))
    body = dict(entry.body)
    kind = machine.chance.choice(["txn", "member", "ckpt", "erase"])
    match machine.chance.randrange(6):
        case 0:
            body["ops"] = []
        case 1:
            body["ops"] = [["steal", 0, "/a", 1]]
        case 2:
            body["surplus"] = 1
        case 3:
            body["docs"] = [["$secret", "1"]]
        case 4:
            body["hlc"] = -1
        case _:
            body = {"db": body["db"], "back": 7}
    yield encode_entry(Entry(kind, entry.claimed_ms, body))


@forgery
def no_entry(machine: Machine, device: Any, stamp: Stamp) -> Iterator[bytes]:
    yield b"\xff\x00 this is not an entry"
    yield b""


@forgery
def against_the_schema(machine: Machine, device: Any, stamp: Stamp) -> Iterator[bytes]:
    yield block_of(stamp, Op(Verb.SET, DocumentId("typed", "1"), ("a",), machine.chance.choice([1, "text"])))


@forgery
def a_schema_that_is_none(machine: Machine, device: Any, stamp: Stamp) -> Iterator[bytes]:
    yield block_of(stamp, Op(Verb.SET, DocumentId("$schema", "typed"), ("schema",), {"type": "nothing"}))


@forgery
def guards_of_versions_that_never_were(machine: Machine, device: Any, stamp: Stamp) -> Iterator[bytes]:
    yield block_of(stamp, guards=(Guard(DocumentId("c", "1"), "1.never"), Guard(DocumentId("c", "2"), None)))


@forgery
def takes_back_what_it_has_not_seen(machine: Machine, device: Any, stamp: Stamp) -> Iterator[bytes]:
    plain = Op(Verb.SET, DocumentId("c", "1"), ("a",), "forged")
    yield encode_entry(transaction_entry(Transaction(stamp, (plain,), undoes=(machine.some_entry(device),))))


@forgery
def a_root_of_another_cut(machine: Machine, device: Any, stamp: Stamp) -> Iterator[bytes]:
    cut = (machine.some_entry(device),)
    yield encode_entry(state_root_entry(StateRoot(stamp, cut, FORGED_ROOT, 1)))


@forgery
def a_block_of_somebody_else(machine: Machine, device: Any, stamp: Stamp) -> Iterator[bytes]:
    """Signed once more, in a feed that it was not written for."""
    yield machine.some_block()


@forgery
def operations_of_every_kind(machine: Machine, device: Any, stamp: Stamp) -> Iterator[bytes]:
    """In order as such; no interface would put them together like that."""
    chance, document = machine.chance, DocumentId("c", machine.chance.choice("12"))
    values = [1, "x", [1, "x"], {"$dec": "0.10"}, {"x": {"y": None}}]
    ops = []
    for _ in range(chance.randint(1, 6)):
        verb = chance.choice([verb for verb in Verb if verb is not Verb.PURGE])
        path = chance.choice([("a",), ("m",), ("m", "x"), ("m", "x", "y"), ("a/b",), ("~",)])
        match verb:
            case Verb.HIDE:
                ops.append(Op(verb, document, (), chance.random() < 0.7))
            case Verb.DEL:
                ops.append(Op(verb, document, chance.choice([(), path]), None))
            case Verb.INC:
                ops.append(Op(verb, document, path, chance.choice([-1, 10**17, {"$dec": "0.0000000001"}])))
            case _:
                ops.append(Op(verb, document, path, chance.choice(values)))
    yield block_of(stamp, *ops)


def spelled(reference: Reference) -> tuple[bytes, int, bytes]:
    return (reference.feed, reference.index, reference.leaf_hash)
