"""people → [web: acts] → quarantine, queue, desk. What the command line may have done, over the Unix socket.

Whoever may open the socket may act: the operating system has let them in. Never reached from a network.
"""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Annotated, Any, NamedTuple, Protocol, TypeVar

import msgspec
from aiohttp import web

from agent.core.errors import NightsafeError
from agent.web.guard import problem

Post = Callable[[web.Request], Awaitable[web.StreamResponse]]
Act = Callable[[str, str], Awaitable[None]]


class Quarantine(Protocol):
    """What a person decides about a refused event. Raises NightsafeError with words."""

    async def dismiss(self, number: int, actor: str, note: str) -> None: ...
    async def resubmit(self, number: int, actor: str, note: str) -> None: ...


class Desk(Protocol):
    """Who may connect. Raises NightsafeError with words."""

    async def begin(self, device: str, label: str, replace: bool) -> dict[str, Any]: ...
    def state(self, device: str) -> dict[str, Any]: ...
    def shown(self, device: str) -> dict[str, Any]: ...
    def decide(self, device: str, good: bool) -> None: ...
    def all(self) -> list[dict[str, Any]]: ...
    async def remove(self, device: str) -> None: ...
    async def identify(self, device: str) -> None: ...
    async def change(self, device: str, *, label: str | None = None, payments_held: bool | None = None) -> None: ...


class Beginning(msgspec.Struct):
    """A pairing that a person wants."""

    label: str = ""
    replace: bool = False


class Change(msgspec.Struct):
    """What is to be different about a device."""

    label: str | None = None
    payments_held: bool | None = None


class Decision(msgspec.Struct):
    """Who decides, and why."""

    actor: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]


class Acknowledgement(Decision):
    """Which attention it ends."""

    id: Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]


class Release(Acknowledgement):
    """Whose reservation is ended; `taken`: the payment was taken, and a person knows what became of it."""

    taken: bool = False


D = TypeVar("D", bound=Decision)


class Acts(NamedTuple):
    """What may be done through the Unix socket; `adopt` takes who decides, and why, `acknowledge` the name of what has
    happened before that."""

    quarantine: Quarantine
    adopt: Callable[[str, str], Awaitable[None]]
    acknowledge: Callable[[str, str, str], Awaitable[None]]
    desk: Desk | None = None
    release: Callable[[str, str, str, bool], Awaitable[None]] | None = None
    """Ends the reservation of an offline card payment, by its payment id."""
    reserved: Callable[[], Sequence[Any]] = tuple
    """Those reservations, each with the fields of one."""

    def routes(self) -> list[web.RouteDef]:
        """By which paths."""
        base = "/api/v1/quarantine/{number:[1-9][0-9]{0,11}}"
        return [
            web.post(base + "/dismiss", partial(_decide, _numbered(self.quarantine.dismiss))),
            web.post(base + "/resubmit", partial(_decide, _numbered(self.quarantine.resubmit))),
            web.post("/api/v1/queue/adopt", partial(_decide, lambda request: self.adopt)),
            web.post("/api/v1/attention/ack", partial(_acknowledge, self.acknowledge)),
            *(
                [
                    web.post("/api/v1/payments/release", partial(_release, self.release)),
                    web.get("/api/v1/reservations", partial(_reserved, self.reserved)),
                ]
                if self.release is not None
                else ()
            ),
            *(_desk_routes(self.desk) if self.desk is not None else ()),
        ]


def _desk_routes(desk: Desk) -> list[web.RouteDef]:
    base = "/api/v1/devices/{device}"

    async def begin(device: str, body: bytes) -> Any:
        wanted = msgspec.json.decode(body, type=Beginning)
        return await desk.begin(device, wanted.label, wanted.replace)

    async def state(device: str, body: bytes) -> Any:
        return desk.state(device)

    async def confirm(device: str, body: bytes) -> None:
        desk.decide(device, True)

    async def decline(device: str, body: bytes) -> None:
        desk.decide(device, False)

    async def remove(device: str, body: bytes) -> None:
        await desk.remove(device)

    async def change(device: str, body: bytes) -> None:
        wanted = msgspec.json.decode(body, type=Change)
        await desk.change(device, label=wanted.label, payments_held=wanted.payments_held)

    async def identify(device: str, body: bytes) -> None:
        await desk.identify(device)

    async def every(device: str, body: bytes) -> Any:
        return desk.all()

    def on(call: Callable[[str, bytes], Awaitable[Any]]) -> Post:
        async def answer(request: web.Request) -> web.StreamResponse:
            try:
                told = await call(request.match_info.get("device", ""), await request.read())
            except msgspec.DecodeError as error:
                return problem(request, 400, "Bad Request", str(error))
            except NightsafeError as error:
                return problem(request, 409, "Conflict", str(error))
            if told is None:
                return web.Response(status=204)
            return web.Response(body=msgspec.json.encode(told), content_type="application/json")

        return answer

    return [
        web.get("/api/v1/devices", on(every)),
        web.get(base + "/pairing", on(state)),
        web.post(base + "/pairing", on(begin)),
        web.post(base + "/pairing/confirm", on(confirm)),
        web.post(base + "/pairing/decline", on(decline)),
        web.post(base + "/remove", on(remove)),
        web.post(base + "/change", on(change)),
        web.post(base + "/identify", on(identify)),
    ]


def _numbered(act: Callable[[int, str, str], Awaitable[None]]) -> Callable[[web.Request], Act]:
    """`act` on the entry that the address names."""
    return lambda request: partial(act, int(request.match_info["number"]))


async def _release(
    release: Callable[[str, str, str, bool], Awaitable[None]], request: web.Request
) -> web.StreamResponse:
    return await _act(request, Release, lambda said: release(said.id, said.actor, said.reason, said.taken))


async def _reserved(reserved: Callable[[], Sequence[Any]], request: web.Request) -> web.Response:
    body = [{name: value for name, value in one._asdict().items() if name != "token"} for one in reserved()]
    return web.Response(body=msgspec.json.encode(body), content_type="application/json")


async def _decide(act_of: Callable[[web.Request], Act], request: web.Request) -> web.StreamResponse:
    return await _act(request, Decision, lambda said: act_of(request)(said.actor, said.reason))


async def _acknowledge(
    acknowledge: Callable[[str, str, str], Awaitable[None]], request: web.Request
) -> web.StreamResponse:
    return await _act(request, Acknowledgement, lambda said: acknowledge(said.id, said.actor, said.reason))


async def _act(request: web.Request, kind: type[D], act: Callable[[D], Awaitable[None]]) -> web.StreamResponse:
    """Do what the body says, or answer with words why not."""
    try:
        await act(msgspec.json.decode(await request.read(), type=kind))
    except msgspec.DecodeError as error:
        return problem(request, 400, "Bad Request", str(error))
    except NightsafeError as error:
        return problem(request, 409, "Conflict", str(error))
    return web.Response(status=204)
