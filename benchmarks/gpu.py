"""Loading to a GPU, and what it is made of: ``make bench-gpu``, or ``python -m benchmarks.gpu``.

First the tests of the calls to CUDA run, then everything is measured. Without a GPU nothing is, and the exit
status is 2. In the suite it is skipped where there is no GPU.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import hotstart
from benchmarks.harness.command import main
from benchmarks.harness.folders import workplace
from benchmarks.harness.pagecache import warm
from benchmarks.harness.processes import BenchmarkFailed
from benchmarks.harness.profile import GiB, MiB, Profile
from benchmarks.harness.publish import REFERENCE, Proxy, served
from benchmarks.harness.results import Results
from benchmarks.harness.rounds import interleave
from benchmarks.harness.weights import minilm, tiled
from hotstart.buffers import HostBuffer
from hotstart.devices.base import Device
from hotstart.devices.cuda import CudaDevice
from hotstart.frameworks.regrouping import regroup_numpy, regroup_torch
from hotstart.wire.framing import FrameEncoder

SUMMARY = (
    "Loading to a GPU by shared volume, Unix socket and TCP against safetensors and torch.load, and its "
    "parts: copies from pinned and pageable memory, pinning, sizes of the ring, byte planes and zstd frames."
)

_NO_GPU = 2
_CHUNK_BYTES = 16 * MiB
_FRAME_BYTES = 4 * MiB
_RINGS = ((16, 8), (32, 16), (64, 16), (64, 32), (128, 32), (256, 32))


@dataclass(frozen=True, slots=True)
class Target:
    """Where tensors are loaded to.

    Attributes:
        name: as torch calls it.
        device: makes what hotstart loads to, given ring and slot in bytes.
        wait: until everything that was queued is done.
    """

    name: str
    device: Callable[[int, int], Device]
    wait: Callable[[], object]


def missing_gpu() -> str | None:
    """Return why there is no GPU to measure, or None where there is one."""
    if find_spec("torch") is None:
        return "torch is not installed; a CUDA build of it is needed"
    import torch

    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} is built for CUDA {torch.version.cuda}, and finds no GPU or driver"
    return None


def run(profile: Profile, results: Results) -> None:
    """Measure the first GPU; where there is none, say so."""
    reason = missing_gpu()
    if reason is not None:
        results.skip("gpu", "", "cuda:0", f"no GPU here: {reason}")
        return
    import torch

    target = Target(
        "cuda:0", lambda ring, slot: CudaDevice(0, ring_bytes=ring, slot_bytes=slot), torch.cuda.synchronize
    )
    facts = {"gpu": torch.cuda.get_device_name(0), "cuda": torch.version.cuda}
    measure_copies(profile, results, facts)
    measure_pinning(profile, results, facts)
    measure_planes(target, profile, results, facts)
    measure_frames(target, profile, results, facts)
    measure_loads(target, profile, results, facts)


# Parts.


def timed(work: Callable[[], object], wait: Callable[[], object]) -> float:
    """Return the seconds that work takes, what it queues included."""
    wait()
    began = time.perf_counter()
    kept = work()
    wait()
    seconds = time.perf_counter() - began
    del kept
    return seconds


def add_rates(
    results: Results, key: str, taken: Mapping[str, Sequence[float]], size: int, facts: Mapping[str, Any]
) -> None:
    """Keep seconds as GB/s."""
    for arm, seconds in taken.items():
        results.add("gpu", key, arm, [size / 1e9 / item for item in seconds], "GB/s", **facts)


def measure_copies(profile: Profile, results: Results, facts: Mapping[str, Any]) -> None:
    """Copy chunks of a slot's size to the GPU from memory of each kind."""
    import torch

    size = profile.pick(quick=64 * MiB, bench=256 * MiB, full=GiB)
    on_gpu = torch.empty(size, dtype=torch.uint8, device="cuda:0")
    device = CudaDevice(0)
    device.open()
    ring = HostBuffer(size)
    unpin = device.pin(ring.view)
    sources = {
        "pageable": torch.ones(size, dtype=torch.uint8),
        "pinned by torch": torch.ones(size, dtype=torch.uint8).pin_memory(),
        "registered in place (ours)": torch.frombuffer(ring.view, dtype=torch.uint8),
    }

    def copy(source: Any) -> None:
        for start in range(0, size, _CHUNK_BYTES):
            part = slice(start, start + _CHUNK_BYTES)
            on_gpu[part].copy_(source[part], non_blocking=True)

    for source in sources.values():
        copy(source)
    arms = {
        name: partial(timed, partial(copy, source), torch.cuda.synchronize)
        for name, source in sources.items()
    }
    taken = interleave(arms, profile.paired_rounds)
    torch.cuda.synchronize()
    del arms, sources
    unpin()
    add_rates(results, "host to GPU, 16 MiB a copy", taken, size, facts)


