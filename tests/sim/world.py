"""[sim: world] One venue with its cloud, on virtual time, from a seed: sells, suffers, and comes to rest.

`run` builds it, lets the faults of its swarm come for a while, ends them, waits until all has drained, and asks the
oracles. Everything follows from the seed: two runs have equal stories.
"""

import asyncio
import gc
import json
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from random import Random
from time import perf_counter
from typing import Any, Final, NamedTuple

import structlog

from tests.sim.box import GATE, Box
from tests.sim.cloud import ADDRESS, URL, Cloud
from tests.sim.faults import LAN_S, WAN_S, Swarm, habits_of
from tests.sim.loop import PROCESS, Process, SimLoop, Stuck, unheard
from tests.sim.network import Link, Network
from tests.sim.oracles import Truth
from tests.sim.seams import replaced
from tests.sim.story import Line, Story
from tests.sim.till import Habits, SimTill

TROUBLE_S: Final = (60.0, 420.0)
"""How long the faults go on."""
DRAIN_MAX_S: Final = 5400.0
"""How long everything may take to drain after the last fault: a held drain looks again once in a while."""
STEP_S: Final = 1.0
"""How often the world looks at itself."""


class Verdict(NamedTuple):
    """How a run went. `digest` is the hash of its story."""

    seed: int
    violations: tuple[str, ...]
    digest: str
    events_count: int
    told_count: int
    records_count: int
    receipts_count: int
    faults: Counter[str]
    virtual_s: float
    recovery_s: float
    real_s: float
    story: tuple[Line, ...]

    @property
    def good(self) -> bool:
        return not self.violations

    def __str__(self) -> str:
        faults = " ".join(f"{name}={count}" for name, count in sorted(self.faults.items()))
        return (
            f"seed {self.seed}: {'good' if self.good else 'FAILED'}  {self.events_count} events, "
            f"{self.records_count} records, {self.virtual_s / 3600:.2f} virtual hours, "
            f"recovery {self.recovery_s:.0f} s, {self.real_s:.2f} s, {self.digest[:16]}  {faults}"
        )

    def report(self, lines_max: int) -> str:
        """How it went, the last lines of its story, and how to see it again."""
        told = "\n".join(f"    {line}" for line in self.story[-lines_max:])
        again = f"seen again, with its whole story, by: scripts/sim --seed {self.seed} --story"
        return "\n".join((str(self), told, *self.violations, again))


