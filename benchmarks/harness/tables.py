"""Results as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from .results import Cell, Goal, Results, Skip
from .statistics import Interval, spread

__all__ = ["benchmark_section", "figure", "markdown_table"]


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table; every column after the first is aligned right."""
    lines = [head, ["---", *("---:" for _ in head[1:])], *rows]
    return "\n".join(f"| {' | '.join(text.replace('|', '/') for text in line)} |" for line in lines)


def figure(value: float) -> str:
    """Return a number with three significant digits, and no exponent."""
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 100:
        return f"{value:.0f}"
    if size >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if size >= 1 else f"{value:.3g}" if size >= 1e-4 else f"{value:.6f}"


def _spread(values: Sequence[float]) -> str:
    found = spread(values)
    middle = figure(found.mid)
    return middle if len(values) == 1 else f"{middle} ({figure(found.low)}–{figure(found.high)})"


def benchmark_section(results: Results, benchmark: str, *, judged: bool = True) -> str:
    """Return a benchmark's tables: its goals, the figures by unit and ``x_label``, and what was skipped.

    Args:
        results: of any profile.
        benchmark: name of the module.
        judged: whether goals are shown at all.
    """
    cells = results.of(benchmark)
    parts = []
    goals = [goal for goal in results.goals if goal.benchmark == benchmark]
    if goals and judged:
        parts.append(goals_table(goals))
    # What grows with one thing stands apart from what grows with another.
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.unit, cell.facts.get("x_label", "")), []).append(cell)
    parts += [_figures(unit, group) for (unit, _), group in groups.items()]
    skips = [skip for skip in results.skips if skip.benchmark == benchmark]
    if skips:
        parts.append("Skipped:\n\n" + "\n".join(_skipped(skip) for skip in skips))
    return "\n\n".join(parts) or "Nothing was measured."


def _skipped(skip: Skip) -> str:
    what = ", ".join(filter(None, (skip.arm, skip.key))) or "what is not above"
    return f"- {what}: {skip.reason}"


def goals_table(goals: Sequence[Goal]) -> str:
    """Return what was wanted, what was measured, and whether it is reached."""
    rows = []
    for goal in goals:
        verdict = {True: "yes", False: "**no**", None: "not judged"}[goal.reached]
        if goal.measured is None:
            rows.append([goal.text, goal.wanted, f"not measured: {goal.reason}", "–"])
        else:
            rows.append([goal.text, goal.wanted, _interval(goal.measured), verdict])
    return markdown_table(["goal", "wanted", "measured", "reached"], rows)


def _interval(interval: Interval) -> str:
    if interval.low == interval.high:
        return figure(interval.mid)
    return f"{figure(interval.mid)} ({figure(interval.low)}–{figure(interval.high)})"


def _figures(unit: str, cells: Sequence[Cell]) -> str:
    keys = list(dict.fromkeys(cell.key for cell in cells))
    arms = list(dict.fromkeys(cell.arm for cell in cells))
    shown = {(cell.key, cell.arm): _spread(cell.values) for cell in cells}
    # Wide tables cannot be read: the longer list goes down.
    if len(arms) > len(keys):
        rows = [[arm, *(shown.get((key, arm), "–") for key in keys)] for arm in arms]
        return markdown_table([unit, *keys], rows)
    rows = [[key, *(shown.get((key, arm), "–") for arm in arms)] for key in keys]
    return markdown_table([unit, *arms], rows)
