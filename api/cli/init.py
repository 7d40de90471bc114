"""``holdfast init``: found a home."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from api.cli.exit_codes import UsageError
from api.cli.files import read_input, source_name
from api.cli.group import CommandGroup, invocation
from api.cli.passphrase import read_passphrase
from api.cli.phrases import EXISTS_HINT
from api.cli.session import PassphraseFile, PinFile, as_usage, check_names
from api.cli.tokens import NewTokenKeys, TokenModuleFile, open_tokens
from api.settings import (
    DevAuthoritySettings,
    DevChainSettings,
    HttpAuthoritySettings,
    NoChainSettings,
    RpcChainSettings,
    Settings,
    default_settings_text,
    find_home,
    parse_settings,
    read_settings_file,
)
from identity.errors import ConfigurationError, MalformedError, RefusedError, StorageError
from identity.textforms import parse_hex, to_did_key, to_hex
from ledger.statement import LogDescriptor
from ledger.storage.location import PostgresLocation, parse_location

if TYPE_CHECKING:
    from anchoring.chain.client import Chain
    from anchoring.chain.dev import DevChain
    from api.cli.output import Output
    from api.founding import Founded
    from api.home import Home
    from identity.event import DeviceClass
    from identity.rootcard import RootCard

__all__ = ["check_database", "faucet", "group", "read_anchor_key"]

_MAX_CERTIFICATE_BYTES = 65_536
_COINS = 10**20
"""Wei that the development chain gives a new anchor key."""

group = CommandGroup("init", "Found a home: identity, keys, store, log and policy.")


@group.add(
    "init",
    examples=[
        "holdfast init --home ledger.home --passphrase-file pass.txt --phrase-file phrase.txt",
        "holdfast init --home two.home --passphrase-file pass.txt --phrase-file words.txt --device pc --device phone",
        "holdfast init --home pg.home --database 'postgresql://vault@db.example/bank?sslmode=verify-full'",
        "holdfast init --home bank.home --card anna.card --card bert.card --card carl.card --threshold 2",
    ],
)
def init(
    ctx: typer.Context,
    label: Annotated[
        str, typer.Option("--label", help="What to call the identity; everybody can read it.")
    ] = "holdfast",
    device: Annotated[
        list[str] | None, typer.Option("--device", metavar="NAME", help="A device key to make; may be repeated.")
    ] = None,
    log_name: Annotated[
        str, typer.Option("--log-name", metavar="NAME", help="The checkpoint log's name: a-z, 0-9, '.' and '-'.")
    ] = "holdfast.local",
    no_chain: Annotated[
        bool, typer.Option("--no-chain", help="No anchoring, for ever: a rollback will be noticed by nobody.")
    ] = False,
    settings_file: Annotated[
        Path | None,
        typer.Option("--settings", metavar="FILE", help="The new home's holdfast.toml: another chain and authorities."),
    ] = None,
    database: Annotated[
        str | None,
        typer.Option(
            "--database", metavar="URL", help="A PostgreSQL database for the store: postgresql://USER@HOST/DB"
        ),
    ] = None,
    contract: Annotated[
        str | None,
        typer.Option("--contract", metavar="0x...", help="An anchor contract that is there; default: a new one."),
    ] = None,
    anchor_key_file: Annotated[
        Path | None,
        typer.Option("--anchor-key-file", metavar="FILE", help="A key that has coins, in hex; default: a new one."),
    ] = None,
    phrase_file: Annotated[
        Path | None,
        typer.Option("--phrase-file", metavar="FILE", help="Write the recovery phrase to FILE, not to stdout."),
    ] = None,
    card: Annotated[
        list[Path] | None,
        typer.Option("--card", metavar="FILE", help="A root holder's card; repeat for all. They sign, not this home."),
    ] = None,
    threshold: Annotated[
        int | None,
        typer.Option("--threshold", metavar="K", help="With --card: how many holders have to sign; default: all."),
    ] = None,
    next_threshold: Annotated[
        int | None,
        typer.Option("--next-threshold", metavar="K", help="The same after the first rotation; default: as now."),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option("--token", metavar="LABEL", help="Make the root and device keys in this hardware token."),
    ] = None,
    token_module: TokenModuleFile = None,
    pin_file: PinFile = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Found a home, whole or not at all. Without --settings, with the embedded development chain and authority.

    Shows the recovery phrase once. It is kept nowhere: write it down. It alone can replace the root key. With --card
    the root keys and their phrases are their holders', and the home waits until enough of them have signed.
    """
    from api.bootstrap import now_ms, open_chain, open_sources
    from api.founding import Founding, check_vacant, found_home
    from api.pool import check_independence

    run = invocation(ctx)
    home = find_home(run.named_home, run.environ)
    check_vacant(home.root)  # before a passphrase is asked for and a file for the phrase is made
    cards = _cards(card, phrase_file)
    signing, following = _thresholds(cards, threshold, next_threshold)
    if run.out.json and phrase_file is None and not cards:
        raise UsageError("the recovery phrase does not go into JSON", hint="give --phrase-file FILE")
    text, settings, files = _new_settings(home, run.environ, settings_file, database, no_chain=no_chain)
    devices = _devices(device)
    check_names(label=label)
    with as_usage():
        LogDescriptor(name=log_name, key=bytes(32))
    own_contract, own_key = _funding(settings, contract, anchor_key_file)
    passphrase = read_passphrase(passphrase_file, run.environ, ask_twice=True)
    with _phrase_keeper(run.out, phrase_file) as keep_phrase, ExitStack() as opened:
        authorities = [source.authority for source in open_sources(settings)]
        check_independence(authorities, settings.timestamps.k)
        tokens = opened.enter_context(open_tokens(run, token_module or settings.token_module, pin_file))
        chain = open_chain(opened, settings)
        founding = Founding(
            label=label,
            devices=devices,
            log_name=log_name,
            chain=chain,
            fund=faucet(chain, settings),
            authorities=authorities,
            settings=text,
            database=settings.database if isinstance(settings.database, PostgresLocation) else None,
            contract=own_contract,
            anchor_key=own_key,
            files=files,
            k=settings.timestamps.k,
            cards=cards,
            threshold=signing,
            next_threshold=following,
            token=None if token is None else NewTokenKeys(tokens, token, "holdfast"),
        )
        founded = found_home(home, founding, passphrase, now_ms=now_ms(), keep_phrase=keep_phrase)
    _report(run.out, home, settings, founded)


