"""``holdfast identity``: signing requests, on the machines of those who hold root keys and in the store that waits.

Reviewing and signing need no home: a holder has a keystore, a token or a phrase, and the file that was sent.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from api.cli.exit_codes import UsageError
from api.cli.files import open_output, read_input, source_name, written
from api.cli.group import Invocation, invocation
from api.cli.identity_common import group
from api.cli.output import Output
from api.cli.passphrase import read_passphrase
from api.cli.phrases import read_phrase
from api.cli.session import Force, OutputFile, PassphraseFile, PinFile, opened
from api.cli.tokens import TokenLabel, TokenModuleFile, open_tokens

if TYPE_CHECKING:
    from api.cli.output import Plain
    from api.root_events import OpenToken
    from identity.history import ProposedEvent
    from identity.keys import Signer
    from identity.request import SigningRequest

__all__: list[str] = []

RequestFile = Annotated[
    Path, typer.Argument(metavar="REQUEST", help="A signing request, from any holder or from none; - for stdin.")
]


def _read(file: Path) -> SigningRequest:
    from identity.request import MAX_REQUEST_BYTES, parse_request

    return parse_request(read_input(file, MAX_REQUEST_BYTES), source_name(file))


def _facts(request: SigningRequest, steps: Sequence[ProposedEvent]) -> dict[str, Plain]:
    from identity.textforms import to_hex

    return {
        "request": to_hex(request.id),
        "identity": to_hex(steps[-1].after.identity),
        "label": steps[-1].after.label,
        "events": [step.event.type for step in steps],
        "missing": [step.missing for step in steps],
    }


def _words(request: SigningRequest, steps: Sequence[ProposedEvent]) -> str:
    """The whole request in words, as it is shown before anybody signs."""
    from api.cli.output import printable
    from api.cli.plain_words import describe_event, describe_signatures
    from identity.textforms import to_hex

    after = steps[-1].after
    lines = [
        f"request {to_hex(request.id)}",
        f"for the identity '{printable(after.label)}' {to_hex(after.identity)}, to:",
    ]
    if after.duplicity is not None:
        lines.append("the identity is DUPLICITOUS: it has signed two histories, and nothing makes that good")
    for step in steps:
        lines += ["", *describe_event(step), describe_signatures(step)]
    return "\n".join(lines) + "\n"


@group.add(
    "review",
    examples=["holdfast identity review close.request", "holdfast identity review close.request --json"],
)
def review(ctx: typer.Context, request_file: RequestFile) -> None:
    """Say in words what a signing request would do, after verifying all of it. Needs no home and no key."""
    from identity.request import review_request

    request = _read(request_file)
    steps = review_request(request)
    invocation(ctx).out.record("signing-request", _facts(request, steps), text=_words(request, steps))


@group.add(
    "sign",
    examples=[
        "holdfast identity sign close.request --keystore anna.hfk -o close-anna.request",
        "holdfast identity sign rotate.request --phrase-file anna.phrase -o rotate-anna.request",
        "holdfast identity sign close.request --token 'Bert' --yes -o close-bert.request",
    ],
)
def sign(
    ctx: typer.Context,
    request_file: RequestFile,
    output: OutputFile,
    keystore: Annotated[
        Path | None, typer.Option("--keystore", metavar="FILE", help="Sign with the root key in this keystore.")
    ] = None,
    phrase_file: Annotated[
        Path | None,
        typer.Option("--phrase-file", metavar="FILE", help="Sign with the key that this recovery phrase gives."),
    ] = None,
    token: TokenLabel = None,
    token_module: TokenModuleFile = None,
    pin_file: PinFile = None,
    yes: Annotated[bool, typer.Option("--yes", help="Sign without being asked: you have reviewed it.")] = False,
    force: Force = False,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Say what a request would do, ask, and add your signature to a copy of it. Needs no home.

    Signs with one of --keystore, --phrase-file and --token. A rotation is signed by the next root key.
    """
    from identity.request import encode_request, review_request, sign_request

    run = invocation(ctx)
    if sum(source is not None for source in (keystore, phrase_file, token)) != 1:
        raise UsageError("sign with what?", hint="one of --keystore FILE, --phrase-file FILE, --token LABEL")
    request = _read(request_file)
    steps = review_request(request)
    _agree(run.out, _words(request, steps), yes=yes)
    with open_tokens(run, token_module, pin_file) as tokens:
        if keystore is not None:
            signers = _keystore_signers(run, keystore, passphrase_file, tokens.signer)
        elif phrase_file is not None:
            signers = _phrase_signers(read_phrase(phrase_file), steps)
        else:
            assert token is not None
            signers = list(tokens.signers(token))
        signed = sign_request(request, signers)
    with open_output(run.out, output, force=force) as stream:
        stream.write(encode_request(signed))
    written(run.out, "signature", output, _facts(signed, review_request(signed)))


def _agree(out: Output, words: str, *, yes: bool) -> None:
    """Show the request and have it agreed to. What is shown goes to stderr: stdout may be the signed file."""
    if out.json and not yes:
        raise UsageError("--json answers a program, and this asks a person", hint="review it, then give --yes")
    if not out.json:
        for line in words.splitlines():
            out.talk(line)
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError("no terminal to ask on", hint="review it, then give --yes")
    if input("Sign this? Type yes: ").strip() != "yes":
        raise typer.Abort


def _keystore_signers(
    run: Invocation, keystore: Path, passphrase_file: Path | None, open_token: OpenToken
) -> list[Signer]:
    from identity.errors import RefusedError
    from identity.keys import Ed25519Signer
    from identity.keystore import open_keystore

    ring = open_keystore(keystore, read_passphrase(passphrase_file, run.environ))
    signers: list[Signer] = [Ed25519Signer(seed) for seed in ring.root_seeds]
    if ring.token_root is not None:
        signers.append(open_token(ring.token_root))
    if not signers:
        raise RefusedError(f"{keystore} holds no root key")
    return signers


def _phrase_signers(phrase: str, steps: Sequence[ProposedEvent]) -> list[Signer]:
    """The keys that the phrase gives for the generations in which the events are signed."""
    from identity.keys import Ed25519Signer
    from identity.recovery import root_seed

    return [Ed25519Signer(root_seed(phrase, number)) for number in sorted({step.after.generation for step in steps})]


@group.add(
    "submit",
    examples=[
        "holdfast identity submit close-anna.request close-bert.request",
        "holdfast identity submit founding-anna.request founding-bert.request --home bank.home",
    ],
)
def submit(
    ctx: typer.Context,
    files: Annotated[list[Path], typer.Argument(metavar="SIGNED...", help="Copies of one request, signed.")],
) -> None:
    """Collect the signatures of a request and store its events, when there are enough. Nothing is stored otherwise."""
    from identity.request import MAX_REQUEST_BYTES, parse_request
    from identity.textforms import to_hex

    requests = [_read(file) for file in files]
    with opened(ctx) as session:
        file = session.home.founding_request
        founding = None
        if session.vault.identities():
            file.unlink(missing_ok=True)  # a run that was stopped after it had stored the events may have left it
        elif file.exists():
            founding = parse_request(read_input(file, MAX_REQUEST_BYTES), str(file)).id
        history = session.vault.submit(requests, founding=founding)
        file.unlink(missing_ok=True)
    invocation(ctx).out.record(
        "submission",
        {
            "request": to_hex(requests[0].id),
            "identity": to_hex(history.identity),
            "events": len(requests[0].events),
            "event": history.seq,
            "head": to_hex(history.head),
        },
    )
