"""The keystore file: whole, private, and never anything but the old keys or the new ones."""

from __future__ import annotations

import os
import signal
import stat
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from identity import keystore
from identity.encoding import decode, encode
from identity.errors import (
    AuditError,
    ConfigurationError,
    ConflictError,
    DamagedFile,
    MalformedError,
    NewerFormat,
    RefusedError,
    StorageError,
    WrongPassphrase,
)
from identity.keys import Ed25519Signer, TokenKey
from identity.keystore import (
    ARGON2ID_2026,
    ONLY_FOR_TESTING,
    KdfProfile,
    KeyRing,
    create_keystore,
    open_keystore,
    replace_keystore,
)

RING = KeyRing(
    root_seeds=(b"\x01" * 32, b"\x02" * 32),
    generation=3,
    devices={"laptop": b"\x03" * 32, "Zoë's phone": b"\x04" * 32},
    log_seed=b"\x05" * 32,
    anchor_key=b"\x06" * 32,
)
IN_TOKENS = KeyRing(
    root_seeds=(),
    generation=1,
    devices={"laptop": b"\x03" * 32},
    log_seed=b"\x05" * 32,
    anchor_key=None,
    token_devices={"till": TokenKey(b"\x21" * 32, "desk"), "box": TokenKey(b"\x22" * 32, "Zoë's token")},
    token_root=TokenKey(b"\x23" * 32, "safe"),
)
EMPTY = KeyRing(root_seeds=(), generation=0, devices={}, log_seed=None, anchor_key=None)
PASSPHRASE = "correct horse battery"
MAGIC = b"holdfast keystore 1\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keystore"


@pytest.fixture
def made(path: Path) -> Path:
    create_keystore(path, PASSPHRASE, RING, profile=ONLY_FOR_TESTING)
    return path


def names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


# --- opening what was written -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ring", [RING, EMPTY, IN_TOKENS], ids=["full", "empty", "tokens"])
def test_round_trip(path: Path, ring: KeyRing) -> None:
    create_keystore(path, PASSPHRASE, ring, profile=ONLY_FOR_TESTING)
    assert open_keystore(path, PASSPHRASE) == ring
    assert names(path.parent) == ["keystore"]


def test_the_default_profile(path: Path) -> None:
    create_keystore(path, PASSPHRASE, RING)
    assert ARGON2ID_2026.name.encode() in path.read_bytes()
    assert open_keystore(path, PASSPHRASE) == RING


def test_only_the_owner_can_read_it(path: Path) -> None:
    old = os.umask(0)
    try:
        create_keystore(path, PASSPHRASE, RING, profile=ONLY_FOR_TESTING)
        replace_keystore(path, PASSPHRASE, EMPTY, expected=RING)
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_no_secret_stands_in_the_file_or_in_text(made: Path) -> None:
    data = made.read_bytes()
    for secret in (*RING.root_seeds, *RING.devices.values(), b"\x05" * 32, b"\x06" * 32):
        assert secret not in data
        assert secret.hex() not in repr(RING)
        assert repr(secret) not in repr(RING)
    assert PASSPHRASE.encode() not in data


def test_two_files_of_the_same_keys_differ(made: Path) -> None:
    other = made.with_name("other")
    create_keystore(other, PASSPHRASE, RING, profile=ONLY_FOR_TESTING)
    assert other.read_bytes() != made.read_bytes()


@pytest.mark.parametrize(
    "wrong", ["", "correct horse batterz", PASSPHRASE + " ", PASSPHRASE.upper(), "\0" + PASSPHRASE]
)
def test_a_wrong_passphrase(made: Path, wrong: str) -> None:
    with pytest.raises(WrongPassphrase):
        open_keystore(made, wrong)


def test_a_passphrase_composed_in_another_way_is_the_same(path: Path) -> None:
    create_keystore(path, "caf\u00e9", RING, profile=ONLY_FOR_TESTING)
    assert open_keystore(path, "cafe\u0301") == RING


@pytest.mark.parametrize("passphrase", ["x" * 1025, "\ud800"])
def test_passphrases_that_are_none(made: Path, passphrase: str) -> None:
    with pytest.raises(RefusedError):
        open_keystore(made, passphrase)
    with pytest.raises(RefusedError):
        create_keystore(made.with_name("other"), passphrase, RING, profile=ONLY_FOR_TESTING)
    assert names(made.parent) == ["keystore"]


