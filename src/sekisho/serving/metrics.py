"""What Prometheus sees of the policy server, beside MLServer's own metrics."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import REGISTRY, Collector

from sekisho.serving.guard import Reason
from sekisho.serving.predictions import PredictionLog

BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.3)  # seconds

MALFORMED = Counter("sekisho_malformed_requests", "Requests for inference that no policy could decide")
SECONDS = Histogram(
    "sekisho_decision_seconds",
    "From the decoded request to the decision; its count is the answered requests",
    buckets=BUCKETS,
)
_VERDICTS = Counter("sekisho_predictions", "Predictions by the guard's verdict", ["verdict"])
VERDICTS = {reason: _VERDICTS.labels(str(reason)) for reason in Reason}
RELEASE = Gauge("sekisho_release_info", "The release being served", ["model", "seq", "digest"])


class LogCollector(Collector):
    """Reads the prediction log's own counters when Prometheus asks."""

    def __init__(self, log: PredictionLog) -> None:
        self._log = log
        REGISTRY.register(self)

    def close(self) -> None:
        REGISTRY.unregister(self)

    def collect(self) -> list[Metric]:
        log = self._log
        return [
            GaugeMetricFamily("sekisho_log_queued", "Predictions not on disk yet", value=log.queued),
            CounterMetricFamily("sekisho_log_written", "Predictions on disk", value=log.written),
            CounterMetricFamily("sekisho_log_lost", "Predictions that will never be on disk", value=log.lost),
            CounterMetricFamily("sekisho_log_failed_writes", "Writes that failed", value=log.failed_writes),
        ]
