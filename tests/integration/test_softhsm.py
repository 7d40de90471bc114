"""Device and root keys in a PKCS#11 token: SoftHSM, a token in software that keeps its keys in files.

The library is the one at SOFTHSM2_MODULE, or where Debian and Fedora put it.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from api.cli.__main__ import main
from identity.errors import ConfigurationError, RefusedError, SignatureMismatch, TransportError, WrongPin
from identity.keys import TokenKey, verify_signature
from identity.keystore import ONLY_FOR_TESTING, KeyRing, open_keystore
from identity.pkcs11 import Pkcs11Signer, TokenModule, _Session
from ledger.audit import audit_feed
from ledger.feed import append, create_feed
from ledger.storage.sqlite import open_sqlite

PIN = "492716"
PASSPHRASE = "correct horse battery staple"
PLACES = ("/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/softhsm/libsofthsm.so", "/usr/lib64/libsofthsm2.so")

pytestmark = pytest.mark.integration


@dataclass(frozen=True)
class Tokens:
    """Tokens in a directory of their own, by label, and the library that opens them."""

    directory: Path
    library: Path

    def module(self, pin: str = PIN) -> TokenModule:
        return TokenModule(self.library, lambda label: pin)

    def remove(self, label: str) -> None:
        """What pulling it out is to a token in software: its files are gone."""
        (found,) = [
            path
            for path in (self.directory / "tokens").iterdir()
            if label.encode() in (path / "token.object").read_bytes()
        ]
        shutil.rmtree(found)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tokens]:
    found = [Path(place) for place in (os.environ.get("SOFTHSM2_MODULE"), *PLACES) if place and Path(place).is_file()]
    tool = shutil.which("softhsm2-util")
    if not found or tool is None:
        pytest.skip("SoftHSM is not installed (softhsm2-util and libsofthsm2.so)")
    directory = tmp_path_factory.mktemp("softhsm")
    (directory / "tokens").mkdir()
    configuration = directory / "softhsm2.conf"
    configuration.write_text(f"directories.tokendir = {directory / 'tokens'}\nobjectstore.backend = file\n")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("SOFTHSM2_CONF", str(configuration))
        for label in ("desk", "holder", "twin", "twin", "pulled"):
            arguments = ["--init-token", "--free", "--label", label, "--pin", PIN, "--so-pin", "87654321"]
            subprocess.run([tool, *arguments], check=True, capture_output=True)
        yield Tokens(directory, found[0])


# --- keys -------------------------------------------------------------------------------------------------------------


def test_a_key_is_made_found_again_and_signs(tokens: Tokens) -> None:
    with closing(tokens.module()) as module:
        made = module.generate("desk", "made")
        verify_signature(made.public_key, b"message", made.sign(b"message"))
        assert made.key == TokenKey(made.public_key, "desk")
        assert PIN not in repr(made)
    with closing(tokens.module()) as module:
        found = module.signer(made.key)
        assert found.public_key == made.public_key
        verify_signature(made.public_key, b"again", found.sign(b"again"))
        assert made.public_key in {signer.public_key for signer in module.signers("desk")}
        module.discard(made.key)
        with pytest.raises(RefusedError, match="does not hold the key"):
            module.signer(made.key)


def test_two_modules_in_one_process(tokens: Tokens) -> None:
    """Logging in is once a process: the second one finds the token open, and closing it leaves the first one be."""
    with closing(tokens.module()) as first:
        key = first.generate("desk", "shared").key
        with closing(tokens.module()) as second:
            verify_signature(key.public_key, b"m", second.signer(key).sign(b"m"))
        verify_signature(key.public_key, b"n", first.signer(key).sign(b"n"))


@pytest.mark.parametrize("pin", ["000000", "1", "x" * 300])
def test_a_wrong_pin(tokens: Tokens, pin: str) -> None:
    with closing(tokens.module(pin)) as module, pytest.raises(WrongPin, match="PIN of token 'desk' was refused") as no:
        module.signers("desk")
    assert len(pin) < 3 or pin not in str(no.value)
    with closing(tokens.module()) as module:
        module.signers("desk")


def test_what_is_not_there(tokens: Tokens, tmp_path: Path) -> None:
    key = TokenKey(b"\x07" * 32, "desk")
    with closing(tokens.module()) as module:
        with pytest.raises(TransportError, match="there is no token 'nowhere'"):
            module.signer(TokenKey(key.public_key, "nowhere"))
        with pytest.raises(TransportError, match="there are 2 tokens 'twin'"):
            module.signer(TokenKey(key.public_key, "twin"))
        with pytest.raises(RefusedError, match="does not hold the key 0707"):
            module.signer(key)
    (tmp_path / "text.so").write_text("no library")
    for path, says in (
        (None, "no PKCS#11 library is named"),
        (tmp_path / "no.so", "there is no PKCS#11 library"),
        (tmp_path / "text.so", "no PKCS#11 library that can be used"),
    ):
        with closing(TokenModule(path, lambda _: PIN)) as module, pytest.raises(ConfigurationError, match=says):
            module.signer(key)


def test_a_private_key_that_is_not_of_the_public_one(tokens: Tokens) -> None:
    """A token that is broken, or lies, is found out before anything is signed with it."""
    with closing(tokens.module()) as module:
        one, other = module.generate("desk", "one"), module.generate("desk", "other")
        with pytest.raises(SignatureMismatch):
            Pkcs11Signer(one._session, one.public_key, other._private_key)


def test_threads_share_a_signer(tokens: Tokens) -> None:
    failed: list[object] = []

    def sign(signer: Pkcs11Signer, name: bytes) -> None:
        try:
            for number in range(50):
                message = name + bytes([number])
                verify_signature(signer.public_key, message, signer.sign(message))
        except Exception as exc:  # noqa: BLE001
            failed.append(exc)

    with closing(tokens.module()) as module:
        one, other = module.generate("desk", "thread 1"), module.generate("desk", "thread 2")
        threads = [threading.Thread(target=sign, args=(key, b"%d" % n)) for n, key in enumerate((one, one, other))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failed == []


# --- a home -----------------------------------------------------------------------------------------------------------


class Home:
    """``holdfast`` in a directory, with a home whose keys are in the token."""

    def __init__(self, directory: Path, tokens: Tokens, patch: pytest.MonkeyPatch) -> None:
        self.directory, self.tokens, self.patch = directory, tokens, patch
        for name, text in (("pass.txt", PASSPHRASE), ("pin.txt", PIN + "\n"), ("wrong.txt", "000000\n")):
            (directory / name).write_text(text)
        (directory / "notes.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
        for name in [name for name in os.environ if name.startswith("HOLDFAST_")]:
            patch.delenv(name)
        self.set(
            HOME=directory / "home",
            DEV_DIR=directory / "dev",
            PASSPHRASE_FILE=directory / "pass.txt",
            PIN_FILE=directory / "pin.txt",
            TOKEN_MODULE=tokens.library,
        )
        patch.chdir(directory)

    def set(self, **variables: object) -> None:
        for name, value in variables.items():
            self.patch.setenv(f"HOLDFAST_{name}", str(value))

    def __call__(self, *arguments: str, code: int = 0) -> tuple[list[dict[str, Any]], str]:
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            ended = main([*arguments, "--json"])
        said = err.buffer.getvalue().decode()  # type: ignore[attr-defined]
        assert ended == code, said
        assert "Traceback" not in said
        assert PIN not in said
        return [json.loads(line) for line in out.buffer.getvalue().splitlines()], said  # type: ignore[attr-defined]

    @property
    def keys(self) -> KeyRing:
        return open_keystore(self.directory / "home" / "keystore.hfk", PASSPHRASE)


@pytest.fixture
def home(tokens: Tokens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    from api import founding
    from identity import keystore

    defaults: Sequence[object] | None = founding.Founding.__init__.__defaults__
    assert defaults is not None
    monkeypatch.setattr(founding.Founding.__init__, "__defaults__", (*defaults[:-1], ONLY_FOR_TESTING))
    monkeypatch.setattr(keystore.create_keystore, "__kwdefaults__", {"profile": ONLY_FOR_TESTING})
    return Home(tmp_path, tokens, monkeypatch)


@pytest.fixture
def founded(home: Home) -> Home:
    home("init", "--no-chain", "--token", "desk", "--phrase-file", "phrase.txt", "--device", "till")
    return home


def test_device_and_root_in_the_token(founded: Home) -> None:
    """No seed of either is anywhere; what they sign is what any other key signs."""
    ring = founded.keys
    assert (ring.root_seeds, dict(ring.devices), list(ring.token_devices)) == ((), {}, ["till"])
    assert (founded.directory / "home" / "keystore.hfk").read_bytes().startswith(b"holdfast keystore 2\n")
    founded("feed", "create", "notes")
    founded("feed", "append", "notes", "notes.jsonl")
    founded("feed", "append", "notes", "notes.jsonl")
    ((audited), _) = founded("feed", "audit", "notes")
    assert (audited[0]["verdict"], audited[0]["entries"], audited[0]["heads"]) == ("PASSED", 4, 2)
    founded("identity", "add-device", "phone")
    founded("identity", "add-device", "box", "--class", "service", "--token", "desk")
    founded("identity", "revoke-device", "phone", "--reason", "lost")
    founded("feed", "create", "boxed", "--device", "box")
    founded("feed", "append", "boxed", "notes.jsonl")
    assert set(founded.keys.token_devices) == {"till", "box"}
    founded("checkpoint", "create")
    founded("identity", "rotate-root", "--phrase-file", "phrase.txt")
    assert (founded.keys.token_root, len(founded.keys.root_seeds)) == (None, 1)
    founded("identity", "add-device", "tablet")


def test_a_wrong_pin_changes_nothing(founded: Home) -> None:
    founded("feed", "create", "notes")
    before = (founded.directory / "home" / "keystore.hfk").read_bytes()
    founded.set(PIN_FILE=founded.directory / "wrong.txt")
    for arguments in (
        ["feed", "append", "notes", "notes.jsonl"],
        ["identity", "add-device", "phone"],
        ["identity", "add-device", "box", "--token", "desk"],
    ):
        _, said = founded(*arguments, code=77)
        assert "WrongPin" in said
        assert "000000" not in said
    founded.set(PIN_FILE=founded.directory / "pin.txt")
    assert founded("feed", "list")[0][0]["length"] == 0
    assert (founded.directory / "home" / "keystore.hfk").read_bytes() == before
    _, said = founded("identity", "add-device", "box", "--token", "desk", "--pin-file", "wrong.txt", code=77)
    founded("feed", "append", "notes", "notes.jsonl")


def test_without_the_token_or_its_library(founded: Home) -> None:
    founded("feed", "create", "notes")
    founded.set(TOKEN_MODULE="/no/such/library.so")
    _, said = founded("feed", "append", "notes", "notes.jsonl", code=78)
    assert "there is no PKCS#11 library" in said
    founded.patch.delenv("HOLDFAST_TOKEN_MODULE")
    _, said = founded("feed", "append", "notes", "notes.jsonl", code=78)
    assert "HOLDFAST_TOKEN_MODULE" in said
    assert founded("feed", "list")[0][0]["length"] == 0, "reading needs no token"
    _, said = founded("feed", "create", "x", "--device", "laptop", code=77)
    assert "devices in it: till" in said


def test_a_device_that_is_refused_leaves_no_key_in_the_token(founded: Home) -> None:
    def held() -> set[bytes]:
        with closing(founded.tokens.module()) as module:
            return {signer.public_key for signer in module.signers("desk")}

    founded("identity", "add-device", "phone")
    before, file = held(), (founded.directory / "home" / "keystore.hfk").read_bytes()
    founded("identity", "add-device", "till", "--token", "desk", code=64)
    founded("identity", "add-device", "box", "--token", "desk", "--by", "phone", code=1)
    assert held() == before
    assert (founded.directory / "home" / "keystore.hfk").read_bytes() == file
    founded("identity", "add-device", "box", "--token", "desk")
    assert len(held() - before) == 1


def test_a_founding_that_fails_leaves_no_key_in_the_token(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(home.tokens.module()) as module:
        before = {signer.public_key for signer in module.signers("desk")}

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("api.founding._move", fail)
    home("init", "--no-chain", "--token", "desk", "--phrase-file", "phrase.txt", code=74)
    assert not (home.directory / "home").exists()
    with closing(home.tokens.module()) as module:
        assert {signer.public_key for signer in module.signers("desk")} == before


def test_a_holder_with_a_token(home: Home) -> None:
    """One of two root holders has a token, the other a keystore."""
    home("root", "create", "Anna", "--token", "holder", "--phrase-file", "anna.phrase", "-o", "anna.card")
    home("root", "create", "Bert", "--keystore", "b.hfk", "--phrase-file", "bert.phrase", "-o", "bert.card")
    home("init", "--no-chain", "--card", "anna.card", "--card", "bert.card")
    request = "home/founding.request"
    _, said = home("identity", "sign", request, "--token", "desk", "--yes", "-o", "x.request", code=77)
    assert "may sign" in said
    wrong = ["--token", "holder", "--pin-file", "wrong.txt"]
    home("identity", "sign", request, *wrong, "--yes", "-o", "x.request", code=77)
    home("identity", "sign", request, "--token", "holder", "--yes", "-o", "a.request")
    home("identity", "sign", request, "--keystore", "b.hfk", "--yes", "-o", "b.request")
    assert not (home.directory / "x.request").exists()
    home("identity", "submit", "a.request", "b.request")
    ((shown), _) = home("identity", "show")
    assert (shown[0]["root_keys"], shown[0]["root_threshold"]) == (2, 2)


def test_two_feeds_of_one_token_in_two_threads(founded: Home) -> None:
    for name in ("one", "two"):
        founded("feed", "create", name)
    ring = founded.keys
    failed: list[object] = []

    def write(name: str) -> None:
        try:
            with closing(open_sqlite(founded.directory / "home" / "vault.db")) as store:
                (key,) = [state for state in keys if state[1] == name]
                for number in range(5):
                    append(store, key[0], signer, [b"%d" % number])
        except Exception as exc:  # noqa: BLE001
            failed.append(exc)

    from identity.textforms import parse_zbase32
    from ledger.store import FeedKey

    keys = [(FeedKey(parse_zbase32(row["key"])), row["name"]) for row in founded("feed", "list")[0]]
    with closing(founded.tokens.module()) as module:
        signer = module.signer(ring.token_devices["till"])
        threads = [threading.Thread(target=write, args=(name,)) for name in ("one", "two")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failed == []
    with closing(open_sqlite(founded.directory / "home" / "vault.db", read_only=True)) as store:
        assert [(audit_feed(store, key).entries, audit_feed(store, key).first_bad) for key, _ in keys] == [
            (5, None)
        ] * 2


def test_a_wrong_signature_is_never_stored(founded: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    founded("feed", "create", "notes")
    sign = _Session.sign

    def lie(session: _Session, private_key: Any, message: bytes) -> bytes:
        good = sign(session, private_key, message)
        return good if b"token-check" in message else bytes([good[0] ^ 1]) + good[1:]

    before = (founded.directory / "home" / "keystore.hfk").read_bytes()
    with monkeypatch.context() as lying:
        lying.setattr(_Session, "sign", lie)
        founded("feed", "append", "notes", "notes.jsonl", code=1)
        founded("identity", "add-device", "phone", code=1)
    assert founded("feed", "list")[0][0]["length"] == 0
    assert len(founded("identity", "devices")[0]) == 1
    assert (founded.directory / "home" / "keystore.hfk").read_bytes() == before
    founded("feed", "append", "notes", "notes.jsonl")


def test_a_token_that_is_pulled_out_while_writing(tokens: Tokens, tmp_path: Path) -> None:
    """Last, because the library is not the same after it: nothing is stored that was not signed."""
    from identity.event import DeviceClass, key_commitment, sign_event
    from identity.history import build_add_device, build_inception, fold
    from identity.keys import Ed25519Signer
    from ledger.identities import add_events

    root = Ed25519Signer(b"\x01" * 32)
    with closing(tokens.module()) as module, closing(open_sqlite(tmp_path / "vault.db", create=True)) as store:
        signer = module.generate("pulled", "till")
        first = build_inception(
            label="x", root_keys=[root.public_key], next_digests=[key_commitment(b"\x02" * 32)], time_ms=1
        )
        events = [sign_event(first, [(0, root)])]
        added = build_add_device(
            fold(events), device=signer.public_key, name="till", time_ms=1, device_class=DeviceClass.DEVICE
        )
        events.append(sign_event(added, [(0, root), (1, signer)]))
        identity = fold(events).identity
        with store.write() as tx:
            add_events(tx, identity, events)
        key = create_feed(store, signer, identity, "notes")
        append(store, key, signer, [b"signed"])
        tokens.remove("pulled")
        for _ in range(2):
            with pytest.raises(TransportError, match="token 'pulled' did not do what it was asked"):
                append(store, key, signer, [b"not signed"])
        audited = audit_feed(store, key)
        assert (audited.entries, audited.heads, audited.first_bad) == (1, 1, None)
