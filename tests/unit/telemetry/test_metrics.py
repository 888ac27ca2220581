"""The metrics of one proxy: names, labels, and what the events of cache and server do to them."""

from __future__ import annotations

import re

from prometheus_client.parser import text_string_to_metric_families

from hotstart_proxy.core.observer import Observer
from hotstart_proxy.telemetry.load import Load
from hotstart_proxy.telemetry.metrics import METRICS, Metrics, Reading, StoreReading


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    found = {}
    for family in text_string_to_metric_families(metrics.scrape().decode()):
        for sample in family.samples:
            found[sample.name, tuple(sorted(sample.labels.items()))] = sample.value
    return found


def made() -> Metrics:
    metrics = Metrics("1.2.3")
    stores = (StoreReading("disk", 10, 100, 2, 3, True), StoreReading("redis", 9, 8, 7, 3, False))
    metrics.watch_stores(lambda: Reading(True, stores))
    metrics.watch_load(lambda: Load())
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
    observer.store_read("redis", 7)
    observer.read_answered("org/bert", "batch", "coalesced")
    observer.redirected("org/bert", 11)
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
        ("hotstart_fills_total", (("outcome", "complete"),), 1),
        ("hotstart_fill_seconds_count", (), 1),
        ("hotstart_origin_bytes_total", (model,), 5),
        ("hotstart_answered_bytes_total", (model, ("source", "hit")), 7),
        ("hotstart_source_bytes_total", (("from", "redis"),), 7),
        ("hotstart_source_bytes_total", (("from", "origin"),), 5),
        ("hotstart_source_bytes_total", (("from", "redirect"),), 11),
        ("hotstart_store_versions", (("store", "disk"),), 3),
        ("hotstart_store_up", (("store", "disk"),), 1),
        ("hotstart_store_up", (("store", "redis"),), 0),
        ("hotstart_reads_total", (model, ("outcome", "coalesced"), ("tier", "batch")), 1),
        ("hotstart_redirects_total", (model,), 1),
        ("hotstart_redirected_bytes_total", (model,), 11),
        ("hotstart_origin_errors_total", (("kind", "unreachable"),), 1),
        ("hotstart_origin_retries_total", (("reason", "throttled"),), 1),
        ("hotstart_origin_circuit_open", (), 1),
        ("hotstart_refetched_pieces_total", (), 1),
        ("hotstart_corruptions_total", (), 1),
        ("hotstart_evictions_total", (("reason", "budget"),), 1),
        ("hotstart_evicted_bytes_total", (("reason", "budget"),), 9),
        ("hotstart_degraded", (), 1),
        ("hotstart_store_used_bytes", (("store", "disk"),), 10),
        ("hotstart_store_budget_bytes", (("store", "disk"),), 100),
        ("hotstart_store_blobs", (("store", "redis"),), 7),
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
    metrics.first_byte("hit", "premium", 0.001)
    metrics.queue_waited("batch", 2.0)
    metrics.premium_refused()
    metrics.answer_cut("origin")
    values = samples(metrics)
    assert values["hotstart_requests_in_progress", ()] == 1
    labels = (("route", "file"), ("source", "hit"), ("status", "206"))
    assert values["hotstart_requests_total", labels] == 1
    assert values["hotstart_first_byte_seconds_count", (("source", "hit"), ("tier", "premium"))] == 1
    assert values["hotstart_queue_wait_seconds_sum", (("tier", "batch"),)] == 2
    assert values["hotstart_premium_refused_total", ()] == 1
    assert values["hotstart_cut_answers_total", (("reason", "origin"),)] == 1


def alias_infos(metrics: Metrics) -> set[tuple[str, ...]]:
    """Return model, alias and version of every alias, all of which must be 1."""
    infos = {
        labels: value for (name, labels), value in samples(metrics).items() if name == "hotstart_alias_info"
    }
    assert set(infos.values()) <= {1}
    return {(of["model"], of["alias"], of["version"]) for of in map(dict, infos)}


def test_an_alias_that_moves_leaves_no_old_series() -> None:
    """An alias means one version at a time; one that is gone means none."""
    metrics = made()
    metrics.aliases_seen("org/bert", {"prod": "6", "canary": "7"})
    metrics.aliases_seen("org/other", {"prod": "1"})
    metrics.aliases_seen("org/bert", {"prod": "7", "latest": "7"})
    metrics.aliases_seen("org/bert", {"prod": "7", "latest": "7"})
    assert alias_infos(metrics) == {
        ("org/bert", "prod", "7"),
        ("org/bert", "latest", "7"),
        ("org/other", "prod", "1"),
    }
    metrics.aliases_seen("org/bert", {})
    assert alias_infos(metrics) == {("org/other", "prod", "1")}


def test_what_is_in_hand_is_read_at_the_scrape() -> None:
    """The gauges of slots, answers and memory are as fresh as the scrape."""
    metrics = Metrics("1")
    readings = [Load(2, 1, 3, 4, 5, 6, 7), Load()]
    metrics.watch_load(lambda: readings.pop(0))
    names = [
        *("fills_in_progress", "open_answers", "fill_slots_held", "fill_slots_waiting"),
        *("passes", "passes_waiting", "reserved_bytes"),
    ]
    values = samples(metrics)
    assert [values[f"hotstart_{name}", ()] for name in names] == [1, 2, 3, 4, 5, 6, 7]
    values = samples(metrics)
    assert not any(values[f"hotstart_{name}", ()] for name in names)


def test_two_proxies_in_one_process_do_not_share_metrics() -> None:
    """Each has a registry of its own."""
    first, second = made(), made()
    first.redirected("org/bert", 1)
    assert ("hotstart_redirects_total", (("model", "org/bert"),)) not in samples(second)
