"""Checkpoints: signed notes that state a log's size and root, in the form of C2SP's tlog-checkpoint and signed-note.

Implements docs/spec/checkpoint.md. The log signs with one Ed25519 key under the key name that is its origin. Lines of
other signers (witnesses) are read and ignored; what a timestamp covers leaves them out (``imprint_message``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from identity.errors import LimitExceeded, MalformedError, SignatureMismatch, VerificationError
from identity.keys import Signer, verify_signature
from identity.textforms import parse_base64, to_base64, to_hex
from ledger.log import HASH_BYTES, MAX_LOG_SIZE

__all__ = [
    "MAX_NOTE_BYTES",
    "MAX_SIGNATURE_LINES",
    "Checkpoint",
    "Note",
    "NoteSignature",
    "VerifiedCheckpoint",
    "imprint_message",
    "key_id",
    "parse_checkpoint",
    "parse_note",
    "sign_checkpoint",
    "verifier_key",
    "verify_checkpoint",
]

MAX_NOTE_BYTES: Final = 64 * 1024
MAX_SIGNATURE_LINES: Final = 32
"""The log's own line included. C2SP asks readers for at least 16."""

_ED25519: Final = b"\x01"
_KEY_ID_BYTES: Final = 4
_PUBLIC_KEY_BYTES: Final = 32
_SIGNATURE_PREFIX: Final = "\u2014 "
_CONTROLS: Final = re.compile(r"[\x00-\x09\x0b-\x1f]")
# Unicode's White_Space, as a fixed list: the rule must not move with the version of somebody's tables.
_KEY_NAME: Final = re.compile("[^+\x00-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ud800-\udfff]+")
_SIZE: Final = re.compile(r"[1-9][0-9]{0,15}")


@dataclass(frozen=True, slots=True)
class NoteSignature:
    """One signature line: who says it signed, the 4-byte id of the key, what it wrote. Nothing of it is verified."""

    name: str
    key_id: bytes
    signature: bytes

    def line(self) -> str:
        """The line as it stands in a note, with its newline."""
        return f"{_SIGNATURE_PREFIX}{self.name} {to_base64(self.key_id + self.signature)}\n"


@dataclass(frozen=True, slots=True)
class Note:
    """A signed note as read: ``text`` ends in a newline and is what the signatures cover."""

    text: str
    signatures: tuple[NoteSignature, ...]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a checkpoint states: the log called ``origin`` has ``size`` leaves (>= 1) and that 32-byte root."""

    origin: str
    size: int
    root: bytes

    def __post_init__(self) -> None:
        if not _KEY_NAME.fullmatch(self.origin):
            raise MalformedError("checkpoint: the origin is empty, or holds a space, a control or '+'")
        if not 1 <= self.size <= MAX_LOG_SIZE:
            raise MalformedError(f"checkpoint: a size of {self.size}")
        if len(self.root) != HASH_BYTES:
            raise MalformedError(f"checkpoint: a root of {len(self.root)} bytes")

    def text(self) -> str:
        """The note's text: three lines."""
        return f"{self.origin}\n{self.size}\n{to_base64(self.root)}\n"


@dataclass(frozen=True, slots=True)
class VerifiedCheckpoint:
    """A checkpoint that the log's own key has signed; ``note`` is the whole note, as it was given."""

    origin: str
    size: int
    root: bytes
    note: str


def key_id(name: str, public_key: bytes) -> bytes:
    """The 4-byte id of an Ed25519 note key: the beginning of SHA-256(name || 0A || 01 || public key)."""
    return sha256(name.encode("utf-8") + b"\n" + _ED25519 + public_key).digest()[:_KEY_ID_BYTES]


def verifier_key(name: str, public_key: bytes) -> str:
    """The key as C2SP's vkey text, ``<name>+<hex key id>+<base64 of 01 || public key>``: what other tools are given."""
    if not _KEY_NAME.fullmatch(name) or len(public_key) != _PUBLIC_KEY_BYTES:
        raise MalformedError("note key: a name without spaces and '+', and a public key of 32 bytes")
    return f"{name}+{to_hex(key_id(name, public_key))}+{to_base64(_ED25519 + public_key)}"


def sign_checkpoint(signer: Signer, checkpoint: Checkpoint) -> str:
    """The note: the checkpoint's text, a blank line, the log's signature line."""
    text = checkpoint.text()
    signature = NoteSignature(
        checkpoint.origin, key_id(checkpoint.origin, signer.public_key), signer.sign(text.encode("utf-8"))
    )
    return f"{text}\n{signature.line()}"


