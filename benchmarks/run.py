"""The whole suite: ``python -m benchmarks.run --profile quick|bench|full [NAME ...]``.

What a benchmark raises costs the others nothing; the exit status is 1 then. The tables are printed and lie as
Markdown beside the raw numbers.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Sequence

from benchmarks import suite
from benchmarks.harness.command import add_arguments, end_in_order, measure
from benchmarks.harness.profile import PROFILES, Profile
from benchmarks.harness.results import Results, results_path
from benchmarks.report import page


def run_suite(names: Sequence[str], profile: Profile, results: Results, *, again: bool = False) -> list[str]:
    """Run benchmarks one after the other, and return the names of those that failed."""
    failed = []
    for name in names:
        print(f"{name} ...", file=sys.stderr, flush=True)
        try:
            failure = measure(name, suite.load(name).run, profile, results, again=again)
        except Exception as error:  # noqa: BLE001 - the others' figures are worth having all the same
            failure = repr(error)
            traceback.print_exc()
            results.skip(name, "", "", f"failed: {failure}")
        if failure is not None:
            failed.append(name)
    return failed


def main() -> int:
    """Run what the command line says and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    add_arguments(parser)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default all: {', '.join(suite.NAMES)}")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.names) - set(suite.NAMES))
    if unknown:
        parser.error(f"there is no benchmark {unknown[0]}; there are: {', '.join(suite.NAMES)}")
    profile = PROFILES[arguments.profile]
    end_in_order()
    began = time.monotonic()
    results = Results(arguments.results or results_path(profile.name), profile.name)
    try:
        failed = run_suite(arguments.names or suite.NAMES, profile, results, again=arguments.again)
    except KeyboardInterrupt:
        resumed = " and is not measured again" if profile.resumable else ""
        print(f"\ninterrupted; what was measured is in {results.path}{resumed}")
        return 130
    text = page(results)
    results.path.with_suffix(".md").write_text(text)
    print(f"{text}\nraw numbers: {results.path}; {time.monotonic() - began:.0f} s")
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
