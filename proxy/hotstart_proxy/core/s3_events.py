"""Events of S3, as a queue carries them: which models have news.

A message is S3's own JSON, or that in SNS's envelope. It is trusted for nothing but the name of a model to
look at, so whoever can write into the queue can make a proxy look, and no more.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote_plus

from hotstart.wire import documents
from hotstart.wire.documents import Document
from hotstart.wire.errors import FormatError, InvalidReference
from hotstart.wire.references import RESERVED_PREFIX, check_model

__all__ = ["EventMessage", "read_message"]

_WHAT = "S3 event"


@dataclass(frozen=True, slots=True)
class EventMessage:
    """What one message says.

    Attributes:
        models: that have news, sorted.
        test: it is what S3 sends when a notification is set up.
    """

    models: tuple[str, ...] = ()
    test: bool = False


def read_message(body: str, bucket: str, prefix: str) -> EventMessage:
    """Read a message's body; events of other buckets, prefixes and kinds are passed over.

    Args:
        body: as it was received.
        bucket: the origin's.
        prefix: the origin's, with a trailing slash, or empty.

    Raises:
        FormatError: it is no message of S3's.
    """
    document = _parse(body)
    if document.members.get("Type") == "Notification":
        document = _parse(document.text("Message"))
    if document.members.get("Event") == "s3:TestEvent":
        return EventMessage(test=True)
    if not isinstance(document.members.get("Records"), list):
        raise FormatError(_WHAT, "it has no list of Records")
    models = {_model(record, bucket, prefix) for record in document.members_of("Records")}
    return EventMessage(tuple(sorted(model for model in models if model is not None)))


def _parse(text: str) -> Document:
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise FormatError(_WHAT, "it is not valid Unicode") from error
    return documents.load_json(data, _WHAT)


def _model(record: Document, bucket: str, prefix: str) -> str | None:
    # "ObjectCreated:Put" in messages, "s3:ObjectCreated:Put" where the kinds are listed.
    if not record.text("eventName").removeprefix("s3:").startswith("ObjectCreated:"):
        return None
    s3 = record.member("s3")
    key = unquote_plus(s3.member("object").text("key"))
    if s3.member("bucket").text("name") != bucket or not key.startswith(prefix):
        return None
    match key.removeprefix(prefix).split("/"):
        case [organisation, name, reserved, "index.json"] if reserved == RESERVED_PREFIX:
            pass
        case [organisation, name, _, reserved, "manifest.json"] if reserved == RESERVED_PREFIX:
            pass
        case _:
            return None
    try:
        return check_model(f"{organisation}/{name}")
    except InvalidReference:
        return None
