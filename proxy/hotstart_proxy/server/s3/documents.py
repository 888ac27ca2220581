"""S3's XML: listings, buckets, and errors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import quote
from xml.sax.saxutils import escape

from hotstart.wire.digests import etag
from hotstart.wire.timestamps import format_timestamp

from .listings import Listed, Page

__all__ = ["XML", "ListingParameters", "buckets", "error", "listing", "location", "versioning"]

XML = "application/xml"
_HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n'
_NAMESPACE = ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
# What no XML document may hold (XML 1.0, 2.2); requests may, and are quoted in answers.
_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_OWNER = "<Owner><ID>hotstart</ID><DisplayName>hotstart</DisplayName></Owner>"


@dataclass(frozen=True, slots=True)
class ListingParameters:
    """What a listing was asked for with, as far as its answer repeats it.

    Attributes:
        version: 1 or 2 of ListObjects.
        position: what was given as marker, or as start-after; None for nothing.
        continuation: the token that was given; None for none.
        url_encoded: names are written percent-encoded.
        with_owner: each key with an owner.
    """

    version: int
    prefix: str
    delimiter: str
    most: int
    position: str | None
    continuation: str | None
    url_encoded: bool
    with_owner: bool


def listing(bucket: str, asked: ListingParameters, page: Page, next_token: str | None) -> bytes:
    """Write a page of either version of ListObjects.

    Args:
        bucket: its name.
        asked: see there.
        page: what was found.
        next_token: by which version 2 goes on; None at the end.
    """

    def name(text: str) -> str:
        return quote(text, safe="/~") if asked.url_encoded else text

    objects = [item for item in page.items if item.size is not None]
    prefixes = [item for item in page.items if item.size is None]
    parts = [_tag("Name", bucket), _tag("Prefix", name(asked.prefix))]
    if asked.version == 1:
        parts.append(_tag("Marker", name(asked.position or "")))
        if page.truncated and asked.delimiter and page.items:
            parts.append(_tag("NextMarker", name(page.items[-1].name)))
    else:
        if asked.position is not None:
            parts.append(_tag("StartAfter", name(asked.position)))
        if asked.continuation is not None:
            parts.append(_tag("ContinuationToken", asked.continuation))
        if next_token is not None:
            parts.append(_tag("NextContinuationToken", next_token))
        parts.append(_tag("KeyCount", str(len(page.items))))
    parts.append(_tag("MaxKeys", str(asked.most)))
    if asked.delimiter:
        parts.append(_tag("Delimiter", name(asked.delimiter)))
    if asked.url_encoded:
        parts.append(_tag("EncodingType", "url"))
    parts.append(_tag("IsTruncated", "true" if page.truncated else "false"))
    parts += [_object(item, name(item.name), with_owner=asked.with_owner) for item in objects]
    parts += [f"<CommonPrefixes>{_tag('Prefix', name(item.name))}</CommonPrefixes>" for item in prefixes]
    return _document("ListBucketResult", parts)


def _object(item: Listed, name: str, *, with_owner: bool) -> str:
    assert item.content_id is not None
    return (
        f"<Contents>{_tag('Key', name)}{_tag('LastModified', format_timestamp(item.published_at))}"
        f"{_tag('ETag', etag(item.content_id))}{_tag('Size', str(item.size))}"
        f"<StorageClass>STANDARD</StorageClass>{_OWNER if with_owner else ''}</Contents>"
    )


def buckets(bucket: str) -> bytes:
    """Write ListBuckets: the one there is. When it began nobody knows."""
    created = _tag("CreationDate", format_timestamp(0))
    return _document(
        "ListAllMyBucketsResult",
        [_OWNER, f"<Buckets><Bucket>{_tag('Name', bucket)}{created}</Bucket></Buckets>"],
    )


def location() -> bytes:
    """Write GetBucketLocation: the region that has no name, us-east-1."""
    return _document("LocationConstraint", [])


def versioning() -> bytes:
    """Write GetBucketVersioning: never switched on."""
    return _document("VersioningConfiguration", [])


def error(code: str, message: str, members: Mapping[str, str]) -> bytes:
    """Write an error; it has no namespace."""
    parts = [_tag("Code", code), _tag("Message", message), *(_tag(*member) for member in members.items())]
    return f"{_HEAD}<Error>{''.join(parts)}</Error>".encode()


def _document(root: str, parts: Iterable[str]) -> bytes:
    return f"{_HEAD}<{root}{_NAMESPACE}>{''.join(parts)}</{root}>".encode()


def _tag(name: str, text: str) -> str:
    # A quote needs no escape between tags, and clients that look for one in the text find it.
    return f"<{name}>{escape(_NOT_XML.sub(chr(0xFFFD), text))}</{name}>"
