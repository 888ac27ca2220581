"""Telling proxies that a model has news: no more than its name, so that whoever is told must look himself."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import aiohttp

from hotstart.wire.errors import HotstartError
from hotstart.wire.references import Reference
from hotstart_proxy.origins.urls import check_upstream

__all__ = ["Notice", "check_admin_url", "notify"]

# A proxy answers before it looks. Whoever takes longer is not waited for: he will look by himself.
_SECONDS = 5.0
_MOST_REASON_CHARS = 200


@dataclass(frozen=True, slots=True)
class Notice:
    """How telling one proxy went.

    Attributes:
        url: of its admin listener.
        failure: why it is not known to have heard, in words; None if it has.
    """

    url: str
    failure: str | None


def check_admin_url(text: str) -> str:
    """Return text if it can be the address of an admin listener: ``http://HOST:PORT`` or ``unix:/PATH``.

    Raises:
        InvalidOriginUrl: it cannot.
    """
    return check_upstream(text)


async def notify(urls: Sequence[str], model: str, timeout_seconds: float = _SECONDS) -> list[Notice]:
    """Tell proxies, all at once, to look for news of a model; nothing that goes wrong is raised.

    Args:
        urls: of their admin listeners.
        model: two segments.
        timeout_seconds: for each of them.
    """
    return list(await asyncio.gather(*(_tell(url, model, timeout_seconds) for url in urls)))


async def _tell(url: str, model: str, timeout_seconds: float) -> Notice:
    socket_path = url.removeprefix("unix:") if url.startswith("unix:") else None
    connector = aiohttp.TCPConnector() if socket_path is None else aiohttp.UnixConnector(socket_path)
    base = "http://localhost" if socket_path is not None else url.rstrip("/")
    target = f"{base}/v1/models/{Reference(model).url_path()}:poll"
    timeout = aiohttp.ClientTimeout(total=timeout_seconds)
    try:
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            async with session.post(target, allow_redirects=False) as answer:
                if answer.status == 202:
                    return Notice(url, None)
                text = (await answer.content.read(_MOST_REASON_CHARS)).decode("utf-8", "replace")
                return Notice(url, f"status {answer.status}, expected 202 from an admin listener: {text!r}")
    except TimeoutError:
        return Notice(url, f"no answer within {timeout_seconds:g} s")
    except (aiohttp.ClientError, OSError, HotstartError) as error:
        return Notice(url, str(error) or type(error).__name__)
