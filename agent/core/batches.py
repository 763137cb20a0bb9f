"""journal → drain → [how much at once] → cloud. The size of the next batch, from how the last one fared.

Pure. Grows while batches go fast, shrinks when they are slow or cut, so that a bad link still makes progress.
"""

import msgspec


class BatchSize(msgspec.Struct, frozen=True):
    """Records in the next batch, never above `ceiling`, which the cloud may lower.

    `base64` is for one record that the cloud cannot read otherwise.
    """

    records: int
    ceiling: int
    bytes_max: int
    base64: bool = False


def succeeded(size: BatchSize, sent: int, took_s: float, target_s: float) -> BatchSize:
    """After a batch of `sent` records that took `took_s`: aim at batches of `target_s`, at most doubling."""
    if sent < size.records and took_s < target_s:
        return msgspec.structs.replace(size, base64=False)  # the backlog ended, not the link
    fitting = int(sent * target_s / max(took_s, 1e-3) / 2)
    records = min(fitting, size.records * 2, size.ceiling) if took_s < target_s else _slower(sent, took_s, target_s)
    return msgspec.structs.replace(size, records=max(records, 1), base64=False)


def _slower(sent: int, took_s: float, target_s: float) -> int:
    return int(sent * max(target_s / took_s, 0.25))


def halved(size: BatchSize, sent: int) -> BatchSize:
    """After a batch of `sent` records was cut, or refused for a part of it that is not known."""
    return msgspec.structs.replace(size, records=max(1, min(size.records, sent) // 2))


def limited(size: BatchSize, records: int | None, bytes_max: int | None) -> BatchSize:
    """The cloud's own limits from now on."""
    ceiling = max(1, min(size.ceiling, records or size.ceiling))
    fitting = max(1, min(size.bytes_max, bytes_max or size.bytes_max))
    return msgspec.structs.replace(size, records=min(size.records, ceiling), ceiling=ceiling, bytes_max=fitting)


def allowed_s(size_bytes: int, bytes_per_s_max: int) -> float:
    """How long so many bytes are to take at least, where the line is shared with others; 0 for no bound."""
    return size_bytes / bytes_per_s_max if bytes_per_s_max > 0 else 0.0
