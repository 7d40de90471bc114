"""Command groups on Typer: what every command of ``holdfast`` has, written once.

Each command takes the common options, before or after its own, and its help ends with examples and the exit codes. A
module of ``api.cli`` builds one ``CommandGroup`` called ``group``; ``LazyGroup`` imports the module when one of its
commands is run, so that ``holdfast verify`` works where neither a database nor a chain client is installed.

A command is a function that takes ``ctx: typer.Context`` first, asks ``invocation(ctx)`` for what it runs with, and
returns an ``ExitCode``, or None for 0. It raises errors of ``identity.errors`` and catches none to print it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar, cast

import typer
from typer.core import TyperCommand, TyperGroup

from api.cli.exit_codes import ExitCode, UsageError
from api.cli.output import Output

__all__ = ["Command", "CommandGroup", "Invocation", "LazyGroup", "NodeCommand", "Source", "epilog", "invocation"]

EXIT_CODES: Final = (
    "0 done or PASSED, 1 FAILED, 2 INDETERMINATE, 64 usage, 70 internal error, 74 I/O,\n"
    "75 try again, 77 refused, 78 configuration, 130 interrupted"
)

_Function = TypeVar("_Function", bound=Callable[..., ExitCode | None])


@dataclass(slots=True)
class Invocation:
    """What one run of the command line has: where it prints, its environment, and the home that was named, if any."""

    out: Output
    environ: Mapping[str, str]
    named_home: Path | None = None
    node: str | None = None
    """The node that the command works against (``CommandGroup.add``)."""
    node_passphrase_file: Path | None = None


def invocation(ctx: typer.Context) -> Invocation:
    """What this command runs with."""
    found = ctx.obj
    assert isinstance(found, Invocation)
    return found


def _name_home(ctx: typer.Context, value: Path | None) -> None:
    if value is not None:
        invocation(ctx).named_home = value


def _common(
    home: Annotated[
        Path | None,
        typer.Option(
            "--home", metavar="DIR", help="The home; default: HOLDFAST_HOME.", callback=_name_home, expose_value=False
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Answer in JSON.", expose_value=False)] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No notes, no progress.", expose_value=False)] = False,
    no_color: Annotated[bool, typer.Option("--no-color", help="No colours.", expose_value=False)] = False,
) -> None:
    """The options that every command has. ``Output.for_process`` reads the last three."""


@cache
def _common_parameters() -> tuple[Any, ...]:
    carrier = typer.Typer(add_completion=False, rich_markup_mode=None)
    carrier.command()(_common)
    return tuple(typer.main.get_command(carrier).params)


def _name_node(ctx: typer.Context, value: str | None) -> None:
    invocation(ctx).node = value


def _name_passphrase_file(ctx: typer.Context, value: Path | None) -> None:
    invocation(ctx).node_passphrase_file = value


def _against_node(
    node: Annotated[
        str | None,
        typer.Option(
            "--node",
            metavar="URL",
            help="Sync with that node first, and after a write; without it what is here counts.",
            callback=_name_node,
            expose_value=False,
        ),
    ] = None,
    passphrase_file: Annotated[
        Path | None,
        typer.Option(
            "--passphrase-file",
            metavar="FILE",
            help="With --node: read the keystore's passphrase from FILE.",
            callback=_name_passphrase_file,
            expose_value=False,
        ),
    ] = None,
) -> None:
    """What a command has that can be run against a node."""


@cache
def _node_parameters() -> tuple[Any, ...]:
    carrier = typer.Typer(add_completion=False, rich_markup_mode=None)
    carrier.command()(_against_node)
    return tuple(one for one in typer.main.get_command(carrier).params if one.name in ("node", "passphrase_file"))


class _House:
    """What commands and groups share: the common options, and an epilog that is printed as it is written."""

    epilog: str | None
    params: list[Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += _common_parameters()

    def format_epilog(self, _ctx: Any, formatter: Any) -> None:
        """Typer would fill the lines; an example must stay as it can be typed."""
        if self.epilog:
            formatter.write(f"\n{self.epilog}")


class Command(_House, TyperCommand):
    """A command."""

    def invoke(self, ctx: Any) -> Any:
        """Run it. Raises ``UsageError`` for a text that is not UTF-8; the names of files may be any bytes."""
        for value in ctx.params.values():
            for text in value if isinstance(value, list) else [value]:
                if isinstance(text, str) and not text.isascii():
                    _check_utf8(text)
        return super().invoke(ctx)


def _check_utf8(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        shown = text.encode("utf-8", "backslashreplace").decode()
        raise UsageError(f"not UTF-8: {shown}", hint="set the terminal to UTF-8") from exc


class NodeCommand(Command):
    """A command that can be run against a node. One that has ``--passphrase-file`` already keeps its own."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        known = {one.name for one in self.params}
        self.params += [one for one in _node_parameters() if one.name not in known]


