from __future__ import annotations

import base64

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from identity.errors import AuditError, LimitExceeded, MalformedError, SignatureMismatch, VerificationError
from identity.keys import Ed25519Signer
from ledger.checkpoint import (
    MAX_NOTE_BYTES,
    MAX_SIGNATURE_LINES,
    Checkpoint,
    NoteSignature,
    imprint_message,
    key_id,
    parse_checkpoint,
    parse_note,
    sign_checkpoint,
    verifier_key,
    verify_checkpoint,
)

SIGNER = Ed25519Signer(bytes(range(32)))
WITNESS = Ed25519Signer(bytes(range(1, 33)))
ORIGIN = "vault.example/" + "ab" * 32
CHECKPOINT = Checkpoint(ORIGIN, 20852163, bytes(range(32)))
NOTE = sign_checkpoint(SIGNER, CHECKPOINT)
TEXT, LINE = NOTE.split("\n\n")


def signature_line(signer: Ed25519Signer, name: str, text: str) -> str:
    return NoteSignature(name, key_id(name, signer.public_key), signer.sign(text.encode())).line()


def signed(text: str, name: str = ORIGIN) -> str:
    """A note over any text, with a signature that holds."""
    return f"{text}\n{signature_line(SIGNER, name, text)}"


def refuse(note: str, error: type[AuditError] = MalformedError) -> None:
    with pytest.raises(error) as caught:
        verify_checkpoint(note, ORIGIN, SIGNER.public_key)
    assert type(caught.value) is error
    with pytest.raises(error):
        imprint_message(note, ORIGIN, SIGNER.public_key)


def test_sign_and_verify() -> None:
    verified = verify_checkpoint(NOTE, ORIGIN, SIGNER.public_key)
    assert (verified.origin, verified.size, verified.root) == (ORIGIN, 20852163, bytes(range(32)))
    assert verified.note == NOTE
    assert NOTE.splitlines()[:4] == [ORIGIN, "20852163", base64.b64encode(bytes(range(32))).decode(), ""]
    assert NOTE.endswith("\n")


def test_the_example_of_c2sp_verifies() -> None:
    """The published note and verifier key of C2SP's signed-note, an origin that is not ours."""
    note = (
        "This is an example message.\n\n"
        "\u2014 example.com/foo "
        "Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
    )
    public_key = base64.b64decode("AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k")[1:]
    parsed = parse_note(note)
    assert parsed.text == "This is an example message.\n"
    assert parsed.signatures[0].key_id == key_id("example.com/foo", public_key) == bytes.fromhex("530d903a")
    assert verifier_key("example.com/foo", public_key) == (
        "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
    )
    assert "".join(signature.line() for signature in parsed.signatures) == note.split("\n\n")[1]


def test_witness_lines_are_ignored_and_not_in_the_imprint() -> None:
    witness = signature_line(WITNESS, "witness.example", TEXT + "\n")
    for note in (NOTE + witness, f"{TEXT}\n\n{witness}{LINE}"):
        assert verify_checkpoint(note, ORIGIN, SIGNER.public_key).note == note
        assert imprint_message(note, ORIGIN, SIGNER.public_key) == NOTE.encode()


def test_a_line_that_shares_only_the_name_or_only_the_id_counts_for_nothing() -> None:
    other_name = NoteSignature("other.example", key_id(ORIGIN, SIGNER.public_key), bytes(64)).line()
    other_id = NoteSignature(ORIGIN, b"\0\0\0\0", bytes(64)).line()
    verify_checkpoint(NOTE + other_name + other_id, ORIGIN, SIGNER.public_key)
    refuse(f"{TEXT}\n\n{other_name}{other_id}", SignatureMismatch)


def test_a_wrong_line_of_the_log_key_refuses_the_note() -> None:
    wrong = NoteSignature(ORIGIN, key_id(ORIGIN, SIGNER.public_key), bytes(64)).line()
    refuse(f"{TEXT}\n\n{wrong}", SignatureMismatch)
    refuse(NOTE + wrong)
    refuse(f"{TEXT}\n\n{wrong}{LINE}")
    refuse(NOTE + LINE)


@pytest.mark.parametrize("length", [1, 63, 65, 200])
def test_a_signature_of_another_length_is_refused(length: int) -> None:
    line = NoteSignature(ORIGIN, key_id(ORIGIN, SIGNER.public_key), bytes(length)).line()
    refuse(f"{TEXT}\n\n{line}", SignatureMismatch)


