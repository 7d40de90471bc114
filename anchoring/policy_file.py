"""Reading a policy from disk: the file itself and the trusted headers it names. The only I/O of the verifier."""

from __future__ import annotations

from pathlib import Path

from anchoring.headers import TrustedHeaders, parse_headers
from anchoring.policy import MAX_POLICY_BYTES, Policy, parse_policy
from identity.errors import ConfigurationError, MalformedError

__all__ = ["MAX_HEADERS_BYTES", "load_policy", "read_bounded"]

MAX_HEADERS_BYTES = 256 << 20

_HEADERS_HINT = (
    "the policy names it as headers_file, beside the policy: copy it too, or 'holdfast headers fetch --file'"
)


def load_policy(path: Path) -> Policy:
    """The policy at ``path``, with the headers files it names. Raises ``ConfigurationError`` for anything wrong."""
    parsed = parse_policy(read_bounded(path, MAX_POLICY_BYTES))
    headers: dict[int, TrustedHeaders] = {}
    for chain_id, name in parsed.headers_files.items():
        file = path.parent / name
        try:
            headers[chain_id] = parse_headers(read_bounded(file, MAX_HEADERS_BYTES, hint=_HEADERS_HINT))
        except MalformedError as exc:
            raise ConfigurationError(f"{file}: {exc}") from exc
    return parsed.with_headers(headers)


def read_bounded(path: Path, most: int, *, hint: str = "") -> bytes:
    """A file's bytes. Raises ``ConfigurationError`` when it cannot be read or is longer than ``most``."""
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except (OSError, ValueError) as exc:  # ValueError: a name with a NUL in it
        reason = exc.strerror if isinstance(exc, OSError) else exc
        raise ConfigurationError(f"cannot read {str(path)!r}: {reason}", hint=hint) from exc
    if len(data) > most:
        raise ConfigurationError(f"{path}: longer than {most} bytes")
    return data
