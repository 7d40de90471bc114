"""Where passphrases come from, in which order, and what is refused."""

from __future__ import annotations

import contextlib
import os
import pty
import sys
from pathlib import Path

import pytest

from api.cli.exit_codes import UsageError
from api.cli.passphrase import FD_VARIABLE, FILE_VARIABLE, MAX_PASSPHRASE_BYTES, read_passphrase, read_pin
from identity.errors import AuditError, ConfigurationError, MalformedError, StorageError


def descriptor(data: bytes) -> str:
    reading, writing = os.pipe()
    os.write(writing, data)
    os.close(writing)
    return str(reading)


def test_the_more_explicit_source_wins(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"from the flag\n")
    (tmp_path / "b").write_bytes(b"from the variable\r\n")
    environ = {FILE_VARIABLE: str(tmp_path / "b")}
    assert read_passphrase(tmp_path / "a", {FD_VARIABLE: "x", **environ}) == "from the flag"
    assert read_passphrase(None, {FD_VARIABLE: descriptor(b"from the pipe\n"), **environ}) == "from the pipe"
    assert read_passphrase(None, environ, prompt=lambda _: "typed") == "from the variable"
    assert read_passphrase(None, {}, prompt=lambda _: "typed") == "typed"


def test_only_one_line_end_is_taken_off(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b" two\n\n")
    assert read_passphrase(tmp_path / "a", {}) == " two\n"


def test_nothing_to_ask_names_the_flag() -> None:
    with pytest.raises(UsageError) as caught:
        read_passphrase(None, {})  # the tests have no terminal
    assert "--passphrase-file" in caught.value.hint


def test_a_new_one_is_typed_twice() -> None:
    answers = iter(["one", "two"])
    with pytest.raises(UsageError, match="differ"):
        read_passphrase(None, {}, ask_twice=True, prompt=lambda _: next(answers))


def test_the_end_of_input_is_no_passphrase() -> None:
    def prompt(_: str) -> str:
        raise EOFError

    with pytest.raises(UsageError):
        read_passphrase(None, {}, prompt=prompt)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", MalformedError),
        (b"\n", MalformedError),
        (b"\xff\n", MalformedError),
        (b"x" * (MAX_PASSPHRASE_BYTES + 1), MalformedError),
    ],
)
def test_what_cannot_be_one(data: bytes, kind: type[AuditError], tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(kind):
        read_passphrase(tmp_path / "a", {})
    with pytest.raises(kind):
        read_passphrase(None, {FD_VARIABLE: descriptor(data)})


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file"):
        read_passphrase(tmp_path / "absent", {})
    with pytest.raises(StorageError):
        read_passphrase(tmp_path, {})


@pytest.mark.parametrize("text", ["-1", "x", "999999999999", "0x3", "٣", "65000"])
def test_a_descriptor_that_is_none(text: str) -> None:
    with pytest.raises(ConfigurationError):
        read_passphrase(None, {FD_VARIABLE: text})


def test_the_longest_passphrase_may_end_its_line(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * MAX_PASSPHRASE_BYTES + b"\r\n")
    assert len(read_passphrase(tmp_path / "a", {})) == MAX_PASSPHRASE_BYTES


def test_records_may_come_through_a_pipe_while_the_passphrase_is_typed(tmp_path: Path) -> None:
    """stdin is a pipe, the controlling terminal is asked all the same, and nothing of the pipe is taken for it."""
    program = (
        "import sys; from api.cli.passphrase import read_passphrase;"
        "secret = read_passphrase(None, {}); print([secret, sys.stdin.read()])"
    )
    child, terminal = pty.fork()
    if child == 0:
        reading, writing = os.pipe()
        os.write(writing, b"records\n")
        os.close(writing)
        os.dup2(reading, 0)
        os.chdir(Path(__file__).resolve().parents[4])
        os.execv(sys.executable, [sys.executable, "-c", program])
    shown = b""
    while b"Passphrase: " not in shown:
        shown += os.read(terminal, 1024)
    os.write(terminal, b"typed\n")
    with contextlib.suppress(OSError):  # the terminal is gone when the process has ended
        while part := os.read(terminal, 1024):
            shown += part
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert b"['typed', 'records\\n']" in shown
    assert b"typed\r\n" not in shown.split(b"Passphrase: ")[1].split(b"[")[0], "it is not echoed"


def test_a_missing_pin_names_what_every_command_reads() -> None:
    """Not every command has an option for the PIN, so none is named."""
    with pytest.raises(UsageError) as caught:
        read_pin("desk", None, {})
    assert caught.value.hint == "set HOLDFAST_PIN_FILE or HOLDFAST_PIN_FD"
