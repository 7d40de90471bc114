"""``holdfast root``: one holder's root key, where the root of an identity is in several hands. Needs no home."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from api.cli.exit_codes import UsageError
from api.cli.files import open_output, written
from api.cli.group import CommandGroup, invocation
from api.cli.passphrase import read_passphrase
from api.cli.phrases import PhraseFile, read_phrase, write_phrase
from api.cli.session import Force, OutputFile, PassphraseFile, PinFile, check_names
from api.cli.tokens import NewTokenKeys, TokenModuleFile, open_tokens

if TYPE_CHECKING:
    from api.cli.output import Output
    from identity.keys import Signer
    from identity.rootcard import RootCard

__all__ = ["group"]

group = CommandGroup("root", "A holder's root key, where several people hold the root of an identity.")

Holder = Annotated[str, typer.Argument(metavar="HOLDER", help="What people call you, or your office.")]
Generation = Annotated[
    int, typer.Option("--generation", metavar="N", min=0, max=1 << 32, help="0 is the first; one more a rotation.")
]


@group.add(
    "create",
    examples=[
        "holdfast root create 'Anna, Zurich' --keystore anna.hfk --phrase-file anna.phrase -o anna.card",
        "holdfast root create Bert --token 'Bert' --phrase-file bert.phrase -o bert.card",
    ],
)
def create(
    ctx: typer.Context,
    holder: Holder,
    output: OutputFile,
    phrase_file: Annotated[
        Path, typer.Option("--phrase-file", metavar="FILE", help="Write your new recovery phrase to FILE.")
    ],
    keystore: Annotated[
        Path | None, typer.Option("--keystore", metavar="FILE", help="Keep the key in this new keystore.")
    ] = None,
    token: Annotated[
        str | None, typer.Option("--token", metavar="LABEL", help="Make the key in this hardware token instead.")
    ] = None,
    token_module: TokenModuleFile = None,
    pin_file: PinFile = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Make a root key of your own, and the card to hand over. The phrase gives the next key: keep it elsewhere.

    Nothing secret leaves this machine: the card holds the public key and a commitment to the next one.
    """
    from identity.keys import Ed25519Signer
    from identity.keystore import KeyRing, create_keystore
    from identity.recovery import generate_phrase, root_seed
    from identity.rootcard import sign_card

    run = invocation(ctx)
    check_names(holder=holder)
    if (keystore is None) == (token is None):
        raise UsageError("where is the key to be?", hint="one of --keystore FILE and --token LABEL")
    phrase = generate_phrase()
    following = Ed25519Signer(root_seed(phrase, 1)).public_key
    with open_tokens(run, token_module, pin_file) as tokens, ExitStack() as undo:
        signer: Signer
        if keystore is not None:
            seed = root_seed(phrase, 0)
            passphrase = read_passphrase(passphrase_file, run.environ, ask_twice=True)
            _write_phrase(undo, phrase_file, phrase)
            ring = KeyRing(root_seeds=(seed,), generation=0, devices={}, log_seed=None, anchor_key=None)
            create_keystore(keystore, passphrase, ring)
            undo.callback(keystore.unlink, missing_ok=True)
            signer = Ed25519Signer(seed)
        else:
            assert token is not None
            _write_phrase(undo, phrase_file, phrase)
            made = NewTokenKeys(tokens, token, "holdfast root")
            undo.callback(made.discard)
            signer = made.make(holder)
        _write_card(run.out, sign_card(holder, signer, following), output)
        undo.pop_all()  # it is complete now


def _write_phrase(undo: ExitStack, file: Path, phrase: str) -> None:
    write_phrase(file, phrase)
    undo.callback(file.unlink, missing_ok=True)


@group.add(
    "card",
    examples=[
        "holdfast root card 'Anna, Zurich' --phrase-file anna.phrase --generation 1 -o anna-1.card",
        "holdfast root card Bert --phrase-file - --generation 2 -o bert-2.card",
    ],
)
def card(
    ctx: typer.Context,
    holder: Holder,
    phrase_file: PhraseFile,
    generation: Generation,
    output: OutputFile,
    force: Force = False,
) -> None:
    """Make the card of a later root key, for a rotation: it reveals the key that the last card promised."""
    from identity.keys import Ed25519Signer
    from identity.recovery import root_seed
    from identity.rootcard import sign_card

    check_names(holder=holder)
    phrase = read_phrase(phrase_file)
    signer, following = (Ed25519Signer(root_seed(phrase, number)) for number in (generation, generation + 1))
    _write_card(invocation(ctx).out, sign_card(holder, signer, following.public_key), output, force=force)


@group.add(
    "restore",
    examples=[
        "holdfast root restore --phrase-file anna.phrase --generation 0 --keystore anna-new.hfk",
        "holdfast root restore --phrase-file - --generation 1 --keystore anna-1.hfk --passphrase-file pass.txt",
    ],
)
def restore(
    ctx: typer.Context,
    phrase_file: PhraseFile,
    generation: Generation,
    keystore: Annotated[Path, typer.Option("--keystore", metavar="FILE", help="The new keystore.")],
    passphrase_file: PassphraseFile = None,
) -> None:
    """Make your keystore anew from the recovery phrase: because it is lost, or for the key after a rotation."""
    from identity.keys import Ed25519Signer
    from identity.keystore import KeyRing, create_keystore
    from identity.recovery import root_seed
    from identity.textforms import to_did_key

    run = invocation(ctx)
    seed = root_seed(read_phrase(phrase_file), generation)
    ring = KeyRing(root_seeds=(seed,), generation=generation, devices={}, log_seed=None, anchor_key=None)
    create_keystore(keystore, read_passphrase(passphrase_file, run.environ, ask_twice=True), ring)
    run.out.record(
        "root-key",
        {"keystore": str(keystore), "generation": generation, "key": to_did_key(Ed25519Signer(seed).public_key)},
    )


def _write_card(out: Output, card: RootCard, file: Path, *, force: bool = False) -> None:
    from identity.rootcard import encode_card
    from identity.textforms import to_did_key, to_hex

    with open_output(out, file, force=force) as stream:
        stream.write(encode_card(card))
    written(out, "root-card", file, {"holder": card.holder, "key": to_did_key(card.key), "next": to_hex(card.next)})
