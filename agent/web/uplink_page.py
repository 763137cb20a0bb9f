"""uplink history → [web: uplink page] → people. How the way to the cloud was, day by day; nothing about sales.

Served as the status page is: plain HTML, no scripts, no payloads. Never decides what a change means.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol
from zoneinfo import ZoneInfo

from aiohttp import web

from agent.core.facts import UplinkChange
from agent.core.instants import local_day, local_time, to_text
from agent.core.sentence import count, lasted, what_held
from agent.core.status import Snapshot
from agent.core.timeline import BAR_UNITS, STRETCHES_MAX, days, listed, stretches
from agent.web.paper import Paper

PAGE: Final = "/uplink"
REFRESH_S: Final = 60
"""How often an open page asks again, in seconds."""
MOODS: Final = {"online": "good", "degraded": "warn", "offline": "bad", None: "blank"}
STATES: Final = {"degraded": "Trouble with the cloud", "offline": "Offline", None: "The box began anew"}

Changes = Callable[[], Sequence[UplinkChange]]
"""The raw changes, oldest first."""


class Source(Protocol):
    """Whoever knows how the box is."""

    def snapshot(self) -> Snapshot: ...


def make_page(source: Source, changes: Changes) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """What is served at `PAGE`."""

    async def page(request: web.Request) -> web.StreamResponse:
        snapshot = source.snapshot()
        paper = Paper(request, snapshot)
        zone = ZoneInfo(snapshot.details.timezone)
        found = stretches(changes(), paper.now_ms)
        rows = listed(found)
        return paper.show(
            "uplink.html",
            refresh_s=REFRESH_S,
            status=snapshot.status,
            days=days(found, zone, paper.now_ms),
            rows=rows,
            left_out=sum(one.state != "online" for one in found) - len(rows),
            rows_max=STRETCHES_MAX,
            began=to_text(found[0].began_ms) if found else None,
            width=BAR_UNITS,
            moods=MOODS,
            states=STATES,
            when=lambda at_ms: paper.local(to_text(at_ms)),
            until=lambda one: local_time(to_text(one.ended_ms), zone, one.began_ms),
            day_name=local_day,
            lasted=lasted,
            count=count,
            what=lambda one: what_held(one.state, one.cause, one.finding),
        )

    return page
