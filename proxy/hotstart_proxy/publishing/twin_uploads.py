"""The twins of one file: which are made, which of those are worth their place, and how they get there."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hotstart.wire.framing import saves
from hotstart.wire.manifest import TWIN_SUFFIXES, Twin
from hotstart.wire.media_types import ZSTD_MEDIA_TYPE
from hotstart.wire.safetensors import Header
from hotstart.wire.twin_forms import PLANES_SUFFIX, ZSTD_SUFFIX, plan_twin

from .folder import SourceFile
from .jobs import in_thread
from .progress import Progress, Stage
from .twins import frame_file
from .uploads import Arrival, Uploader

__all__ = ["TwinChoice", "upload_twins"]


@dataclass(frozen=True, slots=True)
class TwinChoice:
    """Which twins are wanted.

    Attributes:
        asked: suffixes; None for zstd frames where they pay, and byte planes too where they are smaller by
            another 3%, which is what a frame must save to be worth decoding.
    """

    asked: frozenset[str] | None = None

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Those to be made, in the order in which they must be."""
        return tuple(suffix for suffix in TWIN_SUFFIXES if self.asked is None or suffix in self.asked)

    def rival_bytes(self, suffix: str, file_bytes: int, twin_bytes: Mapping[str, int]) -> int | None:
        """Return the size that a twin must beat, or None where it only has to pay.

        Args:
            suffix: of the twin.
            file_bytes: size of the file.
            twin_bytes: sizes of the twins that the file has, by suffix.
        """
        if self.asked is not None or suffix != PLANES_SUFFIX:
            return None
        return twin_bytes.get(ZSTD_SUFFIX, file_bytes)


async def upload_twins(
    uploader: Uploader,
    source: SourceFile,
    header: Header,
    sha256: str | None,
    room: Path,
    suffixes: Collection[str],
    choice: TwinChoice,
    progress: Progress,
    *,
    twin_bytes: Mapping[str, int],
) -> list[tuple[Twin, Arrival]]:
    """Make the twins of a Safetensors file one after the other, and put those that are worth it.

    Args:
        uploader: of the version.
        source: the file.
        header: parsed from it.
        sha256: what its bytes must be, in hex; None where that is not known.
        room: a path where nothing is, for one twin at a time.
        suffixes: those of the choice that are to be made now, in its order.
        choice: what was asked for.
        progress: is told of every byte, and what became of every twin.
        twin_bytes: sizes of twins that are there already, by suffix.

    Raises:
        FileChanged, UnreadableFile, NoRoom, VersionRefused, VersionGone, OriginError
    """
    advance = partial(progress.advance, Stage.FRAMING)
    sizes = dict(twin_bytes)
    put: list[tuple[Twin, Arrival]] = []
    for suffix in suffixes:
        path = source.path + suffix
        form = plan_twin(suffix, header, source.size)
        made = await in_thread(partial(frame_file, source, form, sha256, room, advance))
        if made is None:
            progress.end(path, "not made: it would not be smaller")
            continue
        rival_bytes = choice.rival_bytes(suffix, source.size, sizes)
        if rival_bytes is not None and not saves(rival_bytes, made.size):
            room.unlink()
            progress.end(path, "not kept: it would hardly be smaller than what there is")
            continue
        arrival = await uploader.upload(path, made.location, made.size, made.sha256, ZSTD_MEDIA_TYPE)
        room.unlink()
        sizes[suffix] = made.size
        put.append((made.twin(arrival.origin), arrival))
    return put
