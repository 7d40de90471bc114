"""Logs that go over whole, feeds that are exported, and a backup of the node while it serves."""

from __future__ import annotations

import io
import threading
from typing import Any

import pytest

from api.backup import verify_archive
from api.routes import logs as routes
from api.service import Limits
from ledger.archive import Purpose
from ledger.log_transfer import MAGIC
from ledger.transfer import FIRST_LINE

ARCHIVE = "application/vnd.holdfast.archive"


def test_the_nodes_own_log_is_listed_and_given_once_it_has_a_checkpoint(served: Any) -> None:
    assert served("GET", "/v1/logs").json()["logs"] == []
    log = served.node.session.vault.log_descriptor()[0].hex()
    assert served("GET", f"/v1/logs/{log}").status_code == 404
    served.put("1", owner="Novak")
    served("POST", "/v1/checkpoints", {})
    (own,) = served("GET", "/v1/logs?database=bank").json()["logs"]
    assert (own["log"], own["own"], own["size"]) == (log, True, 3)
    given = served("GET", f"/v1/logs/{log}?database=bank")
    assert given.headers["content-type"] == ARCHIVE
    loaded = verify_archive(io.BytesIO(given.content))
    assert (loaded.header.purpose, loaded.feeds) == (Purpose.LOG, ())
    assert b"Novak" not in given.content


def test_a_log_that_is_not_here_and_one_that_is_none(served: Any) -> None:
    assert served("GET", f"/v1/logs/{'0f' * 32}").status_code == 404
    assert served("GET", "/v1/logs/zz").status_code == 400
    for body in (b"", b"{}", MAGIC, b"holdfast/v1 archive\n" + bytes(100)):
        refused = served("PUT", "/v1/databases/bank/logs", body, Content_Type=ARCHIVE)
        assert refused.status_code == 400, refused.text


def test_a_log_of_somebody_else_is_not_kept(served: Any) -> None:
    """The gate says who asks, and this log is not theirs."""
    served("POST", "/v1/checkpoints", {"restate": True})
    log = served.node.session.vault.log_descriptor()[0].hex()
    data = served("GET", f"/v1/logs/{log}").content
    assert served("PUT", "/v1/databases/bank/logs", data, Content_Type=ARCHIVE).status_code == 422
    assert served.node.logs.known() == []


def test_a_log_that_is_too_long_is_refused_before_it_is_read(make_served: Any) -> None:
    served = make_served(Limits(import_bytes=1000))
    assert served("PUT", "/v1/databases/bank/logs", bytes(1001), Content_Type=ARCHIVE).status_code == 413


def test_a_feed_is_exported_whole(served: Any) -> None:
    served.put("1", owner="Novak")
    (feed,) = served("GET", "/v1/feeds?database=bank").json()["feeds"]
    given = served("GET", f"/v1/feeds/{feed['key']}/export?database=bank")
    assert given.content.startswith(FIRST_LINE)
    assert given.content.count(b"Novak") == 1
    assert served("GET", f"/v1/feeds/{'y' * 52}/export").status_code == 404


def test_what_cannot_be_written_is_a_problem_and_not_half_an_answer(
    served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from identity.errors import DamagedFile

    def damaged(*_: object) -> None:
        raise DamagedFile("a row is not what it was")

    served.put("1", owner="Novak")
    (feed,) = served("GET", "/v1/feeds?database=bank").json()["feeds"]
    monkeypatch.setattr(routes, "write_feed", damaged)
    answered = served("GET", f"/v1/feeds/{feed['key']}/export?database=bank")
    assert answered.headers["content-type"] == "application/problem+json"


# --- backups ---


def backup(served: Any, **body: object) -> Any:
    return served("POST", "/v1/backup", body)


def test_a_backup_holds_everything_and_the_keystore_only_when_it_is_asked_for(served: Any) -> None:
    served.put("1", owner="Novak")
    for keystore in (False, True):
        made = backup(served, keystore=keystore)
        assert made.headers["content-type"] == ARCHIVE
        loaded = verify_archive(io.BytesIO(made.content))
        assert loaded.header.purpose is Purpose.BACKUP
        assert ("keystore.hfk" in loaded.files) == keystore
    assert b"Novak" in made.content
    assert "keystore.hfk" not in verify_archive(io.BytesIO(backup(served).content)).files
    assert backup(served, keystore="yes").status_code == 400
    assert backup(served, keys=True).status_code == 400


def test_a_backup_is_of_one_moment_while_others_write(served: Any) -> None:
    stop, written = threading.Event(), 0

    def write() -> None:
        nonlocal written
        while not stop.is_set() and written < 200:
            served.put(str(written), owner="Novak")
            written += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        sizes = [verify_archive(io.BytesIO(backup(served).content)).entries for _ in range(3)]
    finally:
        stop.set()
        writer.join()
    assert sizes == sorted(sizes)
    assert written > 0


def test_one_backup_is_made_at_a_time_and_nothing_is_left_behind(
    served: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = set(tmp_path.iterdir())
    with served.node.backing_up():
        refused = backup(served)
    assert (refused.status_code, refused.json()["type"].rpartition(":")[2]) == (503, "busy")
    assert backup(served).status_code == 200
    assert set(tmp_path.iterdir()) == before
