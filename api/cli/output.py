"""The one place that prints: answers to stdout, talk to stderr, in three dresses.

    on a terminal    aligned columns, verdicts in colour
    into a pipe      one line an item, fields separated by a tab
    under --json     one object, or one object a line for lists: {"v": 1, "kind": "...", ...}

Nothing is ever cut or wrapped: a shortened hash is a wrong hash. Text may come from somebody else's feed, so characters
that steer a terminal are written as escapes.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Final, TextIO, TypeAlias

from api.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["JSON_VERSION", "Output", "OutputClosed", "Plain", "printable"]

Plain: TypeAlias = str | int | float | bool | Sequence["Plain"] | Mapping[str, "Plain"] | None
"""What can be shown. Bytes are not among them: whoever shows them decides on hex, base64 or z-base-32."""

JSON_VERSION: Final = 1
"""The ``v`` of every JSON object. Fields may be added under it; none changes its meaning or disappears."""

_SAMPLE: Final = 200
"""Rows that decide the column widths on a terminal: a list may be longer than memory."""

_VERDICT: Final = re.compile(r"\b(PASSED|FAILED|INDETERMINATE)\b")
_STYLE: Final = {"PASSED": "green", "FAILED": "bold red", "INDETERMINATE": "yellow"}


class OutputClosed(Exception):
    """Whoever read our output has gone away, as ``head`` does."""


def printable(text: str) -> str:
    """``text`` on one line, with every character that is not shown as itself written as a backslash escape."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


