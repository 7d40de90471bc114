"""OpenSSL's timestamping tools as the other side: it reads our tokens, and we read its own."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from anchoring.timestamp import Authority, TimestampEvidence, parse_response, verify_token
from anchoring.tsa.dev import DevelopmentAuthority, system_clock
from anchoring.tsa.request import encode_request
from anchoring.tsa.source import EmbeddedSource
from identity.errors import ImprintMismatch, TokenRejected

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed"),
]

MESSAGE = b"a checkpoint note\n"
POLICY = "1.2.3.4.1"
CONFIGURATION = """
[tsa]
default_tsa = authority
[authority]
serial = serial
signer_cert = signer.pem
signer_key = signer.key
certs = root.pem
default_policy = {policy}
digests = sha256
accuracy = secs:1
ess_cert_id_chain = no
ess_cert_id_alg = {ess}
signer_digest = {digest}
ordering = no
tsa_name = yes
"""


def openssl(folder: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["openssl", *arguments], cwd=folder, capture_output=True, check=False, timeout=30)


# OpenSSL reads ours.


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a message, a token of the development authority, and its root."""
    folder = tmp_path_factory.mktemp("ours")
    authority = DevelopmentAuthority(folder / "tsa")
    query = encode_request(MESSAGE, policy_oid=authority.authority.policy_oid, nonce=2**64 - 1)
    (folder / "query.tsq").write_bytes(query)
    (folder / "reply.tsr").write_bytes(authority.respond(query))
    (folder / "message").write_bytes(MESSAGE)
    (folder / "other").write_bytes(MESSAGE + b"x")
    (folder / "crl.der").write_bytes(authority.crl())
    root = x509.load_der_x509_certificate(authority.root)
    (folder / "root.pem").write_bytes(root.public_bytes(Encoding.PEM))
    return folder


@pytest.mark.parametrize("against", [["-queryfile", "query.tsq"], ["-data", "message"]])
def test_openssl_accepts_a_development_token(ours: Path, against: list[str]) -> None:
    done = openssl(ours, "ts", "-verify", *against, "-in", "reply.tsr", "-CAfile", "root.pem")
    assert done.returncode == 0, done.stderr.decode()
    assert b"Verification: OK" in done.stdout


def test_openssl_refuses_it_for_another_message(ours: Path) -> None:
    done = openssl(ours, "ts", "-verify", "-data", "other", "-in", "reply.tsr", "-CAfile", "root.pem")
    assert done.returncode != 0


def test_openssl_reads_our_query(ours: Path) -> None:
    shown = openssl(ours, "ts", "-query", "-in", "query.tsq", "-text").stdout.decode()
    assert "Hash Algorithm: sha256" in shown
    assert "Nonce: 0xFFFFFFFFFFFFFFFF" in shown
    assert "Certificate required: yes" in shown


def test_openssl_reads_our_refusals(ours: Path) -> None:
    (ours / "refusal").write_bytes(DevelopmentAuthority(ours / "tsa").respond(b"nonsense"))
    shown = openssl(ours, "ts", "-reply", "-in", "refusal", "-text").stdout.decode()
    assert "Status: Rejected." in shown
    assert "the data submitted has the wrong format" in shown


def test_openssl_accepts_our_revocation_list(ours: Path) -> None:
    done = openssl(ours, "crl", "-inform", "DER", "-in", "crl.der", "-CAfile", "root.pem", "-noout")
    assert b"verify OK" in done.stderr


def test_openssl_asks_and_we_answer(ours: Path) -> None:
    openssl(ours, "ts", "-query", "-data", "message", "-sha256", "-cert", "-out", "theirs.tsq")
    reply = DevelopmentAuthority(ours / "tsa").respond((ours / "theirs.tsq").read_bytes())
    (ours / "theirs.tsr").write_bytes(reply)
    done = openssl(ours, "ts", "-verify", "-queryfile", "theirs.tsq", "-in", "theirs.tsr", "-CAfile", "root.pem")
    assert done.returncode == 0, done.stderr.decode()


# We read OpenSSL's.


