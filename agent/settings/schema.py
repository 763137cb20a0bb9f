"""[settings] Everything that can be set, one frozen struct for each table of the settings file; `load` reads it.

Only shapes, bounds and words; the tables are in venue.py, box.py and uplink.py. Units end the names: `_s` seconds,
`_bytes`, `_days`; money is in minor units.
"""

import msgspec

from agent.settings.box import (
    BrokerSettings,
    ClockSettings,
    DevicesSettings,
    DiscoverySettings,
    GateSettings,
    IntakeSettings,
    JournalSettings,
    LogsSettings,
    RuntimeSettings,
    StateSettings,
    WebSettings,
)
from agent.settings.section import Section
from agent.settings.uplink import CloudSettings, DrainSettings, UplinkSettings
from agent.settings.venue import (
    AlertsSettings,
    LoyaltySettings,
    NoticesSettings,
    OrdersSettings,
    PaymentsSettings,
    PolicySettings,
    ServicesSettings,
    VenueSettings,
)


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
    discovery: DiscoverySettings = msgspec.field(default_factory=DiscoverySettings)
    orders: OrdersSettings = msgspec.field(default_factory=OrdersSettings)
    policy: PolicySettings = msgspec.field(default_factory=PolicySettings)
    services: ServicesSettings = msgspec.field(default_factory=ServicesSettings)
    payments: PaymentsSettings = msgspec.field(default_factory=PaymentsSettings)
    loyalty: LoyaltySettings = msgspec.field(default_factory=LoyaltySettings)
    notices: NoticesSettings = msgspec.field(default_factory=NoticesSettings)
    alerts: AlertsSettings = msgspec.field(default_factory=AlertsSettings)
    logs: LogsSettings = msgspec.field(default_factory=LogsSettings)
    runtime: RuntimeSettings = msgspec.field(default_factory=RuntimeSettings)
