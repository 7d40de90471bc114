"""The vault as a program uses it, without a chain. What a real home's guard says: tests/faults/test_rollback.py."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
from sqlalchemy import text

from anchoring.evidence import parse_evidence
from anchoring.storage import StoredTimestamp, add_timestamp
from api.founding import Founded, Founding, found_home
from api.home import Home
from api.vault import Vault, device_signer, log_signer, root_signers
from identity.errors import (
    AuditError,
    ConflictError,
    HistoryError,
    MalformedError,
    MissingEvidenceError,
    NotRecorded,
    ReadOnlyState,
    RefusedError,
    StorageError,
    StoreBusy,
    TransportError,
    Unacknowledged,
    UnknownOutcome,
)
from identity.event import DeviceClass, RevocationReason
from identity.history import build_inception, build_rotate_root, fold, key_commitment, parse_signed_event, sign_event
from identity.keys import Ed25519Signer, generate_seed
from identity.keystore import ONLY_FOR_TESTING, KeyRing, open_keystore
from identity.recovery import generate_phrase, root_seed
from identity.textforms import to_zbase32
from ledger.entry import Entry, Record, encode_record, record_entry
from ledger.manifest import Continuation, FeedDescription, device_manifest, encode_manifest, feed_key
from ledger.merkle import EMPTY_TREE_HASH, tree_hash
from ledger.storage import leases
from ledger.storage.engine import open_store
from ledger.storage.sqlite import open_sqlite
from ledger.store import Committed, FeedKey
from ledger.succession import continue_feed, retire_local_feeds

NOW: Final = 1_767_225_600_000
PASSPHRASE: Final = "a passphrase"


class Guard:
    """Says no when a test tells it to, and counts how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.error: AuditError | None = None

    def require_writable(self, vault: Vault) -> None:
        self.asked += 1
        if self.error is not None:
            raise self.error

    def require_appendable(self, vault: Vault) -> bool:
        self.require_writable(vault)
        return False

    def meet_history(self, tx: object, incarnation: str) -> bool:
        return False

    def check_log(self, tx: object) -> None:
        pass


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, Founded]:
    """A new home, of which each test has a copy."""
    home = Home(tmp_path_factory.mktemp("template") / "home")
    founding = Founding(
        label="bank",
        devices={"laptop": DeviceClass.DEVICE, "phone": DeviceClass.DEVICE},
        log_name="bank.example",
        chain=None,
        fund=None,
        authorities=[],
        settings="",
        kdf=ONLY_FOR_TESTING,
    )
    return home, found_home(home, founding, PASSPHRASE, now_ms=NOW)


@pytest.fixture
def home(template: tuple[Home, Founded], tmp_path: Path) -> Home:
    return Home(shutil.copytree(template[0].root, tmp_path / "home"))


@pytest.fixture
def founded(template: tuple[Home, Founded]) -> Founded:
    return template[1]


@pytest.fixture
def ring(home: Home, founded: Founded) -> KeyRing:
    return open_keystore(home.keystore, PASSPHRASE)


@pytest.fixture
def guard() -> Guard:
    return Guard()


@pytest.fixture
def vault(home: Home, founded: Founded, guard: Guard) -> Iterator[Vault]:
    with closing(Vault(open_sqlite(home.database), guard)) as opened:
        yield opened


@pytest.fixture
def ledger(vault: Vault, ring: KeyRing) -> FeedKey:
    return vault.create_feed(ring, "laptop", "ledger")


def entry(number: int = 0) -> Entry:
    return record_entry(Record("notes", {"n": number}), NOW)


def block(number: int) -> bytes:
    return encode_record("notes", {"n": number}, NOW)


# --- whose store it is ----------------------------------------------------------------------------------------------


def test_a_new_store_is_its_founders(vault: Vault, founded: Founded) -> None:
    log_id, descriptor = vault.log_descriptor()
    assert (log_id, descriptor.name, descriptor.chain) == (founded.log_id, "bank.example", None)
    history = vault.history()
    assert (history.identity, history.label, history.logs) == (founded.identity, "bank", (founded.log_id,))
    assert vault.identities() == [founded.identity]
    assert [event.seq for event in vault.events()] == [0, 1, 2, 3]


