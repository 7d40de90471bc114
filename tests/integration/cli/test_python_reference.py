"""The page about the Python API, run as it stands: each command and each example, in order, and what it shows."""

from __future__ import annotations

import contextlib
import doctest
import os
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from identity.keystore import ONLY_FOR_TESTING


@pytest.fixture
def desk(shell: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A terminal in an empty directory, whose keystores cost nothing to open. It has the page's passphrase."""
    from api.founding import Founding

    monkeypatch.setattr(Founding.__init__, "__defaults__", (*Founding.__init__.__defaults__[:-1], ONLY_FOR_TESTING))
    directory = tmp_path / "desk"
    directory.mkdir()
    shutil.copy(shell.path("pass.txt"), directory)
    return replace(shell, directory=directory)


def test_every_example(root: Path, desk: Any) -> None:
    page = (root / "docs" / "reference" / "python.md").read_text(encoding="utf-8")
    sections = re.findall(r"^```(console|pycon)\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    parser, runner = doctest.DocTestParser(), doctest.DocTestRunner(optionflags=doctest.IGNORE_EXCEPTION_DETAIL)
    said: list[str] = []
    with mock.patch.dict(os.environ, desk.environment(), clear=True), contextlib.chdir(desk.directory):
        for number, (language, section) in enumerate(sections, 1):
            if language == "console":
                run_commands(desk, section)
                continue
            test = parser.get_doctest(section, names, f"example {number}", "python.md", 0)
            runner.run(test, out=said.append, clear_globs=False)
            names.update(test.globs)
    assert not said, "".join(said)
    assert runner.summarize(verbose=False).attempted > 50


def run_commands(desk: Any, section: str) -> None:
    """Run what stands behind each ``$``, but for the line that writes the passphrase, which is there."""
    for line in section.splitlines():
        words = shlex.split(line.removeprefix("$ "))
        if words[0] == "holdfast":
            desk(*words[1:])
        else:
            assert line == f"$ echo '{desk.path('pass.txt').read_text().strip()}' > pass.txt"
