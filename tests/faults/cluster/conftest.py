"""Several server processes of one home on PostgreSQL, what they acknowledge, and three nodes under Patroni."""

from __future__ import annotations

import json
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest

from api.bootstrap import now_ms, open_session
from api.databases import Databases
from api.founding import Founding, found_home
from api.home import Home
from api.settings import default_settings_text, load_settings
from identity.event import DeviceClass
from identity.keys import Ed25519Signer
from identity.keystore import ONLY_FOR_TESTING, open_keystore
from ledger.audit import audit_feed
from ledger.lineage import lineage_faults
from ledger.log_transfer import audit_log, feeds_at_hand, log_records
from ledger.row_audit import row_faults
from ledger.storage.location import PostgresLocation, parse_location
from ledger.storage.start_up import Succession, load_successions
from ledger.storage.strays import stray_rows
from ledger.store import FeedKey, stored_tree_hash

HERE = Path(__file__).parent
PASSPHRASE = "a passphrase"
PATIENCE_S = 150
"""For what is to happen at all. Nothing is measured by the clock."""


def wait_for(what: str, reached: Callable[[], Any], *, pause_s: float = 0.05) -> Any:
    """Ask until the answer is true; what was asked last is in the error."""
    deadline = time.monotonic() + PATIENCE_S
    while not (answer := reached()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(pause_s)
    return answer


# --- what server processes say, and what the store holds of it ------------------------------------------------------


@dataclass
class Said:
    """Everything that server processes have acknowledged, each fact once: a contradiction fails where it is heard."""

    leaves: dict[tuple[str, int], str] = field(default_factory=dict)
    """By feed and index, the leaf hash of the entry there."""
    heads: dict[tuple[str, int], tuple[str, str]] = field(default_factory=dict)
    """By feed and length, the tree hash and the signature of the head under which an entry was acknowledged."""
    notes: dict[int, str] = field(default_factory=dict)
    """By size of the log, the root of the checkpoint."""
    told: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    contradictions: list[str] = field(default_factory=list)
    entries: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    """By process, how many entries."""
    made: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    """By process, how many checkpoints."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def hear(self, process: int, line: str) -> None:
        """Take down one line of a process."""
        kind, _, rest = line.partition(" ")
        with self.lock:
            match kind:
                case "entry":
                    feed, index, leaf, length, tree, signature = rest.split()
                    self._hold(self.leaves, (feed, int(index)), leaf)
                    self._hold(self.heads, (feed, int(length)), (tree, signature))
                    self.entries[process] += 1
                case "note":
                    size, root = rest.split()
                    self._hold(self.notes, int(size), root)
                    self.made[process] += 1
                case "told" | "refused" | "failed":
                    getattr(self, kind).append(rest)
                case _:
                    self.contradictions.append(f"process {process} said {line!r}")

    def _hold(self, known: dict[Any, Any], place: Any, value: Any) -> None:
        if known.setdefault(place, value) != value:
            self.contradictions.append(f"two things were acknowledged at {place}: {known[place]} and {value}")


class ServerProcess:
    """A running server process (server_process.py) and the thread that listens to it."""

    def __init__(
        self, number: int, home: Home, environment: Mapping[str, str], feed: str, seed: str, said: Said
    ) -> None:
        self.number, self._said = number, said
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed when the process has ended)
        self._process = subprocess.Popen(
            [sys.executable, HERE / "server_process.py", home.root, PASSPHRASE, feed, seed],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        self._listener = threading.Thread(target=self._listen)
        self._listener.start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.endswith(b"\n"):  # the last one of a killed process may be cut
                self._said.hear(self.number, line.decode().rstrip("\n"))

    def check_alive(self) -> None:
        assert self._process.poll() is None, "a server process ended by itself: " + self.errors()

    def errors(self) -> str:
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")[-3000:]

    def kill(self) -> None:
        """SIGKILL; everything that it said before is taken down."""
        self._process.kill()
        self._finish()

    def end(self) -> None:
        """Let it end in order."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            status = self._process.wait(PATIENCE_S)
        finally:
            self._process.kill()
            self._finish()
        assert status == 0, "a server process ended with an error: " + self.errors()

    def _finish(self) -> None:
        self._process.wait()
        self._listener.join()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            with suppress(OSError):
                stream.close()  # type: ignore[union-attr]


@dataclass(frozen=True)
class Audited:
    """What is wrong with a store, beside what its server processes have acknowledged."""

    faults: list[str]
    missing_entries: list[tuple[str, int]]
    missing_heads: list[tuple[str, int]]
    missing_notes: list[int]
    retired: set[str]
    successions: list[Succession]
    known_to_sentinel: list[str]
    """What the sentinel knows to be missing, feed by feed."""


class Fleet:
    """A home on PostgreSQL, a feed for each of its server processes, and these."""

    def __init__(self, directory: Path, url: str, processes: int) -> None:
        self.said = Said()
        self.directory = directory
        self._home = Home(directory / "home")
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("HOLDFAST_", "XDG_"))},
            "PYTHONPATH": str(HERE.parents[2]),
            "HOLDFAST_DEV_DIR": str(directory / "dev"),
            "HOLDFAST_SENTINEL_DIR": str(directory / "sentinels"),
            "HOLDFAST_MACHINE": "node",
        }
        self.running: dict[int, ServerProcess] = {}
        location = parse_location(url)
        assert isinstance(location, PostgresLocation)
        names = [f"feed-{number}" for number in range(processes)]
        founding = Founding(
            label="bank",
            devices=dict.fromkeys(names, DeviceClass.SERVICE),
            log_name="bank.example",
            chain=None,
            fund=None,
            authorities=[],
            settings=default_settings_text({"kind": "none"}, [], database=url),
            database=location,
            kdf=ONLY_FOR_TESTING,
        )
        found_home(self._home, founding, PASSPHRASE, now_ms=now_ms())
        with self._session() as session:
            ring = open_keystore(self._home.keystore, PASSPHRASE)
            self.feeds = [session.vault.create_feed(ring, name, name).hex() for name in names]

    @contextmanager
    def _session(self) -> Iterator[Any]:
        with open_session(self._home, load_settings(self._home, self._environment)) as session:
            yield session

    def start(self, number: int, seed: str) -> None:
        """Start the server process of that number, with a seed that none had before."""
        feed = f"feed-{number}"
        self.running[number] = ServerProcess(number, self._home, self._environment, feed, seed, self.said)

    def kill(self, number: int) -> None:
        self.running.pop(number).kill()

    def wait_until_more(self, entries: int, notes: int) -> None:
        """Until every running process has acknowledged so many more entries, and all of them so many checkpoints."""
        before = {number: self.said.entries[number] for number in self.running}
        noted = sum(self.said.made.values())

        def reached() -> bool:
            for process in self.running.values():
                process.check_alive()
            if any(self.said.entries[number] < before[number] + entries for number in self.running):
                return False
            return sum(self.said.made.values()) >= noted + notes

        wait_for(f"{entries} entries of each process and {notes} checkpoints more; {self.said.failed[-3:]}", reached)

    def end(self) -> None:
        """Let all processes end in order."""
        for number in list(self.running):
            self.running.pop(number).end()

    def close(self) -> None:
        """Kill what a failed test left behind."""
        for number in list(self.running):
            self.kill(number)

    def run(self, *arguments: str, **environment: str) -> str:
        """Run the command line on the home; what it printed. It must succeed."""
        done = subprocess.run(
            [sys.executable, "-m", "api.cli", *arguments],
            env={**self._environment, "HOLDFAST_HOME": str(self._home.root), **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{arguments}: {done.stdout[-1000:]}{done.stderr[-2000:]}"
        return done.stdout

    def serve(self, number: int) -> subprocess.Popen[str]:
        """``holdfast serve`` over the home, which speaks as the device of that number. Its first line says where."""
        device = f"feed-{number}"
        return subprocess.Popen(
            [sys.executable, "-m", "api.cli", "serve", "--port", "0", "--device", device, "--json"],
            env={
                **self._environment,
                "HOLDFAST_HOME": str(self._home.root),
                "HOLDFAST_PASSPHRASE_FILE": str(self.passphrase_file),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    @property
    def passphrase_file(self) -> Path:
        file = self.directory / "pass.txt"
        file.write_text(PASSPHRASE)
        return file

    def signer(self, number: int) -> Ed25519Signer:
        """The key of the device of that number."""
        return Ed25519Signer(open_keystore(self._home.keystore, PASSPHRASE).devices[f"feed-{number}"])

    @contextmanager
    def databases(self) -> Iterator[Databases]:
        """The home's databases, to be read."""
        with self._session() as session, Databases(session) as databases:
            yield databases

    def audit(self) -> Audited:
        """Audit the store, and hold everything that was acknowledged against it."""
        said = self.said
        with self._session() as session:
            store = session.vault.store
            with store.read() as tx:
                states = {state.key.hex(): state for state in tx.feeds()}
                faults = [*row_faults(tx), *stray_rows(tx.connection)]
                faults += [f"{key.hex()}: {fault}" for key, fault in lineage_faults(tx)]
                audit_log(log_records(tx), tree_hash_at=feeds_at_hand(tx))
                notes = {one.size: one.root.hex() for one in tx.checkpoints()}
                heads = {
                    (feed, head.length): (head.tree_hash.hex(), head.signature.hex())
                    for feed in states
                    for head in tx.heads(FeedKey(bytes.fromhex(feed)))
                }
                leaves = {
                    (feed, index): tx.node(state.key, 2 * index).hash.hex()
                    for feed, state in states.items()
                    for index in range(state.length)
                }
                for (feed, length), (tree, _) in said.heads.items():
                    if feed in states and length <= states[feed].length:
                        held = stored_tree_hash(tx, FeedKey(bytes.fromhex(feed)), length).hex()
                        faults += [] if held == tree else [f"{feed} at {length} is another tree than was acknowledged"]
                successions = load_successions(tx.connection)
            faults += [
                f"{feed}: {bad}"
                for feed, state in states.items()
                if (bad := audit_feed(store, state.key).first_bad) is not None
            ]
            known = session.start_up.missing()
        return Audited(
            faults=faults + said.contradictions,
            missing_entries=[place for place, leaf in said.leaves.items() if leaves.get(place) != leaf],
            missing_heads=[place for place, head in said.heads.items() if heads.get(place) != head],
            missing_notes=[size for size, root in said.notes.items() if notes.get(size) != root],
            retired={feed for feed, state in states.items() if state.retired},
            successions=successions,
            known_to_sentinel=known,
        )


@pytest.fixture
def new_fleet(tmp_path: Path) -> Iterator[Callable[[str, int], Fleet]]:
    """Makes a home in the database of a URL, for so many server processes; kills what is left of them."""
    made: list[Fleet] = []

    def make(url: str, processes: int) -> Fleet:
        made.append(Fleet(tmp_path, url, processes))
        return made[-1]

    yield make
    for fleet in made:
        fleet.close()


# --- three nodes under Patroni --------------------------------------------------------------------------------------

NODES = ("n1", "n2", "n3")
TTL_S, LOOP_S, RETRY_S = 10, 1, 3
"""For tests only: a server keeps 30, 10 and 10. Shorter, and a busy machine fails over by itself."""


class Cluster:
    """Three PostgreSQL nodes under Patroni and one etcd on the loopback interface, in a directory that is thrown away.

    ``strict``: strictly synchronous replication; else asynchronous. Nothing of it runs as root.
    """

    def __init__(self, directory: Path, binaries: Path, user: str | None, *, strict: bool) -> None:
        self._directory, self._binaries, self._user, self.strict = directory, binaries, user, strict
        ports = iter(_free_ports(2 + 2 * len(NODES)))
        self._etcd_port, self._etcd_peer_port = next(ports), next(ports)
        self.ports = {node: next(ports) for node in NODES}
        self._rest = {node: next(ports) for node in NODES}
        self._patroni: dict[str, subprocess.Popen[bytes]] = {}
        self._etcd: subprocess.Popen[bytes] | None = None
        self._frozen: list[int] = []
        self._left: list[str] = []
        """Memory segments that killed postmasters left behind."""

    @property
    def url(self) -> str:
        """All nodes; holdfast asks for the one that can be written to by itself."""
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.ports.values())
        return f"postgresql://postgres@{hosts}/postgres"

    def start(self) -> None:
        """Start everything, and wait until both standbys stream and, when strict, one of them is synchronous."""
        client, peer = (f"http://127.0.0.1:{port}" for port in (self._etcd_port, self._etcd_peer_port))
        addresses = ["--listen-client-urls", client, "--advertise-client-urls", client, "--listen-peer-urls", peer]
        addresses += ["--initial-advertise-peer-urls", peer, "--initial-cluster", f"e1={peer}"]
        data = ["--name", "e1", "--data-dir", str(self._directory / "etcd"), "--logger", "zap"]
        self._etcd = self._run("etcd", "etcd", *data, *addresses)
        wait_for("etcd", lambda: _answers(f"{client}/health"))
        for node in NODES:
            file = self._directory / f"{node}.json"
            file.write_text(json.dumps(self._settings(node)))
        self._start_node(NODES[0])  # alone, so that it is the one that makes the cluster
        wait_for("the first primary", self.primary)
        for node in NODES[1:]:
            self._start_node(node)
        wait_for("two standbys", self._is_complete)

    def _settings(self, node: str) -> dict[str, Any]:
        parameters = {
            "max_connections": 60,
            "shared_buffers": "32MB",
            "wal_retrieve_retry_interval": "500ms",
            "wal_sender_timeout": 0,  # a standby that is frozen stays connected, however long the test takes
        }
        users = {"superuser": "postgres", "replication": "replicator", "rewind": "rewinder"}
        listen = f"127.0.0.1:{self.ports[node]}"
        rest = f"127.0.0.1:{self._rest[node]}"
        return {
            "scope": "holdfast",
            "name": node,
            "restapi": {"listen": rest, "connect_address": rest},
            "etcd3": {"host": f"127.0.0.1:{self._etcd_port}"},
            "bootstrap": {
                "dcs": {
                    "ttl": TTL_S,
                    "loop_wait": LOOP_S,
                    "retry_timeout": RETRY_S,
                    "maximum_lag_on_failover": 100_000_000,  # else a lossy failover would wait for the old primary
                    "synchronous_mode": self.strict,
                    "synchronous_mode_strict": self.strict,
                    "postgresql": {"use_pg_rewind": True, "parameters": parameters},
                },
                "initdb": [{"encoding": "UTF8"}, {"locale": "C.UTF-8"}, "data-checksums", "no-sync"],
            },
            "postgresql": {
                "listen": listen,
                "connect_address": listen,
                "data_dir": str(self._directory / node),
                "bin_dir": str(self._binaries),
                "pgpass": str(self._directory / f"{node}.pgpass"),
                "parameters": {"unix_socket_directories": str(self._directory)},
                "pg_hba": ["host all all 127.0.0.1/32 trust", "host replication all 127.0.0.1/32 trust"],
                "authentication": {kind: {"username": name, "password": "unused"} for kind, name in users.items()},
            },
            "watchdog": {"mode": "off"},
        }

    def _start_node(self, node: str) -> None:
        self._patroni[node] = self._run(node, "patroni", str(self._directory / f"{node}.json"))

    def _run(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        identity: dict[str, Any] = {} if self._user is None else {"user": self._user, "extra_groups": []}
        if self._user is not None:
            identity["group"] = pwd.getpwnam(self._user).pw_gid
        kept = {name: value for name, value in os.environ.items() if name in {"PATH", "LANG"}}
        with (self._directory / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                command,
                cwd=self._directory,
                env={**kept, "HOME": str(self._directory)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                umask=0o077,
                **identity,
            )

    def primary(self) -> str | None:
        """The node that holds the leader's key and can be written to."""
        return next((node for node in NODES if _answers(f"http://127.0.0.1:{self._rest[node]}/primary")), None)

    def ask(self, query: str) -> tuple[Any, ...]:
        """One row from the primary."""
        options = "?target_session_attrs=read-write&connect_timeout=2"
        with psycopg.connect(self.url + options, autocommit=True) as connection:
            row = connection.execute(query).fetchone()
        assert row is not None
        return row

    def _is_complete(self) -> bool:
        """Under their own names: while a standby is made, its copying process is listed as well, even as the
        synchronous one."""
        with suppress(psycopg.OperationalError):
            streaming, synchronous = self.ask(
                "SELECT count(*), count(*) FILTER (WHERE sync_state = 'sync') FROM pg_stat_replication "
                f"WHERE state = 'streaming' AND application_name IN {NODES}"
            )
            return bool(streaming == 2 and synchronous == int(self.strict))
        return False

    def lag(self) -> int:
        """How many bytes of its log the primary has not been able to send to either standby."""
        (least,) = self.ask("SELECT min(pg_wal_lsn_diff(pg_current_wal_lsn(), sent_lsn)) FROM pg_stat_replication")
        return int(least)

    def waiting_commits(self) -> set[int]:
        """The primary's processes whose commit waits for a standby."""
        (found,) = self.ask("SELECT array_agg(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
        return set(found or ())

    def cancel(self, processes: set[int]) -> None:
        """End what these processes of the primary wait for."""
        for pid in processes:
            self.ask(f"SELECT pg_cancel_backend({pid})")

    def timeline(self) -> str:
        """From the name of the log file: pg_control_checkpoint() goes on to name the old one for a while."""
        return str(self.ask("SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8)")[0])

    def freeze_standbys(self) -> None:
        """Stop what receives the log on the standbys."""
        primary = self.primary()
        for node in NODES:
            if node == primary:
                continue
            (receiver,) = (pid for pid in self._family(node) if b"walreceiver" in _command_line(pid))
            os.kill(receiver, signal.SIGSTOP)
            self._frozen.append(receiver)

    def thaw(self) -> None:
        while self._frozen:
            with suppress(ProcessLookupError):
                os.kill(self._frozen.pop(), signal.SIGCONT)

    def kill_primary(self) -> str:
        """SIGKILL for the primary's Patroni, its postmaster and all children of that, as a power cut would."""
        node = self.primary()
        assert node is not None
        self._patroni[node].kill()
        self._kill_postgres(node)
        self._patroni.pop(node).wait()
        return node

    def _kill_postgres(self, node: str) -> None:
        with suppress(FileNotFoundError, ProcessLookupError):
            main = self._postmaster(node)
            self._left.append((self._directory / node / "postmaster.pid").read_text().splitlines()[6].split()[1])
            os.kill(main, signal.SIGSTOP)  # so that it starts no others meanwhile
            for pid in [*self._family(node), main]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    @contextmanager
    def alone(self, node: str) -> Iterator[str]:
        """The URL of a node that was killed, started without Patroni as it is."""
        control = [str(self._binaries / "pg_ctl"), "-D", str(self._directory / node), "-w"]
        started = self._run(f"{node}-alone", *control, "-o", f"-p {self.ports[node]}", "start")
        assert started.wait() == 0, self.logs()
        try:
            yield f"postgresql://postgres@127.0.0.1:{self.ports[node]}/postgres"
        finally:
            self._run(f"{node}-alone", *control, "-m", "immediate", "stop").wait()

    def _postmaster(self, node: str) -> int:
        return int((self._directory / node / "postmaster.pid").read_text().split()[0])

    def _family(self, node: str) -> list[int]:
        main = self._postmaster(node)
        return list(map(int, Path(f"/proc/{main}/task/{main}/children").read_text().split()))

    def stop(self) -> None:
        """Leave nothing behind. Nobody needs the data, so PostgreSQL is not asked to write it out."""
        self.thaw()
        for node, process in self._patroni.items():
            process.kill()
            process.wait()
            with suppress(FileNotFoundError, ProcessLookupError):
                main = self._postmaster(node)
                os.kill(main, signal.SIGQUIT)
                wait_for(f"{node} to end", lambda main=main: not _is_alive(main))
        if self._etcd is not None:
            self._etcd.kill()
            self._etcd.wait()
        for segment in self._left:
            subprocess.run(["ipcrm", "-m", segment], check=False, stderr=subprocess.DEVNULL)

    def logs(self) -> str:
        """The ends of all logs, for a test that failed."""
        found = sorted(self._directory.glob("*.log"))
        return "\n".join(f"--- {log.name}\n{log.read_text(errors='replace')[-2500:]}" for log in found)


def _free_ports(count: int) -> list[int]:
    """Ports below those from which connections take theirs, all free at once."""
    for _ in range(200):
        first = 20_000 + secrets.randbelow(12_000 - count)
        with suppress(OSError):
            for port in range(first, first + count):
                with socket.socket() as tried:
                    tried.bind(("127.0.0.1", port))
            return list(range(first, first + count))
    raise AssertionError("no free ports for a cluster")


def _answers(url: str) -> bool:
    with suppress(OSError), urllib.request.urlopen(url, timeout=1) as response:
        return bool(response.status == 200)
    return False


def _is_alive(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def _command_line(pid: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


@pytest.fixture(params=["strict", "asynchronous"])
def cluster(request: pytest.FixtureRequest, postgres: Any) -> Iterator[Cluster]:
    """Three nodes, strictly synchronous or asynchronous; skips when Patroni or etcd is not installed."""
    for tool in ("patroni", "etcd"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    with tempfile.TemporaryDirectory(prefix="holdfast-ha-") as name:
        directory = Path(name)
        if postgres.user is not None:
            shutil.chown(directory, postgres.user, pwd.getpwnam(postgres.user).pw_gid)
        made = Cluster(directory, postgres.binaries, postgres.user, strict=request.param == "strict")
        try:
            made.start()
            yield made
        except BaseException as exc:
            exc.add_note(made.logs())
            raise
        finally:
            made.stop()


@pytest.fixture(scope="session")
def wait_until() -> Callable[[str, Callable[[], Any]], Any]:
    """Asks until the answer is true: (what for, what to ask)."""
    return wait_for
