"""AWS credentials that may be replaced underneath: what signs is looked up again when it was refused.

botocore reads a profile's keys once, and renews a role's only when their own end is near. Somebody who
rotates a file, or ends a session early, changes neither.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from aiobotocore.session import AioSession
from botocore.exceptions import BotoCoreError, NoCredentialsError

from hotstart_proxy.telemetry.logs import log_event

__all__ = ["Credentials", "Keys"]

_log = logging.getLogger("hotstart_proxy.origins")
# After a look that found nothing new: whoever hands credentials out is not asked by every request.
_LOOK_AGAIN_SECONDS = 5.0

# Access key, secret and session token: what botocore calls frozen credentials.
Keys = Any


async def _look_up() -> Any:
    # A session of its own: what one has looked up it keeps for ever.
    return await AioSession().get_credentials()


class Credentials:
    """Credentials that clients sign with. Registered in a session, they are what all its clients have.

    They are looked up in the ordinary AWS ways (environment, profile, web identity, container, instance), at
    first use and by ``reload``.
    """

    # botocore looks at it; "explicit" would be keys that were given to the client.
    method = "hotstart"

    def __init__(self, origin: str, look_up: Callable[[], Awaitable[Any]] = _look_up) -> None:
        self._origin = origin
        self._look_up = look_up
        self._found: Any = None
        self._looked_at = float("-inf")
        self._lock = asyncio.Lock()

    def register(self, session: AioSession) -> None:
        """Make a session's clients sign with these."""
        session.register_component("credential_provider", self)

    async def load_credentials(self) -> Credentials:
        """Give the session what it asks a provider for."""
        return self

    async def get_account_id(self) -> None:
        """Tell no account: endpoints of some services are named after it, S3's are not."""

    def get_deferred_property(self, name: str) -> Callable[[], None]:
        """Return what tells, later, that there is no such property; asked for the account alone."""
        return lambda: None

    async def get_frozen_credentials(self) -> Keys:
        """Return the keys to sign with now; a role's are renewed when their end is near.

        Raises:
            NoCredentialsError, CredentialRetrievalError, RuntimeError: as botocore.
        """
        await self.prepare()
        if self._found is None:
            raise NoCredentialsError
        return await self._found.get_frozen_credentials()

    async def prepare(self) -> None:
        """Look the credentials up, if that was not done or nothing was found (errors as above)."""
        if self._found is None:
            async with self._lock:
                if self._found is None and self._may_look():
                    self._found = await self._look_up()
                    if self._found is not None:
                        self._looked_at = float("-inf")

    def _may_look(self) -> bool:
        now = asyncio.get_running_loop().time()
        if now - self._looked_at < _LOOK_AGAIN_SECONDS:
            return False
        self._looked_at = now
        return True

    async def reload(self, refused: Keys, reason: str) -> bool:
        """Look whether there are other credentials than those that were refused; take them if so.

        Args:
            refused: the keys that a request was signed with.
            reason: what the origin said of them, for the log.
        """
        async with self._lock:
            if await self._current() != refused:
                # Another request was quicker.
                return True
            if not self._may_look():
                return False
            try:
                found = await self._look_up()
                renewed = found is not None and await found.get_frozen_credentials() != refused
            except (BotoCoreError, RuntimeError) as error:
                fields = {"origin": self._origin, "refused": reason, "reason": error}
                log_event(_log, logging.WARNING, "no new credentials to be had", fields)
                return False
            if renewed:
                self._found = found
                self._looked_at = float("-inf")
                log_event(
                    _log, logging.INFO, "credentials reloaded", {"origin": self._origin, "refused": reason}
                )
            return renewed

    async def _current(self) -> Keys:
        try:
            return None if self._found is None else await self._found.get_frozen_credentials()
        except (BotoCoreError, RuntimeError):
            return None

    def seconds_left(self, most: int) -> int:
        """Return how long the session lasts, in whole seconds, or most if it lasts as long or has no end."""
        # botocore tells only whether it ends within so many seconds; keys without an end say nothing.
        ends_within = getattr(self._found, "refresh_needed", None)
        if ends_within is None or not ends_within(most):
            return most
        low, high = 0, most
        while high - low > 1:
            middle = (low + high) // 2
            if ends_within(middle):
                high = middle
            else:
                low = middle
        return low
