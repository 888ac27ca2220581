"""A directory as the origin: the common promises, and those about files, links and locks."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hotstart.wire.manifest import OriginObject
from hotstart.wire.ranges import ByteRange
from hotstart_proxy.origins.base import (
    ObjectChanged,
    Origin,
    OriginDenied,
    OriginError,
    OriginUnreachable,
)
from hotstart_proxy.origins.directory import DirectoryOrigin
from tests.conformance.origins import MIB, Bystander, OriginConformance, entered, item_of, noise, read_range


class Directory(Bystander):
    """The directory itself."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, key: str, data: bytes) -> None:
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def put_outside(self, key: str, data: bytes) -> None:
        beside = self.root.with_name(f"{self.root.name}-beside")
        beside.mkdir()
        (beside / key).write_bytes(data)

    def leftovers(self) -> list[str]:
        found = (path.relative_to(self.root).as_posix() for path in self.root.rglob("*") if path.is_file())
        return sorted(name for name in found if name != ".hotstart-lock")


@pytest.fixture
def bystander(tmp_path: Path) -> Directory:
    root = tmp_path / "origin"
    root.mkdir()
    return Directory(root)


@pytest.fixture
async def origin(bystander: Directory) -> AsyncIterator[Origin]:
    async for origin in entered(DirectoryOrigin(bystander.root)):
        yield origin


class TestDirectoryOrigin(OriginConformance):
    """The common promises."""


async def test_it_never_presigns(origin: Origin) -> None:
    """A directory has no URLs to give."""
    info = await origin.put("a/b", b"1")
    assert origin.can_presign is False
    assert await origin.presign(item_of(info), 60) is None


async def test_a_missing_directory_is_not_an_empty_one(tmp_path: Path) -> None:
    """Reading a directory that is not there is an error that says what to do, never "no such model"."""
    async with DirectoryOrigin(tmp_path / "not-mounted") as origin:
        for call in (
            origin.read("a/b"),
            origin.head("a/b"),
            origin.list("", recursive=True),
            origin.list("org/bert/", recursive=False),
            read_range(origin, OriginObject("a/b", '"x"'), 0, 1),
        ):
            with pytest.raises(OriginUnreachable, match="create or mount it"):
                await call


async def test_publishing_makes_the_directory(tmp_path: Path) -> None:
    """The first write makes the directory and all folders."""
    async with DirectoryOrigin(tmp_path / "new" / "origin") as origin:
        await origin.put("org/bert/7/config.json", b"{}", create_only=True)
        assert (tmp_path / "new" / "origin" / "org" / "bert" / "7" / "config.json").read_bytes() == b"{}"


@pytest.mark.parametrize(
    "key",
    [
        "../outside",
        "a/../../outside",
        "/etc/passwd",
        "a//b",
        "a/./b",
        "",
        "a/",
        "a\0b",
        ".hotstart-lock",
        "a/.hotstart-tmp-1",
    ],
)
async def test_only_plain_keys_are_taken(origin: Origin, bystander: Directory, key: str) -> None:
    """A key that could lead out of the directory, or to the origin's own files, is refused."""
    bystander.root.with_name("outside").write_bytes(b"secret")
    (bystander.root / "a").mkdir()
    for call in (
        origin.read(key),
        origin.head(key),
        origin.put(key, b"1"),
        origin.delete(key),
        read_range(origin, OriginObject(key, '"x"'), 0, 1),
    ):
        with pytest.raises(OriginDenied):
            await call
    assert bystander.root.with_name("outside").read_bytes() == b"secret"


