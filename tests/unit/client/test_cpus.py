"""CPUs that cgroups grant, from files like the kernel's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hotstart.engine.cpus import quota_cpus, usable_cpus


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/\n", {}, None),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/pods/one\n", {"pods/cpu.max": "400000 100000", "pods/one/cpu.max": "max 100000"}, 4.0),
        ("0::/pods/one\n", {"pods/cpu.max": "200000 100000", "pods/one/cpu.max": "50000 100000"}, 0.5),
        ("0::/../outside\n", {"cpu.max": "100000 100000\n"}, 1.0),
        ("4:cpu,cpuacct:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        (
            "4:cpu,cpuacct:/task\n2:memory:/task\n",
            {
                "cpu,cpuacct/task/cpu.cfs_quota_us": "300000\n",
                "cpu,cpuacct/task/cpu.cfs_period_us": "100000\n",
            },
            3.0,
        ),
        ("", {"cpu.max": "100000 100000\n"}, 1.0),
        ("0::/\n", {"cpu.max": "garbage"}, None),
        ("0::/\n", {"cpu.max": "100000 0"}, None),
    ],
)
def test_the_lowest_quota_counts(
    tmp_path: Path, own: str, files: dict[str, str], expected: float | None
) -> None:
    """Version 2 and 1, own cgroup and those above it: the lowest limit, None without one."""
    (tmp_path / "own").write_text(own)
    write(tmp_path / "root", files)
    assert quota_cpus(tmp_path / "own", tmp_path / "root") == expected


def test_no_cgroups_at_all(tmp_path: Path) -> None:
    """Elsewhere than on Linux there are none."""
    assert quota_cpus(tmp_path / "nope", tmp_path / "nothing") is None
    assert usable_cpus() >= 1


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_affinity_counts() -> None:
    """A process that is bound to one CPU uses one, however many the machine has."""
    code = (
        "import os\n"
        "from hotstart.engine.cpus import usable_cpus\n"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "print(usable_cpus())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
