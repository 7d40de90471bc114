"""Who said it: canonical bytes, signing contexts, keys, and the history of keys under one identity.

The names here are pure: they take bytes and times as arguments and touch no file, clock or network. The keystore, which
reads and writes a file, and recovery phrases, which need a word list, are imported from their own modules.
"""

from __future__ import annotations

from identity.encoding import Fields, Value, decode, encode
from identity.event import (
    DeviceClass,
    LastGood,
    RevocationReason,
    SignedEvent,
    event_digest,
    key_commitment,
    parse_signed_event,
    sign_event,
)
from identity.history import Device, KeyHistory, Revocation, fold
from identity.keys import Ed25519Signer, Signer, generate_seed, verify_signature
from identity.verdict import Reason, Status, Verdict, judge_entry

__all__ = [
    "Device",
    "DeviceClass",
    "Ed25519Signer",
    "Fields",
    "KeyHistory",
    "LastGood",
    "Reason",
    "Revocation",
    "RevocationReason",
    "SignedEvent",
    "Signer",
    "Status",
    "Value",
    "Verdict",
    "decode",
    "encode",
    "event_digest",
    "fold",
    "generate_seed",
    "judge_entry",
    "key_commitment",
    "parse_signed_event",
    "sign_event",
    "verify_signature",
]
