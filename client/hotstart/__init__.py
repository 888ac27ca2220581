"""hotstart loads models without waiting for their download.

``import hotstart`` imports next to nothing: each name below is found in its module when it is first used, so
a function that is started cold pays only for what it calls.
"""

from __future__ import annotations

from hotstart._version import __version__

# Type checkers go by the name alone; importing it from typing would be nine tenths of what this import costs.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from hotstart import errors
    from hotstart.calls import download, load, load_into, prefetch, stream
    from hotstart.errors import (
        AllSourcesFailed,
        CannotVerify,
        DeviceFailed,
        DownloadFailed,
        FileNotInVersion,
        ForkedProcess,
        FormatError,
        IntegrityError,
        InvalidEnvironment,
        InvalidOption,
        InvalidReference,
        InvalidSlice,
        MissingPackage,
        ModuleMismatch,
        PrefetchTimeout,
        ShardMismatch,
        SourceError,
        TensorNotFound,
        TransferAborted,
        Unreadable,
        UnsupportedDtype,
        UnsupportedHost,
        WeightsNotFound,
    )
    from hotstart.model import Model
    from hotstart.model import open_model as open  # noqa: A004 - hotstart.open is the public name
    from hotstart.reader import SafeOpen as safe_open  # noqa: N813 - as safetensors calls it
    from hotstart.reader import load_file
    from hotstart.wire.errors import HotstartError

__all__ = [
    "AllSourcesFailed",
    "CannotVerify",
    "DeviceFailed",
    "DownloadFailed",
    "FileNotInVersion",
    "ForkedProcess",
    "FormatError",
    "HotstartError",
    "IntegrityError",
    "InvalidEnvironment",
    "InvalidOption",
    "InvalidReference",
    "InvalidSlice",
    "MissingPackage",
    "Model",
    "ModuleMismatch",
    "PrefetchTimeout",
    "ShardMismatch",
    "SourceError",
    "TensorNotFound",
    "TransferAborted",
    "Unreadable",
    "UnsupportedDtype",
    "UnsupportedHost",
    "WeightsNotFound",
    "__version__",
    "download",
    "errors",
    "load",
    "load_file",
    "load_into",
    "open",
    "prefetch",
    "safe_open",
    "stream",
]

# Where each public name is found. None of them may be a module of this package too: importing that module
# would put it in the name's place.
_HOMES = {
    "HotstartError": ("hotstart.wire.errors", "HotstartError"),
    "Model": ("hotstart.model", "Model"),
    "download": ("hotstart.calls", "download"),
    "load": ("hotstart.calls", "load"),
    "load_file": ("hotstart.reader", "load_file"),
    "load_into": ("hotstart.calls", "load_into"),
    "open": ("hotstart.model", "open_model"),
    "prefetch": ("hotstart.calls", "prefetch"),
    "safe_open": ("hotstart.reader", "SafeOpen"),
    "stream": ("hotstart.calls", "stream"),
}


def _import(name: str) -> Any:
    # Not by importlib, which would be one more thing to import. Of a dotted name, __import__ returns the top
    # unless something is wanted from the module.
    return __import__(name, fromlist=["__name__"])


def _find(name: str) -> Any:
    if name == "errors":
        return _import("hotstart.errors")
    home = _HOMES.get(name)
    if home is None:
        if name not in __all__:
            raise AttributeError(f"module 'hotstart' has no attribute {name!r}")
        # What has no home of its own is an error.
        found = getattr(_import("hotstart.errors"), name)
    else:
        found = getattr(_import(home[0]), home[1])
    globals()[name] = found
    return found


if not TYPE_CHECKING:
    # Seen by a type checker, it would make every misspelt name an Any.
    __getattr__ = _find


def __dir__() -> list[str]:
    return sorted(__all__)
