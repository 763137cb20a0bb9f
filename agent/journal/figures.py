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
        cursor=max(0, book.cursor - book.base),
        safe=max(0, book.safe - book.base),
        pending_count=book.committed - book.cursor,
        pending_bytes=book.committed_bytes,
        oldest_pending_at=to_text(book.oldest_ms) if book.oldest_ms is not None else None,
        quarantined_count=book.quarantined_count,
        committing=committing,
        writable=writable,
        commits_count=commits_count,
        devices=devices,
    )


def _device_facts(device: DeviceBook) -> DeviceFacts:
    receipt = device.newest.receipt if device.newest is not None else None
    figures = device.figures
    return DeviceFacts(
        device=device.name,
        epoch=receipt.epoch if receipt else None,
        stored=receipt.stored if receipt else None,
        uploaded=receipt.uploaded if receipt else None,
        gaps=receipt.gaps if receipt else (),
        refused_count=sum(len(counting.refused) for counting in list(device.epochs.values())),
        stored_count=figures.stored_count,
        pending_count=figures.pending_count,
        pending_bytes=figures.pending_bytes,
        last_event_at=to_text(figures.last_ms) if figures.last_ms is not None else None,
    )
