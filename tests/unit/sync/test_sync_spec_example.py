"""The worked example of docs/spec/sync-protocol.md, made again from the seeds, names and times that it states."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from identity.history import build_add_device, build_inception, fold, key_commitment, sign_event
from identity.keys import Ed25519Signer
from ledger.feed import create_feed
from ledger.identities import add_events
from ledger.storage.engine import open_store
from ledger.writer import StoreWriter
from sync.changes import Changes
from sync.database import Database, found, register_database
from sync.frames import parse_frame
from sync.replica import DatabaseReplica, NewReplica
from sync.session import PeerDone, Session
from sync.storage.projection import feed_name
from sync.transaction import Founding, database_id

SPEC = (Path(__file__).resolve().parents[3] / "docs" / "spec" / "sync-protocol.md").read_text("utf-8")
NOW = 1_790_000_120_000


def stated_frames() -> list[tuple[str, bytes]]:
    """Each frame of the example by its name, ``who: what``."""
    block = re.findall(r"```text\n(.*?)```", SPEC, re.DOTALL)[0]
    named = re.findall(r"^(\S.*) =\n((?: {4}[0-9a-f]+\n)+)", block, re.MULTILINE)
    return [(name, bytes.fromhex("".join(lines.split()))) for name, lines in named]


@contextmanager
def laptop(directory: Path) -> Iterator[Database]:
    """The database ``notes`` of docs/spec/bundle.md."""
    root, following, device = (Ed25519Signer(bytes([number]) * 32) for number in (1, 2, 3))
    inception = build_inception(
        label="Ada",
        root_keys=[root.public_key],
        next_digests=[key_commitment(following.public_key)],
        time_ms=1_790_000_000_000,
    )
    begun = sign_event(inception, [(0, root)])
    history = fold([begun])
    added = build_add_device(history, device=device.public_key, name="laptop", time_ms=1_790_000_060_000)
    events = [begun, sign_event(added, [(0, root), (1, device)])]
    founding = Founding("notes", history.identity, b"\x09" * 16)
    uid = database_id(founding)
    with closing(open_store(str(directory / "store.db"), create=True)) as store:
        with store.write() as tx:
            add_events(tx, history.identity, events)
        key = create_feed(store, device, history.identity, feed_name(uid))
        register_database(store, uid, "notes", NOW)
        with StoreWriter(store, [device]) as writer:
            database = Database(store, uid, lambda: NOW, writer=writer, feed=key)
            found(database, founding, events)
            changes = Changes()
            changes.put("notes", "1", {"text": "first"})
            database.commit(changes)
            yield database


def exchange(phone: Session, bank: Session) -> list[tuple[str, bytes]]:
    """One request and its answer."""
    frames = [("phone", frame) for frame in iter(phone.next_frame, None)]
    for _, frame in frames:
        bank.receive(frame)
    answer = list(iter(bank.next_frame, None))
    for frame in answer:
        phone.receive(frame)
    frames += (("laptop", frame) for frame in answer)
    return [
        (f"{who}: {type(parse_frame(frame)).__name__.lower().removesuffix('frame')}", frame) for who, frame in frames
    ]


def made_again(directory: Path) -> list[tuple[str, bytes]]:
    with (
        laptop(directory) as database,
        closing(open_store(str(directory / "new.db"), create=True)) as store,
    ):
        return exchange(Session(NewReplica(store, lambda: NOW)), Session(DatabaseReplica(database)))


def test_example_is_what_its_inputs_give(tmp_path: Path) -> None:
    assert stated_frames() == made_again(tmp_path)


def test_example_brings_the_document(tmp_path: Path) -> None:
    with closing(open_store(str(tmp_path / "new.db"), create=True)) as store:
        replica = NewReplica(store, lambda: NOW)
        session = Session(replica)
        list(iter(session.next_frame, None))
        events = [
            event for name, frame in stated_frames() if name.startswith("laptop") for event in session.receive(frame)
        ]
        assert isinstance(events[-1], PeerDone)
        assert replica.database is not None
        state = Database(store, replica.database, lambda: NOW).get("notes", "1")
        assert state is not None
        assert state.view.fields == {"text": "first"}


def test_stated_numbers_are_those_of_the_code() -> None:
    from api import peer
    from api.routes import sync as routes
    from sync import frames, session

    stated = {
        "header": frames.MAX_HEADER_BYTES,
        "body": frames.MAX_BODY_BYTES,
        "parts": frames.MAX_PARTS,
        "told": frames.MAX_TOLD,
        "wanted": frames.MAX_WANTED,
        "unacked": session.MAX_UNACKED,
        "idle": session.MAX_IDLE,
        "lines": session.MAX_POINTS_OF_A_FEED,
        "identities": session.MAX_TOLD_IDENTITIES,
        "request": routes.MAX_REQUEST_BYTES,
        "answer": routes.MAX_RESPONSE_BYTES,
        "asked": peer._REQUEST_BYTES,
    }
    rows = dict(re.findall(r"^\| `(\w+)` \| ([\d,]+) \|", SPEC, re.MULTILINE))
    assert {name: int(number.replace(",", "")) for name, number in rows.items()} == stated
