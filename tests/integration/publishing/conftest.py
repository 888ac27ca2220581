"""Both kinds of origin, and a small model folder."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hotstart_proxy.origins.base import Origin
from hotstart_proxy.origins.urls import open_origin
from tests.support.models import make_model
from tests.support.s3 import S3Server


@pytest.fixture(params=["directory", "s3"])
def origin_url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty origin: a directory, and a prefix in a bucket of a real S3 server."""
    if request.param == "directory":
        return f"file://{tmp_path / 'origin'}"
    return _s3_url(request, monkeypatch)


@pytest.fixture
def s3_url(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty origin at a real S3 server."""
    return _s3_url(request, monkeypatch)


def _s3_url(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    server: S3Server = request.getfixturevalue("s3_server")
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    return f"s3://{request.getfixturevalue('s3_bucket')}/models"


@pytest.fixture
async def origin(origin_url: str) -> AsyncIterator[Origin]:
    """An entered origin of each kind."""
    async with open_origin(origin_url, os.environ) as entered:
        yield entered


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    """A model folder of about 5 MiB: weights in two frames and more, tokenizer, a subfolder."""
    return make_model(tmp_path / "model", mebibytes=5)


class Unfinished(ABC):
    """Reaches around the origin to uploads that have not ended."""

    @abstractmethod
    def leave(self, key: str) -> None:
        """Leave what an upload of key has sent when its process is killed."""

    @abstractmethod
    def keys(self) -> list[str]:
        """Return the keys of all uploads that have not ended, sorted."""


class _TemporaryFiles(Unfinished):
    def __init__(self, root: Path) -> None:
        self._root = root

    def leave(self, key: str) -> None:
        folder = (self._root / key).parent
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f".hotstart-tmp-{Path(key).name}").write_bytes(b"the half of it")

    def keys(self) -> list[str]:
        found = (path.relative_to(self._root).as_posix() for path in self._root.rglob(".hotstart-tmp-*"))
        return sorted(name.replace(".hotstart-tmp-", "") for name in found)


class _Parts(Unfinished):
    def __init__(self, server: S3Server, url: str) -> None:
        self._client = server.client
        self._bucket, _, prefix = url.removeprefix("s3://").partition("/")
        self._prefix = f"{prefix}/"

    def leave(self, key: str) -> None:
        target = {"Bucket": self._bucket, "Key": self._prefix + key}
        upload = self._client.create_multipart_upload(**target)["UploadId"]
        self._client.upload_part(**target, UploadId=upload, PartNumber=1, Body=b"the half of it")

    def keys(self) -> list[str]:
        uploads = self._client.list_multipart_uploads(Bucket=self._bucket).get("Uploads", ())
        return sorted(item["Key"].removeprefix(self._prefix) for item in uploads)


@pytest.fixture
def unfinished(request: pytest.FixtureRequest, origin_url: str) -> Unfinished:
    """What lies at the origin that no listing shows."""
    if origin_url.startswith("file:"):
        return _TemporaryFiles(Path(origin_url.removeprefix("file://")))
    return _Parts(request.getfixturevalue("s3_server"), origin_url)
