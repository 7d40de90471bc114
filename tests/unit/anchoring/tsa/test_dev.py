"""The development authority: its answers, its refusals, its state."""

from __future__ import annotations

import hashlib
import multiprocessing
import random
import stat
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from anchoring.timestamp import (
    DEVELOPMENT_MARK,
    DEVELOPMENT_POLICY_OID,
    TimestampEvidence,
    parse_response,
    verify_token,
)
from anchoring.timestamp.der import (
    BOOLEAN,
    OBJECT_IDENTIFIER,
    OCTET_STRING,
    SEQUENCE,
    encode_der,
    encode_integer,
)
from anchoring.tsa.dev import DevelopmentAuthority, system_clock
from anchoring.tsa.request import encode_request
from anchoring.tsa.source import CLOCK_TOLERANCE_MS, EmbeddedSource
from identity.errors import DamagedFile, StorageError, TokenRejected

NOW_MS = 1_780_315_200_123
DAY_MS = 86_400_000
MESSAGE = b"a checkpoint note\n"


class Clock:
    def __init__(self) -> None:
        self.now_ms = NOW_MS

    def __call__(self) -> int:
        return self.now_ms


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def authority(tmp_path: Path, clock: Clock) -> DevelopmentAuthority:
    return DevelopmentAuthority(tmp_path / "tsa", clock=clock)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> DevelopmentAuthority:
    return DevelopmentAuthority(tmp_path_factory.mktemp("tsa"), clock=Clock())


def request(
    *,
    version: int = 1,
    algorithm: str = "608648016503040201",
    digest: bytes = bytes(32),
    policy: bytes = b"",
    nonce: bytes = b"",
    certificate: bool = True,
    extensions: bytes = b"",
) -> bytes:
    identifier = encode_der(SEQUENCE, encode_der(OBJECT_IDENTIFIER, bytes.fromhex(algorithm)))
    imprint = encode_der(SEQUENCE, identifier, encode_der(OCTET_STRING, digest))
    wanted = encode_der(BOOLEAN, b"\xff") if certificate else b""
    return encode_der(SEQUENCE, encode_integer(version), imprint, policy, nonce, wanted, extensions)


# Tokens.


def test_a_token_verifies(authority: DevelopmentAuthority) -> None:
    acquired = EmbeddedSource(authority).acquire(MESSAGE, NOW_MS)
    assert acquired.verified.gen_time_ms == NOW_MS
    assert (acquired.verified.earliest_ms, acquired.verified.latest_ms) == (NOW_MS - 1, NOW_MS + 1)
    assert acquired.verified.development
    assert DEVELOPMENT_MARK in acquired.verified.authority
    assert acquired.verified.policy_oid == DEVELOPMENT_POLICY_OID
    again = verify_token(acquired.evidence, MESSAGE, authority.authority, at_ms=NOW_MS)
    assert again == acquired.verified
    assert EmbeddedSource(authority).name == "embedded development authority"


@pytest.mark.parametrize("rest", [0, 1, 100, 999])
def test_every_millisecond_verifies(authority: DevelopmentAuthority, clock: Clock, rest: int) -> None:
    clock.now_ms = NOW_MS // 1000 * 1000 + rest
    acquired = EmbeddedSource(authority).acquire(MESSAGE, clock.now_ms)
    assert acquired.verified.gen_time_ms == clock.now_ms


def test_the_nonce_is_repeated_and_the_certificate_only_sent_when_wanted(authority: DevelopmentAuthority) -> None:
    token = parse_response(authority.respond(request(nonce=encode_integer(7), certificate=False))).token
    assert token is not None
    assert token.info.nonce == 7
    assert token.certificates == ()
    token = parse_response(authority.respond(request())).token
    assert token is not None
    assert token.info.nonce is None
    assert len(token.certificates) == 1


def test_tokens_have_serial_numbers_of_their_own(authority: DevelopmentAuthority) -> None:
    tokens = [parse_response(authority.respond(request())).token for _ in range(20)]
    assert len({token.info.serial for token in tokens if token is not None}) == 20


@pytest.mark.parametrize(("algorithm", "name"), [("608648016503040202", "sha384"), ("608648016503040203", "sha512")])
def test_larger_digests_are_stamped(authority: DevelopmentAuthority, algorithm: str, name: str) -> None:
    digest = hashlib.new(name, MESSAGE).digest()
    token = parse_response(authority.respond(request(algorithm=algorithm, digest=digest))).token
    assert token is not None
    assert (token.info.imprint_algorithm, token.info.imprint) == (name, digest)


def test_a_clock_that_is_far_off_is_noticed(authority: DevelopmentAuthority) -> None:
    source = EmbeddedSource(authority)
    assert source.acquire(MESSAGE, NOW_MS + CLOCK_TOLERANCE_MS)
    for now_ms in (NOW_MS + CLOCK_TOLERANCE_MS + 2, NOW_MS - CLOCK_TOLERANCE_MS - 2):
        with pytest.raises(TokenRejected, match="CLOCK"):
            source.acquire(MESSAGE, now_ms)


def test_tokens_after_years(authority: DevelopmentAuthority, clock: Clock) -> None:
    early = EmbeddedSource(authority).acquire(MESSAGE, NOW_MS)
    clock.now_ms += 1000 * DAY_MS
    late = EmbeddedSource(authority).acquire(MESSAGE, clock.now_ms)
    for acquired in (early, late):
        assert verify_token(acquired.evidence, MESSAGE, authority.authority, at_ms=clock.now_ms) == acquired.verified


# Refusals.


