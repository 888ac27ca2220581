"""Results as PNG: bars of medians, or lines where a figure is a function of a size."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from .results import Cell, Results
from .statistics import median, spread

__all__ = ["draw"]

_TIME_OR_SPEED = re.compile(r"(s|ms|GB/s)\b")


def draw(results: Results, folder: Path) -> list[Path]:
    """Draw the figures that each benchmark puts first: ``BENCHMARK-UNIT.png``; return the files.

    That is one plot for a benchmark, of its first unit of time or speed, and one more for everything that it
    makes grow: cells with a fact ``x`` (a positive number, its meaning in ``x_label``) become lines on
    logarithmic axes, one for each arm; all others become bars. Whiskers are quartiles.
    """
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in results.cells:
        groups.setdefault((cell.benchmark, cell.facts.get("x_label", "")), []).append(cell)
    return [_draw(_first_unit(cells), *names, folder) for names, cells in groups.items()]


def _first_unit(cells: Sequence[Cell]) -> list[Cell]:
    units = list(dict.fromkeys(cell.unit for cell in cells))
    unit = next(filter(_TIME_OR_SPEED.match, units), units[0])
    return [cell for cell in cells if cell.unit == unit]


def _draw(cells: Sequence[Cell], benchmark: str, label: str, folder: Path) -> Path:
    unit = cells[0].unit
    # Wide enough that a bar can be told from the next.
    figure = Figure(figsize=(max(9.0, 0.25 * len(cells) + 3), 4.5), layout="constrained")
    axes = figure.subplots()
    if label:
        _lines(axes, cells, label)
    else:
        _bars(axes, cells)
    axes.set_ylabel(unit)
    axes.set_title(benchmark)
    figure.legend(fontsize="small", loc="outside right upper")
    name = re.sub(r"[^a-z0-9]+", "-", f"{unit} {label}".lower()).strip("-")
    path = folder / f"{benchmark}-{name}.png"
    # No date and no version in it: the same figures give the same file.
    figure.savefig(path, dpi=110, metadata={"Software": None})
    return path


def _error(values: Sequence[float]) -> tuple[float, float, float]:
    found = spread(values)
    return found.mid, found.mid - found.low, found.high - found.mid


def _bars(axes: Any, cells: Sequence[Cell]) -> None:
    keys = list(dict.fromkeys(cell.key for cell in cells))
    arms = list(dict.fromkeys(cell.arm for cell in cells))
    width = 0.8 / len(arms)
    for place, arm in enumerate(arms):
        own = [(keys.index(cell.key), *_error(cell.values)) for cell in cells if cell.arm == arm]
        where = [at + (place - (len(arms) - 1) / 2) * width for at, *_ in own]
        errors = [[low for *_, low, _ in own], [high for *_, high in own]]
        axes.bar(where, [mid for _, mid, *_ in own], width, yerr=errors, capsize=2, label=arm)
    axes.set_xticks(range(len(keys)), keys, rotation=20, ha="right", fontsize="small")


def _lines(axes: Any, cells: Sequence[Cell], label: str) -> None:
    for arm in dict.fromkeys(cell.arm for cell in cells):
        own = sorted((cell.facts["x"], *_error(cell.values)) for cell in cells if cell.arm == arm)
        errors = [[low for *_, low, _ in own], [high for *_, high in own]]
        xs, mids = [x for x, *_ in own], [mid for _, mid, *_ in own]
        axes.errorbar(xs, mids, yerr=errors, marker="o", capsize=2, label=arm)
    medians = [median(cell.values) for cell in cells]
    axes.set_xscale("log")
    axes.set_yscale("log")
    # What hardly changes shall look so.
    axes.set_ylim(min(medians) / 3, max(medians) * 3)
    axes.set_xlabel(label)
