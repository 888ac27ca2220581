"""Every fault of S3, at a cache that fills from it: what readers get, what it costs, what is kept."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from hotstart.wire.adoption import Layout
from hotstart.wire.errors import HotstartError, IntegrityError
from hotstart.wire.manifest import Manifest
from hotstart.wire.pieces import PIECE_BYTES
from hotstart.wire.ranges import ByteRange, parse_range
from hotstart_proxy.cache.answers import BodySource
from hotstart_proxy.cache.cache import Cache
from hotstart_proxy.cache.settings import CacheSettings
from hotstart_proxy.origins.base import ObjectChanged, OriginDenied, OriginPaused, OriginUnreachable
from hotstart_proxy.origins.guarded import GuardedOrigin
from hotstart_proxy.origins.s3 import S3Origin, S3Settings
from hotstart_proxy.origins.tree import TreeOrigin
from hotstart_proxy.stores.disk import DiskStore
from tests.integration.cache.conftest import Clock, Events
from tests.integration.cache.published_tree import PublishedTree, some_bytes
from tests.integration.cache.reading import eventually, open_body, read, read_to_error, resolve
from tests.support import fault_s3
from tests.support.deadlines import DEADLINE_SECONDS, TIME_SCALE
from tests.support.fault_s3 import BUCKET, Fault, FaultS3

MODEL_BYTES = some_bytes(3 * PIECE_BYTES + 777, seed=1)
SIZE = len(MODEL_BYTES)
FILES = {"model.safetensors": MODEL_BYTES}
FILE = "org/bert@7/model.safetensors"
KEY = "org/bert/7/model.safetensors"
# How long an answer may stay silent; two of these in a row without a byte, and a request is given up.
STALL_SECONDS = 0.5 * TIME_SCALE
MIB = 1024 * 1024


class Told(Events):
    """Remembers what was told of the origin too."""

    def __init__(self) -> None:
        super().__init__()
        self.retries: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.circuit: list[bool] = []

    def origin_retried(self, reason: str) -> None:
        self.retries[reason] += 1

    def origin_failed(self, kind: str) -> None:
        self.errors[kind] += 1

    def circuit_opened(self, is_open: bool) -> None:
        self.circuit.append(is_open)


class Rig:
    """A published version in a faulty S3, a store, and caches on them."""

    def __init__(self, s3: FaultS3, manifest: Manifest, store_root: Path) -> None:
        self.s3 = s3
        self.id = manifest.files[0].id
        self.store_root = store_root
        self.told = Told()

    @asynccontextmanager
    async def cache(self, connections: int = 1) -> AsyncIterator[Cache]:
        """A cache whose fills use so many connections; one makes the order of requests certain."""
        settings = S3Settings(endpoint=self.s3.url, stall_seconds=STALL_SECONDS)
        tree = TreeOrigin(S3Origin(BUCKET, "", settings, self.told), Layout())
        async with (
            asyncio.timeout(DEADLINE_SECONDS),
            GuardedOrigin(tree, self.told) as origin,
            DiskStore(self.store_root, None) as store,
            Cache(origin, store, CacheSettings(fill_connections=connections), self.told, Clock()) as cache,
        ):
            yield cache

    @property
    def committed(self) -> bool:
        """The blob is visible in the store."""
        return (self.store_root / "blobs" / self.id[:2] / self.id).exists()

    def starts(self) -> list[int]:
        """Where the requests for the file began."""
        ranges = [parse_range(seen.wanted, SIZE) for seen in self.s3.requests(KEY)]
        return [item.start for item in ranges if item is not None]


@pytest.fixture
async def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    root = tmp_path / "origin"
    root.mkdir()
    manifest = await PublishedTree(root).publish("7", FILES)
    with _serving(root, monkeypatch) as s3:
        yield Rig(s3, manifest, tmp_path / "store")


def _serving(root: Path, monkeypatch: pytest.MonkeyPatch) -> FaultS3:
    s3 = FaultS3(root)
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    return s3


PASSING = {
    "slow": (fault_s3.slow(STALL_SECONDS / 5), None, Counter[str]()),
    "throttled": (fault_s3.throttle(16 * MIB), None, Counter[str]()),
    "500": (fault_s3.server_error(), 3, Counter({"server-error": 3})),
    "SlowDown": (fault_s3.slow_down(), 3, Counter({"throttled": 3})),
    "cut": (fault_s3.cut(after=MIB + 5), 4, Counter({"connection": 4})),
    "reset": (fault_s3.reset(after=MIB + 5), 4, Counter({"connection": 4})),
    "reset at once": (fault_s3.reset(), 2, Counter({"connection": 2})),
    "silent before the headers": (fault_s3.hang(), 1, Counter({"timeout": 1})),
    "silent in the body": (fault_s3.hang(after=MIB + 5), 2, Counter({"timeout": 2})),
    "wrong range": (fault_s3.wrong_range(), 2, Counter({"broken-answer": 2})),
    "200 to a range": (fault_s3.whole(), 2, Counter({"broken-answer": 2})),
}


@pytest.mark.parametrize("name", PASSING)
async def test_a_fault_that_passes(rig: Rig, name: str) -> None:
    """The reader gets every byte, right; the origin gives none twice; the blob is committed whole."""
    fault, times, retries = PASSING[name]
    rig.s3.fail(fault, key=KEY, times=times)
    async with rig.cache() as cache:
        assert await read(cache, FILE) == (MODEL_BYTES, BodySource.FILL)
        await eventually(lambda: rig.told.outcomes)
        assert (await read(cache, FILE))[1] is BodySource.HIT
    assert rig.told.outcomes == ["complete"]
    assert rig.told.retries == retries
    assert not rig.told.errors
    assert rig.committed


@pytest.mark.parametrize("name", ["cut", "silent in the body"])
async def test_a_broken_body_is_resumed_at_the_byte(rig: Rig, name: str) -> None:
    """After a break the next request begins at the byte that was reached; the origin sends the file once."""
    fault, times, _ = PASSING[name]
    assert times is not None
    rig.s3.fail(fault, key=KEY, times=times)
    async with rig.cache() as cache:
        assert (await read(cache, FILE))[0] == MODEL_BYTES
        await eventually(lambda: rig.told.outcomes)
    # What had arrived but was not read yet when the connection broke is sent again: what buffers hold.
    again = rig.s3.sent(KEY) - SIZE
    assert 0 <= again < (times * MIB // 2 if name == "cut" else 1)
    starts = rig.starts()
    assert starts == sorted(set(starts))
    assert len([start for start in starts if start % (2 * PIECE_BYTES)]) == times


LASTING = {
    "500": (fault_s3.server_error(), OriginUnreachable),
    "SlowDown": (fault_s3.slow_down(), OriginUnreachable),
    "cut at once": (fault_s3.cut(after=10), OriginUnreachable),
    "reset at once": (fault_s3.reset(), OriginUnreachable),
    "silent before the headers": (fault_s3.hang(), OriginUnreachable),
    "silent in the body": (fault_s3.hang(after=10), OriginUnreachable),
    "a trickle": (fault_s3.throttle(100), OriginUnreachable),
    "wrong range": (fault_s3.wrong_range(), OriginUnreachable),
    "200 to a range": (fault_s3.whole(), OriginUnreachable),
    "another ETag": (fault_s3.other_etag(), ObjectChanged),
    "AccessDenied": (fault_s3.denied("AccessDenied"), OriginDenied),
    "ExpiredToken": (fault_s3.denied("ExpiredToken"), OriginDenied),
    "InvalidAccessKeyId": (fault_s3.denied("InvalidAccessKeyId"), OriginDenied),
    "RequestTimeTooSkewed": (fault_s3.denied("RequestTimeTooSkewed"), OriginDenied),
    "a damaged piece": (Fault(flips=5), IntegrityError),
}


@pytest.mark.parametrize("name", LASTING)
async def test_a_fault_that_lasts(rig: Rig, name: str) -> None:
    """The reader gets one error in bounded time and no byte; nothing is committed; mended, all is well."""
    fault, kind = LASTING[name]
    rig.s3.fail(fault, key=KEY)
    async with rig.cache() as cache:
        data, error = await read_to_error(await open_body(cache, FILE))
        assert isinstance(error, kind)
        assert data == b""
        assert not rig.committed
        assert len(rig.s3.requests(KEY)) <= 8
        rig.s3.mend()
        await eventually(lambda: kind is not ObjectChanged or rig.told.outcomes)
        assert (await read(cache, FILE))[0] == MODEL_BYTES
        await eventually(lambda: rig.committed)


async def test_a_pause_that_is_asked_for_is_kept(rig: Rig) -> None:
    """After SlowDown with Retry-After nothing is sent before that time."""
    rig.s3.fail(fault_s3.slow_down(retry_after=1), key=KEY, times=1)
    async with _patient(rig) as cache:
        assert (await read(cache, FILE, ByteRange(0, 10)))[0] == MODEL_BYTES[:10]
    first, second = rig.s3.requests(KEY)
    assert second.at - first.at >= 1


@asynccontextmanager
async def _patient(rig: Rig) -> AsyncIterator[Cache]:
    """A cache with the stalls that proxies have."""
    tree = TreeOrigin(S3Origin(BUCKET, "", S3Settings(endpoint=rig.s3.url), rig.told), Layout())
    async with (
        asyncio.timeout(DEADLINE_SECONDS),
        GuardedOrigin(tree, rig.told) as origin,
        DiskStore(rig.store_root, None) as store,
        Cache(origin, store, CacheSettings(), rig.told, Clock()) as cache,
    ):
        yield cache


async def test_a_pause_that_is_too_long_is_passed_on(rig: Rig) -> None:
    """Retry-After beyond the patience ends the request at once; the reader is told how long to wait."""
    rig.s3.fail(fault_s3.slow_down(retry_after=1000), key=KEY)
    async with rig.cache() as cache:
        _, error = await read_to_error(await open_body(cache, FILE))
    assert isinstance(error, OriginUnreachable)
    assert error.retry_after_seconds == 1000
    assert len(rig.s3.requests(KEY)) == 1


async def test_readers_far_apart_share_the_faults(rig: Rig) -> None:
    """With several connections and many readers, over a mixture of faults, everybody gets the right bytes."""
    for fault in (fault_s3.cut(after=MIB), fault_s3.slow_down(), fault_s3.reset(after=5), fault_s3.whole()):
        # Fewer in all than one request has attempts, whoever meets them.
        rig.s3.fail(fault, key=KEY, times=1)
    ranges = [ByteRange(start, SIZE) for start in range(0, SIZE, PIECE_BYTES // 2)]
    async with rig.cache(connections=4) as cache:
        answers = await asyncio.gather(*(read(cache, FILE, wanted) for wanted in ranges))
        assert [data for data, _ in answers] == [MODEL_BYTES[wanted.start :] for wanted in ranges]
        await eventually(lambda: rig.committed)


@pytest.mark.parametrize("key", ["*/index.json", "*/manifest.json"])
@pytest.mark.parametrize("name", ["500", "SlowDown", "cut", "silent before the headers"])
async def test_documents_are_asked_for_again(rig: Rig, key: str, name: str) -> None:
    """An index or manifest that fails to come is asked for again, and never taken short."""
    faults = {**{name: item[0] for name, item in PASSING.items()}, "cut": fault_s3.cut(after=10)}
    rig.s3.fail(faults[name], key=key, times=2 if name != "silent before the headers" else 1)
    async with rig.cache() as cache:
        resolved = await resolve(cache, "org/bert@7")
    assert resolved.manifest.files[0].id == rig.id
    assert not rig.told.errors


async def test_an_origin_that_stays_away_is_left_alone(rig: Rig) -> None:
    """After failures in a row no reader asks the origin any more; one whose request succeeds closes that."""
    async with rig.cache() as cache:
        await resolve(cache, FILE)
        rig.s3.fail(fault_s3.server_error())
        errors: list[HotstartError] = []
        while not rig.told.circuit:
            errors.append((await read_to_error(await open_body(cache, FILE)))[1])
        assert all(isinstance(error, OriginUnreachable) for error in errors)
        asked = len(rig.s3.requests())
        for _ in range(20):
            with pytest.raises(OriginPaused):
                await read(cache, FILE)
        assert len(rig.s3.requests()) == asked
        rig.s3.mend()

        async def answers() -> bool:
            try:
                return (await read(cache, FILE))[0] == MODEL_BYTES
            except OriginPaused:
                return False

        while not await answers():  # noqa: ASYNC110 - what is waited for is asked for
            await asyncio.sleep(STALL_SECONDS / 10)
        assert rig.told.circuit == [True, False]


def test_the_server_itself(tmp_path: Path) -> None:
    """What these tests stand on: the faulty server is a right one while it has no faults to show."""
    from botocore.session import Session

    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_bytes(b"0123456789")
    with FaultS3(tmp_path) as s3:
        client = Session().create_client(
            "s3",
            endpoint_url=s3.url,
            region_name="us-east-1",
            aws_access_key_id="any",
            aws_secret_access_key="any",
        )
        found = client.head_object(Bucket=BUCKET, Key="a/b")
        assert found["ContentLength"] == 10
        part = client.get_object(Bucket=BUCKET, Key="a/b", Range="bytes=2-4", IfMatch=found["ETag"])
        assert (part["ContentRange"], part["Body"].read()) == ("bytes 2-4/10", b"234")
        with pytest.raises(client.exceptions.ClientError, match="PreconditionFailed"):
            client.get_object(Bucket=BUCKET, Key="a/b", IfMatch='"other"')
        with pytest.raises(client.exceptions.NoSuchKey):
            client.get_object(Bucket=BUCKET, Key="a/c")
        listing = client.list_objects_v2(Bucket=BUCKET, Delimiter="/")
        assert [item["Prefix"] for item in listing["CommonPrefixes"]] == ["a/"]
        listing = client.list_objects_v2(Bucket=BUCKET, Prefix="a/")
        assert [(item["Key"], item["Size"]) for item in listing["Contents"]] == [("a/b", 10)]
        client.put_object(Bucket=BUCKET, Key="a/c", Body=b"new", IfNoneMatch="*")
        assert (tmp_path / "a" / "c").read_bytes() == b"new"
        assert s3.sent("a/b") == 3
        s3.stop()
        s3.start()
        assert client.get_object(Bucket=BUCKET, Key="a/c")["Body"].read() == b"new"
        client.close()
