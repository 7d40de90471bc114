"""Policies: what is exactly one is read, and everything else is an error that names the key."""

from __future__ import annotations

import re
import textwrap
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from anchoring.headers import TrustedHeader, TrustedHeaders
from anchoring.policy import MAX_POLICY_BYTES, parse_duration, parse_policy
from anchoring.report import Claim
from anchoring.timestamp import Authority
from identity.errors import ConfigurationError, MalformedError

ROOT = Path(__file__).resolve().parents[3]
ID, OTHER_ID = "5a" * 32, "a5" * 32


def certificate() -> bytes:
    """A root's DER bytes."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Root")])
    begun = datetime(2026, 1, 1, tzinfo=UTC)
    return (
        x509.CertificateBuilder(name, name, key.public_key(), 1, begun, begun + timedelta(days=1))
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.DER)
    )


DER = certificate()


def pem(der: bytes) -> str:
    body = "\n".join(textwrap.wrap(b64encode(der).decode(), 64))
    return f"-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n"


AUTHORITY = f"""[[tsa.authorities]]
subject = "CN=Example TSA"
policy = "1.2.3"
root = \"\"\"
{pem(DER)}\"\"\"
"""

CHAIN = f"""[[chain]]
id = 7
code_hash = "{ID}"
headers_file = "seven.jsonl"
"""

POLICY = f"""v = 1
identities = ["{ID}"]
logs = ["{OTHER_ID}"]
require = ["origin", "time"]

[tsa]
k = 2
max_identity_age = "36h"

