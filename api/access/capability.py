"""Capabilities: tokens that let an app visit, on Biscuit behind four calls, ``mint``, ``attenuate``, ``authorize`` and
``revocation_ids``.

Implements docs/spec/capability.md. A token is a chain of signed blocks: the first is signed by a device, each further
one narrows what those before it allow, and takes no key to add. Of all that Biscuit's Datalog can say, a block says
exactly what ``Terms`` or ``Narrowing`` can, in one spelling, and a token with any other block is refused: so nothing
that a stranger wrote is ever run, and who reads the list of visitors sees all that there is. What is in force is worked
out from the terms; then Biscuit's own authorizer is asked as well, and both have to agree. Facts for it come from the
request alone, and no block's facts are looked at by another block's checks.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Final, TypeVar

import biscuit_auth
from biscuit_auth import AuthorizationError, Biscuit, BiscuitBuilder, BlockBuilder, UnverifiedBiscuit

from api.access.action import VISITABLE, Action, Operation
from api.access.signatures import MAX_TOKEN_BYTES
from identity.errors import AuditError, Forbidden, LimitExceeded, MalformedError, VerificationError
from identity.keys import Ed25519Signer
from identity.textforms import check_name
from sync.transaction import DocumentId, check_document

__all__ = [
    "MAX_BLOCKS",
    "MAX_FIELDS",
    "MAX_LIFE_S",
    "MAX_NOTE",
    "MAX_RATE",
    "MAX_SCOPES",
    "Capability",
    "Narrowing",
    "Scope",
    "Terms",
    "attenuate",
    "authorize",
    "mint",
    "minter_of",
    "read_capability",
    "revocation_ids",
]

MAX_BLOCKS: Final = 8
MAX_SCOPES: Final = 32
MAX_FIELDS: Final = 64
MAX_NOTE: Final = 200
MAX_RATE: Final = 6000
"""Requests a minute."""
MAX_LIFE_S: Final = 24 * 3600
"""From minting to expiry."""

_SKEW_S: Final = 60
"""What a minter's clock may be ahead of the node's."""
_VERSION: Final = "holdfast(1);"
_CHANGING: Final = frozenset({Operation.UPDATE, Operation.DELETE})
_LAST_S: Final = 253_402_300_799

T = TypeVar("T")

_BISCUIT: Any = biscuit_auth
"""What its own type stubs leave out or have wrong."""


@dataclass(frozen=True, slots=True, order=True)
class Scope:
    """The documents of a collection whose keys begin with ``prefix``; with "" all of them."""

    collection: str
    prefix: str = ""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a token allows: who holds it, which ``operations`` on what, how often, until when, and what for.

    ``scopes`` None: every collection but those that begin with "$". ``fields`` None: every field. ``if_match``: changes
    and deletions name the version that they are meant for.
    """

    holder: bytes
    database: bytes
    operations: frozenset[Operation]
    expires_s: int
    scopes: tuple[Scope, ...] | None = None
    fields: frozenset[str] | None = None
    if_match: bool = False
    rate: int = 60
    note: str = ""


@dataclass(frozen=True, slots=True)
class Narrowing:
    """What a further block takes away. None, False or "": nothing of that kind."""

    operations: frozenset[Operation] | None = None
    expires_s: int | None = None
    scopes: tuple[Scope, ...] | None = None
    fields: frozenset[str] | None = None
    if_match: bool = False
    rate: int | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Capability:
    """A token that was verified: by which device it was minted and when, and what is in force of all its blocks.

    ``revocation_ids`` has one for each block: that of the first ends everything that was made of it.
    """

    device: bytes
    issued_s: int
    granted: Terms
    """What the device gave."""
    terms: Terms
    """What is left of it, with all that later blocks took away."""
    revocation_ids: tuple[bytes, ...]


# --- the four calls -------------------------------------------------------------------------------------------------


def mint(seed: bytes, terms: Terms, now_s: int) -> bytes:
    """A token with these terms, signed by the device with that private key.

    ``seed`` is the key's 32 bytes: a device whose key does not leave its hardware token can't mint. Raises
    ``MalformedError`` for terms that cannot be, ``LimitExceeded`` for a life of more than a day, or too much of them.
    """
    device = _signing_key(seed)
    _check_terms(terms, now_s)
    source = _granted(terms, device[1], now_s)
    token = _guarded(lambda: bytes(BiscuitBuilder(source).build(device[0]).to_bytes()))
    return _sized(token)


