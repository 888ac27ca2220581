"""zstd frames put together byte by byte (RFC 8878), to make those that no encoder would."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["COMPRESSED", "RAW", "RLE", "block", "frame", "frame_header"]

RAW, RLE, COMPRESSED, RESERVED = range(4)


def frame_header(
    content_bytes: int | None,
    *,
    size_flag: int = 2,
    single_segment: bool = True,
    window: int = 0x48,
    checksum: bool = True,
    dictionary_flag: int = 0,
    reserved: bool = False,
) -> bytes:
    """Return magic, descriptor and what follows them, up to the first block.

    Args:
        content_bytes: the content size as written; None leaves the field out (size_flag is then 0).
        size_flag: 0 to 3 for a field of 1 (0 if not single_segment), 2, 4 or 8 bytes.
        single_segment: leaves out the window.
        window: the byte that describes it.
        checksum: claims one at the end.
        dictionary_flag: 0 to 3 for an id of 0, 1, 2 or 4 bytes.
        reserved: sets the reserved bit.
    """
    if content_bytes is None:
        size_flag, single_segment, size = 0, False, b""
    else:
        written = content_bytes - 256 if size_flag == 1 else content_bytes
        size = written.to_bytes(1 << size_flag, "little")
    descriptor = size_flag << 6 | single_segment << 5 | reserved << 3 | checksum << 2 | dictionary_flag
    dictionary = bytes((0, 1, 2, 4)[dictionary_flag])
    head = b"\x28\xb5\x2f\xfd" + bytes((descriptor,))
    return head + (b"" if single_segment else bytes((window,))) + dictionary + size


def block(kind: int, body: bytes, size: int | None = None, *, last: bool) -> bytes:
    """Return a block; size is what its header claims, the length of body if None."""
    word = (len(body) if size is None else size) << 3 | kind << 1 | last
    return word.to_bytes(3, "little") + body


def frame(header: bytes, blocks: Iterable[bytes], checksum: bytes = b"\0\0\0\0") -> bytes:
    """Join the parts; the default checksum is wrong for nearly any content."""
    return header + b"".join(blocks) + checksum
