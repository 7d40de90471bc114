"""Wiring: the one place where settings become a store, a chain, authorities and a guard.

Everything is built when it is first asked for and closed together. Heavy libraries are imported by the call that needs
them, so that commands that do not stay quick.
"""

from __future__ import annotations

import json
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
from identity.errors import ConfigurationError, MalformedError, ReadOnlyState, StorageError, TransportError
from identity.jsontext import parse_json
from ledger.log import root_at
from ledger.statement import LogDescriptor

if TYPE_CHECKING:
    from anchoring.chain.check import ChainView
    from anchoring.chain.client import Chain, ChainReader
    from anchoring.chain.dev import DevChain
    from anchoring.chain.jsonrpc import JsonRpcChain
    from anchoring.chain.outbox import OutboxPolicy
    from anchoring.headers import TrustedHeader
    from anchoring.tsa.source import TimestampSource
    from anchoring.worker import AnchorSender
    from api.vault import Vault
    from identity.keystore import KeyRing
    from identity.pkcs11 import TokenModule

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

_WAYS_OUT = {
    RollbackState.BEHIND_ANCHOR: "put back the newest copy, or fetch what is missing from a backup that has it",
    RollbackState.DIVERGED: "this copy is not the history that was anchored: put back one that is",
    RollbackState.FOREIGN_CHAIN: "check the chain in the settings; a development chain that was reset is another chain",
    RollbackState.CLOSED: "its successor log goes on",
    RollbackState.UNVERIFIED: "start the chain's node, or check the settings, and try again",
}


def now_ms() -> int:
    """The local clock, in milliseconds UTC. A label: nothing is proven by it."""
    return time.time_ns() // 1_000_000


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

    def __init__(self, home: Home, settings: Settings, vault: Vault, tokens: TokenModule) -> None:
        self.home = home
        self.tokens = tokens
        self.settings = settings
        self.vault = vault
        self._opened = ExitStack()

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
        from anchoring.chain.check import LogPosition, check_rollback
        from anchoring.storage import newest_final_anchor

        at_ms = now_ms() if at_ms is None else at_ms
        log_id, descriptor = self.vault.log_descriptor()
        with self.vault.store.read() as tx:
            state = tx.log()
            assert state is not None
            if descriptor.chain is None:
                return RollbackCheck(RollbackState.NO_CHAIN, state.size, 0, "the log's descriptor names no chain")
            try:
                view = self.chain_view()
            except (TransportError, StorageError, ConfigurationError) as exc:
                return RollbackCheck(RollbackState.UNVERIFIED, state.size, 0, f"the chain could not be read: {exc}")
            assert view is not None
            final = newest_final_anchor(tx.connection)
            archived = None
            if final is not None and final.block_number is not None and final.block_hash is not None:
                archived = final.size, final.block_number, final.block_hash
            log = LogPosition(log_id, descriptor.chain, state.size, lambda size: root_at(tx.log_node, size))
            check = check_rollback(view, log, archived, at_ms)
        if check.state is not RollbackState.UNVERIFIED:
            self._keep_check(check, at_ms)
        return check

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
        chain = open_chain(self._opened, self.settings)
        if chain is None:
            raise ConfigurationError("the settings name no chain, and the log is bound to one")
        target = AnchorTarget(
            chain_id=descriptor.chain.id,
            contract=descriptor.chain.contract,
            owner=descriptor.chain.owner,
            log_id=log_id,
            code_hash=load_contract().code_hash,
        )
        return AnchorSender(chain, LocalKey(ring.anchor_key), target, self._outbox_policy())

    def pin_final_anchors(self) -> None:
        """Pin the blocks of final anchors. Only for the development chain: nobody else vouches for that one."""
        self.fetch_headers(None)

    def fetch_headers(self, numbers: Sequence[int] | None) -> list[TrustedHeader]:
        """Pin the headers of these blocks, by default those of final anchors; return the ones that are new.

        Every configured node is asked, and all must agree. Raises ``TransportError``.
        """
        from anchoring.storage import AnchorState, load_anchors
        from api.pinning import pin_headers

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
            return open_nodes(self._opened, DEVELOPMENT_CHAIN_ID, [], self.settings.dev_dir)
        return {
            name: self._opened.enter_context(_rpc_chain(chain, [url])) for name, url in _named_nodes(chain.urls).items()
        }

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
        draft = self.home.last_check.with_suffix(".new")
        try:
            draft.write_text(json.dumps(facts), encoding="utf-8")
            draft.replace(self.home.last_check)
        except OSError:
            # A home on a read-only medium can still be checked; it just cannot remember that it was.
            with suppress(OSError):
                draft.unlink(missing_ok=True)


class _StartUpGuard:
    """Lets a store be written to only when its log is where the chain says it must be (docs/spec/rollback.md)."""

    def __init__(self) -> None:
        self.session: Session | None = None

    def require_writable(self, vault: Vault) -> None:
        """See ``Guard``."""
        assert self.session is not None
        assert self.session.vault is vault
        check = self.session.check_rollback()
        if check.state is RollbackState.UNVERIFIED:
            raise TransportError(f"{check.state.value}: {check.detail}", hint=_WAYS_OUT[check.state])
        if not check.state.writable:
            raise ReadOnlyState(check.state.value, check.detail, hint=_WAYS_OUT[check.state])


@contextmanager
def open_session(
    home: Home, settings: Settings, *, read_only: bool = False, pin: Callable[[str], str] | None = None
) -> Iterator[Session]:
    """Open a home. ``read_only`` opens the store so that nothing can be written at all.

    ``pin`` is asked for the PIN of a hardware token, by its label, when a key in one is first used.
    """
    from api.vault import Vault
    from identity.pkcs11 import TokenModule
    from ledger.storage.engine import open_store

    if isinstance(settings.database, Path) and not settings.database.exists():
        raise ConfigurationError(
            f"there is no store at {settings.database}", hint="holdfast init, or name it: --home DIR or HOLDFAST_HOME"
        )
    guard = _StartUpGuard()
    tokens = TokenModule(settings.token_module, pin or _no_pin)
    vault = Vault(open_store(settings.database, read_only=read_only), guard, tokens.signer)
    with Session(home, settings, vault, tokens) as session:
        guard.session = session
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
