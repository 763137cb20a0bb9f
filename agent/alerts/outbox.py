"""escalation → [outbox] → mail, webhook. Sends each letter once its server takes it, and keeps what it cannot send.

A letter is sent once as far as its server lets anybody know: after a lost answer, or a kill between answer and note, it
goes a second time with the same Message-ID. Nothing waits for it. What cannot be sent is told on the page.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final, Protocol

import structlog

from agent.core.conditions import Severity
from agent.core.errors import Held, NightsafeError, Rejected, Transient
from agent.core.letters import Channel, End, Letter, Waiting, pause_s, shown

log = structlog.get_logger()

LOOK_INTERVAL_S: Final = 5.0
"""How often it is looked whether a letter is due, in seconds."""
WAITING_ATTENTION_S: Final = 900.0
"""People are told of a letter that has waited for so long, in seconds that the box has run."""
DAY_S: Final = 86_400


class Letters(Protocol):
    """The durable table. Raises Transient and JournalDamaged where nothing can be read or written now."""

    async def queue(self, letter: Letter) -> bool: ...
    async def waiting(self) -> Sequence[Waiting]: ...
    async def tried(self, waiting: Waiting, detail: str) -> None: ...
    async def ended(self, waiting: Waiting, end: End, detail: str = "") -> None: ...
    def lived_s(self) -> float: ...


class Sender(Protocol):
    """Who brings a letter away, and says how it was taken. Raises Transient, Held and Rejected."""

    async def send(self, letter: Letter) -> str: ...


class Telling(Protocol):
    """Where it is said what holds, and what has happened."""

    def hold(self, id: str, severity: Severity, title: str, text: str, hint: str) -> None: ...
    def happened(self, id: str, severity: Severity, title: str, text: str, hint: str) -> None: ...
    def lift(self, id: str) -> None: ...


class Limits(Protocol):
    """Settings of the same names."""

    @property
    def letter_days(self) -> int: ...


class Outbox:
    """The stage. `now_s` is boottime, `chance` from 0 to 1."""

    def __init__(
        self,
        letters: Letters,
        senders: Mapping[Channel, Sender],
        telling: Telling,
        now_s: Callable[[], float],
        chance: Callable[[], float],
        limits: Callable[[], Limits],
    ) -> None:
        self.name = "outbox"
        self._letters = letters
        self._senders = senders
        self._telling = telling
        self._now_s = now_s
        self._chance = chance
        self._limits = limits
        self._due_s: dict[int, float] = {}
        """When a letter that was tried in vain is tried again."""
        self._sent: set[int] = set()
        """Letters that were taken, while that cannot be written down: they are never sent again by this start."""
        self._wake = asyncio.Event()
        self.waiting_count = 0

    async def queue(self, letter: Letter) -> bool:
        """Durable when this returns, and sent by itself; False where its occasion has a letter already.

        Raises Rejected, Transient and JournalDamaged.
        """
        new = await self._letters.queue(letter)
        self._wake.set()
        return new

    def reached(self) -> None:
        """The way out works again: what waits is due."""
        self._due_s.clear()
        self._wake.set()

    async def run(self, ready: Callable[[], None], stop: asyncio.Event) -> None:
        """Send what waits until `stop`; a letter under way is given up, and sent anew by the next start."""
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(self._keep_sending(), name="outbox-send")
            ready()
            await stop.wait()
            sending.cancel()

    async def _keep_sending(self) -> None:
        while True:
            self._wake.clear()
            try:
                await self._send_due()
            except NightsafeError as error:  # the journal cannot be read or written now
                log.debug("outbox_put_off", code=error.code)
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_INTERVAL_S):
                    await self._wake.wait()

    async def _send_due(self) -> None:
        waiting = await self._letters.waiting()
        left = [one for one in waiting if not await self._send_one(one)]
        self.waiting_count = len(left)
        self._tell(left)

    async def _send_one(self, one: Waiting) -> bool:
        """Whether it waits no longer."""
        if self._due_s.get(one.id, 0.0) > self._now_s():
            return False
        try:
            if one.id not in self._sent:
                await self._senders[one.letter.channel].send(one.letter)
        except Rejected as error:
            self._due_s[one.id] = self._now_s() + pause_s(one.tries_count + 1, self._chance())
            await self._letters.ended(one, "refused", error.text)
            self._give_up(one, error)
            return True
        except (Transient, Held) as error:
            return await self._put_off(one, error)
        self._sent.add(one.id)
        await self._letters.ended(one, "sent")
        self._sent.discard(one.id)
        self._due_s.pop(one.id, None)
        log.info("letter_sent", key=one.letter.key, channel=one.letter.channel, tries=one.tries_count + 1)
        return True

    async def _put_off(self, one: Waiting, error: NightsafeError) -> bool:
        """Try again later, unless it is too old for that."""
        tell = log.warning if one.tries_count == 0 else log.debug
        tell("letter_put_off", key=one.letter.key, code=error.code, reason=error.text, hint=error.hint)
        age_s = self._letters.lived_s() - one.queued_s
        if age_s > self._limits().letter_days * DAY_S:
            await self._letters.ended(one, "expired", error.text)
            self._give_up(one, error)
            return True
        self._due_s[one.id] = self._now_s() + pause_s(one.tries_count + 1, self._chance())
        await self._letters.tried(one, error.text)
        return False

    def _give_up(self, one: Waiting, error: NightsafeError) -> None:
        self._due_s.pop(one.id, None)
        log.warning("letter_not_sent", key=one.letter.key, code=error.code, reason=error.text)
        self._telling.happened(
            f"letter_not_sent:{one.letter.key}",
            "warning",
            "A letter could not be sent",
            f'"{one.letter.subject}" to {shown(one.letter)} was not taken. {error.text}',
            f"Tell them by telephone. {error.hint}",
        )

    def _tell(self, left: Sequence[Waiting]) -> None:
        old = [one for one in left if self._letters.lived_s() - one.queued_s >= WAITING_ATTENTION_S]
        if not old:
            self._telling.lift("letters_waiting")
            return
        first = old[0]
        self._telling.hold(
            "letters_waiting",
            "warning",
            "Letters wait to be sent",
            f'{len(old)} waiting; the first is "{first.letter.subject}" to {shown(first.letter)}. '
            f"{first.detail}".strip(),
            "They are sent by themselves once the mail server takes them. If it is urgent, telephone.",
        )