class World:
    """Everything there is, for one seed."""

    def __init__(self, seed: int, root: Path) -> None:
        self.seed = str(seed)
        self.chance = Random(f"{seed}/world")
        self.root = root
        (root / "state").mkdir()
        (root / "cloud").mkdir()
        self.loop = SimLoop(self.seed)
        self.story = Story(self.loop.time, str(root))
        self.network = self.loop.network = Network(self.loop)
        self.network.links[ADDRESS] = Link(WAN_S, Random(f"{seed}/wan"))
        self.network.links[GATE] = Link(LAN_S, Random(f"{seed}/lan"))
        self.truth = Truth(self.loop.time, root / "state" / "journal.sqlite")
        self.cloud = Cloud(self.loop, self.network, self.seed, root / "cloud", self.story)
        self.box = Box(self.loop, self.network, self.seed, root, self.story, self.truth)
        self.box.config.write_text(self._settings())
        self.tills = [self._till(number) for number in range(1, self.chance.choice((1, 2, 3, 5)) + 1)]
        self.truth.poison = self.cloud.is_poison
        self.swarm = Swarm(self.loop, self.network, self.seed, self.box, self.cloud, self.tills, self.story, self.truth)
        self.recovery_s = 0.0
        self._acts_at_s = 0.0

    def _settings(self) -> str:
        chance = self.chance
        tables: dict[str, dict[str, Any]] = {
            "venue": {"id": "demo", "name": "Demo Bar", "location": "demo-1"},
            "state": {"directory": str(self.root / "state")},
            "gate": {"listen": [f"{GATE[0]}:{GATE[1]}"], "inflight_max": chance.choice((4, 16, 64))},
            "devices": {"open": True},
            "cloud": {"url": URL},
            "journal": {
                "project_events": chance.choice((3, 20, 4096)),
                "commit_events_max": chance.choice((1, 7, 100)),
                "queue_events_max": chance.choice((100, 20_000)),
                "keep_days": 1,
                "delete_interval_s": 10,
                "checkpoint_bytes": chance.choice((262_144, 1_048_576)),
                "reserve_bytes": 1_048_576,
            },
            "drain": {
                "batch_records_first": chance.choice((1, 5, 10)),
                "batch_records_max": chance.choice((10, 2000)),
                "backoff_max_s": chance.choice((20, 300)),
                "refused_retry_s": chance.choice((30, 600)),
                "retry_after_max_s": 600,
                "gzip": chance.random() < 0.7,
            },
        }
        lines: list[str] = []
        for table, keys in tables.items():
            lines += [f"[{table}]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items())]
        return "\n".join(lines) + "\n"

    def _till(self, number: int) -> SimTill:
        name = f"till-{number}"
        process = Process(self.loop, name, self.seed)
        link = Link(LAN_S, Random(f"{self.seed}/{name}/lan"))
        habits = Habits(**habits_of(process.chance))
        return SimTill(process, self.network, GATE, link, name, habits, self.truth, self.story)

    async def live(self) -> None:
        """The whole life of this world, up to the verdict of its oracles, or its first violation."""
        self.cloud.start()
        self.box.start()
        for till in self.tills:
            till._process.spawn(till.live(), till.name)
        self.swarm.start()
        trouble_s = self.chance.uniform(*TROUBLE_S)
        self.story.tell("world", "begins", trouble_s=round(trouble_s), faults=" ".join(self.swarm.drawn))
        while self.loop.now_s < trouble_s:
            if await self._step():
                return
        self.story.tell("world", "ends all faults")
        await self.swarm.calm()
        calm_s = self.loop.now_s
        for till in self.tills:
            till.well_behaved, till.selling = True, False
            till.sell()  # so that the last hole of each is seen
        while not self._drained():
            if await self._step():
                return
            if self.loop.now_s - calm_s > DRAIN_MAX_S:
                self.truth.fail(3, f"not drained {DRAIN_MAX_S:.0f} s after the last fault: {self._undrained()}")
                return
        self.recovery_s = self.loop.now_s - calm_s
        self.story.tell("world", "has drained")
        await asyncio.sleep(3)
        self.truth.judge(self.cloud.path, self._entries(), self._retained())
        if not self.truth.violations:
            await self._leave()

    async def _step(self) -> bool:
        """Let time pass; True when something does not hold any more."""
        await asyncio.sleep(STEP_S)
        self._operate()
        for context in self.loop.unhandled:
            self.truth.fail(6, f"nobody caught {context.get('exception')!r}: {context.get('message')}")
        return bool(self.truth.violations)

    def _operate(self) -> None:
        """A person looks at the page now and then, and does what it says."""
        if self.box.fenced and self.swarm.clone is None and self.loop.now_s >= self._acts_at_s:
            if self._acts_at_s:
                self.box.adopt()
            self._acts_at_s = self.loop.now_s + self.chance.uniform(10, 90)
        elif not self.box.fenced:
            self._acts_at_s = 0.0

    def _entries(self) -> list[Any]:
        return [entry for till in self.tills for entry in till.entries]

    def _retained(self) -> dict[str, bytes]:
        return {topic: message.payload for topic, message in self.box.broker.retained.items()}

    def _drained(self) -> bool:
        return not self._undrained()

    def _undrained(self) -> list[str]:
        """What has still to happen, in words."""
        waits = [f"{till.name} owes {till.owes}" for till in self.tills if till.owes]
        retained = self._retained()
        status = json.loads(retained.get("pos/v1/venue/status", b"{}"))
        if not status or status["sync"]["pending"] or status["sync"]["state"] != "idle":
            waits.append(f"the box says {status.get('sentence')}")
        for topic, payload in retained.items():
            receipt = json.loads(payload) if "/receipt" in topic else {}
            if receipt.get("gaps") or receipt.get("stored") != receipt.get("uploaded"):
                waits.append(f"{topic} says {payload.decode()}")
        return waits

    async def _leave(self) -> None:
        """The tills leave, then the agent stops: nothing may be left of either."""
        for till in self.tills:
            till.leave()
        await asyncio.sleep(60)
        self._judge_memory()
        self.box.wanted = False
        self.box.stop()
        for _ in range(60):
            if await self._step() or self.box.process is None:
                return
        self.truth.fail(6, "the agent does not stop")

    def _judge_memory(self) -> None:
        """With no device there and nothing to do, only the periodic tasks and timers are left."""
        process = self.box.process
        if process is None:
            self.truth.fail(3, "the agent does not run")
            return
        parts = process.parts
        kept = {
            "the gate's connections": parts["Gate"]._connections,
            "receipts to be sent": parts["Receipts"]._answers,
            "holes that are asked for": parts["Gaps"]._requests,
            "batches read ahead": parts["Drain"]._ahead,
        }
        for name, what in kept.items():
            if what:
                self.truth.fail(6, f"{name}: {what}")
        names = Counter(process.pending())
        doubled = [name for name, count in names.items() if count > 1 and not name.startswith("Task-")]
        if doubled or len(names) > TASKS_MAX:
            self.truth.fail(6, f"tasks at rest: {dict(names)}")
        if len(process.timers()) > TIMERS_MAX:
            self.truth.fail(6, f"timers at rest: {process.timers()}")

    def close(self) -> None:
        """End every process without a sound."""
        self.swarm.end_clone()
        for process in (self.box.process, self.box.broker_process, self.cloud._process, self.swarm._process):
            if process is not None:
                process.die()
        for till in self.tills:
            till._process.die()
        self.cloud.kill()
        self.box.disk.abandon()
        self.loop.close()


TASKS_MAX: Final = 64
TIMERS_MAX: Final = 40


def run(seed: int) -> Verdict:
    """The life of one world, and how it ended."""
    with unheard():
        return _run(seed)


def _run(seed: int) -> Verdict:
    began_s = perf_counter()
    shared = Path("/dev/shm")
    root = Path(tempfile.mkdtemp(prefix="ns-sim-", dir=shared if shared.is_dir() else None))
    gc.collect()
    gc.disable()  # what an object does when it is collected would come at another moment in each run
    before = structlog.get_config()
    try:
        world = World(seed, root)
        world.story.hear_log(_who)
        with replaced(world.loop, world.network, world.truth, world.story):
            try:
                world.loop.run_until_complete(world.live())
            except (Stuck, AssertionError) as error:
                world.truth.fail(3, f"{type(error).__name__}: {error}")
            finally:
                world.close()
        return _verdict(seed, world, perf_counter() - began_s)
    finally:
        structlog.configure(**before)
        gc.enable()
        shutil.rmtree(root, ignore_errors=True)


def _who() -> str | None:
    """The process that is running, None when it is dead."""
    process = PROCESS.get()
    if process is None:
        return "world"
    return process.name if process.alive else None


def _verdict(seed: int, world: World, real_s: float) -> Verdict:
    truth = world.truth
    for violation in truth.violations:
        world.story.tell("oracle", violation)
    return Verdict(
        seed,
        tuple(truth.violations),
        world.story.digest(),
        len(world._entries()),
        truth.told_count,
        len(truth.records),
        truth.receipts_count,
        world.swarm.counts,
        world.loop.now_s,
        world.recovery_s,
        real_s,
        tuple(world.story.lines),
    )
