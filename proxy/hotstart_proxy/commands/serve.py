"""``hotstart serve``: run a proxy until it is told to end."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from pathlib import Path

from hotstart._version import __version__
from hotstart_proxy.server.lifecycle import loop_factory, serve_until
from hotstart_proxy.server.listeners import Listeners
from hotstart_proxy.server.routes import Listener
from hotstart_proxy.server.service import Service
from hotstart_proxy.server.settings import (
    CONFIG_ENVIRONMENT,
    SETTINGS,
    InvalidSettings,
    Settings,
    load_settings,
)
from hotstart_proxy.server.workers import Workers
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
    settings = loaded.settings
    if settings.workers > 1:
        return Workers(settings, lambda listeners: _announce(settings, listeners)).run()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(_serve(settings))
    return 0


async def _serve(settings: Settings) -> None:
    service = Service(settings)
    ending = _Ending(service)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ending.told, number)
    await serve_until(ending.event, service, lambda: _announce(settings, service.listeners))


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


def _announce(settings: Settings, listeners: Listeners) -> None:
    stores = ", then ".join(map(str, settings.store))
    places = _places(listeners, Listener.DATA)
    admin = "" if listeners.admin is None else f" (admin {listeners.admin.address})"
    kinds = {"S3": Listener.S3, "a CDN": Listener.CDN}
    others = "".join(
        f", for {name} on {found}" for name, kind in kinds.items() if (found := _places(listeners, kind))
    )
    workers = f" with {settings.workers} workers" if settings.workers > 1 else ""
    print(
        f"hotstart {__version__} serves {settings.origin} from {stores} on {places}{admin}{others}{workers}",
        flush=True,
    )


def _places(listeners: Listeners, listener: Listener) -> str:
    return ", ".join(address.url() for address in listeners.addresses(listener))
