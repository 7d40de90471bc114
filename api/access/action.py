"""What can be asked of a node: operations, and a request as far as access to it is decided by what it is about.

Each route of the HTTP interface has one ``Operation``; a test holds that none has been forgotten. Members have roles in
a database, and a role allows operations. Who visits with a token is allowed what stands in the token, and never
anything that is not in ``VISITABLE``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from sync.acts import Role

__all__ = ["ALLOWED_TO", "VISITABLE", "Action", "Author", "Caller", "Grant", "Operation", "Token"]


class Operation(StrEnum):
    """What a request does."""

    READ = "read"
    HISTORY = "history"
    CHANGES = "changes"
    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"
    UNDO = "undo"
    RESOLVE = "resolve"
    SCHEMA = "schema"
    MEMBERS = "members"
    HOLD = "hold"
    PURGE = "purge"
    ERASE = "erase"
    SYNC = "sync"
    PROVE = "prove"
    """Feeds, heads, proofs, checkpoints, anchors, evidence, verification, identities."""
    VISITS = "visits"
    """Admit visitors, end their visits, read what they did."""
    PAIR = "pair"
    """Claim an offer of the node. No role and no token allows it: whoever has the code may, by the key that signs."""
    OPERATE = "operate"
    """The node itself: databases, backups, checkpoints, its state."""


VISITABLE: Final = frozenset(
    {
        Operation.READ,
        Operation.HISTORY,
        Operation.CHANGES,
        Operation.CREATE,
        Operation.UPDATE,
        Operation.DELETE,
    }
)
"""What a token can allow at all."""

_READER: Final = frozenset({Operation.READ, Operation.HISTORY, Operation.CHANGES, Operation.SYNC, Operation.PROVE})
_WRITER: Final = _READER | {
    Operation.CREATE,
    Operation.UPDATE,
    Operation.DELETE,
    Operation.UNDO,
    Operation.RESOLVE,
}
_ADMIN: Final = frozenset(Operation) - {Operation.OPERATE, Operation.PAIR}

ALLOWED_TO: Final[Mapping[Role, frozenset[Operation]]] = {
    Role.READER: _READER,
    Role.WRITER: _WRITER,
    Role.ADMIN: _ADMIN,
}
"""By the role of a member in the database that a request is about. A reader is what auditors are. What is not about a
database is for devices of the identity whose node it is."""


@dataclass(frozen=True, slots=True)
class Author:
    """Who has signed an intent: a key, and the identity that it names; None: a visitor."""

    key: bytes
    identity: bytes | None


@dataclass(frozen=True, slots=True)
class Action:
    """What a request is about. ``database`` None: the node. ``collection`` or ``key`` None: not about one.

    ``fields``: names at the top level of a document that it reads or writes, as far as the request says so.
    ``key_prefix``: it is about no other documents of the collection than those whose keys begin so. ``guarded``: it
    changes a document only in the version that it names (If-Match). ``writes``: it writes into the node's own feed, in
    the name of ``author``; without one, in the node's own.
    """

    operation: Operation
    database: bytes | None = None
    collection: str | None = None
    key: str | None = None
    fields: frozenset[str] = frozenset()
    key_prefix: str = ""
    guarded: bool = False
    writes: bool = False
    author: Author | None = None


@dataclass(frozen=True, slots=True)
class Token:
    """A capability that came with a request, as bytes, and the SHA-256 by which the visit feed calls it."""

    encoded: bytes
    digest: bytes


@dataclass(frozen=True, slots=True)
class Caller:
    """Who signed a request: the key is proven. ``token`` None: a device, in its own right."""

    key: bytes
    token: Token | None = None


@dataclass(frozen=True, slots=True)
class Grant:
    """A request that is allowed. ``fields`` None: every field; else what is shown and written is only these.

    ``identity`` is whose device it is; None for a visitor.
    """

    caller: Caller
    identity: bytes | None = None
    fields: frozenset[str] | None = None
