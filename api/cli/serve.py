"""``holdfast serve``: the HTTP interface over this home, and over those of its tenants, in this process."""

from __future__ import annotations

import ipaddress
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from api.cli.exit_codes import ExitCode, UsageError
from api.cli.group import CommandGroup, invocation
from api.cli.passphrase import read_passphrase
from api.cli.session import PassphraseFile, opened, pin_reader
from identity.errors import AuditError, ConfigurationError, MalformedError

if TYPE_CHECKING:
    from api.bootstrap import Session
    from api.node import Node
    from api.settings import ServiceSettings, Settings
    from identity.keystore import KeyRing

__all__ = ["group"]

_END_WITHIN_S = 30
_WAITING = 128
"""Connections that the system keeps until they are taken."""

group = CommandGroup("serve", "Serve the home's databases over HTTP.")


@group.add(
    "serve",
    examples=[
        "holdfast serve",
        "holdfast serve --port 0 --passphrase-file pass.txt --anchor-every 10m",
        "holdfast serve --host 0.0.0.0 --tls-cert node.crt --tls-key node.key",
    ],
)
def serve(
    ctx: typer.Context,
    host: Annotated[str | None, typer.Option("--host", metavar="ADDRESS", help="Where to listen.")] = None,
    port: Annotated[
        int | None, typer.Option("--port", min=0, max=65_535, metavar="N", help="0 takes one that is free.")
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option("--tls-cert", metavar="FILE", help="The certificate's chain, PEM.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key", metavar="FILE", help="Its private key, PEM.")] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Listen without TLS where others can reach it: behind a proxy.")
    ] = False,
    device: Annotated[
        str | None, typer.Option("--device", metavar="NAME", help="The device as which the node writes and speaks.")
    ] = None,
    anchor_every: Annotated[
        str | None, typer.Option("--anchor-every", metavar="DURATION", help="Timestamp and anchor too: 10m, 1h.")
    ] = None,
    passphrase_file: PassphraseFile = None,
) -> ExitCode:
    """Serve until SIGTERM or SIGINT; then what is under way is finished. One line says where, once it is ready.

    Requests are signed (docs/reference/http.md). The log is JSON on stderr. What is not given here is in the [service]
    table of the settings.
    """
    out = invocation(ctx).out
    interval_ms = None if anchor_every is None else _duration(anchor_every)
    if (tls_cert is None) != (tls_key is None):
        raise UsageError("--tls-cert and --tls-key go together")
    with opened(ctx) as session, ExitStack() as stack:
        service = session.settings.service
        tls = (service.tls_cert, service.tls_key) if tls_cert is None else (tls_cert, tls_key)
        address = host or service.host
        if tls[0] is None and not insecure and not _is_loopback(address):
            raise UsageError(
                f"{address} can be reached by others, and there is no TLS",
                hint="--tls-cert FILE --tls-key FILE, or --insecure behind a proxy that has it",
            )
        passphrase = read_passphrase(passphrase_file, invocation(ctx).environ)
        nodes = _open_nodes(ctx, stack, session, passphrase, device)
        listening = stack.enter_context(closing(_listen(address, service.port if port is None else port)))
        url = _url(address, listening.getsockname()[1], "http" if tls[0] is None else "https")
        if interval_ms is not None:
            _check_anchoring(nodes)

        def ready() -> None:
            out.record(
                "service", {"url": url, "tenants": sorted(filter(None, nodes))}, text=f"holdfast serves at {url}"
            )
            out.flush()

        _run(nodes, listening, service, tls, interval_ms, ready)
    return ExitCode.OK


def _duration(text: str) -> int:
    from anchoring.policy import parse_duration

    try:
        return parse_duration(text)
    except MalformedError as exc:
        raise UsageError(str(exc)) from exc


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _url(host: str, port: int, scheme: str) -> str:
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises ``ConfigurationError``."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Only where the protocol is named asyncio sets TCP_NODELAY. Without it an answer waits 40 ms between head and body.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(_WAITING)
    except OSError as exc:
        listening.close()
        raise ConfigurationError(f"cannot listen on {host} port {port}: {exc.strerror or exc}") from exc
    return listening


# --- the nodes ------------------------------------------------------------------------------------------------------


def _open_nodes(
    ctx: typer.Context, stack: ExitStack, session: Session, passphrase: str, device: str | None
) -> dict[str, Node]:
    """The home's node under "", and those of its tenants, each with a store and keys of its own."""
    from api.bootstrap import open_session
    from api.home import Home
    from api.settings import load_settings

    run = invocation(ctx)
    environ = _own_environment(dict(run.environ))
    tenants = {name: Home(place) for name, place in sorted(session.settings.service.tenants.items())}
    settings = {name: load_settings(home, environ) for name, home in tenants.items()}
    _check_apart([session.settings, *settings.values()])
    nodes = {"": stack.enter_context(_node(session, passphrase, device))}
    for name, home in tenants.items():
        own = open_session(home, settings[name], pin=pin_reader(run, None), tell=run.out.note)
        nodes[name] = stack.enter_context(_node(stack.enter_context(own), passphrase, None))
    return nodes


