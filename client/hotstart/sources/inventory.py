"""What models and versions there are, asked of the proxy or, without one, of the origin."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from hotstart.wire import documents
from hotstart.wire.adoption import Ignored
from hotstart.wire.documents import Document
from hotstart.wire.errors import FormatError
from hotstart.wire.index import Index
from hotstart.wire.references import Reference

from .base import AllSourcesFailed, SourceError
from .environment import Environment, InvalidEnvironment

__all__ = ["Inventory", "ModelDescription", "describe_model", "list_models"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Inventory:
    """The models of one place.

    Attributes:
        source: the name of who answered.
        models: sorted.
        strays: what lies outside of all models, and why it does not count; a proxy tells nothing of it.
    """

    source: str
    models: tuple[str, ...]
    strays: tuple[Ignored, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """One model.

    Attributes:
        source: the name of who answered.
        index: its versions and aliases; None where all that lies there is ignored.
        kept: versions that the proxy keeps copies of; empty if the origin was asked.
        cached: by kept version and representation path, bytes that the proxy holds.
        adopted: versions that were uploaded as plain files; empty if a proxy was asked.
        ignored: what is no part of any version, and why; empty if a proxy was asked.
    """

    source: str
    index: Index | None
    kept: tuple[str, ...] = ()
    cached: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    adopted: frozenset[str] = frozenset()
    ignored: tuple[Ignored, ...] = ()


def list_models(environment: Environment) -> Inventory:
    """List the models of the proxy, or else of the origin.

    Raises:
        AllSourcesFailed: lists who was asked and what went wrong.
        InvalidEnvironment: neither is configured.
    """
    return _ask(
        environment,
        "listing models",
        lambda: _models_by_proxy(environment),
        lambda: _models_by_origin(environment),
    )


def describe_model(environment: Environment, model: str) -> ModelDescription:
    """Describe a model by the proxy, or else by the origin (errors as list_models)."""
    return _ask(
        environment,
        f"looking at {model}",
        lambda: _description_by_proxy(environment, model),
        lambda: _description_by_origin(environment, model),
    )


def _ask(environment: Environment, doing: str, by_proxy: Callable[[], T], by_origin: Callable[[], T]) -> T:
    ways = []
    if environment.proxy is not None:
        ways.append(by_proxy)
    if environment.origin is not None:
        ways.append(by_origin)
    if not ways:
        raise InvalidEnvironment(["nothing to list: set HOTSTART_PROXY or HOTSTART_ORIGIN"])
    failures: list[SourceError] = []
    for way in ways:
        try:
            return way()
        except SourceError as error:
            failures.append(error)
    raise AllSourcesFailed(doing, failures)


def _models_by_proxy(environment: Environment) -> Inventory:
    from .proxy import ProxyClient

    assert environment.proxy is not None
    client = ProxyClient(environment.proxy, environment.token)
    doing = "listing models"
    data = client.get("/v1/models", doing)
    try:
        models = _texts(documents.load_json(data, "list of models"), "models")
    except FormatError as error:
        raise SourceError(client.name, doing, str(error), transient=False) from error
    return Inventory(client.name, models)


def _texts(document: Document, key: str) -> tuple[str, ...]:
    values = document.members.get(key, [])
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise FormatError(document.what, f"{key}: expected a list of strings")
    return tuple(values)


def _description_by_proxy(environment: Environment, model: str) -> ModelDescription:
    from .proxy import ProxyClient

    assert environment.proxy is not None
    client = ProxyClient(environment.proxy, environment.token)
    doing = f"looking at {model}"
    data = client.get(f"/v1/models/{Reference(model).url_path()}", doing)
    try:
        index = Index.parse(data)
        document = documents.load_json(data, "description of a model")
        cached = document.optional_member("cached")
        by_version = {} if cached is None else {version: cached.member(version) for version in cached.members}
        held = {
            version: {path: paths.integer(path) for path in paths.members}
            for version, paths in by_version.items()
        }
        return ModelDescription(client.name, index, _texts(document, "kept"), held)
    except FormatError as error:
        raise SourceError(client.name, doing, str(error), transient=False) from error


def _models_by_origin(environment: Environment) -> Inventory:
    from . import catalog
    from .origins import open_origin

    origin = open_origin(environment)
    layout = environment.layout
    return Inventory(origin.name, catalog.list_models(origin, layout), catalog.list_strays(origin, layout))


def _description_by_origin(environment: Environment, model: str) -> ModelDescription:
    from . import catalog
    from .origins import open_origin

    origin = open_origin(environment)
    found = catalog.survey(origin, model, environment.layout)
    if found.index is None and not found.ignored:
        raise SourceError(origin.name, f"looking at {model}", "there is no such model", transient=False)
    return ModelDescription(origin.name, found.index, adopted=found.adopted, ignored=found.ignored)
