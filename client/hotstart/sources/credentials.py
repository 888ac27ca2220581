"""Credentials for S3, found the ordinary AWS way, cached until shortly before they expire.

In order: the environment's keys; web identity (``AWS_WEB_IDENTITY_TOKEN_FILE``, as EKS sets it); the shared
credentials file; the container endpoint (``AWS_CONTAINER_CREDENTIALS_…``, as ECS and EKS Pod Identity do).
"""

from __future__ import annotations

import configparser
import json
import threading
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from urllib.parse import urlencode

from hotstart.wire.aws import aws_endpoint

from .answers import refused
from .base import SourceError
from .endpoints import Endpoint, InvalidUrl, parse_url
from .http import Connection, Response
from .sigv4 import Credentials

__all__ = ["CredentialProvider", "profile_settings"]

# Credentials are replaced this long before they end, so that none ends on the way to S3. AWS's own tools take
# between 5 and 15 minutes; container endpoints hand out new ones from 15 minutes before the end.
_EARLY_SECONDS = 300.0
# These answer in milliseconds, or not at all.
_ANSWER_SECONDS = 5.0
_MAX_ANSWER_BYTES = 64 * 1024
_MAX_FILE_BYTES = 1024 * 1024
_CONTAINER_HOST = "http://169.254.170.2"
# Where a full URI over plain http may lead: this host, and the addresses of ECS and EKS.
_CONTAINER_HOSTS = frozenset(("169.254.170.2", "169.254.170.23", "fd00:ec2::23"))
_DOING = "getting credentials"


def profile_settings(variables: Mapping[str, str]) -> Mapping[str, str]:
    """Return the settings of the profile in use, of the credentials file over those of the config file.

    Args:
        variables: ``AWS_PROFILE``, ``AWS_SHARED_CREDENTIALS_FILE``, ``AWS_CONFIG_FILE`` and ``HOME``.

    Returns:
        Names in lower case; empty where there is no such file or profile.
    """
    profile = variables.get("AWS_PROFILE") or "default"
    home = variables.get("HOME", "")
    config = variables.get("AWS_CONFIG_FILE") or f"{home}/.aws/config"
    credentials = variables.get("AWS_SHARED_CREDENTIALS_FILE") or f"{home}/.aws/credentials"
    section = profile if profile == "default" else f"profile {profile}"
    return {**_read_section(Path(config), section), **_read_section(Path(credentials), profile)}


def _read_section(path: Path, section: str) -> dict[str, str]:
    # A % in a secret is no interpolation.
    parser = configparser.RawConfigParser(strict=False)
    try:
        with path.open("rb") as file:
            parser.read_string(file.read(_MAX_FILE_BYTES).decode("utf-8"))
    except (OSError, UnicodeDecodeError, configparser.Error):
        return {}
    return dict(parser.items(section)) if parser.has_section(section) else {}


