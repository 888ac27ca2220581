"""The S3 facade: one bucket whose objects are the files of all versions."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from ipaddress import ip_address
from urllib.parse import urlsplit

from aiohttp import web

from hotstart.wire.digests import etag
from hotstart.wire.manifest import Representation
from hotstart_proxy.cache.answers import NotFound, Resolved
from hotstart_proxy.cache.cache import Cache
from hotstart_proxy.server.connections import Connection
from hotstart_proxy.server.exchanges import Exchange
from hotstart_proxy.server.facades import Action, Facade
from hotstart_proxy.server.file_answers import FileAnswers, is_immutable
from hotstart_proxy.server.problems import Form, MethodNotAllowed, Problem
from hotstart_proxy.server.routes import READ, RouteName, split_target
from hotstart_proxy.server.selection import AnswerPlan, Selected, plan_answer
from hotstart_proxy.server.tokens import Rights, Tokens

from . import documents, signatures
from .errors import AccessDenied
from .forms import s3_form
from .key_file import S3Keys
from .listings import list_page, token
from .queries import check_object_query, parse_listing, parse_query
from .signatures import SignedRequest
from .targets import find_target, key_reference
from .tree import CachedTree

__all__ = ["S3Facade"]

_REGION = {"x-amz-bucket-region": "us-east-1"}
_CONTENT_ID = re.compile(r"(?<![\w\"/-])[0-9a-f]{64}(?![\w\"-])", re.ASCII)


class S3Facade(Facade):
    """S3's read protocol."""

    def __init__(
        self,
        cache: Cache,
        answers: FileAnswers,
        bucket: str,
        keys: S3Keys | None,
        prefix: str,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Prepare.

        Args:
            cache: what is listed.
            answers: sends the bytes.
            bucket: the name of the one there is.
            keys: by which requests must be signed; None where only those near by are admitted.
            prefix: see ``Facade``.
            now: seconds since the epoch.
        """
        self.prefix = prefix
        self._answers = answers
        self._tree = CachedTree(cache)
        self._bucket = bucket
        self._keys = keys
        self._now = now

    def find(self, request: web.BaseRequest, path: str, query: str) -> Action:
        """Find what a request asks for (see ``Facade``)."""
        target = find_target(self._bucket, _host(request), path)
        if request.method not in READ:
            raise MethodNotAllowed(request.method, READ)
        parameters = parse_query(query)
        if not target.has_bucket:
            return Action(RouteName.S3_BUCKETS, self._buckets, has_tier=False)
        if not target.key:
            return Action(RouteName.S3_BUCKET, partial(self._ask_bucket, parameters), has_tier=False)
        by_part = check_object_query(parameters)
        return Action(RouteName.S3_OBJECT, partial(self._object, target.key, by_part=by_part))

    def admit(self, request: web.BaseRequest, tokens: Tokens | None) -> Rights:
        """Admit a request by its signature, or by bearer token; without keys and tokens, from near by.

        Raises:
            AccessDenied, UnknownAccessKey, SignatureMismatch, TooSkewed, MalformedAuthorization,
            NotImplementedHere, Unauthorized: it is not admitted.
        """
        authorization = request.headers.get("Authorization", "")
        if tokens is not None and authorization.lower().startswith("bearer "):
            return tokens.check(authorization)
        if self._keys is not None:
            key = signatures.verify(_signed(request), self._keys.secret_of, self._now())
            return self._keys.rights_of(key)
        if tokens is not None:
            raise AccessDenied(
                "this proxy asks for tokens: start it with --s3-keys and sign with one of those keys, or send"
                " Authorization: Bearer TOKEN"
            )
        if not _is_near(request):
            raise AccessDenied("this proxy has no keys for S3 (--s3-keys), so only its own host may ask")
        return Rights()

    def form(self, request: web.BaseRequest, problem: Problem) -> Form:
        """Put a problem into S3's form."""
        return s3_form(problem, split_target(request.raw_path)[0])

    async def _buckets(self, exchange: Exchange) -> web.StreamResponse:
        return _respond(exchange, documents.buckets(self._bucket))

    async def _ask_bucket(self, parameters: dict[str, str], exchange: Exchange) -> web.StreamResponse:
        if exchange.request.method == "HEAD":
            return exchange.respond_head(200, {"Content-Length": "0", "Cache-Control": "no-store", **_REGION})
        if "location" in parameters:
            return _respond(exchange, documents.location())
        if "versioning" in parameters:
            return _respond(exchange, documents.versioning())
        asked, query = parse_listing(parameters)
        with exchange.timed("list"):
            page = await list_page(self._tree, query)
        next_token = token(page.items[-1].name) if page.truncated else None
        return _respond(exchange, documents.listing(self._bucket, asked, page, next_token))

    async def _object(self, key: str, exchange: Exchange, *, by_part: bool) -> web.StreamResponse:
        reference = key_reference(key)
        if reference is None:
            raise NotFound("file", key)
        resolved = await self._answers.resolve(exchange, reference)
        if resolved.by_alias:
            # Who fetches a version file by file would mix two, if the alias moved meanwhile.
            manifest = resolved.manifest
            raise NotFound("file", key, (f"{manifest.model}/{manifest.version}/",))
        assert reference.file is not None
        representation = resolved.manifest.representation(reference.file)
        # The cache has found the file already, or said that there is none.
        assert representation is not None
        plan = self._plan(exchange, resolved, representation, by_part=by_part)
        return await self._answers.respond(exchange, resolved, representation, plan)

    def _plan(
        self, exchange: Exchange, resolved: Resolved, representation: Representation, *, by_part: bool
    ) -> AnswerPlan:
        immutable = is_immutable(resolved)
        selected = Selected(
            size=representation.size,
            etag=etag(representation.id),
            media_type=representation.media_type,
            cache_control=self._answers.cache_control(immutable=immutable, private=self._keys is not None),
            last_modified=resolved.published_at // 1000,
            dates_identify=immutable,
            sha256=representation.sha256,
        )
        asked = exchange.headers()
        plan = plan_answer(exchange.request.method, _with_quoted_tags(asked), selected)
        headers = dict(plan.headers)
        if plan.status == 200 and by_part and representation.size:
            assert plan.wanted is None or len(plan.wanted) == representation.size
            headers["Content-Range"] = f"bytes 0-{representation.size - 1}/{representation.size}"
            headers["x-amz-mp-parts-count"] = "1"
            plan = replace(plan, status=206)
        wants_checksum = asked.get("x-amz-checksum-mode", "").lower() == "enabled"
        if plan.status == 200 and wants_checksum and representation.sha256 is not None:
            digest = bytes.fromhex(representation.sha256)
            headers["x-amz-checksum-sha256"] = base64.b64encode(digest).decode("ascii")
            headers["x-amz-checksum-type"] = "FULL_OBJECT"
        # Never a redirect: boto3 would follow it for ever, others take it for an error.
        return replace(plan, headers=headers, may_redirect=False)


def _respond(exchange: Exchange, body: bytes) -> web.StreamResponse:
    headers = {
        "Content-Type": documents.XML,
        "Content-Length": str(len(body)),
        "Cache-Control": "no-store",
        **_REGION,
    }
    return exchange.respond(200, headers, body)


def _with_quoted_tags(headers: Mapping[str, str]) -> Mapping[str, str]:
    """Put ETags into the quotes that S3 does not insist on."""
    names = [name for name in ("if-match", "if-none-match") if name in headers]
    if not names:
        return headers
    return {**headers, **{name: _CONTENT_ID.sub(r'"\g<0>"', headers[name]) for name in names}}


def _host(request: web.BaseRequest) -> str:
    """Return the host that was meant: of an absolute target its own (RFC 9112, 3.2.2)."""
    target = request.raw_path
    if not target.startswith("/") and "://" in target:
        return urlsplit(target).netloc.rpartition("@")[2]
    return request.headers.get("Host", "")


def _signed(request: web.BaseRequest) -> SignedRequest:
    path, query = split_target(request.raw_path)
    headers: dict[str, list[str]] = {}
    for name, value in request.headers.items():
        headers.setdefault(name.lower(), []).append(value)
    return SignedRequest(request.method, path, query, headers)


def _is_near(request: web.BaseRequest) -> bool:
    connection = request.protocol
    if isinstance(connection, Connection) and connection.is_unix:
        return True
    peer = None if request.transport is None else request.transport.get_extra_info("peername")
    if not isinstance(peer, tuple):
        return False
    address = ip_address(str(peer[0]).partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
