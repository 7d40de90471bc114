"""Makes log_inclusion.json, log_consistency.json, log_checkpoint.json: good proofs and notes, and ways to spoil them.

    python tests/vectors/make_log_vectors.py            write the files
    python tests/vectors/make_log_vectors.py --check    fail when they are not what would be written

Nothing of holdfast is used: the tree is written down from RFC 9162 section 2.1, the notes from C2SP's signed-note with
PyNaCl's Ed25519. So the vectors test this code and any other that reads the same formats. ``wantErr`` says whether a
verifier must refuse. ``desc`` is unique within its file.
"""

from __future__ import annotations

import json
import sys
from base64 import b64encode
from hashlib import sha256
from pathlib import Path
from typing import Any

from nacl.signing import SigningKey

HERE = Path(__file__).resolve().parent
LEAVES = [b"leaf %d" % index for index in range(33)]
INCLUSION_CASES = [(0, 1), (0, 2), (0, 8), (5, 8), (2, 3), (1, 5), (4, 5), (6, 7), (12, 13), (16, 33), (32, 33)]
CONSISTENCY_CASES = [(1, 1), (1, 2), (1, 8), (6, 8), (2, 5), (3, 7), (4, 7), (7, 7), (8, 9), (13, 20), (31, 33)]

Vector = dict[str, Any]


# --- RFC 9162 section 2.1 -------------------------------------------------------------------------------------------


def split(count: int) -> int:
    k = 1
    while 2 * k < count:
        k *= 2
    return k


def mth(leaves: list[bytes]) -> bytes:
    if len(leaves) == 1:
        return sha256(b"\x00" + leaves[0]).digest()
    k = split(len(leaves))
    return sha256(b"\x01" + mth(leaves[:k]) + mth(leaves[k:])).digest()


def path(index: int, leaves: list[bytes]) -> list[bytes]:
    if len(leaves) == 1:
        return []
    k = split(len(leaves))
    if index < k:
        return [*path(index, leaves[:k]), mth(leaves[k:])]
    return [*path(index - k, leaves[k:]), mth(leaves[:k])]


def subproof(size: int, leaves: list[bytes], complete: bool) -> list[bytes]:
    if size == len(leaves):
        return [] if complete else [mth(leaves)]
    k = split(len(leaves))
    if size <= k:
        return [*subproof(size, leaves[:k], complete), mth(leaves[k:])]
    return [*subproof(size - k, leaves[k:], False), mth(leaves[:k])]


# --- spoiling -------------------------------------------------------------------------------------------------------


def flip(digest: bytes, bit: int) -> bytes:
    changed = bytearray(digest)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def spoiled_proofs(proof: list[bytes], roots: dict[str, bytes]) -> dict[str, list[bytes]]:
    spoiled = {
        "a zero hash appended": [*proof, bytes(32)],
        "a zero hash put first": [bytes(32), *proof],
        "an empty hash appended": [*proof, b""],
    }
    for name, root in roots.items():
        spoiled[f"{name} appended"] = [*proof, root]
        spoiled[f"{name} put first"] = [root, *proof]
    for position, digest in enumerate(proof):
        before, after = proof[:position], proof[position + 1 :]
        spoiled |= {
            f"hash {position}: bit 4 flipped": [*before, flip(digest, 4), *after],
            f"hash {position}: last bit flipped": [*before, flip(digest, 255), *after],
            f"hash {position}: left out": [*before, *after],
            f"hash {position}: twice": [*before, digest, digest, *after],
            f"hash {position}: cut by a byte": [*before, digest[:-1], *after],
            f"hash {position}: a byte longer": [*before, digest + b"\0", *after],
            f"hash {position}: zero": [*before, bytes(32), *after],
        }
    if len(proof) > 1:
        spoiled["the hashes in reverse"] = proof[::-1]
    if proof:
        spoiled["no hashes"] = []
    return spoiled


def spoiled_hash(name: str, digest: bytes) -> dict[str, bytes]:
    return {
        f"{name}: bit 0 flipped": flip(digest, 0),
        f"{name}: zero": bytes(32),
        f"{name}: empty": b"",
        f"{name}: cut by a byte": digest[:-1],
        f"{name}: a byte longer": digest + b"\0",
    }


def texts(hashes: list[bytes]) -> list[str]:
    return [b64encode(digest).decode() for digest in hashes]


def text(digest: bytes) -> str:
    return b64encode(digest).decode()


# --- the three sets -------------------------------------------------------------------------------------------------


