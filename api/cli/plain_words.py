"""What an identity event says, in words for whoever is asked to sign it.

Everything that the event changes is said, with keys in full: what is not shown here, nobody has agreed to.
"""

from __future__ import annotations

from collections.abc import Iterator

from anchoring.report import format_time
from api.cli.output import printable
from identity.event import AddDevice, BindLog, Close, DeviceClass, Inception, NextKeys, RevokeDevice, RotateRoot
from identity.history import KeyHistory, ProposedEvent
from identity.textforms import to_did_key, to_hex, to_zbase32

__all__ = ["describe_event", "describe_signatures"]

_CLASSES = {
    DeviceClass.ADMIN: "an admin: it writes, and it may add devices",
    DeviceClass.DEVICE: "a device: it writes",
    DeviceClass.SERVICE: "a service: it writes",
}


def describe_event(step: ProposedEvent) -> list[str]:
    """Lines that say what the event does, the first one in short."""
    body = step.event.body
    match body:
        case Inception():
            lines = [f"found the identity {_quoted(body.label)}", *_keys(step.after), *_following(body.next)]
        case RotateRoot():
            lines = ["replace all root keys", *_keys(step.after), *_following(body.next)]
        case AddDevice():
            by = "" if body.by is None else f", by the authority of the admin {to_did_key(body.by)}"
            lines = [
                f"let the device {_quoted(body.name)} write for the identity{by}",
                f"  {to_did_key(body.device)}",
                f"  {_CLASSES[body.device_class]}",
            ]
        case RevokeDevice():
            lines = list(_revocation(step, body))
        case BindLog():
            lines = ["make this checkpoint log one of the identity's", f"  {to_hex(body.log)}"]
        case Close():
            lines = ["CLOSE the identity for good: nothing is written, added or revoked under it after this"]
    first, *rest = lines
    return [f"event {step.event.seq}: {first}", *rest]


def describe_signatures(step: ProposedEvent) -> str:
    """How many signatures there are, and how many it takes."""
    keys = ", ".join(to_did_key(step.authority[place]) for place in sorted(step.signed)) or "nobody"
    return f"  signed by {keys}; it takes {step.threshold} of {len(step.authority)}"


def _keys(after: KeyHistory) -> Iterator[str]:
    yield f"  from now on {after.root_threshold} of these {len(after.root_keys)} keys sign for it:"
    yield from (f"    {to_did_key(key)}" for key in after.root_keys)


def _following(following: NextKeys) -> Iterator[str]:
    yield f"  after the next rotation {following.threshold} of {len(following.digests)} keys with these commitments:"
    yield from (f"    {to_hex(digest)}" for digest in following.digests)


def _revocation(step: ProposedEvent, body: RevokeDevice) -> Iterator[str]:
    before, after = step.before, step.after
    assert before is not None
    device = before.devices[body.device]
    yield f"end the device {_quoted(device.name)}, because it is {body.reason.value}"
    yield f"  {to_did_key(body.device)}"
    if body.compromised_since_ms is not None:
        yield f"  its key may have been in other hands since {format_time(body.compromised_since_ms)}"
    if not body.last_good:
        yield "  nothing that it wrote is vouched for"
    for feed, good in body.last_good.items():
        yield f"  vouched for: the first {good.length} entries of feed {to_zbase32(feed)}"
        yield f"    with the tree hash {to_hex(good.tree_hash)}"
    for other in after.devices.values():
        was = before.devices[other.key].revocation
        if other.key != body.device and other.revocation is not None and was is None:
            yield f"  with it ends {_quoted(other.name)}, which it has added: {to_did_key(other.key)}"


def _quoted(text: str) -> str:
    return f"'{printable(text)}'"
