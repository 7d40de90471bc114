"""The page about HTTP: its examples run as they stand, and its tables are what the service says of itself."""

from __future__ import annotations

import doctest
import re
from pathlib import Path
from typing import Any

import pytest

from api.problems import HEADERS_TOO_LARGE, KINDS, METHOD_NOT_ALLOWED


@pytest.fixture
def page(root: Path) -> str:
    return (root / "docs" / "reference" / "http.md").read_text(encoding="utf-8")


def test_every_example(page: str, served: Any) -> None:
    served.client.headers["X-Caller"] = "teller"
    examples = re.findall(r"^```pycon\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    test = doctest.DocTestParser().get_doctest("\n".join(examples), {"client": served.client}, "http.md", None, 0)
    said: list[str] = []
    runner = doctest.DocTestRunner()
    runner.run(test, out=said.append)
    assert not said, "".join(said)
    assert runner.summarize(verbose=False).attempted > 15


def test_every_path_is_in_the_table(page: str, served: Any) -> None:
    described = served.client.get("/openapi.json").json()
    expected = {
        (f"{method.upper()} {path}", ", ".join([one["x-holdfast-operation"], *one.get("x-holdfast-also", ())]))
        for path, each in described["paths"].items()
        for method, one in each.items()
    }
    rows = re.findall(r"^\| `([A-Z]+ /[^`]*)` \| ([a-z, ]+) \| [^|]+ \|$", page, re.MULTILINE)
    assert set(rows) == expected
    assert len(rows) == len(expected)


def test_every_problem_is_in_the_table(page: str) -> None:
    rows = re.findall(r"^\| (`[^|]*`) \| (\d{3}) \| [^|]+ \|$", page, re.MULTILINE)
    told = {(name, int(status)) for names, status in rows for name in re.findall(r"`([^`]+)`", names)}
    assert told == {(one.name, one.status) for one in (*KINDS.values(), METHOD_NOT_ALLOWED, HEADERS_TOO_LARGE)}
