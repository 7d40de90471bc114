"""What is printed, on a terminal and elsewhere: never cut, never steering the terminal, never mixed."""

from __future__ import annotations

import io
import json

import pytest

from api.cli.exit_codes import ExitCode
from api.cli.output import Output, OutputClosed, printable
from api.cli.progress import progress

HASH = "0123456789abcdef" * 4


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class Gone(io.StringIO):
    """A pipe that nobody reads."""

    def write(self, text: str) -> int:
        raise BrokenPipeError


def output(stream: type[io.StringIO] = io.StringIO, **options: bool) -> tuple[Output, io.StringIO, io.StringIO]:
    out, err = stream(), stream()
    return Output(stdout=out, stderr=err, **options), out, err


def test_a_terminal_gets_aligned_columns_that_are_never_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    out, shown, _ = output(Terminal)
    out.table("row", ["id", "hash", "note"], ([n, HASH, None if n % 2 else "yes"] for n in range(300)))
    lines = shown.getvalue().splitlines()
    assert lines[0] == f"ID   {'HASH':<64}  NOTE"
    assert len(lines) == 301
    assert all(HASH in line for line in lines[1:])
    assert lines[2].endswith("  -")


def test_a_long_line_with_a_verdict_is_coloured_and_not_wrapped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("TERM", "xterm")
    out, shown, _ = output(Terminal)
    out.text(f"anchored PASSED {HASH} [bold]{HASH}[/bold] :smile:")
    line = shown.getvalue()
    assert "\x1b[32mPASSED\x1b[0m" in line
    assert line.count("\n") == 1
    assert line.endswith(f" {HASH} [bold]{HASH}[/bold] :smile:\n")


@pytest.mark.parametrize(
    ("flags", "environ", "colour"),
    [
        ([], {}, None),
        (["--no-color"], {"CLICOLOR_FORCE": "1"}, False),
        ([], {"NO_COLOR": "1", "CLICOLOR_FORCE": "1"}, False),
        ([], {"NO_COLOR": ""}, None),
        ([], {"TERM": "dumb"}, False),
        ([], {"CLICOLOR_FORCE": "1"}, True),
        ([], {"CLICOLOR_FORCE": "0"}, None),
    ],
)
def test_colour_is_as_was_wished(flags: list[str], environ: dict[str, str], colour: bool | None) -> None:
    assert Output.for_process(flags, environ)._colour is colour


@pytest.mark.parametrize(("stream", "colour"), [(Terminal, False), (io.StringIO, None)])
def test_no_escape_where_none_is_wanted(stream: type[io.StringIO], colour: bool | None) -> None:
    shown = stream()
    Output(stdout=shown, stderr=shown, colour=colour).text("FAILED")
    assert shown.getvalue() == "FAILED\n"


def test_json_is_one_object_a_line_and_nothing_else() -> None:
    out, shown, talk = output(Terminal, json=True)
    out.text("for people")
    out.record("thing", {"name": "é\x9b", "n": None, "list": [1, {"a": True}]}, text="for people")
    out.note("by the way")
    assert (
        shown.getvalue() == '{"v": 1, "kind": "thing", "name": "\\u00e9\\u009b", "n": null, "list": [1, {"a": true}]}\n'
    )
    assert json.loads(talk.getvalue()) == {"v": 1, "kind": "note", "message": "by the way"}


def test_bytes_are_not_shown_by_accident() -> None:
    out, _, _ = output(json=True)
    with pytest.raises(TypeError):
        out.record("thing", {"key": b"\x00"})  # type: ignore[dict-item]


def test_quiet_leaves_errors() -> None:
    out, _, talk = output(quiet=True)
    out.note("by the way")
    out.error("no", code=ExitCode.REFUSED)
    assert talk.getvalue() == "holdfast: error: no\n"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Žluťoučký kůň 1 000", "Žluťoučký kůň 1 000"),
        ("a\tb\nc\r", "a\\tb\\nc\\r"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("\x9b31m", "\\x9b31m"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\ud800", "\\ud800"),
        ("\u2028", "\\u2028"),
    ],
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_a_name_cannot_begin_a_line() -> None:
    out, shown, _ = output()
    out.text("who\u2028PASSED\x85\r\nnext\n")
    assert shown.getvalue() == "who\\u2028PASSED\\x85\\r\nnext\n"


def test_a_reader_that_has_gone_is_not_an_io_error() -> None:
    out, _, _ = output(Gone)
    with pytest.raises(OutputClosed):
        out.text("x")


def test_progress_is_a_bar_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    out, shown, talk = output(Terminal)
    with progress(out, "import [x]", total=2) as advance:
        advance(2)
    assert shown.getvalue() == ""
    assert "import [x]" in talk.getvalue()
    for options in ({"quiet": True}, {"json": True, "quiet": True}):
        silent, _, talk = output(Terminal, **options)
        with progress(silent, "import") as advance:
            advance(2)
        assert talk.getvalue() == ""


def test_progress_in_json_is_a_line_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 0.5, 1.2, 1.2, 1.9])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    out, _, talk = output(json=True)
    with progress(out, "audit", total=30) as advance:
        for _ in range(3):
            advance(10)
    assert [json.loads(line) for line in talk.getvalue().splitlines()] == [
        {"v": 1, "kind": "progress", "what": "audit", "done": 20, "total": 30, "unit": "entries"}
    ]