class Output:
    """Where a command's answers and talk go, and in which dress."""

    def __init__(
        self,
        *,
        stdout: TextIO,
        stderr: TextIO,
        json: bool = False,
        quiet: bool = False,
        colour: bool | None = None,
    ) -> None:
        """``colour``: None means as each stream is, a terminal or not; ``quiet`` leaves out notes and progress."""
        self.json = json
        self.quiet = quiet
        self.stderr = stderr
        self._stdout = stdout
        self._colour = colour

    @classmethod
    def for_process(cls, arguments: Sequence[str], environ: Mapping[str, str]) -> Output:
        """For the streams of this process.

        Reads the flags itself, before the command line is parsed, so that an error in it is reported in the same dress.
        """
        flags = set(arguments[: arguments.index("--")] if "--" in arguments else arguments)
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")
        return cls(
            stdout=sys.stdout or Path(os.devnull).open("w", encoding="utf-8"),
            stderr=sys.stderr or Path(os.devnull).open("w", encoding="utf-8"),
            json="--json" in flags,
            quiet=bool(flags & {"--quiet", "-q"}),
            colour=_colour_wish(flags, environ),
        )

    # --- answers ----------------------------------------------------------------------------------------------------

    def record(self, kind: str, fields: Mapping[str, Plain], *, text: str | None = None) -> None:
        """One thing. ``text``, which may have several lines, is what people see instead of names and values."""
        if self.json:
            self._emit({"v": JSON_VERSION, "kind": kind, **fields})
        elif text is not None:
            self.text(text)
        elif self._stdout.isatty():
            width = max(map(len, fields), default=0)
            for name, value in fields.items():
                self._line(self._stdout, f"{name:<{width}}  {_shown(value)}")
        else:
            for name, value in fields.items():
                self._line(self._stdout, f"{name}\t{_cell(value)}")

    def table(self, kind: str, columns: Sequence[str], rows: Iterable[Sequence[Plain]]) -> None:
        """Many things of one kind, written as they come."""
        if self.json:
            for row in rows:
                self._emit({"v": JSON_VERSION, "kind": kind, **dict(zip(columns, row, strict=True))})
        elif self._stdout.isatty():
            self._aligned(columns, ([_shown(value) for value in row] for row in rows))
        else:
            for row in rows:
                self._line(self._stdout, "\t".join(map(_cell, row)))

    def text(self, text: str) -> None:
        """Lines for people. Under ``--json`` nothing: the object says it."""
        if not self.json:
            # Not splitlines(): a name in the text must not begin a line of its own with a character like U+2028.
            for line in text.removesuffix("\n").split("\n"):
                self._line(self._stdout, printable(line))

    def raw(self, data: bytes) -> None:
        """Bytes as they are, for a file that goes to stdout."""
        try:
            self._stdout.flush()
            self._stdout.buffer.write(data)
        except BrokenPipeError as exc:
            raise OutputClosed from exc

    # --- talk -------------------------------------------------------------------------------------------------------

    def note(self, message: str) -> None:
        """Something worth knowing that is not the answer."""
        if self.quiet:
            return
        if self.json:
            self.event("note", {"message": message})
        else:
            self._line(self.stderr, f"holdfast: {printable(message)}")

    def talk(self, line: str) -> None:
        """A line for whoever is asked to decide something. It is never left out."""
        self._line(self.stderr, printable(line))

    def event(self, kind: str, fields: Mapping[str, Plain]) -> None:
        """A JSON line on stderr, beside the answer on stdout."""
        self._line(self.stderr, json.dumps({"v": JSON_VERSION, "kind": kind, **fields}))

    def error(self, message: str, *, code: ExitCode, hint: str = "", reason: str = "") -> None:
        """Why the command ends. ``reason`` is the error's class, for programs."""
        if self.json:
            self.event(
                "error",
                {"code": int(code), "name": code.name, "reason": reason, "message": message, "hint": hint or None},
            )
            return
        self._line(self.stderr, f"holdfast: error: {printable(message)}")
        if hint:
            self._line(self.stderr, f"holdfast: hint: {printable(hint)}")

    # --- terminals --------------------------------------------------------------------------------------------------

    @property
    def shows_progress(self) -> bool:
        """Whether a bar that redraws itself has a place: a terminal to draw on, and nobody who asked for silence."""
        return self.stderr.isatty() and not (self.json or self.quiet)

    def console(self, stream: TextIO) -> Console:
        """A Rich console for a stream that is a terminal. It takes no markup: text is text."""
        from rich.console import Console

        return Console(
            file=stream,
            force_terminal=self._colour,
            no_color=True if self._colour is False else None,
            highlight=False,
            markup=False,
            emoji=False,
        )

    def flush(self) -> None:
        """Hand everything to the reader. Raises ``OutputClosed``, and ``OSError`` when the disk is full."""
        try:
            self._stdout.flush()
        except BrokenPipeError as exc:
            raise OutputClosed from exc

    def abandon(self) -> None:
        """Write no more, not even what is buffered when the interpreter ends."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), self._stdout.fileno())

    # --- inside -----------------------------------------------------------------------------------------------------

    def _emit(self, fields: Mapping[str, Plain]) -> None:
        self._line(self._stdout, json.dumps(fields))

    def _aligned(self, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        rest = iter(rows)
        sample = list(islice(rest, _SAMPLE))
        widths = [max(map(len, column)) for column in zip(columns, *sample, strict=True)]
        for row in chain([[name.upper() for name in columns]], sample, rest):
            cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
            self._line(self._stdout, "  ".join(cells).rstrip())

    def _line(self, stream: TextIO, line: str) -> None:
        colour = stream.isatty() if self._colour is None else self._colour
        try:
            if colour and not self.json and _VERDICT.search(line):
                self._coloured(stream, line)
            else:
                stream.write(line + "\n")
        except BrokenPipeError as exc:
            raise OutputClosed from exc

    def _coloured(self, stream: TextIO, line: str) -> None:
        from rich.text import Text

        styled = Text(line)
        for found in _VERDICT.finditer(line):
            styled.stylize(_STYLE[found.group()], found.start(), found.end())
        self.console(stream).print(styled, soft_wrap=True)


def _colour_wish(flags: set[str], environ: Mapping[str, str]) -> bool | None:
    if "--no-color" in flags or environ.get("NO_COLOR") or environ.get("TERM") == "dumb":
        return False
    return True if environ.get("CLICOLOR_FORCE", "0") != "0" else None


def _shown(value: Plain) -> str:
    """One value on a terminal, where an absent one must be seen."""
    return "-" if value is None else _cell(value)


def _cell(value: Plain) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case str():
            return printable(value)
        case int() | float():
            return str(value)
    return printable(json.dumps(value, ensure_ascii=False))
