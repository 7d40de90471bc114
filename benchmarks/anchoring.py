"""Timestamp tokens and anchors, of the embedded authority and the embedded chain, against what they cannot do without.

    python -m benchmarks.anchoring [--engine sqlite|postgresql|both] [--rounds 5] [--json figures.json]

Token made: a request with a nonce, the authority's answer, and its verification; the floor is the answer alone. Token
verified: the floor is the three ECDSA verifications in it (token, certificate, revocation list). Anchored: a checkpoint
from the outbox until it is final, its receipt verified and archived in the store; the floor sends the same transaction,
which the chain executes and writes, and takes the proofs from it; no store takes part in that.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from anchoring.chain.dev import DevChain
from anchoring.chain.transactions import Transaction
from anchoring.contracts import anchor_call
from anchoring.receipt import slots
from anchoring.timestamp import verify_token
from anchoring.tsa.dev import DevelopmentAuthority
from anchoring.tsa.request import encode_request
from anchoring.tsa.source import EmbeddedSource
from anchoring.worker import AnchorSender, run_round
from api.bootstrap import Session, now_ms
from benchmarks._bank import found_bank
from benchmarks._engines import Engine, add_engine_option, engines
from benchmarks._measure import Comparison, compare, option_parser, repeated, report
from identity.keystore import KeyRing

MESSAGE: Final = b"a checkpoint's note\n"
TOKENS, ANCHORS = 10, 3
"""In a round."""
GAS: Final = 150_000


def main() -> None:
    parser = option_parser(__doc__, rounds=5)
    add_engine_option(parser)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as name, engines(options.engine, Path(name)) as chosen:
        rows, gas = measure_tokens(Path(name) / "tsa", options.rounds), 0
        for engine in chosen:
            row, gas = measure_engine(engine, options.rounds)
            rows.append(row)
    print(f"gas of an anchor: {gas:,}\n")
    report("timestamps and anchors", "answer; signatures; transaction and proofs", rows, options.json)


def measure_tokens(directory: Path, rounds: int) -> list[Comparison]:
    authority = DevelopmentAuthority(directory)
    source, trusted = EmbeddedSource(authority), authority.authority
    request = encode_request(MESSAGE, policy_oid=trusted.policy_oid, nonce=1 << 60)
    evidence = source.acquire(MESSAGE, now_ms()).evidence
    root = x509.load_der_x509_certificate(authority.root)
    key = ec.generate_private_key(ec.SECP256R1())
    signature = key.sign(MESSAGE, ec.ECDSA(hashes.SHA256()))

    def verify_three() -> None:
        for _ in range(3):
            key.public_key().verify(signature, MESSAGE, ec.ECDSA(hashes.SHA256()))

    assert isinstance(root.public_key(), ec.EllipticCurvePublicKey)
    at_ms = now_ms()
    made = compare(
        "token made",
        repeated(TOKENS, lambda: source.acquire(MESSAGE, now_ms())),
        repeated(TOKENS, lambda: authority.respond(request)),
        rounds=rounds,
    )
    verified = compare(
        "token verified",
        repeated(TOKENS, lambda: verify_token(evidence, MESSAGE, trusted, at_ms=at_ms)),
        repeated(TOKENS, verify_three),
        rounds=rounds,
    )
    return [made, verified]


def measure_engine(engine: Engine, rounds: int) -> tuple[Comparison, int]:
    """Anchors of the log of a bank on that engine."""
    bank = found_bank(engine)
    ring = bank.keys()
    with bank.open() as session:
        return measure_anchors(session, ring, engine.name, rounds)


def measure_anchors(session: Session, ring: KeyRing, engine: str, rounds: int) -> tuple[Comparison, int]:
    """Anchors of one log after the other's, and the gas of the last."""
    store = session.vault.store
    sender = session.sender(ring)
    assert sender is not None
    log_id, descriptor = session.vault.log_descriptor()

    def anchor() -> None:
        session.vault.checkpoint(ring, restate=True)
        done = run_round(store, log_id, descriptor, [], sender, now_ms())
        assert not done.failures

    straight = Straight(sender)
    row = compare(
        f"{engine}, anchored, checkpoint included",
        repeated(ANCHORS, anchor),
        repeated(ANCHORS, straight),
        rounds=rounds,
    )
    assert isinstance(sender.chain, DevChain)
    (executed,) = sender.chain.block(sender.chain.head_number()).executed
    return row, executed.gas_used


class Straight:
    """Anchors of another log by the same sender."""

    def __init__(self, sender: AnchorSender) -> None:
        self.sender = sender
        self.log_id = b"\x5a" * 32
        self.size = 0

    def __call__(self) -> None:
        chain, target, signer = self.sender.chain, self.sender.target, self.sender.signer
        transaction = Transaction(
            chain_id=target.chain_id,
            nonce=chain.transaction_count(target.owner),
            to=target.contract,
            data=anchor_call(self.log_id, self.size, self.size + 1, self.log_id),
            gas=GAS,
            max_fee=10**10,
            priority_fee=1,
        )
        raw = signer.sign(transaction)
        chain.send_raw(raw)
        self.size += 1
        meta, root, _ = slots(target.owner, self.log_id)
        chain.get_proof(target.contract, (meta, root), chain.head_number())


if __name__ == "__main__":
    main()
