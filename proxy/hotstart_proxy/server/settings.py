"""The proxy's settings: one source for flag, environment name, TOML key, default, unit and help.

A field of ``Settings`` is a setting; ``SETTINGS`` lists them for the command line, the reference in
docs/configuration.md and the test that compares the two. Flags win over the environment, that over the file,
that over the default. Every problem is found before any is reported.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from hotstart.wire.adoption import Layout
from hotstart.wire.errors import FormatError, HotstartError, InvalidReference
from hotstart.wire.references import Reference, check_model, parse_reference
from hotstart_proxy.origins.urls import InvalidOriginUrl, check_upstream, is_upstream
from hotstart_proxy.stores.urls import InvalidStoreUrl, parse_store_url

from .addresses import Address, InvalidAddress, parse_address
from .quantities import InvalidQuantity, parse_duration, parse_mode, parse_size
from .s3.targets import BUCKET_RULE, is_bucket_name

__all__ = [
    "CONFIG_ENVIRONMENT",
    "ENVIRONMENT_PREFIX",
    "SETTINGS",
    "InvalidSettings",
    "LoadedSettings",
    "Problem",
    "Setting",
    "Settings",
    "load_settings",
]

ENVIRONMENT_PREFIX = "HOTSTART_SERVE_"
CONFIG_ENVIRONMENT = f"{ENVIRONMENT_PREFIX}CONFIG"
# S3 signs for seven days at most; below a minute a client's clock and queue eat it up.
_PRESIGN_BOUNDS_SECONDS = (60, 7 * 86400)
# More than any machine has cores to run them on: beyond it stands a mistake.
_MOST_WORKERS = 256
# A comma may stand in a store's URL, between the nodes of a cluster; between stores a scheme follows it.
_BETWEEN_STORES = r",(?=\s*[a-z][a-z+]*:/)"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        place: where the value came from: ``--budget``, an environment name, or a file and its key.
        text: what was found, what was expected.
    """

    place: str
    text: str


class InvalidSettings(HotstartError):
    """The settings cannot be used; every problem is listed, each with the place it came from."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        lines = "".join(f"\n  {problem.place}: {problem.text}" for problem in problems)
        super().__init__(f"{count} in the settings:{lines}")


class _Unfit(HotstartError):
    """A value that its parser refuses; never leaves this module."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What is known about one setting.

    Attributes:
        name: the field's and the TOML key's.
        parse: from text to value; raises one of our errors.
        default: as text, or what happens without one in words in parentheses; None means required.
        unit: of the value, or the form it is written in.
        help_text: one sentence.
        repeatable: several values; the environment separates them by commas, TOML uses a list.
        ordered: repeatable, and each value has its place: equal ones stay, and each has its meaning.
        separator: of the values in the environment, a regular expression.
    """

    name: str
    parse: Callable[[str], Any]
    default: str | None
    unit: str
    help_text: str
    repeatable: bool
    ordered: bool
    separator: str

    @property
    def flag(self) -> str:
        """The command line's spelling."""
        return "--" + self.name.replace("_", "-")

    @property
    def environment(self) -> str:
        """The environment's spelling."""
        return ENVIRONMENT_PREFIX + self.name.upper()


def _setting(
    parse: Callable[[str], Any],
    *,
    default: str | None,
    unit: str,
    help_text: str,
    repeatable: bool = False,
    ordered: bool = False,
    separator: str = ",",
) -> Any:
    metadata = {
        "parse": parse,
        "default": default,
        "unit": unit,
        "help_text": help_text,
        "repeatable": repeatable,
        "ordered": ordered,
        "separator": separator,
    }
    if default is None:
        return dataclasses.field(metadata=metadata)
    if default.startswith("("):
        return dataclasses.field(default=() if repeatable else None, metadata=metadata)
    value = parse(default)
    return dataclasses.field(default=(value,) if repeatable else value, metadata=metadata)


def _one_of(*choices: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in choices:
            raise _Unfit(f"{text!r}: expected {' or '.join(choices)}")
        return text

    return parse


def _text(text: str) -> str:
    return text


def _file(text: str) -> Path:
    path = Path(text)
    if not path.is_file():
        raise _Unfit(f"{text!r}: there is no such file")
    return path


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 1_000_000):
        raise _Unfit(f"{text!r}: expected a whole number of at least 1")
    return int(text)


def _count_of_model(text: str) -> tuple[str, int]:
    model, _, count = text.rpartition("=")
    try:
        return check_model(model), _count(count)
    except (InvalidReference, _Unfit) as error:
        raise _Unfit(f"{text!r}: expected MODEL=COUNT, as in org/bert=8: {error}") from error


