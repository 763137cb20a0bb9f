"""Server-sent events, however the network cuts them."""

import sys

import pytest

from agent.cloud.downlink import EVENT_CHARS_MAX, Message, Parser
from agent.core.commands import Command, Unusable, read

STREAM = (
    ": a comment\n\n"
    'id: abc-1\nevent: payment.posted\ndata: {"payment_id":"p1","name":"Café ☕"}\n\n'
    'event: ping\r\ndata: {"ping_id":"1"}\r\nid: abc-2\r\n\r\n'
    "data: one\rdata: two\r\r"
    "event: nothing\n\n"
    "retry: 10\nid: abc-3\ndata\n\n"
).encode()
FOUND = [
    Message("payment.posted", '{"payment_id":"p1","name":"Café ☕"}', "abc-1"),
    Message("ping", '{"ping_id":"1"}', "abc-2"),
    Message("message", "one\ntwo", "abc-2"),
    Message("message", "", "abc-3"),
]


def parsed(*chunks: bytes) -> list[Message]:
    parser = Parser()
    return [message for chunk in chunks for message in parser.feed(chunk)]


def test_the_stream_is_read_the_same_wherever_it_is_cut() -> None:
    assert parsed(STREAM) == FOUND
    assert parsed(*(bytes([one]) for one in STREAM)) == FOUND
    for at in range(len(STREAM)):
        assert parsed(STREAM[:at], STREAM[at:]) == FOUND, at


def test_a_stream_that_ends_in_the_middle_of_an_event_has_not_said_it() -> None:
    whole = len(parsed(STREAM[: STREAM.index(b"event: ping")]))
    assert whole == 1
    assert parsed(b"id: x-1\nevent: ping\ndata: {}\n") == []


@pytest.mark.parametrize("part", [b"x" * 70_000, b"data: " + b"x" * 70_000 + b"\n", b"data:\n" * 70_000])
def test_an_event_that_is_too_long_is_skipped_with_its_cursor_in_bounded_memory_and_blocks_none(part: bytes) -> None:
    parser = Parser()
    found = list(parser.feed(b"id: x-1\nevent: order.placed\ndata: "))
    for _ in range(3 * EVENT_CHARS_MAX // 70_000):
        found += parser.feed(part)
        assert sys.getsizeof(parser._rest) + sys.getsizeof(parser._data) <= 10 * EVENT_CHARS_MAX
    assert found == []
    found += parser.feed(b"\n\nid: x-2\nevent: ping\ndata: {}\n\n")
    assert found == [Message("order.placed", "", "x-1", whole=False), Message("ping", "{}", "x-2")]


def test_the_longest_event_that_may_be_is_whole() -> None:
    data = "x" * (EVENT_CHARS_MAX - 1)
    assert parsed(f"id: x-1\ndata: {data}\n\n".encode()) == [Message("message", data, "x-1")]


def test_an_event_without_a_cursor_of_its_own_leaves_it_where_it_was() -> None:
    """Else the next connection would begin from nothing, and the cloud tell all that it has."""
    assert list(Parser("abc-7").feed(b"event: ping\ndata: {}\n\n")) == [Message("ping", "{}", "abc-7")]


def test_a_command_is_known_by_what_it_is_about() -> None:
    data = '{"payment_id":"p1"}'
    assert read("payment.posted", data) == Command("payment.posted", "p1", data)
    assert read("menu.updated", '{"menu_version":"m1"}').business == ""  # type: ignore[union-attr]
    assert read("reset", "{}") == Command("reset", "", "{}")


@pytest.mark.parametrize(
    ("event", "data", "reason"),
    [
        ("order.invented", "{}", "unknown"),
        ("payment.posted", "no JSON", "malformed"),
        ("payment.posted", "[]", "malformed"),
        ("payment.posted", "{}", "without payment_id"),
        ("payment.posted", '{"payment_id":7}', "without payment_id"),
        ("order.placed", '{"order_id":""}', "without order_id"),
    ],
)
def test_what_cannot_be_used_is_named(event: str, data: str, reason: str) -> None:
    assert read(event, data) == Unusable(event, reason)
