"""onnxruntime sessions of a version: ``hotstart.onnx.session("org/model@prod")``.

What the shared volume holds is read there by onnxruntime itself, from its path; all else arrives in memory
and is never written to a disk. Tensors that lie in files of their own are of the same version as the model.
"""

from __future__ import annotations

import os
import posixpath
import weakref
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from hotstart.errors import FileNotInVersion, MissingPackage, WeightsNotFound
from hotstart.model import Model, open_model
from hotstart.sources.base import SourceKind
from hotstart.wire.manifest import File
from hotstart.wire.onnx import external_files

if TYPE_CHECKING:
    from hotstart.sources.shared import SharedVolume

__all__ = ["session"]

_SUFFIX = ".onnx"


def session(
    reference: str | Model,
    *,
    session_options: Any = None,
    providers: Sequence[Any] | None = None,
    provider_options: Sequence[Any] | None = None,
    **sources: str | None,
) -> Any:
    """Return an ``onnxruntime.InferenceSession`` of a version.

    Args:
        reference: as for ``hotstart.open``, or what that returned, so that side files are of one version with
            it. Where a version has several models, it names the file: ``org/bert@prod/onnx/model.onnx``.
        session_options: an ``onnxruntime.SessionOptions``; where tensors lie outside the model, they are
            added to it. None is a new one.
        providers: as onnxruntime takes them; None is its default.
        provider_options: as onnxruntime takes them.
        sources: see ``hotstart.open``; only with a reference.

    Raises:
        MissingPackage: onnxruntime is not installed.
        WeightsNotFound: the version holds several ONNX models.
        FileNotInVersion: the version holds none, or not the file that the model's tensors lie in.
        HotstartError: as ``hotstart.open`` and ``Model.read``.
    """
    if find_spec("onnxruntime") is None:
        raise MissingPackage("onnxruntime", "ONNX sessions", "onnx")
    import onnxruntime

    model = reference if isinstance(reference, Model) else open_model(reference, **sources)
    options = onnxruntime.SessionOptions() if session_options is None else session_options
    file = _choose(model)
    held: list[int] = []
    try:
        source, content = _locate(model, file, held)
        _add_external(model, file, content, options)
        made = onnxruntime.InferenceSession(
            source, sess_options=options, providers=providers, provider_options=provider_options
        )
    except BaseException:
        _release(held)
        raise
    # onnxruntime reads the path again where it falls back to another provider: until then the blob stays.
    weakref.finalize(made, _release, held)
    return made


def _choose(model: Model) -> File:
    """Return the ONNX model that the reference means: named, alone at the root, or alone."""
    named = model.opened.reference.file
    if named is not None:
        return _find(model, named)
    models = [file for file in model.files if file.path.endswith(_SUFFIX)]
    at_root = [file for file in models if "/" not in file.path]
    for choices in (at_root, models):
        if len(choices) == 1:
            return choices[0]
    if not models:
        raise FileNotInVersion(model.reference, f"*{_SUFFIX}", [file.path for file in model.files])
    reason = f"it has {len(models)} ONNX models"
    raise WeightsNotFound(model.reference, reason, tuple(file.path for file in models))


def _find(model: Model, path: str) -> File:
    file = model.manifest.file(path)
    if file is None:
        raise FileNotInVersion(model.reference, path, [file.path for file in model.files])
    return file


def _locate(model: Model, file: File, held: list[int]) -> tuple[str | bytes, bytes | memoryview]:
    """Return what onnxruntime reads the model from, a path or bytes, and the model's bytes."""
    volume = _shared_volume(model, file)
    # While the descriptor is open, eviction passes the blob over.
    descriptor = None if volume is None else volume.open(file.identity())
    if volume is None or descriptor is None:
        content = model.read(file.path)
        return content, content
    held.append(descriptor)
    return os.fspath(volume.path(file.identity())), _content(model, file)


def _add_external(model: Model, file: File, content: bytes | memoryview, options: Any) -> None:
    """Give the session the files that the model's tensors lie in, from memory."""
    locations = external_files(content)
    if not locations:
        return
    folder = posixpath.dirname(file.path)
    paths = [posixpath.normpath(posixpath.join(folder, location)) for location in locations]
    contents = [_content(model, _find(model, path)) for path in paths]
    options.add_external_initializers_from_files_in_memory(locations, contents, list(map(len, contents)))
    # Options hold bare addresses, which are read whenever a session is created with them: by the caller with
    # another model too, and by onnxruntime when it falls back to another provider.
    weakref.finalize(options, contents.clear)


def _content(model: Model, file: File) -> bytes | memoryview:
    """Return a file's bytes, mapped where the shared volume holds them."""
    volume = _shared_volume(model, file)
    mapped = None if volume is None else volume.map(file.identity())
    return model.read(file.path) if mapped is None else mapped.view


def _shared_volume(model: Model, file: File) -> SharedVolume | None:
    """Return the shared volume where the file would be taken from it."""
    source = model.sources.current(file.identity())
    if source.kind is not SourceKind.SHARED:
        return None
    # Here, since it takes flock, which not every system has.
    from hotstart.sources.shared import SharedVolume

    assert isinstance(source, SharedVolume)
    return source


def _release(held: list[int]) -> None:
    while held:
        os.close(held.pop())
