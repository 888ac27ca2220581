"""Signatures, made by botocore and verified here."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest
from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from hotstart.wire.errors import HotstartError
from hotstart_proxy.server.s3.errors import (
    AccessDenied,
    MalformedAuthorization,
    NotImplementedHere,
    SignatureMismatch,
    TooSkewed,
    UnknownAccessKey,
)
from hotstart_proxy.server.s3.signatures import SignedRequest, is_signed, verify

KEY, SECRET = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
URL = "http://proxy:8470/s3/models/org/bert/7/gr%C3%B6%C3%9Fe%20%26%20co.txt?list-type=2&prefix=a%2Fb&x-id="


def secret_of(key: str) -> str | None:
    return SECRET if key == KEY else None


def now() -> float:
    return datetime.datetime.now(datetime.UTC).timestamp()


def signed(url: str = URL, headers: dict[str, str] | None = None, **changes: str) -> SignedRequest:
    """Return a request that botocore has signed in its header."""
    request = AWSRequest("GET", url, headers={"Range": "bytes=0-9", **(headers or {})})
    S3SigV4Auth(Credentials(KEY, SECRET), "s3", "eu-west-1").add_auth(request)
    return as_sent(url, dict(request.headers.items()), **changes)


def presigned(expires: int = 60) -> SignedRequest:
    """Return a request whose URL botocore has signed."""
    request = AWSRequest("GET", URL)
    S3SigV4QueryAuth(Credentials(KEY, SECRET), "s3", "eu-west-1", expires=expires).add_auth(request)
    return as_sent(request.url, {})


def as_sent(url: str, headers: dict[str, str], **changes: str) -> SignedRequest:
    parts = urlsplit(url)
    sent = {"host": [parts.netloc], **{name.lower(): [value] for name, value in headers.items()}}
    fields = {"method": "GET", "path": parts.path, "query": parts.query, **changes}
    return SignedRequest(fields["method"], fields["path"], fields["query"], sent)


def with_header(request: SignedRequest, name: str, value: str) -> SignedRequest:
    return SignedRequest(request.method, request.path, request.query, {**request.headers, name: [value]})


@pytest.mark.parametrize("make", [signed, presigned])
def test_a_true_signature_names_its_key(make: Callable[[], SignedRequest]) -> None:
    """What botocore signs with a known key is admitted, in the header and in the query."""
    assert is_signed(make())
    assert verify(make(), secret_of, now()) == KEY


def test_an_unsigned_payload_is_admitted() -> None:
    """UNSIGNED-PAYLOAD may stand for the digest of the body that there is not."""
    request = signed(headers={"X-Amz-Content-SHA256": "UNSIGNED-PAYLOAD"})
    assert verify(request, secret_of, now()) == KEY


@pytest.mark.parametrize("make", [signed, presigned])
@pytest.mark.parametrize(
    "change",
    [
        lambda sent: SignedRequest("HEAD", sent.path, sent.query, sent.headers),
        lambda sent: SignedRequest("GET", sent.path + "x", sent.query, sent.headers),
        lambda sent: SignedRequest("GET", sent.path, sent.query + "&prefix=c", sent.headers),
        lambda sent: with_header(sent, "host", "elsewhere:8470"),
    ],
    ids=["method", "path", "query", "host"],
)
def test_another_request_is_refused(
    make: Callable[[], SignedRequest], change: Callable[[SignedRequest], SignedRequest]
) -> None:
    """A signature is for one method, path, query and host."""
    with pytest.raises(SignatureMismatch):
        verify(change(make()), secret_of, now())


def test_another_secret_is_refused() -> None:
    """A key that is not known, and a wrong secret of one that is, are told apart."""
    with pytest.raises(UnknownAccessKey):
        verify(signed(), lambda key: None, now())
    with pytest.raises(SignatureMismatch):
        verify(signed(), lambda key: SECRET + "x", now())


def test_times_are_near() -> None:
    """A signature in the header is good for 15 minutes either way, a URL as long as it says."""
    assert verify(signed(), secret_of, now() + 890) == KEY
    for off in (910, -910):
        with pytest.raises(TooSkewed):
            verify(signed(), secret_of, now() + off)
    assert verify(presigned(3600), secret_of, now() + 3500) == KEY
    with pytest.raises(AccessDenied, match="expired"):
        verify(presigned(3600), secret_of, now() + 3700)
    with pytest.raises(AccessDenied, match="not valid yet"):
        verify(presigned(3600), secret_of, now() - 910)


def test_what_says_more_must_be_signed() -> None:
    """A header of AWS's that somebody added on the way is refused, and so is an unsigned host."""
    with pytest.raises(AccessDenied, match="x-amz-meta-a is not signed"):
        verify(with_header(signed(), "x-amz-meta-a", "b"), secret_of, now())
    request = signed()
    authorization = request.headers["authorization"][0].replace("SignedHeaders=host;", "SignedHeaders=")
    with pytest.raises(AccessDenied, match="Host must be signed"):
        verify(with_header(request, "authorization", authorization), secret_of, now())


