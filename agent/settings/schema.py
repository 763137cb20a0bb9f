"""[settings] What can be set, and every limit by name: one frozen struct for each table of the settings file.

Only shapes, bounds and their words stand here; `load` reads a file into them. Units end the names: `_s` seconds,
`_bytes`, `_days`; money is in minor units. Each setting says when a change takes effect: live, restart or never.
"""

import re
from collections.abc import Mapping
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import msgspec

from agent.core.arrivals import TOLD_MAX

Reload = Literal["live", "restart", "never"]
"""When a changed value takes effect: at once, at the next start, or never for an existing journal."""


PORT_MAX = 65_535
"""The highest TCP port."""


class Address(msgspec.Struct, frozen=True):
    """A host (name or literal, IPv6 without brackets) and a TCP port; port 0 lets the system choose one."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Address":
        """From "host:port" or "[ipv6]:port"; raises ValueError with words."""
        host, colon, port = text.rpartition(":")
        bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
        if not colon or not bare or (":" in bare) != (bare is not host) or not re.fullmatch(r"[0-9]{1,5}", port):
            raise ValueError(f'"{text}" is not "host:port"; an IPv6 address stands in brackets, "[::1]:1883"')
        if int(port) > PORT_MAX:
            raise ValueError(f'"{text}": a port is at most {PORT_MAX}')
        if not re.fullmatch(r"[A-Za-z0-9.:%_-]+", bare):
            raise ValueError(f'"{text}": "{bare}" is no host name or address')
        return cls(bare, int(port))

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return is_loopback(self.host)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def is_loopback(host: str) -> bool:
    """Whether a host name or literal stands for this machine alone; names other than localhost do not."""
    if host.lower() == "localhost":
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback


class Section(msgspec.Struct, frozen=True):
    """A table of the settings file."""


def _meta(reload: Reload, text: str, bounds: dict[str, Any]) -> msgspec.Meta:
    return msgspec.Meta(description=text, extra={"reload": reload}, **bounds)


def live(text: str, **bounds: Any) -> msgspec.Meta:
    """A setting that takes effect as soon as the file is saved."""
    return _meta("live", text, bounds)


def restart(text: str, **bounds: Any) -> msgspec.Meta:
    """A setting that takes effect at the next start."""
    return _meta("restart", text, bounds)


def never(text: str, **bounds: Any) -> msgspec.Meta:
    """A setting that an existing journal is bound to."""
    return _meta("never", text, bounds)


ID_PATTERN = r"^[a-z0-9][a-z0-9-]{0,62}\Z"
"""What a venue or a device may be called."""

ID_WORDS = "lower-case letters, digits and dashes, at most 63, not a dash first"

RESERVED_NAMES = frozenset({"agent", "venue", "nightsafe"})
"""No device is ever called one of these."""

WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")

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


class StateSettings(Section, frozen=True):
    """Where the box keeps what it must not lose."""

    directory: Annotated[
        Path, restart("Folder of the journal, the broker's files and the keys; made 0700, its files 0600.")
    ]


class GateSettings(Section, frozen=True):
    """The listener for devices."""

    listen: Annotated[
        tuple[Address, ...],
        restart(
            'Addresses to listen on, each "host:port"; plain MQTT is refused on anything but loopback.', min_length=1
        ),
    ]
    connections_max: Annotated[int, restart("Devices connected at once; the next one is closed.", ge=1, le=65_535)] = (
        512
    )
    connect_timeout_s: Annotated[
        float, restart("Time a connection has for its CONNECT, and the broker for its CONNACK.", gt=0, le=300)
    ] = 10.0
    event_bytes_max: Annotated[
        int, restart("Largest event that is stored; a larger one is refused by name.", ge=4_096, le=16_777_216)
    ] = 262_144
    event_depth_max: Annotated[int, restart("Deepest nesting inside an event, in levels.", ge=8, le=200)] = 64
    inflight_max: Annotated[
        int, restart("Unacknowledged events of one device, told to it as Receive Maximum.", ge=1, le=65_535)
    ] = 64
    preconnack_bytes_max: Annotated[
        int, restart("Bytes a device may send before it was let in; then reading pauses.", ge=1_024, le=1_048_576)
    ] = 65_536
    partial_bytes_max: Annotated[
        int, restart("Half-received packets of all devices together, in bytes.", ge=1_048_576, le=1_073_741_824)
    ] = 67_108_864
    refuse_delay_s: Annotated[
        float, restart("Pause before a device is disconnected while nothing can be stored.", ge=0, le=60)
    ] = 5.0
    linger_s: Annotated[
        float, restart("Time a closing connection has to take what was already written to it.", ge=0, le=60)
    ] = 5.0
    keepalive_idle_s: Annotated[
        int, restart("Silence of a device after which TCP itself asks whether it is still there.", ge=1, le=3_600)
    ] = 30
    keepalive_interval_s: Annotated[int, restart("Time that the device has to answer that.", ge=1, le=600)] = 10
    keepalive_probes_max: Annotated[
        int,
        restart("So often it is asked in vain; then it is gone, as when it takes nothing for this long.", ge=1, le=100),
    ] = 3


class DeviceSettings(Section, frozen=True):
    """One device's own terms; what is left out follows the venue."""

    offline_card_payments: Annotated[
        OfflineCardPayments | None, live("This device's card payments while offline: refuse or queue.")
    ] = None
    loyalty_realtime: Annotated[bool | None, live("Whether this device asks for loyalty in real time.")] = None
    services: Annotated[tuple[str, ...] | None, live("The real-time services this device may use.")] = None


