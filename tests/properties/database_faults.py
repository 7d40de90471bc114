"""A process that ends between two statements, before its commit or right after it: as far as its store can tell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from identity.errors import StorageError


class Killed(StorageError):
    """The process is no more: what stands in the code behind this would not run, and finds no store to do harm to."""


class Fuse:
    """Kills a replica's process at statement number ``statements`` of those to come, or else around a commit."""

    def __init__(self, replica: Any, statements: int, *, commits: int, answered: bool) -> None:
        self.has_blown = False
        self._statements = statements
        self._commits = commits
        store, rim = replica.store, replica.store._rim
        acts = {name: self._before(getattr(rim, name)) for name in ("execute", "insert_many", "append")}
        store._rim = replace(rim, **acts)
        store._writing._commit = self._around(store._writing._commit, answered)
        replica.writer._limits = replace(replica.writer._limits, settle_s=0)  # nobody waits to see what became of it

    def _before(self, act: Callable[..., Any]) -> Callable[..., Any]:
        def fused(*arguments: Any) -> Any:
            self._statements -= 1
            if self.has_blown or self._statements < 0:
                self._blow()
            return act(*arguments)

        return fused

    def _around(self, commit: Callable[[Any], None], answered: bool) -> Callable[[Any], None]:
        def fused(connection: Any) -> None:
            self._commits -= 1
            if self.has_blown or (self._commits < 0 and not answered):
                self._blow()
            commit(connection)
            if self._commits < 0:
                self._blow()

        return fused

    def _blow(self) -> None:
        self.has_blown = True
        raise Killed("the process has ended")