def parse_note(note: str) -> Note:
    """Read any signed note. Nothing is verified. Raises ``MalformedError``, ``LimitExceeded`` beyond the bounds."""
    _check_characters(note)
    text, blank, lines = note.rpartition("\n\n")
    if not blank or not text or not lines.endswith("\n"):
        raise MalformedError("note: not a text, a blank line and signature lines, each line with its newline")
    signatures = lines[:-1].split("\n")
    if len(signatures) > MAX_SIGNATURE_LINES:
        raise LimitExceeded(f"note: {len(signatures)} signature lines, at most {MAX_SIGNATURE_LINES} are read")
    return Note(text + "\n", tuple(_parse_signature(line) for line in signatures))


def parse_checkpoint(text: str) -> Checkpoint:
    """Read the text of a checkpoint's note: exactly three lines. Raises ``MalformedError``."""
    lines = text.split("\n")
    if len(lines) != 4 or lines[3]:
        raise MalformedError("checkpoint: not exactly three lines, origin, size and root")
    origin, size, root, _ = lines
    if not _SIZE.fullmatch(size):
        raise MalformedError("checkpoint: the size is not a decimal number from 1 without leading zeros")
    return Checkpoint(origin, int(size), parse_base64(root, HASH_BYTES))


def verify_checkpoint(note: str, origin: str, public_key: bytes) -> VerifiedCheckpoint:
    """Verify that the key of the log called ``origin`` signed the note, with exactly one line.

    Raises ``MalformedError``; ``VerificationError`` for another log's checkpoint; ``SignatureMismatch`` when the key's
    line is missing or does not verify. Lines of other names or key ids count for nothing, whatever they hold.
    """
    checkpoint, _ = _open_checkpoint(note, origin, public_key)
    return VerifiedCheckpoint(checkpoint.origin, checkpoint.size, checkpoint.root, note)


def imprint_message(note: str, origin: str, public_key: bytes) -> bytes:
    """The bytes that a timestamp on the checkpoint covers: the text, a blank line, the log's own signature line.

    They are the same however many witnesses have signed since. Verifies and raises as ``verify_checkpoint`` does.
    """
    checkpoint, own = _open_checkpoint(note, origin, public_key)
    return f"{checkpoint.text()}\n{own.line()}".encode()


def _open_checkpoint(note: str, origin: str, public_key: bytes) -> tuple[Checkpoint, NoteSignature]:
    parsed = parse_note(note)
    checkpoint = parse_checkpoint(parsed.text)
    if checkpoint.origin != origin:
        raise VerificationError(f"checkpoint of {checkpoint.origin!r}, not of {origin!r}")
    own_id = key_id(origin, public_key)
    own = [line for line in parsed.signatures if line.name == origin and line.key_id == own_id]
    if not own:
        raise SignatureMismatch(f"checkpoint {checkpoint.size}: no signature by the key of {origin}")
    if len(own) > 1:
        raise MalformedError(f"checkpoint {checkpoint.size}: {len(own)} signature lines by one key")
    verify_signature(public_key, parsed.text.encode("utf-8"), own[0].signature)
    return checkpoint, own[0]


def _check_characters(note: str) -> None:
    # Characters are at most as many as bytes, so a long text is refused before it is encoded.
    if len(note) > MAX_NOTE_BYTES:
        raise LimitExceeded(f"note: more than {MAX_NOTE_BYTES} bytes")
    try:
        size = len(note.encode("utf-8"))
    except UnicodeEncodeError as exc:
        raise MalformedError("note: holds a lone surrogate") from exc
    if size > MAX_NOTE_BYTES:
        raise LimitExceeded(f"note: {size} bytes, at most {MAX_NOTE_BYTES} are read")
    if _CONTROLS.search(note):
        raise MalformedError("note: holds a control character other than the newline")


def _parse_signature(line: str) -> NoteSignature:
    if not line.startswith(_SIGNATURE_PREFIX):
        raise MalformedError("note: a signature line does not begin with an em dash and a space")
    name, space, encoded = line[len(_SIGNATURE_PREFIX) :].partition(" ")
    if not space or not _KEY_NAME.fullmatch(name):
        raise MalformedError("note: a signature line is not a key name, a space and base64")
    payload = parse_base64(encoded)
    if len(payload) <= _KEY_ID_BYTES:
        raise MalformedError("note: a signature line holds no signature")
    return NoteSignature(name, payload[:_KEY_ID_BYTES], payload[_KEY_ID_BYTES:])
