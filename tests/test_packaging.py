"""The wheel: built from a clean copy, installed elsewhere, run. And the two lists of dependencies agree."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGES = ("identity", "ledger", "anchoring", "sync", "api")


@pytest.fixture(scope="module")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built without isolation, as the locks want it, and not in the repository, where building leaves things behind."""
    copy = tmp_path_factory.mktemp("source")
    for name in PACKAGES:
        shutil.copytree(root / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, copy / name)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", copy / "dist", copy)
    (built,) = (copy / "dist").glob("*.whl")
    return built


def run(*command: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_holds_what_the_packages_hold(root: Path, wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = {
        file.relative_to(root).as_posix()
        for package in PACKAGES
        for file in (root / package).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert sources - names == set()
    assert {f"{package}/py.typed" for package in PACKAGES} <= names
    assert "anchoring/contracts/anchor.json" in names
    assert "ledger/storage/migrations/versions/0001_ledger.py" in names
    assert {name.partition("/")[0] for name in names} == {
        *PACKAGES,
        wheel.name.removesuffix("-py3-none-any.whl") + ".dist-info",
    }


def test_the_wheel_runs_where_it_is_installed(wheel: Path, tmp_path: Path) -> None:
    """In an environment that sees this one's libraries, away from the repository."""
    venv.create(tmp_path / "env", with_pip=False, symlinks=True)
    scripts = tmp_path / "env" / "bin"
    site = Path(run(scripts / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    run(
        *(sys.executable, "-m", "pip", "--quiet", "--python", scripts / "python"),
        *("install", "--no-index", "--no-deps", "--no-warn-script-location", "--force-reinstall", wheel),
    )
    assert run(scripts / "holdfast", "--version", cwd=tmp_path) == "holdfast 0.1.0\n"
    where = "import api, ledger; print(api.__file__, ledger.__file__)"
    assert all(Path(file).is_relative_to(site) for file in run(scripts / "python", "-c", where, cwd=tmp_path).split())
    assert "Usage: holdfast verify" in run(scripts / "holdfast", "verify", "--help", cwd=tmp_path)


def requirements(root: Path, name: str) -> Iterator[str]:
    """The requirements of an .in file and of those that it includes."""
    for line in (root / "requirements" / name).read_text().splitlines():
        if line.startswith("-r "):
            yield from requirements(root, line.removeprefix("-r "))
        elif line and not line.startswith("#"):
            yield line


def test_pyproject_names_what_is_locked(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    build_tools = {"setuptools", "wheel"}
    assert sorted(project["dependencies"]) == sorted(set(requirements(root, "runtime.in")) - build_tools)


def pins(root: Path, name: str) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9.-]+)==(\S+)", (root / "requirements" / f"{name}.txt").read_text(), re.MULTILINE))


def test_the_locks_agree_and_name_no_host(root: Path) -> None:
    """Each smaller lock is a part of the larger one; each pin has a hash; no index, no address, no path."""
    dev, runtime, verify = (pins(root, name) for name in ("dev", "runtime", "verify"))
    assert verify.items() <= runtime.items() <= dev.items()
    assert {"setuptools", "wheel"} <= verify.keys()
    assert not {"sqlalchemy", "web3", "httpx", "alembic"} & verify.keys()
    for name in ("dev", "runtime", "verify"):
        text = (root / "requirements" / f"{name}.txt").read_text()
        assert not re.search(
            r"://|--(extra-)?index|--find-links|--trusted|^-i | @ |/home|/tmp|/root", text, re.MULTILINE
        )
        blocks = re.split(r"\n(?=[a-z0-9])", text)[1:]
        assert len(blocks) == len(pins(root, name))
        assert all("--hash=sha256:" in block for block in blocks)
