"""people → [web: payments] → inquiry, business day. What became of payments, as JSON, for who gave the venue PIN.

On the Unix socket the operating system has let people in; on every other listener each request needs a session of the
PIN, because whatever is told here is about guests' money. Never changes a payment.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
from aiohttp import web

from agent.core.errors import NightsafeError, Rejected
from agent.web.acts import Decision, Post
from agent.web.devices_pages import DevicesPages
from agent.web.guard import problem
from agent.web.payments_pages import Days, Inquiry, PaymentsPages, Source, Suspicions

PAYMENTS: Final = "/api/v1/payments"
ONE: Final = PAYMENTS + "/{payment_id:.+}"
DAY: Final = "/api/v1/business-days/{date}"
SUSPECTS: Final = "duplicate"
NAMES: Final = {"check": "check_id"}
"""Words of an address that a look-up has otherwise."""

Tell = Callable[[web.Request], Awaitable[Any]]


class Dismissal(Decision):
    """Of which payment."""

    payment_id: str


class PaymentsFace:
    """What is told of payments, and to whom."""

    def __init__(self, source: Source, inquiry: Inquiry, suspicions: Suspicions, days: Days) -> None:
        self._pages = PaymentsPages(source, inquiry, suspicions, days)
        self._inquiry = inquiry
        self._suspicions = suspicions
        self._days = days

    def acting(self) -> list[web.RouteDef]:
        """For the Unix socket."""
        return [web.post(PAYMENTS + "/dismiss", _told(self._dismiss)), *self._routes(lambda post: post)]

    def looking(self, people: DevicesPages) -> list[web.RouteDef]:
        """For listeners that browsers reach: only with a session."""

        def with_pin(post: Post) -> Post:
            async def answer(request: web.Request) -> web.StreamResponse:
                if await people.login.session_of(request) is None:
                    detail = "Log in with the venue PIN at /login first."
                    return problem(request, 401, "Unauthorized", detail, kind="pin-required")
                return await post(request)

            return answer

        return [*self._routes(with_pin), *self._pages.routes(people)]

    def _routes(self, guarded: Callable[[Post], Post]) -> list[web.RouteDef]:
        return [
            web.get(PAYMENTS, guarded(_told(self._search))),
            web.get(ONE, guarded(_told(self._one))),
            web.get(DAY, guarded(_told(self._day))),
        ]

    async def _day(self, request: web.Request) -> Any:
        return await self._days.day(request.match_info["date"])

    async def _one(self, request: web.Request) -> Any:
        return await self._inquiry.status({"payment_id": request.match_info["payment_id"]})

    async def _search(self, request: web.Request) -> Any:
        asked = {NAMES.get(name, name): value for name, value in request.query.items()}
        suspect = asked.pop("suspect", None)
        if suspect is None:
            return await self._inquiry.status(asked)
        if suspect != SUSPECTS or asked:
            raise Rejected("payment_query", "There is only suspect=duplicate.", "It is given alone.")
        return await self._suspicions.suspects()

    async def _dismiss(self, request: web.Request) -> None:
        said = msgspec.json.decode(await request.read(), type=Dismissal)
        await self._suspicions.dismiss(said.payment_id, said.actor, said.reason)


def _told(tell: Tell) -> Post:
    """What `tell` knows as JSON, or words why not."""

    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            told = await tell(request)
        except msgspec.DecodeError as error:
            return problem(request, 400, "Bad Request", str(error))
        except Rejected as error:
            if request.method == "POST":
                return problem(request, 409, "Conflict", str(error))
            return problem(request, 400, "Bad Request", str(error), kind=error.code.replace("_", "-"))
        except NightsafeError as error:
            return problem(request, 503, "Service Unavailable", str(error))
        if told is None:
            return web.Response(status=204)
        return web.Response(body=msgspec.json.encode(told), content_type="application/json")

    return answer
