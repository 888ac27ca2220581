"""Settings: where they come from, which wins, and what is wrong with them."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from hotstart_proxy.server.addresses import TcpAddress, UnixAddress
from hotstart_proxy.server.settings import SETTINGS, InvalidSettings, Problem, Settings, load_settings

NEEDED = {"origin": ["s3://bucket/prefix"], "store": ["disk:/store"]}


def config_file(folder: Path, text: str) -> Path:
    path = folder / "hotstart.toml"
    path.write_text(text)
    return path


def problems(
    flags: dict[str, list[str]], environment: dict[str, str] | None = None, config: Path | None = None
) -> tuple[Problem, ...]:
    with pytest.raises(InvalidSettings) as caught:
        load_settings(flags, environment or {}, config)
    return caught.value.problems


def test_defaults() -> None:
    """With origin and store alone everything else has its documented default."""
    settings = load_settings(NEEDED, {}, None).settings
    assert settings.listen == (TcpAddress("127.0.0.1", 8470),)
    assert settings.socket_mode == 0o660
    assert settings.keep == ("identity",)
    assert settings.ready_when == ()
    assert settings.ready_within == 300
    assert settings.keep_versions == 5
    assert settings.alias_ttl == 10
    assert settings.presign_expiry == 3600
    assert settings.on_miss == "stream"
    assert settings.budget == ()
    assert settings.admin_listen is None
    assert settings.token_file is None


def test_precedence(tmp_path: Path) -> None:
    """A flag wins over the environment, that over the file, that over the default."""
    config = config_file(
        tmp_path, 'alias_ttl = "40s"\nkeep_versions = 4\nbudget = "4GiB"\non_miss = "redirect"\n'
    )
    environment = {
        "HOTSTART_SERVE_ALIAS_TTL": "30s",
        "HOTSTART_SERVE_KEEP_VERSIONS": "3",
        "HOTSTART_SERVE_BUDGET": "",
    }
    settings = load_settings({**NEEDED, "alias_ttl": ["20s"]}, environment, config).settings
    assert settings.alias_ttl == 20
    assert settings.keep_versions == 3
    assert settings.budget == (4 * 2**30,)
    assert settings.on_miss == "redirect"
    assert settings.grace_period == 25


def test_repeated_values(tmp_path: Path) -> None:
    """A flag is repeated, the environment uses commas, TOML a list or one value; they do not add up."""
    both = (TcpAddress("127.0.0.1", 1), UnixAddress(Path("/x.sock")))
    flags = {**NEEDED, "listen": ["127.0.0.1:1", "unix:/x.sock", "127.0.0.1:1"]}
    environment = {"HOTSTART_SERVE_LISTEN": "127.0.0.1:1, unix:/x.sock"}
    config = config_file(tmp_path, 'listen = ["127.0.0.1:1", "unix:/x.sock"]\nkeep = "zst"\n')
    assert load_settings(flags, {}, None).settings.listen == both
    assert load_settings(NEEDED, environment, None).settings.listen == both
    from_file = load_settings(NEEDED, {}, config).settings
    assert (from_file.listen, from_file.keep) == (both, ("zst",))
    assert load_settings({**NEEDED, "listen": ["[::1]:2"]}, environment, config).settings.listen == (
        TcpAddress("::1", 2),
    )


def test_all_problems_at_once(tmp_path: Path) -> None:
    """Every problem is reported, each with the place that it came from."""
    config = config_file(
        tmp_path, 'keep_version = 5\nsocket_mode = 0o660\ngrace_period = true\npartial_ttl = ["1"]\n'
    )
    found = problems(
        {"listen": ["nowhere", "127.0.0.1:99999"], "on_miss": ["guess"]},
        {"HOTSTART_SERVE_ALIAS_TTL": "soon", "HOTSTART_SERVE_KEEP_VERSIONS": "0"},
        config,
    )
    assert sorted(problem.place for problem in found) == sorted(
        [
            "--origin",
            "--store",
            "--listen",
            "--listen",
            "--on-miss",
            "HOTSTART_SERVE_ALIAS_TTL",
            "HOTSTART_SERVE_KEEP_VERSIONS",
            *(f"{config}, {key}" for key in ("partial_ttl", "socket_mode", "grace_period", "keep_version")),
        ]
    )
    text = str(InvalidSettings(found))
    assert text.startswith("11 problems in the settings:\n  ")
    assert "did you mean keep_versions?" in text


def test_versions_of_single_models() -> None:
    """Each value is a model, in short or in full, and a count."""
    given = {**NEEDED, "keep_versions_of": ["org/bert=8", "tiny=1"]}
    settings = load_settings(given, {}, None).settings
    assert dict(settings.keep_versions_of) == {"org/bert": 8, "library/tiny": 1}


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """A missing configuration file is a problem among the others, and says who named it."""
    missing = tmp_path / "missing.toml"
    assert problems({}, {}, missing)[0].place == "--config"
    found = problems({}, {"HOTSTART_SERVE_CONFIG": str(missing)})
    assert found[0].place == "HOTSTART_SERVE_CONFIG"
    assert [problem.place for problem in found[1:]] == ["--origin", "--store"]


def test_a_file_that_is_not_toml(tmp_path: Path) -> None:
    """Text that is not TOML is a problem with TOML's own position."""
    found = problems(NEEDED, {}, config_file(tmp_path, "listen = [\n"))
    assert "is not TOML" in found[0].text
    assert len(found) == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("origin", "bucket/prefix"),
        ("origin", "http://example.org/models"),
        ("origin", "s3://"),
        ("origin_endpoint", "127.0.0.1:9000"),
        ("origin_addressing", "dns"),
        ("layout", "{file}/{model}"),
        ("store", "/path"),
        ("store", "disk:relative"),
        ("store", "redis://"),
        ("budget", "0"),
        ("keep", "plain"),
        ("keep_versions", "-1"),
        ("keep_versions_of", "org/bert"),
        ("keep_versions_of", "org/bert=0"),
        ("keep_versions_of", "a/b/c=3"),
        ("alias_ttl", "0"),
        ("ready_when", "org/bert@7/model.safetensors"),
        ("ready_when", "org/../bert"),
        ("ready_within", "0"),
        ("sqs_queue", "models-events"),
        ("presign_expiry", "59s"),
        ("presign_expiry", "8d"),
        ("token_file", "/does/not/exist"),
        ("log_format", "xml"),
    ],
)
def test_values_that_are_refused(name: str, text: str) -> None:
    """A value that cannot be used is one problem, which quotes it."""
    found = problems({**NEEDED, name: [text]})
    assert [problem.place for problem in found] == ["--" + name.replace("_", "-")]
    assert text in found[0].text


