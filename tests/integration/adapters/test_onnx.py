"""onnxruntime sessions: of bytes, of a mapped path, with tensors in files of their own; of one version."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest

import hotstart
import hotstart.onnx
from tests.integration.adapters.conftest import Origin
from tests.support.deadlines import wait_until
from tests.support.onnx_models import Matrix, save_linear
from tests.support.processes import Processes, Proxy


def assert_computes(session: Any, weight: Matrix, bias: Matrix) -> None:
    """Compare what the session computes with numpy's own answer."""
    x = numpy.linspace(-1, 1, weight.shape[0], dtype=numpy.float32).reshape(1, -1)
    (found,) = session.run(None, {"x": x})
    numpy.testing.assert_allclose(found, x @ weight + bias, rtol=1e-4, atol=1e-5)


def warm(proxy: Proxy, model: hotstart.Model) -> None:
    """Bring all files of a version into the proxy's store."""
    for file in model.files:
        model.read(file.path)
        wait_until(file.path, (proxy.store / "blobs" / file.id[:2] / file.id).exists)


@pytest.mark.parametrize("external", [None, "model.onnx_data", "weights/all.bin"])
@pytest.mark.parametrize("way", ["origin", "proxy", "shared"])
def test_a_session_computes_what_the_model_does(
    origin: Origin, tmp_path: Path, processes: Processes, way: str, external: str | None
) -> None:
    """However the bytes come, and wherever the tensors lie, a session computes the model's values."""
    folder = tmp_path / "model"
    weights = save_linear(folder / "model.onnx", seed=1, external=external)
    origin.publish(folder, "org/linear@1")
    if way == "origin":
        assert_computes(hotstart.onnx.session("org/linear@prod", origin=origin.url), *weights)
        return
    proxy = processes.serve(origin.url, tmp_path / "store")
    plain = hotstart.open("org/linear@prod", proxy=proxy.url)
    if way == "shared":
        warm(proxy, plain)
    shared_dir = str(proxy.store) if way == "shared" else None
    model = hotstart.open("org/linear@prod", proxy=proxy.url, shared_dir=shared_dir)
    assert_computes(hotstart.onnx.session(model), *weights)
    used = model.sources.used
    assert not used if way == "shared" else used


def test_a_mapped_model_is_read_from_its_blob_and_kept_there(
    origin: Origin, tmp_path: Path, processes: Processes
) -> None:
    """On a shared volume onnxruntime reads the blob itself, which is not evicted while the session lives."""
    folder = tmp_path / "model"
    weights = save_linear(folder / "model.onnx", seed=1)
    origin.publish(folder, "org/linear@1")
    proxy = processes.serve(origin.url, tmp_path / "store")
    warm(proxy, hotstart.open("org/linear@1", proxy=proxy.url))
    model = hotstart.open("org/linear@1", proxy=proxy.url, shared_dir=str(proxy.store))
    session = hotstart.onnx.session(model)
    blob = proxy.store / "blobs" / model.files[0].id[:2] / model.files[0].id
    assert Path(session._model_path) == blob
    evict = ("admin", "evict", "org/linear@1")
    admin = {"HOTSTART_ADMIN": f"unix:{proxy.store / 'admin.sock'}"}
    processes.run(*evict, environment=admin)
    assert blob.exists()
    assert_computes(session, *weights)
    del session
    processes.run(*evict, environment=admin).check()
    wait_until("the blob to be evicted", lambda: not blob.exists())


def test_a_session_and_the_side_files_are_of_one_version(origin: Origin, tmp_path: Path) -> None:
    """Made of an open model, a session is of that version, whatever its alias means by now."""
    first = save_linear(tmp_path / "one" / "model.onnx", seed=1)
    save_linear(tmp_path / "two" / "model.onnx", seed=2)
    (tmp_path / "one" / "config.json").write_text("1")
    (tmp_path / "two" / "config.json").write_text("2")
    origin.publish(tmp_path / "one", "org/linear@1")
    model = hotstart.open("org/linear@prod", origin=origin.url)
    origin.publish(tmp_path / "two", "org/linear@2")
    assert_computes(hotstart.onnx.session(model), *first)
    assert model.read("config.json") == b"1"


def test_which_model_is_meant(origin: Origin, tmp_path: Path) -> None:
    """The one at the root, else the only one, else the one that is named; the error lists the choices."""
    for number, names in enumerate(
        (["onnx/only.onnx"], ["root.onnx", "onnx/q8.onnx"], ["a.onnx", "b.onnx"], [])
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        for seed, name in enumerate(names):
            save_linear(folder / name, seed)
        origin.publish(folder, f"org/linear@{number}", alias=None)
    assert hotstart.onnx.session("org/linear@0", origin=origin.url)
    assert hotstart.onnx.session("org/linear@1", origin=origin.url)
    assert hotstart.onnx.session("org/linear@1/onnx/q8.onnx", origin=origin.url)
    with pytest.raises(hotstart.WeightsNotFound, match=r"2 ONNX models; name one of\s+org/linear@2/a.onnx"):
        hotstart.onnx.session("org/linear@2", origin=origin.url)
    for reference in ("org/linear@3", "org/linear@2/c.onnx"):
        with pytest.raises(hotstart.FileNotInVersion, match="onnx"):
            hotstart.onnx.session(reference, origin=origin.url)


def test_tensors_outside_the_version_are_an_error(origin: Origin, tmp_path: Path) -> None:
    """A model whose tensors lie in a file that was not published, or outside the folder, is refused."""
    for number, location in enumerate(("gone.bin", "../../outside.bin")):
        folder = tmp_path / str(number) / "model"
        save_linear(folder / "model.onnx", seed=1, external=location)
        (folder / location).unlink()
        origin.publish(folder, f"org/linear@{number}", alias=None)
        with pytest.raises(hotstart.FileNotInVersion, match=location.replace(".", r"\.")):
            hotstart.onnx.session(f"org/linear@{number}", origin=origin.url)
