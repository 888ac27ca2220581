"""The docs keep up: what a user can set, call or see stands in them, and their links lead somewhere."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import hotstart
from hotstart.commands.main import command_parser, find_commands
from hotstart_proxy.server.routes import ROUTES, Route
from hotstart_proxy.server.settings import CONFIG_ENVIRONMENT, SETTINGS, Setting
from hotstart_proxy.telemetry.metrics import METRICS, MetricSpec

REPOSITORY = Path(__file__).resolve().parents[1]
DOCS = REPOSITORY / "docs"
PAGES = sorted([*REPOSITORY.glob("*.md"), *DOCS.rglob("*.md"), *(REPOSITORY / "deploy").rglob("*.md")])
SOURCES = [*(REPOSITORY / "client").rglob("*.py"), *(REPOSITORY / "proxy").rglob("*.py")]

_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
_VARIABLE = re.compile(r"\bHOTSTART_[A-Z0-9]+(?:_[A-Z0-9]+)*\b")
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")


def read(page: str) -> str:
    """Return the text of a page under docs/."""
    return (DOCS / page).read_text()


def options(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield the long options of a command."""
    for action in parser._actions:
        yield from (option for option in action.option_strings if option.startswith("--"))


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, made as code forges make them."""
    headings = _HEADING.findall(_FENCE.sub("", page.read_text()))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_settings(setting: Setting) -> None:
    """Every setting of the proxy stands in configuration.md with flag, environment name and default."""
    (line,) = [text for text in read("configuration.md").splitlines() if f"`{setting.flag}`" in text]
    assert f"`{setting.environment}`" in line
    if setting.default is not None and not setting.default.startswith("("):
        assert setting.default in line


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_routes(route: Route) -> None:
    """Every route stands in http-api.md with its methods."""
    lines = [text for text in read("http-api.md").splitlines() if route.pattern in text]
    assert any(all(method in line for method in route.methods) for line in lines), route.pattern


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_metrics(metric: MetricSpec) -> None:
    """Every metric stands in metrics.md with its labels, a gauge with how those of several workers merge."""
    lines = read("metrics.md").splitlines()
    (line,) = [text for text in lines if text.startswith(f"| `{metric.name}` |")]
    assert metric.kind in line
    for label in metric.labels:
        assert f"`{label}`" in line
    if metric.kind == "gauge":
        (line,) = [text for text in lines if text.startswith(f"| {metric.across} |")]
        assert f"`{metric.name}`" in line


@pytest.mark.parametrize("name", find_commands())
def test_commands(name: str) -> None:
    """Every command has a section in cli.md, with all its options and arguments."""
    module = find_commands()[name].load()
    sections = re.split(r"^## ", read("cli.md"), flags=re.MULTILINE)
    (section,) = [text for text in sections if text.startswith(f"hotstart {name}\n")]
    parser = command_parser(name, module)
    if name == "serve":
        # Its options are the settings.
        assert "configuration.md" in section
        return
    for option in options(parser):
        assert option == "--help" or f"`{option}" in section, option
    for action in parser._actions:
        if not action.option_strings:
            shown = action.metavar or action.dest
            assert str(shown) in section, shown


def test_no_option_is_made_up() -> None:
    """Every --option in a page for users exists in some command."""
    known = {"--help", "--version"}
    for name, point in find_commands().items():
        known |= set(options(command_parser(name, point.load())))
    pages = [REPOSITORY / "README.md", DOCS / "cli.md", DOCS / "configuration.md", DOCS / "semantics.md"]
    for page in pages:
        unknown = set(_OPTION.findall(page.read_text())) - known
        assert not unknown, f"{page.name}: {sorted(unknown)}"


def test_environment_variables() -> None:
    """Every HOTSTART_ variable that the code reads is documented, and none that it does not."""
    read_by_code = {name for source in SOURCES for name in _VARIABLE.findall(source.read_text())}
    read_by_code |= {CONFIG_ENVIRONMENT, *(setting.environment for setting in SETTINGS)}
    read_by_code -= {"HOTSTART_SERVE"}
    pages = ("client.md", "configuration.md", "cli.md")
    known = {name for page in pages for name in _VARIABLE.findall(read(page))} - {"HOTSTART_SERVE"}
    assert known == read_by_code


@pytest.mark.parametrize("name", hotstart.__all__)
def test_public_names(name: str) -> None:
    """Every public name of the client stands in client.md."""
    assert re.search(rf"`(hotstart\.)?{name}\b", read("client.md")), name


def test_reliability_names_tests() -> None:
    """Every test that reliability.md names is in the tests."""
    there = "".join(path.read_text() for path in sorted((REPOSITORY / "tests").rglob("*.py")))
    named = set(re.findall(r"`(test_\w+)`", read("reliability.md")))
    files = {path.stem for path in (REPOSITORY / "tests").rglob("*.py")}
    assert not [name for name in sorted(named - files) if f"def {name}(" not in there]


def test_readme_is_short() -> None:
    """README has at most 600 words."""
    assert len((REPOSITORY / "README.md").read_text().split()) <= 600


def test_architecture_is_short() -> None:
    """ARCHITECTURE.md has at most 200 lines."""
    assert len((REPOSITORY / "ARCHITECTURE.md").read_text().splitlines()) <= 200


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links(page: Path) -> None:
    """Every relative link leads to a file that is there, and to a heading in it."""
    for link in _LINK.findall(_FENCE.sub("", page.read_text())):
        if "://" in link or link.startswith("mailto:"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def test_decisions_are_listed() -> None:
    """Every decision stands in the list of decisions."""
    listed = (DOCS / "adr" / "README.md").read_text()
    for page in (DOCS / "adr").glob("[0-9]*.md"):
        assert f"]({page.name})" in listed, page.name
