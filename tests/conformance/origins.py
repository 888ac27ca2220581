"""What every origin promises: one suite, passed by subclassing."""

from __future__ import annotations

import asyncio
import hashlib
import random
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hotstart.wire.adoption import ADOPTION_AGE_MS, Layout
from hotstart.wire.index import Index, IndexEntry
from hotstart.wire.layout import index_key
from hotstart.wire.manifest import Manifest, OriginObject
from hotstart.wire.ranges import ByteRange
from hotstart_proxy.origins.base import (
    AlreadyExists,
    ObjectChanged,
    ObjectInfo,
    Origin,
    OriginError,
    UploadCleared,
)
from hotstart_proxy.origins.catalog import catalog_of, perform

MIB = 1024 * 1024
ABSENT = OriginObject("org/bert/7/absent", '"no such etag"')


def noise(size: int, seed: int = 1) -> bytes:
    """Return bytes of which no two stretches are alike."""
    return random.Random(seed).randbytes(size)


class Bystander(ABC):
    """Reaches around the origin to what it keeps its objects in."""

    @abstractmethod
    def put(self, key: str, data: bytes) -> None:
        """Write an object, as somebody does who knows nothing of hotstart."""

    @abstractmethod
    def put_outside(self, key: str, data: bytes) -> None:
        """Write an object beside the origin's prefix, under a key that begins with the prefix's name."""

    @abstractmethod
    def leftovers(self) -> list[str]:
        """Return everything that is there: objects, temporary files, parts of uploads."""


def item_of(info: ObjectInfo) -> OriginObject:
    return OriginObject(info.key, info.etag, info.version_id)


async def read_range(origin: Origin, item: OriginObject, start: int, stop: int) -> bytes:
    async with origin.get(item, ByteRange(start, stop)) as chunks:
        return b"".join([chunk async for chunk in chunks])


async def receive_range(
    origin: Origin, item: OriginObject, start: int, stop: int, buffer_bytes: int = MIB
) -> bytes:
    buffer, got = memoryview(bytearray(buffer_bytes)), bytearray()
    async with origin.receive(item, ByteRange(start, stop), buffer) as chunks:
        async for chunk in chunks:
            got += chunk
    return bytes(got)


