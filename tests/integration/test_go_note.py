"""Go's golang.org/x/mod/sumdb reads our log: note.Open the checkpoints, tlog the proofs; and we read Go's notes.

The program is written, built and run in a temporary directory, with the module pinned by its sums.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any

import pytest

from identity.errors import SignatureMismatch
from identity.keys import Ed25519Signer
from ledger.checkpoint import Checkpoint, NoteSignature, key_id, sign_checkpoint, verifier_key, verify_checkpoint
from ledger.log import append_to_frontier, consistency_proof, inclusion_proof, root_at
from ledger.store import LogState

pytestmark = pytest.mark.integration

ORIGIN = "vault.example/" + "5a" * 32
SIGNER = Ed25519Signer(bytes(range(32)))
LEAVES = [b"leaf %d" % index for index in range(33)]
NODES = {(level, index): digest for level, index, digest in append_to_frontier(LogState(b"", 0, ()), LEAVES)[1]}

GO_MOD = """module holdfast.example/reader

go 1.21

require golang.org/x/mod v0.17.0
"""

GO_SUM = """golang.org/x/mod v0.17.0 h1:zY54UmvipHiNd+pm+m0x9KhZ9hl1/7QNMyxXbc6ICqA=
golang.org/x/mod v0.17.0/go.mod h1:hTbmBsO62+eylJbnUtE2MGJUyE7QWk4xUqPFrRgJ+7c=
"""

PROGRAM = """package main

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

type request struct {
	Verifier string
	Notes    []string
	Records  []struct {
		Size, Index int64
		Leaf, Root  []byte
		Proof       [][]byte
	}
	Trees []struct {
		Size1, Size2 int64
		Root1, Root2 []byte
		Proof        [][]byte
	}
	Sign string
}

type answer struct {
	Notes, Records, Trees []string
	Signed, Verifier      string
}

func hash(b []byte) (h tlog.Hash) {
	copy(h[:], b)
	return h
}

func hashes(list [][]byte) []tlog.Hash {
	out := []tlog.Hash{}
	for _, b := range list {
		out = append(out, hash(b))
	}
	return out
}

func result(err error) string {
	if err != nil {
		return err.Error()
	}
	return "ok"
}

func openNote(text string, verifier note.Verifier) string {
	n, err := note.Open([]byte(text), note.VerifierList(verifier))
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("ok %d %s", len(n.Sigs), strings.Split(n.Text, "\\n")[1])
}