def measure_pinning(profile: Profile, results: Results, facts: Mapping[str, Any]) -> None:
    """Pin the default ring, and more."""
    import torch

    device = CudaDevice(0)
    device.open()
    for size in (64 * MiB, profile.pick(quick=128 * MiB, bench=GiB, full=GiB)):
        # Or the next one is had from torch's pool, which keeps what was pinned.
        kept: list[Any] = []

        def register(size: int = size) -> float:
            memory = HostBuffer(size)
            # Pages are there, as they are in a ring that bytes arrive in.
            torch.frombuffer(memory.view, dtype=torch.uint8).fill_(1)
            began = time.perf_counter()
            unpin = device.pin(memory.view)
            seconds = time.perf_counter() - began
            unpin()
            return seconds

        def allocate(size: int = size, kept: list[Any] = kept) -> float:
            began = time.perf_counter()
            kept.append(torch.empty(size, dtype=torch.uint8, pin_memory=True))
            return time.perf_counter() - began

        taken = interleave({"registered in place (ours)": register, "by torch": allocate}, profile.rounds)
        for arm, seconds in taken.items():
            costs = [item / (size / GiB) for item in seconds]
            results.add("gpu", f"pinning {size // MiB} MiB", arm, costs, "s / GiB", **facts)


def measure_planes(target: Target, profile: Profile, results: Results, facts: Mapping[str, Any]) -> None:
    """Regroup byte planes of real weights on the CPU before the copy, and on the GPU after it."""
    import torch

    data = minilm("bf16").read_bytes()[-_FRAME_BYTES * profile.pick(quick=2, bench=8, full=16) :]
    for width in (2, 4):
        planes = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        on_device = planes.to(target.name)
        merged = torch.empty_like(planes)
        arms = {
            "CPU, one thread": partial(
                timed,
                partial(regroup_numpy, memoryview(planes.numpy()), width, memoryview(merged.numpy())),
                target.wait,
            ),
            target.name: partial(timed, partial(regroup_torch, on_device, width), target.wait),
        }
        for arm in arms.values():
            arm()
        if not torch.equal(regroup_torch(on_device, width).cpu(), merged):
            raise BenchmarkFailed(f"planes of {width} bytes are regrouped otherwise on {target.name}")
        taken = interleave(arms, profile.paired_rounds)
        add_rates(results, f"byte planes of {width} bytes", taken, len(data), facts)


def measure_frames(target: Target, profile: Profile, results: Results, facts: Mapping[str, Any]) -> None:
    """Decode zstd frames of real weights on the CPU, and with nvCOMP on the GPU where it is installed."""
    import torch
    import zstandard

    data = memoryview(minilm("bf16").read_bytes())
    count = profile.pick(quick=2, bench=8, full=8)
    contents = [data[start : start + _FRAME_BYTES] for start in range(0, count * _FRAME_BYTES, _FRAME_BYTES)]
    encoder = FrameEncoder()
    frames = [encoder.encode(content) for content in contents]
    size = sum(len(content) for content in contents)
    out = bytearray(_FRAME_BYTES)
    decompressor = zstandard.ZstdDecompressor()

    def on_cpu() -> None:
        for frame in frames:
            decompressor.stream_reader(frame).readinto(out)

    key = "zstd frames of 4 MiB"
    arms: dict[str, Callable[[], float]] = {"CPU, one thread": partial(timed, on_cpu, target.wait)}
    if find_spec("nvidia") is None or find_spec("nvidia.nvcomp") is None:
        results.skip("gpu", key, "nvCOMP", "not installed: pip install nvidia-nvcomp-cu12")
    else:
        from nvidia import nvcomp

        codec = nvcomp.Codec(algorithm="Zstd", bitstream_kind=nvcomp.BitstreamKind.RAW)
        on_gpu = [torch.frombuffer(bytearray(frame), dtype=torch.uint8).to(target.name) for frame in frames]
        decode = partial(codec.decode, nvcomp.as_arrays(on_gpu))
        for found, content in zip(decode(), contents, strict=True):
            if bytes(torch.from_dlpack(found).cpu().view(torch.uint8).numpy()) != content:
                raise BenchmarkFailed("nvCOMP decodes other bytes than were encoded")
        arms["nvCOMP"] = partial(timed, decode, target.wait)
    add_rates(results, key, interleave(arms, profile.paired_rounds), size, facts)


