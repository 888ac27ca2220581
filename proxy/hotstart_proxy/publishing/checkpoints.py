"""Checkpoints as torch saves them: told from other files, loaded without running code, flattened to names.

A checkpoint is a pickle, and a pickle is a program. torch's ``weights_only`` unpickler knows the few globals
that tensors need and refuses every other one, so what is loaded here never runs what a stranger wrote.
"""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import ConversionRefused

__all__ = ["Checkpoint", "Ignored", "flatten", "is_checkpoint", "load_checkpoint", "shared_tensors"]

_ZIP = b"PK\x03\x04"
# The form before torch 1.6: the first of its pickles is a number that says so.
_LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
# Before it, a crafted file could run code in spite of weights_only (CVE-2025-32434).
_SAFE_SINCE = (2, 6)
_GLOBAL = re.compile(r"GLOBAL (\S+)")
# What a damaged or hostile file makes torch and pickle raise.
_FAULTS = (
    pickle.UnpicklingError,
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    EOFError,
    ImportError,
    MemoryError,
)
# Deeper than any model; a pickle may hold a dict that holds itself.
_MAX_DEPTH = 64
# More than any model has; a few hundred bytes can mean billions, each list holding the next one twice.
_MAX_ENTRIES = 1_000_000
_MAX_SHOWN_CHARS = 60


@dataclass(frozen=True, slots=True)
class Ignored:
    """An entry of a checkpoint that Safetensors has no place for.

    Attributes:
        name: with dots, as a tensor's there.
        what: its type, and its value where that is short.
    """

    name: str
    what: str


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a file holds, flattened.

    Attributes:
        tensors: by name, in the order of the file; of torch, mapped from the file where its form allows it.
        ignored: everything else.
    """

    tensors: Mapping[str, Any]
    ignored: tuple[Ignored, ...]


def is_checkpoint(path: Path) -> bool:
    """Tell by a file's first bytes whether torch may have saved it.

    Raises:
        ConversionRefused: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            first = file.read(len(_LEGACY))
    except OSError as error:
        raise ConversionRefused(str(path), [error.strerror or str(error)]) from error
    return first.startswith(_ZIP) or first == _LEGACY


def load_checkpoint(path: Path) -> Checkpoint:
    """Load a file to host memory, mapped rather than read where it is of the zip form.

    Raises:
        ConversionRefused: it is none, is damaged, needs code to be run, or holds what has no name.
        ModuleNotFoundError: torch is not installed.
    """
    import torch

    release = tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2])
    if release < _SAFE_SINCE:
        raise ConversionRefused(
            str(path), [f"torch {torch.__version__} may run code that a file holds: install 2.6"]
        )
    if not is_checkpoint(path):
        raise ConversionRefused(str(path), ["torch did not save it: it is of neither of torch's forms"])
    with path.open("rb") as file:
        mapped = file.read(len(_ZIP)) == _ZIP
    try:
        with warnings.catch_warnings():
            # That it is TorchScript, which the error says as well; that old storages will change some day.
            warnings.simplefilter("ignore")
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except OSError as error:
        raise ConversionRefused(str(path), [error.strerror or str(error)]) from error
    except _FAULTS as error:
        raise ConversionRefused(str(path), [_reason(error)]) from error
    return flatten(path, loaded)


def _reason(error: BaseException) -> str:
    text = str(error)
    found = _GLOBAL.search(text)
    if found is not None:
        return (
            f"it needs the code of {found[1]}, which is not run: if you trust the file, load it by torch and "
            "save its weights alone, as by torch.save(model.state_dict(), …)"
        )
    if "TorchScript" in text:
        return "it is a TorchScript archive, a program: save the state_dict() of the module behind it"
    first = text.strip().splitlines()
    return f"torch cannot read it ({first[0][:200] if first else type(error).__name__}): is it damaged?"


