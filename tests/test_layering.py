"""The layers: imports point down, the two siblings do not meet, and what decides does no I/O.

    api -> {anchoring, sync} -> ledger -> identity

Everything below ``api`` is pure unless it is named in RIM, so a new module has to be pure or say that it is not.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

BELOW = {
    "identity": set[str](),
    "ledger": {"identity"},
    "sync": {"ledger", "identity"},
    "anchoring": {"ledger", "identity"},
    "api": {"anchoring", "sync", "ledger", "identity"},
}

RIM = (
    "identity.durable",
    "identity.keystore",
    "ledger.sentinel_file",
    "identity.pkcs11",
    "ledger.storage",
    "ledger.audit_processes",
    "ledger.writer",
    "ledger.sparse_fetch",
    "sync.storage",
    "sync.database",
    "sync.retention",
    "sync.exchange",
    "sync.holdings",
    "sync.lineage",
    "sync.receiving",
    "sync.replica",
    "sync.runs",
    "sync.asof",
    "sync.conflicts",
    "sync.history",
    "anchoring.chain",
    "anchoring.tsa",
    "anchoring.contracts",
    "anchoring.storage",
    "anchoring.witness",
    "anchoring.worker",
    "anchoring.outside_audit",
    "anchoring.policy_file",
    "anchoring.archive_audit",
    "anchoring.outbox_audit",
    "anchoring.archive_file",
    "anchoring.archive_sections",
    "anchoring.audit_witnesses",
    "anchoring.complete_audit",
    "anchoring.deadline",
    "sync.document_keys",
    "api",
)
"""Modules and packages that do I/O, or that exist to be used by what does."""

PURE_IN_API = ("api.tabular",)

IO = frozenset(
    """
    alembic asyncio eth eth_account eth_tester fcntl getpass glob http httpx io logging mmap os
    pathlib random requests rfc3161ng secrets select shutil signal socket sqlalchemy sqlite3 ssl subprocess tempfile
    threading time urllib uuid web3
    """.split()  # noqa: SIM905
)

ALLOWED = {
    ("identity.keys", "secrets"),  # key generation
    ("ledger.archive", "io"),  # buffers over the caller's streams
    ("anchoring.timestamp.path", "logging"),  # keeps pyHanko's loggers silent
}


def modules() -> dict[str, ast.Module]:
    """Every module of the five packages by name, parsed."""
    files = (file for package in BELOW for file in (ROOT / package).rglob("*.py") if "migrations" not in file.parts)
    return {module_name(file.relative_to(ROOT)): ast.parse(file.read_bytes()) for file in files}


def module_name(file: Path) -> str:
    return ".".join(file.with_suffix("").parts).removesuffix(".__init__")


def imports(tree: ast.AST) -> Iterator[str]:
    """Every name that is imported anywhere in a module, also inside functions and under TYPE_CHECKING."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_in(name: str, groups: frozenset[str] | tuple[str, ...]) -> bool:
    return any(name == group or name.startswith(f"{group}.") for group in groups)


def breaches(name: str, tree: ast.AST) -> Iterator[str]:
    """What a module imports that it must not."""
    package = name.partition(".")[0]
    pure = not is_in(name, RIM) or is_in(name, PURE_IN_API)
    for imported in imports(tree):
        top = imported.partition(".")[0]
        if top in BELOW and top != package and top not in BELOW[package]:
            yield f"{name} imports {imported}, which is not below it"
        if pure and is_in(imported, RIM) and not is_in(imported, PURE_IN_API):
            yield f"{name} is pure and imports {imported}, which does I/O"
        if pure and is_in(imported, IO) and (name, top) not in ALLOWED:
            yield f"{name} is pure and imports {imported}"
    if pure:
        yield from (f"{name} is pure and calls {call}" for call in impure_calls(tree))


def impure_calls(tree: ast.AST) -> Iterator[str]:
    """Clocks, files and printing that need no import of their own."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            match node.func:
                case ast.Name("open" | "print" | "input" as called):
                    yield called
                case ast.Attribute(ast.Name("datetime" | "date"), "now" | "utcnow" | "today" as called):
                    yield called


MODULES = modules()


@pytest.mark.parametrize("name", sorted(MODULES))
def test_layers(name: str) -> None:
    assert list(breaches(name, MODULES[name])) == []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("identity.keys", "import ledger.merkle"),
        ("ledger.merkle", "from anchoring import receipt"),
        ("anchoring.receipt", "import sync"),
        ("sync.clock", "def f():\n    from anchoring.policy import Policy"),
        ("anchoring.verifier", "from api.settings import Settings"),
        ("ledger.merkle", "import sqlite3"),
        ("ledger.merkle", "from ledger.storage.sql import SqlStore"),
        ("anchoring.verifier", "import web3.eth"),
        ("anchoring.verifier", "from anchoring.chain.client import Chain"),
        ("anchoring.verifier", "from time import time"),
        ("api.tabular", "from pathlib import Path"),
        ("anchoring.verifier", "now = datetime.now(UTC)"),
        ("ledger.entry", "open('x')"),
    ],
)
def test_a_breach_is_found(name: str, source: str) -> None:
    assert list(breaches(name, ast.parse(source)))


def test_the_list_of_rims_names_what_exists() -> None:
    assert [rim for rim in (*RIM, *PURE_IN_API) if not any(is_in(name, (rim,)) for name in MODULES)] == []
    assert {"socket", "sqlite3", "time"} <= sys.stdlib_module_names
