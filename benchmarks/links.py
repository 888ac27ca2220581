"""A link of a given rate: two network namespaces, a veth pair between them, and a token bucket at both ends.

The namespaces have no names: each is held by a process that waits for the end of its input. When whoever
made them ends, also by kill -9, the pipes close, the holders end, and the kernel takes away all that was
theirs as soon as the last server or client in them has gone. So nothing is ever left to clean up, and no two
runs can meet.

It takes root (CAP_SYS_ADMIN and CAP_NET_ADMIN) and iproute2, and a kernel with veth and tbf. Where one of
them lacks, ``LinkUnavailable`` says which.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

__all__ = ["Link", "LinkUnavailable", "Side", "burst_bytes", "link", "why_unavailable"]

MTU_BYTES = 1500
SERVER_ADDRESS = "10.255.0.1"
CLIENT_ADDRESS = "10.255.0.2"
_PREFIX_BITS = 30
# How long the bucket may fill ahead. tbf gives out tokens when a timer fires: a bucket that holds less than
# the time between two of them never reaches its rate, and one that holds more lets more out at once.
_BURST_SECONDS = 0.002
# A segment that the kernel has not cut up yet must fit into the bucket.
_LEAST_BURST_BYTES = 128 * 1024
# How long a packet may wait: a queue about as deep as a switch's.
_QUEUE_MILLISECONDS = 20
_COMMAND_SECONDS = 20


class LinkUnavailable(Exception):
    """This machine makes no such link.

    Attributes:
        reason: what was tried, and what came of it.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"no shaped link here: {reason}")


@dataclass(frozen=True, slots=True)
class Side:
    """One end of a link.

    Attributes:
        address: IPv4, where the other side reaches it.
        namespace: path that stands for its network, for setns and nsenter, as long as the link is there.
    """

    address: str
    namespace: str

    def command(self, *arguments: str) -> list[str]:
        """Return a command that runs another one on this side, in the very process it is started as."""
        return ["nsenter", f"--net={self.namespace}", "--", *arguments]


@dataclass(frozen=True, slots=True)
class Link:
    """Two sides that see nothing but each other.

    Attributes:
        bits_per_second: what goes over it in each direction, heads of packets included.
    """

    bits_per_second: int
    server: Side
    client: Side


@contextmanager
def link(bits_per_second: int) -> Iterator[Link]:
    """Make a link and take it away at the end.

    Raises:
        LinkUnavailable: with the reason.
    """
    with ExitStack() as stack:
        pids = [stack.enter_context(_namespace()) for _ in range(2)]
        server, client = (
            Side(address, f"/proc/{pid}/ns/net")
            for address, pid in zip((SERVER_ADDRESS, CLIENT_ADDRESS), pids, strict=True)
        )
        pair = ["mtu", str(MTU_BYTES), "type", "veth", "peer", "name", "end", "mtu", str(MTU_BYTES)]
        _run(*server.command("ip", "link", "add", "end", *pair, "netns", str(pids[1])))
        for side in (server, client):
            _run(*side.command("ip", "address", "add", f"{side.address}/{_PREFIX_BITS}", "dev", "end"))
            for device in ("lo", "end"):
                _run(*side.command("ip", "link", "set", device, "up"))
            _run(*side.command("tc", "qdisc", "add", "dev", "end", "root", *_bucket(bits_per_second)))
        yield Link(bits_per_second, server, client)


def why_unavailable() -> str | None:
    """Return why this machine makes no links, or None if it does."""
    try:
        with link(1_000_000_000):
            return None
    except LinkUnavailable as error:
        return error.reason


def burst_bytes(bits_per_second: int) -> int:
    """Return how many bytes may leave at once."""
    return max(_LEAST_BURST_BYTES, int(bits_per_second / 8 * _BURST_SECONDS))


def _bucket(bits_per_second: int) -> Sequence[str]:
    rate, burst = f"{bits_per_second}bit", str(burst_bytes(bits_per_second))
    return ["tbf", "rate", rate, "burst", burst, "latency", f"{_QUEUE_MILLISECONDS}ms"]


@contextmanager
def _namespace() -> Iterator[int]:
    """Hold a new network namespace; gives the pid of its holder."""
    try:
        holder = subprocess.Popen(
            ["unshare", "--net", "--", "sh", "-c", "echo made; exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # Ctrl-C is for whoever made the link, which then ends this.
            start_new_session=True,
        )
    except OSError as error:
        raise LinkUnavailable(f"unshare: {error.strerror}") from error
    with holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stderr is not None
        if not holder.stdout.readline():
            raise LinkUnavailable(holder.stderr.read().decode(errors="replace").strip())
        try:
            yield holder.pid
        finally:
            holder.stdin.close()
            holder.wait(_COMMAND_SECONDS)


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_SECONDS, check=False)
    except OSError as error:
        raise LinkUnavailable(f"{command[0]}: {error.strerror}") from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip()
        raise LinkUnavailable(f"{' '.join(command[3:])}: {said or f'exit status {done.returncode}'}")
