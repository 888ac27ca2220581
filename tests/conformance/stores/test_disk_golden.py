"""Disk layout 1 by the byte. Whoever has to change a line here changes what other versions can read."""

from __future__ import annotations

import os
import stat
import zlib
from pathlib import Path

from hotstart.wire.pieces import PIECE_BYTES
from hotstart_proxy.stores.disk import DiskStore
from tests.conformance.stores.suite import begin, fill, write

ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
DEF = "cb8379ac2098aa165029e3938a51da0bcecfc008fd6795f401178647f96c5b34"
EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
PARTIAL = "0123456789abcdef" * 4

LAYOUT: dict[str, tuple[str, bytes]] = {
    "format": ("-rw-r--r--", b"hotstart disk store, layout 1\n"),
    "blobs": ("drwxr-xr-x", b""),
    "blobs/ba": ("drwxr-xr-x", b""),
    f"blobs/ba/{ABC}": ("-r--r--r--", b"abc"),
    "blobs/cb": ("drwxr-xr-x", b""),
    "blobs/e3": ("drwxr-xr-x", b""),
    f"blobs/e3/{EMPTY}": ("-r--r--r--", b""),
    "fills": ("drwxr-xr-x", b""),
    f"fills/{PARTIAL}.part": ("-rw-r--r--", bytes(PIECE_BYTES) + b"xyz"),
    f"fills/{PARTIAL}.map": (
        "-rw-r--r--",
        b"HSFILL1\x00"
        b"\x03\x00\x40\x00\x00\x00\x00\x00"
        b"\x01\x23\x45\x67\x89\xab\xcd\xef\x01\x23\x45\x67\x89\xab\xcd\xef"
        b"\x01\x23\x45\x67\x89\xab\xcd\xef\x01\x23\x45\x67\x89\xab\xcd\xef"
        b"\xfc\xd4\xa1\xd2"
        b"\x00\x00\x00\x00\x00\x00\x00\x00"
        b"\x01\x00\x00\x00\x67\xba\x8e\xeb",
    ),
    "models": ("drwxr-xr-x", b""),
    "models/org": ("drwxr-xr-x", b""),
    "models/org/bert": ("drwxr-xr-x", b""),
    "models/org/bert/index.json": ("-rw-r--r--", b"{}"),
    "quarantine": ("drwxr-xr-x", b""),
    f"quarantine/{DEF}": ("-r--r--r--", b"def"),
}


def listing(root: Path) -> dict[str, tuple[str, bytes]]:
    """Return the mode and the bytes of everything below a folder."""
    return {
        path.relative_to(root).as_posix(): (
            stat.filemode(path.stat().st_mode),
            path.read_bytes() if path.is_file() else b"",
        )
        for path in root.rglob("*")
    }


async def test_layout_1_by_the_byte(tmp_path: Path) -> None:
    """A store made of fixed contents is what is spelled out here: each name, mode and byte, nothing else."""
    before = os.umask(0o022)
    try:
        async with DiskStore(tmp_path) as store:
            for data in (b"abc", b"def", b""):
                await fill(store, data)
            await store.quarantine(DEF)
            await store.write_document("org/bert/index.json", b"{}")
            partial = await begin(store, PARTIAL, PIECE_BYTES + 3, None)
            await partial.claim([1])
            await partial.write(1, b"xyz", zlib.crc32(b"xyz"))
            await partial.close()
    finally:
        os.umask(before)
    assert listing(tmp_path) == LAYOUT


async def test_layout_1_is_read(tmp_path: Path) -> None:
    """A store that holds what is spelled out here is opened, read and gone on with, whoever wrote it."""
    for name, (mode, data) in LAYOUT.items():
        path = tmp_path / name
        if mode.startswith("d"):
            path.mkdir()
        else:
            path.write_bytes(data)
            path.chmod(0o444 if "blobs" in name else 0o644)
    async with DiskStore(tmp_path) as store:
        assert dict(store.blobs()) == {ABC: 3, EMPTY: 0}
        assert store.usage().used_bytes == 3 + 3 + PIECE_BYTES + 3
        assert await store.documents() == ["org/bert/index.json"]
        partial = await begin(store, PARTIAL, PIECE_BYTES + 3, None)
        assert list(partial.left) == [False, True]
        assert await partial.recover(1)
        await write(partial, bytes(PIECE_BYTES) + b"xyz", range(1))
        await partial.commit(None)
        await partial.close()
        assert PARTIAL in store.blobs()
