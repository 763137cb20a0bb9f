"""gate → [two devices with one name?] → people. A session that is taken over again and again means two sources.

One takeover is a device that came back before its old connection was given up. Pure state; instants are arguments.
"""

from collections import deque
from typing import Final

TAKEOVERS_MAX: Final = 5
"""So many takeovers of one device's session within the window are no coming back any more."""
WINDOW_S: Final = 60.0
"""The time in which they are counted, in seconds."""
DEVICES_MAX: Final = 1_000
"""So many devices are counted at once; the one whose last takeover is the oldest makes room."""


class Takeovers:
    """The latest takeovers by device."""

    def __init__(self) -> None:
        self._seen: dict[str, deque[float]] = {}

    def note(self, device: str, at_s: float) -> bool:
        """A device's session was taken over while it was in use. True when it is a war between two sources."""
        times = self._seen.pop(device, None) or deque[float](maxlen=TAKEOVERS_MAX)
        times.append(at_s)
        self._seen[device] = times
        if len(self._seen) > DEVICES_MAX:
            del self._seen[next(iter(self._seen))]
        return len(times) == TAKEOVERS_MAX and at_s - times[0] <= WINDOW_S
