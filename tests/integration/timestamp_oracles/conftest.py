"""Tokens with one thing wrong, from an RSA and from an ECDSA authority, and what four verifiers say about each."""

from __future__ import annotations

import importlib.util
import itertools
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from asn1crypto import tsp
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from anchoring.timestamp import TimestampEvidence, verify_token
from anchoring.timestamp.path import PathInput, validate_token
from anchoring.tsa.request import encode_request
from anchoring.tsa.source import accept_token
from identity.errors import ImprintMismatch, MalformedError, TokenRejected, TokenUndecided

NONCE = 99


@pytest.fixture(scope="session")
def pki(root: Path) -> ModuleType:
    """The maker of certificates and tokens that the unit tests use. By its file: ``tests`` is no package here."""
    spec = importlib.util.spec_from_file_location(
        "timestamp_pki", root / "tests" / "unit" / "anchoring" / "conftest.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rsa_keys() -> Iterator[rsa.RSAPrivateKey]:
    """Root, signer, and two for everybody else in turn: RSA keys take a while to make."""
    keys = [rsa.generate_private_key(65537, 2048) for _ in range(4)]
    yield from keys[:2]
    yield from itertools.cycle(keys[2:])


@pytest.fixture(scope="session", params=["rsa", "ecdsa"])
def maker(request: pytest.FixtureRequest, pki: ModuleType) -> Any:
    if request.param == "ecdsa":
        return pki.TokenMaker(lambda: ec.generate_private_key(ec.SECP256R1()))
    keys = rsa_keys()
    return pki.TokenMaker(lambda: next(keys))


@pytest.fixture(scope="session")
def change(pki: ModuleType) -> Any:
    return pki.Change


@dataclass(frozen=True)
class Case:
    """A token, what it is to be judged with, and when."""

    evidence: TimestampEvidence
    message: bytes
    authority: Any
    at_ms: int
    proven_by_ms: int | None = None
    nonce: int = NONCE
    crl_check: bool = False
    """Whether OpenSSL is told to look at the CRLs, which it does not by itself."""
    at_acquisition: bool = True


@pytest.fixture(scope="session")
def new_case() -> type[Case]:
    return Case


@pytest.fixture
def ask_all(tmp_path: Path) -> Callable[[Case], tuple[str, bool, bool, bool]]:
    """What holdfast, ``openssl ts -verify``, rfc3161-client and pyHanko say. Ours is OK or the reason."""
    return lambda case: (ask_us(case), ask_openssl(case, tmp_path), ask_rfc3161_client(case), ask_pyhanko(case))


def ask_us(case: Case) -> str:
    try:
        if case.at_acquisition:
            accept_token(case.evidence, case.message, case.authority, case.nonce, case.at_ms)
        else:
            verify_token(case.evidence, case.message, case.authority, at_ms=case.at_ms, proven_by_ms=case.proven_by_ms)
    except (TokenRejected, TokenUndecided) as exc:
        return exc.reason
    except (ImprintMismatch, MalformedError) as exc:
        return type(exc).__name__
    return "OK"


def ask_openssl(case: Case, folder: Path) -> bool:
    """``openssl ts`` about the token and CRLs, and, about each OCSP response, ``openssl ocsp``."""
    query = encode_request(case.message, policy_oid=case.authority.policy_oid, nonce=case.nonce)
    (folder / "query").write_bytes(query)
    (folder / "reply").write_bytes(case.evidence.response)
    root = pem([case.authority.root])
    (folder / "root.pem").write_bytes(root)
    extra = []
    if case.crl_check and (case.evidence.crls or not case.evidence.ocsps):
        extra = ["-crl_check_all"]
        root += b"".join(x509.load_der_x509_crl(crl).public_bytes(Encoding.PEM) for crl in case.evidence.crls)
    (folder / "trusted.pem").write_bytes(root)
    if case.evidence.certificates:
        (folder / "chain.pem").write_bytes(pem(case.evidence.certificates))
        extra += ["-untrusted", "chain.pem"]
    command = ["openssl", "ts", "-verify", "-queryfile", "query", "-in", "reply", "-CAfile", "trusted.pem", *extra]
    done = subprocess.run(
        [*command, "-attime", str(case.at_ms // 1000)], cwd=folder, capture_output=True, check=False, timeout=30
    )
    return done.returncode == 0 and all(ask_openssl_ocsp(case, folder, item) for item in case.evidence.ocsps)


FOR_EVER_S = 10**10


def ask_openssl_ocsp(case: Case, folder: Path, response: bytes) -> bool:
    """Whether it is signed by whom the root lets speak, and calls the token's signer, which the root issued, good.

    When it is from, and until when it counts, is not asked: OpenSSL takes the time of this machine for that.
    """
    (folder / "ocsp").write_bytes(response)
    (folder / "signer.pem").write_bytes(pem(certificates_in(case.evidence.response)[:1]))
    names = ["-respin", "ocsp", "-issuer", "root.pem", "-cert", "signer.pem", "-CAfile", "root.pem"]
    times = ["-attime", str(case.at_ms // 1000), "-validity_period", str(FOR_EVER_S)]
    done = subprocess.run(
        ["openssl", "ocsp", "-no_nonce", "-sha256", *names, *times],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    return "Response verify OK" in done.stderr and "signer.pem: good" in done.stdout


def pem(certificates: Iterable[bytes]) -> bytes:
    return b"".join(x509.load_der_x509_certificate(item).public_bytes(Encoding.PEM) for item in certificates)


def certificates_in(response: bytes) -> list[bytes]:
    token = tsp.TimeStampResp.load(response, strict=True)["time_stamp_token"]
    return [item.dump() for item in token["content"]["certificates"]]


def ask_rfc3161_client(case: Case) -> bool:
    import rfc3161_client as client

    try:
        response = client.decode_timestamp_response(case.evidence.response)
        builder = client.VerifierBuilder().nonce(case.nonce)
        builder = builder.add_root_certificate(x509.load_der_x509_certificate(case.authority.root))
        for item in case.evidence.certificates:
            builder = builder.add_intermediate_certificate(x509.load_der_x509_certificate(item))
        return bool(builder.build().verify_message(response, case.message))
    except (client.VerificationError, ValueError):
        return False


def ask_pyhanko(case: Case) -> bool:
    """``validate_tst_signed_data`` at genTime with revocation data required; every certificate at hand is given."""
    try:
        response = tsp.TimeStampResp.load(case.evidence.response, strict=True)
        token = response["time_stamp_token"]
        moment = token["content"]["encap_content_info"]["content"].parsed["gen_time"].native
        inside = certificates_in(case.evidence.response)
    except (ValueError, TypeError):
        return False
    others = [item for item in (*inside, *case.evidence.certificates) if item != case.authority.root]
    material = PathInput(others, case.authority.root, case.evidence.crls, case.evidence.ocsps, moment)
    try:
        validate_token(token.dump(), material)
    except TokenRejected as exc:
        # Our wrapper adds one check of its own; what it adds is not pyHanko's word.
        return exc.reason == "PATH" and "not the one that was given" in str(exc)
    return True
