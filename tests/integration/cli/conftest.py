"""A home made once through the command line, and a shell that runs ``holdfast`` in this process.

The home has a cheap key derivation, which only ``api.founding`` can be asked for; all else in it was made by commands.
Each test gets a copy of it, with its chain and authority, and may do to it what it likes.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from anchoring.tsa.dev import DevelopmentAuthority
from api.bootstrap import now_ms, open_dev_chain, open_session
from api.cli.__main__ import main
from api.founding import Founding, found_home
from api.home import Home
from api.settings import default_settings_text, load_settings
from identity.event import DeviceClass
from identity.keystore import ONLY_FOR_TESTING

PASSPHRASE = "correct horse battery staple"
COLUMNS = "id:int,booked:date,amount:dec,note:text?"
CSV = "id,booked,amount,note\n" + "".join(
    f"{n},2026-11-{n % 28 + 1:02},{n}.50,{'' if n % 3 else 'x'}\n" for n in range(42)
)


@dataclass(frozen=True)
class Ran:
    """How a command ended, and what it printed."""

    code: int
    stdout: bytes
    err: str

    @property
    def out(self) -> str:
        return self.stdout.decode()

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def json(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]

    @property
    def error(self) -> dict[str, Any]:
        """The JSON error on stderr; notes and progress stand before it."""
        return json.loads(self.err.splitlines()[-1])

    def field(self, name: str) -> str:
        """The value of a line ``name<TAB>value``."""
        return dict(line.split("\t", 1) for line in self.lines)[name]


class Terminal(io.TextIOWrapper):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@dataclass(frozen=True)
class Shell:
    """A directory with homes, a chain and files, and the command line run in it."""

    directory: Path
    home: str = "home"
    environ: Mapping[str, str] = field(default_factory=dict)
    terminal: bool = False
    """Whether stdout and stderr say that they are one."""

    def __call__(self, *arguments: str | Path, stdin: bytes | str = b"", code: int | None = 0) -> Ran:
        """Run ``holdfast`` with these arguments. ``code`` is the exit code it must end with, None for any."""
        stream = Terminal if self.terminal else io.TextIOWrapper
        out, err = (stream(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
        given = stdin.encode() if isinstance(stdin, str) else stdin
        with contextlib.ExitStack() as stack:
            stack.enter_context(mock.patch.dict(os.environ, self.environment(), clear=True))
            stack.enter_context(contextlib.chdir(self.directory))
            stack.enter_context(contextlib.redirect_stdout(out))
            stack.enter_context(contextlib.redirect_stderr(err))
            stack.enter_context(mock.patch("sys.stdin", io.TextIOWrapper(io.BytesIO(given), encoding="utf-8")))
            ended = main([str(argument) for argument in arguments])
        ran = Ran(ended, out.buffer.getvalue(), err.buffer.getvalue().decode())
        if code is not None:
            assert ended == code, f"{arguments} ended with {ended}\n{ran.out}\n{ran.err}"
        assert "Traceback" not in ran.err
        return ran

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HOLDFAST_", "XDG_"))}
        return {
            **kept,
            "HOLDFAST_HOME": str(self.directory / self.home),
            "HOLDFAST_DEV_DIR": str(self.directory / "dev"),
            "HOLDFAST_PASSPHRASE_FILE": str(self.directory / "pass.txt"),
            **self.environ,
        }

    def at(self, home: str, **environ: str) -> Shell:
        """The same, in another home or with other variables."""
        return replace(self, home=home, environ={**self.environ, **environ})

    def path(self, name: str) -> Path:
        return self.directory / name

    def write(self, name: str, content: str | bytes) -> Path:
        path = self.path(name)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def kept(self) -> dict[str, bytes]:
        """Every file of the home that is more than a memory of the last check, with its bytes."""
        root = self.directory / self.home
        return {
            str(file.relative_to(root)): file.read_bytes()
            for file in sorted(root.rglob("*"))
            if file.is_file() and not file.name.startswith("last-check.")
        }


def found(directory: Path, name: str, devices: list[str], *, chain: bool) -> str:
    """Found a home with a cheap keystore; returns its recovery phrase."""
    dev = directory / "dev"
    with open_dev_chain(dev) if chain else contextlib.nullcontext() as opened:
        founding = Founding(
            label=f"{name} of a test",
            devices=dict.fromkeys(devices, DeviceClass.DEVICE),
            log_name=f"{name}.example",
            chain=opened,
            fund=None if opened is None else lambda address: opened.fund(address, 10**20),
            authorities=[DevelopmentAuthority(dev / "tsa").authority],
            settings=default_settings_text({"kind": "dev" if chain else "none"}, [{"kind": "dev"}]),
            kdf=ONLY_FOR_TESTING,
        )
        return found_home(Home(directory / name), founding, PASSPHRASE, now_ms=now_ms()).phrase


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory that every test gets a copy of: three homes, and what commands have made of the first.

    ``other`` has no chain; ``young`` has one, and holds nothing yet.
    """
    directory = tmp_path_factory.mktemp("cli")
    shell = Shell(directory)
    shell.write("pass.txt", PASSPHRASE + "\n")
    shell.write("phrase.txt", found(directory, "home", ["laptop", "phone"], chain=True) + "\n")
    shell.write("other-phrase.txt", found(directory, "other", ["main"], chain=False) + "\n")
    found(directory, "young", ["main"], chain=True)
    shell.write("payments.csv", CSV)
    shell.write("notes.jsonl", '{"text": "one"}\n{"text": "two", "amount": 12.30}\n')
    shell("feed", "create", "ledger", "--device", "laptop")
    shell("feed", "import", "ledger", "payments.csv", "--columns", COLUMNS, "--batch", "20")
    shell("feed", "create", "notes", "--device", "phone")
    shell("feed", "append", "notes", "notes.jsonl")
    shell("checkpoint", "create")
    shell("anchor", "run")
    shell("checkpoint", "create", "--restate")
    shell("evidence", "export", "ledger", "41", "-o", "evidence.json")
    shell("feed", "export", "ledger", "-o", "ledger.feed")
    shell("checkpoint", "export", "-o", "complete.log")
    shell("audit", "--export", "complete.archive")
    shell("identity", "export", "-o", "home.events")
    shell("backup", "create", "made.backup")
    shell("identity", "close", "--confirm", "home of a test", "--propose", "closing.request")
    shell("identity", "sign", "closing.request", "--phrase-file", "phrase.txt", "--yes", "-o", "signed.request")
    return directory


