"""What every test may use: the long forms' switch and free ports. Fixtures of one subject live beside their tests."""

import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.tools import needs

DATABASE_THREAD = "_connection_worker"
"""In the names of aiosqlite's threads."""
CLOSES_WITHIN_S = 5.0


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run the long forms too: more kills, more rows, more seeds")
    parser.addoption("--seed", default="", help="the seed of a run by chance that is to be seen again")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--long"):
        return
    skipped = pytest.mark.skip(reason="the long form; give --long")
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker(skipped)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before any fixture starts something: the programs that the test's marks name."""
    for mark in item.iter_markers("needs"):
        needs(*mark.args)


@pytest.fixture(autouse=True)
def nothing_left_open() -> Iterator[None]:
    """A database connection that nobody closes has a thread that keeps the interpreter from ever ending."""
    before = set(threading.enumerate())
    yield
    left = [thread for thread in set(threading.enumerate()) - before if DATABASE_THREAD in thread.name]
    for thread in left:
        thread.join(CLOSES_WITHIN_S)
    assert not [thread for thread in left if thread.is_alive()], "a database connection was left open"


@pytest.fixture(scope="session")
def long_form(request: pytest.FixtureRequest) -> bool:
    """Whether a test that has two forms runs its long one."""
    return bool(request.config.getoption("--long"))


@pytest.fixture
def free_port() -> Callable[[], int]:
    """Each call gives a TCP port of loopback that nobody listens on now; no two calls of one test give the same."""
    given: set[int] = set()

    def find() -> int:
        while True:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = int(probe.getsockname()[1])
            if port not in given:
                given.add(port)
                return port

    return find
