"""Settings: what is read, what the environment overrides, and everything that is refused."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.home import HOME_FORMAT, Home
from api.settings import (
    MAX_FILE_BYTES,
    DevAuthoritySettings,
    DevChainSettings,
    HttpAuthoritySettings,
    NoChainSettings,
    RpcChainSettings,
    Settings,
    default_settings_text,
    dev_directory,
    find_home,
    load_settings,
)
from identity.errors import ConfigurationError, NewerFormat

DEV = 'format = 1\n[chain]\nkind = "dev"\n'
RPC = 'format = 1\n[chain]\nkind = "rpc"\nurls = ["http://127.0.0.1:8545"]\nchain_id = 1\n'
HTTP_AUTHORITY = '[[authorities]]\nkind = "http"\nurl = "https://tsa.example/"\nroot = "tsa.pem"\npolicy = "1.2.3"\n'
HTTP_AUTHORITY += 'subject = "CN=TSA"\n'


@pytest.fixture
def home(tmp_path: Path) -> Home:
    (tmp_path / "home").mkdir()
    return Home(tmp_path / "home")


def load(home: Home, text: str | bytes, environ: dict[str, str] | None = None) -> Settings:
    home.settings.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_settings(home, environ or {})


def test_the_least_that_works(home: Home) -> None:
    settings = load(home, DEV, {"XDG_STATE_HOME": "/var/state"})
    assert settings.chain == DevChainSettings(kind="dev")
    assert settings.authorities == ()
    assert (settings.database, settings.keystore) == (home.root / "vault.db", home.root / "keystore.hfk")
    assert settings.dev_dir == Path("/var/state/holdfast/dev")


def test_everything(home: Home) -> None:
    settings = load(
        home,
        'keystore = "/media/stick/keys.hfk"\ndatabase = "data/vault.db"\ndev_dir = "/elsewhere"\n'
        + RPC
        + "confirmations = 12\nmax_fee_gwei = 30\ntimeout_s = 2.5\n"
        + HTTP_AUTHORITY
        + 'certificates = ["/etc/middle.pem"]\ncrl_urls = ["http://crl.example/x.crl"]\n'
        + '[[authorities]]\nkind = "dev"\n',
    )
    assert settings.keystore == Path("/media/stick/keys.hfk")
    assert settings.database == home.root / "data/vault.db"
    assert settings.dev_dir == Path("/elsewhere")
    assert settings.chain == RpcChainSettings(
        kind="rpc",
        urls=("http://127.0.0.1:8545",),
        chain_id=1,
        confirmations=12,
        max_fee_gwei=30,
        timeout_s=2.5,
    )
    assert settings.authorities == (
        HttpAuthoritySettings(
            kind="http",
            url="https://tsa.example/",
            root=home.root / "tsa.pem",
            policy="1.2.3",
            subject="CN=TSA",
            certificates=(Path("/etc/middle.pem"),),
            crl_urls=("http://crl.example/x.crl",),
        ),
        DevAuthoritySettings(kind="dev"),
    )


def test_the_environment_overrides_the_file(home: Home) -> None:
    environ = {
        "HOLDFAST_DEV_DIR": "/other",
        "HOLDFAST_KEYSTORE": "/keys",
        "HOLDFAST_CHAIN__URLS": '["http://10.0.0.1"]',
        "HOLDFAST_CHAIN__CONFIRMATIONS": "3",
        "HOLDFAST_HOME": "/not/looked/at",
        "HOLDFAST_PASSPHRASE_FD": "3",
        "PATH": "/bin",
    }
    settings = load(home, RPC, environ)
    assert (settings.dev_dir, settings.keystore) == (Path("/other"), Path("/keys"))
    assert isinstance(settings.chain, RpcChainSettings)
    assert (settings.chain.urls, settings.chain.confirmations, settings.chain.chain_id) == (("http://10.0.0.1",), 3, 1)


def test_the_process_environment_is_not_looked_at(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_KEYSTORE", "/from/the/process")
    monkeypatch.setenv("KEYSTORE", "/from/the/process")
    assert load(home, DEV).keystore == home.root / "keystore.hfk"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'format' is missing"),
        ('[chain]\nkind = "dev"\n', "'format' is missing"),
        (DEV.replace("= 1", "= true"), "'format' is missing"),
        (DEV.replace("= 1", '= "1"'), "'format' is missing"),
        (DEV.replace("= 1", "= 0"), "'format' is missing"),
        ("format = 1\n", "chain"),
        (DEV.replace("dev", "ganache"), "chain"),
        (DEV + "chain_id = 5\n", "chain_id"),
        (DEV + "[frob]\n", "frob"),
        ("frob = 1\n" + DEV, "frob"),
        (RPC + "frob = 1\n", "frob"),
        (RPC.replace("chain_id = 1", "chain_id = 0"), "chain_id"),
        (RPC.replace("chain_id = 1", ""), "chain_id"),
        (RPC.replace('"http://127.0.0.1:8545"', ""), "urls"),
        (RPC.replace("http:", "file:"), "urls"),
        (RPC.replace("http://127.0.0.1:8545", "http://"), "urls"),
        (RPC + "confirmations = 0\n", "confirmations"),
        (RPC + "timeout_s = 0\n", "timeout_s"),
        (RPC + "timeout_s = inf\n", "timeout_s"),
        (RPC + "timeout_s = nan\n", "timeout_s"),
        (DEV + HTTP_AUTHORITY.replace("1.2.3", "3.1"), "policy"),
        (DEV + HTTP_AUTHORITY.replace("1.2.3", "1.02"), "policy"),
        (DEV + HTTP_AUTHORITY.replace("https", "ldap"), "url"),
        (DEV + HTTP_AUTHORITY.replace('root = "tsa.pem"', ""), "root"),
        (DEV + HTTP_AUTHORITY + 'token = "x"\n', "token"),
        (DEV + DEV, "not TOML"),
        ("format = 1\nformat = 1\n", "not TOML"),
        ("format = " + "[" * 100_000, "larger"),
        ("format = " + "[" * 50_000, "not TOML"),
        ("#" * (MAX_FILE_BYTES + 1), "larger"),
        (b"\xff", "not TOML"),
        ('keystore = "a\\u0000b"\n' + DEV, "keystore.*NUL"),
        ('database = "a\\u0000b"\n' + DEV, "database.*NUL"),
        ('dev_dir = "/a\\u0000b"\n' + DEV, "dev_dir.*NUL"),
        (DEV + HTTP_AUTHORITY.replace("tsa.pem", "tsa\\u0000.pem"), "root.*NUL"),
    ],
)
def test_refused(text: str | bytes, message: str, home: Home) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        load(home, text)
    assert not isinstance(caught.value, NewerFormat)
    assert "\n" not in str(caught.value)


def test_a_home_of_a_newer_version(home: Home) -> None:
    """Whatever else is in the file: only the newer version knows what it means."""
    with pytest.raises(NewerFormat, match=f"format {HOME_FORMAT + 1}"):
        load(home, f"format = {HOME_FORMAT + 1}\n[shards]\ncount = 3\n")


def test_no_home_and_no_access(home: Home) -> None:
    with pytest.raises(ConfigurationError, match="no home at") as caught:
        load_settings(home, {})
    assert "holdfast init" in caught.value.hint
    home.settings.mkdir()
    with pytest.raises(ConfigurationError, match="cannot read"):
        load_settings(home, {})


@pytest.mark.parametrize(
    "environ",
    [
        {"HOLDFAST_KEYSTOER": "/keys"},
        {"HOLDFAST_FORMAT": "1"},
        {"HOLDFAST_CHAIN__CHIAN_ID": "1"},
        {"HOLDFAST_CHAIN__CHAIN_ID": "one"},
        {"HOLDFAST_CHAIN__URLS": "http://10.0.0.1"},
        {"HOLDFAST_CHAIN": "rpc"},
        {"HOLDFAST_": "x"},
        {"HOLDFAST_AUTHORITIES": "[" * 100_000},
    ],
)
def test_a_variable_that_is_wrong_is_not_ignored(environ: dict[str, str], home: Home) -> None:
    with pytest.raises(ConfigurationError):
        load(home, RPC, environ)


def test_secrets_in_urls_are_not_shown(home: Home) -> None:
    """Access keys of nodes stand in their URLs."""
    with pytest.raises(ConfigurationError) as caught:
        load(home, RPC.replace("http://127.0.0.1:8545", "ftp://node.example/s3cret"))
    assert "s3cret" not in str(caught.value)


def test_the_development_directory_is_never_in_the_home(home: Home, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(home.root, target_is_directory=True)
    for inside in (home.root, home.root / "dev", home.root / "x" / ".." / "dev", tmp_path / "link" / "dev"):
        with pytest.raises(ConfigurationError, match="inside the home"):
            load(home, DEV, {"HOLDFAST_DEV_DIR": str(inside)})
    for relative in ("dev", "../dev"):
        with pytest.raises(ConfigurationError, match="absolute"):
            load(home, f'dev_dir = "{relative}"\n' + DEV)
        with pytest.raises(ConfigurationError, match="absolute"):
            dev_directory({"HOLDFAST_DEV_DIR": relative})
    assert load(home, DEV, {"HOLDFAST_DEV_DIR": str(tmp_path / "dev")}).dev_dir == tmp_path / "dev"


def test_which_home_is_meant(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/anna")
    environ = {"HOLDFAST_HOME": "/srv/vault", "XDG_DATA_HOME": "/data"}
    assert find_home(Path("here"), environ) == Home(tmp_path / "here")
    assert find_home(None, environ) == Home(Path("/srv/vault"))
    assert find_home(None, {"XDG_DATA_HOME": "/data"}) == Home(Path("/data/holdfast"))
    assert find_home(None, {"XDG_DATA_HOME": "relative"}) == Home(Path("/home/anna/.local/share/holdfast"))
    assert find_home(Path("~/vault"), {}) == Home(Path("/home/anna/vault"))


def test_the_text_of_a_new_home_is_read_back(home: Home) -> None:
    rpc = {"kind": "rpc", "urls": ["http://127.0.0.1:8545"], "chain_id": 5, "confirmations": None, "timeout_s": 2.5}
    settings = load(home, default_settings_text(rpc, [{"kind": "dev"}]))
    assert isinstance(settings.chain, RpcChainSettings)
    assert (settings.chain.chain_id, settings.chain.timeout_s) == (5, 2.5)
    assert settings.authorities == (DevAuthoritySettings(kind="dev"),)
    assert load(home, default_settings_text({"kind": "none"}, [])).chain == NoChainSettings(kind="none")


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_is_quoted(text: str) -> None:
    assert tomllib.loads(default_settings_text({"kind": text}, []))["chain"]["kind"] == text


# --- a database on PostgreSQL ---


def test_database_url_in_file_and_environment(home: Home) -> None:
    written = load(home, 'database = "postgresql://bob:s3cret@h/db?schema=bank"\n' + DEV)
    assert str(written.database) == "postgresql://bob@h/db?schema=bank"
    assert "s3cret" not in f"{written!r} {written}"
    named = load(home, DEV, {"HOLDFAST_DATABASE": "postgresql://h/db"})
    assert str(named.database) == "postgresql://h/db?schema=holdfast"
    assert load(home, DEV, {"HOLDFAST_DATABASE": "other.db"}).database == home.root / "other.db"


@pytest.mark.parametrize(
    "value", ['"postgresql://bob:s3cret@h/db?schema=A"', '"a\\u0000b"', "5", "[]", "{url = 's3cret'}"]
)
def test_database_that_is_none(home: Home, value: str) -> None:
    with pytest.raises(ConfigurationError, match="database") as caught:
        load(home, f"database = {value}\n" + DEV)
    assert "s3cret" not in str(caught.value)


def test_the_service_is_set_in_its_table_and_by_variables(tmp_path: Path) -> None:
    text = """
