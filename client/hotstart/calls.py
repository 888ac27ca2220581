"""Opening and loading in one call."""

from __future__ import annotations

# As in hotstart itself: collections.abc and typing take 7 ms, and a function that calls prefetch at its top
# waits for what this module imports.
TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from typing import Any

    from hotstart.loading import Tensors
    from hotstart.modules import LoadedModule
    from hotstart.prefetching import Prefetch

__all__ = ["download", "load", "load_into", "prefetch", "stream"]


def load(
    reference: str,
    framework: str = "numpy",
    device: object = "cpu",
    *,
    verify: str | None = None,
    compression: str = "auto",
    tensors: Sequence[str] | None = None,
    raw: bool = False,
    dtype: object = None,
    **sources: str | None,
) -> Tensors:
    """Open a reference and load its tensors: see ``hotstart.open`` (for sources) and ``Model.load``."""
    from hotstart.model import open_model

    return open_model(reference, **sources).load(
        framework, device, verify=verify, compression=compression, tensors=tensors, raw=raw, dtype=dtype
    )


def stream(
    reference: str,
    framework: str = "numpy",
    device: object = "cpu",
    *,
    verify: str | None = None,
    compression: str = "auto",
    tensors: Sequence[str] | None = None,
    raw: bool = False,
    dtype: object = None,
    **sources: str | None,
) -> Iterator[tuple[str, Any]]:
    """Open a reference and yield its tensors as they become whole: see ``Model.stream``."""
    from hotstart.model import open_model

    return open_model(reference, **sources).stream(
        framework, device, verify=verify, compression=compression, tensors=tensors, raw=raw, dtype=dtype
    )


def load_into(
    module: Any,
    reference: str,
    device: object = None,
    *,
    strict: bool = True,
    verify: str | None = None,
    compression: str = "auto",
    **sources: str | None,
) -> LoadedModule:
    """Open a reference and load it into a torch module: see ``Model.load_into``."""
    from hotstart.model import open_model

    return open_model(reference, **sources).load_into(
        module, device, strict=strict, verify=verify, compression=compression
    )


def download(reference: str, folder: str | os.PathLike[str] | None = None, **sources: str | None) -> Path:
    """Open a reference and put all files of the version into a folder: see ``Model.download``.

    What the shared volume holds is hard-linked or copied: nobody is left to hold the lock of a symbolic link.
    """
    from hotstart.downloads import Download
    from hotstart.model import open_model

    return Download(open_model(reference, **sources).opened, folder).run()


def prefetch(
    reference: str,
    framework: str = "numpy",
    device: object = "cpu",
    *,
    verify: str | None = None,
    compression: str = "auto",
    tensors: Sequence[str] | None = None,
    raw: bool = False,
    dtype: object = None,
    **sources: str | None,
) -> Prefetch:
    """Begin to open and load in threads, and return at once; ``.result()`` gives what ``load`` would have.

    Begin it in the process that uses it: threads do not survive a fork.
    """
    from hotstart.prefetching import Prefetch

    options = {
        "framework": framework,
        "device": device,
        "verify": verify,
        "compression": compression,
        "tensors": tensors,
        "raw": raw,
        "dtype": dtype,
    }
    return Prefetch(reference, options, sources)
