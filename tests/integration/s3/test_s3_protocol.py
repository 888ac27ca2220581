"""S3's read protocol as bytes on the wire, before any client of it."""

from __future__ import annotations

import base64
import hashlib
import socket
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.server.wire import Answer, ask, connected
from tests.support.models import make_model
from tests.support.processes import Processes, Proxy

BUCKET = "/s3/models"
WEIGHTS = f"{BUCKET}/org/bert/7/model.safetensors"
SPACE = "{http://s3.amazonaws.com/doc/2006-03-01/}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An origin with versions 6 and 7 of org/bert, of which prod means 6, with twins, and library/one."""
    base = tmp_path_factory.mktemp("s3")
    origin = f"file://{base / 'origin'}"
    with Processes(base / "publishing") as processes:
        (base / "origin").mkdir()
        for version, seed in (("6", 6), ("7", 7)):
            model = make_model(base / version, seed, mebibytes=1)
            (model / "größe & co.txt").write_text(version)
            (model / "empty").write_text("")
            processes.run("publish", str(model), f"org/bert@{version}", "--origin", origin).check()
        processes.run("publish", str(base / "6"), "one@1", "--origin", origin).check()
        processes.run("alias", "org/bert", "prod=6", "--origin", origin).check()
    return base


@pytest.fixture(scope="module")
def proxy(folder: Path) -> Iterator[Proxy]:
    with Processes(folder / "processes") as processes:
        yield processes.serve(f"file://{folder / 'origin'}", folder / "store")


@pytest.fixture(scope="module")
def weights(folder: Path) -> bytes:
    return (folder / "7" / "model.safetensors").read_bytes()


def check_error(answer: Answer, status: int, code: str) -> ElementTree.Element:
    """Check that an answer is an error as S3's clients read it."""
    assert answer.status == status, answer.body
    assert answer.headers["content-type"] == "application/xml"
    assert answer.headers["cache-control"] == "no-store"
    root = ElementTree.fromstring(answer.body)
    assert (root.tag, root.findtext("Code")) == ("Error", code)
    assert root.findtext("Message")
    return root


def listing(proxy: Proxy, query: str) -> ElementTree.Element:
    answer = ask(proxy.port, f"{BUCKET}?{query}")
    assert answer.status == 200, answer.body
    assert answer.headers["content-type"] == "application/xml"
    return ElementTree.fromstring(answer.body)


def texts(root: ElementTree.Element, path: str) -> list[str | None]:
    return [found.text for found in root.findall("/".join(SPACE + part for part in path.split("/")))]


def test_an_object_is_the_file(proxy: Proxy, weights: bytes) -> None:
    """GetObject gives the bytes with the content id as ETag; HeadObject the same headers without them."""
    answer = ask(proxy.port, WEIGHTS)
    assert (answer.status, answer.body) == (200, weights)
    digest = hashlib.sha256(weights)
    assert answer.headers["etag"] == f'"{digest.hexdigest()}"'
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert "x-amz-checksum-sha256" not in answer.headers
    head = ask(proxy.port, WEIGHTS, method="HEAD")
    names = ("etag", "content-length", "last-modified", "content-type", "accept-ranges", "cache-control")
    assert [head.headers[name] for name in names] == [answer.headers[name] for name in names]


def test_a_checksum_is_for_whole_answers(proxy: Proxy, weights: bytes) -> None:
    """The sha256 stands in whole answers of whoever asks for it, and never in those to a range."""
    asked = {"x-amz-checksum-mode": "ENABLED"}
    checksum = base64.b64encode(hashlib.sha256(weights).digest()).decode()
    for method in ("GET", "HEAD"):
        answer = ask(proxy.port, WEIGHTS, asked, method)
        assert answer.headers["x-amz-checksum-sha256"] == checksum
        assert answer.headers["x-amz-checksum-type"] == "FULL_OBJECT"
    for target, headers in ((WEIGHTS, {"Range": "bytes=0-9"}), (f"{WEIGHTS}?partNumber=1", {})):
        part = ask(proxy.port, target, {**asked, **headers})
        assert part.status == 206
        assert not [name for name in part.headers if name.startswith("x-amz-checksum")]


