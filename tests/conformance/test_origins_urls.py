"""From a URL to an origin, and from the settings to where its requests go. No server is asked."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from hotstart.sources.environment import parse_origin_url
from hotstart.sources.origin_file import DirectoryOrigin as ClientDirectoryOrigin
from hotstart.sources.origin_s3 import S3Origin as ClientS3Origin
from hotstart.wire.manifest import OriginObject
from hotstart_proxy.origins.base import OriginError, OriginIdentity
from hotstart_proxy.origins.s3 import S3Origin, S3Settings
from hotstart_proxy.origins.urls import (
    InvalidOriginUrl,
    check_upstream,
    is_upstream,
    open_origin,
    settings_from,
)

ENDPOINT = "http://127.0.0.1:8333"


@pytest.fixture(autouse=True)
def aws_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No credentials and profiles but these."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "any")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "any")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)


@pytest.mark.parametrize(
    ("url", "environ", "identity"),
    [
        ("s3://bucket", {}, OriginIdentity("https://s3.us-east-1.amazonaws.com", "bucket", "")),
        (
            "s3://bucket/a/b",
            {"AWS_REGION": "eu-west-1"},
            OriginIdentity("https://s3.eu-west-1.amazonaws.com", "bucket", "a/b/"),
        ),
        (
            "s3://bucket",
            {"AWS_REGION": "cn-north-1"},
            OriginIdentity("https://s3.cn-north-1.amazonaws.com.cn", "bucket", ""),
        ),
        ("s3://bucket/a/", {"AWS_ENDPOINT_URL": ENDPOINT}, OriginIdentity(ENDPOINT, "bucket", "a/")),
        (
            "s3://my_bucket/",
            {"AWS_ENDPOINT_URL_S3": f"{ENDPOINT}/"},
            OriginIdentity(ENDPOINT, "my_bucket", ""),
        ),
        ("file:///srv/models", {}, OriginIdentity("file://", "/srv/models", "")),
        ("file:///srv/my%20models/", {}, OriginIdentity("file://", "/srv/my models", "")),
    ],
)
def test_a_url_names_an_origin(url: str, environ: dict[str, str], identity: OriginIdentity) -> None:
    """Bucket, prefix and directory come from the URL, endpoint and region from AWS's variables."""
    origin = open_origin(url, environ)
    assert origin.identity == identity
    assert origin.can_presign is url.startswith("s3")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "bucket/prefix",
        "/srv/models",
        "s3://",
        "s3:///prefix",
        "s3://b",
        "s3://bu cket/x",
        "s3://bucket/a//b",
        "s3://bucket/../b",
        "s3://user:password@bucket/x",
        "file://srv/models",
        "file:srv",
        "file:///srv/../etc",
        "file:///srv/a%00b",
        "gs://bucket/x",
        "S3://bucket",
    ],
)
def test_what_names_none_is_refused(url: str) -> None:
    """A URL that names no origin is an error that shows what is expected."""
    with pytest.raises(InvalidOriginUrl, match=r"expected|segment"):
        open_origin(url, {})


@pytest.mark.parametrize(
    "endpoint", ["127.0.0.1:8333", "ftp://x", "http://host/path", "http://u:p@host", "http://"]
)
def test_a_wrong_endpoint_is_refused(endpoint: str) -> None:
    """An endpoint is a URL of scheme, host and port alone."""
    with pytest.raises(InvalidOriginUrl, match="endpoint"):
        settings_from({"AWS_ENDPOINT_URL_S3": endpoint})


def test_what_is_given_goes_before_the_environment() -> None:
    """Settings win over variables, and the variable of S3 over the general one."""
    environ = {
        "AWS_ENDPOINT_URL": "http://general",
        "AWS_ENDPOINT_URL_S3": "http://of-s3",
        "AWS_REGION": "eu-west-1",
        "AWS_DEFAULT_REGION": "eu-west-2",
    }
    found = settings_from(environ)
    assert (found.endpoint, found.region) == ("http://of-s3", "eu-west-1")
    found = settings_from(environ, S3Settings(endpoint="http://given", region="us-west-2", addressing="path"))
    assert (found.endpoint, found.region, found.addressing) == ("http://given", "us-west-2", "path")
    assert settings_from({"AWS_ENDPOINT_URL": ""}) == S3Settings()


