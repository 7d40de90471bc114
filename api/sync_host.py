"""What the routes of sync have of a service: databases, for whoever the gate lets sync them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from starlette.requests import HTTPConnection

from api.access.action import Action, Operation
from api.problems import NotFound
from api.routes.dependencies import http_request
from api.routes.sync import SyncGrant
from api.service import Service
from identity.errors import MissingEvidenceError
from identity.textforms import to_did_key

__all__ = ["ServiceHost"]


class ServiceHost:
    """Implements ``api.routes.sync.SyncHost`` for the service of the application that is asked."""

    def reading(self, connection: HTTPConnection) -> AbstractContextManager[Callable[[int], None]]:
        """As in ``SyncHost``."""
        service: Service = connection.app.state.service
        return service.held()

    def open_for_sync(self, connection: HTTPConnection, body: bytes, database: str) -> SyncGrant:
        """As in ``SyncHost``."""
        service: Service = connection.app.state.service
        node = service.node(connection.path_params.get("tenant", ""))
        caller = node.gate.identify(http_request(connection, body))
        service.rates.take(caller.key)
        try:
            uid = node.find(database).uid
        except MissingEvidenceError as exc:
            node.gate.allow(caller, Action(Operation.OPERATE))
            raise NotFound(f"there is no database {database!r}, or there are several") from exc
        action = Action(Operation.SYNC, uid)
        node.gate.allow(caller, action)
        log = connection.app.state.log

        def cut_off(reason: str) -> None:
            log.warning("peer-cut-off", reason=reason, database=uid.hex(), caller=to_did_key(caller.key))

        return SyncGrant(node.writing(uid), lambda: node.gate.allow(caller, action), caller.key, cut_off)
