"""A home: the directory that holds one store, its keys and its policy.

    holdfast.toml     settings; its ``format`` says which holdfast can use the home
    vault.db          the store
    keystore.hfk      the keys, encrypted
    policy.toml       what this home trusts when it verifies
    headers.jsonl     block headers pinned for that policy
    keys.db           the keys of sealed values, in the clear: they are erased by destroying them
    forks/            proofs of forks that were met
    peers.json        nodes that this home was paired with
    logs/             checkpoint logs that are kept for other nodes
    founding.request  what the holders of the root keys have to sign before there is an identity; then gone

The development chain and authority live elsewhere: a home that is restored must not restore them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["HOME_FORMAT", "Home"]

HOME_FORMAT = 1
"""The format this version writes; a home with a larger number was written by a newer holdfast."""


@dataclass(frozen=True, slots=True)
class Home:
    """Where the parts of a home lie."""

    root: Path

    @property
    def settings(self) -> Path:
        return self.root / "holdfast.toml"

    @property
    def database(self) -> Path:
        return self.root / "vault.db"

    @property
    def keystore(self) -> Path:
        return self.root / "keystore.hfk"

    @property
    def policy(self) -> Path:
        return self.root / "policy.toml"

    @property
    def headers(self) -> Path:
        return self.root / "headers.jsonl"

    @property
    def document_keys(self) -> Path:
        return self.root / "keys.db"

    @property
    def nonces(self) -> Path:
        return self.root / "nonces.db"

    @property
    def forks(self) -> Path:
        return self.root / "forks"

    @property
    def founding_request(self) -> Path:
        return self.root / "founding.request"

    @property
    def peers(self) -> Path:
        return self.root / "peers.json"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def last_check(self) -> Path:
        return self.root / "last-check.json"

    @property
    def last_round(self) -> Path:
        return self.root / "last-round.json"

    @property
    def troubles(self) -> Path:
        return self.root / "authorities.json"
