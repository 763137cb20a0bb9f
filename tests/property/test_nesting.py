"""JSON from devices and from the cloud, however deep: read, or refused by a value, and never by an exception."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.commands import Command, Unusable
from agent.core.commands import read as command
from agent.core.nesting import NESTING_MAX
from agent.core.requests import Reply, Request
from agent.core.requests import read as request


def nested(depth: int, open_: str = '{"a":', close: str = "}") -> str:
    return open_ * depth + "1" + close * depth


@pytest.mark.parametrize("depth", [NESTING_MAX - 10, NESTING_MAX + 10, 600, 1_000, 2_000, 100_000])
@pytest.mark.parametrize(("open_", "close"), [('{"a":', "}"), ("[", "]")])
def test_a_request_nested_too_deep_is_malformed_and_ends_nothing(depth: int, open_: str, close: str) -> None:
    args = nested(depth, open_, close)
    found = request("till-1", "payment.status", f'{{"id":"1","args":{{"x":{args}}}}}'.encode())
    if depth < NESTING_MAX:
        assert isinstance(found, Request)
        msgspec.json.encode(found.args)
    else:
        assert found is None or (isinstance(found, Reply) and found.reason == "malformed")
    assert request("till-1", "payment.status", args.encode()) is None, "without an id"


@pytest.mark.parametrize("depth", [NESTING_MAX - 10, NESTING_MAX + 10, 1_000, 2_000, 100_000])
def test_a_command_nested_too_deep_is_unusable_and_blocks_none(depth: int) -> None:
    found = command("payment.posted", f'{{"payment_id":"p1","x":{nested(depth)}}}')
    assert isinstance(found, Command if depth < NESTING_MAX else Unusable)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.binary() | JSON.map(lambda one: json.dumps(one).encode()), st.booleans())
def test_whatever_bytes_come_are_read_or_refused(payload: bytes, wrapped: bool) -> None:
    body = b'{"id":"1","args":' + payload + b"}" if wrapped else payload
    assert isinstance(request("till-1", "gift_card.sell", body), Request | Reply | None)
    assert isinstance(command("payment.posted", body.decode("utf-8", "surrogateescape")), Command | Unusable)
