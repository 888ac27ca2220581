"""The forms that weights are kept in: ``python -m benchmarks.format``.

The same real weights in every form, each read as one would read it: size, decoding, and loading to tensors of
torch. Files are in the page cache, so that it is the forms that are compared and not a disk.
"""

from __future__ import annotations

import gzip
import io
import pickle
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

import hotstart
from benchmarks.harness.command import main
from benchmarks.harness.folders import workplace
from benchmarks.harness.pagecache import warm
from benchmarks.harness.processes import BenchmarkFailed
from benchmarks.harness.profile import MiB, Profile
from benchmarks.harness.publish import REFERENCE, publish
from benchmarks.harness.results import Results
from benchmarks.harness.rounds import interleave
from benchmarks.harness.statistics import Interval, paired_ratio_interval
from benchmarks.harness.weights import WEIGHTS_FILE, Dtype, minilm, model_folder, tiled
from hotstart.engine.decoding import TwinDecoder
from hotstart.engine.targets import TwinPlan
from hotstart.wire.manifest import Manifest
from hotstart.wire.safetensors import LENGTH_BYTES, parse_header

SUMMARY = (
    "The same weights as torch.save, gzip of it, pickle, Safetensors, zstd-framed and byte planes: size, "
    "decoding by one thread, loading to tensors of torch."
)

_GZIP, _TORCH, _PICKLE = "torch.save, gzip", "torch.save", "pickle"
_PLAIN, _ZSTD, _PLANES = "Safetensors", "zstd-framed", "byte planes"
_SUFFIXES = {_ZSTD: ".zst", _PLANES: ".zsp"}
_COMPRESSIONS = {_ZSTD: "zstd", _PLANES: "planes"}
# The gzip command's own default; Python's is 9, which takes thrice as long for next to nothing.
_GZIP_LEVEL = 6
_LOAD, _READ = "s, load", "s, load and read every byte"
_DECODE = "GB/s of weights, decoding, one thread"

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Forms:
    """One model in every form.

    Attributes:
        sizes: bytes by arm.
        loads: by arm, what gives all tensors.
        decodes: by arm of those that are compressed, what decodes it in memory, by one thread.
        weights_bytes: of the Safetensors file.
    """

    sizes: Mapping[str, int]
    loads: Mapping[str, Callable[[], Tensors]]
    decodes: Mapping[str, Callable[[], None]]
    weights_bytes: int


def make_forms(weights: Path, folder: Path) -> Forms:
    """Write a Safetensors file in all forms below folder."""
    origin = f"file://{folder / 'origin'}"
    publish(model_folder(folder / "model", weights), REFERENCE, origin, "--suffix", "zst", "--suffix", "zsp")
    version = folder / "origin" / REFERENCE.replace("@", "/")
    tensors = load_file(weights)
    files = {
        arm: folder / name for arm, name in ((_TORCH, "w.pt"), (_GZIP, "w.pt.gz"), (_PICKLE, "w.pickle"))
    }
    torch.save(tensors, files[_TORCH])
    with (
        files[_TORCH].open("rb") as plain,
        gzip.open(files[_GZIP], "wb", compresslevel=_GZIP_LEVEL) as packed,
    ):
        shutil.copyfileobj(plain, packed, MiB)
    with files[_PICKLE].open("wb") as file:
        # As arrays: torch's own pickling would put a zip of torch.save into every tensor.
        pickle.dump({name: _array(tensor) for name, tensor in tensors.items()}, file, protocol=5)
    files[_PLAIN] = version / WEIGHTS_FILE
    files |= {arm: version / f"{WEIGHTS_FILE}{suffix}" for arm, suffix in _SUFFIXES.items()}
    warm(*files.values())

    dtypes = {name: tensor.dtype for name, tensor in tensors.items()}
    loads: dict[str, Callable[[], Tensors]] = {
        _GZIP: partial(_load_gzip, files[_GZIP]),
        _TORCH: partial(torch.load, files[_TORCH], weights_only=True),
        _PICKLE: partial(_load_pickle, files[_PICKLE], dtypes),
        _PLAIN: partial(load_file, files[_PLAIN]),
    }
    decodes: dict[str, Callable[[], None]] = {_GZIP: partial(_decode_gzip, files[_GZIP].read_bytes())}
    for arm, compression in _COMPRESSIONS.items():
        loads[arm] = partial(
            hotstart.load, REFERENCE, framework="torch", origin=origin, compression=compression
        )
        decodes[arm] = _frames_decoder(version, _SUFFIXES[arm])
    sizes = {arm: files[arm].stat().st_size for arm in loads}
    return Forms(sizes, loads, decodes, weights.stat().st_size)


