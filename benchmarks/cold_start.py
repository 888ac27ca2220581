"""Whole cold starts, from exec to the first inference: ``python -m benchmarks.cold_start``.

A handler is a process of its own that imports torch, gets the weights of a sentence encoder, and embeds two
sentences with them. It is started with S3 as far away as S3 is (shaping.py) and boto3, or with a hotstart
proxy that has the weights, near or over a link. Three moments are told: when its imports were done, when it
had the weights, and when it had its first answer, all from the moment before exec.
"""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy
from safetensors.numpy import load_file, save_file

from benchmarks.harness import pagecache, peers
from benchmarks.harness.command import main
from benchmarks.harness.folders import REPOSITORY, cache_folder, workplace
from benchmarks.harness.processes import BenchmarkFailed, clean_environment
from benchmarks.harness.profile import Profile
from benchmarks.harness.publish import REFERENCE, Proxy, publish, serve, warm
from benchmarks.harness.results import Results
from benchmarks.harness.rounds import interleave
from benchmarks.harness.statistics import Interval, paired_ratio_interval, spread
from benchmarks.harness.weights import minilm, model_folder
from benchmarks.links import LinkUnavailable, link
from benchmarks.shaping import Shape, Shaper
from tests.support.s3 import S3Server

__all__ = ["SUMMARY", "Model", "deep_minilm", "models", "run"]

SUMMARY = "cold starts from exec to the first inference on real weights: boto3 and torch.load, or hotstart"

_NAME = "cold_start"
_BUCKET, _KEY = "models", "encoder.pt"
_GIGABIT = 1_000_000_000
_S3 = Shape(0.1, 90e6)
# 203 MB: the real model has 6.
_DEEP_LAYERS = 22
# Part of a cached file's name: a change of how it is made must change it.
_MAKE = "1"
_NOISE = 0.01

_FLOOR = "no weights at all (floor)"
_BOTO3 = "boto3 + torch.load"
_SHARED, _UNIX, _TCP = "hotstart, shared volume", "hotstart, Unix socket", "hotstart, TCP"
_OVER_LINK = "hotstart, 1 Gbit/s"
_INFERRED = "s from exec to the first inference"
_LOADED = "s of loading alone"
_UNITS = (
    ("s from exec to imports done", "imported"),
    ("s from exec to weights", "weights"),
    (_INFERRED, "inferred"),
)
# What others have published of functions that moved their models: 2.8 s of download became 0.15 s for a model
# under 100 MB, and 6.5 s became 1.8 s for one of 200 MB with Safetensors and zstd.
_SMALL_SECONDS, _LARGE_SECONDS = 0.15, 1.8


@dataclass(frozen=True, slots=True)
class Model:
    """An encoder.

    Attributes:
        layers: copies of the real model's six, with noise, beyond those.
    """

    name: str
    layers: int


_SMALL, _LARGE = Model("MiniLM, 91 MB", 6), Model("MiniLM with 22 layers, 203 MB", _DEEP_LAYERS)


def models(profile: Profile) -> list[Model]:
    """Return what a profile measures."""
    return profile.pick(quick=[_SMALL], bench=[_SMALL, _LARGE], full=[_SMALL, _LARGE])


def deep_minilm(layers: int) -> Path:
    """Return the weights of the real model, or of one with more layers like its own, made once."""
    if layers == _SMALL.layers:
        return minilm()
    path = cache_folder() / f"minilm-{layers}-layers-{_MAKE}.safetensors"
    if not path.exists():
        tensors = load_file(minilm())
        chance = numpy.random.default_rng(layers)
        for layer in range(_SMALL.layers, layers):
            begin = f"encoder.layer.{layer % _SMALL.layers}."
            for name in [name for name in tensors if name.startswith(begin)]:
                noise = 1 + _NOISE * chance.standard_normal(tensors[name].shape, numpy.float32)
                tensors[f"encoder.layer.{layer}.{name.removeprefix(begin)}"] = tensors[name] * noise
        temporary = path.with_suffix(".tmp")
        save_file(tensors, temporary, {"format": "pt"})
        temporary.replace(path)
    return path


def run(profile: Profile, results: Results) -> None:
    """Measure the models of a profile, and judge what was measured."""
    with workplace(_NAME) as folder:
        for model in models(profile):
            if not (profile.resumable and results.done(_NAME, model.name, [_SHARED, _UNIX, _TCP])):
                place = folder / str(model.layers)
                _measure(model, place, profile, results)
                shutil.rmtree(place)
    _judge(profile, results)


Handler = Callable[[], dict[str, Any]]


def _measure(model: Model, folder: Path, profile: Profile, results: Results) -> None:
    weights = deep_minilm(model.layers)
    folder.mkdir()
    with ExitStack() as stack:
        arms: dict[str, Handler] = {_FLOOR: partial(_start, sys.executable, "no_weights", [str(weights)], {})}
        if boto3 := peers.peer("boto3"):
            environment = stack.enter_context(_pickled_on_s3(weights, folder))
            arms[_BOTO3] = partial(_start_boto3, environment, folder)
        else:
            results.skip(_NAME, model.name, _BOTO3, boto3.reason)
        origin = f"file://{folder}/origin"
        publish(model_folder(folder / "model", weights), REFERENCE, origin)
        near = stack.enter_context(_warm_proxy(origin, folder / "near"))
        arms[_SHARED] = _hotstart({"HOTSTART_PROXY": near.unix_url, "HOTSTART_SHARED_DIR": str(near.store)})
        arms[_TCP] = _hotstart({"HOTSTART_PROXY": near.url})
        if profile.name != "quick":
            arms[_UNIX] = _hotstart({"HOTSTART_PROXY": near.unix_url})
            try:
                arms[_OVER_LINK] = stack.enter_context(_over_link(origin, folder / "far"))
            except LinkUnavailable as error:
                results.skip(_NAME, model.name, _OVER_LINK, str(error))
            for start in arms.values():
                # Reads the files of the packages once, and compiles what nobody has compiled yet.
                start()
        measured = interleave(arms, profile.pick(quick=1, bench=3, full=9))
    _check(measured)
    for arm, values in measured.items():
        facts: dict[str, Any] = {"page_cache": pagecache.WARM, "picked": values[0].get("representations")}
        for unit, moment in _UNITS:
            seconds = [value[moment] - value["exec"] for value in values]
            results.add(_NAME, model.name, arm, seconds, unit, **facts)
        if arm != _FLOOR:
            results.add(_NAME, model.name, arm, [value["load_seconds"] for value in values], _LOADED, **facts)


