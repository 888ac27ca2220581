"""How a cache behaves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["CacheSettings"]

_DAY_SECONDS = 24 * 60 * 60


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """The cache's settings; names and defaults are the configuration's (docs/configuration.md).

    Attributes:
        keep_versions: newest versions of each model to keep, besides aliased and pinned ones.
        keep_versions_of: the same for single models, by name.
        alias_ttl_seconds: an index older than this is asked for again when it is needed.
        on_miss: ``"stream"`` serves a miss from its fill; ``"redirect"`` sends it to the origin where that
            can be, while the fill runs.
        keep: what ``warm`` fills and a pin holds: ``"identity"``, ``"zst"``, ``"zsp"``.
        partial_ttl_seconds: a fill that nobody has gone on with for so long is dropped.
        fill_connections: requests to the origin at a time for one fill.
        idle_fill_seconds: a fill that nobody reads is let go after so long: its verified pieces stay, but
            other processes on the store may drop them if they need the room.
        scrub_interval_seconds: from the end of a scrub to the next; 0 for none at all.
        presign_seconds: life of the URLs that readers are redirected to.
    """

    keep_versions: int = 5
    keep_versions_of: Mapping[str, int] = field(default_factory=dict)
    alias_ttl_seconds: float = 10.0
    on_miss: Literal["stream", "redirect"] = "stream"
    keep: tuple[str, ...] = ("identity",)
    partial_ttl_seconds: float = _DAY_SECONDS
    # S3 gives 85 to 90 MB/s a connection, and its first byte after 50 to 200 ms: with requests as long as
    # ``core.pace`` makes them, sixteen bring some 900 MB/s.
    fill_connections: int = 16
    idle_fill_seconds: float = 30.0
    presign_seconds: int = 3600
    scrub_interval_seconds: float = 0.0

    def newest_of(self, model: str) -> int:
        """Return how many of a model's newest versions are kept."""
        return self.keep_versions_of.get(model, self.keep_versions)
