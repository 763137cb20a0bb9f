"""[cases] The hard cases, each played to its end and judged. What is right or wrong stands in `rules`.

A case waits for the device to sell, does one thing to it, and looks at what it does then. `Unable` where it cannot be
judged.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Final, NamedTuple, Protocol, TypeVar

from agent.conform import rules
from agent.conform.facts import Acknowledged, Commanded, Opened, Released, Replied, Requested, Sent, Stated, Told
from agent.conform.plays import (
    YEARS,
    Catching,
    LosesReceipt,
    MakesConflict,
    MakesHole,
    StoresNothing,
    TellsWrongTime,
    Withholds,
)
from agent.conform.relay import Play, Relay
from agent.conform.rules import PASSED, Verdict, failed, sent

T = TypeVar("T")

MORE_S: Final = 1.0
"""For further sales to come while nothing is acknowledged, and for what should not come again to come."""
MORE_MAX: Final = 5
CATCH_UP_S: Final = 3.0
"""For a device to send what it has sold while it was sent away."""
UNCOUNTED: Final = (
    "Its events have no epoch and sequence. That is allowed; but what gets lost on the way cannot be missed then."
)
GRACE_S: Final = 0.2
"""What was on its way when the answer came is no repeat."""


class Unable(Exception):
    """The case cannot be judged; words say why."""


class NotApplicable(Exception):
    """The device does nothing that the case is about; words say what."""


class Box(Protocol):
    """The box of this run."""

    async def restart(self) -> None:
        """Kill it, start it again; returns when it is ready."""
        ...


class Scene:
    """What a case plays with."""

    def __init__(
        self, relay: Relay, box: Box, wait_s: float, now_s: Callable[[], float], say: Callable[[str], None]
    ) -> None:
        self.relay = relay
        self.box = box
        self.wait_s = wait_s
        self.now_s = now_s
        self.say = say

    async def until(self, look: Callable[[], T | None], wait_s: float | None = None) -> T | None:
        """What `look` finds as soon as it finds something; None after the wait."""
        end_s = self.now_s() + (self.wait_s if wait_s is None else wait_s)
        while (found := look()) is None and self.now_s() < end_s:
            self.relay.changed.clear()
            try:
                async with asyncio.timeout(end_s - self.now_s()):
                    await self.relay.changed.wait()
            except TimeoutError:
                break
        return look() if found is None else found

    async def sale(self) -> Sent:
        """The next event that was not seen before, with QoS 1 or 2. Raises Unable."""
        at = len(self.relay.facts)
        known = {one.id for one in sent(self.relay.facts)}
        self.say(f"Sell something on {self.relay.device}.")
        found = await self.until(lambda: _first(one for one in sent(self.relay.facts[at:]) if one.id not in known))
        if found is None:
            raise Unable(f"{self.relay.device} sold nothing in {self.wait_s:.0f} s.")
        if not found.qos:
            raise Unable(f"{self.relay.device} sends events with QoS 0: the cases are played at QoS 1 or 2.")
        return found

    async def caught(self, play: Catching) -> Sent:
        """The event that a play was waiting for."""
        self.relay.play = play
        while play.caught is None:
            await self.sale()
        return play.caught

    async def again(self, lost: Sent, wait_s: float | None = None) -> Sent | None:
        """The same event, sent once more."""
        at = self.relay.facts.index(lost) + 1
        return await self.until(lambda: _first(one for one in sent(self.relay.facts[at:]) if one.id == lost.id), wait_s)


# The cases ------------------------------------------------------------------------------------------------------------


async def events(scene: Scene) -> Verdict:
    """Sales come, are sound, and are acknowledged; with QoS 2 the device ends each flow."""
    await scene.sale()
    one = await scene.sale()
    found = await scene.until(
        lambda: _first(fact for fact in scene.relay.facts if isinstance(fact, Acknowledged) and fact.id == one.id)
    )
    if found is None:
        raise Unable("The box acknowledged nothing.")

    def released() -> Released | None:
        return _first(fact for fact in scene.relay.facts if isinstance(fact, Released) and fact.id == one.id)

    if one.qos == 2 and await scene.until(released) is None:
        return failed("It did not answer a PUBREC: with QoS 2 a PUBREL follows, whatever becomes of it.")
    if one.epoch is None:
        return Verdict("passed", (UNCOUNTED,))
    return PASSED


async def lost_receipt(scene: Scene) -> Verdict:
    """The PUBACK is lost with the connection: the same event comes again."""
    lost = await scene.caught(LosesReceipt(scene.relay))
    await scene.again(lost)
    return rules.came_again(scene.relay.facts, lost)


async def duplicate(scene: Scene) -> Verdict:
    """An event that the box has already is acknowledged: the device goes on to the next."""
    lost = await scene.caught(LosesReceipt(scene.relay))
    if await scene.again(lost) is None:
        return rules.came_again(scene.relay.facts, lost)
    return await _answered(scene, lost)


async def conflict(scene: Scene) -> Verdict:
    """An event is refused for good: it is not sent for ever, and the next one comes."""
    return await _answered(scene, await scene.caught(MakesConflict(scene.relay)))


async def _answered(scene: Scene, one: Sent) -> Verdict:
    """Whether an event that was acknowledged, with or without an error, is not sent any more, and others are."""

    def answer() -> Acknowledged | None:
        return _first(fact for fact in scene.relay.facts if isinstance(fact, Acknowledged) and fact.id == one.id)

    heard = await scene.until(answer)
    if heard is None:
        raise Unable("The box did not answer the event.")
    try:
        await scene.sale()
    except Unable:
        return failed(f"After {one.id} was answered nothing more was sold: an answered event is done, go on.")
    await asyncio.sleep(MORE_S)
    verdict = rules.stopped(scene.relay.facts, one, heard.at_s + GRACE_S)
    if verdict.result == "failed":
        return verdict
    scene.relay.cut()
    since_s = scene.now_s()
    try:
        await scene.sale()
    except Unable:
        return failed("After its connection was cut nothing more was sold: connect again, and go on.")
    await asyncio.sleep(MORE_S)
    return rules.stayed_away(scene.relay.facts, one, since_s)


async def box_restart(scene: Scene) -> Verdict:
    """The box dies: whatever was not acknowledged comes again, in order."""
    scene.relay.play = Withholds()
    at = len(scene.relay.facts)
    await scene.sale()
    known = {one.id for one in sent(scene.relay.facts[:at])}

    def fresh() -> list[Sent]:
        first = {one.id: one for one in reversed(sent(scene.relay.facts[at:])) if one.id not in known}
        return sorted(first.values(), key=lambda one: one.at_s)[:MORE_MAX]

    await scene.until(lambda: True if len(fresh()) >= MORE_MAX else None, MORE_S)
    lost, since_s = fresh(), scene.now_s()
    scene.say("The box is killed and started again.")
    await scene.box.restart()
    scene.relay.play = Play()
    wanted = {one.id for one in lost}
    await scene.until(
        lambda: True if wanted <= {one.id for one in sent(scene.relay.facts) if one.at_s > since_s} else None
    )
    return rules.in_order(scene.relay.facts, lost, since_s)


async def resend(scene: Scene) -> Verdict:
    """A sequence never came: the box asks, the device sends it again and says that it is done."""
    lost = await scene.caught(MakesHole(scene.relay))
    if lost.sequence is None:
        raise NotApplicable("Its events have no sequence: nothing can be missed.")
    at = scene.relay.facts.index(lost)
    await scene.sale()

    def command() -> Commanded | None:
        asked = (one for one in scene.relay.facts[at:] if isinstance(one, Commanded))
        return _first(one for one in asked if one.command == "resend")

    asked = await scene.until(command)
    if asked is None:
        return failed(f"It did not hear the command: subscribe to pos/v1/{scene.relay.device}/commands.")

    def filled() -> Sent | None:
        later = (one for one in sent(scene.relay.facts[at + 1 :]) if one.at_s > asked.at_s)
        return _first(one for one in later if one.id == lost.id or one.epoch != lost.epoch)

    if await scene.until(filled) is None:
        return failed(f"It was asked for sequence {lost.sequence} and sent it not again, nor began a new epoch.")

    def done() -> Stated | None:
        return _first(one for one in scene.relay.facts[at:] if isinstance(one, Stated) and asked.id in one.applied)

    if await scene.until(done) is None:
        return failed(f"It did not name the command {asked.id} in `applied` of its state.")
    return PASSED


async def quota(scene: Scene) -> Verdict:
    """Nothing can be stored right now: the device keeps its events and comes again, not too soon."""
    play = StoresNothing(scene.relay)
    lost = await scene.caught(play)
    since_s = scene.now_s()
    scene.say("The box can store nothing; the device is sent away some times.")
    await scene.until(lambda: True if play.over else None, 4 * scene.wait_s)
    if not play.over:
        return rules.first_failed(
            rules.came_again(scene.relay.facts, lost), failed("It did not come back after it was sent away.")
        )

    def stored() -> Acknowledged | None:
        found = (one for one in scene.relay.facts if isinstance(one, Acknowledged) and one.at_s > since_s)
        return _first(one for one in found if one.id == lost.id)

    if await scene.until(stored, 4 * scene.wait_s) is None:
        return rules.first_failed(
            rules.came_again(scene.relay.facts, lost),
            failed(f"Event {lost.id} was not sent when there was room again."),
        )
    await asyncio.sleep(CATCH_UP_S)
    try:
        await scene.sale()  # so that what was sold meanwhile and never sent shows as a hole
    except Unable:
        return failed("It sold nothing more after there was room again: selling goes on whatever the box can store.")
    return rules.patient(scene.relay.facts, play.refused)


async def clock(scene: Scene) -> Verdict:
    """The box's word of time jumps by years: ids, order and sequences go on."""
    before = await scene.sale()
    at = len(scene.relay.facts)
    scene.relay.play = TellsWrongTime()
    for _ in YEARS:
        scene.relay.cut()
        last = len(scene.relay.facts)
        if await scene.until(partial(_told, scene.relay, last)) is None:
            raise NotApplicable("It does not read the venue's status.")
        try:
            await scene.sale()
        except Unable:
            return failed("It sold nothing more after the clock had jumped: nothing that is sold depends on the time.")
    epochs = {one.epoch for one in sent(scene.relay.facts[at:])}
    if epochs != {before.epoch}:
        return failed("It began a new epoch when the clock jumped: a new epoch is for a lost counter only.")
    return PASSED