class OriginConformance:
    """Subclasses give the fixtures ``origin`` (entered, empty) and ``bystander``."""

    # Whether the condition on a large upload is decided atomically.
    decides_large_races = True

    async def test_an_absent_object_reads_as_none(self, origin: Origin) -> None:
        """Absence is None, not an error and not an empty object."""
        assert await origin.read("org/bert/.hotstart/index.json") is None
        assert await origin.head("org/bert/.hotstart/index.json") is None

    async def test_a_range_is_received_into_a_buffer(self, origin: Origin) -> None:
        """What is received into a buffer, over and over, are the bytes that were asked for, in order."""
        data = noise(5 * MIB + 13)
        info = await origin.put("a/weights", data)
        assert await receive_range(origin, item_of(info), 0, len(data)) == data
        assert await receive_range(origin, item_of(info), 7, 3 * MIB) == data[7 : 3 * MIB]
        assert await receive_range(origin, item_of(info), 5, 5) == b""

    async def test_a_replaced_object_is_not_received(self, origin: Origin) -> None:
        """Receiving is pinned like reading: another object's bytes never arrive."""
        info = await origin.put("a/weights", noise(1000))
        await origin.put("a/weights", noise(1000, seed=2))
        with pytest.raises(ObjectChanged):
            await receive_range(origin, item_of(info), 0, 1000)

    async def test_a_receiver_that_goes_away_leaves_the_origin_usable(self, origin: Origin) -> None:
        """One that leaves midway disturbs nobody who comes after it."""
        data = noise(8 * MIB)
        info = await origin.put("a/weights", data)
        async with origin.receive(
            item_of(info), ByteRange(0, len(data)), memoryview(bytearray(MIB))
        ) as chunks:
            async for _ in chunks:
                break
        assert await receive_range(origin, item_of(info), 0, len(data)) == data

    async def test_a_folder_is_no_object(self, origin: Origin) -> None:
        """The name of a folder reads as None."""
        await origin.put("org/bert/7/config.json", b"{}")
        assert await origin.read("org/bert/7") is None
        assert await origin.head("org/bert") is None

    async def test_below_an_object_is_nothing(self, origin: Origin) -> None:
        """A key that goes on below an object's key reads as None."""
        await origin.put("org/bert/7", b"a file")
        assert await origin.read("org/bert/7/config.json") is None

    async def test_what_was_put_is_read(self, origin: Origin) -> None:
        """A small object comes back whole, with the ETag that the write gave."""
        info = await origin.put("org/bert/7/config.json", b'{"a": 1}', media_type="application/json")
        found = await origin.read("org/bert/7/config.json")
        assert found is not None
        assert (found.data, found.etag) == (b'{"a": 1}', info.etag)
        assert info.size == 8
        assert info.etag.startswith('"')
        assert info.etag.endswith('"')

    async def test_a_known_etag_saves_the_bytes(self, origin: Origin) -> None:
        """A read with the present ETag brings no data; with an old one it brings the new data."""
        first = await origin.put("a/b", b"first")
        again = await origin.read("a/b", first.etag)
        assert again is not None
        assert (again.data, again.etag) == (None, first.etag)
        await origin.put("a/b", b"second")
        changed = await origin.read("a/b", first.etag)
        assert changed is not None
        assert changed.data == b"second"
        assert changed.etag != first.etag

    async def test_head_read_and_listing_agree(self, origin: Origin) -> None:
        """Size, ETag and time of an object are the same wherever they are asked for."""
        await origin.put("org/bert/7/config.json", b"12345")
        head = await origin.head("org/bert/7/config.json")
        read = await origin.read("org/bert/7/config.json")
        (listed,) = (await origin.list("org/bert/7/", recursive=True)).objects
        assert head is not None
        assert read is not None
        assert listed.key == head.key == "org/bert/7/config.json"
        assert listed.size == head.size == 5
        assert listed.etag == head.etag == read.etag
        assert listed.last_modified == read.last_modified == head.last_modified

    @pytest.mark.parametrize(
        ("start", "stop"),
        [(0, 3 * MIB + 17), (0, 1), (5, 6), (MIB - 1, 2 * MIB + 1), (3 * MIB + 16, 3 * MIB + 17)],
    )
    async def test_a_range_is_exactly_that(self, origin: Origin, start: int, stop: int) -> None:
        """A range brings the bytes from start to stop, the whole object and its last byte included."""
        data = noise(3 * MIB + 17)
        info = await origin.put("a/weights", data)
        assert await read_range(origin, item_of(info), start, stop) == data[start:stop]

    async def test_an_empty_range_brings_nothing(self, origin: Origin) -> None:
        """An empty range brings no bytes, of an empty object too, while the ETag still counts."""
        empty = await origin.put("a/empty", b"")
        full = await origin.put("a/full", b"12345")
        assert await read_range(origin, item_of(empty), 0, 0) == b""
        assert await read_range(origin, item_of(full), 3, 3) == b""
        with pytest.raises(ObjectChanged):
            await read_range(origin, OriginObject("a/full", empty.etag), 3, 3)

    @pytest.mark.parametrize(("start", "stop"), [(3, 6), (5, 6), (900, 1000)])
    async def test_more_than_there_is_is_an_error(self, origin: Origin, start: int, stop: int) -> None:
        """A range past the end means another object than the one asked for, never fewer bytes."""
        info = await origin.put("a/short", b"12345")
        with pytest.raises(ObjectChanged, match="a/short"):
            await read_range(origin, item_of(info), start, stop)

    async def test_a_get_is_pinned(self, origin: Origin) -> None:
        """An object with another ETag is not read."""
        old = await origin.put("a/weights", b"old bytes")
        await origin.put("a/weights", b"new bytes")
        with pytest.raises(ObjectChanged, match="a/weights"):
            await read_range(origin, item_of(old), 0, 9)

    async def test_a_get_of_nothing_is_an_error(self, origin: Origin) -> None:
        """A get of an absent object says so, for it was promised by a manifest."""
        with pytest.raises(ObjectChanged, match="absent"):
            await read_range(origin, ABSENT, 0, 1)

    async def test_a_get_after_a_delete_is_an_error(self, origin: Origin) -> None:
        """An object that was deleted is gone for a get too."""
        info = await origin.put("a/weights", b"bytes")
        await origin.delete("a/weights")
        with pytest.raises(ObjectChanged):
            await read_range(origin, item_of(info), 0, 5)

    async def test_replacing_never_mixes_bytes(self, origin: Origin, bystander: Bystander) -> None:
        """A get during which the object is replaced brings only old bytes, or ends with an error."""
        old = b"o" * (12 * MIB)
        bystander.put("a/weights", old)
        info = await origin.head("a/weights")
        assert info is not None
        got = bytearray()
        try:
            async with origin.get(item_of(info), ByteRange(0, len(old))) as chunks:
                async for chunk in chunks:
                    if not got:
                        bystander.put("a/weights", b"n" * len(old))
                    got += chunk
        except ObjectChanged:
            pass
        else:
            assert len(got) == len(old)
        assert got == b"o" * len(got)
        with pytest.raises(ObjectChanged):
            await read_range(origin, item_of(info), 0, 10)

    async def test_a_get_may_be_given_up(self, origin: Origin) -> None:
        """After a get was left in the middle the origin works as before."""
        data = noise(8 * MIB)
        info = await origin.put("a/weights", data)
        for _ in range(10):
            async with origin.get(item_of(info), ByteRange(0, len(data))) as chunks:
                assert await anext(aiter(chunks))
        assert await read_range(origin, item_of(info), 7 * MIB, 8 * MIB) == data[7 * MIB :]

    async def test_a_get_may_be_cancelled(self, origin: Origin) -> None:
        """A task cancelled within a get ends, and the origin works as before."""
        data = noise(8 * MIB)
        info = await origin.put("a/weights", data)
        begun = asyncio.Event()

        async def read() -> None:
            async with origin.get(item_of(info), ByteRange(0, len(data))) as chunks:
                async for _ in chunks:
                    begun.set()
                    await asyncio.sleep(0)

        task = asyncio.create_task(read())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await read_range(origin, item_of(info), 0, 10) == data[:10]

    async def test_many_ranges_at_once(self, origin: Origin) -> None:
        """Forty gets of one object run side by side without mixing."""
        data = noise(4 * MIB)
        info = await origin.put("a/weights", data)
        step = len(data) // 40
        parts = await asyncio.gather(
            *(read_range(origin, item_of(info), n * step, (n + 1) * step) for n in range(40))
        )
        assert b"".join(parts) == data[: 40 * step]

    async def test_a_put_replaces(self, origin: Origin) -> None:
        """Without a condition a put replaces what is there, a shorter object included."""
        await origin.put("a/b", b"a longer one")
        await origin.put("a/b", b"short")
        found = await origin.read("a/b")
        assert found is not None
        assert found.data == b"short"

    async def test_create_only_creates_once(self, origin: Origin) -> None:
        """A second create-only put is refused and changes nothing, the same bytes included."""
        await origin.put("a/b", b"first", create_only=True)
        for data in (b"second", b"first"):
            with pytest.raises(AlreadyExists, match="a/b"):
                await origin.put("a/b", data, create_only=True)
        found = await origin.read("a/b")
        assert found is not None
        assert found.data == b"first"

    async def test_create_only_after_a_delete(self, origin: Origin) -> None:
        """What was deleted may be created again."""
        await origin.put("a/b", b"first", create_only=True)
        await origin.delete("a/b")
        await origin.put("a/b", b"second", create_only=True)

    async def test_one_of_sixteen_creators_wins(self, origin: Origin) -> None:
        """In a race of create-only puts one wins, all others are told, and the winner's bytes stand."""
        for race in range(2):
            key = f"race/{race}"
            results = await asyncio.gather(
                *(origin.put(key, b"writer %d" % n, create_only=True) for n in range(16)),
                return_exceptions=True,
            )
            winners = [n for n, result in enumerate(results) if isinstance(result, ObjectInfo)]
            assert len(winners) == 1, results
            assert sum(isinstance(result, AlreadyExists) for result in results) == 15
            found = await origin.read(key)
            assert found is not None
            assert found.data == b"writer %d" % winners[0]

    async def test_if_match_writes_over_what_was_read(self, origin: Origin) -> None:
        """A put with the present ETag goes through; with an old one it is refused and changes nothing."""
        first = await origin.put("a/b", b"1")
        second = await origin.put("a/b", b"2", if_match=first.etag)
        assert second.etag != first.etag
        with pytest.raises(ObjectChanged, match="a/b"):
            await origin.put("a/b", b"3", if_match=first.etag)
        found = await origin.read("a/b")
        assert found is not None
        assert found.data == b"2"

    async def test_if_match_does_not_create(self, origin: Origin) -> None:
        """A put with If-Match on nothing is refused and leaves nothing."""
        with pytest.raises(ObjectChanged):
            await origin.put("a/b", b"1", if_match='"something"')
        assert await origin.read("a/b") is None

    async def test_compare_and_swap_loses_no_step(self, origin: Origin) -> None:
        """A counter that eight writers raise five times each by compare-and-swap ends at forty."""
        await origin.put("counter", b"0")

        async def raise_once() -> None:
            while True:
                found = await origin.read("counter")
                assert found is not None
                assert found.data is not None
                try:
                    await origin.put("counter", b"%d" % (int(found.data) + 1), if_match=found.etag)
                except ObjectChanged:
                    continue
                return

        async def writer() -> None:
            for _ in range(5):
                await raise_once()

        await asyncio.gather(*(writer() for _ in range(8)))
        found = await origin.read("counter")
        assert found is not None
        assert found.data == b"40"

    async def test_a_reader_sees_whole_states_only(self, origin: Origin) -> None:
        """While an object is replaced again and again every read brings one of its states whole."""
        states = [bytes([65 + n]) * (200_000 + n) for n in range(4)]
        await origin.put("a/b", states[0])
        done = asyncio.Event()

        async def replace() -> None:
            for n in range(20):
                await origin.put("a/b", states[n % 4])
            done.set()

        async def look() -> None:
            while not done.is_set():
                found = await origin.read("a/b")
                assert found is not None
                assert found.data in states

        await asyncio.gather(replace(), look(), look())

    async def test_an_empty_origin_lists_nothing(self, origin: Origin) -> None:
        """An origin without objects is empty, which is no error."""
        for recursive in (True, False):
            for prefix in ("", "org/", "org/bert/"):
                listing = await origin.list(prefix, recursive=recursive)
                assert (listing.objects, listing.folders) == ((), ())

    async def test_a_listing_has_folders(self, origin: Origin) -> None:
        """Not recursive, a listing has the objects directly there and the folders; recursive, all objects."""
        for key in (
            "top",
            "org/bert/7/config.json",
            "org/bert/7/unet/x",
            "org/bert/8/config.json",
            "org/readme",
        ):
            await origin.put(key, key.encode())
        top = await origin.list("", recursive=False)
        assert ([item.key for item in top.objects], top.folders) == (["top"], ("org/",))
        org = await origin.list("org/", recursive=False)
        assert ([item.key for item in org.objects], org.folders) == (["org/readme"], ("org/bert/",))
        bert = await origin.list("org/bert/", recursive=False)
        assert (bert.objects, bert.folders) == ((), ("org/bert/7/", "org/bert/8/"))
        below = await origin.list("org/bert/", recursive=True)
        assert [item.key for item in below.objects] == [
            "org/bert/7/config.json",
            "org/bert/7/unet/x",
            "org/bert/8/config.json",
        ]
        assert below.folders == ()
        everything = await origin.list("", recursive=True)
        assert len(everything.objects) == 5

    async def test_a_prefix_is_a_folder(self, origin: Origin) -> None:
        """A listing of org/bert/ has nothing of org/bert-large."""
        await origin.put("org/bert/7/a", b"1")
        await origin.put("org/bert-large/7/a", b"1")
        listing = await origin.list("org/bert/", recursive=True)
        assert [item.key for item in listing.objects] == ["org/bert/7/a"]

    async def test_a_long_listing_is_complete(self, origin: Origin, bystander: Bystander) -> None:
        """More objects than an origin gives at once are all listed, in order."""
        keys = [f"many/{n:04}" for n in range(1005)]
        await asyncio.gather(*(asyncio.to_thread(self._put_all, bystander, keys[n::4]) for n in range(4)))
        listing = await origin.list("many/", recursive=True)
        assert [item.key for item in listing.objects] == keys

    @staticmethod
    def _put_all(bystander: Bystander, keys: list[str]) -> None:
        for key in keys:
            bystander.put(key, b"x")

    async def test_nothing_beside_the_prefix_is_seen(self, origin: Origin, bystander: Bystander) -> None:
        """Objects beside the origin's prefix, under a name that begins like it, are not the origin's."""
        bystander.put_outside("secret", b"1")
        assert (await origin.list("", recursive=True)).objects == ()

    @pytest.mark.parametrize(
        "key",
        [
            "with space/a b.json",
            "ümläut/模型.json",
            "percent/100%.json",
            "percent/%2e%2e%2fx",
            "plus/a+b=c&d.json",
            "mark/a?b#c.json",
            'quote/it\'s "q"~!$().json',
            "emoji/🙂.bin",
            "/".join(["deep"] * 19),
            "long/" + "x" * 255,
            "org/bert/7/.hotstart/manifest.json",
        ],
    )
    async def test_any_name_of_a_file_works(self, origin: Origin, key: str, tmp_path: Path) -> None:
        """Keys with blanks, escapes, quotes and letters of all scripts work in every call."""
        info = await origin.put(key, key.encode())
        assert await read_range(origin, item_of(info), 0, info.size) == key.encode()
        (listed,) = (await origin.list("", recursive=True)).objects
        assert (listed.key, listed.etag) == (key, info.etag)
        await origin.delete(key)
        assert await origin.read(key) is None
        (tmp_path / "source").write_bytes(b"again")
        await origin.upload(key, tmp_path / "source", metadata={}, media_type="text/plain")
        found = await origin.read(key)
        assert found is not None
        assert found.data == b"again"

    @pytest.mark.parametrize("size", [0, 1, 5 * MIB, 20 * MIB + 3])
    async def test_an_upload_arrives(self, origin: Origin, tmp_path: Path, size: int) -> None:
        """A file of any size arrives, in parts where it is large, and progress comes to its size."""
        data = noise(size)
        (tmp_path / "source").write_bytes(data)
        sha256 = hashlib.sha256(data).hexdigest()
        steps: list[int] = []
        info = await origin.upload(
            "org/bert/7/weights",
            tmp_path / "source",
            metadata={"sha256": sha256},
            media_type="application/octet-stream",
            progress=steps.append,
        )
        assert (info.key, info.size, sum(steps)) == ("org/bert/7/weights", size, size)
        assert await read_range(origin, item_of(info), 0, size) == data
        head = await origin.head("org/bert/7/weights")
        assert head is not None
        assert (head.size, head.etag, head.metadata) == (size, info.etag, {"sha256": sha256})

    @pytest.mark.parametrize("size", [10, 18 * MIB])
    async def test_an_upload_overwrites_nothing(
        self, origin: Origin, bystander: Bystander, tmp_path: Path, size: int
    ) -> None:
        """An upload where there is an object is refused, and leaves that as it is and nothing else."""
        await origin.put("a/weights", b"first")
        before = bystander.leftovers()
        (tmp_path / "source").write_bytes(noise(size))
        with pytest.raises(AlreadyExists, match="a/weights"):
            await origin.upload("a/weights", tmp_path / "source", metadata={}, media_type="text/plain")
        found = await origin.read("a/weights")
        assert found is not None
        assert found.data == b"first"
        assert bystander.leftovers() == before

    async def test_one_of_four_uploaders_wins(self, origin: Origin, tmp_path: Path) -> None:
        """After a race of uploads in parts, the bytes of one that was told it won stand, whole."""
        contents = [noise(17 * MIB, seed) for seed in range(4)]
        for n, data in enumerate(contents):
            (tmp_path / str(n)).write_bytes(data)
        results = await asyncio.gather(
            *(
                origin.upload("a/weights", tmp_path / str(n), metadata={}, media_type="text/plain")
                for n in range(4)
            ),
            return_exceptions=True,
        )
        winners = [n for n, result in enumerate(results) if isinstance(result, ObjectInfo)]
        assert winners, results
        if self.decides_large_races:
            assert len(winners) == 1, results
        standing = await origin.head("a/weights")
        assert standing is not None
        read = await read_range(origin, item_of(standing), 0, 17 * MIB)
        assert read in [contents[n] for n in winners]

    async def test_a_cancelled_upload_leaves_nothing(
        self, origin: Origin, bystander: Bystander, tmp_path: Path
    ) -> None:
        """An upload cancelled in the middle leaves no object, no temporary file and no parts."""
        await origin.put("a/other", b"1")
        before = bystander.leftovers()
        (tmp_path / "source").write_bytes(noise(48 * MIB))
        begun = asyncio.Event()
        task = asyncio.create_task(
            origin.upload(
                "a/weights",
                tmp_path / "source",
                metadata={},
                media_type="text/plain",
                progress=lambda count: begun.set(),
            )
        )
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert bystander.leftovers() == before
        assert await origin.read("a/weights") is None

    async def test_an_upload_that_is_cleared_away_says_so(
        self, origin: Origin, bystander: Bystander, tmp_path: Path
    ) -> None:
        """Clearing ends an upload under way, which says so and leaves nothing, and touches no other."""
        await origin.put("a/other", b"1")
        before = bystander.leftovers()
        with (tmp_path / "source").open("wb") as source:
            source.truncate(128 * MIB)
        begun = asyncio.Event()
        task = asyncio.create_task(
            origin.upload(
                "a/deep/weights",
                tmp_path / "source",
                metadata={},
                media_type="text/plain",
                progress=lambda count: begun.set(),
            )
        )
        await begun.wait()
        await origin.clear_uploads("b/")
        assert bystander.leftovers() != before
        await origin.clear_uploads("a/")
        with pytest.raises(UploadCleared, match="cleared away"):
            await task
        assert bystander.leftovers() == before
        await origin.clear_uploads("a/")
        assert await origin.read("a/other") is not None

    async def test_clearing_disturbs_no_put(self, origin: Origin) -> None:
        """Small objects that are written while uploads are cleared away all arrive."""
        for turn in range(5):
            names = [f"a/{turn}/{number}" for number in range(20)]
            await asyncio.gather(
                *(origin.put(name, name.encode(), create_only=True) for name in names),
                *(origin.clear_uploads("a/") for _ in range(3)),
            )
            for name in names:
                found = await origin.read(name)
                assert found is not None
                assert found.data == name.encode()

    async def test_an_upload_of_no_file_says_so(self, origin: Origin, tmp_path: Path) -> None:
        """A source that is not there is an error that names it, and leaves nothing."""
        with pytest.raises(OriginError, match="no-such-source"):
            await origin.upload("a/b", tmp_path / "no-such-source", metadata={}, media_type="text/plain")
        assert await origin.read("a/b") is None

    async def test_delete_is_idempotent(self, origin: Origin) -> None:
        """Deleting removes one object, and what is not there may be deleted."""
        await origin.put("a/b", b"1")
        await origin.put("a/c", b"1")
        await origin.delete("a/b")
        await origin.delete("a/b")
        await origin.delete("never/was/there")
        assert [item.key for item in (await origin.list("", recursive=True)).objects] == ["a/c"]

    async def test_it_can_be_published_to(self, origin: Origin, bystander: Bystander) -> None:
        """The proof that conditional writes hold succeeds, and leaves nothing."""
        before = bystander.leftovers()
        await origin.check_publishable()
        await origin.check_publishable()
        assert (await origin.list("", recursive=True)).objects == ()
        assert [key for key in bystander.leftovers() if "probe" in key] == before

    async def test_its_tree_can_be_read_as_a_catalog(self, origin: Origin, bystander: Bystander) -> None:
        """A published index and a folder of plain files beside it come out as one index."""
        index = Index("org/bert").with_version(IndexEntry("1", 1_700_000_000_000)).with_alias("prod", "1")
        await origin.put(index_key("org/bert"), index.dump(), create_only=True)
        bystander.put("org/bert/2/model.safetensors", b"weights")
        catalog = catalog_of(origin, Layout())
        (listed,) = (await origin.list("org/bert/2/", recursive=True)).objects
        now = listed.last_modified + ADOPTION_AGE_MS
        assert await perform(origin, catalog.models()) == ("org/bert",)
        known = await perform(origin, catalog.index("org/bert", now))
        assert known is not None
        assert [entry.version for entry in known.index.versions] == ["1", "2"]
        assert known.index.resolve(None) == "1"
        data = await perform(origin, catalog.manifest("org/bert", "2", now))
        assert data is not None
        manifest = Manifest.parse(data)
        file = manifest.file("model.safetensors")
        assert file is not None
        assert await read_range(origin, file.origin, 0, file.size) == b"weights"

    async def test_what_is_told_is_without_secrets(self, origin: Origin) -> None:
        """An error names the origin and what was being done."""
        with pytest.raises(ObjectChanged) as raised:
            await read_range(origin, ABSENT, 0, 1)
        assert raised.value.origin == origin.url
        assert "org/bert/7/absent" in raised.value.doing


async def entered(origin: Origin) -> AsyncIterator[Origin]:
    """Body of a fixture: the origin, open for the test's time."""
    async with origin:
        yield origin
