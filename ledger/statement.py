"""Statements: the leaves of the checkpoint log.

Implements docs/spec/checkpoint-log.md, section "Statements". A leaf is ``holdfast/v1 <type>\\n`` and the canonical CBOR
of one map. Only commitments go in: keys, lengths, digests, never payloads.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, TypeAlias

from identity.encoding import MAX_INT, Fields, decode, encode
from identity.errors import LimitExceeded, MalformedError, UnsupportedVersion
from identity.textforms import to_hex
from ledger.log import HASH_BYTES, MAX_LOG_SIZE, hash_leaf
from ledger.merkle import MAX_LENGTH

__all__ = [
    "MAX_STATEMENT_BYTES",
    "AnchorStatement",
    "ChainBinding",
    "FeedHead",
    "IdentityHead",
    "LogDescriptor",
    "Predecessor",
    "Statement",
    "TimeStatement",
    "encode_statement",
    "feed_head_key",
    "log_id",
    "log_origin",
    "parse_statement",
]

MAX_STATEMENT_BYTES: Final = 64 * 1024
MAX_DIGESTS: Final = 256
"""Digests in one list of a time statement."""

_PREFIX: Final = b"holdfast/v1 "
_KEY_BYTES: Final = 32
_ADDRESS_BYTES: Final = 20
_FEED_HEAD: Final = _PREFIX + b"feed\n\xa3\x63key\x58\x20"
"""A feed statement up to the 32 bytes of its key: the map's first, because keys sort by length."""

_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,98}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class ChainBinding:
    """Where the log is anchored: EVM chain id, and the 20-byte addresses of the contract and of its only sender."""

    id: int
    contract: bytes
    owner: bytes

    def __post_init__(self) -> None:
        _check_int("chain id", self.id, 1, MAX_INT)
        _check_length("contract", self.contract, _ADDRESS_BYTES)
        _check_length("owner", self.owner, _ADDRESS_BYTES)


@dataclass(frozen=True, slots=True)
class Predecessor:
    """The log that this one goes on from: its id, and the size and root at which it ends."""

    log: bytes
    size: int
    root: bytes

    def __post_init__(self) -> None:
        _check_length("predecessor", self.log, HASH_BYTES)
        _check_int("predecessor's size", self.size, 1, MAX_LOG_SIZE)
        _check_length("predecessor's root", self.root, HASH_BYTES)


@dataclass(frozen=True, slots=True)
class LogDescriptor:
    """Leaf 0: what the log is called (1 to 100 of a-z 0-9 . -), its 32-byte Ed25519 key, its chain, its predecessor.

    A log without a chain cannot be anchored; giving it one later takes a successor log.
    """

    name: str
    key: bytes
    chain: ChainBinding | None = None
    predecessor: Predecessor | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise MalformedError(
                "log descriptor: a name is 1 to 100 of a-z, 0-9, '.' and '-', with a letter or digit at both ends"
            )
        _check_length("log key", self.key, _KEY_BYTES)


@dataclass(frozen=True, slots=True)
class IdentityHead:
    """The last event of an identity that this log knows: its number and its digest."""

    identity: bytes
    seq: int
    digest: bytes

    def __post_init__(self) -> None:
        _check_length("identity", self.identity, HASH_BYTES)
        _check_int("identity event number", self.seq, 0, MAX_LOG_SIZE)
        _check_length("event digest", self.digest, HASH_BYTES)


@dataclass(frozen=True, slots=True)
class FeedHead:
    """A feed has grown to ``length`` blocks (>= 1), with that 32-byte tree hash."""

    key: bytes
    length: int
    tree_hash: bytes

    def __post_init__(self) -> None:
        _check_length("feed key", self.key, _KEY_BYTES)
        _check_int("feed length", self.length, 1, MAX_LENGTH)
        _check_length("tree hash", self.tree_hash, HASH_BYTES)


