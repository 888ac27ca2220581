"""Who gets what there is little of: slots by tier, and turns to send.

**Slots.** A fixed number of slots (piece buffers of fills, reads that are passed on) goes around among
waiters. The rules:

- A free slot goes to the waiter of the highest tier, within a tier to who has waited longest. So while a
  waiter of a higher tier may have a slot, no lower one gets any: premium never waits behind batch, and a
  lower tier has what the higher ones leave.
- Ceilings keep slots free for those who come later: holders of a tier and of all tiers under it together
  are never granted more than that tier's ceiling. What lies between two ceilings is within reach of higher
  tiers at once, however many lower ones wait.
- Tiers change while one waits or holds (readers of a fill come and go), so everybody's tier is asked at
  the moment of a grant. Nothing is taken back from a holder whose tier has sunk; its slot counts where the
  holder stands now.

**Turns.** Bytes are sent by one loop, a bounded amount at a time. Batch sends nothing while a premium
transfer has something to send and room to send it, nor for a moment after: the socket of a reader that
takes bytes as fast as the line carries them is full most of the time, and what batch puts on the line
meanwhile is taken from it. That the connection of a batch reader does not die of this, it may send one
portion now and then while every premium transfer rests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import count

from .tiers import Tier

__all__ = ["SendTurns", "SlotQueue"]

# A premium socket that has been full for longer belongs to a reader that is slower than the line.
_PREMIUM_REST_SECONDS = 0.05
# Well under any client's patience between two bytes.
_BATCH_PATIENCE_SECONDS = 1.0


class SlotQueue:
    """Decides who holds slots; whoever owns it tells the waiters."""

    def __init__(self, ceilings: Mapping[Tier, int]) -> None:
        """Begin with all slots free.

        Args:
            ceilings: for every tier, how many slots it and all tiers under it may hold together; rising,
                at least 1, the highest being the number of slots.
        """
        self._ceilings = dict(ceilings)
        self._slots = ceilings[max(Tier)]
        # In the order of their coming.
        self._waiting: dict[int, Callable[[], Tier]] = {}
        self._held: dict[int, Callable[[], Tier]] = {}
        self._tokens = count()

    @property
    def slots(self) -> int:
        """Return how many slots there are."""
        return self._slots

    @property
    def held(self) -> int:
        """Return how many slots are held."""
        return len(self._held)

    @property
    def waiting(self) -> int:
        """Return how many wait for one."""
        return len(self._waiting)

    def ask(self, tier: Callable[[], Tier]) -> int:
        """Join the queue; return the token one goes by.

        Args:
            tier: asked whenever slots are granted, while one waits and while one holds.
        """
        token = next(self._tokens)
        self._waiting[token] = tier
        return token

    def leave(self, token: int) -> None:
        """Give a slot back, or wait no longer. A token that has left already changes nothing."""
        self._waiting.pop(token, None)
        self._held.pop(token, None)

    def grant(self) -> list[int]:
        """Grant what can be granted now; return the tokens, in the order of the grants.

        Call it after every ask, leave, and change of anybody's tier.
        """
        granted: list[int] = []
        if not self._waiting or self.held >= self._slots:
            return granted
        ranks = [0] * len(Tier)
        for holder in self._held.values():
            ranks[holder()] += 1
        # A stable sort: within a tier the order of coming.
        for tier, token in sorted(((ask(), token) for token, ask in self._waiting.items()), key=_urgency):
            if not self._may_hold(tier, ranks):
                # Nor may anybody after it: ceilings of higher tiers bind the lower ones too.
                break
            ranks[tier] += 1
            self._held[token] = self._waiting.pop(token)
            granted.append(token)
        return granted

    def _may_hold(self, tier: Tier, ranks: list[int]) -> bool:
        return all(sum(ranks[: above + 1]) < self._ceilings[above] for above in Tier if above >= tier)


def _urgency(waiter: tuple[Tier, int]) -> int:
    return -waiter[0]


class SendTurns:
    """Decides when batch may send. Premium tells what it does; everybody else neither asks nor tells."""

    def __init__(self) -> None:
        self._ready = 0
        self._rested_at = float("-inf")

    @property
    def ready(self) -> int:
        """Return how many premium transfers have bytes to send and room to send them."""
        return self._ready

    def premium_ready(self) -> None:
        """Note that a premium transfer can send; it says when it cannot any more."""
        self._ready += 1

    def premium_rests(self, now: float) -> None:
        """Note that a premium transfer's socket is full, that its next bytes are not here, or its end."""
        self._ready -= 1
        self._rested_at = now

    def batch_waits(self, now: float, sent_at: float) -> float:
        """Return for how many seconds a batch transfer has to wait before it asks again; 0 lets it send.

        Args:
            now: a monotonic clock's, as in premium_rests.
            sent_at: when this transfer last sent, or began.
        """
        if self._ready:
            return _PREMIUM_REST_SECONDS
        due = min(self._rested_at + _PREMIUM_REST_SECONDS, sent_at + _BATCH_PATIENCE_SECONDS)
        return max(0.0, due - now)
