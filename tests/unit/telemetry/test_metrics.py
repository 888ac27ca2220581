"""The metrics of one proxy: names, labels, and what the events of cache and server do to them."""

from __future__ import annotations

import re

from prometheus_client.parser import text_string_to_metric_families

from hotstart_proxy.core.observer import Observer
from hotstart_proxy.telemetry.metrics import METRICS, Metrics, StoreReading


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    found = {}
    for family in text_string_to_metric_families(metrics.scrape().decode()):
        for sample in family.samples:
            found[sample.name, tuple(sorted(sample.labels.items()))] = sample.value
    return found


def made() -> Metrics:
    metrics = Metrics("1.2.3")
    metrics.watch_store(lambda: StoreReading(10, 100, 2, ready=True))
    return metrics


def test_names() -> None:
    """Names begin hotstart_, counters end _total, and a unit stands where there is one."""
    for spec in METRICS:
        assert re.fullmatch(r"hotstart_[a-z_]+", spec.name)
        assert spec.name.endswith("_total") == (spec.kind == "counter")
        assert spec.help_text.endswith(".")
        assert bool(spec.buckets) == (spec.kind == "histogram")
    assert len({spec.name for spec in METRICS}) == len(METRICS)


def test_every_metric_is_scraped() -> None:
    """What the table lists is what a scrape has, with the same type, and nothing else of ours."""
    families = {
        family.name: family.type for family in text_string_to_metric_families(made().scrape().decode())
    }
    ours = {name: kind for name, kind in families.items() if name.startswith("hotstart_")}
    assert ours == {spec.name.removesuffix("_total"): str(spec.kind) for spec in METRICS}


def test_events_of_the_cache() -> None:
    """Metrics are the cache's observer, and count each event where it belongs."""
    metrics = made()
    observer: Observer = metrics
    observer.fill_started("org/bert", 5)
    observer.fill_started("org/bert", 5)
    observer.fill_ended("org/bert", "complete", 5, 0.5)
    observer.origin_bytes("org/bert", 5)
    observer.answered("org/bert", "hit", 7)
    observer.redirected("org/bert")
    observer.origin_failed("unreachable")
    observer.origin_retried("throttled")
    observer.circuit_opened(True)
    observer.refetched("org/bert")
    observer.healed("org/bert")
    observer.evicted("budget", 9)
    observer.degraded(("the disk is full",))
    model = ("model", "org/bert")
    values = samples(metrics)
    for name, labels, value in (
        ("hotstart_fills_in_progress", (), 1),
        ("hotstart_fills_total", (("outcome", "complete"),), 1),
        ("hotstart_fill_seconds_count", (), 1),
        ("hotstart_origin_bytes_total", (model,), 5),
        ("hotstart_answered_bytes_total", (model, ("source", "hit")), 7),
        ("hotstart_redirects_total", (model,), 1),
        ("hotstart_origin_errors_total", (("kind", "unreachable"),), 1),
        ("hotstart_origin_retries_total", (("reason", "throttled"),), 1),
        ("hotstart_origin_circuit_open", (), 1),
        ("hotstart_refetched_pieces_total", (), 1),
        ("hotstart_corruptions_total", (), 1),
        ("hotstart_evictions_total", (("reason", "budget"),), 1),
        ("hotstart_evicted_bytes_total", (("reason", "budget"),), 9),
        ("hotstart_degraded", (), 1),
        ("hotstart_store_used_bytes", (), 10),
        ("hotstart_store_budget_bytes", (), 100),
        ("hotstart_store_blobs", (), 2),
        ("hotstart_ready", (), 1),
        ("hotstart_build_info", (("version", "1.2.3"),), 1),
    ):
        assert values[name, labels] == value, name
    observer.degraded(())
    observer.circuit_opened(False)
    assert samples(metrics)["hotstart_degraded", ()] == 0
    assert samples(metrics)["hotstart_origin_circuit_open", ()] == 0


def test_events_of_the_server() -> None:
    """Requests are counted by route, status and source, and leave the gauge when they end."""
    metrics = made()
    metrics.request_started()
    metrics.request_started()
    metrics.request_ended("file", 206, "hit")
    metrics.first_byte("hit", 0.001)
    metrics.answer_cut("origin")
    values = samples(metrics)
    assert values["hotstart_requests_in_progress", ()] == 1
    labels = (("route", "file"), ("source", "hit"), ("status", "206"))
    assert values["hotstart_requests_total", labels] == 1
    assert values["hotstart_first_byte_seconds_count", (("source", "hit"),)] == 1
    assert values["hotstart_cut_answers_total", (("reason", "origin"),)] == 1


def test_an_alias_that_moves_leaves_no_old_series() -> None:
    """An alias means one version at a time."""
    metrics = made()
    metrics.alias_resolved("org/bert", "prod", "6")
    metrics.alias_resolved("org/bert", "prod", "7")
    metrics.alias_resolved("org/bert", "prod", "7")
    infos = {
        labels: value for (name, labels), value in samples(metrics).items() if name == "hotstart_alias_info"
    }
    assert infos == {(("alias", "prod"), ("model", "org/bert"), ("version", "7")): 1}


def test_two_proxies_in_one_process_do_not_share_metrics() -> None:
    """Each has a registry of its own."""
    first, second = made(), made()
    first.redirected("org/bert")
    assert ("hotstart_redirects_total", (("model", "org/bert"),)) not in samples(second)
