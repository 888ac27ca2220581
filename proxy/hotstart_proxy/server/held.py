"""What the stores hold, as members of the answers that list models and versions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from urllib.parse import parse_qs

from aiohttp import web

from hotstart.wire import documents
from hotstart_proxy.cache.uses import HeldVersion, StoreView

from .exchanges import Exchange
from .problems import InvalidQuery

__all__ = ["describe_stores", "respond_stores", "wants_stores"]


def wants_stores(query: str) -> bool:
    """Tell whether a query asks for what the stores hold.

    Raises:
        InvalidQuery: it asks for something else.
    """
    try:
        values = parse_qs(query, keep_blank_values=True, max_num_fields=16).get("detail")
    except ValueError as error:
        raise InvalidQuery("detail", "too many parameters") from error
    if values is None:
        return False
    if values[-1] != "stores":
        raise InvalidQuery("detail", "expected stores")
    return True


def describe_stores(stores: Iterable[StoreView], model: str | None = None) -> list[dict[str, object]]:
    """Return what each store holds: of one model by version, or of all of them by model."""
    return [
        {
            "store": view.store,
            "used_bytes": view.used_bytes,
            "budget_bytes": view.budget_bytes,
            **(
                {"models": {name: _versions(versions) for name, versions in view.models.items()}}
                if model is None
                else {"versions": _versions(view.models.get(model, {}))}
            ),
        }
        for view in stores
    ]


def _versions(versions: Mapping[str, HeldVersion]) -> dict[str, object]:
    return {
        version: {
            "bytes": held.bytes,
            "pinned": held.is_pinned,
            "hits": held.hits,
            "used_seconds_ago": held.used_seconds_ago,
            "filled_seconds_ago": held.filled_seconds_ago,
        }
        for version, held in versions.items()
    }


def respond_stores(exchange: Exchange, members: Mapping[str, object]) -> web.StreamResponse:
    """Answer with a document that holds counters, which nobody may keep."""
    body = documents.dump_json(members)
    return exchange.respond(200, {"Content-Type": "application/json", "Cache-Control": "no-store"}, body)
