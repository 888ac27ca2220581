"""The first load of a model that nobody has fetched yet: ``python -m benchmarks.miss``.

S3 is a real S3 server behind a proxy of bytes (shaping.py) that makes it as slow to answer and as narrow a
connection as S3 is. A load through a proxy with an empty store takes turns with direct downloads of the same
object: hotstart's own without a proxy, and boto3's at the best of several settings. Then many readers ask a
cold proxy for the same files at once, and what the origin has sent is counted.

A machine of two cores carries the S3 server, the shaping and both sides of the measurement. So that not its
CPU is what is measured, all connections together have a host's bandwidth where the key says so.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.harness import peers
from benchmarks.harness.command import main
from benchmarks.harness.folders import workplace
from benchmarks.harness.processes import BenchmarkFailed, CpuMeter, PeakMemory, clean_environment
from benchmarks.harness.profile import GiB, MiB, Profile
from benchmarks.harness.publish import REFERENCE, publish, serve
from benchmarks.harness.results import Results
from benchmarks.harness.rounds import interleave
from benchmarks.harness.statistics import Interval, median, paired_ratio_interval
from benchmarks.harness.weights import WEIGHTS_FILE, model_folder, tiled
from benchmarks.shaping import Shape, Shaper, ceiling
from tests.support.s3 import S3Server

__all__ = ["SUMMARY", "Cell", "best", "matrix", "run"]

SUMMARY = "the first load through a cold proxy against the best direct download, and many readers at once"

_NAME = "miss"
_BUCKET = "models"
_ORIGIN = f"s3://{_BUCKET}/published"
_MODEL, _, _VERSION = REFERENCE.partition("@")
_KEY = f"published/{_MODEL}/{_VERSION}/{WEIGHTS_FILE}"
_CONNECTION_RATE = 90e6
# 2.5 Gbit/s: what a small instance has.
_HOST_RATE = 312.5e6
_READERS = 64
_READER_PROCESSES = 4
_MOST_OF_DIRECT = 1.1
# Without the index, the manifest and the heads of the answers, which are small.
_MOST_COPIES = 1.0
_POLLED = "cold proxy, index polled"
_UNKNOWN = "cold proxy, nothing known"
_DIRECT = "hotstart, direct"
_BOTO3 = "boto3, direct"
# Part size in MiB and connections: the default, and what is told to be tried for large objects.
_BOTO3_SETTINGS = ((8, 10), (8, 20), (16, 16), (32, 32))

# Imported before the clock runs, for both: this is about the origin.
_LOAD = """
import json, os, sys, time
import hotstart, hotstart.calls, hotstart.engine.worker, hotstart.loading, hotstart.model
import hotstart.frameworks.numpy, hotstart.sources.origin_s3, hotstart.sources.proxy, numpy
began = time.perf_counter()
found = hotstart.load(sys.argv[1], compression="none")
facts = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time()}
facts["bytes"] = sum(tensor.nbytes for tensor in found.values())
print(json.dumps(facts), flush=True)
os._exit(0)
"""
_DOWNLOAD = """
import json, os, sys, time
import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
bucket, key, path, part, connections = sys.argv[1:]
config = Config(signature_version="s3v4", s3={"addressing_style": "path"}, max_pool_connections=64)
client = boto3.client("s3", config=config)
part, connections = int(part), int(connections)
transfer = TransferConfig(multipart_threshold=part, multipart_chunksize=part, max_concurrency=connections,
                          io_chunksize=1024 * 1024)
began = time.perf_counter()
client.download_file(bucket, key, path, Config=transfer)
facts = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time()}
facts["bytes"] = os.path.getsize(path)
os.unlink(path)
print(json.dumps(facts), flush=True)
os._exit(0)
"""
# So many readers, a thread and a connection each, of the whole file in ranges of 8 MiB.
_READ = """
import http.client, json, sys, threading, time
host, port, path, size, readers = sys.argv[1], *(sys.argv[2:])
size, step, seconds = int(size), 8 << 20, []
def read():
    connection = http.client.HTTPConnection(host, int(port), timeout=300)
    buffer, began, total = memoryview(bytearray(1 << 20)), time.perf_counter(), 0
    for start in range(0, size, step):
        last = min(start + step, size) - 1
        connection.request("GET", path, headers={"Range": f"bytes={start}-{last}", "Hotstart-Redirect": "no"})
        answer = connection.getresponse()
        assert answer.status == 206, answer.status
        while count := answer.readinto(buffer):
            total += count
    assert total == size, total
    seconds.append(time.perf_counter() - began)
