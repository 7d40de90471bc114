"""Stock Hypercore, installed from the lock files beside: the version that was pinned, and the newest one."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="session", params=["pinned", "newest"])
def modules(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose node_modules holds Hypercore; installed by ``npm ci``, so each package has the locked digest."""
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        pytest.skip("npm is not installed")
    folder = tmp_path_factory.mktemp(f"hypercore-{request.param}")
    for name in ("package.json", "package-lock.json"):
        shutil.copy(HERE / request.param / name, folder)
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        if "EINTEGRITY" in done.stderr:
            pytest.fail(f"what npm serves is not what was locked: {done.stderr[-300:]}")
        pytest.skip(f"hypercore cannot be had from npm: {done.stderr.strip()[-200:]}")
    return folder


@pytest.fixture(scope="session")
def peer(modules: Path) -> Callable[[str, Any], Any]:
    """Run ``peer.mjs`` in one of its modes on a value, and give what it answers."""

    def run(mode: str, value: Any) -> Any:
        command = ["node", str(HERE / "peer.mjs"), str(modules), mode]
        done = subprocess.run(
            command, input=json.dumps(value), capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout)

    return run


@pytest.fixture
def serving(modules: Path) -> Any:
    """A process that holds a core and answers requests; ends with the test."""
    command = ["node", str(HERE / "peer.mjs"), str(modules), "serve"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    yield process
    assert process.stdin is not None
    process.stdin.close()
    process.wait(timeout=30)