def test_another_key_another_log() -> None:
    with pytest.raises(SignatureMismatch):
        verify_checkpoint(NOTE, ORIGIN, WITNESS.public_key)
    with pytest.raises(VerificationError):
        verify_checkpoint(NOTE, "other.example/" + "ab" * 32, SIGNER.public_key)
    other = sign_checkpoint(SIGNER, Checkpoint("other.example", 1, bytes(32)))
    refuse(other, VerificationError)
    # Signed by the right key under a key name that is not the origin.
    refuse(signed(TEXT + "\n", "other.example"), SignatureMismatch)


ROOT64 = base64.b64encode(bytes(32)).decode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        f"{ORIGIN}\n",
        f"{ORIGIN}\n1\n",
        f"{ORIGIN}\n1\n{ROOT64}\nextension\n",
        f"{ORIGIN}\n1\n\n{ROOT64}\n",
        f"\n{ORIGIN}\n1\n{ROOT64}\n",
        f"{ORIGIN}\n0\n{ROOT64}\n",
        f"{ORIGIN}\n01\n{ROOT64}\n",
        f"{ORIGIN}\n+1\n{ROOT64}\n",
        f"{ORIGIN}\n-1\n{ROOT64}\n",
        f"{ORIGIN}\n1.0\n{ROOT64}\n",
        f"{ORIGIN}\n1e3\n{ROOT64}\n",
        f"{ORIGIN}\n 1\n{ROOT64}\n",
        f"{ORIGIN}\n1 \n{ROOT64}\n",
        f"{ORIGIN}\n1_0\n{ROOT64}\n",
        f"{ORIGIN}\n\u0661\n{ROOT64}\n",
        f"{ORIGIN}\n9007199254740993\n{ROOT64}\n",
        f"{ORIGIN}\n10000000000000000\n{ROOT64}\n",
        f"{ORIGIN}\n1\n{ROOT64[:-1]}\n",
        f"{ORIGIN}\n1\n{ROOT64[:-2]}B=\n",
        f"{ORIGIN}\n1\n{ROOT64} \n",
        f"{ORIGIN}\n1\n{base64.b64encode(bytes(31)).decode()}\n",
        f"{ORIGIN}\n1\n{base64.b64encode(bytes(33)).decode()}\n",
        f"{ORIGIN}\n1\n{base64.urlsafe_b64encode(bytes([255]) * 32).decode()}\n",
        f"{ORIGIN}\n1\n{bytes(32).hex()}\n",
    ],
)
def test_a_text_that_is_no_checkpoint_is_refused_although_it_is_signed(text: str) -> None:
    refuse(signed(text))
    with pytest.raises(MalformedError):
        parse_checkpoint(text)


@pytest.mark.parametrize(
    "note",
    [
        "",
        "\n\n",
        TEXT,
        TEXT + "\n",
        TEXT + "\n\n",
        TEXT + "\n\n\n",
        "\n\n" + LINE,
        f"{TEXT}\n{LINE}",
        NOTE[:-1],
        NOTE + "\n",
        NOTE + "garbage\n",
        NOTE + " \n",
        NOTE.replace("\u2014", "-"),
        NOTE.replace("\u2014 ", "\u2014"),
        NOTE.replace("\u2014 ", "\u2014  "),
        NOTE.replace("\n", "\r\n"),
        NOTE[:-1] + "\r\n",
        NOTE.replace("vault", "va\0ult"),
        NOTE[:-1] + " \n",
        NOTE[:-2] + "\n",
        f"{TEXT}\n\n\u2014 {ORIGIN}\n",
        f"{TEXT}\n\n\u2014 {ORIGIN} \n",
        f"{TEXT}\n\n\u2014  {LINE.split()[2]}\n",
        f"{TEXT}\n\n\u2014 a+b {LINE.split()[2]}\n",
        f"{TEXT}\n\n\u2014 a\u00a0b {LINE.split()[2]}\n",
        f"{TEXT}\n\n\u2014 a\u3000b {LINE.split()[2]}\n",
        f"{TEXT}\n\n\u2014 witness AAAAAA==\n{LINE}",
        f"{TEXT}\n\n\u2014 witness AAA=\n{LINE}",
        f"{TEXT}\n\n\u2014 witness AAAAAAB=\n{LINE}",
        f"{TEXT}\n\n\u2014 witness ????\n{LINE}",
        f"\ud800\n{NOTE}",
    ],
)
def test_malformed_notes(note: str) -> None:
    refuse(note)


