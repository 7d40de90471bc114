"""Every signing and hashing context of holdfast, in one place.

A context is mixed into each signature and hash that is not Hypercore's, RFC 6962's or C2SP's own, so that bytes made
for one purpose can never be taken for another. Each is unique, versioned, and ends in NUL, so none is a prefix of
another. What is signed or hashed is ``context || canonical bytes``.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "ALL_CONTEXTS",
    "ANCHOR_RECEIPT_DIGEST",
    "ARCHIVE_DIGEST",
    "BRANCH_ID",
    "BUNDLE_DIGEST",
    "DATABASE_ID",
    "DOCUMENT_CONTENT",
    "DOCUMENT_VERSION",
    "ENTRY_ID",
    "IDENTITY_EVENT_DIGEST",
    "IDENTITY_EVENT_SIGNATURE",
    "INTENT_DIGEST",
    "INTENT_SIGNATURE",
    "KEYSTORE_CHECKSUM",
    "KEYSTORE_HEADER",
    "PAIRING_ANSWER",
    "RECOVERY_ROOT",
    "ROOT_CARD",
    "ROOT_KEY_COMMITMENT",
    "SAFETY_NUMBER",
    "SEAL_COMMITMENT",
    "SENTINEL_CHECKSUM",
    "SENTINEL_MACHINE",
    "SIGNING_REQUEST",
    "STATE_ROOT",
    "SYNC_EVENTS",
    "TOKEN_CHECK",
    "VISIT_TERMS",
]

IDENTITY_EVENT_DIGEST: Final = b"holdfast/v1/identity-event-digest\0"
"""SHA-256 over an identity event: what ``prev`` names, and for the inception the identity id."""

IDENTITY_EVENT_SIGNATURE: Final = b"holdfast/v1/identity-event-signature\0"
"""Ed25519 by root or device keys over an identity event."""

ROOT_KEY_COMMITMENT: Final = b"holdfast/v1/root-key-commitment\0"
"""SHA-256 over a root public key that will be revealed by a later ``rotate_root``."""

RECOVERY_ROOT: Final = b"holdfast/v1/recovery-root\0"
"""HKDF info, followed by the generation as 8 bytes big-endian: the root seed of that generation."""

ROOT_CARD: Final = b"holdfast/v1/root-card\0"
"""Ed25519 by a root key over a root card: whoever hands the key over has it."""

SIGNING_REQUEST: Final = b"holdfast/v1/signing-request\0"
"""SHA-256 over the digests of the proposed events: what a signing request is called."""

TOKEN_CHECK: Final = b"holdfast/v1/token-check\0"
"""Ed25519 over this and 32 random bytes: shows that a token has the key, and means nothing."""

KEYSTORE_HEADER: Final = b"holdfast/v1/keystore-header\0"
"""Associated data of the keystore's cipher, followed by the header bytes."""

KEYSTORE_CHECKSUM: Final = b"holdfast/v1/keystore-checksum\0"
"""SHA-256 over header and ciphertext: tells a damaged file from a wrong passphrase; it proves nothing."""

ANCHOR_RECEIPT_DIGEST: Final = b"holdfast/v1/anchor-receipt-digest\0"
"""SHA-256 over the canonical bytes of an anchor receipt: what an ``anchor`` statement of the log names."""

ARCHIVE_DIGEST: Final = b"holdfast/v1/archive-digest\0"
"""SHA-256 over all of an archive before its trailer: tells one that was cut or damaged; it proves nothing."""

SENTINEL_CHECKSUM: Final = b"holdfast/v1/sentinel-checksum\0"
"""SHA-256 over a slot of the sentinel: tells a torn or altered slot from a whole one; it proves nothing."""

SENTINEL_MACHINE: Final = b"holdfast/v1/sentinel-machine\0"
"""SHA-256 over a machine's id: what a sentinel says of where it was written."""

DATABASE_ID: Final = b"holdfast/v1/database-id\0"
"""SHA-256 over what a database was founded with: what the database is called in every entry of it."""

ENTRY_ID: Final = b"holdfast/v1/entry-id\0"
"""SHA-256 over the feed key, the index as 8 bytes big-endian and the leaf hash of an entry: orders concurrent ones."""

BRANCH_ID: Final = b"holdfast/v1/branch-id\0"
"""SHA-256 over the feed key, an index as 8 bytes big-endian and the leaf hash there: one side of a forked feed."""

BUNDLE_DIGEST: Final = b"holdfast/v1/bundle-digest\0"
"""SHA-256 over all of a bundle before its trailer: tells one that was cut or damaged; it proves nothing."""

DOCUMENT_VERSION: Final = b"holdfast/v1/document-version\0"
"""SHA-256 over a document's visible causal state: its ETag is made of the first half."""

DOCUMENT_CONTENT: Final = b"holdfast/v1/document-content\0"
"""SHA-256 over what a document shows, cell by cell: what a state root commits to beside its version."""

STATE_ROOT: Final = b"holdfast/v1/state-root\0"
"""SHA-256 over the number of a database's documents and the root of the tree over them."""

SYNC_EVENTS: Final = b"holdfast/v1/sync-events\0"
"""SHA-256 over the digests of an identity's events in ascending order: tells whether two have the same ones."""

SEAL_COMMITMENT: Final = b"holdfast/v1/seal-commitment\0"
"""SHA-256 over a 32-byte salt and the canonical bytes of a value that is sealed: only that value fits it."""

SAFETY_NUMBER: Final = b"holdfast/v1/safety-number\0"
"""SHA-256 over two identities and the devices with which they meet: the number that both sides of a pairing show."""

PAIRING_ANSWER: Final = b"holdfast/v1/pairing-answer\0"
"""Before what a node signs when somebody claims its offer: which offer, and both sides."""

INTENT_DIGEST: Final = b"holdfast/v1/intent-digest\0"
"""SHA-256 over the canonical bytes of an intent: what it is called, and what tells it from another with its number."""

INTENT_SIGNATURE: Final = b"holdfast/v1/intent-signature\0"
"""Ed25519 by the key of whoever wants a change over the canonical bytes of an intent."""

VISIT_TERMS: Final = b"holdfast/v1/visit-terms\0"
"""SHA-256 over the terms that were in force of a token: what a visit was judged by."""

ALL_CONTEXTS: Final = (
    IDENTITY_EVENT_DIGEST,
    IDENTITY_EVENT_SIGNATURE,
    ROOT_KEY_COMMITMENT,
    RECOVERY_ROOT,
    ROOT_CARD,
    SIGNING_REQUEST,
    TOKEN_CHECK,
    KEYSTORE_HEADER,
    KEYSTORE_CHECKSUM,
    ANCHOR_RECEIPT_DIGEST,
    ARCHIVE_DIGEST,
    SENTINEL_CHECKSUM,
    SENTINEL_MACHINE,
    DATABASE_ID,
    ENTRY_ID,
    BRANCH_ID,
    BUNDLE_DIGEST,
    DOCUMENT_VERSION,
    DOCUMENT_CONTENT,
    STATE_ROOT,
    SYNC_EVENTS,
    SEAL_COMMITMENT,
    SAFETY_NUMBER,
    PAIRING_ANSWER,
    INTENT_DIGEST,
    INTENT_SIGNATURE,
    VISIT_TERMS,
)
