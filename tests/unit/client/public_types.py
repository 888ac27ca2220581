"""The public types, as a user's type checker sees them: checked by mypy, and never run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, assert_type

import hotstart
from hotstart.loading import Tensors
from hotstart.prefetching import Prefetch
from hotstart.reader import TensorSlice
from hotstart.report import Report


def opened() -> None:
    """A model, and what it gives."""
    model = assert_type(hotstart.open("org/bert@prod", proxy="unix:/run/hotstart.sock"), hotstart.Model)
    assert_type(model.version, str)
    assert_type(model.report, Report)
    assert_type(model.load(framework="torch", device="cpu", verify="full"), Tensors)
    assert_type(model.stream(), Iterator[tuple[str, Any]])
    assert_type(model.download(), Path)
    assert_type(model.read("tokenizer.json"), bytes)


def called() -> None:
    """The functions that open and do."""
    tensors = assert_type(hotstart.load("org/bert@latest", origin="s3://bucket/models"), Tensors)
    assert_type(tensors.version, str)
    assert_type(tensors.report.tensor_bytes, int)
    assert_type(hotstart.load_into(object(), "org/bert", "cuda:0").missing, tuple[str, ...])
    running = assert_type(hotstart.prefetch("org/bert"), Prefetch)
    assert_type(running.done(), bool)
    assert_type(hotstart.download("org/bert", "folder"), Path)
    assert_type(hotstart.load_file("model.safetensors"), dict[str, Any])
    with hotstart.safe_open("org/bert@7", framework="pt") as weights:
        assert_type(weights.keys(), list[str])
        assert_type(weights.get_slice("x"), TensorSlice)


def failed() -> None:
    """Errors, all under one root."""
    try:
        hotstart.load("org/bert")
    except hotstart.AllSourcesFailed as error:
        assert_type(error.doing, str)
    except hotstart.IntegrityError as error:
        assert_type(error.expected, str)
    except hotstart.HotstartError:
        pass
    hotstart.no_such_name  # type: ignore[attr-defined]  # noqa: B018