@dataclass(frozen=True)
class Theirs:
    """A folder that is an authority run by OpenSSL, and what a policy says to trust it."""

    folder: Path
    authority: Authority
    crl: bytes

    def configure(self, *, ess: str = "sha256", digest: str = "sha256") -> None:
        text = CONFIGURATION.format(policy=POLICY, ess=ess, digest=digest)
        (self.folder / "tsa.cnf").write_text(text)

    def token(self, nonce: int = 7) -> TimestampEvidence:
        query = encode_request(MESSAGE, policy_oid=POLICY, nonce=nonce)
        (self.folder / "query.tsq").write_bytes(query)
        arguments = ["-config", "tsa.cnf", "-section", "authority", "-queryfile", "query.tsq", "-out", "reply.tsr"]
        done = openssl(self.folder, "ts", "-reply", *arguments)
        assert done.returncode == 0, done.stderr.decode()
        return TimestampEvidence((self.folder / "reply.tsr").read_bytes(), crls=(self.crl,))


@pytest.fixture(scope="module", params=["rsa", "ecdsa"])
def theirs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Theirs:
    folder = tmp_path_factory.mktemp(request.param)
    now = datetime.now(UTC).replace(microsecond=0)
    root_key, signer_key = new_key(request.param), new_key(request.param)
    root_name, signer_name = new_name("Root"), new_name("OpenSSL TSA")
    root = (
        builder(root_name, root_name, root_key, now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(root_key, hashes.SHA256())
    )
    signer = (
        builder(signer_name, root_name, signer_key, now)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING]), critical=True)
        .sign(root_key, hashes.SHA256())
    )
    crl = x509.CertificateRevocationListBuilder().issuer_name(root_name).last_update(now - timedelta(hours=1))
    crl_der = crl.next_update(now + timedelta(days=1)).sign(root_key, hashes.SHA256()).public_bytes(Encoding.DER)
    (folder / "root.pem").write_bytes(root.public_bytes(Encoding.PEM))
    (folder / "signer.pem").write_bytes(signer.public_bytes(Encoding.PEM))
    private = signer_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "signer.key").write_bytes(private)
    (folder / "serial").write_text("01")
    made = Theirs(folder, Authority(root.public_bytes(Encoding.DER), POLICY, "CN=OpenSSL TSA"), crl_der)
    made.configure()
    return made


def new_key(kind: str) -> rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey:
    if kind == "rsa":
        return rsa.generate_private_key(65537, 2048)
    return ec.generate_private_key(ec.SECP256R1())


def new_name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def builder(
    subject: x509.Name, issuer: x509.Name, key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, now: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
    )


@pytest.mark.parametrize("digest", ["sha256", "sha384", "sha512"])
def test_we_accept_openssl_tokens(theirs: Theirs, digest: str) -> None:
    theirs.configure(digest=digest)
    evidence = theirs.token()
    verified = verify_token(evidence, MESSAGE, theirs.authority, at_ms=system_clock(), nonce=7)
    assert verified.authority == "CN=OpenSSL TSA"
    assert verified.accuracy_ms == 1000
    assert abs(verified.gen_time_ms - system_clock()) < 60_000
    assert not verified.development
    token = parse_response(evidence.response).token
    assert token is not None
    assert len(token.certificates) == 2, "the root is in it, too"


def test_we_refuse_openssl_tokens_for_something_else(theirs: Theirs) -> None:
    theirs.configure()
    evidence = theirs.token()
    with pytest.raises(ImprintMismatch):
        verify_token(evidence, MESSAGE + b"x", theirs.authority, at_ms=system_clock())
    with pytest.raises(TokenRejected, match="NONCE"):
        verify_token(evidence, MESSAGE, theirs.authority, at_ms=system_clock(), nonce=8)
    other = Authority(theirs.authority.root, "1.2.3.4.2", theirs.authority.subject)
    with pytest.raises(TokenRejected, match="POLICY"):
        verify_token(evidence, MESSAGE, other, at_ms=system_clock())


def test_we_refuse_openssl_tokens_bound_by_sha1(theirs: Theirs) -> None:
    theirs.configure(ess="sha1")
    with pytest.raises(TokenRejected, match="ESS_SHA1"):
        verify_token(theirs.token(), MESSAGE, theirs.authority, at_ms=system_clock())


def test_we_refuse_openssl_tokens_under_our_root(theirs: Theirs, tmp_path: Path) -> None:
    theirs.configure()
    ours = EmbeddedSource(DevelopmentAuthority(tmp_path)).authority
    with pytest.raises(TokenRejected):
        verify_token(theirs.token(), MESSAGE, Authority(ours.root, POLICY, "CN=OpenSSL TSA"), at_ms=system_clock())
