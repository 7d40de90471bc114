"""``holdfast visit``: let apps visit, see what visitors did, and end their visits."""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING, Annotated, Final

import typer

from api.cli.db_common import DatabaseName, Device
from api.cli.exit_codes import UsageError
from api.cli.group import CommandGroup, invocation
from api.cli.session import PassphraseFile, as_usage, opened, unlock
from api.cli.times import parse_time, time_text
from identity.errors import MissingEvidenceError

if TYPE_CHECKING:
    from api.access.capability import Scope, Terms
    from api.access.records import Granted, Visit
    from api.bootstrap import Session
    from api.cli.output import Output, Plain

__all__: list[str] = []

group = CommandGroup(
    "visit",
    "Apps that visit: let one in for some hours, see what visitors did, end a visit.",
    examples=["holdfast visit list", "holdfast visit revoke 5e884898da28 --why 'the report is done'"],
)

_APP: Final = "did:key:z6Mkon3Necd6NkkyfoGoHxid2znGc59LU3K7mubaRcFbLfLX"
_DURATION: Final = re.compile(r"([1-9][0-9]{0,4})([smh])")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600}
_LEAST_DIGITS: Final = 6


@group.add(
    "grant",
    examples=[
        f"holdfast visit grant bank {_APP} --on accounts --field owner",
        f"holdfast visit grant bank {_APP} --on accounts/47 --allow read --allow update --if-match --for 2h",
    ],
)
def grant(
    ctx: typer.Context,
    database: DatabaseName,
    holder: Annotated[str, typer.Argument(metavar="HOLDER", help="The app's own key, did:key:z6Mk...")],
    allow: Annotated[
        list[str] | None,
        typer.Option(
            "--allow",
            metavar="OPERATION",
            help="read, history, changes, create, update or delete; can be given again.",
            show_default="read",
        ),
    ] = None,
    on: Annotated[
        list[str] | None,
        typer.Option(
            "--on",
            metavar="COLLECTION[/PREFIX]",
            help="Only these documents: a collection, or keys in it that begin so; can be given again.",
        ),
    ] = None,
    field: Annotated[
        list[str] | None,
        typer.Option("--field", metavar="NAME", help="Only this field; can be given again."),
    ] = None,
    if_match: Annotated[
        bool, typer.Option("--if-match", help="Changes must name the version that they are meant for.")
    ] = False,
    rate: Annotated[int, typer.Option("--rate", metavar="N", help="Requests a minute.", min=1, max=6000)] = 60,
    for_: Annotated[str, typer.Option("--for", metavar="TIME", help="How long: 90s, 30m, 24h at most.")] = "1h",
    note: Annotated[str, typer.Option("--note", metavar="TEXT", help="What it is for; the app can read it.")] = "",
    device: Device = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Let an app in: print a token to give to it. It is of use only to who has the holder's private key.

    The token ends by itself. Whoever holds it can pass on less of it, never more.
    """
    from api.access.opening import minting_device, open_access, token_seed
    from api.databases import Databases
    from identity.textforms import parse_did_key

    with as_usage():
        key = parse_did_key(holder)
    seconds = _duration(for_)
    out = invocation(ctx).out
    with opened(ctx) as session:
        try:
            info = Databases(session).find(database)
        except MissingEvidenceError as exc:
            raise UsageError(str(exc), hint=exc.hint) from exc
        terms = _terms(key, info.uid, session.now_ms() // 1000 + seconds, allow, on, field, if_match, rate, note)
        ring = unlock(ctx, session, passphrase_file, appending=True)
        name = minting_device(session.vault.history(), ring, device)
        seed = token_seed(ring, name)
        with session.vault.start_writer(ring) as writer:
            access = open_access(session, ring, writer, name)
            try:
                token, granted = access.grant(seed, ring.device_keys()[name], terms)
            finally:
                access.close()
    text = base64.urlsafe_b64encode(token).decode()
    facts = {**_granted_facts(out, granted), "token": text}
    out.record("grant", facts, text=None if out.json else text)
    out.note(f"ends {time_text(out, terms.expires_s * 1000)}; to end it before: holdfast visit revoke {facts['id']}")


@group.add("list", examples=["holdfast visit list", "holdfast visit list --denied --since 2026-11-30T00:00:00Z --json"])
def list_(
    ctx: typer.Context,
    denied: Annotated[bool, typer.Option("--denied", help="Only what was refused.")] = False,
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="Only what came at or after this time.")
    ] = None,
) -> None:
    """What visitors did and were refused, the tokens that were given out, and which of them were ended."""
    from api.access.records import Granted, Refusals, Revoked, Visit
    from api.access.visits import REVOCATIONS, read_records

    out = invocation(ctx).out
    since_ms = 0 if since is None else parse_time(since)
    with opened(ctx, read_only=True) as session:
        own, store = session.vault.history().identity, session.vault.store
        found = read_records(store, own, since_ms=since_ms)
        found += read_records(store, own, REVOCATIONS, since_ms=since_ms)
        revoked = {one.id for one in read_records(store, own, REVOCATIONS) if isinstance(one, Revoked)}
    rows: list[tuple[Plain, ...]] = []
    for one in sorted(found, key=lambda record: record.time_ms):
        match one:
            case Visit() if not (denied and one.allowed):
                rows.append(_visit_row(out, one))
            case Refusals():
                rows.append(
                    (time_text(out, one.time_ms), "refused", None, None, None, one.reason, f"{one.count} times")
                )
            case Granted() if not denied:
                rows.append(_granted_row(out, one, ended=one.id in revoked))
            case Revoked() if not denied:
                what = (time_text(out, one.time_ms), "revoked", one.id.hex(), _key(one.by), None, None, one.why)
                rows.append(what)
    out.table("visit", ("time", "what", "token", "key", "about", "reason", "note"), rows)


@group.add(
    "revoke",
    examples=[
        "holdfast visit revoke 5e884898da28 --why 'the report is done'",
        "holdfast visit revoke 5e884898da28 --device laptop --json",
    ],
)
def revoke(
    ctx: typer.Context,
    token: Annotated[
        str,
        typer.Argument(metavar="TOKEN", help="First digits of the id or the digest that 'visit list' shows."),
    ],
    why: Annotated[str, typer.Option("--why", metavar="TEXT", help="Why; everybody who reads the feed sees it.")] = "",
    device: Device = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """End a token, and everything that was made of it, from the next request on."""
    from api.access.opening import minting_device, open_access

    out = invocation(ctx).out
    if len(why) > _MAX_WHY:
        raise UsageError(f"--why has {len(why)} characters, at most {_MAX_WHY} are kept")
    with opened(ctx) as session:
        id_ = _named(session, token)
        ring = unlock(ctx, session, passphrase_file, appending=True)
        name = minting_device(session.vault.history(), ring, device)
        with session.vault.start_writer(ring) as writer:
            access = open_access(session, ring, writer, name)
            try:
                access.revoke(id_, ring.device_keys()[name], why)
            finally:
                access.close()
    out.record("revocation", {"id": id_.hex(), "device": name, "why": why})


_MAX_WHY: Final = 4096


def _duration(text: str) -> int:
    found = _DURATION.fullmatch(text)
    if found is None:
        raise UsageError(f"{text!r} is no length of time", hint="such as 90s, 30m or 24h")
    return int(found[1]) * _SECONDS[found[2]]


def _terms(
    holder: bytes,
    database: bytes,
    expires_s: int,
    allow: list[str] | None,
    on: list[str] | None,
    fields: list[str] | None,
    if_match: bool,
    rate: int,
    note: str,
) -> Terms:
    from api.access.action import VISITABLE, Operation
    from api.access.capability import Terms

    wanted = allow or [Operation.READ.value]
    unknown = set(wanted) - {operation.value for operation in VISITABLE}
    if unknown:
        raise UsageError(f"no visitor can be allowed to {min(unknown)!r}", hint=", ".join(sorted(VISITABLE)))
    return Terms(
        holder,
        database,
        frozenset(map(Operation, wanted)),
        expires_s,
        tuple(sorted(set(map(_scope, on)))) if on else None,
        frozenset(fields) if fields else None,
        if_match,
        rate,
        note,
    )


def _scope(text: str) -> Scope:
    from api.access.capability import Scope

    collection, _, prefix = text.partition("/")
    if not collection:
        raise UsageError(f"{text!r} is not COLLECTION or COLLECTION/PREFIX", hint="such as accounts, or accounts/47")
    return Scope(collection, prefix)


def _named(session: Session, text: str) -> bytes:
    """The revocation id that is meant. Raises ``UsageError`` when none or several are."""
    from api.access.records import Granted, Visit
    from api.access.visits import read_records

    digits = text.lower()
    if not re.fullmatch(r"[0-9a-f]{6,128}", digits):
        raise UsageError(f"{text!r} is no id", hint=f"at least {_LEAST_DIGITS} of the digits that 'visit list' shows")
    if len(digits) == 128:
        return bytes.fromhex(digits)
    found: set[bytes] = set()
    for one in read_records(session.vault.store, session.vault.history().identity):
        match one:
            case Granted() if one.id.hex().startswith(digits) or one.token.hex().startswith(digits):
                found.add(one.id)
            case Visit():
                found.update(id_ for id_ in one.ids if id_.hex().startswith(digits))
                if one.token.hex().startswith(digits) and one.ids:
                    found.add(one.ids[-1])
            case _:
                pass
    if len(found) != 1:
        raise UsageError(
            f"{'no token' if not found else f'{len(found)} tokens'} of that id: {text}",
            hint="see 'holdfast visit list'",
        )
    return found.pop()


def _key(key: bytes | None) -> str | None:
    from identity.textforms import to_did_key

    return None if key is None else to_did_key(key)


def _visit_row(out: Output, one: Visit) -> tuple[Plain, ...]:
    about = one.about
    if "line" in about:
        text = str(about["line"])
    else:
        where = "/".join(str(about[name]) for name in ("col", "key") if name in about)
        fields = about.get("fields")
        named = f" ({', '.join(map(str, fields))})" if isinstance(fields, list) and fields else ""
        text = f"{about['op']!s} {where}{named}".strip()
    what = "visited" if one.allowed else "refused"
    return (time_text(out, one.time_ms), what, one.token.hex(), _key(one.key), text, one.reason or None, None)


def _granted_row(out: Output, one: Granted, *, ended: bool) -> tuple[Plain, ...]:
    terms = one.terms
    where = ", ".join(
        f"{scope.collection}/{scope.prefix}*" if scope.prefix else scope.collection for scope in terms.scopes or ()
    )
    fields = "" if terms.fields is None else f" ({', '.join(sorted(terms.fields))})"
    about = f"{', '.join(sorted(terms.operations))} on {where or 'everything'}{fields}"
    until = "ended" if ended else f"until {time_text(out, terms.expires_s * 1000)}"
    note = f"{until}: {terms.note}" if terms.note else until
    return (time_text(out, one.time_ms), "granted", one.token.hex(), _key(terms.holder), about, None, note)


def _granted_facts(out: Output, one: Granted) -> dict[str, Plain]:
    return {
        "id": one.id.hex(),
        "digest": one.token.hex(),
        "holder": _key(one.terms.holder),
        "device": _key(one.device),
        "until": time_text(out, one.terms.expires_s * 1000),
    }
