"""The first two minutes: real weights, published in six versions, served, and loaded in every way.

``make demo`` runs it, ``make demo ORIGIN=s3`` through a real S3 server. All that it makes lies in one folder
below ``.demo/`` and is removed at the end, also after Ctrl-C, and so are its processes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import numpy
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import hotstart

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from tests.support.models import digests, minilm_folder  # noqa: E402
from tests.support.s3 import S3Server  # noqa: E402

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
WEIGHTS = "model.safetensors"
VERSIONS = [str(number) for number in range(1, 7)]
NEWEST, OLDEST = VERSIONS[-1], VERSIONS[0]
COMMAND = str(Path(sys.executable).parent / "hotstart")
READY_SECONDS = 30
STOP_SECONDS = 10


class DemoFailed(Exception):
    """Something did not go as it should; the message says what."""


def say(text: str = "") -> None:
    print(text, flush=True)


def step(number: int, text: str) -> None:
    bold, plain = ("\x1b[1m", "\x1b[0m") if sys.stdout.isatty() else ("", "")
    say(f"\n{bold}{number}. {text}{plain}")


@contextmanager
def workplace(base: Path) -> Iterator[Path]:
    """A folder for all that the demo makes, below base, which is created and removed as well."""
    created = not base.exists()
    base.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=base))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if created and not any(base.iterdir()):
            base.rmdir()


@contextmanager
def running(log: Path, *command: str, environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process in the background, ended in order at the end."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            # Ctrl-C is for the demo, which then ends this.
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


# Versions


def make_version(folder: Path, version: str) -> Path:
    """Make a folder like the real one, whose weights are really other bytes: version 1 is the real thing."""
    original = minilm_folder()
    shutil.copytree(original, folder, ignore=shutil.ignore_patterns(WEIGHTS, "*.md", ".git*"))
    if version == OLDEST:
        shutil.copy(original / WEIGHTS, folder / WEIGHTS)
        return folder
    tensors = load_file(original / WEIGHTS)
    with safe_open(original / WEIGHTS, framework="numpy") as file:
        metadata = file.metadata()
    # As if trained a little further: one weight matrix and all biases of a layer.
    noise = numpy.random.default_rng(int(version))
    for name, tensor in tensors.items():
        if name.endswith("word_embeddings.weight") or ".layer.5." in name:
            step = noise.normal(scale=1e-3, size=tensor.shape)
            tensors[name] = (tensor + step).astype(tensor.dtype)
    save_file(tensors, folder / WEIGHTS, metadata)
    return folder


def publish(folder: Path, version: str, origin: str, environment: Mapping[str, str]) -> None:
    alias = ["--alias", "prod"] if version == NEWEST else []
    command = [COMMAND, "publish", str(folder), f"{MODEL}@{version}", "--origin", origin, *alias]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DemoFailed(f"{' '.join(command)}\n{done.stdout}{done.stderr}")


# Serving


@dataclass(frozen=True, slots=True)
class Proxy:
    """A running proxy: where it listens, and where it keeps its copies."""

    url: str
    unix: str
    store: Path

    def get(self, path: str) -> Any:
        """GET a JSON document from it."""
        with urllib.request.urlopen(f"{self.url}{path}", timeout=READY_SECONDS) as answer:
            return json.load(answer)


@contextmanager
def serve(folder: Path, origin: str, environment: Mapping[str, str]) -> Iterator[Proxy]:
    """Start hotstart serve and wait until it is ready."""
    # The path of a Unix socket is short by law, and a checkout's may be long.
    sockets = Path(tempfile.mkdtemp(prefix="hotstart-demo-"))
    proxy = Proxy(f"http://127.0.0.1:{free_port()}", f"unix:{sockets}/hotstart.sock", folder / "store")
    command = [COMMAND, "serve", "--origin", origin, "--store", f"disk:{proxy.store}"]
    command += ["--listen", proxy.url.removeprefix("http://"), "--listen", proxy.unix]
    log = folder / "serve.log"
    try:
        with running(log, *command, environment=environment) as process:
            deadline = time.monotonic() + READY_SECONDS
            while not is_ready(proxy):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise DemoFailed(f"hotstart serve did not start:\n{log.read_text()}")
                time.sleep(0.02)
            shown = [word.replace(str(folder), "...") for word in ("hotstart", *command[1:])]
            say(f"   {' '.join(shown[:6])} \\\n       {' '.join(shown[6:])}")
            yield proxy
    finally:
        shutil.rmtree(sockets, ignore_errors=True)


def is_ready(proxy: Proxy) -> bool:
    try:
        proxy.get("/healthz/ready")
    except OSError:
        return False
    return True


# Loading


@dataclass(frozen=True, slots=True)
class Load:
    """One load, measured: from the call to the last tensor."""

    version: str
    way: str
    seconds: float
    tensors: int
    size: int


def load_and_check(
    folders: Mapping[str, Path], version: str, way: str, sources: Mapping[str, str], repeats: int = 1
) -> Load:
    """Load one version, and compare every tensor with what the safetensors library reads from its folder.

    Of several repeats the fastest counts.
    """
    file = folders[version] / WEIGHTS
    expected = digests(load_file(file))
    fastest = float("inf")
    for _ in range(repeats):
        began = time.perf_counter()
        weights = hotstart.open(f"{MODEL}@{version}", **sources).load(framework="numpy")
        fastest = min(fastest, time.perf_counter() - began)
        if weights.version != version or digests(weights) != expected:
            raise DemoFailed(f"{MODEL}@{version} ({way}) is not what was published:\n{weights.report}")
    return Load(version, way, fastest, len(expected), file.stat().st_size)


def show(loads: list[Load]) -> None:
    say(f"   {'version':<9}{'way':<42}{'time':>9}{'speed':>12}   equal, bit for bit")
    say("   " + "-" * 92)
    for load in loads:
        speed = f"{load.size / load.seconds / 1e9:.2f} GB/s"
        say(
            f"   {load.version:<9}{load.way:<42}{load.seconds * 1000:>6.0f} ms{speed:>12}"
            f"   {load.tensors} tensors"
        )


# The demo itself


def run(origin_kind: str, base: Path) -> None:
    say(f"hotstart {hotstart.__version__}: {MODEL}, 91 MB of real weights")
    with ExitStack() as stack:
        folder = stack.enter_context(workplace(base))
        environment = {name: text for name, text in os.environ.items() if not name.startswith("HOTSTART_")}
        if origin_kind == "s3":
            say("starting SeaweedFS, a real S3 server ...")
            server = stack.enter_context(S3Server(folder / "s3"))
            say(f"   {server.endpoint}")
            server.create_bucket("models")
            environment |= server.environment()
            origin = "s3://models/demo"
        else:
            origin = f"file://{folder}/origin"

        step(1, f"Publish six versions of {MODEL}")
        folders = {}
        for version in VERSIONS:
            folders[version] = make_version(folder / f"version-{version}", version)
            began = time.perf_counter()
            publish(folders[version], version, origin, environment)
            size = (folders[version] / WEIGHTS).stat().st_size
            seconds = time.perf_counter() - began
            say(f"   hotstart publish ./model {MODEL}@{version}   {size / 1e6:.1f} MB   {seconds:.1f} s")

        step(2, "Serve them")
        proxy = stack.enter_context(serve(folder, origin, environment))

        step(3, "Load them, and compare every tensor with the safetensors library's reading")
        # The client reads its credentials from the environment, as any AWS client.
        os.environ.update({name: text for name, text in environment.items() if name.startswith("AWS_")})
        show(load_in_every_way(folders, proxy, origin))

        step(4, "Five versions are kept, and the sixth newest was served all the same")
        show_kept(proxy)


def load_in_every_way(folders: Mapping[str, Path], proxy: Proxy, origin: str) -> list[Load]:
    """Load cold and warm, near and far, and every version once, so that five of them are kept."""
    tcp = {"proxy": proxy.url}
    unix = {"proxy": proxy.unix}
    nothing = {"origin": origin}
    shared = {**unix, "shared_dir": str(proxy.store)}

    def load(version: str, way: str, sources: Mapping[str, str], repeats: int = 1) -> Load:
        return load_and_check(folders, version, way, sources, repeats)

    # Not shown: it pays for what is imported once, so that the rest are times of loading.
    load(NEWEST, "", nothing)
    loads = [
        load(NEWEST, "TCP, cold: filled from the origin", tcp),
        load(NEWEST, "TCP, warm", tcp, 3),
        load("5", "Unix socket, cold", unix),
        load("5", "Unix socket, warm", unix, 3),
        load(NEWEST, "shared volume: mapped, no byte moves", shared, 3),
        load(NEWEST, "no proxy: the origin itself", nothing, 3),
    ]
    for version in ("4", "3", "2"):
        load(version, "", tcp)
    return [*loads, load(OLDEST, "TCP, the oldest: served, not kept", tcp)]


def show_kept(proxy: Proxy) -> None:
    """Ask the proxy what it keeps, and make sure that it is the newest five."""
    model = proxy.get(f"/v1/models/{MODEL}")
    published = [entry["version"] for entry in model["versions"]]
    cached = {version: sum(files.values()) for version, files in model["cached"].items() if files}
    say(f"   published   {' '.join(published)}    prod = {model['aliases']['prod']}")
    say(f"   in store    {' '.join(sorted(cached))}    {sum(cached.values()) / 1e6:.0f} MB")
    if sorted(cached) != VERSIONS[1:]:
        raise DemoFailed(f"expected the newest five versions in the store, found {sorted(cached)}")


def interrupted(number: int, frame: FrameType | None) -> NoReturn:
    # As Ctrl-C: the context managers clean up.
    raise KeyboardInterrupt


def main() -> int:
    parser = argparse.ArgumentParser(description="Publish, serve and load real weights.")
    parser.add_argument("--origin", choices=("file", "s3"), default="file")
    parser.add_argument("--folder", type=Path, default=REPOSITORY / ".demo", help="2 GB for a minute")
    arguments = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)
    began = time.perf_counter()
    try:
        run(arguments.origin, arguments.folder)
    except KeyboardInterrupt:
        say("\ninterrupted; everything is cleaned up")
        return 130
    except (DemoFailed, hotstart.HotstartError) as error:
        say(f"\nthe demo failed: {error}")
        return 1
    say(f"\nDone in {time.perf_counter() - began:.0f} s; everything is cleaned up.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
