"""What a service counts, for Prometheus. Labels are routes, statuses and tenants: nothing of what is stored."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from api.health import read_health
from identity.errors import AuditError
from sync.conflicts import open_conflicts

if TYPE_CHECKING:
    from api.node import Node

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_KEEP_S: Final = 15.0
"""How long what has to be read from a store is not read again: anybody may ask."""


class Metrics:
    """The numbers of one service."""

    def __init__(self, nodes: Mapping[str, Node]) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "holdfast_requests", "Requests.", ["method", "route", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "holdfast_request_seconds", "How long requests took.", ["method", "route"], registry=self._registry
        )
        self._commits = Histogram(
            "holdfast_commit_seconds", "From a write to its being durable and signed.", registry=self._registry
        )
        self._registry.register(_Stores(nodes))

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)

    @contextmanager
    def commit(self) -> Iterator[None]:
        """Measure a write."""
        began = time.monotonic()
        yield
        self._commits.observe(time.monotonic() - began)

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self._registry)


class _Stores(Collector):
    """What the nodes' stores say, read when it is asked for, at most once in a while."""

    def __init__(self, nodes: Mapping[str, Node]) -> None:
        self._nodes = nodes
        self._lock = threading.Lock()
        self._read: tuple[float, list[GaugeMetricFamily]] | None = None

    def describe(self) -> list[GaugeMetricFamily]:
        """Nothing is read to find out the names."""
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """See ``Collector``."""
        depth = GaugeMetricFamily("holdfast_writer_queue_depth", "Writes that wait for a turn.", labels=["tenant"])
        for tenant, node in self._nodes.items():
            depth.add_metric([tenant], node.queued())
        yield depth
        with self._lock:
            if self._read is None or time.monotonic() >= self._read[0]:
                self._read = time.monotonic() + _KEEP_S, _read_stores(self._nodes)
            yield from self._read[1]


def _read_stores(nodes: Mapping[str, Node]) -> list[GaugeMetricFamily]:
    lag = GaugeMetricFamily(
        "holdfast_anchor_lag_seconds",
        "How long the newest final anchor has been the newest while checkpoints wait; 0: it covers all of them.",
        labels=["tenant"],
    )
    age = GaugeMetricFamily("holdfast_newest_token_age_seconds", "Of the newest timestamp token.", labels=["tenant"])
    blind = GaugeMetricFamily("holdfast_blind_entries", "Entries that no final anchor covers.", labels=["tenant"])
    conflicts = GaugeMetricFamily("holdfast_open_conflicts", "Documents that wait for a decision.", labels=["tenant"])
    writable = GaugeMetricFamily("holdfast_writable", "Whether the node may be written to.", labels=["tenant"])
    for tenant, node in nodes.items():
        now_ms = node.session.now_ms()
        writable.add_metric([tenant], float(node.standing().writable))
        try:
            health = read_health(node.session, now_ms)
            found = sum(1 for info in node.known() for _ in _open_conflicts(node, info.uid))
        except AuditError:
            continue  # what cannot be read has no number
        if (lag_ms := health.lag.age_ms(now_ms)) is not None:
            lag.add_metric([tenant], lag_ms / 1000)
        if (newest_ms := health.tokens.newest_ms()) is not None:
            age.add_metric([tenant], max(0, now_ms - newest_ms) / 1000)
        blind.add_metric([tenant], health.blind.entries)
        conflicts.add_metric([tenant], found)
    return [lag, age, blind, conflicts, writable]


def _open_conflicts(node: Node, uid: bytes) -> Iterator[object]:
    with node.reading(uid).read() as reader:
        yield from open_conflicts(reader)
