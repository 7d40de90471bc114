"""The policy that a new home is given: it trusts its own identity, log, authorities and chain, and demands all."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from anchoring.timestamp import Authority
from identity.textforms import to_base64, to_hex
from ledger.statement import ChainBinding

__all__ = ["policy_text"]


def policy_text(
    identity: bytes,
    log_id: bytes,
    authorities: Sequence[Authority],
    chain: ChainBinding | None,
    code_hash: bytes,
    k: int = 1,
) -> str:
    """The TOML of docs/spec/policy.md. Without a chain, the claim ``anchor`` is not demanded."""
    claims = ["origin", "integrity", "log", "time"] + ([] if chain is None else ["anchor"])
    parts = [
        "# What 'holdfast verify' trusts and demands. Give a copy to whoever is to check your evidence, with the",
        "# headers file that it names beside it, and let them replace what they have reasons of their own to trust.",
        "v = 1",
        f'identities = ["{to_hex(identity)}"]',
        f'logs = ["{to_hex(log_id)}"]',
        f"require = [{', '.join(f'{claim!r}' for claim in claims)}]".replace("'", '"'),
        "",
        "[tsa]",
        f"k = {k}",
        'max_identity_age = "30d"',
        "" if authorities else "authorities = []",
    ]
    for authority in authorities:
        parts += [
            "[[tsa.authorities]]",
            f"subject = {_quoted(authority.subject)}",
            f'policy = "{authority.policy_oid}"',
            f'root = """\n{_pem(authority.root)}"""',
            "",
        ]
    if chain is not None:
        parts += [
            "[[chain]]",
            f"id = {chain.id}",
            f'code_hash = "{to_hex(code_hash)}"',
            'headers_file = "headers.jsonl"',
            "",
        ]
    return "\n".join(parts)


def _pem(der: bytes) -> str:
    body = "\n".join(textwrap.wrap(to_base64(der), 64))
    return f"-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n"


def _quoted(text: str) -> str:
    escaped = "".join(
        f"\\u{ord(character):04x}" if ord(character) < 32 or character in '"\\' else character for character in text
    )
    return f'"{escaped}"'
