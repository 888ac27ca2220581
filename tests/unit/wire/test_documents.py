"""JSON documents: one reading for everyone, and the one error."""

from __future__ import annotations

import pytest

from hotstart.wire.documents import Document, dump_json, load_json, raw_member
from hotstart.wire.errors import FormatError, InvalidReference


def document(text: str) -> Document:
    return load_json(text.encode(), "thing")


def test_dump_is_deterministic_utf8() -> None:
    """The same value gives the same bytes: no spaces, keys in the order given, UTF-8 unescaped."""
    assert dump_json({"b": [1, None, True], "a": "é\n"}) == b'{"b":[1,null,true],"a":"\xc3\xa9\\n"}'


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_dump_refuses_what_is_not_json(value: float) -> None:
    """NaN never reaches the wire."""
    with pytest.raises(ValueError, match="JSON compliant"):
        dump_json({"a": value})


@pytest.mark.parametrize("data", [b'{"a":1}', bytearray(b' {"a":1}\n'), memoryview(b'{"a":1}')])
def test_loads_from_any_buffer(data: bytes | bytearray | memoryview) -> None:
    """Bytes, bytearrays and views are read alike."""
    assert load_json(data, "thing").integer("a") == 1


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not JSON"),
        (b"[]", "expected a JSON object, found list"),
        (b"null", "expected a JSON object, found NoneType"),
        (b'{"a":NaN}', "NaN is not a JSON value"),
        (b'{"a":-Infinity}', "-Infinity is not a JSON value"),
        (b'{"a":1e999}', "'1e999' is too large a number"),
        (b'{"a":1,"a":2}', "key 'a' stands twice"),
        (b'{"x":{"a":1,"b":2,"b":2}}', "key 'b' stands twice"),
        (b'{"a":"\\ud800"}', "surrogates not allowed"),
        (b'{"\\uDFFF":1}', "surrogates not allowed"),
        (b'{"a":"\xff"}', "can't decode byte 0xff"),
        ('{"a":1}'.encode("utf-16"), "can't decode byte"),
        (b"\xef\xbb\xbf{}", "BOM"),
        (b'{"a":' + b"1" * 5000 + b"}", "digits"),
        (b'{"a":' + b"[" * 100_000, "recursion|nest"),
        (b'{"a":1} x', "Extra data"),
    ],
)
def test_refused(data: bytes, reason: str) -> None:
    """What two readers could read differently, or not at all, is the documented error."""
    with pytest.raises(FormatError, match=reason) as caught:
        load_json(data, "thing")
    assert caught.value.what == "thing"
    assert len(str(caught.value)) < 400


def test_escaped_pairs_are_text() -> None:
    """A pair of surrogates is one character, and an escaped backslash before ud800 is none."""
    assert document('{"a":"\\ud83d\\ude00"}').text("a") == "😀"
    assert document('{"a":"\\\\ud800"}').text("a") == "\\ud800"


MEMBERS = '{"text":"x","integer":7,"object":{"k":"v"},"list":[{"n":1}],"null":null,"true":true,"b64":"AQI="}'


def test_members_by_type() -> None:
    """A member is read by the type that it must have; absent and null are the same."""
    read = document(MEMBERS)
    assert read.text("text") == read.optional_text("text") == "x"
    assert read.integer("integer") == read.optional_integer("integer") == 7
    assert read.member("object").text("k") == "v"
    assert read.texts("object") == {"k": "v"}
    assert [item.integer("n") for item in read.members_of("list")] == [1]
    assert read.base64("b64") == b"\x01\x02"
    for absent in ("null", "nothing"):
        assert read.optional_text(absent) is None
        assert read.optional_integer(absent) is None
        assert read.optional_member(absent) is None
        assert read.members_of(absent) == []
        assert read.texts(absent) == {}


@pytest.mark.parametrize(
    ("method", "key", "reason"),
    [
        ("text", "nothing", "nothing is missing"),
        ("text", "null", "null is missing"),
        ("text", "integer", "integer: expected str, found int"),
        ("integer", "true", "true: expected int, found bool"),
        ("integer", "text", "text: expected int, found str"),
        ("optional_integer", "text", "text: expected int, found str"),
        ("member", "list", "list: expected dict, found list"),
        ("members_of", "object", "object: expected list, found dict"),
        ("texts", "text", "text: expected dict, found str"),
        ("base64", "text", "text: not base64"),
    ],
)
def test_wrong_types(method: str, key: str, reason: str) -> None:
    """A member of another type is an error that names it, what was expected and what was found."""
    with pytest.raises(FormatError, match=reason):
        getattr(document(MEMBERS), method)(key)


def test_bounds_and_nested_places() -> None:
    """An integer is within its bounds, and an error inside says where."""
    with pytest.raises(FormatError, match="n: 1 is not within 2 to 3"):
        document('{"n":1}').integer("n", 2, 3)
    with pytest.raises(FormatError, match="is not within"):
        document('{"n":-1}').integer("n")
    with pytest.raises(FormatError, match="is not within"):
        document('{"n":9223372036854775808}').integer("n")
    with pytest.raises(FormatError, match=r"malformed thing, list\[0\]: x is missing"):
        document(MEMBERS).members_of("list")[0].text("x")
    with pytest.raises(FormatError, match="expected a list of objects"):
        document('{"list":[1]}').members_of("list")
    with pytest.raises(FormatError, match="expected strings"):
        document('{"o":{"k":1}}').texts("o")


def test_check_turns_the_error() -> None:
    """What a check of references refuses is a malformed document here."""

    def refuse(text: str) -> str:
        raise InvalidReference(text, "because")

    assert document("{}").check("key", str.upper, "x") == "X"
    with pytest.raises(FormatError, match="key: 'x' is not a valid reference: because"):
        document("{}").check("key", refuse, "x")


@pytest.mark.parametrize(
    ("data", "raw"),
    [
        (b'{"m":{"b" : 1.0,"a":"\\u00e9"},"x":2}', b'{"b" : 1.0,"a":"\\u00e9"}'),
        (b'{"x":2,"m":[1]}', b"[1]"),
        (b' {"x" : {"m":1} , "m" : 5 \n}', b" 5 \n"),
        ('{"é":"m","m":"é"}'.encode(), '"é"'.encode()),
        (b'{"\\u006d":7}', b"7"),
    ],
)
def test_raw_member(data: bytes, raw: bytes) -> None:
    """A member can be had byte for byte as it was written, whatever stands around it."""
    assert load_json(data, "thing").members["m"] is not None
    assert raw_member(data, "m") == raw
