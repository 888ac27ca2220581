"""The report as people and as programs read it."""

from __future__ import annotations

import json
from dataclasses import replace

from hotstart.report import Report, format_bytes

REPORT = Report(
    reference="org/bert@7",
    version="7",
    opened_by="proxy http://127.0.0.1:8470",
    connect_seconds=0.0004,
    open_seconds=0.0021,
    first_byte_seconds=0.003,
    first_tensor_seconds=0.004,
    last_tensor_seconds=0.05,
    tensors=103,
    tensor_bytes=90_000_000,
    received_bytes={"proxy http://127.0.0.1:8470": 60_000_000, "origin s3://b": 30_000_000, "idle": 0},
    representations=("identity",),
    compression="plain: as asked for",
    verification="pieces",
    retries=("proxy: reset",),
    failovers=("proxy: refused",),
)


def test_as_text() -> None:
    """Every step has a line, then what came from where, what was checked, and what went wrong."""
    assert str(REPORT) == (
        "org/bert@7, opened by proxy http://127.0.0.1:8470\n"
        "  connect         0.4 ms\n"
        "  open            2.1 ms\n"
        "  first byte      3.0 ms\n"
        "  first tensor    4.0 ms\n"
        "  last tensor    50.0 ms   103 tensors, 90.0 MB, 1.80 GB/s\n"
        "  identity: 60.0 MB from proxy http://127.0.0.1:8470, 30.0 MB from origin s3://b\n"
        "  picked plain: as asked for\n"
        "  verification: pieces\n"
        "  given up: proxy: refused\n"
        "  asked again: proxy: reset"
    )


def test_steps_that_did_not_happen_are_dashes() -> None:
    """What was mapped has no first byte, and no rate is made of no time."""
    mapped = replace(
        REPORT,
        connect_seconds=None,
        first_byte_seconds=None,
        first_tensor_seconds=None,
        last_tensor_seconds=0.0,
        received_bytes={},
        representations=(),
    )
    assert "  first byte           –\n" in str(mapped)
    assert "  nothing: no byte moved\n" in str(mapped)
    assert mapped.gigabytes_per_second == 0.0


def test_as_json() -> None:
    """The dictionary is JSON, with all that the text says."""
    found = json.loads(json.dumps(REPORT.as_dict()))
    assert found["gigabytes_per_second"] == 1.8
    assert found["connect_seconds"] == 0.0004
    assert found["received_bytes"]["origin s3://b"] == 30_000_000
    assert set(found) == {*Report.__slots__, "gigabytes_per_second"}


def test_sizes() -> None:
    """Sizes are in powers of ten, as links are."""
    sizes = (0, 999, 1000, 90_868_376, 15 * 10**9, 2 * 10**12)
    assert [format_bytes(size) for size in sizes] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "90.9 MB",
        "15.0 GB",
        "2.0 TB",
    ]
