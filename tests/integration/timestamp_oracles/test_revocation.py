"""The revocation matrix: the same token with other revocation data a row, by CRL and by OCSP, from RSA and ECDSA.

OpenSSL is told to check CRLs (``-crl_check_all``), which it does not by itself, and judges at the time asked about,
since it knows no proof of existence. OCSP responses are shown to ``openssl ocsp``: it checks who signed them and what
they say, and is told to let their times pass, which it would hold against the clock of this machine. rfc3161-client
looks at no revocation data. pyHanko judges at genTime, with revocation data required. A row fails when any tool changes
its mind.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from anchoring.timestamp import TimestampEvidence

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed"),
]

OK = "OK"
Maker = Any
Make = Callable[[Maker], TimestampEvidence]

NOT_LOOKED_AT = "rfc3161-client looks at no revocation data"
NO_TIMES = "OpenSSL is told to let the times of an OCSP response pass"

HOUR, DAY, YEAR = timedelta(hours=1), timedelta(days=1), timedelta(days=365)
NOW = timedelta(0)
GOOD, REVOKED, UNKNOWN = ocsp.OCSPCertStatus.GOOD, ocsp.OCSPCertStatus.REVOKED, ocsp.OCSPCertStatus.UNKNOWN


@dataclass(frozen=True)
class Row:
    """What holdfast, openssl ts, rfc3161-client and pyHanko say when asked ``later`` than the token was made.

    ``proven`` is by when, after the token, something else proves that it existed.
    """

    make: Make
    ours: str
    openssl: bool
    rfc3161_client: bool
    pyhanko: bool
    why: str = ""
    later: timedelta = NOW
    proven: timedelta | None = None

    @property
    def others(self) -> dict[str, bool]:
        """What others than rfc3161-client say, by name."""
        return {"openssl": self.openssl, "pyhanko": self.pyhanko}

    @property
    def reasons(self) -> list[str]:
        """Why others are of another mind than we are: the row's own reason, and that of rfc3161-client."""
        not_looked_at = self.rfc3161_client != (self.ours == OK)
        return [*([self.why] if self.why else []), *([NOT_LOOKED_AT] if not_looked_at else [])]


def crl(**arguments: Any) -> Make:
    """A CRL, which lists the signer as revoked at ``revoked`` when that is given."""
    revoked = arguments.pop("revoked", None)

    def make(maker: Maker) -> TimestampEvidence:
        listed = [] if revoked is None else [(maker.signer, revoked)]
        return TimestampEvidence(maker.response(), crls=(maker.crl(revoked=listed, **arguments),))

    return make


def with_answer(maker: Maker, make: Callable[[Any], bytes], *, declared: bool = True) -> TimestampEvidence:
    """A token by a certificate that names an OCSP responder, and what ``make`` gives for it."""
    signer = maker.issue("TSA", issuer=maker.root, ocsp_url="http://ocsp.example/" if declared else None)
    return TimestampEvidence(maker.response(signer=signer), ocsps=(make(signer),))


def answer(*, declared: bool = True, **arguments: Any) -> Make:
    """An OCSP response of the issuer itself."""
    return lambda maker: with_answer(maker, lambda signer: maker.ocsp(signer, **arguments), declared=declared)


def by_responder(*, nocheck: bool = True, eku: Any = ExtendedKeyUsageOID.OCSP_SIGNING, stranger: bool = False) -> Make:
    """An OCSP response of somebody to whom the issuer, or a stranger of its name, has issued a certificate for that."""

    def make(maker: Maker) -> TimestampEvidence:
        extensions = [x509.OCSPNoCheck()] if nocheck else []
        issuer = maker.issue("Root", ca=True) if stranger else maker.root
        responder = maker.issue("Responder", issuer=issuer, eku=[eku], eku_critical=False, extensions=extensions)
        return with_answer(maker, lambda signer: maker.ocsp(signer, responder=responder, embed=[responder]))

    return make


def by_expired_responder(maker: Maker) -> TimestampEvidence:
    responder = maker.issue(
        "Responder",
        issuer=maker.root,
        eku=[ExtendedKeyUsageOID.OCSP_SIGNING],
        extensions=[x509.OCSPNoCheck()],
        not_after=-DAY,
    )
    return with_answer(maker, lambda signer: maker.ocsp(signer, responder=responder, embed=[responder]))


def altered_answer(maker: Maker) -> TimestampEvidence:
    """Signed by the issuer, and the time until which it counts put off by a year."""

    def alter(signer: Any) -> bytes:
        until = (maker.now + DAY).strftime("%Y%m%d%H%M%SZ").encode()
        stale: bytes = maker.ocsp(signer)
        assert until in stale
        return stale.replace(until, (maker.now + YEAR).strftime("%Y%m%d%H%M%SZ").encode())

    return with_answer(maker, alter)