def inclusion_vectors() -> list[Vector]:
    vectors = []
    for index, size in INCLUSION_CASES:
        leaf, proof, root = mth([LEAVES[index]]), path(index, LEAVES[:size]), mth(LEAVES[:size])
        good = {"index": index, "size": size, "leafHash": text(leaf), "proof": texts(proof), "root": text(root)}
        changes: dict[str, Vector] = {
            f"index {index + step}": {"index": index + step} for step in (-1, 1, size, 2**53) if index + step != index
        }
        # Sizes at which the path is folded alike would be accepted, by RFC 9162 too; these are not such.
        changes |= {f"size {wrong}": {"size": wrong} for wrong in (-1, 0, index, 2 * size, 2**53 + 1)}
        changes |= {name: {"leafHash": text(value)} for name, value in spoiled_hash("leaf hash", leaf).items()}
        changes |= {name: {"root": text(value)} for name, value in spoiled_hash("root", root).items()}
        changes |= {name: {"proof": texts(value)} for name, value in spoiled_proofs(proof, {"the root": root}).items()}
        changes["the leaf's bytes hashed without prefix"] = {"leafHash": text(sha256(LEAVES[index]).digest())}
        vectors += vectors_of(f"leaf {index} of {size}", good, changes)
    return vectors


def consistency_vectors() -> list[Vector]:
    vectors = []
    for size1, size2 in CONSISTENCY_CASES:
        root1, root2 = mth(LEAVES[:size1]), mth(LEAVES[:size2])
        proof = subproof(size1, LEAVES[:size2], True)
        good = {"size1": size1, "size2": size2, "proof": texts(proof), "root1": text(root1), "root2": text(root2)}
        changes: dict[str, Vector] = {
            "size1 0": {"size1": 0},
            "size1 -1": {"size1": -1},
            "size1 beyond size2": {"size1": size2 + 1},
            "size2 before size1": {"size2": size1 - 1},
            "size2 2^53+1": {"size2": 2**53 + 1},
            "size2 doubled": {"size2": 2 * size2},
        }
        if size1 != size2:
            changes["sizes exchanged"] = {"size1": size2, "size2": size1}
            changes["roots exchanged"] = {"root1": text(root2), "root2": text(root1)}
            changes["size2 is size1"] = {"size2": size1}
            changes["size1 is size2"] = {"size1": size2}
        changes |= {name: {"root1": text(value)} for name, value in spoiled_hash("root1", root1).items()}
        changes |= {name: {"root2": text(value)} for name, value in spoiled_hash("root2", root2).items()}
        roots = {"root1": root1, "root2": root2}
        changes |= {name: {"proof": texts(value)} for name, value in spoiled_proofs(proof, roots).items()}
        vectors += vectors_of(f"{size1} to {size2}", good, changes)
    return vectors


def vectors_of(name: str, good: Vector, changes: dict[str, Vector]) -> list[Vector]:
    spoiled = [{"desc": f"{name}: {change}", **good, **members, "wantErr": True} for change, members in changes.items()]
    return [{"desc": f"{name}: as it should be", **good, "wantErr": False}, *spoiled]


ORIGIN = "vault.example/" + "5a" * 32
KEY = SigningKey(bytes(range(32)))
WITNESS = SigningKey(bytes(range(1, 33)))
ROOT = text(mth(LEAVES))


def key_id(name: str, key: SigningKey, kind: bytes = b"\x01") -> bytes:
    return sha256(name.encode() + b"\n" + kind + bytes(key.verify_key)).digest()[:4]


def line(message: str, key: SigningKey = KEY, name: str = ORIGIN) -> str:
    return f"\u2014 {name} {text(key_id(name, key) + key.sign(message.encode()).signature)}\n"


