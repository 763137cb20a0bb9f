"""journal → [open checks] → broker → every till. Keeps `pos/v1/venue/checks/…` true, also over a restart.

Live events come from intake after their commit; after a start the log is read again from where the oldest open check
began, which a small file tells. Coalesced: at most one message a check and look, and so many a second in all: selling
goes first. Nothing here must survive: without the file more of the log is read.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
import structlog

from agent.core.checks import OpenChecks, Seen, encode, seen_as, seen_in, topic_of
from agent.core.errors import NightsafeError, RecordDamaged, Rejected, Transient
from agent.core.events import Event
from agent.runtime.files import write_whole

log = structlog.get_logger()

FILE_NAME: Final = "checks.json"
INTERVAL_S: Final = 0.25
"""Shortest time between two looks at what is to be published, in seconds."""
SAVE_INTERVAL_S: Final = 30.0
"""How often the place in the log is written down while it changes, in seconds."""
BATCH_RECORDS: Final = 500
BATCH_BYTES: Final = 2 * 1024 * 1024
"""Read at once from the log after a start."""
PAUSE_S: Final = 0.02
"""Between two such readings: live sales go first."""
RETRY_S: Final = 5.0
ENDED_KEPT_MAX: Final = 1_000
"""So many ended checks are written down, the latest."""
CLOSED: Final = "pos.check.closed"


class Journal(Protocol):
    """The log, as far as it is durable."""

    @property
    def committed(self) -> int: ...
    @property
    def epoch(self) -> str: ...
    def lived_s(self) -> float: ...
    def incomplete(self) -> Collection[tuple[str, str]]: ...


class Log(Protocol):
    """Records in order: `position`, `device`, `event`. Raises RecordDamaged."""

    async def batch(self, after: int, records_max: int, bytes_max: int) -> Sequence[Any]: ...


class Publisher(Protocol):
    """The agent's own session. Raises Transient while the broker is away."""

    @property
    def connected(self) -> bool: ...
    async def publish(self, topic: str, payload: bytes, *, retain: bool = False, qos: int = 1) -> None: ...


class Limits(Protocol):
    """Settings of the same names."""

    @property
    def checks_keep_h(self) -> int: ...
    @property
    def checks_told_per_s(self) -> int: ...


class Ended(msgspec.Struct, frozen=True):
    """A check that has ended while its device's counting lacks something: what is sent later must not open it again."""

    check_id: str
    device: str
    epoch: str | None
    sequence: int | None


class Place(msgspec.Struct, frozen=True):
    """Where in the log the oldest open check stands: behind `after`, in the history `epoch`."""

    epoch: str
    after: int
    ended: tuple[Ended, ...] = ()


