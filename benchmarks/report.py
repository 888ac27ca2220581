"""docs/performance.md from raw numbers: ``python -m benchmarks.report [--profile PROFILE | RESULTS.json]``.

The raw numbers are copied to docs/performance/results.json, the tables made of them stand between two markers
of the page, and the plots lie beside the copy. Without an argument the page is made again from the copy. What
is written by hand, before and after the markers, stays.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from benchmarks import suite
from benchmarks.harness.folders import REPOSITORY
from benchmarks.harness.profile import PROFILES
from benchmarks.harness.results import Results, results_path
from benchmarks.harness.tables import benchmark_section, markdown_table

__all__ = ["NO_FIGURES", "PAGE", "RAW", "page", "with_generated"]

PAGE = REPOSITORY / "docs" / "performance.md"
RAW = REPOSITORY / "docs" / "performance" / "results.json"
BEGIN = "<!-- made by python -m benchmarks.report; edits are overwritten -->"
END = "<!-- end of what is made -->"
NO_FIGURES = (
    "**There are no figures yet.** They are made by `make bench-full` on a quiet machine, which nobody has "
    "run so far."
)


def page(results: Results, level: int = 2, plots: dict[str, list[str]] | None = None) -> str:
    """Return all tables of results, with machine, versions and dates, as Markdown.

    Args:
        results: of any profile.
        level: of the headings.
        plots: links to plots, by benchmark.
    """
    heading = "#" * level
    parts = [f"{heading} Machine and versions\n\n{_machine(results)}"]
    for name in suite.NAMES:
        parts.append(f"{heading} {name}\n\n{suite.load(name).SUMMARY}\n\n{benchmark_section(results, name)}")
        parts += [f"![{name}: {Path(link).stem}]({link})" for link in (plots or {}).get(name, ())]
    return "\n\n".join(parts) + "\n"


def _machine(results: Results) -> str:
    machine = results.machine
    used = {cell.run for cell in results.cells}
    runs = [run for place, run in enumerate(results.runs) if place in used]
    rows = [
        ["CPU", f"{machine['cpu']}, {machine['cpus']} usable"],
        ["memory", f"{machine['memory_bytes'] / 2**30:.0f} GiB"],
        ["kernel, filesystem", f"{machine['kernel']}, {machine['filesystem']}"],
        ["profile", results.profile],
        ["measured", " and ".join(dict.fromkeys(run["began"][:10] for run in runs)) or "nothing"],
    ]
    versions = dict.fromkeys(_listed(run["versions"]) for run in runs)
    rows += [["versions", text] for text in versions]
    states = dict.fromkeys(cell.facts["page_cache"] for cell in results.cells if "page_cache" in cell.facts)
    rows += [["page cache", state] for state in states]
    return markdown_table(["", ""], rows)


def _listed(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {text}" for name, text in versions.items())


def with_generated(text: str, generated: str) -> str:
    """Return a page's text with another generated part.

    Raises:
        ValueError: the markers are not there, once each and in order.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in after:
        raise ValueError(f"the page does not hold {BEGIN!r} and {END!r} once each")
    return f"{before}{BEGIN}\n\n{generated.strip()}\n\n{END}{after}"


def generated(raw: Path = RAW) -> str:
    """Return what stands between the markers: of the raw numbers that are in the repository."""
    if not raw.exists():
        return NO_FIGURES
    folder = raw.parent
    plots = {name: [f"performance/{file.name}" for file in _plots(folder, name)] for name in suite.NAMES}
    return page(Results.read(raw), level=3, plots=plots)


def _plots(folder: Path, benchmark: str) -> list[Path]:
    return sorted(folder.glob(f"{benchmark}-*.png"))


def main() -> int:
    """Make the page and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("results", nargs="?", type=Path, help="raw numbers")
    parser.add_argument("--profile", choices=sorted(PROFILES), help="take those of this machine")
    arguments = parser.parse_args()
    source = results_path(arguments.profile) if arguments.profile else arguments.results
    if source is not None:
        # Imported here: making the page again needs no matplotlib.
        from benchmarks.harness.plots import draw

        RAW.parent.mkdir(exist_ok=True)
        shutil.copy(source, RAW)
        for old in RAW.parent.glob("*.png"):
            old.unlink()
        draw(Results.read(RAW), RAW.parent)
    PAGE.write_text(with_generated(PAGE.read_text(), generated()))
    print(f"{PAGE.relative_to(REPOSITORY)} is made of {RAW.relative_to(REPOSITORY)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