def both(maker: Maker) -> TimestampEvidence:
    evidence = with_answer(maker, maker.ocsp)
    return TimestampEvidence(evidence.response, crls=(maker.crl(),), ocsps=evidence.ocsps)


def for_a_chain(*, leave_out: str) -> Make:
    def make(maker: Maker) -> TimestampEvidence:
        middle = maker.issue("Middle", issuer=maker.root, ca=True, eku=None)
        signer = maker.issue("TSA", issuer=middle)
        crls = {"signer": maker.crl(middle), "middle": maker.crl()}
        crls.pop(leave_out, None)
        response = maker.response(signer=signer, certificates=[signer, middle])
        return TimestampEvidence(response, crls=tuple(crls.values()))

    return make


def middle_revoked(maker: Maker) -> TimestampEvidence:
    middle = maker.issue("Middle", issuer=maker.root, ca=True, eku=None)
    signer = maker.issue("TSA", issuer=middle)
    response = maker.response(signer=signer, certificates=[signer, middle])
    return TimestampEvidence(response, crls=(maker.crl(middle), maker.crl(revoked=[(middle, -HOUR)])))


ROWS: dict[str, Row] = {
    "clean-crl": Row(crl(), OK, True, True, True),
    "no-crl": Row(lambda maker: TimestampEvidence(maker.response()), "REVOCATION_MISSING", False, True, False),
    "revoked-before": Row(crl(revoked=-HOUR), "REVOKED", False, True, False),
    "revoked-at-that-second": Row(
        crl(revoked=NOW), "REVOKED", False, True, True, "revoked as of that second is revoked"
    ),
    "key-invalid-before": Row(
        crl(revoked=HOUR, invalid_since=-HOUR),
        "REVOKED",
        False,
        True,
        True,
        "the key was bad before the revocation was published; pyHanko goes by the revocation date",
    ),
    "stale-crl": Row(crl(this_update=-2 * DAY, next_update=-DAY), "REVOCATION_STALE", False, True, False),
    "crl-issued-later": Row(crl(this_update=HOUR), "REVOCATION_TOO_NEW", False, True, False),
    "crl-issued-later-asked-later": Row(
        crl(this_update=HOUR),
        "REVOCATION_TOO_NEW",
        True,
        True,
        False,
        "the list is from after the token, and OpenSSL judges at the time asked about",
        later=2 * HOUR,
    ),
    "revoked-later-asked-then": Row(
        crl(revoked=HOUR), OK, False, True, True, "OpenSSL takes a listed certificate as revoked, whenever that was"
    ),
    "revoked-later-asked-later": Row(
        crl(revoked=HOUR),
        "REVOKED_NO_POE",
        False,
        True,
        True,
        "pyHanko judges at genTime; the later end is for whoever asks later",
        later=2 * HOUR,
    ),
    "revoked-later-proven-before": Row(
        crl(revoked=2 * HOUR),
        OK,
        False,
        True,
        True,
        "OpenSSL judges at the time asked about and knows no proof of existence",
        later=3 * HOUR,
        proven=HOUR,
    ),
    "revoked-later-proven-after": Row(
        crl(revoked=HOUR),
        "REVOKED_NO_POE",
        False,
        True,
        True,
        "pyHanko judges at genTime; the later end is for whoever asks later",
        later=3 * HOUR,
        proven=2 * HOUR,
    ),
    "expired-since": Row(
        crl(),
        "EXPIRED_NO_POE",
        False,
        True,
        True,
        "pyHanko judges at genTime; the later end is for whoever asks later",
        later=2 * YEAR,
    ),
    "expired-since-proven-before": Row(
        crl(),
        OK,
        False,
        True,
        True,
        "OpenSSL judges at the time asked about and knows no proof of existence",
        later=2 * YEAR,
        proven=DAY,
    ),
    "expired-since-proven-after": Row(
        crl(),
        "EXPIRED_NO_POE",
        False,
        True,
        True,
        "pyHanko judges at genTime; the later end is for whoever asks later",
        later=3 * YEAR,
        proven=2 * YEAR,
    ),
    "crl-run-out-since": Row(
        crl(),
        OK,
        False,
        True,
        True,
        "OpenSSL judges at the time asked about and knows no proof of existence",
        later=30 * DAY,
    ),
    "crl-of-another-key": Row(
        lambda maker: TimestampEvidence(maker.response(), crls=(maker.crl(maker.issue("Root", ca=True)),)),
        "REVOCATION_SIGNATURE",
        False,
        True,
        False,
    ),
    "crl-of-another-authority": Row(
        lambda maker: TimestampEvidence(maker.response(), crls=(maker.crl(maker.issue("Other", ca=True)),)),
        "UNUSED_MATERIAL",
        False,
        True,
        False,
    ),
    "crl-twice": Row(
        lambda maker: TimestampEvidence(maker.response(), crls=(maker.crl(), maker.crl(this_update=-2 * HOUR))),
        "UNUSED_MATERIAL",
        True,
        True,
        True,
        "what nothing needs could be altered unnoticed",
    ),
    "chain-all-crls": Row(for_a_chain(leave_out=""), OK, True, True, True),
    "chain-no-crl-for-the-signer": Row(for_a_chain(leave_out="signer"), "REVOCATION_MISSING", False, True, False),
    "chain-no-crl-for-the-issuer": Row(for_a_chain(leave_out="middle"), "REVOCATION_MISSING", False, True, False),
    "chain-issuer-revoked": Row(middle_revoked, "REVOKED", False, True, False),
    "ocsp-good": Row(answer(), OK, True, True, True),
    "ocsp-good-by-a-responder-not-named": Row(
        answer(declared=False), "PATH", True, True, False, "the certificate names no responder that may be asked"
    ),
    "ocsp-revoked-before": Row(answer(status=REVOKED, revoked=-HOUR), "REVOKED", False, True, False),
    "ocsp-revoked-later": Row(answer(status=REVOKED, revoked=HOUR), "REVOKED", False, True, False, later=2 * HOUR),
    "ocsp-unknown": Row(answer(status=UNKNOWN), "REVOCATION_MISSING", False, True, False),
    "ocsp-stale": Row(answer(this_update=-2 * DAY, next_update=-DAY), "REVOCATION_STALE", True, True, False, NO_TIMES),
    "ocsp-issued-later": Row(answer(this_update=HOUR), "REVOCATION_TOO_NEW", True, True, False, NO_TIMES),
    "ocsp-responder": Row(by_responder(), OK, True, True, True),
    "ocsp-responder-without-nocheck": Row(
        by_responder(nocheck=False),
        "PATH",
        True,
        True,
        False,
        "nothing shows that the responder was not revoked itself",
    ),
    "ocsp-responder-for-something-else": Row(
        by_responder(eku=ExtendedKeyUsageOID.CODE_SIGNING), "PATH", False, True, False
    ),
    "ocsp-responder-for-timestamping": Row(
        by_responder(eku=ExtendedKeyUsageOID.TIME_STAMPING), "PATH", False, True, False
    ),
    "ocsp-responder-of-a-stranger": Row(by_responder(stranger=True), "PATH", False, True, False),
    "ocsp-responder-expired": Row(by_expired_responder, "PATH", False, True, False),
    "ocsp-about-another-certificate": Row(
        lambda maker: with_answer(maker, lambda _: maker.ocsp(maker.issue("Other", issuer=maker.root))),
        "UNUSED_MATERIAL",
        False,
        True,
        False,
    ),
    "ocsp-altered": Row(altered_answer, "REVOCATION_SIGNATURE", False, True, False),
    "crl-and-ocsp": Row(both, "UNUSED_MATERIAL", True, True, True, "what nothing needs could be altered unnoticed"),
}


