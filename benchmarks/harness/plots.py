"""Results as PNG: bars of medians, or lines where a figure is a function of a size."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from .results import Cell, Results
from .statistics import spread

__all__ = ["draw"]


def draw(results: Results, folder: Path) -> list[Path]:
    """Draw one plot for every benchmark and unit: ``BENCHMARK-UNIT.png``; return their paths.

    Cells with a fact ``x`` (a positive number, its meaning in ``x_label``) become lines on logarithmic axes,
    one for each arm; all others become bars. Bars and whiskers are medians and quartiles.
    """
    paths = []
    groups: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in results.cells:
        label = cell.facts["x_label"] if "x" in cell.facts else ""
        groups.setdefault((cell.benchmark, cell.unit, label), []).append(cell)
    for (benchmark, unit, label), cells in groups.items():
        figure = Figure(figsize=(9, 4.5), layout="constrained")
        axes = figure.subplots()
        if label:
            _lines(axes, cells, label)
        else:
            _bars(axes, cells)
        axes.set_ylabel(unit)
        axes.set_title(benchmark)
        axes.legend(fontsize="small")
        name = re.sub(r"[^a-z0-9]+", "-", f"{unit} {label}".lower()).strip("-")
        path = folder / f"{benchmark}-{name}.png"
        # No date and no version in it: the same figures give the same file.
        figure.savefig(path, dpi=110, metadata={"Software": None})
        paths.append(path)
    return paths


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
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(label)
