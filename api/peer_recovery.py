"""What other nodes hold of this home: its own feeds, the other feeds of databases in common, and its checkpoint log.

A node is believed in nothing: what it gives is fetched into files, and these are taken in by ``api.recovery``, which
verifies every byte in one transaction. So a store whose chain shows it to be behind can be brought forward although
nothing may be written to it (docs/spec/rollback.md, section "Ways out").
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial as with_arguments
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from anchoring.deadline import within
from api.kept_logs import MAX_KEPT_BYTES
from api.log_archive import own_log_size
from api.log_exchange import remote_logs
from api.peers import load_peers
from api.recovery import Fetched, fetch_missing, take_feeds
from api.remote import RemoteNode, RemoteProblem
from identity.errors import (
    AuditError,
    MalformedError,
    MissingEvidenceError,
    ReadOnlyState,
    RefusedError,
    TransportError,
    VerificationError,
)
from identity.textforms import parse_base64, parse_hex, parse_zbase32, to_zbase32
from ledger.head import FORK, verify_head
from ledger.manifest import describe, feed_key, parse_manifest
from ledger.store import FeedKey
from ledger.transfer import peek_manifest
from sync.database import list_databases
from sync.storage.projection import feed_name

if TYPE_CHECKING:
    from api.bootstrap import Session
    from identity.keys import Signer

__all__ = ["ASK_S", "Ahead", "Found", "ask_own_heads", "fetch_from", "fetch_from_nodes", "look_at"]

ASK_S: Final = 3.0
"""How long one node is waited for, when it is asked what it has of this home before the first append."""
_ASK_ALL_S: Final = 6.0
_MOST_FEED_BYTES: Final = 1 << 40
_MOST_FEEDS: Final = 65_536

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Ahead:
    """A feed of which a node says that it holds more than is here."""

    database: bytes
    key: FeedKey
    identity: bytes
    held: int
    length: int


@dataclass(frozen=True, slots=True)
class Found:
    """What a node has that is missing here. ``log``: up to which size it keeps this home's own log, if further."""

    feeds: tuple[Ahead, ...]
    log: int | None = None
    log_database: bytes | None = None

    @property
    def entries(self) -> int:
        """How many entries these are, as the node says."""
        return sum(one.length - one.held for one in self.feeds)


# --- looking --------------------------------------------------------------------------------------------------------


def look_at(session: Session, remote: RemoteNode, *, own_only: bool = False) -> Found:
    """What a node has of this home that is not here: feeds of databases that both may have, and its log.

    With ``own_only`` feeds of this home's identity alone. Raises as ``RemoteNode.ask``, ``MalformedError``.
    """
    own_log, size = session.vault.log_descriptor()[0], own_log_size(session)
    own = session.vault.history().identity
    known = {info.uid for info in list_databases(session.vault.store)}
    ahead: list[Ahead] = []
    log: tuple[int, bytes] | None = None
    for database in _databases(remote):
        try:
            rows = remote.ask("GET", "/v1/feeds", query={"database": database.hex()}).json
            logs = remote_logs(remote, database)
        except RemoteProblem as exc:
            if exc.status in (403, 404):
                continue
            raise
        told = _ahead(session, database, rows)
        # Of a database that is not here only one that this identity has written to: a node hands over no others.
        if database in known or any(one.identity == own for one in told):
            ahead += (one for one in told if not own_only or one.identity == own)
        further = [one.size for one in logs if one.log == own_log and one.size > size]
        if further and (log is None or max(further) > log[0]):
            log = max(further), database
    return Found(tuple(ahead), *(log or (None, None)))


def _databases(remote: RemoteNode) -> list[bytes]:
    match remote.ask("GET", "/v1/databases").json:
        case {"databases": list(rows)}:
            return [parse_hex(_text(row, "id"), 32) for row in rows]
    raise MalformedError("that is no list of databases")


def _ahead(session: Session, database: bytes, rows: Any) -> list[Ahead]:
    if not isinstance(rows, dict) or not isinstance(rows.get("feeds"), list) or len(rows["feeds"]) > _MOST_FEEDS:
        raise MalformedError("that is no list of feeds")
    found = []
    with session.vault.store.read() as tx:
        for row in rows["feeds"]:
            identity = parse_hex(_text(row, "identity"), 32)
            key, length = FeedKey(parse_zbase32(_text(row, "key"))), row.get("length")
            if not isinstance(length, int) or len(key) != 32:
                raise MalformedError("that is no feed of a node")
            held = tx.feed(key)
            if length > (0 if held is None else held.length):
                found.append(Ahead(database, key, identity, 0 if held is None else held.length, length))
    return found


def _text(row: Any, name: str) -> str:
    value = row.get(name) if isinstance(row, dict) else None
    if not isinstance(value, str):
        raise MalformedError(f"an answer of a node has no {name}")
    return value


# --- fetching -------------------------------------------------------------------------------------------------------


def _download(
    session: Session, remote: RemoteNode, folder: Path, *, own_only: bool = False
) -> tuple[Found, list[Path]]:
    """Fetch what a node has of this home into ``folder``. Raises as ``look_at`` and ``RemoteNode.save``."""
    found = look_at(session, remote, own_only=own_only)
    files = []
    for one in found.feeds:
        path = folder / f"{one.key.hex()}.feed"
        with path.open("wb") as out:
            query = {"database": one.database.hex()}
            target = f"/v1/feeds/{to_zbase32(one.key)}/export"
            remote.save("GET", target, out, most=_MOST_FEED_BYTES, query=query)
        _check_asked(path, one)
        files.append(path)
    if found.log is not None and found.log_database is not None and not own_only:
        path = folder / "log.archive"
        with path.open("wb") as out:
            query = {"database": found.log_database.hex()}
            own = session.vault.log_descriptor()[0]
            remote.save("GET", f"/v1/logs/{own.hex()}", out, most=MAX_KEPT_BYTES, query=query)
        files.append(path)
    return found, files


