"""Opening a reference, and the chain that goes with it: proxy, fallback manifest, origin, shared volume."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from hotstart.sources.base import AllSourcesFailed, Body, SourceError, SourceKind
from hotstart.sources.chain import Chain, Opened, open_reference
from hotstart.sources.environment import Environment
from hotstart.sources.inventory import describe_model, list_models
from hotstart.sources.shared import FORMAT_LINE
from hotstart.wire.fallback import FallbackManifest
from hotstart.wire.ranges import ByteRange
from hotstart.wire.references import parse_reference
from tests.integration.sources.scripted import Answer, Request, ScriptedServer
from tests.integration.sources.trees import Tree, write_folder
from tests.integration.sources.versions import (
    DATA,
    FILE,
    MANIFEST,
    ORIGIN_ETAG,
    PATH,
    opening,
    ranged,
    read_all,
    read_into,
)

WHOLE = ByteRange(0, len(DATA))


class _Proxy:
    """Opens, serves, and can be told to cut."""

    def __init__(self) -> None:
        self.urls: Mapping[str, str] | None = None
        self.cut_after: int | None = None

    def __call__(self, request: Request) -> Answer:
        if request.target.startswith("/v1/open/"):
            return Answer(200, {}, opening(self.urls))
        return replace(ranged(request), cut_after=self.cut_after)


@pytest.fixture
def rules() -> _Proxy:
    return _Proxy()


@pytest.fixture
def proxy(rules: _Proxy) -> Iterator[ScriptedServer]:
    with ScriptedServer(rules) as running:
        yield running


@pytest.fixture
def origin() -> Iterator[ScriptedServer]:
    with ScriptedServer(lambda request: ranged(request, ORIGIN_ETAG)) as running:
        yield running


@pytest.fixture
def gone() -> str:
    with ScriptedServer(lambda request: Answer()) as running:
        pass
    return running.url


def _write_fallback(path: Path, origin: ScriptedServer, version: str = "7") -> str:
    manifest = replace(MANIFEST, version=version)
    path.write_bytes(
        FallbackManifest(
            model=manifest.model,
            version=version,
            manifest=manifest,
            manifest_bytes=manifest.dump(),
            urls={PATH: f"{origin.url}/{PATH}?X-Amz-Signature=s3cret"},
            signed_at=1_700_000_000_000,
            session_ends_at=None,
            expires_at=1_700_600_000_000,
            names=("prod",),
        ).dump()
    )
    return str(path)


def _open(reference: str = "org/bert@prod", **settings: str) -> Opened:
    names = {f"HOTSTART_{name.upper()}": value for name, value in settings.items()}
    return open_reference(parse_reference(reference), Environment.from_environ(names))


def _fetch_by(chain: Chain, start: int = 0) -> bytes:
    """Read the file as the engine does: resume at the byte, and give up a source that broke."""
    received = bytearray()
    while len(received) < len(DATA) - start:
        source = chain.current(FILE.identity())
        session = source.session()
        before = len(received)
        try:
            body: Body = session.fetch(FILE, FILE.identity(), ByteRange(start + before, len(DATA)))
            read_into(received, body)
        except SourceError as error:
            chain.give_up(source, error)
        finally:
            session.close()
            chain.count(source, len(received) - before)
    return bytes(received)


def test_the_proxy_opens_and_serves(proxy: ScriptedServer) -> None:
    """One round trip opens; the version is fixed, the file that was asked for is kept."""
    opened = _open(f"org/bert@prod/{PATH}", proxy=proxy.url)
    assert str(opened.reference) == f"org/bert@7/{PATH}"
    assert opened.opened_by == f"proxy {proxy.url}"
    assert opened.connect_seconds is not None
    assert 0 < opened.connect_seconds < opened.open_seconds
    assert _fetch_by(opened.sources) == DATA
    assert opened.sources.used == {f"proxy {proxy.url}": len(DATA)}


def test_a_proxy_that_breaks_is_followed_by_the_next_source_at_the_byte(
    proxy: ScriptedServer, rules: _Proxy, origin: ScriptedServer
) -> None:
    """Mid-stream the pre-signed URLs go on from the very byte; nothing is fetched twice."""
    rules.urls = {PATH: f"{origin.url}/{PATH}?X-Amz-Signature=s3cret"}
    rules.cut_after = 600_000
    opened = _open(proxy=proxy.url)
    assert _fetch_by(opened.sources) == DATA
    assert origin.requests[0].headers["range"] == f"bytes=600000-{len(DATA) - 1}"
    assert opened.sources.used == {
        f"proxy {proxy.url}": 600_000,
        f"pre-signed URLs of proxy {proxy.url}": len(DATA) - 600_000,
    }
    assert "s3cret" not in repr(opened)


def test_the_order_of_the_whole_chain(
    proxy: ScriptedServer, rules: _Proxy, origin: ScriptedServer, tmp_path: Path
) -> None:
    """Shared volume, proxy, its URLs, the fallback manifest's, the origin: each follows the one before."""
    rules.urls = {PATH: f"{origin.url}/{PATH}"}
    (tmp_path / "format").write_bytes(FORMAT_LINE)
    chain = _open(
        proxy=proxy.url,
        shared_dir=str(tmp_path),
        fallback=_write_fallback(tmp_path / "f.json", origin),
        origin=tmp_path.as_uri(),
    ).sources
    kinds: list[SourceKind] = []
    with pytest.raises(AllSourcesFailed) as caught:
        _give_up_all(chain, kinds)
    presigned = SourceKind.PRESIGNED
    assert kinds == [SourceKind.SHARED, SourceKind.TCP, presigned, presigned, SourceKind.ORIGIN]
    assert [failure.source for failure in caught.value.failures] == [
        f"shared volume {tmp_path}",
        f"proxy {proxy.url}",
        f"pre-signed URLs of proxy {proxy.url}",
        f"fallback manifest {tmp_path}/f.json",
        f"origin {tmp_path.as_uri()}",
    ]


