"""[settings: the box] → schema. Its doors, its broker, its journal, and how it runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from agent.core.arrivals import TOLD_MAX
from agent.settings.section import Address, Section, live, restart
from agent.settings.venue import OfflineCardPayments


class StateSettings(Section, frozen=True):
    """Where the box keeps what it must not lose."""

    directory: Annotated[
        Path, restart("Folder of the journal, the broker's files and the keys; made 0700, its files 0600.")
    ]


class TlsSettings(Section, frozen=True):
    """TLS by the venue's own authority, which the box makes at its first start. The table alone switches it on."""

    also_plain: Annotated[
        tuple[Address, ...], restart("Further gate addresses, without TLS; refused on anything but loopback.")
    ] = ()
    names: Annotated[
        tuple[str, ...],
        restart("Host names or addresses of this box that it does not know of itself, for its certificate."),
    ] = ()
    life_days: Annotated[
        int, restart("Days that a certificate is valid; it is renewed after two thirds of them.", ge=2, le=825)
    ] = 397
    handshakes_max: Annotated[
        int, restart("TLS handshakes under way at one listener; further connections wait.", ge=1, le=10_000)
    ] = 256
    handshakes_per_address_max: Annotated[
        int, restart("TLS handshakes under way from one address; further ones are closed.", ge=1, le=10_000)
    ] = 64


class GateSettings(Section, frozen=True):
    """The listener for devices."""

    listen: Annotated[
        tuple[Address, ...],
        restart(
            'Addresses to listen on, each "host:port"; without [gate.tls] they are plain, and loopback only.',
            min_length=1,
        ),
    ]
    tls: Annotated[TlsSettings | None, restart("TLS on the addresses of `listen`.")] = None
    login_tries_max: Annotated[
        int,
        restart("Refused logins of one name from one address, within the window, that lock it out.", ge=1, le=1_000),
    ] = 10
    login_window_s: Annotated[float, restart("The time in which they are counted.", gt=0, le=3_600)] = 60.0
    lockout_s: Annotated[float, restart("How long it is locked out then.", gt=0, le=86_400)] = 60.0
    connections_max: Annotated[
        int, restart("Connections at once; one more ends one that is not logged in yet.", ge=1, le=65_535)
    ] = 512
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
        int,
        restart(
            "Half-received packets of all devices that are logged in, together, in bytes.",
            ge=1_048_576,
            le=1_073_741_824,
        ),
    ] = 67_108_864
    stranger_bytes_max: Annotated[
        int,
        restart(
            "What connections that are not logged in yet have sent, all together, in bytes; above it the address with "
            "most of them loses its oldest.",
            ge=65_536,
            le=1_073_741_824,
        ),
    ] = 8_388_608
    messages_per_s_max: Annotated[
        float,
        restart(
            "Messages and subscriptions of one device in a second, events apart; then it is read from more slowly.",
            ge=1,
            le=10_000,
        ),
    ] = 50.0
    messages_at_once_max: Annotated[
        int, restart("How many of them it may send at once, before they are slowed.", ge=1, le=100_000)
    ] = 500
    subscriptions_max: Annotated[
        int,
        restart("Topic filters that one device may have subscribed, of 64 bytes on average.", ge=10, le=10_000),
    ] = 200
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
    pairing_s: Annotated[float, restart("How long a pairing is open.", ge=30, le=3_600)] = 600.0
    pairing_tries_max: Annotated[int, restart("Wrong codes that end every pairing that is open.", ge=1, le=20)] = 5
    pairings_max: Annotated[int, restart("Pairings open at once.", ge=1, le=100)] = 8
    version_min: Annotated[str, live("Oldest app version that raises no warning; empty for any.", max_length=64)] = ""
    unresponsive_s: Annotated[
        float,
        live(
            "Silence after which a connected device that said it is ready counts as unresponsive; "
            "its own keep-alive, where longer.",
            ge=5,
            le=86_400,
        ),
    ] = 300.0
    known_max: Annotated[
        int, restart("Devices whose state, version and last sign of life are kept, as a count.", ge=10, le=10_000)
    ] = 1_000
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
    memory_bytes_max: Annotated[
        int,
        restart("Memory of Mosquitto; whoever asks it to keep more is disconnected.", ge=33_554_432, le=4_294_967_296),
    ] = 268_435_456
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
        restart(
            "Bytes of single damaged records that are kept in the folder `damaged`, and as many of damaged databases: "
            "the newest always, then the first, then the latest that fit.",
            ge=0,
            le=1_000_000_000_000,
        ),
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
    checks_max: Annotated[
        int, restart("Open checks that every device is told; of more, those with the latest word.", ge=1, le=100_000)
    ] = 2_000
    checks_keep_h: Annotated[
        int, live("Hours after which an open check of which nothing was heard is told no more.", ge=1, le=720)
    ] = 72
    checks_told_per_s: Annotated[
        int, live("Changes of open checks that devices are told in a second; more of them wait.", ge=4, le=10_000)
    ] = 50
    epochs_max: Annotated[
        int, restart("Epochs of one device that are counted; the events of further ones are stored uncounted.", ge=1)
    ] = 2_000
    gaps_shown_max: Annotated[int, live("Latest holes named in a receipt.", ge=1, le=TOLD_MAX)] = 100
    refused_shown_max: Annotated[int, live("Latest refused events named in a receipt.", ge=1, le=TOLD_MAX)] = 100
    answers_waiting_max: Annotated[
        int, live("Receipts of single events that may wait to be sent to one device.", ge=1, le=10_000)
    ] = 100
    excerpt_bytes_max: Annotated[
        int, restart("First bytes of a refused event kept for people, card numbers masked.", ge=0, le=65_536)
    ] = 4_096