def test_ranges(proxy: Proxy, weights: bytes) -> None:
    """Ranges are 206, those outside InvalidRange with the size; the one part is the whole."""
    tail = ask(proxy.port, WEIGHTS, {"Range": "bytes=-10"})
    assert (tail.status, tail.body) == (206, weights[-10:])
    beyond = ask(proxy.port, WEIGHTS, {"Range": f"bytes={len(weights)}-"})
    assert check_error(beyond, 416, "InvalidRange").findtext("ActualObjectSize") == str(len(weights))
    part = ask(proxy.port, f"{WEIGHTS}?partNumber=1")
    assert part.body == weights
    assert part.headers["content-range"] == f"bytes 0-{len(weights) - 1}/{len(weights)}"
    assert ask(proxy.port, f"{BUCKET}/org/bert/7/empty?partNumber=1").status == 200
    check_error(ask(proxy.port, f"{WEIGHTS}?partNumber=2"), 400, "InvalidArgument")


def test_validators(proxy: Proxy, weights: bytes) -> None:
    """If-Match and If-None-Match hold for the ETag, in quotes or, as S3 takes it, without."""
    digest = hashlib.sha256(weights).hexdigest()
    for tag in (digest, f'"{digest}"', f'"x", {digest}'):
        part = ask(proxy.port, WEIGHTS, {"If-Match": tag, "Range": "bytes=0-9"})
        assert (part.status, part.body) == (206, weights[:10])
        assert ask(proxy.port, WEIGHTS, {"If-None-Match": tag}).status == 304
    for tag in ("0" * 64, f'"{digest}x"', f"{digest}-1"):
        check_error(ask(proxy.port, WEIGHTS, {"If-Match": tag}), 412, "PreconditionFailed")


@pytest.mark.parametrize(
    "key",
    [
        "org/bert/7/nothing",
        "org/bert/7/",
        "org/bert/7",
        "org/bert/9/model.safetensors",
        "org/bert/prod/model.safetensors",
        "org/bert/latest/model.safetensors",
        "org/bert/main/model.safetensors",
        "org/nothing/7/model.safetensors",
        "org/bert/7/.hotstart/manifest.json",
        "org/bert@7/7/model.safetensors",
        "org/bert/7/a//b",
        "org/bert/7/%2e%2e/model.safetensors",
    ],
)
def test_no_such_key(proxy: Proxy, key: str) -> None:
    """What is no file of a version is no key, and neither is a file by an alias."""
    check_error(ask(proxy.port, f"{BUCKET}/{key}"), 404, "NoSuchKey")
    assert ask(proxy.port, f"{BUCKET}/{key}", method="HEAD").status == 404


def test_an_alias_says_what_it_means(proxy: Proxy) -> None:
    """Who asks by an alias is told the prefix of the version that it means."""
    error = check_error(ask(proxy.port, f"{BUCKET}/org/bert/prod/config.json"), 404, "NoSuchKey")
    assert "org/bert/6/" in str(error.findtext("Message"))


@pytest.mark.parametrize(
    ("method", "target", "status", "code"),
    [
        ("GET", "/s3/other/org/bert/7/config.json", 404, "NoSuchBucket"),
        ("GET", f"{BUCKET}/org%2Fbert/7/config.json", 400, "InvalidURI"),
        ("GET", f"{BUCKET}/org/bert/7/%00", 400, "InvalidURI"),
        ("PUT", WEIGHTS, 405, "MethodNotAllowed"),
        ("DELETE", WEIGHTS, 405, "MethodNotAllowed"),
        ("POST", f"{BUCKET}?delete", 405, "MethodNotAllowed"),
        ("GET", f"{BUCKET}?acl", 501, "NotImplemented"),
        ("GET", f"{WEIGHTS}?tagging", 501, "NotImplemented"),
        ("GET", f"{WEIGHTS}?versionId=x", 400, "InvalidArgument"),
        ("GET", f"{BUCKET}?max-keys=-1", 400, "InvalidArgument"),
        ("GET", f"{BUCKET}?list-type=3", 400, "InvalidArgument"),
        ("GET", f"{BUCKET}?encoding-type=x", 400, "InvalidArgument"),
        ("GET", f"{BUCKET}?list-type=2&continuation-token=x", 400, "InvalidArgument"),
    ],
)
def test_refusals(proxy: Proxy, method: str, target: str, status: int, code: str) -> None:
    """What is not there, or not S3's reading, is refused with S3's own code."""
    check_error(ask(proxy.port, target, method=method), status, code)


