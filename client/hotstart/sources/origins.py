"""Which origin the environment names."""

from __future__ import annotations

from .environment import Environment
from .origin import Origin

__all__ = ["open_origin"]


def open_origin(environment: Environment) -> Origin:
    """Return the origin that is configured; nothing is asked of it yet.

    Raises:
        SourceError: what S3 needs is missing from the environment.
    """
    url = environment.origin
    assert url is not None
    if url.directory:
        from .origin_file import DirectoryOrigin

        return DirectoryOrigin(url.directory)
    from .origin_s3 import S3Origin

    return S3Origin.from_environment(url, environment.variables)
