"""The installed commands as processes: started, watched, signalled by their own pid, and always ended."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from benchmarks.harness.processes import free_port
from tests.support.deadlines import DEADLINE_SECONDS, wait_until

__all__ = ["Finished", "Process", "Processes", "Proxy", "free_port", "get"]

# What a developer's shell may hold must not change what a test sees.
_NOT_INHERITED = ("HOTSTART_", "AWS_", "PYTHON")


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return this process's environment without our own, AWS's and Python's variables, plus extra."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_INHERITED)}
    return {**kept, "PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "error", **(extra or {})}


def command_path(name: str = "hotstart") -> str:
    """Return the path of a command that is installed beside this interpreter."""
    return str(Path(sys.executable).parent / name)


def get(path: str, *, port: int | None = None, unix: Path | None = None) -> tuple[int, bytes]:
    """GET path from a server on 127.0.0.1 or on a Unix socket; return status and body.

    Raises:
        OSError: nobody answers.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_SECONDS)
    if unix is not None:
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(DEADLINE_SECONDS)
        connection.sock.connect(str(unix))
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except http.client.HTTPException as error:
        raise ConnectionError(f"no answer to GET {path}: {error!r}") from error
    finally:
        connection.close()


@dataclass(frozen=True, slots=True)
class Finished:
    """How a command ended; status is negative for a signal."""

    status: int
    stdout: str
    stderr: str

    def check(self) -> Finished:
        """Return itself if the command succeeded; fail with what it printed otherwise."""
        assert self.status == 0, f"exit status {self.status}\n{self.stdout}\n{self.stderr}"
        return self


