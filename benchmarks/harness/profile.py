"""How much is measured: seconds, a quarter of an hour, or the whole matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, TypeVar

__all__ = ["PROFILES", "GiB", "MiB", "Profile", "ProfileName"]

ProfileName: TypeAlias = Literal["quick", "bench", "full"]
T = TypeVar("T")

MiB = 1024 * 1024
GiB = 1024 * MiB


@dataclass(frozen=True, slots=True)
class Profile:
    """One of ``PROFILES``.

    Attributes:
        name: ``quick`` shows that every benchmark still runs (the suite within two minutes); ``bench`` gives
            figures (a quarter of an hour); ``full`` is the whole matrix, resumable, and feeds
            docs/performance.md.
        rounds: how often each arm of a comparison is measured, where nothing else is said.
        paired_rounds: how often where the 95% interval of paired ratios is judged.
        resumable: whether what stands in the results already is kept, and not measured again.
    """

    name: ProfileName
    rounds: int
    paired_rounds: int
    resumable: bool = False

    def pick(self, *, quick: T, bench: T, full: T) -> T:
        """Return the value for this profile."""
        values: dict[ProfileName, T] = {"quick": quick, "bench": bench, "full": full}
        return values[self.name]


PROFILES: dict[str, Profile] = {
    "quick": Profile("quick", rounds=1, paired_rounds=1),
    "bench": Profile("bench", rounds=3, paired_rounds=5),
    "full": Profile("full", rounds=5, paired_rounds=15, resumable=True),
}
