"""The top level of ``holdfast``: its names, and what it says without one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final

import typer

from api import __version__
from api.cli.exit_codes import ExitCode, UsageError
from api.cli.group import LazyGroup, Source, epilog, invocation
from api.home import HOME_FORMAT

__all__ = ["COMMANDS", "build_app"]

COMMANDS: Final[Mapping[str, Source]] = {
    "init": Source("api.cli.init", "Found a home: identity, keys, store, log and policy."),
    "status": Source("api.cli.status", "Where the store stands, and whether its chain agrees."),
    "db": Source("api.cli.db", "Databases: documents that devices write apart, and everything that they ever were."),
    "pair": Source("api.cli.pair", "Let two homes meet, so that they have databases in common."),
    "device": Source("api.cli.device", "Devices that write to the databases of this home, and the end of that."),
    "visit": Source("api.cli.visit", "Let apps visit for some hours, see what they did, end a visit."),
    "sync": Source("api.cli.sync", "Exchange databases with another node, once or live."),
    "feed": Source("api.cli.feed", "Write, read, check and hand over feeds of entries."),
    "proof": Source("api.cli.proof", "Single entries with their proofs, and proofs of forks."),
    "checkpoint": Source("api.cli.checkpoint", "The log of heads."),
    "anchor": Source("api.cli.anchor", "Timestamp and anchor checkpoints."),
    "evidence": Source("api.cli.evidence", "Export one file that proves an entry."),
    "verify": Source("api.cli.verify", "Verify an evidence file offline."),
    "audit": Source("api.cli.audit", "Re-read everything, or audit somebody's complete log."),
    "backup": Source("api.cli.backup", "Write a home into one file, and check such a file."),
    "restore": Source("api.cli.restore", "Make a home of a backup."),
    "recover": Source("api.cli.recover", "Ways out of a read-only state."),
    "identity": Source("api.cli.identity", "Devices, their history, the root key."),
    "root": Source("api.cli.root", "A holder's root key: make it, hand over its card, restore it from the phrase."),
    "headers": Source("api.cli.headers", "Pin block headers for the offline verifier."),
    "demo": Source("api.cli.demo", "Show what holdfast does on real bank data, and attack it."),
    "serve": Source("api.cli.serve", "Serve the home's databases over HTTP."),
    "devtsa": Source("api.cli.devtsa", "The development timestamp authority."),
    "devchain": Source("api.cli.devchain", "The development chain."),
}
"""The names at the top level, in the order in which somebody new meets them."""

_LIBRARIES: Final = ("cryptography", "pynacl", "libipld", "pyhanko", "sqlalchemy", "alembic", "eth-account", "py-evm")

_HELP: Final = """An audited data vault: each write is signed, timestamped by outside authorities, anchored on a chain.

One file proves an entry offline; a rollback is noticed."""

_EXAMPLES: Final = ("holdfast demo", "holdfast verify evidence.json --policy policy.toml")


def build_app(commands: Mapping[str, Source] = COMMANDS) -> LazyGroup:
    """The whole command line over ``commands``. Imports none of their modules."""

    class Root(LazyGroup):
        sources = commands

    app = typer.Typer(
        name="holdfast",
        help=_HELP,
        epilog=epilog(_EXAMPLES),
        cls=Root,
        invoke_without_command=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        callback=_root,
    )
    built = typer.main.get_group(app)
    assert isinstance(built, Root)
    return built


def _root(
    ctx: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="With --version: of formats and libraries too.")] = False,
) -> None:
    out = invocation(ctx).out
    if version:
        facts = {"holdfast": __version__} | (_versions() if verbose else {})
        out.record("version", facts, text=None if verbose else f"holdfast {__version__}")
        raise typer.Exit(ExitCode.OK)
    if ctx.invoked_subcommand is None:
        if out.json:
            raise UsageError("no command", hint="holdfast --help")
        out.text(ctx.get_help())
        raise typer.Exit(ExitCode.USAGE)


def _versions() -> dict[str, str]:
    """What a report of a bug should name."""
    import platform
    import sqlite3

    libraries = {name: _installed(name) for name in _LIBRARIES}
    return {
        "home format": str(HOME_FORMAT),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        **libraries,
    }


def _installed(name: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