def test_a_store_without_log_and_identity(tmp_path: Path, guard: Guard) -> None:
    with closing(Vault(open_sqlite(tmp_path / "empty.db", create=True), guard)) as vault:
        for look in (vault.log_descriptor, vault.history, vault.events):
            with pytest.raises(MissingEvidenceError):
                look()
        assert vault.feeds() == []


def test_another_identitys_events_do_not_change_whose_store_it_is(vault: Vault, founded: Founded) -> None:
    root = Ed25519Signer(bytes(32))
    inception = build_inception(
        label="another", root_keys=[root.public_key], next_digests=[key_commitment(bytes(32))], time_ms=0
    )
    theirs = vault.import_events([sign_event(inception, [(0, root)])])
    assert theirs.label == "another"
    assert vault.history(theirs.identity) == theirs
    assert vault.history().identity == founded.identity
    with pytest.raises(MissingEvidenceError):
        vault.history(bytes(32))


def test_events_that_do_not_fold_are_not_kept(vault: Vault) -> None:
    before = vault.events()
    events = [parse_signed_event(event.signed_event) for event in before]
    root = Ed25519Signer(bytes(32))
    stranger = build_rotate_root(
        fold(events), root_keys=[root.public_key], next_digests=[key_commitment(bytes(32))], time_ms=0
    )
    with pytest.raises(HistoryError):
        vault.import_events([*events, sign_event(stranger, [(0, root)])])
    assert vault.events() == before


def test_an_event_that_is_here_already_is_left_as_it_is(vault: Vault) -> None:
    before = vault.events()
    events = [parse_signed_event(event.signed_event) for event in before]
    forged = replace(events[-1], signatures=((0, bytes(64)),))
    vault.import_events([*events[:-1], forged])
    assert vault.events() == before


# --- feeds ----------------------------------------------------------------------------------------------------------


def test_a_feed_is_found_by_its_name_or_its_key(vault: Vault, ledger: FeedKey) -> None:
    info = vault.find_feed("ledger")
    assert (info.state.key, info.name, info.key_text) == (ledger, "ledger", to_zbase32(ledger))
    assert vault.find_feed(to_zbase32(ledger)) == info
    for unknown in ("Ledger", "", to_zbase32(bytes(32))):
        with pytest.raises(MissingEvidenceError) as missing:
            vault.find_feed(unknown)
        assert missing.value.hint


def test_two_feeds_of_one_name_are_told_apart_by_key(vault: Vault, ring: KeyRing, ledger: FeedKey) -> None:
    other = vault.create_feed(ring, "phone", "ledger")
    with pytest.raises(MissingEvidenceError, match="2 feeds"):
        vault.find_feed("ledger")
    assert vault.find_feed(to_zbase32(other)).state.key == other


def test_a_feed_that_is_called_by_a_key_is_not_taken_for_it(vault: Vault, ring: KeyRing) -> None:
    """Also where the feed with that key is not here."""
    key = to_zbase32(bytes(32))
    vault.create_feed(ring, "phone", key)
    with pytest.raises(MissingEvidenceError):
        vault.find_feed(key)


def test_a_feed_is_made_once(vault: Vault, ring: KeyRing, ledger: FeedKey) -> None:
    with pytest.raises(ConflictError):
        vault.create_feed(ring, "laptop", "ledger")


def test_a_feed_that_continues_another_retires_it(vault: Vault, ring: KeyRing, ledger: FeedKey) -> None:
    vault.append(ring, ledger, [entry()])
    state = vault.find_feed("ledger").state
    older = Continuation(ledger, state.length, tree_hash(state.roots))
    newer = vault.create_feed(ring, "laptop", "ledger", continues=older)
    with pytest.raises(RefusedError, match="retired"):
        vault.append(ring, ledger, [entry()])
    assert vault.append(ring, newer, [entry()]).length == 1


