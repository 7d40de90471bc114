"""What each module offers: named in ``__all__``, there, and documented."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("identity", "ledger", "anchoring", "sync", "api")
FILES = sorted(
    file.relative_to(ROOT)
    for package in PACKAGES
    for file in (ROOT / package).rglob("*.py")
    if "migrations" not in file.parts
)


def name_of(file: Path) -> str:
    return ".".join(file.with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_module(file: Path) -> None:
    """A docstring, and an ``__all__`` that is sorted, exists, and leaves out no public class or function."""
    tree = ast.parse((ROOT / file).read_bytes())
    assert ast.get_docstring(tree), "what is the module for?"
    defined = {
        node.name
        for node in tree.body
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_") and not is_command(node)
    }
    module = importlib.import_module(name_of(file))
    exported = getattr(module, "__all__", [])
    assert len(set(exported)) == len(exported)
    assert defined <= set(exported), "public in the module, and not named in __all__"
    assert [name for name in exported if not hasattr(module, name)] == []


def is_command(node: ast.ClassDef | ast.FunctionDef) -> bool:
    """Registered on the command line, or as a route, where nobody imports it."""
    return any(ast.unparse(decorator).startswith(("group.add(", "routes.")) for decorator in node.decorator_list)


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_what_is_public_says_what_it_promises(file: Path) -> None:
    """Public classes and functions have docstrings."""
    assert bare_definitions(ast.parse((ROOT / file).read_bytes())) == []


def bare_definitions(tree: ast.Module) -> list[str]:
    return [
        node.name
        for node in tree.body
        if isinstance(node, ast.ClassDef | ast.FunctionDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]


def test_the_check_finds_a_bare_function() -> None:
    tree = ast.parse("def f(x): pass\nclass C: pass\nclass D:\n    'said'\ndef _g(): pass\n")
    assert bare_definitions(tree) == ["f", "C"]


def test_packages_export_pure_names_only() -> None:
    """Importing a package's name must not pull in a database, a chain client or a network."""
    for package in PACKAGES:
        module = importlib.import_module(package)
        for name in getattr(module, "__all__", []):
            origin = inspect.getmodule(getattr(module, name))
            assert origin is None or not origin.__name__.startswith(("ledger.storage", "anchoring.chain", "web3"))
