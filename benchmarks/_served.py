"""Servers in processes of their own, for benchmarks over loopback: a home that is served, and the bare floor.

Both run under uvicorn with the same bounds. A server tells how much processor time it has taken when it is asked on its
standard input, which works on every system and is in nobody's way.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from api.founding import Founding, found_home
from api.home import Home
from api.settings import default_settings_text
from benchmarks._measure import ROOT
from identity.event import DeviceClass
from identity.keys import Ed25519Signer
from identity.keystore import ONLY_FOR_TESTING, open_keystore

__all__ = ["DATABASE", "PASSPHRASE", "Server", "device_of", "new_home", "served_floor", "served_home"]

PASSPHRASE: Final = "only for benchmarks"
DATABASE: Final = "bank"
_DEVICE: Final = "till"


class Server:
    """A server that is up: where it is, and how much processor time it has taken."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self._process = process

    def cpu_s(self) -> float:
        """Seconds of processor time since it began, of all its threads."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())


def new_home(directory: Path, *, requests_a_minute: int = 1_000_000, threads: int = 40) -> Home:
    """A home without a chain, whose limits let one key ask as often as it likes."""
    limits = f"\n[service.limits]\nrequests_a_minute = {requests_a_minute}\nthreads = {threads}\n"
    founding = Founding(
        label="benchmark",
        devices={_DEVICE: DeviceClass.DEVICE},
        log_name="bank.example",
        chain=None,
        fund=None,
        authorities=[],
        settings=default_settings_text({"kind": "none"}, []) + limits,
        kdf=ONLY_FOR_TESTING,
    )
    home = Home(directory)
    directory.with_name(f"{directory.name}.passphrase").write_text(PASSPHRASE)
    found_home(home, founding, PASSPHRASE, now_ms=time.time_ns() // 1_000_000)
    return home


def device_of(home: Home) -> Ed25519Signer:
    """The key of the home's device, to sign requests with."""
    return Ed25519Signer(open_keystore(home.keystore, PASSPHRASE).devices[_DEVICE])


@contextmanager
def served_home(home: Home) -> Iterator[Server]:
    """``holdfast serve`` over a home. Its log goes to a file beside the home, as it would go to a journal."""
    with (home.root.parent / f"{home.root.name}.log").open("w") as log, _started("home", home.root, log) as server:
        yield server


@contextmanager
def served_floor(directory: Path) -> Iterator[Server]:
    """The bare application (``benchmarks._http_floor``) with its file in a directory."""
    with _started("floor", directory / "floor.db", None) as server:
        yield server


@contextmanager
def _started(kind: str, place: Path, log: Any) -> Iterator[Server]:
    command = [sys.executable, "-m", "benchmarks._served", kind, str(place)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log}
    with subprocess.Popen(command, text=True, cwd=ROOT, **pipes) as process:
        try:
            assert process.stdout is not None
            yield Server(process, _port(process.stdout.readline()))
        finally:
            process.terminate()
            process.wait()


def _port(line: str) -> int:
    found: str = json.loads(line)["url"] if line.startswith("{") else line
    return int(found.rpartition(":")[2])


# --- in a process of its own ---


def main() -> None:
    """``python -m benchmarks._served home|floor PLACE``."""
    kind, place = sys.argv[1:]
    threading.Thread(target=_tell_time, daemon=True).start()
    if kind == "home":
        from api.cli.__main__ import main as holdfast

        secret = f"{place}.passphrase"
        sys.exit(holdfast(["--home", place, "--json", "serve", "--port", "0", "--passphrase-file", secret]))
    _serve_floor(Path(place))


def _tell_time() -> None:
    for _ in sys.stdin:
        print(time.process_time(), flush=True)


def _serve_floor(file: Path) -> None:
    """As ``holdfast serve`` configures it (``api.cli.serve``), but for what is ours: no log, no connection count."""
    import uvicorn

    from api.asgi import MAX_HEAD_BYTES
    from benchmarks._http_floor import create_floor

    # The protocol is named because only then asyncio sends without delay (TCP_NODELAY).
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(128)
        print(listening.getsockname()[1], flush=True)
        config = uvicorn.Config(
            create_floor(file),
            http="h11",
            h11_max_incomplete_event_size=MAX_HEAD_BYTES,
            log_config=None,
            log_level="critical",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=1,
        )
        uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
