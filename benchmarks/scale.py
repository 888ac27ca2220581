"""Whether cost grows faster than the work: ``python -m benchmarks.scale``.

Three things grow, each alone: the size of a file, the number of a model's versions, and the number of readers
that ask a cold proxy for one file at once. Every measurement has a proxy of its own, started for it, before a
real S3 server that counts what it sends.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import hotstart
from benchmarks.harness.command import main
from benchmarks.harness.folders import REPOSITORY, workplace
from benchmarks.harness.processes import (
    BenchmarkFailed,
    PeakMemory,
    clean_environment,
    cpu_seconds,
    memory_bytes,
)
from benchmarks.harness.profile import MiB, Profile
from benchmarks.harness.publish import REFERENCE, Proxy, publish, serve
from benchmarks.harness.results import Results
from benchmarks.harness.rounds import interleave
from benchmarks.harness.statistics import Interval, exponent, median, spread
from benchmarks.harness.weights import WEIGHTS_FILE, model_folder, tiled
from benchmarks.readers import Load, apply
from hotstart.wire.references import Reference
from hotstart_proxy.origins.urls import open_origin
from hotstart_proxy.publishing.publisher import publish as publish_version
from tests.support.s3 import S3Server

SUMMARY = (
    "What grows with the size of a file, with the number of versions, and with the number of readers of a "
    "cold proxy: time, memory, bytes from the origin."
)

# As the first argument: load one reference in this process, and print seconds and bytes as JSON.
CHILD = "--load"
_MODEL = "org/bench"
_MB = 1_000_000
_OPENS = 20
# An exponent is a fit of noisy figures: one of 1.1 still is "as the work".
_LINEAR = 1.1


@dataclass(frozen=True, slots=True)
class Steps:
    """Something that grows.

    Attributes:
        name: completes "cost by …".
        label: of a step, from its number.
        work: the numbers, ascending.
    """

    name: str
    label: Callable[[int], str]
    work: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Metric:
    """One cost of a step.

    Attributes:
        arm: whose.
        unit: of the figures.
        most: the greatest exponent that is well, or None where a figure alone is judged.
    """

    arm: str
    unit: str
    most: float | None = _LINEAR


Costs = Mapping[Metric, float]

_COLD = Metric("first load, cold proxy", "s")
_WARM = Metric("second load, warm proxy", "s")
_PROXY_MEMORY = Metric("proxy", "MiB of RssAnon + RssShmem at peak", most=None)
_CLIENT_MEMORY = Metric("client, beyond the tensors", "MiB of RssAnon + RssShmem at peak", most=None)
_ORIGIN = Metric("origin bytes of the file's", "× the file", most=None)
_PUBLISH = Metric("publishing one version more", "ms")
_OPEN_NEW = Metric("opening the newest, warm", "ms")
_OPEN_OLD = Metric("opening the oldest, warm", "ms")
_START = Metric("proxy's CPU from start to first open", "CPU s")
_PROXY_IDLE = Metric("proxy after opening", "MiB of RssAnon + RssShmem at peak")
_READERS = Metric("all readers, cold proxy", "s")


def run(profile: Profile, results: Results) -> None:
    """Measure all three, and fit what grows."""
    _sizes(profile, results)
    _versions(profile, results)
    _many_readers(profile, results)


@contextmanager
def _s3_server(folder: Path) -> Iterator[S3Server]:
    with S3Server(folder) as server:
        yield server
        # Nobody needs its data any more, and an orderly end takes seconds.
        server.kill()


# The size of a file


def _sizes(profile: Profile, results: Results) -> None:
    steps = Steps(
        "size",
        lambda size: f"{size // _MB:,} MB",
        profile.pick(
            quick=(16 * _MB, 32 * _MB),
            bench=(100 * _MB, 300 * _MB, 1000 * _MB),
            full=(100 * _MB, 300 * _MB, 1000 * _MB, 3000 * _MB, 8000 * _MB),
        ),
    )
    if not _done(results, steps, [_COLD]):
        costs = {}
        # A size at a time: all origins at once would fill the disk and the page cache.
        for size in steps.work:
            with workplace("scale-s3") as place, _s3_server(place / "s3") as s3:
                weights = tiled(size)
                origin = _publish(weights, place / "model", s3)
                once = partial(_load_twice, weights, origin, s3)
                costs[size] = interleave({"": once}, profile.pick(quick=1, bench=2, full=5))[""]
        _add(results, steps, costs)
    _judge_growth(results, steps, [_COLD, _WARM])
    _judge_peak(results, steps, _PROXY_MEMORY, 200)
    _judge_peak(results, steps, _CLIENT_MEMORY, 64)
    _judge_origin(results, steps)


def _publish(weights: Path, folder: Path, s3: S3Server) -> str:
    s3.create_bucket("models")
    origin = "s3://models/bench"
    publish(model_folder(folder, weights), REFERENCE, origin, environment=s3.environment())
    return origin


def _load_twice(weights: Path, origin: str, s3: S3Server) -> Costs:
    """Load through a proxy that has nothing, and again, each time in a process of its own."""
    size = weights.stat().st_size
    with workplace("scale-proxy") as own, serve(origin, own, environment=s3.environment()) as proxy:
        before = s3.bytes_sent("models")
        with PeakMemory(proxy.pid) as memory:
            cold, _ = _load(proxy)
            sent = s3.bytes_sent("models") - before
            warm, beyond = _load(proxy)
    return {
        _COLD: cold,
        _WARM: warm,
        _PROXY_MEMORY: memory.peak_bytes / MiB,
        _CLIENT_MEMORY: beyond / MiB,
        _ORIGIN: sent / size,
    }


def _load(proxy: Proxy) -> tuple[float, int]:
    """Load in a process of its own; return seconds, and the most bytes that it held beyond the tensors."""
    command = [sys.executable, "-m", "benchmarks.scale", CHILD, f"{REFERENCE}/{WEIGHTS_FILE}"]
    environment = clean_environment({"HOTSTART_PROXY": proxy.unix_url})
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, cwd=REPOSITORY, text=True
    ) as process:
        with PeakMemory(process.pid) as memory:
            printed, failure = process.communicate()
    if process.returncode:
        raise BenchmarkFailed(f"a load failed: {failure.strip().splitlines()[-1]}")
    loaded = json.loads(printed)
    return loaded["seconds"], memory.peak_bytes - loaded["tensor_bytes"]


def _child(reference: str) -> None:
    began = time.perf_counter()
    # The file's own bytes, so that time and origin bytes are of the size and not of how it compresses.
    weights = hotstart.load(reference, framework="numpy", compression="none")
    seconds = time.perf_counter() - began
    size = sum(tensor.nbytes for tensor in weights.values())
    # Long enough to be seen once more with everything loaded.
    time.sleep(0.05)
    print(json.dumps({"seconds": seconds, "tensor_bytes": size}))


# The number of versions


def _versions(profile: Profile, results: Results) -> None:
    work = profile.pick(quick=(1, 10), bench=(1, 10, 100), full=(1, 10, 100, 1000))
    steps = Steps("versions", lambda count: f"{count:,} version{'s' if count > 1 else ''}", work)
    if not _done(results, steps, [_PUBLISH]):
        with workplace("scale-versions") as folder:
            _add(results, steps, _publish_and_open(folder, work, profile.pick(quick=1, bench=3, full=5)))
    _judge_growth(results, steps, [_PUBLISH, _OPEN_NEW, _OPEN_OLD, _START, _PROXY_IDLE])


def _publish_and_open(folder: Path, work: Sequence[int], rounds: int) -> dict[int, list[Costs]]:
    """Publish each number of versions and open some, then time so many more as there are rounds."""
    costs: dict[int, list[Costs]] = {}
    origin, model = folder / "origin", folder / "model"
    origin.mkdir()
    model.mkdir()
    there = 0
    for count in work:
        asyncio.run(_publish_more(origin, model, there, count - there))
        opened = [_open_some(f"file://{origin}", count) for _ in range(rounds)]
        published = asyncio.run(_publish_more(origin, model, count, rounds))
        there = count + rounds
        costs[count] = [
            {_PUBLISH: milliseconds, **others} for milliseconds, others in zip(published, opened, strict=True)
        ]
    return costs


async def _publish_more(origin: Path, model: Path, there: int, more: int) -> list[float]:
    """Publish so many versions beside those that are there; return milliseconds of each."""
    took = []
    async with open_origin(f"file://{origin}", {}) as opened:
        for number in range(there + 1, there + more + 1):
            (model / "config.json").write_text(json.dumps({"version": number, "fill": "x" * 1000}))
            began = time.perf_counter()
            await publish_version(opened, model, Reference(_MODEL, str(number)))
            took.append((time.perf_counter() - began) * 1000)
    return took


def _open_some(origin: str, newest: int) -> Costs:
    """Start a proxy, open the newest and the oldest version, and again once they are known."""
    with workplace("scale-proxy") as own, serve(origin, own) as proxy:
        references = {_OPEN_NEW: f"{_MODEL}@latest", _OPEN_OLD: f"{_MODEL}@1"}
        for reference in references.values():
            hotstart.open(reference, proxy=proxy.unix_url)
        cpu = cpu_seconds(proxy.pid)
        costs = {metric: _open(reference, proxy) for metric, reference in references.items()}
        assert hotstart.open(f"{_MODEL}@latest", proxy=proxy.unix_url).version == str(newest)
        return {**costs, _START: cpu, _PROXY_IDLE: memory_bytes(proxy.pid) / MiB}


def _open(reference: str, proxy: Proxy) -> float:
    took = []
    for _ in range(_OPENS):
        began = time.perf_counter()
        hotstart.open(reference, proxy=proxy.unix_url)
        took.append((time.perf_counter() - began) * 1000)
    return median(took)


# The number of readers


def _many_readers(profile: Profile, results: Results) -> None:
    size = profile.pick(quick=16, bench=64, full=64) * _MB
    work = profile.pick(quick=(1, 16), bench=(1, 10, 100), full=(1, 10, 100, 500))
    label = f"of {size // _MB} MB, cold"
    steps = Steps("readers", lambda count: f"{count:,} reader{'s' if count > 1 else ''} {label}", work)
    if not _done(results, steps, [_READERS]):
        with workplace("scale-s3") as place, _s3_server(place / "s3") as s3:
            weights = tiled(size)
            origin = _publish(weights, place / "model", s3)
            arms = {str(count): partial(_read_cold, count, weights, origin, s3) for count in work}
            taken = interleave(arms, profile.pick(quick=1, bench=3, full=5))
        _add(results, steps, {count: taken[str(count)] for count in work})
    _judge_growth(results, steps, [_READERS])
    _judge_peak(results, steps, _PROXY_MEMORY, 200)
    _judge_origin(results, steps)


def _read_cold(count: int, weights: Path, origin: str, s3: S3Server) -> Costs:
    """Let so many readers read all of a file, at once, from a proxy that has nothing."""
    size = weights.stat().st_size
    with workplace("scale-proxy") as own, serve(origin, own, environment=s3.environment()) as proxy:
        before = s3.bytes_sent("models")
        load = Load(str(proxy.unix), proxy.path(), size, size, 1, count, "each")
        with PeakMemory(proxy.pid) as memory:
            outcome = apply(load)
        sent = s3.bytes_sent("models") - before
    assert outcome.body_bytes == size * count
    return {_READERS: outcome.seconds, _PROXY_MEMORY: memory.peak_bytes / MiB, _ORIGIN: sent / size}


# What becomes of the figures


def _done(results: Results, steps: Steps, metrics: list[Metric]) -> bool:
    return all(
        results.done("scale", steps.label(work), [metric.arm for metric in metrics]) for work in steps.work
    )


def _add(results: Results, steps: Steps, costs: Mapping[int, list[Costs]]) -> None:
    for work, rounds in costs.items():
        for metric in rounds[0]:
            values = [costs[metric] for costs in rounds]
            facts = {"x": work, "x_label": steps.name, "page_cache": _PAGE_CACHE}
            results.add("scale", steps.label(work), metric.arm, values, metric.unit, **facts)


_PAGE_CACHE = "scale: as it comes; published just before, so warm as far as memory reaches"


def _values(results: Results, steps: Steps, metric: Metric) -> list[tuple[float, ...]]:
    found = [results.values("scale", steps.label(work), metric.arm, metric.unit) for work in steps.work]
    return [values for values in found if values is not None]


def _judge_growth(results: Results, steps: Steps, metrics: list[Metric]) -> None:
    """Fit how each cost grows with the work, over all steps and in the worst of them."""
    for metric in metrics:
        assert metric.most is not None
        values = _values(results, steps, metric)
        fits = spread([exponent(steps.work, costs) for costs in zip(*values, strict=True)])
        text = f"{metric.arm}: exponent by {steps.name}"
        results.judge("scale", text, fits, at_most=metric.most)
        medians = [median(costs) for costs in values]
        steepest = max(
            (later / earlier) / (more / less)
            for (earlier, later, less, more) in zip(
                medians, medians[1:], steps.work, steps.work[1:], strict=False
            )
        )
        text = f"{metric.arm}: growth by growth of {steps.name}, steepest step"
        results.judge("scale", text, Interval(steepest, steepest, steepest), at_most=1.25)


def _judge_peak(results: Results, steps: Steps, metric: Metric, most_mebibytes: float) -> None:
    peaks = [value for values in _values(results, steps, metric) for value in values]
    text = f"{metric.arm}: memory, greatest by {steps.name} to {steps.label(steps.work[-1])}"
    results.judge(
        "scale", text, Interval(min(peaks), max(peaks), max(peaks)), at_most=most_mebibytes, unit="MiB"
    )


def _judge_origin(results: Results, steps: Steps) -> None:
    """One copy of the file, and its documents, whatever the work."""
    shares = [value for values in _values(results, steps, _ORIGIN) for value in values]
    text = f"origin bytes of the file's, greatest by {steps.name}"
    results.judge("scale", text, Interval(min(shares), max(shares), max(shares)), at_most=1.01)


if __name__ == "__main__":
    if sys.argv[1:2] == [CHILD]:
        _child(sys.argv[2])
    else:
        sys.exit(main("scale", SUMMARY, run))
