"""The way of a request through proxies that are each other's origin, so that a loop is seen at once.

It is told in ``Via`` (RFC 9110, 7.6.3): every proxy adds its name to what its own caller said. A proxy that
finds itself there was configured as its own origin, perhaps by way of others.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

__all__ = ["MOST_HOPS", "REQUEST_HOPS", "Hops"]

# Sidecar, node and subnet are three. A loop through proxies that do not keep their names ends here.
MOST_HOPS = 8
_PREFIX = "hotstart-"
_PROTOCOL = "1.1"


@dataclass(frozen=True, slots=True)
class Hops:
    """The proxies that a request has come through.

    Attributes:
        names: in the order of the way, only those of our kind.
    """

    names: tuple[str, ...] = ()

    @staticmethod
    def name_of(unique: str) -> str:
        """Return the name of a proxy; unique is a token of letters and digits that no other one has."""
        return _PREFIX + unique

    @classmethod
    def parse(cls, via: str) -> Hops:
        """Read the values of ``Via``, joined by commas; what other software wrote there is passed over."""
        names = []
        for entry in via.split(","):
            words = entry.split()
            if len(words) >= 2 and words[1].startswith(_PREFIX):
                names.append(words[1])
        return cls(tuple(names))

    def admits(self, name: str) -> bool:
        """Tell whether the proxy of this name may answer: it was not passed before, and the way is short."""
        return name not in self.names and len(self.names) < MOST_HOPS

    def onward(self, name: str) -> str:
        """Return the value of ``Via`` for a request that the proxy of this name makes on the way."""
        return ", ".join(f"{_PROTOCOL} {hop}" for hop in (*self.names, name))


# Of the request that is being answered. A task inherits it from whoever began it, so what a request causes in
# the background is known as part of its way.
REQUEST_HOPS: ContextVar[Hops] = ContextVar("request_hops", default=Hops())  # noqa: B039
