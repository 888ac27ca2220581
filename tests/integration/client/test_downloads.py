"""Downloads: whole files or none, kept where they are right, linked where the store is at hand."""

from __future__ import annotations

import filecmp
import os
from pathlib import Path

import pytest

import hotstart
from hotstart.model import Model
from tests.integration.client.conftest import Published, warm
from tests.integration.client.faulty import FaultySource, Version, open_with
from tests.support.processes import Proxy


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("reference", ["org/bert@1", "org/bert@2", "org/odd@none"])
def test_all_files_are_there(published: Published, tmp_path: Path, reference: str) -> None:
    """A download is the published folder: subfolders and empty files too."""
    folder = hotstart.download(reference, tmp_path / "new" / "folder", origin=published.origin)
    assert folder == tmp_path / "new" / "folder"
    assert files(folder) == files(published.folders[reference])


def test_right_files_are_kept_and_wrong_ones_replaced(published: Published, tmp_path: Path) -> None:
    """A second download fetches only what is missing, short, or has other bytes of the same size."""
    model = hotstart.open("org/bert@1", origin=published.origin)
    model.download(tmp_path)
    received = sum(model.sources.used.values())
    kept = (tmp_path / "model.safetensors").stat()
    (tmp_path / "config.json").write_bytes(b"x" * (tmp_path / "config.json").stat().st_size)
    (tmp_path / "tokenizer.json").write_bytes(b"short")
    (tmp_path / "1_Pooling" / "config.json").unlink()
    model.download(tmp_path)
    assert files(tmp_path) == files(published.folders["org/bert@1"])
    assert (tmp_path / "model.safetensors").stat().st_ino == kept.st_ino
    small = sum(file.size for file in model.files if file.path != "model.safetensors")
    assert sum(model.sources.used.values()) - received == small


def test_one_file_is_downloaded_alone(published: Published, tmp_path: Path) -> None:
    """A reference to a file brings that file; one that is not there is an error."""
    hotstart.download("org/bert@1/1_Pooling/config.json", tmp_path, origin=published.origin)
    assert list(files(tmp_path)) == ["1_Pooling/config.json"]
    with pytest.raises(hotstart.FileNotInVersion):
        hotstart.download("org/bert@1/nope.json", tmp_path, origin=published.origin)


def test_the_default_folder_is_in_the_user_s_cache(
    published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a folder, each version has its own in the cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = hotstart.download("org/odd@none", origin=published.origin)
    assert folder == tmp_path / "hotstart" / "org" / "odd" / "none"


def test_a_failed_download_leaves_nothing_half_written(bert: Version, tmp_path: Path) -> None:
    """When sources are lost, the files that are whole stay, and nothing else does."""
    source = FaultySource(bert, dies_after=9_000_000)
    with pytest.raises(hotstart.AllSourcesFailed):
        open_with(bert, source).download(tmp_path)
    assert "model.safetensors" not in files(tmp_path)
    assert not list(tmp_path.rglob(".hotstart-*"))
    for path, data in files(tmp_path).items():
        assert data == bert.content[path]


def test_it_goes_on_at_the_next_source(bert: Version, tmp_path: Path) -> None:
    """A source lost in the middle costs no byte twice here either."""
    first = FaultySource(bert, "first", dies_after=9_000_001)
    second = FaultySource(bert, "second")
    model = open_with(bert, first, second)
    model.download(tmp_path)
    assert files(tmp_path) == {path: bert.content[path] for path in files(tmp_path)}
    assert first.total + second.total == sum(file.size for file in model.files)


def test_leftovers_of_a_killed_process_are_removed(published: Published, tmp_path: Path) -> None:
    """Temporary files whose process is gone go with the next download."""
    leftover = tmp_path / ".hotstart-0123456789abcdef.part"
    leftover.write_bytes(b"half")
    hotstart.download("org/odd@none", tmp_path, origin=published.origin)
    assert not leftover.exists()


def test_a_folder_that_cannot_be_written_is_an_error(published: Published, tmp_path: Path) -> None:
    """A file where a folder must be is an error that names it."""
    (tmp_path / "1_Pooling").write_text("in the way")
    with pytest.raises(hotstart.HotstartError, match=r"writing .*1_Pooling.*: (File exists|Not a directory)"):
        hotstart.download("org/bert@1", tmp_path, origin=published.origin)


def warmed(proxy: Proxy) -> Model:
    """Return org/bert@1, opened with the shared volume, once the store holds it."""
    warm(proxy, hotstart.open("org/bert@1", proxy=proxy.url))
    return hotstart.open("org/bert@1", proxy=proxy.unix_url, shared_dir=str(proxy.store))


def test_blobs_of_the_shared_volume_are_linked(proxy: Proxy, published: Published, tmp_path: Path) -> None:
    """On the store's own mount a file is another name of the blob; no byte is copied."""
    folder = warmed(proxy).download(tmp_path / "files")
    assert files(folder) == files(published.folders["org/bert@1"])
    assert (folder / "model.safetensors").stat().st_nlink == 2
    # Again, over what is linked already.
    (folder / "config.json").unlink()
    assert warmed(proxy).download(folder) == folder
    assert not list(folder.rglob(".hotstart-*"))


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="needs a second file system")
def test_across_mounts_links_are_symbolic_and_hold_the_blob(proxy: Proxy, published: Published) -> None:
    """Where no hard link can be made, a symbolic one is, whose blob stays as long as the model does."""
    import fcntl
    import shutil
    import tempfile

    folder = Path(tempfile.mkdtemp(dir="/dev/shm"))
    try:
        if folder.stat().st_dev == proxy.store.stat().st_dev:
            pytest.skip("the store is on the same file system")
        model = warmed(proxy)
        model.download(folder)
        link = folder / "model.safetensors"
        assert link.is_symlink()
        assert filecmp.cmp(link, published.weights("org/bert@1")[0], shallow=False)
        with link.open("rb") as blob:
            with pytest.raises(BlockingIOError):
                fcntl.flock(blob, fcntl.LOCK_EX | fcntl.LOCK_NB)
            del model
            fcntl.flock(blob, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The command's process would not be there to hold the lock: it copies.
        hotstart.download("org/bert@2", folder / "copy", proxy=proxy.url, shared_dir=str(proxy.store))
        assert not any(path.is_symlink() for path in (folder / "copy").rglob("*"))
    finally:
        shutil.rmtree(folder)
