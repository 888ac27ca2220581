"""Everything at once for a while: python -m tests.soak.soak [--seconds 600] [--seed 1] (make soak).

Readers load through four proxies (two with one disk between them and Redis behind it, one on Redis alone, one
chained to another) while versions are published, aliases move, and proxies, workers, Redis and S3 are killed,
stopped and emptied, blobs deleted and damaged. At the end no wrong byte has been given back, the stores hold
what their names say within their budgets, and all gauges of what is held are back to zero. Figures are
printed as JSON; the exit status is 1 if anything of that does not hold.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

from hotstart.wire.digests import sha256_id
from tests.soak.truth import make_version, versions
from tests.soak.world import DISK_BUDGET_BYTES, Member, World
from tests.support.processes import Process

MODELS = ("soak/alpha", "soak/beta", "soak/gamma")
# What must be zero once nobody asks for anything.
GAUGES = (
    "hotstart_fills_in_progress",
    "hotstart_open_answers",
    "hotstart_fill_slots_held",
    "hotstart_fill_slots_waiting",
    "hotstart_passes",
    "hotstart_passes_waiting",
    "hotstart_reserved_bytes",
)
REPOSITORY = Path(__file__).resolve().parents[2]
_QUIET_SECONDS = 60


class Publishing(threading.Thread):
    """Publishes a new version now and then, and moves aliases."""

    def __init__(self, world: World, truth: Path, rng: random.Random, ended: threading.Event) -> None:
        super().__init__(name="publishing")
        self.counts: Counter[str] = Counter()
        self._world, self._truth, self._rng, self._ended = world, truth, rng, ended
        self._number = 0

    def run(self) -> None:
        while not self._ended.wait(self._rng.uniform(0.5, 3)):
            model = self._rng.choice(MODELS)
            if self._rng.random() < 0.5:
                self.publish(model)
            else:
                known = versions(self._truth, model)
                self._hotstart(
                    "alias", model, f"{self._rng.choice(('prod', 'canary'))}={self._rng.choice(known[-3:])}"
                )

    def publish(self, model: str) -> None:
        """Publish the next version; again until it is there, as a pipeline would."""
        self._number += 1
        version = str(self._number)
        folder = make_version(self._truth, model, version, self._rng.randrange(2**32))
        for _ in range(20):
            if self._hotstart(
                "publish", str(folder), f"{model}@{version}", "--alias", "canary"
            ) or self._ended.wait(1):
                return

    def _hotstart(self, command: str, *arguments: str) -> bool:
        process = self._world.processes.hotstart(
            command, *arguments, "--origin", self._world.origin, environment=self._world.environment
        )
        status = process.wait(120).status
        self.counts[f"{command} {'done' if status == 0 else 'failed'}"] += 1
        return status == 0


class Chaos:
    """What happens to the servers, drawn at random; everything is put right again."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self.counts: Counter[str] = Counter()
        self._world, self._rng = world, rng
        self._deeds: list[Callable[[], None]] = [
            self.kill_a_proxy,
            self.kill_a_proxy,
            self.kill_a_worker,
            self.stop_a_proxy_for_a_while,
            self.kill_redis,
            self.empty_redis,
            self.kill_s3,
            self.stop_s3_for_a_while,
            self.delete_a_blob,
            self.damage_a_blob,
        ]

    def step(self) -> None:
        """Do one thing."""
        deed = self._rng.choice(self._deeds)
        self.counts[deed.__name__] += 1
        deed()

    def kill_a_proxy(self) -> None:
        member = self._rng.choice(self._world.members)
        member.kill()
        time.sleep(self._rng.uniform(0, 2))
        member.start(self._world.processes)

    def kill_a_worker(self) -> None:
        with contextlib.suppress(OSError):
            self._world.members[0].kill_a_worker()

    def stop_a_proxy_for_a_while(self) -> None:
        process = self._rng.choice(self._world.members).process
        assert process is not None
        with _stopped(process.pid):
            time.sleep(self._rng.uniform(0.5, 7))

    def kill_redis(self) -> None:
        self._world.valkey.kill()
        time.sleep(self._rng.uniform(0, 4))
        self._world.valkey.start()

    def empty_redis(self) -> None:
        with self._world.valkey.client() as client:
            client.flushall()

    def kill_s3(self) -> None:
        self._world.s3.kill()
        time.sleep(self._rng.uniform(0, 4))
        self._world.s3.start()

    def stop_s3_for_a_while(self) -> None:
        self._world.s3.pause()
        time.sleep(self._rng.uniform(0.5, 5))
        self._world.s3.resume()

    def delete_a_blob(self) -> None:
        for blob in self._some_blob(self._world.members[0]):
            blob.unlink(missing_ok=True)

    def damage_a_blob(self) -> None:
        # Only where nobody reads but the client, which checks: the proxy does not see a bit flipped at rest.
        for blob in self._some_blob(self._world.members[3]):
            with contextlib.suppress(FileNotFoundError):
                blob.chmod(0o644)
                with blob.open("r+b") as file:
                    file.seek(self._rng.randrange(max(1, blob.stat().st_size)))
                    byte = file.read(1)
                    file.seek(-len(byte), os.SEEK_CUR)
                    file.write(bytes(value ^ 1 for value in byte))
                blob.chmod(0o444)

    def _some_blob(self, member: Member) -> list[Path]:
        assert member.store is not None
        blobs = sorted((member.store / "blobs").glob("??/*"))
        return [self._rng.choice(blobs)] if blobs else []


