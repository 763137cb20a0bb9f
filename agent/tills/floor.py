"""tills → [floor] → gate. A venue's tills selling side by side at one rate, and their figures added up.

For the command line and the demo. Owns the tills' threads and nothing else; every till keeps a folder of its own.
"""

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, Literal, NamedTuple

import msgspec

from agent.tills.link import Protocol
from agent.tills.questions import Answers
from agent.tills.questions import add as add_answers
from agent.tills.till import Till
from agent.tills.words import Figures, Habits, TillSettings, VenueStatus

Mix = Literal["3.1.1", "5", "mixed"]

LOOK_INTERVAL_S: Final = 0.1
"""How often `wait` looks."""


class FloorSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`rate_per_s` and `count` are for all tills together; `directory` holds one folder for each till."""

    host: str
    port: int
    directory: Path
    tills: int = 3
    rate_per_s: float = 6.0
    count: int | None = None
    protocol: Mix = "mixed"
    seed: str = "0"
    window: int = 8
    reinstalled: bool = False
    habits: Habits = Habits()
    asks: float = 0.0


class Totals(NamedTuple):
    """All tills together; counts are events over the folders' whole life, `in_cloud` by the receipts."""

    made: int
    told: int
    untold: int
    refused: int
    in_cloud: int
    tills: int
    connected: int
    connects: int
    resends: int
    duplicates: int
    problems: tuple[str, ...]
    status: VenueStatus
    answers: Answers = Answers()


class Floor:
    """Tills `till-1` … `till-n`. Use as a context manager: leaving it ends every till orderly."""

    def __init__(self, settings: FloorSettings) -> None:
        """Opens the outboxes. OutboxDamaged when one cannot be read."""
        self._tills = [Till(_till(settings, number)) for number in range(1, settings.tills + 1)]

    def __enter__(self) -> "Floor":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        for till in self._tills:
            till.start()

    def stop_selling(self) -> None:
        """No more events; what is kept is still sent."""
        for till in self._tills:
            till.stop_selling()

    def close(self) -> None:
        """End every till; what is untold stays in its folder."""
        for till in self._tills:
            till.leave()
        for till in self._tills:
            till.close()

    @property
    def sold_out(self) -> bool:
        """True when every till made as many events as it was to make."""
        return all(till.sold_out for till in self._tills)

    @property
    def totals(self) -> Totals:
        """As of a moment ago. TillFailed when a till ended by an error."""
        return _add((till.device, till.figures) for till in self._tills)

    def settle(self, limit_s: float, look: Callable[[], None] = lambda: None) -> bool:
        """Stop selling and wait until the box acknowledged or refused everything, and answered; False when it did not
        in time."""
        self.stop_selling()
        return wait(lambda: is_settled(self.totals), limit_s, look)


def is_settled(totals: Totals) -> bool:
    """The tills have nothing more to say, and wait for no answer."""
    return totals.untold == 0 and totals.answers.waiting == 0


def wait(until: Callable[[], bool], limit_s: float, look: Callable[[], None] = lambda: None) -> bool:
    """Ask `until` now and then, and call `look` in between, for at most `limit_s` seconds; True when it came true."""
    end_s = time.monotonic() + limit_s
    while not until():
        if time.monotonic() >= end_s:
            return False
        look()
        time.sleep(LOOK_INTERVAL_S)
    return True


def _till(floor: FloorSettings, number: int) -> TillSettings:
    device = f"till-{number}"
    return TillSettings(
        device=device,
        host=floor.host,
        port=floor.port,
        directory=floor.directory / device,
        protocol=_protocol(floor.protocol, number),
        seed=floor.seed,
        window=floor.window,
        reinstalled=floor.reinstalled,
        rate_per_s=floor.rate_per_s / floor.tills,
        count=None if floor.count is None else _share(floor.count, floor.tills, number),
        habits=floor.habits,
        asks=floor.asks,
    )


def _protocol(mix: Mix, number: int) -> Protocol:
    """In a mixed venue every second till is an older one."""
    if mix == "mixed":
        return "5" if number % 2 else "3.1.1"
    return mix


def _share(count: int, tills: int, number: int) -> int:
    """What till `number` (from 1) makes of `count` events, so that the shares add up."""
    return count // tills + (number <= count % tills)


def _add(tills: Iterable[tuple[str, Figures]]) -> Totals:
    all_figures = list(tills)
    figures = [one for _, one in all_figures]
    return Totals(
        made=sum(one.made for one in figures),
        told=sum(one.told for one in figures),
        untold=sum(one.untold for one in figures),
        refused=sum(one.refused for one in figures),
        in_cloud=sum(one.in_cloud for one in figures),
        tills=len(figures),
        connected=sum(one.connected for one in figures),
        connects=sum(one.connects for one in figures),
        resends=sum(one.resends for one in figures),
        duplicates=sum(one.duplicates for one in figures),
        problems=tuple(f"{device}: {one.problem}" for device, one in all_figures if one.problem),
        status=next((one.status for one in figures if one.connected), VenueStatus()),
        answers=add_answers([one.answers for one in figures]),
    )
