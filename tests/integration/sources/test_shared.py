"""The shared volume: blobs mapped under a lock that eviction sees."""

from __future__ import annotations

import fcntl
import gc
import os
from pathlib import Path

import pytest

from hotstart.sources.base import SourceError, SourceKind
from hotstart.sources.shared import FORMAT_LINE, SharedVolume
from hotstart.wire.manifest import Representation
from hotstart.wire.ranges import ByteRange
from hotstart_proxy.stores import folders
from tests.integration.sources.versions import DATA, EXPECTED, FILE, WANTED, make_file, read_all

WEIGHTS = FILE.identity()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store of disk layout 1 with one blob in it."""
    root = tmp_path / "store"
    (root / "blobs").mkdir(parents=True)
    (root / "format").write_bytes(FORMAT_LINE)
    _put(root, WEIGHTS, DATA)
    return root


def _put(root: Path, representation: Representation, data: bytes) -> Path:
    path = folders.Folders(root).blob(representation.id)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    path.chmod(0o444)
    return path


def _is_in_use(path: Path) -> bool:
    """Tell what eviction is told when it asks for the blob's exclusive lock."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)


def test_the_layout_is_the_stores_own() -> None:
    """Client and store mean the same layout by the same words."""
    assert folders.FORMAT_LINE.encode() == FORMAT_LINE


def test_a_blob_is_mapped_and_may_be_written_to(store: Path) -> None:
    """The mapping holds the blob's bytes; writing to it changes neither the blob nor another mapping."""
    volume = SharedVolume(str(store))
    assert volume.kind is SourceKind.SHARED
    assert volume.is_local
    assert volume.has(WEIGHTS)
    first, second = volume.map(WEIGHTS), volume.map(WEIGHTS)
    assert first is not None
    assert second is not None
    assert first.view == DATA
    first.view[0] = 255 - DATA[0]
    assert second.view == DATA
    assert folders.Folders(store).blob(FILE.id).read_bytes() == DATA


def test_the_lock_lasts_as_long_as_any_view(store: Path) -> None:
    """A blob is protected from eviction until the last view of its mapping is gone, and no longer."""
    path = folders.Folders(store).blob(FILE.id)
    volume = SharedVolume(str(store))
    mapped = volume.map(WEIGHTS)
    assert mapped is not None
    tensor = mapped.view[100:200]
    mapped.close()
    with pytest.raises(ValueError, match="closed"):
        _ = mapped.view
    del mapped
    gc.collect()
    assert _is_in_use(path)
    assert tensor == DATA[100:200]
    del tensor
    gc.collect()
    assert not _is_in_use(path)


def test_no_descriptor_stays_behind(store: Path) -> None:
    """Mapping, reading and failing leave no open file."""
    before = len(os.listdir("/proc/self/fd"))
    volume = SharedVolume(str(store))
    for _ in range(10):
        mapped = volume.map(WEIGHTS)
        assert mapped is not None
        mapped.close()
        session = volume.session()
        read_all(session.fetch(FILE, WEIGHTS, WANTED))
        session.close()
        volume.map(make_file(data=b"absent").identity())
    del mapped
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_blob_is_read_as_well_as_mapped(store: Path) -> None:
    """Ranges are read without mapping, under the same lock."""
    session = SharedVolume(str(store)).session()
    body = session.fetch(FILE, WEIGHTS, WANTED)
    assert _is_in_use(folders.Folders(store).blob(FILE.id))
    assert read_all(body) == EXPECTED
    assert not _is_in_use(folders.Folders(store).blob(FILE.id))
    body = session.fetch(FILE, WEIGHTS, WANTED)
    session.close()
    with pytest.raises(SourceError, match="from our side"):
        body.readinto(memoryview(bytearray(10)))
    body.close()


def test_an_empty_blob_is_an_empty_view(store: Path) -> None:
    """A file without bytes is there like any other."""
    empty = make_file("empty", b"").identity()
    _put(store, empty, b"")
    mapped = SharedVolume(str(store)).map(empty)
    assert mapped is not None
    assert len(mapped.view) == 0


def test_what_is_not_there_is_none(store: Path) -> None:
    """An absent blob, one of another size, and a link are all the same: not there."""
    volume = SharedVolume(str(store))
    short, linked = make_file(data=b"four").identity(), make_file(data=b"linked").identity()
    _put(store, short, b"fou")
    _put(store, linked, b"linked").rename(store / "elsewhere")
    folders.Folders(store).blob(linked.id).symlink_to(store / "elsewhere")
    for representation in (make_file(data=b"absent").identity(), short, linked):
        assert volume.map(representation) is None
        session = volume.session()
        with pytest.raises(SourceError, match="not there"):
            session.fetch(FILE, representation, ByteRange(0, 1))
        session.close()
    assert not volume.has(short)


def test_a_blob_under_eviction_is_left_to_it(store: Path) -> None:
    """Whoever holds the exclusive lock is about to unlink the blob: nobody waits for that."""
    path = folders.Folders(store).blob(FILE.id)
    volume = SharedVolume(str(store))
    with path.open("rb") as evicting:
        fcntl.flock(evicting, fcntl.LOCK_EX)
        assert volume.map(WEIGHTS) is None
    assert volume.map(WEIGHTS) is not None


@pytest.mark.parametrize(
    ("line", "expected"),
    [(None, "no store there"), (b"hotstart disk store, layout 2\n", "upgrade hotstart"), (b"", "expected")],
)
def test_another_layout_is_passed_over_with_the_reason(
    tmp_path: Path, line: bytes | None, expected: str
) -> None:
    """A directory that is no store of layout 1 is not guessed at."""
    if line is not None:
        (tmp_path / "format").write_bytes(line)
    with pytest.raises(SourceError, match=expected) as caught:
        SharedVolume(str(tmp_path))
    assert not caught.value.transient
