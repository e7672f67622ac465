"""What is counted and timed, for Prometheus (`/metrics`)."""

from __future__ import annotations

from collections.abc import Callable

import prometheus_client as prometheus
from prometheus_client.process_collector import ProcessCollector

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
CONTENT_TYPE = prometheus.CONTENT_TYPE_LATEST


class Measures:
    """The measures of one server."""

    def __init__(self, in_progress: Callable[[], float], most: int, batches: tuple[int, ...]):
        """Begins at zero.

        Args:
            in_progress: Gives how many images are in progress.
            most: How many may be.
            batches: The sizes of batches.
        """
        prometheus.disable_created_metrics()
        self.registry = registry = prometheus.CollectorRegistry()
        ProcessCollector(registry=registry)
        self._requests = prometheus.Counter(
            "jtl_requests", "Requests, by their code.", ["route", "method", "code"],
            registry=registry,
        )  # fmt: skip
        self._seconds = prometheus.Histogram(
            "jtl_request_seconds", "From a request's first byte to its answer.", ["route"],
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self._images = prometheus.Counter(
            "jtl_images", "Images, by whether they could be read.", ["outcome"], registry=registry
        )
        self._batches = prometheus.Histogram(
            "jtl_batch_images", "Images that were computed together.", buckets=batches,
            registry=registry,
        )  # fmt: skip
        self._computing = prometheus.Counter(
            "jtl_batch_seconds", "Seconds in which batches were computed.", registry=registry
        )
        for outcome in ("predicted", "unreadable"):
            self._images.labels(outcome)
        prometheus.Gauge(
            "jtl_queue_images", "Images in progress.", registry=registry
        ).set_function(in_progress)  # fmt: skip
        prometheus.Gauge(
            "jtl_queue_limit_images", "Images in progress from which on more are refused.",
            registry=registry,
        ).set(most)  # fmt: skip

    def request(self, route: str, method: str, code: int, seconds: float) -> None:
        self._requests.labels(route, method, str(code)).inc()
        self._seconds.labels(route).observe(seconds)

    def batch(self, size: int, seconds: float) -> None:
        self._batches.observe(size)
        self._computing.inc(seconds)

    def image(self, *, readable: bool) -> None:
        self._images.labels("predicted" if readable else "unreadable").inc()

    def text(self) -> bytes:
        """All of them as Prometheus reads them."""
        return prometheus.generate_latest(self.registry)
