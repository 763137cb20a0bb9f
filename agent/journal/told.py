"""fold, repair → [journal: what a commit tells people] → attentions. Written in the transaction of what it tells of.

So a kill behind that commit takes nothing from anybody: the next start recalls it from the table. Never commits.
"""

from typing import Final, NamedTuple

from agent.core import cards
from agent.core.arrivals import Own
from agent.core.clock import Moment
from agent.core.conditions import Words
from agent.core.events import Event
from agent.journal.book import AGENT, Attention
from agent.journal.database import SQL
from agent.journal.fold import Fold

TEXT_MAX: Final = 2000
"""Characters of one text that are kept."""
RECORDED: Final = ("forked", "sequence_reused")
"""Conditions whose `nightsafe.condition.raised` is written by what raises them, in more detail."""


class Told(NamedTuple):
    """What has happened, by the name of its condition, in words."""

    id: str
    words: Words


def put(fold: Fold, told: Told, at: Moment | None = None) -> Attention:
    """Have it stand in the table, since `at`: this commit's instant unless said. Where it stands already, only its
    words change."""
    words, kept = harmless_words(told.words), fold.book.attentions.get(told.id)
    if kept is not None:
        if kept.words != words:
            fold.connection.execute(SQL["write_attention"], (*words, kept.row))
            kept = fold.book.attentions[told.id] = kept._replace(words=words)
        return kept
    at = at or fold.moment
    row = fold.connection.execute(SQL["add_attention"], (told.id, *words, *at)).lastrowid
    assert row is not None
    added = fold.book.attentions[told.id] = Attention(row, words, at)
    if told.id.partition(":")[0] not in RECORDED:
        fold.take(Own("nightsafe.condition.raised", {"condition": told.id, "actor": AGENT, "reason": words.text}))
    return added


def reused(event: Event) -> Told:
    """A device used a sequence twice."""
    return Told(
        f"sequence_reused:{event.device}",
        Words(
            "warning",
            f"{event.device} counts twice",
            f"{event.device} used its sequence {event.sequence} for two different events; both are stored.",
            "Reinstall the app on the device, or call its vendor: its counter was set back.",
        ),
    )


def uncounted(device: str) -> Told:
    """A device has begun more epochs than are counted."""
    return Told(
        f"epochs_exceeded:{device}",
        Words(
            "warning",
            f"{device} is counted no more",
            f"{device} has begun its counting anew too often. Its events are stored and uploaded as ever, but nobody "
            "would notice if one of them got lost on the way.",
            "Call its vendor: an app begins anew after a reinstall only. Then raise epochs_max in [intake].",
        ),
    )


def harmless_words(words: Words) -> Words:
    """Words as the disk may have them."""
    return Words(words.severity, *map(harmless, words[1:]))


def harmless(text: str) -> str:
    """Text from elsewhere as the disk may have it: bounded, and without a card number."""
    text = text[:TEXT_MAX]
    return text if cards.text_clean(text) else cards.masked(text.encode()).decode()