def checkpoint_vectors() -> list[Vector]:
    body = f"{ORIGIN}\n33\n{ROOT}\n"
    own, witness = line(body), line(body, WITNESS, "witness.example")
    note = f"{body}\n{own}"
    payload = key_id(ORIGIN, KEY) + KEY.sign(body.encode()).signature
    zero = f"\u2014 {ORIGIN} {text(key_id(ORIGIN, KEY) + bytes(64))}\n"
    accepted = {
        "as it should be": note,
        "a witness line after": note + witness,
        "a witness line before": f"{body}\n{witness}{own}",
        "a line of the key's name under another key id": note + f"\u2014 {ORIGIN} {text(bytes(68))}\n",
        "a line of the key's id under another name": note + f"\u2014 other.example {text(payload)}\n",
        "sixteen lines": note + witness * 15,
    }
    refused = {
        "empty": "",
        "the body alone": body,
        "body and blank line": body + "\n",
        "no blank line": body + own,
        "two blank lines": f"{body}\n\n{own}",
        "without the last newline": note[:-1],
        "a blank line after": note + "\n",
        "carriage returns": note.replace("\n", "\r\n"),
        "only a witness line": f"{body}\n{witness}",
        "the log's line twice": note + own,
        "a zero signature": f"{body}\n{zero}",
        "a zero signature beside the good one": note + zero,
        "another key under the same name": f"{body}\n{line(body, WITNESS)}",
        "signed under another key name": f"{body}\n{line(body, KEY, 'vault.example')}",
        "the signature is over the text with the blank line": f"{body}\n{line(body + chr(10))}",
        "the signature is over another size": f"{body}\n{line(body.replace('33', '34', 1))}",
        "a key id of type 04": (
            f"{body}\n\u2014 {ORIGIN} {text(key_id(ORIGIN, KEY, bytes([4])) + KEY.sign(body.encode()).signature)}\n"
        ),
        "a signature cut by a byte": f"{body}\n\u2014 {ORIGIN} {text(payload[:-1])}\n",
        "a signature a byte longer": f"{body}\n\u2014 {ORIGIN} {text(payload + bytes(1))}\n",
        "base64 without padding": f"{body}\n\u2014 {ORIGIN} {text(payload).rstrip('=')}\n",
        "base64 with a space": f"{body}\n\u2014 {ORIGIN} {text(payload)} \n",
        "a hyphen for the dash": note.replace("\u2014", "-"),
        "a control character": note.replace("vault", "va\x07lt"),
        "a signature line without signature": note + "\u2014 witness.example AAAAAA==\n",
        "a line that is no signature": note + "witness.example\n",
        "33 lines": note + witness * 32,
        "more than 64 KiB": note + f"\u2014 witness.example {'AAAA' * 16384}\n",
    }
    spoiled_bodies = {
        "an extension line": f"{ORIGIN}\n33\n{ROOT}\nextension\n",
        "no root": f"{ORIGIN}\n33\n",
        "size 0": f"{ORIGIN}\n0\n{ROOT}\n",
        "size 033": f"{ORIGIN}\n033\n{ROOT}\n",
        "size +33": f"{ORIGIN}\n+33\n{ROOT}\n",
        "size -33": f"{ORIGIN}\n-33\n{ROOT}\n",
        "size in hex": f"{ORIGIN}\n0x21\n{ROOT}\n",
        "size beyond 2^53": f"{ORIGIN}\n9007199254740993\n{ROOT}\n",
        "size in other digits": f"{ORIGIN}\n\u0663\u0663\n{ROOT}\n",
        "a root of 31 bytes": f"{ORIGIN}\n33\n{text(bytes(31))}\n",
        "a root of 33 bytes": f"{ORIGIN}\n33\n{text(bytes(33))}\n",
        "a root with spare bits set": f"{ORIGIN}\n33\n{text(bytes(32))[:-2]}B=\n",
        "a root in hex": f"{ORIGIN}\n33\n{bytes(32).hex()}\n",
        "another log": f"vault.example/{'5b' * 32}\n33\n{ROOT}\n",
        "a space after the origin": f"{ORIGIN} \n33\n{ROOT}\n",
        "an empty first line": f"\n{ORIGIN}\n33\n{ROOT}\n",
    }
    refused |= {f"signed, with {name}": f"{spoiled}\n{line(spoiled)}" for name, spoiled in spoiled_bodies.items()}
    members = {"origin": ORIGIN, "publicKey": text(bytes(KEY.verify_key)), "size": 33, "root": ROOT}
    return [
        {"desc": name, **members, "note": value, "wantErr": want_error}
        for want_error, notes in ((False, accepted), (True, refused))
        for name, value in notes.items()
    ]


def main() -> int:
    sets = {
        "log_inclusion.json": inclusion_vectors(),
        "log_consistency.json": consistency_vectors(),
        "log_checkpoint.json": checkpoint_vectors(),
    }
    stale = []
    for name, vectors in sets.items():
        assert len({vector["desc"] for vector in vectors}) == len(vectors), f"{name}: a desc stands twice"
        content = json.dumps(vectors, indent=0, ensure_ascii=True) + "\n"
        if "--check" not in sys.argv:
            (HERE / name).write_text(content, encoding="ascii")
        elif (HERE / name).read_text(encoding="ascii") != content:
            stale.append(name)
    if stale:
        sys.stderr.write(f"not what make_log_vectors.py writes: {', '.join(stale)}\n")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
