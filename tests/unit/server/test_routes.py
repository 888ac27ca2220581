"""Finding routes from raw request targets."""

from __future__ import annotations

import pytest

from hotstart.wire.errors import InvalidReference
from hotstart_proxy.server.problems import MethodNotAllowed, Moved, NoSuchRoute
from hotstart_proxy.server.routes import ROUTES, Listener, find_route, split_target


@pytest.mark.parametrize(
    ("target", "name", "reference"),
    [
        ("/", "home", None),
        ("/healthz/live", "live", None),
        ("/healthz/ready?verbose", "ready", None),
        ("/metrics", "metrics", None),
        ("/v1/models", "models", None),
        ("/v1/models/org/bert", "model", "org/bert"),
        ("/v1/models/bert", "model", "library/bert"),
        ("/v1/models/org/bert@7", "manifest", "org/bert@7"),
        ("/v1/models/bert@7", "manifest", "library/bert@7"),
        ("/v1/models/org/bert@prod/model.safetensors", "file", "org/bert@prod/model.safetensors"),
        ("/v1/models/org/bert@7/unet/x.safetensors.zst", "file", "org/bert@7/unet/x.safetensors.zst"),
        ("/v1/models/org/bert@7/a%20b%C3%A9.json", "file", "org/bert@7/a bé.json"),
        ("/v1/open/org/bert@prod?expires_in=60", "open", "org/bert@prod"),
        ("/v1/open/org/bert", "open", "org/bert"),
        ("http://proxy:8470/v1/models/org/bert@7", "manifest", "org/bert@7"),
        ("HTTP://proxy:8470", "home", None),
    ],
)
def test_data_routes(target: str, name: str, reference: str | None) -> None:
    """Every route of the data listener is found from its raw target, absolute form included."""
    match = find_route(Listener.DATA, "GET", target)
    assert match.route.name == name
    assert (None if match.reference is None else str(match.reference)) == reference


@pytest.mark.parametrize(
    ("target", "name", "reference"),
    [
        ("/v1/models/org/bert@7:warm", "warm", "org/bert@7"),
        ("/v1/models/org/bert:evict", "evict", "org/bert"),
        ("/v1/models/org/bert@7:pin", "pin", "org/bert@7"),
        ("/v1/models/org/bert@7:unpin", "unpin", "org/bert@7"),
        ("/v1/models/org/bert:poll", "poll", "org/bert"),
        ("/v1/gc", "gc", None),
    ],
)
def test_admin_routes(target: str, name: str, reference: str | None) -> None:
    """Actions are found on the admin listener, by POST alone."""
    match = find_route(Listener.ADMIN, "POST", target)
    assert match.route.name == name
    assert (None if match.reference is None else str(match.reference)) == reference
    with pytest.raises(MethodNotAllowed) as caught:
        find_route(Listener.ADMIN, "GET", target)
    assert caught.value.allowed == ("POST",)


@pytest.mark.parametrize(
    "target", ["/v1/gc", "/v2", "/v1", "/v1/", "/hub/x", "/s3/x", "/v1/reports", "", "*", "//"]
)
def test_no_route_on_data(target: str) -> None:
    """What is not served is said to be not there, admin routes on a data listener included."""
    with pytest.raises(NoSuchRoute):
        find_route(Listener.DATA, "GET", target)


@pytest.mark.parametrize(
    "target", ["/v1/models", "/v1/models/org/bert@7", "/v1/models/org/bert@7:keep", "/v1/open/org/bert@7"]
)
def test_no_route_on_admin(target: str) -> None:
    """The admin listener serves no models."""
    with pytest.raises(NoSuchRoute):
        find_route(Listener.ADMIN, "GET", target)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "get"])
@pytest.mark.parametrize("target", ["/", "/v1/models", "/v1/models/org/bert@7/x", "/v1/open/org/bert"])
def test_other_methods(method: str, target: str) -> None:
    """A path that is served by other methods says by which."""
    with pytest.raises(MethodNotAllowed) as caught:
        find_route(Listener.DATA, method, target)
    assert caught.value.allowed == ("GET", "HEAD")


@pytest.mark.parametrize(
    "rest",
    [
        "",
        "org/bert@7/../../etc/passwd",
        "org/bert@7/%2e%2e/x",
        "org/bert@7/a%2Fb",
        "org/bert@7/a%2fb",
        "org/bert@7/a%00b",
        "org/bert@7/%ff",
        "org/bert@7/%zz",
        "org/bert@7/%",
        "org/bert@7//x",
        "org/bert@7/",
        "org/bert@7/./x",
        "org/bert@7/.hotstart/manifest.json",
        "org/bert@7:warm",
        "org/bert/extra",
        "org/bert@",
        "@7",
        "org/bert@7@8",
        "\u00e9/x",
        "org/bert@7/\udcff",
    ],
)
def test_malformed_references(rest: str) -> None:
    """No trick with dots, slashes or escapes names anything."""
    with pytest.raises(InvalidReference):
        find_route(Listener.DATA, "GET", f"/v1/models/{rest}")


@pytest.mark.parametrize(
    ("listener", "method", "target", "location"),
    [
        (Listener.DATA, "GET", "/v1/models/org/bert%407/x.json", "/v1/models/org/bert@7/x.json"),
        (Listener.DATA, "GET", "/v1/models/org/bert%407?a=b&c", "/v1/models/org/bert@7?a=b&c"),
        (
            Listener.DATA,
            "GET",
            "/v1/open/org/bert%40prod?expires_in=60",
            "/v1/open/org/bert@prod?expires_in=60",
        ),
        (Listener.ADMIN, "POST", "/v1/models/org/bert%407:warm", "/v1/models/org/bert@7:warm"),
    ],
)
def test_an_escaped_at_sign_is_moved(listener: Listener, method: str, target: str, location: str) -> None:
    """%40 is redirected to the literal form, with prefix, action and query kept."""
    with pytest.raises(Moved) as caught:
        find_route(listener, method, target)
    assert caught.value.location == location


def test_a_version_is_opened_not_a_file() -> None:
    """Where a version is meant, a file in it is refused."""
    for listener, method, target in (
        (Listener.DATA, "GET", "/v1/open/org/bert@7/x.json"),
        (Listener.ADMIN, "POST", "/v1/models/org/bert@7/x.json:warm"),
    ):
        with pytest.raises(InvalidReference, match="expected a version here"):
            find_route(listener, method, target)


def test_split_target() -> None:
    """Query and authority are taken off; what looks like an authority in a path is not."""
    assert split_target("/a?b?c") == ("/a", "b?c")
    assert split_target("http://h/a?b") == ("/a", "b")
    assert split_target("https://h?b") == ("/", "b")
    assert split_target("/http://h/a") == ("/http://h/a", "")


def test_every_route_of_the_data_listener_but_probes_needs_a_token() -> None:
    """Where tokens are set, only liveness and readiness answer without one."""
    without = {r.name for r in ROUTES if Listener.DATA in r.listeners and not r.needs_token}
    assert without == {"live", "ready"}


def test_a_model_is_polled_not_a_version() -> None:
    """Where a model is meant, a version of it is refused."""
    with pytest.raises(InvalidReference, match="expected a model here"):
        find_route(Listener.ADMIN, "POST", "/v1/models/org/bert@7:poll")
