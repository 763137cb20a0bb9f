"""repair, rebuild → [journal: what was repaired] → its record, people. What a repair did, as a value and in words.

Pure: it decides nothing about a record, and writes nothing.
"""

from typing import Any, Final, NamedTuple

from agent.core.conditions import Words
from agent.journal.aside import FOLDER_NAME
from agent.journal.book import AGENT
from agent.journal.told import Told

NAMED_MAX: Final = 500
"""Ranges and positions that one record names; it counts the rest."""


class Loss(NamedTuple):
    """Events that are lost unless their device sends them again. Without an epoch there are no numbers."""

    device: str
    epoch: str | None
    first: int | None
    last: int | None


class Repaired(NamedTuple):
    """What was done. `mended`: (position, what had changed); `positions`: ranges without a record from now on;
    `unnamed`: records among them of which nothing is known; `kept_in`: where the damaged bytes are; `notes`: what else
    was put right or could not be read; `told`: what its commit tells people."""

    reason: str
    mended: tuple[tuple[int, str], ...] = ()
    positions: tuple[tuple[int, int], ...] = ()
    lost: tuple[Loss, ...] = ()
    unnamed: int = 0
    kept_in: str | None = None
    notes: tuple[str, ...] = ()
    unseen: int = 0
    """Records behind all figures that are kept: no hole in any counting stands for them."""
    told: tuple[Told, ...] = ()

    @property
    def lost_count(self) -> int:
        """Events that are lost as far as the box knows."""
        known = sum(1 if one.last is None or one.first is None else one.last - one.first + 1 for one in self.lost)
        return known + self.unnamed


def record_of(done: Repaired) -> dict[str, Any]:
    """The data of `nightsafe.journal.repaired`: positions and sequences are unpadded strings."""
    return {
        "reason": done.reason,
        "mended": [{"position": str(position), "what": what} for position, what in done.mended[:NAMED_MAX]],
        "mended_count": len(done.mended),
        "lost": [
            {"device": one.device, "epoch": one.epoch, "from": _number(one.first), "to": _number(one.last)}
            for one in done.lost[:NAMED_MAX]
        ],
        "lost_count": done.lost_count,
        "positions": [[str(first), str(last)] for first, last in done.positions[:NAMED_MAX]],
        "positions_count": sum(last - first + 1 for first, last in done.positions),
        "unnamed": done.unnamed,
        "kept_in": done.kept_in,
        "notes": done.notes[:NAMED_MAX],
    }


def news(done: Repaired, before: str | None) -> tuple[Told, ...]:
    """What people are told of it; `before` is what stands of an earlier loss, whose tills nobody has acknowledged."""
    folder = done.kept_in.split("/")[0] if done.kept_in else FOLDER_NAME
    return (_loss(done, before),) if folder == FOLDER_NAME else (_loss(done, before), _elsewhere(folder))


def _elsewhere(folder: str) -> Told:
    return Told(
        "damaged_folder",
        Words(
            "warning",
            "The folder for damaged records cannot be used",
            f"The folder {FOLDER_NAME} in the state directory takes no files. What was damaged is kept in {folder} "
            "beside it; nothing of it was deleted.",
            f"Look at {FOLDER_NAME}: it must be a folder, on the disk of the state directory, that belongs to the user "
            f"that runs Nightsafe. Then move there what is in {folder}.",
        ),
    )


def _loss(done: Repaired, before: str | None) -> Told:
    if not done.lost_count:
        text = f"The box's disk or card had damaged its journal ({done.reason}). Nothing of it is lost."
        hint = "Nothing needs to be done today. Replace the box's disk or card soon: it begins to fail."
        return Told("journal_mended", Words("warning", "The box's disk has damaged records", text, hint))
    tills = ", ".join(dict.fromkeys(_words_of(one) for one in done.lost)) or "devices that are not known any more"
    text = (
        f"The box's disk or card had damaged its journal ({done.reason}). {done.lost_count} events that the cloud does "
        f"not have are lost here: {tills}. The tills are asked to send them once more."
    )
    text = f"{text} Before that: {before}" if before is not None else text
    hint = "Open the app on these tills and leave it open, compare the day's totals, and replace the disk or card."
    return Told("journal_lost", Words("critical", "Events were lost on the box's disk", text, hint))


def _words_of(loss: Loss) -> str:
    if loss.device == AGENT:
        return "the box's own notes"
    if loss.first is None:
        return f"{loss.device} (events without a number)"
    return f"{loss.device} {loss.first}" + (f" to {loss.last}" if loss.last != loss.first else "")


def _number(sequence: int | None) -> str | None:
    return None if sequence is None else str(sequence)