def _give_up_all(chain: Chain, kinds: list[SourceKind]) -> None:
    while True:
        source = chain.current()
        kinds.append(source.kind)
        chain.give_up(source, SourceError(source.name, "reading", "it broke", transient=False))


def test_a_fallback_manifest_of_another_version_is_passed_over(
    proxy: ScriptedServer, rules: _Proxy, origin: ScriptedServer, tmp_path: Path
) -> None:
    """Files of two versions never meet: a manifest that holds another one is no source of this."""
    rules.cut_after = 10
    chain = _open(proxy=proxy.url, fallback=_write_fallback(tmp_path / "f.json", origin, "6")).sources
    with pytest.raises(AllSourcesFailed, match="it holds org/bert@6"):
        _fetch_by(chain)
    assert origin.requests == []


def test_without_a_proxy_the_fallback_manifest_opens(
    gone: str, origin: ScriptedServer, tmp_path: Path
) -> None:
    """With the proxy down, a version is opened and loaded by the fallback manifest alone."""
    fallback = _write_fallback(tmp_path / "f.json", origin)
    for selector in ("@7", "@prod"):
        opened = _open(f"org/bert{selector}", proxy=gone, fallback=fallback)
        assert opened.opened_by == f"fallback manifest {fallback}"
        assert opened.opening.manifest == MANIFEST
        assert _fetch_by(opened.sources) == DATA
        assert [failure.source for failure in opened.sources.failures()] == [f"proxy {gone}"]


@pytest.mark.parametrize("reference", ["org/bert@8", "org/bert@latest", "org/bert", "org/other@7"])
def test_a_fallback_manifest_answers_for_what_it_was_signed_for(
    origin: ScriptedServer, tmp_path: Path, reference: str
) -> None:
    """Another version, or a name that did not mean it when it was signed, is an error that says so."""
    fallback = _write_fallback(tmp_path / "f.json", origin)
    with pytest.raises(AllSourcesFailed, match=r"holds org/bert@7 \(signed as prod\)") as caught:
        _open(reference, fallback=fallback)
    assert f"hotstart presign {reference}" in str(caught.value)


def test_all_gone_is_one_error_that_lists_each(gone: str, tmp_path: Path) -> None:
    """Each source that was tried is named, with what was attempted and why it failed."""
    with pytest.raises(AllSourcesFailed) as caught:
        _open(proxy=gone, fallback=f"{tmp_path}/none.json", origin=f"file://{tmp_path}/none")
    failures = caught.value.failures
    assert [failure.source for failure in failures] == [
        f"proxy {gone}",
        f"fallback manifest {tmp_path}/none.json",
        f"origin file://{tmp_path}/none",
    ]
    for number, failure in enumerate(failures, 1):
        assert f"{number}. {failure.source}: " in str(caught.value)
    assert "nobody listens there" in failures[0].reason
    assert "No such file" in failures[1].reason
    assert "no such directory" in failures[2].reason


def test_the_origin_opens_when_nothing_nearer_does(gone: str, tmp_path: Path) -> None:
    """With proxy and fallback manifest gone, the origin itself is the last resort."""
    tree = Tree(tmp_path.joinpath("origin").as_uri(), {})
    tree.publish(write_folder(tmp_path / "m", {"weights.bin": DATA}), "org/bert@7", alias="prod")
    opened = _open(proxy=gone, fallback=f"{tmp_path}/none.json", origin=tree.url)
    assert opened.opened_by == f"origin {tree.url}"
    file = opened.opening.manifest.files[0]
    session = opened.sources.current().session()
    assert read_all(session.fetch(file, file.identity(), WHOLE)) == DATA
    session.close()
    assert len(opened.sources.failures()) == 2


