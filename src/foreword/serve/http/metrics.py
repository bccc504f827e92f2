"""What Prometheus is told. Knows prompts by their key only, and no more of them than it can tell apart.

Names and shapes follow vLLM's, under a prefix of our own.
"""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.registry import Collector

from foreword.serve.engines.seam import Finished, Stats

OTHER = "other"
FIRST = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0)
BETWEEN = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5)
WHOLE = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0, 120.0)
BATCH = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters of one server. `stats` tells how its engine stands; at most `labels` prompts are told apart."""

    def __init__(self, stats: Callable[[], Stats], labels: int) -> None:
        self._stats, self._most = stats, labels
        self._labels: set[str] = set()
        self._running: dict[str, int] = {}
        self._leaving: set[str] = set()
        """Labels that are forgotten as soon as nothing runs under them."""
        self.registry = registry = CollectorRegistry()
        prompt = ("prompt",)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"foreword:{name}", text, prompt, registry=registry, buckets=buckets)

        def counter(name: str, text: str, labels: tuple[str, ...] = prompt) -> Counter:
            return Counter(f"foreword:{name}", text, labels, registry=registry)

        self._first = histogram("time_to_first_token_seconds", "From a request to its first token.", FIRST)
        self._between = histogram("inter_token_latency_seconds", "Between two tokens of an answer.", BETWEEN)
        self._whole = histogram("e2e_request_latency_seconds", "From a request to its end.", WHOLE)
        self._batch = histogram("batch_size", "Rows in the step in which a row ended.", BATCH)
        self._read = counter("prompt_tokens", "Tokens read, virtual ones and shared prefixes counted.")
        self._cached = counter("prompt_tokens_cached", "Those of them that stood in a prefix cache.")
        self._hits = counter("request_prefix_cache_hits", "Requests whose shared prefix was cached.")
        self._written = counter("generation_tokens", "Tokens written.")
        self._ended = counter("request_success", "Requests by how they ended.", ("prompt", "finished_reason"))
        self._errors = counter("request_errors", "Requests refused or failed, by HTTP status.", ("prompt", "status"))
        registry.register(_Engine(self))

    def label(self, key: str) -> str:
        """`key`, or `other` where there are too many."""
        self._leaving.discard(key)
        if key not in self._labels:
            if len(self._labels) >= self._most:
                return OTHER
            self._labels.add(key)
        return key

    def began(self, key: str) -> str:
        """A request is under way; the label under which to tell the rest of it."""
        label = self.label(key)
        self._running[label] = self._running.get(label, 0) + 1
        return label

    def first(self, label: str, seconds: float) -> None:
        """Its first token has come."""
        self._first.labels(label).observe(seconds)

    def next(self, label: str, seconds: float) -> None:
        """Another token has come."""
        self._between.labels(label).observe(seconds)

    def row(self, label: str, finished: Finished) -> None:
        """One of its rows has ended."""
        self._read.labels(label).inc(finished.prompt_tokens)
        self._cached.labels(label).inc(finished.cached_tokens)
        self._hits.labels(label).inc(finished.cached_tokens > 0)
        self._written.labels(label).inc(finished.completion_tokens)
        self._batch.labels(label).observe(max(1, self._stats().last_rows))
        self._ended.labels(label, finished.reason).inc()

    def ended(self, label: str, seconds: float) -> None:
        """The whole request has ended."""
        self._running[label] -= 1
        self._whole.labels(label).observe(seconds)
        if label in self._leaving:
            self.forget(label)

    def refused(self, key: str | None, status: int) -> None:
        """A request got an error; `key` is None where it reached no prompt."""
        known = key is None or key in self._labels  # it may have left while it ran: it must not come back
        self._errors.labels((key or "") if known else OTHER, str(status)).inc()

    def forget(self, key: str) -> None:
        """Drop what was counted of a version that has left, and give its label free, once nothing runs under it."""
        if key not in self._labels:
            return
        if self._running.get(key):
            self._leaving.add(key)
            return
        self._leaving.discard(key)
        self._labels.discard(key)
        self._running.pop(key, None)
        for metric in vars(self).values():
            if isinstance(metric, MetricWrapperBase):
                metric.remove_by_labels({"prompt": key})

    def text(self) -> bytes:
        """The page that Prometheus reads."""
        return generate_latest(self.registry)

    def collect(self) -> Iterator[Metric]:
        """What is looked up when it is asked for."""
        stats = self._stats()
        running = GaugeMetricFamily("foreword:requests_in_flight", "Requests under way.", labels=["prompt"])
        for label, number in self._running.items():
            running.add_metric([label], number)
        yield running
        share = stats.kv_used / stats.kv_total if stats.kv_total else 0.0
        for name, text, gauge in (
            ("num_requests_running", "Rows in the batch.", stats.running),
            ("num_requests_waiting", "Rows in the queue.", stats.waiting),
            ("kv_cache_usage_perc", "Share of the KV cache in use, 0 to 1.", share),
            ("kv_cache_bytes", "Bytes of KV cache in use.", stats.kv_used),
            ("prefix_caches", "Shared prefixes that are cached.", stats.prefix_caches),
            ("prefix_cache_bytes", "Bytes of prefix caches.", stats.prefix_cache_bytes),
        ):
            yield GaugeMetricFamily(f"foreword:{name}", text, value=gauge)
        for name, text, count in (
            ("prefix_cache_hits", "Shared prefixes found in the cache.", stats.prefix_cache_hits),
            ("prefix_cache_misses", "Shared prefixes computed.", stats.prefix_cache_misses),
            ("engine_steps", "Times that the model has run.", stats.steps),
            ("engine_step_rows", "Rows that wrote a token, over all steps.", stats.step_rows),
            ("engine_errors", "Rows that the model failed on.", stats.errors),
        ):
            yield CounterMetricFamily(f"foreword:{name}", text, value=count)


class _Engine(Collector):
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        return self._metrics.collect()
