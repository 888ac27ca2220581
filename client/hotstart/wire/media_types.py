"""The media type of a file, by its name alone: the same on every machine, unlike the system's own table."""

from __future__ import annotations

__all__ = ["DEFAULT_MEDIA_TYPE", "ZSTD_MEDIA_TYPE", "media_type"]

# Safetensors and other weights have no registered type of their own.
DEFAULT_MEDIA_TYPE = "application/octet-stream"
ZSTD_MEDIA_TYPE = "application/zstd"
_BY_SUFFIX = {
    "csv": "text/csv; charset=utf-8",
    "jinja": "text/plain; charset=utf-8",
    "jpeg": "image/jpeg",
    "jpg": "image/jpeg",
    "json": "application/json",
    "jsonl": "application/jsonl",
    "md": "text/markdown; charset=utf-8",
    "pdf": "application/pdf",
    "png": "image/png",
    "py": "text/x-python; charset=utf-8",
    "toml": "application/toml",
    "txt": "text/plain; charset=utf-8",
    "xml": "application/xml",
    "yaml": "application/yaml",
    "yml": "application/yaml",
    "zip": "application/zip",
    "zst": ZSTD_MEDIA_TYPE,
}


def media_type(path: str) -> str:
    """Return the Content-Type of a file of this path."""
    stem, _, suffix = path.rpartition("/")[2].rpartition(".")
    return _BY_SUFFIX.get(suffix.lower(), DEFAULT_MEDIA_TYPE) if stem else DEFAULT_MEDIA_TYPE
