"""The worked examples of the specifications, read from their text and computed again."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest
from nacl.pwhash import argon2id

from identity.contexts import KEYSTORE_CHECKSUM, KEYSTORE_HEADER
from identity.encoding import MAX_BYTES, MAX_DEPTH, MAX_ITEMS, decode, encode
from identity.event import MAX_EVENT_BYTES, MAX_LAST_GOOD, MAX_ROOT_KEYS, parse_event
from identity.history import (
    DeviceClass,
    RevocationReason,
    SignedEvent,
    build_add_device,
    build_inception,
    event_digest,
    fold,
    key_commitment,
    parse_signed_event,
    sign_event,
)
from identity.keys import Ed25519Signer, TokenKey
from identity.keystore import (
    ARGON2ID_2026,
    MAX_DEVICES,
    MAX_KEYSTORE_BYTES,
    MAX_PASSPHRASE,
    ONLY_FOR_TESTING,
    KeyRing,
    open_keystore,
)
from identity.recovery import parse_phrase, root_seed
from identity.textforms import (
    MAX_NAME,
    parse_base64,
    parse_did_key,
    parse_hex,
    parse_zbase32,
    to_base64,
    to_did_key,
    to_hex,
    to_zbase32,
)
from identity.verdict import Reason

SPEC = Path(__file__).parents[3] / "docs" / "spec"


def read(name: str) -> str:
    return (SPEC / name).read_text(encoding="utf-8")


def example(name: str) -> dict[str, str]:
    """``name = value`` of every text block; a value on indented lines is joined without its white space."""
    values: dict[str, str] = {}
    key = ""
    for block in re.findall(r"```text\n(.*?)```", read(name), re.DOTALL):
        for line in block.splitlines():
            if line.startswith("    "):
                values[key] += (" " if key == "phrase" and values[key] else "") + line.strip()
            else:
                key, _, value = line.partition(" =")
                values[key] = value.strip()
    return values


def test_canonical_encoding() -> None:
    text = read("canonical-encoding.md")
    (block,) = re.findall(r"```cbor\n(.*?)```", text, re.DOTALL)
    data = bytes.fromhex("".join(line.partition("#")[0] for line in block.splitlines()))
    value = {
        "v": 1,
        "name": "Zoë",
        "fresh": True,
        "when": 1790000000000,
        "tree": bytes.fromhex("01711220"),
        "size": -25,
        "none": None,
        "list": [],
    }
    assert encode(value) == data
    assert decode(data) == value
    assert f"these {len(data)} bytes" in text


def test_text_forms() -> None:
    forms = example("canonical-encoding.md")
    key = bytes.fromhex(forms["key"])
    assert forms == {
        "key": key.hex(),
        "hex": to_hex(key),
        "base64": to_base64(key),
        "z base 32": to_zbase32(key),
        "did key": to_did_key(key),
    }
    assert parse_hex(forms["hex"]) == parse_base64(forms["base64"]) == key
    assert parse_zbase32(forms["z base 32"]) == parse_did_key(forms["did key"]) == key


def test_limits_are_the_ones_in_the_text() -> None:
    def number(value: int) -> str:
        return f"{value:,}"

    for name, values in {
        "canonical-encoding.md": [MAX_BYTES, MAX_DEPTH, MAX_ITEMS, MAX_NAME],
        "identity.md": [MAX_EVENT_BYTES, MAX_LAST_GOOD, MAX_ROOT_KEYS, MAX_ROOT_KEYS + 1],
        "keystore.md": [MAX_KEYSTORE_BYTES, MAX_DEVICES, MAX_PASSPHRASE, MAX_ROOT_KEYS],
    }.items():
        for value in values:
            assert re.search(rf"\b{number(value)}\b", read(name)), (name, value)


def test_identity() -> None:
    values = example("identity.md")
    phrase = parse_phrase(values["phrase"])
    assert [root_seed(phrase, g).hex() for g in (0, 1)] == [values["root seed 0"], values["root seed 1"]]
    root, following = (Ed25519Signer(root_seed(phrase, generation)) for generation in (0, 1))
    assert values["root key 0"] == root.public_key.hex()
    assert values["root key 0 as text"] == to_did_key(root.public_key)
    assert values["root key 1"] == following.public_key.hex()
    assert values["commitment to root key 1"] == key_commitment(following.public_key).hex()

    inception = build_inception(
        label="Ada",
        root_keys=[root.public_key],
        next_digests=[bytes.fromhex(values["commitment to root key 1"])],
        time_ms=1790000000000,
    )
    assert values["inception"] == inception.hex()
    assert values["identity id"] == event_digest(inception).hex()
    first = sign_event(inception, [(0, root)])
    assert values["root signature"] == first.signatures[0][1].hex()
    assert values["signed inception"] == first.encode().hex()

    device = Ed25519Signer(bytes.fromhex(values["device seed"]))
    assert values["device key"] == device.public_key.hex()
    event = build_add_device(fold([first]), device=device.public_key, name="laptop", time_ms=1790000060000)
    assert values["add device"] == event.hex()
    second = sign_event(event, [(0, root), (1, device)])
    assert values["root signature of add device"] == second.signatures[0][1].hex()
    assert values["device signature of add device"] == second.signatures[1][1].hex()
    assert values["head"] == event_digest(event).hex()


def test_the_identity_of_the_example_folds() -> None:
    values = {
        key: bytes.fromhex(value)
        for key, value in example("identity.md").items()
        if re.fullmatch("([0-9a-f]{2})+", value)
    }
    signatures = (values["root signature of add device"], values["device signature of add device"])
    events = [
        parse_signed_event(values["signed inception"]),
        SignedEvent(values["add device"], tuple(enumerate(signatures))),
    ]
    history = fold(events)
    assert (history.identity, history.head) == (values["identity id"], values["head"])
    assert history.devices[values["device key"]].name == "laptop"
    assert parse_event(values["add device"]).prev == history.identity


def test_names_in_the_identity_specification() -> None:
    text = read("identity.md")
    for word in (*RevocationReason, *DeviceClass):
        assert f"`{word}`" in text
    for reason in set(Reason) - {Reason.OK}:
        assert f"/{reason} |" in text


def test_keystore(tmp_path: Path) -> None:
    values = example("keystore.md")
    passphrase = values.pop("passphrase")
    parts = {key: bytes.fromhex(value) for key, value in values.items() if "token" not in key}
    path = tmp_path / "keystore"
    path.write_bytes(parts["file"])
    ring = open_keystore(path, passphrase)
    root = bytes.fromhex(example("identity.md")["root seed 0"])
    assert ring == KeyRing((root,), 0, {"laptop": b"\xdd" * 32}, b"\xee" * 32, None)

    first_line, _, rest = parts["file"].partition(b"\n")
    assert first_line == b"holdfast keystore 1"
    assert decode(rest) == {key: parts[key] for key in ("header", "ciphertext", "checksum")}
    checksum = hashlib.sha256(KEYSTORE_CHECKSUM + parts["header"] + parts["ciphertext"]).digest()
    assert checksum == parts["checksum"]
    header = decode(parts["header"])
    assert isinstance(header, dict)
    assert header == {"kdf": ONLY_FOR_TESTING.name, "salt": parts["salt"], "nonce": header["nonce"]}
    key = argon2id.kdf(32, passphrase.encode(), parts["salt"], opslimit=1, memlimit=8 * 1024)
    assert key == parts["key from Argon2id"]
    assert len(parts["ciphertext"]) == len(parts["plaintext"]) + 16
    assert decode(parts["plaintext"]) == {
        "v": 1,
        "generation": 0,
        "roots": [root],
        "devices": {"laptop": b"\xdd" * 32},
        "log": b"\xee" * 32,
        "anchor": None,
    }
    assert KEYSTORE_HEADER.decode().removeprefix("holdfast/v1/").removesuffix("\0") in read("keystore.md")


def test_keystore_with_a_token(tmp_path: Path) -> None:
    values = example("keystore.md")
    path = tmp_path / "keystore"
    path.write_bytes(bytes.fromhex(values["file with a token"]))
    key = TokenKey(bytes.fromhex(values["token device key"]), "desk")
    ring = KeyRing((), 0, {}, b"\xee" * 32, None, token_devices={"till": key})
    assert open_keystore(path, values["passphrase"]) == ring
    assert decode(bytes.fromhex(values["plaintext with a token"])) == {
        "v": 2,
        "generation": 0,
        "roots": [],
        "devices": {},
        "log": b"\xee" * 32,
        "anchor": None,
        "token_devices": {"till": {"key": key.public_key, "token": "desk"}},
        "token_root": None,
    }


@pytest.mark.parametrize("profile", [ARGON2ID_2026, ONLY_FOR_TESTING])
def test_profiles_in_the_keystore_specification(profile: object) -> None:
    assert isinstance(profile, type(ARGON2ID_2026))
    memory = (
        f"{profile.memory_bytes >> 20} MiB" if profile.memory_bytes >= 1 << 20 else f"{profile.memory_bytes >> 10} KiB"
    )
    assert f"| `{profile.name}` | {profile.passes} | {memory} |" in read("keystore.md")
