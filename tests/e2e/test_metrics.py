"""Every metric, in a scrape of an installed proxy after a load in which everything happens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from prometheus_client.parser import text_string_to_metric_families

from hotstart_proxy.telemetry.metrics import METRICS
from tests.integration.server.wire import Answer, ask, connected
from tests.support.deadlines import wait_until
from tests.support.load import GAUGES, check_nothing_is_taken
from tests.support.processes import Processes, Proxy
from tests.support.s3 import S3Server

MODEL = "/v1/models/org/bert"
WEIGHTS = "model.safetensors"
READERS = 8

Samples = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


def scraped(proxy: Proxy) -> Samples:
    """Scrape, and return the values by name and labels."""
    status, text = proxy.get("/metrics")
    assert status == 200
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def of_tier(tier: str, **headers: str) -> dict[str, str]:
    """Return headers of a request of that tier."""
    return {"X-Latency-Tier": tier, **headers}


def read_at_once(proxy: Proxy, path: str, headers: Mapping[str, str]) -> list[Answer]:
    """Read a file with several readers that begin at the same moment."""
    barrier = Barrier(READERS)

    def one(_: int) -> Answer:
        barrier.wait()
        return ask(proxy.unix, path, headers)

    with ThreadPoolExecutor(READERS) as workers:
        return list(workers.map(one, range(READERS)))


def leave_midway(proxy: Proxy, path: str) -> None:
    """Begin to read a file, and go away."""
    with connected(proxy.unix, 16 * 1024) as reader:
        reader.request("GET", path)
        reader.head()
        reader.exactly(10_000)


@pytest.mark.timeout(180)
def test_every_metric_after_a_mixed_load(
    processes: Processes, publish: Callable[..., Path], tmp_path: Path
) -> None:
    """After hits, misses, redirects, refusals, flips and faults every metric is there and makes sense."""
    with S3Server(tmp_path / "s3") as server:
        origin = f"s3://{server.create_bucket()}/models"
        environment = server.environment()
        publish("org/bert@6", origin, environment=environment, seed=6)
        folder = publish("org/bert@7", origin, "--alias", "prod", environment=environment, seed=7)
        size = (folder / WEIGHTS).stat().st_size
        proxy = processes.serve(
            origin,
            tmp_path / "store",
            *("--keep-versions", "1", "--alias-ttl", "1s", "--batch-requests", "1"),
            environment=environment,
        )
        mix(proxy, size)
        flip(processes, publish, proxy, origin, environment)
        damage(proxy)
        server.stop()
        lose_the_origin(proxy)
        check_nothing_is_taken(proxy)
        samples = scraped(proxy)
    check_all_are_there(samples)
    check_values(samples, size)


def mix(proxy: Proxy, size: int) -> None:
    """Let readers of all tiers get all kinds of answers."""
    new, old = f"{MODEL}@7/{WEIGHTS}", f"{MODEL}@6/{WEIGHTS}"
    assert {len(answer.body) for answer in read_at_once(proxy, new, of_tier("premium"))} == {size}
    wait_until("the commit", lambda: proxy.metric("hotstart_fills_total", outcome="complete") >= 1)
    assert ask(proxy.port, new, of_tier("premium")).headers["hotstart-tier"] == "standard"
    assert ask(proxy.port, old).status == 307
    passed = of_tier("batch", **{"Hotstart-Redirect": "no"})
    assert ask(proxy.port, old, passed).headers["cache-status"] == "hotstart; fwd=miss"
    for name in ("no/model@1/x", "org/bert@none/x"):
        assert ask(proxy.port, f"/v1/models/{name}").status == 404
    leave_midway(proxy, new)


def flip(
    processes: Processes,
    publish: Callable[..., Path],
    proxy: Proxy,
    origin: str,
    environment: Mapping[str, str],
) -> None:
    """Publish a version that the alias moves to, and wait until the proxy tells of it without being asked."""
    publish("org/bert@8", origin, "--alias", "prod", environment=environment, seed=8)
    wait_until("the flip", lambda: proxy.metric("hotstart_alias_info", alias="prod", version="8"))
    # Version 7 is retired by it, and its blobs go.
    wait_until("evictions", lambda: proxy.metric("hotstart_evictions_total", reason="retired"))


def damage(proxy: Proxy) -> None:
    """Cut a stored blob short, and read it."""
    path = f"{MODEL}@8/{WEIGHTS}"
    wait_until("the new version", lambda: proxy.metric("hotstart_arrival_seconds_count") >= 1)
    content_id = ask(proxy.port, path, method="HEAD").headers["etag"].strip('"')
    blob = proxy.store / "blobs" / content_id[:2] / content_id
    blob.chmod(0o644)
    with blob.open("r+b") as file:
        file.truncate(100)
    assert ask(proxy.port, path).status == 200


def lose_the_origin(proxy: Proxy) -> None:
    """Ask for what is not here, from an origin that is away."""
    headers = {"Hotstart-Redirect": "no"}
    assert ask(proxy.port, f"{MODEL}@6/{WEIGHTS}", headers).status in (502, 503, 504)


def check_all_are_there(samples: Samples) -> None:
    """Find at least one sample of every metric, but of those that only workers and damage on the way make."""
    names = {name for name, _ in samples}
    suffixes = ("", "_count")
    missing = [spec.name for spec in METRICS if not any(spec.name + suffix in names for suffix in suffixes)]
    assert set(missing) <= {"hotstart_workers_replaced_total"}


def check_values(samples: Samples, size: int) -> None:
    """Compare the values with what was done."""

    def value(name: str, **labels: str) -> float:
        return sum(
            count
            for (found, these), count in samples.items()
            if found == f"hotstart_{name}" and labels.items() <= dict(these).items()
        )

    reads = {outcome: value("reads_total", outcome=outcome, model="org/bert") for outcome in OUTCOMES}
    assert reads["miss"] >= 1
    assert reads["miss"] + reads["coalesced"] + reads["hit"] >= READERS + 2
    assert (reads["pass-through"] >= 1, reads["redirect"]) == (True, 1)
    assert value("reads_total", tier="premium") == READERS
    assert value("premium_refused_total") == 1
    assert value("redirects_total") == 1
    assert value("source_bytes_total", **{"from": "redirect"}) == value("redirected_bytes_total") > 0
    assert value("source_bytes_total", **{"from": "disk"}) >= size
    assert value("source_bytes_total", **{"from": "origin"}) == value("origin_bytes_total") >= 2 * size
    assert value("answered_bytes_total", model="org/bert") >= (READERS + 1) * size
    assert value("first_byte_seconds_count", tier="premium") == READERS
    assert value("queue_wait_seconds_count", tier="premium") >= 1
    assert value("fill_seconds_count") == value("fills_total", outcome="complete") >= 2
    assert value("corruptions_total") == 1
    assert value("evicted_bytes_total", reason="retired") >= size
    assert value("cut_answers_total", reason="client") == 1
    assert value("origin_errors_total") >= 1
    assert value("alias_info", alias="prod") == value("alias_info", alias="prod", version="8") == 1
    assert value("alias_info", alias="latest", version="8") == 1
    assert value("store_up", store="disk") == 1
    assert value("store_versions") >= 1
    assert 0 < value("store_used_bytes") <= value("store_budget_bytes")
    assert not any(value(name.removeprefix("hotstart_")) for name in GAUGES)
    models = {dict(labels).get("model", "org/bert") for _, labels in samples}
    assert models == {"org/bert"}, "a name that does not exist has become a label"


OUTCOMES = ("hit", "miss", "coalesced", "pass-through", "redirect")
