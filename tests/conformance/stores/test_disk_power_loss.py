"""A disk store after a power loss: what was not synced may be lost, or kept, in any order."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conformance.stores.disk_journal import Disk, Journal
from tests.conformance.stores.disk_steps import DOCUMENT, NEW, OLD, SCENARIOS, check_and_go_on, memory_folder

SEEDS = 3


def orders() -> list[tuple[str, Callable[[], bool]]]:
    """Return how a power loss may treat what is not durable."""
    return [
        ("nothing kept", lambda: False),
        ("all kept", lambda: True),
        *((f"kept by seed {seed}", some(random.Random(seed))) for seed in range(SEEDS)),
    ]


def some(chance: random.Random) -> Callable[[], bool]:
    """Return what keeps every other change."""
    return lambda: chance.random() < 0.5


@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_power_lost_at_every_step(tmp_path: Path, scenario: str) -> None:
    """A power loss after any step leaves a store that opens, serves only right bytes, and goes on."""
    with memory_folder(tmp_path) as folder:
        root, found = folder / "store", folder / "found"
        await SCENARIOS[scenario].set_up(root)
        root.mkdir(exist_ok=True)
        before = folder / "before"
        shutil.copytree(root, before)
        journal = Journal()
        await SCENARIOS[scenario].run(root, journal)
        shutil.rmtree(root)
        seen = set()
        for steps in range(len(journal.entries) + 1):
            for order, keep in orders():
                shutil.copytree(before, root)
                disk = Disk(root)
                shutil.rmtree(root)
                for _, change in journal.entries[:steps]:
                    change(disk)
                disk.lose_power(keep)
                picture = hash(disk.picture())
                if picture in seen:
                    continue
                seen.add(picture)
                disk.write_to(found)
                try:
                    if scenario == "document":
                        assert (found / "models" / DOCUMENT).read_bytes() in (OLD, NEW)
                    await check_and_go_on(found, torn=True)
                except BaseException as error:
                    error.add_note(f"after {[name for name, _ in journal.entries[:steps]]}, {order}")
                    raise
                shutil.rmtree(found)
        assert len(seen) > 1