def test_an_empty_passphrase_protects_nothing(path: Path) -> None:
    with pytest.raises(RefusedError, match="empty"):
        create_keystore(path, "", RING, profile=ONLY_FOR_TESTING)
    assert not path.exists()


# --- damaged, altered and foreign files -------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [0x01, 0x80, 0xFF])
def test_every_byte_flipped(made: Path, mask: int) -> None:
    data = made.read_bytes()
    for place in range(len(data)):
        made.write_bytes(data[:place] + bytes([data[place] ^ mask]) + data[place + 1 :])
        with pytest.raises((DamagedFile, WrongPassphrase, NewerFormat)):
            open_keystore(made, PASSPHRASE)


def test_every_truncation_and_something_added(made: Path) -> None:
    data = made.read_bytes()
    for changed in [*(data[:size] for size in range(len(data))), data + b"\0", data + data, b"\n" + data]:
        made.write_bytes(changed)
        with pytest.raises(DamagedFile):
            open_keystore(made, PASSPHRASE)


def test_every_bit_of_a_keystore_with_tokens(path: Path) -> None:
    """Never a key, and never one that was not put there, from a file that was altered anywhere."""
    create_keystore(path, PASSPHRASE, IN_TOKENS, profile=ONLY_FOR_TESTING)
    data = path.read_bytes()
    for place in range(len(data)):
        for bit in range(8):
            path.write_bytes(data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :])
            with pytest.raises((DamagedFile, WrongPassphrase, NewerFormat)):
                open_keystore(path, PASSPHRASE)
        path.write_bytes(data[:place])
        with pytest.raises(DamagedFile):
            open_keystore(path, PASSPHRASE)


def test_the_version_is_the_oldest_that_will_do(path: Path) -> None:
    """Older readers keep reading what they can read, and call the rest newer."""
    data = b""
    for ring, line in ((RING, MAGIC), (IN_TOKENS, b"holdfast keystore 2\n")):
        path.unlink(missing_ok=True)
        create_keystore(path, PASSPHRASE, ring, profile=ONLY_FOR_TESTING)
        data = path.read_bytes()
        assert data.startswith(line)
        other = b"holdfast keystore 1\n" if line != MAGIC else b"holdfast keystore 2\n"
        path.write_bytes(other + data.removeprefix(line))
        with pytest.raises(DamagedFile):
            open_keystore(path, PASSPHRASE)
    root_only = KeyRing((), 0, {}, None, None, token_root=TokenKey(b"\x01" * 32, "x"))
    path.write_bytes(data)
    replace_keystore(path, PASSPHRASE, EMPTY, expected=IN_TOKENS)
    assert path.read_bytes().startswith(MAGIC)
    replace_keystore(path, PASSPHRASE, root_only, expected=EMPTY)
    assert open_keystore(path, PASSPHRASE) == root_only


@pytest.mark.parametrize(
    "changes",
    [
        {"token_devices": {"till": TokenKey(b"\x21" * 31, "desk")}},
        {"token_devices": {"till": TokenKey(b"\x21" * 32, "")}},
        {"token_devices": {"till": TokenKey(b"\x21" * 32, "a\nb")}},
        {"token_devices": {"": TokenKey(b"\x21" * 32, "desk")}},
        {"token_devices": {"laptop": TokenKey(b"\x21" * 32, "desk")}},
        {"token_root": TokenKey(b"\x21" * 32, "desk")},
        {"root_seeds": (), "token_devices": {"a": TokenKey(b"1" * 32, "x"), "b": TokenKey(b"1" * 32, "x")}},
    ],
)
def test_keys_in_tokens_that_cannot_be(changes: dict[str, Any]) -> None:
    with pytest.raises(MalformedError):
        replace(RING, **changes)


def test_device_keys_are_of_both_kinds() -> None:
    assert IN_TOKENS.device_keys() == {
        "laptop": Ed25519Signer(b"\x03" * 32).public_key,
        "till": b"\x21" * 32,
        "box": b"\x22" * 32,
    }
    assert "till" in repr(IN_TOKENS)


@pytest.mark.parametrize("number", [0, -1, 1 << 62])
def test_costs_in_a_file_are_not_obeyed(made: Path, number: int) -> None:
    """A file names a profile; what else it says about cost makes it no keystore, before anything is spent."""
    for name in ("passes", "memory", "opslimit", "memlimit"):
        rewrite(made, header={name: number})
        with pytest.raises(DamagedFile):
            open_keystore(made, PASSPHRASE)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=300), prefix=st.sampled_from([b"", MAGIC]))
