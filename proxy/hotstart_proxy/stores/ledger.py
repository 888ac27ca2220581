"""What a store's bytes add up to, in memory: a file counts until it has no name and nobody reads it."""

from __future__ import annotations

__all__ = ["Ledger", "Space"]


class Ledger:
    """The sum of all spaces, against a budget."""

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self.used_bytes = 0

    def fits_now(self, size: int) -> bool:
        """Tell whether size more bytes stay within the budget."""
        return self.used_bytes + size <= self.budget_bytes


class Space:
    """The bytes of one file, with a name until ``unname`` and open in this process as often as ``hold`` says.

    Unlinking an open file frees nothing yet, so its bytes are given back when the last of both is gone.
    """

    def __init__(self, ledger: Ledger, size: int) -> None:
        self.size = size
        self._ledger = ledger
        self._named = True
        self._holders = 0
        ledger.used_bytes += size

    @property
    def named(self) -> bool:
        """Tell whether the file still has a name."""
        return self._named

    def hold(self) -> None:
        """Count one more open file."""
        self._holders += 1

    def let_go(self) -> None:
        """Count one open file less."""
        self._holders -= 1
        self._settle()

    def unname(self) -> None:
        """Note that the file is unlinked (or replaced); idempotent."""
        if self._named:
            self._named = False
            self._settle()

    def _settle(self) -> None:
        if not self._named and self._holders == 0:
            self._ledger.used_bytes -= self.size
