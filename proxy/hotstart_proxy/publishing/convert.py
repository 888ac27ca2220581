"""Converting checkpoints of torch, one file or a model's whole folder, to Safetensors.

Names are kept, and so is which tensor lies in which file: ``pytorch_model-00001-of-00002.bin`` becomes
``model-00001-of-00002.safetensors``, and its index likewise. Every name gets its whole tensor, also where
several share memory, so that any reader finds all that was there. The same input gives the same bytes, so a
publish of what was converted again resumes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from .checkpoints import Checkpoint, Ignored, is_checkpoint, load_checkpoint, shared_tensors
from .errors import CannotWrite, ConversionRefused
from .folder import SAFETENSORS_SUFFIX, LeftOut, SourceFile, scan_folder
from .new_folders import new_folder
from .safetensors_files import Written, write_safetensors

__all__ = ["Conversion", "ConvertedFile", "convert"]

_SUFFIXES = (".bin", ".pt", ".pth")
_INDEX = ".bin.index.json"
# What the transformers Trainer leaves beside the weights: it needs code to be read, and no model needs it.
_TRAINING_STATE = re.compile(r"(training_args\.bin|(optimizer|scheduler|scaler)\.pt|rng_state(_\d+)?\.pth)\Z")
_COPIED_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ConvertedFile:
    """A Safetensors file that was made.

    Attributes:
        path: in the new folder.
        source: in the old one.
        tensors: how many.
        size: of the file, in bytes.
        ignored: entries of the source that are no tensors.
        shared: pairs of names that lay in the same memory; both are written in full.
    """

    path: str
    source: str
    tensors: int
    size: int
    ignored: tuple[Ignored, ...]
    shared: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Conversion:
    """What a conversion did.

    Attributes:
        files: that were made.
        copied: paths of files that are what they were.
        left_out: what is not in the new folder, and why.
    """

    files: tuple[ConvertedFile, ...]
    copied: tuple[str, ...]
    left_out: tuple[LeftOut, ...]


def convert(source: Path, output: Path, *, cast_to: str | None = None, only: str | None = None) -> Conversion:
    """Write a new folder with what source holds as Safetensors, whole or not at all.

    Args:
        source: a checkpoint, or a folder with some.
        output: a folder that is new or empty.
        cast_to: ``"BF16"`` or ``"F16"``: what floats become; None leaves them.
        only: for a single file: take the tensors whose names begin with this and a dot, without it.

    Raises:
        ConversionRefused: something in source cannot be converted.
        FolderRefused: the folder holds what no version may hold.
        CannotWrite: output is there, or cannot be written.
        ModuleNotFoundError: torch is not installed.
    """
    if source.is_dir():
        return _convert_folder(source, output, cast_to)
    if not source.is_file():
        raise ConversionRefused(
            str(source), ["it is not there" if not source.exists() else "it is not a file"]
        )
    checkpoint = load_checkpoint(source)
    if only is not None:
        checkpoint = _part_of(checkpoint, only, source)
    with new_folder(output) as folder:
        name = _safetensors_name(source.name)
        written = write_safetensors(folder / name, checkpoint.tensors, cast_to, str(source))
    return Conversion((_converted(name, source.name, checkpoint, written),), (), ())


def _part_of(checkpoint: Checkpoint, only: str, source: Path) -> Checkpoint:
    prefix = f"{only}."
    tensors = {
        name.removeprefix(prefix): tensor
        for name, tensor in checkpoint.tensors.items()
        if name.startswith(prefix) and name != prefix
    }
    if not tensors:
        there = ", ".join(dict.fromkeys(name.partition(".")[0] for name in checkpoint.tensors))
        raise ConversionRefused(
            str(source), [f"no tensor's name begins with {prefix}: they begin with {there[:500]}"]
        )
    others = len(checkpoint.tensors) - len(tensors)
    ignored = tuple(
        Ignored(item.name.removeprefix(prefix), item.what)
        for item in checkpoint.ignored
        if item.name.startswith(prefix)
    )
    if others:
        ignored += (Ignored(f"what is not in {only}", f"{others} tensors"),)
    return Checkpoint(tensors, ignored)


def _safetensors_name(name: str) -> str:
    """Return what a checkpoint is called as Safetensors; the Hub's name for it where it has the Hub's."""
    stem = name.rpartition(".")[0] if name.endswith(_SUFFIXES) else name
    return re.sub(r"\Apytorch_model(?=-|\.|\Z)", "model", stem) + SAFETENSORS_SUFFIX


def _in_folder(path: str) -> str:
    pure = PurePosixPath(path)
    return str(pure.with_name(_safetensors_name(pure.name)))


def _converted(path: str, source: str, checkpoint: Checkpoint, written: Written) -> ConvertedFile:
    return ConvertedFile(
        path, source, len(written.names), written.size, checkpoint.ignored, shared_tensors(checkpoint.tensors)
    )


@dataclass(frozen=True, slots=True)
class _Plan:
    """What becomes of each file of a folder."""

    checkpoints: Mapping[str, SourceFile]
    indexes: Mapping[str, SourceFile]
    copied: Mapping[str, SourceFile]
    left_out: tuple[LeftOut, ...]


def _convert_folder(source: Path, output: Path, cast_to: str | None) -> Conversion:
    plan = _plan(source)
    if Path(os.path.realpath(output)).is_relative_to(os.path.realpath(source)):
        raise CannotWrite(str(output), f"it lies in {source}, which is read: name a folder beside it")
    done: list[ConvertedFile] = []
    holders: dict[str, dict[str, tuple[str, ...]]] = {}
    sizes: dict[str, int] = {}
    with new_folder(output) as folder:
        for path, file in plan.checkpoints.items():
            checkpoint = load_checkpoint(file.location)
            target = _in_folder(path)
            (folder / target).parent.mkdir(parents=True, exist_ok=True)
            written = write_safetensors(folder / target, checkpoint.tensors, cast_to, str(file.location))
            file.check_unchanged()
            done.append(_converted(target, path, checkpoint, written))
            holders.setdefault(str(PurePosixPath(path).parent), {})[PurePosixPath(path).name] = written.names
            sizes[path] = written.data_bytes
        for path, file in plan.indexes.items():
            _write_index(folder, path, file, holders.get(str(PurePosixPath(path).parent), {}), sizes)
        for path, file in plan.copied.items():
            _copy(file, folder / path)
    return Conversion(tuple(done), tuple(plan.copied), plan.left_out)


def _plan(source: Path) -> _Plan:
    found = scan_folder(source)
    left_out = list(found.left_out)
    checkpoints: dict[str, SourceFile] = {}
    indexes: dict[str, SourceFile] = {}
    copied: dict[str, SourceFile] = {}
    for file in found.files:
        name = PurePosixPath(file.path).name
        if _TRAINING_STATE.match(name):
            left_out.append(LeftOut(file.path, "state of a training, not of the model"))
        elif name.endswith(_INDEX):
            indexes[file.path] = file
        elif name.endswith(_SUFFIXES) and is_checkpoint(file.location):
            checkpoints[file.path] = file
        else:
            copied[file.path] = file
    if not checkpoints:
        raise ConversionRefused(str(source), ["it holds no .bin, .pt or .pth that torch saved"])
    targets: dict[str, str] = {}
    problems: list[str] = []
    for path in (*checkpoints, *indexes):
        target = _index_in_folder(path) if path in indexes else _in_folder(path)
        other = targets.setdefault(target, path) if target not in copied else target
        if other != path:
            problems.append(
                f"{path} would become {target}, and so does {other} or it is there: remove one of them"
            )
    if problems:
        raise ConversionRefused(str(source), problems)
    return _Plan(checkpoints, indexes, copied, tuple(left_out))


def _index_in_folder(path: str) -> str:
    return _in_folder(path.removesuffix(".index.json")) + ".index.json"


def _write_index(
    folder: Path, path: str, file: SourceFile, shards: Mapping[str, tuple[str, ...]], sizes: Mapping[str, int]
) -> None:
    """Write the index of a sharded checkpoint anew, after comparing the old one with what the shards hold."""
    try:
        wanted = json.loads(file.location.read_bytes())["weight_map"]
        named = {
            shard: {name for name, holder in wanted.items() if holder == shard} for shard in wanted.values()
        }
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ConversionRefused(
            str(file.location), ["it is no index: expected JSON with a weight_map"]
        ) from error
    problems = [f"{shard}, which it names, is not there" for shard in named if shard not in shards]
    for shard, names in named.items():
        held = set(shards.get(shard, names))
        problems += [f"{name} is not in {shard}" for name in sorted(names - held)]
        problems += [f"{name}, in {shard}, is not in it" for name in sorted(held - names)]
    if problems:
        raise ConversionRefused(str(file.location), problems)
    parent = PurePosixPath(path).parent
    document = {
        "metadata": {"total_size": sum(sizes[str(parent / shard)] for shard in named)},
        "weight_map": {name: _safetensors_name(shard) for name, shard in sorted(wanted.items())},
    }
    (folder / _index_in_folder(path)).write_text(json.dumps(document, indent=2) + "\n")


def _copy(file: SourceFile, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        source = file.location.open("rb")
    except OSError as error:
        raise ConversionRefused(str(file.location), [error.strerror or str(error)]) from error
    with source, target.open("xb") as copy:
        shutil.copyfileobj(source, copy, _COPIED_BYTES)
        copy.flush()
        os.fsync(copy.fileno())
    file.check_unchanged()