# Loads.


def measure_loads(target: Target, profile: Profile, results: Results, facts: Mapping[str, Any]) -> None:
    """Load a file to the GPU in every way, and through rings of several sizes."""
    size = profile.pick(quick=32 * MiB, bench=GiB, full=4 * GiB)
    file = tiled(size, "bf16")
    with workplace("gpu") as folder, served(file, folder) as proxy:
        pickled = _pickled(file, folder)
        facts = {**facts, "page_cache": warm(proxy.store / "blobs", file, pickled)}
        arms = {**_ours(target, proxy), **_theirs(target, file, pickled)}
        for load in arms.values():
            load()
        taken = interleave(
            {name: partial(timed, load, target.wait) for name, load in arms.items()}, profile.rounds
        )
        key = f"{size // MiB} MiB bf16 to {target.name}"
        for arm, seconds in taken.items():
            results.add("gpu", key, arm, seconds, "s to usable tensors", **facts)
        rings = {
            f"{ring} MiB in slots of {slot} MiB": partial(
                timed,
                partial(_load, proxy.unix_url, "", target.device(ring * MiB, slot * MiB)),
                target.wait,
            )
            for ring, slot in _RINGS
        }
        add_rates(results, "ring, Unix socket", interleave(rings, profile.rounds), size, facts)


def _load(proxy: str, shared_dir: str, device: object) -> Mapping[str, Any]:
    return hotstart.load(REFERENCE, "torch", device, proxy=proxy, shared_dir=shared_dir)


def _ours(target: Target, proxy: Proxy) -> dict[str, Callable[[], object]]:
    def device() -> Device:
        return target.device(64 * MiB, 16 * MiB)

    def through_host() -> object:
        tensors = _load(proxy.unix_url, str(proxy.store), "cpu")
        return {name: tensor.to(target.name) for name, tensor in tensors.items()}

    return {
        "hotstart, shared volume": lambda: _load(proxy.unix_url, str(proxy.store), device()),
        "hotstart, Unix socket": lambda: _load(proxy.unix_url, "", device()),
        "hotstart, TCP": lambda: _load(proxy.url, "", device()),
        "hotstart, shared volume to host, then .to": through_host,
    }


def _theirs(target: Target, file: Path, pickled: Path) -> dict[str, Callable[[], object]]:
    import torch
    from safetensors.torch import load_file

    return {
        "safetensors load_file, local file": lambda: load_file(file, device=target.name),
        "torch.load, local file": lambda: torch.load(pickled, map_location=target.name, weights_only=True),
    }


def _pickled(file: Path, folder: Path) -> Path:
    import torch
    from safetensors.torch import load_file

    path = folder / "model.pt"
    torch.save(load_file(file), path)
    return path


def command() -> int:
    """Test, then measure; without a GPU say so."""
    reason = missing_gpu()
    if reason is not None:
        print(f"no GPU here: {reason}", file=sys.stderr)
        return _NO_GPU
    tests = [sys.executable, "-m", "pytest", "-m", "gpu", "tests/gpu"]
    if subprocess.run(tests, check=False).returncode:
        print("the tests of the calls to CUDA failed, so nothing is measured", file=sys.stderr)
        return 1
    return main("gpu", SUMMARY, run)


if __name__ == "__main__":
    sys.exit(command())
