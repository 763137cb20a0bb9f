"""[settings: the venue] → schema. Who it is, when it trades, what it takes on trust, and who is told."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from agent.settings.section import ID_PATTERN, Section, live, never

SERVICES = (
    "loyalty.balance",
    "loyalty.redeem",
    "gift_card.balance",
    "gift_card.sell",
    "gift_card.redeem",
    "on_account.charge",
    "on_account.pay",
    "availability.lookup",
    "card.authorize",
    "payment.status",
    "notices.mute",
)
"""The real-time services a device may ask for."""

WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")

OfflineCardPayments = Literal["refuse", "queue"]


class VenueSettings(Section, frozen=True):
    """The site this box stands in."""

    id: Annotated[str, never("Id of the venue: lower-case letters, digits and dashes.", pattern=ID_PATTERN)]
    name: Annotated[str, live("What people call the venue.", min_length=1, max_length=200)]
    location: Annotated[str, live("Location id that support asks for.", min_length=1, max_length=200)]
    contact_email: Annotated[str, live("Who at the venue gets letters; empty for nobody.")] = ""
    timezone: Annotated[
        str, live("Time zone of the trading times and of the business day, by its tz database name.")
    ] = "UTC"
    day_starts_at: Annotated[
        str,
        live('Time of day, "HH:MM", at which a business day begins.', pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]\Z"),
    ] = "05:00"
    trading: Annotated[
        Mapping[str, tuple[str, ...]],
        live('Trading times: weekday to a list of "HH:MM-HH:MM", which may run past midnight.'),
    ] = msgspec.field(default_factory=dict)


class OrdersSettings(Section, frozen=True):
    """Orders that the cloud sends to the venue."""

    response_timeout_s: Annotated[
        float,
        live("Time a device has to respond before people are alerted; an order's own value wins.", gt=0, le=86_400),
    ] = 120.0
    devices: Annotated[tuple[str, ...], live("Devices that are offered orders; empty for all that are ready.")] = ()


class PolicySettings(Section, frozen=True):
    """What may be taken on trust while the cloud cannot be asked. Limits are minor units, counted venue-wide."""

    offline_card_payments: Annotated[OfflineCardPayments, live("Card payments while offline: refuse or queue.")] = (
        "refuse"
    )
    floor_limit: Annotated[int, live("Largest single queued payment, in minor units.", ge=0)] = 5_000
    card_limit: Annotated[int, live("Queued for one card, in minor units.", ge=0)] = 10_000
    device_limit: Annotated[int, live("Queued by one device, in minor units.", ge=0)] = 50_000
    venue_limit: Annotated[int, live("Queued in the whole venue, in minor units.", ge=0)] = 200_000
    override: Annotated[
        tuple[str, ...], live("Limits that a manager may override: floor_limit, card_limit, device_limit.")
    ] = ()
    queued_age_max_s: Annotated[
        float, live("Age of the oldest queued payment at which no more are queued.", gt=0, le=2_592_000)
    ] = 86_400.0
    declines_per_day_max: Annotated[
        int, live("Declined payments in a day after which no more are queued, as a count.", ge=0, le=10_000)
    ] = 5


class ServicesSettings(Section, frozen=True):
    """What devices ask in real time."""

    used: Annotated[tuple[str, ...], live("Services that this venue uses; the others are not told of at all.")] = (
        SERVICES
    )
    deadline_s: Annotated[float, live("Time that the cloud has to answer a request.", gt=0, le=30)] = 3.0
    requests_failed_max: Annotated[
        int, live("Requests in a row without an answer, after which none waits any more.", ge=1, le=100)
    ] = 3
    trial_interval_s: Annotated[
        float, live("How often such a cloud is tried again in the background.", ge=0.5, le=600)
    ] = 5.0
    requests_per_device_max: Annotated[int, live("Requests of one device under way at once.", ge=1, le=1_000)] = 8
    requests_max: Annotated[int, live("Requests of all devices under way at once.", ge=1, le=10_000)] = 64
    products_max: Annotated[int, live("Products whose last known availability is remembered.", ge=0, le=100_000)] = (
        2_000
    )


class PaymentsSettings(Section, frozen=True):
    """Looking after payments that were recorded."""

    duplicate_window_s: Annotated[
        float,
        live(
            "How close two payments of one card and amount, on the same check or by the same device, must be to count "
            "as suspected duplicates; for payments recorded from then on.",
            ge=1,
            le=86_400,
        ),
    ] = 600.0
    reservations_keep_days: Annotated[
        int,
        live(
            "Days that the box runs for which an offline card payment is remembered after its end; longer while its "
            "records are kept.",
            ge=1,
            le=3_650,
        ),
    ] = 90


class LoyaltySettings(Section, frozen=True):
    """The loyalty programme."""

    realtime: Annotated[bool, live("Whether balances and rewards are asked for in real time.")] = True


class NoticesSettings(Section, frozen=True):
    """What tills show their staff."""

    version_min: Annotated[
        str,
        live(
            "Oldest app version that shows more than the plain notices (offline, not recording, not sending); empty "
            "for every version.",
            max_length=64,
        ),
    ] = ""


class SmtpSettings(Section, frozen=True):
    """The mail server for letters."""

    host: Annotated[str, live("Name or address of the mail server.", min_length=1)]
    sender: Annotated[str, live("Address that letters come from.")]
    port: Annotated[int, live("TCP port of the mail server.", ge=1, le=65_535)] = 587
    security: Annotated[Literal["none", "starttls", "tls"], live("How the connection is protected.")] = "starttls"
    username: Annotated[str, live("User name at the mail server; empty for none.")] = ""
    password_file: Annotated[Path | None, live("File with the password, relative to this file's folder.")] = None


class AlertsSettings(Section, frozen=True):
    """Who is told when a person is needed."""

    support_email: Annotated[str, live("Support's mail address; empty for nobody.")] = ""
    webhook_url: Annotated[str, live("URL that alerts are posted to; https, except on loopback; empty for none.")] = ""
    sync_stalled_s: Annotated[
        float,
        live("Good uplink without a break, with what waited at its begin still waiting, until support is told.", gt=0),
    ] = 900.0
    sync_overdue_h: Annotated[float, live("Time without a successful sync until people are told.", gt=0, le=8_760)] = (
        24.0
    )
    sync_overdue_second_h: Annotated[
        float, live("The same, until it is told as grave, with the storage forecast.", gt=0, le=8_760)
    ] = 48.0
    sync_overdue_third_h: Annotated[float, live("The same, until it is told once more.", gt=0, le=8_760)] = 72.0
    letter_days: Annotated[int, live("Days after which a letter that cannot be sent is given up.", ge=1, le=365)] = 7
    smtp: Annotated[SmtpSettings | None, live("The mail server; without it no letters are sent.")] = None
