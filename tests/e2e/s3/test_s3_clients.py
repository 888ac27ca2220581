"""S3's clients, unchanged, against a proxy; make test-clients tries those with environments of their own."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.clients.running import run, start
from tests.support.models import make_model
from tests.support.processes import Processes, Proxy
from tests.support.relay import Relay

READER = Path(__file__).with_name("versions.py")
FILES = ("config.json", "tokenizer.json", "weights/a.bin", "weights/b.bin")
FLIPS = 4
KEY, SECRET = "hotstart-reader", "s3cret/with+signs=="


def publish(processes: Processes, folder: Path, reference: str, origin: Path, *more: str) -> None:
    processes.run("publish", str(folder), reference, "--origin", f"file://{origin}", *more).check()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that is published as org/bert@7 beside it; its weights are more than one part of boto3's."""
    base = tmp_path_factory.mktemp("s3-clients")
    (base / "origin").mkdir()
    folder = make_model(base / "model", mebibytes=20)
    (folder / "größe & co.txt").write_text("escaped")
    with Processes(base / "publishing") as processes:
        publish(processes, folder, "org/bert@7", base / "origin", "--alias", "prod")
    return folder


@pytest.fixture(scope="module")
def keys(model: Path) -> Path:
    file = model.parent / "keys"
    file.write_text(f"# readers\n{KEY} {SECRET}\n")
    return file


@pytest.fixture(scope="module")
def proxy(model: Path, keys: Path) -> Iterator[Proxy]:
    """A proxy that wants signatures."""
    with Processes(model.parent / "processes") as processes:
        yield processes.serve(
            f"file://{model.parent / 'origin'}", model.parent / "store", "--s3-keys", str(keys)
        )