class Process:
    """One started process; what it prints goes to two files."""

    def __init__(
        self, name: str, arguments: Iterable[str], environment: Mapping[str, str], folder: Path
    ) -> None:
        self.name = name
        self._stdout = folder / f"{name}.out"
        self._stderr = folder / f"{name}.err"
        with self._stdout.open("wb") as stdout, self._stderr.open("wb") as stderr:
            self._popen = subprocess.Popen(
                list(arguments),
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                env=dict(environment),
                cwd=folder,
                # A group of its own: Ctrl-C at the terminal ends pytest, which then ends this in order.
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def running(self) -> bool:
        return self._popen.poll() is None

    @property
    def stdout(self) -> str:
        return self._stdout.read_text(errors="replace")

    @property
    def stderr(self) -> str:
        return self._stderr.read_text(errors="replace")

    def send(self, number: signal.Signals) -> None:
        """Send a signal to this process alone."""
        self._popen.send_signal(number)

    def wait(self, seconds: float = DEADLINE_SECONDS) -> Finished:
        """Wait until it ends by itself."""
        status = self._popen.wait(seconds)
        return Finished(status, self.stdout, self.stderr)

    def terminate(self) -> Finished:
        """Send SIGTERM and wait."""
        self.send(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """Send SIGKILL and wait; no error if it has ended."""
        self._popen.kill()
        self._popen.wait()

    def kill_group(self) -> None:
        """Send SIGKILL to it and to what it has started, and wait for it; no error if it has ended."""
        if self.running:
            os.killpg(self.pid, signal.SIGKILL)
            self._popen.wait()

    def wait_for_output(self, text: str) -> str:
        """Wait until text stands in what it printed; return all it printed."""

        def look() -> str | None:
            printed = self.stdout + self.stderr
            assert text in printed or self.running, f"{self.name} ended without printing {text!r}:\n{printed}"
            return printed if text in printed else None

        return wait_until(f"{text!r} from {self.name}", look)


@dataclass(slots=True)
class Proxy:
    """A running ``hotstart serve``.

    Attributes:
        url: its TCP listener, as HOTSTART_PROXY takes it.
        unix: its Unix socket.
        store: the folder of its store.
        command: what it was started with, to start it again.
    """

    process: Process
    port: int
    unix: Path
    store: Path
    command: tuple[str, ...]
    environment: Mapping[str, str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def unix_url(self) -> str:
        return f"unix:{self.unix}"

    def get(self, path: str) -> tuple[int, bytes]:
        """GET path over TCP; return status and body."""
        return get(path, port=self.port)

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's samples whose labels include labels; 0 if there is none."""
        status, text = self.get("/metrics")
        assert status == 200
        total = 0.0
        for line in text.decode().splitlines():
            sample, _, value = line.rpartition(" ")
            if sample.partition("{")[0] == name and all(
                f'{key}="{label}"' in sample for key, label in labels.items()
            ):
                total += float(value)
        return total


class Processes:
    """All processes of one test: a context manager that ends them, newest first, and prints what they said.

    pytest shows what is printed only for a test that failed.
    """

    def __init__(self, folder: Path) -> None:
        """Keep output below folder, which is created."""
        self._folder = folder
        self._folder.mkdir(parents=True, exist_ok=True)
        # A Unix socket's path holds 107 bytes at most, and pytest's folders are long.
        self._sockets = Path(tempfile.mkdtemp(prefix="hotstart-"))
        self._started: list[Process] = []

    def __enter__(self) -> Processes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for process in reversed(self._started):
            # A stopped process takes no SIGTERM; SIGKILL ends it all the same.
            process.kill_group()
        wait_until("the last files of killed processes", self._sockets_removed)
        for process in self._started:
            print(f"--- {process.name} (pid {process.pid})\n{process.stdout}{process.stderr}", end="")

    def _sockets_removed(self) -> bool:
        try:
            shutil.rmtree(self._sockets)
        except OSError:
            # A worker may be at its last write: only its parent's end was waited for.
            return False
        return True

    def start(self, *arguments: str, environment: Mapping[str, str] | None = None, name: str = "") -> Process:
        """Start any command; its environment is this process's, cleaned, plus environment."""
        name = f"{len(self._started)}-{name or Path(arguments[0]).name}"
        process = Process(name, arguments, clean_environment(environment), self._folder)
        self._started.append(process)
        return process

    def hotstart(self, *arguments: str, environment: Mapping[str, str] | None = None) -> Process:
        """Start ``hotstart ARGUMENTS`` and return at once."""
        return self.start(
            command_path(), *arguments, environment=environment, name=f"hotstart-{arguments[0]}"
        )

    def run(self, *arguments: str, environment: Mapping[str, str] | None = None) -> Finished:
        """Run ``hotstart ARGUMENTS`` to its end, whatever that is."""
        return self.hotstart(*arguments, environment=environment).wait()

    def python(self, code: str, *arguments: str, environment: Mapping[str, str] | None = None) -> Process:
        """Start this interpreter on code and return at once."""
        return self.start(sys.executable, "-c", code, *arguments, environment=environment, name="python")

    def serve(
        self,
        origin: str,
        store: Path | str,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        under: Sequence[str] = (),
    ) -> Proxy:
        """Start ``hotstart serve`` on a free port and a Unix socket, and wait until it says that it is ready.

        Args:
            origin: as ``--origin`` takes it.
            store: folder of the disk store, or the URL of another one.
            arguments: more options, lower stores among them.
            environment: for example the AWS variables of an S3 server.
            under: a command to run it under, which must become it (``strace -D``).
        """
        port = free_port()
        unix = self._sockets / f"{port}.sock"
        listen = ("--listen", f"127.0.0.1:{port}", "--listen", f"unix:{unix}")
        url = store if isinstance(store, str) else f"disk:{store}"
        serve = (command_path(), "serve", "--origin", origin, "--store", url)
        command = (*under, *serve, *listen, *arguments)
        process = self.start(*command, environment=environment, name="hotstart-serve")
        proxy = Proxy(process, port, unix, Path(store), command, environment or {})
        self._wait_until_ready(proxy)
        return proxy

    def restart(self, proxy: Proxy) -> None:
        """Start an ended proxy again as it was, and wait until it is ready."""
        assert not proxy.process.running
        proxy.process = self.start(*proxy.command, environment=proxy.environment, name="hotstart-serve")
        self._wait_until_ready(proxy)

    def _wait_until_ready(self, proxy: Proxy) -> None:
        def ready() -> bool:
            process = proxy.process
            assert process.running, f"hotstart serve ended:\n{process.stdout}{process.stderr}"
            try:
                return proxy.get("/healthz/ready")[0] == 200
            except OSError:
                return False

        wait_until("hotstart serve to be ready", ready)
