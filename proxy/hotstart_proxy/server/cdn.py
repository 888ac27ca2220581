"""Admitting a CDN, and nobody past it: the secret that it sends with every request to its origin."""

from __future__ import annotations

from pathlib import Path

from aiohttp import web

from .problems import NotTheCdn
from .tokens import Rights, Tokens

__all__ = ["SECRET_HEADER", "OriginSecrets"]

SECRET_HEADER = "X-Hotstart-Origin-Secret"  # noqa: S105  its name


class OriginSecrets:
    """The secrets of one file, any of which admits: an old one beside the one that the CDN is taking up."""

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            InvalidSecretFile: as of ``Tokens``.
        """
        self._secrets = Tokens(path, rights=())

    def admit(self, request: web.BaseRequest) -> Rights:
        """Admit a request that carries the secret, once.

        Raises:
            NotTheCdn: it does not.
        """
        # A CDN that adds its own to a viewer's would let any viewer guess without end.
        sent = request.headers.getall(SECRET_HEADER, ())
        rights = self._secrets.find(sent[0]) if len(sent) == 1 else None
        if rights is None:
            raise NotTheCdn(given=bool(sent))
        return rights
