"""The worked examples of checkpoint-log.md, checkpoint.md, entry.md and log-export.md, recomputed from what they state.

They go on from the examples of identity.md (the root key, the inception) and feed.md (the feed and its two trees).
"""

from __future__ import annotations

import re
from hashlib import sha256
from io import BytesIO
from pathlib import Path

from identity.encoding import encode
from identity.history import build_bind_log, fold, parse_signed_event, sign_event
from identity.keys import Ed25519Signer
from ledger.checkpoint import Checkpoint, imprint_message, sign_checkpoint, verifier_key, verify_checkpoint
from ledger.entry import Record, encode_entry, parse_entry, parse_record, record_entry
from ledger.log import (
    append_to_frontier,
    consistency_proof,
    hash_leaf,
    inclusion_proof,
    root_at,
    verify_consistency,
    verify_inclusion,
)
from ledger.log_transfer import MAGIC, audit_log, export_log, read_log_export
from ledger.statement import (
    FeedHead,
    IdentityHead,
    LogDescriptor,
    Statement,
    TimeStatement,
    encode_statement,
    log_id,
    log_origin,
    parse_statement,
)
from ledger.storage.memory import MemoryStore
from ledger.store import LogState, StoredCheckpoint, StoredEvent

SPEC = Path(__file__).resolve().parents[3] / "docs" / "spec"


def text_of(name: str) -> str:
    return (SPEC / name).read_text("utf-8")


def fences(name: str, kind: str) -> list[str]:
    found: list[str] = re.findall(rf"^```{kind}\n(.*?)```", text_of(name), re.DOTALL | re.MULTILINE)
    return found


def values(name: str) -> dict[str, list[str]]:
    """The ``label = value`` lines of the text fences; indented lines go on with the value before."""
    found: dict[str, list[str]] = {}
    label = ""
    for line in "".join(fences(name, "text")).splitlines():
        if not line.startswith(" "):
            label, _, value = line.partition(" =")
            found[label] = [value.strip()] if value else []
        else:
            found[label].append(line.strip())
    return found


def hexes(name: str, *labels: str) -> list[bytes]:
    stated = values(name)
    return [bytes.fromhex("".join(stated[label])) for label in labels]


def feed_values() -> dict[str, bytes]:
    """feed.md writes its values in two columns."""
    lines = [line for fence in fences("feed.md", "text") for line in fence.splitlines() if line[:14].strip()]
    return {line[:14].strip(): bytes.fromhex(line[14:].strip()) for line in lines}


LOG, CHECKPOINT, ENTRY, EXPORT, IDENTITY = (
    "checkpoint-log.md",
    "checkpoint.md",
    "entry.md",
    "log-export.md",
    "identity.md",
)
LEAVES = hexes(LOG, *(f"leaf {index}" for index in range(6)))
HASHES = hexes(LOG, *(f"hash {index}" for index in range(6)))
LOG_ID, ROOT_3, ROOT_6 = hexes(LOG, "log id", "root at 3", "root at 6")
SIGNER = Ed25519Signer(hexes(LOG, "log seed")[0])
DESCRIPTOR = LogDescriptor("vault.example", SIGNER.public_key)
ORIGIN = log_origin(DESCRIPTOR, LOG_ID)
FEED = feed_values()
SIGNED_EVENTS = [
    parse_signed_event(data) for data in (*hexes(IDENTITY, "signed inception"), *hexes(EXPORT, "bind log"))
]
NOTE_3 = fences(CHECKPOINT, "note")[0]


def test_the_leaves() -> None:
    assert hexes(LOG, "log key") == [SIGNER.public_key]
    history = fold(SIGNED_EVENTS)
    head = IdentityHead(history.identity, 1, history.head)
    statements: list[Statement] = [
        DESCRIPTOR,
        head,
        FeedHead(FEED["feed key"], 1, FEED["tree 1"]),
        TimeStatement(3, (sha256(b"token").digest(),)),
        head,
        FeedHead(FEED["feed key"], 2, FEED["tree 2"]),
    ]
    assert [encode_statement(statement) for statement in statements] == LEAVES
    assert [parse_statement(leaf) for leaf in LEAVES] == statements
    shown = re.findall(r"h'([0-9a-f]+)\.\.\.'", text_of(LOG))
    assert [history.identity.hex()[:8], FEED["feed key"].hex()[:8]] == shown


