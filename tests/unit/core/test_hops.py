"""The way of a request: read, written, and where it ends."""

from __future__ import annotations

import pytest

from hotstart_proxy.core.hops import MOST_HOPS, Hops

OWN = Hops.name_of("own")


def test_each_proxy_adds_itself() -> None:
    """What one proxy writes the next one reads, itself at the end."""
    assert Hops().onward(OWN) == "1.1 hotstart-own"
    way = Hops.parse(Hops.parse(Hops().onward("hotstart-a")).onward("hotstart-b"))
    assert way == Hops(("hotstart-a", "hotstart-b"))


@pytest.mark.parametrize(
    "via",
    ["", "1.1 nginx", "HTTP/2 cache (hotstart-own)", "hotstart-own", ",, ,", "1.0 fred, 1.1 p.example.net"],
)
def test_what_others_write_is_passed_over(via: str) -> None:
    """Other software's names, comments, and what is no Via at all, are not hops of ours."""
    assert Hops.parse(via) == Hops()


def test_ours_between_others() -> None:
    """A name of ours is found wherever it stands, with any protocol and a comment behind it."""
    via = "1.1 nginx, HTTP/1.1 hotstart-a (node 7),2 hotstart-b ,1.1 edge"
    assert Hops.parse(via).names == ("hotstart-a", "hotstart-b")


def test_itself_is_not_admitted() -> None:
    """A proxy that was passed before is not passed again."""
    assert Hops(("hotstart-a",)).admits(OWN)
    assert not Hops(("hotstart-a", OWN, "hotstart-b")).admits(OWN)


def test_the_way_is_bounded() -> None:
    """A way of as many proxies as there may be goes no further."""
    names = tuple(f"hotstart-{number}" for number in range(MOST_HOPS))
    assert Hops(names[:-1]).admits(OWN)
    assert not Hops(names).admits(OWN)
