"""The suite as a whole: what one benchmark does to the others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import run, suite
from benchmarks.harness.processes import BenchmarkFailed
from benchmarks.harness.profile import PROFILES, Profile
from benchmarks.harness.results import Results


class Fake:
    """A benchmark of two comparisons, each of which it counts."""

    SUMMARY = "nothing that takes time"

    def __init__(self, name: str, before_second: Callable[[], None] = lambda: None) -> None:
        self.name = name
        self.measured: list[str] = []
        self._before_second = before_second

    def run(self, profile: Profile, results: Results) -> None:
        for key in ("first", "second"):
            if results.done(self.name, key, ["ours"]):
                continue
            if key == "second":
                self._before_second()
            self.measured.append(key)
            results.add(self.name, key, "ours", [1.0], "s")


@pytest.fixture
def results(tmp_path: Path) -> Callable[[], Results]:
    return lambda: Results(tmp_path / "full.json", "full", {"slug": "here"}, {"hotstart": "1"})


def use(monkeypatch: pytest.MonkeyPatch, *benchmarks: Fake) -> list[str]:
    """Have the suite consist of these, and return their names."""
    by_name = {benchmark.name: benchmark for benchmark in benchmarks}
    monkeypatch.setattr(suite, "load", by_name.__getitem__)
    return list(by_name)


def fail() -> None:
    raise BenchmarkFailed("nginx ended:\nno such disk")


def crash() -> None:
    raise ZeroDivisionError("division by zero")


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("fault", "reason"), [(fail, "failed: nginx ended:"), (crash, "failed: ZeroDivision")]
)
def test_a_failure_costs_the_others_nothing(
    monkeypatch: pytest.MonkeyPatch, results: Callable[[], Results], fault: Callable[[], None], reason: str
) -> None:
    """What one benchmark raises stands beside what it had measured, and the next one runs."""
    names = use(monkeypatch, Fake("broken", fault), Fake("whole"))
    found = results()
    assert run.run_suite(names, PROFILES["full"], found) == ["broken"]
    assert [(cell.benchmark, cell.key) for cell in found.cells] == [
        ("broken", "first"),
        ("whole", "first"),
        ("whole", "second"),
    ]
    (skip,) = found.skips
    assert skip.reason.startswith(reason)


def test_an_interrupted_run_goes_on_where_it_was(
    monkeypatch: pytest.MonkeyPatch, results: Callable[[], Results]
) -> None:
    """After Ctrl-C a full run measures what is missing, and nothing again."""
    use(monkeypatch, Fake("one"), Fake("two", interrupt))
    with pytest.raises(KeyboardInterrupt):
        run.run_suite(["one", "two"], PROFILES["full"], results())
    one, two = Fake("one"), Fake("two")
    use(monkeypatch, one, two)
    assert run.run_suite(["one", "two"], PROFILES["full"], results()) == []
    assert (one.measured, two.measured) == ([], ["second"])


@pytest.mark.parametrize(("profile", "again"), [("full", True), ("bench", False), ("quick", False)])
def test_everything_is_measured_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, profile: str, again: bool
) -> None:
    """With --again, and in the profiles that are not resumed, the second run measures everything."""
    for _ in range(2):
        fake = Fake("one")
        use(monkeypatch, fake)
        found = Results(tmp_path / "r.json", profile, {"slug": "here"}, {"hotstart": "1"})
        run.run_suite(["one"], PROFILES[profile], found, again=again)
        assert fake.measured == ["first", "second"]
