"""Messages of a queue of S3 events, real and hostile."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotstart.wire.errors import FormatError
from hotstart_proxy.core.s3_events import EventMessage, read_message
from tests.support.sqs import object_created, sns_envelope

BUCKET = "models"
PREFIX = "live/"
INDEX = "live/org/bert/.hotstart/index.json"
BERT = EventMessage(("org/bert",))
NOTHING = EventMessage()


def read(body: str, prefix: str = PREFIX) -> EventMessage:
    return read_message(body, BUCKET, prefix)


def test_a_new_index() -> None:
    """The event of an index names its model, by itself and in SNS's envelope."""
    assert read(object_created(BUCKET, INDEX)) == BERT
    assert read(sns_envelope(object_created(BUCKET, INDEX))) == BERT
    assert read(object_created(BUCKET, INDEX, "ObjectCreated:CompleteMultipartUpload")) == BERT
    assert read(object_created(BUCKET, "org/bert/.hotstart/index.json"), prefix="") == BERT


def test_a_manifest() -> None:
    """The event of a manifest names its model."""
    assert read(object_created(BUCKET, "live/org/bert/7/.hotstart/manifest.json")) == BERT


def test_several_records() -> None:
    """A message with several records names every model once."""
    records: list[Any] = []
    for key in (INDEX, "live/org/other/.hotstart/index.json", INDEX, "live/org/bert/7/model.safetensors"):
        records += json.loads(object_created(BUCKET, key))["Records"]
    assert read(json.dumps({"Records": records})) == EventMessage(("org/bert", "org/other"))


@pytest.mark.parametrize(
    "key",
    [
        "live/org/bert/7/model.safetensors",
        "live/org/bert/7/.hotstart/begin.json",
        "org/bert/.hotstart/index.json",
        "other/org/bert/.hotstart/index.json",
        "live/org/.hotstart/index.json",
        "live/a/b/c/.hotstart/index.json",
        "live/../bert/.hotstart/index.json",
        "live/org/be rt/.hotstart/index.json",
        "live/org/b\0rt/.hotstart/index.json",
        "live/-org/bert/.hotstart/index.json",
        "live//bert/.hotstart/index.json",
    ],
)
def test_keys_that_say_nothing(key: str) -> None:
    """Other objects, other prefixes, and names that no model can have are passed over."""
    assert read(object_created(BUCKET, key)) == NOTHING


def test_other_buckets_and_events() -> None:
    """Another bucket's events and deletions are passed over."""
    assert read(object_created("other", INDEX)) == NOTHING
    assert read(object_created(BUCKET, INDEX, "ObjectRemoved:Delete")) == NOTHING
    assert read('{"Records": []}') == NOTHING


def test_keys_are_decoded_as_s3_encodes_them() -> None:
    """A key's plus is a space and its percents are escapes, decoded once."""
    assert read(object_created("models", "live/org/b+rt/.hotstart/index.json")) == NOTHING
    body = object_created(BUCKET, INDEX).replace("live/org", "live%2Forg")
    assert read(body) == BERT
    body = object_created(BUCKET, INDEX).replace("live/org", "live%252Forg")
    assert read(body) == NOTHING


def test_the_test_event() -> None:
    """What S3 sends when a notification is set up is known as such, in an envelope too."""
    body = json.dumps(
        {
            "Service": "Amazon S3",
            "Event": "s3:TestEvent",
            "Time": "2026-11-24T09:00:00.000Z",
            "Bucket": BUCKET,
            "RequestId": "5582815E1AEA5ADF",
            "HostId": "8cLeGAmw098X5cv4Zkwcmo8vvZa3eH3eKxsPzbB9wrR",
        }
    )
    assert read(body) == EventMessage(test=True)
    assert read(sns_envelope(body)) == EventMessage(test=True)


@pytest.mark.parametrize(
    "body",
    [
        "",
        "hello",
        "[]",
        "{}",
        "null",
        '{"Records": 7}',
        '{"Records": [7]}',
        '{"Records": [{}]}',
        '{"Records": [{"eventName": 7}]}',
        '{"Records": [{"eventName": "ObjectCreated:Put"}]}',
        '{"Records": [{"eventName": "ObjectCreated:Put", "s3": {"object": {"key": ["x"]}}}]}',
        '{"Records": [{"eventName": "ObjectCreated:Put", "s3": {"object": {"key": "x"}}}]}',
        '{"Records": [], "Records": []}',
        '{"Type": "Notification"}',
        '{"Type": "Notification", "Message": {"Records": []}}',
        sns_envelope("not JSON"),
        sns_envelope(sns_envelope(object_created(BUCKET, INDEX))),
        "[" * 100_000,
        '{"a":' * 100_000,
        '{"Records": ' + "9" * 10_000 + "}",
        "\ud800",
    ],
    ids=range(21),
)
def test_hostile_messages(body: str) -> None:
    """What is no message of S3's is the one error, whatever it is."""
    with pytest.raises(FormatError):
        read(body)


_NAMES = ["Records", "Type", "Message", "Event", "eventName", "s3", "object", "bucket", "key", "name"]
_LEAVES = st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from(["Notification", INDEX])


def _inside(inner: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    return st.lists(inner) | st.dictionaries(st.sampled_from(_NAMES), inner)


@given(st.recursive(_LEAVES, _inside, max_leaves=20))
def test_any_json(value: object) -> None:
    """Any JSON gives models or the one error."""
    with contextlib.suppress(FormatError):
        assert isinstance(read(json.dumps(value)), EventMessage)
