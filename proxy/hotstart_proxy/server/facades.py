"""Facades: other systems' read protocols, each below a prefix of its own or on a listener of its own.

A facade takes the raw rest of the path apart itself, admits by its protocol's rules, and says what went wrong
in its protocol's form, also where a request is refused before its handler runs. The bytes of files it sends
through ``FileAnswers``, as the native API does.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from aiohttp import web

from .exchanges import Exchange
from .problems import Form, Problem
from .routes import RouteName
from .tokens import Rights, Tokens

__all__ = ["Action", "Answering", "Facade", "facade_for"]

Answering: TypeAlias = Callable[[Exchange], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Action:
    """What a request comes to.

    Attributes:
        route: its name for metrics and the log.
        answer: answers it.
        has_tier: it is for a model, so ``X-Latency-Tier`` counts.
    """

    route: RouteName
    answer: Answering
    has_tier: bool = True


class Facade(ABC):
    """One protocol.

    Attributes:
        prefix: of the paths that are its own, without a slash at the end; empty where all paths are.
    """

    prefix: str

    @abstractmethod
    def find(self, request: web.BaseRequest, path: str, query: str) -> Action:
        """Find what a request asks for; does no I/O, and reads no body.

        Args:
            request: with its method and headers.
            path: raw, still encoded, behind the prefix: empty, or beginning with a slash.
            query: raw, still encoded, without the question mark.

        Raises:
            NoSuchRoute, MethodNotAllowed, InvalidReference, InvalidQuery: it asks for nothing that there is.
        """

    def admit(self, request: web.BaseRequest, tokens: Tokens | None) -> Rights:
        """Admit a request, after ``find``; by bearer token, unless the protocol has its own way.

        Raises:
            Unauthorized: it is not admitted.
        """
        if tokens is None:
            return Rights()
        return tokens.check(request.headers.get("Authorization"))

    @abstractmethod
    def form(self, request: web.BaseRequest, problem: Problem) -> Form:
        """Put a problem into the protocol's form."""


def facade_for(facades: Sequence[Facade], path: str) -> Facade | None:
    """Return the facade whose paths a raw path belongs to, or None."""
    for facade in facades:
        prefix = facade.prefix
        if path.startswith(prefix) and (not prefix or path[len(prefix) :][:1] in ("", "/")):
            return facade
    return None