@pytest.mark.parametrize(
    ("failure", "data"),
    [
        ("badDataFormat", b""),
        ("badDataFormat", b"GET / HTTP/1.1"),
        ("badDataFormat", request() + b"\x00"),
        ("badDataFormat", bytes(100_000)),
        ("badDataFormat", request(digest=bytes(20))),
        ("badRequest", request(version=2)),
        ("badAlg", request(algorithm="2b0e03021a", digest=bytes(20))),
        ("unacceptedPolicy", request(policy=encode_der(OBJECT_IDENTIFIER, b"\x2a\x03"))),
        ("unacceptedExtension", request(extensions=encode_der(0xA0))),
    ],
)
def test_refusals(shared: DevelopmentAuthority, failure: str, data: bytes) -> None:
    response = parse_response(shared.respond(data))
    assert response.status == 2
    assert response.failures == (failure,)
    assert response.texts[0]
    assert response.token is None


@given(st.binary(max_size=120))
def test_any_bytes_are_answered(shared: DevelopmentAuthority, data: bytes) -> None:
    assert parse_response(shared.respond(data)).status == 2


def test_altered_requests_are_answered(shared: DevelopmentAuthority) -> None:
    rng = random.Random(3161)
    good = encode_request(MESSAGE, policy_oid=DEVELOPMENT_POLICY_OID, nonce=2**63)
    for _ in range(100):
        altered = bytearray(good)
        altered[rng.randrange(len(good))] = rng.randrange(256)
        assert parse_response(shared.respond(bytes(altered))).status in (0, 2)


# The revocation list.


def test_the_list_is_from_before_the_token_and_kept_for_a_day(authority: DevelopmentAuthority, clock: Clock) -> None:
    first = authority.crl()
    clock.now_ms += DAY_MS // 2
    assert authority.crl() == first
    clock.now_ms += DAY_MS // 2
    second = authority.crl()
    assert second != first
    crls = [x509.load_der_x509_crl(item) for item in (first, second)]
    numbers = [item.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number for item in crls]
    assert numbers[0] < numbers[1]
    assert crls[1].last_update_utc.timestamp() == clock.now_ms // 1000


def test_answering_brings_the_list_up_to_date(authority: DevelopmentAuthority, clock: Clock) -> None:
    old = authority.crl()
    clock.now_ms += 2 * DAY_MS
    nonce = 5
    response = authority.respond(encode_request(MESSAGE, policy_oid=DEVELOPMENT_POLICY_OID, nonce=nonce))
    clock.now_ms += 60_000
    crl = authority.crl()
    assert crl != old
    evidence = TimestampEvidence(response, crls=(crl,))
    assert verify_token(evidence, MESSAGE, authority.authority, at_ms=clock.now_ms, nonce=nonce)


def test_a_clock_that_goes_back_gets_a_list_too(authority: DevelopmentAuthority, clock: Clock) -> None:
    authority.crl()
    clock.now_ms -= 3_600_000
    assert EmbeddedSource(authority).acquire(MESSAGE, clock.now_ms)


# State.


def test_state_survives_and_is_private(tmp_path: Path, authority: DevelopmentAuthority) -> None:
    path = tmp_path / "tsa" / "authority.pem"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [item.name for item in path.parent.iterdir()] == ["authority.pem"]
    assert DevelopmentAuthority(tmp_path / "tsa").authority == authority.authority


def test_two_homes_have_two_authorities(tmp_path: Path, authority: DevelopmentAuthority) -> None:
    other = DevelopmentAuthority(tmp_path / "other")
    assert other.root != authority.root
    assert other.authority.subject != authority.authority.subject


@pytest.mark.parametrize("damage", [b"", b"-----BEGIN CERTIFICATE-----\n", bytes(20_000)])
def test_a_damaged_state_is_named(tmp_path: Path, authority: DevelopmentAuthority, damage: bytes) -> None:
    (tmp_path / "tsa" / "authority.pem").write_bytes(damage)
    with pytest.raises(DamagedFile, match=r"authority\.pem"):
        DevelopmentAuthority(tmp_path / "tsa")


def test_a_truncated_state_is_named(tmp_path: Path, authority: DevelopmentAuthority) -> None:
    path = tmp_path / "tsa" / "authority.pem"
    whole = path.read_bytes()
    for length in range(0, len(whole) - 2, 50):
        path.write_bytes(whole[:length])
        with pytest.raises(DamagedFile):
            DevelopmentAuthority(tmp_path / "tsa")


def test_a_key_of_another_kind_is_named(tmp_path: Path, authority: DevelopmentAuthority) -> None:
    path = tmp_path / "tsa" / "authority.pem"
    other = ed25519.Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(other + path.read_bytes().partition(b"-----END PRIVATE KEY-----\n")[2])
    with pytest.raises(DamagedFile):
        DevelopmentAuthority(tmp_path / "tsa")


def test_an_unusable_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="file"):
        DevelopmentAuthority(tmp_path / "file" / "tsa")


def _root_of(state_dir: Path) -> bytes:
    return DevelopmentAuthority(state_dir).root


def test_processes_that_start_together_agree(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        roots = pool.map(_root_of, [tmp_path / "tsa"] * 4)
    assert len(set(roots)) == 1


def test_threads_share_it(authority: DevelopmentAuthority) -> None:
    answers: list[bytes] = []

    def ask() -> None:
        answers.append(authority.crl())
        answers.append(authority.respond(b""))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(answers)) == 2


def test_the_system_clock_is_in_milliseconds() -> None:
    assert 1_600_000_000_000 < system_clock() < 10_000_000_000_000
