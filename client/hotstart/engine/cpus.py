"""How many CPUs this process may use: its affinity, and what its cgroup allows it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["quota_cpus", "usable_cpus"]

_CGROUP_ROOT = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")


def usable_cpus() -> int:
    """Return how many threads can run at once, at least 1."""
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:
        count = os.cpu_count() or 1
    quota = quota_cpus(_OWN_CGROUPS, _CGROUP_ROOT)
    return max(1, count if quota is None else min(count, math.ceil(quota)))


def quota_cpus(own_cgroups: Path, root: Path) -> float | None:
    """Return the CPUs that cgroups grant, or None where they set no limit or there are none.

    Every level above a process's own cgroup can set a lower limit, so the lowest of all counts. Inside a
    container the own path is often not there, or is ``/``; then the root is the container's own.

    Args:
        own_cgroups: the file ``/proc/self/cgroup``.
        root: where cgroups are mounted, version 2 or 1.
    """
    quotas = [quota for folder in _folders(own_cgroups, root) if (quota := _read_quota(folder)) is not None]
    return min(quotas, default=None)


def _folders(own_cgroups: Path, root: Path) -> Iterator[Path]:
    yield root
    yield root / "cpu"
    yield root / "cpu,cpuacct"
    for line in _read(own_cgroups).splitlines():
        # "0::/kubepods/pod1" (version 2) or "4:cpu,cpuacct:/docker/1" (version 1).
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            base = root
        elif "cpu" in controllers.split(","):
            base = root / controllers
        else:
            continue
        folder = base
        for part in path.split("/"):
            if part and part != "..":
                folder = folder / part
                yield folder


def _read_quota(folder: Path) -> float | None:
    text = _read(folder / "cpu.max")
    if not text:
        text = f"{_read(folder / 'cpu.cfs_quota_us')} {_read(folder / 'cpu.cfs_period_us')}"
    match text.split():
        case [quota, period] if quota.isdigit() and period.isdigit() and int(period) > 0 and int(quota) > 0:
            return int(quota) / int(period)
    # "max", -1, or nothing that says a limit.
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text("ascii")
    except (OSError, UnicodeDecodeError):
        return ""
