"""tape → [a disk] → what is left of it after a power cut. Follows the tape, and knows what is durable at each place.

What was written is durable when a sync that began after it has returned; until then a cut takes it or leaves it, as the
policy says. A sync that failed covers nothing, and the kernel forgets what it should have written while it goes on
showing it: no later sync brings it back. Names become durable with any sync, or only with their folder's.
"""

from random import Random
from typing import Final, Literal, NamedTuple

from tests.crash.power.tape import WITNESSES, Op, change

Policy = Literal["drop", "prefix", "subset"]

SECTOR_BYTES: Final = 512
"""What a disk writes whole or not at all."""


class Way(NamedTuple):
    """How a cut takes away what is not durable. `strict`: names become durable with their folder's sync alone."""

    policy: Policy
    strict: bool = False

    @property
    def name(self) -> str:
        return f"{self.policy}, strict" if self.strict else self.policy


class _File:
    """One file: what is durable of it, what is not yet, and what a program that reads it sees."""

    def __init__(self) -> None:
        self.durable = bytearray()
        self.pending: list[tuple[int, Op]] = []
        self.seen = bytearray()


class Disk:
    """Give it each record of a tape with `take`; `after_cut` is what the next start would find."""

    def __init__(self, way: Way, chance: Random) -> None:
        self._way = way
        self._chance = chance
        self._files: dict[int, _File] = {}
        self._names: dict[str, int] = {}
        self._names_pending: list[tuple[int, Op]] = []
        self._names_seen: dict[str, int] = {}
        self._count = 0

    def take(self, op: Op) -> None:
        """The next record."""
        if op.kind in ("write", "truncate", "grow"):
            file = self._file(op.file)
            file.pending.append((self._count, op))
            change(file.seen, op)
        elif op.kind in ("create", "rename", "unlink"):
            self._names_pending.append((self._count, op))
            _name(self._names_seen, op)
        elif op.kind != "note" and not f"{op.path}/".startswith(WITNESSES):
            self._sync(op)
        self._count += 1

    def after_cut(self) -> dict[str, bytes]:
        """Path to content."""
        names = dict(self._names)
        for _, op in self._left(self._names_pending, torn=False):
            _name(names, op)
        return {path: self._content(self._file(file)) for path, file in names.items()}

    def seen(self) -> dict[str, bytes]:
        """Path to content, as a running program finds it."""
        return {path: bytes(self._file(file).seen) for path, file in self._names_seen.items()}

    def _file(self, number: int) -> _File:
        found = self._files.get(number)
        if found is None:
            found = self._files[number] = _File()
        return found

    def _sync(self, op: Op) -> None:
        if op.kind != "sync_folder":
            file = self._file(op.file)
            covered = [(at, one) for at, one in file.pending if at < op.place]
            file.pending = [(at, one) for at, one in file.pending if at >= op.place]
            for _, one in covered if op.kind == "sync" else self._left(covered, torn=True):
                change(file.durable, one)
        if op.kind == "sync_folder" or (op.kind == "sync" and not self._way.strict):
            for at, one in self._names_pending:
                if at < op.place:
                    _name(self._names, one)
            self._names_pending = [(at, one) for at, one in self._names_pending if at >= op.place]

    def _content(self, file: _File) -> bytes:
        content = bytearray(file.durable)
        for _, op in self._left(file.pending, torn=True):
            change(content, op)
        return bytes(content)

    def _left(self, pending: list[tuple[int, Op]], torn: bool) -> list[tuple[int, Op]]:
        """What of all that is not durable reached the disk all the same."""
        if not pending or self._way.policy == "drop":
            return []
        if self._way.policy == "prefix":
            return pending[: self._chance.randrange(len(pending) + 1)]
        left = [one for one in pending if self._chance.random() < 0.5]
        if left and torn:
            at, op = left[-1]
            sectors = len(op.data) // SECTOR_BYTES
            if op.kind == "write" and sectors > 1:
                kept = op.data[: SECTOR_BYTES * self._chance.randrange(1, sectors + 1)]
                left[-1] = at, Op("write", op.file, op.place, op.path, kept)
        return left


def _name(names: dict[str, int], op: Op) -> None:
    if op.kind == "create":
        names[op.path] = op.file
        return
    names.pop(op.path, None)
    if op.kind == "rename":
        names[op.new_path] = op.file
