"""The account of skips in tests/conftest.py: visible where they are allowed, failures where they are not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SKIPS = {
    "no tool": "import pytest\n\ndef test_a():\n    pytest.skip('no tool')\n\ndef test_b():\n    pass\n",
    "no data": "import pytest\n@pytest.mark.skipif(True, reason='no data')\ndef test_c():\n    pass\n",
    "no library": "import pytest\npytest.skip('no library', allow_module_level=True)\n",
}


@pytest.mark.parametrize("reason", SKIPS)
def test_a_skip_is_seen_and_is_a_failure_where_nothing_may_be_left_out(reason: str, root: Path, tmp_path: Path) -> None:
    shutil.copy(root / "tests" / "conftest.py", tmp_path)
    (tmp_path / "test_it.py").write_text(SKIPS[reason])
    (tmp_path / "test_other.py").write_text("def test_other():\n    pass\n")
    code, shown = run(tmp_path, require_all="")
    assert (code, "1 skipped: -rs names them" in shown, reason in shown) == (0, True, True)
    code, shown = run(tmp_path, require_all="1")
    assert (code != 0, "allows none" in shown, reason in shown) == (True, True, True)


def run(folder: Path, require_all: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "--rootdir", folder, folder],
        env={**os.environ, "REQUIRE_ALL_TESTS": require_all},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done.returncode, done.stdout
