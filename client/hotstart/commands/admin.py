"""``hotstart admin``: what an operator asks of a running proxy."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping

from hotstart.report import format_bytes
from hotstart.wire import documents
from hotstart.wire.documents import Document
from hotstart.wire.references import Reference, parse_reference

from .admin_listener import ADMIN_VARIABLE, FoundListener, find_listener
from .terminal import printable

__all__ = ["SUMMARY", "add_arguments", "run"]

SUMMARY = "ask a running proxy to warm, pin, unpin, evict, collect garbage or verify"
_EXIT_DAMAGED = 1
_EXIT_USAGE = 2
# Nothing is sent until all is done, and a verification reads everything that the proxy holds.
_PATIENCE_SECONDS = 7 * 86400.0
_MAX_ANSWER_BYTES = 64 * 1024 * 1024
_DOING = {"warm": "warming", "pin": "pinning", "unpin": "unpinning", "evict": "evicting"}
_DOING_ALL = {"gc": "collecting garbage", "verify": "verifying"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "action",
        metavar="ACTION",
        choices=[*_DOING, *_DOING_ALL],
        help="warm: fetch a version now; pin, unpin: keep it whatever retention and the budget say, or no "
        "longer; evict: remove its copies; gc: remove what is not kept; verify: check the digests of all "
        "that is held (exit status 1 if anything was damaged or could not be read)",
    )
    parser.add_argument(
        "reference",
        metavar="REF",
        nargs="?",
        help="org/name@version, for warm, pin, unpin and evict",
    )
    parser.add_argument(
        "--admin",
        metavar="URL",
        help="the proxy's admin listener: unix:/PATH/admin.sock, the folder of its store, or "
        f"http://HOST:PORT (default: ${ADMIN_VARIABLE})",
    )
    parser.add_argument("--json", action="store_true", help="print the proxy's answer as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Ask, wait until it is done, and print what came of it."""
    action = arguments.action
    fault = _usage_fault(action, arguments.reference)
    if fault is not None:
        print(f"hotstart admin: {fault}", file=sys.stderr)
        return _EXIT_USAGE
    target, doing = f"/v1/{action}", _DOING_ALL.get(action, "")
    if action in _DOING:
        reference = parse_reference(arguments.reference)
        whole = Reference(reference.model, reference.selector)
        target, doing = f"/v1/models/{whole.url_path()}:{action}", f"{_DOING[action]} {whole}"
    found = find_listener(arguments.admin, os.environ)
    if found.others and not arguments.json:
        others = ", ".join(map(printable, found.others))
        print(f"hotstart: asked {printable(str(found.endpoint))}; there are also {others}", file=sys.stderr)
    started = time.perf_counter()
    answer = _ask(found, target, doing)
    if arguments.json:
        print(json.dumps({"listener": str(found.endpoint), **answer.members}, indent=2))
    else:
        print(_TEXTS[action](answer, time.perf_counter() - started))
    return _EXIT_DAMAGED if answer.members.get("damaged") or answer.members.get("failed") else 0


def _usage_fault(action: str, reference: str | None) -> str | None:
    if action in _DOING_ALL:
        return None if reference is None else f"{action} takes no reference: it is for all models"
    if reference is None:
        return f"{action} needs a reference: org/name@version"
    if parse_reference(reference).file is not None:
        return f"{action} is for a whole version: org/name@version"
    return None


def _ask(found: FoundListener, target: str, doing: str) -> Document:
    from hotstart.sources.answers import refused
    from hotstart.sources.http import Connection

    connection = Connection(found.endpoint, f"admin listener {found.endpoint}", _PATIENCE_SECONDS)
    try:
        response = connection.request("POST", target, {}, doing=doing)
        if response.status != 200:
            raise refused(response)
        with response:
            return documents.load_json(response.read(_MAX_ANSWER_BYTES), "answer of the admin listener")
    finally:
        connection.drop()


# As text.


def _name(answer: Document) -> str:
    return printable(f"{answer.text('model')}@{answer.text('version')}")


def _sum(answer: Document, key: str) -> int:
    member = answer.member(key)
    return sum(member.integer(path) for path in member.members)


def _warm_text(answer: Document, seconds: float) -> str:
    files = len(answer.member("cached").members)
    held = format_bytes(_sum(answer, "cached"))
    return f"{_name(answer)} is warm: {held} in {files} {'file' if files == 1 else 'files'} ({seconds:.1f} s)"


def _pin_text(answer: Document, seconds: float) -> str:
    wanted, held = answer.member("bytes"), answer.member("cached")
    total = _sum(answer, "bytes")
    here = sum(held.integer(path) for path in wanted.members if path in held.members)
    text = f"{_name(answer)} is pinned: {format_bytes(total)}, of which {format_bytes(here)} are here"
    return text if here >= total else f"{text}; hotstart admin warm {_name(answer)} fetches the rest"


def _unpin_text(answer: Document, seconds: float) -> str:
    return f"{_name(answer)} {'is no longer' if answer.members.get('was_pinned') else 'was not'} pinned"


def _evict_text(answer: Document, seconds: float) -> str:
    return f"{_name(answer)}: {format_bytes(answer.integer('freed_bytes'))} freed"


def _gc_text(answer: Document, seconds: float) -> str:
    return f"{format_bytes(answer.integer('freed_bytes'))} freed"


def _verify_text(answer: Document, seconds: float) -> str:
    damaged = answer.members_of("damaged")
    blobs, checked = answer.integer("checked_blobs"), format_bytes(answer.integer("checked_bytes"))
    lines = [f"{blobs} blobs ({checked}) and {answer.integer('checked_documents')} documents checked"]
    unknown = answer.integer("unknown_blobs")
    if unknown:
        lines.append(f"{unknown} blobs belong to no version that is known here, and their digests are not")
    lines += [_damage_text(item) for item in damaged]
    failed = answer.members_of("failed")
    lines += [printable(f"not verified: {item.text('problem')}") for item in failed]
    sound = "the rest is sound" if failed else "all sound"
    lines.append(f"{len(damaged)} damaged" if damaged else sound)
    return "\n".join(lines)


def _damage_text(item: Document) -> str:
    what = item.optional_text("reference") or item.text("name")
    then = "fetched again" if item.members.get("refill") else "removed"
    return printable(f"damaged: {what} in {item.text('store')}: {item.text('problem')}; {then}")


_TEXTS: Mapping[str, Callable[[Document, float], str]] = {
    "warm": _warm_text,
    "pin": _pin_text,
    "unpin": _unpin_text,
    "evict": _evict_text,
    "gc": _gc_text,
    "verify": _verify_text,
}
