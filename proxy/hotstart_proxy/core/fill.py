"""The state of one fill: which pieces are asked for, in flight and done, and what to fetch next.

The rules, of which everything below is the carrying out:

- A fill fetches the union of what was asked, rounded to pieces, each piece once however many ask. What
  ``core.foresight`` says will be asked is asked on nobody's behalf.
- The piece that a reader waits for goes first, so a range far ahead is fetched rather than waited for.
  Readers of one tier take turns, and a higher tier has all that it asked for before a lower one gets
  anything. Only when nobody of a tier waits for a piece that is not already on its way is there read-ahead
  for it, and only within what was asked.
- What was asked stays asked when its reader goes away: the bytes are wanted again soon.
- What another process has claimed is waited for, and asked for again when that process has written it (it
  is verified here then) or has given it up.

Every piece is in one state, and moves so::

    UNASKED --ask--> ASKED --next_run--> FLYING --done--> DONE
       ^               |  ^               |  |
       +----forget-----+  +----failed-----+  +--elsewhere--> ELSEWHERE
       |                  +---------------returned---------------+ |
       +-----------------------forget------------------------------+

Whoever changes this table changes the property test beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass

from .tiers import Tier

__all__ = ["FillState"]

_UNASKED, _ASKED, _FLYING, _DONE, _ELSEWHERE = range(5)


@dataclass(slots=True)
class _Demand:
    """What one reader still has to get: pieces from position (the one it needs next) up to stop.

    Pieces before ahead are known to be done or in flight, so that they are not looked at again.
    """

    position: int
    stop: int
    ahead: int
    tier: Tier


class FillState:
    """Decides for one fill; whoever owns it does the fetching and reports back."""

    def __init__(self, done: Sequence[bool], longest_run: int) -> None:
        """Begin with the pieces that are there already.

        Args:
            done: one flag a piece.
            longest_run: pieces fetched by one request at most, at least 1; may be set anew at any time.
        """
        self._states = bytearray(_DONE if flag else _UNASKED for flag in done)
        self.longest_run = longest_run
        self._asked = 0
        self._flying = 0
        self._left = self._states.count(_UNASKED)
        # In the order of turns: who was served last stands last.
        self._demands: dict[int, _Demand] = {}
        self._next_token = 0

    @property
    def complete(self) -> bool:
        """Tell whether every piece is done."""
        return self._left == 0

    @property
    def idle(self) -> bool:
        """Tell whether nothing is asked for or in flight."""
        return self._asked == 0 and self._flying == 0

    @property
    def asked(self) -> int:
        """Return how many pieces wait to be fetched."""
        return self._asked

    @property
    def readers(self) -> int:
        """Return how many readers have not left."""
        return len(self._demands)

    @property
    def urgent(self) -> bool:
        """Tell whether some reader's very next piece is fetched by nobody yet."""
        return any(
            demand.position < demand.stop and self._states[demand.position] == _ASKED
            for demand in self._demands.values()
        )

    def is_done(self, piece: int) -> bool:
        """Tell whether piece is verified and kept."""
        return self._states[piece] == _DONE

    def is_asked(self, piece: int) -> bool:
        """Tell whether piece waits to be fetched."""
        return self._states[piece] == _ASKED

    @property
    def waits_for_others(self) -> bool:
        """Tell whether some piece is with another process."""
        return self._states.find(_ELSEWHERE) >= 0

    def done_until(self, piece: int) -> int:
        """Return the first piece at or after piece that is not done, or the count of pieces."""
        while piece < len(self._states) and self._states[piece] == _DONE:
            piece += 1
        return piece

    def join(self, wanted: range, tier: Tier = Tier.STANDARD) -> int:
        """Take in a reader that wants these consecutive pieces; return the token it goes by."""
        token = self._next_token
        self._next_token += 1
        self._demands[token] = _Demand(wanted.start, wanted.stop, wanted.start, tier)
        self.ask(wanted)
        return token

    def ask(self, wanted: range) -> None:
        """Ask for pieces on nobody's behalf; those asked for, in flight or done already change nothing."""
        for piece in wanted:
            if self._states[piece] == _UNASKED:
                self._states[piece] = _ASKED
                self._asked += 1

    def move(self, token: int, piece: int) -> None:
        """Note which piece a reader needs next."""
        demand = self._demands[token]
        demand.position = piece
        demand.ahead = max(demand.ahead, piece)

    def leave(self, token: int) -> None:
        """Let a reader go; what it asked for stays asked. A token that has left already changes nothing."""
        self._demands.pop(token, None)

    def next_run(self, *, urgent_only: bool = False) -> range | None:
        """Choose the pieces to fetch next and count them as in flight.

        Args:
            urgent_only: only for a reader whose very next piece nobody fetches yet; no read-ahead.

        Returns:
            Consecutive pieces, at most the longest run; None if there is nothing to fetch.
        """
        if self._asked == 0:
            return None
        start = self._choose(urgent_only=urgent_only)
        if start is None:
            return None
        stop = start
        while stop < len(self._states) and stop - start < self.longest_run and self._states[stop] == _ASKED:
            self._states[stop] = _FLYING
            stop += 1
        self._asked -= stop - start
        self._flying += stop - start
        return range(start, stop)

    def _choose(self, *, urgent_only: bool) -> int | None:
        for tier in sorted({demand.tier for demand in self._demands.values()}, reverse=True):
            demands = [(token, demand) for token, demand in self._demands.items() if demand.tier == tier]
            start = self._awaited(demands)
            if start is None and not urgent_only:
                start = self._ahead(demands)
            if start is not None:
                return start
        # Whoever asked for what is left has gone.
        found = -1 if urgent_only else self._states.find(_ASKED)
        return None if found < 0 else found

    def _awaited(self, demands: Iterable[tuple[int, _Demand]]) -> int | None:
        for token, demand in demands:
            if demand.position < demand.stop and self._states[demand.position] == _ASKED:
                self._end_turn(token)
                return demand.position
        return None

    def _ahead(self, demands: Iterable[tuple[int, _Demand]]) -> int | None:
        for token, demand in demands:
            while demand.ahead < demand.stop and self._states[demand.ahead] != _ASKED:
                demand.ahead += 1
            if demand.ahead < demand.stop:
                self._end_turn(token)
                return demand.ahead
        return None

    def _end_turn(self, token: int) -> None:
        self._demands[token] = self._demands.pop(token)

    def done(self, piece: int) -> None:
        """Note that a piece in flight is verified and kept."""
        if self._states[piece] != _FLYING:
            raise ValueError(f"piece {piece} is not in flight")
        self._states[piece] = _DONE
        self._flying -= 1
        self._left -= 1

    def failed(self, pieces: Iterable[int]) -> None:
        """Note that pieces are no longer in flight; those that are not done are asked for again."""
        for piece in pieces:
            if self._states[piece] != _FLYING:
                continue
            self._states[piece] = _ASKED
            self._flying -= 1
            self._asked += 1
            self._look_again(piece)

    def _look_again(self, piece: int) -> None:
        for demand in self._demands.values():
            if demand.position <= piece < demand.ahead:
                demand.ahead = piece

    def elsewhere(self, piece: int) -> None:
        """Note that a piece in flight has been claimed by another process."""
        if self._states[piece] != _FLYING:
            raise ValueError(f"piece {piece} is not in flight")
        self._states[piece] = _ELSEWHERE
        self._flying -= 1

    def returned(self, busy: Set[int]) -> bool:
        """Ask again for the pieces with other processes, but for those that are still busy there.

        Args:
            busy: pieces that others have claimed and not yet written.

        Returns:
            Whether there were any.
        """
        found = False
        for piece, state in enumerate(self._states):
            if state == _ELSEWHERE and piece not in busy:
                self._states[piece] = _ASKED
                self._asked += 1
                self._look_again(piece)
                found = True
        return found

    def forget(self, tokens: Iterable[int]) -> None:
        """Let these readers go, and ask for nothing but what the others still need.

        Called when the origin failed them: whoever comes next asks anew.
        """
        for token in tokens:
            self._demands.pop(token, None)
        for piece, state in enumerate(self._states):
            if state in (_ASKED, _ELSEWHERE):
                self._states[piece] = _UNASKED
        self._asked = 0
        for demand in self._demands.values():
            demand.ahead = demand.position
            self.ask(range(demand.position, demand.stop))

    def needs(self, token: int, piece: int) -> bool:
        """Tell whether a reader still needs piece."""
        demand = self._demands.get(token)
        return demand is not None and demand.position <= piece < demand.stop
