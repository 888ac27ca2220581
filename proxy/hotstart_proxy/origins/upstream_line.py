"""The connections to another proxy, and one request on them; whatever asks again does so above."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import aiohttp
from yarl import URL

from hotstart._version import __version__
from hotstart_proxy.core.hops import REQUEST_HOPS

from .base import OriginError, OriginUnreachable
from .patience import Patience
from .token_file import TokenFile
from .upstream_answers import UpstreamFailed, translated

__all__ = ["Attempts", "UpstreamLine"]

CONNECT_SECONDS = 3.0
# An upstream that misses has its first bytes, or a status, within five seconds; after that it is as slow as
# its own origin may be.
STALL_SECONDS = 15.0
_READ_BUFFER_BYTES = 1024 * 1024
_UNIX = "unix:"


class UpstreamLine:
    """A session with one upstream.

    Attributes:
        origin: its URL, for errors.
    """

    def __init__(self, url: str, name: str, token: TokenFile | None) -> None:
        """Keep what is needed to connect; that happens on entering.

        Args:
            url: ``http://host:8470``, ``https://host`` or ``unix:/path``.
            name: this proxy's, as ``Via`` says it.
            token: sent with every request; None to send none.
        """
        self.origin = url.rstrip("/")
        self._socket = url.removeprefix(_UNIX) if url.startswith(_UNIX) else None
        self._base = "http://localhost" if self._socket is not None else self.origin
        self._name = name
        self._token = token
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Get ready to connect."""
        # How many requests run at once is decided above; waiting for a connection here would look like a
        # stall.
        connector = (
            aiohttp.UnixConnector(self._socket, limit=0)
            if self._socket is not None
            else aiohttp.TCPConnector(limit=0)
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=STALL_SECONDS),
            read_bufsize=_READ_BUFFER_BYTES,
            headers={"User-Agent": f"hotstart/{__version__}", "Accept-Encoding": "identity"},
        )

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    @asynccontextmanager
    async def request(
        self, method: str, target: str, headers: Mapping[str, str], doing: str
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send one request; inside, its answer's head is here.

        Raises:
            OriginUnreachable, OriginDenied: there is none, or its body broke off.
        """
        assert self._session is not None
        sent = {**headers, "Via": REQUEST_HOPS.get().onward(self._name)}
        if self._token is not None:
            sent["Authorization"] = self._token.authorization(self.origin, doing)
        with translated(self.origin, doing):
            async with self._session.request(
                method, URL(self._base + target, encoded=True), headers=sent, allow_redirects=False
            ) as answer:
                yield answer


class Attempts(Patience):
    """One question, which is asked again as long as that may help and is worth waiting for."""

    async def recover(self, error: OriginError) -> None:
        """Pause before the next attempt.

        Raises:
            OriginError: the one given, if there is to be none.
        """
        if not isinstance(error, OriginUnreachable):
            raise error
        if isinstance(error, UpstreamFailed) and error.relayed:
            raise error
        await self.pause(error)
