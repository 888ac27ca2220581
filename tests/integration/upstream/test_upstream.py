"""Another proxy as the origin: what is asked of it, and what each of its answers comes to."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from hotstart.wire.digests import etag, sha256_id
from hotstart.wire.errors import FormatError
from hotstart.wire.index import Index, IndexEntry
from hotstart.wire.manifest import File, Manifest, OriginObject, Representation
from hotstart.wire.opening import Fallback, Opening
from hotstart.wire.pieces import PieceHasher
from hotstart.wire.ranges import ByteRange, content_range
from hotstart_proxy.core.hops import REQUEST_HOPS, Hops
from hotstart_proxy.core.tiers import Tier
from hotstart_proxy.origins.base import (
    ObjectChanged,
    OriginDenied,
    OriginError,
    OriginLoop,
    OriginUnreachable,
)
from hotstart_proxy.origins.models import VersionBlob
from hotstart_proxy.origins.token_file import TokenFile
from hotstart_proxy.origins.upstream import UpstreamOrigin
from tests.integration.upstream.scripted import Scripted, ScriptedServer, problem
from tests.support.processes import free_port

NAME = "hotstart-abc"
DATA = bytes(range(256)) * 40
SECRET = "https://bucket.invalid/weights?X-Amz-Signature=secret"


def manifest(data: bytes = DATA) -> Manifest:
    hasher = PieceHasher()
    hasher.update(data)
    sha256, pieces = hasher.finish()
    item = OriginObject("org/bert/7/weights", '"origin"')
    file = File("weights", len(data), sha256, sha256, "application/octet-stream", item, pieces=pieces)
    return Manifest("org/bert", "7", 1_700_000_000_000, (file,))


def representation(path: str = "weights") -> Representation:
    found = manifest().representation(path)
    assert found is not None
    return found


BLOB = VersionBlob("org/bert", "7", representation())
ETAG = etag(BLOB.representation.id)


def part(wanted: ByteRange, *, cut_after: int | None = None) -> Scripted:
    """Return the right answer to a range of the weights."""
    headers = {"ETag": ETAG, "Content-Range": content_range(wanted, len(DATA))}
    return Scripted(206, headers, DATA[wanted.start : wanted.stop], cut_after)


async def fetch(origin: UpstreamOrigin, wanted: ByteRange, tier: Tier = Tier.STANDARD) -> bytes:
    async with origin.get(BLOB, wanted, tier) as chunks:
        return b"".join([chunk async for chunk in chunks])


async def test_bytes_are_pinned_and_never_redirected() -> None:
    """A request for bytes names the content, refuses redirects, and passes on tier and way."""
    wanted = ByteRange(100, 5000)
    async with ScriptedServer(part(wanted)) as server, UpstreamOrigin(server.url, NAME) as origin:
        token = REQUEST_HOPS.set(Hops(("hotstart-def",)))
        try:
            assert await fetch(origin, wanted, Tier.PREMIUM) == DATA[100:5000]
        finally:
            REQUEST_HOPS.reset(token)
        (asked,) = server.asked
    assert asked.target == "/v1/models/org/bert@7/weights"
    assert asked.headers["range"] == "bytes=100-4999"
    assert asked.headers["if-match"] == ETAG
    assert asked.headers["hotstart-redirect"] == "no"
    assert asked.headers["x-latency-tier"] == "premium"
    assert asked.headers["via"] == "1.1 hotstart-def, 1.1 hotstart-abc"
    assert asked.headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("tier", [Tier.WARMING, Tier.BATCH])
async def test_what_nobody_waits_for_is_batch(tier: Tier) -> None:
    """What is fetched before anyone asks says of itself that it can wait."""
    wanted = ByteRange(0, 10)
    async with ScriptedServer(part(wanted)) as server, UpstreamOrigin(server.url, NAME) as origin:
        await fetch(origin, wanted, tier)
        assert server.asked[0].headers["x-latency-tier"] == "batch"


async def test_a_broken_body_is_resumed_at_the_byte() -> None:
    """A connection that breaks in the middle is followed by a request for the rest alone."""
    wanted = ByteRange(0, len(DATA))
    rest = ByteRange(1000, len(DATA))
    answers = (part(wanted, cut_after=1000), part(rest))
    async with ScriptedServer(*answers) as server, UpstreamOrigin(server.url, NAME) as origin:
        assert await fetch(origin, wanted) == DATA
        assert [asked.headers["range"] for asked in server.asked] == [wanted.header(), rest.header()]


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
async def test_a_busy_upstream_is_asked_again(status: int) -> None:
    """What may pass is tried again, and the read succeeds."""
    wanted = ByteRange(5, 50)
    async with (
        ScriptedServer(Scripted(status), part(wanted)) as server,
        UpstreamOrigin(server.url, NAME) as origin,
    ):
        assert await fetch(origin, wanted) == DATA[5:50]
        assert len(server.asked) == 2


async def test_what_the_upstream_has_retried_is_not_retried_again() -> None:
    """An upstream that says that its own origin is away has tried it several times, so that is that."""
    async with ScriptedServer(problem(502, "origin-unreachable")) as server:
        async with UpstreamOrigin(server.url, NAME) as origin:
            with pytest.raises(OriginUnreachable, match="it is origin-unreachable"):
                await fetch(origin, ByteRange(0, 10))
        assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (problem(412, "precondition-failed"), ObjectChanged),
        (problem(404, "not-found"), ObjectChanged),
        (problem(502, "origin-changed"), ObjectChanged),
        (problem(401, "unauthorized"), OriginDenied),
        (Scripted(403), OriginDenied),
        (problem(502, "origin-denied"), OriginDenied),
        (problem(508, "loop"), OriginLoop),
        (Scripted(404), OriginError),
        (problem(404, "no-such-route"), OriginError),
        (Scripted(307, {"Location": SECRET}), OriginError),
        (problem(502, "origin-damaged"), OriginError),
        (Scripted(200, {"ETag": '"another"'}, DATA), ObjectChanged),
    ],
)
async def test_what_cannot_pass_is_not_tried_again(answer: Scripted, error: type[OriginError]) -> None:
    """Every answer has one meaning, and one that cannot get better is taken at once."""
    async with ScriptedServer(answer) as server, UpstreamOrigin(server.url, NAME) as origin:
        with pytest.raises(OriginError) as caught:
            await fetch(origin, ByteRange(0, 10))
        assert type(caught.value) is error
        assert len(server.asked) == 1
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "answer",
    [
        Scripted(200, {"ETag": ETAG}, DATA),
        Scripted(
            206, {"ETag": ETAG, "Content-Range": content_range(ByteRange(1, 11), len(DATA))}, DATA[1:11]
        ),
        Scripted(206, {"ETag": ETAG, "Content-Range": "bytes"}, DATA[5:15]),
        Scripted(
            206, {"ETag": ETAG, "Content-Range": content_range(ByteRange(5, 15), len(DATA))}, DATA[5:16]
        ),
    ],
)
async def test_other_bytes_than_asked_for_are_never_taken(answer: Scripted) -> None:
    """An answer that is not exactly the range is none, and the right one after it is used."""
    wanted = ByteRange(5, 15)
    async with ScriptedServer(answer, part(wanted)) as server, UpstreamOrigin(server.url, NAME) as origin:
        assert await fetch(origin, wanted) == DATA[5:15]


async def test_a_whole_for_a_range_that_is_the_whole() -> None:
    """200 with everything is an answer to a range that is everything."""
    wanted = ByteRange(0, len(DATA))
    async with ScriptedServer(Scripted(200, {"ETag": ETAG}, DATA)) as server:
        async with UpstreamOrigin(server.url, NAME) as origin:
            assert await fetch(origin, wanted) == DATA


async def test_no_bytes_are_asked_for_by_head() -> None:
    """An empty range asks whether the content is still there, and gives nothing."""
    async with ScriptedServer(Scripted(200), problem(412, "precondition-failed")) as server:
        async with UpstreamOrigin(server.url, NAME) as origin:
            assert await fetch(origin, ByteRange(7, 7)) == b""
            with pytest.raises(ObjectChanged):
                await fetch(origin, ByteRange(7, 7))
        assert [asked.method for asked in server.asked] == ["HEAD", "HEAD"]


async def test_nobody_there() -> None:
    """An upstream that is not there is unreachable, not missing."""
    async with UpstreamOrigin(f"http://127.0.0.1:{free_port()}", NAME) as origin:
        with pytest.raises(OriginUnreachable):
            await origin.index("org/bert", 0, None)


# Documents


def index(*versions: str) -> Index:
    found = Index("org/bert")
    for version in versions:
        found = found.with_version(IndexEntry(version, 1, sha256_id(version.encode())))
    return found


def model_answer(found: Index) -> Scripted:
    members = {**json.loads(found.dump(every_manifest_id=True)), "kept": [], "cached": {"7": {"weights": 3}}}
    data = json.dumps(members).encode()
    return Scripted(200, {"ETag": etag(sha256_id(data))}, data)


async def test_an_index_is_polled_conditionally() -> None:
    """The second poll carries the validator of the first; 304 gives back what is known."""
    first = model_answer(index("7"))
    async with ScriptedServer(first, Scripted(304)) as server, UpstreamOrigin(server.url, NAME) as origin:
        known = await origin.index("org/bert", 0, None)
        assert known is not None
        assert known.index == index("7")
        assert await origin.index("org/bert", 0, known) is known
        assert server.asked[0].target == "/v1/models/org/bert"
        assert server.asked[0].headers["cache-control"] == "max-age=1"
        assert server.asked[1].headers["if-none-match"] == first.headers["ETag"]


async def test_adopted_versions_keep_their_ids() -> None:
    """The ids of more than the newest five manifests arrive: an old adopted version may change too."""
    versions = tuple(str(number) for number in range(9))
    async with ScriptedServer(model_answer(index(*versions))) as server:
        async with UpstreamOrigin(server.url, NAME) as origin:
            known = await origin.index("org/bert", 0, None)
    assert known is not None
    assert all(entry.manifest_id for entry in known.index.versions)


async def test_absence_is_only_what_the_upstream_says() -> None:
    """A problem document that says not-found is absence; a page of some other server is an error."""
    answers = (problem(404, "not-found"), problem(404, "not-found"), Scripted(404, {}, b"<html>"))
    async with ScriptedServer(*answers) as server, UpstreamOrigin(server.url, NAME) as origin:
        assert await origin.index("org/bert", 0, None) is None
        assert await origin.manifest("org/bert", "7", 0) is None
        with pytest.raises(OriginError, match="expected a hotstart proxy there"):
            await origin.manifest("org/bert", "7", 0)


async def test_a_manifest_comes_as_it_is() -> None:
    """The manifest's bytes are the upstream's, which are the origin's."""
    data = manifest().dump()
    async with ScriptedServer(Scripted(200, {}, data)) as server, UpstreamOrigin(server.url, NAME) as origin:
        assert await origin.manifest("org/bert", "7", 0) == data
        assert server.asked[0].target == "/v1/models/org/bert@7"


