"""Errors, named by who must act. Edges map a library's errors to these once; stages match on them.

Normal outcomes (new, duplicate, conflict, malformed) are values, never errors.
"""


class NightsafeError(Exception):
    """Base: a stable `code` for machines, words for people, and a `hint` that says what to do next."""

    def __init__(self, code: str, text: str, hint: str = "") -> None:
        super().__init__(f"{text} {hint}".strip())
        self.code = code
        self.text = text
        self.hint = hint


class Transient(NightsafeError):
    """The same thing may succeed later: wait, then try the same item again.

    `retry_after_s` is the other side's own wish, already bounded, or None.
    """

    def __init__(self, code: str, text: str, hint: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(code, text, hint)
        self.retry_after_s = retry_after_s


class Rejected(NightsafeError):
    """This item will never succeed: set it aside, tell, go on."""


class Held(NightsafeError):
    """The data is good, a person must act: stop this stage, raise an attention, probe slowly."""


class SettingsInvalid(NightsafeError):
    """The settings cannot be used (exit 78). `problems` lists every one with file and line."""

    def __init__(self, code: str, text: str, hint: str = "", problems: tuple[str, ...] = ()) -> None:
        super().__init__(code, text, hint)
        self.problems = problems


class JournalDamaged(NightsafeError):
    """Nothing may be acknowledged any more; the page, the alerts and the command line live on."""


class RecordDamaged(JournalDamaged):
    """One record's bytes on the disk have changed; all else may go on. `position` is its place in the journal."""

    def __init__(self, position: int) -> None:
        super().__init__(
            "record_damaged",
            f"The record at position {position} does not match its own seal: its bytes on the disk have changed.",
            "It is mended or set aside by itself; see `nightsafe verify`, and replace the disk or card.",
        )
        self.position = position
