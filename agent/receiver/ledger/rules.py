"""server → [what a stream takes] → ledger. The decisions that every ledger shares, so that all of them decide alike.

Pure: a stream as it stands and a call go in, a refusal or None comes out.
"""

from agent.receiver.ledger import Closed, Conflict, Fenced, Gap, Hole, NoStream, Opening, Stream


def admit(stream: Stream | None, instance: str, first: int) -> NoStream | Closed | Fenced | Gap | None:
    """Whether a PUT that begins at `first` may be looked at."""
    if stream is None:
        return NoStream()
    if stream.state == "closed":
        return Closed(stream.successor)
    if stream.instance != instance:
        return Fenced()
    return Gap(stream) if first > stream.next else None


def rebind(stream: Stream, parent_agrees: bool, opening: Opening) -> Closed | Conflict | None:
    """Whether a stream that is there may be bound anew. A call that names no parent leaves the stored one."""
    if stream.state == "closed":
        return Closed(stream.successor)
    if opening.parent is not None and not parent_agrees:
        return Conflict(stream, 0, "this epoch was opened with another parent")
    return None


def attach(stream: Stream, first: int, prevhash: bytes, known: bytes | None) -> Gap | Conflict | None:
    """Whether `prevhash` joins on at `first`; `known` is the rechash before it here, None inside a hole."""
    if known is None:
        return Gap(stream)
    if known != prevhash:
        return Conflict(stream, first - 1, f"the rechash at {first - 1} differs from Nightsafe-Prevhash")
    return None


def place_hole(stream: Stream, hole: Hole, known_last: bytes | None) -> Gap | Conflict | bool:
    """Whether the hole is new (True) or there already (False); `known_last` is the rechash at its end here, if any."""
    if hole.last < stream.next:
        if known_last is None:
            return Gap(stream)
        if known_last != hole.rechash:
            return Conflict(stream, hole.last, f"the rechash at {hole.last} differs")
        return False
    if hole.first < stream.next:
        return Gap(stream)
    if hole.prevhash != stream.head:
        return Conflict(stream, hole.first - 1, f"the rechash at {hole.first - 1} differs from prevhash")
    return True
