"""What importing the wire package costs."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

HEAVY = frozenset({"zstandard", "numpy", "torch", "aiohttp", "asyncio", "ssl", "http.client", "safetensors"})


def modules() -> list[str]:
    spec = find_spec("hotstart.wire")
    assert spec is not None
    assert spec.submodule_search_locations
    folder = Path(spec.submodule_search_locations[0])
    return sorted(f"hotstart.wire.{path.stem}" for path in folder.glob("[!_]*.py"))


def test_modules_import_nothing_heavy() -> None:
    """Importing every wire module loads none of the libraries that cost a cold start tens of milliseconds."""
    code = f"import sys, {', '.join(modules())}\nprint(*sys.modules)"
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert not HEAVY & set(printed.split())
