"""What a reader sees when the origin's bytes are not those that were published."""

from __future__ import annotations

import os
from pathlib import Path

from tests.integration.server.conftest import BIG_BYTES, Published
from tests.integration.server.wire import ask, connected
from tests.support.deadlines import wait_until
from tests.support.processes import Processes

BIG = "/v1/models/org/bert@7/big.bin"
PIECE_BYTES = 4 * 1024 * 1024


def flip(path: Path, offset: int) -> None:
    """Change one byte in place, so that only a digest can tell: size, times and inode stay."""
    times = path.stat()
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes((byte[0] ^ 1,)))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_damage_at_the_end_never_ends_well(
    processes: Processes, own_origin: Published, tmp_path: Path
) -> None:
    """A body ends before the first wrong piece, or there is none; nothing of it is committed."""
    flip(own_origin.root / "org/bert/7/big.bin", BIG_BYTES - 10)
    proxy = processes.serve(own_origin.url, tmp_path / "store")
    data = (own_origin.folders["7"] / "big.bin").read_bytes()
    with connected(proxy.port) as wire:
        wire.request("GET", BIG, {"Connection": "close"})
        status, headers = wire.head()
        received = wire.until_end()
    if status == 200:
        assert headers["content-length"] == str(BIG_BYTES)
        assert len(received) <= BIG_BYTES - PIECE_BYTES
        assert received == data[: len(received)]
        assert proxy.metric("hotstart_cut_answers_total", reason="damaged") == 1
    else:
        # The pieces are fetched side by side, so the last may fail before the first is sent.
        assert status == 502
    assert "origin-damaged" in proxy.process.stderr
    assert proxy.metric("hotstart_store_blobs") == 0
    good = ask(proxy.port, BIG, {"Range": "bytes=0-99"})
    assert good.body == data[:100]


def test_damage_at_the_start_is_a_status(processes: Processes, own_origin: Published, tmp_path: Path) -> None:
    """When the very first bytes are wrong, the answer is a 502 and no body at all."""
    flip(own_origin.root / "org/bert/7/config.json", 3)
    proxy = processes.serve(own_origin.url, tmp_path / "store")
    ask(proxy.port, "/v1/models/org/bert@7/config.json").problem(502, "origin-damaged")
    assert proxy.metric("hotstart_cut_answers_total") == 0


def test_a_replaced_object_is_a_status(processes: Processes, own_origin: Published, tmp_path: Path) -> None:
    """An object that is not the one of the manifest is refused, and said to have changed."""
    target = own_origin.root / "org/bert/7/config.json"
    target.unlink()
    target.write_text("another")
    proxy = processes.serve(own_origin.url, tmp_path / "store")
    ask(proxy.port, "/v1/models/org/bert@7/config.json").problem(502, "origin-changed")
    assert ask(proxy.port, "/v1/models/org/bert@7/tokenizer.json").status == 200


def test_a_manifest_that_is_damaged_is_a_status(
    processes: Processes, own_origin: Published, tmp_path: Path
) -> None:
    """A document that breaks its format is the origin's fault, not a missing version."""
    manifest = own_origin.root / "org/bert/7/.hotstart/manifest.json"
    manifest.write_text("{")
    proxy = processes.serve(own_origin.url, tmp_path / "store")
    answer = ask(proxy.port, "/v1/models/org/bert@7")
    assert answer.status == 502
    assert answer.json()["code"].startswith("origin-")


def test_an_alias_moves_under_a_running_proxy(
    processes: Processes, published: Published, tmp_path: Path
) -> None:
    """After the alias's time to live its URL means the new version, with another ETag and location."""
    root = tmp_path / "origin"
    for version, alias in (("6", "prod"), ("7", None)):
        arguments = ["--origin", f"file://{root}"] + (["--alias", alias] if alias else [])
        processes.run("publish", str(published.folders[version]), f"org/bert@{version}", *arguments).check()
    proxy = processes.serve(f"file://{root}", tmp_path / "store", "--alias-ttl", "50ms")
    target = "/v1/models/org/bert@prod/model.safetensors"
    before = ask(proxy.port, target, {"Range": "bytes=0-9"})
    assert before.headers["content-location"] == "/v1/models/org/bert@6/model.safetensors"
    processes.run("alias", "org/bert", "prod=7", "--origin", f"file://{root}").check()

    def moved() -> bool:
        answer = ask(proxy.port, target, {"Range": "bytes=0-9", "If-Range": before.headers["etag"]})
        return answer.status == 200 and answer.headers["etag"] != before.headers["etag"]

    wait_until("the alias to be seen to have moved", moved)
    assert proxy.metric("hotstart_alias_info", model="org/bert", alias="prod", version="7") == 1
    assert proxy.metric("hotstart_alias_info", model="org/bert", alias="prod", version="6") == 0


def test_an_adopted_version_is_not_immutable(processes: Processes, tmp_path: Path) -> None:
    """Plain files that someone uploaded may be replaced, so nobody is told to keep them for ever."""
    folder = tmp_path / "origin/org/plain/1"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    os.utime(folder / "config.json", (1_700_000_000, 1_700_000_000))
    proxy = processes.serve(f"file://{tmp_path / 'origin'}", tmp_path / "store")
    for target in ("/v1/models/org/plain@1/config.json", "/v1/models/org/plain@1"):
        answer = ask(proxy.port, target)
        assert answer.status == 200
        assert answer.headers["cache-control"] == "public, max-age=10"
    answer = ask(proxy.port, "/v1/models/org/plain@1/config.json")
    assert "repr-digest" not in answer.headers
    assert answer.headers["last-modified"] == "Tue, 14 Nov 2023 22:13:20 GMT"


def test_the_test_itself_flips_a_byte(tmp_path: Path) -> None:
    """The damage of these tests leaves size, time and inode as they were."""
    file = tmp_path / "x"
    file.write_bytes(b"abc")
    before = file.stat()
    flip(file, 1)
    after = file.stat()
    assert file.read_bytes() == b"acc"
    assert (before.st_mtime_ns, before.st_size, before.st_ino) == (
        after.st_mtime_ns,
        after.st_size,
        after.st_ino,
    )