class ClockSettings(Section, frozen=True):
    """The box's own clock. Nothing but times on records and pages depends on it."""

    unsynced_notice_s: Annotated[
        float, live("How long the clock is not synchronised before people are told.", ge=0, le=86_400)
    ] = 300.0


class WebSettings(Section, frozen=True):
    """The local page and health endpoints."""

    listen: Annotated[Address | None, restart('Address of the page, "host:port"; left out, there is none.')] = None
    listen_tls: Annotated[
        Address | None,
        restart('Address of the page with TLS by the venue\'s authority, "host:port", usually "0.0.0.0:8443".'),
    ] = None
    door_events_max: Annotated[int, restart("Events in one request of a device that speaks HTTP.", ge=1, le=10_000)] = (
        1_000
    )
    door_bytes_max: Annotated[int, restart("Bytes of such a request.", ge=65_536, le=67_108_864)] = 4_194_304
    pin_file: Annotated[
        Path | None,
        restart(
            "File with the venue PIN, 6 to 12 digits, mode 0600: who knows it may act on the page. Left out, nobody "
            "may. A new PIN holds as soon as the file is saved, and ends every session."
        ),
    ] = None
    pin_tries_max: Annotated[
        int, restart("Wrong PINs from one address that lock it out; four times as many, any new one.", ge=3, le=20)
    ] = 5
    pin_lockout_s: Annotated[
        float, restart("How long that lasts, and within what time wrong PINs are counted.", ge=60, le=86_400)
    ] = 600.0
    pin_tries_day_max: Annotated[
        int,
        restart(
            "Wrong PINs in a day after which nobody may try from where nobody has logged in; from one address a "
            "quarter of it.",
            ge=20,
            le=1_000,
        ),
    ] = 100
    session_idle_s: Annotated[float, restart("A login that nobody uses for so long ends.", ge=1, le=86_400)] = 900.0
    session_s: Annotated[float, restart("How long a login lasts at most.", ge=1, le=86_400)] = 28_800.0
    sessions_max: Annotated[
        int, restart("Logins at once; of more, the one that was unused for the longest ends.", ge=1, le=100)
    ] = 16


class DiscoverySettings(Section, frozen=True):
    """Whether apps find the box by multicast DNS. Only what speaks TLS off loopback is announced."""

    enabled: Annotated[bool, restart("Announce gate and page on the networks of their own addresses.")] = True


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
