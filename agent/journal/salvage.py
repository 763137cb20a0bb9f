"""[journal: salvage] ← start-up. Makes a sound journal out of a damaged one: every record that proves itself is kept.

The damaged files are moved to `damaged/<time>/` first, or beside it where that takes none; the newest of these folders
always stays. The new journal is built beside them and takes its name in one step, so a kill at any moment only means
that it is built again. Where the disk has no room for a second journal, or the damaged one can be kept nowhere, nothing
is touched. Positions and epoch stay; what is lost is named. It never takes over a row that no seal proves.
"""

import os
import shutil
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

import msgspec
import structlog

from agent.core.errors import Transient
from agent.core.instants import to_text
from agent.journal import mark as marks
from agent.journal import names as copies
from agent.journal.aside import FOLDER_NAME, folders, kept
from agent.journal.database import FILE_NAME, PAGE_BYTES, migrations, named
from agent.journal.history import compare
from agent.journal.mark import Point
from agent.journal.old import Old, open_read_only
from agent.journal.pages import cut_log
from agent.journal.rebuild import Beside, Rebuild, Terms
from agent.journal.repaired import Repaired
from agent.journal.reserve import RESERVE_NAME
from agent.runtime.files import FILE_MODE, StateUnusable, private_directory, sync_directory, write_whole

log = structlog.get_logger()

MARKER_NAME: Final = "journal.rebuild"
"""A file that asks for a rebuild at the next start; it says why."""
PLAN_NAME: Final = "journal.salvage"
"""A salvage that has begun and is not done."""
PROBE_NAME: Final = "journal.probe"
"""An empty file that shows whether files can be moved into a folder."""
FOLDER_PATTERN: Final = "[0-9]*T*-*"
"""Folders in `damaged` that a salvage has made, by the time of each."""
NEW_NAME: Final = f"{FILE_NAME}.new"
PARTS: Final = ("", "-wal", "-shm")
ROOM_BESIDE_BYTES: Final = 1_048_576
"""Room that a rebuild needs beyond the size of what it reads: for its plan, the names, the mark and the new log."""


class _Plan(msgspec.Struct):
    """Which folder the damaged files are in, why, whether all of them have been moved there, and what the rebuild has
    done, from just before the new database takes its name."""

    folder: str
    reason: str
    moved: bool = False
    done: Repaired | None = None


def demand(directory: Path, why: str) -> None:
    """Have the journal rebuilt at the next start."""
    write_whole(directory / MARKER_NAME, why.encode())


def reason(directory: Path, venue: str) -> str | None:
    """Why the journal in `directory` must be rebuilt before it is opened, in words; None where it need not be.

    Looks without changing anything: opening it for writing would drop what stands behind a break in its log.
    """
    if (directory / PLAN_NAME).exists():
        return "an earlier rebuild was cut off"
    with suppress(OSError):
        return (directory / MARKER_NAME).read_text(errors="replace") or "a rebuild was asked for"
    path, mark = directory / FILE_NAME, marks.read(directory)
    present = path.exists() and path.stat().st_size > 0
    if not present:
        gone = "the journal's file is gone" if not path.exists() else "the journal's file is empty"
        left = _size(directory / f"{FILE_NAME}-wal") > 0
        return gone if mark is not None or left or (directory / copies.FILE_NAME).exists() else None
    try:
        with closing(open_read_only(path)) as connection:
            return _suspicion(connection, directory, mark, venue)
    except sqlite3.Error as error:
        ours = named(error)
        code = getattr(error, "sqlite_errorname", "")
        return ours.text if ours.code == "journal_corrupt" or code == "SQLITE_ERROR" else None
    except (TypeError, ValueError, StopIteration) as error:
        return f"its tables cannot be read: {error}"


