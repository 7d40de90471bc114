"""Three authorities over HTTP, asked by the real client: OpenSSL's, one in a certomancer PKI, and our own.

certomancer gives the certificates, CRLs and OCSP responses. Its own time-stamping service binds its certificate by
SHA-1 only and is refused for that, so tokens of its PKI are signed here, with its key.
"""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from asn1crypto import ocsp, tsp
from certomancer.registry import ArchLabel, CertLabel, CertomancerConfig, KeyLabel, ServiceLabel
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_der_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from anchoring.evidence import parse_evidence
from anchoring.policy_file import load_policy
from anchoring.timestamp import Authority, verify_token
from anchoring.tsa.client import HttpSource
from anchoring.tsa.dev import DevelopmentAuthority, system_clock
from anchoring.tsa.pool import PoolPolicy
from anchoring.tsa.request import parse_request
from anchoring.tsa.server import DevelopmentServer
from anchoring.tsa.web import HttpLimits
from anchoring.verifier import verify_evidence
from anchoring.worker import run_round
from api.founding import Founding, found_home
from api.home import Home
from api.pool import pool_standing, trusted_by_home
from api.vault import Vault
from identity.errors import TokenRejected, TokenUndecided
from identity.event import DeviceClass
from identity.keystore import ONLY_FOR_TESTING, open_keystore
from ledger.entry import Entry
from ledger.storage.sqlite import open_sqlite

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed"),
]

MESSAGE = b"a checkpoint note\n"
POLICY = "1.2.3.4.1"
ITS_OWN_POLICY = "1.3.6.1.4.1.4146.2.3"
IMPATIENT = HttpLimits(connect_s=2, read_s=5, exchange_s=10, attempts=1)
Answer = Callable[[bytes], tuple[str, bytes]]


@dataclass
class Served:
    """Answers by path; a path that is not there is refused."""

    answers: dict[str, Answer] = field(default_factory=dict)
    url: str = ""
    asked: list[str] = field(default_factory=list)


@contextmanager
def serving() -> Iterator[Served]:
    served = Served()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.answer(self.rfile.read(int(self.headers["Content-Length"])))

        def do_GET(self) -> None:
            self.answer(b"")

        def answer(self, body: bytes) -> None:
            served.asked.append(self.path)
            if self.path not in served.answers:
                self.send_error(503)
                return
            kind, answer = served.answers[self.path](body)
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def new_key(kind: str) -> rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey:
    return rsa.generate_private_key(65537, 2048) if kind == "rsa" else ec.generate_private_key(ec.SECP256R1())


def private_pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


# certomancer's PKI.


@dataclass
class Pki:
    """A PKI of certomancer's behind HTTP: CRL, OCSP, /sha1 (its own time-stamping) and /tsa (ours, with its key)."""

    served: Served
    authority: Authority

    def source(self, path: str = "/tsa") -> HttpSource:
        return HttpSource(self.served.url + path, self.authority, limits=IMPATIENT)


@pytest.fixture(scope="module", params=["rsa-crl", "rsa-ocsp", "ecdsa-crl", "ecdsa-ocsp"])
def pki_of_certomancer(
    request: pytest.FixtureRequest, pki: ModuleType, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pki]:
    with certomancer_pki(request.param, pki, tmp_path_factory.mktemp(request.param)) as made:
        yield made


@contextmanager
def certomancer_pki(name: str, pki: ModuleType, folder: Path) -> Iterator[Pki]:
    """``name`` is the kind of keys, and what the certificate names: ``rsa-crl``, ``ecdsa-ocsp`` ..."""
    kind, label = name.split("-")
    for key in ("root", "tsa", "responder"):
        (folder / f"{key}.pem").write_bytes(private_pem(new_key(kind)))
    text = Path(__file__).with_name("certomancer.yml").read_text(encoding="utf-8")
    with serving() as served:
        (folder / "pki.yml").write_text(text.replace("http://certomancer.example", served.url), encoding="utf-8")
        config = CertomancerConfig.from_file(str(folder / "pki.yml"), key_search_dir=str(folder))
        arch = config.get_pki_arch(ArchLabel("pool"))
        certificate = x509.load_der_x509_certificate(arch.get_cert(CertLabel(label)).dump())
        private = load_der_private_key(arch.key_set.get_private_key(KeyLabel("tsa")).dump(), None)
        stamp = stamper(pki, pki.Issued(private, certificate))
        served.answers = {"/tsa": lambda body: ("application/timestamp-reply", stamp(body)), **services(arch, served)}
        root = arch.get_cert(CertLabel("root")).dump()
        yield Pki(served, Authority(root, POLICY, certificate.subject.rfc4514_string()))


