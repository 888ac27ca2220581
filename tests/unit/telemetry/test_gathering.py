"""How the metrics of several workers become one set."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from hotstart_proxy.telemetry.gathering import (
    Across,
    Family,
    Sample,
    Snapshot,
    cumulative,
    dump_snapshot,
    merge,
    parse_snapshot,
)
from hotstart_proxy.telemetry.metrics import RULES, Metrics, Reading, StoreReading, render


def one(kind: str, name: str, *samples: Sample) -> Snapshot:
    return (Family(name, kind, "Help.", samples),)


def values(snapshot: Snapshot) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    found = {}
    for family in snapshot:
        for sample in family.samples:
            assert (sample.name, sample.labels) not in found
            found[sample.name, sample.labels] = sample.value
    return found


def alias(version: str, moment: float) -> Sample:
    labels = (("model", "org/bert"), ("alias", "prod"), ("version", version))
    return Sample("hotstart_alias_info", labels, 1, moment)


def test_counters_are_summed_by_series() -> None:
    """Series with the same labels add up; one that a single worker has stays what it is."""
    a, b = (("status", "200"),), (("status", "404"),)
    first = one("counter", "x", Sample("x_total", a, 1), Sample("x_total", b, 2))
    second = one("counter", "x", Sample("x_total", b, 40))
    assert values(merge([first, second], {})) == {("x_total", a): 1, ("x_total", b): 42}


def test_histograms_are_summed_bucket_by_bucket_and_in_order() -> None:
    """Buckets, sum and count add up, and buckets stay in rising order."""
    made = []
    for seconds in (0.001, 0.2, 100.0):
        metrics = Metrics("1")
        metrics.first_byte("hit", "standard", seconds)
        made.append(metrics.snapshot())
    whole = Metrics("1")
    for seconds in (0.001, 0.2, 100.0):
        whole.first_byte("hit", "standard", seconds)
    merged = {family.name: family for family in merge(made, RULES)}
    expected = {family.name: family for family in whole.snapshot()}
    assert merged["hotstart_first_byte_seconds"] == expected["hotstart_first_byte_seconds"]


def test_gauges_follow_their_rules() -> None:
    """Work in progress is summed; figures of the shared store, readiness and builds are told once."""
    snapshots = []
    for used, ready in ((10, False), (30, True)):
        metrics = Metrics("1.2.3")
        reading = Reading(ready, (StoreReading("disk", used, 100, 2, 1, True),))
        metrics.watch_stores(lambda reading=reading: reading)  # type: ignore[misc]
        metrics.request_started()
        snapshots.append(metrics.snapshot())
    merged = values(merge(snapshots, RULES))
    for name, value in (
        ("hotstart_requests_in_progress", 2),
        ("hotstart_ready", 1),
        ("hotstart_degraded", 0),
        ("hotstart_workers", 2),
    ):
        assert merged[name, ()] == value, name
    for name, value in (("used_bytes", 30), ("budget_bytes", 100), ("blobs", 2)):
        assert merged[f"hotstart_store_{name}", (("store", "disk"),)] == value
    assert merged["hotstart_build_info", (("version", "1.2.3"),)] == 1


def test_figures_of_processes() -> None:
    """Memory is summed; descriptors are those of the process nearest to its limit; the start is the first."""
    figures = {
        "process_resident_memory_bytes": (5, 7, 12),
        "process_open_fds": (10, 90, 90),
        "process_max_fds": (1024, 256, 256),
        "process_start_time_seconds": (1000, 2000, 1000),
        "somebody_elses_gauge": (3, 4, 4),
    }
    first, second = (
        tuple(Family(name, "gauge", "", (Sample(name, (), row[i]),)) for name, row in figures.items())
        for i in (0, 1)
    )
    merged = values(merge([first, second], RULES))
    assert merged == {(name, ()): row[2] for name, row in figures.items()}


def test_an_alias_means_one_version() -> None:
    """Of workers that saw an alias move at different times, the one that saw it last is right."""
    rules = {"hotstart_alias_info": Across.LAST}
    old, new = (one("gauge", "hotstart_alias_info", alias(*item)) for item in (("6", 5.0), ("7", 9.0)))
    for order in ((old, new), (new, old), (old, new, old)):
        (family,) = merge(order, rules)
        assert family.samples == (alias("7", 9.0),)


def test_moments_of_aliases_are_those_of_their_last_move() -> None:
    """Being asked again does not make a stale alias newer."""
    moments = iter((1.0, 2.0, 3.0))
    slow, quick = (Metrics("1", lambda: next(moments)) for _ in range(2))
    slow.aliases_seen("org/bert", {"prod": "6"})
    quick.aliases_seen("org/bert", {"prod": "6"})
    quick.aliases_seen("org/bert", {"prod": "7"})
    slow.aliases_seen("org/bert", {"prod": "6"})
    merged = merge([slow.snapshot(), quick.snapshot()], RULES)
    (family,) = [family for family in merged if family.name == "hotstart_alias_info"]
    assert [dict(sample.labels)["version"] for sample in family.samples] == ["7"]


def test_what_stays_of_an_ended_worker() -> None:
    """Counters and histograms stay; gauges speak of now and go."""
    metrics = Metrics("1")
    left = {family.kind for family in cumulative(metrics.snapshot())}
    assert left == {"counter", "histogram"}


def test_nothing_to_merge() -> None:
    """No snapshot makes an empty one."""
    assert merge([], RULES) == ()
    assert render(()) == b""


def test_a_merge_of_one_is_that_one() -> None:
    """One worker's scrape reads the same whether it was gathered or not."""
    metrics = Metrics("1")
    metrics.watch_stores(lambda: Reading(True, (StoreReading("disk", 1, 2, 3, 4, True),)))
    metrics.aliases_seen('org/"bert"\n', {"prod": "7"})
    metrics.request_ended("file", 206, "hit")

    def stable(text: bytes) -> list[bytes]:
        return [line for line in text.splitlines() if b"process_" not in line]

    assert stable(render(merge([metrics.snapshot()], RULES))) == stable(metrics.scrape())


