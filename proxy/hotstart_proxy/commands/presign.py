"""``hotstart presign``: write a fallback manifest, with which a version can be read without a proxy."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from hotstart.wire.errors import HotstartError
from hotstart.wire.references import parse_reference
from hotstart.wire.timestamps import format_timestamp
from hotstart_proxy.commands.interruption import run_interruptibly
from hotstart_proxy.commands.origin_arguments import add_layout_argument, add_origin_argument, checked
from hotstart_proxy.publishing.publisher import now_ms
from hotstart_proxy.publishing.signing import MAX_EXPIRY_SECONDS, MIN_EXPIRY_SECONDS, Signed, sign_version
from hotstart_proxy.server.quantities import parse_duration

SUMMARY = "Write a fallback manifest: pre-signed URLs of a whole version."
# A function that starts tomorrow must still find the URLs working.
_WARN_UNDER_SECONDS = 24 * 3600


class CannotWrite(HotstartError):
    """The fallback manifest cannot be written.

    Attributes:
        path: where to.
    """

    def __init__(self, path: str, reason: str) -> None:
        self.path = path
        super().__init__(f"cannot write the fallback manifest to {path}: {reason}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.description = (
        f"{SUMMARY} Name the file in HOTSTART_FALLBACK. Whoever has it can read the version until it expires."
    )
    parser.add_argument(
        "reference", metavar="org/name[@version]", type=checked(parse_reference), help="a version or an alias"
    )
    add_origin_argument(parser)
    parser.add_argument(
        "--expires-in",
        metavar="DURATION",
        type=checked(_parse_expiry),
        default=MAX_EXPIRY_SECONDS,
        help="how long the URLs are to work, as 7d, 12h or a number of seconds (default and most: 7d)",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        type=Path,
        help="where to write it, with mode 0600 (default: stdout)",
    )
    add_layout_argument(parser, "for such a version")


def _parse_expiry(text: str) -> int:
    seconds = int(parse_duration(text))
    if not MIN_EXPIRY_SECONDS <= seconds <= MAX_EXPIRY_SECONDS:
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected {MIN_EXPIRY_SECONDS} seconds to {MAX_EXPIRY_SECONDS // 86400} days"
        )
    return seconds


def run(arguments: argparse.Namespace) -> int:
    """Sign, write the file whole or not at all, and return the exit status."""
    return run_interruptibly(lambda: _presign(arguments), "Nothing was written.")


async def _presign(arguments: argparse.Namespace) -> int:
    from hotstart_proxy.origins.urls import open_origin

    async with open_origin(arguments.origin, os.environ) as origin:
        signed = await sign_version(
            origin, arguments.reference, arguments.expires_in, arguments.layout, now_ms()
        )
    data = signed.manifest.dump()
    if arguments.output is None:
        sys.stdout.buffer.write(data + b"\n")
        sys.stdout.buffer.flush()
    else:
        _write_secret(arguments.output, data)
    _explain(signed, arguments.output)
    return 0


def _write_secret(path: Path, data: bytes) -> None:
    """Write data to path, readable by its owner alone; path is replaced whole or left as it was."""
    try:
        # mkstemp makes 0600 files, so at no moment can anybody else read the URLs.
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
    except OSError as error:
        raise CannotWrite(str(path), error.strerror or str(error)) from error


def _explain(signed: Signed, output: Path | None) -> None:
    manifest = signed.manifest
    where = "" if output is None else f"{output}: "
    say(
        f"{where}{manifest.model}@{manifest.version}, {len(manifest.urls)} URLs until "
        f"{format_timestamp(manifest.expires_at)}"
    )
    if manifest.session_ends_at is None:
        say(
            "warning: temporary credentials signed it and do not say when they end: the URLs end with them"
            if signed.is_session
            else "the credentials that signed it outlive every URL"
        )
        return
    say(f"the session that signed it ends at {format_timestamp(manifest.session_ends_at)}")
    assert signed.session_ends_in_seconds is not None
    if signed.session_ends_in_seconds < _WARN_UNDER_SECONDS:
        say(
            f"warning: that is in {signed.session_ends_in_seconds / 3600:.1f} h, and the URLs end with it: "
            "sign with longer-lived credentials, or renew the file in time"
        )


def say(text: str) -> None:
    """Print on stderr: stdout may be the manifest itself."""
    print(f"hotstart: {text}", file=sys.stderr)
