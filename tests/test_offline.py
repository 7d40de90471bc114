"""The verifier alone: with what requirements/verify.txt names and nothing else, and without a network."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EVIDENCE = ROOT / "tests" / "evidence"
BUILD_TOOLS = {"setuptools", "wheel"}
ABSENT = ("web3", "sqlalchemy", "alembic", "httpx", "requests", "eth", "eth_tester", "rfc3161ng", "pydantic_settings")

# argv: site directory, repository, what keeps the network away, then the command line.
PROGRAM = f"""
import socket, sys
site, root, isolation, *arguments = sys.argv[1:]
sys.path[:0] = [site, root]
for name in {ABSENT!r}:
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    sys.exit(f"{{name}} can be imported")
if isolation == "sockets-blocked":
    class Blocked(socket.socket):
        def __init__(self, *args, **kwargs):
            raise OSError("no network in this process")
    socket.socket = Blocked
try:
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(("192.0.2.1", 9))
except OSError:
    pass
else:
    sys.exit("there is a network")
from api.cli.__main__ import main
code = main(arguments)
print(*sorted({{name.partition(".")[0] for name in sys.modules}}), file=sys.stderr)
sys.exit(code)
"""


def isolation() -> tuple[str, list[str]]:
    """How to run a process without a network: what to call it, and the command that does it."""
    for command in (["unshare", "-n"], ["unshare", "-rn"]):
        if (
            shutil.which("unshare")
            and subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0
        ):
            return "namespace-without-interfaces", command
    return "sockets-blocked", []


ISOLATION, UNSHARE = isolation()


def pins() -> dict[str, str]:
    text = (ROOT / "requirements" / "verify.txt").read_text()
    return dict(re.findall(r"^([a-z0-9.-]+)==(\S+)", text, re.MULTILINE))


def requirements() -> Iterator[str]:
    """The names in verify.in without extras and versions, and without the build tools."""
    for line in (ROOT / "requirements" / "verify.in").read_text().splitlines():
        name = re.match(r"[a-z0-9-]+", line)
        if name and name[0] not in BUILD_TOOLS:
            yield name[0]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site directory with the files of the pinned distributions, taken from this environment, and no others.

    The two that only install the project are left out.
    """
    folder = tmp_path_factory.mktemp("site")
    for name, version in pins().items():
        if name in BUILD_TOOLS:
            continue
        distribution = metadata.distribution(name)
        assert distribution.version == version, f"{name} {distribution.version} is installed, {version} is pinned"
        for file in distribution.files or ():
            if ".." not in file.parts:
                link = folder / file
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(Path(str(distribution.locate_file(file))))
    return folder


def verify(case: str) -> list[str]:
    folder = EVIDENCE / case
    return [
        *("verify", str(folder / "evidence.json"), "--policy", str(folder / "policy.toml")),
        *("--at", (folder / "at.txt").read_text().strip()),
    ]


def run_alone(site: Path, case: str) -> subprocess.CompletedProcess[str]:
    command = [*UNSHARE, sys.executable, "-I", "-S", "-c", PROGRAM, str(site), str(ROOT), ISOLATION, *verify(case)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.integration
@pytest.mark.parametrize(
    ("case", "code"), [("genuine", 0), ("tampered_token_fail", 1), ("no_anchor_open", 2), ("not_toml_config", 78)]
)
@pytest.mark.parametrize("how", [ISOLATION])
def test_the_verifier_needs_only_what_its_lock_names(site: Path, how: str, case: str, code: int) -> None:
    run = run_alone(site, case)
    assert run.returncode == code, run.stdout + run.stderr
    assert "Traceback" not in run.stderr
    if code != 78:
        assert run.stdout.startswith(("PASSED", "FAILED", "INDETERMINATE")[code])


def test_every_requirement_of_the_verifier_is_used(site: Path) -> None:
    loaded = set(run_alone(site, "genuine").stderr.split())
    tops = metadata.packages_distributions()
    used = {name.lower().replace("_", "-") for top in loaded for name in tops.get(top, ())}
    # Rich draws on terminals, and there is none here.
    assert set(requirements()) - {"rich"} - used == set()


def test_the_command_imports_no_database_and_no_client() -> None:
    """Where everything is installed: what ``holdfast verify`` loads on its way to a verdict."""
    program = (
        "import sys; from api.cli.__main__ import main; code = main(sys.argv[1:]);"
        "print(*sys.modules, file=sys.stderr); sys.exit(code)"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, *verify("genuine")],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
    loaded = {name.partition(".")[0] for name in run.stderr.split()}
    assert loaded & {*ABSENT, "rlp", "trie", "psycopg", "fastapi", "uvicorn"} == set()
    assert not {name for name in run.stderr.split() if name.startswith(("ledger.storage", "anchoring.chain"))}