async def realtime(scene: Scene) -> Verdict:
    """The box's cloud is away, so it refuses a request at once: selling goes on."""
    at = len(scene.relay.facts)
    scene.say(f"Ask for something that needs the cloud on {scene.relay.device}, as a loyalty balance, if it can.")
    asked = await scene.until(lambda: _first(one for one in scene.relay.facts[at:] if isinstance(one, Requested)))
    if asked is None:
        raise NotApplicable("It makes no real-time requests.")

    def replied() -> Replied | None:
        return _first(one for one in scene.relay.facts[at:] if isinstance(one, Replied) and one.id == asked.id)

    if await scene.until(replied) is None:
        return failed(f"It does not hear the reply: subscribe to pos/v1/{scene.relay.device}/replies.")
    try:
        await scene.sale()
    except Unable:
        return failed("After a request was refused nothing more was sold: `requires_realtime` means go on without it.")
    return PASSED


def _told(relay: Relay, at: int) -> Told | None:
    return _first(one for one in relay.facts[at:] if isinstance(one, Told))


class Case(NamedTuple):
    """One case by its name on the command line, what it is about, and how it is played."""

    name: str
    title: str
    play: Callable[[Scene], Awaitable[Verdict]]


CASES: Final = (
    Case("events", "Sales are sound and acknowledged", events),
    Case("lost-receipt", "An acknowledgement is lost", lost_receipt),
    Case("duplicate", "An event is known to the box already", duplicate),
    Case("box-restart", "The box dies and comes back", box_restart),
    Case("resend", "The box asks for what never came", resend),
    Case("conflict", "An event is refused for good", conflict),
    Case("quota", "Nothing can be stored right now", quota),
    Case("clock", "The clock jumps by years", clock),
    Case("realtime", "The cloud is away", realtime),
)


async def play(case: Case, scene: Scene) -> Verdict:
    """Play one case, and judge by the rules that hold always, too. Leaves the relay passing everything on."""
    device, facts = scene.relay.device, scene.relay.facts
    known = rules.always(device, facts)
    try:
        if not any(isinstance(fact, Opened) for fact in facts):
            scene.say(f"Waiting for {device} to connect.")
            if await scene.until(lambda: True if scene.relay.connected else None) is None:
                raise Unable(f"{device} did not connect.")
        verdict = await case.play(scene)
    except Unable as error:
        verdict = Verdict("not judged", (str(error),))
    except NotApplicable as error:
        verdict = Verdict("not applicable", (str(error),))
    finally:
        scene.relay.play = Play()
    found = _new(rules.always(device, facts), known)
    if found:
        await asyncio.sleep(MORE_S)  # what is missing may be on its way
        found = _new(rules.always(device, facts), known)
    if found:
        return failed(*(verdict.words if verdict.result == "failed" else ()), *found)
    return verdict


def _new(found: tuple[str, ...], known: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(words for words in found if words not in known)


def _first(found: Iterable[T]) -> T | None:
    return next(iter(found), None)