def test_any_bytes_give_only_errors_of_ours(path: Path, data: bytes, prefix: bytes) -> None:
    path.write_bytes(prefix + data)
    with pytest.raises((DamagedFile, NewerFormat)):
        open_keystore(path, PASSPHRASE)


def rewrite(path: Path, *, header: Any = None, **changes: Any) -> None:
    """Change parts of a keystore as somebody would who knows the format: the checksum fits again."""
    members: Any = decode(path.read_bytes().removeprefix(MAGIC))
    if header is not None:
        members["header"] = encode({**decode(members["header"]), **header})
    members |= changes
    if "checksum" not in changes:
        members["checksum"] = keystore._checksum(members["header"], members["ciphertext"])
    path.write_bytes(MAGIC + encode(members))


@pytest.mark.parametrize(
    ("header", "error"),
    [
        ({"salt": bytes(16)}, WrongPassphrase),
        ({"nonce": bytes(24)}, WrongPassphrase),
        ({"salt": bytes(17)}, DamagedFile),
        ({"nonce": b""}, DamagedFile),
        ({"kdf": 1}, DamagedFile),
        ({"kdf": "x" * 65}, DamagedFile),
        ({"kdf": "argon2id-2099-01"}, NewerFormat),
        ({"passes": 1_000_000}, DamagedFile),
        ({"memory": 1 << 62}, DamagedFile),
    ],
)
def test_edited_headers(made: Path, header: dict[str, Any], error: type[AuditError]) -> None:
    rewrite(made, header=header)
    with pytest.raises(error):
        open_keystore(made, PASSPHRASE)


def test_another_known_profile_in_the_header_does_not_open(made: Path) -> None:
    rewrite(made, header={"kdf": ARGON2ID_2026.name})
    with pytest.raises(WrongPassphrase):
        open_keystore(made, PASSPHRASE)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"ciphertext": bytes(100)}, WrongPassphrase),
        ({"ciphertext": b""}, DamagedFile),
        ({"ciphertext": bytes(15)}, DamagedFile),
        ({"checksum": bytes(32)}, DamagedFile),
        ({"checksum": b""}, DamagedFile),
        ({"more": 1}, DamagedFile),
    ],
)
def test_edited_files(made: Path, changes: dict[str, Any], error: type[AuditError]) -> None:
    rewrite(made, **changes)
    with pytest.raises(error):
        open_keystore(made, PASSPHRASE)


@pytest.mark.parametrize(
    "line", [b"holdfast keystore 3\n", b"holdfast keystore 10\n", b"holdfast keystore 99999999999\n"]
)
def test_a_file_of_a_newer_holdfast(made: Path, line: bytes) -> None:
    made.write_bytes(made.read_bytes().replace(MAGIC, line))
    with pytest.raises(NewerFormat):
        open_keystore(made, PASSPHRASE)


@pytest.mark.parametrize(
    "data",
    [b"", b"\n", b"holdfast keystore \n", b"holdfast keystore x\n", b"holdfast keystore -1\n", b"-----BEGIN AGE"],
)
def test_files_that_are_no_keystore(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    with pytest.raises(DamagedFile):
        open_keystore(path, PASSPHRASE)


def test_a_huge_file_is_not_read(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(DamagedFile, match="larger"):
        open_keystore(path, PASSPHRASE)


def seal_plaintext(monkeypatch: pytest.MonkeyPatch, path: Path, plaintext: bytes) -> None:
    monkeypatch.setattr(keystore, "_encode_ring", lambda ring: plaintext)
    create_keystore(path, PASSPHRASE, RING, profile=ONLY_FOR_TESTING)


@pytest.mark.parametrize(
    "change",
    [
        {"v": 2},
        {"generation": -1},
        {"roots": [bytes(31)]},
        {"roots": [bytes([number]) * 32 for number in range(65)]},
        {"devices": {"": bytes(32)}},
        {"devices": {"a\nb": bytes(32)}},
        {"devices": {"a": "text"}},
        {"devices": []},
        {"log": b"\x01" * 32},  # the first root's
        {"log": b""},
        {"anchor": bytes(32)},
        {"anchor": b"\xff" * 32},
        {"more": None},
    ],
)
def test_decrypted_keys_are_checked_too(path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]) -> None:
    members: Any = decode(keystore._encode_ring(RING))
    seal_plaintext(monkeypatch, path, encode(members | change))
    with pytest.raises(DamagedFile):
        open_keystore(path, PASSPHRASE)


def test_decrypted_bytes_that_are_no_cbor(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seal_plaintext(monkeypatch, path, b"\xff")
    with pytest.raises(DamagedFile):
        open_keystore(path, PASSPHRASE)


# --- key rings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"root_seeds": (b"\x01" * 31,)},
        {"root_seeds": (b"\x01" * 32, b"\x01" * 32)},
        {"devices": {"a": b""}},
        {"devices": {"": b"\x01" * 32}},
        {"devices": {"a": b"\x01" * 32, "b": b"\x01" * 32}},
        {"log_seed": b"\x01" * 32, "anchor_key": b"\x01" * 32},
        {"anchor_key": bytes(32)},
        {"anchor_key": b"\xff" * 32},
    ],
)
def test_key_rings_that_are_refused(change: dict[str, Any]) -> None:
    members: dict[str, Any] = {
        "root_seeds": (),
        "generation": 0,
        "devices": {},
        "log_seed": None,
        "anchor_key": None,
    }
    with pytest.raises(MalformedError):
        KeyRing(**(members | change))


