"""What every store must do: pass it by subclassing, with hooks that reach around the store."""

from __future__ import annotations

import asyncio
import hashlib
import os
import zlib
from abc import ABC, abstractmethod
from contextlib import AbstractAsyncContextManager

import pytest

from hotstart.wire.errors import IntegrityError
from hotstart.wire.pieces import PIECE_BYTES, PieceHasher, Pieces, piece_count, piece_range
from hotstart.wire.ranges import ByteRange
from hotstart_proxy.stores.base import Blob, FileSlice, NeverFits, NoSpaceNow, PartialBlob, Store, StoreError

__all__ = ["StoreSuite", "begin", "content", "digests", "fill", "read_all"]

TWO_PIECES = bytes(range(256)) * (PIECE_BYTES // 256) + b"the second piece"


def content(data: bytes) -> str:
    """Return the content id of data."""
    return hashlib.sha256(data).hexdigest()


def digests(data: bytes) -> Pieces:
    """Return the pieces of data."""
    hasher = PieceHasher()
    hasher.update(data)
    return hasher.finish()[1]


async def write(partial: PartialBlob, data: bytes, pieces: range | None = None) -> None:
    """Write some pieces of data, all by default."""
    for piece in range(piece_count(len(data))) if pieces is None else pieces:
        place = piece_range(piece, len(data))
        part = data[place.start : place.stop]
        await partial.write(piece, part, zlib.crc32(part))


async def begin(store: Store, content_id: str, size: int, pieces: Pieces | None) -> PartialBlob:
    """Begin a fill of a blob that is not there yet."""
    partial = await store.begin_fill(content_id, size, pieces)
    assert partial is not None
    return partial


async def fill(store: Store, data: bytes) -> str:
    """Fill and commit a blob; return its content id."""
    content_id = content(data)
    partial = await begin(store, content_id, len(data), digests(data))
    await write(partial, data)
    await partial.commit(content_id)
    await partial.close()
    return content_id


async def read_all(source: Blob | PartialBlob, wanted: ByteRange | None = None) -> bytes:
    """Read a blob, slices through their descriptors."""
    data = bytearray()
    whole = ByteRange(0, source.size)
    async for part in source.parts(whole if wanted is None else wanted):
        if isinstance(part, FileSlice):
            data += os.pread(part.descriptor, part.length, part.offset)
        else:
            data += part
    return bytes(data)


class StoreSuite(ABC):
    """Subclass it, name the class Test…, and give the hooks."""

    @abstractmethod
    def open(self, budget_bytes: int | None = None) -> AbstractAsyncContextManager[Store]:
        """Open the store of this test; each time it has what the last one left."""

    @abstractmethod
    def damage_partial(self, content_id: str, offset: int) -> None:
        """Flip a byte of a partial blob at rest."""

    @abstractmethod
    def spoil_bookkeeping(self, content_id: str) -> None:
        """Damage what says which pieces of a partial blob are verified."""

    @abstractmethod
    def remove_blob(self, content_id: str) -> None:
        """Take a blob away behind the store's back."""

    @abstractmethod
    def stored_blobs(self) -> set[str]:
        """Return the complete blobs that are really there."""

    @abstractmethod
    def stored_partials(self) -> set[str]:
        """Return the partial blobs that are really there."""

    async def test_an_empty_store(self) -> None:
        """A new store holds nothing and uses nothing."""
        async with self.open(100) as store:
            assert dict(store.blobs()) == {}
            assert (store.usage().used_bytes, store.usage().blobs, store.usage().budget_bytes) == (0, 0, 100)
            assert await store.documents() == []

    async def test_absent_is_none(self) -> None:
        """What is not there is None, and removing it is no error."""
        async with self.open() as store:
            assert await store.open_blob("0" * 64) is None
            assert await store.delete("0" * 64) is False
            assert await store.read_document("org/bert/index.json") is None
            await store.delete_document("org/bert/index.json")

    async def test_a_blob_is_kept(self) -> None:
        """What was filled and committed is read back, also by the next process."""
        async with self.open() as store:
            content_id = await fill(store, TWO_PIECES)
            blob = await store.open_blob(content_id)
            assert blob is not None
            assert (blob.id, blob.size) == (content_id, len(TWO_PIECES))
            assert await read_all(blob) == TWO_PIECES
            await blob.close()
            assert dict(store.blobs()) == {content_id: len(TWO_PIECES)}
        async with self.open() as store:
            assert dict(store.blobs()) == {content_id: len(TWO_PIECES)}
            assert store.usage().used_bytes == len(TWO_PIECES)

    async def test_a_range_of_a_blob(self) -> None:
        """Exactly the wanted bytes come, across pieces, and none for an empty range."""
        async with self.open() as store:
            content_id = await fill(store, TWO_PIECES)
            blob = await store.open_blob(content_id)
            assert blob is not None
            wanted = ByteRange(PIECE_BYTES - 3, PIECE_BYTES + 4)
            assert await read_all(blob, wanted) == TWO_PIECES[wanted.start : wanted.stop]
            assert await read_all(blob, ByteRange(5, 5)) == b""
            await blob.close()

    async def test_an_empty_blob(self) -> None:
        """A blob of no bytes is a blob."""
        async with self.open(100) as store:
            content_id = await fill(store, b"")
            blob = await store.open_blob(content_id)
            assert blob is not None
            assert await read_all(blob) == b""
            await blob.close()
            assert store.usage().blobs == 1

    async def test_closing_twice(self) -> None:
        """Closing a blob or a partial one again does nothing."""
        async with self.open() as store:
            content_id = await fill(store, b"abc")
            blob = await store.open_blob(content_id)
            assert blob is not None
            await blob.close()
            await blob.close()
            partial = await begin(store, content(b"x"), 1, None)
            await partial.close()
            await partial.close()

    async def test_nothing_is_visible_before_the_commit(self) -> None:
        """A blob that is filled but not committed is absent, and stays so after a restart."""
        async with self.open() as store:
            partial = await begin(store, content(b"abc"), 3, digests(b"abc"))
            await write(partial, b"abc")
            assert await store.open_blob(partial.id) is None
            assert dict(store.blobs()) == {}
            await partial.close()
        assert self.stored_blobs() == set()
        async with self.open() as store:
            assert await store.open_blob(content(b"abc")) is None

    async def test_done_pieces_can_be_read_at_once(self) -> None:
        """A piece can be read as soon as it is written, before its neighbours are."""
        async with self.open() as store:
            partial = await begin(store, content(TWO_PIECES), len(TWO_PIECES), digests(TWO_PIECES))
            assert list(partial.done) == [False, False]
            await write(partial, TWO_PIECES, range(1, 2))
            assert list(partial.done) == [False, True]
            tail = ByteRange(PIECE_BYTES, len(TWO_PIECES))
            assert await read_all(partial, tail) == b"the second piece"
            await partial.close()

    async def test_a_partial_blob_is_readable_after_the_commit(self) -> None:
        """Whoever reads a fill reads on while and after it is committed."""
        async with self.open() as store:
            partial = await begin(store, content(b"abc"), 3, digests(b"abc"))
            await write(partial, b"abc")
            await partial.commit(partial.id)
            assert await read_all(partial) == b"abc"
            await partial.close()

    async def test_a_wrong_whole_is_not_committed(self) -> None:
        """If the whole has another sha256, nothing becomes visible and nothing is left to resume."""
        async with self.open() as store:
            partial = await begin(store, content(b"other"), 3, None)
            await write(partial, b"abc")
            with pytest.raises(IntegrityError, match="expected sha256"):
                await partial.commit(partial.id)
            await partial.close()
            assert store.usage().used_bytes == 0
        assert self.stored_blobs() == self.stored_partials() == set()

    async def test_an_adopted_blob_has_no_sha256(self) -> None:
        """Without a sha256 the commit goes by the pieces alone, whose digests can be learned."""
        async with self.open() as store:
            partial = await begin(store, "a" * 64, 3, None)
            await write(partial, b"abc")
            await partial.commit(None)
            assert list(partial.crc32) == [zlib.crc32(b"abc")]
            await partial.close()
            assert "a" * 64 in store.blobs()

    async def test_an_incomplete_blob_is_not_committed(self) -> None:
        """A commit with a piece missing is refused."""
        async with self.open() as store:
            partial = await begin(store, content(TWO_PIECES), len(TWO_PIECES), digests(TWO_PIECES))
            await write(partial, TWO_PIECES, range(1))
            with pytest.raises(StoreError, match="1 pieces are missing"):
                await partial.commit(partial.id)
            await partial.close()
        assert self.stored_blobs() == set()

    async def test_a_piece_of_the_wrong_length(self) -> None:
        """A piece that is too short or too long is refused."""
        async with self.open() as store:
            partial = await begin(store, content(b"abc"), 3, None)
            for data in (b"ab", b"abcd"):
                with pytest.raises(StoreError, match="expected 3"):
                    await partial.write(0, data, zlib.crc32(data))
            await partial.close()

    async def test_a_fill_is_resumed(self) -> None:
        """Verified pieces survive a restart, and the fill goes on with the others."""
        async with self.open() as store:
            partial = await begin(store, content(TWO_PIECES), len(TWO_PIECES), digests(TWO_PIECES))
            await write(partial, TWO_PIECES, range(1))
            await partial.close()
        async with self.open() as store:
            assert store.usage().used_bytes == len(TWO_PIECES)
            partial = await begin(store, content(TWO_PIECES), len(TWO_PIECES), digests(TWO_PIECES))
            assert list(partial.left) == [True, False]
            assert await partial.recover(0)
            assert not await partial.recover(1)
            assert list(partial.done) == [True, False]
            assert await read_all(partial, ByteRange(0, PIECE_BYTES)) == TWO_PIECES[:PIECE_BYTES]
            assert partial.crc32[0] == digests(TWO_PIECES).crc32[0]
            assert store.usage().used_bytes == len(TWO_PIECES)
            await write(partial, TWO_PIECES, range(1, 2))
            await partial.commit(partial.id)
            await partial.close()
        assert self.stored_partials() == set()

    async def test_a_fill_is_resumed_in_one_process(self) -> None:
        """A fill that was let go can be taken up again without a restart."""
        async with self.open() as store:
            for expected in (False, True):
                partial = await begin(store, content(b"abc"), 3, digests(b"abc"))
                assert list(partial.left) == [expected]
                await write(partial, b"abc")
                assert (list(partial.done), list(partial.left)) == ([True], [False])
                await partial.close()
            assert store.usage().used_bytes == 3

    async def test_damage_at_rest_is_not_resumed(self) -> None:
        """A piece that changed while nobody filled it is missing when the fill is taken up, and stays so."""
        async with self.open() as store:
            partial = await begin(store, content(TWO_PIECES), len(TWO_PIECES), digests(TWO_PIECES))
            await write(partial, TWO_PIECES)
            await partial.close()
        self.damage_partial(content(TWO_PIECES), 7)
        async with self.open() as store:
            partial = await begin(store, content(TWO_PIECES), len(TWO_PIECES), digests(TWO_PIECES))
            assert list(partial.left) == [True, True]
            assert [await partial.recover(piece) for piece in (0, 1)] == [False, True]
            assert list(partial.done) == [False, True]
            await partial.close()
            partial = await begin(store, content(TWO_PIECES), len(TWO_PIECES), digests(TWO_PIECES))
            assert list(partial.left) == [False, True]
            await partial.close()

    async def test_other_digests_are_not_resumed(self) -> None:
        """A piece that is not what is announced now is not done."""
        async with self.open() as store:
            partial = await begin(store, "a" * 64, 3, None)
            await write(partial, b"abc")
            await partial.close()
            partial = await begin(store, "a" * 64, 3, digests(b"xyz"))
            assert list(partial.left) == [False]
            await partial.close()

    async def test_another_size_is_not_resumed(self) -> None:
        """What an earlier fill left under the id but with another size is begun anew."""
        async with self.open() as store:
            partial = await begin(store, "a" * 64, 3, None)
            await write(partial, b"abc")
            await partial.close()
            partial = await begin(store, "a" * 64, 4, None)
            assert list(partial.left) == [False]
            assert store.usage().used_bytes == 4
            await partial.close()

    async def test_spoiled_bookkeeping_drops_the_partial_blob(self) -> None:
        """A partial blob of which nobody can say what is in it is removed when the store is opened."""
        async with self.open() as store:
            partial = await begin(store, content(b"abc"), 3, digests(b"abc"))
            await write(partial, b"abc")
            await partial.close()
        self.spoil_bookkeeping(content(b"abc"))
        async with self.open() as store:
            assert store.usage().used_bytes == 0
            assert self.stored_partials() == set()

    async def test_discarding_begins_from_nothing(self) -> None:
        """A discarded fill leaves nothing, is readable until closed, and can be begun anew at once."""
        async with self.open() as store:
            partial = await begin(store, content(b"abc"), 3, digests(b"abc"))
            await write(partial, b"abc")
            await partial.discard()
            await partial.discard()
            assert await read_all(partial) == b"abc"
            again = await begin(store, content(b"abc"), 3, digests(b"abc"))
            assert list(again.left) == [False]
            await partial.close()
            await again.close()
            assert store.usage().used_bytes == 3

    async def test_one_fill_of_a_blob_at_a_time(self) -> None:
        """A second fill of a blob is refused while the first is going on."""
        async with self.open() as store:
            partial = await begin(store, content(b"abc"), 3, None)
            with pytest.raises(StoreError, match="filling"):
                await begin(store, content(b"abc"), 3, None)
            await partial.close()

    async def test_what_another_process_committed_is_found(self) -> None:
        """A blob that came to be after the store was opened is opened all the same, and counted."""
        async with self.open() as store:
            async with self.open() as other:
                content_id = await fill(other, b"abc")
            blob = await store.open_blob(content_id)
            assert blob is not None
            await blob.close()
            assert store.usage().used_bytes == 3

    async def test_never_fits(self) -> None:
        """A blob larger than the budget is refused as such, and nothing is reserved."""
        async with self.open(2) as store:
            with pytest.raises(NeverFits, match="the whole budget is 2 bytes"):
                await begin(store, content(b"abc"), 3, None)
            assert store.usage().used_bytes == 0

    async def test_does_not_fit_now(self) -> None:
        """A blob that fits the budget but not beside the others is refused as that, until they go."""
        async with self.open(5) as store:
            held = await fill(store, b"abc")
            with pytest.raises(NoSpaceNow):
                await begin(store, content(b"def"), 3, None)
            assert store.usage().used_bytes == 3
            assert await store.delete(held)
            await fill(store, b"def")

    async def test_fills_in_progress_are_in_the_budget(self) -> None:
        """What is reserved counts at once, and no longer when the fill is discarded."""
        async with self.open(5) as store:
            partial = await begin(store, content(b"abc"), 3, None)
            assert store.usage().used_bytes == 3
            with pytest.raises(NoSpaceNow):
                await begin(store, content(b"def"), 3, None)
            await partial.discard()
            await partial.close()
            assert store.usage().used_bytes == 0

    async def test_many_reservations_at_once_stay_within_the_budget(self) -> None:
        """However many fills begin at the same moment, the budget is not exceeded."""
        async with self.open(10) as store:
            results = await asyncio.gather(
                *(begin(store, f"{number:064x}", 3, None) for number in range(8)), return_exceptions=True
            )
            begun = [result for result in results if isinstance(result, PartialBlob)]
            assert len(begun) == 3
            assert all(isinstance(result, PartialBlob | NoSpaceNow) for result in results)
            assert store.usage().used_bytes == 9
            for partial in begun:
                await partial.close()

    async def test_deleting_leaves_readers_alone(self) -> None:
        """Whoever has a blob open reads on after it is deleted; its space is free once all have closed it."""
        async with self.open() as store:
            content_id = await fill(store, b"abc")
            first, second = await store.open_blob(content_id), await store.open_blob(content_id)
            assert first is not None
            assert second is not None
            assert await store.delete(content_id) is True
            assert await store.open_blob(content_id) is None
            assert dict(store.blobs()) == {}
            assert await read_all(first) == b"abc"
            await first.close()
            assert store.usage().used_bytes == 3
            await second.close()
            assert store.usage().used_bytes == 0
        assert self.stored_blobs() == set()

    async def test_a_blob_that_vanished(self) -> None:
        """A blob that was taken away is absent, and no longer counted once that is seen."""
        async with self.open() as store:
            content_id = await fill(store, b"abc")
            self.remove_blob(content_id)
            assert await store.open_blob(content_id) is None
            assert store.usage().used_bytes == 0
            assert await store.delete(content_id) is False

    async def test_filling_again_what_is_there(self) -> None:
        """There is nothing to fill where the blob is complete, and nothing is reserved."""
        async with self.open() as store:
            content_id = await fill(store, b"abc")
            assert await store.begin_fill(content_id, 3, digests(b"abc")) is None
            assert (store.usage().used_bytes, store.usage().blobs) == (3, 1)

    async def test_partial_blobs_are_dropped_in_time(self) -> None:
        """Partial blobs that nobody fills are dropped once they have been idle for long enough."""
        async with self.open() as store:
            left = await begin(store, content(b"abc"), 3, None)
            await write(left, b"abc")
            await left.close()
            going_on = await begin(store, content(b"wxyz"), 4, None)
            assert await store.drop_partials(3600) == 0
            assert await store.drop_partials(0) == 3
            assert store.usage().used_bytes == 4
            assert self.stored_partials() == {going_on.id}
            await going_on.close()

    async def test_cancelled_writes_harm_nothing(self) -> None:
        """Cancelling writes and closing at once leaves a store that works."""
        async with self.open() as store:
            for _ in range(10):
                partial = await begin(store, content(TWO_PIECES), len(TWO_PIECES), digests(TWO_PIECES))
                task = asyncio.create_task(write(partial, TWO_PIECES))
                await asyncio.sleep(0)
                task.cancel()
                await partial.close()
                with pytest.raises(asyncio.CancelledError):
                    await task
            assert await fill(store, TWO_PIECES) in store.blobs()

    async def test_documents(self) -> None:
        """Small documents are kept, replaced, listed and removed by name, also over a restart."""
        async with self.open() as store:
            await store.write_document("org/bert/index.json", b"1")
            await store.write_document("org/bert/index.json", b"2")
            await store.write_document("org/bert/manifests/7.json", b"")
        async with self.open() as store:
            assert await store.documents() == ["org/bert/index.json", "org/bert/manifests/7.json"]
            assert await store.read_document("org/bert/index.json") == b"2"
            assert await store.read_document("org/bert/manifests/7.json") == b""
            await store.delete_document("org/bert/manifests/7.json")
            assert await store.documents() == ["org/bert/index.json"]

    @pytest.mark.parametrize("name", ["", "/etc/x", "../x", "org/../../x", "org//x", "./x"])
    async def test_documents_stay_inside(self, name: str) -> None:
        """A name that could lead out of the store is refused."""
        async with self.open() as store:
            with pytest.raises(StoreError, match="no plain relative name"):
                await store.write_document(name, b"x")
