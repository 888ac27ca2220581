"""What AWS calls its endpoints: alike on both sides, since ids of adopted files are made from them."""

from __future__ import annotations

__all__ = ["aws_endpoint"]


def aws_endpoint(service: str, region: str) -> str:
    """Return the URL of an AWS service (``s3``, ``sts``) in a region."""
    suffix = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    return f"https://{service}.{region}.{suffix}"
