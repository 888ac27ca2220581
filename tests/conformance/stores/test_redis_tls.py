"""The Redis store by TLS, as a user who has no other right than those that the documentation names."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from hotstart_proxy.stores.base import StoreError
from hotstart_proxy.stores.redis import RedisStore
from hotstart_proxy.stores.redis_announcements import RedisAnnouncements
from hotstart_proxy.stores.redis_urls import parse_redis_url
from tests.conformance.stores.suite import TWO_PIECES, content, fill, read_all
from tests.integration.cache.reading import eventually
from tests.support.deadlines import DEADLINE_SECONDS
from tests.support.tls import TlsListener
from tests.support.valkey import ValkeyServer

REPOSITORY = Path(__file__).resolve().parents[3]


def documented_rights() -> list[str]:
    """Return the rights that configuration.md asks for."""
    text = (REPOSITORY / "docs" / "configuration.md").read_text()
    found = re.search(r"An ACL user needs (.*?), or all", text)
    assert found is not None
    return [right for quoted in re.findall(r"`([^`]+)`", found[1]) for right in quoted.split()]


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """A server that takes TLS and the one user alone, without the authority that vouches for it."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    with ValkeyServer() as server, TlsListener(context, server.port) as listener:
        with server.client() as client:
            client.execute_command("ACL", "SETUSER", "proxy", "on", ">pass/word", *documented_rights())
            client.execute_command("ACL", "SETUSER", "default", "off")
        yield f"rediss://proxy:pass%2Fword@127.0.0.1:{listener.port}/0"


async def test_a_fill_by_tls(url: str, tmp_path: Path) -> None:
    """With the authority named, a blob is filled and read, with no more than those rights."""
    trusting = f"{url}?ssl_ca_certs={tmp_path / 'authority.pem'}"
    async with RedisStore(parse_redis_url(trusting), 1 << 30) as store:
        content_id = await fill(store, TWO_PIECES)
        blob = await store.open_blob(content_id)
        assert blob is not None
        assert await read_all(blob) == TWO_PIECES
        await blob.close()
        assert store.trouble is None
        assert "pass" not in store.url


async def test_announcements_by_tls(url: str, tmp_path: Path) -> None:
    """Announcements pass by TLS, with no more than those rights."""
    place = parse_redis_url(f"{url}?ssl_ca_certs={tmp_path / 'authority.pem'}")
    channel = RedisAnnouncements(place)
    subscribed: list[str | None] = []

    async def first_heard() -> str:
        async for model in channel.listen(subscribed.append):
            return model
        raise AssertionError("the channel ended")

    listening = asyncio.create_task(first_heard())
    async with asyncio.timeout(DEADLINE_SECONDS):
        await eventually(lambda: subscribed)
        assert subscribed == [None]
        await channel.publish("org/bert")
        assert await listening == "org/bert"
    await channel.close()


async def test_an_authority_that_is_not_known(url: str) -> None:
    """A server whose certificate nobody vouches for gets no byte, and the error says why."""
    async with RedisStore(parse_redis_url(url), 1 << 30) as store:
        with pytest.raises(StoreError) as caught:
            await store.begin_fill(content(b"abc"), 3, None)
        assert "certificate" in str(caught.value)
        assert store.trouble is not None
        assert "pass" not in f"{caught.value}{store.trouble}"
