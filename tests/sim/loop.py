"""[sim: time] An event loop on which nothing sleeps: when nothing is left to do now, time leaps to the next timer.

Everything on it belongs to a process of the simulated world, told by the context it runs in. A process that is killed
does nothing any more: what it had scheduled is dropped, its tasks never step again, and no `finally` of theirs acts.
Order is the loop's own and repeats exactly; chance comes from the seed alone. Knows no network, disk or agent.
"""

import asyncio
import gc
import random
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from contextvars import Context, ContextVar, copy_context
from itertools import count
from typing import Any, Final, TypeVar

T = TypeVar("T")

TIMER_LATE_S: Final = 0.001
"""A timer fires up to this much later than it was set to: two of one instant come in either order."""
SPINS_MAX: Final = 200_000
"""So many turns of the loop without time passing are an endless loop."""
UNWIND_MAX: Final = 5
"""So many nested `finally` that await are taken apart."""
THREAD_CALL_S: Final = (0.0002, 0.004)
"""How long a call on another thread takes."""


class Killed(BaseException):
    """Ends what a killed process was doing; nobody hears it."""


class Stuck(Exception):
    """The simulated world does not move any more."""


class Process:
    """Who runs something: the agent's one life, the broker's, the cloud's, a till's. Chance is its own."""

    def __init__(self, loop: "SimLoop", name: str, seed: str, machine: Any = None) -> None:
        self.loop = loop
        self.name = name
        self.machine = machine
        self.alive = True
        self.chance = random.Random(f"{seed}/{name}")
        self.tasks: dict[asyncio.Task[Any], None] = {}
        self.signals: dict[int, Callable[[], None]] = {}
        self.parts: dict[str, Any] = {}
        """What the agent is made of, by class name, for the oracles."""
        self.on_death: list[Callable[[], None]] = []

    def context(self) -> Context:
        """A new context of this process."""
        made = Context()
        made.run(PROCESS.set, self)
        return made

    def spawn(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Run `work` as a task of this process."""
        task: asyncio.Task[T] = self.loop.create_task(work, name=name, context=self.context())
        return task

    def signal(self, number: int) -> None:
        """What the kernel does with a signal that the process takes."""
        call = self.signals.get(number)
        if call is not None and self.alive:
            self.loop.call_soon(call, context=self.context())

    def pending(self) -> list[str]:
        """Names of the tasks that have not ended."""
        return sorted(task.get_name() for task in self.tasks if not task.done())

    def timers(self) -> list[str]:
        """What the process will still be called for."""
        return sorted(repr(handle._callback) for handle in self.loop.handles_of(self))  # type: ignore[attr-defined]

    def die(self) -> None:
        """No step of it runs from now on. Files and connections are others' business: see `on_death`."""
        if not self.alive:
            return
        self.alive = False
        for handle in self.loop.handles_of(self):
            handle.cancel()
        for call in self.on_death:
            call()
        self.context().run(self._unwind)

    def _unwind(self) -> None:
        for task in tuple(self.tasks):
            if not task.done():
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                _close(task.get_coro())
        self.tasks.clear()


def _close(work: Any) -> None:
    """Let a coroutine's frames go. Each `finally` that awaits is closed in its turn."""
    for _ in range(UNWIND_MAX):
        with suppress(BaseException):
            work.close()
            return  # what still awaits then, waits for tasks that are dead as well: see `unheard`


@contextmanager
def unheard() -> Iterator[None]:
    """Python says nothing of frames that could not be closed when they are collected."""
    before = sys.unraisablehook
    sys.unraisablehook = lambda told: None if isinstance(told.exc_value, RuntimeError) else before(told)
    try:
        yield
    finally:
        gc.collect()
        sys.unraisablehook = before


PROCESS: ContextVar[Process | None] = ContextVar("PROCESS", default=None)


def here() -> Process:
    """The process that is running."""
    process = PROCESS.get()
    assert process is not None, "outside of any process"
    return process


class SimTask(asyncio.Task[Any]):
    """A task whose place in a set is the same in every run."""

    numbers = count()

    def __new__(cls, *_: Any, **__: Any) -> "SimTask":
        made = super().__new__(cls)
        made.number = next(SimTask.numbers)
        return made

    number: int

    def __hash__(self) -> int:
        return self.number


class SimLoop(asyncio.BaseEventLoop):
    """The loop. `now_s` is the one true time of the world, from 0. `unhandled` keeps what nobody caught."""

    def __init__(self, seed: str) -> None:
        super().__init__()
        SimTask.numbers = count()
        self._selector = _Leap(self)
        self._clock_resolution = 1e-9
        self.now_s = 0.0
        self.turns_count = 0
        self.spins = 0
        self.unhandled: list[dict[str, Any]] = []
        self.network: Any = None
        """Where connections are made; see tests.sim.network."""
        self.neutral = Context()
        """What belongs to the world and to no process."""
        self._chance = random.Random(f"{seed}/loop")

    def time(self) -> float:
        return self.now_s

    def handles_of(self, process: Process) -> list[asyncio.Handle]:
        """What waits to be run for this process."""
        waiting = (*self._ready, *self._scheduled)  # type: ignore[attr-defined]
        return [one for one in waiting if not one._cancelled and one._context.get(PROCESS) is process]

    # What asyncio asks of a loop --------------------------------------------------------------------------------------

    def _process_events(self, events: Any) -> None: ...

    def _write_to_self(self) -> None: ...

    def _call_soon(self, callback: Any, args: Any, context: Context | None) -> asyncio.Handle:
        handle: asyncio.Handle = super()._call_soon(callback, args, context)  # type: ignore[misc]
        return _unless_dead(handle)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        late_s = self._chance.random() * TIMER_LATE_S
        handle = super().call_at(when + late_s, callback, *args, context=context)
        return _unless_dead(handle)

    def call_exactly(self, when: float, callback: Any, *args: Any) -> asyncio.TimerHandle:
        """For the world itself: at this very instant, in no process."""
        return super().call_at(when, callback, *args, context=self.neutral)

    def create_task(self, coro: Any, *, name: Any = None, context: Context | None = None) -> Any:
        process = PROCESS.get() if context is None else context.get(PROCESS)
        if process is not None and not process.alive:
            _close(coro)
            raise Killed
        task = SimTask(coro, loop=self, name=name, context=context)
        if process is not None:
            process.tasks[task] = None
            task.add_done_callback(lambda done: process.tasks.pop(done, None), context=self.neutral)
        return task

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """The call is made in one piece, a moment later; its result arrives a moment after that."""
        future: asyncio.Future[T] = self.create_future()
        chance = here().chance

        def run() -> None:
            try:
                result = func(*args)
            except Exception as error:
                self.call_later(chance.uniform(*THREAD_CALL_S), settle, None, error)
            else:
                self.call_later(chance.uniform(*THREAD_CALL_S), settle, result, None)

        def settle(result: Any, error: Exception | None) -> None:
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)

        self.call_later(chance.uniform(*THREAD_CALL_S), run)
        return future

    async def create_server(
        self, protocol_factory: Any, host: Any = None, port: Any = None, *, start_serving: bool = True, **_: Any
    ) -> Any:
        listener = self.network.listen((host, port), protocol_factory)
        listener.serving = start_serving
        return listener

    async def create_connection(
        self, protocol_factory: Any, host: Any = None, port: Any = None, *, sock: Any = None, **_: Any
    ) -> Any:
        pending = sock if sock is not None else await self.network.connect((host, port))
        protocol = protocol_factory()
        pending.end.attach(protocol)
        return pending.end, protocol

    async def create_unix_connection(
        self, protocol_factory: Any, path: Any = None, *, sock: Any = None, **_: Any
    ) -> Any:
        pending = sock if sock is not None else await self.network.connect(str(path))
        return await self.create_connection(protocol_factory, sock=pending)

    def add_signal_handler(self, sig: int, callback: Any, *args: Any) -> None:  # type: ignore[override]
        here().signals[sig] = lambda: callback(*args)

    def remove_signal_handler(self, sig: int) -> bool:
        return here().signals.pop(sig, None) is not None

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not isinstance(context.get("exception"), Killed):
            self.unhandled.append(context)

    def _asyncgen_finalizer_hook(self, agen: Any) -> None:
        process = PROCESS.get()
        if process is None or process.alive:
            super()._asyncgen_finalizer_hook(agen)  # type: ignore[misc]

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """There is none."""


class _Leap:
    """Stands where the loop would wait for sockets: time leaps instead."""

    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[Any]:
        loop = self._loop
        loop.turns_count += 1
        loop.spins += 1
        if timeout is None:
            raise Stuck("Nothing is scheduled any more.")
        if timeout > 0:
            loop.now_s = max(loop.now_s, loop._scheduled[0]._when)  # type: ignore[attr-defined]
            loop.spins = 0
        elif loop.spins > SPINS_MAX:
            ready = [repr(handle._callback) for handle in loop._ready][:5]  # type: ignore[attr-defined]
            raise Stuck(f"Time stands still at {loop.now_s:.3f} s: {ready}")
        return []

    def close(self) -> None: ...


Handle = TypeVar("Handle", bound=asyncio.Handle)


def _unless_dead(handle: Handle) -> Handle:
    process = handle._context.get(PROCESS)  # type: ignore[attr-defined]
    if process is not None and not process.alive:
        handle.cancel()
    return handle


def kept_context() -> Context:
    """The present context, for what is called later from outside."""
    return copy_context()