def sha256s(folder: Path) -> dict[str, str]:
    """The digests of all files below a folder, by path."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


def client(proxy: Proxy, key: str = KEY, secret: str = SECRET, **config: Any) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=f"{proxy.url}/s3",
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        region_name="eu-west-1",
        config=Config(retries={"max_attempts": 1}, **{"signature_version": "s3v4", **config}),
    )


@pytest.mark.parametrize("script", ["boto3", "aiobotocore"])
@pytest.mark.parametrize("signed", [True, False], ids=["signed", "unsigned"])
def test_a_client_of_s3(
    script: str, processes: Processes, model: Path, proxy: Proxy, tmp_path: Path, *, signed: bool
) -> None:
    """With one variable set a client reads the very bytes that were published, warm or cold."""
    environment = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET} if signed else {}
    asked = proxy if signed else processes.serve(f"file://{model.parent / 'origin'}", tmp_path / "store")
    found = run(processes, script, asked.url, "org/bert@7", tmp_path / "files", environment=environment)
    assert found["sha256s"] == sha256s(model)


@pytest.mark.parametrize(
    ("key", "secret", "code"),
    [
        (KEY, "wrong", "SignatureDoesNotMatch"),
        ("nobody", SECRET, "InvalidAccessKeyId"),
    ],
)
def test_wrong_keys(proxy: Proxy, key: str, secret: str, code: str) -> None:
    """A client with a wrong key or secret is told which of the two it is."""
    with pytest.raises(ClientError) as error:
        client(proxy, key, secret).get_object(Bucket="models", Key="org/bert/7/config.json")
    assert error.value.response["Error"]["Code"] == code


def test_presigned_urls_of_ours(proxy: Proxy, model: Path) -> None:
    """A URL that a client has signed for the proxy opens what it is for, and nothing else."""
    import urllib.error
    import urllib.request

    url = client(proxy).generate_presigned_url(
        "get_object", Params={"Bucket": "models", "Key": "org/bert/7/größe & co.txt"}, ExpiresIn=60
    )
    with urllib.request.urlopen(url) as answer:
        assert answer.read() == (model / "größe & co.txt").read_bytes()
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(url.replace("co.txt", "co.md"))
    assert error.value.code == 403
    error.value.close()


def test_listings_and_validators_by_boto3(proxy: Proxy, model: Path) -> None:
    """Both versions of listings page as boto3 expects, and its errors are those that it knows."""
    asked = client(proxy)
    assert [bucket["Name"] for bucket in asked.list_buckets()["Buckets"]] == ["models"]
    assert asked.get_bucket_location(Bucket="models")["LocationConstraint"] is None
    for operation in ("list_objects_v2", "list_objects"):
        pages = asked.get_paginator(operation).paginate(
            Bucket="models", Prefix="org/bert/7/", PaginationConfig={"PageSize": 1}
        )
        keys = [entry["Key"] for page in pages for entry in page["Contents"]]
        assert keys == sorted(f"org/bert/7/{name}" for name in sha256s(model))
    folded = asked.list_objects_v2(Bucket="models", Prefix="org/bert/", Delimiter="/")
    assert folded["CommonPrefixes"] == [{"Prefix": "org/bert/7/"}]
    head = asked.head_object(Bucket="models", Key="org/bert/7/config.json", ChecksumMode="ENABLED")
    assert head["ContentLength"] == (model / "config.json").stat().st_size
    assert "ChecksumSHA256" in head
    with pytest.raises(asked.exceptions.NoSuchKey):
        asked.get_object(Bucket="models", Key="org/bert/prod/config.json")
    with pytest.raises(asked.exceptions.NoSuchBucket):
        asked.list_objects_v2(Bucket="other")
    with pytest.raises(ClientError) as changed:
        asked.get_object(Bucket="models", Key="org/bert/7/config.json", IfMatch='"x"')
    assert changed.value.response["Error"]["Code"] == "PreconditionFailed"
    with pytest.raises(ClientError) as refused:
        asked.put_object(Bucket="models", Key="org/bert/7/config.json", Body=b"x")
    assert refused.value.response["Error"]["Code"] == "MethodNotAllowed"


def test_versions_under_an_alias_that_moves(processes: Processes, tmp_path: Path) -> None:
    """Who resolves an alias and then fetches file by file never has two versions, by two proxies."""
    origin = tmp_path / "origin"
    origin.mkdir()
    for version in ("1", "2"):
        for file in FILES:
            path = tmp_path / version / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{file} of version {version}\n" * 5000)
        publish(processes, tmp_path / version, f"org/bert@{version}", origin, "--alias", "prod")
    proxies = [
        processes.serve(f"file://{origin}", tmp_path / f"store-{number}", "--alias-ttl", "50ms")
        for number in range(2)
    ]
    stop = tmp_path / "stop"
    with Relay(*(proxy.port for proxy in proxies)) as both:
        readers = [start(processes, READER, both.url, "org/bert@prod", str(stop)) for _ in range(2)]
        try:
            for flip in range(FLIPS):
                version = "1" if flip % 2 == 0 else "2"
                processes.run("alias", "org/bert", f"prod={version}", "--origin", f"file://{origin}").check()
        finally:
            stop.touch()
        seen = sum((Counter(json.loads(reader.wait().check().stdout)) for reader in readers), Counter[str]())
    assert set(seen) == {f"{version} of {len(FILES)} files" for version in ("1", "2")}


def test_resolve(processes: Processes, proxy: Proxy, model: Path) -> None:
    """What a reference means is printed as the version, as the prefix of its keys, or as both."""
    command = ("resolve", "--proxy", proxy.url)
    assert processes.run(*command, "org/bert@prod").check().stdout == "7\n"
    assert processes.run(*command, "org/bert", "--s3").check().stdout == "s3://models/org/bert/7/\n"
    file = processes.run(*command, "org/bert@prod/config.json", "--s3", "--bucket", "weights").check()
    assert file.stdout == "s3://weights/org/bert/7/config.json\n"
    assert json.loads(processes.run(*command, "org/bert@prod", "--json").check().stdout) == {
        "model": "org/bert",
        "version": "7",
        "s3": "s3://models/org/bert/7/",
    }
    origin = processes.run("resolve", "org/bert@prod", "--origin", f"file://{model.parent / 'origin'}")
    assert origin.check().stdout == "7\n"
    assert processes.run(*command, "org/bert@canary").status == 1