class Checks:
    """The stage that publishes open checks."""

    name = "checks"

    def __init__(
        self,
        directory: Path,
        journal: Journal,
        records: Log,
        publisher: Publisher,
        count_max: int,
        limits: Callable[[], Limits],
    ) -> None:
        self._path = directory / FILE_NAME
        self._journal = journal
        self._records = records
        self._publisher = publisher
        self._limits = limits
        self._open = OpenChecks(count_max)
        self._due: dict[str, None] = {}
        """Checks that have changed since they were published, the one that waits longest first."""
        self._again: dict[str, None] = {}
        """Checks that a new broker has to be told; they come after those that have changed."""
        self._told: set[str] = set()
        """Checks that a broker may have retained."""
        self._live: set[str] | None = set()
        """Checks that were heard of while the log is read again: what is read of them is older. None afterwards."""
        self._floor = journal.committed
        """All that is noted from now on stands behind it."""
        self._now_s = journal.lived_s()
        """Seconds that the box has run, as of the last look: what is let go is hours old."""
        self._saved: Place | None = None

    @property
    def count(self) -> int:
        """Checks that are open."""
        return len(self._open)

    def stored(self, event: Event) -> None:
        """An event of a check was committed just now; called in the order of the log."""
        seen = seen_as(event)
        if seen is None:
            return
        if self._live is not None:
            self._live.add(seen.check_id)
        self._note(seen, self._floor)

    def republish(self) -> None:
        """The broker came back and remembers nothing."""
        self._again = dict.fromkeys(self._open.all())

    async def run(self, ready: Callable[[], None], stop: asyncio.Event) -> None:
        """Read the log again, then publish what changes, until `stop`."""
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(self._read_again(), name="checks-read")
            ready()
            saved_s = asyncio.get_running_loop().time()
            while not stop.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(INTERVAL_S):
                        await stop.wait()
                self._now_s = self._journal.lived_s()
                if self._publisher.connected:
                    await self._publish_due()
                if asyncio.get_running_loop().time() - saved_s >= SAVE_INTERVAL_S:
                    saved_s = asyncio.get_running_loop().time()
                    self._let_go()
                    await self._save()
            reading.cancel()
        await self._save()

    def _note(self, seen: Seen, after: int) -> None:
        self._changed(self._open.note(seen, after, self._now_s))

    def _changed(self, checks: Iterable[str]) -> None:
        for check_id in checks:
            if check_id in self._told or self._open.get(check_id) is not None:
                self._due[check_id] = None
            else:
                self._due.pop(check_id, None)  # it is over before anybody was told of it

    def _let_go(self) -> None:
        kept_s = self._limits().checks_keep_h * 3600
        gone = self._open.let_go(self._now_s - kept_s)
        if gone:
            log.info("checks_let_go", count=len(gone), after_h=self._limits().checks_keep_h)
            self._changed(gone)

    async def _publish_due(self) -> None:
        """What has changed, up to what one look may take; the rest waits for the next."""
        for _ in range(max(1, int(self._limits().checks_told_per_s * INTERVAL_S))):
            waiting = self._due or self._again
            if not waiting:
                return
            check_id = next(iter(waiting))
            seen = self._open.get(check_id)
            self._told.add(check_id)
            try:
                await self._publisher.publish(topic_of(check_id), encode(seen) if seen else b"", retain=True)
            except Transient as away:
                log.debug("checks_wait", code=away.code)
                return
            except Rejected as refused:
                log.warning("check_left_out", code=refused.code)
            if self._open.get(check_id) is not seen:
                continue
            self._due.pop(check_id, None)
            self._again.pop(check_id, None)
            if seen is None:
                self._told.discard(check_id)

    # Over a restart ---------------------------------------------------------------------------------------------------

    async def _read_again(self) -> None:
        after, end = self._recall(), self._journal.committed
        while after < end:
            try:
                records = await self._records.batch(after, BATCH_RECORDS, BATCH_BYTES)
            except RecordDamaged as damaged:  # the drain and the sweep look after it
                after = damaged.position
                continue
            except NightsafeError as error:
                log.debug("checks_not_read", code=error.code)
                await asyncio.sleep(RETRY_S)
                continue
            if not records:
                break
            for one in records:
                if one.position <= end and b'"pos.check.' in one.event:
                    self._read_one(one)
            after = records[-1].position
            await asyncio.sleep(PAUSE_S)
        self._live = None
        log.info("checks_known", count=len(self._open))

    def _read_one(self, record: Any) -> None:
        seen = seen_in(record.device, record.event)
        if seen is not None and self._live is not None and seen.check_id not in self._live:
            self._note(seen, record.position - 1)

    def _recall(self) -> int:
        """Behind which position the log has to be read; the ends that stand before it are remembered."""
        try:
            place = msgspec.json.decode(self._path.read_bytes(), type=Place)
        except (OSError, msgspec.DecodeError):
            return 0
        if place.epoch != self._journal.epoch or place.after > self._journal.committed:
            return 0
        self._open.remember(Seen(one.check_id, CLOSED, one.device, one.epoch, one.sequence, b"") for one in place.ended)
        return place.after

    def _ended(self) -> tuple[Ended, ...]:
        seen = self._open.ended(self._journal.incomplete())[-ENDED_KEPT_MAX:]
        return tuple(Ended(one.check_id, one.device, one.epoch, one.sequence) for one in seen)

    async def _save(self) -> None:
        """Write down from where the log has to be read. What is noted now may stand behind the floor of before."""
        if self._live is not None:
            return
        before, self._floor = self._floor, self._journal.committed
        after = self._open.after
        place = Place(self._journal.epoch, min(before, after) if after is not None else before, self._ended())
        if place == self._saved:
            return
        try:
            await asyncio.to_thread(write_whole, self._path, msgspec.json.encode(place))
            self._saved = place
        except OSError as error:
            log.debug("checks_place_not_written", reason=str(error))
