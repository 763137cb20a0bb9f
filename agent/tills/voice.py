"""demo, story → [voice] → terminal. What happens, in plain words, and one line that lives at the bottom.

On a terminal the line of progress is redrawn in place; elsewhere it is a plain line every few seconds.
"""

import sys
import time
from typing import Final, Self

from rich.console import Console, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.text import Text

from agent.tills.floor import Totals

PLAIN_INTERVAL_S: Final = 5.0
"""Time between two lines of progress where nothing can be redrawn."""


class Voice:
    """Use as a context manager; leaving it clears the line of progress."""

    def __init__(self, *, quiet: bool = False) -> None:
        """`quiet` says nothing at all."""
        self._console = Console(highlight=False, soft_wrap=True, quiet=quiet)
        redraws = sys.stdout.isatty() and not quiet
        self._live = Live(console=self._console, auto_refresh=False, transient=True) if redraws else None
        self._plain_at_s = 0.0

    @property
    def is_terminal(self) -> bool:
        return self._live is not None

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def say(self, text: str = "", style: str = "") -> None:
        """One line above the line of progress; `text` is printed as it is."""
        self._print(f"[{style}]{escape(text)}[/]" if style else escape(text))

    def show(self, what: RenderableType) -> None:
        """Something that rich draws, such as a table."""
        self._print(what)

    def progress(self, totals: Totals) -> None:
        """The one line that lives at the bottom."""
        text = progress_line(totals)
        if self._live:
            self._live.update(Text(text, style="cyan", no_wrap=True, overflow="ellipsis"), refresh=True)
        elif time.monotonic() >= self._plain_at_s:
            self._plain_at_s = time.monotonic() + PLAIN_INTERVAL_S
            self._print(escape(text))

    def _print(self, what: RenderableType) -> None:
        self._console.print(what)
        self._console.file.flush()


def progress_line(totals: Totals) -> str:
    """How far everything is, in one line; counts are events."""
    status = totals.status
    uplink = status.state if status.cause in ("none", "") else f"{status.state} ({status.cause})"
    if not totals.connected:
        uplink = "box away"
    figures = f"sold {totals.made:,} · told {totals.told:,} · in cloud {totals.in_cloud:,}"
    refused = f" · refused {totals.refused:,}" if totals.refused else ""
    return f"{figures} · pending {status.sync.pending:,} · uplink {uplink}{refused}"
