"""The Hub facade: handlers of the routes below ``/hub``."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from urllib.parse import quote, urlencode

from aiohttp import web

from hotstart.wire import documents as json_documents
from hotstart.wire.digests import etag, sha256_id
from hotstart.wire.references import Reference
from hotstart_proxy.cache.answers import NotFound, Resolved
from hotstart_proxy.cache.cache import Cache
from hotstart_proxy.server.exchanges import Exchange
from hotstart_proxy.server.facades import Action, Facade
from hotstart_proxy.server.file_answers import FileAnswers, is_immutable
from hotstart_proxy.server.problems import Form, InvalidQuery, MethodNotAllowed, Problem
from hotstart_proxy.server.routes import RouteName, route_of
from hotstart_proxy.server.selection import Selected, plan_answer

from .commits import Commits, commit_of
from .documents import commits_document, model_document, paths_document, tree_page
from .forms import COMMIT_HEADER, hub_form
from .queries import MAX_BODY_BYTES, parse_paths_query, parse_tree_query, wants_blobs
from .targets import Target, find_target, is_commit, selector_of

__all__ = ["HubFacade"]

# Many clients wait no longer for an answer than this, so nobody waits for the rest of such a body either.
_BODY_SECONDS = 10.0


class HubFacade(Facade):
    """The Hugging Face Hub's read protocol."""

    prefix = "/hub"

    def __init__(self, cache: Cache, answers: FileAnswers) -> None:
        self._answers = answers
        self._commits = Commits(cache)
        self._handlers = {
            RouteName.HUB_FILE: self._file,
            RouteName.HUB_MODEL: self._model,
            RouteName.HUB_REVISION: self._model,
            RouteName.HUB_TREE: self._tree,
            RouteName.HUB_PATHS: self._paths,
            RouteName.HUB_COMMITS: self._commits_of,
        }

    def find(self, request: web.BaseRequest, path: str, query: str) -> Action:
        """Find what a request asks for (see ``Facade``)."""
        target = find_target(path)
        allowed = route_of(target.route).methods
        if request.method not in allowed:
            raise MethodNotAllowed(request.method, allowed)
        return Action(target.route, partial(self._handlers[target.route], target=target, query=query))

    def form(self, request: web.BaseRequest, problem: Problem) -> Form:
        """Put a problem into the Hub's form."""
        return hub_form(problem)

    async def _file(self, exchange: Exchange, target: Target, query: str) -> web.StreamResponse:
        resolved, commit = await self._resolve(exchange, target)
        manifest = resolved.manifest
        representation = manifest.representation(target.path)
        if representation is None:
            raise _no_such_file(resolved, target)
        place = f"{self.prefix}/{manifest.model}/resolve/{commit}/{quote(representation.path)}"
        immutable = self._is_immutable(resolved, target)
        selected = Selected(
            size=representation.size,
            etag=etag(representation.id),
            media_type=representation.media_type,
            cache_control=self._answers.cache_control(immutable=immutable),
            last_modified=resolved.published_at // 1000,
            dates_identify=immutable,
            content_location=None if is_commit(target.revision) else place,
            sha256=representation.sha256,
        )
        plan = plan_answer(exchange.request.method, exchange.headers(), selected)
        linked = {
            COMMIT_HEADER: commit,
            "X-Linked-Size": str(representation.size),
            "X-Linked-Etag": selected.etag,
        }
        # Never a redirect: clients take commit, size and digest from whoever answers, S3 included.
        plan = replace(plan, headers={**plan.headers, **linked}, may_redirect=False)
        return await self._answers.respond(exchange, resolved, representation, plan)

    async def _model(self, exchange: Exchange, target: Target, query: str) -> web.StreamResponse:
        blobs = wants_blobs(query)
        resolved, _ = await self._resolve(exchange, target)
        return self._respond(exchange, target, resolved, model_document(resolved, blobs=blobs))

    async def _commits_of(self, exchange: Exchange, target: Target, query: str) -> web.StreamResponse:
        resolved, _ = await self._resolve(exchange, target)
        return self._respond(exchange, target, resolved, commits_document(resolved))

    async def _tree(self, exchange: Exchange, target: Target, query: str) -> web.StreamResponse:
        asked = parse_tree_query(query)
        resolved, commit = await self._resolve(exchange, target)
        page = tree_page(
            resolved,
            target.path,
            recursive=asked.recursive,
            expand=asked.expand,
            limit=asked.limit,
            cursor=asked.cursor,
        )
        if page is None:
            raise _no_such_file(resolved, target)
        headers = {}
        if page.cursor is not None:
            # Of this very version, whatever an alias means by then.
            tree = f"{self.prefix}/api/models/{resolved.manifest.model}/tree/{commit}"
            folder = f"/{quote(target.path, safe='')}" if target.path else ""
            following = urlencode(
                {
                    "recursive": asked.recursive,
                    "expand": asked.expand,
                    "limit": asked.limit,
                    "cursor": page.cursor,
                }
            )
            headers["Link"] = f'<{_own_address(exchange.request)}{tree}{folder}?{following}>; rel="next"'
        return self._respond(exchange, target, resolved, page.entries, headers)

    async def _paths(self, exchange: Exchange, target: Target, query: str) -> web.StreamResponse:
        body = await _read_body(exchange.request)
        asked = parse_paths_query(exchange.headers().get("content-type", ""), body)
        resolved, commit = await self._resolve(exchange, target)
        data = json_documents.dump_json(paths_document(resolved, asked.paths, expand=asked.expand))
        headers = {"Content-Type": "application/json", "Cache-Control": "no-store", COMMIT_HEADER: commit}
        return exchange.respond(200, headers, data)

    async def _resolve(self, exchange: Exchange, target: Target) -> tuple[Resolved, str]:
        """Resolve model and revision once; from then on every problem says the version's id, too."""
        if not is_commit(target.revision):
            resolved = await self._answers.resolve(exchange, Reference(target.model, selector_of(target)))
            commit = commit_of(resolved)
        else:
            assert target.revision is not None
            commit = target.revision.lower()
            version = await self._commits.version(target.model, commit)
            resolved = await self._answers.resolve(exchange, Reference(target.model, version))
            if commit_of(resolved) != commit:
                # It has changed between one look and the next.
                raise NotFound("version", f"{target.model}@{commit}")
        exchange.form = partial(hub_form, commit=commit)
        return resolved, commit

    def _is_immutable(self, resolved: Resolved, target: Target) -> bool:
        return is_commit(target.revision) or is_immutable(resolved)

    def _respond(
        self,
        exchange: Exchange,
        target: Target,
        resolved: Resolved,
        document: object,
        headers: dict[str, str] | None = None,
    ) -> web.StreamResponse:
        data = json_documents.dump_json(document)
        selected = Selected(
            size=len(data),
            etag=etag(sha256_id(data)),
            media_type="application/json",
            cache_control=self._answers.cache_control(immutable=self._is_immutable(resolved, target)),
        )
        plan = plan_answer(exchange.request.method, exchange.headers(), selected)
        answer_headers = {**plan.headers, COMMIT_HEADER: commit_of(resolved), **(headers or {})}
        if plan.wanted is None:
            return exchange.respond_head(plan.status, answer_headers)
        return exchange.respond(plan.status, answer_headers, data[plan.wanted.start : plan.wanted.stop])


def _no_such_file(resolved: Resolved, target: Target) -> NotFound:
    manifest = resolved.manifest
    name = f"{manifest.model}@{manifest.version}/{target.path}"
    return NotFound("file", name, tuple(file.path for file in manifest.files[:5]))


def _own_address(request: web.BaseRequest) -> str:
    """Return scheme and authority by which the client has reached us, as far as it or its proxy says."""
    scheme = request.headers.get("X-Forwarded-Proto", request.scheme)
    return f"{'https' if scheme == 'https' else 'http'}://{request.host}"


async def _read_body(request: web.BaseRequest) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            while chunk := await request.content.readany():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise InvalidQuery("paths", f"the body is longer than {MAX_BODY_BYTES} bytes")
    except TimeoutError as error:
        raise InvalidQuery("paths", f"the body did not arrive within {_BODY_SECONDS:.0f} s") from error
    return bytes(body)
