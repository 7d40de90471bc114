"""``holdfast pair``: let two homes meet, one of them a node that serves."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from api.cli.exit_codes import UsageError
from api.cli.group import CommandGroup, Invocation, invocation
from api.cli.progress import progress
from api.cli.session import PassphraseFile, as_usage, open_keys, opened

if TYPE_CHECKING:
    from api.remote import RemoteNode

__all__ = ["group"]

group = CommandGroup("pair", "Let two homes meet: each shows the same number, and people compare them.")

_LOOK_EVERY_S: Final = 1.0
_DEFAULT_URL: Final = "http://127.0.0.1:8463"

Device = Annotated[
    str | None, typer.Option("--device", metavar="NAME", help="The device of this home that speaks with the node.")
]
Compared = Annotated[
    str | None,
    typer.Option("--number", metavar="NUMBER", help="The number that the other side shows, for a program."),
]
Yes = Annotated[bool, typer.Option("--yes", help="Accept without comparing: whoever sits in between is let in too.")]


@group.add(
    "offer",
    examples=[
        "holdfast pair offer bank",
        "holdfast pair offer bank notes --role reader --node https://bank.example:8463",
    ],
)
def offer(
    ctx: typer.Context,
    databases: Annotated[list[str], typer.Argument(metavar="DATABASE...", help="Names or ids.")],
    role: Annotated[str, typer.Option("--role", metavar="ROLE", help="admin, writer or reader.")] = "writer",
    node: Annotated[
        str, typer.Option("--node", metavar="URL", help="Where 'holdfast serve' serves this home.")
    ] = _DEFAULT_URL,
    device: Device = None,
    number: Compared = None,
    yes: Yes = False,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Offer membership of databases to another home, and wait for it. Shows a code; then a number to compare.

    The home is being served, by 'holdfast serve'. The other side runs 'holdfast pair join URL CODE' within ten minutes.
    """
    run = invocation(ctx)
    with opened(ctx, read_only=True) as session:
        ring, _ = open_keys(ctx, session, passphrase_file)
        from api.databases import Databases
        from api.remote import RemoteNode
        from identity.errors import RefusedError

        with as_usage(), Databases(session, ring) as own, RemoteNode(node, own.signer(device)) as remote:
            made = remote.ask("POST", "/v1/pairings", {"databases": databases, "role": role}).json
            run.out.record(
                "pairing-offer",
                {"url": remote.url, "code": made["code"], "expires": made["expires"]},
                text=f"on the other side: holdfast pair join {remote.url} {made['code']}",
            )
            run.out.flush()
            claimed = _claimed(remote, made)
            accept = _same(run, claimed["safety_number"], claimed["label"], number, yes=yes)
            path = f"/v1/pairings/{claimed['id']}/decision"
            decided = remote.ask("POST", path, {"accept": accept}).json
    if not accept:
        raise RefusedError("the numbers differ: nobody was let in", hint="begin again")
    run.out.record("pairing", _facts(decided), text=f"{decided['label']} is a {role} of {', '.join(databases)}")


def _claimed(remote: RemoteNode, made: dict[str, Any]) -> dict[str, Any]:
    from identity.errors import RefusedError

    while True:
        found: dict[str, Any] = remote.ask("GET", f"/v1/pairings/{made['id']}").json
        if found["state"] == "claimed":
            return found
        if found["state"] != "open":
            raise RefusedError(f"the offer is {found['state']}", hint="begin again: holdfast pair offer")
        time.sleep(_LOOK_EVERY_S)


@group.add(
    "join",
    examples=[
        "holdfast pair join http://192.168.1.20:8463 7K4M-Q2RT",
        "holdfast pair join https://bank.example:8463 7K4M-Q2RT --device laptop",
    ],
)
def join(
    ctx: typer.Context,
    url: Annotated[str, typer.Argument(metavar="URL", help="Where the other side serves.")],
    code: Annotated[str, typer.Argument(metavar="CODE", help="What the other side shows.")],
    device: Device = None,
    number: Compared = None,
    yes: Yes = False,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Join databases that another home offers, and fetch them. Shows a number to compare with the other side's."""
    run = invocation(ctx)
    with opened(ctx) as session:
        session.vault.require_writable()
        ring, _ = open_keys(ctx, session, passphrase_file)
        from api.access.signing import RequestSigner
        from api.client import exchange_database
        from api.databases import Databases
        from api.joining import claim, wait_for_decision
        from api.pairing import OFFER_MS, Party, parse_code
        from api.peer import Peer
        from api.peers import PairedNode, keep_peer
        from api.remote import RemoteNode
        from identity.errors import RefusedError

        with as_usage():
            typed = parse_code(code)
        with Databases(session, ring) as databases:
            signer = databases.signer(device)
            with as_usage():
                remote = RemoteNode(url, signer)
            own = Party(session.vault.history().identity, signer.public_key)
            with remote:
                found = claim(remote, typed, own, [one.signed_event for one in session.vault.events()])
                if not _same(run, found.safety_number, found.label, number, yes=yes):
                    raise RefusedError("the numbers differ: nothing was joined", hint="begin again")
                run.out.note("waiting for the other side")
                wait_for_decision(remote, found, time.monotonic() + OFFER_MS / 1000)
            session.vault.import_events(found.events)
            keep_peer(session.home, PairedNode(remote.url, found.node, found.label, session.now_ms()))
            peer = Peer(remote.url, RequestSigner(signer))
            with progress(run.out, "fetching") as advance:
                for one in found.databases:
                    exchange_database(session, databases, peer, one.uid.hex(), Peer.sync, advance)
    names = [one.name for one in found.databases]
    run.out.record(
        "pairing",
        {
            "url": remote.url,
            "identity": found.node.identity.hex(),
            "label": found.label,
            "role": found.role.value,
            "databases": names,
            "safety_number": found.safety_number,
        },
        text=f"joined {', '.join(names)} of {found.label} as a {found.role.value}",
    )


def _same(run: Invocation, number: str, label: str | None, given: str | None, *, yes: bool) -> bool:
    """Show the number, and whether it is the one that the other side shows."""
    out = run.out
    if not out.json:
        out.talk(f"the other side calls itself {label}; both sides have to show")
        out.talk(f"    {number[:35]}")
        out.talk(f"    {number[36:]}")
    if given is not None:
        return "".join(given.split()) == number.replace(" ", "")
    if yes:
        out.note("accepted without comparing")
        return True
    if out.json or not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError("no terminal to ask on", hint="--number with what the other side shows, or --yes")
    return input("Is it the same there? Type yes: ").strip() == "yes"


def _facts(decided: dict[str, Any]) -> dict[str, Any]:
    return {name: decided[name] for name in ("id", "state", "identity", "label", "device", "safety_number")}
