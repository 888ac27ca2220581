"""From nothing to all tensors usable: hotstart against what anyone would use instead, and against limits.

Every system loads the same weights into torch tensors on the CPU, in a process of its own that has imported
its library, with the server's files in the page cache. Two times are told: until the tensors are returned,
and until every byte of them has been read once, since what maps a file moves no byte before. S3 and the Hub
are played by nginx, which sends files faster than any server of theirs: what is compared are the clients.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import nginx, pagecache, weights
from benchmarks.harness.command import main
from benchmarks.harness.folders import workplace
from benchmarks.harness.processes import BenchmarkFailed
from benchmarks.harness.profile import GiB, MiB, Profile
from benchmarks.harness.publish import REFERENCE, Proxy, publish, serve, warm
from benchmarks.harness.results import Results
from benchmarks.harness.rounds import interleave
from benchmarks.harness.weights import Dtype
from benchmarks.links import Link, LinkUnavailable, link
from benchmarks.load_goals import READ, RETURNED, judge
from benchmarks.loaders import Arm, Loaded, Loaders, LoadFailed, arms_of, convert_for_tensorizer

__all__ = ["SUMMARY", "Cell", "matrix", "run"]

SUMMARY = "from nothing to all tensors usable: hotstart, peers and limits, on this host and over links"

_NAME = "load"
_BUCKET = "bucket"
# Below the root of nginx, besides the root itself: S3's layout, and the Hub's.
_PLACES = (_BUCKET, "org/bench/resolve/main")
# The Hub's client wants to be told the commit behind "main".
_COMMIT = "1" * 40
_GIGABIT = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Cell:
    """Weights, and where they are loaded from.

    Attributes:
        size_bytes: None for the real model.
        bits_per_second: of the link; None on this host.
        peers: whether the peers are measured.
    """

    dtype: Dtype
    size_bytes: int | None
    bits_per_second: int | None
    rounds: int
    peers: bool = True

    @property
    def model(self) -> str:
        """The weights, as tables show them."""
        if self.size_bytes is None:
            return f"MiniLM {self.dtype}"
        size = self.size_bytes / GiB
        return f"{size:g} GiB {self.dtype}" if size >= 1 else f"{self.size_bytes // MiB} MiB {self.dtype}"

    @property
    def key(self) -> str:
        """The cell, as tables show it."""
        rate = self.bits_per_second
        return f"{self.model}, {'this host' if rate is None else f'{rate / _GIGABIT:g} Gbit/s'}"


def matrix(profile: Profile) -> list[Cell]:
    """Return what a profile measures, cells of the same weights together."""
    rounds = profile.rounds
    if profile.name == "quick":
        return [Cell("fp32", None, None, rounds)]
    small: list[Dtype] = ["fp32", "bf16"]
    cells = [Cell(dtype, None, None, rounds) for dtype in small]
    if profile.name == "bench":
        return [
            *cells,
            Cell("fp32", GiB, None, rounds),
            Cell("fp32", GiB, 10 * _GIGABIT, rounds),
            Cell("fp32", 512 * MiB, int(2.5 * _GIGABIT), rounds),
            Cell("bf16", 512 * MiB, int(2.5 * _GIGABIT), rounds, peers=False),
            Cell("fp32", 256 * MiB, _GIGABIT, rounds),
        ]
    rates = [None, 10 * _GIGABIT, int(2.5 * _GIGABIT), _GIGABIT]
    cells = [Cell(dtype, None, rate, rounds) for dtype in small for rate in rates]
    cells += [Cell(dtype, GiB, rate, rounds) for dtype in small for rate in rates]
    return [*cells, *(Cell("fp32", 4 * GiB, rate, 3) for rate in rates)]


def run(profile: Profile, results: Results) -> None:
    """Measure the matrix of a profile, and judge what was measured."""
    cells = matrix(profile)
    with workplace(_NAME) as folder, Loaders(folder) as loaders:
        bench = _Bench(profile, results, loaders, folder)
        if nginx.binary() is None:
            results.skip(_NAME, "", "peers and the line", nginx.MISSING)
        for model in dict.fromkeys(cell.model for cell in cells):
            bench.measure([cell for cell in cells if cell.model == model])
    judge(results, cells)


@dataclass(frozen=True, slots=True)
class _Published:
    """Weights at an origin, and what the servers' folders need.

    Attributes:
        size: bytes of tensors, nearly: of the file.
    """

    folder: Path
    origin: str
    size: int

    @property
    def site(self) -> Path:
        """The root of nginx."""
        return self.folder / "site"


class _Bench:
    """One run of the benchmark."""

    def __init__(self, profile: Profile, results: Results, loaders: Loaders, folder: Path) -> None:
        self._profile = profile
        self._results = results
        self._loaders = loaders
        self._folder = folder
        # By module: what could not be loaded once is not tried again.
        self._broken: dict[str, str] = {}
        self._checksums: dict[str, int] = {}

    def measure(self, cells: Sequence[Cell]) -> None:
        """Measure cells of the same weights."""
        open_cells = [cell for cell in cells if not self._is_done(cell)]
        if not open_cells:
            return
        model = open_cells[0]
        folder = self._folder / model.model.replace(" ", "-")
        try:
            published = self._publish(model, folder)
            for cell in open_cells:
                self._measure_cell(cell, published)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _is_done(self, cell: Cell) -> bool:
        return self._profile.resumable and self._results.done(
            _NAME, cell.key, [arm.name for arm in self._arms(cell) if arm.group == "ours"]
        )

    def _arms(self, cell: Cell) -> list[Arm]:
        arms = arms_of(over_link=cell.bits_per_second is not None)
        return [arm for arm in arms if cell.peers or arm.group != "peer"]

    def _publish(self, cell: Cell, folder: Path) -> _Published:
        source = (
            weights.minilm(cell.dtype)
            if cell.size_bytes is None
            else weights.tiled(cell.size_bytes, cell.dtype)
        )
        origin = f"file://{folder}/origin"
        publish(weights.model_folder(folder / "model", source), REFERENCE, origin)
        published = _Published(folder, origin, source.stat().st_size)
        self._build_site(published, source)
        return published

    def _build_site(self, published: _Published, source: Path) -> None:
        """Make the root of nginx, all but the weights themselves, which the proxy's store holds."""
        for place in _PLACES:
            (published.site / place).mkdir(parents=True)
        if "tensorizer_http" not in self._broken:
            try:
                convert_for_tensorizer(source, published.site / "weights.tensors")
            except LoadFailed as error:
                self._broken["tensorizer_http"] = str(error)

    def _measure_cell(self, cell: Cell, published: _Published) -> None:
        with ExitStack() as stack:
            made: Link | None = None
            if cell.bits_per_second is not None:
                try:
                    made = stack.enter_context(link(cell.bits_per_second))
                except LinkUnavailable as error:
                    self._results.skip(_NAME, cell.key, "", str(error))
                    return
            request = stack.enter_context(_serving(published, made))
            scratch = published.folder / "scratch"
            arms = self._trial(cell, request, scratch)
            loads = {arm.name: self._load(arm, request, scratch) for arm in arms}
            measured = interleave(loads, cell.rounds)
        for name, values in measured.items():
            facts = {"page_cache": pagecache.WARM, "picked": list(values[0].picked)}
            for unit, seconds in (
                (RETURNED, [value.returned_seconds for value in values]),
                (READ, [value.read_seconds for value in values]),
                ("CPU s", [value.cpu_seconds for value in values]),
            ):
                self._results.add(_NAME, cell.key, name, seconds, unit, **facts)

    def _load(self, arm: Arm, request: Mapping[str, Any], scratch: Path) -> Any:
        def load() -> Loaded:
            try:
                return self._load_once(arm, request, scratch)
            except LoadFailed as error:
                raise BenchmarkFailed(f"{arm.name}: {error}") from error

        return load

    def _load_once(self, arm: Arm, request: Mapping[str, Any], scratch: Path) -> Loaded:
        scratch.mkdir()
        try:
            return self._loaders.load(arm, {**request, "scratch": str(scratch)})
        finally:
            shutil.rmtree(scratch)

    def _trial(self, cell: Cell, request: Mapping[str, Any], scratch: Path) -> list[Arm]:
        """Load once by each arm, untimed and with its memory watched; return the arms that can."""
        able = []
        for arm in self._arms(cell):
            if reason := self._why_not(arm):
                self._results.skip(_NAME, cell.key, arm.name, reason)
                continue
            try:
                loaded = self._load_once(arm, {**request, "watch_memory": True}, scratch)
            except LoadFailed as error:
                if arm.group == "ours":
                    raise BenchmarkFailed(f"{arm.name}: {error}") from error
                self._broken[arm.module] = str(error)
                self._results.skip(_NAME, cell.key, arm.name, str(error))
                continue
            if arm.group != "limit" and (wrong := self._wrong(cell, arm, loaded)):
                self._results.skip(_NAME, cell.key, arm.name, wrong)
                continue
            able.append(arm)
            if arm.group == "ours":
                beyond = (
                    loaded.peak_bytes if loaded.picked == ("mapped",) else loaded.peak_bytes - request["size"]
                )
                self._results.add(_NAME, cell.key, arm.name, [beyond / MiB], "MiB beyond the tensors")
        return able

    def _why_not(self, arm: Arm) -> str | None:
        needs_nginx = arm.group == "peer" or arm.facts.get("limit") == "line"
        if needs_nginx and nginx.binary() is None:
            return nginx.MISSING
        return self._broken.get(arm.module)

    def _wrong(self, cell: Cell, arm: Arm, loaded: Loaded) -> str | None:
        """Return why an arm did not do what its name says."""
        expected = self._checksums.setdefault(cell.model, loaded.checksum)
        if loaded.checksum != expected:
            raise BenchmarkFailed(f"{arm.name} loads other bytes of {cell.model} than hotstart")
        asked = arm.facts.get("compression")
        if asked in ("zstd", "planes") and asked not in loaded.picked:
            return f"the version has no such twin, {', '.join(loaded.picked)} was loaded"
        return None


