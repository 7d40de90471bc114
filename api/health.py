"""Reading how well anchoring keeps up from a store, its settings and the memory of the last round."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from anchoring.health import Health, OpenAnchor, Thresholds, anchor_lag, blind_window, token_age
from anchoring.policy import parse_duration
from anchoring.storage import AnchorState, load_anchors, newest_final_anchor, newest_tokens
from api.last_round import load_round
from api.settings import AlarmSettings, DevAuthoritySettings, Settings
from ledger.store import newest_checkpoint

if TYPE_CHECKING:
    from api.bootstrap import Session

__all__ = ["authority_names", "read_health", "thresholds"]

_EMBEDDED: Final = "embedded development authority"


def read_health(session: Session, now_ms: int) -> Health:
    """Everything that the pure part judges, as it is now."""
    _, descriptor = session.vault.log_descriptor()
    with session.vault.store.read() as tx:
        newest = newest_checkpoint(tx)
        final = newest_final_anchor(tx.connection)
        covered = 0 if final is None else final.size
        others = [
            OpenAnchor(anchor.size, anchor.state.value, anchor.changed_ms, anchor.reason)
            for anchor in load_anchors(
                tx.connection, AnchorState.PENDING, AnchorState.SUBMITTED, AnchorState.MINED, AnchorState.FAILED
            )
        ]
        sizes = [checkpoint.size for checkpoint in tx.checkpoints(covered)]
        tokens = newest_tokens(tx.connection)
    entries, since_ms = session.vault.blind_window(covered)
    last = load_round(session.home)
    authorities = authority_names(session.settings)
    return Health(
        lag=anchor_lag(sizes, None if final is None else (final.size, final.changed_ms), others),
        tokens=token_age(tokens, authorities, None if newest is None else newest.size),
        blind=blind_window(entries, since_ms, now_ms),
        chained=descriptor.chain is not None,
        stamped=bool(authorities),
        failures={} if last is None else last.failures,
    )


def authority_names(settings: Settings) -> list[str]:
    """What tokens of the settings' authorities are filed under. Nothing of them is opened."""
    return [_EMBEDDED if isinstance(one, DevAuthoritySettings) else one.url for one in settings.authorities]


def thresholds(alarms: AlarmSettings) -> Thresholds:
    """The settings' durations in milliseconds."""
    return Thresholds(
        anchor_lag_ms=parse_duration(alarms.anchor_lag),
        token_age_ms=parse_duration(alarms.token_age),
        blind_ms=parse_duration(alarms.blind),
    )
