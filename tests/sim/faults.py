"""[sim: faults] The swarm: each seed draws which faults are in its world, and how often they come.

A world where everything fails at once never gets anywhere, so each has only some of them, and each of those in its own
measure. Every fault undoes itself, or is undone by `calm`.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any, Final

from tests.sim.box import EXCUSES, GATE, Box
from tests.sim.cloud import ADDRESS, Cloud, Mood
from tests.sim.disk import Fate
from tests.sim.loop import Process, SimLoop
from tests.sim.network import End, Link, Network
from tests.sim.oracles import Truth
from tests.sim.story import Story
from tests.sim.till import SimTill

LAN_S: Final = (0.0003, 0.004)
WAN_S: Final = (0.01, 0.12)
SHARE: Final = 0.4
"""Each kind of fault is in so many of the worlds."""
EVERY_S: Final = (25.0, 240.0)
"""The mean time between two faults of a kind is drawn from here."""
YEAR_MS: Final = 365 * 86_400_000
DAY_S: Final = 86_400.0
CLOSES_MAX: Final = 2
"""An operator does not close a stream more often; the box suspects itself when several epochs in a row are refused."""
FREE_BYTES: Final = 10**12
APART: Final = (
    ("cloud_amnesia", "old_copy"),
    ("cloud_amnesia", "long_uptimes"),
    ("old_copy", "long_uptimes"),
)
"""Of each two only the first: both together destroy the last copy of something."""
INSERTED: Final = (Fate.FULL, Fate.FULL_LANDED, Fate.FULL_INSERT)


class Swarm:
    """The faults of one world. `counts` says how many of each have come."""

    def __init__(
        self,
        loop: SimLoop,
        network: Network,
        seed: str,
        box: Box,
        cloud: Cloud,
        tills: list[SimTill],
        story: Story,
        truth: Truth,
    ) -> None:
        self._seed = seed
        self._truth = truth
        self.clone: Box | None = None
        """A second box with a copy of this one's disk, while it runs."""
        self._loop = loop
        self._network = network
        self._box = box
        self._cloud = cloud
        self._tills = tills
        self._story = story
        self._chance = Random(f"{seed}/faults")
        self._process = Process(loop, "faults", seed)
        self._wan: Link = network.links[ADDRESS]
        self._fates: list[tuple[float, Fate]] = []
        self._full_until_s = 0.0
        self._full_share = 0.0
        self._broken_until_s = 0.0
        self._stalls = 0.0
        self._repeats = 0.0
        self._records: dict[End, list[bytes]] = {}
        self.counts: Counter[str] = Counter()
        kinds: dict[str, Callable[[], Awaitable[None]]] = {
            name.removeprefix("_do_"): getattr(self, name) for name in dir(self) if name.startswith("_do_")
        }
        self.drawn = {name: self._chance.uniform(*EVERY_S) for name in sorted(kinds) if self._chance.random() < SHARE}
        self._kinds = kinds
        for one, other in APART:
            if one in self.drawn:
                self.drawn.pop(other, None)
        if "old_copy" in self.drawn:  # what was first under an id may have gone with the newer copy
            for till in tills:
                till.habits = till.habits._replace(conflicts=0.0)
        if "long_uptimes" in self.drawn:
            box.uptime_max_s = 3 * DAY_S
        box.disk.fate = self._fate
        self._wan.watch = self._watch

    def start(self) -> None:
        """Let them come."""
        for name, every_s in self.drawn.items():
            self._process.spawn(self._keep_doing(name, every_s), name)

    async def calm(self) -> None:
        """No faults any more; what they broke is whole again."""
        for task in tuple(self._process.tasks):
            task.cancel()
        await asyncio.sleep(0)
        self._fates.clear()
        self._full_until_s = self._broken_until_s = self._stalls = self._repeats = 0.0
        self._box.disk.delay_s = (0.0002, 0.003)
        self._box.synced = True
        self._box.wall_off_ms = 0
        self._box.disk.free_bytes = FREE_BYTES
        self.end_clone()
        self._cloud.moods = ()
        self._cloud.start()
        for link, latency_s in ((self._wan, WAN_S), *((till.link, LAN_S) for till in self._tills)):
            link.latency_s, link.bytes_per_s, link.refuses, link.split = latency_s, 1e9, False, 0.0
            link.heal()
        self._box.start()

    async def _keep_doing(self, name: str, every_s: float) -> None:
        while True:
            await asyncio.sleep(self._chance.expovariate(1 / every_s))
            self.counts[name] += 1
            self._story.tell("fault", name.replace("_", " "))
            await self._kinds[name]()

    # The box ----------------------------------------------------------------------------------------------------------

    async def _do_kill(self) -> None:
        if self._chance.random() < 0.5:
            self._arm(self._chance.choice((Fate.KILL, Fate.KILL_LANDED)))
        else:
            self._box.kill()

    async def _do_power_cut(self) -> None:
        if self._chance.random() < 0.6:
            self._arm(Fate.POWER)
        else:
            self._box.unplug(self._chance.uniform(5, 120))

    async def _do_stop(self) -> None:
        self._box.stop()

    async def _do_broker_crash(self) -> None:
        self._box.kill_broker()

    async def _do_full_disk(self) -> None:
        self._full_share = self._chance.choice((0.0, 0.3, 1.0))
        self._full_until_s = self._loop.now_s + self._chance.uniform(3, 60)
        self._box.disk.free_bytes = self._chance.choice((0, 4_194_304, FREE_BYTES))
        await asyncio.sleep(self._full_until_s - self._loop.now_s)
        self._box.disk.free_bytes = FREE_BYTES

    async def _do_io_error(self) -> None:
        self._arm(self._chance.choice((Fate.BROKEN, Fate.BROKEN_LANDED)))

    async def _do_io_errors(self) -> None:
        self._broken_until_s = self._loop.now_s + self._chance.uniform(2, 40)
        await asyncio.sleep(self._broken_until_s - self._loop.now_s)

    async def _do_old_copy(self) -> None:
        image = self._box.disk.image()
        if "journal.sqlite" not in image:
            return
        await asyncio.sleep(self._chance.uniform(5, 100))
        self._story.tell("operator", "puts an older copy of the box's disk back")
        self._box.restore(image)
        self._truth.put_back()

    async def _do_clone(self) -> None:
        image, root = self._box.disk.image(), self._box.config.parent / f"clone-{self.counts['clone']}"
        if "journal.sqlite" not in image or not self._cloud.running:
            return
        (root / "state").mkdir(parents=True)
        settings = self._box.config.read_text().replace(str(self._box.disk.directory), str(root / "state"))
        (root / "nightsafe.toml").write_text(settings.replace(f":{GATE[1]}", f":{GATE[1] + self.counts['clone']}"))
        self._truth.parted = True
        self.clone = Box(self._loop, self._network, self._seed, root, self._story, self._truth, root.name)
        self.clone.disk.landed = self._truth.landed_elsewhere
        self.clone.heard = lambda client, topic, payload, retain: None  # nobody is told anything by it
        self.clone.disk.write_image(image)
        self.clone.start()
        await asyncio.sleep(self._chance.uniform(20, 120))
        self.end_clone()

    def end_clone(self) -> None:
        """Somebody has found the second box, and switches it off."""
        clone, self.clone = self.clone, None
        if clone is not None:
            clone.wanted = False
            clone.kill()

    async def _do_long_uptimes(self) -> None:
        self._box.unplug(self._chance.uniform(5, 60))

    async def _do_slow_disk(self) -> None:
        self._box.disk.delay_s = (0.05, self._chance.uniform(0.2, 2.0))
        await asyncio.sleep(self._chance.uniform(5, 40))
        self._box.disk.delay_s = (0.0002, 0.003)

    async def _do_clock_jump(self) -> None:
        self._box.wall_off_ms = self._chance.choice((0, 3000, -3000, 3_600_000, -3_600_000, YEAR_MS, -30 * YEAR_MS))

    async def _do_clock_unsynced(self) -> None:
        self._box.synced = not self._box.synced

    def _arm(self, fate: Fate) -> None:
        """At one of the next commits."""
        self._fates.append((self._loop.now_s + self._chance.uniform(0, 5), fate))

    def _fate(self) -> Fate | None:
        fate = None
        if self._fates and self._fates[0][0] <= self._loop.now_s:
            fate = self._fates.pop(0)[1]
        elif self._loop.now_s < self._broken_until_s:
            fate = self._chance.choice((Fate.BROKEN, Fate.BROKEN_LANDED))
        elif self._loop.now_s < self._full_until_s and self._chance.random() < self._full_share:
            fate = self._chance.choice(INSERTED)
        if fate is not None:
            self._story.tell("disk", fate.value)
            if fate in EXCUSES:
                self._box.excuses.add(EXCUSES[fate])
        return fate

    # The way to the cloud, and the cloud ------------------------------------------------------------------------------

    async def _do_wan_cut(self) -> None:
        self._wan.cut()

    async def _do_wan_silent(self) -> None:
        self._wan.hush()
        await asyncio.sleep(self._chance.choice((10, 60, 200, 1200)) * self._chance.random())
        self._wan.heal()

    async def _do_wan_refused(self) -> None:
        self._wan.refuses = True
        self._wan.cut()
        await asyncio.sleep(self._chance.uniform(5, 120))
        self._wan.refuses = False

    async def _do_wan_slow(self) -> None:
        self._wan.latency_s = (0.3, self._chance.uniform(0.5, 3.0))
        self._wan.bytes_per_s = self._chance.choice((2_000, 8_000, 64_000))
        await asyncio.sleep(self._chance.uniform(20, 200))
        self._wan.latency_s, self._wan.bytes_per_s = WAN_S, 1e9

    async def _do_wan_split(self) -> None:
        self._wan.split = self._chance.choice((0.1, 0.5))

    async def _do_cloud_moods(self) -> None:
        self._cloud.moods = tuple(self._chance.sample(list(Mood), self._chance.randint(1, 4)))
        self._cloud.mood_share = self._chance.choice((0.1, 0.5, 1.0))
        await asyncio.sleep(self._chance.uniform(10, 120))
        self._cloud.moods = ()

    async def _do_cloud_chokes(self) -> None:
        """From now on, and for good: what it cannot read today it cannot read when all else is well."""
        self._cloud.poison_share = self._cloud.poison_share or self._chance.choice((0.01, 0.05, 0.2))

    async def _do_cloud_crash(self) -> None:
        self._cloud.kill()
        await asyncio.sleep(self._chance.uniform(0.5, 90))
        self._cloud.start()

    async def _do_cloud_amnesia(self) -> None:
        self._cloud.remember()
        await asyncio.sleep(self._chance.uniform(5, 120))
        self._cloud.kill()
        self._cloud.forget()
        await asyncio.sleep(self._chance.uniform(0.5, 30))
        self._cloud.start()

    async def _do_cloud_closes_stream(self) -> None:
        if self.counts["cloud_closes_stream"] <= CLOSES_MAX:
            self._cloud.close_stream()

    async def _do_late_uploads(self) -> None:
        self._stalls = self._chance.choice((0.1, 0.5))
        await asyncio.sleep(self._chance.uniform(20, 120))
        self._stalls = 0.0

    async def _do_repeated_uploads(self) -> None:
        self._repeats = 0.3
        await asyncio.sleep(self._chance.uniform(20, 120))
        self._repeats = 0.0

    def _watch(self, end: End, data: bytes) -> None:
        """What goes up, request by request: some of it is held back by a proxy, or comes once more."""
        if data.startswith((b"GET ", b"POST ", b"PUT ")):
            self._records.pop(end, None)
            if data.startswith(b"GET "):
                return
            if self._chance.random() < self._stalls:
                delay_s = self._chance.uniform(5, 300)
                self._story.tell("network", "holds an upload back", seconds=round(delay_s, 1))
                end.stall(delay_s)
            if self._chance.random() < self._repeats:
                taken = self._records[end] = []
                self._process.spawn(self._repeat(taken), "repeat")
        if end in self._records:
            self._records[end].append(data)

    async def _repeat(self, taken: list[bytes]) -> None:
        await asyncio.sleep(self._chance.uniform(0.5, 200))
        self._story.tell("network", "brings an upload once more", bytes=sum(map(len, taken)))
        try:
            pending = await self._network.connect(ADDRESS)
        except OSError:
            return
        pending.end.attach(asyncio.Protocol())
        pending.end.write(b"".join(taken))
        await asyncio.sleep(5)
        pending.end.close()

    # The devices ------------------------------------------------------------------------------------------------------

    def _some_link(self) -> Link:
        return self._chance.choice(self._tills).link

    async def _do_lan_cut(self) -> None:
        self._some_link().cut()

    async def _do_lan_silent(self) -> None:
        link = self._some_link()
        link.hush()
        await asyncio.sleep(self._chance.uniform(5, 200))
        link.heal()

    async def _do_lan_slow(self) -> None:
        link = self._some_link()
        link.latency_s = (0.1, self._chance.uniform(0.2, 4.0))
        link.bytes_per_s = self._chance.choice((3_000, 50_000))
        await asyncio.sleep(self._chance.uniform(10, 100))
        link.latency_s, link.bytes_per_s = LAN_S, 1e9

    async def _do_lan_split(self) -> None:
        self._some_link().split = self._chance.choice((0.1, 0.7))

    async def _do_rush(self) -> None:
        for till in self._tills:
            for _ in range(self._chance.randint(1, 15)):
                till.sell()

    async def _do_reinstall(self) -> None:
        self._chance.choice(self._tills).reinstall()


def habits_of(chance: Random) -> dict[str, Any]:
    """What one till is like."""

    def sometimes(share: float, *values: float) -> float:
        return chance.choice(values) if chance.random() < share else 0.0

    level = chance.choice((4, 5))
    return {
        "sales_rate": chance.choice((0.05, 0.2, 0.5)),
        "window": chance.choice((1, 4, 16, 64)),
        "level": level,
        "qos": chance.choice((1, 1, 1, 2)),
        "keep_alive_s": chance.choice((10, 30, 60)),
        "counted": chance.random() < 0.85,
        "withholds": sometimes(0.4, 0.02, 0.2),
        "forgets": sometimes(0.3, 0.01, 0.05),
        "conflicts": sometimes(0.3, 0.02, 0.1),
        "garbage": sometimes(0.3, 0.02, 0.1),
        "refused": sometimes(0.3, 0.02, 0.1),
        "reuses": sometimes(0.15, 0.02),
        "drops_rate": sometimes(0.4, 0.005, 0.03),
        "reinstalls_rate": sometimes(0.25, 0.002, 0.01),
        "will_event": chance.random() < 0.1,
    }
