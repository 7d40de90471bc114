"""The documentation says what is so: commands exist, links lead somewhere, tables equal the code."""

from __future__ import annotations

import io
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import typer
from pydantic import BaseModel
from typer.core import TyperCommand, TyperGroup

from api import __version__, settings
from api.cli.app import build_app
from api.cli.exit_codes import MEANING
from api.cli.group import Invocation
from api.cli.output import Output
from api.cli.reference import reference_text
from api.home import Home
from api.tabular import RowError, parse_columns, read_csv

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "examples").rglob("*.md"),
        *(ROOT / "tests").rglob("*.md"),
    ]
)
APP = build_app()
COMMANDS: Mapping[str, TyperCommand | TyperGroup] = dict(APP.walk())


def page_id(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```|^ {4,}\S.*?$|`[^`\n]*`", "", text, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", without_code(page.read_text(encoding="utf-8")))
    local = [target for target in targets if "://" not in target and not target.startswith("mailto:")]
    assert [target for target in local if not (page.parent / target).exists()] == []


def test_the_index_names_every_page() -> None:
    linked = {
        (ROOT / "docs" / target).resolve()
        for target in re.findall(r"\]\(([^)#]+)", (ROOT / "docs" / "index.md").read_text(encoding="utf-8"))
    }
    pages = {page.resolve() for page in (ROOT / "docs").rglob("*.md")} - {(ROOT / "docs" / "index.md").resolve()}
    assert sorted(page_id(page) for page in pages - linked) == []


# --- commands


def written_commands(page: Path) -> Iterator[str]:
    """Command lines after a ``$`` prompt, continued lines joined."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    yield from (line.strip() for line in re.findall(r"^\s*\$ (.+)$", text, re.MULTILINE))


def resolve(words: list[str]) -> tuple[str, TyperCommand | TyperGroup, list[str]]:
    """The command that the words mean, and what is left of them."""
    for count in (2, 1):
        name = " ".join(words[:count])
        if name in COMMANDS:
            return name, COMMANDS[name], words[count:]
    return "", APP, words


def parse(line: str) -> None:
    """Parse each call of holdfast in a line of shell as the program does, and do not run it."""
    calls = [part for part in re.split(r" (?:\||&&|;) ", line.partition(" > ")[0]) if part.startswith("holdfast ")]
    assert calls, f"no call of holdfast: {line}"
    for call in calls:
        name, command, rest = resolve(shlex.split(call, comments=True)[1:])
        if {"--help", "--version"} & set(rest):
            continue
        assert not isinstance(command, TyperGroup), f"no command of holdfast: {call}"
        out = Output(stdout=io.StringIO(), stderr=io.StringIO())
        command.make_context(f"holdfast {name}", rest, obj=Invocation(out, {}))


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_commands_in_pages_can_be_parsed(page: Path) -> None:
    for line in written_commands(page):
        if line.startswith("holdfast ") or "| holdfast " in line:
            parse(line)
        if line.startswith("make "):
            assert re.search(rf"^{line.split()[1]}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("page", ["playbook", "key-ceremonies", "recover"])
def test_commands_in_the_text_of_pages_for_bad_days_can_be_parsed(page: str) -> None:
    """There nobody has the time to find out that a command is called otherwise."""
    text = (ROOT / "docs" / "how-to" / f"{page}.md").read_text(encoding="utf-8")
    found = re.findall(r"`(holdfast [^`]+)`", text.replace("\n", " "))
    assert found
    for line in found:
        if line.removeprefix("holdfast ") not in COMMANDS:  # a command's name alone is one that exists
            parse(line)


@pytest.mark.parametrize(
    "line", ["holdfast frob", "holdfast verify --polizei x", "holdfast feed", "holdfast feed frob"]
)
def test_a_wrong_command_is_found(line: str) -> None:
    with pytest.raises((AssertionError, typer.TyperException)):
        parse(line)


@pytest.mark.parametrize(
    "name", sorted(name for name, command in COMMANDS.items() if not isinstance(command, TyperGroup))
)
def test_help_teaches(name: str) -> None:
    """Two examples that are of this command and can be parsed, and what the command is for."""
    command = COMMANDS[name]
    examples = re.findall(r"^  \$ (.+)$", command.epilog or "", re.MULTILINE)
    assert len(examples) >= 2
    assert command.help
    for example in examples:
        assert f"holdfast {name} " in f"{example} "
        parse(example)


def test_the_command_line_page_is_the_help() -> None:
    page = (ROOT / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    assert page == reference_text(), "write it anew with: make docs"


# --- tables


def rows(page: str, columns: int) -> list[list[str]]:
    """The cells of a page's table rows with so many columns, headers and rules left out."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")
    ]
    tables = [row for row in cells if len(row) == columns and not set("".join(row)) <= {"-"}]
    return [row for row in tables if row[0] not in ("code", "key", "command")]


