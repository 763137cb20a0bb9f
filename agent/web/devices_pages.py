"""people → [web: devices pages] → desk. The venue's devices: see them, add one, hold its payments, send it away.

Anybody who reaches this box privately may look; only who is logged in may act, by a form of their own session. Shows
what people need to compare, and no secret: a device's password goes to the device alone.
"""

import hmac
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final, Protocol
from urllib.parse import parse_qsl

import segno
import structlog
from aiohttp import web

from agent.core.errors import NightsafeError, Rejected
from agent.core.instants import to_ms
from agent.core.presence import state_word
from agent.core.sentence import ago
from agent.core.sessions import Session
from agent.core.status import Snapshot
from agent.web.acts import Desk, Post
from agent.web.body import Unreadable, address_of, read
from agent.web.guard import Sender, private, problem, sent_by_a_page
from agent.web.login import PAGE, Login, forget, remember
from agent.web.paper import Paper

log = structlog.get_logger()

DEVICES: Final = "/devices"
ADD: Final = "/add-device"
"""Not below /devices: a device may be called anything there."""
ONE: Final = "/devices/{device:[a-z0-9][a-z0-9-]{0,62}}"
FORM_BYTES_MAX: Final = 4_096
FIELDS_MAX: Final = 8
STALL_S_MAX: Final = 5.0
"""How long the next bytes of a form may take."""
REFRESH_S: Final = 2
"""How often the page of an open pairing asks again, in seconds."""
OPEN: Final = ("waiting", "asked", "confirmed")
REMEDIES: Final = {
    "device_there": "Tick the box below to let the new one take over, or choose another name.",
    "device_unknown": "",
    "pairing_none": "",
}
"""What to do next on a page, where the terminal has it otherwise."""

Form = dict[str, str]
Act = Callable[[web.Request, Session, Form], Awaitable[str]]
"""Does what a form asks for; returns where the browser goes next. Raises NightsafeError with words."""
Look = Callable[[web.Request, Session], Awaitable[web.StreamResponse]]


class Source(Protocol):
    """Whoever knows how the box is."""

    def snapshot(self) -> Snapshot: ...


