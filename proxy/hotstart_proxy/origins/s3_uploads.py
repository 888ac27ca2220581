"""Uploading a file to S3 as a new object: small ones in one request, large ones in parallel parts."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from hotstart.wire.ranges import ByteRange, split

from .base import AlreadyExists, OriginError, OriginUnreachable, UploadCleared
from .s3_errors import NO_UPLOAD, code_of, status_of, translated
from .threads import finish, in_thread

__all__ = ["FileUpload", "part_ranges", "write_seconds"]

# S3's own advice is parts of 8 to 16 MiB; up to two of these one request is no slower.
PART_BYTES = 8 * 1024 * 1024
SINGLE_PUT_BYTES = 2 * PART_BYTES
# S3 allows 10,000.
MAX_PARTS = 9_000
# Of 8 MiB each, held in memory at once.
PARALLEL_PARTS = 4
ABORT_SECONDS = 20.0
# A line slower than this, divided by the parallel parts, is taken for one that hangs.
SLOWEST_BYTES_PER_SECOND = 16 * 1024
# Seen with a server that never answers: a call that writes outlasts the client's own time-outs.
STALLS_PER_WRITE = 4


def part_ranges(size: int) -> list[ByteRange]:
    """Cut a file of size bytes into parts that S3 takes: 8 MiB, more where they would be too many."""
    part_bytes = PART_BYTES
    while size > part_bytes * MAX_PARTS:
        part_bytes *= 2
    return split(ByteRange(0, size), part_bytes)


def write_seconds(size: int, stall_seconds: float) -> float:
    """Return how long a request that carries size bytes may take, its repetitions included."""
    return STALLS_PER_WRITE * stall_seconds + size / SLOWEST_BYTES_PER_SECOND


@dataclass(frozen=True, slots=True)
class FileUpload:
    """One file on its way.

    Attributes:
        client: an S3 client that retries by itself.
        origin: the origin's URL, for errors.
        target: Bucket and Key.
        source: the file; it must not change meanwhile.
        attributes: Metadata and ContentType.
        stall_seconds: how long to wait for an answer.
        progress: told how many more bytes have arrived.
    """

    client: Any
    origin: str
    target: Mapping[str, str]
    source: Path
    attributes: Mapping[str, object]
    stall_seconds: float
    progress: Callable[[int], None]

    async def send(self) -> tuple[dict[str, Any], int]:
        """Upload, and return the last answer and the size.

        A cancel or failure leaves no parts behind; an object whose last byte had arrived may stay, whole.

        Raises:
            AlreadyExists: there is an object.
            UploadCleared: the upload in parts was ended by somebody else, or by our own request before.
            OriginError: it failed, or the file changed or cannot be read.
        """
        descriptor = await in_thread(self._open)
        try:
            size = os.fstat(descriptor).st_size
            if size <= SINGLE_PUT_BYTES:
                return await self._send_whole(descriptor, size), size
            return await self._send_parts(descriptor, size), size
        finally:
            os.close(descriptor)

    @property
    def _doing(self) -> str:
        return f"uploading {self.source} as {self.target['Key']}"

    def _open(self) -> int:
        try:
            return os.open(self.source, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise OriginError(self.origin, self._doing, str(error)) from error

    def _read(self, descriptor: int, wanted: ByteRange) -> bytes:
        parts: list[bytes] = []
        position = wanted.start
        while position < wanted.stop:
            try:
                part = os.pread(descriptor, wanted.stop - position, position)
            except OSError as error:
                raise OriginError(self.origin, self._doing, str(error)) from error
            if not part:
                raise OriginError(self.origin, self._doing, "the file became shorter while it was read")
            parts.append(part)
            position += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _send_whole(self, descriptor: int, size: int) -> dict[str, Any]:
        data = await in_thread(self._read, descriptor, ByteRange(0, size))
        with translated(self.origin, self._doing):
            async with asyncio.timeout(write_seconds(size, self.stall_seconds)):
                answer = await self._create(self.client.put_object, Body=data, **self.attributes)
        self.progress(size)
        return answer

    async def _create(self, call: Callable[..., Any], **arguments: object) -> dict[str, Any]:
        with translated(self.origin, self._doing):
            try:
                answer: dict[str, Any] = await call(**self.target, IfNoneMatch="*", **arguments)
            except ClientError as error:
                if status_of(error) == 412:
                    raise AlreadyExists(self.origin, self._doing, "there is such an object") from error
                if code_of(error) == NO_UPLOAD:
                    raise self._cleared() from error
                if status_of(error) == 409:
                    # AWS saw another write to the key under way.
                    reason = f"another write came in between: try again ({error})"
                    raise OriginUnreachable(self.origin, self._doing, reason) from error
                raise
        return answer

    async def _send_parts(self, descriptor: int, size: int) -> dict[str, Any]:
        with translated(self.origin, self._doing):
            begun = await self.client.create_multipart_upload(**self.target, **self.attributes)
        upload = str(begun["UploadId"])
        try:
            etags = await self._send_all(descriptor, part_ranges(size), upload)
            parts = [{"PartNumber": number, "ETag": etags[number]} for number in sorted(etags)]
            # AWS keeps to the condition here too; SeaweedFS lets in a second winner in a close race. Two
            # publishers of one version never meet here: the claim (begin.json) has decided between them.
            return await self._create(
                self.client.complete_multipart_upload, UploadId=upload, MultipartUpload={"Parts": parts}
            )
        except UploadCleared:
            raise
        except BaseException as error:
            # All that may have begun has ended here, so nothing adds a part to what is aborted.
            try:
                await finish(self._abort(upload))
            except OriginError as left:
                error.add_note(f"parts of it may be left behind: {left}")
            raise

    async def _send_all(self, descriptor: int, ranges: list[ByteRange], upload: str) -> dict[int, str]:
        etags: dict[int, str] = {}
        left = iter(enumerate(ranges, 1))
        workers = [
            asyncio.create_task(self._send_next(descriptor, left, upload, etags))
            for _ in range(PARALLEL_PARTS)
        ]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await finish(asyncio.wait(workers))
        return etags

    async def _send_next(
        self, descriptor: int, left: Iterator[tuple[int, ByteRange]], upload: str, etags: dict[int, str]
    ) -> None:
        for number, wanted in left:
            data = await in_thread(self._read, descriptor, wanted)
            with translated(self.origin, f"{self._doing}, part {number}"):
                try:
                    async with asyncio.timeout(write_seconds(len(data), self.stall_seconds)):
                        answer = await self.client.upload_part(
                            **self.target, UploadId=upload, PartNumber=number, Body=data
                        )
                except ClientError as error:
                    if code_of(error) == NO_UPLOAD:
                        raise self._cleared() from error
                    raise
            etags[number] = str(answer["ETag"])
            self.progress(len(data))

    def _cleared(self) -> UploadCleared:
        return UploadCleared(self.origin, self._doing, "its parts were cleared away meanwhile")

    async def _abort(self, upload: str) -> None:
        with translated(self.origin, f"{self._doing}: clearing its parts away"):
            async with asyncio.timeout(ABORT_SECONDS):
                await self.client.abort_multipart_upload(**self.target, UploadId=upload)
