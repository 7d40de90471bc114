"""Files of a home in an archive: which paths there may be, and how much of them is read.

Implements docs/spec/archive.md, section "file". A path comes from a stranger's file and becomes one on this machine: it
is taken letter by letter from a small alphabet, stays below the home, and can never be a store's, hidden, or doubled.
A file is content alone: there are no links, no modes, no owners.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

from identity.errors import LimitExceeded, MalformedError
from ledger.archive import Section

__all__ = ["MAX_FILES", "MAX_FILES_BYTES", "check_path", "read_file"]

MAX_FILES: Final = 64
MAX_FILES_BYTES: Final = 64 * 1024 * 1024
"""All files of an archive together: they are held in memory."""

_MAX_PATH: Final = 200
_MAX_DEPTH: Final = 4
_PART: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", re.ASCII)
_STORE: Final = re.compile(r"(.*\.(db|new)|.*-(wal|shm|journal))", re.ASCII)
"""What a database engine would take for its own."""


def check_path(path: str, known: Collection[str] = ()) -> str:
    """Return ``path`` when a file of a home may have it and none of ``known`` is or contains the same.

    ``a/b.pem``: up to four parts of letters, digits, ``_``, ``.`` and ``-``, none beginning with ``.`` or ``-``.
    Raises ``MalformedError``.
    """
    parts = path.split("/")
    if len(path) > _MAX_PATH or len(parts) > _MAX_DEPTH or not all(_PART.fullmatch(part) for part in parts):
        raise MalformedError(f"archive: {path[:_MAX_PATH]!r} is no path of a file in a home")
    folded = path.lower()
    if _STORE.fullmatch(folded):
        raise MalformedError(f"archive: a file {path!r} could be taken for a store")
    for other in (name.lower() for name in known):
        if folded == other or folded.startswith(other + "/") or other.startswith(folded + "/"):
            raise MalformedError(f"archive: files {path!r} and {other!r} are one")
    return path


def read_file(section: Section, known: Collection[str]) -> tuple[str, bytes]:
    """The path and content of a file section. Raises ``MalformedError``, ``LimitExceeded``."""
    path = check_path(section.facts.text("path", min=1, max=_MAX_PATH), known)
    content = section.content.read(MAX_FILES_BYTES + 1)
    if len(content) > MAX_FILES_BYTES:
        raise LimitExceeded(f"archive: file {path!r} has more than {MAX_FILES_BYTES} bytes")
    return path, content
