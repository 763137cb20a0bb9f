"""The faults that the benchmarks measure under are the faults that they are called after."""

import http.client
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.bench.ways import Counterless, Way

PATIENCE_S = 0.7


def get(port: int, path: str = "/v1/health", method: str = "GET") -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        connection.request(method, path, body=b"{}" if method == "POST" else None)
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.fixture
def way(tmp_path: Path) -> Iterator[Way]:
    with Way(tmp_path / "way") as made:
        yield made


def test_the_way_fails_as_it_says_and_comes_back_each_time(way: Way) -> None:
    assert get(way.port) == 200
    way.turn("refused")
    with pytest.raises(ConnectionRefusedError):
        get(way.port)
    way.turn("up")
    assert get(way.port) == 200
    way.turn("dropped")
    for _ in range(3):
        with pytest.raises(TimeoutError):
            socket.create_connection(("127.0.0.1", way.port), PATIENCE_S)
    way.turn("up")
    assert get(way.port) == 200
    way.turn("silent")
    socket.create_connection(("127.0.0.1", way.port), PATIENCE_S).close()
    with pytest.raises(TimeoutError):
        get(way.port)
    way.turn("refused")
    with pytest.raises(ConnectionRefusedError):
        get(way.port)
    way.turn("up")
    assert get(way.port) == 200
    assert way.cpu_s > 0


def test_a_brown_out_leaves_everything_but_requests_in_real_time(way: Way) -> None:
    with Counterless(way.port) as front:
        port = int(front.url.rpartition(":")[2])
        ask = "/v1/venues/bench/requests/loyalty.balance"
        assert get(port) == 200
        assert get(port, ask, "POST") < 500
        front.mute()
        with pytest.raises(TimeoutError):
            get(port, ask, "POST")
        assert get(port) == 200
        assert get(port, "/v1/venues/bench/streams", "POST") < 500
