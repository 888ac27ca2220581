"""What the proxy counts, for Prometheus. Metrics wrap the cache, which knows only its observer interface."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from .gathering import Across, Family, Sample, Snapshot
from .load import Load

__all__ = [
    "METRICS",
    "METRICS_MEDIA_TYPE",
    "RULES",
    "MetricKind",
    "MetricSpec",
    "Metrics",
    "ParentMetrics",
    "Reading",
    "StoreReading",
    "render",
]

T = TypeVar("T")

METRICS_MEDIA_TYPE = CONTENT_TYPE_LATEST

# From a warm hit on the same host (under a millisecond) to a first byte that comes from another continent.
_FIRST_BYTE_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
# From a tokenizer to tens of gigabytes over a thin line.
# From a notified proxy and a tokenizer to one that was away over the night.
_ARRIVAL_BUCKETS = (0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 3600.0, 36000.0)
_FILL_BUCKETS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0)


class MetricKind(StrEnum):
    """Prometheus types."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One metric.

    Attributes:
        name: as scraped; counters end in ``_total``.
        labels: label names.
        help_text: one sentence.
        buckets: upper bounds of a histogram, in its unit.
        across: how the samples of several workers become one; counters and histograms are summed.
    """

    name: str
    kind: MetricKind
    labels: tuple[str, ...]
    help_text: str
    buckets: tuple[float, ...] = ()
    across: Across = Across.SUM


def _counter(name: str, help_text: str, *labels: str) -> MetricSpec:
    return MetricSpec(name, MetricKind.COUNTER, labels, help_text)


def _gauge(name: str, help_text: str, *labels: str, across: Across) -> MetricSpec:
    return MetricSpec(name, MetricKind.GAUGE, labels, help_text, across=across)


REQUESTS = _counter(
    "hotstart_requests_total", "Requests answered; source is none where no model's bytes were sent.",
    "route", "status", "source",
)  # fmt: skip
IN_PROGRESS = _gauge("hotstart_requests_in_progress", "Requests being answered now.", across=Across.SUM)
FIRST_BYTE = MetricSpec(
    "hotstart_first_byte_seconds",
    MetricKind.HISTOGRAM,
    ("source", "tier"),
    "From a request's arrival to its first byte of a model.",
    _FIRST_BYTE_BUCKETS,
)
QUEUE_WAIT = MetricSpec(
    "hotstart_queue_wait_seconds",
    MetricKind.HISTOGRAM,
    ("tier",),
    "What an answer from a fill has waited for piece buffers.",
    _FIRST_BYTE_BUCKETS,
)
PREMIUM_REFUSED = _counter(
    "hotstart_premium_refused_total", "Requests for premium by callers without the right, served as standard."
)
CUT = _counter("hotstart_cut_answers_total", "Answers that broke off after their headers.", "reason")
ANSWERED_BYTES = _counter("hotstart_answered_bytes_total", "Bytes of models handed out.", "source", "model")
SOURCE_BYTES = _counter(
    "hotstart_source_bytes_total", "Bytes by where they came from: a store, the origin, a redirect.", "from"
)
READS = _counter(
    "hotstart_reads_total", "Wishes for bytes of a model, by what became of them.", "model", "tier", "outcome"
)
REDIRECTS = _counter("hotstart_redirects_total", "Readers sent to a pre-signed URL.", "model")
REDIRECTED_BYTES = _counter(
    "hotstart_redirected_bytes_total", "Bytes that redirected readers were sent to fetch elsewhere.", "model"
)
FILLS = _counter("hotstart_fills_total", "Fills that ended.", "outcome")
FILLS_IN_PROGRESS = _gauge(
    "hotstart_fills_in_progress", "Fills that run, or that somebody reads from.", across=Across.SUM
)
OPEN_ANSWERS = _gauge("hotstart_open_answers", "Answers whose bytes are being sent.", across=Across.SUM)
SLOTS_HELD = _gauge("hotstart_fill_slots_held", "Piece buffers in use.", across=Across.SUM)
SLOTS_WAITING = _gauge(
    "hotstart_fill_slots_waiting", "Requests of fills that wait for a piece buffer.", across=Across.SUM
)
PASSES = _gauge("hotstart_passes", "Reads of the origin that are passed on.", across=Across.SUM)
PASSES_WAITING = _gauge(
    "hotstart_passes_waiting", "Readers' requests that wait to be passed on.", across=Across.SUM
)
RESERVED_BYTES = _gauge(
    "hotstart_reserved_bytes", "Memory set aside for piece buffers and what is passed on.", across=Across.SUM
)
FILL_SECONDS = MetricSpec(
    "hotstart_fill_seconds",
    MetricKind.HISTOGRAM,
    (),
    "Duration of complete fills.",
    _FILL_BUCKETS,
)
ORIGIN_BYTES = _counter("hotstart_origin_bytes_total", "Bytes of files that came from the origin.", "model")
ORIGIN_ERRORS = _counter(
    "hotstart_origin_errors_total", "Requests to the origin that ended with an error, after retries.", "kind"
)
ORIGIN_RETRIES = _counter("hotstart_origin_retries_total", "Requests to S3 that were sent again.", "reason")
CIRCUIT_OPEN = _gauge(
    "hotstart_origin_circuit_open",
    "1 while the origin is left alone because it failed again and again.",
    across=Across.MAX,
)
REFETCHES = _counter("hotstart_refetched_pieces_total", "Pieces that came damaged and were fetched again.")
HEALED = _counter(
    "hotstart_corruptions_total",
    "Stored blobs found damaged, or in Redis lacking a chunk, and taken out of use.",
)
VERIFIED_BYTES = _counter(
    "hotstart_verified_bytes_total", "Bytes at rest that a scrub or a verification has read."
)
EVICTIONS = _counter("hotstart_evictions_total", "Blobs removed from the store.", "reason")
EVICTED_BYTES = _counter("hotstart_evicted_bytes_total", "Bytes of blobs removed from the store.", "reason")
DEGRADED = _gauge(
    "hotstart_degraded", "1 while something does not work that the proxy can do without.", across=Across.MAX
)
READY = _gauge(
    "hotstart_ready",
    "1 while the proxy can serve or redirect, has what --ready-when names, and is not draining.",
    across=Across.MAX,
)
STORE_USED = _gauge(
    "hotstart_store_used_bytes", "Bytes in the store, running fills included.", "store", across=Across.MAX
)
STORE_BUDGET = _gauge(
    "hotstart_store_budget_bytes", "Most bytes that the store may use.", "store", across=Across.MAX
)
STORE_VERSIONS = _gauge(
    "hotstart_store_versions", "Versions of which something is in the store.", "store", across=Across.MAX
)
STORE_UP = _gauge("hotstart_store_up", "1 while all of the store works.", "store", across=Across.MIN)
STORE_BLOBS = _gauge("hotstart_store_blobs", "Complete blobs in the store.", "store", across=Across.MAX)
ALIAS_INFO = _gauge(
    "hotstart_alias_info", "1 for the version that an alias means, as the index was last seen.",
    "model", "alias", "version", across=Across.LAST,
)  # fmt: skip
BUILD_INFO = _gauge("hotstart_build_info", "1, with the version of hotstart.", "version", across=Across.MAX)
ARRIVALS = _counter(
    "hotstart_arrivals_total", "Versions that were published, or that an alias moved to, and are to be warm.",
    "learned",
)  # fmt: skip
ARRIVAL_SECONDS = MetricSpec(
    "hotstart_arrival_seconds",
    MetricKind.HISTOGRAM,
    (),
    "From the publishing of a version until it was warm.",
    _ARRIVAL_BUCKETS,
)
WARM_FAILURES = _counter("hotstart_warm_failures_total", "Fills of arrived versions that failed.")
READY_WHEN_MISSING = _gauge(
    "hotstart_ready_when_missing",
    "References of --ready-when that are not here; late is true once readiness waits no longer.",
    "late", across=Across.MAX,
)  # fmt: skip
WORKERS = _gauge("hotstart_workers", "Workers whose figures this scrape has.", across=Across.SUM)
REPLACED = _counter("hotstart_workers_replaced_total", "Workers that ended unasked and were started again.")

METRICS: tuple[MetricSpec, ...] = (
    REQUESTS,
    IN_PROGRESS,
    FIRST_BYTE,
    QUEUE_WAIT,
    PREMIUM_REFUSED,
    CUT,
    ANSWERED_BYTES,
    SOURCE_BYTES,
    READS,
    REDIRECTS,
    REDIRECTED_BYTES,
    FILLS,
    FILLS_IN_PROGRESS,
    OPEN_ANSWERS,
    SLOTS_HELD,
    SLOTS_WAITING,
    PASSES,
    PASSES_WAITING,
    RESERVED_BYTES,
    FILL_SECONDS,
    ORIGIN_BYTES,
    ORIGIN_ERRORS,
    ORIGIN_RETRIES,
    CIRCUIT_OPEN,
    REFETCHES,
    HEALED,
    VERIFIED_BYTES,
    EVICTIONS,
    EVICTED_BYTES,
    DEGRADED,
    READY,
    STORE_USED,
    STORE_BUDGET,
    STORE_BLOBS,
    STORE_VERSIONS,
    STORE_UP,
    ALIAS_INFO,
    BUILD_INFO,
    ARRIVALS,
    ARRIVAL_SECONDS,
    WARM_FAILURES,
    READY_WHEN_MISSING,
    WORKERS,
    REPLACED,
)
RULES = {spec.name: spec.across for spec in METRICS}


@dataclass(frozen=True, slots=True)
class StoreReading:
    """One store's sums at the moment of a scrape.

    Attributes:
        store: its label.
        versions: of which something is in it.
        is_up: all of it works, as far as it knows.
    """

    store: str
    used_bytes: int
    budget_bytes: int
    blobs: int
    versions: int
    is_up: bool


@dataclass(frozen=True, slots=True)
class Reading:
    """What is asked for when there is a scrape.

    Attributes:
        ready: the proxy can serve or redirect and is not draining.
        stores: from the top level down.
    """

    ready: bool
    stores: tuple[StoreReading, ...]


class _StoreCollector(Collector):
    """Reads the stores when it is scraped, so that the figures are never old."""

    def __init__(self, read: Callable[[], Reading]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        reading = self._read()
        yield GaugeMetricFamily(READY.name, READY.help_text, value=int(reading.ready))
        families = [
            GaugeMetricFamily(spec.name, spec.help_text, labels=spec.labels)
            for spec in (STORE_USED, STORE_BUDGET, STORE_BLOBS, STORE_VERSIONS, STORE_UP)
        ]
        for item in reading.stores:
            values = (item.used_bytes, item.budget_bytes, item.blobs, item.versions, int(item.is_up))
            for family, value in zip(families, values, strict=True):
                family.add_metric([item.store], value)
        yield from families


class _LoadCollector(Collector):
    """Reads what the caches have in hand when it is scraped."""

    def __init__(self, read: Callable[[], Load]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        reading = self._read()
        for spec, value in (
            (FILLS_IN_PROGRESS, reading.fills),
            (OPEN_ANSWERS, reading.bodies),
            (SLOTS_HELD, reading.slots_held),
            (SLOTS_WAITING, reading.slots_waiting),
            (PASSES, reading.passes),
            (PASSES_WAITING, reading.passes_waiting),
            (RESERVED_BYTES, reading.reserved_bytes),
        ):
            yield GaugeMetricFamily(spec.name, spec.help_text, value=value)


class _GatheredCollector(Collector):
    """Gives the families of a snapshot."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterable[Metric]:
        for family in self._snapshot:
            metric = Metric(family.name, family.help_text, family.kind)
            for sample in family.samples:
                metric.add_sample(sample.name, dict(sample.labels), sample.value)
            yield metric