def test_a_queue_of_s3_needs_an_origin_of_s3() -> None:
    """Events of a bucket that is not the origin would mean nothing."""
    queue = "https://sqs.eu-west-1.amazonaws.com/123456789012/models"
    flags = {**NEEDED, "origin": ["s3://models/prod"], "sqs_queue": [queue]}
    assert load_settings(flags, {}, None).settings.sqs_queue == queue
    (problem,) = problems({**flags, "origin": ["file:///srv/models"]})
    assert problem.place == "--sqs-queue"
    assert "s3://BUCKET/PREFIX" in problem.text


def test_credentials_in_a_url_are_refused_and_not_repeated() -> None:
    """A secret that was put into a URL does not get into the message."""
    found = problems({**NEEDED, "origin_endpoint": ["https://key:secret@s3.example.org"]})
    assert "secret" not in found[0].text


def test_variables_that_are_no_settings_are_odd_but_allowed() -> None:
    """Kubernetes sets variables for a Service of our name; they are told, not refused."""
    loaded = load_settings(
        NEEDED, {"HOTSTART_SERVE_PORT": "tcp://10.0.0.1:8470", "HOTSTART_PROXY": "x"}, None
    )
    assert loaded.warnings == ("HOTSTART_SERVE_PORT is no setting and is ignored",)


def test_one_source() -> None:
    """Flag, environment name and key of every setting come from its one name."""
    assert [setting.name for setting in SETTINGS] == [field.name for field in dataclasses.fields(Settings)]
    alias_ttl = next(setting for setting in SETTINGS if setting.name == "alias_ttl")
    assert (alias_ttl.flag, alias_ttl.environment) == ("--alias-ttl", "HOTSTART_SERVE_ALIAS_TTL")
    for setting in SETTINGS:
        assert setting.help_text.endswith(".")
        assert setting.unit