class DevicesSettings(Section, frozen=True):
    """Who may connect; a table `[devices.<id>]` sets one device's own terms."""

    open: Annotated[
        bool,
        restart("Development only: any device may connect. Refused unless every gate address is loopback."),
    ] = False
    version_min: Annotated[str, live("Oldest app version that raises no warning; empty for any.")] = ""
    by_device: Annotated[Mapping[str, DeviceSettings], live("One device's own terms.")] = msgspec.field(
        default_factory=dict
    )


class BrokerSettings(Section, frozen=True):
    """Mosquitto, which stands behind the gate and is started by it. Nothing in it must survive."""

    command: Annotated[str, restart("Name or path of the mosquitto program.", min_length=1)] = "mosquitto"
    queued_bytes_max: Annotated[
        int, restart("Bytes that Mosquitto queues for one client.", ge=65_536, le=1_073_741_824)
    ] = 50_000_000
    queued_messages_max: Annotated[
        int, restart("Messages that Mosquitto queues for one client.", ge=1, le=1_000_000)
    ] = 1_000
    restart_delay_s: Annotated[
        float, restart("Pause before a failed Mosquitto is started again; doubles each time.", gt=0, le=60)
    ] = 0.5
    restart_delay_max_s: Annotated[float, restart("The longest such pause.", gt=0, le=600)] = 10.0


class JournalSettings(Section, frozen=True):
    """The durable log of the venue."""

    queue_events_max: Annotated[
        int, restart("Events waiting for their commit; then devices are read from more slowly.", ge=100, le=1_000_000)
    ] = 20_000
    queue_bytes_max: Annotated[
        int, restart("Bytes of the events waiting for their commit.", ge=1_048_576, le=1_073_741_824)
    ] = 33_554_432
    commit_events_max: Annotated[int, restart("Events in one commit.", ge=1, le=100_000)] = 2_000
    project_events: Annotated[
        int, restart("Events between two writings of the per-device figures.", ge=1, le=1_000_000)
    ] = 4_096
    cache_bytes: Annotated[int, restart("SQLite's page cache, in bytes.", ge=1_048_576, le=1_073_741_824)] = 8_388_608
    keep_days: Annotated[int, live("Days that a record stays after the cloud called it safe.", ge=1, le=3_650)] = 30
    bytes_max: Annotated[
        int, restart("Size of the journal at which nothing more is stored.", ge=4_194_304, le=1_000_000_000_000)
    ] = 8_000_000_000
    checkpoint_bytes: Annotated[
        int,
        restart(
            "Size of the write-ahead log at which it is copied into the database; smaller for a small disk.",
            ge=262_144,
            le=268_435_456,
        ),
    ] = 8_388_608
    reserve_bytes: Annotated[
        int,
        restart(
            "Room kept for the drain and deletions on a full disk, as a file; at least checkpoint_bytes.",
            ge=262_144,
            le=1_073_741_824,
        ),
    ] = 33_554_432
    shed_free_bytes: Annotated[
        int,
        live(
            "Free room at which QoS 0 and the box's own telemetry are not taken any more.",
            ge=524_288,
            le=1_000_000_000_000,
        ),
    ] = 268_435_456
    refuse_free_bytes: Annotated[
        int,
        live(
            "Free room at which nothing of devices is taken any more; at least reserve_bytes.",
            ge=262_144,
            le=1_000_000_000_000,
        ),
    ] = 67_108_864
    reopen_first_s: Annotated[
        float, restart("Pause before a journal that failed is opened anew; doubles each time.", ge=0.01, le=60)
    ] = 1.0
    reopen_max_s: Annotated[float, restart("The longest such pause.", gt=0, le=600)] = 30.0
    delete_interval_s: Annotated[
        float, live("How often records whose days are over are looked for.", gt=0, le=86_400)
    ] = 60.0
    delete_records_max: Annotated[int, live("Records that one step deletes.", ge=1, le=200)] = 200
    delete_pause_s: Annotated[float, live("Pause between two such steps.", ge=0.01, le=60)] = 0.1
    sweep_records_per_s: Annotated[
        int, live("Records a second that are read in the background, to find damage early.", ge=1, le=100_000)
    ] = 200
    sweep_interval_s: Annotated[
        float,
        live("Rest between two such readings of the whole journal, in time that the box runs.", ge=60, le=31_536_000),
    ] = 86_400.0
    damaged_bytes_max: Annotated[
        int,
        restart("Bytes of single damaged records that are kept in the folder `damaged`.", ge=0, le=1_000_000_000_000),
    ] = 67_108_864


