"""Wiring: the one place where settings become a store, a chain, authorities and a guard.

Everything is built when it is first asked for and closed together. Heavy libraries are imported by the call that needs
them, so that commands that do not stay quick.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from anchoring.receipt import DEVELOPMENT_CHAIN_ID
from anchoring.rollback import RollbackCheck, RollbackState
from api.home import Home
from api.settings import DevAuthoritySettings, DevChainSettings, NoChainSettings, RpcChainSettings, Settings
from api.start_up import CHECK_BUDGET_S, StartUp
from identity.durable import replace_file
from identity.errors import ConfigurationError, MalformedError, StorageError, TransportError
from identity.jsontext import parse_json
from ledger.log import root_at
from ledger.statement import LogDescriptor

if TYPE_CHECKING:
    from anchoring.chain.agreement import HeaderCheck
    from anchoring.chain.check import ChainView
    from anchoring.chain.client import Chain, ChainReader
    from anchoring.chain.closing import Closing
    from anchoring.chain.dev import DevChain
    from anchoring.chain.jsonrpc import JsonRpcChain
    from anchoring.chain.outbox import OutboxPolicy
    from anchoring.headers import TrustedHeader
    from anchoring.rollback import PredecessorCheck
    from anchoring.tsa.source import TimestampSource
    from anchoring.worker import AnchorSender
    from identity.keystore import KeyRing
    from identity.pkcs11 import TokenModule
    from ledger.storage.sql import SqlReadTransaction, SqlStore

__all__ = [
    "Session",
    "dev_chain_path",
    "is_development",
    "now_ms",
    "open_chain",
    "open_dev_chain",
    "open_nodes",
    "open_session",
    "open_sources",
]

_MAX_CHECK_BYTES = 65_536


def now_ms() -> int:
    """The local clock, in milliseconds UTC. A label: nothing is proven by it."""
    return time.time_ns() // 1_000_000


def _ignore(_message: str) -> None:
    """For callers that ask the session itself what its start found."""


def dev_chain_path(dev_dir: Path) -> Path:
    """Where the embedded chain lies."""
    return dev_dir / "chain.db"


def open_dev_chain(dev_dir: Path) -> DevChain:
    """The embedded development chain, begun if there is none. Raises ``StoreBusy`` while another process has it."""
    from anchoring.chain.dev import DevChain

    try:
        dev_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise StorageError(f"cannot create {dev_dir}: {exc.strerror}") from exc
    return DevChain(dev_chain_path(dev_dir), create=True)


class Session:
    """A home, open, and whatever of its surroundings a command asks for."""

    def __init__(
        self,
        home: Home,
        settings: Settings,
        store: SqlStore,
        tokens: TokenModule,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        from api.vault import Vault

        self.home = home
        self.tokens = tokens
        self.settings = settings
        self.tell = tell or _ignore
        """Given what the user has to know, in one sentence."""
        self.start_up = StartUp(self, self.tell)
        self.vault = Vault(store, self.start_up, tokens.signer)
        self._opened = ExitStack()
        self._dev_reader = self._opened.enter_context(ExitStack())
        self._rpc_nodes: Mapping[str, ChainReader] | None = None
        self._asking = threading.RLock()
        """One thread at a time asks the chain: a service and its anchoring share a session."""
        self._chain: Chain | None = None

    @staticmethod
    def now_ms() -> int:
        """``now_ms``, for what records when something happened."""
        return now_ms()

    # The chain.

    def is_development(self) -> bool:
        """Whether the log is anchored on the embedded development chain."""
        return is_development(self.vault.log_descriptor()[1])

    def chain_view(self) -> ChainView | None:
        """The chain, for reading; None when the log has none. Raises ``TransportError`` when it cannot be opened."""
        from anchoring.chain.check import ChainView
        from anchoring.contracts import load_contract

        _, descriptor = self.vault.log_descriptor()
        if descriptor.chain is None:
            return None
        return ChainView(self._readers(), descriptor.chain.id, load_contract().code_hash)

    def check_rollback(self, at_ms: int | None = None) -> RollbackCheck:
        """Compare the log with its chain; keep the result for ``last_check`` unless the chain could not tell.

        ``at_ms`` is the time of the check, by default now.
        """
        at_ms = now_ms() if at_ms is None else at_ms
        with self._asking, self.vault.store.read() as tx:
            check = self.check_rollback_in(tx, at_ms)
        if check.state is not RollbackState.UNVERIFIED:
            self._keep_check(check, at_ms)
        return check

    def check_rollback_in(self, tx: SqlReadTransaction, at_ms: int) -> RollbackCheck:
        """The same for what a transaction sees, which may not have been committed; nothing is kept of it."""
        from anchoring.chain.check import LogPosition, check_rollback
        from anchoring.chain.closing import load_closing
        from anchoring.storage import newest_final_anchor
        from api.vault import log_descriptor_in

        state = tx.log()
        assert state is not None
        log_id, descriptor = state.log_id, log_descriptor_in(tx)
        closing = load_closing(tx.connection)
        if closing is not None and closing.reason is not None:
            detail = f"the chain names another successor of log {closing.log.hex()}: {closing.reason}"
            return RollbackCheck(RollbackState.OTHER_SUCCESSOR, state.size, 0, detail)
        if descriptor.chain is None:
            return RollbackCheck(RollbackState.NO_CHAIN, state.size, 0, "the log's descriptor names no chain")
        final = newest_final_anchor(tx.connection)
        archived = None
        if final is not None and final.block_number is not None and final.block_hash is not None:
            archived = final.size, final.block_number, final.block_hash
        log = LogPosition(log_id, descriptor.chain, state.size, lambda size: root_at(tx.log_node, size))
        try:
            view = self.chain_view()
            assert view is not None
            return self._within_budget(lambda: check_rollback(view, log, archived, at_ms))
        except (TransportError, StorageError, ConfigurationError) as exc:
            return RollbackCheck(RollbackState.UNVERIFIED, state.size, 0, f"the chain could not be read: {exc}")

    def check_predecessor(self) -> PredecessorCheck | None:
        """Whether the log before this one was closed on chain in its favour; None for a first log."""
        from anchoring.chain.predecessor import check_predecessor

        log_id, descriptor = self.vault.log_descriptor()
        if descriptor.predecessor is None:
            return None
        try:
            view = self.chain_view()
        except (TransportError, StorageError, ConfigurationError):
            view = None
        return check_predecessor(view, log_id, descriptor, now_ms())

    def last_check(self) -> dict[str, Any] | None:
        """The newest result of ``check_rollback`` and when it was made, or None. Nothing may rely on it."""
        from anchoring.policy_file import read_bounded

        try:
            data = read_bounded(self.home.last_check, _MAX_CHECK_BYTES)
            found = parse_json(data, what="last check", max_bytes=_MAX_CHECK_BYTES)
        except (ConfigurationError, MalformedError):
            return None
        return found if isinstance(found, dict) else None

    def sender(self, ring: KeyRing) -> AnchorSender | None:
        """What sending anchors takes, or None when the log has no chain."""
        from anchoring.chain.outbox import AnchorTarget
        from anchoring.chain.transactions import LocalKey
        from anchoring.contracts import load_contract
        from anchoring.worker import AnchorSender

        log_id, descriptor = self.vault.log_descriptor()
        if descriptor.chain is None:
            return None
        if ring.anchor_key is None:
            raise ConfigurationError("the keystore does not hold the anchor key")
        self._chain = chain = self._chain or open_chain(self._opened, self.settings)
        if chain is None:
            raise ConfigurationError("the settings name no chain, and the log is bound to one")
        target = AnchorTarget(
            chain_id=descriptor.chain.id,
            contract=descriptor.chain.contract,
            owner=descriptor.chain.owner,
            log_id=log_id,
            code_hash=load_contract().code_hash,
        )
        return AnchorSender(chain, LocalKey(ring.anchor_key), target, self._outbox_policy(), self._other_nodes())

    def advance_closing(self, ring: KeyRing) -> Closing | None:
        """Take the close of the log before this one as far as it goes now. See ``anchoring.chain.closing``."""
        from anchoring.chain.closing import advance_closing, load_closing

        with self.vault.store.read() as tx:
            pending = load_closing(tx.connection)
        sender = None if pending is None else self.sender(ring)
        if sender is None:
            return pending
        store, code_hash = self.vault.store, sender.target.code_hash
        return advance_closing(store, sender.chain, sender.signer, code_hash, now_ms(), sender.policy)

    def pin_final_anchors(self) -> None:
        """Pin the blocks of final anchors. Only for the development chain: nobody else vouches for that one."""
        self.fetch_headers(None)

    def fetch_headers(self, numbers: Sequence[int] | None) -> list[TrustedHeader]:
        """Pin the headers of these blocks, by default those of final anchors; return the ones that are new.

        Every configured node is asked, and all must agree. Raises ``TransportError``.
        """
        from anchoring.storage import AnchorState, load_anchors
        from api.pinning import pin_headers

        with self._asking:
            view = self.chain_view()
            if view is None:
                raise ConfigurationError("the log has no chain, so there are no headers to fetch")
            if numbers is None:
                with self.vault.store.read() as tx:
                    final = load_anchors(tx.connection, AnchorState.FINAL)
                numbers = [anchor.block_number for anchor in final if anchor.block_number is not None]
            return pin_headers(self.home.headers, view, numbers, now_ms())

    # The authorities.

    def sources(self) -> list[TimestampSource]:
        """The timestamp authorities of the settings."""
        return list(open_sources(self.settings))

    def close(self) -> None:
        """Close everything that was opened."""
        self._opened.close()
        self.start_up.close()
        self.tokens.close()
        self.vault.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _readers(self) -> Mapping[str, ChainReader]:
        chain = self.settings.chain
        if isinstance(chain, NoChainSettings):
            raise TransportError("the settings name no chain, and the log is bound to one")
        if isinstance(chain, DevChainSettings):
            # Opened anew: another file may stand there by now.
            self._dev_reader.close()
            return open_nodes(self._dev_reader, DEVELOPMENT_CHAIN_ID, [], self.settings.dev_dir)
        if self._rpc_nodes is None:
            self._rpc_nodes = {
                name: self._opened.enter_context(_rpc_chain(chain, [url]))
                for name, url in _named_nodes(chain.urls).items()
            }
        return self._rpc_nodes

    def _other_nodes(self) -> HeaderCheck | None:
        """Asks every configured node before an anchor is final or failed; None where there is only one."""
        from anchoring.chain.agreement import all_who_answer

        chain = self.settings.chain
        several = isinstance(chain, RpcChainSettings) and len(chain.urls) > 1
        return all_who_answer(self._readers()) if several else None

    def _within_budget(self, check: Callable[[], RollbackCheck]) -> RollbackCheck:
        """Nodes are strangers, and a start does not wait for them; the embedded chain is a file of this machine."""
        from anchoring.deadline import within

        if isinstance(self.settings.chain, DevChainSettings):
            return check()
        return within(CHECK_BUDGET_S, "the rollback check", check)

    def _outbox_policy(self) -> OutboxPolicy:
        from anchoring.chain.outbox import OutboxPolicy

        chain = self.settings.chain
        if isinstance(chain, RpcChainSettings):
            return OutboxPolicy(max_fee_cap=chain.max_fee_gwei * 10**9)
        return OutboxPolicy()

    def _keep_check(self, check: RollbackCheck, at_ms: int) -> None:
        facts = {
            "state": check.state.value,
            "local_size": check.local_size,
            "anchored_size": check.anchored_size,
            "detail": check.detail,
            "checked": at_ms,
        }
        # A home on a read-only medium can still be checked; it just cannot remember that it was.
        with suppress(StorageError):
            replace_file(self.home.last_check, json.dumps(facts).encode())


@contextmanager
def open_session(
    home: Home,
    settings: Settings,
    *,
    read_only: bool = False,
    pin: Callable[[str], str] | None = None,
    tell: Callable[[str], None] | None = None,
) -> Iterator[Session]:
    """Open a home. ``read_only`` opens the store so that nothing can be written at all.

    ``pin`` is asked for the PIN of a hardware token, by its label, when a key in one is first used. ``tell`` is given
    what the start found that the user has to know.
    """
    from identity.pkcs11 import TokenModule
    from ledger.storage.engine import open_store

    if isinstance(settings.database, Path) and not settings.database.exists():
        raise ConfigurationError(
            f"there is no store at {settings.database}", hint="holdfast init, or name it: --home DIR or HOLDFAST_HOME"
        )
    tokens = TokenModule(settings.token_module, pin or _no_pin)
    with Session(home, settings, open_store(settings.database, read_only=read_only), tokens, tell) as session:
        yield session


def _no_pin(token: str) -> str:
    raise ConfigurationError(f"nobody to ask for the PIN of token {token!r}")


def open_sources(settings: Settings) -> Iterator[TimestampSource]:
    """The timestamp authorities that the settings name."""
    for authority in settings.authorities:
        if isinstance(authority, DevAuthoritySettings):
            from anchoring.tsa.dev import DevelopmentAuthority
            from anchoring.tsa.source import EmbeddedSource

            yield EmbeddedSource(DevelopmentAuthority(settings.dev_dir / "tsa"))
        else:
            from anchoring.timestamp import Authority
            from anchoring.tsa.client import HttpSource

            trusted = Authority(_read_certificate(authority.root), authority.policy, authority.subject)
            certificates = [_read_certificate(path) for path in authority.certificates]
            yield HttpSource(authority.url, trusted, certificates=certificates, crl_urls=authority.crl_urls)


def open_chain(opened: ExitStack, settings: Settings) -> Chain | None:
    """The chain of the settings, for sending too; ``opened`` closes it. None when they name none."""
    chain = settings.chain
    if isinstance(chain, NoChainSettings):
        return None
    if isinstance(chain, DevChainSettings):
        return opened.enter_context(open_dev_chain(settings.dev_dir))
    return opened.enter_context(_rpc_chain(chain, list(chain.urls)))


def open_nodes(
    opened: ExitStack, chain_id: int, urls: Sequence[str], dev_dir: Path | None
) -> Mapping[str, ChainReader]:
    """Nodes to read a chain from: each URL, or the embedded chain in ``dev_dir``. None of both: an empty mapping."""
    if dev_dir is not None:
        from anchoring.chain.dev import DevChainReader

        return {"embedded development chain": opened.enter_context(DevChainReader(dev_chain_path(dev_dir)))}
    from anchoring.chain.jsonrpc import JsonRpcChain

    return {
        name: opened.enter_context(JsonRpcChain([url], chain_id=chain_id, confirmations=None))
        for name, url in _named_nodes(urls).items()
    }


def _named_nodes(urls: Sequence[str]) -> dict[str, str]:
    """URLs by what messages and headers files call them: host and port, because the rest may be a secret."""
    named: dict[str, str] = {}
    for url in urls:
        host = urlsplit(url).netloc.rpartition("@")[2]
        named[host if host not in named else f"{host} ({len(named) + 1})"] = url
    return named


def _rpc_chain(chain: RpcChainSettings, urls: list[str]) -> JsonRpcChain:
    from anchoring.chain.jsonrpc import JsonRpcChain

    return JsonRpcChain(urls, chain_id=chain.chain_id, confirmations=chain.confirmations, timeout_s=chain.timeout_s)


def _read_certificate(path: Path) -> bytes:
    """A certificate's DER bytes, from PEM or DER."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    try:
        data = path.read_bytes()
        load = x509.load_pem_x509_certificate if data.startswith(b"-----") else x509.load_der_x509_certificate
        return load(data).public_bytes(Encoding.DER)
    except (OSError, ValueError) as exc:
        raise ConfigurationError(f"{path}: not a certificate that can be read: {exc}") from exc


def is_development(descriptor: LogDescriptor) -> bool:
    """Whether the log is anchored on the embedded development chain."""
    return descriptor.chain is not None and descriptor.chain.id == DEVELOPMENT_CHAIN_ID
