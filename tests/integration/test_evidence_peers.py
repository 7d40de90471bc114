"""Common tools check the parts of evidence: OpenSSL its tokens, Go its log, py-trie its receipt.

None of what is checked here goes through our own verifier but the last test. The evidence is that of tests/evidence
and that which the demonstration exports.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from base64 import b64decode, b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import libipld
import pytest
import rlp
from eth_hash.auto import keccak
from trie.hexary import HexaryTrie

from api.cli.__main__ import main

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parent.parent.parent
EVIDENCE = ROOT / "tests" / "evidence"

GO_MOD = """module holdfast.example/checker

go 1.21

require golang.org/x/mod v0.17.0
"""

GO_SUM = """golang.org/x/mod v0.17.0 h1:zY54UmvipHiNd+pm+m0x9KhZ9hl1/7QNMyxXbc6ICqA=
golang.org/x/mod v0.17.0/go.mod h1:hTbmBsO62+eylJbnUtE2MGJUyE7QWk4xUqPFrRgJ+7c=
"""

# Reads the log's part of an evidence file; the name and the key, from the descriptor's CBOR, are given.
GO_PROGRAM = """package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

type leaf struct {
	Index int64
	Leaf  []byte
	Proof [][]byte
}

type evidence struct {
	Log struct {
		Descriptor  leaf
		Checkpoints []struct {
			Note        string
			Consistency [][]byte
			Leaves      []leaf
		}
	}
}

func hashes(list [][]byte) []tlog.Hash {
	out := make([]tlog.Hash, len(list))
	for i, b := range list {
		copy(out[i][:], b)
	}
	return out
}

func check(in evidence, verifier note.Verifier) error {
	var size int64
	var root tlog.Hash
	for i, c := range in.Log.Checkpoints {
		opened, err := note.Open([]byte(c.Note), note.VerifierList(verifier))
		if err != nil {
			return err
		}
		lines := strings.Split(opened.Text, "\\n")
		next, err := strconv.ParseInt(lines[1], 10, 64)
		if err != nil {
			return err
		}
		nextRoot, err := tlog.ParseHash(lines[2])
		if err != nil {
			return err
		}
		leaves := c.Leaves
		if i == 0 {
			leaves = append(leaves, in.Log.Descriptor)
		} else if err := tlog.CheckTree(hashes(c.Consistency), next, nextRoot, size, root); err != nil {
			return err
		}
		for _, l := range leaves {
			if err := tlog.CheckRecord(hashes(l.Proof), next, nextRoot, l.Index, tlog.RecordHash(l.Leaf)); err != nil {
				return err
			}
		}
		size, root = next, nextRoot
	}
	fmt.Println("ok", size)
	return nil
}

