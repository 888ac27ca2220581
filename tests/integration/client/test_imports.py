"""What importing costs, and that the public names are there."""

from __future__ import annotations

import json

import pytest

import hotstart
from tests.support.processes import Processes

# Whatever of these a function needs, it pays for when it needs it.
# fmt: off
HEAVY = frozenset((
    "argparse", "asyncio", "base64", "concurrent.futures", "ctypes", "dataclasses", "difflib", "email",
    "hashlib", "http", "http.client", "inspect", "json", "logging", "math", "mmap", "numpy", "pathlib",
    "random", "socket", "ssl", "subprocess", "tempfile", "threading", "torch", "urllib.parse",
    "urllib.request", "zlib", "zstandard",
))
# fmt: on


def newly_imported(processes: Processes, code: str) -> set[str]:
    """Return the modules that code imports in a fresh interpreter without site-packages' own start-up."""
    wrapped = (
        f"import sys\nbefore = set(sys.modules)\n{code}\nafter = set(sys.modules)\n"
        "import json\nprint(json.dumps(sorted(after - before)))"
    )
    return set(json.loads(processes.python(wrapped).wait().check().stdout))


def test_importing_takes_the_light_part_of_the_standard_library(processes: Processes) -> None:
    """import hotstart imports nothing but itself, not even typing."""
    imported = newly_imported(processes, "import hotstart")
    assert not imported & HEAVY
    assert imported - {"__future__"} == {"hotstart", "hotstart._version"}


def test_a_prefetch_imports_next_to_nothing_before_it_returns(processes: Processes) -> None:
    """What prefetch needs in the caller's thread is two small modules: not even threading or typing."""
    imported = newly_imported(processes, "import hotstart, hotstart.prefetching; hotstart.prefetch")
    own = {"hotstart", "hotstart._version", "hotstart.calls", "hotstart.prefetching"}
    assert imported - {"__future__"} == own


def test_opening_imports_no_framework(processes: Processes) -> None:
    """Opening a model imports neither numpy nor torch nor zstandard, nor the proxy."""
    imported = newly_imported(processes, "import hotstart; hotstart.open; hotstart.safe_open")
    assert not imported & {"numpy", "torch", "zstandard", "asyncio", "aiohttp", "hotstart_proxy", "ssl"}


@pytest.mark.parametrize("name", hotstart.__all__)
def test_public_names_are_there(name: str) -> None:
    """Each public name is found, also after the modules that it lives in were imported."""
    import hotstart.downloads
    import hotstart.prefetching
    import hotstart.reader

    assert getattr(hotstart, name) is not None
    assert name in dir(hotstart)


def test_errors_are_found_at_the_top(processes: Processes) -> None:
    """Every error is hotstart.Name and hotstart.errors.Name, and other names are AttributeErrors."""
    code = (
        "import hotstart\n"
        "assert hotstart.IntegrityError is hotstart.errors.IntegrityError\n"
        "for name in hotstart.errors.__all__:\n"
        "    assert issubclass(getattr(hotstart, name), hotstart.HotstartError), name\n"
        "assert not hasattr(hotstart, 'nope')\n"
        "assert not hasattr(hotstart, 'get_close_matches')\n"
    )
    processes.python(code).wait().check()
