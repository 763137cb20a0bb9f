"""[gate: how a connection stands] How far it has come, and why it is not read from. Words only; decides nothing."""

from enum import Enum


class Phase(Enum):
    """How far a connection has come."""

    NEW = "new"
    JOINING = "joining"
    OPEN = "open"
    CLOSING = "closing"


class Hold:
    """Why a device is not read from right now: bits, plain integers since every event looks at them."""

    JOINING = 1
    INFLIGHT = 2
    ROOM = 4
    UPSTREAM = 8
    STOPPING = 16
    UNREAD = 32
    PACE = 64


class LockedOut(PermissionError):
    """So many logins were refused that this one is not tried."""