async def test_models_are_listed() -> None:
    """The list is the upstream's, checked name by name."""
    answers = (
        Scripted(200, {}, b'{"models": ["org/b", "org/a"]}'),
        Scripted(200, {}, b'{"models": ["../.."]}'),
        Scripted(200, {}, b"[]"),
    )
    async with ScriptedServer(*answers) as server, UpstreamOrigin(server.url, NAME) as origin:
        assert await origin.models() == ("org/a", "org/b")
        for _ in range(2):
            with pytest.raises(OriginError, match="malformed list of models"):
                await origin.models()


async def test_another_models_index_is_refused() -> None:
    """An index that is of another model than was asked for is malformed."""
    async with ScriptedServer(model_answer(index("7"))) as server:
        async with UpstreamOrigin(server.url, NAME) as origin:
            with pytest.raises(FormatError, match="expected org/other"):
                await origin.index("org/other", 0, None)


async def test_a_token_is_sent_and_read_again(tmp_path: Path) -> None:
    """The first line of the token file goes with every request, the new one once it has changed."""
    path = tmp_path / "token"
    path.write_text("first\nsecond\n")
    answer = Scripted(200, {}, b'{"models": []}')
    async with ScriptedServer(answer) as server:
        async with UpstreamOrigin(server.url, NAME, TokenFile(path)) as origin:
            await origin.models()
            path.write_text("rotated")
            await origin.models()
            path.write_text("half a line that")
            await origin.models()
            path.unlink()
            await origin.models()
        tokens = [asked.headers["authorization"] for asked in server.asked]
    assert tokens == ["Bearer first", *["Bearer rotated"] * 3]


