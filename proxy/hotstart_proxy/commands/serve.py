"""``hotstart serve``: run a proxy until it is told to end."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from hotstart._version import __version__
from hotstart_proxy.server.service import Service
from hotstart_proxy.server.settings import (
    CONFIG_ENVIRONMENT,
    SETTINGS,
    InvalidSettings,
    Settings,
    load_settings,
)
from hotstart_proxy.telemetry.logs import configure_logs

__all__ = ["SUMMARY", "add_arguments", "run"]

SUMMARY = "serve models from an origin, keeping copies in a store"
_EXIT_USAGE = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare one option a setting; their values stay text until all places have been looked at."""
    parser.add_argument(
        "--config", type=Path, metavar="FILE.toml", help=f"settings by name; also {CONFIG_ENVIRONMENT}"
    )
    for setting in SETTINGS:
        default = "required" if setting.default is None else f"default {setting.default}"
        parser.add_argument(
            setting.flag,
            dest=setting.name,
            action="append",
            metavar=setting.unit.split(" ")[0].rstrip(",").upper() if " " not in setting.unit else "VALUE",
            help=f"{setting.help_text} ({setting.unit}; {default}; {setting.environment})".replace("%", "%%"),
        )


def run(arguments: argparse.Namespace) -> int:
    """Serve; return 0 after an orderly end."""
    flags = {setting.name: getattr(arguments, setting.name) or [] for setting in SETTINGS}
    try:
        loaded = load_settings(flags, os.environ, arguments.config)
    except InvalidSettings as error:
        print(f"hotstart: {error}", file=sys.stderr)
        return _EXIT_USAGE
    configure_logs(loaded.settings.log_format, loaded.settings.log_level)
    for warning in loaded.warnings:
        print(f"hotstart: {warning}", file=sys.stderr)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_serve(loaded.settings))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        uvloop = importlib.import_module("uvloop")
    except ModuleNotFoundError:
        # Not on Windows; asyncio's own loop serves there, slower.
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


async def _serve(settings: Settings) -> int:
    service = Service(settings)
    ending = _Ending(service)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ending.told, number)
    if not await ending.unless_told(service.__aenter__()):
        return 0
    try:
        print(_announcement(settings, service), flush=True)
        await ending.event.wait()
        await service.drain()
    finally:
        await service.__aexit__(None, None, None)
    return 0


class _Ending:
    """What the signals have said: the first asks for a drain, the second ends the process where it stands."""

    def __init__(self, service: Service) -> None:
        self.event = asyncio.Event()
        self._service = service

    def told(self, number: signal.Signals) -> None:
        if self.event.is_set():
            self._service.remove_socket_files()
            sys.stderr.flush()
            # The store is made for a kill at any point, and cleaning up is what is being waited for.
            os._exit(128 + number)
        self.event.set()

    async def unless_told(self, starting: Coroutine[Any, Any, object]) -> bool:
        """Run the start, unless a signal comes first; tell whether it is done."""
        start = asyncio.ensure_future(starting)
        told = asyncio.ensure_future(self.event.wait())
        await asyncio.wait({start, told}, return_when=asyncio.FIRST_COMPLETED)
        told.cancel()
        if not start.done():
            start.cancel()
            await asyncio.wait({start})
            return False
        start.result()
        return True


def _announcement(settings: Settings, service: Service) -> str:
    places = ", ".join(address.url() for address in service.addresses)
    admin = "" if service.admin_address is None else f" (admin {service.admin_address})"
    return f"hotstart {__version__} serves {settings.origin} from {settings.store} on {places}{admin}"