def test_exit_codes() -> None:
    table = [(int(code), name, meaning) for code, name, meaning in rows("reference/exit-codes.md", 3)]
    assert table == [(int(code), code.name, meaning) for code, meaning in MEANING.items()]


def test_every_answer_in_json_is_described() -> None:
    """A row for each command that answers, under its whole name, and no row for a command that does not exist."""
    named = {name for row in rows("reference/json.md", 3) for name in re.findall(r"`([^`]+)`", row[0])}
    answering = {name for name, command in COMMANDS.items() if not isinstance(command, TyperGroup)}
    assert {name for name in named if not name.startswith("--")} == answering


def test_the_threat_model_names_tests_that_exist() -> None:
    """Every numbered promise names at least one, so that none rests on words."""
    text = (ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(tests/[^`]+)`", text))
    assert sorted(name for name in named if not (ROOT / name).is_file()) == []
    promises = re.split(r"^\*\*(P\d) ", text.split("## What an attacker still can do")[0], flags=re.MULTILINE)[1:]
    without = {name for name, said in zip(promises[::2], promises[1::2], strict=True) if "`tests/" not in said}
    assert promises[::2] == [f"P{number}" for number in range(1, 10)]
    assert without == set()


def fields(prefix: str, *models: type[BaseModel]) -> set[str]:
    return {prefix + name for model in models for name in model.model_fields}


def test_settings() -> None:
    documented = {row[0].strip("`") for row in rows("reference/settings.md", 3)}
    known = fields("", settings.Settings) - {"chain", "timestamps", "alarms", "service"}
    known |= fields("timestamps.", settings.TimestampSettings) | fields("alarms.", settings.AlarmSettings)
    known |= fields("chain.", settings.DevChainSettings, settings.RpcChainSettings, settings.NoChainSettings)
    known |= fields("authorities.", settings.DevAuthoritySettings, settings.HttpAuthoritySettings)
    known |= fields("service.", settings.ServiceSettings) - {"service.limits"}
    known |= fields("service.limits.", settings.ServiceLimits)
    assert documented == known


def test_the_settings_in_the_page_can_be_read(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "reference" / "settings.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```toml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "holdfast.toml").write_text(example, encoding="utf-8")
    loaded = settings.load_settings(Home(tmp_path), {"HOLDFAST_CHAIN__CONFIRMATIONS": "3"})
    assert isinstance(loaded.chain, settings.RpcChainSettings)
    assert (loaded.chain.confirmations, len(loaded.authorities)) == (3, 2)


def test_the_import_page(root: Path) -> None:
    page = (ROOT / "docs" / "reference" / "import.md").read_text(encoding="utf-8")
    message, columns = re.findall(r"^```text\n(.*?)\n```", page, re.MULTILINE | re.DOTALL)
    assert [column.name for column in parse_columns(columns)] == ["trans_id", "date", "amount", "balance", "account"]
    source = io.BytesIO(b"amount\n" + b"1.0\n" * 4709 + b'"1,2.3"\n')
    with pytest.raises(RowError) as caught:
        list(read_csv(source, parse_columns("amount:dec"), name="trans.csv"))
    assert message == f"holdfast: error: {caught.value}"


def test_the_sample_is_what_its_page_says(root: Path) -> None:
    page = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    types = {row[0].strip("`"): row[2].strip("`") for row in rows("../examples/README.md", 3)} | {}
    types.pop("column", None)
    spec = parse_columns(",".join(f"{name}:{type_}" for name, type_ in types.items()))
    with (root / "examples" / "berka-transactions.csv").open("rb") as stream:
        read = list(read_csv(stream, spec, name="berka", delimiter=";"))
    assert len(read) == 5000
    assert list(read[0].fields) == list(types)
    assert read[0].fields["amount"] == {"$dec": "700.00"}
    assert read[0].fields["date"] == {"$date": "1993-01-01"}
    assert "5,000 transactions" in page


def test_the_sample_is_the_beginning_of_the_source(root: Path, shared: Path) -> None:
    import hashlib

    sample = (root / "examples" / "berka-transactions.csv").read_bytes()
    assert (shared / "data" / "berka" / "trans.asc").read_bytes().startswith(sample)
    assert hashlib.sha256(sample).hexdigest() in (root / "examples" / "README.md").read_text(encoding="utf-8")


def test_the_changelog_knows_this_version_or_an_unreleased_one() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## [{__version__}]" in text or "## [Unreleased]" in text
