"""Signatures, against AWS's published examples and botocore's signer."""

from __future__ import annotations

import calendar
import hashlib
import time

import pytest
from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotocoreCredentials

from hotstart.sources.sigv4 import Credentials, canonical_query, encode_path, sign

# Those of the examples in AWS's documentation of Signature Version 4 for S3.
EXAMPLE = Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
EXAMPLE_TIME = calendar.timegm((2013, 5, 24, 0, 0, 0))
EXAMPLE_HOST = "examplebucket.s3.amazonaws.com"


@pytest.mark.parametrize(
    ("path", "query", "headers", "signature"),
    [
        (
            "/test.txt",
            "",
            {"Range": "bytes=0-9"},
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
        ),
        ("/", "lifecycle=", {}, "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
        ("/", "max-keys=2&prefix=J", {}, "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"),
    ],
)
def test_published_examples(path: str, query: str, headers: dict[str, str], signature: str) -> None:
    """The three GETs of AWS's documentation get the signatures that stand there."""
    signed = sign(
        EXAMPLE,
        region="us-east-1",
        service="s3",
        now=EXAMPLE_TIME,
        method="GET",
        path=path,
        query=query,
        headers={"Host": EXAMPLE_HOST, **headers},
    )
    names = "host;range;" if headers else "host;"
    assert signed["Authorization"] == (
        "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, "
        f"SignedHeaders={names}x-amz-content-sha256;x-amz-date, Signature={signature}"
    )


KEYS = [
    "org/bert/7/model.safetensors",
    "org/bert/7/a file (1) + more~_-.txt",
    "org/bert/7/ünïcödé/日本語.json",
    "org/bert/7/%41=&?#;!$'*,",
    "org//twice",
]


@pytest.mark.parametrize("token", [None, "a/session+token=="])
@pytest.mark.parametrize("key", KEYS)
def test_objects_are_signed_as_botocore_signs_them(key: str, token: str | None) -> None:
    """Any key, with any headers, gets the signature that AWS's own library makes at the same second."""
    headers = {"Range": "bytes=0-99", "If-Match": '"0123-4"', "X-Spaced": "  a   b  "}
    path = f"/bucket/{encode_path(key)}"
    query = canonical_query([("versionId", "v.1/2+3=="), ("a b", "ü&=")])
    url = f"https://s3.eu-west-1.amazonaws.com{path}?{query}"
    request = AWSRequest(method="GET", url=url, headers=headers)
    S3SigV4Auth(BotocoreCredentials("KEYID", "secret/+", token), "s3", "eu-west-1").add_auth(request)
    signed = sign(
        Credentials("KEYID", "secret/+", token),
        region="eu-west-1",
        service="s3",
        now=_time(request),
        method="GET",
        path=path,
        query=query,
        headers={"Host": "s3.eu-west-1.amazonaws.com", **headers},
    )
    assert signed["Authorization"] == request.headers["Authorization"]


def test_a_body_is_signed_as_botocore_signs_it() -> None:
    """Another service and a body: the payload's digest is part of the signature."""
    body = b"Action=GetCallerIdentity&Version=2011-06-15"
    headers = {"X-Amz-Content-Sha256": hashlib.sha256(body).hexdigest()}
    url = "https://sts.us-east-1.amazonaws.com/"
    request = AWSRequest(method="POST", url=url, data=body, headers=headers)
    SigV4Auth(BotocoreCredentials("KEYID", "secret"), "sts", "us-east-1").add_auth(request)
    signed = sign(
        Credentials("KEYID", "secret"),
        region="us-east-1",
        service="sts",
        now=_time(request),
        method="POST",
        path="/",
        query="",
        headers={"Host": "sts.us-east-1.amazonaws.com"},
        payload_sha256=headers["X-Amz-Content-Sha256"],
    )
    assert signed["Authorization"] == request.headers["Authorization"]


def test_nothing_of_a_secret_is_in_the_repr() -> None:
    """Credentials can stand in a log line."""
    text = repr(Credentials("KEYID", "s3cret", "t0ken", 12.0))
    assert "KEYID" in text
    assert "s3cret" not in text
    assert "t0ken" not in text


def _time(request: AWSRequest) -> float:
    moment = request.context["timestamp"]
    assert isinstance(moment, str)
    return calendar.timegm(time.strptime(moment, "%Y%m%dT%H%M%SZ"))