class DevicesPages:
    """Below /devices, and the way in. `https_port` is where the page speaks TLS right now."""

    def __init__(self, source: Source, desk: Desk, login: Login, https_port: Callable[[], int | None]) -> None:
        self._source = source
        self._desk = desk
        self.login = login
        """Who may act, and look at what is not for everybody."""
        self._https_port = https_port

    def routes(self) -> list[web.RouteDef]:
        """By which paths."""
        look, act = self.looking, self.acting
        return [
            web.get("/login", self._privately(self._ask_pin)),
            web.post("/login", self._privately(self._enter)),
            web.post("/logout", act("logout", self._leave)),
            web.get(DEVICES, self._privately(self._list)),
            web.get(ADD, look(self._ask_device)),
            web.post(ADD, act("add", self._begin)),
            web.get(ONE, look(partial(self._device, "device.html"))),
            web.post(f"{ONE}/rename", act("rename", self._rename)),
            web.post(f"{ONE}/hold", act("hold_payments", partial(self._hold, True))),
            web.post(f"{ONE}/release", act("release_payments", partial(self._hold, False))),
            web.post(f"{ONE}/identify", act("identify", self._identify)),
            web.get(f"{ONE}/remove", look(partial(self._device, "remove.html"))),
            web.post(f"{ONE}/remove", act("remove", self._remove)),
            web.get(f"{ONE}/pairing", look(self._pairing)),
            web.post(f"{ONE}/pairing/decide", act("decide", self._decide)),
        ]

    # Who may ----------------------------------------------------------------------------------------------------------

    def _privately(self, answer: Post) -> Post:
        """`answer`, to callers with whom nobody reads along."""

        async def guarded(request: web.Request) -> web.StreamResponse:
            return await answer(request) if private(request) else self._elsewhere(request)

        return guarded

    def looking(self, look: Look) -> Post:
        """A page for people who are logged in; others are asked for the PIN."""

        async def answer(request: web.Request) -> web.StreamResponse:
            session = await self.login.session_of(request)
            if session is None:
                return _go("/login")
            try:
                return await look(request, session)
            except NightsafeError as error:
                return self._words(request, session, error)

        return self._privately(answer)

    def acting(self, name: str, act: Act) -> Post:
        """What a form asks for, done if it is one of the caller's own session; each is written down."""

        async def answer(request: web.Request) -> web.StreamResponse:
            form = await _form(request)
            session = await self.login.session_of(request)
            if session is None:
                return _go("/login")
            tell = partial(log.warning, "page_act", act=name, who=PAGE, address=address_of(request))
            if not hmac.compare_digest(form.get("token", "").encode(), session.form_token.encode()):
                tell(outcome="form_token")
                return problem(request, 403, "Forbidden", "This form is not of your session. Go back and reload.")
            try:
                where = await act(request, session, form)
            except NightsafeError as error:
                tell(outcome=error.code)  # the device's name is somebody's input: only the desk knows what it holds
                if name == "add":
                    return self._add_form(request, session, form, _said(error))
                return self._words(request, session, error)
            log.info(
                "page_act",
                act=name,
                who=PAGE,
                address=address_of(request),
                outcome="done",
                device=_named(request, form),
            )
            gone = _go(where)
            if name == "logout":
                forget(request, gone)
            return gone

        return self._privately(answer)

    def _elsewhere(self, request: web.Request) -> web.StreamResponse:
        """Where to go instead: from another machine nothing of this is said or taken without TLS."""
        port = self._https_port()
        url = None if port is None else str(request.url.with_scheme("https").with_port(port).with_path(DEVICES))
        return self._paper(request).show("elsewhere.html", status_code=403, url=url)

    # The way in -------------------------------------------------------------------------------------------------------

    async def _ask_pin(self, request: web.Request) -> web.StreamResponse:
        return await self._pin_form(request)

    async def _pin_form(self, request: web.Request, error: str = "", status_code: int = 200) -> web.StreamResponse:
        unusable = await self.login.usable()
        return self._paper(request).show(
            "login.html", status_code=status_code, forms=True, error=error, unusable=unusable
        )

    async def _enter(self, request: web.Request) -> web.StreamResponse:
        form = await _form(request)
        try:
            token, _ = await self.login.enter(request, form.get("pin", "").strip())
        except Rejected as error:
            return await self._pin_form(request, str(error), 429 if error.code == "pin_wait" else 403)
        except NightsafeError:
            return await self._pin_form(request, status_code=403)
        inside = _go(DEVICES)
        remember(request, inside, token)
        return inside

    async def _leave(self, request: web.Request, session: Session, form: Form) -> str:
        self.login.leave(request)
        return DEVICES

    # What is shown ----------------------------------------------------------------------------------------------------

    async def _list(self, request: web.Request) -> web.StreamResponse:
        session = await self.login.session_of(request)
        unusable = "" if session is not None else await self.login.usable()
        paper = self._paper(request)
        devices = [_shown(one, paper.now_ms) for one in self._desk.all()]
        return paper.show("devices.html", session=session, devices=devices, unusable=unusable)

    async def _ask_device(self, request: web.Request, session: Session) -> web.StreamResponse:
        given = {name: request.query.get(name, "")[:100] for name in ("device", "label")}
        return self._add_form(request, session, given)

    def _add_form(
        self, request: web.Request, session: Session | None, given: Form, error: str = ""
    ) -> web.StreamResponse:
        status_code = 409 if error else 200
        return self._paper(request).show("add.html", status_code=status_code, session=session, given=given, error=error)

    async def _device(self, page: str, request: web.Request, session: Session | None) -> web.StreamResponse:
        paper, name = self._paper(request), request.match_info["device"]
        found = next((one for one in self._desk.all() if one["device"] == name), None)
        if found is None:
            return paper.show("words.html", status_code=404, session=session, title="No such device", words="")
        return paper.show(page, session=session, one=_shown(found, paper.now_ms))

    async def _pairing(self, request: web.Request, session: Session | None) -> web.StreamResponse:
        name = request.match_info["device"]
        facts = self._desk.shown(name)
        is_open = facts["state"] in OPEN
        there = any(one["device"] == name for one in self._desk.all())
        return self._paper(request).show(
            "pairing.html",
            session=session,
            refresh_s=REFRESH_S if is_open else None,
            script=is_open,
            facts=facts,
            left="{}:{:02}".format(*divmod(int(facts["left_s"]), 60)),
            code=_qr(facts["uri"]) if facts["state"] == "waiting" else "",
            there=there,
        )

    def _words(self, request: web.Request, session: Session | None, error: NightsafeError) -> web.StreamResponse:
        return self._paper(request).show(
            "words.html", status_code=409, session=session, title="That did not work", words=_said(error)
        )

    def _paper(self, request: web.Request) -> Paper:
        return Paper(request, self._source.snapshot())

    # What is done -----------------------------------------------------------------------------------------------------

    async def _begin(self, request: web.Request, session: Session, form: Form) -> str:
        device = form.get("device", "").strip()
        facts = await self._desk.begin(device, form.get("label", "").strip(), form.get("replace") == "yes")
        return f"{DEVICES}/{facts['device']}/pairing"

    async def _decide(self, request: web.Request, session: Session, form: Form) -> str:
        """A person has compared; what they looked at must be what is asked about now."""
        name, same = request.match_info["device"], form.get("same")
        facts = self._desk.shown(name)
        seen = (form.get("code"), form.get("peer"))
        if same not in ("yes", "no") or seen != (facts.get("code"), facts["peer"]):
            raise Rejected("pairing_changed", "The pairing has changed meanwhile.", "Go back, and look again.")
        self._desk.decide(name, same == "yes")
        return f"{DEVICES}/{name}/pairing"

    async def _rename(self, request: web.Request, session: Session, form: Form) -> str:
        name = request.match_info["device"]
        await self._desk.change(name, label=form.get("label", "").strip())
        return f"{DEVICES}/{name}"

    async def _hold(self, held: bool, request: web.Request, session: Session, form: Form) -> str:
        name = request.match_info["device"]
        await self._desk.change(name, payments_held=held)
        return f"{DEVICES}/{name}"

    async def _identify(self, request: web.Request, session: Session, form: Form) -> str:
        name = request.match_info["device"]
        await self._desk.identify(name)
        return f"{DEVICES}/{name}"

    async def _remove(self, request: web.Request, session: Session, form: Form) -> str:
        if form.get("sure") != "yes":
            raise Rejected("not_sure", "Nothing was removed.", "Tick the box, then press Remove again.")
        await self._desk.remove(request.match_info["device"])
        return DEVICES