@contextmanager
def _serving(published: _Published, made: Link | None) -> Iterator[dict[str, Any]]:
    """Run the proxy and nginx, both warm; gives what all requests say."""
    address = "127.0.0.1" if made is None else made.server.address
    prefix = () if made is None else tuple(made.server.command())
    folder = published.folder
    keep = ("--keep", "identity", "--keep", "zst", "--keep", "zsp")
    with ExitStack() as stack:
        proxy = stack.enter_context(
            serve(published.origin, folder / "proxy", *keep, address=address, prefix=prefix)
        )
        warm(proxy)
        pagecache.warm(proxy.store / "blobs")
        blob = _blob(proxy, published.size)
        _link_weights(published.site, blob)
        request: dict[str, Any] = {
            "reference": REFERENCE,
            "proxy_url": proxy.url,
            "proxy_unix": proxy.unix_url,
            "store": str(proxy.store),
            "path": str(blob),
            "size": published.size,
            "bucket": _BUCKET,
            "key": weights.WEIGHTS_FILE,
            "hub_repository": "org/bench",
            "hub_file": weights.WEIGHTS_FILE,
        }
        if made is not None:
            request["network"] = made.client.namespace
        if nginx.binary() is not None:
            pagecache.warm(published.site)
            server = stack.enter_context(
                nginx.serving(
                    published.site,
                    folder / "nginx",
                    address=address,
                    prefix=prefix,
                    extra=f"add_header X-Repo-Commit {_COMMIT};",
                )
            )
            request["endpoint"] = server.url
            request["url"] = f"{server.url}/{weights.WEIGHTS_FILE}"
            request["tensorizer_url"] = f"{server.url}/weights.tensors"
        yield request


def _blob(proxy: Proxy, size: int) -> Path:
    """Return the weights' file in the proxy's store: the one file that all servers send and all maps map."""
    found = [path for path in (proxy.store / "blobs").rglob("*") if path.is_file()]
    return next(path for path in found if path.stat().st_size == size)


def _link_weights(site: Path, blob: Path) -> None:
    for place in (site, *(site / place for place in _PLACES)):
        target = place / weights.WEIGHTS_FILE
        target.unlink(missing_ok=True)
        target.symlink_to(blob)


if __name__ == "__main__":
    raise SystemExit(main(_NAME, SUMMARY, run))
