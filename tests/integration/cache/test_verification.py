"""Damage at rest: found by verifying and by the scrub, taken out of use, and fetched again."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from hotstart_proxy.cache.answers import BodySource
from hotstart_proxy.cache.cache import Cache
from hotstart_proxy.cache.documents import Place
from hotstart_proxy.cache.settings import CacheSettings
from hotstart_proxy.cache.verification import Verifier
from hotstart_proxy.core.scrub import Pace
from hotstart_proxy.stores.disk import DiskStore
from tests.integration.cache.conftest import Bench
from tests.integration.cache.published_tree import MODEL, some_bytes
from tests.integration.cache.reading import eventually, open_body, part_bytes, read, resolve

FILE = "model.safetensors"
DATA = some_bytes(9_000_000)


def flip_bit(path: Path, offset: int) -> None:
    """Flip one bit of a file at rest, whatever its mode is."""
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


async def warm_version(bench: Bench, cache: Cache, version: str = "1") -> Path:
    """Publish a version, warm it, and return where its weights lie."""
    if version not in {entry.version for entry in bench.tree.indexes[MODEL].versions}:
        await bench.tree.publish(version, {FILE: DATA})
    resolved = await resolve(cache, f"org/bert@{version}")
    await cache.warm(resolved)
    weights = resolved.manifest.representation(FILE)
    assert weights is not None
    return bench.blob(weights.id)


@pytest.fixture
async def published(bench: Bench) -> Bench:
    await bench.tree.publish("1", {FILE: DATA, "config.json": b"{}"})
    return bench


async def test_sound_stores_are_found_sound(published: Bench) -> None:
    """Every blob and document is read, and nothing is touched."""
    async with published.cache() as cache:
        blob = await warm_version(published, cache)
        before = blob.stat().st_ino
        await eventually(lambda: len(list(published.store_root.glob("models/*/*/manifests/*"))) == 1)
        found = await cache.verify()
        assert (found.checked_blobs, found.checked_bytes) == (2, len(DATA) + 2)
        assert found.checked_documents == 2
        assert (found.unknown_blobs, found.damaged) == (0, [])
        assert blob.stat().st_ino == before
        assert published.events.heals == 0


async def test_an_empty_store_is_sound(bench: Bench) -> None:
    """There is nothing to find where there is nothing."""
    async with bench.cache() as cache:
        found = await cache.verify()
        assert (found.checked_blobs, found.checked_documents, found.damaged) == (0, 0, [])


@pytest.mark.parametrize("offset", [0, 5_000_000, len(DATA) - 1])
async def test_a_flipped_bit_is_found(published: Bench, offset: int) -> None:
    """A blob with one wrong bit is taken out of use, fetched again, counted, and told of."""
    async with published.cache() as cache:
        blob = await warm_version(published, cache)
        flip_bit(blob, offset)
        (damage,) = (await cache.verify()).damaged
        assert (damage.name, damage.reference) == (blob.name, f"org/bert@1/{FILE}")
        assert damage.size == len(DATA)
        assert "its sha256 is" in damage.problem
        assert damage.refill
        assert published.events.heals == 1
        assert await read(cache, f"org/bert@1/{FILE}") == (DATA, BodySource.FILL)
        await eventually(blob.exists)
        assert (await cache.verify()).damaged == []
        assert await read(cache, f"org/bert@1/{FILE}") == (DATA, BodySource.HIT)


async def test_what_is_damaged_is_fetched_before_anyone_asks(published: Bench) -> None:
    """The refill runs by itself."""
    async with published.cache() as cache:
        blob = await warm_version(published, cache)
        flip_bit(blob, 7)
        await cache.verify()
        await eventually(blob.exists)
        assert await read(cache, f"org/bert@1/{FILE}") == (DATA, BodySource.HIT)


async def test_a_blob_cut_short_is_found(published: Bench) -> None:
    """A blob of another size than its manifest says is damaged, whatever is left of it."""
    async with published.cache() as cache:
        blob = await warm_version(published, cache)
        blob.chmod(0o644)
        with blob.open("r+b") as file:
            file.truncate(1000)
        (damage,) = (await cache.verify()).damaged
        assert damage.problem == f"1000 bytes where the manifest says {len(DATA)}"


async def test_a_reader_of_a_damaged_blob_is_not_disturbed(published: Bench) -> None:
    """Quarantine takes the name away; who reads reads on, and whoever comes next gets right bytes."""
    async with published.cache() as cache:
        blob = await warm_version(published, cache)
        flip_bit(blob, len(DATA) - 1)
        body = await open_body(cache, f"org/bert@1/{FILE}")
        await cache.verify()
        data = b"".join([part_bytes(part) async for part in body.parts()])
        await body.close()
        assert data[:-1] == DATA[:-1]
        assert (await read(cache, f"org/bert@1/{FILE}"))[0] == DATA


async def test_an_adopted_file_is_compared_with_what_was_filled(bench: Bench) -> None:
    """Nobody has published its digests: what its fill has learned tells a flipped bit."""
    folder = bench.tree.root / "org/plain/1"
    folder.mkdir(parents=True)
    (folder / FILE).write_bytes(DATA)
    bench.clock.seconds = (folder / FILE).stat().st_mtime + 3600
    async with bench.cache() as cache:
        resolved = await resolve(cache, "org/plain@1")
        await cache.warm(resolved)
        blob = bench.blob(resolved.manifest.files[0].id)
        await eventually(lambda: list(bench.store_root.glob("models/org/plain/pieces/*")))
        assert (await cache.verify()).damaged == []
        flip_bit(blob, 5_000_000)
        (damage,) = (await cache.verify()).damaged
        assert damage.problem == "other bytes than were filled, in piece 1"
        await eventually(blob.exists)
        assert (await read(cache, f"org/plain@1/{FILE}"))[0] == DATA


async def test_a_blob_of_nobody(bench: Bench) -> None:
    """A blob that no version is known to have is told of as such, and left alone."""
    async with bench.cache() as cache:
        await cache.gc()
        stray = bench.blob("ab" * 32)
        stray.parent.mkdir(parents=True)
        stray.write_bytes(b"stray")
        async with bench.cache() as other:
            found = await other.verify()
        assert found.damaged == []


@pytest.mark.parametrize(
    ("name", "data", "problem"),
    [
        ("index.json", b'{"format":1', "not JSON"),
        ("index.json", b'{"format":1,"model":"org/other","serial":1}', "it is of org/other"),
        ("manifests/1.json", b"", "not JSON"),
        ("manifests/1.json", None, "its sha256 is"),
        ("pins/1.json", b"[]", "expected a JSON object"),
    ],
)
async def test_damaged_documents_are_written_again(
    published: Bench, name: str, data: bytes | None, problem: str
) -> None:
    """A document that breaks its format, or is not that of its name, is removed and restored."""
    async with published.cache() as cache:
        await warm_version(published, cache)
        await cache.pin(await resolve(cache, "org/bert@1"))
        path = published.store_root / "models" / MODEL / name
        await eventually(path.exists)
        before = path.read_bytes()
        path.write_bytes(before.replace(b"config", b"confih") if data is None else data)
        (damage,) = (await cache.verify()).damaged
        assert damage.name == f"{MODEL}/{name}"
        assert problem in damage.problem
        assert damage.refill
        if not name.startswith("pins"):
            assert path.read_bytes() == before
        assert cache.pinned_versions(MODEL) == {"1"}
        assert (await cache.verify()).damaged == []


async def test_learned_digests_that_are_damaged(bench: Bench) -> None:
    """Learned digests cannot be had again; without them the blob counts as unknown."""
    folder = bench.tree.root / "org/plain/1"
    folder.mkdir(parents=True)
    (folder / FILE).write_bytes(DATA)
    bench.clock.seconds = (folder / FILE).stat().st_mtime + 3600
    async with bench.cache() as cache:
        await cache.warm(await resolve(cache, "org/plain@1"))
        await eventually(lambda: list(bench.store_root.glob("models/org/plain/pieces/*")))
        (path,) = bench.store_root.glob("models/org/plain/pieces/*")
        path.write_bytes(b"{}")
        found = await cache.verify()
        assert [damage.refill for damage in found.damaged] == [False]
        assert found.unknown_blobs == 1


async def test_the_scrub_finds_it_after_a_start(published: Bench) -> None:
    """A bit that was flipped while no proxy ran is found by the next one, without being asked."""
    async with published.cache() as cache:
        blob = await warm_version(published, cache)
    flip_bit(blob, 5_000_000)
    damaged_inode = blob.stat().st_ino
    async with published.cache(CacheSettings(scrub_interval_seconds=3600)) as cache:
        await eventually(lambda: published.events.heals == 1)
        await eventually(lambda: blob.exists() and blob.stat().st_ino != damaged_inode)
        assert await read(cache, f"org/bert@1/{FILE}") == (DATA, BodySource.HIT)


async def test_a_scrub_gives_way_to_an_eviction(published: Bench) -> None:
    """A blob that is being verified, however slowly, is evicted all the same; its space is free at once."""
    async with published.cache() as cache:
        blob = await warm_version(published, cache)

    async def restored(place: Place) -> bool:
        return False

    async with DiskStore(published.store_root) as store:
        verifier = Verifier(store, published.events, lambda model, version, path: False, restored)
        # A piece every month: it stands in the middle of the blob.
        verifying = asyncio.create_task(verifier.verify(Pace(1.0, 1.0)))
        await eventually(lambda: published.events.verified_bytes > 1_000_000)
        await verifier.give_way(blob.name)
        before = store.usage().used_bytes
        assert await store.delete(blob.name)
        assert store.usage().used_bytes == before - len(DATA)
        verifying.cancel()
        await asyncio.wait([verifying])
        verifier.close()


async def test_one_of_several_scrubs(published: Bench) -> None:
    """Of two caches on a store that start together the second leaves it to the first."""
    async with published.cache() as cache:
        await warm_version(published, cache)
    settings = CacheSettings(scrub_interval_seconds=3600)
    record = published.store_root / "models/scrub.json"
    async with published.cache(settings), published.cache(settings):
        await eventually(lambda: record.exists() and b'"finished_at":null' not in record.read_bytes())
    assert published.events.verified_bytes == len(DATA) + 2


@pytest.mark.parametrize("offset", [0, 2, 12, -2])
async def test_a_flipped_bit_in_the_record_of_a_scrub(published: Bench, offset: int) -> None:
    """A record of the scrub that says nothing any more costs no more than a scrub from the beginning."""
    settings = CacheSettings(scrub_interval_seconds=3600)
    record = published.store_root / "models/scrub.json"
    async with published.cache() as cache:
        blob = await warm_version(published, cache)
    async with published.cache(settings):
        await eventually(lambda: record.exists() and b'"finished_at":null' not in record.read_bytes())
    flip_bit(record, offset % record.stat().st_size)
    flip_bit(blob, 5_000_000)
    async with published.cache(settings) as cache:
        await eventually(lambda: published.events.heals == 1)
        await eventually(blob.exists)
        assert await read(cache, f"org/bert@1/{FILE}") == (DATA, BodySource.HIT)
        await eventually(lambda: isinstance(json.loads(record.read_bytes())["finished_at"], int))