def stamper(pki: ModuleType, signer: Any) -> Callable[[bytes], bytes]:
    """A time-stamping service with that certificate and key."""
    maker = pki.TokenMaker()

    def stamp(body: bytes) -> bytes:
        query = parse_request(body)
        info = {
            "message_imprint": tsp.MessageImprint.load(query.imprint_der),
            "nonce": query.nonce,
            "policy": POLICY,
            "gen_time": datetime.now(UTC),
        }
        response: bytes = maker.response(pki.Change(info=info), signer=signer)
        return response

    return stamp


def services(arch: Any, served: Served) -> dict[str, Answer]:
    """certomancer's own services: its time-stamping at /sha1, CRL and OCSP where its certificates say."""
    registry = arch.service_registry

    def stamp(body: bytes) -> tuple[str, bytes]:
        service = registry.summon_timestamper(ServiceLabel("sha1"), datetime.now(UTC))
        return "application/timestamp-reply", service.request_tsa_response(tsp.TimeStampReq.load(body)).dump()

    def answer(body: bytes) -> tuple[str, bytes]:
        responder = registry.summon_responder(ServiceLabel("ocsp"), datetime.now(UTC).replace(microsecond=0))
        return "application/ocsp-response", responder.build_ocsp_response(ocsp.OCSPRequest.load(body)).dump()

    def crl(_: bytes) -> tuple[str, bytes]:
        return "application/pkix-crl", registry.get_crl(ServiceLabel("root"), datetime.now(UTC)).dump()

    (responder,), (repository,) = registry.list_ocsp_responders(), registry.list_crl_repos()
    return {
        "/sha1": stamp,
        path(responder.url, served): answer,
        path(repository.latest_external_url, served): crl,
    }


def path(url: str, served: Served) -> str:
    assert url.startswith(served.url)
    return url.removeprefix(served.url)


def test_a_token_with_the_revocation_data_that_its_certificate_names(pki_of_certomancer: Pki) -> None:
    acquired = pki_of_certomancer.source().acquire(MESSAGE, system_clock())
    evidence = acquired.evidence
    assert len(evidence.crls) + len(evidence.ocsps) == 1
    assert bool(evidence.ocsps) == any("ocsp" in asked for asked in pki_of_certomancer.served.asked)
    # Offline, and a year later in the life of its certificate.
    late = system_clock() + 365 * 86_400_000
    assert verify_token(evidence, MESSAGE, pki_of_certomancer.authority, at_ms=late).authority == "CN=Certomancer TSA"
    stripped = replace(evidence, crls=(), ocsps=())
    with pytest.raises(TokenUndecided, match="REVOCATION_MISSING"):
        verify_token(stripped, MESSAGE, pki_of_certomancer.authority, at_ms=late)


def test_a_later_revocation_needs_proof_of_before(pki_of_certomancer: Pki) -> None:
    acquired = pki_of_certomancer.source().acquire(MESSAGE, system_clock())
    revoked = replace(pki_of_certomancer.authority, revoked_ms=acquired.verified.gen_time_ms + 60_000)
    at_ms = acquired.verified.gen_time_ms + 120_000
    with pytest.raises(TokenUndecided, match="REVOKED_NO_POE"):
        verify_token(acquired.evidence, MESSAGE, revoked, at_ms=at_ms)
    proven = acquired.verified.gen_time_ms + 30_000
    assert verify_token(acquired.evidence, MESSAGE, revoked, at_ms=at_ms, proven_by_ms=proven)


def test_a_responder_that_is_down(pki_of_certomancer: Pki) -> None:
    answers = pki_of_certomancer.served.answers
    try:
        pki_of_certomancer.served.answers = {"/tsa": answers["/tsa"]}
        with pytest.raises(TokenUndecided, match=r"REVOCATION_MISSING.*503"):
            pki_of_certomancer.source().acquire(MESSAGE, system_clock())
    finally:
        pki_of_certomancer.served.answers = answers


