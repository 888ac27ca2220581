"""The benchmark of GPUs, as far as it runs without one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks import gpu
from benchmarks.harness.profile import PROFILES
from benchmarks.harness.results import Results
from hotstart.devices.base import Device
from hotstart.devices.host import HostDevice

torch = pytest.importorskip("torch")


def host(ring_bytes: int, slot_bytes: int) -> Device:
    return HostDevice(ring_bytes=ring_bytes, slot_bytes=slot_bytes)


HOST = gpu.Target("cpu", host, lambda: None)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command says why there is nothing to measure, and exits with 2."""
    monkeypatch.setattr(sys, "argv", ["benchmarks.gpu"])
    assert gpu.command() == 2
    assert capsys.readouterr().err.startswith(f"no GPU here: torch {torch.__version__} ")


def test_loads_and_parts_are_measured_on_the_host(tmp_path: Path) -> None:
    """All but the calls to CUDA runs: loads in every way, every size of the ring, planes and frames."""
    results = Results(tmp_path / "quick.json", "quick", machine={"slug": "here"}, versions={})
    profile = PROFILES["quick"]
    gpu.measure_planes(HOST, profile, results, {})
    gpu.measure_frames(HOST, profile, results, {})
    gpu.measure_loads(HOST, profile, results, {})
    measured = {cell.arm for cell in results.of("gpu")}
    assert {"hotstart, shared volume", "hotstart, Unix socket", "hotstart, TCP"} <= measured
    assert {"safetensors load_file, local file", "torch.load, local file"} <= measured
    assert "64 MiB in slots of 16 MiB" in measured
    assert all(value > 0 for cell in results.of("gpu") for value in cell.values)
    skipped = {skip.arm for skip in results.skips}
    assert ("nvCOMP" in skipped) != ("nvCOMP" in measured)
