"""[sim: box] The venue's machine: its clock, its disk, and the agent's lives on it, one after another.

What runs is agent.app itself, with every stage and edge it joins. Only the outermost things are others: the clock, the
connection to SQLite, the broker's process, the sockets; and the page and the settings' watch are left out. A small
supervisor starts it again, as systemd does. An end that no fault excuses is a violation.
"""

import asyncio
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any, Final

from agent import app
from agent.core.errors import NightsafeError
from agent.runtime.clock import Clock
from agent.settings.load import load
from tests.sim.broker import SimBroker
from tests.sim.disk import Connection, Disk, Fate, Image
from tests.sim.loop import Process, SimLoop, here
from tests.sim.network import Link, Network
from tests.sim.oracles import Truth
from tests.sim.story import Story

GATE: Final = ("127.0.0.1", 1883)
START_MS: Final = 1_795_342_500_000
"""True time when the world begins."""
RESTART_S: Final = 1.0
LINGER_S: Final = 0.2
"""How long after its end a process may still be told that its connections are closed."""

EXCUSES: Final = {
    Fate.BROKEN: "journal_io",
    Fate.BROKEN_LANDED: "journal_io",
    Fate.FULL: "disk_full",
    Fate.FULL_LANDED: "disk_full",
    Fate.FULL_INSERT: "disk_full",
}
"""What the agent may say when it ends after this happened to it."""


class SimClock(Clock):
    """The box's clocks. What is read off the machine is simulated; what is made of it is the real thing."""

    def __init__(self) -> None:
        super().__init__()
        self._box: Box = here().machine
        self._boot_id = self._box.boot_id

    def wall_ms(self) -> int:
        return max(0, self._box.true_ms() + self._box.wall_off_ms)

    def boottime_s(self) -> float:
        return self._box.loop.now_s - self._box.booted_at_s

    def uptime_ms(self) -> int:
        return int(self.boottime_s() * 1000)

    def synced(self) -> bool:
        return self._box.synced

    def error_ms(self) -> int:
        return 5


class SimMosquitto:
    """The stage that keeps a broker running: in the place of agent.lan.broker.Broker."""

    name = "broker"

    def __init__(self, directory: Path, open_to_all: bool, limits: Any, known: Any = None) -> None:
        self._box: Box = here().machine
        self.socket = directory / "mqtt.sock"
        self.password = "secret"
        self.starts_count = 0

    async def run(self, ready: Callable[[], None], stop: asyncio.Event) -> None:
        """Start it, and start it again whenever it ends, until `stop`."""
        while not stop.is_set():
            await asyncio.sleep(self._box.chance.uniform(0.05, 0.5))
            self._box.start_broker()
            self.starts_count += 1
            ready()
            while self._box.broker_process is not None and not stop.is_set():
                try:
                    async with asyncio.timeout(0.5):
                        await stop.wait()
                except TimeoutError:
                    continue
        self._box.kill_broker()


class Absent:
    """A stage that does nothing: for what people and editors do."""

    addresses: tuple[tuple[str, int], ...] = ()

    def __init__(self, name: str) -> None:
        self.name = name

    async def run(self, ready: Callable[[], None], stop: asyncio.Event) -> None:
        """Wait for the stop."""
        ready()
        await stop.wait()