def test_entries_are_appended_under_one_signature(vault: Vault, ring: KeyRing, ledger: FeedKey) -> None:
    assert vault.append(ring, ledger, [entry(0)]).start == 0
    result = vault.append(ring, ledger, [entry(1), entry(2)])
    assert (result.start, result.length) == (1, 3)
    with vault.store.read() as tx:
        assert [head.length for head in tx.heads(ledger)] == [1, 3]


def test_a_stream_is_appended_in_batches_and_counted(vault: Vault, ring: KeyRing, ledger: FeedKey) -> None:
    counted: list[int] = []
    vault.append(ring, ledger, [entry()])
    result = vault.import_blocks(ring, ledger, map(block, range(7)), batch=3, on_batch=counted.append)
    assert result is not None
    assert (result.start, result.length, counted) == (1, 8, [3, 3, 1])
    with vault.store.read() as tx:
        assert [head.length for head in tx.heads(ledger)] == [1, 4, 7, 8]


def test_threads_share_a_writer(vault: Vault, ring: KeyRing, ledger: FeedKey) -> None:
    phones = vault.create_feed(ring, "phone", "approvals")
    told: list[FeedKey] = []
    with (
        vault.start_writer(ring, after_commit=lambda results: told.extend(one.key for one in results)) as writer,
        ThreadPoolExecutor(4) as pool,
    ):
        futures = [pool.submit(writer.append, key, [block(n)]) for n in range(10) for key in (ledger, phones)]
        assert sorted(future.result().start for future in futures) == sorted([*range(10)] * 2)
    assert {info.name: info.state.length for info in vault.feeds()} == {"ledger": 10, "approvals": 10}
    assert set(told) == {ledger, phones}


def test_a_feed_on_a_server_is_written_by_one_program_at_a_time(
    vault: Vault, ring: KeyRing, guard: Guard, empty_postgres: str
) -> None:
    with closing(Vault(open_store(empty_postgres), guard)) as first:
        first.import_events([parse_signed_event(event.signed_event) for event in vault.events()])
        key, free = (first.create_feed(ring, "laptop", name) for name in ("ledger", "free"))
        with first.start_writer(ring) as writer, closing(Vault(open_store(empty_postgres), guard)) as second:
            writer.append(key, [block(0)])
            assert first.append(ring, key, [entry(1)]).start == 1, "the program's own commands are not kept out"
            with pytest.raises(StoreBusy, match="another process"):
                second.append(ring, key, [entry(2)])
            assert second.append(ring, free, [entry(3)]).start == 0
    with closing(Vault(open_store(empty_postgres), guard)) as third:
        assert third.append(ring, key, [entry(4)]).start == 2, "what was closed has let go"


def test_a_shared_writer_goes_on_in_a_new_feed(vault: Vault, ring: KeyRing, ledger: FeedKey) -> None:
    vault.append(ring, ledger, [entry()])
    with vault.start_writer(ring) as writer:
        assert writer.append(ledger, [block(1)]).key == ledger
        with vault.store.write() as tx:
            retire_local_feeds(tx)
        results = [writer.append(ledger, [block(n)]) for n in (2, 3)]
    (newer,) = {result.key for result in results}
    assert newer == vault.find_feed("ledger").state.key != ledger
    assert [(result.start, result.length) for result in results] == [(0, 1), (1, 2)]
    assert vault.append(ring, newer, [entry(4)]).length == 3


def test_a_shared_writer_does_not_follow_what_its_user_continued(vault: Vault, ring: KeyRing, ledger: FeedKey) -> None:
    with vault.start_writer(ring) as writer:
        vault.create_feed(ring, "laptop", "ledger", continues=Continuation(ledger, 0, EMPTY_TREE_HASH))
        with pytest.raises(RefusedError, match="retired"):
            writer.append(ledger, [block(1)])


