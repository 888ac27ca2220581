"""Fallback manifests: their URLs work without us, and say when they stop."""

from __future__ import annotations

import asyncio
import os
import urllib.request
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from hotstart.wire.adoption import Layout
from hotstart.wire.errors import InvalidReference
from hotstart.wire.fallback import FallbackManifest
from hotstart.wire.manifest import OriginObject
from hotstart.wire.references import parse_reference
from hotstart_proxy.origins.base import PresignedUrl
from hotstart_proxy.origins.urls import open_origin
from hotstart_proxy.publishing.errors import CannotPresign, UnknownVersion
from hotstart_proxy.publishing.publisher import now_ms, publish
from hotstart_proxy.publishing.signing import sign_version
from tests.integration.publishing.recording import RecordingOrigin
from tests.integration.publishing.test_publish import SEVEN
from tests.support.models import make_model

WEEK_SECONDS = 7 * 24 * 3600


def fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as answer:
        data: bytes = answer.read()
        return data


async def test_urls_read_every_representation(s3_url: str, tmp_path: Path) -> None:
    """Plain urllib reads every file and twin of the version by the URLs of a parsed fallback manifest."""
    folder = make_model(tmp_path / "model", mebibytes=1)
    async with open_origin(s3_url, os.environ) as origin:
        await publish(origin, folder, SEVEN, alias="prod")
        signed = await sign_version(origin, parse_reference("org/bert"), WEEK_SECONDS, Layout(), now_ms())
    fallback = FallbackManifest.parse(signed.manifest.dump())
    assert fallback == signed.manifest
    assert (fallback.version, fallback.names) == ("7", ("prod", "latest", "main"))
    assert fallback.session_ends_at is None
    assert fallback.expires_at == fallback.signed_at + WEEK_SECONDS * 1000
    representations = [item for file in fallback.manifest.files for item in file.representations()]
    assert sorted(fallback.urls) == sorted(item.path for item in representations)
    for item in representations:
        url = fallback.urls[item.path]
        assert parse_qs(urlsplit(url).query)["X-Amz-Algorithm"] == ["AWS4-HMAC-SHA256"]
        data = await asyncio.to_thread(fetch, url)
        assert len(data) == item.size
        if item.path in {file.path for file in fallback.manifest.files}:
            assert data == (folder / item.path).read_bytes()
    assert "X-Amz" not in repr(fallback)


async def test_session_that_ends_first(s3_url: str, tmp_path: Path) -> None:
    """The end of the session that signed is told, and no URL is said to outlive it."""
    folder = make_model(tmp_path / "model", mebibytes=1)

    class ShortSession(RecordingOrigin):
        async def presign(self, item: OriginObject, expires_in_seconds: int) -> PresignedUrl | None:
            return await self.inner.presign(item, min(expires_in_seconds, 7200))

    async with open_origin(s3_url, os.environ) as origin:
        await publish(origin, folder, SEVEN)
        short = ShortSession(origin)
        signed = await sign_version(short, SEVEN, WEEK_SECONDS, Layout(), 1_000_000)
        assert (signed.expires_in_seconds, signed.session_ends_in_seconds) == (7200, 7200)
        assert signed.manifest.session_ends_at == signed.manifest.expires_at == 1_000_000 + 7_200_000
        signed = await sign_version(short, SEVEN, 3600, Layout(), 1_000_000)
        assert (signed.expires_in_seconds, signed.session_ends_in_seconds) == (3600, 7200)


async def test_session_that_does_not_say_when_it_ends(s3_url: str, tmp_path: Path) -> None:
    """Temporary credentials from environment variables are known by their token."""
    folder = make_model(tmp_path / "model", mebibytes=1)

    class SessionToken(RecordingOrigin):
        async def presign(self, item: OriginObject, expires_in_seconds: int) -> PresignedUrl | None:
            signed = await self.inner.presign(item, expires_in_seconds)
            assert signed is not None
            return PresignedUrl(f"{signed.url}&X-Amz-Security-Token=t", signed.expires_in_seconds)

    async with open_origin(s3_url, os.environ) as origin:
        await publish(origin, folder, SEVEN)
        signed = await sign_version(origin, SEVEN, 3600, Layout(), now_ms())
        assert not signed.is_session
        signed = await sign_version(SessionToken(origin), SEVEN, 3600, Layout(), now_ms())
        assert signed.is_session
        assert signed.manifest.session_ends_at is None


async def test_what_cannot_be_signed(s3_url: str, tmp_path: Path) -> None:
    """A directory, an unknown reference and a file are refused, each with what to do."""
    folder = make_model(tmp_path / "model", mebibytes=1)
    async with open_origin(f"file://{tmp_path / 'origin'}", {}) as origin:
        await publish(origin, folder, SEVEN)
        with pytest.raises(CannotPresign, match="a fallback manifest needs an s3:// origin"):
            await sign_version(origin, SEVEN, 3600, Layout(), now_ms())
    async with open_origin(s3_url, os.environ) as origin:
        with pytest.raises(UnknownVersion, match="has no model org/bert"):
            await sign_version(origin, SEVEN, 3600, Layout(), now_ms())
        await publish(origin, folder, SEVEN, alias="prod")
        with pytest.raises(UnknownVersion, match="has no org/bert@8; there is prod; 7"):
            await sign_version(origin, parse_reference("org/bert@8"), 3600, Layout(), now_ms())
        with pytest.raises(InvalidReference, match="name a version, not a file"):
            await sign_version(origin, parse_reference("org/bert@7/config.json"), 3600, Layout(), now_ms())