async def test_links_do_not_lead_out(origin: Origin, bystander: Directory, tmp_path: Path) -> None:
    """What a symbolic link outside leads to is neither read nor written nor listed."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    (bystander.root / "folder").symlink_to(outside)
    (bystander.root / "file").symlink_to(outside / "secret")
    for call in (
        origin.read("file"),
        origin.read("folder/secret"),
        origin.put("folder/new", b"1"),
        origin.list("folder/", recursive=True),
        origin.delete("folder/secret"),
    ):
        with pytest.raises(OriginDenied, match="leads out"):
            await call
    assert (await origin.list("", recursive=True)).objects == ()
    assert (await origin.list("", recursive=False)).folders == ()
    assert sorted(path.name for path in outside.iterdir()) == ["secret"]


async def test_writing_and_deleting_take_the_link_itself(
    origin: Origin, bystander: Directory, tmp_path: Path
) -> None:
    """A put over a link, or its deletion, leaves alone what the link leads to."""
    (tmp_path / "outside").write_bytes(b"secret")
    (bystander.root / "a").symlink_to(tmp_path / "outside")
    (bystander.root / "b").symlink_to(tmp_path / "outside")
    await origin.put("a", b"new")
    await origin.delete("b")
    assert (tmp_path / "outside").read_bytes() == b"secret"
    assert [item.key for item in (await origin.list("", recursive=True)).objects] == ["a"]


async def test_links_inside_are_followed(origin: Origin, bystander: Directory) -> None:
    """Trees that share files by links inside the directory are read and listed like others."""
    bystander.put("blobs/x", b"weights")
    (bystander.root / "org" / "bert" / "7").mkdir(parents=True)
    (bystander.root / "org" / "bert" / "7" / "model.safetensors").symlink_to("../../../blobs/x")
    (bystander.root / "org" / "same").symlink_to("bert")
    found = await origin.read("org/same/7/model.safetensors")
    assert found is not None
    assert found.data == b"weights"
    keys = [item.key for item in (await origin.list("org/", recursive=True)).objects]
    assert keys == ["org/bert/7/model.safetensors", "org/same/7/model.safetensors"]


async def test_links_in_circles_end(origin: Origin, bystander: Directory) -> None:
    """A link to a folder that it lies in, and one to itself, do not make a listing endless."""
    bystander.put("a/file", b"1")
    (bystander.root / "a" / "up").symlink_to("..")
    (bystander.root / "loop").symlink_to("loop")
    assert [item.key for item in (await origin.list("", recursive=True)).objects] == ["a/file"]
    with pytest.raises(OriginUnreachable, match="loop"):
        await origin.read("loop")


async def test_other_things_than_files_are_no_objects(origin: Origin, bystander: Directory) -> None:
    """A FIFO is neither listed nor waited for."""
    os.mkfifo(bystander.root / "pipe")
    assert await origin.read("pipe") is None
    assert (await origin.list("", recursive=True)).objects == ()


async def test_names_that_are_no_text_show_and_never_match(origin: Origin, bystander: Directory) -> None:
    """A name that is not UTF-8 is listed with escapes, so that somebody can be told why it is ignored."""
    (bystander.root / os.fsdecode(b"bad-\xff")).write_bytes(b"1")
    (listed,) = (await origin.list("", recursive=True)).objects
    assert listed.key == "bad-\\xff"


async def test_own_files_are_hidden_and_old_ones_removed(origin: Origin, bystander: Directory) -> None:
    """What a crash left is never listed, and goes with a write a day later."""
    bystander.put("a/.hotstart-tmp-old", b"left")
    bystander.put("a/.hotstart-tmp-new", b"being written")
    os.utime(bystander.root / "a" / ".hotstart-tmp-old", (0, 0))
    assert (await origin.list("", recursive=True)).objects == ()
    await origin.put("a/b", b"1")
    assert bystander.leftovers() == ["a/.hotstart-tmp-new", "a/b"]


async def test_a_folder_goes_with_its_last_object(origin: Origin) -> None:
    """A folder without objects is not listed: as in a bucket, there is none."""
    await origin.put("org/bert/7/unet/x", b"1")
    await origin.delete("org/bert/7/unet/x")
    assert (await origin.list("", recursive=False)).folders == ()


async def test_writing_in_place_ends_a_get(origin: Origin, bystander: Directory) -> None:
    """A file that is written to while it is read ends the get before a new byte is given."""
    bystander.put("a/weights", b"o" * (4 * MIB))
    info = await origin.head("a/weights")
    assert info is not None
    got = bytearray()

    async def read_and_write() -> None:
        async with origin.get(item_of(info), ByteRange(0, 4 * MIB)) as chunks:
            async for chunk in chunks:
                if not got:
                    with (bystander.root / "a" / "weights").open("r+b") as file:
                        file.write(b"n" * (4 * MIB))
                got.extend(chunk)

    with pytest.raises(ObjectChanged, match="written to"):
        await read_and_write()
    assert got == b"o" * len(got)


async def test_a_replacement_within_one_tick_has_another_etag(origin: Origin, bystander: Directory) -> None:
    """Replacements that are quicker than the filesystem's clock all have ETags of their own."""
    etags = [(await origin.put("a/b", b"same size")).etag for _ in range(50)]
    future = time.time_ns() + 3_600_000_000_000
    os.utime(bystander.root / "a" / "b", ns=(future, future))
    etags.append((await origin.put("a/b", b"same size")).etag)
    assert len(set(etags)) == 51


async def test_other_processes_keep_to_the_lock(origin: Origin, bystander: Directory) -> None:
    """Compare-and-swap holds between processes: three of them and we raise a counter to forty."""
    await origin.put("counter", b"0")
    program = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from hotstart_proxy.origins.base import ObjectChanged\n"
        "from hotstart_proxy.origins.directory import DirectoryOrigin\n"
        "async def main():\n"
        "    async with DirectoryOrigin(Path(sys.argv[1])) as origin:\n"
        "        done = 0\n"
        "        while done < 10:\n"
        "            found = await origin.read('counter')\n"
        "            try:\n"
        "                await origin.put('counter', b'%d' % (int(found.data) + 1), if_match=found.etag)\n"
        "            except ObjectChanged:\n"
        "                continue\n"
        "            done += 1\n"
        "asyncio.run(main())\n"
    )
    command = [sys.executable, "-c", program, str(bystander.root)]
    await asyncio.gather(
        *(asyncio.to_thread(subprocess.run, command, check=True, timeout=50) for _ in range(4))
    )
    assert (bystander.root / "counter").read_bytes() == b"40"


async def test_a_file_where_a_folder_should_be_is_an_error(origin: Origin, tmp_path: Path) -> None:
    """What no directory can hold, an object below an object, is refused in words."""
    await origin.put("a/b", b"1")
    (tmp_path / "source").write_bytes(b"1")
    with pytest.raises(OriginError, match="a/b"):
        await origin.put("a/b/c", b"1")
    with pytest.raises(OriginError, match="a/b"):
        await origin.upload("a/b/c", tmp_path / "source", metadata={}, media_type="text/plain")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
async def test_a_file_without_rights_is_denied(origin: Origin, bystander: Directory) -> None:
    """A file that we may not read is denied, not absent."""
    bystander.put("a/b", b"1")
    (bystander.root / "a" / "b").chmod(0)
    with pytest.raises(OriginDenied):
        await origin.read("a/b")


async def test_files_can_be_read_by_others(origin: Origin, bystander: Directory, tmp_path: Path) -> None:
    """Published files have the modes that the umask gives, so that a proxy of another user reads them."""
    before = os.umask(0o022)
    try:
        (tmp_path / "source").write_bytes(noise(10))
        await origin.put("a/b", b"1")
        await origin.upload("a/c", tmp_path / "source", metadata={}, media_type="text/plain")
    finally:
        os.umask(before)
    assert {(bystander.root / "a" / name).stat().st_mode & 0o777 for name in "bc"} == {0o644}
