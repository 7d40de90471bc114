"""A node in a process of its own, seen from outside, and the devices that sync with it, good and bad."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx

from api.access.signing import RequestSigner
from api.bootstrap import open_session
from api.databases import Databases
from api.founding import Founding, found_home
from api.home import Home
from api.peer import Peer
from api.settings import default_settings_text, load_settings
from identity.event import DeviceClass
from identity.keys import Ed25519Signer
from identity.keystore import ONLY_FOR_TESTING, open_keystore
from ledger.feed import create_feed
from ledger.storage.engine import open_store
from ledger.writer import StoreWriter
from sync.changes import Changes
from sync.database import Database
from sync.document_keys import DocumentKeys
from sync.replica import DatabaseReplica, NewReplica
from sync.storage.audit import audit_database
from sync.storage.projection import feed_name

PASSPHRASE = "correct horse battery staple"
DEVICES = ("till", "phone", "thief", "ghost")


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class Replica:
    """A device of the home's identity, with a store of its own, that has fetched the database from the node."""

    def __init__(self, directory: Path, name: str, node: Node) -> None:
        self.name = name
        self.device = Ed25519Signer(node.seeds[name])
        self.sign = RequestSigner(self.device)
        self.store = open_store(str(directory / f"{name}.db"), create=True)
        self.keys = DocumentKeys(directory / f"{name}.keys")
        self.peer = Peer(node.url, self.sign)
        self.peer.sync("bank", NewReplica(self.store, now_ms, node.uid))
        self.feed = create_feed(self.store, self.device, node.identity, feed_name(node.uid))
        self.writer = StoreWriter(self.store, [self.device])
        self.db = Database(self.store, node.uid, now_ms, writer=self.writer, feed=self.feed, keys=self.keys)
        self.db.take_new()

    @property
    def replica(self) -> DatabaseReplica:
        return DatabaseReplica(self.db)

    def put(self, collection: str, key: str, **fields: object) -> None:
        changes = Changes()
        changes.put(collection, key, fields)
        self.db.commit(changes)

    def sync(self) -> Any:
        return self.peer.sync("bank", self.replica)

    def close(self) -> None:
        self.writer.close()
        self.keys.close()
        self.store.close()


class Node:
    """``holdfast serve`` over a new home with the database ``bank``."""

    def __init__(self, directory: Path) -> None:
        self.home = Home(directory / "home")
        founding = Founding(
            label="bank",
            devices=dict.fromkeys(DEVICES, DeviceClass.DEVICE),
            log_name="bank.example",
            chain=None,
            fund=None,
            authorities=[],
            settings=default_settings_text({"kind": "none"}, []),
            kdf=ONLY_FOR_TESTING,
        )
        found_home(self.home, founding, PASSPHRASE, now_ms=now_ms())
        self.environ = {
            "HOLDFAST_DEV_DIR": str(directory / "dev"),
            "HOLDFAST_SERVICE__LIMITS__REQUESTS_A_MINUTE": "1000000",
        }
        settings = load_settings(self.home, self.environ)
        ring = open_keystore(settings.keystore, PASSPHRASE)
        self.seeds = dict(ring.devices)
        with open_session(self.home, settings) as session, closing(Databases(session, ring)) as databases:
            self.uid = databases.create("bank", device="till").uid
            self.identity = session.vault.history().identity
        self.store_file = Path(str(settings.database))
        self.lines: list[Any] = []
        self.url = ""

    @contextmanager
    def running(self) -> Iterator[Node]:
        """Serve, and in the end ask it to end, which it has to do cleanly."""
        command = [sys.executable, "-m", "api.cli", "serve", "--port", "0", "--json", "--device", "till"]
        secret = self.home.root.parent / "passphrase"
        secret.write_text(PASSPHRASE)
        named = {"HOLDFAST_HOME": str(self.home.root), "HOLDFAST_PASSPHRASE_FILE": str(secret)}
        environ = {**os.environ, **self.environ, **named}
        self._process = subprocess.Popen(
            command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        reader = threading.Thread(target=self._read_log)
        try:
            assert self._process.stdout is not None
            line = self._process.stdout.readline()
            assert line, self._process.communicate()
            reader.start()
            self.url = json.loads(line)["url"]
            yield self
            self._process.send_signal(signal.SIGTERM)
            assert self._process.wait(60) == 0
        finally:
            self._process.kill()
            self._process.wait()
            if reader.ident is not None:
                reader.join()

    def _read_log(self) -> None:
        """Keep what is out of the ordinary: a line for each request would fill the memory."""
        assert self._process.stderr is not None
        for line in self._process.stderr:
            try:
                found = json.loads(line)
            except ValueError:
                found = {"event": "not-json", "line": line}
            if found["event"] != "request":
                self.lines.append(found)

    # --- what can be seen from outside ---

    def is_ready(self) -> bool:
        return httpx.get(f"{self.url}/readyz", timeout=30).json()["state"] == "ready"

    def memory_kb(self, name: str = "VmHWM") -> int:
        """``VmHWM`` is the most that was ever resident, ``VmRSS`` what is now."""
        text = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(next(line for line in text.splitlines() if line.startswith(f"{name}:")).split()[1])

    def handles(self) -> int:
        return sum(1 for _ in Path(f"/proc/{self._process.pid}/fd").iterdir())

    def cut_off(self) -> list[str]:
        """Why peers were cut off, as the log has it."""
        return [line["reason"] for line in self.lines if line["event"] == "peer-cut-off"]

    def failures(self) -> list[Any]:
        """What the log has that must never be in it."""
        return [line for line in self.lines if line["event"] in ("unexpected", "failed", "not-json")]


class Watch:
    """The node's store, read by somebody else than the node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._versions = sqlite3.connect(f"file:{node.store_file}?mode=ro", uri=True)
        self._store = open_store(str(node.store_file))

    def version(self) -> int:
        """Changes with every transaction that is committed: an equal number is an equal store."""
        (found,) = self._versions.execute("PRAGMA data_version").fetchone()
        return int(found)

    def faults(self) -> list[str]:
        """What is not as the feeds have it: none, when everything was taken in whole."""
        with self._store.read() as tx:
            return audit_database(tx, self._store.dialect, self._node.uid)

    def blocks(self, feed: Any) -> list[bytes]:
        with self._store.read() as tx:
            state = tx.feed(feed)
            return [] if state is None else list(tx.blocks(feed, 0, state.length))

    def close(self) -> None:
        self._versions.close()
        self._store.close()
