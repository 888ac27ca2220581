"""The variables by which clients of S3 come to a proxy, and nothing of whoever runs them."""

from __future__ import annotations

import os

__all__ = ["BUCKET", "prefix_of", "use_proxy"]

BUCKET = "models"


def use_proxy(url: str) -> None:
    """Set the environment; to be called before a client of S3 is imported.

    Args:
        url: the proxy's. Keys are those that are set already; where there are none, nothing is verified.
    """
    os.environ["AWS_ENDPOINT_URL"] = f"{url}/s3"
    os.environ["AWS_DEFAULT_REGION"] = os.environ["AWS_REGION"] = "us-east-1"
    os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
    os.environ.setdefault("AWS_ACCESS_KEY_ID", "any")
    os.environ.setdefault("AWS_SECRET_ACCESS_KEY", "any")


def prefix_of(reference: str) -> str:
    """Return the prefix of a version's keys; an alias has none (``hotstart resolve --s3``)."""
    model, _, version = reference.partition("@")
    return f"{model}/{version}/"
