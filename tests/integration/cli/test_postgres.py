"""The main path on PostgreSQL: a home founded there, real transactions imported, anchored, proven and audited."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import psycopg
import pytest

from api import founding
from identity.keystore import ONLY_FOR_TESTING

pytestmark = pytest.mark.integration

PASSWORD = "never to be shown"


@pytest.fixture
def cheap_keystore(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [field.name for field in dataclasses.fields(founding.Founding)]
    defaults = list(founding.Founding.__init__.__defaults__)  # type: ignore[misc]
    defaults[names.index("kdf") - len(names)] = ONLY_FOR_TESTING
    monkeypatch.setattr(founding.Founding.__init__, "__defaults__", tuple(defaults))


@pytest.fixture
def database(postgres: Any) -> str:
    """A database without a store."""
    return str(postgres.url(postgres.new_database()))


@pytest.fixture
def founded(shell: Any, database: str, cheap_keystore: None) -> Any:
    pg = shell.at("pg")
    pg("init", "--phrase-file", "pg-phrase.txt", "--device", "laptop", "--database", database)
    return pg


def schemas(database: str) -> set[str]:
    with psycopg.connect(database) as connection:
        return {name for (name,) in connection.execute("SELECT nspname FROM pg_namespace")}


@pytest.mark.usefixtures("cheap_keystore")
def test_the_main_path(founded: Any, shared: Path) -> None:
    rows = (shared / "data" / "berka" / "trans.asc").read_text(encoding="ascii").splitlines()[:1001]
    founded.write("trans.csv", "\n".join(rows) + "\n")
    founded("feed", "create", "bank", "--device", "laptop")
    (answer,) = founded("feed", "import", "bank", "trans.csv", "--delimiter", ";", "--batch", "100", "--json").json
    assert (answer["rows"], answer["length"]) == (1000, 1000)
    founded("checkpoint", "create")
    founded("anchor", "run")
    founded("checkpoint", "create", "--restate")
    founded("evidence", "export", "bank", "999", "-o", "pg.json")
    assert "PASSED" in founded("verify", "pg.json", "--policy", "pg/policy.toml").out
    founded("audit")
    assert not founded.path("pg/vault.db").exists()
    founded("status")


def test_a_home_is_whole_or_not_at_all(
    shell: Any,
    database: str,
    cheap_keystore: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(founding, "policy_text", fail)
    pg = shell.at("pg")
    pg("init", "--phrase-file", "words.txt", "--database", database, "--no-chain", code=74)
    assert not pg.path("pg").exists()
    assert "holdfast" not in schemas(database)
    monkeypatch.undo()


def test_a_store_that_is_there_is_not_taken(founded: Any, database: str) -> None:
    ran = founded.at("second")(
        "init", "--phrase-file", "words.txt", "--database", database, "--no-chain", "--json", code=77
    )
    assert "the schema exists" in ran.error["message"]
    assert "holdfast" in schemas(database)
    founded("status")


@pytest.mark.parametrize(
    ("url", "code", "says"),
    [
        ("postgresql://vault:never%20to%20be%20shown@127.0.0.1:1/x", 64, "password"),
        ("postgresql://vault@127.0.0.1:1/x?password=never", 64, "password"),
        ("postgresql://vault@127.0.0.1:1/x?schema=No", 64, "schema"),
        ("vault.db", 64, "postgresql://"),
        ("postgresql://vault@127.0.0.1:1/x", 75, "connection"),
        ("postgresql://vault@127.0.0.1:1/x?nonsense=1", 78, "nonsense"),
    ],
)
@pytest.mark.usefixtures("cheap_keystore")
def test_urls_that_are_refused(shell: Any, url: str, code: int, says: str) -> None:
    pg = shell.at("pg")
    ran = pg("init", "--phrase-file", "words.txt", "--database", url, "--no-chain", "--json", code=code)
    assert says in f"{ran.error['message']} {ran.error['hint']}"
    assert not pg.path("pg").exists()


def test_no_password_is_shown(founded: Any, database: str) -> None:
    secret = PASSWORD.replace(" ", "%20")
    with_password = founded.at("pg", HOLDFAST_DATABASE=database.replace("vault@", f"vault:{secret}@"))
    shown = [with_password("status"), with_password("status", "--json")]
    gone = with_password.at("pg", HOLDFAST_DATABASE=f"postgresql://vault:{secret}@127.0.0.1:1/x")
    shown += [gone("status", code=75), gone("status", "--json", code=75)]
    wrong = with_password.at("pg", HOLDFAST_DATABASE=f"postgresql://vault:{secret}@127.0.0.1:1/x?schema=A")
    shown += [wrong("status", code=78), wrong("status", "--json", code=78)]
    for ran in shown:
        assert PASSWORD not in ran.out + ran.err
        assert secret not in ran.out + ran.err
