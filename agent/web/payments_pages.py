"""people → [web: payments page] → inquiry, suspicions, business day. May the guest be charged again, in plain words.

Only who is logged in sees anything; a suspect is dismissed by a form of that session. Never changes a payment.
"""

from collections.abc import Awaitable, Callable, Mapping
from datetime import date, datetime
from typing import Any, Final, Protocol
from zoneinfo import ZoneInfo

from aiohttp import web

from agent.core.errors import Rejected
from agent.core.money import minor_units, money_text
from agent.core.sessions import Session
from agent.core.status import Snapshot
from agent.web.paper import Paper

PAGE: Final = "/payments"
ACTOR: Final = "page"
"""Who has dismissed a suspect there."""
TYPED_MAX: Final = 256
TITLES: Final = {
    "unknown": "This box does not know this payment",
    "edge_durable": "Stored on this box, not at the cloud yet",
    "uploaded": "At the cloud, not settled yet",
    "posted": "Paid",
    "declined": "Declined",
}

Form = dict[str, str]
Look = Callable[[web.Request, Session], Awaitable[web.StreamResponse]]
Act = Callable[[web.Request, Session, Form], Awaitable[str]]
Post = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Source(Protocol):
    """Whoever knows how the box is."""

    def snapshot(self) -> Snapshot: ...


class Inquiry(Protocol):
    """Who knows of payments. Raises NightsafeError with words."""

    async def status(self, args: Mapping[str, Any]) -> Any: ...


class Suspicions(Protocol):
    """Who knows which payments people have to look at. Raises NightsafeError with words."""

    async def suspects(self) -> Any: ...
    async def dismiss(self, payment_id: str, actor: str, reason: str) -> None: ...


class Days(Protocol):
    """Who knows of business days. Raises NightsafeError with words."""

    async def day(self, text: str) -> Any: ...


class People(Protocol):
    """The pages' way in: who is logged in, and what their forms may do."""

    def looking(self, look: Look) -> Post: ...
    def acting(self, name: str, act: Act) -> Post: ...


class PaymentsPages:
    """Below /payments."""

    def __init__(self, source: Source, inquiry: Inquiry, suspicions: Suspicions, days: Days) -> None:
        self._source = source
        self._inquiry = inquiry
        self._suspicions = suspicions
        self._days = days

    def routes(self, people: People) -> list[web.RouteDef]:
        """By which paths."""
        return [
            web.get(PAGE, people.looking(self._page)),
            web.post(f"{PAGE}/dismiss", people.acting("dismiss_suspect", self._dismiss)),
        ]

    async def _page(self, request: web.Request, session: Session) -> web.StreamResponse:
        snapshot = self._source.snapshot()
        typed = {name: value.strip()[:TYPED_MAX] for name, value in request.query.items()}
        found, day, error = None, None, ""
        try:
            if asked := _asked(typed, ZoneInfo(snapshot.details.timezone)):
                found = await self._inquiry.status(asked)
            day = await self._days.day(typed.get("date") or snapshot.details.business_date)
        except Rejected as refused:
            error = str(refused)
        paper = Paper(request, snapshot)
        return paper.show(
            "payments.html",
            session=session,
            status_code=400 if error else 200,
            typed=typed,
            error=error,
            found=found,
            title=TITLES[found.fate] if found is not None else "",
            suspects=await self._suspicions.suspects(),
            day=day,
            titles=TITLES,
            money=lambda one: money_text(one.amount, one.currency),
            minor=money_text,
            now=paper.local(snapshot.status.time),
        )

    async def _dismiss(self, request: web.Request, session: Session, form: Form) -> str:
        reason = form.get("reason", "").strip()[:1000]
        if not reason:
            raise Rejected("reason_missing", "Nothing was dismissed.", "Write what you found, then press it again.")
        await self._suspicions.dismiss(form.get("payment_id", ""), ACTOR, reason)
        return PAGE


def _asked(typed: Mapping[str, str], zone: ZoneInfo) -> dict[str, Any]:
    """What is looked for, as the inquiry takes it. Raises Rejected."""
    if typed.get("payment_id"):
        return {"payment_id": typed["payment_id"]}
    if typed.get("check"):
        return {"check_id": typed["check"]}
    if not typed.get("last4"):
        return {}
    amount = minor_units(typed.get("amount", ""), "")
    if amount is None:
        raise Rejected("payment_query", "That is no amount.", "Write it as 12.50.")
    try:
        day = date.fromisoformat(typed.get("on", ""))
        at = datetime.fromisoformat(f"{day} {typed.get('at', '')}").replace(tzinfo=zone)
    except ValueError as error:
        raise Rejected("payment_query", "That is no time.", "Give the day, and about when, like 19:02.") from error
    return {"last4": typed["last4"], "amount": amount, "at": at.isoformat()}
