"""Hostile Safetensors headers, each with the error it must give; the library refuses nearly all of them."""

from __future__ import annotations

import pytest
from safetensors import SafetensorError

from hotstart.wire.errors import FormatError
from hotstart.wire.safetensors import LENGTH_BYTES, Header, parse_header, parse_header_length
from tests.support.safetensors_library import read_with_library


def tensor(dtype: str = '"U8"', shape: str = "[4]", offsets: str = "[0,4]") -> str:
    return f'{{"dtype":{dtype},"shape":{shape},"data_offsets":{offsets}}}'


def file(text: str | bytes, data: bytes = b"data", length: int | None = None) -> bytes:
    encoded = text.encode() if isinstance(text, str) else text
    return (len(encoded) if length is None else length).to_bytes(8, "little") + encoded + data


def one(dtype: str = '"U8"', shape: str = "[4]", offsets: str = "[0,4]", data: bytes = b"data") -> bytes:
    return file(f'{{"a":{tensor(dtype, shape, offsets)}}}', data)


BIG = "1" + "0" * 18

# Name: file, what the error says.
HOSTILE: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "0 bytes: expected the 8 bytes of its length"),
    "seven bytes": (bytes(7), "7 bytes: expected the 8 bytes"),
    "length 0": (bytes(8), "claims 0 bytes: expected 2 to 100000000"),
    "length 1": (file("{", b"", 1), "claims 1 bytes"),
    "length of 100,000,001": (file("{}", b"", 100_000_001), "claims 100000001 bytes"),
    "length of 2^60": (file("{}", b"", 2**60), "claims 1152921504606846976 bytes"),
    "length of 2^64-1": (file("{}", b"", 2**64 - 1), "claims 18446744073709551615 bytes"),
    "an HTML page": (b"<!DOCTYPE html><html></html>", "is this a .safetensors file?"),
    "a pickle in a zip": (b"PK\x03\x04\0\0\0\0\0\0\0\0", "not JSON|describes a file|claims"),
    "not UTF-8": (file(b'{"\xff":1}'), "not JSON: 'utf-8' codec can't decode byte 0xff"),
    "UTF-16": (file('{"a":1}'.encode("utf-16-le")), "not JSON"),
    "a byte order mark": (file(b"\xef\xbb\xbf{}", b""), "not JSON"),
    "not JSON": (file('{"a":'), "not JSON"),
    "a list": (file("[]"), "expected a JSON object, found list"),
    "a number": (file("17"), "expected a JSON object, found int"),
    "nested 1,000,000 deep": (file('{"a":' + "[" * 1_000_000), "not JSON"),
    "padded with NUL": (file("{}\0\0\0", b""), "not JSON"),
    "NaN": (file('{"a":NaN}'), "NaN is not a JSON value"),
    "a name that stands twice": (file(f'{{"a":{tensor()},"a":{tensor()}}}'), "key 'a' stands twice"),
    "a member that stands twice": (file('{"a":{"dtype":"U8","dtype":"I8"}}'), "key 'dtype' stands twice"),
    "a lone surrogate as name": (file(f'{{"\\ud800":{tensor()}}}'), "surrogates not allowed"),
    "metadata of numbers": (
        file('{"__metadata__":{"a":1}}', b""),
        "__metadata__: expected strings, found int",
    ),
    "metadata that is a list": (
        file('{"__metadata__":[]}', b""),
        "__metadata__: expected an object of strings",
    ),
    "a tensor that is a list": (file('{"a":["U8",[4],[0,4]]}'), "tensor 'a': expected an object, found list"),
    "a tensor that is null": (file('{"a":null}'), "tensor 'a': expected an object, found NoneType"),
    "no dtype": (file('{"a":{"shape":[4],"data_offsets":[0,4]}}'), "dtype 'None': expected one of BOOL"),
    "no shape": (file('{"a":{"dtype":"U8","data_offsets":[0,4]}}'), "shape: expected a list of integers"),
    "no offsets": (file('{"a":{"dtype":"U8","shape":[4]}}'), "data_offsets: expected a list of integers"),
    "an unknown dtype": (one('"F128"'), "dtype 'F128': expected one of BOOL, F4"),
    "a dtype in lower case": (one('"u8"'), "dtype 'u8'"),
    "a dtype that is a number": (one("8"), "dtype '8'"),
    "a dtype that is a list": (one('["U8"]'), "dtype"),
    "a negative axis": (one(shape="[-4]"), "shape: expected a list of integers from 0 to 2^64-1"),
    "two negative axes": (one(shape="[-2,-2]"), "shape: expected a list of integers"),
    "a fractional axis": (one(shape="[4.0]"), "shape: expected a list of integers"),
    "an axis that is true": (one(shape="[true,4]"), "shape: expected a list of integers"),
    "an axis of 2^64": (one(shape=f"[{2**64}]"), "shape: expected a list of integers from 0 to 2^64-1"),
    "an axis of 5,000 digits": (one(shape=f"[{'9' * 5000}]"), "not JSON"),
    "a product beyond 64 bits": (one(shape=f"[{BIG},{BIG}]"), "more elements than 64 bits can count"),
    "a product beyond 64 bits, times 0": (
        one(shape=f"[{BIG},{BIG},0]"),
        "more elements than 64 bits can count",
    ),
    "100,000 huge axes": (
        one(shape="[" + f"{BIG}," * 100_000 + "1]"),
        "more elements than 64 bits can count",
    ),
    "bits beyond 64 bits": (one('"F64"', f"[{2**59}]"), "more bits than 64 bits can count"),
    "more bytes than the shape": (one(shape="[3]"), "data_offsets hold 4 bytes, but U8 [3] has 3"),
    "fewer bytes than the shape": (one('"F32"', "[2]"), "data_offsets hold 4 bytes, but F32 [2] has 8"),
    "half a byte of F4": (one('"F4"', "[7]"), "7 elements of F4 do not fill whole bytes"),
    "half a byte of F6": (one('"F6_E2M3"', "[5]"), "5 elements of F6_E2M3 do not fill whole bytes"),
    "offsets that go back": (one(offsets="[4,0]"), "data_offsets: expected [begin, end] with begin <= end"),
    "one offset": (one(offsets="[4]"), "data_offsets: expected [begin, end]"),
    "three offsets": (one(offsets="[0,4,4]"), "data_offsets: expected [begin, end]"),
    "negative offsets": (one(offsets="[-4,0]"), "data_offsets: expected a list of integers"),
    "offsets that are text": (one(offsets='["0","4"]'), "data_offsets: expected a list of integers"),
    "offsets beyond 64 bits": (one(offsets=f"[{2**64},{2**64 + 4}]"), "data_offsets: expected a list of"),
    "offsets near 2^64": (one(offsets=f"[{2**64 - 5},{2**64 - 1}]"), "expected 0: a hole in the data"),
    "a hole at the start": (
        one(offsets="[1,5]", data=b"12345"),
        "starts at 1, expected 0: a hole in the data",
    ),
    "a hole between": (
        file(f'{{"a":{tensor()},"b":{tensor(offsets="[5,9]")}}}', bytes(9)),
        "tensor 'b': starts at 5, expected 4: a hole",
    ),
    "an overlap": (
        file(f'{{"a":{tensor()},"b":{tensor(offsets="[3,7]")}}}', bytes(7)),
        "tensor 'b': starts at 3, expected 4: an overlap",
    ),
    "the same bytes twice": (file(f'{{"a":{tensor()},"b":{tensor()}}}'), "an overlap in the data"),
    "an empty tensor inside another": (
        file(f'{{"a":{tensor()},"b":{tensor(shape="[0]", offsets="[2,2]")}}}'),
        "tensor 'b': starts at 2, expected 4: an overlap",
    ),
    "an empty tensor beyond the end": (
        one(shape="[0]", offsets="[9,9]", data=b""),
        "starts at 9, expected 0",
    ),
    "data that is missing": (one(data=b"dat"), "describes a file of"),
    "data that follows": (one(data=b"data!"), "describes a file of"),
    "data without tensors": (file("{}", b"data"), "describes a file of 10 bytes, but the file has 14"),
}
# The library takes these; two readers could see different things in them, so we do not.
STRICTER = {"a name that stands twice", "a tensor that is a list"}


def parse(data: bytes) -> Header:
    length = parse_header_length(data[:LENGTH_BYTES])
    return parse_header(data[LENGTH_BYTES : LENGTH_BYTES + length], len(data))


@pytest.mark.parametrize("name", HOSTILE)
def test_error(name: str) -> None:
    """A hostile header gives the one error, which says what is wrong and stays short."""
    data, message = HOSTILE[name]
    with pytest.raises(FormatError) as caught:
        parse(data)
    assert caught.value.what == "Safetensors header"
    assert any(part in caught.value.reason for part in message.split("|"))
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("name", HOSTILE)
def test_library_agrees(name: str) -> None:
    """The safetensors library refuses the same files, but the few in which we are stricter."""
    data, _ = HOSTILE[name]
    if name in STRICTER:
        read_with_library(data)
        return
    with pytest.raises(SafetensorError):
        read_with_library(data)


def test_good_file_is_good() -> None:
    """The file that the hostile ones are made from is read, by the library too."""
    assert parse(one()).data_bytes == 4
    assert read_with_library(one())["a"].data == b"data"