def render(snapshot: Snapshot) -> bytes:
    """Return a snapshot in Prometheus's text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_GatheredCollector(snapshot))
    return generate_latest(registry)


def _family(metric: Metric, moments: Mapping[tuple[str, ...], float]) -> Family:
    samples = (
        Sample(
            item.name, tuple(item.labels.items()), item.value, moments.get(tuple(item.labels.values()), 0.0)
        )
        for item in metric.samples
    )
    return Family(metric.name, metric.type, metric.documentation, tuple(samples))


def _registry() -> CollectorRegistry:
    # A creation time beside every counter would double what is scraped, and nothing reads it.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=registry)
    return registry


class ParentMetrics:
    """What the parent of several workers adds to their metrics."""

    def __init__(self) -> None:
        self._registry = _registry()
        self._replaced = Counter(REPLACED.name, REPLACED.help_text, registry=self._registry)

    def replaced(self) -> None:
        """A worker ended unasked and is started again."""
        self._replaced.inc()

    def snapshot(self) -> Snapshot:
        """Return them for a merge with those of the workers."""
        return tuple(_family(metric, {}) for metric in self._registry.collect())


def _remembered(labels: Callable[..., T]) -> Callable[..., T]:
    return lru_cache(maxsize=512)(labels)


class Metrics:
    """All metrics of one proxy, in a registry of their own. Is the cache's observer."""

    def __init__(self, version: str, now: Callable[[], float] = time.monotonic) -> None:
        """Make them, all at 0.

        Args:
            version: of hotstart.
            now: seconds of a clock that all workers of a proxy share.
        """
        self._now = now
        self.registry = _registry()
        self._requests = self._make_counter(REQUESTS)
        self._in_progress = self._make_gauge(IN_PROGRESS)
        self._first_byte = self._make_histogram(FIRST_BYTE)
        self._queue_wait = self._make_histogram(QUEUE_WAIT)
        self._premium_refused = self._make_counter(PREMIUM_REFUSED)
        self._cut = self._make_counter(CUT)
        self._answered = self._make_counter(ANSWERED_BYTES)
        self._source_bytes = self._make_counter(SOURCE_BYTES)
        self._reads = self._make_counter(READS)
        self._redirects = self._make_counter(REDIRECTS)
        self._redirected_bytes = self._make_counter(REDIRECTED_BYTES)
        self._fills = self._make_counter(FILLS)
        self._fill_seconds = self._make_histogram(FILL_SECONDS)
        self._origin_bytes = self._make_counter(ORIGIN_BYTES)
        self._origin_errors = self._make_counter(ORIGIN_ERRORS)
        self._origin_retries = self._make_counter(ORIGIN_RETRIES)
        self._circuit_open = self._make_gauge(CIRCUIT_OPEN)
        self._refetches = self._make_counter(REFETCHES)
        self._healed = self._make_counter(HEALED)
        self._verified_bytes = self._make_counter(VERIFIED_BYTES)
        self._evictions = self._make_counter(EVICTIONS)
        self._evicted_bytes = self._make_counter(EVICTED_BYTES)
        self._degraded = self._make_gauge(DEGRADED)
        self._alias_info = self._make_gauge(ALIAS_INFO)
        self._aliases: dict[str, dict[str, str]] = {}
        self._alias_moments: dict[tuple[str, ...], float] = {}
        self._arrivals = self._make_counter(ARRIVALS)
        self._arrival_seconds = self._make_histogram(ARRIVAL_SECONDS)
        self._warm_failures = self._make_counter(WARM_FAILURES)
        self._ready_when_missing = self._make_gauge(READY_WHEN_MISSING)
        self._make_gauge(BUILD_INFO).labels(version).set(1)
        self._make_gauge(WORKERS).set(1)
        self._make_counter(REPLACED)
        # What every request tells: looking a child up by its labels costs more than counting.
        self._requests_of = _remembered(self._requests.labels)
        self._first_byte_of = _remembered(self._first_byte.labels)
        self._answered_of = _remembered(self._answered.labels)
        self._source_bytes_of = _remembered(self._source_bytes.labels)
        self._reads_of = _remembered(self._reads.labels)

    def _make_counter(self, spec: MetricSpec) -> Counter:
        return Counter(spec.name, spec.help_text, spec.labels, registry=self.registry)

    def _make_gauge(self, spec: MetricSpec) -> Gauge:
        return Gauge(spec.name, spec.help_text, spec.labels, registry=self.registry)

    def _make_histogram(self, spec: MetricSpec) -> Histogram:
        return Histogram(spec.name, spec.help_text, spec.labels, registry=self.registry, buckets=spec.buckets)

    def watch_stores(self, read: Callable[[], Reading]) -> None:
        """Ask read for the stores' figures at every scrape; call once."""
        self.registry.register(_StoreCollector(read))

    def watch_load(self, read: Callable[[], Load]) -> None:
        """Ask read what the caches have in hand at every scrape; call once."""
        self.registry.register(_LoadCollector(read))

    def scrape(self) -> bytes:
        """Return all metrics in Prometheus's text format."""
        return generate_latest(self.registry)

    def snapshot(self) -> Snapshot:
        """Return all metrics for a merge with those of other workers."""
        moments = {ALIAS_INFO.name: self._alias_moments}
        return tuple(_family(metric, moments.get(metric.name, {})) for metric in self.registry.collect())

    # What the server tells.

    def request_started(self) -> None:
        """A request's head has arrived."""
        self._in_progress.inc()

    def request_ended(self, route: str, status: int, source: str | None) -> None:
        """A request is answered, or its connection is gone."""
        self._in_progress.dec()
        self._requests_of(route, str(status), source or "none").inc()

    def first_byte(self, source: str, tier: str, seconds: float) -> None:
        """The first byte of a model was sent."""
        self._first_byte_of(source, tier).observe(seconds)

    def queue_waited(self, tier: str, seconds: float) -> None:
        """An answer from a fill is over, for which so long was waited for piece buffers."""
        self._queue_wait.labels(tier).observe(seconds)

    def premium_refused(self) -> None:
        """A request asked for premium without the right to it."""
        self._premium_refused.inc()

    def answer_cut(self, reason: str) -> None:
        """An answer broke off after its headers were sent."""
        self._cut.labels(reason).inc()

    # What the cache tells: its observer interface.

    def fill_started(self, model: str, size_bytes: int) -> None:
        """Only its end is counted."""

    def fill_ended(self, model: str, outcome: str, fetched_bytes: int, seconds: float) -> None:
        """A fill is over."""
        self._fills.labels(outcome).inc()
        if outcome == "complete":
            self._fill_seconds.observe(seconds)

    def origin_bytes(self, model: str, count: int) -> None:
        """Bytes arrived from the origin."""
        self._origin_bytes.labels(model).inc(count)
        self._source_bytes_of("origin").inc(count)

    def answered(self, model: str, source: str, count: int) -> None:
        """Bytes were handed out."""
        self._answered_of(source, model).inc(count)

    def store_read(self, kind: str, count: int) -> None:
        """Bytes were handed out by a store."""
        self._source_bytes_of(kind).inc(count)

    def read_answered(self, model: str, tier: str, outcome: str) -> None:
        """A reader's wish for bytes has an answer."""
        self._reads_of(model, tier, outcome).inc()

    def redirected(self, model: str, count: int) -> None:
        """A reader was sent to a pre-signed URL."""
        self._redirects.labels(model).inc()
        self._redirected_bytes.labels(model).inc(count)
        self._source_bytes_of("redirect").inc(count)

    def aliases_seen(self, model: str, aliases: Mapping[str, str]) -> None:
        """The aliases of a model mean these versions; what they meant before is forgotten."""
        before = self._aliases.get(model, {})
        for alias, version in before.items():
            if aliases.get(alias) != version:
                self._alias_info.remove(model, alias, version)
                del self._alias_moments[model, alias, version]
        for alias, version in aliases.items():
            if before.get(alias) != version:
                self._alias_moments[model, alias, version] = self._now()
                self._alias_info.labels(model, alias, version).set(1)
        self._aliases[model] = dict(aliases)

    def origin_retried(self, reason: str) -> None:
        """A request to the origin is sent again."""
        self._origin_retries.labels(reason).inc()

    def origin_failed(self, kind: str) -> None:
        """A request to the origin ended with an error."""
        self._origin_errors.labels(kind).inc()

    def circuit_opened(self, is_open: bool) -> None:
        """The origin is left alone, or no longer."""
        self._circuit_open.set(int(is_open))

    def refetched(self, model: str) -> None:
        """A piece arrived damaged."""
        self._refetches.inc()

    def healed(self, model: str) -> None:
        """A damaged blob was removed."""
        self._healed.inc()

    def verified(self, count: int) -> None:
        """Bytes at rest were read."""
        self._verified_bytes.inc(count)

    def evicted(self, reason: str, count: int) -> None:
        """A blob was removed."""
        self._evictions.labels(reason).inc()
        self._evicted_bytes.labels(reason).inc(count)

    def degraded(self, reasons: tuple[str, ...]) -> None:
        """What does not work has changed."""
        self._degraded.set(1 if reasons else 0)

    # What is filled before anyone asks tells.

    def version_arrived(self, model: str, learned: str) -> None:
        """A version is to be warm."""
        self._arrivals.labels(learned).inc()

    def version_warmed(self, model: str, seconds: float) -> None:
        """A new version is warm, so long after its publishing."""
        self._arrival_seconds.observe(seconds)

    def warm_failed(self, model: str) -> None:
        """The fill of an arrived version failed."""
        self._warm_failures.inc()

    def awaited(self, missing: int, *, late: bool) -> None:
        """So many references that readiness waits for, or has waited for, are not here."""
        self._ready_when_missing.labels("false").set(0 if late else missing)
        self._ready_when_missing.labels("true").set(missing if late else 0)
