"""server → [problems] → box. Every answer that is not a success: its name, its status, and words that say what to do.

Owns the list of names; nothing else in the receiver chooses a status.
"""

from typing import Any, Final, NamedTuple

from aiohttp import web

from agent.cloud.wire import PROBLEM_TYPE, Limits, Problem, encode
from agent.receiver.ledger import Closed, Conflict, Fenced, Gap, NoParent, NoStream


class _Kind(NamedTuple):
    status: int
    title: str


KINDS: Final = {
    "malformed": _Kind(400, "The request cannot be read"),
    "unauthorized": _Kind(401, "No valid token"),
    "forbidden": _Kind(403, "The token is not for this venue"),
    "not-found": _Kind(404, "There is nothing at this address"),
    "no-stream": _Kind(404, "There is no such stream"),
    "no-record": _Kind(404, "There is no rechash at this sequence"),
    "method-not-allowed": _Kind(405, "This address does not take this method"),
    "no-parent": _Kind(409, "The parent cannot be continued"),
    "gap": _Kind(409, "Records before these are missing"),
    "conflict": _Kind(409, "The cloud has other content"),
    "fenced": _Kind(409, "Another instance writes this stream"),
    "closed": _Kind(410, "The stream is closed"),
    "too-large": _Kind(413, "More than one batch may be"),
    "unsupported-media-type": _Kind(415, "This encoding or media type is not taken"),
    "internal": _Kind(500, "The cloud failed"),
    "unavailable": _Kind(503, "The cloud cannot store now"),
}
"""Problem types without `urn:nightsafe:`, their status and title."""


class Refused(Exception):
    """Ends a request with this problem."""

    def __init__(self, problem: Problem, headers: dict[str, str] | None = None) -> None:
        super().__init__(problem.detail)
        self.problem = problem
        self.headers = headers or {}


def refused(kind: str, detail: str, headers: dict[str, str] | None = None, **members: Any) -> Refused:
    """The refusal of this kind; `members` are the contract's own members of a problem."""
    status, title = KINDS[kind]
    return Refused(Problem(f"urn:nightsafe:{kind}", title, status, detail, **members), headers)


def too_large(limits: Limits) -> Refused:
    """A batch beyond the limits."""
    detail = f"Send at most {limits.records} records and {limits.bytes} decoded bytes at once."
    return refused("too-large", detail, limits=limits)


def of_outcome(outcome: NoStream | NoParent | Closed | Fenced | Gap | Conflict) -> Refused:
    """The refusal that a ledger's outcome stands for."""
    match outcome:
        case NoStream():
            return refused("no-stream", "Open it with POST streams, then go on.")
        case NoParent(stream, detail):
            if stream is None:
                return refused("no-parent", detail)
            return refused("no-parent", detail, next=stream.next, head=stream.head.hex())
        case Closed(successor):
            return refused("closed", "Open a new epoch with this one as its parent.", successor=successor)
        case Fenced():
            detail = "Stop sending on this epoch. A person decides: nightsafe queue adopt opens a new one."
            return refused("fenced", detail)
        case Gap(stream):
            detail = f"Go on at {stream.next}; declare what is gone as a hole."
            return refused("gap", detail, next=stream.next, head=stream.head.hex())
        case Conflict(stream, sequence, detail):
            words = f"{detail}: find the last common record with hash?at= and open a new epoch with it as parent."
            return refused("conflict", words, sequence=sequence, next=stream.next, head=stream.head.hex())


def response(refusal: Refused) -> web.Response:
    """The problem as an HTTP answer."""
    problem = refusal.problem
    return web.Response(
        status=problem.status or 500, body=encode(problem), content_type=PROBLEM_TYPE, headers=refusal.headers
    )