@dataclass(frozen=True, slots=True)
class TimeStatement:
    """What timestamped the checkpoint of ``size``: SHA-256 digests of the DER responses and of the material for them.

    Each list ascends bytewise and holds nothing twice; there is at least one response.
    """

    size: int
    responses: tuple[bytes, ...]
    certificates: tuple[bytes, ...] = ()
    crls: tuple[bytes, ...] = ()
    ocsps: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        _check_int("timestamped size", self.size, 1, MAX_LOG_SIZE)
        if not self.responses:
            raise MalformedError("time statement: no response")
        for digests in (self.responses, self.certificates, self.crls, self.ocsps):
            _check_digests(digests)


@dataclass(frozen=True, slots=True)
class AnchorStatement:
    """The checkpoint of ``size`` has a final anchor: the block's 32-byte hash and number, SHA-256 of the receipt."""

    size: int
    block: bytes
    number: int
    receipt: bytes

    def __post_init__(self) -> None:
        _check_int("anchored size", self.size, 1, MAX_LOG_SIZE)
        _check_length("block hash", self.block, HASH_BYTES)
        _check_int("block number", self.number, 0, MAX_INT)
        _check_length("receipt digest", self.receipt, HASH_BYTES)


Statement: TypeAlias = LogDescriptor | IdentityHead | FeedHead | TimeStatement | AnchorStatement
"""Any leaf."""


def encode_statement(statement: Statement) -> bytes:
    """The leaf's bytes."""
    kind, fields = _members(statement)
    return _PREFIX + kind + b"\n" + encode(fields)


def parse_statement(leaf: bytes) -> Statement:
    """Read a leaf.

    Raises ``MalformedError`` for anything that ``encode_statement`` would not have written, ``UnsupportedVersion`` for
    a version or type that this reader does not know.
    """
    if len(leaf) > MAX_STATEMENT_BYTES:
        raise LimitExceeded(f"log statement: {len(leaf)} bytes, at most {MAX_STATEMENT_BYTES} are read")
    line, newline, data = leaf.partition(b"\n")
    if not newline or not line.startswith(b"holdfast/v"):
        raise MalformedError("log statement: does not begin with a line 'holdfast/v1 <type>'")
    read = _READERS.get(line.removeprefix(_PREFIX)) if line.startswith(_PREFIX) else None
    if read is None:
        raise UnsupportedVersion(f"log statement: {line[:40]!r} is not a type this reader knows")
    fields = Fields(decode(data), f"log statement {line.removeprefix(_PREFIX).decode('ascii')!r}")
    statement = read(fields)
    fields.done()
    return statement


def feed_head_key(leaf: bytes) -> bytes | None:
    """The feed's key when the leaf begins as a ``FeedHead`` does, else None: for scans of a long log.

    Only the beginning is read; ``parse_statement`` says whether the leaf is one.
    """
    return leaf[len(_FEED_HEAD) : len(_FEED_HEAD) + _KEY_BYTES] if leaf.startswith(_FEED_HEAD) else None


def log_id(leaf: bytes) -> bytes:
    """The id of the log whose leaf 0 this is: its leaf hash. Raises ``MalformedError`` unless it is a descriptor."""
    if not isinstance(parse_statement(leaf), LogDescriptor):
        raise MalformedError("log: leaf 0 is not a descriptor")
    return hash_leaf(leaf)


def log_origin(descriptor: LogDescriptor, log_id: bytes) -> str:
    """What the log's checkpoints and its note key are called: ``<name>/<log id in hex>``."""
    return f"{descriptor.name}/{to_hex(log_id)}"


# --- writing --------------------------------------------------------------------------------------------------------


