"""The proof, by a throw-away object, that an origin keeps to conditions on writes."""

from __future__ import annotations

import secrets

from hotstart.wire.references import RESERVED_PREFIX

from .base import AlreadyExists, ObjectChanged, Origin, OriginUnfit

__all__ = ["prove_conditions"]

_DOING = "checking that conditional writes hold"


async def prove_conditions(origin: Origin) -> None:
    """Write, try to write again against the conditions, and delete.

    Raises:
        OriginUnfit: a write went through that should not.
        OriginError: the origin could not be asked.
    """
    key = f"{RESERVED_PREFIX}/probe-{secrets.token_hex(8)}"
    first = await origin.put(key, b"first", create_only=True)
    try:
        try:
            await origin.put(key, b"second", create_only=True)
        except AlreadyExists:
            pass
        else:
            raise _unfit(origin, "If-None-Match: *")
        replaced = await origin.put(key, b"third", if_match=first.etag)
        try:
            await origin.put(key, b"fourth", if_match=first.etag)
        except ObjectChanged:
            pass
        else:
            raise _unfit(origin, "If-Match")
        found = await origin.head(key)
        if found is None or found.etag != replaced.etag:
            raise OriginUnfit(origin.url, _DOING, "it does not show at once what was written to it")
    finally:
        await origin.delete(key)


def _unfit(origin: Origin, condition: str) -> OriginUnfit:
    return OriginUnfit(
        origin.url,
        _DOING,
        f"it ignores {condition}, so two publishers could overwrite each other: use an origin that has "
        "conditional writes, as S3 does",
    )