def _array(tensor: torch.Tensor) -> Any:
    # numpy has no bfloat16; its bits do.
    return (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _load_gzip(path: Path) -> Tensors:
    # Unpacked first: torch.load seeks, and every seek backwards would unpack from the start.
    loaded: Tensors = torch.load(io.BytesIO(gzip.decompress(path.read_bytes())), weights_only=True)
    return loaded


def _load_pickle(path: Path, dtypes: Mapping[str, torch.dtype]) -> Tensors:
    with path.open("rb") as file:
        arrays = pickle.load(file)
    return {name: torch.from_numpy(array).view(dtypes[name]) for name, array in arrays.items()}


def _decode_gzip(data: bytes) -> None:
    gzip.decompress(data)


def _frames_decoder(version: Path, suffix: str) -> Callable[[], None]:
    """Return what decodes all frames of a twin into memory that is there, as a thread of a load does."""
    manifest = Manifest.parse((version / ".hotstart" / "manifest.json").read_bytes())
    file = manifest.file(WEIGHTS_FILE)
    assert file is not None
    twin = TwinPlan.of(file, suffix)
    if twin is None:
        raise BenchmarkFailed(f"{WEIGHTS_FILE} got no {suffix} twin")
    data = memoryview((version / f"{WEIGHTS_FILE}{suffix}").read_bytes())
    destination = memoryview(bytearray(file.size))
    decoder = TwinDecoder()

    def decode() -> None:
        for index, entry in enumerate(twin.table.entries):
            window = destination[entry.content.start : entry.content.stop]
            decoder.decode(twin, entry, data[entry.stored.start : entry.stored.stop], window)
            if index == 0:
                twin.learn(parse_header(window[LENGTH_BYTES:], file.size))

    return decode


def read_all(tensors: Tensors) -> None:
    """Read every byte of every tensor once."""
    for tensor in tensors.values():
        flat = tensor.reshape(-1).view(torch.uint8)
        whole = flat.numel() // 8 * 8
        flat[:whole].view(torch.int64).max() if whole else None


def run(profile: Profile, results: Results) -> None:
    """Measure every form of every model in turns."""
    models: dict[str, Callable[[], Path]] = {}
    dtypes: tuple[Dtype, ...] = profile.pick(quick=("fp32",), bench=("fp32", "bf16"), full=("fp32", "bf16"))
    for dtype in dtypes:
        small = partial(tiled, 16 * MiB, dtype)
        models[f"MiniLM, {dtype}"] = profile.pick(
            quick=small, bench=partial(minilm, dtype), full=partial(minilm, dtype)
        )
    for key, weights in models.items():
        with workplace("format") as folder:
            measure(key, make_forms(weights(), folder), profile, results)
        judge(key, results)


def measure(key: str, forms: Forms, profile: Profile, results: Results) -> None:
    """Measure one model, unless the results have it."""
    if results.done("format", key, forms.loads):
        return
    page_cache = warm()
    expected = {name: tensor.clone() for name, tensor in forms.loads[_PLAIN]().items()}
    for arm, load in forms.loads.items():
        found = load()
        if set(found) != set(expected) or not all(
            torch.equal(found[name], expected[name]) for name in expected
        ):
            raise BenchmarkFailed(f"{arm} gives other tensors than were saved")
    del expected, found
    for arm, size in forms.sizes.items():
        results.add(
            "format", key, arm, [100 * size / forms.weights_bytes], "% of the Safetensors file's size"
        )
    decodes = {arm: partial(_seconds, decode) for arm, decode in forms.decodes.items()}
    for arm, seconds in interleave(decodes, profile.paired_rounds).items():
        rates = [forms.weights_bytes / 1e9 / value for value in seconds]
        results.add("format", key, arm, rates, _DECODE)
    loads = {arm: partial(_load_and_read, load) for arm, load in forms.loads.items()}
    for arm, pairs in interleave(loads, profile.paired_rounds).items():
        results.add("format", key, arm, [loaded for loaded, _ in pairs], _LOAD, page_cache=page_cache)
        results.add("format", key, arm, [read for _, read in pairs], _READ, page_cache=page_cache)


def _seconds(action: Callable[[], None]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def _load_and_read(load: Callable[[], Tensors]) -> tuple[float, float]:
    began = time.perf_counter()
    tensors = load()
    loaded = time.perf_counter()
    read_all(tensors)
    return loaded - began, time.perf_counter() - began


def judge(key: str, results: Results) -> None:
    """Compare the figures with what is claimed of the forms."""
    read = "with every byte read"
    for text, arm, base, unit, wanted in (
        (f"Safetensors loads faster than torch.save, {read}", _TORCH, _PLAIN, _READ, 2.0),
        ("Safetensors loads faster than torch.save, to returned tensors", _TORCH, _PLAIN, _LOAD, 2.0),
        (f"Safetensors loads faster than pickle, {read}", _PICKLE, _PLAIN, _READ, 2.0),
        ("zstd frames decode faster than gzip", _ZSTD, _GZIP, _DECODE, 3.0),
        ("byte planes decode faster than gzip", _PLANES, _GZIP, _DECODE, 3.0),
    ):
        results.judge("format", f"{key}: {text}", _ratio(results, key, arm, base, unit), at_least=wanted)


def _ratio(results: Results, key: str, arm: str, base: str, unit: str) -> Interval:
    values, others = (results.values("format", key, name, unit) for name in (arm, base))
    assert values is not None
    assert others is not None
    return paired_ratio_interval(values, others)


if __name__ == "__main__":
    sys.exit(main("format", SUMMARY, run))