threads = [threading.Thread(target=read) for _ in range(int(readers))]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(json.dumps(seconds))
assert len(seconds) == int(readers)
"""


@dataclass(frozen=True, slots=True)
class Cell:
    """One size of file, and how S3 is.

    Attributes:
        readers: 0 for first loads; else so many read at once.
    """

    size_bytes: int
    shape: Shape
    readers: int = 0

    @property
    def key(self) -> str:
        """The cell, as tables show it."""
        size = self.size_bytes
        text = f"{size // GiB} GiB" if size >= GiB else f"{size // MiB} MiB"
        text += f", {self.shape.first_byte_seconds * 1000:g} ms"
        rate = self.shape.link_bytes_per_second
        text += "" if rate is None else f", {rate * 8 / 1e9:g} Gbit/s in all"
        return f"{self.readers} readers, {text}" if self.readers else text


def _shape(first_byte_seconds: float, link: float | None = None) -> Shape:
    return Shape(first_byte_seconds, _CONNECTION_RATE, link)


def matrix(profile: Profile) -> list[Cell]:
    """Return what a profile measures, cells of the same size together."""
    if profile.name == "quick":
        size = 24 * MiB
        return [Cell(size, _shape(0.1)), Cell(size, _shape(0.05), _READERS)]
    if profile.name == "bench":
        size = 256 * MiB
        loads = [Cell(size, _shape(0.05, _HOST_RATE)), Cell(size, _shape(0.2, _HOST_RATE))]
        return [Cell(64 * MiB, _shape(0.1), _READERS), *loads]
    loads = [
        Cell(size, _shape(first, link))
        for size in (GiB, 4 * GiB)
        for first in (0.05, 0.1, 0.2)
        for link in (_HOST_RATE, None)
    ]
    return [Cell(256 * MiB, _shape(first), _READERS) for first in (0.05, 0.2)] + loads


def best(arms: Mapping[str, list[float]]) -> str:
    """Return the arm with the least median."""
    return min(arms, key=lambda arm: median(arms[arm]))


@dataclass(slots=True)
class _Site:
    """An S3 server with one published version, behind a shaper."""

    server: S3Server
    shaper: Shaper
    environment: dict[str, str]
    folder: Path
    proxies: int = 0
    sizes: dict[str, int] = field(default_factory=dict)


@contextmanager
def _site(folder: Path, size_bytes: int) -> Iterator[_Site]:
    """Publish weights to a new S3 server, past the shaper."""
    with S3Server(folder / "s3") as server:
        server.create_bucket(_BUCKET)
        environment = server.environment()
        model = model_folder(folder / "model", tiled(size_bytes))
        publish(model, REFERENCE, _ORIGIN, environment=environment)
        shutil.rmtree(model)
        behind = urlsplit(server.endpoint)
        assert behind.hostname is not None
        assert behind.port is not None
        with Shaper(behind.hostname, behind.port, Shape()) as shaper:
            shaped = {**environment, "AWS_ENDPOINT_URL_S3": shaper.url}
            yield _Site(server, shaper, shaped, folder)


@dataclass(frozen=True, slots=True)
class _Measured:
    """One download.

    Attributes:
        copies: bytes of the object that the origin sent, by its size.
        requests: how many answers it took, all objects together.
        at_once: the most of them that were under way at the same time.
        proxy_cpu_seconds, proxy_peak_bytes: 0 without a proxy.
    """

    seconds: float
    copies: float
    requests: int
    at_once: int
    cpu_seconds: float
    proxy_cpu_seconds: float = 0.0
    proxy_peak_bytes: int = 0


def run(profile: Profile, results: Results) -> None:
    """Measure the cells of a profile, and judge what was measured."""
    cells = matrix(profile)
    with workplace(_NAME) as folder:
        for size in dict.fromkeys(cell.size_bytes for cell in cells):
            wanted = [
                cell
                for cell in cells
                if cell.size_bytes == size
                and not (profile.resumable and results.done(_NAME, cell.key, [_POLLED]))
            ]
            if wanted:
                with _site(folder / str(size), size) as site:
                    for cell in wanted:
                        (_readers if cell.readers else _loads)(cell, site, profile, results)
                shutil.rmtree(folder / str(size))
    if profile.name != "quick":
        rate, cpu = ceiling(16, _shape(0.1), 2.0)
        results.add(
            _NAME, "the shaping proxy alone, 16 connections of 90 MB/s", "passes", [rate / 1e9], "GB/s"
        )
        results.add(_NAME, "the shaping proxy alone, 16 connections of 90 MB/s", "takes", [cpu], "CPU s a GB")
    _judge(cells, results)


# First loads


def _loads(cell: Cell, site: _Site, profile: Profile, results: Results) -> None:
    arms: dict[str, Callable[[], _Measured]] = {
        _DIRECT: partial(_load_direct, site, cell.shape),
        _POLLED: partial(_load_by_proxy, site, cell.shape, polled=True),
        _UNKNOWN: partial(_load_by_proxy, site, cell.shape, polled=False),
    }
    facts: dict[str, Any] = {}
    boto3 = peers.peer("boto3")
    if boto3:
        settings = _BOTO3_SETTINGS[:1] if profile.name == "quick" else _BOTO3_SETTINGS
        tried = {each: _download(site, cell.shape, *each).seconds for each in settings}
        part, connections = min(tried, key=lambda each: tried[each])
        facts = {"part_mib": part, "connections": connections}
        arms[_BOTO3] = partial(_download, site, cell.shape, part, connections)
    else:
        results.skip(_NAME, cell.key, _BOTO3, boto3.reason)
    measured = interleave(arms, profile.rounds)
    for arm, values in measured.items():
        told = facts if arm == _BOTO3 else {}
        told = {**told, "requests": values[0].requests, "at_once": max(value.at_once for value in values)}
        results.add(_NAME, cell.key, arm, [value.seconds for value in values], "s", **told)
        results.add(_NAME, cell.key, arm, [value.copies for value in values], "copies from the origin")
        results.add(_NAME, cell.key, arm, [value.cpu_seconds for value in values], "CPU s of the reader")
        if arm in (_POLLED, _UNKNOWN):
            cpu = [value.proxy_cpu_seconds for value in values]
            results.add(_NAME, cell.key, arm, cpu, "CPU s of the proxy")
            peak = [value.proxy_peak_bytes / MiB for value in values]
            results.add(_NAME, cell.key, arm, peak, "MiB of the proxy at its peak")


def _load_direct(site: _Site, shape: Shape) -> _Measured:
    environment = {**site.environment, "HOTSTART_ORIGIN": _ORIGIN}
    site.shaper.reset(shape)
    return _measured(site, _child([sys.executable, "-c", _LOAD, REFERENCE], environment))


def _load_by_proxy(site: _Site, shape: Shape, *, polled: bool) -> _Measured:
    with _cold_proxy(site, polled=polled) as (pid, url):
        site.shaper.reset(shape)
        with CpuMeter(pid) as cpu, PeakMemory(pid) as memory:
            facts = _child([sys.executable, "-c", _LOAD, REFERENCE], {"HOTSTART_PROXY": url})
        return _measured(site, facts, cpu.seconds, memory.peak_bytes)


@contextmanager
def _cold_proxy(site: _Site, *, polled: bool) -> Iterator[tuple[int, str]]:
    """Run a proxy with an empty store; it starts without delays."""
    site.shaper.reset(Shape())
    site.proxies += 1
    folder = site.folder / f"proxy-{site.proxies}"
    # One look at the index suffices for a benchmark.
    arguments = ("--alias-ttl", "600s")
    with serve(_ORIGIN, folder, *arguments, environment=site.environment) as proxy:
        if polled:
            with urllib.request.urlopen(f"{proxy.url}/v1/models/{_MODEL}") as answer:
                answer.read()
        yield proxy.pid, proxy.url
    shutil.rmtree(folder)


def _download(site: _Site, shape: Shape, part_mib: int, connections: int) -> _Measured:
    site.shaper.reset(shape)
    python, path = str(peers.python()), str(site.folder / "downloaded")
    sizes = [str(part_mib * MiB), str(connections)]
    return _measured(site, _child([python, "-c", _DOWNLOAD, _BUCKET, _KEY, path, *sizes], site.environment))


def _child(command: list[str], environment: Mapping[str, str]) -> dict[str, Any]:
    env = clean_environment(environment)
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchmarkFailed(f"a reader ended with {done.returncode}:\n{done.stderr[-4000:]}")
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


def _measured(
    site: _Site, facts: Mapping[str, Any], proxy_cpu_seconds: float = 0.0, proxy_peak_bytes: int = 0
) -> _Measured:
    return _Measured(
        float(facts["seconds"]),
        _copies(site)[WEIGHTS_FILE],
        len(site.shaper.exchanges()),
        site.shaper.most_at_once,
        float(facts["cpu_seconds"]),
        proxy_cpu_seconds,
        proxy_peak_bytes,
    )


def _copies(site: _Site) -> dict[str, float]:
    """Return how often each representation of the weights went over the link, by its name."""
    sent: dict[str, int] = {}
    for exchange in site.shaper.exchanges():
        name = exchange.path.rpartition("/")[2]
        if name.startswith(WEIGHTS_FILE):
            sent[name] = sent.get(name, 0) + exchange.body_bytes
    for name in sent:
        if name not in site.sizes:
            found = site.server.client.head_object(
                Bucket=_BUCKET, Key=f"{_KEY}{name.removeprefix(WEIGHTS_FILE)}"
            )
            site.sizes[name] = int(found["ContentLength"])
    return {name: count / site.sizes[name] for name, count in sent.items()}


# Many readers


def _readers(cell: Cell, site: _Site, profile: Profile, results: Results) -> None:
    """Have readers read the weights, and as many of their twin, from one cold proxy."""
    seconds: list[float] = []
    copies: dict[str, list[float]] = {}
    counted: list[float] = []
    for _ in range(profile.rounds):
        before = site.server.bytes_sent(_BUCKET)
        with _cold_proxy(site, polled=True) as (pid, url):
            site.shaper.reset(cell.shape)
            files = _files(url)
            with CpuMeter(pid) as cpu, PeakMemory(pid) as memory:
                seconds += _read_at_once(url, files, cell.readers)
            for name, count in _copies(site).items():
                copies.setdefault(name, []).append(count)
            results.add(_NAME, cell.key, _POLLED, [memory.peak_bytes / MiB], "MiB of the proxy at its peak")
            results.add(_NAME, cell.key, _POLLED, [cpu.seconds], "CPU s of the proxy")
        counted.append((site.server.bytes_sent(_BUCKET) - before) / sum(files.values()))
    results.add(_NAME, cell.key, _POLLED, seconds, "s a reader")
    for name, values in copies.items():
        results.add(_NAME, cell.key, name, values, "copies from the origin")
    # With the index and the manifest, whose bytes count as well.
    results.add(_NAME, cell.key, "all, as the S3 server counts", counted, "copies from the origin")


def _files(url: str) -> dict[str, int]:
    """Return the size of each representation of the weights, by its path."""
    with urllib.request.urlopen(f"{url}/v1/models/{REFERENCE}") as answer:
        manifest = json.load(answer)
    (weights,) = (file for file in manifest["files"] if file["path"] == WEIGHTS_FILE)
    twins = {
        f"{WEIGHTS_FILE}.{twin['suffix'].lstrip('.')}": twin["size"] for twin in weights.get("twins", ())
    }
    return {WEIGHTS_FILE: weights["size"], **twins}


def _read_at_once(url: str, files: Mapping[str, int], readers: int) -> list[float]:
    """Have readers in several processes read the files, as many each; return each one's seconds."""
    address = urlsplit(url)
    share = readers // _READER_PROCESSES
    commands = []
    for number in range(_READER_PROCESSES):
        path = list(files)[number % len(files)]
        where = [str(address.hostname), str(address.port), f"/v1/models/{REFERENCE}/{path}"]
        commands.append([sys.executable, "-c", _READ, *where, str(files[path]), str(share)])
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for command in commands
    ]
    seconds: list[float] = []
    for process in running:
        output, errors = process.communicate()
        if process.returncode:
            raise BenchmarkFailed(f"a reader failed:\n{errors.decode(errors='replace')[-4000:]}")
        seconds += json.loads(output)
    return seconds