label_sets = st.sampled_from(((), (("x", "1"),), (("x", "2"), ("y", "")))) | st.tuples(
    st.tuples(st.just("x"), st.text(max_size=3))
)


def families(name: str) -> st.SearchStrategy[Family]:
    values = st.dictionaries(label_sets, st.integers(0, 1000), max_size=4)
    return values.map(
        lambda found: Family(
            name, "counter", "Help.", tuple(Sample(f"{name}_total", key, found[key]) for key in found)
        )
    )


snapshots = st.sets(st.sampled_from(("a", "b"))).flatmap(
    lambda names: st.tuples(*(families(name) for name in sorted(names)))
)


@given(st.lists(snapshots, max_size=4), st.lists(snapshots, max_size=4))
def test_merging_in_steps(some: list[Snapshot], others: list[Snapshot]) -> None:
    """Merging a merge with more is merging all at once: what is kept of ended workers loses nothing."""
    steps = merge([merge(some, {}), *others], {})
    assert values(steps) == values(merge([*some, *others], {}))


@given(snapshots)
def test_snapshots_survive_json(snapshot: Snapshot) -> None:
    """What one process dumps another parses to the same."""
    assert parse_snapshot(json.loads(json.dumps(dump_snapshot(snapshot)))) == snapshot


def test_real_snapshots_survive_json() -> None:
    """Infinite bucket bounds and moments of aliases come through."""
    metrics = Metrics("1")
    metrics.first_byte("hit", "standard", 0.1)
    metrics.aliases_seen("org/bert", {"prod": "7"})
    snapshot = metrics.snapshot()
    assert parse_snapshot(json.loads(json.dumps(dump_snapshot(snapshot)))) == snapshot