@pytest.fixture
def fresh(original: Path, tmp_path: Path) -> Callable[[], Shell]:
    """Makes copies of the directory, each untouched."""
    count = 0

    def copy() -> Shell:
        nonlocal count
        count += 1
        shell = Shell(shutil.copytree(original, tmp_path / f"copy{count}"))
        for name in ("home", "other", "young"):
            adopt(shell.at(name))
        return shell

    return copy


def adopt(shell: Shell) -> None:
    """Let a copied home go on in the feeds of the one that it is a copy of, which is not written any more."""
    home = Home(shell.path(shell.home))
    with open_session(home, load_settings(home, shell.environment())) as session:
        session.start_up.adopt()


@pytest.fixture
def shell(fresh: Callable[[], Shell]) -> Shell:
    """``holdfast`` in a copy of the directory."""
    return fresh()


@contextlib.contextmanager
def serve(shell: Shell) -> Iterator[str]:
    """The URL of the node of a home, in a thread of this process, which is open as long as the block lasts."""
    import uvicorn

    from api.app import create_app
    from api.asgi import make_log
    from api.node import Node
    from identity.keystore import open_keystore

    home = Home(shell.path(shell.home))
    settings = load_settings(home, shell.environment())
    with (
        open_session(home, settings) as session,
        contextlib.closing(Node(session, open_keystore(settings.keystore, PASSPHRASE))) as node,
        contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listening,
    ):
        app = create_app({"": node}, log=make_log(io.StringIO()))
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, log_level="critical"))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            node.closing.set()
            server.should_exit = True
            thread.join()


@pytest.fixture
def served() -> Callable[[Shell], contextlib.AbstractContextManager[str]]:
    """Serves homes."""
    return serve


@pytest.fixture
def joined(shell: Shell) -> tuple[Shell, Shell]:
    """A home with one device, a chain and a database, and another one that has joined the database."""
    young, other = shell.at("young"), shell.at("other")
    young("db", "create", "bank")
    young("db", "put", "bank", "accounts/1", '{"owner": "Novak"}')
    other("identity", "export", "-o", "other.events")
    young("identity", "import", "other.events")
    young("db", "admit", "bank", "other of a test")
    with serve(young) as url:
        other("sync", url, "bank")
    return young, other