def authorization(credential: str = f"{KEY}/20261124/r/s3/aws4_request", signature: str = "0" * 64) -> str:
    return f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders=host;x-amz-date, Signature={signature}"


DATED = {"x-amz-date": "20261124T000000Z"}


@pytest.mark.parametrize(
    ("headers", "query", "error"),
    [
        ({}, "", AccessDenied),
        ({"authorization": "AWS KEY:c2ln"}, "", MalformedAuthorization),
        ({"authorization": "Bearer x"}, "", MalformedAuthorization),
        ({"authorization": "AWS4-HMAC-SHA256 Credential=x"}, "", MalformedAuthorization),
        ({"authorization": authorization()}, "", AccessDenied),
        ({"authorization": authorization("a/b"), **DATED}, "", MalformedAuthorization),
        (
            {"authorization": authorization(f"{KEY}/20261124/r/sts/aws4_request"), **DATED},
            "",
            MalformedAuthorization,
        ),
        ({"authorization": authorization(signature="0"), **DATED}, "", MalformedAuthorization),
        ({"authorization": authorization(), "x-amz-date": "20261125T000000Z"}, "", MalformedAuthorization),
        ({"authorization": authorization(), "x-amz-date": "20261124T990000Z"}, "", MalformedAuthorization),
        (
            {
                "authorization": authorization(),
                **DATED,
                "x-amz-content-sha256": "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
            },
            "",
            NotImplementedHere,
        ),
        (
            {"authorization": authorization(), **DATED, "x-amz-content-sha256": "1" * 64},
            "",
            MalformedAuthorization,
        ),
        ({"authorization": authorization()}, "X-Amz-Signature=0", MalformedAuthorization),
        ({}, "X-Amz-Signature=0", MalformedAuthorization),
        ({}, "X-Amz-Algorithm=AWS4-HMAC-SHA256", MalformedAuthorization),
    ],
)
def test_what_is_no_signature(headers: dict[str, str], query: str, error: type[HotstartError]) -> None:
    """Whatever is no signature of version 4 is refused by the error that says what it is instead."""
    request = as_sent(f"http://proxy/s3/models?{query}", headers)
    with pytest.raises(error):
        verify(request, secret_of, 1795478400.0)


@pytest.mark.parametrize("expires", ["0", "604801", "-1", "1.5", "99999999", "x"])
def test_lives_of_urls_are_bounded(expires: str) -> None:
    """A URL lives for one second to seven days."""
    request = presigned(60)
    query = request.query.replace("X-Amz-Expires=60", f"X-Amz-Expires={expires}")
    with pytest.raises(MalformedAuthorization, match="X-Amz-Expires"):
        verify(SignedRequest("GET", request.path, query, request.headers), secret_of, now())