def test_buckets(proxy: Proxy) -> None:
    """There is one bucket, in us-east-1, never versioned."""
    buckets = ElementTree.fromstring(ask(proxy.port, "/s3/").body)
    assert texts(buckets, "Buckets/Bucket/Name") == ["models"]
    assert ask(proxy.port, "/s3").body == ask(proxy.port, "/s3/").body
    head = ask(proxy.port, BUCKET, method="HEAD")
    assert (head.status, head.headers["x-amz-bucket-region"]) == (200, "us-east-1")
    assert ask(proxy.port, "/s3/other", method="HEAD").status == 404
    location = ElementTree.fromstring(ask(proxy.port, f"{BUCKET}?location").body)
    assert (location.tag, location.text) == (f"{SPACE}LocationConstraint", None)
    assert b"VersioningConfiguration" in ask(proxy.port, f"{BUCKET}/?versioning").body


def test_listings(proxy: Proxy, folder: Path) -> None:
    """Listings go down by delimiter, and page by page in either version."""
    assert texts(listing(proxy, "list-type=2&delimiter=/"), "CommonPrefixes/Prefix") == ["library/", "org/"]
    root = listing(proxy, "list-type=2&delimiter=/&prefix=org/bert/")
    assert texts(root, "CommonPrefixes/Prefix") == ["org/bert/6/", "org/bert/7/"]
    root = listing(proxy, "list-type=2&delimiter=/&prefix=org/bert/7/")
    assert texts(root, "CommonPrefixes/Prefix") == ["org/bert/7/1_Pooling/"]
    files = sorted(path.name for path in (folder / "7").iterdir() if path.is_file())
    assert texts(root, "Contents/Key") == [f"org/bert/7/{name}" for name in files]
    assert texts(root, "Contents/Size") == [str((folder / "7" / name).stat().st_size) for name in files]
    encoded = listing(proxy, "list-type=2&encoding-type=url&prefix=org/bert/7/gr%C3%B6")
    assert texts(encoded, "Contents/Key") == ["org/bert/7/gr%C3%B6%C3%9Fe%20%26%20co.txt"]
    assert texts(encoded, "Prefix") == ["org/bert/7/gr%C3%B6"]
    whole = texts(listing(proxy, ""), "Contents/Key")
    assert len(whole) == 3 * (len(files) + 1)
    paged: list[str | None] = []
    query = "list-type=2&max-keys=4"
    while True:
        root = listing(proxy, query)
        paged += texts(root, "Contents/Key")
        if texts(root, "IsTruncated") == ["false"]:
            break
        query = f"list-type=2&max-keys=4&continuation-token={root.findtext(SPACE + 'NextContinuationToken')}"
    assert paged == whole
    assert texts(listing(proxy, f"marker={whole[-2]}".replace("&", "%26")), "Contents/Key") == whole[-1:]
    assert texts(listing(proxy, "list-type=2&prefix=org/bert/prod/"), "KeyCount") == ["0"]
    assert texts(listing(proxy, "list-type=2&prefix=org/none/1/&max-keys=0"), "KeyCount") == ["0"]
    assert texts(listing(proxy, "prefix=%01%3C"), "Prefix") == ["\N{REPLACEMENT CHARACTER}<"]


def test_twins_are_there_for_who_asks(proxy: Proxy, folder: Path) -> None:
    """A twin is an object by its name and listed by it, and not among the files of its version."""
    twin = folder / "origin/org/bert/7/model.safetensors.zst"
    assert ask(proxy.port, f"{WEIGHTS}.zst").body == twin.read_bytes()
    assert texts(listing(proxy, "prefix=org/bert/7/model.safetensors.zst"), "Contents/Key") == [
        "org/bert/7/model.safetensors.zst"
    ]
    assert "org/bert/7/model.safetensors.zst" not in texts(listing(proxy, ""), "Contents/Key")