def test_its_own_service_binds_its_certificate_by_sha1(pki_of_certomancer: Pki) -> None:
    """Whoever names its policy is still not served: there is no setting that takes SHA-1."""
    authority = replace(pki_of_certomancer.authority, policy_oid=ITS_OWN_POLICY)
    source = HttpSource(pki_of_certomancer.served.url + "/sha1", authority, limits=IMPATIENT)
    with pytest.raises(TokenRejected, match="ESS_SHA1"):
        source.acquire(MESSAGE, system_clock())


# OpenSSL's.

CONFIGURATION = """
[tsa]
default_tsa = authority
[authority]
serial = serial
signer_cert = signer.pem
signer_key = signer.key
default_policy = 1.2.3.4.1
digests = sha256
accuracy = secs:1
ess_cert_id_alg = sha256
signer_digest = sha256
"""


@contextmanager
def openssl_authority(folder: Path, kind: str) -> Iterator[HttpSource]:
    """``openssl ts -reply`` behind HTTP, with a CRL by configured URL."""
    now = datetime.now(UTC).replace(microsecond=0)
    root_key, signer_key = new_key(kind), new_key(kind)
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in ("OpenSSL Root", "OpenSSL TSA")]

    def builder(subject: x509.Name, key: Any) -> x509.CertificateBuilder:
        made = x509.CertificateBuilder().subject_name(subject).issuer_name(names[0]).public_key(key.public_key())
        made = made.serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(days=1))
        return made.not_valid_after(now + timedelta(days=1))

    ca = x509.BasicConstraints(ca=True, path_length=0)
    root = builder(names[0], root_key).add_extension(ca, critical=True).sign(root_key, hashes.SHA256())
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING])
    signer = builder(names[1], signer_key).add_extension(usage, critical=True).sign(root_key, hashes.SHA256())
    crl = x509.CertificateRevocationListBuilder().issuer_name(names[0]).last_update(now - timedelta(hours=1))
    crl_der = crl.next_update(now + timedelta(days=1)).sign(root_key, hashes.SHA256()).public_bytes(Encoding.DER)
    (folder / "signer.pem").write_bytes(signer.public_bytes(Encoding.PEM))
    (folder / "signer.key").write_bytes(private_pem(signer_key))
    (folder / "serial").write_text("01")
    (folder / "tsa.cnf").write_text(CONFIGURATION)

    def reply(body: bytes) -> tuple[str, bytes]:
        (folder / "query.tsq").write_bytes(body)
        command = ["openssl", "ts", "-reply", "-config", "tsa.cnf", "-section", "authority", "-queryfile", "query.tsq"]
        subprocess.run([*command, "-out", "reply.tsr"], cwd=folder, check=True, capture_output=True, timeout=30)
        return "application/timestamp-reply", (folder / "reply.tsr").read_bytes()

    with serving() as served:
        served.answers = {"/": reply, "/crl": lambda _: ("application/pkix-crl", crl_der)}
        authority = Authority(root.public_bytes(Encoding.DER), POLICY, "CN=OpenSSL TSA")
        yield HttpSource(served.url + "/", authority, crl_urls=[served.url + "/crl"], limits=IMPATIENT)


@pytest.mark.parametrize("kind", ["rsa", "ecdsa"])
def test_openssl_behind_http(kind: str, tmp_path: Path) -> None:
    with openssl_authority(tmp_path, kind) as source:
        acquired = source.acquire(MESSAGE, system_clock())
    assert acquired.verified.authority == "CN=OpenSSL TSA"
    assert len(acquired.evidence.crls) == 1


# A home with all three, two of which its policy asks for.


@pytest.fixture
def pool(tmp_path: Path, pki: ModuleType) -> Iterator[Mapping[str, HttpSource]]:
    with ExitStack() as opened:
        for name in ("openssl", "certomancer"):
            (tmp_path / name).mkdir()
        made = opened.enter_context(certomancer_pki("ecdsa-ocsp", pki, tmp_path / "certomancer"))
        own = DevelopmentAuthority(tmp_path / "own")
        url = opened.enter_context(DevelopmentServer(own)).url
        yield {
            "openssl": opened.enter_context(openssl_authority(tmp_path / "openssl", "rsa")),
            "certomancer": made.source(),
            "own": HttpSource(url, own.authority, crl_urls=[url + "crl"], limits=IMPATIENT),
        }