@contextlib.contextmanager
def _stopped(pid: int) -> Iterator[None]:
    os.killpg(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.killpg(pid, signal.SIGCONT)


def start_readers(world: World, truth: Path, rng: random.Random) -> list[Process]:
    """Start readers: four of proxies whose bytes may be compared as they come, two of all."""
    sound = [member.url for member in world.members[:3]]
    everywhere = [member.url for member in world.members]
    readers = []
    for raw, proxies in (*[("1", sound)] * 4, *[("0", everywhere)] * 2):
        arguments = (str(truth), str(rng.randrange(2**32)), raw, *proxies)
        readers.append(
            world.processes.start(
                sys.executable,
                "-m",
                "tests.soak.reader",
                *arguments,
                environment={"PYTHONPATH": str(REPOSITORY)},
                name="reader",
            )
        )
    return readers


def outcomes(readers: list[Process]) -> tuple[Counter[str], list[dict[str, object]]]:
    """Count what came of all reads; and return those that were wrong."""
    counts: Counter[str] = Counter()
    wrong: list[dict[str, object]] = []
    for reader in readers:
        for line in reader.stdout.splitlines():
            result = json.loads(line)
            counts[result["outcome"]] += 1
            if result["outcome"] == "WRONG":
                wrong.append(result)
    return counts, wrong


def held_gauges(world: World) -> dict[str, float]:
    """Return all gauges of what is held that are not zero, once they had time to become so."""
    deadline = time.monotonic() + _QUIET_SECONDS
    while True:
        held: dict[str, float] = {}
        for member in world.members:
            samples = member.metrics()
            plain = {name.partition("{")[0] for name in samples}
            held |= {f"{member.name}: no {gauge}": 1 for gauge in GAUGES if gauge not in plain}
            for name, value in samples.items():
                if name.partition("{")[0] in GAUGES and value:
                    held[f"{member.name}: {name}"] = value
        if not held or time.monotonic() > deadline:
            return held
        time.sleep(1)


def store_faults(world: World) -> list[str]:
    """Return what is wrong with the disk stores: damaged blobs, more bytes than the budget."""
    faults = []
    for folder in {member.store for member in world.members if member.store is not None}:
        used = sum(path.stat().st_size for path in (folder / "fills").glob("*.part"))
        for blob in sorted((folder / "blobs").glob("??/*")):
            data = blob.read_bytes()
            used += len(data)
            if sha256_id(data) != blob.name:
                faults.append(f"{blob} is damaged")
        if used > DISK_BUDGET_BYTES:
            faults.append(f"{folder} holds {used} bytes, {DISK_BUDGET_BYTES} are allowed")
    return faults


def run(seconds: float, seed: int, root: Path) -> int:
    """Soak, print the figures, and return the exit status."""
    rng = random.Random(seed)
    truth = root / "truth"
    truth.mkdir()
    ended = threading.Event()
    with World(root) as world:
        publishing = Publishing(world, truth, random.Random(rng.random()), ended)
        for model in MODELS:
            publishing.publish(model)
        publishing.start()
        readers = start_readers(world, truth, rng)
        chaos = Chaos(world, random.Random(rng.random()))
        try:
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                time.sleep(rng.uniform(1, 6))
                chaos.step()
        finally:
            ended.set()
            publishing.join()
        # With everything up again, what was damaged is found by the scrub.
        time.sleep(45)
        for reader in readers:
            reader.send(signal.SIGTERM)
        died = [reader.stderr for reader in readers if reader.wait(120).status != 0]
        held = held_gauges(world)
        counts, wrong = outcomes(readers)
        figures = {
            "machine": f"{os.cpu_count()} CPUs, {platform.machine()}, Python {platform.python_version()}",
            "seconds": seconds,
            "seed": seed,
            "reads": dict(counts.most_common()),
            "publishing": dict(publishing.counts),
            "chaos": dict(chaos.counts),
            "wrong": wrong,
            "readers that died": died,
            "gauges not zero": held,
            "store faults": store_faults(world),
            "samples": {member.name: _totals(member) for member in world.members},
        }
    print(json.dumps(figures, indent=2))
    bad = bool(wrong or died or held or figures["store faults"] or not counts["load"])
    print("the soak found faults" if bad else "the soak found no fault", flush=True)
    return 1 if bad else 0


def _totals(member: Member) -> dict[str, float]:
    wanted = ("corruptions", "healed", "evictions", "fills_total", "origin_bytes", "retries", "refetched")
    totals: defaultdict[str, float] = defaultdict(float)
    for name, value in member.metrics().items():
        plain = name.partition("{")[0]
        if any(word in plain for word in wanted):
            totals[plain] += value
    return dict(totals)


def main() -> int:
    """Parse the command line and soak in a folder that is removed afterwards."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=600, help="how long (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of all that is drawn (default: %(default)s)")
    parser.add_argument("--keep", type=Path, help="a folder for everything, kept")
    arguments = parser.parse_args()
    if arguments.keep is not None:
        arguments.keep.mkdir(parents=True)
        return run(arguments.seconds, arguments.seed, arguments.keep)
    with tempfile.TemporaryDirectory(prefix="hotstart-soak-") as folder:
        return run(arguments.seconds, arguments.seed, Path(folder))


if __name__ == "__main__":
    sys.exit(main())
