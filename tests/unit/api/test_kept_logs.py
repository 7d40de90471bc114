"""Checkpoint logs that a home keeps for others: only what verifies, only what goes further, and never two histories."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from api import kept_logs
from api.backup import export_archive
from api.bootstrap import Session, open_session
from api.founding import Founding, found_home
from api.home import Home
from api.kept_logs import KeptLogs
from api.log_archive import own_log_size, write_log_archive
from api.log_exchange import RemoteLog, remote_logs
from api.settings import default_settings_text, load_settings
from identity.errors import AuditError, LimitExceeded, MalformedError, RefusedError, VerificationError
from identity.event import DeviceClass
from identity.keystore import ONLY_FOR_TESTING, KeyRing, open_keystore
from ledger.entry import Entry

PASSPHRASE = "correct horse battery staple"


class Owner:
    """A home with a log, open."""

    def __init__(self, session: Session, ring: KeyRing) -> None:
        self.session = session
        self.ring = ring
        self.identity = session.vault.history().identity

    def write(self, text: str) -> None:
        """Another entry, under another checkpoint."""
        vault = self.session.vault
        key = next((one.state.key for one in vault.feeds() if one.name == "notes"), None)
        key = key or vault.create_feed(self.ring, "till", "notes")
        vault.append(self.ring, key, [Entry("note", 1, {"text": text})])
        vault.checkpoint(self.ring)

    def archive(self) -> bytes:
        out = io.BytesIO()
        write_log_archive(self.session, out)
        return out.getvalue()

    @property
    def size(self) -> int:
        return own_log_size(self.session)


@pytest.fixture
def make_owner(tmp_path: Path) -> Iterator[Callable[..., Owner]]:
    """Founds a home; with ``copy_of`` it is a copy of another one as it was last closed."""
    with ExitStack() as stack:
        count = 0

        def make(copy_of: Path | None = None) -> Owner:
            nonlocal count
            count += 1
            home = Home(tmp_path / f"home{count}")
            if copy_of is not None:
                shutil.copytree(copy_of, home.root)
            else:
                founding = Founding(
                    label="bank",
                    devices={"till": DeviceClass.DEVICE},
                    log_name="bank.example",
                    chain=None,
                    fund=None,
                    authorities=[],
                    settings=default_settings_text({"kind": "none"}, []),
                    kdf=ONLY_FOR_TESTING,
                )
                found_home(home, founding, PASSPHRASE, now_ms=1_767_225_600_000)
            settings = load_settings(home, {"HOLDFAST_DEV_DIR": str(tmp_path / "dev")})
            session = stack.enter_context(open_session(home, settings))
            return Owner(session, open_keystore(settings.keystore, PASSPHRASE))

        yield make


@pytest.fixture
def owner(make_owner: Callable[..., Owner]) -> Owner:
    made = make_owner()
    made.write("one")
    return made


@pytest.fixture
def logs(tmp_path: Path) -> KeptLogs:
    return KeptLogs(tmp_path / "logs")


def files(logs: KeptLogs) -> list[str]:
    return sorted(path.name for path in logs._folder.rglob("*") if path.is_file())


def keep(logs: KeptLogs, data: bytes, identity: bytes) -> Any:
    return logs.keep(io.BytesIO(data), identity)


def test_a_log_takes_the_place_of_its_own_beginning(owner: Owner, logs: KeptLogs) -> None:
    first = owner.archive()
    kept = keep(logs, first, owner.identity)
    assert (kept.size, kept.identity, logs.known()) == (owner.size, owner.identity, [kept])
    owner.write("two")
    longer = keep(logs, owner.archive(), owner.identity)
    assert longer.size == owner.size > kept.size
    assert logs.known() == [longer]
    assert logs.find(longer.log) == logs.find(longer.log, owner.identity) == longer
    assert logs.find(longer.log, bytes(32)) is None
    assert keep(logs, first, owner.identity) == longer, "an older one changes nothing"
    assert files(logs) == [longer.path.name]


def test_it_holds_no_entry(owner: Owner) -> None:
    owner.write("a secret of the bank")
    assert b"secret" not in owner.archive()


def test_what_is_altered_or_cut_anywhere_is_refused_whole(owner: Owner, logs: KeptLogs) -> None:
    data = owner.archive()
    for at in range(0, len(data), max(1, len(data) // 40)):
        broken = bytearray(data)
        broken[at] ^= 1
        for bad in (bytes(broken), data[:at]):
            with pytest.raises(AuditError):
                keep(logs, bad, owner.identity)
    assert files(logs) == []


def test_only_logs_of_the_one_who_brings_them(owner: Owner, logs: KeptLogs, make_owner: Callable[..., Owner]) -> None:
    stranger = make_owner()
    with pytest.raises(VerificationError, match="no log of identity"):
        keep(logs, owner.archive(), stranger.identity)
    exported = io.BytesIO()
    export_archive(owner.session.settings, exported, made_ms=1)
    with pytest.raises(MalformedError, match="no archive of a log"):
        keep(logs, exported.getvalue(), owner.identity)
    assert files(logs) == []


def test_two_histories_are_both_kept_and_neither_replaces_the_other(
    owner: Owner, logs: KeptLogs, make_owner: Callable[..., Owner]
) -> None:
    twin = make_owner(owner.session.home.root)
    owner.write("two")
    twin.write("another two")
    twin.write("and a third")
    kept = keep(logs, owner.archive(), owner.identity)
    for _ in range(2):
        with pytest.raises(VerificationError, match="contradicts"):
            keep(logs, twin.archive(), owner.identity)
    assert logs.known() == [kept]
    beside = logs.contradiction(kept.log, owner.identity)
    assert beside is not None
    assert beside.read_bytes()[:19] == b"holdfast/v1 archive"
    owner.write("three")
    assert keep(logs, owner.archive(), owner.identity).size == owner.size
    twin.session.close()


def test_a_shorter_history_that_contradicts_is_found_too(
    owner: Owner, logs: KeptLogs, make_owner: Callable[..., Owner]
) -> None:
    twin = make_owner(owner.session.home.root)
    for text in ("two", "three", "four"):
        owner.write(text)
    keep(logs, owner.archive(), owner.identity)
    twin.write("another two")
    with pytest.raises(VerificationError, match="contradicts"):
        keep(logs, twin.archive(), owner.identity)


def test_what_is_kept_is_bounded(owner: Owner, logs: KeptLogs, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as small:
        small.setattr(kept_logs, "MAX_KEPT_BYTES", 100)
        with pytest.raises(LimitExceeded):
            keep(logs, owner.archive(), owner.identity)
    with monkeypatch.context() as few:
        few.setattr(kept_logs, "_MOST_OF_AN_IDENTITY", 0)
        with pytest.raises(RefusedError, match="are kept already"):
            keep(logs, owner.archive(), owner.identity)
    assert files(logs) == []


def test_files_of_others_in_the_folder_are_none_of_its_business(owner: Owner, logs: KeptLogs) -> None:
    kept = keep(logs, owner.archive(), owner.identity)
    (kept.path.parent / "notes.txt").write_text("x")
    (kept.path.parent.parent / "lost+found").mkdir()
    assert logs.known() == [kept]


class Answering:
    """A node that answers one thing."""

    def __init__(self, answer: Any) -> None:
        self.json = answer

    def ask(self, *_: object, **__: object) -> Answering:
        return self


def test_the_example_of_the_specification(root: Path) -> None:
    page = (root / "docs" / "spec" / "kept-log.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```json\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    own, other = remote_logs(Answering(json.loads(example)), bytes(32))  # type: ignore[arg-type]
    assert isinstance(own, RemoteLog)
    assert (own.size, own.own, other.size, other.own) == (13, True, 11, False)


@pytest.mark.parametrize(
    "said",
    [
        None,
        {},
        {"logs": {}},
        {"logs": [{}]},
        {"logs": [{"log": "00", "identity": "00" * 32, "size": 1, "own": True}]},
        {"logs": [{"log": "00" * 32, "identity": "00" * 32, "size": -1, "own": True}]},
        {"logs": [{"log": "00" * 32, "identity": "00" * 32, "size": 1 << 60, "own": True}]},
        {"logs": [{"log": "00" * 32, "identity": "00" * 32, "size": "1", "own": True}]},
    ],
)
def test_what_a_node_says_that_is_no_list_of_logs(said: Any) -> None:
    with pytest.raises(MalformedError):
        remote_logs(Answering(said), bytes(32))  # type: ignore[arg-type]