@pytest.mark.parametrize("character", ["\0", "\t", "\r", "\x1f"])
def test_control_characters_in_any_note(character: str) -> None:
    line = NoteSignature("w", b"\0\0\0\0", b"x").line()
    parse_note(f"free text\n\n{line}")
    with pytest.raises(MalformedError):
        parse_note(f"free{character}text\n\n{line}")


def test_bounds() -> None:
    unknown = NoteSignature("w", b"\0\0\0\0", b"x").line()
    verify_checkpoint(NOTE + unknown * (MAX_SIGNATURE_LINES - 1), ORIGIN, SIGNER.public_key)
    refuse(NOTE + unknown * MAX_SIGNATURE_LINES, LimitExceeded)
    assert MAX_SIGNATURE_LINES >= 16

    def padded(size: int) -> str:
        room = size - len(NOTE.encode()) - len("\u2014 w \n".encode())
        return NOTE + f"\u2014 w {base64.b64encode(bytes(room // 4 * 3)).decode()}\n"

    verify_checkpoint(padded(MAX_NOTE_BYTES), ORIGIN, SIGNER.public_key)
    refuse(padded(MAX_NOTE_BYTES + 4), LimitExceeded)
    refuse(NOTE + "x" * MAX_NOTE_BYTES, LimitExceeded)
    # Fewer characters than the bound, more bytes.
    refuse("\u2014" * (MAX_NOTE_BYTES // 2), LimitExceeded)


@pytest.mark.parametrize(
    ("origin", "size", "root"),
    [
        ("", 1, bytes(32)),
        ("a b", 1, bytes(32)),
        ("a+b", 1, bytes(32)),
        ("a\nb", 1, bytes(32)),
        ("a\tb", 1, bytes(32)),
        ("a\u2003b", 1, bytes(32)),
        ("\ud800", 1, bytes(32)),
        ("a", 0, bytes(32)),
        ("a", -1, bytes(32)),
        ("a", 2**53 + 1, bytes(32)),
        ("a", 1, bytes(31)),
        ("a", 1, bytes(33)),
    ],
)
def test_a_checkpoint_that_cannot_be_written(origin: str, size: int, root: bytes) -> None:
    with pytest.raises(MalformedError):
        Checkpoint(origin, size, root)


@pytest.mark.parametrize(("name", "key"), [("", bytes(32)), ("a+b", bytes(32)), ("a b", bytes(32)), ("a", bytes(31))])
def test_a_verifier_key_that_cannot_be_written(name: str, key: bytes) -> None:
    with pytest.raises(MalformedError):
        verifier_key(name, key)


@given(st.integers(0, 8 * len(NOTE.encode()) - 1))
def test_every_bit_flip_is_refused(bit: int) -> None:
    data = bytearray(NOTE.encode())
    data[bit // 8] ^= 1 << bit % 8
    try:
        note = data.decode()
    except UnicodeDecodeError:
        return
    with pytest.raises((MalformedError, VerificationError)):
        verify_checkpoint(note, ORIGIN, SIGNER.public_key)


@given(
    st.text(
        st.characters(codec="utf-8", exclude_categories=("Z", "C"), exclude_characters="+"), min_size=1, max_size=40
    ),
    st.integers(1, 2**53),
    st.binary(min_size=32, max_size=32),
)
@example("a", 2**53, bytes(32))
def test_round_trip(origin: str, size: int, root: bytes) -> None:
    checkpoint = Checkpoint(origin, size, root)
    assert parse_checkpoint(checkpoint.text()) == checkpoint
    verified = verify_checkpoint(sign_checkpoint(SIGNER, checkpoint), origin, SIGNER.public_key)
    assert (verified.origin, verified.size, verified.root) == (origin, size, root)


@given(st.text(max_size=300))
@example(NOTE)
def test_only_malformed_errors_come_out_of_the_parser(text: str) -> None:
    for candidate in (text, f"{TEXT}\n\n{text}", f"{text}\n\n{LINE}"):
        try:
            note = parse_note(candidate)
        except MalformedError:
            continue
        assert note.text + "\n" + "".join(line.line() for line in note.signatures) == candidate