@pytest.mark.parametrize("origin", ["http://node:8470", "https://proxy.example", "unix:/run/hotstart.sock"])
def test_another_proxy_as_the_origin(origin: str, tmp_path: Path) -> None:
    """The origin may be another proxy's address, with a file that holds its token."""
    token = tmp_path / "token"
    token.write_text("x")
    flags = {**NEEDED, "origin": [origin], "origin_token_file": [str(token)]}
    settings = load_settings(flags, {}, None).settings
    assert (settings.origin, settings.origin_token_file) == (origin, token)


def test_a_secret_in_an_upstreams_address_is_not_repeated() -> None:
    """A user in the address is refused without being shown, and the right place is named."""
    (problem,) = problems({**NEEDED, "origin": ["http://me:secret@node:8470"]})
    assert "--origin-token-file" in problem.text
    assert "secret" not in problem.text


def test_a_cdn_and_its_secrets(tmp_path: Path) -> None:
    """Tokens without secrets, which a CDN would undo, and secrets without a CDN are refused."""
    file = tmp_path / "file"
    file.write_text("x")
    cdn, secrets, tokens = (
        {"cdn": ["127.0.0.1:0"]},
        {"cdn_secret_file": [str(file)]},
        {"token_file": [str(file)]},
    )
    load_settings({**NEEDED, **cdn, **secrets, **tokens}, {}, None)
    load_settings({**NEEDED, **cdn}, {}, None)
    (problem,) = problems({**NEEDED, **cdn, **tokens})
    assert (problem.place, "cdn_secret_file" in problem.text) == ("--cdn", True)
    (problem,) = problems({**NEEDED, **secrets})
    assert problem.place == "--cdn-secret-file"


@pytest.mark.parametrize("text", ["0", "-1", "257", "auto", "1.5", "٣"])
def test_a_number_of_workers_that_is_none(text: str) -> None:
    """Workers are counted from 1 to 256; a slip of the finger does not fork a thousand processes."""
    (problem,) = problems({**NEEDED, "workers": [text]})
    assert problem.place == "--workers"
    assert problem.text == f"{text!r}: expected 1 to 256"


def test_levels(tmp_path: Path) -> None:
    """Stores and budgets are lists in the order of the levels, from whichever place they come."""
    expected = (("disk:/a", "disk:/b"), (1024, 1024))
    flags = {**NEEDED, "store": ["disk:/a", "disk:/b"], "budget": ["1KiB", "1024"]}
    environment = {"HOTSTART_SERVE_STORE": "disk:/a, disk:/b", "HOTSTART_SERVE_BUDGET": "1KiB,1KiB"}
    config = config_file(tmp_path, 'store = ["disk:/a", "disk:/b"]\nbudget = ["1KiB", 1024]\n')
    origin = {"origin": NEEDED["origin"]}
    for settings in (
        load_settings(flags, {}, None).settings,
        load_settings(origin, environment, None).settings,
        load_settings(origin, {}, config).settings,
    ):
        assert (settings.store, settings.budget) == expected


def test_fewer_budgets_than_stores() -> None:
    """Stores without a budget of their own have the default one."""
    settings = load_settings(
        {**NEEDED, "store": ["disk:/a", "disk:/b"], "budget": ["1KiB"]}, {}, None
    ).settings
    assert settings.budget == (1024,)


def test_levels_that_cannot_be() -> None:
    """More budgets than stores, and a store that stands twice, are problems of their places."""
    (problem,) = problems({**NEEDED, "budget": ["1KiB", "2KiB"]})
    assert (problem.place, "2 budgets, and stores: 1" in problem.text) == ("--budget", True)
    (problem,) = problems({**NEEDED, "store": ["disk:/a", "disk:/a"]})
    assert (problem.place, "stands twice" in problem.text) == ("--store", True)


def test_a_comma_within_a_stores_url() -> None:
    """Only a comma before a scheme separates stores: the nodes of a cluster have commas between them."""
    setting = next(setting for setting in SETTINGS if setting.name == "store")
    text = "disk:/a,redis+cluster://n1:6379,n2:6379,unix:///r.sock"
    assert re.split(setting.separator, text) == [
        "disk:/a",
        "redis+cluster://n1:6379,n2:6379",
        "unix:///r.sock",
    ]
