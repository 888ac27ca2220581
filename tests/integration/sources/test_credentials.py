"""Credentials for S3: each ordinary place they come from, and what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from hotstart.sources.base import SourceError
from hotstart.sources.credentials import CredentialProvider, profile_settings
from hotstart.sources.sigv4 import Credentials
from tests.integration.sources.scripted import Answer, ScriptedServer

NOW = 1_700_000_000.0
STS = """<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
  <AssumeRoleWithWebIdentityResult><Credentials>
    <SessionToken>t0ken</SessionToken><SecretAccessKey>s3cret</SecretAccessKey>
    <Expiration>{expiration}</Expiration><AccessKeyId>ASIAKEY</AccessKeyId>
  </Credentials></AssumeRoleWithWebIdentityResult>
</AssumeRoleWithWebIdentityResponse>"""


def _provider(variables: Mapping[str, str], now: list[float] | None = None) -> CredentialProvider:
    clock = [NOW] if now is None else now
    return CredentialProvider(variables, "eu-west-1", "origin s3://b", lambda: clock[0])


def _iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def test_the_environment_comes_first() -> None:
    """Keys in the environment are used before anything else is looked at."""
    variables = {"AWS_ACCESS_KEY_ID": "KEY", "AWS_SECRET_ACCESS_KEY": "s", "AWS_SESSION_TOKEN": "t"}
    found = _provider({**variables, "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.1:1/"}).get()
    assert found == Credentials("KEY", "s", "t")


@pytest.mark.parametrize("profile", [None, "other"])
def test_a_profile_of_the_credentials_file(tmp_path: Path, profile: str | None) -> None:
    """The default profile, or the one that AWS_PROFILE names; region from the config file."""
    aws = tmp_path / ".aws"
    aws.mkdir()
    (aws / "credentials").write_text(
        "[default]\naws_access_key_id = DEFAULT\naws_secret_access_key = 100%s3cret\n"
        "[other]\naws_access_key_id=OTHER\naws_secret_access_key=x\naws_session_token=t\n"
    )
    (aws / "config").write_text("[default]\nregion = eu-west-1\n[profile other]\nregion = eu-north-1\n")
    variables = {"HOME": str(tmp_path), **({} if profile is None else {"AWS_PROFILE": profile})}
    found = _provider(variables).get()
    if profile is None:
        assert found == Credentials("DEFAULT", "100%s3cret")
        assert profile_settings(variables)["region"] == "eu-west-1"
    else:
        assert found == Credentials("OTHER", "x", "t")
        assert profile_settings(variables)["region"] == "eu-north-1"


@pytest.mark.parametrize("content", [b"", b"no section\n", b"[default]\nx", b"\xff", b"[other]\na=b\n"])
def test_a_file_that_says_nothing_is_passed_over(tmp_path: Path, content: bytes) -> None:
    """A broken or foreign file is no reason to fail while there are other places."""
    file = tmp_path / "credentials"
    file.write_bytes(content)
    assert profile_settings({"AWS_SHARED_CREDENTIALS_FILE": str(file), "AWS_CONFIG_FILE": str(file)}) == {}
    with pytest.raises(SourceError, match="none found: set AWS_ACCESS_KEY_ID"):
        _provider({"AWS_SHARED_CREDENTIALS_FILE": str(file)}).get()


def test_a_profile_that_is_named_must_be_there(tmp_path: Path) -> None:
    """AWS_PROFILE is a wish: without keys in that profile there is an error that names it."""
    with pytest.raises(SourceError, match="profile wanted has no"):
        _provider({"AWS_PROFILE": "wanted", "HOME": str(tmp_path)}).get()


def test_web_identity_asks_sts(tmp_path: Path) -> None:
    """A projected token, read anew each time, is exchanged for a session that is used until near its end."""
    token = tmp_path / "token"
    token.write_text("first\n")
    now = [NOW]
    with ScriptedServer(
        lambda request: Answer(200, {}, STS.format(expiration=_iso(now[0] + 3600)).encode())
    ) as sts:
        provider = _provider(
            {
                "AWS_WEB_IDENTITY_TOKEN_FILE": str(token),
                "AWS_ROLE_ARN": "arn:aws:iam::1:role/r",
                "AWS_ENDPOINT_URL_STS": sts.url,
            },
            now,
        )
        found = provider.get()
        assert found == Credentials("ASIAKEY", "s3cret", "t0ken", NOW + 3600)
        assert provider.get() is found
        now[0] += 3301
        token.write_text("second")
        assert provider.get().expires_at == now[0] + 3600
        forms = [parse_qs(request.body.decode()) for request in sts.requests]
        assert [form["WebIdentityToken"] for form in forms] == [["first"], ["second"]]
        assert forms[0]["RoleArn"] == ["arn:aws:iam::1:role/r"]
        assert forms[0]["Action"] == ["AssumeRoleWithWebIdentity"]


def _container(expiration: float) -> bytes:
    return json.dumps(
        {
            "AccessKeyId": "ASIAKEY",
            "SecretAccessKey": "s3cret",
            "Token": "t0ken",
            "Expiration": _iso(expiration),
        }
    ).encode()


def test_the_container_endpoint(tmp_path: Path) -> None:
    """ECS and EKS Pod Identity: a local endpoint with an authorization token gives a session."""
    token = tmp_path / "token"
    token.write_text("from-file")
    with ScriptedServer(lambda request: Answer(200, {}, _container(NOW + 3600))) as endpoint:
        variables = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{endpoint.url}/creds?id=1"}
        found = _provider({**variables, "AWS_CONTAINER_AUTHORIZATION_TOKEN": "plain"}).get()
        assert found == Credentials("ASIAKEY", "s3cret", "t0ken", NOW + 3600)
        _provider({**variables, "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(token)}).get()
        assert [request.headers["authorization"] for request in endpoint.requests] == ["plain", "from-file"]
        assert endpoint.requests[0].target == "/creds?id=1"


def test_expired_credentials_are_forgotten_once() -> None:
    """What S3 says has expired is not given out again; what replaced it is kept."""
    with ScriptedServer(lambda request: Answer(200, {}, _container(NOW + 3600))) as endpoint:
        provider = _provider({"AWS_CONTAINER_CREDENTIALS_FULL_URI": endpoint.url})
        first = provider.get()
        provider.forget(first)
        second = provider.get()
        provider.forget(first)
        assert provider.get() is second
        assert len(endpoint.requests) == 2


@pytest.mark.parametrize(
    ("answer", "expected", "transient"),
    [
        (Answer(200, {}, b"{"), "not JSON", False),
        (Answer(200, {}, b"[]"), "has no AccessKeyId", False),
        (Answer(200, {}, b'{"AccessKeyId": 1}'), "has no AccessKeyId", False),
        (Answer(200, {}, _container(NOW).replace(b"Z", b"?")), "Expiration that is no time", False),
        (Answer(200, {}, b"x" * 100_000), "expected at most", False),
        (Answer(403, {}, b"denied s3cret"), "HTTP 403", False),
        (Answer(500), "HTTP 500", True),
    ],
)
def test_a_container_endpoint_that_fails(answer: Answer, expected: str, transient: bool) -> None:
    """Whatever is wrong with the answer is said, and nothing of its secrets."""
    with ScriptedServer(lambda request: answer) as endpoint:
        with pytest.raises(SourceError, match=expected) as caught:
            _provider({"AWS_CONTAINER_CREDENTIALS_FULL_URI": endpoint.url}).get()
        assert caught.value.transient is transient
        assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "body", [b"<", b"<a/>", STS.format(expiration="soon").encode(), STS.encode()[:200], b"\xff"]
)
def test_an_answer_of_sts_that_fails(tmp_path: Path, body: bytes) -> None:
    """Anything but a session is one error."""
    token = tmp_path / "token"
    token.write_text("x")
    variables = {"AWS_WEB_IDENTITY_TOKEN_FILE": str(token), "AWS_ROLE_ARN": "arn"}
    with ScriptedServer(lambda request: Answer(200, {}, body)) as sts:
        with pytest.raises(SourceError, match="STS"):
            _provider({**variables, "AWS_ENDPOINT_URL_STS": sts.url}).get()
    token.unlink()
    with pytest.raises(SourceError, match="cannot be read"):
        _provider(variables).get()


def test_an_exception_of_sts_is_passed_on(tmp_path: Path) -> None:
    """STS's own word for what is wrong reaches the user."""
    token = tmp_path / "token"
    token.write_text("x")
    body = b"<ErrorResponse><Error><Code>InvalidIdentityToken</Code><Message>no</Message></Error>"
    with ScriptedServer(lambda request: Answer(400, {}, body)) as sts:
        variables = {"AWS_WEB_IDENTITY_TOKEN_FILE": str(token), "AWS_ROLE_ARN": "arn"}
        with pytest.raises(SourceError, match="HTTP 400: InvalidIdentityToken: no"):
            _provider({**variables, "AWS_ENDPOINT_URL_STS": sts.url}).get()


def test_secrets_are_not_asked_for_in_the_open() -> None:
    """A container endpoint over plain http must be this host or one of AWS's own addresses."""
    with pytest.raises(SourceError, match="over plain http"):
        _provider({"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://example.com/"}).get()
    with pytest.raises(SourceError, match="expected an http"):
        _provider({"AWS_CONTAINER_CREDENTIALS_FULL_URI": "ftp://example.com/"}).get()
