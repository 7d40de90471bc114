"""Serial writes over HTTP: what became of what was proposed to the home of a collection (docs/spec/serial.md)."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query
from fastapi.responses import Response

from api.access.action import Operation
from api.models import DecisionModel
from api.routes.dependencies import Called, Routes, answer
from ledger.values import parse_reference_text, reference_text

__all__ = ["read_decision", "routes"]

routes = Routes("serial writes")

_LONGEST_S = 30


@routes.declare("GET", "/databases/{database}/decision", Operation.HISTORY, answers=DecisionModel)
def read_decision(
    call: Called,
    database: str,
    entry: Annotated[str, Query(max_length=256, description="The proposal: FEED/INDEX/LEAF HASH.")],
    wait: Annotated[int, Query(ge=0, le=_LONGEST_S, description="Seconds to wait for it to be decided.")] = 0,
) -> Response:
    """What became of a proposal, waiting for it a while if that is asked for. Before that it is pending."""
    on = call.on(database)
    on.require_all_fields("a decision")
    proposal = parse_reference_text(entry)
    found = on.database.decision(proposal)
    if found is None and wait:
        with call.service.following():
            found = on.database.await_decision(proposal, float(wait))
    decided = None if found is None else found.entry
    return answer(
        {
            "v": 1,
            "kind": "decision",
            "proposal": reference_text(proposal),
            "verdict": "pending" if found is None else found.verdict.value,
            "entry": None if decided is None else reference_text(decided),
            "why": None if found is None or found.why is None else found.why.value,
            "detail": "" if found is None else found.detail,
            "rivals": [] if found is None else [reference_text(one) for one in found.rivals],
        }
    )
