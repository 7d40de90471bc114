"""Which tokens come from authorities that do not depend on each other (docs/spec/timestamp.md, section 13).

Whoever holds the key of a certificate on a path can state times in the name of everybody below it. So two tokens whose
paths share any key speak once, under however many certificates, roots or names that key stands.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

__all__ = ["group_independent", "path_keys"]


def path_keys(path: Sequence[x509.Certificate]) -> frozenset[bytes]:
    """SHA-256 of the public key (SubjectPublicKeyInfo) of each certificate, the root's among them."""
    return frozenset(
        sha256(certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
        for certificate in path
    )


def group_independent(keys: Iterable[frozenset[bytes]]) -> list[list[int]]:
    """The positions in ``keys``, those that share a key in one group, also by way of a third."""
    groups: list[tuple[frozenset[bytes], list[int]]] = []
    for position, own in enumerate(keys):
        joined = [group for group in groups if group[0] & own]
        groups = [group for group in groups if not group[0] & own]
        members = [member for _, members in joined for member in members]
        groups.append((own.union(*(held for held, _ in joined)), [*members, position]))
    return [sorted(members) for _, members in groups]