def test_a_busy_proxy_is_asked_again(proxy: ScriptedServer, rules: _Proxy) -> None:
    """What may pass soon is waited for, a few times; what says it takes long is not."""
    answers = [Answer(503), Answer(429, {"Retry-After": "0"})]
    proxy.answer = lambda request: answers.pop(0) if answers else rules(request)
    assert _open(proxy=proxy.url).reference.selector == "7"
    assert len(proxy.requests) == 3
    proxy.answer = lambda request: Answer(503, {"Retry-After": "600"})
    with pytest.raises(AllSourcesFailed, match="HTTP 503"):
        _open(proxy=proxy.url)
    assert len(proxy.requests) == 4


def test_a_shared_volume_that_is_none_does_not_stop_anyone(proxy: ScriptedServer, tmp_path: Path) -> None:
    """A wrong mount is passed over with its reason, and the proxy serves."""
    opened = _open(proxy=proxy.url, shared_dir=str(tmp_path))
    assert opened.sources.map(FILE.identity()) is None
    assert _fetch_by(opened.sources) == DATA
    assert "no store there" in opened.sources.failures()[0].reason


def test_blobs_of_the_shared_volume_are_mapped(proxy: ScriptedServer, tmp_path: Path) -> None:
    """What the volume has is mapped, and no byte of it asked of the proxy."""
    (tmp_path / "format").write_bytes(FORMAT_LINE)
    blob = tmp_path / "blobs" / FILE.id[:2] / FILE.id
    blob.parent.mkdir(parents=True)
    blob.write_bytes(DATA)
    opened = _open(proxy=proxy.url, shared_dir=str(tmp_path))
    found = opened.sources.map(FILE.identity())
    assert found is not None
    source, mapped = found
    assert source.kind is SourceKind.SHARED
    assert mapped.view == DATA
    assert len(proxy.requests) == 1


def test_many_threads_use_one_chain(proxy: ScriptedServer, rules: _Proxy, origin: ScriptedServer) -> None:
    """Workers that all see the proxy break move on together, and every one gets its bytes."""
    rules.urls = {PATH: f"{origin.url}/{PATH}"}
    rules.cut_after = 300_000
    opened = _open(proxy=proxy.url)
    results: list[bytes] = []

    def load(start: int) -> None:
        results.append(_fetch_by(opened.sources, start))

    threads = [threading.Thread(target=load, args=(start,)) for start in range(0, 800_000, 100_000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(len(data) for data in results) == sorted(
        len(DATA) - start for start in range(0, 800_000, 100_000)
    )
    assert all(DATA.endswith(data) for data in results)
    assert len(opened.sources.failures()) == 1


def test_lists_and_descriptions_come_from_the_proxy(proxy: ScriptedServer, gone: str, tmp_path: Path) -> None:
    """ls asks the proxy, and the origin only where there is none or it is down."""
    model = (
        b'{"format":1,"model":"org/bert","serial":3,"aliases":{"prod":"7"},"kept":["7"],'
        b'"cached":{"7":{"model.safetensors":5}},'
        b'"versions":[{"version":"7","published_at":"2026-01-02T03:04:05.678Z"}]}'
    )
    answers = {"/v1/models": b'{"models":["org/bert"]}', "/v1/models/org/bert": model}
    proxy.answer = lambda request: Answer(200, {}, answers[request.target.partition("?")[0]])
    environment = Environment.from_environ({"HOTSTART_PROXY": proxy.url, "HOTSTART_TOKEN": "t0ken"})
    assert list_models(environment).models == ("org/bert",)
    description = describe_model(environment, "org/bert")
    assert description.index is not None
    assert description.index.aliases == {"prod": "7"}
    assert (description.kept, description.cached) == (("7",), {"7": {"model.safetensors": 5}})
    assert {request.headers["authorization"] for request in proxy.requests} == {"Bearer t0ken"}
    tree = Tree(tmp_path.joinpath("origin").as_uri(), {})
    tree.publish(write_folder(tmp_path / "m", {"config.json": b"{}"}), "org/other@1")
    assert list_models(tree.environment(proxy=gone)).models == ("org/other",)


@pytest.mark.parametrize("body", [b"{", b'{"models":[1]}', b'{"models":1}'])
def test_a_list_that_is_none_is_one_error(proxy: ScriptedServer, body: bytes) -> None:
    """Whatever a proxy answers instead of a list is reported as what it is."""
    proxy.answer = lambda request: Answer(200, {}, body)
    environment = Environment.from_environ({"HOTSTART_PROXY": proxy.url})
    with pytest.raises(AllSourcesFailed, match="malformed"):
        list_models(environment)
    with pytest.raises(AllSourcesFailed, match="malformed"):
        describe_model(environment, "org/bert")
