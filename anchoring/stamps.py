"""Which checkpoints are timestamped well enough, and which later tokens keep the earlier ones alive.

For the exporter, which chooses what to show (docs/spec/evidence.md, "Choosing what to show"). Pure; nothing here is
relied on by the verifier.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from hashlib import sha256
from itertools import islice
from typing import Final

from anchoring.timestamp import TimestampEvidence
from anchoring.timestamp.standing import Stamp, TokenStanding, combine_standings
from ledger.statement import TimeStatement

__all__ = ["Judge", "Stamps", "take_at_its_word"]

Judge = Callable[[TimestampEvidence], TokenStanding | None]
"""What one token is worth, None when nothing."""

_FOREVER: Final = 1 << 62
_LOOK_BACK: Final = 256
"""How many checkpoints are looked at for one that renews another."""


def take_at_its_word(token: TimestampEvidence) -> TokenStanding:
    """For those who know of no authorities: each token is one of its own, and never ends."""
    return TokenStanding(frozenset({sha256(token.response).digest()}), 0, _FOREVER)


class Stamps:
    """The tokens of a log's checkpoints, and what its ``time`` statements say about them."""

    def __init__(
        self,
        tokens: Callable[[int], Sequence[TimestampEvidence]],
        judge: Judge,
        k: int,
        times: Sequence[tuple[int, TimeStatement]],
        sizes: Sequence[int],
    ) -> None:
        """``times`` are leaf indices with their statements, ``sizes`` those of all checkpoints; both ascend."""
        self._tokens = tokens
        self._judge = cache(judge)
        self._k = k
        self._times = times
        self._sizes = sizes
        self.stamp = cache(self._stamp)

    def first(self, behind: int) -> int | None:
        """The first checkpoint that covers leaf ``behind`` and is stamped by k; if there is none, by anybody."""
        later = self._sizes[bisect_left(self._sizes, behind + 1) :]
        enough = (size for size in later if self._tokens(size) and self.stamp(size) is not None)
        return next(enough, None) or next((size for size in later if self._tokens(size)), None)

    def statement(self, size: int, before: int | None = None) -> tuple[int, TimeStatement] | None:
        """The first ``time`` leaf (before that leaf) about the checkpoint that names as many of its tokens as count."""
        about = [
            (leaf, statement)
            for leaf, statement in self._times
            if statement.size == size and (before is None or leaf < before) and self.named(statement)
        ]
        enough = (one for one in about if self._worth(self.named(one[1])) is not None)
        return next(enough, None) or next((one for one in about if self.stamp(size) is None), None)

    def newest_statement(self, least: int, before: int) -> tuple[int, TimeStatement] | None:
        """The newest ``time`` leaf before that leaf about a checkpoint of at least that size which k have stamped.

        If there is none, the newest about any that somebody has stamped.
        """
        about = [
            (leaf, statement)
            for leaf, statement in reversed(self._times)
            if leaf < before and statement.size >= least and self.named(statement)
        ]
        enough = (one for one in about if self._worth(self.named(one[1])) is not None)
        return next(enough, None) or next((one for one in about if self.stamp(one[1].size) is None), None)

    def named(self, statement: TimeStatement) -> list[TimestampEvidence]:
        """The tokens at hand that the statement names; those that came too late for it are not among them."""
        tokens = self._tokens(statement.size)
        return [token for token in tokens if sha256(token.response).digest() in statement.responses]

    def renewals(self, size: int) -> Iterator[tuple[int, TimeStatement, int]]:
        """How the tokens on a checkpoint outlive their certificates: (leaf, statement, later checkpoint), step by step.

        Each later checkpoint covers the leaf, and its tokens are from before the earlier ones end and end later
        themselves. Nothing comes when no token ends later than those that are there.
        """
        while True:
            step = self._renewal(size)
            if step is None:
                return
            yield step
            size = step[2]

    def _renewal(self, size: int) -> tuple[int, TimeStatement, int] | None:
        stated = self.statement(size)
        if stated is None or (stamp := self._worth(self.named(stated[1]))) is None:
            return None
        leaf, statement = stated
        later = self._sizes[bisect_left(self._sizes, leaf + 1) :]
        newest = next((one for one in islice(reversed(later), _LOOK_BACK) if self.stamp(one) is not None), None)
        if newest is None or self._until(newest) <= stamp.until_ms:
            return None  # the authorities' newest certificates end no later than these
        reachable = later[: bisect_left(range(len(later)), stamp.until_ms, key=lambda at: self._existence(later, at))]
        for one in islice(reversed(reachable), _LOOK_BACK):
            if self._until(one) > stamp.until_ms:
                return leaf, statement, one
        return None

    def _stamp(self, size: int) -> Stamp | None:
        return self._worth(self._tokens(size))

    def _worth(self, tokens: Sequence[TimestampEvidence]) -> Stamp | None:
        standings = [standing for token in tokens if (standing := self._judge(token)) is not None]
        return combine_standings(standings, self._k) if standings else None

    def _existence(self, sizes: Sequence[int], position: int) -> int:
        """When the checkpoint there, or else the next one that k have stamped, was stamped: it only grows."""
        stamps = (self.stamp(size) for size in islice(sizes, position, None))
        return next((stamp.existence_ms for stamp in stamps if stamp is not None), _FOREVER)

    def _until(self, size: int) -> int:
        stamp = self.stamp(size)
        return 0 if stamp is None else stamp.until_ms
