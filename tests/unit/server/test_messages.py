"""What parent and workers say to each other survives its way."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotstart_proxy.server.messages import Kind, Lines, Message
from hotstart_proxy.telemetry.gathering import Family, Sample

MESSAGES = [
    Message(Kind.SERVING),
    Message(Kind.FAILED, reason="two\nlines, größer"),
    Message(Kind.GATHER, 7),
    Message(
        Kind.GATHERED,
        7,
        snapshot=(Family("a", "gauge", "Help.", (Sample("a", (("x", "\n"),), float("inf"), 1.5),)),),
    ),
]


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_messages_arrive_whatever_the_pieces(size: int) -> None:
    """Cut anywhere, the same messages come out in the same order."""
    stream = b"".join(message.dump() for message in MESSAGES)
    lines = Lines()
    found = [
        message
        for start in range(0, len(stream), size)
        for message in lines.feed(stream[start : start + size])
    ]
    assert found == MESSAGES


@given(st.text())
def test_one_message_is_one_line(reason: str) -> None:
    """No text can end a line early."""
    assert Message(Kind.FAILED, reason=reason).dump().count(b"\n") == 1