{AUTHORITY}
{CHAIN}"""


def replaced(old: str, new: str) -> bytes:
    assert POLICY.count(old) == 1, old
    return POLICY.replace(old, new).encode()


def refuse(text: bytes, *, match: str) -> None:
    with pytest.raises(ConfigurationError, match=match):
        parse_policy(text)


def test_a_policy_is_read() -> None:
    parsed = parse_policy(POLICY.encode())
    policy = parsed.policy
    assert policy.identities == {bytes.fromhex(ID)}
    assert policy.logs == {bytes.fromhex(OTHER_ID)}
    assert policy.require == {Claim.ORIGIN, Claim.TIME}
    assert (policy.k, policy.max_identity_age_ms) == (2, 36 * 3_600_000)
    assert policy.authorities == (Authority(DER, "1.2.3", "CN=Example TSA"),)
    assert policy.chains[7].code_hash == bytes.fromhex(ID)
    assert parsed.headers_files == {7: "seven.jsonl"}


def test_nothing_that_is_not_named_is_trusted() -> None:
    empty = replaced(CHAIN, "").replace(AUTHORITY.encode(), b"authorities = []\n")
    policy = parse_policy(re.sub(rb"(identities|logs) = .*", rb"\1 = []", empty)).policy
    assert (policy.identities, policy.logs, policy.authorities, dict(policy.chains)) == (
        frozenset(),
        frozenset(),
        (),
        {},
    )


def test_pinned_headers_are_put_in() -> None:
    headers = TrustedHeaders([TrustedHeader(7, 1, bytes(32), "node", 0)])
    policy = parse_policy(POLICY.encode()).with_headers({7: headers})
    assert policy.chains[7].headers.find(7, 1) is not None
    assert policy.chains[7].code_hash == bytes.fromhex(ID)


def test_the_example_of_the_specification_is_a_policy() -> None:
    text = (ROOT / "docs" / "spec" / "policy.md").read_text()
    parsed = parse_policy(text.split("```toml\n")[1].split("```")[0].encode())
    assert parsed.policy.require == frozenset(Claim)
    assert parsed.headers_files == {1: "headers.jsonl"}


KEYS = [
    ("v", "v = 1\n"),
    ("identities", f'identities = ["{ID}"]\n'),
    ("logs", f'logs = ["{OTHER_ID}"]\n'),
    ("require", 'require = ["origin", "time"]\n'),
    ("tsa.k", "k = 2\n"),
    ("tsa.max_identity_age", 'max_identity_age = "36h"\n'),
    ("tsa.authorities", AUTHORITY),
    ("tsa.authorities.subject", 'subject = "CN=Example TSA"\n'),
    ("tsa.authorities.policy", 'policy = "1.2.3"\n'),
    ("tsa.authorities.root", f'root = """\n{pem(DER)}"""\n'),
    ("chain.id", "id = 7\n"),
    ("chain.code_hash", f'code_hash = "{ID}"\n'),
    ("chain.headers_file", 'headers_file = "seven.jsonl"\n'),
]


@pytest.mark.parametrize(("key", "line"), KEYS, ids=[key for key, _ in KEYS])
def test_every_key_is_needed(key: str, line: str) -> None:
    refuse(replaced(line, ""), match=f"the key {re.escape(key)} is missing")


def test_the_tsa_table_is_needed() -> None:
    start, end = POLICY.index("[tsa]"), POLICY.index("[[chain]]")
    refuse((POLICY[:start] + POLICY[end:]).encode(), match="the key tsa is missing")


@pytest.mark.parametrize(
    ("place", "key"),
    [
        ("v = 1\n", "lax"),
        ("k = 2\n", "tsa.lax"),
        ('policy = "1.2.3"\n', "tsa.authorities.lax"),
        ("id = 7\n", "chain.lax"),
    ],
)
def test_no_other_key_is_read(place: str, key: str) -> None:
    refuse(replaced(place, f"{place}lax = true\n"), match=f"the key {re.escape(key)} is unknown")


@pytest.mark.parametrize(("key", "line"), KEYS, ids=[key for key, _ in KEYS])
@pytest.mark.parametrize("odd", ["0", "true", "1.0", '"?"', "[[]]", '["?"]', "{a = 1}", "2026-11-22", "nan"])
def test_a_value_of_another_type_is_refused(key: str, line: str, odd: str) -> None:
    name = key.rpartition(".")[2]
    # Any text may be a subject or a file: that it is the right one shows when it is used.
    if not (odd == '"?"' and name in ("subject", "headers_file")):
        refuse(replaced(line, f"{name} = {odd}\n"), match="policy: ")


@pytest.mark.parametrize("version", ["0", "2", "-1", "true", "1.0", '"1"'])
def test_only_this_version_is_read(version: str) -> None:
    refuse(replaced("v = 1\n", f"v = {version}\n"), match="version")


@pytest.mark.parametrize("k", ["0", "-1", "17", "true", "2.0", '"2"', str(2**70)])
def test_k_is_from_1_to_16(k: str) -> None:
    refuse(replaced("k = 2\n", f"k = {k}\n"), match=r"tsa\.k")


def test_k_may_be_1_and_16() -> None:
    assert [parse_policy(replaced("k = 2\n", f"k = {k}\n")).policy.k for k in (1, 16)] == [1, 16]


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [("1s", 1_000), ("90s", 90_000), ("15m", 900_000), ("24h", 86_400_000), ("9999999d", 9_999_999 * 86_400_000)],
)
def test_durations(text: str, milliseconds: int) -> None:
    assert parse_duration(text) == milliseconds


@pytest.mark.parametrize(
    "text",
    ["", "0s", "05m", "-1h", "1.5h", "1", "h", "1 h", "1w", "1H", "1h ", "1h\n", "10000000d", "1h30m", "\u0661s"],
)
def test_no_other_duration_is_read(text: str) -> None:
    with pytest.raises(MalformedError):
        parse_duration(text)


@pytest.mark.parametrize("key", ["identities", "logs"])
@pytest.mark.parametrize(
    "ids", [f'"{ID}", "{ID}"', f'"{ID[:-2]}"', f'"{ID}00"', f'"{ID.upper()}"', f'"0x{ID}"', f'" {ID}"', '""', "1"]
)
def test_ids_are_64_lower_case_digits_and_stand_once(key: str, ids: str) -> None:
    text = re.sub(rf"^{key} = .*$", f"{key} = [{ids}]", POLICY, flags=re.MULTILINE)
    refuse(text.encode(), match="policy: ")


@pytest.mark.parametrize(
    "claims", ["[]", '["origin", "origin"]', '["anything"]', '["Origin"]', '[""]', '"origin"', "[1]"]
)
def test_claims_are_known_demanded_once_and_at_least_one(claims: str) -> None:
    refuse(replaced('["origin", "time"]', claims), match="require")


@pytest.mark.parametrize(
    "root",
    [
        "",
        pem(DER) * 2,
        pem(DER).replace("CERTIFICATE", "PUBLIC KEY"),
        pem(DER).replace("-----BEGIN CERTIFICATE-----\n", ""),
        pem(DER).replace("-----END", "----END"),
        "text\n" + pem(DER),
        pem(DER) + "text\n",
        pem(DER).replace("A", "*", 1),
        pem(DER[:-1]),
        pem(DER + b"\0"),
        pem(bytes(100)),
        b64encode(DER).decode(),
    ],
)
def test_a_root_is_one_pem_certificate(root: str) -> None:
    refuse(replaced(f'"""\n{pem(DER)}"""', f'"""\n{root}"""'), match="policy: ")


@pytest.mark.parametrize(
    "oid", ["", "1", "3.1", "1.02.3", "1..3", "1.2.3.", " 1.2.3", "1.2.x", "1.2.3\\n", "1" + ".1" * 32]
)
def test_a_policy_oid_is_in_dotted_form(oid: str) -> None:
    refuse(replaced('policy = "1.2.3"', f'policy = "{oid}"'), match=r"tsa\.authorities\.policy")


def test_an_authority_or_a_chain_stands_once() -> None:
    refuse(replaced(AUTHORITY, AUTHORITY * 2), match="one authority twice")
    refuse(replaced(AUTHORITY, AUTHORITY + AUTHORITY + "revoked = 2026-11-20T08:00:00Z\n"), match="one authority twice")
    refuse(replaced(CHAIN, CHAIN + CHAIN.replace("seven", "eight")), match="chain 7 stands twice")


@pytest.mark.parametrize("number", ["0", "-7", str(2**53), "true", '"7"'])
def test_a_chain_id_is_a_whole_number_from_1(number: str) -> None:
    refuse(replaced("id = 7\n", f"id = {number}\n"), match=r"chain\.id")


def revoked(value: str) -> bytes:
    return replaced('policy = "1.2.3"\n', f'policy = "1.2.3"\nrevoked = {value}\n')


def test_an_authority_may_be_known_to_be_revoked() -> None:
    (authority,) = parse_policy(revoked("2026-11-20T09:00:00.5+01:00")).policy.authorities
    assert authority.revoked_ms == int(datetime(2026, 11, 20, 8, tzinfo=UTC).timestamp() * 1000) + 500


@pytest.mark.parametrize(
    "value", ["2026-11-20", "2026-11-20T08:00:00", "08:00:00", "0", "true", '"2026-11-20T08:00:00Z"', "[]"]
)
def test_a_revocation_has_a_date_a_time_and_an_offset(value: str) -> None:
    refuse(revoked(value), match=r"tsa\.authorities\.revoked")


BROKEN: dict[str, bytes] = {
    "no TOML": b"v = \n",
    "no UTF-8": POLICY.encode() + b"# \xff",
    "byte order mark": b"\xef\xbb\xbf" + POLICY.encode(),
    "UTF-16": POLICY.encode("utf-16"),
    "NUL": POLICY.encode() + b"\0",
    "lone carriage return": POLICY.encode() + b"\r# x",
    "a key twice": replaced("v = 1\n", "v = 1\nv = 1\n"),
    "a key twice, quoted": replaced("v = 1\n", 'v = 1\n"v" = 1\n'),
    "a table twice": replaced("[tsa]\n", "[tsa]\n[tsa]\n"),
    "a table that is a list": replaced("[tsa]\n", "[[tsa]]\n"),
    "a list that is a table": replaced("[[chain]]\n", "[chain]\n"),
    "deep": b"v = " + b"[" * 100_000,
    "deep tables": b"v = " + b"{a = " * 100_000,
    "a number of 5,000 digits": b"v = " + b"1" * 5_000,
    # tomllib would need gigabytes for it.
    "a key of 100,000 parts": b"a." * 100_000 + b"a = 1",
    "empty": b"",
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN.keys())
def test_what_is_not_toml_or_no_policy_is_refused(text: bytes) -> None:
    refuse(text, match="policy: ")


def test_a_long_policy_is_not_read() -> None:
    comment = b"#" * (MAX_POLICY_BYTES - len(POLICY) - 1)
    parse_policy(POLICY.encode() + comment + b"\n")
    refuse(POLICY.encode() + comment + b"\n\n", match="at most")


@given(st.binary(max_size=200))
def test_any_bytes_are_a_configuration_error(text: bytes) -> None:
    with pytest.raises(ConfigurationError):
        parse_policy(text)


values: st.SearchStrategy[Any] = st.sampled_from(
    ["0", "1", "true", "1.5", '"x"', "[]", "[1]", "{}", "{a = 1}", "inf", "1979-05-27", f'["{ID}"]', '["origin"]']
)


@given(st.permutations(POLICY.splitlines()), st.data())
def test_lines_in_disorder_are_a_policy_or_a_configuration_error(lines: list[str], data: st.DataObject) -> None:
    position = data.draw(st.integers(0, len(lines) - 1))
    key, equals, _ = lines[position].partition(" = ")
    if equals:
        lines[position] = f"{key} = {data.draw(values)}"
    try:
        assert parse_policy("\n".join(lines).encode()).policy.require
    except ConfigurationError as exc:
        assert str(exc).startswith("policy: ")  # noqa: PT017