async def test_endpoint_and_region_of_a_profile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where no variable says otherwise, a profile's endpoint is asked and named in ids, by the client too."""
    (tmp_path / "config").write_text(
        f"[profile lab]\nregion = eu-north-1\nendpoint_url = {ENDPOINT}\n[default]\nregion = eu-west-1\n"
    )
    variables = {"AWS_CONFIG_FILE": str(tmp_path / "config"), "AWS_PROFILE": "lab"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    async with open_origin("s3://bucket/p", os.environ) as origin:
        signed = await origin.presign(OriginObject("a", '"e"'), 60)
    assert origin.identity == OriginIdentity(ENDPOINT, "bucket", "p/")
    assert signed is not None
    assert signed.url.startswith(f"{ENDPOINT}/bucket/p/a?")
    assert "%2Feu-north-1%2Fs3%2F" in signed.url
    client = ClientS3Origin.from_environment(parse_origin_url("s3://bucket/p"), variables)
    assert (client.endpoint, client.bucket, client.prefix) == (ENDPOINT, "bucket", "p/")


@pytest.mark.parametrize(
    "url", ["file:///srv/models", "file:///srv//models/", "file:///srv/./models", "file:///srv/my%20models"]
)
def test_client_and_proxy_name_a_directory_alike(url: str) -> None:
    """Ids of adopted files are made from the directory's name, so both sides write it in one way."""
    client = ClientDirectoryOrigin(parse_origin_url(url).directory)
    assert OriginIdentity(client.endpoint, client.bucket, client.prefix) == open_origin(url, {}).identity


async def test_a_wrong_profile_is_an_error_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wrong with AWS's own configuration is told as an origin's error, with its words."""
    monkeypatch.setenv("AWS_PROFILE", "no-such-profile")
    with pytest.raises(OriginError, match="no-such-profile"):
        async with open_origin("s3://bucket/p", os.environ):
            pass


@pytest.mark.parametrize(
    ("settings", "start"),
    [
        (S3Settings(region="eu-west-1"), "https://bucket.s3.eu-west-1.amazonaws.com/p/a/b?"),
        (
            S3Settings(region="eu-west-1", addressing="path"),
            "https://s3.eu-west-1.amazonaws.com/bucket/p/a/b?",
        ),
        (S3Settings(endpoint="http://s3.local:9000"), "http://s3.local:9000/bucket/p/a/b?"),
        (
            S3Settings(endpoint="http://s3.local:9000", addressing="virtual"),
            "http://bucket.s3.local:9000/p/a/b?",
        ),
    ],
)
async def test_every_presigned_url_is_signed_with_sigv4(settings: S3Settings, start: str) -> None:
    """For AWS and for endpoints of one's own, in path and virtual style, the signature is version 4."""
    async with S3Origin("bucket", "p/", settings) as origin:
        signed = await origin.presign(OriginObject("a/b", '"x"', "v1"), 60)
    assert signed is not None
    assert signed.url.startswith(start)
    query = parse_qs(urlsplit(signed.url).query)
    assert query["X-Amz-Algorithm"] == ["AWS4-HMAC-SHA256"]
    assert query["versionId"] == ["v1"]


@pytest.mark.parametrize(
    "url", ["http://node:8470", "https://proxy.example", "http://[::1]:8470/", "unix:/run/hotstart.sock"]
)
def test_another_proxy_is_no_tree(url: str) -> None:
    """The forms of another proxy's address are known, and nothing is published through it."""
    assert is_upstream(url)
    assert check_upstream(url) == url
    with pytest.raises(InvalidOriginUrl, match="give the origin itself"):
        open_origin(url, {})


@pytest.mark.parametrize(
    "url",
    [
        "http://",
        "http://node:8470/path",
        "http://user@node:8470",
        "http://node?x",
        "unix:run/x.sock",
        "unix:///run/x.sock",
        "unix:/" + "x" * 107,
    ],
)
def test_what_no_proxy_has_for_an_address(url: str) -> None:
    """Paths, users, queries, and sockets that cannot be are refused."""
    with pytest.raises(InvalidOriginUrl):
        check_upstream(url)
