"""Fixtures for all tests, and a time-out per test that slow machines can stretch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support.deadlines import TIME_SCALE
from tests.support.processes import Processes
from tests.support.s3 import S3Server

# A busy machine draws and runs slowly; no test asserts times, these not either.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Stretch the time-out of every test by HOTSTART_TEST_TIME_SCALE."""
    if TIME_SCALE == 1:
        return
    default = float(config.getini("timeout"))
    for item in items:
        marker = item.get_closest_marker("timeout")
        seconds = float(marker.args[0]) if marker is not None and marker.args else default
        item.add_marker(pytest.mark.timeout(seconds * TIME_SCALE), append=False)


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    """Starts processes that end with the test; what they printed is shown if it fails."""
    with Processes(tmp_path / "processes") as running:
        yield running


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """One server for the whole run: use a bucket of your own, and start another one to stop or kill it."""
    with S3Server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def s3_bucket(s3_server: S3Server) -> str:
    """A bucket that no other test uses."""
    return s3_server.create_bucket()
