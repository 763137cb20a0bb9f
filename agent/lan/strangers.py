"""devices → [gate: who is not let in yet] → gate. Connections that have not logged in, by the address they come from.

Whoever logs in leaves this list and can no longer be crowded out. When places run short, the address that holds most
of them pays, with its oldest; when room does, the one that keeps most bytes, with its largest: nobody can keep others
out by connecting and saying nothing, or half of something. Never reads or judges.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent.lan.connection import DeviceConnection


class Strangers:
    """The connections that are not let in yet, each in the order in which it came."""

    def __init__(self) -> None:
        self._by_address: dict[str, dict[DeviceConnection, None]] = {}

    def __bool__(self) -> bool:
        return bool(self._by_address)

    def add(self, connection: "DeviceConnection") -> None:
        """It has been accepted."""
        self._by_address.setdefault(connection.address, {})[connection] = None

    def remove(self, connection: "DeviceConnection") -> None:
        """It has been let in, or is gone."""
        crowd = self._by_address.get(connection.address)
        if crowd is not None:
            crowd.pop(connection, None)
            if not crowd:
                del self._by_address[connection.address]

    def take_largest_of_most_bytes(self) -> "tuple[DeviceConnection, int] | None":
        """Take out the connection that keeps most bytes, of the address that keeps most, and how many it has; None
        without any."""
        if not self._by_address:
            return None
        crowd = max(self._by_address.values(), key=lambda crowd: sum(one.kept_bytes for one in crowd))
        count, largest = len(crowd), max(crowd, key=lambda one: one.kept_bytes)
        self.remove(largest)
        return largest, count

    def take_oldest_of_most(self) -> "tuple[DeviceConnection, int] | None":
        """Take out the oldest connection of the address that has most, and how many that were; None without any."""
        if not self._by_address:
            return None
        crowd = max(self._by_address.values(), key=len)
        count, oldest = len(crowd), next(iter(crowd))
        self.remove(oldest)
        return oldest, count