def _suspicion(connection: sqlite3.Connection, directory: Path, mark: Point | None, venue: str) -> str | None:
    if connection.execute("pragma user_version").fetchone()[0] == 0:
        tables = connection.execute("select count(*) from sqlite_schema").fetchone()[0]
        return "the file is another program's database" if tables or mark is not None else None
    if connection.execute("pragma user_version").fetchone()[0] < 2:
        return None  # an older schema is brought forward first
    found = connection.execute("select venue from journal").fetchone()
    if found is None:
        empty = connection.execute("select 1 from records limit 1").fetchone() is None
        return "the journal's own row is gone" if mark is not None or not empty else None
    if mark is not None and mark.venue == venue and found[0] != venue:
        return "another venue's journal was put in the place of this one"
    wal = directory / f"{FILE_NAME}-wal"
    if cut_log(wal, _valid_frames(directory)):
        return "the write-ahead log is damaged in the middle"
    if mark is not None and compare(connection, mark) == "short" and _size(wal) > 0:
        return "the write-ahead log has lost its end"
    return None


def _valid_frames(directory: Path) -> int:
    """How many frames of the log SQLite takes: its own count, as its index has it while a connection is open."""
    try:
        with (directory / f"{FILE_NAME}-shm").open("rb") as stream:
            return int.from_bytes(stream.read(20)[16:20], sys.byteorder)
    except OSError:
        return 0


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def run(directory: Path, terms: Terms, why: str, busy: Callable[[], None] = lambda: None) -> Repaired:
    """Rebuild the journal in `directory`. May be called again after any interruption; `busy` is called again and again.

    Raises Transient where the disk has no room for it: then nothing has been moved that was not moved before, and the
    next opening tries again.
    """
    log.error("journal_salvage_began", reason=why)
    _drop_unfinished(directory)
    _need_room(directory)
    plan = _plan(directory, terms.wall_ms, why)
    folder = directory / plan.folder
    if not plan.moved:
        _move(directory, folder)
        plan.moved = True
        _write_plan(directory, plan)
    try:
        done = _build(directory, folder, terms, plan, busy)
    except sqlite3.Error as error:
        _drop_unfinished(directory)
        raise named(error) from error
    except OSError:
        _drop_unfinished(directory)
        raise
    for name in (marks.FILE_NAME, MARKER_NAME, PLAN_NAME):  # the mark is of what was, and begins anew
        (directory / name).unlink(missing_ok=True)
    sync_directory(directory)
    log.error("journal_salvaged", lost=done.lost_count, kept_in=done.kept_in)
    _thin_out(directory, folder, terms.bytes_max)
    return done


def _drop_unfinished(directory: Path) -> None:
    """A half-built database is begun anew, and takes no room until then."""
    for part in (*PARTS, "-journal"):
        with suppress(OSError):
            (directory / f"{NEW_NAME}{part}").unlink(missing_ok=True)


def _need_room(directory: Path) -> None:
    """Raise Transient, before anything is touched, where no second journal fits on the disk. The reserve's room counts:
    it is given when this says that the disk is full."""
    plan = _read_plan(directory)
    if plan is not None and plan.moved and (directory / FILE_NAME).exists():
        return
    places = [directory, *([directory / plan.folder] if plan is not None else [])]
    needed = sum(_size(place / f"{FILE_NAME}{part}") for place in places for part in PARTS[:2]) + ROOM_BESIDE_BYTES
    disk = os.statvfs(directory)
    free = disk.f_bavail * disk.f_frsize
    if free >= needed:
        return
    kept = kept_bytes(directory)
    worthless = free + _size(directory / RESERVE_NAME) < needed
    raise Transient(
        "rebuild_no_room" if worthless else "disk_full",
        f"The journal is damaged and must be built anew, which needs {needed} free bytes; there are {free}.",
        "Free space on the disk of the state directory; it then goes on by itself."
        + (f" Its folder {FOLDER_NAME} holds {kept} bytes of earlier damage." if kept else ""),
    )


def kept_bytes(directory: Path) -> int:
    """What the folder `damaged` takes."""
    return sum(_bytes_of(folder) for folder in folders(directory))


def _bytes_of(folder: Path) -> int:
    return sum(_size(path) for path in folder.rglob("*") if path.is_file())


