"""[journal: its figures] → status. The book as facts for the page, the command line and the metrics."""

from agent.core.arrivals import TOLD_MAX
from agent.core.clock import Moment
from agent.core.facts import DeviceFacts, JournalFacts
from agent.core.instants import to_text
from agent.journal.book import AGENT, Book, DeviceBook, EpochBook


def journal_facts(book: Book, committing: bool, writable: bool, commits_count: int) -> JournalFacts:
    """The journal at this instant: only what is durable is counted."""
    devices = tuple(_device_facts(book, device) for device in list(book.devices.values()) if device.name != AGENT)
    return JournalFacts(
        epoch=book.epoch,
        last=book.committed - book.base,
        cursor=max(0, book.cursor - book.base),
        safe=max(0, book.safe - book.base),
        pending_count=book.committed - book.cursor,
        pending_bytes=book.committed_bytes,
        oldest_pending_at=_told(book, book.oldest),
        quarantined_count=book.quarantined_count,
        committing=committing,
        writable=writable,
        commits_count=commits_count,
        devices=devices,
        attentions_left_out=book.attentions_left_out,
    )


def _told(book: Book, moment: Moment | None) -> str | None:
    return to_text(book.instant_ms(moment)) if moment is not None else None


def _device_facts(book: Book, device: DeviceBook) -> DeviceFacts:
    receipt = device.newest.receipt if device.newest is not None else None
    figures = device.figures
    losses = [counting.loss for counting in list(device.epochs.values()) if counting.loss is not None]
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
        last_event_at=_told(book, figures.last),
        complete=_complete(device.newest) if receipt and receipt.epoch is not None else None,
        lost_count=sum(loss.events_count for loss in losses),
        lost=tuple((loss.epoch, *gap) for loss in losses for gap in loss.latest)[-TOLD_MAX:],
    )


def _complete(counting: EpochBook | None) -> int | None:
    """The highest n such that each of 1..n was stored or refused: what is lost ends it."""
    if counting is None or counting.receipt is None or counting.receipt.stored is None:
        return None
    stored, loss = counting.receipt.stored, counting.loss
    return stored if loss is None else min(stored, loss.lowest - 1)