class IntakeSettings(Section, frozen=True):
    """What devices are told, and when a hole in their counting is asked about."""

    receipt_interval_s: Annotated[float, live("Shortest time between two receipts to one device.", ge=0.05, le=60)] = (
        0.25
    )
    gap_resend_s: Annotated[float, live("Age of a hole at which the device is asked to resend.", gt=0, le=3_600)] = 2.0
    gap_attention_s: Annotated[float, live("Age of a hole at which a person is told.", gt=0, le=86_400)] = 300.0
    resend_backoff_max_s: Annotated[float, live("Longest time between two requests to resend.", gt=0, le=86_400)] = (
        300.0
    )
    gaps_shown_max: Annotated[int, live("Latest holes named in a receipt.", ge=1, le=TOLD_MAX)] = 100
    refused_shown_max: Annotated[int, live("Latest refused events named in a receipt.", ge=1, le=TOLD_MAX)] = 100
    excerpt_bytes_max: Annotated[
        int, restart("First bytes of a refused event kept for people, card numbers masked.", ge=0, le=65_536)
    ] = 4_096


class CloudSettings(Section, frozen=True):
    """The service at the other end."""

    url: Annotated[str, restart("Base URL; https, except on loopback.")]
    token_file: Annotated[
        Path | None, restart("File with the bearer token, relative to this file's folder; optional on loopback.")
    ] = None
    connect_timeout_s: Annotated[float, restart("Time for a connection to the cloud.", gt=0, le=300)] = 10.0
    request_timeout_s: Annotated[float, restart("Time for one whole request.", gt=0, le=3_600)] = 120.0
    answer_bytes_max: Annotated[int, restart("Largest answer that is read.", ge=4_096, le=67_108_864)] = 1_048_576


class DrainSettings(Section, frozen=True):
    """How the journal is sent to the cloud: one batch in flight, in order."""

    batch_records_first: Annotated[int, restart("Records in the first batch.", ge=1, le=100_000)] = 50
    batch_records_max: Annotated[int, restart("Records in any batch.", ge=1, le=100_000)] = 2_000
    batch_bytes_max: Annotated[
        int, restart("Decoded bytes in any batch; a single larger record still goes.", ge=65_536, le=268_435_456)
    ] = 8_388_608
    batch_target_s: Annotated[float, live("How long one batch is to take on the present link.", gt=0, le=60)] = 2.0
    backoff_first_s: Annotated[float, live("First pause after a failure; doubles, with full jitter.", gt=0, le=60)] = (
        1.0
    )
    backoff_max_s: Annotated[float, live("Longest pause after failures.", gt=0, le=3_600)] = 300.0
    retry_after_max_s: Annotated[float, live("Longest wait the cloud may ask for.", gt=0, le=86_400)] = 3_600.0
    gzip: Annotated[bool, live("Whether batches are compressed.")] = True
    look_interval_s: Annotated[
        float, live("How often the journal is looked at without being told to.", gt=0, le=60)
    ] = 2.0
    poison_attention_s: Annotated[
        float, live("How long one record may fail alone until a person is told.", gt=0, le=86_400)
    ] = 900.0
    refused_retry_s: Annotated[
        float, live("Pause after the cloud refused with an answer that waiting does not cure.", gt=0, le=86_400)
    ] = 3_600.0


class UplinkSettings(Section, frozen=True):
    """Telling whether the cloud can be reached; for people and pacing only."""

    probe_interval_s: Annotated[
        float,
        live(
            'Longest time between two probes while nothing is uploaded. From a dead link to "offline" it takes at most '
            "this, the longer of probe_timeout_s and offline_debounce_s, and 1.5 s: 14 s unless changed.",
            ge=1,
            le=3_600,
        ),
    ] = 2.5
    probe_timeout_s: Annotated[float, live("Time for one probe.", gt=0, le=60)] = 5.0
    offline_debounce_s: Annotated[
        float,
        live('How long a failure lasts, from the start of its probe, before people read "offline".', ge=0, le=600),
    ] = 10.0
    history_days: Annotated[int, live("Days that the uplink's history is kept.", ge=1, le=3_650)] = 30


