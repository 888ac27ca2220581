"""What a store must do that several processes share: fill together, see each other's blobs, keep one budget.

A second store opened in the same place stands for a second process; where it matters that a process dies, a
real one is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from hotstart.wire.errors import IntegrityError
from hotstart.wire.pieces import PIECE_BYTES, Pieces, piece_range
from hotstart.wire.ranges import ByteRange
from hotstart_proxy.stores.base import BlobBusy, NoSpaceNow, PartialBlob, Store, StoreError
from tests.conformance.stores import claimer
from tests.conformance.stores.suite import TWO_PIECES, begin, content, digests, fill, read_all, write
from tests.support.deadlines import DEADLINE_SECONDS

__all__ = ["SharingSuite"]

THREE_PIECES = claimer.pattern(2 * PIECE_BYTES + 100)
# Long enough that a slow machine renews in time, short enough to wait for.
LEASE_SECONDS = 1.0


async def until_free(partial: PartialBlob, piece: int) -> None:
    """Wait until nobody else has claimed a piece."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while piece in await partial.refresh():
        assert time.monotonic() < deadline, "the claim of a dead process is kept for ever"
        await asyncio.sleep(partial.poll_seconds)


class SharingSuite:
    """Mix it into a subclass of StoreSuite, which gives ``open`` and the other hooks, and give ``place``."""

    def open(self, budget_bytes: int | None = None) -> AbstractAsyncContextManager[Store]:
        """Open the store of this test, as StoreSuite has it."""
        raise NotImplementedError

    def damage_partial(self, content_id: str, offset: int) -> None:
        """Flip a byte of a partial blob at rest, as StoreSuite has it."""
        raise NotImplementedError

    def damage_blob(self, content_id: str, offset: int) -> None:
        """Flip a byte of a complete blob at rest."""
        raise NotImplementedError

    def place(self) -> str:
        """Return the URL by which another process opens the store of this test."""
        raise NotImplementedError

    @contextlib.contextmanager
    def holder(
        self, content_id: str, size: int, *, written: int, claimed: int
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Run a process that has written and claimed pieces of a pattern, until it is killed or we leave."""
        numbers = (str(size), str(written), str(claimed))
        script = str(Path(claimer.__file__))
        command = [sys.executable, script, self.place(), str(LEASE_SECONDS), content_id, *numbers]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == b"ready\n"
                yield process
            finally:
                process.kill()

    @contextlib.asynccontextmanager
    async def two(self, budget_bytes: int | None = None) -> AsyncIterator[tuple[Store, Store]]:
        """Open the store of this test twice."""
        async with self.open(budget_bytes) as one, self.open(budget_bytes) as other:
            yield one, other

    @contextlib.asynccontextmanager
    async def both(
        self, data: bytes = THREE_PIECES, pieces: Pieces | None = None
    ) -> AsyncIterator[tuple[PartialBlob, PartialBlob]]:
        """Begin one blob's fill in both stores."""
        async with self.two() as (one, other):
            first = await begin(one, content(data), len(data), pieces)
            second = await begin(other, content(data), len(data), pieces)
            yield first, second
            await second.close()
            await first.close()

    # Claims

    async def test_a_piece_is_claimed_by_one(self) -> None:
        """What one process has claimed another does not get; the rest it gets."""
        async with self.both() as (first, second):
            assert list(await first.claim([0, 1])) == [0, 1]
            assert list(await second.claim([0, 1, 2])) == [2]
            assert await second.refresh() == {0, 1}
            assert await first.refresh() == {2}

    async def test_claiming_again_is_granted(self) -> None:
        """Whoever has claimed a piece may claim it again."""
        async with self.both() as (first, _):
            assert list(await first.claim([1])) == [1]
            assert list(await first.claim([0, 1])) == [0, 1]

    async def test_nothing_is_claimed_of_what_is_done(self) -> None:
        """A piece that is verified here, or written elsewhere, is not claimed."""
        async with self.both() as (first, second):
            await write(first, THREE_PIECES, range(1))
            assert list(await first.claim([0, 1])) == [1]
            await second.refresh()
            assert list(await second.claim([0, 1, 2])) == [2]

    async def test_a_released_piece_can_be_claimed(self) -> None:
        """A claim that is given back is free at once for others, and releasing again does nothing."""
        async with self.both() as (first, second):
            await first.claim([0, 1])
            await first.release([0])
            await first.release([0])
            assert list(await second.claim([0, 1])) == [0]

    async def test_writing_ends_the_claim(self) -> None:
        """A piece that was written is no longer claimed; releasing it afterwards takes nothing back."""
        async with self.both() as (first, second):
            await first.claim([0])
            await write(first, THREE_PIECES, range(1))
            await first.release([0])
            assert await second.refresh() == set()
            assert list(second.left) == [True, False, False]

    async def test_closing_ends_all_claims(self) -> None:
        """A process that lets a fill go leaves no claim behind."""
        async with self.both() as (first, second):
            await first.claim([0, 1, 2])
            await first.close()
            assert await second.refresh() == set()
            assert list(await second.claim([0, 1, 2])) == [0, 1, 2]

    async def test_claims_of_many_at_once(self) -> None:
        """However many claim the same pieces at the same moment, each piece has one holder."""
        async with contextlib.AsyncExitStack() as stack:
            partials = []
            for _ in range(5):
                store = await stack.enter_async_context(self.open())
                partial = await begin(store, content(THREE_PIECES), len(THREE_PIECES), None)
                stack.push_async_callback(partial.close)
                partials.append(partial)
            granted = await asyncio.gather(*(partial.claim([0, 1, 2]) for partial in partials))
            assert sorted(piece for pieces in granted for piece in pieces) == [0, 1, 2]

    async def test_a_dead_process_is_replaced(self) -> None:
        """What a killed process had claimed can be claimed soon; what it had written is kept."""
        async with self.open() as store:
            with self.holder(content(THREE_PIECES), len(THREE_PIECES), written=1, claimed=1) as process:
                partial = await begin(store, content(THREE_PIECES), len(THREE_PIECES), digests(THREE_PIECES))
                assert await partial.refresh() == {1}
                assert list(await partial.claim([1, 2])) == [2]
                process.kill()
                process.wait()
                await until_free(partial, 1)
            assert list(await partial.claim([1])) == [1]
            assert list(partial.left) == [True, False, False]
            assert await partial.recover(0)
            await write(partial, THREE_PIECES, range(1, 3))
            await partial.commit(partial.id)
            assert await read_all(partial) == THREE_PIECES
            await partial.close()

    async def test_a_living_process_keeps_its_claim(self) -> None:
        """A claim lasts as long as its process lives, however slow the origin is."""
        async with self.open() as store:
            with self.holder(content(THREE_PIECES), len(THREE_PIECES), written=0, claimed=1):
                partial = await begin(store, content(THREE_PIECES), len(THREE_PIECES), None)
                await asyncio.sleep(2.5 * LEASE_SECONDS)
                assert await partial.refresh() == {0}
                assert list(await partial.claim([0])) == []
                await partial.close()

    # What others wrote

    async def test_pieces_of_others_are_seen_as_they_land(self) -> None:
        """A piece that another process wrote is left, then verified and read here."""
        async with self.both(pieces=digests(THREE_PIECES)) as (first, second):
            assert list(second.left) == [False, False, False]
            await write(first, THREE_PIECES, range(1, 2))
            assert await second.refresh() == set()
            assert (list(second.left), list(second.done)) == ([False, True, False], [False] * 3)
            assert await second.recover(1)
            assert (list(second.left), list(second.done)) == ([False] * 3, [False, True, False])
            place = piece_range(1, len(THREE_PIECES))
            assert await read_all(second, place) == THREE_PIECES[place.start : place.stop]

    async def test_digests_are_learned_from_others(self) -> None:
        """Of an adopted file the crc32 that another process found is known here too."""
        async with self.both(pieces=None) as (first, second):
            await write(first, THREE_PIECES, range(2))
            await second.refresh()
            assert await second.recover(0)
            assert second.crc32[0] == first.crc32[0] == zlib.crc32(THREE_PIECES[:PIECE_BYTES])

    async def test_damage_by_others_is_not_trusted(self) -> None:
        """A piece that another process wrote and that is not what was announced is missing here."""
        async with self.both(pieces=digests(THREE_PIECES)) as (first, second):
            await write(first, THREE_PIECES, range(2))
            self.damage_partial(content(THREE_PIECES), 7)
            await second.refresh()
            assert [await second.recover(piece) for piece in (0, 1)] == [False, True]
            assert list(await second.claim([0])) == [0]
            await write(second, THREE_PIECES, range(1))
            assert await read_all(second, ByteRange(0, 100)) == THREE_PIECES[:100]

    async def test_other_digests_by_others_are_not_trusted(self) -> None:
        """A piece whose digest is not the announced one is not even looked at."""
        async with self.two() as (one, other):
            first = await begin(one, "a" * 64, 3, None)
            second = await begin(other, "a" * 64, 3, digests(b"xyz"))
            await write(first, b"abc")
            await second.refresh()
            assert list(second.left) == [False]
            await second.close()
            await first.close()

    async def test_both_write_the_same_piece(self) -> None:
        """Two processes that write the same piece harm nothing."""
        async with self.both(pieces=digests(THREE_PIECES)) as (first, second):
            await asyncio.gather(write(first, THREE_PIECES), write(second, THREE_PIECES))
            await first.commit(first.id)
            assert await read_all(first) == await read_all(second) == THREE_PIECES

    # Commits

    async def test_one_commits_what_two_have_written(self) -> None:
        """A blob filled by two processes is committed by either, once the rest is verified here."""
        async with self.both(pieces=digests(THREE_PIECES)) as (first, second):
            await write(first, THREE_PIECES, range(1))
            await write(second, THREE_PIECES, range(1, 3))
            with pytest.raises(StoreError, match="2 pieces are missing"):
                await first.commit(first.id)
            await first.refresh()
            assert [await first.recover(piece) for piece in (1, 2)] == [True, True]
            await first.commit(first.id)
            async with self.open() as third:
                blob = await third.open_blob(first.id)
                assert blob is not None
                assert await read_all(blob) == THREE_PIECES
                await blob.close()

    async def test_the_commit_of_another_is_a_commit(self) -> None:
        """Whoever comes second with a commit finds it done, and reads on."""
        async with self.two() as (one, other):
            first = await begin(one, content(TWO_PIECES), len(TWO_PIECES), digests(TWO_PIECES))
            second = await begin(other, content(TWO_PIECES), len(TWO_PIECES), digests(TWO_PIECES))
            await write(first, TWO_PIECES)
            await second.refresh()
            await first.commit(first.id)
            await first.close()
            assert await second.refresh() == set()
            assert [await second.recover(piece) for piece in (0, 1)] == [True, True]
            await second.commit(second.id)
            assert await read_all(second) == TWO_PIECES
            await second.close()
            for store in (one, other):
                assert dict(store.blobs()) == {content(TWO_PIECES): len(TWO_PIECES)}
                assert store.usage().used_bytes == len(TWO_PIECES)

    async def test_both_commit_at_once(self) -> None:
        """Two commits at the same moment make one blob."""
        async with self.both(TWO_PIECES, digests(TWO_PIECES)) as (first, second):
            await write(first, TWO_PIECES)
            await second.refresh()
            assert [await second.recover(piece) for piece in (0, 1)] == [True, True]
            await asyncio.gather(first.commit(first.id), second.commit(second.id))
            async with self.open() as third:
                assert dict(third.blobs()) == {content(TWO_PIECES): len(TWO_PIECES)}
                assert third.usage().used_bytes == len(TWO_PIECES)

    async def test_a_wrong_whole_is_nobodys(self) -> None:
        """If the whole has another sha256, no process sees a blob, and a new fill begins from nothing."""
        async with self.two() as (one, other):
            partial = await begin(one, content(b"other"), 3, None)
            await write(partial, b"abc")
            with pytest.raises(IntegrityError, match="expected sha256"):
                await partial.commit(partial.id)
            await partial.close()
            assert await other.open_blob(content(b"other")) is None
            again = await begin(other, content(b"other"), 3, None)
            assert list(again.left) == [False]
            await again.close()

    async def test_no_fill_of_what_another_has_committed(self) -> None:
        """Where another process has committed the blob, there is nothing to fill and nothing is reserved."""
        async with self.two() as (one, other):
            content_id = await fill(other, b"abc")
            assert await one.begin_fill(content_id, 3, digests(b"abc")) is None
            blob = await one.open_blob(content_id)
            assert blob is not None
            assert await read_all(blob) == b"abc"
            await blob.close()
            assert one.usage().used_bytes == other.usage().used_bytes == 3
            assert await fill(one, b"next")

    async def test_one_process_still_fills_a_blob_once(self) -> None:
        """Within one process a second fill of a blob is refused, and the first goes on."""
        async with self.open() as store:
            partial = await begin(store, content(b"abc"), 3, None)
            with pytest.raises(BlobBusy):
                await begin(store, content(b"abc"), 3, None)
            await write(partial, b"abc")
            await partial.commit(partial.id)
            await partial.close()

    # What there is, and the budget

    async def test_blobs_of_others_are_learned(self) -> None:
        """After a refresh the blobs that others committed and removed are known."""
        async with self.two() as (one, other):
            content_id = await fill(other, b"abc")
            await one.refresh()
            assert dict(one.blobs()) == {content_id: 3}
            assert (one.usage().used_bytes, one.usage().blobs) == (3, 1)
            assert await other.delete(content_id)
            await one.refresh()
            assert dict(one.blobs()) == {}
            assert one.usage().used_bytes == 0

    async def test_what_was_removed_elsewhere_can_be_filled_again(self) -> None:
        """A blob that another process removed is absent here, without a refresh, and can be filled."""
        async with self.two() as (one, other):
            content_id = await fill(one, b"abc")
            await other.refresh()
            assert await other.delete(content_id)
            assert await one.open_blob(content_id) is None
            await fill(one, b"abc")
            assert one.usage().used_bytes == 3

    async def test_one_budget(self) -> None:
        """What one process has reserved or committed is not there for another."""
        async with self.two(5) as (one, other):
            partial = await begin(one, content(b"abc"), 3, None)
            with pytest.raises(NoSpaceNow):
                await begin(other, content(b"def"), 3, None)
            await write(partial, b"abc")
            await partial.commit(partial.id)
            await partial.close()
            with pytest.raises(NoSpaceNow):
                await begin(other, content(b"def"), 3, None)
            assert await one.delete(content(b"abc"))
            await fill(other, b"def")

    async def test_a_refusal_says_what_is_in_use(self) -> None:
        """After a refusal the sums are those of all processes, so that room can be made for what lacks."""
        async with self.two(5) as (one, other):
            content_id = await fill(one, b"abc")
            with pytest.raises(NoSpaceNow):
                await begin(other, content(b"def"), 3, None)
            assert other.usage().used_bytes == 3
            assert dict(other.blobs()) == {content_id: 3}
            assert await other.delete(content_id)
            await fill(other, b"def")

    async def test_a_shared_fill_is_reserved_once(self) -> None:
        """A blob that two processes fill takes its space once."""
        async with self.two(2 * len(TWO_PIECES) - 1) as (one, other):
            first = await begin(one, content(TWO_PIECES), len(TWO_PIECES), None)
            second = await begin(other, content(TWO_PIECES), len(TWO_PIECES), None)
            await other.refresh()
            assert one.usage().used_bytes == other.usage().used_bytes == len(TWO_PIECES)
            await second.close()
            await first.close()

    async def test_many_processes_stay_within_the_budget(self) -> None:
        """However many processes reserve at the same moment, the budget is not exceeded."""
        async with contextlib.AsyncExitStack() as stack:
            stores = [await stack.enter_async_context(self.open(10)) for _ in range(4)]
            wanted = [(store, f"{number:064x}") for number, store in enumerate(stores * 2)]
            results = await asyncio.gather(
                *(begin(store, name, 3, None) for store, name in wanted), return_exceptions=True
            )
            begun = [result for result in results if isinstance(result, PartialBlob)]
            assert len(begun) == 3
            assert all(isinstance(result, PartialBlob | NoSpaceNow) for result in results)
            for store in stores:
                await store.refresh()
                assert store.usage().used_bytes == 9
            for partial in begun:
                await partial.close()

    async def test_fills_of_others_are_not_dropped(self) -> None:
        """A partial blob that another process fills is not dropped, however idle; afterwards it is."""
        async with self.two() as (one, other):
            partial = await begin(one, content(b"abc"), 3, None)
            await write(partial, b"abc")
            await other.refresh()
            assert await other.drop_partials(0) == 0
            await partial.close()
            assert await other.drop_partials(3600) == 0
            assert await other.drop_partials(0) == 3
            await one.refresh()
            assert one.usage().used_bytes == 0

    async def test_a_fill_that_others_go_on_with_survives_one_who_gives_up(self) -> None:
        """Discarding a fill does not take it from another process that still fills it."""
        async with self.two() as (one, other):
            first = await begin(one, content(TWO_PIECES), len(TWO_PIECES), digests(TWO_PIECES))
            second = await begin(other, content(TWO_PIECES), len(TWO_PIECES), digests(TWO_PIECES))
            await write(second, TWO_PIECES, range(1))
            await first.claim([1])
            await first.discard()
            await first.close()
            assert list(await second.claim([1])) == [1]
            await write(second, TWO_PIECES, range(1, 2))
            await second.commit(second.id)
            assert await read_all(second) == TWO_PIECES
            await second.close()

    @pytest.mark.parametrize("seen", [True, False])
    async def test_giving_up_what_another_has_committed(self, seen: bool) -> None:
        """Discarding a fill whose blob another process has committed frees nothing: the blob is counted."""
        async with self.two(5) as (one, other):
            late = await begin(one, content(b"abc"), 3, None)
            await fill(other, b"abc")
            if seen:
                await one.refresh()
            await late.discard()
            await late.close()
            for store in (one, other):
                await store.refresh()
                assert dict(store.blobs()) == {content(b"abc"): 3}
                assert store.usage().used_bytes == 3
                with pytest.raises(NoSpaceNow):
                    await begin(store, content(b"def"), 3, None)
            assert await one.delete(content(b"abc"))
            for store in (one, other):
                await store.refresh()
                assert store.usage().used_bytes == 0

    async def test_documents_are_shared(self) -> None:
        """A document that one process wrote another reads at once."""
        async with self.two() as (one, other):
            await one.write_document("org/bert/index.json", b"1")
            assert await other.read_document("org/bert/index.json") == b"1"
            await other.write_document("org/bert/index.json", b"2")
            assert await one.read_document("org/bert/index.json") == b"2"
            await other.delete_document("org/bert/index.json")
            assert await one.documents() == []

    # Damage

    async def test_quarantine(self) -> None:
        """A quarantined blob is found by nobody, whoever has it open may close it, and it is filled again."""
        async with self.two() as (one, other):
            content_id = await fill(one, b"abc")
            held = await one.open_blob(content_id)
            assert held is not None
            self.damage_blob(content_id, 1)
            assert await one.quarantine(content_id) is True
            assert await one.quarantine(content_id) is False
            assert await one.open_blob(content_id) is None
            assert await other.open_blob(content_id) is None
            assert content_id not in one.blobs()
            await fill(other, b"abc")
            await held.close()
            blob = await one.open_blob(content_id)
            assert blob is not None
            assert await read_all(blob) == b"abc"
            await blob.close()

    async def test_nothing_to_quarantine(self) -> None:
        """Quarantining what is not there does nothing."""
        async with self.open() as store:
            assert await store.quarantine("0" * 64) is False

    async def test_no_trouble(self) -> None:
        """A store that works has nothing to say."""
        async with self.open() as store:
            await fill(store, b"abc")
            await store.refresh()
            assert store.trouble is None