format = 1
[chain]
kind = "none"
[service]
tls_cert = "node.crt"
tls_key = "/etc/node.key"
[service.limits]
threads = 8
[service.tenants]
north = "../north.home"
"""
    home = Home(tmp_path / "home")
    environ = {"HOLDFAST_DEV_DIR": str(tmp_path / "dev"), "HOLDFAST_SERVICE__PORT": "0"}
    home.root.mkdir()
    home.settings.write_text(text)
    found = load_settings(home, environ).service
    assert (found.host, found.port, found.limits.threads, found.limits.max_documents) == ("127.0.0.1", 0, 8, 1000)
    assert (found.tls_cert, found.tls_key) == (home.root / "node.crt", Path("/etc/node.key"))
    assert found.tenants == {"north": home.root / "../north.home"}


@pytest.mark.parametrize(
    "wrong",
    [
        'tls_cert = "node.crt"',
        "port = 65536",
        'public_url = "vault.example"',
        "limits = { threads = 1 }",
        "limits = { unknown = 1 }",
        'tenants = { "No/Name" = "x" }',
        "insecure = true",
    ],
)
def test_a_service_that_is_set_wrongly_is_refused(tmp_path: Path, wrong: str) -> None:
    home = Home(tmp_path)
    home.settings.write_text(f'format = 1\n[chain]\nkind = "none"\n[service]\n{wrong}\n')
    with pytest.raises(ConfigurationError, match="service"):
        load_settings(home, {"HOLDFAST_DEV_DIR": "/nowhere/dev"})
