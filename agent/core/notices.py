"""status, conditions → [notices] → tills. What staff should read at a till: one notice a condition, never one a sale.

Pure. A notice stays the same while its condition holds, whatever is counted meanwhile. Plain ones are for every app;
the others name the oldest app version that shows them, where the venue has set one.
"""

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from agent.core.conditions import Severity
from agent.core.diagnosis import WORDS
from agent.core.facts import Condition
from agent.core.status import Snapshot

OFFLINE: Final = "offline"
NOT_STORING: Final = "not_storing"
PLAIN: Final = frozenset({OFFLINE, NOT_STORING, "disk_full", "sync_held", "sync_stalled", "unsynced"})
"""Names of notices for every app, however old."""
NOTICES_MAX: Final = 20
"""So many are told at once: the worst, then the oldest."""
MUTED_MAX: Final = 1_000
"""So many mutes are remembered, the latest."""
_ORDER: Final[Mapping[Severity, int]] = {"critical": 0, "warning": 1, "info": 2}


class Notice(msgspec.Struct, frozen=True):
    """One thing to read; `since` is an RFC 3339 instant. Apps older than `min_version` leave it out; null: for all."""

    id: str
    severity: Severity
    title: str
    text: str
    since: str
    min_version: str | None


class Notices(msgspec.Struct, frozen=True):
    """The retained `pos/v1/venue/notices`."""

    notices: tuple[Notice, ...]


def notices(snapshot: Snapshot, version_min: str, muted: Iterable[str] = ()) -> Notices:
    """What holds now, the worst first. `version_min` is for all but plain notices; empty for none."""
    silent = frozenset(muted)
    found = [*_offline(snapshot), *_not_storing(snapshot)]
    found += [_notice(one, version_min) for one in snapshot.details.conditions if one.attention]
    found = [one for one in found if one.id not in silent or one.severity == "critical"]
    found.sort(key=lambda one: (_ORDER[one.severity], one.since))
    return Notices(tuple(found[:NOTICES_MAX]))


def _offline(snapshot: Snapshot) -> Iterable[Notice]:
    status, details = snapshot.status, snapshot.details
    if status.state != "offline" or status.cause == "none" or details.uplink is None:
        return
    what, remedy = WORDS.get(details.uplink.finding, ("the cloud is not reached", ""))
    text = f"{what[0].upper()}{what[1:]}. Keep selling: sales are kept safe on the box. {remedy}".strip()
    yield Notice(OFFLINE, "warning", "Offline", text, status.since, None)


def _not_storing(snapshot: Snapshot) -> Iterable[Notice]:
    if snapshot.details.journal.writable:
        return
    text = "The box cannot record sales right now. The tills keep them and try again."
    yield Notice(NOT_STORING, "critical", "Sales are not recorded on the box", text, snapshot.status.since, None)


def _notice(condition: Condition, version_min: str) -> Notice:
    plain = condition.id.partition(":")[0] in PLAIN
    text = " ".join(part for part in (condition.text, condition.hint) if part)
    least = None if plain or not version_min else version_min
    return Notice(condition.id, condition.severity, condition.title, text, condition.since, least)


class Mutes:
    """The notices that somebody has muted, until their condition ends."""

    def __init__(self) -> None:
        self._muted: dict[str, str] = {}
        """Id to the `since` of the one that was muted: what begins anew is told anew."""

    def mute(self, id: str, shown: Notices) -> bool:
        """Leave this one out from now on; False where none of this name is told, or it is too grave to be muted."""
        found = next((one for one in shown.notices if one.id == id), None)
        if found is None or found.severity == "critical":
            return False
        self._muted.pop(id, None)
        self._muted[id] = found.since
        while len(self._muted) > MUTED_MAX:
            del self._muted[next(iter(self._muted))]
        return True

    def of(self, everything: Notices) -> frozenset[str]:
        """Those of `everything` that are muted; what has ended is forgotten."""
        since = {one.id: one.since for one in everything.notices}
        self._muted = {id: at for id, at in self._muted.items() if since.get(id) == at}
        return frozenset(self._muted)
