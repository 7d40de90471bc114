"""The verifier's policy: what it trusts and what it demands (docs/spec/policy.md).

A policy is TOML. Nothing is permissive by default: an identity, a log, an authority, a chain or a claim that the file
does not name is not trusted and not demanded, and a key that this reader does not know is an error, never ignored.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from anchoring.headers import TrustedHeaders
from anchoring.report import Claim
from anchoring.timestamp import Authority
from anchoring.timestamp.certificates import load_certificate
from identity.errors import ConfigurationError, MalformedError
from identity.textforms import parse_base64, parse_hex

__all__ = ["MAX_POLICY_BYTES", "ChainTrust", "Policy", "PolicyFile", "parse_duration", "parse_policy"]

MAX_POLICY_BYTES = 1 << 20
# tomllib keeps every prefix of a dotted key, so a long one takes memory by the square of its length.
_MAX_DOTS = 32
_DURATION = re.compile(r"([1-9][0-9]{0,6})(s|m|h|d)")
_PEM_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----\n([A-Za-z0-9+/=\n]+)\n-----END CERTIFICATE-----")
_OID = re.compile(r"[0-2](\.(0|[1-9][0-9]{0,38})){1,31}")
_UNIT_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


@dataclass(frozen=True, slots=True)
class ChainTrust:
    """A chain that the policy trusts. ``code_hash`` is Keccak-256 of the contract's runtime code."""

    id: int
    code_hash: bytes
    headers: TrustedHeaders


@dataclass(frozen=True, slots=True)
class Policy:
    """What a verifier trusts and demands, complete: the pinned headers are in it.

    ``k`` authorities must agree for a proof of existence; ``max_identity_age_ms`` bounds how old the newest identity
    head in the evidence may be.
    """

    identities: frozenset[bytes]
    logs: frozenset[bytes]
    k: int
    max_identity_age_ms: int
    authorities: tuple[Authority, ...]
    chains: Mapping[int, ChainTrust]
    require: frozenset[Claim]


@dataclass(frozen=True, slots=True)
class PolicyFile:
    """A policy as it stands in its file: the pinned headers are still named, not read.

    ``headers_files`` maps a chain id to the file name that the policy gives, relative to the policy file.
    """

    policy: Policy
    headers_files: Mapping[int, str]

    def with_headers(self, headers: Mapping[int, TrustedHeaders]) -> Policy:
        """The complete policy, with the pinned headers of each chain put in."""
        chains = {
            chain_id: ChainTrust(trust.id, trust.code_hash, headers[chain_id])
            for chain_id, trust in self.policy.chains.items()
        }
        source = self.policy
        return Policy(
            identities=source.identities,
            logs=source.logs,
            k=source.k,
            max_identity_age_ms=source.max_identity_age_ms,
            authorities=source.authorities,
            chains=chains,
            require=source.require,
        )


def parse_policy(text: bytes) -> PolicyFile:
    """Parse a policy file. Raises ``ConfigurationError``, naming the key, for anything that is not exactly a policy."""
    if len(text) > MAX_POLICY_BYTES:
        raise ConfigurationError(f"policy: {len(text)} bytes, at most {MAX_POLICY_BYTES} are read")
    for number, line in enumerate(text.split(b"\n"), start=1):
        if line.count(b".") > _MAX_DOTS:
            raise ConfigurationError(f"policy: line {number} has more than {_MAX_DOTS} dots")
    try:
        table = tomllib.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as exc:  # ValueError: also a number of more than 4,300 digits
        raise ConfigurationError(f"policy: not TOML: {exc}") from exc
    try:
        return _read_policy(table)
    except MalformedError as exc:
        raise ConfigurationError(f"policy: {exc}") from exc