def test_a_key_ring_keeps_its_own_devices() -> None:
    devices = {"a": b"\x01" * 32}
    ring = KeyRing((), 0, devices, None, None)
    devices["b"] = b"\x02" * 32
    assert list(ring.devices) == ["a"]


@pytest.mark.parametrize(
    "ring",
    [
        KeyRing((), -1, {}, None, None),
        KeyRing((), 0, {f"{n}": n.to_bytes(32, "big") for n in range(1, 300)}, None, None),
    ],
    ids=["generation", "devices"],
)
def test_keys_that_could_not_be_read_back_are_not_written(made: Path, ring: KeyRing) -> None:
    before = made.read_bytes()
    with pytest.raises(MalformedError):
        create_keystore(made.with_name("other"), PASSPHRASE, ring, profile=ONLY_FOR_TESTING)
    with pytest.raises(MalformedError):
        replace_keystore(made, PASSPHRASE, ring, expected=RING)
    assert made.read_bytes() == before
    assert names(made.parent) == ["keystore"]


# --- creating and replacing -------------------------------------------------------------------------------------------


def test_nothing_is_overwritten_by_creating(made: Path) -> None:
    before = made.read_bytes()
    with pytest.raises(RefusedError, match="exists already"):
        create_keystore(made, PASSPHRASE, EMPTY, profile=ONLY_FOR_TESTING)
    assert made.read_bytes() == before
    assert names(made.parent) == ["keystore"]


def test_replacing_keeps_passphrase_and_profile(made: Path) -> None:
    replace_keystore(made, PASSPHRASE, EMPTY, expected=RING)
    assert open_keystore(made, PASSPHRASE) == EMPTY
    assert ONLY_FOR_TESTING.name.encode() in made.read_bytes()


def test_replacing_changes_passphrase_and_profile(made: Path) -> None:
    replace_keystore(made, PASSPHRASE, RING, expected=RING, new_passphrase="another", profile=ARGON2ID_2026)
    assert open_keystore(made, "another") == RING
    assert ARGON2ID_2026.name.encode() in made.read_bytes()
    with pytest.raises(WrongPassphrase):
        open_keystore(made, PASSPHRASE)


def test_keys_that_another_process_added_are_not_lost(made: Path) -> None:
    replace_keystore(made, PASSPHRASE, EMPTY, expected=RING)
    before = made.read_bytes()
    with pytest.raises(ConflictError):
        replace_keystore(made, PASSPHRASE, RING, expected=RING)
    assert made.read_bytes() == before


@pytest.mark.parametrize(
    ("passphrase", "changes", "error"),
    [
        ("wrong", {}, WrongPassphrase),
        (PASSPHRASE, {"new_passphrase": ""}, RefusedError),
        (PASSPHRASE, {"profile": KdfProfile("home-made", 1, 8192)}, RefusedError),
    ],
)
def test_replacements_that_are_refused(
    made: Path, passphrase: str, changes: dict[str, Any], error: type[AuditError]
) -> None:
    before = made.read_bytes()
    with pytest.raises(error):
        replace_keystore(made, passphrase, EMPTY, expected=RING, **changes)
    assert made.read_bytes() == before
    assert names(made.parent) == ["keystore"]


