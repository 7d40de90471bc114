"""How well anchoring keeps up: its lag, the age of its tokens, the width of the blind window. Pure.

Each is computed from what a store holds and the time now; ``warnings`` compares them with thresholds. Times are
milliseconds UTC of this machine's clock, sizes are those of the checkpoint log.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

__all__ = [
    "AnchorLag",
    "BlindWindow",
    "Health",
    "OpenAnchor",
    "Thresholds",
    "TokenAge",
    "anchor_lag",
    "blind_window",
    "token_age",
    "warnings",
]


@dataclass(frozen=True, slots=True)
class OpenAnchor:
    """An anchor that is not final: its state, since when it is in it, and why it went back, if it did."""

    size: int
    state: str
    since_ms: int
    reason: str | None


@dataclass(frozen=True, slots=True)
class AnchorLag:
    """How far the newest final anchor is behind the newest checkpoint.

    ``final_ms`` is when it became final here; ``checkpoints`` counts those that no final anchor covers. ``waiting`` is
    what is on its way; ``failed`` are anchors that never will be, with no final one above them.
    """

    final_size: int | None
    final_ms: int | None
    checkpoints: int
    waiting: tuple[OpenAnchor, ...]
    failed: tuple[OpenAnchor, ...]

    def age_ms(self, now_ms: int) -> int | None:
        """How long the newest final anchor has been the newest, 0 while it covers everything."""
        if self.checkpoints == 0:
            return 0
        return None if self.final_ms is None else max(0, now_ms - self.final_ms)


@dataclass(frozen=True, slots=True)
class TokenAge:
    """The newest token of each authority, as (size, time), and the authorities without one for the newest checkpoint.

    ``missing`` names authorities of the settings only.
    """

    newest: Mapping[str, tuple[int, int]]
    missing: tuple[str, ...]

    def newest_ms(self) -> int | None:
        """The time of the newest token of all."""
        return max((time_ms for _, time_ms in self.newest.values()), default=None)


@dataclass(frozen=True, slots=True)
class BlindWindow:
    """The entries that no final anchor covers, and the oldest time that one of them claims."""

    entries: int
    since_ms: int | None

    def width_ms(self, now_ms: int) -> int:
        """How long the oldest of them has been waiting, by its own claim; 0 when there is none."""
        return 0 if self.since_ms is None else max(0, now_ms - self.since_ms)


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What is too long, in milliseconds."""

    anchor_lag_ms: int = 86_400_000
    token_age_ms: int = 86_400_000
    blind_ms: int = 86_400_000


@dataclass(frozen=True, slots=True)
class Health:
    """All three together. ``chained``: the log has a chain; ``stamped``: the settings name authorities.

    ``failures`` are the parts that failed in the last round that a worker made, with what they said.
    """

    lag: AnchorLag
    tokens: TokenAge
    blind: BlindWindow
    chained: bool
    stamped: bool
    failures: Mapping[str, str]


def anchor_lag(
    checkpoint_sizes: Iterable[int], final: tuple[int, int] | None, others: Sequence[OpenAnchor]
) -> AnchorLag:
    """The lag. ``final`` is the newest final anchor's size and when it became final; ``others`` are all not final.

    An anchor that failed below the final one is covered by it, and no longer anybody's concern.
    """
    covered = 0 if final is None else final[0]
    above = [anchor for anchor in others if anchor.size > covered]
    return AnchorLag(
        final_size=None if final is None else final[0],
        final_ms=None if final is None else final[1],
        checkpoints=sum(size > covered for size in checkpoint_sizes),
        waiting=tuple(anchor for anchor in others if anchor.state != "failed"),
        failed=tuple(anchor for anchor in above if anchor.state == "failed"),
    )


def token_age(
    newest: Mapping[str, tuple[int, int]], authorities: Iterable[str], newest_checkpoint: int | None
) -> TokenAge:
    """The tokens' age. ``newest`` is (size, time) by authority; ``authorities`` are those of the settings."""
    if newest_checkpoint is None:
        return TokenAge(newest, ())
    missing = (name for name in authorities if name not in newest or newest[name][0] < newest_checkpoint)
    return TokenAge(newest, tuple(missing))


def blind_window(entries: int, since_ms: int | None, now_ms: int) -> BlindWindow:
    """The window. A claimed time in the future is no wait, and a claimed time before 1970 no time."""
    if entries == 0 or since_ms is None or since_ms < 0:
        return BlindWindow(entries, None)
    return BlindWindow(entries, min(since_ms, now_ms))


def warnings(health: Health, thresholds: Thresholds, now_ms: int) -> list[str]:
    """What a person should look at, one sentence each; empty when anchoring keeps up."""
    return [
        *(_lag_warnings(health.lag, thresholds.anchor_lag_ms, now_ms) if health.chained else ()),
        *(_token_warnings(health.tokens, thresholds.token_age_ms, now_ms) if health.stamped else ()),
        *(_blind_warnings(health.blind, thresholds.blind_ms, now_ms) if health.chained else ()),
        *(f"{what} failed in the last round: {said}" for what, said in sorted(health.failures.items())),
    ]


def _lag_warnings(lag: AnchorLag, most_ms: int, now_ms: int) -> Iterator[str]:
    age_ms = lag.age_ms(now_ms)
    if age_ms is not None and age_ms > most_ms:
        yield f"{lag.checkpoints} checkpoints wait, the newest final anchor is {_span(age_ms)} old"
    for anchor in lag.waiting:
        if now_ms - anchor.since_ms > most_ms:
            yield f"the anchor of size {anchor.size} is {anchor.state} for {_span(now_ms - anchor.since_ms)}"
    for anchor in lag.failed:
        yield f"the anchor of size {anchor.size} failed: {anchor.reason}"


def _token_warnings(tokens: TokenAge, most_ms: int, now_ms: int) -> Iterator[str]:
    newest_ms = tokens.newest_ms()
    if tokens.missing and newest_ms is not None and now_ms - newest_ms > most_ms:
        yield f"the newest token is {_span(now_ms - newest_ms)} old, and the newest checkpoint lacks some"


def _blind_warnings(blind: BlindWindow, most_ms: int, now_ms: int) -> Iterator[str]:
    width_ms = blind.width_ms(now_ms)
    if width_ms > most_ms:
        yield f"{blind.entries} entries wait for an anchor, the oldest for {_span(width_ms)}"


def _span(milliseconds: int) -> str:
    """A duration for people, in its two largest units."""
    seconds = milliseconds // 1000
    for name, unit, below, part in (("d", 86_400, "h", 3_600), ("h", 3_600, "m", 60), ("m", 60, "s", 1)):
        if seconds >= unit:
            return f"{seconds // unit}{name} {seconds % unit // part}{below}"
    return f"{seconds}s"
