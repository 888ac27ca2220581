"""Aliases that move under load: nobody ever gets files of two versions, and going back is a move as well."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hotstart
from tests.support.deadlines import wait_until
from tests.support.processes import Processes, Proxy

READERS = 32
FLIPS = 4
FILES = ("config.json", "tokenizer.json", "weights/a.bin", "weights/b.bin")
FILE_BYTES = 300_000


def content(version: str, file: str) -> bytes:
    """The bytes of a file: the version that they are of, again and again."""
    line = f"{file} of version {version}\n".encode()
    return line * (FILE_BYTES // len(line))


def publish(processes: Processes, origin: Path, folder: Path, version: str) -> None:
    """Publish a version, each of whose files tells which it is."""
    for file in FILES:
        path = folder / version / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content(version, file))
    processes.run(
        "publish", str(folder / version), f"org/bert@{version}", "--origin", f"file://{origin}"
    ).check()


def move(processes: Processes, origin: Path, version: str) -> None:
    """Make prod mean a version, with the installed command."""
    processes.run("alias", "org/bert", f"prod={version}", "--origin", f"file://{origin}").check()


def read_once(proxy: Proxy, folder: Path) -> str:
    """Open prod once, read all files of what it meant, and return the version that they all are of."""
    model = hotstart.open("org/bert@prod", proxy=proxy.url, origin="", shared_dir="", fallback="")
    model.download(folder)
    for file in FILES:
        assert (folder / file).read_bytes() == content(model.version, file), (model.version, file)
        # Files that are right are left alone, and the next round must read.
        (folder / file).unlink()
    return model.version


def test_no_reader_gets_files_of_two_versions(processes: Processes, tmp_path: Path) -> None:
    """While an alias goes to and fro, 32 readers that open once get all files of one version each time."""
    origin = tmp_path / "origin"
    origin.mkdir()
    for version in ("1", "2"):
        publish(processes, origin, tmp_path, version)
    move(processes, origin, "1")
    proxy = processes.serve(f"file://{origin}", tmp_path / "store", "--alias-ttl", "50ms")
    ended = threading.Event()

    def keep_reading(number: int) -> Counter[str]:
        seen: Counter[str] = Counter()
        while not ended.is_set() or not seen:
            seen[read_once(proxy, tmp_path / f"reader-{number}")] += 1
        return seen

    with ThreadPoolExecutor(READERS) as threads:
        readers = [threads.submit(keep_reading, number) for number in range(READERS)]
        try:
            for flip in range(FLIPS):
                move(processes, origin, "2" if flip % 2 == 0 else "1")
        finally:
            ended.set()
        seen = sum((reader.result() for reader in readers), Counter[str]())
    assert set(seen) == {"1", "2"}
    assert seen.total() >= READERS


def test_a_rollback_is_an_alias_move(processes: Processes, tmp_path: Path) -> None:
    """After a move back the version before is what prod means, and it comes from the store."""
    origin = tmp_path / "origin"
    origin.mkdir()
    publish(processes, origin, tmp_path, "1")
    move(processes, origin, "1")
    proxy = processes.serve(f"file://{origin}", tmp_path / "store", "--alias-ttl", "50ms")
    assert read_once(proxy, tmp_path / "reader") == "1"
    publish(processes, origin, tmp_path, "2")
    move(processes, origin, "2")

    def read() -> str:
        return read_once(proxy, tmp_path / "reader")

    wait_until("the rollout", lambda: read() == "2")
    wait_until("all of it to be in the store", lambda: proxy.metric("hotstart_store_blobs") == 2 * len(FILES))
    fetched = proxy.metric("hotstart_origin_bytes_total")
    move(processes, origin, "1")
    wait_until("the rollback", lambda: read() == "1")
    assert proxy.metric("hotstart_origin_bytes_total") == fetched