class Box:
    """The machine. `start`, `stop`, `kill`, `unplug`."""

    def __init__(
        self, loop: SimLoop, network: Network, seed: str, root: Path, story: Story, truth: Truth, name: str = "box"
    ) -> None:
        self.loop = loop
        self.name = name
        self._network = network
        self._seed = seed
        self._story = story
        self._truth = truth
        self.chance = Random(f"{seed}/{name}")
        self.config = root / "nightsafe.toml"
        self.disk = Disk(root / "state", Random(f"{seed}/{name}/disk"))
        self.disk.end = self._end_in_commit
        self.disk.landed = truth.landed
        self.heard = truth.heard
        self.booted_at_s = -30.0
        self.boots_count = 1
        self.uptime_max_s = 30.0
        """How long the machine may have run before the agent is started on it, in seconds."""
        self.wall_off_ms = 0
        self.synced = True
        self.lives_count = 0
        self.process: Process | None = None
        self.broker_process: Process | None = None
        self.broker = SimBroker()
        self.excuses: set[str] = set()
        self.wanted = True
        self.settled = asyncio.Event()
        self._off: tuple[Any, ...] = ()
        self._brokers_count = 0
        broker_path = str(self.disk.directory / "mqtt.sock")
        self._broker_path = broker_path
        network.links[broker_path] = Link((0.0001, 0.001), Random(f"{seed}/{name}/ipc"))

    @property
    def boot_id(self) -> str:
        return f"b0075000-0000-4000-8000-{self.name != 'box':04d}{self.boots_count:08d}"

    @property
    def powered(self) -> bool:
        return not self._network.dark.get(GATE, False)

    def true_ms(self) -> int:
        """What the time really is."""
        return START_MS + int(self.loop.now_s * 1000)

    # Lives ------------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the agent, unless it runs, or the machine has no power, or is not wanted to run."""
        if self.process is not None or not self.powered or not self.wanted:
            return
        self.lives_count += 1
        self.excuses.clear()
        self._story.tell(self.name, "starts the agent", life=self.lives_count)
        process = self.process = Process(self.loop, self._process_name("agent", self.lives_count), self._seed, self)
        task = process.spawn(self._live(), "agent")
        task.add_done_callback(lambda done: self._ended(process, done), context=self.loop.neutral)

    def _process_name(self, what: str, number: int) -> str:
        return f"{what}-{number}" if self.name == "box" else f"{self.name}'s {what}-{number}"

    async def _live(self) -> int:
        settings = load(self.config)
        return await app._run(settings, self.config)

    def stop(self) -> None:
        """SIGTERM."""
        if self.process is not None:
            self._story.tell(self.name, "stops the agent")
            self.process.signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL, from outside."""
        self._die(power=False)

    def restore(self, image: Image) -> None:
        """Somebody puts an older image of the disk back."""
        self._die(power=False)
        self.disk.write_image(image)

    @property
    def fenced(self) -> bool:
        """Whether the page says that another box uses this one's identity."""
        drain = self.process.parts.get("Drain") if self.process is not None else None
        return drain is not None and drain.facts().error_code == "fenced"

    def adopt(self) -> None:
        """A person runs `nightsafe queue adopt`."""
        if self.process is None:
            return
        self._story.tell("operator", "adopts the queue")

        async def adopt(acts: Any) -> None:
            with suppress(NightsafeError):  # it says what to do, and the operator looks again later
                await acts.adopt("operator", "this is the only box")

        self.process.spawn(adopt(self.process.parts["Acts"]), "operator")

    def unplug(self, off_s: float) -> None:
        """The power goes, and comes back later."""
        self._die(power=True, off_s=off_s)

    def _end_in_commit(self, power: bool) -> None:
        self._die(power=power, off_s=self.chance.uniform(5, 120))

    def _die(self, *, power: bool, off_s: float = 0.0) -> None:
        process, self.process = self.process, None
        broker, self.broker_process = self.broker_process, None
        if process is None and not power:
            return
        self._story.tell(self.name, "loses power" if power else "kills the agent", process=process and process.name)
        ends: list[Any] = []
        for one in (process, broker):
            if one is not None:
                ends += one.parts.get("connections", ())
                one.die()
                self._network.process_died(one, power)
        self.disk.abandon()
        if power:
            self._network.dark[GATE] = True
            self._off = (*self._off, *ends)
            self.loop.call_exactly(self.loop.now_s + off_s, self._boot)
        else:
            self.loop.call_exactly(self.loop.now_s + RESTART_S * self.chance.uniform(1, 3), self.start)

    def _boot(self) -> None:
        if self.powered:
            return
        self._story.tell(self.name, "has power again")
        self.boots_count += 1
        self.booted_at_s = self.loop.now_s - self.chance.uniform(5, self.uptime_max_s)
        self._network.dark[GATE] = False
        self._network.machine_up(self._off)
        self._off = ()
        self.start()

    def _ended(self, process: Process, task: asyncio.Task[int]) -> None:
        if not process.alive:
            return
        error = None if task.cancelled() else task.exception()
        self._story.tell(self.name, "sees the agent end", error=repr(error))
        if error is not None and not self._excused(error):
            self._truth.fail(3, f"the agent ended by itself: {error!r}, because of {error.__cause__!r}")
        self.loop.call_exactly(self.loop.now_s + LINGER_S, self._reap, process, error is None)

    def _excused(self, error: BaseException) -> bool:
        codes = {getattr(one, "code", "") for one in (error, error.__cause__)}
        return bool(codes & self.excuses)

    def _reap(self, process: Process, orderly: bool) -> None:
        if self.process is not process:
            return
        # A connection that lingers, and the timer that ends it, go with the process: the kernel closes it.
        timers = [timer for timer in process.timers() if "End.abort" not in timer and "DeviceConnection." not in timer]
        left = [*process.pending(), *timers]
        left += ["an open database"] * len(self.disk.open)
        if orderly and left:
            self._truth.fail(6, f"the agent has stopped and left behind: {left}")
        self.process = None
        process.die()
        self._network.process_died(process, power=False)
        self.disk.abandon()
        self.kill_broker()
        self.loop.call_exactly(self.loop.now_s + RESTART_S * self.chance.uniform(1, 3), self.start)

    # What the agent finds on the machine ------------------------------------------------------------------------------

    async def database(self, path: Path, read_only: bool) -> Connection:
        """In the place of agent.journal.database._connect."""
        return Connection(self.disk, path, read_only)

    def start_broker(self) -> None:
        """A broker that knows nothing of an earlier one."""
        self._brokers_count += 1
        process = self.broker_process = Process(
            self.loop, self._process_name("broker", self._brokers_count), self._seed, self
        )
        self.broker = SimBroker(self.heard)
        process.context().run(self._listen, self.broker)

    def _listen(self, broker: SimBroker) -> None:
        self._network.listen(self._broker_path, broker.accept).serving = True

    def kill_broker(self) -> None:
        """It ends."""
        process, self.broker_process = self.broker_process, None
        if process is not None:
            process.die()
            self._network.process_died(process, power=False)
