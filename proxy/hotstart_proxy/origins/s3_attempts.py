"""The attempts of one S3 request: each wait within its patience, and what is done between two of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hotstart_proxy.core.retries import RetryPolicy

from .base import OriginError, OriginUnreachable
from .patience import Patience
from .s3_credentials import Credentials, Keys
from .s3_errors import ClockSkewed, CredentialsRefused, NoBucket, retry_reason

__all__ = ["Attempts", "S3Line"]


@dataclass(slots=True)
class S3Line:
    """What all requests of one origin share.

    Attributes:
        origin: its URL, for errors.
        credentials: that it is signed with.
        stall_seconds: longest wait for the next bytes of an answer.
        retried: told why, whenever a request is sent again.
        skew: the last answer said that our clock is wrong; None if it did not.
    """

    origin: str
    credentials: Credentials
    stall_seconds: float
    retried: Callable[[str], None]
    skew: ClockSkewed | None = None


class Attempts(Patience):
    """One request, which is sent again as long as that may help and is worth waiting for."""

    def __init__(self, line: S3Line, policy: RetryPolicy) -> None:
        super().__init__(policy)
        self.line = line
        self._keys: Keys = None
        self._reloaded = False

    @property
    def keys(self) -> Keys:
        """What the next request is signed with."""
        return self._keys

    async def sign(self) -> None:
        """Note which keys the next request is signed with (errors as ``Credentials``, and TimeoutError)."""
        async with self.waiting(self.line.stall_seconds):
            self._keys = await self.line.credentials.get_frozen_credentials()

    def answered(self) -> None:
        """Note that the origin took a request."""
        self.line.skew = None

    async def recover(self, error: OriginError) -> None:
        """Do what may let the next attempt succeed: pause, or reload the credentials, once.

        Raises:
            OriginError: the one given, if there is to be no other attempt.
        """
        if isinstance(error, ClockSkewed):
            self.line.skew = error
        if isinstance(error, CredentialsRefused) and not self._reloaded:
            self._reloaded = True
            if await self.line.credentials.reload(self._keys, error.reason):
                self.line.retried("credentials")
                return
        if not isinstance(error, OriginUnreachable) or isinstance(error, NoBucket):
            raise error
        await self.pause(error)
        self.line.retried(retry_reason(error))