def test_hosts_and_absolute_targets(proxy: Proxy, weights: bytes) -> None:
    """The bucket may stand in the host, and the host in the target."""

    def get(target: str, host: str) -> Answer:
        with connected(proxy.port) as wire:
            wire.send(f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n")
            return wire.answer()

    key = WEIGHTS.removeprefix(BUCKET)
    assert get(f"/s3{key}", "models.proxy:8470").body == weights
    assert get(WEIGHTS, "models.proxy:8470").body == weights
    assert get(f"http://proxy:8470{WEIGHTS}", "proxy:8470").body == weights
    assert get(f"http://models.proxy:8470/s3{key}", "models.proxy:8470").body == weights
    assert b"ListBucketResult" in get("/s3/?list-type=2&delimiter=/", "models.proxy").body
    check_error(get(f"/s3{key}", "other.proxy"), 404, "NoSuchBucket")


def test_it_never_redirects(processes: Processes, folder: Path, weights: bytes) -> None:
    """Though misses are redirected elsewhere, and to tier batch, S3's clients get bytes."""
    proxy = processes.serve(f"file://{folder / 'origin'}", folder / "store-2", "--on-miss", "redirect")
    answer = ask(proxy.port, WEIGHTS, {"X-Latency-Tier": "batch"})
    assert (answer.status, answer.body) == (200, weights)
    check_error(ask(proxy.port, WEIGHTS, {"X-Latency-Tier": "fast"}), 400, "InvalidArgument")


def test_a_listener_of_its_own(processes: Processes, folder: Path, weights: bytes) -> None:
    """On its own listener S3 has no prefix, and the bucket is called as the settings say."""
    unix = processes._sockets / "s3.sock"
    proxy = processes.serve(
        f"file://{folder / 'origin'}",
        folder / "store-3",
        *("--s3-listen", f"unix:{unix}", "--s3-bucket", "weights"),
    )
    key = WEIGHTS.removeprefix(BUCKET)
    assert ask(unix, f"/weights{key}").body == weights
    assert ask(proxy.port, f"/s3/weights{key}").body == weights
    check_error(ask(unix, f"/models{key}"), 404, "NoSuchBucket")
    check_error(ask(unix, "/metrics"), 404, "NoSuchBucket")


def test_who_may_without_keys(processes: Processes, folder: Path, tmp_path: Path) -> None:
    """Without keys only this host and Unix sockets may; where there are tokens, whoever has one."""
    tokens = tmp_path / "tokens"
    tokens.write_text("secret\n")
    proxy = processes.serve(f"file://{folder / 'origin'}", folder / "store-4", "--token-file", str(tokens))
    for place in (proxy.port, proxy.unix):
        check_error(ask(place, WEIGHTS), 403, "AccessDenied")
        check_error(ask(place, WEIGHTS, {"Authorization": "Bearer wrong"}), 403, "AccessDenied")
        assert ask(place, WEIGHTS, {"Authorization": "Bearer secret"}, "HEAD").status == 200


def test_strangers_are_refused(processes: Processes, folder: Path) -> None:
    """Without keys a client that comes by another address than loopback is refused."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        # Nothing is sent: it only says which address of ours leads away from this host.
        probe.connect(("192.0.2.1", 9))
        own = probe.getsockname()[0]
    process = processes.hotstart(
        *("serve", "--origin", f"file://{folder / 'origin'}", "--store", f"disk:{folder / 'store-5'}"),
        *("--listen", f"{own}:0"),
    )
    process.wait_for_output("serves")
    port = int(process.stdout.partition(f"http://{own}:")[2].partition(" ")[0].rstrip(","))
    with socket.create_connection((own, port)) as sock:
        sock.sendall(f"GET {WEIGHTS} HTTP/1.1\r\nHost: proxy\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: sock.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert b"<Code>AccessDenied</Code>" in answer
    process.terminate()
    refused = processes.run(
        *("serve", "--origin", f"file://{folder / 'origin'}", "--store", f"disk:{folder / 'store-6'}"),
        *("--s3-listen", "0.0.0.0:0"),
    )
    assert refused.status == 2
    assert "--s3-keys" in refused.stderr
