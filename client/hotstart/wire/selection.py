"""What a reference loads: which Safetensors files of a version, and which tensor lies in which of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from . import documents
from .errors import FormatError, HotstartError, InvalidReference, quoted
from .manifest import File, Manifest
from .references import check_file

__all__ = ["INDEX_FILE", "Selection", "ShardMismatch", "WeightsNotFound", "select_weights"]

INDEX_FILE = "model.safetensors.index.json"
_WEIGHTS_SUFFIX = ".safetensors"
_INDEX_SUFFIX = ".safetensors.index.json"
_WHAT = "index of shards"


class WeightsNotFound(HotstartError):
    """A reference names no weights, or leaves open which.

    Attributes:
        reference: what was asked for.
        reason: why nothing can be loaded.
        choices: files of the version that can be loaded by name.
    """

    def __init__(self, reference: str, reason: str, choices: tuple[str, ...]) -> None:
        self.reference = reference
        self.reason = reason
        self.choices = choices
        version = reference.partition("@")[0] + "@" + reference.partition("@")[2].partition("/")[0]
        listed = "".join(f"\n  {version}/{choice}" for choice in choices)
        super().__init__(
            f"cannot load {reference}: {reason}"
            + (f"; name one of{listed}" if choices else "; the version holds no .safetensors file")
        )


class ShardMismatch(HotstartError):
    """A shard and the index of shards disagree about the tensors.

    Attributes:
        shard: path of the shard.
        tensors: names that are missing in it, or stand in it though the index puts them elsewhere.
    """

    def __init__(self, shard: str, tensors: tuple[str, ...], reason: str) -> None:
        self.shard = shard
        self.tensors = tensors
        names = ", ".join(quoted(name) for name in tensors[:5]) + (", …" if len(tensors) > 5 else "")
        super().__init__(
            f"shard {shard} {reason}: {names} ({len(tensors)} in all); publish the version again whole"
        )


@dataclass(frozen=True, slots=True)
class Selection:
    """The files that make up what is loaded.

    Attributes:
        files: at least one, each once, by rising path.
        tensor_shards: path of the shard by tensor name, from the index of shards; None for a single file.
    """

    files: tuple[File, ...]
    tensor_shards: Mapping[str, str] | None = None

    def check_shard(self, shard: str, names: Collection[str]) -> None:
        """Compare the tensors of a shard's header with what the index of shards says; a no-op without one.

        Args:
            shard: path of one of files.
            names: all tensors in its header.

        Raises:
            ShardMismatch: a tensor is missing in the shard, is in no shard by the index, or stands here
                although the index puts it in another shard (so it may be there twice).
        """
        if self.tensor_shards is None:
            return
        stray = [name for name in names if self.tensor_shards.get(name) != shard]
        extra = tuple(sorted(name for name in stray if name not in self.tensor_shards))
        if extra:
            raise ShardMismatch(shard, extra, "holds tensors that the index of shards does not know")
        if stray:
            elsewhere = self.tensor_shards[min(stray)]
            raise ShardMismatch(
                shard, tuple(sorted(stray)), f"holds tensors that the index of shards puts in {elsewhere}"
            )
        held = frozenset(names)
        missing = tuple(
            sorted(name for name, path in self.tensor_shards.items() if path == shard and name not in held)
        )
        if missing:
            raise ShardMismatch(shard, missing, "lacks tensors that the index of shards puts there")


def select_weights(manifest: Manifest, file: str | None, read: Callable[[str], bytes]) -> Selection:
    """Decide what a reference loads.

    A version is the union that its ``model.safetensors.index.json`` names, if there is one; else the only
    ``*.safetensors`` at its root. A file is itself, or, if it is an index of shards, the union it names.

    Args:
        manifest: of the version.
        file: the file that the reference names, or None for the version.
        read: returns the bytes of a file of the version; called at most once, for an index of shards.

    Raises:
        WeightsNotFound: nothing, or nothing unambiguous, is named; lists what could be.
        FormatError: the index of shards is malformed, or names a shard that the version lacks.
    """
    if file is None:
        if manifest.file(INDEX_FILE) is not None:
            return _union(manifest, INDEX_FILE, read(INDEX_FILE))
        return _only_root_file(manifest)
    chosen = manifest.file(file)
    reference = f"{manifest.model}@{manifest.version}/{file}"
    if chosen is None:
        raise WeightsNotFound(reference, "the version has no such file", _choices(manifest))
    if file.endswith(_INDEX_SUFFIX):
        return _union(manifest, file, read(file))
    if not file.endswith(_WEIGHTS_SUFFIX):
        raise WeightsNotFound(reference, f"it is not a {_WEIGHTS_SUFFIX} file", _choices(manifest))
    return Selection((chosen,))


def _only_root_file(manifest: Manifest) -> Selection:
    at_root = [f for f in manifest.files if f.path.endswith(_WEIGHTS_SUFFIX) and "/" not in f.path]
    if len(at_root) == 1:
        return Selection((at_root[0],))
    reason = f"{len(at_root)} {_WEIGHTS_SUFFIX} files at its root and no {INDEX_FILE}"
    raise WeightsNotFound(f"{manifest.model}@{manifest.version}", reason, _choices(manifest))


def _choices(manifest: Manifest) -> tuple[str, ...]:
    return tuple(file.path for file in manifest.files if file.path.endswith((_WEIGHTS_SUFFIX, _INDEX_SUFFIX)))


def _union(manifest: Manifest, index_path: str, data: bytes) -> Selection:
    what = f"{_WHAT} {index_path}"
    weight_map = documents.load_json(data, what).texts("weight_map")
    if not weight_map:
        raise FormatError(what, "weight_map is missing or empty")
    folder = index_path.rpartition("/")[0]
    files: dict[str, File] = {}
    tensor_shards: dict[str, str] = {}
    for tensor, shard in weight_map.items():
        path = f"{folder}/{shard}" if folder else shard
        if path not in files:
            files[path] = _shard(manifest, path, what, tensor)
        tensor_shards[tensor] = path
    return Selection(tuple(files[path] for path in sorted(files)), tensor_shards)


def _shard(manifest: Manifest, path: str, what: str, tensor: str) -> File:
    try:
        file = manifest.file(check_file(path))
    except InvalidReference as error:
        raise FormatError(what, f"tensor {quoted(tensor)}: {error}") from error
    if file is None:
        raise FormatError(what, f"tensor {quoted(tensor)}: the version lacks its shard {path}")
    if not path.endswith(_WEIGHTS_SUFFIX):
        raise FormatError(what, f"tensor {quoted(tensor)}: shard {path} is not a {_WEIGHTS_SUFFIX} file")
    return file