def _workers(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= _MOST_WORKERS):
        raise _Unfit(f"{text!r}: expected 1 to {_MOST_WORKERS}")
    return int(text)


def _budget(text: str) -> int:
    size = parse_size(text)
    if size == 0:
        raise _Unfit(f"{text!r}: expected more than 0 bytes")
    return size


def _positive_duration(text: str) -> float:
    seconds = parse_duration(text)
    if seconds <= 0:
        raise _Unfit(f"{text!r}: expected more than 0 seconds")
    return seconds


def _bucket(text: str) -> str:
    if not is_bucket_name(text):
        raise _Unfit(f"{text!r}: a bucket's name is {BUCKET_RULE}")
    return text


def _presign_duration(text: str) -> int:
    seconds = int(parse_duration(text))
    low, high = _PRESIGN_BOUNDS_SECONDS
    if not low <= seconds <= high:
        raise _Unfit(f"{text!r}: expected {low} seconds to {high // 86400} days")
    return seconds


def _url(schemes: Sequence[str], example: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        parts = urlsplit(text)
        if "@" in parts.netloc:
            # The text is not repeated: it holds a secret.
            raise _Unfit("credentials do not belong in a URL: use the ordinary AWS ways")
        if parts.scheme not in schemes or not (parts.netloc or parts.path.strip("/")):
            raise _Unfit(f"{text!r}: expected {example}")
        return text

    return parse


def _origin(text: str) -> str:
    if is_upstream(text):
        if "@" in text.partition("//")[2].partition("/")[0]:
            # The text is not repeated: it holds a secret.
            raise _Unfit("credentials do not belong in a URL: use --origin-token-file")
        return check_upstream(text)
    return _url(("s3", "file"), "s3://BUCKET/PREFIX, file:///PATH, http://HOST:PORT or unix:/PATH")(text)


def _whole_version(text: str) -> Reference:
    reference = parse_reference(text)
    if reference.file is not None:
        raise _Unfit(f"{text!r}: expected a version or alias, not a file of it")
    return reference


def _representation(text: str) -> str:
    if text not in ("identity", "zst", "zsp"):
        raise _Unfit(f"{text!r}: expected identity, zst or zsp")
    return text


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """How one proxy runs; see docs/configuration.md."""

    origin: str = _setting(
        _origin,
        default=None,
        unit="URL",
        help_text="Where the models are published: s3://BUCKET/PREFIX or file:///PATH; or another proxy that"
        " has them: http://HOST:PORT, https://HOST or unix:/PATH.",
    )
    origin_endpoint: str | None = _setting(
        _url(("http", "https"), "http://HOST:PORT or https://HOST"),
        default="(AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, else AWS)",
        unit="URL",
        help_text="S3 endpoint.",
    )
    origin_region: str | None = _setting(
        _text,
        default="(AWS_REGION, AWS_DEFAULT_REGION, else us-east-1)",
        unit="name",
        help_text="S3 region.",
    )
    origin_addressing: Literal["auto", "path", "virtual"] = _setting(
        _one_of("auto", "path", "virtual"),
        default="auto",
        unit="auto, path or virtual",
        help_text="S3 addressing style; auto means path for an endpoint of one's own and virtual for AWS.",
    )
    origin_token_file: Path | None = _setting(  # noqa: RUF009  it is dataclasses.field
        _file,
        default="(no token is sent)",
        unit="path",
        help_text="File whose first line is the bearer token for an origin that is another proxy; read again"
        " when it changes.",
    )
    origin_timeout: float = _setting(
        _positive_duration,
        default="15s",
        unit="duration",
        help_text="How long an answer of S3 may stay silent before the request is sent again, from the byte"
        " it had come to; after twice that it is given up.",
    )
    layout: Layout = _setting(  # noqa: RUF009  it is dataclasses.field
        Layout.parse,
        default="{model}/{version}/{file}",
        unit="template",
        help_text="How files that were uploaded plainly lie under the prefix.",
    )
    store: tuple[str, ...] = _setting(
        parse_store_url,
        default=None,
        unit="disk:/PATH or redis://HOST:PORT",
        help_text="Where the proxy keeps its copies: disk:/PATH or redis://HOST:PORT (see Stores). May be"
        " given several times: they are read in that order, and filled from the last to the first.",
        repeatable=True,
        ordered=True,
        separator=_BETWEEN_STORES,
    )
    budget: tuple[int, ...] = _setting(
        _budget,
        default="(80% of the filesystem, or of Redis's maxmemory)",
        unit="size",
        help_text="Most bytes that the store may use; given several times, each store's in its turn.",
        repeatable=True,
        ordered=True,
    )
    listen: tuple[Address, ...] = _setting(
        parse_address,
        default="127.0.0.1:8470",
        unit="HOST:PORT or unix:/PATH",
        help_text="Where to serve; may be given several times. Port 0 lets the kernel choose.",
        repeatable=True,
    )
    s3_listen: tuple[Address, ...] = _setting(
        parse_address,
        default="(none; S3 is served under /s3 of listen)",
        unit="HOST:PORT or unix:/PATH",
        help_text="Where to serve S3's protocol alone, for clients whose endpoint has no path; may be given"
        " several times.",
        repeatable=True,
    )
    s3_bucket: str = _setting(
        _bucket,
        default="models",
        unit="name",
        help_text="What S3's clients call the bucket that all models are in.",
    )
    s3_keys: Path | None = _setting(  # noqa: RUF009  it is dataclasses.field
        _file,
        default="(only this host and Unix sockets may use S3)",
        unit="path",
        help_text="File with one key a line, ID SECRET, with which S3's clients must sign; the word premium"
        " behind one lets its requests be of that tier. Read again when it changes.",
    )
    cdn: tuple[Address, ...] = _setting(
        parse_address,
        default="(none)",
        unit="HOST:PORT or unix:/PATH",
        help_text="Where a CDN fetches: files, manifests and health alone, and never a redirect; may be given"
        " several times.",
        repeatable=True,
    )
    cdn_secret_file: Path | None = _setting(  # noqa: RUF009  it is dataclasses.field
        _file,
        default="(none; whoever can connect)",
        unit="path",
        help_text="File with one secret a line, any of which opens the listeners of cdn in the header"
        " X-Hotstart-Origin-Secret, instead of a token. Read again when it changes.",
    )
    admin_listen: Address | None = _setting(  # noqa: RUF009  it is dataclasses.field
        parse_address,
        default="(unix:STORE/admin.sock, or admin-PID.sock where that is taken)",
        unit="HOST:PORT or unix:/PATH",
        help_text="Where to take administrative requests; the file's mode is 0600.",
    )
    socket_mode: int = _setting(
        parse_mode,
        default="0660",
        unit="octal mode",
        help_text="Permissions of the Unix sockets given by listen, s3_listen and cdn.",
    )
    workers: int = _setting(
        _workers,
        default="1",
        unit="count",
        help_text="How many processes serve; they share the store and the listeners.",
    )
    token_file: Path | None = _setting(  # noqa: RUF009  it is dataclasses.field
        _file,
        default="(no token is needed)",
        unit="path",
        help_text="File with one bearer token a line, any of which opens the data listeners; the word premium"
        " behind one lets its requests be of that tier. Read again when it changes.",
    )
    batch_requests: int = _setting(
        _count,
        default="64",
        unit="count",
        help_text="How many requests of tier batch are sent bytes at a time; others are redirected or refused"
        " (429).",
    )
    on_miss: Literal["stream", "redirect"] = _setting(
        _one_of("stream", "redirect"),
        default="stream",
        unit="stream or redirect",
        help_text="What a reader of bytes that are not here gets: a stream as they arrive, or a redirect to"
        " the origin.",
    )
    keep: tuple[str, ...] = _setting(
        _representation,
        default="identity",
        unit="identity, zst or zsp",
        help_text="Which representations warming fills; may be given several times.",
        repeatable=True,
    )
    keep_versions: int = _setting(
        _count,
        default="5",
        unit="count",
        help_text="How many of the newest versions of each model are kept, besides those with an alias or a"
        " pin.",
    )
    keep_versions_of: tuple[tuple[str, int], ...] = _setting(
        _count_of_model,
        default="(keep_versions)",
        unit="MODEL=COUNT",
        help_text="The same for one model, org/bert=8; may be given several times.",
        repeatable=True,
    )
    alias_ttl: float = _setting(
        _positive_duration,
        default="10s",
        unit="duration",
        help_text="How long an index is trusted before the origin is asked again, and how often it is asked"
        " though nobody needs it; also max-age of answers by alias.",
    )
    partial_ttl: float = _setting(
        _positive_duration,
        default="1d",
        unit="duration",
        help_text="How long an interrupted fill is kept to be resumed.",
    )
    scrub_interval: float = _setting(
        parse_duration,
        default="1d",
        unit="duration",
        help_text="How long after a scrub of the store the next one begins; the first begins at the start. 0"
        " for none.",
    )
    presign_expiry: int = _setting(
        _presign_duration,
        default="1h",
        unit="duration, 60s to 7d",
        help_text="How long pre-signed URLs are valid.",
    )
    sqs_queue: str | None = _setting(
        _url(("http", "https"), "https://sqs.REGION.amazonaws.com/ACCOUNT/NAME"),
        default="(none is read)",
        unit="URL",
        help_text="A queue of S3's events of the origin, by which new versions are learned of at once.",
    )
    ready_when: tuple[Reference, ...] = _setting(
        _whole_version,
        default="(nothing is waited for)",
        unit="MODEL@VERSION",
        help_text="What must be here before readiness is true; may be given several times.",
        repeatable=True,
    )
    ready_within: float = _setting(
        _positive_duration,
        default="5m",
        unit="duration",
        help_text="How long readiness waits for it; after that it is true and says what is missing.",
    )
    grace_period: float = _setting(
        parse_duration,
        default="25s",
        unit="duration",
        help_text="How long running transfers may go on after SIGTERM; then their connections are cut.",
    )
    log_format: Literal["logfmt", "json"] = _setting(
        _one_of("logfmt", "json"), default="logfmt", unit="logfmt or json", help_text="Form of the log lines."
    )
    log_level: Literal["debug", "info", "warning", "error"] = _setting(
        _one_of("debug", "info", "warning", "error"),
        default="info",
        unit="debug, info, warning or error",
        help_text="Least level that is logged; requests are logged at info, probes at debug.",
    )


SETTINGS: tuple[Setting, ...] = tuple(
    Setting(name=field.name, **field.metadata) for field in dataclasses.fields(Settings)
)
_BY_NAME = {setting.name: setting for setting in SETTINGS}


@dataclass(frozen=True, slots=True)
class LoadedSettings:
    """Settings, and what was found beside them that is odd but no problem.

    Attributes:
        warnings: sentences to log at the start.
    """

    settings: Settings
    warnings: tuple[str, ...]


def load_settings(
    flags: Mapping[str, Sequence[str]], environment: Mapping[str, str], config: Path | None
) -> LoadedSettings:
    """Gather the settings from flags, environment and file.

    Args:
        flags: the texts given on the command line, by setting name; absent or empty means not given.
        environment: of the process; an empty value means not set.
        config: the TOML file given by flag; None means the one that ``HOTSTART_SERVE_CONFIG`` names, if any.

    Raises:
        InvalidSettings: with every problem, in the order of the settings.
    """
    problems: list[Problem] = []
    file_place, document = _read_config(config, environment, problems)
    values: dict[str, Any] = {}
    places: dict[str, str] = {}
    for setting in SETTINGS:
        place, texts = _find(setting, flags, environment, file_place, document, problems)
        if place is None:
            if setting.default is None:
                problems.append(
                    Problem(setting.flag, f"required: give it, or {setting.environment}; {setting.help_text}")
                )
            continue
        parsed = _parse_all(setting, place, texts, problems)
        if parsed:
            values[setting.name] = _value(setting, parsed)
            places[setting.name] = place
    problems += _level_problems(values, places)
    problems += _cdn_problems(values, places)
    problems += _unknown_keys(file_place, document)
    if "sqs_queue" in values and not values.get("origin", "s3:").startswith("s3:"):
        reason = "events of S3 are of no use without an origin s3://BUCKET/PREFIX"
        problems.append(Problem(_BY_NAME["sqs_queue"].flag, reason))
    problems += _s3_problems(values, places)
    if problems:
        raise InvalidSettings(problems)
    return LoadedSettings(Settings(**values), _unknown_environment(environment))


def _value(setting: Setting, parsed: list[Any]) -> Any:
    if not setting.repeatable:
        return parsed[-1]
    return tuple(parsed) if setting.ordered else tuple(dict.fromkeys(parsed))


def _cdn_problems(values: Mapping[str, Any], places: Mapping[str, str]) -> list[Problem]:
    """Refuse what would keep a CDN from keeping anything, or let it give to all what needs a token."""
    if values.get("cdn") and values.get("token_file") and not values.get("cdn_secret_file"):
        text = "with token_file it needs cdn_secret_file: what a CDN keeps it gives to whoever it admits"
        return [Problem(places["cdn"], text)]
    if values.get("cdn_secret_file") and not values.get("cdn"):
        return [Problem(places["cdn_secret_file"], "there is no cdn that it could open")]
    return []


def _level_problems(values: Mapping[str, Any], places: Mapping[str, str]) -> list[Problem]:
    problems = []
    stores, budgets = values.get("store", ()), values.get("budget", ())
    if len(set(stores)) < len(stores):
        problems.append(Problem(places["store"], "a store stands twice: expected another one for each level"))
    if stores and len(budgets) > len(stores):
        text = f"{len(budgets)} budgets, and stores: {len(stores)}; expected at most one for each"
        problems.append(Problem(places["budget"], text))
    return problems


def _s3_problems(values: Mapping[str, Any], places: Mapping[str, str]) -> list[Problem]:
    if "s3_keys" in values or "token_file" in values:
        return []
    return [
        Problem(places["s3_listen"], f"{address}: without --s3-keys nobody but this host may use S3")
        for address in values.get("s3_listen", ())
        if not address.is_local
    ]


def _find(
    setting: Setting,
    flags: Mapping[str, Sequence[str]],
    environment: Mapping[str, str],
    file_place: str,
    document: Mapping[str, object],
    problems: list[Problem],
) -> tuple[str | None, list[str]]:
    given = flags.get(setting.name)
    if given:
        return setting.flag, list(given)
    variable = environment.get(setting.environment)
    if variable:
        split = re.split(setting.separator, variable) if setting.repeatable else [variable]
        texts = [text.strip() for text in split] if setting.repeatable else split
        return setting.environment, texts
    if setting.name in document:
        place = f"{file_place}, {setting.name}"
        return place, _toml_texts(setting, document[setting.name], place, problems)
    return None, []


def _toml_texts(setting: Setting, value: object, place: str, problems: list[Problem]) -> list[str]:
    values = value if isinstance(value, list) else [value]
    if isinstance(value, list) and not setting.repeatable:
        problems.append(Problem(place, "a list: expected one value"))
        return []
    if not values:
        problems.append(Problem(place, "an empty list: expected at least one value"))
    texts = []
    for item in values:
        # A TOML number has lost how it was written: 0o660 would arrive as 432.
        fits = isinstance(item, str) or (
            isinstance(item, int | float) and not isinstance(item, bool) and setting.parse is not parse_mode
        )
        if fits:
            texts.append(str(item))
        else:
            problems.append(Problem(place, f'{item!r}: write it as a string, "…" ({setting.unit})'))
    return texts


def _parse_all(setting: Setting, place: str, texts: Sequence[str], problems: list[Problem]) -> list[Any]:
    parsed = []
    for text in texts:
        try:
            parsed.append(setting.parse(text))
        except (
            _Unfit,
            FormatError,
            InvalidReference,
            InvalidQuantity,
            InvalidAddress,
            InvalidStoreUrl,
            InvalidOriginUrl,
        ) as error:
            problems.append(Problem(place, str(error)))
    return parsed


def _read_config(
    config: Path | None, environment: Mapping[str, str], problems: list[Problem]
) -> tuple[str, Mapping[str, object]]:
    place = "--config"
    if config is None:
        place, text = CONFIG_ENVIRONMENT, environment.get(CONFIG_ENVIRONMENT)
        if not text:
            return "", {}
        config = Path(text)
    try:
        return str(config), tomllib.loads(config.read_text(encoding="utf-8"))
    except OSError as error:
        problems.append(Problem(place, f"cannot read {config}: {error.strerror}"))
    except ValueError as error:
        problems.append(Problem(place, f"{config} is not TOML: {error}"))
    return str(config), {}


def _unknown_keys(file_place: str, document: Mapping[str, object]) -> list[Problem]:
    problems = []
    for key in document:
        if key not in _BY_NAME:
            near = difflib.get_close_matches(key.replace("-", "_"), _BY_NAME, n=1)
            hint = f": did you mean {near[0]}?" if near else ""
            problems.append(Problem(f"{file_place}, {key}", f"there is no such setting{hint}"))
    return problems


def _unknown_environment(environment: Mapping[str, str]) -> tuple[str, ...]:
    # Odd, but no problem: Kubernetes sets HOTSTART_SERVE_PORT for pods beside a Service named hotstart-serve.
    known = {setting.environment for setting in SETTINGS} | {CONFIG_ENVIRONMENT}
    return tuple(
        f"{name} is no setting and is ignored"
        for name in sorted(environment)
        if name.startswith(ENVIRONMENT_PREFIX) and name not in known
    )
