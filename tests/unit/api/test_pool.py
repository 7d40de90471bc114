"""The pool as settings, policy and the home's memory have it."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from anchoring.timestamp import Authority
from anchoring.tsa.backoff import Trouble
from anchoring.tsa.pool import PoolPolicy
from api.home import Home
from api.policy_text import policy_text
from api.pool import check_independence, keep_troubles, load_troubles, pool_policy, trusted_by_home
from api.settings import HttpAuthoritySettings, Settings, parse_settings
from identity.errors import ConfigurationError

NOW = datetime(2026, 6, 1, tzinfo=UTC)
HTTP = '[[authorities]]\nkind = "http"\nurl = "{}"\nroot = "tsa.pem"\npolicy = "1.2.3"\nsubject = "CN=TSA"\n'
BASE = 'format = 1\n[chain]\nkind = "none"\n'


@pytest.fixture
def home(tmp_path: Path) -> Home:
    (tmp_path / "home").mkdir()
    return Home(tmp_path / "home")


def read(home: Home, text: str, **environ: str) -> Settings:
    return parse_settings(text.encode(), home, environ, file=home.settings)


def authority(name: str, key: ec.EllipticCurvePrivateKey) -> Authority:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
    builder = builder.serial_number(7).not_valid_before(NOW).not_valid_after(NOW + timedelta(days=1))
    return Authority(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER), "1.2.3", f"CN={name}")


@pytest.fixture
def authorities() -> list[Authority]:
    """The first two are under two certificates of one key."""
    shared, other = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    return [authority("One", shared), authority("Two", shared), authority("Three", other)]


def test_without_a_word_one_authority_is_wanted_and_all_are_asked(home: Home) -> None:
    assert pool_policy(read(home, BASE)) == PoolPolicy(k=1, ask_all=True)


def test_everything_can_be_set(home: Home) -> None:
    text = 'format = 1\n[chain]\nkind = "none"\n[timestamps]\nk = 2\nask = "k"\nparallel = 1\npatience_s = 5\n'
    text += HTTP.format("http://a.example/") + HTTP.format("http://b.example/")
    assert pool_policy(read(home, text)) == PoolPolicy(k=2, ask_all=False, parallel=1, patience_s=5.0)
    assert pool_policy(read(home, text, HOLDFAST_TIMESTAMPS__K="1")).k == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[timestamps]\nk = 0\n", "timestamps.k"),
        ("[timestamps]\nk = 17\n", "timestamps.k"),
        ('[timestamps]\nask = "some"\n', "timestamps.ask"),
        ("[timestamps]\nparallel = 0\n", "timestamps.parallel"),
        ("[timestamps]\npatience_s = 0\n", "timestamps.patience_s"),
        ("[timestamps]\npatience_s = inf\n", "timestamps.patience_s"),
        ("[timestamps]\nmore = 1\n", "timestamps.more"),
        ("[timestamps]\nk = 2\n" + HTTP.format("http://a.example/"), "k is 2, and there are 1"),
        (HTTP.format("http://a.example/") * 2, "twice"),
        ('[[authorities]]\nkind = "dev"\n' * 2, "twice"),
    ],
)
def test_a_pool_that_cannot_be(home: Home, text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        read(home, BASE + text)


def test_authorities_that_can_never_be_k(authorities: list[Authority]) -> None:
    check_independence(authorities, 2)
    check_independence(authorities[:2], 1)
    check_independence([], 5)
    with pytest.raises(ConfigurationError, match="2 root keys"):
        check_independence(authorities, 3)
    with pytest.raises(ConfigurationError, match="1 root keys"):
        check_independence(authorities[:2], 2)


def test_who_is_trusted_stands_in_the_policy(home: Home, authorities: list[Authority]) -> None:
    assert trusted_by_home(home) == ((), 1)
    home.policy.write_text(policy_text(bytes(32), bytes(32), authorities, None, b"", 2), encoding="utf-8")
    assert trusted_by_home(home) == (tuple(authorities), 2)
    home.policy.write_text("nonsense", encoding="utf-8")
    with pytest.raises(ConfigurationError):
        trusted_by_home(home)


def test_troubles_are_remembered_until_there_are_none(home: Home) -> None:
    assert load_troubles(home) == {}
    troubles = {"http://a.example/": Trouble(2, 1_767_225_600_000, "down")}
    keep_troubles(home, troubles)
    assert load_troubles(home) == troubles
    assert [file.name for file in home.root.iterdir()] == ["authorities.json"]
    home.troubles.write_bytes(b"nonsense")
    assert load_troubles(home) == {}
    keep_troubles(home, {})
    assert list(home.root.iterdir()) == []


def test_a_home_that_cannot_be_written_to_forgets(home: Home) -> None:
    gone = Home(home.root / "gone")
    keep_troubles(gone, {"a": Trouble(1, 0, "down")})
    assert load_troubles(gone) == {}


def test_the_settings_of_the_guide_are_settings(root: Path, home: Home) -> None:
    page = (root / "docs" / "how-to" / "real-authorities.md").read_text(encoding="utf-8")
    one, three = (read(home, text) for text in re.findall(r"```toml\n(.*?)```", page, re.DOTALL))
    assert (len(one.authorities), one.timestamps.k) == (1, 1)
    assert (len(three.authorities), three.timestamps.k) == (3, 2)
    assert all(isinstance(each, HttpAuthoritySettings) for each in (*one.authorities, *three.authorities))