def _members(statement: Statement) -> tuple[bytes, dict[str, object]]:
    match statement:
        case LogDescriptor(name, key, chain, predecessor):
            return b"log", {"name": name, "key": key, "chain": _chain(chain), "predecessor": _predecessor(predecessor)}
        case IdentityHead(identity, seq, digest):
            return b"identity", {"id": identity, "seq": seq, "digest": digest}
        case FeedHead(key, length, tree_hash):
            return b"feed", {"key": key, "length": length, "tree": tree_hash}
        case TimeStatement(size, responses, certificates, crls, ocsps):
            return b"time", {
                "size": size,
                "responses": list(responses),
                "certificates": list(certificates),
                "crls": list(crls),
                "ocsps": list(ocsps),
            }
        case AnchorStatement(size, block, number, receipt):
            return b"anchor", {"size": size, "block": block, "number": number, "receipt": receipt}


def _chain(chain: ChainBinding | None) -> dict[str, object] | None:
    return None if chain is None else {"id": chain.id, "contract": chain.contract, "owner": chain.owner}


def _predecessor(predecessor: Predecessor | None) -> dict[str, object] | None:
    if predecessor is None:
        return None
    return {"log": predecessor.log, "size": predecessor.size, "root": predecessor.root}


# --- reading: the bounds are the values' own ------------------------------------------------------------------------


def _read_descriptor(fields: Fields) -> LogDescriptor:
    return LogDescriptor(
        name=fields.text("name", max=100),
        key=fields.bytes("key", length=_KEY_BYTES),
        chain=_read_chain(fields.optional_map("chain")),
        predecessor=_read_predecessor(fields.optional_map("predecessor")),
    )


def _read_chain(fields: Fields | None) -> ChainBinding | None:
    if fields is None:
        return None
    chain = ChainBinding(fields.int("id"), fields.bytes("contract"), fields.bytes("owner"))
    fields.done()
    return chain


def _read_predecessor(fields: Fields | None) -> Predecessor | None:
    if fields is None:
        return None
    predecessor = Predecessor(fields.bytes("log"), fields.int("size"), fields.bytes("root"))
    fields.done()
    return predecessor


def _read_identity(fields: Fields) -> IdentityHead:
    return IdentityHead(fields.bytes("id"), fields.int("seq"), fields.bytes("digest"))


def _read_feed(fields: Fields) -> FeedHead:
    return FeedHead(fields.bytes("key"), fields.int("length"), fields.bytes("tree"))


def _read_time(fields: Fields) -> TimeStatement:
    return TimeStatement(
        size=fields.int("size"),
        responses=_read_digests(fields, "responses"),
        certificates=_read_digests(fields, "certificates"),
        crls=_read_digests(fields, "crls"),
        ocsps=_read_digests(fields, "ocsps"),
    )


def _read_digests(fields: Fields, key: str) -> tuple[bytes, ...]:
    return fields.bytes_list(key, length=HASH_BYTES, max=MAX_DIGESTS)


def _read_anchor(fields: Fields) -> AnchorStatement:
    return AnchorStatement(fields.int("size"), fields.bytes("block"), fields.int("number"), fields.bytes("receipt"))


_READERS: Final[dict[bytes, Callable[[Fields], Statement]]] = {
    b"log": _read_descriptor,
    b"identity": _read_identity,
    b"feed": _read_feed,
    b"time": _read_time,
    b"anchor": _read_anchor,
}


def _check_length(what: str, value: bytes, length: int) -> None:
    if len(value) != length:
        raise MalformedError(f"log statement: the {what} has {len(value)} bytes, must have {length}")


def _check_int(what: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise MalformedError(f"log statement: the {what} is {value}, must be in {least}..{most}")


def _check_digests(digests: tuple[bytes, ...]) -> None:
    if len(digests) > MAX_DIGESTS:
        raise LimitExceeded(f"time statement: {len(digests)} digests in a list, at most {MAX_DIGESTS}")
    for digest in digests:
        _check_length("digest", digest, HASH_BYTES)
    if any(earlier >= later for earlier, later in pairwise(digests)):
        raise MalformedError("time statement: digests out of order or twice")