def test_a_file_or_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        open_keystore(tmp_path / "none", PASSPHRASE)
    with pytest.raises(ConfigurationError):
        replace_keystore(tmp_path / "none", PASSPHRASE, EMPTY, expected=RING)
    with pytest.raises(StorageError):
        create_keystore(tmp_path / "no" / "directory", PASSPHRASE, RING, profile=ONLY_FOR_TESTING)
    with pytest.raises(StorageError):
        open_keystore(tmp_path, PASSPHRASE)


@pytest.mark.parametrize("call", ["os.fsync", "pathlib.Path.replace", "os.open"])
def test_a_replacement_that_fails_leaves_the_old_file(made: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    before = made.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(call, fail)
        with pytest.raises(StorageError, match="No space left"):
            replace_keystore(made, PASSPHRASE, EMPTY, expected=RING)
    assert made.read_bytes() == before
    assert names(made.parent) == ["keystore"]
    replace_keystore(made, PASSPHRASE, EMPTY, expected=RING)


@pytest.mark.parametrize("call", ["os.fsync", "pathlib.Path.hardlink_to"])
def test_a_creation_that_fails_leaves_nothing(path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(call, fail)
    with pytest.raises(StorageError):
        create_keystore(path, PASSPHRASE, RING, profile=ONLY_FOR_TESTING)
    assert names(path.parent) == []


def test_a_directory_that_can_not_be_synced_is_not_called_durable(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync = os.fsync

    def fail_on_directories(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(5, "Input/output error")
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail_on_directories)
        with pytest.raises(StorageError, match="may not survive a power cut"):
            replace_keystore(made, PASSPHRASE, EMPTY, expected=RING)
    assert open_keystore(made, PASSPHRASE) == EMPTY


def test_a_directory_that_can_not_be_locked(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", fail)
    with pytest.raises(StorageError, match="No locks available"):
        replace_keystore(made, PASSPHRASE, EMPTY, expected=RING)
    assert open_keystore(made, PASSPHRASE) == RING


def test_the_file_is_synced_before_it_is_moved_and_the_directory_after(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def record_sync(descriptor: int) -> None:
        steps.append("sync directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "sync file")
        fsync(descriptor)

    def record_replace(source: Path, target: Path) -> Path:
        steps.append("replace")
        return replace(source, target)

    monkeypatch.setattr(os, "fsync", record_sync)
    monkeypatch.setattr(Path, "replace", record_replace)
    replace_keystore(made, PASSPHRASE, EMPTY, expected=RING)
    assert steps == ["sync file", "replace", "sync directory"]


def test_killed_while_replacing(made: Path) -> None:
    """A process that replaces the keys back and forth is killed at a random moment: one of both is there, whole."""
    for attempt in range(8):
        start = open_keystore(made, PASSPHRASE)
        child = os.fork()
        if child == 0:
            try:
                current, other = start, EMPTY if start == RING else RING
                while True:
                    replace_keystore(made, PASSPHRASE, other, expected=current)
                    current, other = other, current
            finally:
                os._exit(1)
        time.sleep(0.01 + 0.007 * attempt)
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        assert open_keystore(made, PASSPHRASE) in (RING, EMPTY)


def test_two_processes_never_lose_each_others_keys(made: Path) -> None:
    """Each of two processes adds ten devices, trying again whenever the other was faster: twenty are there."""

    def add_devices(prefix: str) -> None:
        for number in range(10):
            while True:
                ring = open_keystore(made, PASSPHRASE)
                seed = prefix.encode() * 31 + bytes([number])
                added = KeyRing(ring.root_seeds, 3, {**ring.devices, f"{prefix}{number}": seed}, *ring_rest(ring))
                try:
                    replace_keystore(made, PASSPHRASE, added, expected=ring)
                except ConflictError:
                    continue
                break

    children = []
    for prefix in "ab":
        child = os.fork()
        if child == 0:
            status = 1
            try:
                add_devices(prefix)
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    for child in children:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(open_keystore(made, PASSPHRASE).devices) == 2 + 20


def ring_rest(ring: KeyRing) -> tuple[bytes | None, bytes | None]:
    return ring.log_seed, ring.anchor_key


def test_too_little_memory(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> bytes:
        raise keystore.CryptoError("Unexpected failure in key derivation")

    monkeypatch.setattr("nacl.pwhash.argon2id.kdf", fail)
    with pytest.raises(StorageError, match="memory"):
        open_keystore(made, PASSPHRASE)
