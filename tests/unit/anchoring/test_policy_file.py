"""Reading a policy from disk, with the headers that it names."""

from __future__ import annotations

from pathlib import Path

import pytest

from anchoring.headers import TrustedHeader, encode_header_line
from anchoring.policy_file import load_policy, read_bounded
from identity.errors import ConfigurationError

ID = "5a" * 32
POLICY = """v = 1
identities = []
logs = []
require = ["integrity"]
[tsa]
k = 1
max_identity_age = "1d"
authorities = []
"""


def chain(number: int, file: str) -> str:
    return f'[[chain]]\nid = {number}\ncode_hash = "{ID}"\nheaders_file = "{file}"\n'


def header(chain_id: int, number: int, fill: int = 1) -> str:
    return encode_header_line(TrustedHeader(chain_id, number, bytes([fill]) * 32, "node", 0)) + "\n"


def write(folder: Path, policy: str) -> Path:
    file = folder / "policy.toml"
    file.write_text(policy)
    return file


def test_headers_are_read_relative_to_the_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pinned").mkdir()
    (tmp_path / "pinned" / "seven.jsonl").write_text(header(7, 1) + header(7, 2))
    (tmp_path / "eight.jsonl").write_text(header(8, 1))
    file = write(tmp_path, POLICY + chain(7, "pinned/seven.jsonl") + chain(8, "eight.jsonl"))
    monkeypatch.chdir("/")
    policy = load_policy(file)
    assert [len(policy.chains[number].headers) for number in (7, 8)] == [2, 1]


def test_a_policy_without_a_chain_needs_no_headers(tmp_path: Path) -> None:
    assert load_policy(write(tmp_path, POLICY)).chains == {}


def test_a_missing_policy_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot read"):
        load_policy(tmp_path / "policy.toml")
    with pytest.raises(ConfigurationError, match="cannot read"):
        load_policy(tmp_path)


@pytest.mark.parametrize("name", ["missing.jsonl", ".", "policy.toml/x"])
def test_missing_headers_are_a_configuration_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot read"):
        load_policy(write(tmp_path, POLICY + chain(7, name)))


def test_a_name_that_no_file_can_have_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        load_policy(write(tmp_path, POLICY + chain(7, "a\\u0000b")))


@pytest.mark.parametrize("text", ["{}\n", header(7, 1) + header(7, 1, fill=2), "\n", header(7, 1) + "x"])
def test_bad_headers_are_a_configuration_error_that_names_the_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "seven.jsonl").write_text(text)
    with pytest.raises(ConfigurationError, match=r"seven\.jsonl"):
        load_policy(write(tmp_path, POLICY + chain(7, "seven.jsonl")))


def test_a_file_is_read_up_to_a_bound(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"12345")
    assert read_bounded(file, 5) == b"12345"
    with pytest.raises(ConfigurationError, match="longer than 4 bytes"):
        read_bounded(file, 4)