def _thin_out(directory: Path, newest: Path, bytes_max: int) -> None:
    """Of earlier damaged databases keep the first, then the latest, as far as they fit beside the newest one, which
    always stays; folders of people's own are left alone."""
    found = (one for folder in folders(directory) for one in folder.glob(FOLDER_PATTERN))
    others = sorted((one for one in found if one.is_dir() and one != newest), key=lambda one: one.name)
    left_bytes = bytes_max - _bytes_of(newest)
    for one in (*others[:1], *reversed(others[1:])):
        size = _bytes_of(one)
        if size <= left_bytes:
            left_bytes -= size
            continue
        shutil.rmtree(one, ignore_errors=True)
        log.warning("damaged_files_removed", folder=str(one.relative_to(directory)), bytes=size)


def _read_plan(directory: Path) -> _Plan | None:
    with suppress(OSError, msgspec.MsgspecError):
        return msgspec.json.decode((directory / PLAN_NAME).read_bytes(), type=_Plan)
    return None


def _plan(directory: Path, wall_ms: int, why: str) -> _Plan:
    """The plan that has begun, or a new one, in a folder into which the files can be moved."""
    found = _read_plan(directory)
    if found is not None and (found.moved or _begun(directory / found.folder) or _takes(directory, found.folder)):
        return found
    stamp = to_text(wall_ms).replace(":", "")

    def make(folder: Path) -> str:
        number = next(n for n in range(1000) if not (folder / f"{stamp}-{n}").exists())
        made = f"{folder.name}/{stamp}-{number}"
        _try_move(directory, made)
        sync_directory(folder)
        return made

    plan = _Plan(kept(directory, make), found.reason if found is not None else why)
    _write_plan(directory, plan)
    return plan


def _begun(folder: Path) -> bool:
    return any((folder / f"{FILE_NAME}{part}").exists() for part in PARTS)


def _takes(directory: Path, folder: str) -> bool:
    try:
        _try_move(directory, folder)
    except (OSError, StateUnusable):
        return False
    return True


def _try_move(directory: Path, folder: str) -> None:
    """Move an empty file there, which goes again: a folder may be on another disk, or take nothing."""
    private_directory(directory / folder)
    probe = directory / PROBE_NAME
    try:
        probe.touch(FILE_MODE)
        probe.rename(directory / folder / PROBE_NAME)
        (directory / folder / PROBE_NAME).unlink()
    finally:
        probe.unlink(missing_ok=True)


def _write_plan(directory: Path, plan: _Plan) -> None:
    write_whole(directory / PLAN_NAME, msgspec.json.encode(plan))


def _move(directory: Path, folder: Path) -> None:
    private_directory(folder)
    for part in PARTS:
        with suppress(FileNotFoundError):
            (directory / f"{FILE_NAME}{part}").rename(folder / f"{FILE_NAME}{part}")
    sync_directory(folder)
    sync_directory(directory)


def _build(directory: Path, folder: Path, terms: Terms, plan: _Plan, busy: Callable[[], None]) -> Repaired:
    """The new journal under its own name. Where that stands already, only the plan's end was missing."""
    path, new = directory / FILE_NAME, directory / NEW_NAME
    if path.exists():
        return plan.done or Repaired(plan.reason, kept_in=plan.folder)
    os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, FILE_MODE))
    old = Old(folder, busy)
    with closing(sqlite3.connect(new, isolation_level=None)) as connection, closing(old):
        for pragma in (f"page_size = {PAGE_BYTES}", "journal_mode = off", "synchronous = off", "temp_store = memory"):
            connection.execute(f"pragma {pragma}")
        for number, text in migrations():
            connection.executescript(f"begin;\n{text}\npragma user_version = {number};\ncommit;")
        connection.execute("begin")
        beside = Beside(marks.read(directory), copies.read(directory))
        done = Rebuild(connection, old, beside, terms, busy).run(directory, plan.reason, plan.folder)
        connection.execute("commit")
    with new.open("rb") as stream:
        os.fsync(stream.fileno())
    plan.done = done
    _write_plan(directory, plan)
    new.rename(path)
    sync_directory(directory)
    return done