class Unguarded:
    def require_writable(self, vault: Vault) -> None:
        pass

    def meet_history(self, tx: object, incarnation: str) -> bool:
        return False

    def check_log(self, tx: object) -> None:
        """Nothing was logged elsewhere."""


@pytest.fixture
def vault(tmp_path: Path, pool: Mapping[str, HttpSource]) -> Iterator[tuple[Home, Vault]]:
    home = Home(tmp_path / "home")
    founding = Founding(
        label="bank",
        devices={"laptop": DeviceClass.DEVICE},
        log_name="bank.example",
        chain=None,
        fund=None,
        authorities=[source.authority for source in pool.values()],
        settings="",
        kdf=ONLY_FOR_TESTING,
        k=2,
    )
    found_home(home, founding, "passphrase", now_ms=system_clock())
    with closing(Vault(open_sqlite(home.database), Unguarded())) as opened:
        yield home, opened


@pytest.mark.parametrize("down", [(), ("openssl",), ("certomancer",), ("own",), ("openssl", "own")])
def test_two_of_three(
    down: tuple[str, ...], pool: Mapping[str, HttpSource], vault: tuple[Home, Vault], tmp_path: Path
) -> None:
    home, opened = vault
    ring = open_keystore(home.keystore, "passphrase")
    key = opened.create_feed(ring, "laptop", "ledger")
    opened.append(ring, key, [Entry("note", 0, {})])
    log_id, descriptor = opened.log_descriptor()
    nobody = "http://127.0.0.1:9/"
    sources = [
        HttpSource(nobody + name, source.authority, limits=IMPATIENT) if name in down else source
        for name, source in pool.items()
    ]
    for _ in range(2):  # the second checkpoint says that the first was stamped: only then is the identity head fresh
        size = opened.checkpoint(ring, restate=True).size
        done = run_round(opened.store, log_id, descriptor, sources, None, system_clock(), pool=PoolPolicy(k=2))
        assert sorted(failure.what for failure in done.failures) == sorted(nobody + name for name in down)
        assert (done.authorities, done.wanted, done.succeeded) == (3 - len(down), 2, len(down) < 2)
    trust = trusted_by_home(home)
    assert trust[1] == 2
    with opened.store.read() as tx:
        standing = pool_standing(tx.connection, size, *trust)
    assert standing.authorities == 3 - len(down)
    assert (standing.expires_ms is None) == (len(down) == 2)
    evidence = opened.evidence(key, 0, *trust)
    assert len(parse_evidence(evidence).checkpoints[0].timestamps) == 3 - len(down)
    report = verify_evidence(evidence, load_policy(home.policy), system_clock() + 60_000)
    if len(down) < 2:
        assert report.exit_code == 0, report.to_text()
    else:
        assert report.exit_code == 2
        assert "NOT_ENOUGH_AUTHORITIES" in report.to_text()


def test_an_authority_revoked_later_leaves_the_other_two(
    pool: Mapping[str, HttpSource], vault: tuple[Home, Vault]
) -> None:
    home, opened = vault
    ring = open_keystore(home.keystore, "passphrase")
    key = opened.create_feed(ring, "laptop", "ledger")
    opened.append(ring, key, [Entry("note", 0, {})])
    log_id, descriptor = opened.log_descriptor()
    for _ in range(2):
        opened.checkpoint(ring, restate=True)
        run_round(opened.store, log_id, descriptor, list(pool.values()), None, system_clock(), pool=PoolPolicy(k=2))
    evidence = opened.evidence(key, 0, *trusted_by_home(home))
    policy = load_policy(home.policy)
    at_ms = system_clock() + 120_000
    lost = [replace(policy.authorities[0], revoked_ms=at_ms - 30_000), *policy.authorities[1:]]
    assert verify_evidence(evidence, replace(policy, authorities=tuple(lost)), at_ms).exit_code == 0
    lost[1] = replace(lost[1], revoked_ms=at_ms - 30_000)
    report = verify_evidence(evidence, replace(policy, authorities=tuple(lost)), at_ms)
    assert (report.exit_code, "REVOKED_NO_POE" in report.to_text()) == (2, True)
