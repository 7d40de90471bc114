"""The help of every command as one page: ``python -m api.cli.reference > docs/reference/cli.md``. A test compares."""

from __future__ import annotations

import sys
from typing import Final

from typer.core import TyperCommand, TyperGroup

from api.cli.app import build_app

__all__ = ["reference_text"]

_WIDTH: Final = 100

_HEAD: Final = """# Command line

The help of every command, as `--help` prints it, but for the exit codes at its end.
See also [exit codes](exit-codes.md), [settings](settings.md), [what `feed import` reads](import.md).

Answers go to stdout, everything else to stderr. Into a pipe a list is one line an item, its fields separated by tabs.
With `--json` an answer is one object, a list one object a line, each with `"v": 1` and a `"kind"`; notes, progress and
errors are objects on stderr. Fields may be added to an object; none disappears or changes its meaning under the same
`v`. The exit code is the verdict in both forms. `NO_COLOR` and `--no-color` switch colours off, `CLICOLOR_FORCE=1` on.

The home is the one that `--home` names, else `HOLDFAST_HOME`, else `holdfast` in `$XDG_DATA_HOME` (`~/.local/share`).
A passphrase is read from `--passphrase-file`, from the open file whose number is in `HOLDFAST_PASSPHRASE_FD`, from the
file that `HOLDFAST_PASSPHRASE_FILE` names, or asked for on a terminal; never from the command line.
"""


def reference_text() -> str:
    """The page."""
    app = build_app()
    parts = [_HEAD, _section("holdfast", app)]
    parts += [_section(f"holdfast {name}", command) for name, command in app.walk()]
    return "\n".join(parts)


def _section(name: str, command: TyperCommand | TyperGroup) -> str:
    context = command.context_class(command, info_name=name, terminal_width=_WIDTH, max_content_width=_WIDTH)
    shown, _, _ = command.get_help(context).partition("\n\nExit codes:")
    return f"## {name}\n\n```text\n{shown.rstrip()}\n```\n"


if __name__ == "__main__":
    sys.stdout.write(reference_text())
