"""Machines for the integration tests: one box and one cloud for all tests that leave them as they are, and new ones."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.integration.machine import Box, CloudServer
from tests.sales import new_name
from tests.tools import needs


@pytest.fixture(scope="session")
def cloud() -> Iterator[CloudServer]:
    """A running reference cloud that several tests share."""
    server = CloudServer()
    try:
        yield server.start()
    finally:
        server.close()


@pytest.fixture(scope="session")
def box(cloud: CloudServer) -> Iterator[Box]:
    """A running agent that several tests share: each takes names of its own, and none stops it or breaks its parts."""
    needs("mosquitto")
    shared = Box(cloud.url)
    try:
        yield shared.start()
        assert shared.stop() == 0, shared.text
        assert "Traceback" not in shared.text, shared.text
    finally:
        shared.close()


@pytest.fixture
def new_cloud() -> Iterator[Callable[[], CloudServer]]:
    """Makes clouds of the test's own, not started yet."""
    with ExitStack() as stack:

        def make() -> CloudServer:
            made = CloudServer()
            stack.callback(made.close)
            return made

        yield make


@pytest.fixture
def new_box() -> Iterator[Callable[..., Box]]:
    """Makes boxes of the test's own, not started yet: `new_box(cloud_url, gate={…})`."""
    needs("mosquitto")
    with ExitStack() as stack:

        def make(cloud_url: str = "http://127.0.0.1:9", **settings: dict[str, Any]) -> Box:
            made = Box(cloud_url, settings)
            stack.callback(made.close)
            return made

        yield make


@pytest.fixture
def name() -> str:
    """A device name that no other test uses."""
    return new_name()
