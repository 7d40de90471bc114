"""An audit in several processes: what they find, and the errors that they end with, arrive whole."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from identity.errors import AuditError, DamagedFile, ReadOnlyState, RefusedError, StorageError, StoreBusy
from ledger import audit
from ledger.audit import BadReason, audit_feed
from ledger.audit_processes import in_processes
from ledger.storage.engine import open_store
from ledger.store import FeedKey, Store

POS = 1 << 40


@pytest.fixture(autouse=True)
def cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "_WORTH_CUTTING", 0)


def raise_busy() -> Store:
    raise StoreBusy("somebody writes", hint="wait")


def raise_read_only() -> Store:
    raise ReadOnlyState("diverged", "the text")


def die() -> Store:
    os._exit(1)


@pytest.mark.parametrize("known", ["sqlite", "postgresql"], indirect=True)
def test_feed_that_holds(known: Any, member: Any, fill_feed: Any) -> None:
    key = fill_feed(known, member, [[b"%d" % n] for n in range(40)] + [[b"x"] * 60])
    steps: list[tuple[int, int]] = []
    found = audit_feed(known, key, lambda *step: steps.append(step), elsewhere=in_processes(known.reopen, 2))
    assert found == audit_feed(known, key)
    assert (found.entries, found.heads, found.first_bad) == (100, 41, None)
    assert steps == sorted(steps)
    assert steps[-1] == (100, 100)


def test_first_bad_entry_is_named(tmp_path: Any, member: Any, new_sqlite: Any, fill_feed: Any, tamper: Any) -> None:
    store = new_sqlite(tmp_path / "audited.db")
    key = fill_feed(store, member, [[b"x"]] * 60)
    store.close()
    for index in (31, 50):
        tamper(tmp_path / "audited.db", f"UPDATE block SET data = x'00' WHERE pos = {POS + index}")
    store = open_store(tmp_path / "audited.db", read_only=True)
    found = audit_feed(store, key, elsewhere=in_processes(store.reopen, 2)).first_bad
    store.close()
    assert found is not None
    assert (found.index, found.reason) == (31, BadReason.BLOCK_DIFFERS)


@pytest.mark.parametrize(
    ("reopen", "kind", "text", "hint"),
    [
        (raise_busy, StoreBusy, "somebody writes", "wait"),
        (raise_read_only, StorageError, "diverged: the text", ""),
        (partial(open_store, "/nonexistent/store.db"), StorageError, "there is no store", ""),
        (partial(open_store, __file__), DamagedFile, "is not a SQLite database", ""),
        (die, StorageError, "ended before its work was done", ""),
    ],
)
@pytest.mark.parametrize("known", ["memory"], indirect=True)
def test_errors_arrive_whole(
    known: Store, member: Any, fill_feed: Any, reopen: Callable[[], Store], kind: type[AuditError], text: str, hint: str
) -> None:
    key: FeedKey = fill_feed(known, member, [[b"x"]] * 20)
    with pytest.raises(StorageError, match=text) as caught:
        audit_feed(known, key, elsewhere=in_processes(reopen, 2))
    assert type(caught.value) is kind
    assert caught.value.hint == hint
    assert not isinstance(caught.value, RefusedError)
