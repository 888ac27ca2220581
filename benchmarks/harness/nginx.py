"""nginx as it is set up for static files: sendfile, one worker, TCP and a Unix socket."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .folders import sockets_folder
from .processes import free_port, running

__all__ = ["MISSING", "Nginx", "binary", "serving", "version"]

MISSING = "nginx is not installed (Debian: apt-get install nginx-light)"

# open_file_cache, so that it opens a file no more often than our proxy does; no access log, as for our proxy
# at --log-level error; sendfile_max_chunk stays at its default of 2 MiB.
_CONFIG = """
{user}
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{
    worker_connections 4096;
}}
http {{
    access_log off;
    default_type application/octet-stream;
    sendfile on;
    tcp_nopush on;
    tcp_nodelay on;
    keepalive_timeout 600;
    keepalive_requests 10000000;
    open_file_cache max=1000 inactive=600s;
    open_file_cache_valid 600s;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen {address}:{port} backlog=1024;
        listen unix:{unix} backlog=1024;
        root "{root}";
        {extra}
    }}
}}
"""


@dataclass(frozen=True, slots=True)
class Nginx:
    """A running nginx; the paths of its URLs are those of files below its root.

    Attributes:
        url: ``http://ADDRESS:PORT``.
        unix: its socket.
        pid: of the master; the worker is its child.
    """

    address: str
    port: int
    unix: Path
    pid: int

    @property
    def url(self) -> str:
        return f"http://{self.address}:{self.port}"


def binary() -> str | None:
    """Return the path of nginx, or None where it is not installed."""
    # Debian keeps it out of an ordinary user's PATH.
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def version() -> str | None:
    """Return nginx's version, or None where it is not installed."""
    path = binary()
    if path is None:
        return None
    told = subprocess.run([path, "-v"], check=True, capture_output=True, text=True).stderr
    return told.strip().rpartition("/")[2]


@contextmanager
def serving(
    root: Path,
    folder: Path,
    *,
    address: str = "127.0.0.1",
    prefix: tuple[str, ...] = (),
    extra: str = "",
) -> Iterator[Nginx]:
    """Serve the files below root.

    Args:
        root: absolute.
        folder: for its configuration and logs; created.
        address: the TCP address to listen at.
        prefix: a command to run it under, which becomes it (``ip netns exec NAME``).
        extra: more directives of the server.

    Raises:
        BenchmarkFailed: it does not start.
    """
    path = binary()
    assert path is not None, MISSING
    folder.mkdir(parents=True, exist_ok=True)
    with sockets_folder() as sockets:
        port, unix = free_port(), sockets / "nginx.sock"
        config = folder / "nginx.conf"
        # As root its worker would become nobody, who may not read what we make.
        user = "user root;" if os.geteuid() == 0 else ""
        places = {
            "folder": folder,
            "root": root,
            "unix": unix,
            "address": address,
            "port": port,
            "extra": extra,
        }
        config.write_text(_CONFIG.format(user=user, **places))
        command = [*prefix, path, "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(config)]
        with running(command, folder / "nginx.log", lambda: _answers(unix)) as process:
            yield Nginx(address, port, unix, process.pid)


def _answers(unix: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.connect(str(unix))
        except OSError:
            return False
    return True