def _go(where: str) -> web.Response:
    """Have the browser fetch another page: what was done is not done again by a reload."""
    return web.Response(status=303, headers={"Location": where})


async def _form(request: web.Request) -> Form:
    """The fields of a form that a page of this box has sent; of a field that comes twice the last. Raises what aiohttp
    answers with."""
    if sent_by_a_page(request) is not Sender.OWN:
        raise web.HTTPForbidden(reason="Only a page of this box may send this")
    if request.content_type != "application/x-www-form-urlencoded":
        raise web.HTTPUnsupportedMediaType
    try:
        body = await read(request, FORM_BYTES_MAX, STALL_S_MAX)
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=FIELDS_MAX, strict_parsing=True))
    except (Unreadable, ValueError) as error:
        raise web.HTTPBadRequest from error


def _named(request: web.Request, form: Form) -> str:
    """The device that an act was about, for the log, once the desk has taken the name."""
    return request.match_info.get("device") or form.get("device", "").strip()


def _said(error: NightsafeError) -> str:
    return f"{error.text} {REMEDIES.get(error.code, error.hint)}".strip()


def _shown(one: dict[str, Any], now_ms: int) -> dict[str, Any]:
    """A device of the desk's list, in words."""
    seen_words = "connected now" if one["connected"] else "never seen"
    if one["last_seen_at"]:
        seen_words = f"seen {ago((now_ms - to_ms(one['last_seen_at'])) / 1000)}"
    payments = "held" if one["payments_held"] else ""
    if "hold_payments" in one["commands"]:
        payments = "held, not confirmed by it yet"
    if "release_payments" in one["commands"]:
        payments = "released, not confirmed by it yet"
    return {
        **one,
        "state_word": state_word(one["state"], one["connected"]),
        "seen": seen_words,
        "app_words": " ".join(part for part in (one["app"], one["version"]) if part),
        "payments": payments,
    }


def _qr(uri: str) -> str:
    """The QR code as a picture within the page: attributes alone, no style."""
    code = segno.make(uri, error="m")
    return str(code.svg_inline(border=4, dark="#000", light="#fff", svgclass="qr", lineclass=None, omitsize=True))