def test_the_tree_and_its_proofs() -> None:
    assert [hash_leaf(leaf) for leaf in LEAVES] == HASHES
    assert log_id(LEAVES[0]) == LOG_ID
    nodes = {(level, index): digest for level, index, digest in append_to_frontier(LogState(b"", 0, ()), LEAVES)[1]}

    def node(level: int, index: int) -> bytes:
        return nodes[level, index]

    assert (root_at(node, 3), root_at(node, 6)) == (ROOT_3, ROOT_6)
    inclusion = [bytes.fromhex(text) for text in values(LOG)["inclusion of 2 in 6"]]
    consistency = [bytes.fromhex(text) for text in values(LOG)["consistency of 3 with 6"]]
    assert inclusion == inclusion_proof(node, 2, 6)
    assert consistency == consistency_proof(node, 3, 6)
    verify_inclusion(2, 6, HASHES[2], inclusion, ROOT_6)
    verify_consistency(3, 6, consistency, ROOT_3, ROOT_6)


def test_what_a_proof_does_not_bind() -> None:
    """The remark under "Proofs": leaf 0 of 3 and of 4 fold alike."""
    nodes = {(level, index): digest for level, index, digest in append_to_frontier(LogState(b"", 0, ()), LEAVES[:3])[1]}
    proof = inclusion_proof(lambda level, index: nodes[level, index], 0, 3)
    verify_inclusion(0, 4, HASHES[0], proof, ROOT_3)


def test_the_checkpoint() -> None:
    assert sign_checkpoint(SIGNER, Checkpoint(ORIGIN, 3, ROOT_3)) == NOTE_3
    verified = verify_checkpoint(NOTE_3, ORIGIN, SIGNER.public_key)
    assert (verified.size, verified.root) == (3, ROOT_3)
    assert fences(CHECKPOINT, "vkey") == [verifier_key(ORIGIN, SIGNER.public_key) + "\n"]
    message = imprint_message(NOTE_3, ORIGIN, SIGNER.public_key)
    assert message == NOTE_3.encode()
    assert hexes(CHECKPOINT, "imprint") == [sha256(message).digest()]


def test_the_entry() -> None:
    record = Record(
        "trans",
        {
            "amount": {"$dec": "-12.30"},
            "booked": {"$date": "2026-11-22"},
            "seen": {"$ts": 1790000000123456},
            "account": 2378,
            "note": None,
            "reverses": {"$ref": [FEED["feed key"], 0, FEED["leaf 0"]]},
        },
    )
    (block,) = hexes(ENTRY, "entry")
    assert encode_entry(record_entry(record, 1790000000000)) == block
    assert parse_record(parse_entry(block)) == record
    for shown in ('"k": "record"', '"t": 1790000000000', '"$dec": "-12.30"', '"$ts": 1790000000123456', "2378"):
        assert shown in text_of(ENTRY)


def test_the_export() -> None:
    root = Ed25519Signer(hexes(IDENTITY, "root seed 0")[0])
    before = fold(SIGNED_EVENTS[:1])
    bind = build_bind_log(before, log=LOG_ID, time_ms=1790000120000)
    assert sign_event(bind, [(0, root)]) == SIGNED_EVENTS[1]

    history = fold(SIGNED_EVENTS)
    store = MemoryStore()
    with store.write() as tx:
        for event, record in zip(SIGNED_EVENTS, history.events, strict=True):
            tx.add_identity_event(StoredEvent(history.identity, record.seq, record.digest, event.encode()))
        state, _ = append_to_frontier(LogState(LOG_ID, 0, ()), LEAVES)
        tx.append_leaves(None, state, LEAVES)
        for size, root_hash in ((3, ROOT_3), (6, ROOT_6)):
            tx.add_checkpoint(
                StoredCheckpoint(size, root_hash, sign_checkpoint(SIGNER, Checkpoint(ORIGIN, size, root_hash)))
            )
    out = BytesIO()
    export_log(store, out)
    data = out.getvalue()
    assert hexes(EXPORT, "SHA-256 of the file") == [sha256(data).digest()]
    end = encode({"events": 2, "leaves": 6, "checkpoints": 2})
    text = text_of(EXPORT)
    for shown in (
        f"The file is {len(data):,} bytes",
        f"`{MAGIC.hex()}`",
        *(f"`49 {len(event.encode()):08x}`" for event in SIGNED_EVENTS),
        f"`4c {len(LEAVES[0]):08x}`",
        f"`43 {len(NOTE_3.encode()):08x}`",
        f"`45 {len(end):08x} {end.hex()}`",
    ):
        assert shown in text
    audit = audit_log(read_log_export(BytesIO(data)), expected_log_id=LOG_ID)
    assert audit.replay.last.root == ROOT_6
    assert audit.histories == {history.identity: history}
