"""[journal: its figures] → status. The book as facts for the page, the command line and the metrics."""

from agent.core.facts import DeviceFacts, JournalFacts
from agent.core.instants import to_text
from agent.journal.book import AGENT, Book, DeviceBook


def journal_facts(book: Book, committing: bool, writable: bool, commits_count: int) -> JournalFacts:
    """The journal at this instant: only what is durable is counted."""
    devices = tuple(_device_facts(device) for device in list(book.devices.values()) if device.name != AGENT)
    return JournalFacts(
        epoch=book.epoch,
        last=book.committed - book.base,
        cursor=book.cursor - book.base,
        safe=book.safe - book.base,
        pending_count=book.committed - book.cursor,
        pending_bytes=book.pending_bytes,
        oldest_pending_at=to_text(book.oldest_ms) if book.oldest_ms is not None else None,
        quarantined_count=book.quarantined_count,
        committing=committing,
        writable=writable,
        commits_count=commits_count,
        devices=devices,
    )


def _device_facts(device: DeviceBook) -> DeviceFacts:
    newest = device.newest
    counted = newest is not None and newest.epoch is not None
    return DeviceFacts(
        device=device.name,
        epoch=newest.epoch if newest else None,
        stored=newest.tally.contiguous if newest and counted else None,
        uploaded=min(newest.uploaded.contiguous, newest.tally.contiguous) if newest and counted else None,
        gaps=tuple((gap.first, gap.last) for gap in newest.tally.gaps()) if newest else (),
        refused_count=sum(len(counting.refused) for counting in list(device.epochs.values())),
        stored_count=device.stored_count,
        pending_count=device.stored_count - device.uploaded_count,
        pending_bytes=device.stored_bytes - device.uploaded_bytes,
        last_event_at=to_text(device.last_ms) if device.last_ms is not None else None,
    )
