"""What integration tests share: the Go program of the auditor's guide, built once."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

GO_MOD = """module holdfast.example/check

go 1.21

require golang.org/x/mod v0.17.0
"""

GO_SUM = """golang.org/x/mod v0.17.0 h1:zY54UmvipHiNd+pm+m0x9KhZ9hl1/7QNMyxXbc6ICqA=
golang.org/x/mod v0.17.0/go.mod h1:hTbmBsO62+eylJbnUtE2MGJUyE7QWk4xUqPFrRgJ+7c=
"""


@pytest.fixture(scope="session")
def note_checker(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program of docs/how-to/verify-as-an-auditor.md that opens a note: arguments are a key file and a note."""
    go = shutil.which("go")
    if go is None:
        pytest.skip("go is not installed")
    page = (root / "docs" / "how-to" / "verify-as-an-auditor.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"```go\n(.*?)```", page, re.DOTALL)
    folder = tmp_path_factory.mktemp("go")
    for name, text in (("go.mod", GO_MOD), ("go.sum", GO_SUM), ("check.go", program)):
        (folder / name).write_text(text, encoding="utf-8")
    fetched = subprocess.run([go, "mod", "download"], cwd=folder, capture_output=True, text=True, check=False)
    if fetched.returncode:
        pytest.skip(f"golang.org/x/mod cannot be had: {fetched.stderr.strip()[-200:]}")
    built = subprocess.run([go, "build", "-o", "check", "."], cwd=folder, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return folder / "check"
