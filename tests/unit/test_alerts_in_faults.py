"""Letters while the disk or the mail server fails: none is lost, none goes twice, and no clock begins anew."""

import asyncio
import socket
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from agent.alerts.escalation import LAST_SYNC, OVERDUE, STALLED, Escalation, Terms
from agent.alerts.outbox import Outbox
from agent.core.errors import NightsafeError, Rejected, Transient
from agent.core.escalation import Now
from agent.core.letters import Letter, Waiting
from agent.mail.smtp import Smtp

LETTER = Letter("k", "mail", "support@example.test", "Sync stalled", "words")


class Quiet:
    """Remembers what is held."""

    def __init__(self) -> None:
        self.held: set[str] = set()

    def hold(self, id: str, *_: object) -> None:
        self.held.add(id)

    def happened(self, *_: object) -> None: ...

    def lift(self, id: str) -> None:
        self.held.discard(id)


class Full:
    """An outbox on a disk that is full for the first `failures` notes."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.rows = [Waiting(1, LETTER, 0.0, 0, "")]
        self.sent: list[Letter] = []

    async def waiting(self) -> list[Waiting]:
        return list(self.rows)

    async def queue(self, letter: Letter) -> bool:
        raise AssertionError("nothing new")

    async def tried(self, waiting: Waiting, detail: str) -> None: ...

    async def ended(self, waiting: Waiting, end: str, detail: str = "") -> None:
        if self.failures:
            self.failures -= 1
            raise Transient("disk_full", "The disk is full.")
        self.rows.remove(waiting)

    def lived_s(self) -> float:
        return 1.0

    async def send(self, letter: Letter) -> str:
        self.sent.append(letter)
        return "250 taken"


async def test_A2_9_a_letter_that_was_taken_while_the_disk_is_full_is_not_sent_again() -> None:
    full = Full(failures=20)
    limits = SimpleNamespace(letter_days=7)
    outbox = Outbox(full, {"mail": full}, Quiet(), lambda: 0.0, lambda: 0.5, lambda: limits)
    for _ in range(20):
        with pytest.raises(Transient):
            await outbox._send_due()
    await outbox._send_due()
    assert (len(full.sent), full.rows) == (1, [])


class Stuck:
    """A box whose cloud answers and takes nothing; `kept` and `letters` are its disk, which may fail."""

    def __init__(self, kept: dict[str, Any]) -> None:
        self.kept = kept
        self.letters: dict[str, Letter] = {}
        self.refused_calls: set[str] = set()
        self.age_s = 1_000.0

    def _call(self, name: str) -> None:
        if name in self.refused_calls:
            raise Transient("journal_away", "Not now.")

    async def read(self, name: str) -> Any:
        self._call("read")
        return self.kept.get(name)

    async def write(self, name: str, value: Any) -> None:
        self._call(f"write {name}")
        self.kept[name] = value

    async def queue(self, letter: Letter) -> bool:
        self._call("queue")
        self.letters.setdefault(letter.key, letter)
        return True

    def stage(self, telling: Quiet) -> Escalation:
        counts = SimpleNamespace(uploaded_count=0, exchanges_count=0, error_code=None, error_text=None)
        journal = SimpleNamespace(devices=(), epoch="e", cursor=0, last=5, pending_count=5)
        facts: Any = SimpleNamespace(
            journal=lambda: journal,
            drain=lambda: counts,
            uplink=lambda: SimpleNamespace(state="online", cause="none", finding=""),
            disk=lambda: SimpleNamespace(hours_until_full=None),
            cursor=lambda: 0,
            last=lambda: 5,
            boottime_s=lambda: self.age_s,
            now=lambda: Now(self.age_s, round(self.age_s * 1000), True),
        )
        terms = Terms("demo", "loc-1", "Bar", "1", "support@example.test", "", "", 900.0, (24.0, 48.0, 72.0))
        return Escalation(facts, self, self, telling, lambda: terms)


async def stall(box: Stuck, stage: Escalation) -> None:
    """A quarter of an hour of a good link."""
    await stage._look()
    stage.probed(True, box.age_s)
    box.age_s += 901.0


async def test_A2_8_A2_9_a_start_that_was_killed_before_its_letters_were_kept_tells_again_and_behind_them_not() -> None:
    box = Stuck({})
    stage = box.stage(Quiet())
    await stall(box, stage)
    box.refused_calls = {"queue"}
    with pytest.raises(Transient):
        await stage._look()
    assert STALLED not in box.kept, "who is killed now has told nobody"

    box.refused_calls = set()
    stage = box.stage(Quiet())
    await stall(box, stage)
    box.refused_calls = {f"write {STALLED}"}
    with pytest.raises(Transient):
        await stage._look()
    assert len(box.letters) == 1

    box.refused_calls = set()
    stage = box.stage(Quiet())
    await stall(box, stage)
    await stage._look()
    assert (len(box.letters), box.kept[STALLED]) == (1, 5), "the same occasion is the same letter"


async def test_A5_1_the_clock_of_the_last_sync_does_not_begin_anew_while_the_journal_cannot_be_read() -> None:
    box = Stuck({LAST_SYNC: {"lived_s": 0.0, "wall_ms": 0, "known": True}})
    box.age_s = 24.9 * 3600
    telling = Quiet()
    stage = box.stage(telling)
    box.refused_calls = {"read"}
    for _ in range(3):
        with pytest.raises(Transient):
            await stage._look()
        box.age_s += 5
    assert box.kept[LAST_SYNC]["lived_s"] == 0.0
    box.refused_calls = set()
    await stage._look()
    assert OVERDUE in telling.held


async def test_A5_1_a_success_after_a_long_time_is_kept_at_once() -> None:
    box = Stuck({LAST_SYNC: {"lived_s": 0.0, "wall_ms": 0, "known": True}})
    stage = box.stage(Quiet())
    await stage._look()
    box.age_s += 23 * 3600
    stage._facts.drain().uploaded_count += 1  # type: ignore[misc]
    await stage._look()
    assert box.kept[LAST_SYNC]["lived_s"] == box.age_s


@pytest.mark.parametrize("banner", [b"554 5.7.1 client host blocked\r\n", b"521 no mail here\r\n"])
async def test_A2_9_a_server_that_turns_the_connection_away_is_asked_again_later(banner: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def turn_away() -> None:
            taken, _ = listener.accept()
            with taken:
                taken.sendall(banner)
                taken.recv(100)

        thread = threading.Thread(target=turn_away)
        thread.start()
        server: Any = SimpleNamespace(
            host="127.0.0.1", port=port, username="", password_file=None, security="none", sender="box@example.test"
        )
        with pytest.raises(Transient) as failed:
            await asyncio.wait_for(Smtp("demo", lambda: server, lambda: 1_795_342_500.0).send(LETTER), 20)
        thread.join(10)
    assert failed.value.code in ("mail_later", "mail_away")


@pytest.mark.parametrize("failure", [Rejected("webhook_refused", "It says 404."), Transient("webhook_away", "Away.")])
async def test_a_webhooks_address_which_may_hold_a_secret_is_not_told_to_tills(failure: NightsafeError) -> None:
    class Refusing(Full):
        async def send(self, letter: Letter) -> str:
            raise failure

        async def ended(self, waiting: Waiting, end: str, detail: str = "") -> None: ...
        async def tried(self, waiting: Waiting, detail: str) -> None: ...
        def lived_s(self) -> float:
            return 10_000.0

    told: list[str] = []
    telling = SimpleNamespace(
        hold=lambda *words: told.extend(words), happened=lambda *words: told.extend(words), lift=lambda id: None
    )
    box = Refusing(failures=0)
    letter = Letter(
        "sync_stalled:e:1:webhook", "webhook", "https://hooks.example/T0/secret", "Sync stalled", "", "", {}
    )
    box.rows = [Waiting(1, letter, 0.0, 0, "")]
    limits = SimpleNamespace(letter_days=7)
    await Outbox(box, {"webhook": box}, telling, lambda: 0.0, lambda: 0.5, lambda: limits)._send_due()
    assert "the webhook at hooks.example" in " ".join(told)
    assert "secret" not in " ".join(told)