@contextmanager
def _warm_proxy(
    origin: str, folder: Path, *, address: str = "127.0.0.1", prefix: tuple[str, ...] = ()
) -> Iterator[Proxy]:
    keep = ("--keep", "identity", "--keep", "zst", "--keep", "zsp")
    with serve(origin, folder, *keep, address=address, prefix=prefix) as proxy:
        warm(proxy)
        pagecache.warm(proxy.store / "blobs")
        yield proxy


@contextmanager
def _over_link(origin: str, folder: Path) -> Iterator[Handler]:
    """Serve on one side of a link; gives a handler on the other side."""
    with link(_GIGABIT) as made:
        prefix = tuple(made.server.command())
        with _warm_proxy(origin, folder, address=made.server.address, prefix=prefix) as far:
            yield _hotstart({"HOTSTART_PROXY": far.url}, tuple(made.client.command()))


@contextmanager
def _pickled_on_s3(weights: Path, folder: Path) -> Iterator[dict[str, str]]:
    """Put the weights on S3 as torch.save writes them; gives the environment in which boto3 finds them."""
    path = folder / _KEY
    code = "import sys, torch, safetensors.torch as s; torch.save(s.load_file(sys.argv[1]), sys.argv[2])"
    subprocess.run([sys.executable, "-c", code, str(weights), str(path)], check=True)
    with S3Server(folder / "s3") as s3:
        s3.create_bucket(_BUCKET)
        s3.put(_BUCKET, _KEY, path.read_bytes())
        behind = urlsplit(s3.endpoint)
        assert behind.hostname is not None
        assert behind.port is not None
        with Shaper(behind.hostname, behind.port, _S3) as shaper:
            yield {**s3.environment(), "AWS_ENDPOINT_URL_S3": shaper.url}


def _hotstart(environment: Mapping[str, str], prefix: tuple[str, ...] = ()) -> Handler:
    return partial(_start, sys.executable, "hotstart_prefetch", [REFERENCE], environment, prefix)


def _start_boto3(environment: Mapping[str, str], folder: Path) -> dict[str, Any]:
    path = folder / "downloaded.pt"
    facts = _start(str(peers.python()), "boto3_torch", [_BUCKET, _KEY, str(path)], environment)
    path.unlink()
    return facts


def _start(
    python: str,
    handler: str,
    arguments: list[str],
    environment: Mapping[str, str],
    prefix: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Start a handler and return what it told, with the moment before exec; its clock is ours."""
    command = [*prefix, python, "-m", f"benchmarks.handlers.{handler}", *arguments]
    # Compiled files are written, as by pip.
    env = {**clean_environment(environment), "PYTHONDONTWRITEBYTECODE": ""}
    began = time.monotonic()
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, cwd=REPOSITORY)
    if done.returncode:
        raise BenchmarkFailed(f"the handler {handler} ended with {done.returncode}:\n{done.stderr[-4000:]}")
    return {**json.loads(done.stdout), "exec": began}


def _check(measured: Mapping[str, list[dict[str, Any]]]) -> None:
    """Make sure that all handlers infer the same."""
    found = {arm: values[0]["similarity"] for arm, values in measured.items() if arm != _FLOOR}
    expected = found[_SHARED]
    for arm, value in found.items():
        if not math.isclose(value, expected, abs_tol=1e-4):
            raise BenchmarkFailed(f"{arm} infers {value}, and {_SHARED} {expected}")


# Goals


def _judge(profile: Profile, results: Results) -> None:
    for model in models(profile):
        goal = f"{model.name}: exec to first inference over TCP, of boto3 + torch.load"
        ours, theirs = (results.values(_NAME, model.name, arm, _INFERRED) for arm in (_TCP, _BOTO3))
        if ours is None or theirs is None:
            results.leave_open(_NAME, goal, "not measured", at_most=1.0)
        else:
            results.judge(_NAME, goal, paired_ratio_interval(ours, theirs), at_most=1.0)
    _published(results, _SMALL, _TCP, "loading a model under 100 MB from a proxy", _SMALL_SECONDS)
    if _LARGE in models(profile):
        _published(results, _LARGE, _OVER_LINK, "loading a model of 200 MB over 1 Gbit/s", _LARGE_SECONDS)


def _published(results: Results, model: Model, arm: str, goal: str, most: float) -> None:
    values = results.values(_NAME, model.name, arm, _LOADED)
    if values is None:
        results.leave_open(_NAME, goal, "not measured", at_most=most, unit="s")
    else:
        measured: Interval = spread(values)
        results.judge(_NAME, goal, measured, at_most=most, unit="s")


if __name__ == "__main__":
    raise SystemExit(main(_NAME, SUMMARY, run))
