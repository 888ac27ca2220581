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

__all__ = ["Held", "Inventory", "ModelDescription", "StoreHoldings", "describe_model", "list_models"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Held:
    """What a store of the proxy holds of one version, and how the process that answered has used it.

    Attributes:
        bytes: held; what versions share counts in each.
        is_pinned: kept whatever retention and the budget say.
        hits: answers from the store, since that process's start.
        used_seconds_ago: since it was last asked for; None if it was not, since the start.
        filled_seconds_ago: since a fill of it was last completed; None if none was, since the start.
    """

    bytes: int
    is_pinned: bool
    hits: int
    used_seconds_ago: float | None
    filled_seconds_ago: float | None


@dataclass(frozen=True, slots=True)
class StoreHoldings:
    """One store of the proxy; the one that readers are served from comes first.

    Attributes:
        store: its URL.
        used_bytes: of all it holds.
        budget_bytes: most that it may hold.
        models: what it holds, by model and version: all of it, or of the one model that was asked about.
    """

    store: str
    used_bytes: int
    budget_bytes: int
    models: Mapping[str, Mapping[str, Held]]


@dataclass(frozen=True, slots=True)
class Inventory:
    """The models of one place.

    Attributes:
        source: the name of who answered.
        models: sorted.
        strays: what lies outside of all models, and why it does not count; a proxy tells nothing of it.
        stores: what a proxy holds; empty if the origin was asked.
    """

    source: str
    models: tuple[str, ...]
    strays: tuple[Ignored, ...] = ()
    stores: tuple[StoreHoldings, ...] = ()


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
        pinned: versions that are pinned there; empty if the origin was asked.
        stores: what a proxy holds of it; empty if the origin was asked.
    """

    source: str
    index: Index | None
    kept: tuple[str, ...] = ()
    cached: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    adopted: frozenset[str] = frozenset()
    ignored: tuple[Ignored, ...] = ()
    pinned: frozenset[str] = frozenset()
    stores: tuple[StoreHoldings, ...] = ()


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
    data = client.get("/v1/models?detail=stores", doing)
    try:
        document = documents.load_json(data, "list of models")
        return Inventory(client.name, _texts(document, "models"), stores=_stores(document))
    except FormatError as error:
        raise SourceError(client.name, doing, str(error), transient=False) from error


def _stores(document: Document, model: str | None = None) -> tuple[StoreHoldings, ...]:
    """Parse what a proxy's stores hold; a proxy older than this says nothing of it."""
    found = []
    for item in document.members_of("stores"):
        if model is not None:
            models = {model: _held(item.member("versions"))}
        else:
            members = item.member("models")
            models = {name: _held(members.member(name)) for name in members.members}
        used, budget = item.integer("used_bytes"), item.integer("budget_bytes")
        found.append(StoreHoldings(item.text("store"), used, budget, models))
    return tuple(found)


def _held(document: Document) -> dict[str, Held]:
    versions = {version: document.member(version) for version in document.members}
    return {
        version: Held(
            item.integer("bytes"),
            item.members.get("pinned") is True,
            item.integer("hits"),
            _seconds(item, "used_seconds_ago"),
            _seconds(item, "filled_seconds_ago"),
        )
        for version, item in versions.items()
    }


def _seconds(document: Document, key: str) -> float | None:
    value = document.members.get(key)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


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
    data = client.get(f"/v1/models/{Reference(model).url_path()}?detail=stores", doing)
    try:
        index = Index.parse(data)
        document = documents.load_json(data, "description of a model")
        cached = document.optional_member("cached")
        by_version = {} if cached is None else {version: cached.member(version) for version in cached.members}
        held = {
            version: {path: paths.integer(path) for path in paths.members}
            for version, paths in by_version.items()
        }
        return ModelDescription(
            client.name,
            index,
            _texts(document, "kept"),
            held,
            pinned=frozenset(_texts(document, "pinned")),
            stores=_stores(document, model),
        )
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