@pytest.mark.parametrize("found", [None, ReadOnlyState("behind-anchor", "the store is older than its chain")])
def test_a_check_that_could_not_be_made_is_repeated(
    vault: Vault,
    ring: KeyRing,
    ledger: FeedKey,
    guard: Guard,
    monkeypatch: pytest.MonkeyPatch,
    found: AuditError | None,
) -> None:
    monkeypatch.setattr("api.vault.RETRY_S", 0.01)
    monkeypatch.setattr(Guard, "require_appendable", lambda *_: True)
    guard.error = TransportError("the chain does not answer")
    vault = Vault(vault.store, guard)  # another start
    with closing(vault), vault.start_writer(ring) as writer:
        first = writer.append(ledger, [block(1)])
        assert first.key != ledger
        asked = guard.asked
        until(lambda: guard.asked > asked + 1)
        guard.error = found
        if found is None:
            until(lambda: not vault.require_appendable())
            vault.require_writable()
            assert writer.append(ledger, [block(2)]).key == first.key, "what was continued stays so"
        else:
            until(lambda: raises(ReadOnlyState, lambda: writer.append(ledger, [block(3)])))


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def raises(error: type[Exception], call: Callable[[], object]) -> bool:
    try:
        call()
    except error:
        return True
    return False


def test_nobody_is_told_that_all_is_well_before_the_store_has_recorded_it(
    vault: Vault, ring: KeyRing, ledger: FeedKey
) -> None:
    told: list[Committed] = []

    def fail(_: Committed) -> None:
        raise StorageError("the sentinel cannot be written")

    vault.store.after_commit = fail
    with vault.start_writer(ring) as writer, pytest.raises(Unacknowledged, match="sentinel") as refused:
        writer.append(ledger, [block(1)])
    assert (refused.value.start, refused.value.length) == (0, 1)
    with pytest.raises(NotRecorded, match="sentinel"):
        vault.append(ring, ledger, [entry(2)])
    vault.store.after_commit = told.append
    assert vault.append(ring, ledger, [entry(3)]).start == 2
    assert [one.feeds[0].after.length for one in told] == [3]


