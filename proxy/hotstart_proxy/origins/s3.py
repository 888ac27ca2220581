"""A bucket and prefix as the origin: S3 and what speaks its protocol, by aiobotocore. SigV4 everywhere."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession
from botocore.exceptions import ClientError

from hotstart.wire.aws import aws_endpoint
from hotstart.wire.catalog import ListedObject, Listing, ObjectBytes
from hotstart.wire.manifest import OriginObject
from hotstart.wire.ranges import ByteRange
from hotstart_proxy.core.observer import NullObserver, Observer
from hotstart_proxy.core.retries import Retries, RetryPolicy

from .base import (
    AlreadyExists,
    ObjectChanged,
    ObjectInfo,
    Origin,
    OriginDenied,
    OriginError,
    OriginIdentity,
    OriginUnreachable,
    PresignedUrl,
)
from .probe import prove_conditions
from .s3_attempts import Attempts, S3Line
from .s3_credentials import Credentials
from .s3_errors import NO_UPLOAD, ClockSkewed, code_of, status_of, translated
from .s3_reading import RangeReader
from .s3_receiving import RangeReceiver, S3Direct
from .s3_uploads import FileUpload, write_seconds

__all__ = ["S3Origin", "S3Settings"]

DEFAULT_REGION = "us-east-1"
# An index is polled every few seconds, and an old one is served while the origin hangs: find that out soon.
DOCUMENT_SECONDS = 5.0
DOCUMENT_POLICY = RetryPolicy(attempts=3, patience_seconds=3 * DOCUMENT_SECONDS)
# Other writes to the same key are over sooner than these attempts.
CONFLICT_POLICY = RetryPolicy(attempts=6, patience_seconds=60)
# What a parser of ours takes at most; a larger object under a document's key is none of ours.
MAX_DOCUMENT_BYTES = 256 * 1024 * 1024
DOCUMENT_READ_BYTES = 256 * 1024
# The longest life that SigV4 gives a URL.
MAX_PRESIGN_SECONDS = 7 * 24 * 3600

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class S3Settings:
    """How to reach S3; credentials come in the ordinary AWS ways (environment, profile, web identity, roles).

    Attributes:
        endpoint: URL without path; None means AWS.
        region: None means the profile's, or else us-east-1.
        addressing: ``auto`` is path style for an endpoint of one's own, virtual for AWS.
        connect_seconds: to open a connection.
        stall_seconds: longest wait for the next bytes of an answer.
    """

    endpoint: str | None = None
    region: str | None = None
    addressing: Literal["auto", "path", "virtual"] = "auto"
    connect_seconds: float = 3.0
    stall_seconds: float = 15.0


class S3Origin(Origin):
    """One bucket and prefix.

    What reads is retried here, so that it resumes at the byte and its bounds are ours; what writes, by
    botocore's standard retries.
    """

    can_presign = True

    def __init__(
        self, bucket: str, prefix: str, settings: S3Settings | None = None, observer: Observer | None = None
    ) -> None:
        """Keep what is needed to connect; that happens on entering.

        Args:
            bucket: its name.
            prefix: empty, or with a trailing slash.
            settings: how to reach it.
            observer: told of requests that are sent again.
        """
        self.url = f"s3://{bucket}/{prefix}".rstrip("/")
        self._bucket = bucket
        self._prefix = prefix
        self._settings = settings or S3Settings()
        credentials = Credentials(self.url)
        self._line = S3Line(
            self.url, credentials, self._settings.stall_seconds, (observer or NullObserver()).origin_retried
        )
        self._session = AioSession()
        credentials.register(self._session)
        with translated(self.url, "reading the AWS configuration"):
            region = self._settings.region or self._session.get_config_variable("region")
            # botocore would find it too, and would put the bucket into the host's name.
            self._endpoint = self._settings.endpoint or self._session.get_scoped_config().get("endpoint_url")
        self._region = str(region or DEFAULT_REGION)
        endpoint = self._endpoint or aws_endpoint("s3", self._region)
        self.identity = OriginIdentity(endpoint.rstrip("/"), bucket, prefix)
        self._stack = AsyncExitStack()
        self._control: Any = None
        self._data: Any = None
        self._reached = False
        self._direct: S3Direct | None = None

    async def __aenter__(self) -> S3Origin:
        async with AsyncExitStack() as stack:
            with translated(self.url, "preparing to connect"):
                await self._line.credentials.prepare()
                self._control = await stack.enter_async_context(self._client(attempts=3))
                self._data = await stack.enter_async_context(self._client(attempts=1))
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._stack.aclose()

    async def _reach(self) -> S3Direct | None:
        """Return what asks S3 without aiobotocore; None where only that knows the way."""
        if not self._reached:
            mark = "key"
            with translated(self.url, "looking where to ask"):
                # What a client would ask can be learned from it in no other way.
                signed = await self._control.generate_presigned_url(
                    "get_object", Params={"Bucket": self._bucket, "Key": mark}
                )
            base = str(signed).partition("?")[0].removesuffix(mark)
            if not self._reached:
                self._reached = True
                if S3Direct.can_reach(base) and not (base.startswith("https:") and self._own_trust()):
                    self._direct = S3Direct(self._line, self._region, base)
                    self._stack.push_async_callback(self._direct.close)
        return self._direct

    def _own_trust(self) -> bool:
        """Tell whether botocore has been told of certificates that the system may not trust."""
        return bool(self._session.get_config_variable("ca_bundle") or os.environ.get("REQUESTS_CA_BUNDLE"))

    def _client(self, attempts: int) -> Any:
        settings = self._settings
        style = settings.addressing
        if style == "auto":
            style = "path" if self._endpoint else "virtual"
        return self._session.create_client(
            "s3",
            region_name=self._region,
            endpoint_url=self._endpoint,
            config=AioConfig(
                # By default botocore pre-signs with SigV2 for endpoints of one's own.
                signature_version="s3v4",
                s3={"addressing_style": style},
                connect_timeout=settings.connect_seconds,
                read_timeout=settings.stall_seconds,
                retries={"total_max_attempts": attempts, "mode": "standard"},
                # How many fills run at once is decided above; waiting for a connection here would look
                # like a stall.
                max_pool_connections=1000,
                # Other servers know no trailing checksums; SigV4 covers what is sent.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    def _target(self, key: str, version_id: str | None = None) -> dict[str, str]:
        target = {"Bucket": self._bucket, "Key": self._prefix + key}
        if version_id is not None:
            target["VersionId"] = version_id
        return target

    async def _ask(self, doing: str, ask: Callable[[Attempts], Awaitable[T]]) -> T:
        """Ask for something small, again where that may help."""
        attempts = Attempts(self._line, DOCUMENT_POLICY)
        while True:
            try:
                with translated(self.url, doing):
                    await attempts.sign()
                    result = await ask(attempts)
            except OriginError as error:
                await attempts.recover(error)
            else:
                attempts.answered()
                return result

    async def read(self, key: str, known_etag: str | None = None) -> ObjectBytes | None:
        doing = f"reading {key}"
        return await self._ask(doing, lambda attempts: self._read(attempts, doing, key, known_etag))

    async def _read(
        self, attempts: Attempts, doing: str, key: str, known_etag: str | None
    ) -> ObjectBytes | None:
        condition = {} if known_etag is None else {"IfNoneMatch": known_etag}
        try:
            async with attempts.waiting(min(DOCUMENT_SECONDS, self._settings.stall_seconds)):
                answer = await self._data.get_object(**self._target(key), **condition)
        except ClientError as error:
            if status_of(error) == 404 and code_of(error) != "NoSuchBucket":
                return None
            if status_of(error) == 304 and known_etag is not None:
                return ObjectBytes(None, known_etag, _header_time(error.response, "last-modified"))
            raise
        async with answer["Body"] as body:
            data = await self._document(attempts, doing, int(answer["ContentLength"]), body)
        return ObjectBytes(data, str(answer["ETag"]), _milliseconds(answer["LastModified"]))

    async def _document(self, attempts: Attempts, doing: str, size: int, body: Any) -> bytes:
        if size > MAX_DOCUMENT_BYTES:
            raise OriginError(self.url, doing, f"{size} bytes: expected at most {MAX_DOCUMENT_BYTES}")
        parts: list[bytes] = []
        while True:
            async with attempts.waiting(self._settings.stall_seconds):
                part: bytes = await body.read(DOCUMENT_READ_BYTES)
            if not part:
                return parts[0] if len(parts) == 1 else b"".join(parts)
            attempts.received(len(part))
            parts.append(part)

    @asynccontextmanager
    async def get(self, item: OriginObject, wanted: ByteRange) -> AsyncIterator[AsyncIterator[bytes]]:
        if not len(wanted):
            # No range of HTTP's is empty; the object must still be the one asked for.
            found = await self.head(item.key)
            if found is None or found.etag != item.etag:
                raise ObjectChanged(self.url, f"reading {item.key}", "it was replaced or deleted")
            yield _nothing()
            return
        target = self._target(item.key, item.version_id)
        reader = RangeReader(self._data, self._line, target, item, wanted)
        try:
            await reader.open()
            yield reader.chunks()
        finally:
            reader.close()

    @asynccontextmanager
    async def receive(
        self, item: OriginObject, wanted: ByteRange, buffer: memoryview
    ) -> AsyncIterator[AsyncIterator[bytes | memoryview]]:
        direct = None
        if len(wanted):
            # What goes wrong here goes wrong there too, where it is tried again.
            with contextlib.suppress(OriginError):
                direct = await self._reach()
        if direct is None:
            async with self.get(item, wanted) as read:
                yield read
            return
        target = self._target(item.key, item.version_id)
        reader = RangeReceiver(self._data, direct, self._line, target, item, wanted, buffer)
        try:
            await reader.open()
            yield reader.pieces()
        finally:
            reader.close()

    async def head(self, key: str) -> ObjectInfo | None:
        return await self._ask(f"looking at {key}", lambda attempts: self._head(attempts, key))

    async def _head(self, attempts: Attempts, key: str) -> ObjectInfo | None:
        try:
            async with attempts.waiting(self._settings.stall_seconds):
                answer = await self._data.head_object(**self._target(key))
        except ClientError as error:
            if status_of(error) == 404:
                return None
            raise
        return ObjectInfo(
            key=key,
            size=int(answer["ContentLength"]),
            etag=str(answer["ETag"]),
            last_modified=_milliseconds(answer["LastModified"]),
            version_id=answer.get("VersionId"),
            metadata={name.lower(): value for name, value in answer.get("Metadata", {}).items()},
        )

    async def list(self, prefix: str, *, recursive: bool) -> Listing:
        objects: list[ListedObject] = []
        folders: list[str] = []
        cut = len(self._prefix)
        arguments = {"Bucket": self._bucket, "Prefix": self._prefix + prefix}
        if not recursive:
            arguments["Delimiter"] = "/"
        doing = f"listing {prefix or 'everything'}"
        while True:
            page = await self._ask(doing, lambda attempts: self._list_page(attempts, arguments))
            folders += [item["Prefix"][cut:] for item in page.get("CommonPrefixes", ())]
            objects += [
                ListedObject(
                    item["Key"][cut:], item["Size"], item["ETag"], _milliseconds(item["LastModified"])
                )
                for item in page.get("Contents", ())
            ]
            if not page.get("NextContinuationToken"):
                break
            arguments["ContinuationToken"] = page["NextContinuationToken"]
        return Listing(tuple(sorted(objects, key=lambda item: item.key)), tuple(sorted(folders)))

    async def _list_page(self, attempts: Attempts, arguments: dict[str, str]) -> dict[str, Any]:
        async with attempts.waiting(self._settings.stall_seconds):
            page: dict[str, Any] = await self._data.list_objects_v2(**arguments)
        return page

    async def put(
        self,
        key: str,
        data: bytes,
        *,
        create_only: bool = False,
        if_match: str | None = None,
        metadata: Mapping[str, str] | None = None,
        media_type: str = "application/octet-stream",
    ) -> ObjectInfo:
        attributes = {"Metadata": dict(metadata or {}), "ContentType": media_type}
        condition = {"IfNoneMatch": "*"} if create_only else {}
        if if_match is not None:
            condition = {"IfMatch": if_match}
        retries = Retries(CONFLICT_POLICY, random.random)
        while True:
            try:
                answer = await self._put(key, data, condition, attributes)
            except _Conflict:
                # AWS: another write to the key was under way, and nobody knows yet how that ended.
                pause = retries.pause_after_failure()
                if pause is None:
                    raise
                await asyncio.sleep(pause)
            else:
                return self._info(key, len(data), answer, attributes)

    async def _put(
        self, key: str, data: bytes, condition: Mapping[str, str], attributes: Mapping[str, object]
    ) -> dict[str, Any]:
        doing = f"writing {key}"
        with translated(self.url, doing):
            try:
                # Seen with a server that never answers: this call outlasts the client's own time-outs.
                async with asyncio.timeout(write_seconds(len(data), self._settings.stall_seconds)):
                    answer: dict[str, Any] = await self._control.put_object(
                        **self._target(key), Body=data, **condition, **attributes
                    )
            except ClientError as error:
                status = status_of(error)
                if "IfMatch" in condition and status in (404, 409, 412) and code_of(error) != "NoSuchBucket":
                    raise ObjectChanged(self.url, doing, "it was replaced or deleted meanwhile") from error
                if "IfNoneMatch" in condition and status == 412:
                    raise AlreadyExists(self.url, doing, "there is such an object") from error
                if "IfNoneMatch" in condition and status == 409:
                    raise _Conflict(self.url, doing, "other writes to it are under way: try again") from error
                raise
        return answer

    def _info(
        self, key: str, size: int, answer: Mapping[str, Any], attributes: Mapping[str, Any]
    ) -> ObjectInfo:
        # A write's answer does not say when the object was modified; its Date is within a second of that.
        return ObjectInfo(
            key=key,
            size=size,
            etag=str(answer["ETag"]),
            last_modified=_header_time(answer, "date"),
            version_id=answer.get("VersionId"),
            metadata={name.lower(): value for name, value in attributes["Metadata"].items()},
        )

    async def upload(
        self,
        key: str,
        source: Path,
        *,
        metadata: Mapping[str, str],
        media_type: str,
        progress: Callable[[int], None] | None = None,
    ) -> ObjectInfo:
        attributes = {"Metadata": dict(metadata), "ContentType": media_type}
        upload = FileUpload(
            self._control,
            self.url,
            self._target(key),
            source,
            attributes,
            self._settings.stall_seconds,
            progress or (lambda count: None),
        )
        answer, size = await upload.send()
        return self._info(key, size, answer, attributes)

    async def clear_uploads(self, prefix: str) -> None:
        uploads = self._control.get_paginator("list_multipart_uploads")
        with translated(self.url, f"clearing unfinished uploads below {prefix}"):
            async for page in uploads.paginate(Bucket=self._bucket, Prefix=self._prefix + prefix):
                for item in page.get("Uploads", ()):
                    try:
                        await self._control.abort_multipart_upload(
                            Bucket=self._bucket, Key=item["Key"], UploadId=item["UploadId"]
                        )
                    except ClientError as error:
                        # It has ended since.
                        if code_of(error) != NO_UPLOAD:
                            raise

    async def delete(self, key: str) -> None:
        with translated(self.url, f"deleting {key}"):
            await self._control.delete_object(**self._target(key))

    async def presign(self, item: OriginObject, expires_in_seconds: int) -> PresignedUrl | None:
        doing = f"pre-signing {item.key}"
        with translated(self.url, doing):
            if self._line.skew is not None:
                # What this host's clock says of a URL's age would be wrong too.
                raise ClockSkewed(self.url, doing, self._line.skew.ahead_seconds)
            # Renews them if they are about to end.
            await self._line.credentials.get_frozen_credentials()
            seconds = self._line.credentials.seconds_left(min(expires_in_seconds, MAX_PRESIGN_SECONDS))
            if seconds < 1:
                raise OriginDenied(self.url, doing, "the credentials' session has ended: renew it")
            url = await self._control.generate_presigned_url(
                "get_object", Params=self._target(item.key, item.version_id), ExpiresIn=seconds
            )
        return PresignedUrl(str(url), seconds)

    async def check_publishable(self) -> None:
        await prove_conditions(self)


class _Conflict(OriginUnreachable):
    """A create-only write lost to another one that had not ended."""


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield b""


def _milliseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def _header_time(answer: Mapping[str, Any], name: str) -> int:
    value = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get(name)
    try:
        return _milliseconds(parsedate_to_datetime(str(value)))
    except ValueError:
        return 0
