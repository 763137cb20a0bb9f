"""Many devices in one thread beside the test: they go on whatever the box does, until they are told to finish."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import NamedTuple

from tests.crash.till import NOTES, Settings, Till
from tests.integration.machine import until
from tests.integration.mqtt import V4, V5


class Told(NamedTuple):
    """What one device had been told at an instant: ids, and the highest `stored` of its receipts by epoch."""

    ids: list[str]
    receipts: dict[str, int]


class Load:
    """`start`, then kill what you like, then `finish`. `folder` gets one folder of files for each device."""

    def __init__(
        self,
        folder: Path,
        port: int,
        devices: int,
        seed: str,
        pace_s: float = 0.04,
        notes: tuple[str, ...] = NOTES,
    ) -> None:
        chance = Random(f"{seed}/load")
        self.folder = folder
        self.tills = [
            Till(
                Settings(
                    name=f"till-{number}",
                    level=V5 if number % 2 else V4,
                    qos=2 if number % 5 == 4 else 1,
                    window=chance.choice((1, 4, 16, 32)),
                    pace_s=pace_s * chance.uniform(0.5, 2.0),
                    notes=notes,
                ),
                folder / f"till-{number}",
                f"{seed}/till-{number}",
            )
            for number in range(1, devices + 1)
        ]
        for till in self.tills:
            till.port = port
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)
        self._failure: BaseException | None = None
        self._stop = threading.Event()

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        try:
            asyncio.run(self._all())
        except BaseException as error:  # told by whoever waits
            self._failure = error
        finally:
            for till in self.tills:
                till.close()

    async def _all(self) -> None:
        running = asyncio.gather(*(till.run() for till in self.tills))
        while not running.done() and not self._stop.is_set():
            await asyncio.wait({running}, timeout=0.1)
        running.cancel() if self._stop.is_set() else await running

    @property
    def told_count(self) -> int:
        return sum(len(till.told) for till in self.tills)

    @property
    def made_count(self) -> int:
        return sum(till.made_count for till in self.tills)

    @property
    def connects_count(self) -> int:
        return sum(till.connects for till in self.tills)

    def told_by_a_dead_box(self) -> dict[str, Told]:
        """What every device was told, once all have noticed that the box is gone."""
        self._until(lambda: not any(till.connected for till in self.tills), "every device has lost its connection")
        return {till.settings.name: Told(list(till.told), dict(till.receipts)) for till in self.tills}

    def some_more_told(self, count: int, within_s: float) -> None:
        """Wait until so many more were told: the box works again."""
        wanted = self.told_count + count
        self._until(lambda: self.told_count >= wanted, f"{count} more events are told", within_s)

    def finish(self, within_s: float) -> None:
        """Make no more, and wait until everything made was told."""
        for till in self.tills:
            till.making = False
        self._until(lambda: not self._thread.is_alive(), "everything that was made is told", within_s)
        assert self._failure is None, f"the load failed: {self._failure!r}"

    def abandon(self) -> None:
        """End the devices as they are, whatever they were told."""
        self._stop.set()
        self._thread.join(10)

    @property
    def surprises(self) -> list[str]:
        """What devices heard and should not have."""
        return [f"{till.settings.name}: {what}" for till in self.tills for what in till.surprises]

    def _until(self, holds: Callable[[], bool], what: str, within_s: float = 10.0) -> None:
        until(lambda: self._failure is not None or holds(), what, within_s)
        assert self._failure is None, f"the load failed: {self._failure!r}"
