"""What a process asked of the kernel, seen by strace: in which order bytes arrived, were written, synced and answered.

One trace file for all threads: a call's entry and exit are told apart wherever another thread came between them.
"""

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.integration.machine import until
from tests.tools import cannot_run, needs

CALLS = "fdatasync,fsync,pwrite64,write,writev,read,recvfrom,recvmsg,sendto,sendmsg"
SHOWN_BYTES = 16_384
"""How much of each buffer is traced: a whole page of the journal, and what one event takes."""
OPTIONS = ["-f", "-yy", "-ttt", "-xx", "-s", str(SHOWN_BYTES), "-e", "signal=none"]

_LINE = re.compile(r"(?P<thread>\d+)\s+[\d.]+ (?P<rest>.*)")
_CALL = re.compile(r"(?P<name>\w+)\((?P<fd>\d+)(?:<(?P<file>.*?)>)?(?P<rest>[,)].*|\s.*)")
_RESUMED = re.compile(r"<\.\.\. (?P<name>\w+) resumed>(?P<rest>.*)")
_DATA = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_RESULT = re.compile(r"= (-?\d+)")


class Call(NamedTuple):
    """One system call: `entered` and `left` are places in the trace; `data` is what was read or written."""

    name: str
    file: str
    data: bytes
    result: int
    entered: int
    left: int


def needs_strace() -> None:
    """Skips the test where nothing can be traced; fails it under CI."""
    needs("strace")
    tried = subprocess.run(["strace", "-f", "-o", "/dev/null", "true"], capture_output=True, text=True, check=False)
    if "not permitted" in tried.stderr:
        cannot_run("this system permits no ptrace, so strace sees nothing")


@contextmanager
def traced(pid: int, folder: Path) -> Iterator[Path]:
    """Trace a running process with all its threads."""
    needs_strace()
    target, said = folder / "trace", folder / "strace.said"
    with said.open("wb") as words:
        strace = subprocess.Popen(
            ["strace", *OPTIONS, "-e", f"trace={CALLS}", "-o", str(target), "-p", str(pid)], stderr=words
        )
    try:
        until(lambda: b"attached" in said.read_bytes() or strace.poll() is not None, "strace is attached")
        assert strace.poll() is None, said.read_text(errors="replace")
        yield target
    finally:
        if strace.poll() is None:
            strace.terminate()
        strace.wait(10)


def from_birth(target: Path) -> list[str]:
    """What stands before a command so that its writes and answers are traced; its pid is its own (-D)."""
    needs_strace()
    return ["strace", "-D", *OPTIONS, "-e", "trace=fdatasync,fsync,pwrite64,sendto", "-o", str(target)]


def calls(trace: Path) -> list[Call]:
    """The calls of a trace that came to an end, in the order of their ends."""
    found: list[Call] = []
    open_calls: dict[str, tuple[str, int]] = {}
    with trace.open(encoding="ascii", errors="replace") as lines:
        for at, text in enumerate(lines):
            line = _LINE.match(text)
            if line is None:
                continue
            thread, rest, entered = line["thread"], line["rest"], at
            if rest.endswith("<unfinished ...>"):
                open_calls[thread] = (rest.removesuffix("<unfinished ...>"), at)
                continue
            if resumed := _RESUMED.match(rest):
                start = open_calls.pop(thread, None)
                if start is None:
                    continue
                rest, entered = start[0].rstrip() + resumed["rest"], start[1]
            if (call := _whole(rest, entered, at)) is not None:
                found.append(call)
    return found


def _whole(text: str, entered: int, left: int) -> Call | None:
    call, result = _CALL.match(text), _RESULT.search(text.rpartition(")")[2])
    if call is None or result is None:
        return None
    data = b"".join(bytes.fromhex(part.replace("\\x", "")) for part in _DATA.findall(call["rest"]))
    return Call(call["name"], _plain(call["file"] or ""), data, int(result[1]), entered, left)


def _plain(file: str) -> str:
    """With -xx strace writes paths in hex too."""
    return re.sub(r"\\x([0-9a-f]{2})", lambda found: chr(int(found[1], 16)), file)


# The promise, read from the calls

FRAME_HEADER_BYTES = 24
"""Of the write-ahead log (SQLite's file format 4.1): bytes 4 to 7 are not zero in the last frame of a transaction."""


class Answered(NamedTuple):
    """An event and the packet that acknowledges it. `mark` stands in the event's bytes and nowhere else."""

    mark: bytes
    packet: bytes


def told_too_early(trace: list[Call], socket: str, answered: list[Answered]) -> dict[bytes, str]:
    """The events that were acknowledged without a completed sync of their transaction before it; and what is wrong.

    `socket` is the end of the connection's name as strace writes it. Every event and its acknowledgement must be there.
    """
    wal = [call for call in trace if call.file.endswith("-wal")]
    heard = [call for call in trace if call.name in ("recvfrom", "recvmsg", "read") and call.file.endswith(socket)]
    said = [
        call for call in trace if call.name in ("sendto", "sendmsg", "write", "writev") and call.file.endswith(socket)
    ]
    guilty: dict[bytes, str] = {}
    for mark, packet in answered:
        arrived = next(call for call in heard if mark in call.data)
        told = next(call for call in said if packet in call.data and call.left > arrived.left)
        fault = _fault(wal, arrived, told, mark)
        if fault is not None:
            guilty[mark] = fault
    return guilty


def told_of_what_may_vanish(trace: list[Call], socket: str, packet: bytes) -> str | None:
    """What is wrong with an acknowledgement that rests on what an earlier process wrote, and perhaps never synced.

    None when the write-ahead log was brought into the database file, and that was synced, before it.
    """
    told = next(call for call in trace if call.name == "sendto" and call.file.endswith(socket) and packet in call.data)
    before = [call for call in trace if call.left < told.entered and call.file.endswith("/journal.sqlite")]
    written = [call for call in before if call.name == "pwrite64"]
    if not written:
        return "the log of the killed process was not brought into the database file"
    synced = [call for call in before if call.name in ("fdatasync", "fsync") and call.result == 0]
    if not any(call.entered > written[-1].left for call in synced):
        return "the database file was not synced"
    return None


def _fault(wal: list[Call], arrived: Call, told: Call, mark: bytes) -> str | None:
    """What is missing between arrival and acknowledgement, or None: the frames, their commit, the sync behind it."""
    between = [call for call in wal if call.entered > arrived.left and call.left < told.entered]
    writes = [call for call in between if call.name in ("pwrite64", "write")]
    at = next((at for at, call in enumerate(writes) if mark in call.data), None)
    if at is None:
        return "its frames were not written before the acknowledgement"
    commit = next(
        (after for before, after in zip(writes[at - 1 :], writes[at:], strict=False) if _commits(before)), None
    )
    if commit is None:
        return "its transaction was not committed before the acknowledgement"
    synced = [call for call in between if call.name in ("fdatasync", "fsync") and call.result == 0]
    if not any(call.entered > commit.left for call in synced):
        return "its transaction was not synced before the acknowledgement"
    return None


def _commits(call: Call) -> bool:
    return len(call.data) == FRAME_HEADER_BYTES and call.data[4:8] != bytes(4)