def attenuate(token: bytes, root_key: bytes, narrowing: Narrowing) -> bytes:
    """The token with one more block, which takes something away. It takes no key but the public one of the minter.

    Raises as ``read_capability``, and ``LimitExceeded`` when a token can't hold that.
    """
    read_capability(token, root_key)
    if narrowing == Narrowing(note=narrowing.note):
        raise MalformedError("token: this takes nothing away")
    _check_narrowing(narrowing)
    source = "".join(_narrowing_lines(narrowing))
    longer = _guarded(lambda: bytes(_verified(token, root_key).append(BlockBuilder(source)).to_bytes()))
    read_capability(_sized(longer), root_key)
    return longer


def authorize(token: bytes, root_key: bytes, signer: bytes, action: Action, now_s: int) -> Terms:
    """What is in force of the token, for a request that ``signer`` has signed. ``root_key`` is the minter's.

    Raises ``Forbidden`` with why when the token does not allow it, and as ``read_capability``.
    """
    capability = read_capability(token, root_key)
    _check_life(capability, now_s)
    terms = capability.terms
    if signer != terms.holder:
        raise Forbidden("HOLDER", "the token is another key's")
    _check_action(terms, action)
    try:
        _guarded(lambda: _authorizer(signer, action, now_s).build(_verified(token, root_key)).authorize())
    except AuthorizationError as exc:
        raise Forbidden("BLOCK", "a block of the token does not allow it") from exc
    return terms


def revocation_ids(token: bytes, root_key: bytes) -> tuple[bytes, ...]:
    """What the blocks of a token can be revoked by, 64 bytes each, the device's own first."""
    return read_capability(token, root_key).revocation_ids


# --- reading --------------------------------------------------------------------------------------------------------


def minter_of(token: bytes) -> bytes:
    """The device that the token says to be minted by. Nothing is verified. Raises ``MalformedError``."""
    _check_size(token)
    text = base64.urlsafe_b64encode(token).decode()
    try:
        source = _guarded(lambda: UnverifiedBiscuit.from_base64(text).block_source(0))
    except VerificationError as exc:
        raise MalformedError("token: not a Biscuit") from exc
    return _parse_granted(source)[0]


@lru_cache(maxsize=1024)
def read_capability(token: bytes, root_key: bytes) -> Capability:
    """The token, when ``root_key`` has signed it and each block is one that these terms can be spelt in.

    Raises ``LimitExceeded`` beyond 8 KiB or 8 blocks, ``MalformedError`` for a block of another form,
    ``VerificationError`` when the signatures do not hold.
    """
    verified = _verified(token, root_key)
    count = _guarded(verified.block_count)
    if count > MAX_BLOCKS:
        raise LimitExceeded(f"token: {count} blocks, at most {MAX_BLOCKS} are allowed")
    if any(_guarded(lambda at=at: verified.block_external_key(at)) is not None for at in range(count)):  # type: ignore[misc]
        raise MalformedError("token: a block of a third party")
    sources = [_guarded(lambda at=at: verified.block_source(at)) for at in range(count)]  # type: ignore[misc]
    device, issued_s, granted = _parse_granted(sources[0])
    if device != root_key:
        raise VerificationError("token: it names another device than the one that signed it")
    _check_terms(granted, issued_s)
    terms = granted
    for source in sources[1:]:
        terms = _narrowed(terms, _parse_narrowing(source))
    ids = tuple(bytes.fromhex(one) for one in _guarded(lambda: verified.revocation_ids))
    return Capability(device, issued_s, granted, terms, ids)


@lru_cache(maxsize=1024)
def _verified(token: bytes, root_key: bytes) -> Biscuit:
    _check_size(token)
    key = _guarded(lambda: _BISCUIT.PublicKey.from_bytes(root_key, _BISCUIT.Algorithm.Ed25519))
    return _guarded(lambda: Biscuit.from_bytes(token, key))


