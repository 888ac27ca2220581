"""Finding a proxy's admin listener: a URL, a socket, or the store in which the proxy has put its socket."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hotstart.sources.endpoints import Endpoint, InvalidUrl, parse_proxy_url
from hotstart.wire.errors import HotstartError

__all__ = ["ADMIN_VARIABLE", "FoundListener", "NoAdminListener", "find_listener"]

ADMIN_VARIABLE = "HOTSTART_ADMIN"
_FORMS = "unix:/PATH/admin.sock, the store's folder, or http://HOST:PORT"
# The first proxy on a store has this name, others one with their process id.
_FIRST = "admin.sock"
_OTHERS = "admin-*.sock"
# A listener on this host answers at once, or its backlog is full.
_CONNECT_SECONDS = 5.0


class NoAdminListener(HotstartError):
    """There is no admin listener to talk to.

    Attributes:
        place: where it was looked for.
        reason: what was found, and what to do.
    """

    def __init__(self, place: str, reason: str) -> None:
        self.place = place
        self.reason = reason
        super().__init__(f"{place}: {reason}")


@dataclass(frozen=True, slots=True)
class FoundListener:
    """An admin listener that takes connections.

    Attributes:
        endpoint: where it is.
        others: URLs of more of them on the same store.
    """

    endpoint: Endpoint
    others: tuple[str, ...] = ()


def find_listener(given: str | None, environ: Mapping[str, str]) -> FoundListener:
    """Find what an option, or else the variable, names.

    Raises:
        NoAdminListener: neither says anything, or nobody listens there that would talk to us.
        InvalidUrl: what is given cannot be a listener.
    """
    text = given or environ.get(ADMIN_VARIABLE, "")
    if not text:
        raise NoAdminListener("no admin listener is named", f"give --admin or set {ADMIN_VARIABLE}: {_FORMS}")
    if text.startswith("unix:"):
        return _only(parse_proxy_url(text))
    if "://" in text:
        return FoundListener(parse_proxy_url(text))
    path = Path(text.removeprefix("disk:")).absolute()
    if path.is_dir():
        return _in_store(path)
    if path.exists():
        return _only(parse_proxy_url(f"unix:{path}"))
    raise NoAdminListener(str(path), f"there is no such folder or socket; expected {_FORMS}")


def _only(endpoint: Endpoint) -> FoundListener:
    fault = _fault(Path(endpoint.socket_path))
    if fault is not None:
        raise NoAdminListener(str(endpoint), fault)
    return FoundListener(endpoint)


def _in_store(folder: Path) -> FoundListener:
    first = folder / _FIRST
    paths = [*([first] if os.path.lexists(first) else []), *sorted(folder.glob(_OTHERS))]
    live: list[Endpoint] = []
    faults: list[str] = []
    for path in paths:
        try:
            endpoint = parse_proxy_url(f"unix:{path}")
        except InvalidUrl as error:
            faults.append(str(error))
            continue
        fault = _fault(path)
        if fault is None:
            live.append(endpoint)
        else:
            faults.append(f"{path.name}: {fault}")
    if not live:
        raise NoAdminListener(str(folder), _nobody(faults))
    return FoundListener(live[0], tuple(map(str, live[1:])))


def _nobody(faults: Sequence[str]) -> str:
    if faults:
        return "; ".join(faults)
    return (
        "there is no admin.sock in it: does hotstart serve run on this store? "
        "With --admin-listen it listens elsewhere"
    )


def _fault(path: Path) -> str | None:
    """Return why nobody can be talked to at a socket; None if somebody can."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(_CONNECT_SECONDS)
        try:
            sock.connect(str(path))
        except FileNotFoundError:
            return "there is no such socket"
        except ConnectionRefusedError:
            return "nobody listens there: the proxy that made it has ended"
        except PermissionError:
            return f"permission denied: only the user who runs the proxy may use it{_owner(path)}"
        except TimeoutError:
            return f"no connection within {_CONNECT_SECONDS:g} s"
        except OSError as error:
            return error.strerror or str(error)
    return None


def _owner(path: Path) -> str:
    with contextlib.suppress(OSError):
        return f" (user id {path.stat().st_uid})"
    return ""