class ClockSettings(Section, frozen=True):
    """The box's own clock. Nothing but times on records and pages depends on it."""

    unsynced_notice_s: Annotated[
        float, live("How long the clock is not synchronised before people are told.", ge=0, le=86_400)
    ] = 300.0


class WebSettings(Section, frozen=True):
    """The local page and health endpoints."""

    listen: Annotated[Address | None, restart('Address of the page, "host:port"; left out, there is none.')] = None
    pin_file: Annotated[
        Path | None, restart("File with the venue PIN that opens payloads and actions, relative to this file's folder.")
    ] = None


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
    queued_age_max_s: Annotated[
        float, live("Age of the oldest queued payment at which no more are queued.", gt=0, le=2_592_000)
    ] = 86_400.0
    declines_per_day_max: Annotated[
        int, live("Declined payments in a day after which no more are queued, as a count.", ge=0, le=10_000)
    ] = 5


class LoyaltySettings(Section, frozen=True):
    """The loyalty programme."""

    realtime: Annotated[bool, live("Whether balances and rewards are asked for in real time.")] = True


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
    smtp: Annotated[SmtpSettings | None, live("The mail server; without it no letters are sent.")] = None


class LogsSettings(Section, frozen=True):
    """What the agent writes to standard error."""

    level: Annotated[Literal["debug", "info", "warning", "error"], live("Least important level that is written.")] = (
        "info"
    )
    format: Annotated[
        Literal["auto", "json", "logfmt"],
        restart("Form of a line: auto is logfmt."),
    ] = "auto"


class RuntimeSettings(Section, frozen=True):
    """Budgets of starting and stopping. The stop budgets together stay below the service's TimeoutStopSec."""

    start_stage_s: Annotated[float, restart("Time one part has to become ready.", gt=0, le=3_600)] = 120.0
    stop_gate_s: Annotated[float, restart("Time to commit and acknowledge what was received.", gt=0, le=60)] = 3.0
    stop_ingest_s: Annotated[float, restart("Time for intake to end.", gt=0, le=60)] = 3.0
    stop_drain_s: Annotated[float, restart("Time for the batch in flight to end.", gt=0, le=60)] = 5.0
    stop_edges_s: Annotated[float, restart("Time for files, the broker and the page to close.", gt=0, le=60)] = 5.0
    beat_max_s: Annotated[
        float, restart("Oldest heartbeat of a vital part at which the watchdog is still fed.", gt=0, le=600)
    ] = 30.0


class Settings(Section, frozen=True):
    """Everything one box is told, from one file."""

    venue: VenueSettings
    state: StateSettings
    gate: GateSettings
    cloud: CloudSettings
    devices: DevicesSettings = msgspec.field(default_factory=DevicesSettings)
    broker: BrokerSettings = msgspec.field(default_factory=BrokerSettings)
    journal: JournalSettings = msgspec.field(default_factory=JournalSettings)
    intake: IntakeSettings = msgspec.field(default_factory=IntakeSettings)
    drain: DrainSettings = msgspec.field(default_factory=DrainSettings)
    uplink: UplinkSettings = msgspec.field(default_factory=UplinkSettings)
    clock: ClockSettings = msgspec.field(default_factory=ClockSettings)
    web: WebSettings = msgspec.field(default_factory=WebSettings)
    orders: OrdersSettings = msgspec.field(default_factory=OrdersSettings)
    policy: PolicySettings = msgspec.field(default_factory=PolicySettings)
    loyalty: LoyaltySettings = msgspec.field(default_factory=LoyaltySettings)
    alerts: AlertsSettings = msgspec.field(default_factory=AlertsSettings)
    logs: LogsSettings = msgspec.field(default_factory=LogsSettings)
    runtime: RuntimeSettings = msgspec.field(default_factory=RuntimeSettings)


def meta_of(section: type[Section], name: str) -> msgspec.Meta:
    """The words and bounds of one setting; a table within a table says nothing itself and is live."""
    hint = get_type_hints(section, include_extras=True)[name]
    found = [meta for meta in getattr(hint, "__metadata__", ()) if isinstance(meta, msgspec.Meta)]
    return found[0] if found else live("")


def reload_of(section: type[Section], name: str) -> Reload:
    """When a change of one setting takes effect."""
    reload: Reload = (meta_of(section, name).extra or {})["reload"]
    return reload