func run() error {
	var in request
	if err := json.NewDecoder(os.Stdin).Decode(&in); err != nil {
		return err
	}
	verifier, err := note.NewVerifier(in.Verifier)
	if err != nil {
		return err
	}
	var out answer
	for _, text := range in.Notes {
		out.Notes = append(out.Notes, openNote(text, verifier))
	}
	for _, r := range in.Records {
		err := tlog.CheckRecord(hashes(r.Proof), r.Size, hash(r.Root), r.Index, tlog.RecordHash(r.Leaf))
		out.Records = append(out.Records, result(err))
	}
	for _, t := range in.Trees {
		err := tlog.CheckTree(hashes(t.Proof), t.Size2, hash(t.Root2), t.Size1, hash(t.Root1))
		out.Trees = append(out.Trees, result(err))
	}
	secret, public, err := note.GenerateKey(rand.Reader, verifier.Name())
	if err != nil {
		return err
	}
	signer, err := note.NewSigner(secret)
	if err != nil {
		return err
	}
	signed, err := note.Sign(&note.Note{Text: in.Sign}, signer)
	if err != nil {
		return err
	}
	out.Signed, out.Verifier = string(signed), public
	return json.NewEncoder(os.Stdout).Encode(out)
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
"""


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built program."""
    go = shutil.which("go")
    if go is None:
        pytest.skip("go is not installed")
    folder = tmp_path_factory.mktemp("go")
    for name, text in (("go.mod", GO_MOD), ("go.sum", GO_SUM), ("main.go", PROGRAM)):
        (folder / name).write_text(text)
    fetched = subprocess.run([go, "mod", "download"], cwd=folder, capture_output=True, text=True, check=False)
    if fetched.returncode:
        pytest.skip(f"golang.org/x/mod cannot be had: {fetched.stderr.strip()[-200:]}")
    built = subprocess.run([go, "build", "-o", "reader", "."], cwd=folder, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return folder / "reader"


def ask(reader: Path, **request: Any) -> dict[str, Any]:
    text = json.dumps({"Verifier": verifier_key(ORIGIN, SIGNER.public_key), "Sign": "text\n", **request})
    run = subprocess.run([str(reader)], input=text, capture_output=True, text=True, check=True, timeout=60)
    answer: dict[str, Any] = json.loads(run.stdout)
    return answer


def node(level: int, index: int) -> bytes:
    return NODES[level, index]


def texts(hashes: list[bytes]) -> list[str]:
    return [b64encode(digest).decode() for digest in hashes]


def checkpoint(size: int) -> Checkpoint:
    return Checkpoint(ORIGIN, size, root_at(node, size))


def test_go_opens_our_checkpoints(reader: Path) -> None:
    good = [sign_checkpoint(SIGNER, checkpoint(size)) for size in (1, 2, 33)]
    witness = NoteSignature("witness.example", b"\0\0\0\1", bytes(64)).line()
    bad = [
        good[2].replace("\n33\n", "\n34\n"),
        sign_checkpoint(Ed25519Signer(bytes(32)), checkpoint(33)),
        sign_checkpoint(SIGNER, Checkpoint("other.example", 33, bytes(32))),
        good[2][:-1],
    ]
    answers = ask(reader, Notes=[*good, good[2] + witness, *bad])["Notes"]
    assert answers[:4] == ["ok 1 1", "ok 1 2", "ok 1 33", "ok 1 33"]
    assert not [answer for answer in answers[4:] if answer.startswith("ok")]


def test_go_verifies_our_proofs(reader: Path) -> None:
    records = [
        {
            "Size": size,
            "Index": index,
            "Leaf": b64encode(LEAVES[index]).decode(),
            "Root": b64encode(root_at(node, size)).decode(),
            "Proof": texts(inclusion_proof(node, index, size)),
        }
        for size in (1, 2, 7, 8, 32, 33)
        for index in range(size)
    ]
    trees = [
        {
            "Size1": size1,
            "Size2": size2,
            "Root1": b64encode(root_at(node, size1)).decode(),
            "Root2": b64encode(root_at(node, size2)).decode(),
            "Proof": texts(consistency_proof(node, size1, size2)),
        }
        for size2 in range(1, 34)
        for size1 in range(1, size2 + 1)
    ]
    answer = ask(reader, Records=records, Trees=trees)
    assert answer["Records"] == ["ok"] * len(records)
    assert answer["Trees"] == ["ok"] * len(trees)
    wrong = b64encode(bytes(32)).decode()
    spoiled_records = [{**record, "Root": wrong} for record in records]
    spoiled_trees = [{**tree, "Root1": wrong} for tree in trees]
    answer = ask(reader, Records=spoiled_records, Trees=spoiled_trees)
    assert "ok" not in answer["Records"]
    assert "ok" not in answer["Trees"]


def test_we_verify_what_go_signs(reader: Path) -> None:
    answer = ask(reader, Sign=checkpoint(33).text())
    name, hex_id, key = answer["Verifier"].split("+", 2)
    public_key = b64decode(key)[1:]
    assert name == ORIGIN
    assert hex_id == key_id(ORIGIN, public_key).hex()
    assert answer["Verifier"] == verifier_key(ORIGIN, public_key)
    verified = verify_checkpoint(answer["Signed"], ORIGIN, public_key)
    assert (verified.size, verified.root) == (33, root_at(node, 33))
    with pytest.raises(SignatureMismatch):
        verify_checkpoint(answer["Signed"], ORIGIN, SIGNER.public_key)
