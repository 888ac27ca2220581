"""Which paths are a facade's."""

from __future__ import annotations

import pytest
from aiohttp import web

from hotstart_proxy.server.facades import Action, Facade, facade_for
from hotstart_proxy.server.problems import Form, NoSuchRoute, Problem, native_form


class Prefixed(Facade):
    """A facade that has nothing but a prefix."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix

    def find(self, request: web.BaseRequest, path: str, query: str) -> Action:
        raise NoSuchRoute(path)

    def form(self, request: web.BaseRequest, problem: Problem) -> Form:
        return native_form(problem)


HUB, ALL = Prefixed("/hub"), Prefixed("")


@pytest.mark.parametrize(
    ("path", "facade"),
    [
        ("/hub", HUB),
        ("/hub/", HUB),
        ("/hub/org/bert/resolve/7/x", HUB),
        ("/hubs", None),
        ("/hub%2Fx", None),
        ("/v1/models/hub", None),
        ("/", None),
        ("", None),
    ],
)
def test_a_prefix_ends_with_a_segment(path: str, facade: Facade | None) -> None:
    """A facade has its prefix and what lies below it, and nothing that only begins alike."""
    assert facade_for([HUB], path) is facade


def test_without_a_prefix_all_is_the_facades() -> None:
    """On a listener of its own a facade has every path, and of two the first that fits."""
    assert facade_for([ALL], "/v1/models") is ALL
    assert facade_for([ALL], "*") is ALL
    assert facade_for([HUB, ALL], "/hub/x") is HUB
