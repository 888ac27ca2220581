"""The sources against ``hotstart serve``: over TCP and a Unix socket, and from its store's directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from hotstart.sources.base import AllSourcesFailed, SourceError, SourceKind
from hotstart.sources.chain import Opened, open_reference
from hotstart.sources.environment import Environment
from hotstart.sources.inventory import describe_model, list_models
from hotstart.sources.presigned import PresignedSource
from hotstart.wire.ranges import ByteRange
from hotstart.wire.references import parse_reference
from tests.integration.sources.trees import Tree
from tests.integration.sources.versions import read_all
from tests.support.deadlines import wait_until
from tests.support.models import make_model
from tests.support.processes import Processes, Proxy
from tests.support.s3 import S3Server


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "m", mebibytes=5)


@pytest.fixture
def proxy(processes: Processes, folder: Path, tmp_path: Path) -> Proxy:
    """A proxy with an empty store before a directory with one version."""
    tree = Tree(tmp_path.joinpath("origin").as_uri(), {})
    tree.publish(folder, "org/bert@7", alias="prod")
    return processes.serve(tree.url, tmp_path / "store")


def _open(reference: str, **settings: str) -> Opened:
    names = {f"HOTSTART_{name.upper()}": value for name, value in settings.items()}
    return open_reference(parse_reference(reference), Environment.from_environ(names))


def _read_all_files(opened: Opened, folder: Path) -> None:
    """Read every representation of a version, in uneven ranges, and compare the files with the folder's."""
    session = opened.sources.current().session()
    for file in opened.opening.manifest.files:
        for representation in file.representations():
            half = representation.size // 2 + 1
            parts = [ByteRange(0, half), ByteRange(half, representation.size)]
            data = b"".join(
                read_all(session.fetch(file, representation, part)) for part in parts if len(part)
            )
            if representation == file.identity():
                assert data == (folder / file.path).read_bytes()
            else:
                assert len(data) == representation.size
    session.close()


@pytest.mark.parametrize("listener", ["tcp", "unix"])
def test_everything_is_served_cold_and_warm(proxy: Proxy, folder: Path, listener: str) -> None:
    """Every file and twin arrives bit for bit, from a cold store and again from a warm one."""
    url = proxy.url if listener == "tcp" else proxy.unix_url
    for _ in range(2):
        opened = _open("org/bert@prod", proxy=url)
        assert opened.sources.current().kind is (SourceKind.TCP if listener == "tcp" else SourceKind.UNIX)
        assert opened.opening.fallback is None
        _read_all_files(opened, folder)


def test_a_warm_store_is_mapped(proxy: Proxy, folder: Path) -> None:
    """Once filled, a blob is mapped from the store's own directory; before that it is not there."""
    opened = _open("org/bert@prod", proxy=proxy.url, shared_dir=str(proxy.store))
    weights = opened.opening.manifest.file("model.safetensors")
    assert weights is not None
    assert opened.sources.map(weights.identity()) is None
    session = opened.sources.current(weights.identity()).session()
    data = read_all(session.fetch(weights, weights.identity(), ByteRange(0, weights.size)))
    session.close()
    # The last byte is served before the blob is durable, and only then is it visible.
    source, mapped = wait_until("the blob", lambda: opened.sources.map(weights.identity()))
    assert source.kind is SourceKind.SHARED
    assert mapped.view == data == (folder / "model.safetensors").read_bytes()


def test_what_is_not_there_is_told(proxy: Proxy) -> None:
    """The proxy's problem documents reach the error: what is missing, and what there is."""
    for reference, expected in (("org/none", "org/none"), ("org/bert@9", "org/bert@9")):
        with pytest.raises(AllSourcesFailed, match="HTTP 404") as caught:
            _open(reference, proxy=proxy.url)
        assert expected in str(caught.value)


def test_models_are_listed_and_described(proxy: Proxy) -> None:
    """ls through a proxy shows models, versions, aliases, and what the proxy keeps."""
    environment = Environment.from_environ({"HOTSTART_PROXY": proxy.unix_url})
    assert list_models(environment).models == ("org/bert",)
    description = describe_model(environment, "org/bert")
    assert description.index is not None
    assert description.index.aliases == {"prod": "7"}
    assert description.kept == ("7",)


def test_a_killed_proxy_leaves_an_error_and_not_a_hang(proxy: Proxy) -> None:
    """A proxy that dies is noticed at once, and asking it again says that nobody is there."""
    opened = _open("org/bert@prod", proxy=proxy.url)
    weights = opened.opening.manifest.file("model.safetensors")
    assert weights is not None
    session = opened.sources.current().session()
    read_all(session.fetch(weights, weights.identity(), ByteRange(0, 8)))
    proxy.process.kill()
    with pytest.raises(SourceError, match="nobody listens there"):
        session.fetch(weights, weights.identity(), ByteRange(0, 8))
    session.close()


def test_pre_signed_urls_of_a_real_server(
    processes: Processes,
    folder: Path,
    tmp_path: Path,
    s3_server: S3Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """URLs that the proxy gives out serve every byte with the proxy gone; a spoilt one is refused by S3."""
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    tree = Tree(f"s3://{s3_server.create_bucket()}/p", s3_server.environment())
    tree.publish(folder, "org/bert@7")
    proxy = processes.serve(tree.url, tmp_path / "store", environment=s3_server.environment())
    opened = _open("org/bert@latest", proxy=proxy.url)
    fallback = opened.opening.fallback
    assert fallback is not None
    proxy.process.kill()
    gone = SourceError("proxy", "reading", "it is gone", transient=False)
    opened.sources.give_up(opened.sources.current(), gone)
    assert opened.sources.current().kind is SourceKind.PRESIGNED
    _read_all_files(opened, folder)
    file = opened.opening.manifest.files[0]
    spoilt = {
        path: url.replace("X-Amz-Signature=", "X-Amz-Signature=0") for path, url in fallback.urls.items()
    }
    session = PresignedSource("urls", spoilt, refresh=None, advice=lambda: "ask for new ones").session()
    with pytest.raises(SourceError, match=r"HTTP 403.*ask for new ones") as caught:
        session.fetch(file, file.identity(), ByteRange(0, 1))
    session.close()
    assert "X-Amz-Signature" not in str(caught.value)