# Goals


def _judge(cells: list[Cell], results: Results) -> None:
    for cell in cells:
        if cell.readers:
            goal = f"{cell.key}: copies of each file that the origin sends"
            counts = [
                value
                for item in results.of(_NAME)
                if item.key == cell.key and item.unit == "copies from the origin"
                for value in item.values
                if item.arm.startswith(WEIGHTS_FILE)
            ]
            if counts:
                worst = Interval(min(counts), max(counts), max(counts))
                results.judge(_NAME, goal, worst, at_most=_MOST_COPIES)
            else:
                results.leave_open(_NAME, goal, "not measured", at_most=_MOST_COPIES)
            continue
        goal = f"{cell.key}: first load through a cold proxy, of the best direct download"
        direct = {
            arm: list(values)
            for arm in (_DIRECT, _BOTO3)
            if (values := results.values(_NAME, cell.key, arm, "s")) is not None
        }
        through = results.values(_NAME, cell.key, _POLLED, "s")
        if through is None or not direct:
            results.leave_open(_NAME, goal, "not measured", at_most=_MOST_OF_DIRECT)
            continue
        results.judge(
            _NAME, goal, paired_ratio_interval(through, direct[best(direct)]), at_most=_MOST_OF_DIRECT
        )


if __name__ == "__main__":
    raise SystemExit(main(_NAME, SUMMARY, run))
