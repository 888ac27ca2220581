"""An S3 bucket as the origin, read by the client itself: signed GETs over ``http.client``."""

from __future__ import annotations

import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from urllib.parse import unquote_plus

from hotstart.wire.aws import aws_endpoint
from hotstart.wire.catalog import ListedObject, Listing, ObjectBytes
from hotstart.wire.errors import FormatError
from hotstart.wire.manifest import File, Representation
from hotstart.wire.ranges import ByteRange
from hotstart.wire.timestamps import parse_timestamp

from .answers import Refusal, check_range, refused
from .base import Body, Session, SourceError
from .credentials import CredentialProvider, profile_settings
from .endpoints import Endpoint, InvalidUrl, parse_url
from .environment import OriginUrl
from .http import Connection, Response
from .origin import MAX_DOCUMENT_BYTES, Origin, OriginReader
from .sigv4 import canonical_query, encode_path, sign

__all__ = ["S3Origin"]

_DEFAULT_REGION = "us-east-1"
# A page has at most 1000 keys of at most 1 KiB, which may be escaped threefold.
_MAX_PAGE_BYTES = 8 * 1024 * 1024
# A model's folder holds thousands; a listing that does not end must not take all memory.
_MAX_LISTED_OBJECTS = 1_000_000
# What S3 says of credentials that were good until now.
_EXPIRED_CODES = frozenset(("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"))


class S3Origin(Origin):
    """A bucket and prefix of S3, or of a server that speaks its protocol."""

    def __init__(
        self,
        url: OriginUrl,
        *,
        endpoint: str,
        region: str,
        virtual_host: bool,
        credentials: CredentialProvider,
    ) -> None:
        """Prepare; nothing is asked before the first request.

        Args:
            url: bucket and prefix.
            endpoint: URL of the server.
            region: to sign for.
            virtual_host: the bucket is part of the host's name rather than of the path.
            credentials: to sign with.

        Raises:
            SourceError: the endpoint is no URL.
        """
        self.url = url.url
        self.name = f"origin {url.url}"
        self.bucket = url.bucket
        self.prefix = url.prefix
        try:
            server, path = parse_url(endpoint)
        except InvalidUrl as error:
            raise SourceError(self.name, "preparing to read it", str(error), transient=False) from error
        # As it was given: ids of adopted files are made from it, by the proxy too.
        self.endpoint = endpoint.rstrip("/")
        self.region = region
        self.credentials = credentials
        base = path.rstrip("/")
        if virtual_host:
            self.server = Endpoint(server.scheme, f"{url.bucket}.{server.host}", server.port)
            self._base = base
        else:
            self.server = server
            self._base = f"{base}/{url.bucket}"

    @classmethod
    def from_environment(cls, url: OriginUrl, variables: Mapping[str, str]) -> S3Origin:
        """Find endpoint, region and credentials the ordinary AWS way (errors as the constructor).

        A custom endpoint gets the bucket in the path, AWS itself in the host's name; save for a name with
        dots, which no certificate of AWS's covers.
        """
        settings = profile_settings(variables)
        region = (
            variables.get("AWS_REGION")
            or variables.get("AWS_DEFAULT_REGION")
            or settings.get("region")
            or _DEFAULT_REGION
        )
        custom = (
            variables.get("AWS_ENDPOINT_URL_S3")
            or variables.get("AWS_ENDPOINT_URL")
            or settings.get("endpoint_url")
        )
        return cls(
            url,
            endpoint=custom or aws_endpoint("s3", region),
            region=region,
            virtual_host=custom is None and "." not in url.bucket,
            credentials=CredentialProvider(variables, region, f"origin {url.url}"),
        )

    def has(self, representation: Representation) -> bool:
        return True

    def session(self) -> Session:
        return _S3Session(self)

    def reader(self, doing: str) -> OriginReader:
        return _S3Reader(self, doing)

    def path(self, key: str | None) -> str:
        """Return the encoded path of an object (key relative to the prefix), or of the bucket."""
        if key is None:
            return self._base or "/"
        return f"{self._base}/{encode_path(self.prefix + key)}"


class _Requests:
    """Signed GETs over one connection."""

    def __init__(self, origin: S3Origin) -> None:
        self._origin = origin
        self._connection = Connection(origin.server, origin.name)

    def get(
        self, path: str, parameters: Sequence[tuple[str, str]], headers: Mapping[str, str], doing: str
    ) -> Response:
        """Send a request; credentials that have just ended are replaced once."""
        credentials = self._origin.credentials.get()
        query = canonical_query(parameters)
        target = f"{path}?{query}" if query else path
        for attempts_left in (1, 0):
            signed = sign(
                credentials,
                region=self._origin.region,
                service="s3",
                now=time.time(),
                method="GET",
                path=path,
                query=query,
                headers={"Host": self._origin.server.authority, **headers},
            )
            response = self._connection.request("GET", target, signed, doing=doing)
            if not attempts_left or response.status not in (400, 401, 403):
                return response
            refusal = self.refusal(response)
            if refusal.code not in _EXPIRED_CODES:
                raise refusal
            self._origin.credentials.forget(credentials)
            fresh = self._origin.credentials.get()
            if fresh == credentials:
                raise refusal
            credentials = fresh
        raise AssertionError("the last attempt returns")

    def refusal(self, response: Response) -> Refusal:
        """Return the error of an answer, with advice where the bucket lies in another region."""
        region = response.header("x-amz-bucket-region")
        elsewhere = region is not None and region != self._origin.region
        return refused(response, f"the bucket is in {region}: set AWS_REGION to it" if elsewhere else "")

    def close(self) -> None:
        self._connection.close()