def _guarded(call: Callable[[], T]) -> T:
    """Call into Biscuit. Whatever is wrong with the bytes, a panic in it as well, is a ``VerificationError``."""
    try:
        return call()
    except (AuthorizationError, AuditError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as exc:
        raise VerificationError(f"token: not one that this key has signed, or not to be read ({exc})") from exc


def _check_size(token: bytes) -> None:
    if not 0 < len(token) <= MAX_TOKEN_BYTES:
        raise LimitExceeded(f"token: {len(token)} bytes, 1 to {MAX_TOKEN_BYTES} are allowed")


def _sized(token: bytes) -> bytes:
    _check_size(token)
    return token


def _signing_key(seed: bytes) -> tuple[Any, bytes]:
    return _BISCUIT.PrivateKey.from_bytes(seed, _BISCUIT.Algorithm.Ed25519), Ed25519Signer(seed).public_key


# --- terms ----------------------------------------------------------------------------------------------------------


def _check_terms(terms: Terms, issued_s: int) -> None:
    if len(terms.holder) != 32 or len(terms.database) != 32:
        raise MalformedError("token: holder and database are 32 bytes each")
    if not issued_s < terms.expires_s <= _LAST_S:
        raise MalformedError("token: it expires before it is minted")
    if terms.expires_s - issued_s > MAX_LIFE_S:
        raise LimitExceeded(f"token: it lives for more than {MAX_LIFE_S // 3600} hours")
    _check_parts(terms.operations, terms.scopes, terms.fields, terms.rate, terms.note)


def _check_narrowing(narrowing: Narrowing) -> None:
    _check_parts(narrowing.operations, narrowing.scopes, narrowing.fields, narrowing.rate, narrowing.note)
    if narrowing.expires_s is not None and not 0 < narrowing.expires_s <= _LAST_S:
        raise MalformedError("token: 'expires' is not a time")


def _check_parts(
    operations: frozenset[Operation] | None,
    scopes: tuple[Scope, ...] | None,
    fields: frozenset[str] | None,
    rate: int | None,
    note: str,
) -> None:
    if operations is not None and (not operations or not operations <= VISITABLE):
        raise MalformedError(f"token: the operations are some of {', '.join(sorted(VISITABLE))}")
    if scopes is not None:
        if not 0 < len(scopes) <= MAX_SCOPES or list(scopes) != sorted(set(scopes)):
            raise MalformedError(f"token: scopes are 1 to {MAX_SCOPES}, ascending, each once")
        for scope in scopes:
            check_document(DocumentId(scope.collection, scope.prefix or "-"))
            if scope.collection.startswith("$"):
                raise MalformedError(f"token: {scope.collection!r} is not for visitors")
    if fields is not None:
        if not 0 < len(fields) <= MAX_FIELDS:
            raise MalformedError(f"token: fields are 1 to {MAX_FIELDS}")
        for field in fields:
            check_name(field, "token: a field")
    if rate is not None and not 0 < rate <= MAX_RATE:
        raise MalformedError(f"token: the rate is 1 to {MAX_RATE} requests a minute")
    if note and (len(note) > MAX_NOTE or check_name(note, "token: the note") != note):
        raise LimitExceeded(f"token: a note has at most {MAX_NOTE} characters")


def _narrowed(terms: Terms, less: Narrowing) -> Terms:
    """What both allow."""
    return Terms(
        terms.holder,
        terms.database,
        terms.operations if less.operations is None else terms.operations & less.operations,
        terms.expires_s if less.expires_s is None else min(terms.expires_s, less.expires_s),
        _common_scopes(terms.scopes, less.scopes),
        _common(terms.fields, less.fields),
        terms.if_match or less.if_match,
        terms.rate if less.rate is None else min(terms.rate, less.rate),
        terms.note,
    )


def _common(one: frozenset[str] | None, other: frozenset[str] | None) -> frozenset[str] | None:
    if one is None or other is None:
        return other if one is None else one
    return one & other


def _common_scopes(one: tuple[Scope, ...] | None, other: tuple[Scope, ...] | None) -> tuple[Scope, ...] | None:
    if one is None or other is None:
        return other if one is None else one
    found = {
        max(a, b, key=lambda scope: len(scope.prefix))
        for a in one
        for b in other
        if a.collection == b.collection and (a.prefix.startswith(b.prefix) or b.prefix.startswith(a.prefix))
    }
    return tuple(sorted(found))


def _check_life(capability: Capability, now_s: int) -> None:
    if capability.issued_s > now_s + _SKEW_S:
        raise Forbidden("NOT_YET", "the token was minted in the future")
    if now_s >= capability.terms.expires_s:
        raise Forbidden("EXPIRED", "the token has expired")


def _check_action(terms: Terms, action: Action) -> None:
    if action.operation not in terms.operations:
        raise Forbidden("OPERATION", f"the token does not allow {action.operation}")
    if action.database != terms.database:
        raise Forbidden("DATABASE", "the token is for another database")
    if not _is_within(terms.scopes, action):
        raise Forbidden("SCOPE", "the token is for other documents")
    if terms.fields is not None:
        if not action.fields <= terms.fields:
            raise Forbidden("FIELDS", "the token is for other fields")
        if action.operation is Operation.DELETE:
            raise Forbidden("FIELDS", "the token is for some fields, and a deletion is of all of them")
    if terms.if_match and action.operation in _CHANGING and not action.guarded:
        raise Forbidden("IF_MATCH", "the token allows changes only to the version that they name")


def _is_within(scopes: tuple[Scope, ...] | None, action: Action) -> bool:
    if action.collection is None or action.collection.startswith("$"):
        return False
    if scopes is None:
        return True
    begins = action.key if action.key is not None else action.key_prefix
    return any(scope.collection == action.collection and begins.startswith(scope.prefix) for scope in scopes)


# --- spelling -------------------------------------------------------------------------------------------------------


def _granted(terms: Terms, device: bytes, issued_s: int) -> str:
    narrowing = Narrowing(
        terms.operations, terms.expires_s, terms.scopes, terms.fields, terms.if_match, terms.rate, terms.note
    )
    return "".join(
        [
            f'{_VERSION}\ndevice("{device.hex()}");\nissued({issued_s});\n',
            f'rate({terms.rate});\n{_note_line(terms.note)}check if signer("{terms.holder.hex()}");\n',
            f'check if database("{terms.database.hex()}");\n',
            *_check_lines(narrowing),
        ]
    )


def _narrowing_lines(narrowing: Narrowing) -> Iterator[str]:
    if narrowing.rate is not None:
        yield f"rate({narrowing.rate});\n"
    if narrowing.note:
        yield _note_line(narrowing.note)
    yield from _check_lines(narrowing)


def _note_line(note: str) -> str:
    return f'note("{_hex(note)}");\n' if note else ""


def _check_lines(narrowing: Narrowing) -> Iterator[str]:
    if narrowing.expires_s is not None:
        yield f"check if time($t), $t < {_time_text(narrowing.expires_s)};\n"
    if narrowing.operations is not None:
        yield f"check if operation($o), {_set(narrowing.operations)}.contains($o);\n"
    if narrowing.scopes is not None:
        yield f"check if {' or '.join(map(_scope_text, narrowing.scopes))};\n"
    if narrowing.fields is not None:
        yield f"reject if field($f), !{_set(map(_hex, narrowing.fields))}.contains($f);\n"
    if narrowing.if_match:
        yield f"{_IF_MATCH}\n"


_IF_MATCH: Final = "check if guarded(true);"


def _scope_text(scope: Scope) -> str:
    text = f'collection("{_hex(scope.collection)}")'
    return f'{text}, key($k), $k.starts_with("{_hex(scope.prefix)}")' if scope.prefix else text


def _set(texts: Collection[str] | Iterator[str] | map[str]) -> str:
    return "{" + ", ".join(f'"{text}"' for text in sorted(texts)) + "}"


def _hex(text: str) -> str:
    """Names are spelt in hex: Biscuit prints strings as they are, so any other could pretend to be something else."""
    return text.encode().hex()


def _time_text(time_s: int) -> str:
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


_GRANTED: Final = re.compile(
    r'holdfast\(1\);\ndevice\("([0-9a-f]{64})"\);\nissued\(([0-9]{1,12})\);\n'
    r'rate\(([0-9]{1,4})\);\n(note\("[0-9a-f]{2,1600}"\);\n)?check if signer\("([0-9a-f]{64})"\);\n'
    r'check if database\("([0-9a-f]{64})"\);\n([\s\S]*)'
)
_NARROWED: Final = re.compile(
    r'(?:rate\((?P<rate>[0-9]{1,4})\);\n)?(?P<note>note\("[0-9a-f]{2,1600}"\);\n)?'
    r"(?:check if time\(\$t\), \$t < (?P<time>[0-9TZ:-]{20});\n)?"
    r"(?:check if operation\(\$o\), \{(?P<operations>[a-z\", ]*)\}\.contains\(\$o\);\n)?"
    r'(?P<scopes>check if collection\("[0-9a-f]+"\)[^\n]*;\n)?'
    r"(?:reject if field\(\$f\), !\{(?P<fields>[0-9a-f\", ]*)\}\.contains\(\$f\);\n)?"
    r"(?P<guard>check if guarded\(true\);\n)?"
)
_SCOPE: Final = re.compile(r'collection\("([0-9a-f]+)"\)(?:, key\(\$k\), \$k\.starts_with\("([0-9a-f]+)"\))?')
_SETS: Final = re.compile(r"\{[^{}\n]*\}")


def _parse_granted(source: str) -> tuple[bytes, int, Terms]:
    """The device, the time and the terms of a first block. Raises ``MalformedError``."""
    found = _GRANTED.fullmatch(source)
    if found is None:
        raise MalformedError("token: its first block does not have the form of a grant")
    device, issued, rate, note, holder, database, checks = found.groups()
    narrowing = _parse_narrowing(f"rate({rate});\n{note or ''}{checks}")
    if narrowing.operations is None or narrowing.expires_s is None or narrowing.rate is None:
        raise MalformedError("token: its first block says no operations, or no end")
    terms = Terms(
        bytes.fromhex(holder),
        bytes.fromhex(database),
        narrowing.operations,
        narrowing.expires_s,
        narrowing.scopes,
        narrowing.fields,
        narrowing.if_match,
        narrowing.rate,
        narrowing.note,
    )
    if _ordered(_granted(terms, bytes.fromhex(device), int(issued))) != _ordered(source):
        raise MalformedError("token: its first block is not spelt as a grant is")
    return bytes.fromhex(device), int(issued), terms


def _parse_narrowing(source: str) -> Narrowing:
    """What a block takes away. Raises ``MalformedError`` for all that would not be written so."""
    found = _NARROWED.fullmatch(source)
    if found is None:
        raise MalformedError("token: a block does not have the form of a narrowing")
    rate, note, operations = found["rate"], found["note"], found["operations"]
    fields, scopes = found["fields"], found["scopes"]
    try:
        narrowing = Narrowing(
            None if operations is None else frozenset(Operation(one) for one in _members(operations)),
            None if found["time"] is None else _parse_time(found["time"]),
            None if scopes is None else _parse_scopes(scopes),
            None if fields is None else frozenset(map(_unhex, _members(fields))),
            found["guard"] is not None,
            None if rate is None else int(rate),
            "" if note is None else _unhex(note[6:-4]),
        )
    except ValueError as exc:
        raise MalformedError("token: a block holds something else than the terms that there are") from exc
    _check_narrowing(narrowing)
    if _ordered("".join(_narrowing_lines(narrowing))) != _ordered(source):
        raise MalformedError("token: a block is not spelt as a narrowing is")
    return narrowing


def _members(text: str) -> list[str]:
    return [one.strip('"') for one in text.split(", ")]


def _parse_scopes(line: str) -> tuple[Scope, ...]:
    parts = line[len("check if ") : -2].split(" or ")
    found = [_SCOPE.fullmatch(part) for part in parts[: MAX_SCOPES + 1]]
    return tuple(sorted({Scope(_unhex(one[1]), _unhex(one[2] or "")) for one in found if one is not None}))


def _parse_time(text: str) -> int:
    return int(datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp())


def _unhex(text: str) -> str:
    return bytes.fromhex(text).decode("utf-8")


def _ordered(source: str) -> str:
    """With the members of each set in order: Biscuit prints them in the order in which its strings first occurred."""
    return _SETS.sub(lambda found: "{" + ", ".join(sorted(found[0][1:-1].split(", "))) + "}", source)


# --- Biscuit's own judgement ----------------------------------------------------------------------------------------


def _authorizer(signer: bytes, action: Action, now_s: int) -> Any:
    facts = [f'time({_time_text(now_s)}); signer("{signer.hex()}"); operation("{action.operation.value}");']
    if action.database is not None:
        facts.append(f'database("{action.database.hex()}");')
    if action.collection is not None:
        begins = action.key if action.key is not None else action.key_prefix
        facts.append(f'collection("{_hex(action.collection)}"); key("{_hex(begins)}");')
    facts += [f'field("{_hex(field)}");' for field in sorted(action.fields)]
    if action.guarded or action.operation not in _CHANGING:
        facts.append("guarded(true);")
    builder = _BISCUIT.AuthorizerBuilder("\n".join([*facts, "allow if true;"]))
    limits = builder.limits()
    # Of blocks in this form none derives a fact, so these are never met; the time is the machine's, which may be busy.
    limits.max_facts, limits.max_iterations, limits.max_time = 500, 16, timedelta(seconds=1)
    builder.set_limits(limits)
    return builder