def _check_asked(path: Path, asked: Ahead) -> None:
    """What a node gave has to be the feed that it was asked for. Raises ``VerificationError``, ``MalformedError``."""
    with path.open("rb") as stream:
        manifest = peek_manifest(stream)
    description = describe(manifest)
    said = None if description is None else (description.identity, description.name)
    if feed_key(manifest) != asked.key or said != (asked.identity, feed_name(asked.database)):
        raise VerificationError(f"another feed than {asked.key.hex()}, which was asked for")


def fetch_from_nodes(
    session: Session,
    signer: Signer,
    urls: Sequence[str],
    files: Sequence[Path],
    *,
    at_ms: int,
    tell: Tell,
    partial: bool = False,
    dry_run: bool = False,
) -> Fetched:
    """``fetch_missing`` with what these nodes have, one after the other until nothing is missing, and with ``files``.

    A node that is away, or gives what does not verify, is told of and passed over. Raises as ``fetch_missing`` when
    all of it together is not enough, ``TransportError`` when no node answered.
    """
    with tempfile.TemporaryDirectory(prefix="holdfast-") as place:
        have, answered = list(files), False
        refused: AuditError | None = None
        for number, url in enumerate(urls):
            folder = Path(place) / str(number)
            folder.mkdir()
            try:
                with RemoteNode(url, signer) as remote:
                    found, got = _download(session, remote, folder)
            except (TransportError, RemoteProblem, MalformedError, VerificationError) as exc:
                tell(f"{url}: {exc}")
                continue
            answered = True
            tell(_said(url, found))
            try:
                return fetch_missing(session, [*have, *got], at_ms=at_ms, dry_run=dry_run)
            except (ReadOnlyState, RefusedError) as exc:
                have, refused = [*have, *got], exc
            except (VerificationError, MalformedError) as exc:
                tell(f"{url}: what it gives does not hold: {exc}")
                refused = refused or exc
        if not answered and not files:
            raise TransportError("no node could be asked", hint="start one of them, or name another: --node URL")
        if partial or refused is None:
            return fetch_missing(session, have, at_ms=at_ms, partial=partial, dry_run=dry_run)
        raise refused


def _said(url: str, found: Found) -> str:
    log = "it keeps no more of the log than is here" if found.log is None else f"it keeps the log up to {found.log}"
    return f"{url}: {found.entries} entries of {len(found.feeds)} feeds that are not here; {log}"


def fetch_from(session: Session, remote: RemoteNode) -> int:
    """Take in what a node has of this home's own feeds, and no more. Returns how many entries came.

    For a store that may be written to. Raises as ``RemoteNode.save``, ``VerificationError`` when it does not hold.
    """
    with tempfile.TemporaryDirectory(prefix="holdfast-") as place:
        _, files = _download(session, remote, Path(place), own_only=True)
        return take_feeds(session, files)


# --- before the first append ----------------------------------------------------------------------------------------


def ask_own_heads(session: Session, signer: Signer, tell: Tell) -> None:
    """Ask the nodes that this home was paired with whether they hold more of its feeds than it does, and take that in.

    For a store that was put back and is about to begin new feeds: what it does not know of, it would fork. Nobody is
    waited for longer than a few seconds; who is away is told of. Raises ``RefusedError`` when a node has more, and that
    cannot be had.
    """
    until = time.monotonic() + _ASK_ALL_S
    away = []
    for node in load_peers(session.home):
        budget = min(ASK_S, until - time.monotonic())
        try:
            if budget <= 0:
                raise TransportError("not asked: the others took too long")
            with RemoteNode(node.url, signer) as remote:
                found = within(budget, node.url, with_arguments(look_at, session, remote, own_only=True))
                if found.feeds:
                    _take_own(session, remote, found, tell)
        except (TransportError, RemoteProblem, MalformedError, MissingEvidenceError) as exc:
            away.append(f"{node.url} ({exc})")
    if away:
        tell(f"could not be asked what they hold of this home's feeds: {', '.join(away)}")


def _take_own(session: Session, remote: RemoteNode, found: Found, tell: Tell) -> None:
    """Take it in. Raises ``RefusedError`` when that fails, and the node can show that this device has signed it.

    What a node merely claims keeps nobody from writing.
    """
    try:
        entries = fetch_from(session, remote)
    except AuditError as exc:
        if not any(_is_proven(remote, one) for one in found.feeds):
            tell(f"{remote.url} claims to hold {found.entries} more entries of this home, and cannot show them: {exc}")
            return
        raise RefusedError(
            f"{remote.url} holds {found.entries} entries of this home that are not here, and they cannot be had: {exc}",
            hint=f"holdfast recover fetch --node {remote.url}",
        ) from exc
    tell(f"{entries} entries of this home were brought back from {remote.url} before the first new one")


def _is_proven(remote: RemoteNode, claimed: Ahead) -> bool:
    """Whether the node shows a head of the feed, signed by its device, that is longer than what is here."""
    try:
        query = {"database": claimed.database.hex()}
        match remote.ask("GET", f"/v1/feeds/{to_zbase32(claimed.key)}", query=query).json:
            case {"manifest": str(text), "head": {"length": int(length), "tree": str(tree), "signature": str(signed)}}:
                manifest = parse_manifest(parse_base64(text))
                verify_head(manifest, parse_hex(tree, 32), length, FORK, parse_hex(signed))
                return feed_key(manifest) == claimed.key and length > claimed.held
    except AuditError:
        return False
    return False
