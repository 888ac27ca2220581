"""``--notify``: proxies that are told of what a command has changed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from hotstart_proxy.commands.origin_arguments import checked

__all__ = ["add_notify_argument", "tell_proxies"]


def add_notify_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--notify``."""
    parser.add_argument(
        "--notify",
        metavar="URL",
        type=checked(_admin_url),
        action="append",
        default=[],
        help="admin listener of a proxy that is told to look at once, http://HOST:PORT or unix:/PATH; may be "
        "repeated; whoever is not told finds out by polling",
    )


def _admin_url(text: str) -> str:
    from hotstart_proxy.publishing.notices import check_admin_url

    return check_admin_url(text)


async def tell_proxies(urls: Sequence[str], model: str) -> dict[str, object]:
    """Tell them, warn on stderr of those that could not be told, and return what to add to a summary."""
    from hotstart_proxy.publishing.notices import notify

    notices = await notify(list(dict.fromkeys(urls)), model)
    for notice in notices:
        if notice.failure is not None:
            print(
                f"hotstart: {notice.url} was not notified, and will find out by polling: {notice.failure}",
                file=sys.stderr,
            )
    return {"notified": {notice.url: notice.failure is None for notice in notices}} if notices else {}
