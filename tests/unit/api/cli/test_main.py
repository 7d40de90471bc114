"""How the command line ends: every error has its code, one line that says what is wrong, and no traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import typer

from api.cli.__main__ import main
from api.cli.exit_codes import MEANING, ExitCode, UsageError, code_of_error, code_of_status
from api.cli.group import EXIT_CODES, CommandGroup, Source, invocation
from identity import errors
from identity.errors import AuditError
from identity.verdict import Status

RAISED: list[BaseException] = []


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> dict[str, Source]:
    """A command line of three names: ``raise`` (what RAISED holds), ``box put`` and ``box get``."""
    single = CommandGroup("raise", "Raise.")

    @single.add("raise", examples=["holdfast raise"])
    def raise_(ctx: typer.Context) -> None:
        raise RAISED.pop()

    box = CommandGroup("box", "A box.")

    @box.add("put", examples=["holdfast box put 7 --into top"])
    def put(ctx: typer.Context, number: int, into: str = "bottom") -> ExitCode:
        """Put a number."""
        invocation(ctx).out.record("put", {"number": number, "into": into, "home": str(invocation(ctx).named_home)})
        return ExitCode.INDETERMINATE

    @box.add("get", examples=["holdfast box get"])
    def get(ctx: typer.Context) -> None:
        """Get rows."""
        invocation(ctx).out.table("row", ["id", "hash"], [[1, "a" * 64], [2, "b\tc\x1b[31m"]])

    for name, group in (("fake_raise", single), ("fake_box", box)):
        module = ModuleType(name)
        module.group = group  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, name, module)
    return {"raise": Source("fake_raise", "Raise."), "box": Source("fake_box", "A box.")}


def run(commands: dict[str, Source], *arguments: str) -> int:
    return main(arguments, commands=commands)


def tree(kind: type[AuditError]) -> list[type[AuditError]]:
    """All kinds, but those of requests over HTTP, which no command meets."""
    below = [deeper for child in kind.__subclasses__() for deeper in tree(child)]
    return below if kind.__module__ == "api.problems" else [kind, *below]


@pytest.mark.parametrize("kind", tree(AuditError))
def test_every_error_of_the_tree_has_a_code(kind: type[AuditError]) -> None:
    """Made without arguments, because only its class matters; the root alone is nobody's doing but ours."""
    code = code_of_error(kind.__new__(kind))
    assert (code is ExitCode.INTERNAL) == (kind is AuditError)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("x"), 64),
        (errors.SignatureMismatch("x"), 1),
        (errors.RootMismatch("x", expected=b"", computed=b""), 1),
        (errors.MissingEvidenceError("x"), 2),
        (errors.MalformedError("x"), 77),
        (errors.LimitExceeded("x"), 77),
        (errors.WrongPassphrase("x"), 77),
        (errors.ReadOnlyState("diverged", "x"), 77),
        (errors.ConflictError("x"), 75),
        (errors.StoreBusy("x"), 75),
        (errors.StoreUnreachable("x"), 75),
        (errors.TransportError("x"), 75),
        (errors.DamagedFile("x"), 74),
        (errors.StorageError("x"), 74),
        (PermissionError(13, "Permission denied", "f"), 74),
        (errors.ConfigurationError("x"), 78),
        (errors.NewerFormat("x"), 78),
        (AuditError("x"), 70),
        (ValueError("x"), 70),
        (RecursionError("x"), 70),
        (MemoryError(), 70),
        (KeyboardInterrupt(), 130),
        (typer.Abort(), 130),
    ],
)
def test_an_error_becomes_its_code_and_one_line(
    error: BaseException, code: int, commands: dict[str, Source], capsys: pytest.CaptureFixture[str]
) -> None:
    RAISED.append(error)
    assert run(commands, "raise") == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "Traceback" not in shown.err
    lines = shown.err.splitlines()
    assert lines[0].startswith(("holdfast: error: ", "holdfast: interrupted"))
    assert len(lines) <= 2
    assert all(line.startswith("holdfast: hint: ") for line in lines[1:])


def test_what_is_wrong_and_what_to_do(commands: dict[str, Source], capsys: pytest.CaptureFixture[str]) -> None:
    RAISED.append(errors.ReadOnlyState("behind-anchor", "14 entries are missing", hint="put back the newest copy"))
    run(commands, "raise")
    assert capsys.readouterr().err == (
        "holdfast: error: behind-anchor: 14 entries are missing\nholdfast: hint: put back the newest copy\n"
    )


def test_errors_are_json_under_json(commands: dict[str, Source], capsys: pytest.CaptureFixture[str]) -> None:
    RAISED.append(errors.WrongPassphrase("no"))
    assert run(commands, "raise", "--json") == 77
    shown = capsys.readouterr()
    assert shown.out == ""
    assert json.loads(shown.err) == {
        "v": 1,
        "kind": "error",
        "code": 77,
        "name": "REFUSED",
        "reason": "WrongPassphrase",
        "message": "no",
        "hint": errors.WrongPassphrase.hint,
    }


