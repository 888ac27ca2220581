"""Both kinds of origin, and a small model folder."""

from __future__ import annotations

import os
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