class _S3Session(Session):
    def __init__(self, origin: S3Origin) -> None:
        self._requests = _Requests(origin)
        self._origin = origin

    def fetch(self, file: File, representation: Representation, wanted: ByteRange) -> Body:
        pinned = representation.origin
        doing = f"reading bytes {wanted.start} to {wanted.stop} of {pinned.key}"
        parameters = [] if pinned.version_id is None else [("versionId", pinned.version_id)]
        headers = {"Range": wanted.header(), "If-Match": pinned.etag}
        response = self._requests.get(self._origin.path(pinned.key), parameters, headers, doing)
        return check_range(response, wanted, representation.size, pinned.etag)

    def close(self) -> None:
        self._requests.close()


class _S3Reader(OriginReader):
    def __init__(self, origin: S3Origin, doing: str) -> None:
        self._requests = _Requests(origin)
        self._origin = origin
        self._doing = doing

    def read(self, key: str, known_etag: str | None) -> ObjectBytes | None:
        headers = {} if known_etag is None else {"If-None-Match": known_etag}
        response = self._requests.get(self._origin.path(key), [], headers, self._doing)
        if response.status not in (200, 304):
            refusal = self._requests.refusal(response)
            # "No such bucket" is a 404 as well, and means that nothing can be known of the key.
            if refusal.status == 404 and refusal.code in ("NoSuchKey", ""):
                return None
            raise refusal
        with response:
            modified = _last_modified(response)
            if response.status == 304 and known_etag is not None:
                return ObjectBytes(None, known_etag, modified)
            etag = response.header("ETag")
            if etag is None:
                raise self._failure(f"the answer for {key} has no ETag")
            return ObjectBytes(response.read(MAX_DOCUMENT_BYTES), etag, modified)

    def _failure(self, reason: str) -> SourceError:
        return SourceError(self._origin.name, self._doing, reason, transient=False)

    def listing(self, prefix: str, *, recursive: bool) -> Listing:
        parameters = [("list-type", "2"), ("prefix", self._origin.prefix + prefix), ("encoding-type", "url")]
        if not recursive:
            parameters.append(("delimiter", "/"))
        objects: list[ListedObject] = []
        folders: list[str] = []
        token: str | None = ""
        while token is not None:
            page = self._page([*parameters, *([("continuation-token", token)] if token else [])])
            try:
                self._take(page, objects, folders)
            except (FormatError, ValueError) as error:
                raise self._failure(f"the listing cannot be read: {error}") from error
            token = _text(page, "NextContinuationToken") if _text(page, "IsTruncated") == "true" else None
            if token == "" or len(objects) + len(folders) > _MAX_LISTED_OBJECTS:
                raise self._failure(f"the listing of {prefix or 'the prefix'} does not end")
        return Listing(tuple(sorted(objects, key=lambda item: item.key)), tuple(sorted(set(folders))))

    def _page(self, parameters: Sequence[tuple[str, str]]) -> ElementTree.Element:
        response = self._requests.get(self._origin.path(None), parameters, {}, self._doing)
        if response.status != 200:
            raise self._requests.refusal(response)
        with response:
            data = response.read(_MAX_PAGE_BYTES)
        try:
            # expat itself limits how far entities may blow up what it reads.
            page = ElementTree.fromstring(data)  # noqa: S314
        except ElementTree.ParseError as error:
            raise self._failure(f"the listing is not XML: {error}") from error
        if page.tag.rpartition("}")[2] != "ListBucketResult":
            raise self._failure(f"the listing is a {page.tag[:80]}")
        return page

    def _take(self, page: ElementTree.Element, objects: list[ListedObject], folders: list[str]) -> None:
        encoded = _text(page, "EncodingType") == "url"
        start = self._origin.prefix

        def relative(key: str) -> str | None:
            key = unquote_plus(key) if encoded else key
            return key.removeprefix(start) if key.startswith(start) and key != start else None

        for item in page.iterfind("{*}Contents"):
            key = relative(_text(item, "Key"))
            if key is not None:
                modified = parse_timestamp(_text(item, "LastModified"), "listing")
                objects.append(ListedObject(key, int(_text(item, "Size")), _text(item, "ETag"), modified))
        for item in page.iterfind("{*}CommonPrefixes"):
            key = relative(_text(item, "Prefix"))
            if key is not None:
                folders.append(key)

    def close(self) -> None:
        self._requests.close()


def _text(element: ElementTree.Element, name: str) -> str:
    return element.findtext(f"{{*}}{name}") or ""


def _last_modified(response: Response) -> int:
    try:
        return int(parsedate_to_datetime(response.header("Last-Modified") or "").timestamp() * 1000)
    except ValueError:
        # A 304 need not repeat it, and nothing depends on it: order comes from index and listings.
        return 0