func run() error {
	var in evidence
	if err := json.NewDecoder(os.Stdin).Decode(&in); err != nil {
		return err
	}
	verifier, err := note.NewVerifier(os.Args[1])
	if err != nil {
		return err
	}
	return check(in, verifier)
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
"""


@dataclass(frozen=True)
class Files:
    """Evidence and what it is judged with."""

    evidence: Path
    policy: Path
    at: datetime

    @property
    def document(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.evidence.read_text())
        return document

    @property
    def descriptor(self) -> dict[str, Any]:
        """The log's descriptor, decoded by libipld."""
        leaf = b64decode(self.document["log"]["descriptor"]["leaf"])
        kind, _, body = leaf.partition(b"\n")
        assert kind == b"holdfast/v1 log"
        descriptor: dict[str, Any] = libipld.decode_dag_cbor(body)
        return descriptor

    @property
    def log_id(self) -> bytes:
        return sha256(b"\0" + b64decode(self.document["log"]["descriptor"]["leaf"])).digest()


@pytest.fixture(scope="module")
def demonstration(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """What the demonstration exports, before it begins to attack."""
    from api.demo import tell

    folder = tmp_path_factory.mktemp("demo")
    file = folder / "payment.evidence.json"
    for _ in tell(folder, ROOT / "examples" / "berka-transactions.csv"):
        if file.exists():
            break
    return Files(file, folder / "bank" / "policy.toml", datetime.now().astimezone())


@pytest.fixture(scope="module", params=["genuine", "genuine_two_authorities", "revoked_proven_before", "demonstration"])
def files(request: pytest.FixtureRequest) -> Files:
    if request.param == "demonstration":
        found: Files = request.getfixturevalue("demonstration")
        return found
    folder = EVIDENCE / request.param
    at = datetime.fromisoformat((folder / "at.txt").read_text().strip())
    return Files(folder / "evidence.json", folder / "policy.toml", at)


# Tokens.


def tokens(document: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    """Each token with the note that it is for."""
    for checkpoint in document["log"]["checkpoints"]:
        for timestamp in checkpoint["timestamps"]:
            yield checkpoint["note"], b64decode(timestamp["response"])


def test_openssl_accepts_the_tokens(files: Files, tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    (tmp_path / "roots.pem").write_text(
        "\n".join(re.findall(r'root = """\n(.+?)"""', files.policy.read_text(), re.DOTALL))
    )
    moment = str(int(files.at.timestamp()))
    found = list(tokens(files.document))
    assert found
    for note, response in found:
        (tmp_path / "reply.tsr").write_bytes(response)
        for text, accepted in ((note, True), (note.replace("\n", "\n\n", 1), False)):
            # There are no witnesses here, so the imprint is over the whole note.
            (tmp_path / "note").write_bytes(text.encode())
            done = subprocess.run(
                [
                    *("openssl", "ts", "-verify", "-attime", moment),
                    *("-data", "note", "-in", "reply.tsr", "-CAfile", "roots.pem"),
                ],
                cwd=tmp_path,
                capture_output=True,
                check=False,
                timeout=30,
            )
            assert (done.returncode == 0, b"Verification: OK" in done.stdout) == (accepted, accepted), done.stderr


# The log.


@pytest.fixture(scope="module")
def checker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built Go program."""
    go = shutil.which("go")
    if go is None:
        pytest.skip("go is not installed")
    folder = tmp_path_factory.mktemp("go")
    for name, text in (("go.mod", GO_MOD), ("go.sum", GO_SUM), ("main.go", GO_PROGRAM)):
        (folder / name).write_text(text)
    fetched = subprocess.run([go, "mod", "download"], cwd=folder, capture_output=True, text=True, check=False)
    if fetched.returncode:
        pytest.skip(f"golang.org/x/mod cannot be had: {fetched.stderr.strip()[-200:]}")
    built = subprocess.run([go, "build", "-o", "checker", "."], cwd=folder, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return folder / "checker"


def check_with_go(checker: Path, files: Files, text: str) -> subprocess.CompletedProcess[str]:
    name = f"{files.descriptor['name']}/{files.log_id.hex()}"
    key = b"\x01" + files.descriptor["key"]
    key_id = sha256(name.encode() + b"\n" + key).digest()[:4]
    verifier = f"{name}+{key_id.hex()}+{b64encode(key).decode()}"
    return subprocess.run([str(checker), verifier], input=text, capture_output=True, text=True, check=False, timeout=60)


def test_go_accepts_notes_leaves_and_consistency(checker: Path, files: Files) -> None:
    done = check_with_go(checker, files, files.evidence.read_text())
    size = files.document["log"]["checkpoints"][-1]["note"].split("\n")[1]
    assert done.stdout == f"ok {size}\n", done.stderr


def test_go_refuses_another_leaf_note_or_order(checker: Path, files: Files) -> None:
    leaf, note, order = files.document, files.document, files.document
    shown = leaf["log"]["checkpoints"][0]["leaves"][0]
    shown["leaf"] = b64encode(b64decode(shown["leaf"])[:-1]).decode()
    note["log"]["checkpoints"][0]["note"] = note["log"]["checkpoints"][1]["note"]
    order["log"]["checkpoints"].reverse()
    for document in (leaf, note, order):
        assert check_with_go(checker, files, json.dumps(document)).returncode == 1


# The receipt.


def trusted_hash(files: Files, number: int) -> bytes:
    headers = [json.loads(line) for line in (files.policy.parent / "headers.jsonl").read_text().splitlines()]
    return bytes.fromhex(next(header["hash"] for header in headers if header["number"] == number))


def trie_value(root: bytes, key: bytes, nodes: list[str]) -> bytes:
    value: bytes = HexaryTrie.get_from_proof(root, keccak(key), [rlp.decode(b64decode(node)) for node in nodes])
    return value


def test_py_trie_accepts_the_receipt(files: Files) -> None:
    (checkpoint,) = [item for item in files.document["log"]["checkpoints"] if item["anchor"]]
    receipt, chain = checkpoint["anchor"], files.descriptor["chain"]
    header = b64decode(receipt["header"])
    fields = rlp.decode(header)
    assert keccak(header) == trusted_hash(files, int.from_bytes(fields[8], "big"))

    _, _, storage_root, code_hash = rlp.decode(trie_value(fields[3], chain["contract"], receipt["account_proof"]))
    assert code_hash.hex() in files.policy.read_text()

    slot = int.from_bytes(keccak(keccak(bytes(32) + chain["owner"].rjust(32, b"\0")) + files.log_id), "big")
    meta, root = (
        rlp.decode(trie_value(storage_root, (slot + place).to_bytes(32, "big"), nodes)).rjust(32, b"\0")
        for place, nodes in enumerate(receipt["storage_proofs"])
    )
    _, size, noted_root, *_ = checkpoint["note"].split("\n")
    assert int.from_bytes(meta[24:], "big") == int(size)
    assert meta[0] & 0x80 == 0
    assert meta[8:16].lstrip(b"\0") == fields[8]
    assert root == b64decode(noted_root)


# And the whole.


def test_holdfast_accepts_the_evidence(files: Files) -> None:
    at = files.at.isoformat()
    assert main(["verify", str(files.evidence), "--policy", str(files.policy), "--at", at, "--quiet"]) == 0