def flatten(path: Path, loaded: object) -> Checkpoint:
    """Give every tensor in nested dicts and lists one name, its keys joined by dots.

    Raises:
        ConversionRefused: with all problems: a tensor without a name, two of one name, a tensor that
            Safetensors cannot express, no tensor at all.
    """
    import torch

    if isinstance(loaded, torch.Tensor):
        raise ConversionRefused(str(path), ["it is a tensor without a name: save {name: tensor}"])
    tensors: dict[str, Any] = {}
    ignored: list[Ignored] = []
    problems: list[str] = []
    for name, value in _Walk().entries("", loaded):
        if len(tensors) + len(ignored) > _MAX_ENTRIES:
            raise ConversionRefused(str(path), [f"it has more than {_MAX_ENTRIES:,} entries"])
        if not isinstance(value, torch.Tensor):
            ignored.append(Ignored(name, _shown(value)))
            continue
        problem = _problem(name, value, tensors)
        if problem is not None:
            problems.append(problem)
        tensors[name] = value.detach()
    if not tensors:
        problems.append(f"it holds no tensors, but {_shown(loaded)}")
    if problems:
        raise ConversionRefused(str(path), problems)
    return Checkpoint(tensors, tuple(ignored))


class _Walk:
    """The way through nested dicts and lists, which may hold each other, or themselves, many times over."""

    def __init__(self) -> None:
        self._holding: dict[int, bool] = {}

    def entries(self, name: str, value: object, depth: int = 0) -> Iterator[tuple[str, object]]:
        """Yield tensors, and as one entry whatever holds none."""
        members = None if depth == _MAX_DEPTH else _members(value)
        if members is None or (name and not self._holds_tensors(value, depth)):
            yield name, value
            return
        for key, member in members:
            yield from self.entries(f"{name}.{key}" if name else key, member, depth + 1)

    def _holds_tensors(self, value: object, depth: int) -> bool:
        import torch

        if isinstance(value, torch.Tensor):
            return True
        members = None if depth == _MAX_DEPTH else _members(value)
        if members is None:
            return False
        if id(value) not in self._holding:
            # For whoever comes back here on the way down.
            self._holding[id(value)] = False
            self._holding[id(value)] = any(self._holds_tensors(member, depth + 1) for _, member in members)
        return self._holding[id(value)]


def _members(value: object) -> list[tuple[str, object]] | None:
    if isinstance(value, Mapping):
        return [(str(key), member) for key, member in value.items()]
    if isinstance(value, (list, tuple)):
        return [(str(number), member) for number, member in enumerate(value)]
    return None


def _shown(value: object) -> str:
    kind = type(value).__name__
    if isinstance(value, (bool, int, float, str)) or value is None:
        text = repr(value)
        return f"{kind} {text}" if len(text) <= _MAX_SHOWN_CHARS else f"{kind} of {len(text)} characters"
    return f"{kind} of {len(value)}" if isinstance(value, (Mapping, list, tuple, set)) else kind


def _problem(name: str, tensor: Any, tensors: Mapping[str, Any]) -> str | None:
    import torch

    if not name or name == "__metadata__":
        return f"a tensor is called {name!r}, which Safetensors has no place for: rename it"
    if name in tensors:
        return f"two tensors are called {name} once keys are joined by dots: rename one"
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_nested:
        return f"{name} is sparse, quantized or nested, which Safetensors cannot express: save it dense"
    if tensor.device.type == "meta":
        return f"{name} has no data (it is on the meta device)"
    return None


def shared_tensors(tensors: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return pairs of names whose tensors lie in the same memory, if only in part; the later name first."""
    order = {name: number for number, name in enumerate(tensors)}
    spans = sorted(
        (*_span(tensor), number, name)
        for number, (name, tensor) in enumerate(tensors.items())
        if tensor.numel()
    )
    pairs: list[tuple[str, str]] = []
    reach, holder = -1, ""
    for start, stop, _, name in spans:
        if start < reach:
            first, second = sorted((name, holder), key=order.__getitem__)
            pairs.append((second, first))
        if stop > reach:
            reach, holder = stop, name
    return tuple(sorted(pairs, key=lambda pair: (order[pair[0]], order[pair[1]])))


def _span(tensor: Any) -> tuple[int, int]:
    start = tensor.data_ptr()
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return start, start + (last + 1) * tensor.element_size()