async def test_a_token_file_that_cannot_be_used(tmp_path: Path) -> None:
    """Without a token nothing is asked; what is wrong is said, and the text is not repeated."""
    path = tmp_path / "token"
    path.write_text("two words\n")
    async with ScriptedServer(Scripted(200)) as server:
        async with UpstreamOrigin(server.url, NAME, TokenFile(path)) as origin:
            with pytest.raises(OriginDenied, match="is no token") as caught:
                await origin.models()
            assert "two words" not in str(caught.value)
            path.unlink()
            with pytest.raises(OriginDenied, match="cannot read the token file"):
                await origin.models()
        assert server.asked == []


# The fallback


def opening(fallback: Fallback | None) -> Scripted:
    found = manifest()
    return Scripted(200, {}, Opening(found, found.dump(), fallback, {}).dump())


class Clock:
    """Seconds, as a test sets them."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


async def test_the_fallback_is_passed_on() -> None:
    """The upstream's URL is given, kept for a moment, and its life counts down."""
    answer = opening(Fallback({"weights": SECRET}, 3600))
    clock = Clock()
    async with ScriptedServer(answer) as server:
        async with UpstreamOrigin(server.url, NAME, clock=clock) as origin:
            first = await origin.presign([BLOB], 900)
            clock.seconds += 5.5
            second = await origin.presign([BLOB], 900)
            clock.seconds += 60
            third = await origin.presign([BLOB], 900)
        targets = [asked.target for asked in server.asked]
    assert targets == ["/v1/open/org/bert@7?expires_in=900"] * 2
    assert first == Fallback({"weights": SECRET}, 3600)
    assert second == Fallback({"weights": SECRET}, 3594)
    assert third == first
    assert "secret" not in repr(origin._fallbacks)