class _Group(_House, TyperGroup):
    """A group of commands."""


class CommandGroup(typer.Typer):
    """Commands that belong together: ``holdfast NAME COMMAND``; or one command, if it bears the group's own name.

    ``order`` is that of their listing, for a group whose commands are in several modules; by default that of their
    registration.
    """

    def __init__(self, name: str, help: str, *, examples: Sequence[str] = (), order: Sequence[str] = ()) -> None:
        super().__init__(
            name=name,
            help=help,
            cls=_Group,
            epilog=epilog(examples),
            add_completion=False,
            rich_markup_mode=None,
            pretty_exceptions_enable=False,
        )
        self._name = name
        self._order = order

    def add(self, name: str, *, examples: Sequence[str], node: bool = False) -> Callable[[_Function], _Function]:
        """Register a command under ``name``. ``examples`` are command lines that can be run as they stand.

        ``node``: it can be run against a node, which ``invocation(ctx).node`` names then.
        """
        return self.command(name, cls=NodeCommand if node else Command, epilog=epilog(examples))

    def build(self) -> TyperCommand | TyperGroup:
        """What Typer runs."""
        group = typer.main.get_group(self)
        if self._order:
            assert set(self._order) == set(group.commands), "the order names every command"
            group.commands = {name: group.commands[name] for name in self._order}
        only = group.commands.get(self._name)
        return cast("TyperCommand", only) if only is not None and len(group.commands) == 1 else group


@dataclass(frozen=True, slots=True)
class Source:
    """Where a name at the top level comes from: the module that holds its ``group``, and one line of help."""

    module: str
    help: str


class LazyGroup(_Group):
    """The top level. It lists every name from a table and imports a module only to run what is in it."""

    sources: Mapping[str, Source] = {}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name, source in self.sources.items():
            self.add_command(TyperCommand(name, help=source.help, rich_markup_mode=None))

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, _, rest = super().resolve_command(ctx, args)
        return name, None if name is None else self.load(name), rest

    def load(self, name: str) -> TyperCommand | TyperGroup:
        """The command or group called ``name``, with its module imported."""
        group = importlib.import_module(self.sources[name].module).group
        assert isinstance(group, CommandGroup)
        return group.build()

    def walk(self) -> Iterator[tuple[str, TyperCommand | TyperGroup]]:
        """Every command and group with its full name, such as ``feed append``. Imports all of them."""
        for name in self.sources:
            loaded = self.load(name)
            yield name, loaded
            if isinstance(loaded, TyperGroup):
                for inner, command in loaded.commands.items():
                    yield f"{name} {inner}", cast("TyperCommand", command)


def epilog(examples: Sequence[str]) -> str:
    """The end of a help text: command lines to try, and the exit codes."""
    shown = "".join(f"  $ {example}\n" for example in examples)
    codes = "".join(f"  {line}\n" for line in EXIT_CODES.splitlines())
    return (f"Examples:\n{shown}\n" if examples else "") + f"Exit codes:\n{codes}"