def _own_environment(environ: dict[str, str]) -> dict[str, str]:
    """Without what would give every tenant the same store and keys."""
    return {name: value for name, value in environ.items() if name not in ("HOLDFAST_DATABASE", "HOLDFAST_KEYSTORE")}


def _check_apart(settings: list[Settings]) -> None:
    """Raises ``ConfigurationError`` when two tenants have one store."""
    stores = [str(one.database) for one in settings]
    if len(set(stores)) != len(stores):
        raise ConfigurationError("two tenants have the same store: each needs a home of its own")


@contextmanager
def _node(session: Session, passphrase: str, device: str | None) -> Iterator[Node]:
    from api.node import Node
    from identity.keystore import open_keystore

    ring = open_keystore(session.settings.keystore, passphrase)
    with closing(Node(session, ring, device=device)) as node:
        yield node


# --- running --------------------------------------------------------------------------------------------------------


def _run(
    nodes: dict[str, Node],
    listening: socket.socket,
    settings: ServiceSettings,
    tls: tuple[Path | None, Path | None],
    interval_ms: int | None,
    ready: Any,
) -> None:
    """Serve until a signal comes. Raises ``ConfigurationError`` for TLS files that cannot be used."""
    import uvicorn

    from api.app import create_app
    from api.asgi import MAX_HEAD_BYTES, make_log
    from api.service import Limits
    from sync.frames import MAX_FRAME_BYTES

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                ready()

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            for node in nodes.values():
                node.closing.set()  # who waits for changes would be waited for
            await super().shutdown(sockets)

    found = settings.limits
    limits = Limits(
        body_bytes=found.max_body_bytes,
        import_bytes=found.max_import_bytes,
        documents=found.max_documents,
        requests_a_minute=found.requests_a_minute,
        threads=found.threads,
    )
    log = make_log()
    app = create_app(nodes, limits=limits, public_url=settings.public_url, log=log)
    config = uvicorn.Config(
        app,
        http="h11",  # it bounds headers
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        ws="websockets-sansio",
        ws_max_size=MAX_FRAME_BYTES,
        ws_per_message_deflate=False,  # what comes compressed is a thousand times as long in memory
        limit_concurrency=found.threads * 8,
        backlog=_WAITING,
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=_END_WITHIN_S,
        ssl_certfile=None if tls[0] is None else str(tls[0]),
        ssl_keyfile=None if tls[1] is None else str(tls[1]),
    )
    try:
        config.load()
    except OSError as exc:  # also ssl.SSLError
        raise ConfigurationError(f"the TLS files cannot be used: {exc.strerror or exc}") from exc
    server = Server(config)
    with _ended_by_signal(server), _anchored(nodes, interval_ms, log):
        server.run(sockets=[listening])


@contextmanager
def _ended_by_signal(server: Any) -> Iterator[None]:
    """SIGTERM and SIGINT end the server, also before it has begun. What it raises again in the end does nothing."""

    def end(_number: int, _frame: object) -> None:
        server.should_exit = True

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# --- anchoring beside it --------------------------------------------------------------------------------------------


def _check_anchoring(nodes: dict[str, Node]) -> None:
    """Raises ``ConfigurationError`` where a home's chain or authorities cannot be used as they are set."""
    for node in nodes.values():
        node.session.sources()


@contextmanager
def _anchored(nodes: dict[str, Node], interval_ms: int | None, log: Any) -> Iterator[None]:
    """A thread for each node that anchors, until the block is left."""
    if interval_ms is None:
        yield
        return
    stop = threading.Event()
    threads = [
        threading.Thread(target=_anchor, args=(name, node, interval_ms, stop, log), name=f"holdfast-anchor-{name}")
        for name, node in nodes.items()
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _anchor(name: str, node: Node, interval_ms: int, stop: threading.Event, log: Any) -> None:
    """Anchor until stopped, or until the store must not be written to any more: then the node goes on, and says so."""
    from api.cli.service import anchoring

    def tell(event: Any) -> None:
        facts = {"part": event.part, "size": event.size, "state": event.state, "detail": event.detail}
        log.info("anchoring", tenant=name, what=event.event, **facts)

    assert node.ring is not None
    ring: KeyRing = node.ring
    try:
        anchoring(node.session, ring, interval_ms, stop, tell).run()
    except AuditError as exc:
        log.error("anchoring-ended", tenant=name, error=type(exc).__name__)