@pytest.mark.parametrize("name", ROWS)
def test_row(name: str, maker: Maker, new_case: Any, ask_all: Any) -> None:
    row = ROWS[name]
    proven_by_ms = None if row.proven is None else maker.now_ms + milliseconds(row.proven)
    case = new_case(
        row.make(maker),
        maker.message,
        maker.authority,
        maker.now_ms + milliseconds(row.later),
        proven_by_ms=proven_by_ms,
        crl_check=True,
        at_acquisition=False,
    )
    assert ask_all(case) == (row.ours, row.openssl, row.rfc3161_client, row.pyhanko)


def milliseconds(duration: timedelta) -> int:
    return duration // timedelta(milliseconds=1)


@pytest.mark.parametrize("name", ROWS)
def test_where_others_are_of_another_mind_the_row_says_why(name: str) -> None:
    row = ROWS[name]
    accepted = row.ours == OK
    assert bool(row.why) == any(said != accepted for said in row.others.values())
    assert bool(row.reasons) == any(said != accepted for said in (*row.others.values(), row.rfc3161_client))


def test_rfc3161_client_accepts_whatever_revocation_data_there_is() -> None:
    """So its reason stands in every row that we refuse, and in no other."""
    assert all(row.rfc3161_client for row in ROWS.values())
    refused = {name for name, row in ROWS.items() if row.ours != OK}
    assert {name for name, row in ROWS.items() if NOT_LOOKED_AT in row.reasons} == refused
