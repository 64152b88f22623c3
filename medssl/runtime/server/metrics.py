"""Numbers for Prometheus."""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

_SECONDS = (0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600)


class Metrics:
    """Counters of one server.

    Args:
        counts: Jobs by state, asked for when Prometheus asks.
        free_mb: Free space of the disk.
    """

    def __init__(self, counts: Callable[[], dict[str, int]], free_mb: Callable[[], float]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_State(counts, free_mb))
        self.accepted = Counter("medssl_jobs_accepted", "Jobs accepted", ["source"], registry=self._registry)
        self.finished = Counter("medssl_jobs_finished", "Jobs ended", ["model", "reason"], registry=self._registry)
        self.flagged = Counter(
            "medssl_jobs_flagged", "Jobs done, not to be used", ["model", "flag"], registry=self._registry
        )
        self.refused = Counter("medssl_refused", "Requests and objects refused", ["reason"], registry=self._registry)
        self.instances = Counter("medssl_instances_received", "Objects received by C-STORE", registry=self._registry)
        self.waited = Histogram(
            "medssl_job_wait_seconds", "From acceptance to start", buckets=_SECONDS, registry=self._registry
        )
        self.took = Histogram(
            "medssl_job_run_seconds", "From start to end", ["model"], buckets=_SECONDS, registry=self._registry
        )

    def text(self) -> bytes:
        """What Prometheus reads."""
        return generate_latest(self._registry)


class _State(Collector):
    def __init__(self, counts: Callable[[], dict[str, int]], free_mb: Callable[[], float]) -> None:
        self._counts, self._free_mb = counts, free_mb

    def collect(self) -> Iterator[GaugeMetricFamily]:
        jobs = GaugeMetricFamily("medssl_jobs", "Jobs kept, by state", labels=["state"])
        for state, number in self._counts().items():
            jobs.add_metric([state], number)
        yield jobs
        yield GaugeMetricFamily("medssl_free_disk_mebibytes", "Free space of DATA", value=self._free_mb())