def _cards(files: list[Path] | None, phrase_file: Path | None) -> list[RootCard]:
    from identity.rootcard import MAX_CARD_BYTES, check_cards, parse_card

    if not files:
        return []
    if phrase_file is not None:
        raise UsageError("--card and --phrase-file", hint="the holders of the root keys have their own phrases")
    cards = [parse_card(read_input(file, MAX_CARD_BYTES), source_name(file)) for file in files]
    check_cards(cards)
    return cards


def _thresholds(cards: list[RootCard], now: int | None, later: int | None) -> tuple[int, int]:
    """How many holders sign now and after the first rotation. Raises ``UsageError`` for what nobody could meet."""
    if not cards:
        if now is not None or later is not None:
            raise UsageError("--threshold is for several root holders", hint="give a --card for each")
        return 1, 1
    now = len(cards) if now is None else now
    later = now if later is None else later
    for threshold in (now, later):
        if not 1 <= threshold <= len(cards):
            raise UsageError(f"{threshold} of {len(cards)} holders cannot sign")
    return now, later


def _new_settings(
    home: Home, environ: Mapping[str, str], file: Path | None, database: str | None, *, no_chain: bool
) -> tuple[str, Settings, dict[str, bytes]]:
    """The text of the new home's settings, what it says, and the certificates that it names, by their path there."""
    if file is None:
        check_database(database, environ)
        text = default_settings_text({"kind": "none" if no_chain else "dev"}, [{"kind": "dev"}], database=database)
        return text, parse_settings(text.encode(), home, environ, file=home.settings), {}
    if no_chain:
        raise UsageError("--no-chain and --settings", hint='write [chain] kind = "none" into the settings')
    if database is not None:
        raise UsageError("--database and --settings", hint='write database = "postgresql://..." into the settings')
    try:
        data = read_settings_file(file)
    except FileNotFoundError as exc:
        raise ConfigurationError(f"there is no {file}") from exc
    settings = parse_settings(data, home, environ, file=file)
    own = home.database if isinstance(settings.database, Path) else settings.database
    if (settings.database, settings.keystore) != (own, home.keystore):
        raise ConfigurationError(f"{file}: a new home has its files inside, under the usual names")
    return data.decode(), settings, _certificates(settings, file.parent)


def check_database(url: str | None, environ: Mapping[str, str]) -> None:
    """Raises ``UsageError`` for what does not belong on a command line, which others can read."""
    if url is None:
        return
    if "HOLDFAST_DATABASE" in environ:
        raise UsageError("--database and HOLDFAST_DATABASE", hint="the variable would override what is founded here")
    with as_usage():
        location = parse_location(url)
    if not isinstance(location, PostgresLocation):
        raise UsageError("--database is for a postgresql:// URL", hint="a store in a file lies in the home")
    if location.has_secret:
        raise UsageError(
            "a password does not belong on a command line", hint="PGPASSWORD, a passfile, or --settings FILE"
        )


