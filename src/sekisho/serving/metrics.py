"""What Prometheus sees of the policy server, beside MLServer's own metrics.

The event loop counts in plain integers; the client library's own counters take a lock and a microsecond each.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from itertools import accumulate

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import REGISTRY, Collector

from sekisho.serving.guard import Reason
from sekisho.serving.predictions import PredictionLog
from sekisho.serving.switch import Position

BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.3)  # seconds


class Counts:
    """What the event loop counts."""

    def __init__(self) -> None:
        self.malformed = 0  # requests that no policy could decide
        self.swapped = self.swaps_refused = 0  # releases that came in while serving, and those that may not
        self.verdicts = dict.fromkeys(Reason, 0)  # predictions
        self._buckets = [0] * (len(BUCKETS) + 1)
        self._seconds = 0.0

    def decided(self, seconds: float, verdicts: tuple[Reason, ...]) -> None:
        """Count one answered request and its predictions."""
        self._buckets[bisect_left(BUCKETS, seconds)] += 1
        self._seconds += seconds
        for verdict in verdicts:
            self.verdicts[verdict] += 1

    def collect(self) -> list[Metric]:
        """The counts as Prometheus' families."""
        verdicts = CounterMetricFamily(
            "sekisho_predictions", "Predictions by the guard's verdict", labels=["verdict"]
        )
        for reason, count in self.verdicts.items():
            verdicts.add_metric([str(reason)], count)
        seconds = HistogramMetricFamily(
            "sekisho_decision_seconds",
            "From the decoded request to the logged decision; its count is the answered requests",
        )
        bounds = [*map(str, BUCKETS), "+Inf"]
        seconds.add_metric([], list(zip(bounds, accumulate(self._buckets), strict=True)), self._seconds)
        return [
            verdicts,
            seconds,
            CounterMetricFamily(
                "sekisho_malformed_requests", "Requests that no policy could decide", value=self.malformed
            ),
            CounterMetricFamily(
                "sekisho_releases_swapped", "Releases that came in while serving", value=self.swapped
            ),
            CounterMetricFamily(
                "sekisho_releases_refused",
                "Releases that were to come in while serving and may not",
                value=self.swaps_refused,
            ),
        ]


def collect_log(log: PredictionLog) -> list[Metric]:
    """The prediction log's own counters."""
    return [
        GaugeMetricFamily("sekisho_log_queued", "Predictions not on disk yet", value=log.queued),
        GaugeMetricFamily(
            "sekisho_log_lag_seconds", "Since all predictions of a moment were on disk", value=log.lag
        ),
        CounterMetricFamily("sekisho_log_written", "Predictions on disk", value=log.written),
        CounterMetricFamily("sekisho_log_lost", "Predictions that will never be on disk", value=log.lost),
        CounterMetricFamily("sekisho_log_failed_writes", "Writes that failed", value=log.failed_writes),
    ]


def collect_state(
    releases: list[tuple[str, str, int, str]], switch: Position, breaker_open: bool
) -> list[Metric]:
    """Gauges; ``releases`` are role (current, previous), model, seq and digest of what is resident."""
    info = GaugeMetricFamily(
        "sekisho_release_info", "Releases in memory", labels=["role", "model", "seq", "digest"]
    )
    number = GaugeMetricFamily("sekisho_release_seq", "Their seq", labels=["role", "model"])
    for role, model, seq, digest in releases:
        info.add_metric([role, model, str(seq), digest], 1)
        number.add_metric([role, model], seq)
    stands = GaugeMetricFamily("sekisho_switch", "1 where the kill switch stands", labels=["position"])
    for position in Position:
        stands.add_metric([str(position)], float(position is switch))
    breaker = GaugeMetricFamily("sekisho_breaker_open", "1 while the model rests", value=float(breaker_open))
    return [info, number, stands, breaker]


class ServerCollector(Collector):
    """Asks the server when Prometheus asks."""

    def __init__(self, collect: Callable[[], list[Metric]]) -> None:
        self._collect = collect
        REGISTRY.register(self)

    def close(self) -> None:
        REGISTRY.unregister(self)

    def collect(self) -> list[Metric]:
        return self._collect()
