"""The proxy's driver of ``hotstart.wire.catalog``: what a plan asks for is asked of an origin."""

from __future__ import annotations

from typing import TypeVar

from hotstart.wire.adoption import Layout
from hotstart.wire.catalog import Catalog, Listing, ListObjects, ObjectBytes, Plan

from .base import Origin

__all__ = ["catalog_of", "perform"]

T = TypeVar("T")


def catalog_of(origin: Origin, layout: Layout) -> Catalog:
    """Return the catalog of an origin's tree."""
    identity = origin.identity
    return Catalog(layout, identity.endpoint, identity.bucket, identity.prefix)


async def perform(origin: Origin, plan: Plan[T]) -> T:
    """Carry out a plan and return what it comes to.

    Raises:
        OriginError: a request failed; the plan ends there.
        FormatError: as the plan says.
    """
    answer: ObjectBytes | Listing | None = None
    try:
        while True:
            request = plan.send(answer)
            if isinstance(request, ListObjects):
                answer = await origin.list(request.prefix, recursive=request.recursive)
            else:
                answer = await origin.read(request.key, request.known_etag)
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        plan.close()