class CredentialProvider:
    """Finds credentials and keeps them fresh. Safe for use from several threads."""

    def __init__(
        self, variables: Mapping[str, str], region: str, source: str, now: Callable[[], float] = time.time
    ) -> None:
        """Look at nothing yet.

        Args:
            variables: the ``AWS_…`` environment variables and ``HOME``.
            region: for STS.
            source: the name of the source that wants them, for errors.
            now: seconds since the epoch.
        """
        self._variables = variables
        self._region = region
        self._source = source
        self._now = now
        self._lock = threading.Lock()
        self._held: Credentials | None = None

    def get(self) -> Credentials:
        """Return credentials that hold for some minutes; whoever comes first fetches them for all.

        Raises:
            SourceError: there are none, or whoever gives them refused or could not be reached.
        """
        with self._lock:
            held = self._held
            if held is None or (
                held.expires_at is not None and held.expires_at - _EARLY_SECONDS <= self._now()
            ):
                held = self._held = self._find()
            return held

    def forget(self, refused_ones: Credentials) -> None:
        """Do not give these out again: S3 says that they have expired."""
        with self._lock:
            if self._held is refused_ones:
                self._held = None

    def _find(self) -> Credentials:
        for find in (self._from_environment, self._from_web_identity, self._from_file, self._from_container):
            credentials = find()
            if credentials is not None:
                return credentials
        raise self._failure(
            "none found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or run where "
            "AWS_WEB_IDENTITY_TOKEN_FILE or AWS_CONTAINER_CREDENTIALS_RELATIVE_URI is set"
        )

    def _failure(self, reason: str, *, transient: bool = False) -> SourceError:
        return SourceError(self._source, _DOING, reason, transient=transient)

    def _from_environment(self) -> Credentials | None:
        key = self._variables.get("AWS_ACCESS_KEY_ID")
        secret = self._variables.get("AWS_SECRET_ACCESS_KEY")
        if not key and not secret:
            return None
        if not key or not secret:
            raise self._failure("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY must both be set, or neither")
        return Credentials(key, secret, self._variables.get("AWS_SESSION_TOKEN") or None)

    def _from_file(self) -> Credentials | None:
        settings = profile_settings(self._variables)
        key, secret = settings.get("aws_access_key_id"), settings.get("aws_secret_access_key")
        if key and secret:
            return Credentials(key, secret, settings.get("aws_session_token") or None)
        if self._variables.get("AWS_PROFILE"):
            raise self._failure(
                f"profile {self._variables['AWS_PROFILE']} has no aws_access_key_id and "
                "aws_secret_access_key; other kinds of profile are not read here"
            )
        return None

    def _from_web_identity(self) -> Credentials | None:
        token_file = self._variables.get("AWS_WEB_IDENTITY_TOKEN_FILE")
        role = self._variables.get("AWS_ROLE_ARN")
        if not token_file or not role:
            return None
        body = urlencode(
            {
                "Action": "AssumeRoleWithWebIdentity",
                "Version": "2011-06-15",
                "RoleArn": role,
                "RoleSessionName": self._variables.get("AWS_ROLE_SESSION_NAME") or "hotstart",
                # Read every time: the file is replaced before the token in it ends.
                "WebIdentityToken": self._read_secret(token_file),
            }
        )
        url = (
            self._variables.get("AWS_ENDPOINT_URL_STS")
            or self._variables.get("AWS_ENDPOINT_URL")
            or aws_endpoint("sts", self._region)
        )
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        return _parse_sts(self._ask("POST", url, headers, body.encode("ascii")), self._failure)

    def _from_container(self) -> Credentials | None:
        relative = self._variables.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
        full = self._variables.get("AWS_CONTAINER_CREDENTIALS_FULL_URI")
        if not relative and not full:
            return None
        url = f"{_CONTAINER_HOST}{relative}" if relative else str(full)
        self._check_container(url)
        headers = {}
        token_file = self._variables.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")
        token = self._variables.get("AWS_CONTAINER_AUTHORIZATION_TOKEN")
        if token_file:
            token = self._read_secret(token_file)
        if token:
            headers["Authorization"] = token
        return _parse_container(self._ask("GET", url, headers, None), self._failure)

    def _check_container(self, url: str) -> None:
        endpoint = self._endpoint(url)[0]
        if not (endpoint.scheme == "https" or endpoint.is_local or endpoint.host in _CONTAINER_HOSTS):
            raise self._failure(f"{endpoint}: secrets are not asked for over plain http beyond this host")

    def _endpoint(self, url: str) -> tuple[Endpoint, str]:
        try:
            return parse_url(url)
        except InvalidUrl as error:
            raise self._failure(f"credentials endpoint {error}") from error

    def _read_secret(self, path: str) -> str:
        try:
            return Path(path).read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise self._failure(f"{path} cannot be read: {error}") from error

    def _ask(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> bytes:
        endpoint, target = self._endpoint(url)
        connection = Connection(endpoint, f"{self._source}, by {endpoint}", _ANSWER_SECONDS)
        try:
            response: Response = connection.request(method, target, headers, doing=_DOING, body=body)
            if response.status != 200:
                raise refused(response)
            with response:
                return response.read(_MAX_ANSWER_BYTES)
        finally:
            connection.close()


def _parse_sts(data: bytes, failure: Callable[[str], SourceError]) -> Credentials:
    try:
        root = ElementTree.fromstring(data)  # noqa: S314  (STS over TLS, and at most 64 KiB)
    except ElementTree.ParseError as error:
        raise failure(f"the answer of STS is not XML: {error}") from error
    found = {
        element.tag.rpartition("}")[2]: element.text or "" for element in root.iterfind(".//{*}Credentials/*")
    }
    return _credentials(found, ("AccessKeyId", "SecretAccessKey", "SessionToken"), "STS", failure)


def _parse_container(data: bytes, failure: Callable[[str], SourceError]) -> Credentials:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise failure("the container endpoint's answer is not JSON") from error
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        found = {}
    return _credentials(found, ("AccessKeyId", "SecretAccessKey", "Token"), "the container endpoint", failure)


def _credentials(
    found: Mapping[str, str],
    names: tuple[str, str, str],
    giver: str,
    failure: Callable[[str], SourceError],
) -> Credentials:
    key, secret, token = (found.get(name) for name in names)
    if not key or not secret:
        raise failure(f"the answer of {giver} has no {names[0]} and {names[1]}")
    expires_at = None
    if found.get("Expiration"):
        try:
            expires_at = datetime.fromisoformat(found["Expiration"]).timestamp()
        except ValueError as error:
            raise failure(f"the answer of {giver} has an Expiration that is no time") from error
    return Credentials(key, secret, token or None, expires_at)
