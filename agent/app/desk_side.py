"""[app: desk] Joins the desk and the offline cards to session, cloud, journal, register and settings."""

from collections.abc import Callable, Sequence
from typing import NamedTuple
from zoneinfo import ZoneInfo

from agent.app.joints import Lan, Live, Telling
from agent.app.notice_side import NoticeSide
from agent.cloud.client import Client
from agent.cloud.requests import Counter
from agent.core.business_day import business_date, cut_off
from agent.core.payments import PaymentFact
from agent.core.policy import CardPayment
from agent.core.requests import Capability, Reply, Request, capabilities
from agent.journal.requests import Requests
from agent.journal.writer import Journal
from agent.lan.register import Register
from agent.lan.session import Session
from agent.payments.inquiry import Inquiry
from agent.runtime.clock import Clock
from agent.services.cards import Cards
from agent.services.cards import Terms as CardTerms
from agent.services.desk import Desk, Local, Terms, Way
from agent.settings.box import DeviceSettings
from agent.settings.schema import Settings
from agent.uplink.monitor import Monitor

CAPABILITIES_TOPIC = "pos/v1/venue/capabilities"
NO_TERMS = DeviceSettings()


async def payment_status(inquiry: Inquiry, request: Request) -> Reply:
    """What became of a payment, from the journal and the cloud's word."""
    found = await inquiry.status(request.args)
    result = {"fate": found.fate, "times": found.times, "re_charge_safe": found.re_charge_safe}
    return Reply(request.id, "ok", result, None, found.reason)


def paid(cards: Cards, facts: Sequence[PaymentFact]) -> None:
    """Payments whose records are stored, for who has promised any."""
    for one in facts:
        if one.kind in ("authorized", "captured") and one.tender == "card" and not one.training:
            cards.paid(CardPayment(one.device, one.payment_id, one.card_token, one.amount, one.currency, one.offline))


class DeskSide(NamedTuple):
    """The two stages, what they hold open, and what devices may ask now."""

    desk: Desk
    cards: Cards
    counter: Counter
    capabilities: Callable[[], dict[str, Capability]]


def make_services(
    settings: Settings,
    journal: Journal,
    cloud: Client,
    monitor: Monitor,
    session: Session,
    heard: Lan,
    register: Register,
    notices: NoticeSide,
    payment_status: Local,
    telling: Telling,
    clock: Clock,
    live: Live,
    new_id: Callable[[], str],
) -> DeskSide:
    """The stages, joined."""
    counter = Counter(settings.cloud.url, settings.venue.id, lambda: cloud.token)
    kept = Requests(journal.writing)

    def today() -> str:
        venue = live.settings.venue
        now_ms = clock.wall_ms_at(clock.boottime_s())
        return business_date(now_ms, ZoneInfo(venue.timezone), cut_off(venue.day_starts_at)).isoformat()

    def payments_held(device: str) -> bool:
        return register.has(device) and register.get(device).payments_held

    def card_terms(device: str) -> CardTerms:
        policy = live.settings.policy
        own = live.settings.devices.by_device.get(device, NO_TERMS).offline_card_payments
        queue = (own or policy.offline_card_payments) == "queue"
        return CardTerms(queue, payments_held(device), policy, policy.override)

    def terms(device: str, service: str) -> Terms:
        now, own = live.settings.services, live.settings.devices.by_device.get(device, NO_TERMS)
        used = service in now.used and (own.services is None or service in own.services)
        loyalty = live.settings.loyalty.realtime if own.loyalty_realtime is None else own.loyalty_realtime
        return Terms(
            used, loyalty, now.deadline_s, now.requests_failed_max, now.trial_interval_s, now.requests_per_device_max,
            now.requests_max, now.products_max, payments_held(device),
        )  # fmt: skip

    def offline() -> bool:
        return monitor.raw().state == "offline"

    async def mute(request: Request) -> Reply:
        if notices.mute(str(request.args.get("id"))):
            return Reply(request.id, "ok")
        return Reply(request.id, "declined", {}, "not_muted", "There is no such notice, or it must be read.")

    cards = Cards(kept, telling, card_terms, today, lambda: live.settings.payments.reservations_keep_days * 86_400.0)
    journal.writing.on_reopen(cards.reopened)
    desk = Desk(
        counter, kept, session, cards, {"notices.mute": mute, "payment.status": payment_status}, offline, terms,
        clock.boottime_s, new_id,
    )  # fmt: skip
    heard.on_request(lambda device, service, payload, way: desk.request(device, service, payload, way and Way(*way)))

    def now() -> dict[str, Capability]:
        queues = live.settings.policy.offline_card_payments == "queue"
        return capabilities(
            live.settings.services.used,
            live.settings.loyalty.realtime,
            offline(),
            desk.breaker,
            queues,
            cards.closed(live.settings.policy) if queues else None,
        )

    return DeskSide(desk, cards, counter, now)
