"""How every loader is measured, ours and the peers': the same clock, the same reading, a process of its own.

A loader is a script that imports its library, says which versions it found, and then takes one request a line
from its standard input. Each request is carried out in a forked child, so that nothing is left from the one
before (connections, buffers, threads), while the import, which this is not about, is paid once. The child may
move to another network first. It answers with one line:

* ``returned_seconds``: from before the first byte is asked for until all tensors are there;
* ``read_seconds``: the same and every byte of them then read once, by one sum over all as integers, the same
  for all loaders. What only maps a file has done little until then;
* ``cpu_seconds``: of the process until all tensors were there, without programs that it started;
* ``checksum``: that sum, by which the tensors of all loaders are known to be the same;
* ``peak_bytes``: how far its own memory (RssAnon and RssShmem) rose above where it began.

It runs under the peers' interpreter as well: the standard library and numpy, and nothing of ours.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from typing import Any, TypeAlias

import numpy

__all__ = ["Loader", "checksum", "own_memory_bytes", "serve"]

# Is given the request's facts, and returns tensors of torch or arrays of numpy, by name.
Loader: TypeAlias = Callable[[Mapping[str, Any]], Mapping[str, Any]]

_CLONE_NEWNET = 0x40000000
_MADV_POPULATE_WRITE = 23
_SAMPLE_SECONDS = 0.002
_OWN = ("RssAnon:", "RssShmem:")
_WORD_BYTES = 8


def checksum(tensors: Iterable[Any]) -> int:
    """Read every byte of the tensors once and return a sum that does not depend on their order."""
    total = 0
    for tensor in tensors:
        data = _flat(tensor)
        words = len(data) // _WORD_BYTES * _WORD_BYTES
        total += int(data[:words].view(numpy.uint64).sum(dtype=numpy.uint64))
        total += int(data[words:].sum(dtype=numpy.uint64))
    return total % 2**64


def _flat(tensor: Any) -> Any:
    """Return the bytes of a contiguous tensor, without a copy."""
    if isinstance(tensor, numpy.ndarray):
        return tensor.reshape(-1).view(numpy.uint8)
    import torch

    return tensor.detach().flatten().view(torch.uint8).numpy()


def own_memory_bytes(pid: int) -> int:
    """Return RssAnon and RssShmem of a process, behind which no file stands; 0 if it has ended."""
    total = 0
    try:
        with open(f"/proc/{pid}/status", encoding="ascii") as status:
            for line in status:
                if line.startswith(_OWN):
                    total += int(line.split()[1]) * 1024
    except (OSError, ValueError):
        return 0
    return total


def serve(load: Loader, *packages: str, prepare: Callable[[Mapping[str, Any]], None] | None = None) -> None:
    """Take requests until there are no more.

    Args:
        load: what is measured.
        packages: whose versions are told.
        prepare: does before the clock runs, and without I/O, what a program does once.
    """
    # A full collection over all that torch makes when it is imported takes 100 ms, and would come upon one
    # loader and not upon the next, as the number of their objects has it.
    gc.collect()
    gc.freeze()
    print(json.dumps({"versions": {name: version(name) for name in packages}}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            _carry_out(load, request, prepare)
        peak, least = 0, 0
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            if request.get("watch_memory"):
                now = own_memory_bytes(child)
                least = least or now
                peak = max(peak, now - least)
            time.sleep(_SAMPLE_SECONDS)
        print(json.dumps({"peak_bytes": peak}), flush=True)


def _carry_out(
    load: Loader, request: Mapping[str, Any], prepare: Callable[[Mapping[str, Any]], None] | None
) -> None:
    try:
        if request.get("network"):
            _enter_network(request["network"])
        if not request.get("watch_memory"):
            _own_pages()
        if prepare is not None:
            prepare(request)
        answer: dict[str, Any] = _measure(load, request)
    except BaseException as error:  # noqa: BLE001 - a process's end: whoever asked gets it
        answer = {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
    print(json.dumps(answer), flush=True)
    # Not the interpreter's end: libraries wait for threads there, some of them for seconds.
    os._exit(0)


def _measure(load: Loader, request: Mapping[str, Any]) -> dict[str, Any]:
    used = time.process_time()
    started = time.perf_counter()
    tensors = load(request)
    returned = time.perf_counter()
    used = time.process_time() - used
    total = checksum(tensors.values())
    read = time.perf_counter()
    answer = {
        "returned_seconds": returned - started,
        "read_seconds": read - started,
        "cpu_seconds": used,
        "checksum": total,
    }
    # hotstart's alone have one.
    report = getattr(tensors, "report", None)
    return answer if report is None else {**answer, "picked": list(report.representations)}


def _own_pages() -> None:
    """Copy the pages that are still the parent's, as a program that had not been forked would own them.

    Else every object that is touched costs a page fault first: 8 ms of a load that maps 520 tensors.
    """
    library = ctypes.CDLL(None)
    with open("/proc/self/maps", encoding="ascii") as maps:
        lines = [line.split(maxsplit=5) for line in maps]
    for place, mode, *_ in lines:
        if mode == "rw-p":
            start, _, stop = place.partition("-")
            address = int(start, 16)
            # Refused by kernels before 5.14, which leaves the pages as they were.
            library.madvise(
                ctypes.c_void_p(address), ctypes.c_size_t(int(stop, 16) - address), _MADV_POPULATE_WRITE
            )


def _enter_network(path: str) -> None:
    """Move this process, which has one thread, to another network namespace (os.setns is Python 3.12's)."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    library = ctypes.CDLL(None, use_errno=True)
    if library.setns(descriptor, _CLONE_NEWNET):
        code = ctypes.get_errno()
        raise OSError(code, f"setns: {os.strerror(code)}", path)
    os.close(descriptor)
