"""The third part of the demonstration: the bank serves its database, and a device of somebody else pairs with it.

The node and the device are two homes in this process; between them is HTTP on loopback, with signed requests, as
``holdfast serve`` and ``holdfast pair`` have it.
"""

from __future__ import annotations

import io
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from api.access.signing import RequestSigner
from api.bootstrap import now_ms, open_session
from api.client import exchange_database
from api.databases import Databases
from api.demo.bank import Bank
from api.demo.offices import ACCOUNTS
from api.demo.steps import Step
from api.founding import Founding, found_home
from api.home import Home
from api.joining import claim, wait_for_decision
from api.node import Node
from api.pairing import Party
from api.peer import Peer
from api.remote import RemoteNode, RemoteProblem
from api.settings import default_settings_text, load_settings
from api.vault import device_signer
from identity.errors import VerificationError
from identity.event import DeviceClass
from identity.keystore import open_keystore

__all__ = ["tell"]

_PASSPHRASE = "phone"  # noqa: S105  (the home is thrown away)
_WITHIN_S: Final = 30.0
_AMOUNT: Final = Decimal("-12.30")


def tell(bank: Bank, account: str) -> Iterator[Step]:
    """Serve the bank's database, let a device pair with it and book on ``account``; yield what came of it."""
    ring = bank.keys()
    branch = device_signer(ring, "branch")
    with (
        bank.open() as session,
        closing(Node(session, ring, device="branch")) as node,
        _served(node) as url,
        RemoteNode(url, branch) as owner,
        _phone(bank, bank.home.root.with_name("phone")) as (phone, databases),
        RemoteNode(url, databases.signer()) as guest,
    ):
        started = time.perf_counter()
        offer = owner.ask("POST", "/v1/pairings", {"databases": [ACCOUNTS]}).json
        own = Party(phone.vault.history().identity, databases.signer().public_key)
        found = claim(guest, offer["code"], own, [one.signed_event for one in phone.vault.events()])
        path = f"/v1/pairings/{offer['id']}"
        shown = owner.ask("GET", path).json["safety_number"]
        _require(shown == found.safety_number, "the two sides show different numbers")
        owner.ask("POST", f"{path}/decision", {"accept": True})
        wait_for_decision(guest, found, time.monotonic() + _WITHIN_S)
        phone.vault.import_events(found.events)
        peer = Peer(url, RequestSigner(databases.signer()))
        done = exchange_database(phone, databases, peer, found.databases[0].uid.hex(), Peer.sync)
        seconds = time.perf_counter() - started
        yield Step(
            "The bank serves its database, and a phone pairs with it",
            (
                f"The code {offer['code']} brings them together. Both show the same number, for two people to compare:",
                f"  {shown[:35]}",
                f"  {shown[36:]}",
                f"The phone fetched {done.outcome.blocks} entries and verified each: {seconds:.2f} s.",
            ),
            {"seconds": round(seconds, 3), "entries": done.outcome.blocks, "safety_number": shown},
        )
        yield _booking_step(owner, phone, databases, peer, account)


def _booking_step(owner: RemoteNode, phone: Any, databases: Databases, peer: Peer, account: str) -> Step:
    document = f"/v1/databases/{ACCOUNTS}/collections/{ACCOUNTS}/documents/{account}"
    before = owner.ask("GET", document)
    mine = databases.open(ACCOUNTS)
    mine.increment(ACCOUNTS, account, "balance", _AMOUNT, note="lunch, paid by phone")
    done = exchange_database(phone, databases, peer, mine.uid.hex(), Peer.sync)
    after = owner.ask("GET", document)
    paid = Decimal(after.json["fields"]["balance"]["$dec"]) - Decimal(before.json["fields"]["balance"]["$dec"])
    _require(paid == _AMOUNT, "what the phone booked is not what the bank shows")
    try:
        owner.ask(
            "PATCH", document, {"fields": {"limit": {"$dec": "1.00"}}}, headers={"if-match": before.headers["etag"]}
        )
    except RemoteProblem as refused:
        status = refused.status
    else:
        status = 200
    _require(status == 412, "a stale condition was not refused")
    return Step(
        "The phone books, apart, and syncs",
        (
            f"Account {account}: {_AMOUNT}, signed by the phone's own key; {done.outcome.sent:,} bytes were sent.",
            "The bank shows it. Who had read the account before, and writes on that condition, is answered 412.",
        ),
        {"bytes": done.outcome.sent, "requests": done.outcome.requests, "status": status},
    )


@contextmanager
def _phone(bank: Bank, directory: Path) -> Iterator[tuple[Any, Databases]]:
    """A home with an identity of its own, and no chain."""
    founding = Founding(
        label="Anna's phone",
        devices={"phone": DeviceClass.DEVICE},
        log_name="phone.example",
        chain=None,
        fund=None,
        authorities=[],
        settings=default_settings_text({"kind": "none"}, []),
    )
    home = Home(directory)
    found_home(home, founding, _PASSPHRASE, now_ms=now_ms())
    ring = open_keystore(home.keystore, _PASSPHRASE)
    with open_session(home, load_settings(home, bank.environ)) as session, Databases(session, ring) as databases:
        yield session, databases


@contextmanager
def _served(node: Node) -> Iterator[str]:
    """The node over HTTP on loopback; its address."""
    import uvicorn

    from api.app import create_app
    from api.asgi import make_log

    app = create_app({"": node}, log=make_log(io.StringIO()))
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, ws="websockets-sansio"))
        thread = threading.Thread(target=server.run, args=([listening],), name="holdfast-demo-node")
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            node.closing.set()
            server.should_exit = True
            thread.join()


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise VerificationError(otherwise)