def _certificates(settings: Settings, beside: Path) -> dict[str, bytes]:
    """The certificates whose paths are relative, which have to lie in the home later."""
    http = [one for one in settings.authorities if isinstance(one, HttpAuthoritySettings)]
    paths = {path for one in http for path in (one.root, *one.certificates)}
    files = {}
    for path in sorted(path for path in paths if path.is_relative_to(beside)):
        name = path.relative_to(beside)
        if ".." in name.parts:
            raise ConfigurationError(f"{name}: a certificate of a home lies inside it, or has an absolute path")
        files[str(name)] = read_input(path, _MAX_CERTIFICATE_BYTES)
    return files


def _devices(names: list[str] | None) -> dict[str, DeviceClass]:
    from identity.event import DeviceClass

    names = names or ["main"]
    if len(set(names)) < len(names):
        raise UsageError("two devices of one name")
    for name in names:
        check_names(device=name)
    return dict.fromkeys(names, DeviceClass.DEVICE)


def _funding(settings: Settings, contract: str | None, key_file: Path | None) -> tuple[bytes | None, bytes | None]:
    """The contract and the anchor key that were given. Raises ``UsageError`` when a contract could not be paid for."""
    if isinstance(settings.chain, NoChainSettings) and (contract or key_file):
        raise UsageError("--contract and --anchor-key-file are for a home with a chain")
    if isinstance(settings.chain, RpcChainSettings) and not (contract or key_file):
        raise UsageError(
            "a new key has no coins to deploy a contract with", hint="give --anchor-key-file FILE, or --contract 0x..."
        )
    try:
        address = None if contract is None else parse_hex(contract.removeprefix("0x").lower(), 20)
    except MalformedError as exc:
        raise UsageError(f"{contract!r} is not an address") from exc
    return address, None if key_file is None else read_anchor_key(key_file)


def read_anchor_key(file: Path) -> bytes:
    """The key in a file of 64 hexadecimal digits. Raises ``MalformedError``."""
    try:
        return parse_hex(read_input(file, 100).decode("ascii").strip().removeprefix("0x"), 32)
    except (MalformedError, UnicodeDecodeError) as exc:
        raise MalformedError(f"{file} does not hold 64 hexadecimal digits") from exc


def faucet(chain: Chain | None, settings: Settings) -> Callable[[bytes], None] | None:
    """What gives a new key coins: on the development chain only."""
    if not isinstance(settings.chain, DevChainSettings):
        return None
    development = cast("DevChain", chain)
    return lambda address: development.fund(address, _COINS)


@contextmanager
def _phrase_keeper(out: Output, file: Path | None) -> Iterator[Callable[[str], None]]:
    """What takes the recovery phrase: a new file, which is gone again if the block fails, or stdout."""
    if file is None:
        yield lambda phrase: _show_phrase(out, phrase)
        return
    try:
        stream = os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii")
    except FileExistsError as exc:
        raise RefusedError(f"{file} exists; a recovery phrase overwrites nothing", hint=EXISTS_HINT) from exc
    except OSError as exc:
        raise StorageError(f"cannot write {file}: {exc.strerror}") from exc

    def keep(phrase: str) -> None:
        stream.write(phrase + "\n")
        stream.flush()
        os.fsync(stream.fileno())

    try:
        with stream:
            yield keep
    except BaseException:
        file.unlink(missing_ok=True)
        raise


def _show_phrase(out: Output, phrase: str) -> None:
    out.text(f"Recovery phrase, shown once and kept nowhere. Write it down:\n\n  {phrase}\n")
    out.flush()


def _report(out: Output, home: Home, settings: Settings, founded: Founded) -> None:
    binding = founded.binding
    out.record(
        "home",
        {
            "home": str(home.root),
            "identity": to_hex(founded.identity),
            "log": to_hex(founded.log_id),
            "devices": {name: to_did_key(key) for name, key in founded.devices.items()},
            "chain": None if binding is None else binding.id,
            "contract": None if binding is None else f"0x{binding.contract.hex()}",
            "anchor_account": None if binding is None else f"0x{binding.owner.hex()}",
            "policy": str(home.policy),
            "request": None if founded.request is None else to_hex(founded.request.id),
        },
    )
    if founded.request is not None:
        out.note(
            f"there is no identity yet: its holders sign {home.founding_request} ('holdfast identity sign'),"
            " then 'holdfast identity submit'"
        )
    parts = (settings.chain, *settings.authorities)
    if any(isinstance(part, DevChainSettings | DevAuthoritySettings) for part in parts):
        out.note("DEVELOPMENT ONLY: the embedded authority and chain prove nothing to anybody else")
    if isinstance(settings.chain, RpcChainSettings):
        out.note("the anchor account pays for anchors: see that it has coins")