def parse_duration(text: str) -> int:
    """Milliseconds of a duration such as ``90s``, ``15m``, ``24h`` or ``30d``. Raises ``MalformedError``."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise MalformedError(f"{text!r} is not a duration such as 90s, 15m, 24h or 30d")
    return int(match[1]) * _UNIT_MS[match[2]]


def _read_policy(table: dict[str, Any]) -> PolicyFile:
    _only(table, "", required={"v", "identities", "logs", "tsa", "require"}, optional={"chain"})
    if type(table["v"]) is not int or table["v"] != 1:
        raise MalformedError(f"v = {table['v']!r} is not a version this reader knows (1)")
    tsa = _table(table["tsa"], "tsa")
    _only(tsa, "tsa.", required={"k", "max_identity_age", "authorities"})
    authorities = tuple(_read_authority(item) for item in _list(tsa["authorities"], "tsa.authorities"))
    if len({(a.root, a.subject, a.policy_oid) for a in authorities}) != len(authorities):
        raise MalformedError("tsa.authorities names one authority twice")
    k = tsa["k"]
    if type(k) is not int or not 1 <= k <= 16:
        raise MalformedError("tsa.k is not a whole number from 1 to 16")
    chains, headers_files = _read_chains(_list(table.get("chain", []), "chain"))
    policy = Policy(
        identities=_digests(table["identities"], "identities"),
        logs=_digests(table["logs"], "logs"),
        k=k,
        max_identity_age_ms=parse_duration(_text(tsa["max_identity_age"], "tsa.max_identity_age")),
        authorities=authorities,
        chains=chains,
        require=_read_claims(table["require"]),
    )
    return PolicyFile(policy, headers_files)


def _read_authority(item: Any) -> Authority:
    table = _table(item, "tsa.authorities")
    _only(table, "tsa.authorities.", required={"root", "policy", "subject"}, optional={"revoked"})
    return Authority(
        root=_certificate(_text(table["root"], "tsa.authorities.root")),
        policy_oid=_oid(_text(table["policy"], "tsa.authorities.policy")),
        subject=_text(table["subject"], "tsa.authorities.subject"),
        revoked_ms=_moment(table["revoked"], "tsa.authorities.revoked") if "revoked" in table else None,
    )


def _certificate(pem: str) -> bytes:
    """The DER bytes of a PEM certificate (RFC 7468): one block, nothing around it."""
    match = _PEM_CERTIFICATE.fullmatch(pem.strip())
    if match is None:
        raise MalformedError("tsa.authorities.root is not one PEM certificate")
    der = parse_base64("".join(match[1].split()))
    load_certificate(der)
    return der


def _oid(text: str) -> str:
    if _OID.fullmatch(text) is None:
        raise MalformedError(f"tsa.authorities.policy: {text!r} is not an object identifier such as 1.2.3.4")
    return text


def _read_chains(items: list[Any]) -> tuple[dict[int, ChainTrust], dict[int, str]]:
    chains: dict[int, ChainTrust] = {}
    files: dict[int, str] = {}
    for item in items:
        table = _table(item, "chain")
        _only(table, "chain.", required={"id", "code_hash", "headers_file"})
        chain_id = table["id"]
        if type(chain_id) is not int or not 1 <= chain_id < 2**53:
            raise MalformedError("chain.id is not a whole number from 1")
        if chain_id in chains:
            raise MalformedError(f"chain {chain_id} stands twice")
        code_hash = parse_hex(_text(table["code_hash"], "chain.code_hash"), 32)
        chains[chain_id] = ChainTrust(chain_id, code_hash, TrustedHeaders())
        files[chain_id] = _text(table["headers_file"], "chain.headers_file")
    return chains, files


def _read_claims(value: Any) -> frozenset[Claim]:
    names = [_text(item, "require") for item in _list(value, "require")]
    known = {claim.value for claim in Claim}
    for name in names:
        if name not in known:
            raise MalformedError(f"require names {name!r}, which is none of {', '.join(sorted(known))}")
    if len(set(names)) != len(names):
        raise MalformedError("require names one claim twice")
    if not names:
        raise MalformedError("require is empty: a policy that demands nothing would pass anything")
    return frozenset(Claim(name) for name in names)


def _digests(value: Any, key: str) -> frozenset[bytes]:
    digests = [parse_hex(_text(item, key), 32) for item in _list(value, key)]
    if len(set(digests)) != len(digests):
        raise MalformedError(f"{key} names one id twice")
    return frozenset(digests)


def _only(
    table: dict[str, Any], prefix: str, *, required: set[str], optional: frozenset[str] | set[str] = frozenset()
) -> None:
    for key in sorted(required - table.keys()):
        raise MalformedError(f"the key {prefix}{key} is missing")
    for key in sorted(table.keys() - required - optional):
        raise MalformedError(f"the key {prefix}{key} is unknown")


def _table(value: Any, key: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise MalformedError(f"{key} is not a table")
    return value


def _list(value: Any, key: str) -> list[Any]:
    if not isinstance(value, list):
        raise MalformedError(f"{key} is not a list")
    return value


def _moment(value: Any, key: str) -> int:
    """Milliseconds of a TOML offset date-time."""
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise MalformedError(f"{key} is not a date and time with an offset, such as 2026-11-20T08:00:00Z")
    return int(value.timestamp() * 1000)


def _text(value: Any, key: str) -> str:
    if not isinstance(value, str):
        raise MalformedError(f"{key} holds something that is not a text")
    return value
