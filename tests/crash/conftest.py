"""Boxes and clouds to be killed, a seed for chance, and the story of a run, printed when it fails."""

import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.crash.venue import Venue, quick_box, quick_cloud
from tests.integration.machine import Box, CloudServer


class Story:
    """What happened in a run, with times; printed, so that a failure shows it with its seed."""

    def __init__(self, seed: str) -> None:
        self.seed = seed
        self.chance = Random(seed)
        self._began_s = time.monotonic()
        self.tell(f"seed {seed}: give --seed {seed} to see this run again")

    def tell(self, text: str) -> None:
        print(f"{time.monotonic() - self._began_s:8.3f}  {text}")


@pytest.fixture
def story(request: pytest.FixtureRequest) -> Story:
    return Story(request.config.getoption("--seed") or secrets.token_hex(4))


@pytest.fixture
def outside() -> Iterator[Path]:
    """A folder outside the box, for the devices' own files."""
    folder = Path(tempfile.mkdtemp(prefix="ns-tills-"))
    yield folder / "tills"
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def new_cloud() -> Iterator[Callable[[], CloudServer]]:
    """Makes clouds, not started yet."""
    with ExitStack() as stack:

        def make() -> CloudServer:
            made = quick_cloud()
            stack.callback(made.close)
            return made

        yield make


@pytest.fixture
def new_box() -> Iterator[Callable[..., Box]]:
    """Makes boxes that come back quickly, not started yet: `new_box(cloud_url, gate={…})`."""
    with ExitStack() as stack:

        def make(cloud_url: str = "http://127.0.0.1:9", **settings: dict[str, Any]) -> Box:
            made = quick_box(cloud_url, settings)
            stack.callback(made.close)
            return made

        yield make


@pytest.fixture(scope="module")
def venue() -> Iterator[Venue]:
    """One that all tests of a module use; each leaves it settled. It gives up soon and is held for a second at most."""
    waits = {"request_timeout_s": 1.5, "connect_timeout_s": 1.5, "token_file": "token"}
    with Venue({"cloud": waits, "drain": {"refused_retry_s": 1}}) as made:
        yield made
