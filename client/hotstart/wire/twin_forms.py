"""The two forms of a twin, as whoever writes one sees them: what goes into which frame."""

from __future__ import annotations

from dataclasses import dataclass

from .framing import plan_frames
from .planes import dump_prefix, plan_planes, split
from .ranges import ByteRange
from .safetensors import BytesLike, Header

__all__ = ["PLANES_SUFFIX", "ZSTD_SUFFIX", "TwinForm", "plan_twin"]

ZSTD_SUFFIX = ".zst"
PLANES_SUFFIX = ".zsp"


@dataclass(frozen=True, slots=True)
class TwinForm:
    """How one file becomes a twin.

    Attributes:
        suffix: ``ZSTD_SUFFIX`` or ``PLANES_SUFFIX``.
        frames: the bytes of the file that each frame holds, consecutive, none empty.
        widths: of each frame, for planes; empty where frames hold the file's bytes as they are.
    """

    suffix: str
    frames: tuple[ByteRange, ...]
    widths: tuple[int, ...]

    def content(self, index: int, identity: BytesLike) -> BytesLike:
        """Return what frame index is to decode to.

        Args:
            index: from 0, which holds the Safetensors header.
            identity: the bytes ``frames[index]`` of the file.
        """
        if not self.widths:
            return identity
        return dump_prefix(identity) + bytes(identity) if index == 0 else split(identity, self.widths[index])


def plan_twin(suffix: str, header: Header, file_size: int) -> TwinForm:
    """Decide how the file with this header is cut for a twin of this suffix.

    Raises:
        FormatError: the header describes a file of another size.
    """
    if suffix == ZSTD_SUFFIX:
        return TwinForm(suffix, plan_frames(header, file_size), ())
    assert suffix == PLANES_SUFFIX
    planned = plan_planes(header, file_size)
    return TwinForm(suffix, tuple(frame for frame, _ in planned), tuple(width for _, width in planned))
