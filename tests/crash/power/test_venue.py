"""The recorder below a whole box: what a failing disk does to the rest of the venue, and that it mends by itself."""

from tests.crash.power.night import scene
from tests.integration.machine import until
from tests.integration.mqtt import Device
from tests.sales import counted

WITHIN_S = 30


def test_a_cursor_that_could_not_be_synced_does_not_hold_the_drain() -> None:
    """The journal is opened anew within seconds, and the drain goes on with it; nobody has to act."""
    with scene() as venue:
        venue.at_upload = lambda: venue.mount.fail("sync", "EIO", "-wal")
        before = Device(venue.box.port, "till-1")
        with before:
            before.send(before.frame(counted("e1", 1)))
            until(lambda: not venue.box.alive or "journal_failed" in venue.box.text, "a sync has failed", WITHIN_S)
        venue.at_upload = lambda: None
        until(lambda: venue.works() and venue.box.status()["journal"]["writable"], "it stores again", WITHIN_S)
        device = Device(venue.box.port, "till-2")
        with device:
            device.tell(counted("e1", 1))
        until(lambda: len(venue.cloud.records("till-2")) == 1, "the cloud has what came afterwards", WITHIN_S)
