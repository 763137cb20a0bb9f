"""[app: notices] The read model as notices for tills, without those that somebody has muted."""

from collections.abc import Callable

from agent.core.notices import Mutes, Notices, notices
from agent.settings.venue import NoticesSettings
from agent.status.snapshot import StatusSource


class NoticeSide:
    """What tills should show now."""

    def __init__(self, source: StatusSource, settings: Callable[[], NoticesSettings]) -> None:
        self._source = source
        self._settings = settings
        self._mutes = Mutes()

    def notices(self) -> Notices:
        """Those that hold and that nobody has muted."""
        everything = self._all(frozenset())
        muted = self._mutes.of(everything)
        return self._all(muted) if muted else everything

    def mute(self, id: str) -> bool:
        """Leave one out until its condition ends; False where none of this name can be muted."""
        return self._mutes.mute(id, self._all(frozenset()))

    def _all(self, muted: frozenset[str]) -> Notices:
        return notices(self._source.snapshot(), self._settings().version_min, muted)