async def test_no_fallback_is_none() -> None:
    """An upstream that cannot pre-sign has no fallback to pass on, nor for another content than is asked."""
    async with ScriptedServer(opening(None), opening(Fallback({"weights": SECRET}, 60))) as server:
        async with UpstreamOrigin(server.url, NAME) as origin:
            assert await origin.presign([BLOB], 60) is None
            other = next(iter(manifest(b"other").files[0].representations()))
            assert await origin.presign([VersionBlob("org/bert", "7", other)], 61) is None


async def test_a_fallback_that_has_run_out_is_not_given() -> None:
    """What has no whole second left is no fallback."""
    async with ScriptedServer(opening(Fallback({"weights": SECRET}, 0))) as server:
        async with UpstreamOrigin(server.url, NAME) as origin:
            assert await origin.presign([BLOB], 60) is None


async def test_many_who_are_redirected_cost_one_opening() -> None:
    """Readers that miss together are given URLs of one answer."""
    async with ScriptedServer(opening(Fallback({"weights": SECRET}, 600))) as server:
        async with UpstreamOrigin(server.url, NAME) as origin:
            found = await asyncio.gather(*(origin.presign([BLOB], 600) for _ in range(16)))
        assert all(fallback is not None for fallback in found)
        assert len(server.asked) == 1


async def test_an_opening_that_fails_is_not_asked_for_again_at_once() -> None:
    """Clients that open while the upstream is away go without a fallback, and none of them waits for long."""
    clock = Clock()
    async with ScriptedServer(Scripted(500)) as server:
        async with UpstreamOrigin(server.url, NAME, clock=clock) as origin:
            for _ in range(3):
                with pytest.raises(OriginUnreachable):
                    await origin.presign([BLOB], 600)
            asked = len(server.asked)
            server.answers = [opening(Fallback({"weights": SECRET}, 600))]
            clock.seconds += 60
            assert await origin.presign([BLOB], 600) is not None
    assert asked == 2
