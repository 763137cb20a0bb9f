"""[runtime] One line per fact on standard error: logfmt for people and grep, or JSON for machines.

Whatever a device or the cloud managed to put into a field, a line stays one line and a terminal stays as it was.
Never decides what is worth logging.
"""

import logging
import sys
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Any, Final, Literal, TextIO, cast

import structlog
from structlog.typing import Processor

from agent.core.printable import printable

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["auto", "json", "logfmt"]

FOREIGN_LEVEL_MIN: Final = logging.WARNING
"""Libraries are heard from this level on."""


def configure(level: Level, form: Format = "auto", stream: TextIO | None = None) -> None:
    """Send every log line to `stream` (standard error), from `level` on. May be called again to change the level."""
    stream = stream or sys.stderr
    patient = cast(TextIO, _Patient(stream))
    rendered = _rendered(form)
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="timestamp"),
    ]
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*shared, *rendered],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=patient),
        # Loggers live at module level: a cached one would keep the first level for ever.
        cache_logger_on_first_use=False,
    )
    _hear_libraries(max(number, FOREIGN_LEVEL_MIN), shared, rendered, patient)


def clean(_logger: object, _method: str, facts: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Every text of a log line with unsafe characters escaped; other values than plain ones become text."""
    for key, value in facts.items():
        if not isinstance(value, bool | int | float | None):
            facts[key] = printable(value if isinstance(value, str) else str(value))
    return facts


def _rendered(form: Format) -> list[Processor]:
    """The end of the line: exceptions become text, then one line. JSON escapes by itself."""
    if form == "json":
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    line = structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"], bool_as_flag=False)
    return [structlog.processors.format_exc_info, clean, line]


class _Patient:
    """A stream that loses a line rather than its caller: a full disk or a closed pipe behind the log stops nobody."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):
            return self._stream.write(text)
        return 0

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()


def _hear_libraries(level: int, shared: list[Processor], rendered: list[Processor], stream: TextIO) -> None:
    """Lines of the standard library's logging take the same form."""
    out = logging.StreamHandler(stream)
    meta = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    out.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[meta, *rendered],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [out]
    root.setLevel(level)