def test_a_traceback_only_on_request(
    commands: dict[str, Source], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLDFAST_DEBUG", "1")
    RAISED.append(ValueError("here"))
    assert run(commands, "raise") == 70
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert "ValueError: here" in shown


def test_a_message_cannot_steer_the_terminal(commands: dict[str, Source], capsys: pytest.CaptureFixture[str]) -> None:
    RAISED.append(errors.MalformedError("bad\x1b[2J\nholdfast: all is well\u202e"))
    run(commands, "raise")
    assert capsys.readouterr().err == "holdfast: error: bad\\x1b[2J\\nholdfast: all is well\\u202e\n"


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["frob"], "no such command 'frob'", "holdfast --help"),
        (["bux"], "no such command 'bux'. Did you mean 'box'?", "holdfast --help"),
        (["--frob"], "no such option: --frob", "holdfast --help"),
        (["box"], "missing command", "holdfast box --help"),
        (["box", "putt"], "no such command 'putt'. Did you mean 'put'?", "holdfast box --help"),
        (["box", "put"], "missing argument", "holdfast box put --help"),
        (["box", "put", "seven"], "invalid value", "holdfast box put --help"),
        (["box", "put", "7", "8"], "got unexpected extra argument", "holdfast box put --help"),
        (["box", "put", "7", "--into"], "option '--into' requires", "holdfast --help"),
    ],
)
def test_wrong_usage_is_64_and_never_2(
    arguments: list[str],
    message: str,
    hint: str,
    commands: dict[str, Source],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(commands, *arguments) == 64
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].lower().startswith(f"holdfast: error: {message.lower()}")
    assert lines[1] == f"holdfast: hint: {hint}"
    assert run(commands, "--json", *arguments) == 64
    assert json.loads(capsys.readouterr().err)["name"] == "USAGE"


def test_the_verdict_is_the_exit_code(commands: dict[str, Source], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(commands, "box", "put", "7", "--into", "top", "--home", "h") == 2
    assert capsys.readouterr().out == "number\t7\ninto\ttop\nhome\th\n"
    assert run(commands, "--home", "h", "--json", "box", "put", "7") == 2
    assert json.loads(capsys.readouterr().out) == {"v": 1, "kind": "put", "number": 7, "into": "bottom", "home": "h"}
    assert [code_of_status(status) for status in (Status.PASSED, Status.FAILED, Status.INDETERMINATE)] == [0, 1, 2]


def test_a_table_in_a_pipe_and_in_json(commands: dict[str, Source], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(commands, "box", "get") == 0
    assert capsys.readouterr().out == f"1\t{'a' * 64}\n2\tb\\tc\\x1b[31m\n"
    assert run(commands, "box", "get", "--json") == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first == {"v": 1, "kind": "row", "id": 1, "hash": "a" * 64}
    assert second["hash"] == "b\tc\x1b[31m"


def test_a_flag_after_two_dashes_is_no_flag(commands: dict[str, Source], capsys: pytest.CaptureFixture[str]) -> None:
    run(commands, "box", "put", "--", "--json")
    assert capsys.readouterr().err.startswith("holdfast: error: ")


def test_help_names_examples_and_codes(commands: dict[str, Source], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(commands, "box", "put", "--help") == 0
    shown = capsys.readouterr().out
    assert "  $ holdfast box put 7 --into top\n" in shown
    assert "2 INDETERMINATE" in shown
    assert run(commands) == 64
    assert "A box." in capsys.readouterr().out
    assert run(commands, "--json") == 64


def test_the_codes_in_the_help_are_the_codes() -> None:
    named = {int(part.split()[0]) for part in EXIT_CODES.replace("\n", " ").split(", ")}
    assert named == {int(code) for code in ExitCode}
    assert set(MEANING) == set(ExitCode)


def holdfast(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST_")}
    root = Path(__file__).resolve().parents[4]
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        [sys.executable, "-m", "api.cli", *arguments],
        **{"cwd": root, "env": environ, "text": True, "stderr": subprocess.PIPE, "stdout": subprocess.PIPE} | options,
        check=False,
        timeout=60,
    )


def test_a_full_disk_is_an_error_and_a_closed_pipe_is_silent() -> None:
    with Path("/dev/full").open("w") as full:
        done = holdfast("--version", stdout=full)
    assert (done.returncode, done.stderr) == (74, "holdfast: error: No space left on device\n")
    reading, writing = os.pipe()
    os.close(reading)
    done = holdfast("--version", stdout=writing)
    os.close(writing)
    assert (done.returncode, done.stderr) == (74, "")


def test_the_top_level_imports_nothing_heavy() -> None:
    """Nor does it read the environment's settings: neither a home nor a database is needed to be asked for help."""
    heavy = ("sqlalchemy", "web3", "eth", "pyhanko", "alembic", "httpx", "rich")
    script = (
        "import sys; from api.cli.__main__ import main; main(['--help']);"
        f"print([name for name in {heavy!r} if name in sys.modules], file=sys.stderr)"
    )
    root = Path(__file__).resolve().parents[4]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"
