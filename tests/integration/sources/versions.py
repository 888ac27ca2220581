"""A version to fetch: bytes, their manifest, and the answers of a proxy and an origin that hold them."""

from __future__ import annotations

from collections.abc import Mapping

from hotstart.sources.base import Body
from hotstart.wire.digests import etag, sha256_id
from hotstart.wire.manifest import File, Manifest, OriginObject
from hotstart.wire.opening import Fallback, Opening
from hotstart.wire.pieces import PieceHasher
from hotstart.wire.ranges import ByteRange, content_range, parse_range
from tests.integration.sources.scripted import Answer, Request

MODEL = "org/bert"
VERSION = "7"
PATH = "model.safetensors"
DATA = bytes(range(251)) * 4001
ORIGIN_ETAG = '"the-origin-s-own"'


def make_file(path: str = PATH, data: bytes = DATA, origin_etag: str = ORIGIN_ETAG) -> File:
    """Return a file as the manifest describes it."""
    hasher = PieceHasher()
    hasher.update(data)
    _, pieces = hasher.finish()
    return File(
        path=path,
        size=len(data),
        sha256=sha256_id(data),
        id=sha256_id(data),
        media_type="application/octet-stream",
        origin=OriginObject(f"{MODEL}/{VERSION}/{path}", origin_etag),
        pieces=pieces,
    )


FILE = make_file()
MANIFEST = Manifest(MODEL, VERSION, 1_700_000_000_000, (FILE,))


def opening(urls: Mapping[str, str] | None = None, expires_in_seconds: int = 3600) -> bytes:
    """Return what a proxy answers to open."""
    fallback = None if urls is None else Fallback(urls, expires_in_seconds)
    return Opening(MANIFEST, MANIFEST.dump(), fallback, {PATH: len(DATA)}).dump()


def ranged(request: Request, tag: str = etag(FILE.id), data: bytes = DATA) -> Answer:
    """Return the right answer to a range request."""
    wanted = parse_range(request.headers.get("range"), len(data))
    if wanted is None:
        return Answer(200, {"ETag": tag}, data)
    headers = {"ETag": tag, "Content-Range": content_range(wanted, len(data))}
    return Answer(206, headers, data[wanted.start : wanted.stop])


def read_all(body: Body, step: int = 70_000) -> bytes:
    """Read a body to its end, in steps that fit nothing, and close it."""
    received = bytearray()
    read_into(received, body, step)
    return bytes(received)


def read_into(received: bytearray, body: Body, step: int = 70_000) -> None:
    """Append what a body gives to received, also if it fails in between."""
    with body:
        buffer = bytearray(step)
        while count := body.readinto(memoryview(buffer)):
            received += buffer[:count]


WANTED = ByteRange(1_000, 900_001)
EXPECTED = DATA[1_000:900_001]
