"""What S3's protocol refuses besides what every door does; statuses stand in the one table (``problems``)."""

from __future__ import annotations

from hotstart.wire.errors import HotstartError

__all__ = [
    "AccessDenied",
    "MalformedAuthorization",
    "MalformedKey",
    "NoSuchBucket",
    "NotImplementedHere",
    "SignatureMismatch",
    "TooSkewed",
    "UnknownAccessKey",
]


class NoSuchBucket(HotstartError):
    """A bucket other than the one that there is."""

    def __init__(self, bucket: str, there_is: str) -> None:
        self.bucket = bucket
        super().__init__(f"no bucket {bucket!r}; there is {there_is!r}")


class MalformedKey(HotstartError):
    """A path that cannot be decoded to a key."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"the path is no key: {reason}")


class NotImplementedHere(HotstartError):
    """A part of S3's protocol that is not spoken here.

    Attributes:
        what: the query parameter or header.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(f"{what} is not served here: objects are read and listed, and no more")


class AccessDenied(HotstartError):
    """A request without the signature that is needed here, or with one that does not cover enough."""


class UnknownAccessKey(HotstartError):
    """The key id of a signature is none of the proxy's."""

    def __init__(self) -> None:
        super().__init__("the access key id is not one of this proxy's (--s3-keys)")


class SignatureMismatch(HotstartError):
    """A signature that the key does not give for this request."""

    def __init__(self) -> None:
        super().__init__(
            "the signature does not fit the request: the secret key is another one, or something between"
            " client and proxy changes the path, the query or a header"
        )


class TooSkewed(HotstartError):
    """The time of a signature is too far from the proxy's.

    Attributes:
        seconds: by how much, positive where the request's is ahead.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        super().__init__(
            f"the request's time is {abs(seconds):.0f} s {'ahead of' if seconds > 0 else 'behind'} ours"
        )


class MalformedAuthorization(HotstartError):
    """What should be a signature of version 4 is none.

    Attributes:
        reason: what is wrong with it.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"no signature AWS4-HMAC-SHA256: {reason}")
