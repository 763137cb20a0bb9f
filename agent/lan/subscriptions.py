"""device → [gate: what it subscribes] → Mosquitto. How much the broker keeps for one device, over its connections.

The broker keeps each level of each filter in memory, and in a session that outlives its connection. This counts only:
which filters a device may read is the broker's to judge.
"""

from collections.abc import Iterable
from typing import Final

FILTER_BYTES: Final = 64
"""So much of a filter, on average, a device may have; a longer one counts as several, where messages are counted."""
DEVICES_MAX: Final = 4_096
"""So many devices are remembered while they are away; the one that subscribed the longest ago is forgotten first."""


class Subscriptions:
    """The filters that the broker keeps, by device."""

    def __init__(self, filters_max: int) -> None:
        self._filters_max = filters_max
        self._kept: dict[str, dict[bytes, None]] = {}

    def begin(self, device: str) -> None:
        """The broker has nothing of this device: its session is new."""
        self._kept.pop(device, None)

    def add(self, device: str, filters: Iterable[bytes]) -> bool:
        """The device subscribes; False where that is more than one may have: the broker never gets to hear of it."""
        kept = self._kept.pop(device, {})
        wanted = kept | dict.fromkeys(filters)
        fit = len(wanted) <= self._filters_max and sum(map(len, wanted)) <= self._filters_max * FILTER_BYTES
        self._kept[device] = wanted if fit else kept
        if len(self._kept) > DEVICES_MAX:
            del self._kept[next(iter(self._kept))]
        return fit

    def remove(self, device: str, filters: Iterable[bytes]) -> None:
        """The device unsubscribes."""
        kept = self._kept.get(device, {})
        for one in filters:
            kept.pop(one, None)
