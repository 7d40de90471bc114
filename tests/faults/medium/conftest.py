"""A medium that fails, or forgets, on command: a library preloaded into the processes under test (faultio.c)."""

from __future__ import annotations

import mmap
import os
import random
import shutil
import struct
import subprocess
from collections.abc import Mapping
from enum import IntFlag
from pathlib import Path

import pytest

SECTOR = 512
_CONTROL = struct.Struct("<QQQQIIII")


class Calls(IntFlag):
    """Classes of calls, as in faultio.c."""

    WRITE = 1
    FLUSH = 2
    NAME = 4
    ALL = 7


class Medium:
    """The directory ``root`` on a medium that takes orders. Processes see it by ``environment``.

    Those that are to lose what they never flushed see it by ``forgetful``, at the price of a copy for each flush.
    """

    def __init__(self, library: Path, directory: Path) -> None:
        self.root = directory / "medium"
        self._shadow = directory / "shadow"
        control = directory / "control"
        for folder in (self.root, self._shadow):
            folder.mkdir()
        control.write_bytes(bytes(_CONTROL.size))
        for path in (self._shadow, control):  # the processes may be another user's
            path.chmod(0o777)
        with control.open("r+b") as file:
            self._mapped = mmap.mmap(file.fileno(), _CONTROL.size)
        self.environment: Mapping[str, str] = {
            **os.environ,
            "LD_PRELOAD": str(library),
            "FAULTIO_ROOT": f"{self.root}/",
            "FAULTIO_CONTROL": str(control),
        }
        self.forgetful: Mapping[str, str] = {**self.environment, "FAULTIO_SHADOW": str(self._shadow)}

    def arm(self, mask: Calls, *, first: int = 0, times: int = 1, error: int = 0, halfway: bool = False) -> None:
        """Count calls of ``mask`` anew; from number ``first`` (0: none) on, ``times`` fail with ``error`` (0: kill)."""
        _CONTROL.pack_into(self._mapped, 0, 0, first, times, 0, mask, error, halfway, 0)

    def heal(self) -> None:
        """Nothing fails any more."""
        self.arm(Calls(0))

    @property
    def calls(self) -> int:
        """Calls of the armed classes since they were armed."""
        return int(_CONTROL.unpack_from(self._mapped)[0])

    @property
    def failed(self) -> int:
        """How many of them failed."""
        return int(_CONTROL.unpack_from(self._mapped)[3])

    def flush(self) -> None:
        """Make everything that is there now durable: what processes wrote that do not see the medium."""
        shutil.rmtree(self._shadow)
        self._shadow.mkdir()
        self._shadow.chmod(0o777)
        with (self._shadow / "names").open("a") as names:
            for path in filter(Path.is_file, self.root.rglob("*")):
                inode = path.stat().st_ino
                shutil.copyfile(path, self._shadow / str(inode))
                names.write(f"+ {inode} {path}\n")
        (self._shadow / "lock").touch()
        for path in self._shadow.iterdir():
            path.chmod(0o666)

    def cut_power(self, chance: random.Random) -> None:
        """Leave below ``root`` what a power cut may leave: everything that was flushed, and any part of the rest.

        A file keeps its flushed bytes, its newest bytes, or each sector from one of the two. A name that was flushed
        is there; a change of names that was not may be or may not. Nobody may have files open meanwhile.
        """
        durable = self._durable_names()
        newest = {path: path.stat().st_ino for path in self.root.rglob("*") if path.is_file()}
        contents: dict[Path, bytes] = {}
        for path in sorted({*durable, *newest}):
            survives = durable if chance.random() < 0.5 else newest
            inode = survives.get(path)
            if inode is None:
                continue
            now = path.read_bytes() if newest.get(path) == inode else None
            contents[path] = self._after(inode, now, chance)
        folders = {path: path.stat() for path in (self.root, *self.root.rglob("*")) if path.is_dir()}
        shutil.rmtree(self.root)
        for folder, known in folders.items():
            folder.mkdir()
            folder.chmod(known.st_mode)
            os.chown(folder, known.st_uid, known.st_gid)
        for path, data in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            path.chmod(0o600)
            owner = path.parent.stat()
            os.chown(path, owner.st_uid, owner.st_gid)
        self.flush()

    def _durable_names(self) -> dict[Path, int]:
        """The names that were flushed, with the inode behind each: the lines that faultio.c wrote, replayed."""
        names: dict[Path, int] = {}
        journal = self._shadow / "names"
        for line in journal.read_text().splitlines() if journal.exists() else ():
            sign, inode, text = line.split(" ", 2)
            if sign == "=":
                names = {path: number for path, number in names.items() if path.parent != Path(text)}
            else:
                names[Path(text)] = int(inode)
        return names

    def _after(self, inode: int, newest: bytes | None, chance: random.Random) -> bytes:
        shadow = self._shadow / str(inode)
        flushed = shadow.read_bytes() if shadow.exists() else b""
        if newest is None:
            return flushed
        kept = chance.choice(("flushed", "newest", "either"))
        if kept != "either":
            return flushed if kept == "flushed" else newest
        length = chance.choice((len(flushed), len(newest)))
        sectors = (
            chance.choice((flushed, newest))[place : place + SECTOR].ljust(min(SECTOR, length - place), b"\0")
            for place in range(0, length, SECTOR)
        )
        return b"".join(sector[:SECTOR] for sector in sectors)[:length]


@pytest.fixture(scope="session")
def faultio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library, compiled once."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler is installed")
    library = tmp_path_factory.mktemp("faultio") / "faultio.so"
    source = Path(__file__).with_name("faultio.c")
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


@pytest.fixture
def medium(faultio: Path, tmp_path: Path) -> Medium:
    """A fresh medium. It is on the disk, because in memory nothing is ever flushed."""
    return Medium(faultio, tmp_path)


@pytest.fixture(scope="session")
def medium_type() -> type[Medium]:
    """What a medium is made with."""
    return Medium
