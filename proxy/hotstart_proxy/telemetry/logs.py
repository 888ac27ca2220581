"""Log lines for machines: one event a line, as logfmt or JSON, on standard error.

Secrets do not get here by construction: requests are logged by path, without query, and redirects without
their target. What libraries log passes a filter that blanks signatures and bearer tokens all the same.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import TextIO

__all__ = ["JsonFormatter", "LogfmtFormatter", "configure_logs", "log_event", "masked"]

LOGGER = "hotstart_proxy"
# Longer values are somebody's attempt to fill the disk.
_MAX_VALUE_CHARS = 2048
_MAX_REMEMBERED_CHARS = 128
_NUMBERS = (bool, int, float)
_PLAIN = re.compile(r"[^\s\"=\\\x00-\x1f\x7f]+")
_SECRETS = re.compile(
    # In queries and in the header that S3 takes; \b: not the end of another word.
    r"(\b(?:X-Amz-(?:Signature|Credential|Security-Token)|AWSAccessKeyId|Signature)=|\bBearer\s+)"
    r"[^&\s\"',]+"
    # As headers and as members of what libraries print.
    r"|((?:X-Amz-Security-Token|Secret[-_]?Access[-_]?Key|Session[-_]?Token|Password)['\"]?\s*[:=]\s*b?['\"]?)"
    r"[^&\s\"',}]+",
    re.IGNORECASE,
)
# Name and password in a URL, as in rediss://user:password@host.
_USER = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^\s/@\"'?#]*@", re.IGNORECASE)


def masked(text: str) -> str:
    """Return text with signatures, tokens, passwords and the users of URLs blanked."""
    return _USER.sub(r"\1***@", _SECRETS.sub(lambda found: f"{found[1] or found[2]}***", text))


def log_event(logger: logging.Logger, level: int, event: str, fields: Mapping[str, object]) -> None:
    """Log one event; fields whose value is None are left out."""
    if logger.isEnabledFor(level):
        # What Logger.log does, but for looking up who called, which no line says.
        extra = {"fields": {k: v for k, v in fields.items() if v is not None}}
        logger.handle(logger.makeRecord(logger.name, level, "", 0, event, (), None, extra=extra))


@lru_cache(maxsize=2)
def _to_the_second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.")


def _members(record: logging.LogRecord) -> dict[str, object]:
    """Return what a line says: numbers, and texts that are not yet clean."""
    seconds, milliseconds = divmod(int(record.created * 1000), 1000)
    members: dict[str, object] = {
        "time": f"{_to_the_second(seconds)}{milliseconds:03d}Z",
        "level": record.levelname.lower(),
        "event": record.getMessage(),
    }
    if not record.name.startswith(LOGGER):
        members["logger"] = record.name
    worker = getattr(record, "worker", None)
    if worker is not None:
        members["worker"] = worker
    members.update(getattr(record, "fields", {}))
    if record.exc_info and record.exc_info[1] is not None:
        members["error"] = f"{type(record.exc_info[1]).__name__}: {record.exc_info[1]}"
    return members


def _text(text: str) -> str:
    # Undecodable bytes of a request arrive as lone surrogates, which no stream can write.
    clean = masked(text).encode("utf-8", "backslashreplace").decode("utf-8")
    return clean if len(clean) <= _MAX_VALUE_CHARS else clean[:_MAX_VALUE_CHARS] + "…"


class JsonFormatter(logging.Formatter):
    """One JSON object a line; a traceback, where there is one, is its member ``traceback``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        members = {
            name: value if isinstance(value, _NUMBERS) else _text(str(value))
            for name, value in _members(record).items()
        }
        if record.exc_info:
            members["traceback"] = masked(self.formatException(record.exc_info))
        return json.dumps(members, ensure_ascii=False)


class LogfmtFormatter(logging.Formatter):
    """``name=value`` pairs; values with spaces, quotes or control characters are quoted as in JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, and a traceback after it where there is one."""
        line = " ".join([f"{name}={_logfmt_value(value)}" for name, value in _members(record).items()])
        if record.exc_info:
            line += "\n" + masked(self.formatException(record.exc_info))
        return line


def _logfmt_value(value: object) -> str:
    if isinstance(value, _NUMBERS):
        if isinstance(value, float):
            return f"{value:.6g}"
        return str(value).lower()
    text = str(value)
    return _short_logfmt_text(text) if len(text) <= _MAX_REMEMBERED_CHARS else _logfmt_text(text)


def _logfmt_text(text: str) -> str:
    clean = _text(text)
    return clean if _PLAIN.fullmatch(clean) else json.dumps(clean, ensure_ascii=False)


# Lines of requests say the same few words again and again.
_short_logfmt_text = lru_cache(maxsize=1024)(_logfmt_text)


class _WorkerFilter(logging.Filter):
    """Puts the number of the worker into every record."""

    def __init__(self, worker: int) -> None:
        super().__init__()
        self._worker = worker

    def filter(self, record: logging.LogRecord) -> bool:
        record.worker = self._worker
        return True


def configure_logs(form: str, level: str, stream: TextIO | None = None, *, worker: int | None = None) -> None:
    """Send all logs to one stream; a second call replaces the first.

    Args:
        form: ``logfmt`` or ``json``.
        level: ``debug``, ``info``, ``warning`` or ``error``; libraries are heard from warning on.
        stream: None means standard error.
        worker: which of several processes this is, said by every line; None where there is one.
    """
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(JsonFormatter() if form == "json" else LogfmtFormatter())
    root = logging.getLogger()
    if worker is not None:
        handler.addFilter(_WorkerFilter(worker))
    root.handlers[:] = [handler]
    root.setLevel(max(logging.WARNING, getattr(logging, level.upper())))
    logging.getLogger(LOGGER).setLevel(getattr(logging, level.upper()))