def test_what_a_commit_without_an_answer_wrote_is_recorded_before_it_is_told(
    vault: Vault, ring: KeyRing, ledger: FeedKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shared writer looks what became of it; its users hear of it only when the sentinel has."""
    told: list[int] = []
    vault.store.after_commit = lambda one: told.extend(change.after.length for change in one.feeds)
    writing = vault.store._writing
    assert writing is not None
    commit, answers = writing._commit, iter([False])

    def unanswered(connection: Any) -> None:
        commit(connection)
        if not next(answers, True):
            raise UnknownOutcome("nobody answered")

    monkeypatch.setattr(writing, "_commit", unanswered)
    with vault.start_writer(ring) as writer:
        assert writer.append(ledger, [block(1)]).length == 1
        assert told == [1]
        writer.append(ledger, [block(2)])
    assert told == [1, 2]


def test_what_another_process_wrote_in_the_place_of_a_commit_without_an_answer_is_not_recorded_as_ours(
    vault: Vault, ring: KeyRing, ledger: FeedKey, guard: Guard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The feed is as long as that commit would have made it, and longer: by another hand."""
    told: list[tuple[int, int]] = []
    vault.store.after_commit = lambda one: told.extend((change.start, change.after.length) for change in one.feeds)
    writing = vault.store._writing
    assert writing is not None
    commit, answers = writing._commit, iter([False])

    def lost(connection: Any) -> None:
        if not next(answers, True):
            raise UnknownOutcome("nobody answered")
        commit(connection)

    monkeypatch.setattr(writing, "_commit", lost)
    with pytest.raises(UnknownOutcome):
        vault.append(ring, ledger, [entry(1), entry(2)])
    with closing(Vault(vault.store.reopen(), guard)) as other:
        assert other.append(ring, ledger, [entry(number) for number in range(3, 7)]).length == 4
    assert vault.append(ring, ledger, [entry(7)]).length == 5
    assert told == [(4, 5)]


def test_a_feed_of_another_history_of_the_database_is_continued(
    vault: Vault, ring: KeyRing, guard: Guard, empty_postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failover: by a program with a shared writer, and by a command."""
    with closing(Vault(open_store(empty_postgres), guard)) as first:
        first.import_events([parse_signed_event(event.signed_event) for event in vault.events()])
        keys = [first.create_feed(ring, "laptop", name) for name in ("ledger", "notes")]
        for key in keys:
            first.append(ring, key, [entry(1)])
    failed_over = text("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint, '1/0000000F'")
    monkeypatch.setitem(leases._SURROUNDINGS, "postgresql", failed_over)  # type: ignore[index]
    with closing(Vault(open_store(empty_postgres), guard)) as second:
        with second.start_writer(ring) as writer:
            shared = writer.append(keys[0], [block(2)])
        alone = second.append(ring, keys[1], [entry(2)])
        assert [shared.start, alone.start] == [0, 0]
        assert {shared.key, alone.key}.isdisjoint(keys)
        assert [second.find_feed(name).state.key for name in ("ledger", "notes")] == [shared.key, alone.key]


def test_no_writer_is_started_while_the_guard_forbids_it(vault: Vault, ring: KeyRing, guard: Guard) -> None:
    guard.error = ReadOnlyState("behind-anchor", "the store is older than its chain")
    with pytest.raises(ReadOnlyState):
        vault.start_writer(ring)


def test_a_writer_without_the_key_of_a_feed(vault: Vault, ring: KeyRing, ledger: FeedKey) -> None:
    with vault.start_writer(replace(ring, devices={})) as writer, pytest.raises(RefusedError, match="no key"):
        writer.append(ledger, [block(1)])


def test_an_empty_stream_appends_nothing(vault: Vault, ring: KeyRing, ledger: FeedKey) -> None:
    assert vault.import_blocks(ring, ledger, iter(()), batch=3, on_batch=lambda _: None) is None
    assert vault.find_feed("ledger").state.length == 0


@pytest.mark.parametrize("error", [MalformedError("row 6, column 'amount': not a number"), KeyboardInterrupt()])
def test_a_stream_that_breaks_off_appends_nothing(
    vault: Vault, ring: KeyRing, ledger: FeedKey, error: BaseException
) -> None:
    def rows() -> Iterator[bytes]:
        yield from map(block, range(5))
        raise error

    with pytest.raises(type(error)):
        vault.import_blocks(ring, ledger, rows(), batch=2, on_batch=lambda _: None)
    assert vault.find_feed("ledger").state.length == 0
    assert vault.append(ring, ledger, [entry()]).length == 1


def test_who_may_not_write(vault: Vault, ring: KeyRing, ledger: FeedKey) -> None:
    with pytest.raises(MissingEvidenceError):
        vault.append(ring, FeedKey(bytes(32)), [entry()])
    without = replace(ring, devices={"phone": ring.devices["phone"]})
    with pytest.raises(RefusedError, match="keystore does not hold"):
        vault.append(without, ledger, [entry()])
    with pytest.raises(RefusedError, match="no device 'tablet'"):
        vault.create_feed(ring, "tablet", "x")
    manifest = device_manifest(bytes(32), FeedDescription(vault.history().identity, "foreign"))
    with vault.store.write() as tx:
        tx.create_feed(feed_key(manifest), encode_manifest(manifest), local=False)
    with pytest.raises(RefusedError):
        vault.append(ring, feed_key(manifest), [entry()])
    assert vault.find_feed("ledger").state.length == 0


# --- devices --------------------------------------------------------------------------------------------------------


def test_a_device_is_added_with_its_own_signature(vault: Vault, ring: KeyRing) -> None:
    seed = generate_seed()
    history = vault.add_device(ring, "tablet", seed, device_class=DeviceClass.SERVICE, time_ms=NOW)
    device = history.devices[Ed25519Signer(seed).public_key]
    assert (device.name, device.device_class, device.added_seq) == ("tablet", DeviceClass.SERVICE, 4)
    assert vault.history() == history


def test_a_revocation_vouches_for_what_is_here(vault: Vault, ring: KeyRing, ledger: FeedKey) -> None:
    vault.append(ring, ledger, [entry(0), entry(1)])
    vault.create_feed(ring, "laptop", "empty")
    laptop = device_signer(ring, "laptop").public_key
    history = vault.revoke_device(ring, laptop, RevocationReason.RETIRED, time_ms=NOW)
    revocation = history.devices[laptop].revocation
    assert revocation is not None
    assert {key: good.length for key, good in revocation.last_good.items()} == {ledger: 2}
    with pytest.raises(RefusedError, match="revoked"):
        vault.append(ring, ledger, [entry()])
    with pytest.raises(RefusedError, match="revoked"):
        vault.create_feed(ring, "laptop", "x")


def test_a_revocation_vouches_for_the_first_of_more_feeds_than_it_can_name(
    vault: Vault, ring: KeyRing, ledger: FeedKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault.append(ring, ledger, [entry(0)])
    with vault.store.write() as tx:
        second = continue_feed(tx, ledger, bytes(16))
    vault.append(ring, second, [entry(1)])
    laptop = device_signer(ring, "laptop").public_key
    assert vault.last_good(laptop).keys() == {ledger, second}
    monkeypatch.setattr("api.vault.MAX_LAST_GOOD", 1)
    assert vault.last_good(laptop).keys() == {ledger}


@pytest.mark.parametrize(("vouch", "expected"), [({}, {}), (1, {"ledger": 1}), (3, {"ledger": 3})])
def test_a_revocation_vouches_for_what_it_is_told(
    vault: Vault, ring: KeyRing, ledger: FeedKey, vouch: dict[FeedKey, int] | int, expected: dict[str, int]
) -> None:
    vault.append(ring, ledger, [entry(0)])
    vault.append(ring, ledger, [entry(1), entry(2)])
    laptop = device_signer(ring, "laptop").public_key
    history = vault.revoke_device(
        ring,
        laptop,
        RevocationReason.STOLEN,
        time_ms=NOW,
        compromised_since_ms=NOW - 1,
        vouch_for={ledger: vouch} if isinstance(vouch, int) else vouch,
    )
    revocation = history.devices[laptop].revocation
    assert revocation is not None
    assert revocation.compromised_since_ms == NOW - 1
    assert [good.length for good in revocation.last_good.values()] == list(expected.values())


def test_a_revocation_cannot_vouch_for_what_was_never_signed(vault: Vault, ring: KeyRing, ledger: FeedKey) -> None:
    vault.append(ring, ledger, [entry(0), entry(1)])
    laptop = device_signer(ring, "laptop").public_key
    for length in (1, 3):
        with pytest.raises(AuditError, match=f"no signed head of length {length}"):
            vault.revoke_device(ring, laptop, RevocationReason.LOST, time_ms=NOW, vouch_for={ledger: length})
    assert vault.history().devices[laptop].revocation is None


def test_a_device_that_is_not_the_identitys_cannot_be_revoked(vault: Vault, ring: KeyRing) -> None:
    before = vault.events()
    with pytest.raises(AuditError):
        vault.revoke_device(ring, bytes(32), RevocationReason.LOST, time_ms=NOW)
    assert vault.events() == before


# --- the root -------------------------------------------------------------------------------------------------------


def test_the_phrase_gives_the_next_root_and_the_old_one_is_worth_nothing(
    vault: Vault, ring: KeyRing, founded: Founded
) -> None:
    history, seed = vault.rotate_root(founded.phrase, time_ms=NOW)
    assert seed == root_seed(founded.phrase, 1)
    assert (history.generation, history.root_keys) == (1, (Ed25519Signer(seed).public_key,))
    with pytest.raises(AuditError):
        vault.add_device(ring, "tablet", generate_seed(), device_class=DeviceClass.DEVICE, time_ms=NOW)
    rotated = replace(ring, root_seeds=(seed,), generation=1)
    assert vault.add_device(rotated, "tablet", generate_seed(), device_class=DeviceClass.DEVICE, time_ms=NOW).seq == 5
    assert vault.rotate_root(founded.phrase, time_ms=NOW)[0].generation == 2


def test_another_phrase_changes_nothing(vault: Vault, founded: Founded) -> None:
    before = vault.events()
    with pytest.raises(AuditError):
        vault.rotate_root(generate_phrase(), time_ms=NOW)
    with pytest.raises(MalformedError):
        vault.rotate_root("not a phrase", time_ms=NOW)
    assert vault.events() == before


# --- the log --------------------------------------------------------------------------------------------------------


def test_a_checkpoint_states_what_is_new_and_then_nothing(vault: Vault, ring: KeyRing, ledger: FeedKey) -> None:
    vault.append(ring, ledger, [entry()])
    plan = vault.pending_checkpoint(ring)
    assert [(head.key, head.length) for head in plan.feeds] == [(ledger, 1)]
    assert vault.checkpoint(ring).size == 3
    assert not vault.pending_checkpoint(ring).changed
    with pytest.raises(RefusedError, match="nothing to commit"):
        vault.checkpoint(ring)
    assert vault.checkpoint(ring, restate=True).size == 4


def test_a_checkpoint_states_the_tokens_that_came(vault: Vault, ring: KeyRing, ledger: FeedKey) -> None:
    vault.append(ring, ledger, [entry()])
    size = vault.checkpoint(ring).size
    with vault.store.write() as tx:
        add_timestamp(tx.connection, StoredTimestamp(size, "tsa", b"response", (), (), (), NOW, NOW))
    with pytest.raises(RefusedError, match="nothing to commit"):
        vault.checkpoint(ring)
    assert vault.checkpoint(ring, restate=True).size == size + 2
    evidence = parse_evidence(vault.evidence(ledger, 0))
    assert [token.response for token in evidence.checkpoints[0].timestamps] == [b"response"]
    assert len(evidence.checkpoints) == 2


def test_there_is_no_evidence_before_there_is_a_token(vault: Vault, ring: KeyRing, ledger: FeedKey) -> None:
    vault.append(ring, ledger, [entry()])
    with pytest.raises(MissingEvidenceError, match="checkpoint"):
        vault.evidence(ledger, 0)
    vault.checkpoint(ring)
    with pytest.raises(MissingEvidenceError, match="timestamped"):
        vault.evidence(ledger, 0)


def test_keys_that_the_keystore_does_not_hold(vault: Vault, ring: KeyRing, ledger: FeedKey) -> None:
    bare = KeyRing((), 0, {}, None, None)
    history = vault.history()
    for ask in (
        lambda: log_signer(bare),
        lambda: root_signers(bare, history),
        lambda: device_signer(bare, "laptop"),
        lambda: vault.checkpoint(bare),
        lambda: vault.add_device(bare, "x", generate_seed(), device_class=DeviceClass.DEVICE, time_ms=0),
    ):
        with pytest.raises(RefusedError):
            ask()
    other = replace(ring, log_seed=generate_seed())
    vault.append(ring, ledger, [entry()])
    with pytest.raises(RefusedError, match="log's key"):
        vault.checkpoint(other)


# --- the guard ------------------------------------------------------------------------------------------------------


def test_the_guard_is_asked_once_before_the_first_write_and_never_for_reading(
    vault: Vault, ring: KeyRing, guard: Guard
) -> None:
    for read in (
        vault.history,
        vault.feeds,
        vault.events,
        vault.log_descriptor,
        lambda: vault.pending_checkpoint(ring),
    ):
        read()
    assert guard.asked == 0
    key = vault.create_feed(ring, "laptop", "ledger")
    vault.append(ring, key, [entry()])
    vault.checkpoint(ring)
    assert guard.asked == 1


def test_a_guard_that_refuses_is_asked_again(vault: Vault, ring: KeyRing, ledger: FeedKey, home: Home) -> None:
    strict = Guard()
    strict.error = ReadOnlyState("behind-anchor", "x")
    writes: list[Callable[[Vault], object]] = [
        lambda other: other.append(ring, ledger, [entry()]),
        lambda other: other.checkpoint(ring),
        lambda other: other.create_feed(ring, "phone", "x"),
    ]
    with closing(Vault(open_sqlite(home.database), strict)) as other:
        for count, write in enumerate(writes, start=1):
            with pytest.raises(ReadOnlyState):
                write(other)
            assert strict.asked == count
        strict.error = None
        writes[0](other)
    assert vault.find_feed("ledger").state.length == 1
