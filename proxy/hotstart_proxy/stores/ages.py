"""How long files have lain untouched, also where somebody sets the clock."""

from __future__ import annotations

from collections.abc import Collection

from .system import System

__all__ = ["Ages"]

# More than what keeping a clock right moves it by at once.
_SET_SECONDS = 60.0


class Ages:
    """By the clock, as long as it can be believed: else by how long this process has watched a file.

    It cannot where it has been set since we began, or where a file is dated later than now. A clock that was
    set forward by days must not make everything old, nor one set back make nothing ever so.
    """

    def __init__(self, system: System) -> None:
        self._system = system
        self._offset = system.wall_seconds() - system.steady_seconds()
        self._watched: dict[str, tuple[float, float]] = {}

    def idle_seconds(self, name: str, changed_at: float) -> float:
        """Return for how long a file has not changed.

        Args:
            name: which; it is watched from the first call on.
            changed_at: its time stamp, in seconds since the epoch.
        """
        wall, steady = self._system.wall_seconds(), self._system.steady_seconds()
        seen = self._watched.get(name)
        if seen is None or seen[0] != changed_at:
            seen = self._watched[name] = (changed_at, steady)
        was_set = abs(wall - steady - self._offset) > _SET_SECONDS
        return steady - seen[1] if was_set or wall < changed_at else wall - changed_at

    def forget_others(self, names: Collection[str]) -> None:
        """Watch nothing but these."""
        self._watched = {name: seen for name, seen in self._watched.items() if name in names}
