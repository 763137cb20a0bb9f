"""facts → [rules] → report. What a device did wrong, in words that say what to change. Pure.

Some rules hold always; the others belong to one case and are asked when it has been played.
"""

from collections.abc import Collection, Iterable, Sequence
from itertools import pairwise
from typing import Final, Literal, NamedTuple

from agent.conform.facts import Closed, Fact, Opened, Sent
from agent.core.events import Refusal, judge
from agent.core.printable import printable

EVENT_BYTES_MAX: Final = 262_144
DEPTH_MAX: Final = 64
RECONNECT_MIN_S: Final = 0.5
"""A device that is sent away comes again no sooner than this."""

Result = Literal["passed", "failed", "not applicable", "not judged"]


class Verdict(NamedTuple):
    """How one case went; `words` are empty where it passed."""

    result: Result
    words: tuple[str, ...] = ()


PASSED: Final = Verdict("passed")


def failed(*words: str) -> Verdict:
    """The device broke a rule; what the words quote of it harms no report."""
    return Verdict("failed", tuple(printable(one) for one in words))


def sent(facts: Iterable[Fact]) -> list[Sent]:
    """The events among the facts."""
    return [one for one in facts if isinstance(one, Sent)]


def always(device: str, facts: Sequence[Fact]) -> tuple[str, ...]:
    """What broke a rule that holds at any time; each finding once. A hole may be on its way still: ask again later."""
    found: dict[str, None] = {}
    contents: dict[str, bytes] = {}
    places: dict[tuple[str, int], str] = {}
    for one in sent(facts):
        for words in (*_event_findings(device, one), *_id_findings(one, contents, places)):
            found[words] = None
    return (*found, *_holes(places))


def _event_findings(device: str, one: Sent) -> Iterable[str]:
    if one.topic != f"pos/v1/{device}/events":
        yield f"An event went to {one.topic}, which is not this device's own topic."
    if one.qos == 0:
        yield "An event was sent with QoS 0: nobody promises anything for it. Use QoS 1 (or 2)."
    verdict = judge(device, one.body, EVENT_BYTES_MAX, DEPTH_MAX, 0)
    if isinstance(verdict, Refusal):
        yield f"An event is refused as {verdict.reason.value}: {verdict.detail}."


def _id_findings(one: Sent, contents: dict[str, bytes], places: dict[tuple[str, int], str]) -> Iterable[str]:
    if one.id is None:
        return
    if contents.setdefault(one.id, one.body) != one.body:
        yield f"The id {one.id} came with other bytes than before: an id is for one event, for ever."
    if one.epoch is None or one.sequence is None:
        return
    if places.setdefault((one.epoch, one.sequence), one.id) != one.id:
        yield f"Sequence {one.sequence} was used twice, with two ids: each event has a sequence of its own."


def _holes(places: Iterable[tuple[str, int]]) -> Iterable[str]:
    """Sequences that were skipped: below the highest and above the lowest of their epoch, and never sent."""
    counted: dict[str, list[int]] = {}
    for epoch, sequence in places:
        counted.setdefault(epoch, []).append(sequence)
    for numbers in counted.values():
        numbers.sort()
        for before, after in pairwise(numbers):
            if after > before + 1:
                yield f"Between sequences {before} and {after} nothing was ever sent: count 1, 2, 3 … without holes."


def came_again(facts: Sequence[Fact], lost: Sent) -> Verdict:
    """Whether an event that was not acknowledged was sent again as it was."""
    later = sent(facts)[sent(facts).index(lost) + 1 :]
    if any(one.id == lost.id for one in later):
        return PASSED
    same = [
        one for one in later if lost.sequence is not None and (one.epoch, one.sequence) == (lost.epoch, lost.sequence)
    ]
    if same:
        return failed(f"Event {lost.id} came again as {same[0].id}: a repeat has the same id, or it is counted twice.")
    return failed(
        f"Event {lost.id} was not acknowledged and was not sent again: keep each event in the outbox until its PUBACK."
    )


def in_order(facts: Sequence[Fact], lost: Sequence[Sent], since_s: float) -> Verdict:
    """Whether all of these were sent again after `since_s`, in the order in which they first came."""
    wanted = [one.id for one in lost]
    later = [one.id for one in sent(facts) if one.at_s > since_s and one.id in wanted]
    missing = [str(id) for id in wanted if id not in later]
    if missing:
        return failed(
            f"Not sent again after the box was restarted: {', '.join(missing)}. They were never acknowledged."
        )
    first = list(dict.fromkeys(later))
    if first != wanted:
        return failed(f"Sent again out of order: {first} instead of {wanted}. Send the oldest first.")
    return PASSED


def stopped(facts: Sequence[Fact], one: Sent, since_s: float) -> Verdict:
    """Whether an event was not sent any more on the same connection after the device had heard of it."""
    lines = {fact.line for fact in facts if isinstance(fact, Opened) and fact.at_s > since_s}
    again = [fact for fact in sent(facts) if fact.id == one.id and fact.at_s > since_s and fact.line not in lines]
    if again:
        return failed(
            f"Event {one.id} was sent {len(again)} times more after it had been answered: its PUBACK ends it."
        )
    return PASSED


def stayed_away(facts: Sequence[Fact], one: Sent, since_s: float) -> Verdict:
    """Whether an event that was answered on a connection before was not sent on the one after `since_s`."""
    if any(fact.id == one.id and fact.at_s > since_s for fact in sent(facts)):
        return failed(
            f"Event {one.id} was answered, and sent again when the device had connected again: its PUBACK ends it, "
            "over reconnects, too."
        )
    return PASSED


def patient(facts: Sequence[Fact], refused: Collection[int]) -> Verdict:
    """Whether the device came again with some pause each time it was sent away: from the lines `refused`."""
    pauses, ended_s = [], None
    for fact in facts:
        if isinstance(fact, Closed) and fact.line in refused:
            ended_s = fact.at_s
        elif isinstance(fact, Opened) and ended_s is not None:
            pauses.append(fact.at_s - ended_s)
            ended_s = None
    quick = [pause for pause in pauses if pause < RECONNECT_MIN_S]
    if quick:
        return failed(
            f"It came again {min(quick):.2f} s after it was sent away, "
            f"{len(quick)} times sooner than {RECONNECT_MIN_S} s: "
            "wait 1, 2, 4 … 60 s, some chance in it."
        )
    return PASSED


def first_failed(*verdicts: Verdict) -> Verdict:
    """The first that failed, or passed."""
    return next((one for one in verdicts if one.result == "failed"), PASSED)
