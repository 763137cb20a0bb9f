"""What only the SQLite ledger promises: how its file is kept, and which files it leaves alone."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from agent.core.errors import JournalDamaged, SettingsInvalid, Transient
from agent.receiver.ledger.sqlite import open_ledger
from agent.receiver.ledger.sqlite_reader import open_reader


async def test_files_are_for_the_owner_only(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        ledger = await open_ledger(tmp_path / "ledger.db")
    finally:
        os.umask(before)
    await ledger.keep_health("demo", "t", b"{}")
    modes = {entry.name: entry.stat().st_mode & 0o777 for entry in os.scandir(tmp_path)}
    await ledger.close()
    assert set(modes) == {"ledger.db", "ledger.db-wal", "ledger.db-shm", "ledger.db-serve.lock"}
    assert set(modes.values()) == {0o600}


async def test_every_commit_is_synced(tmp_path: Path) -> None:
    ledger = await open_ledger(tmp_path / "ledger.db")
    rows = await ledger._thread.run(
        lambda: [ledger._db.execute(f"pragma {name}").fetchone()[0] for name in ("synchronous", "journal_mode")]
    )
    await ledger.close()
    assert rows == [2, "wal"]


async def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("create table mine (a)")
        db.commit()
    before = path.read_bytes()
    for opened in (open_ledger, open_reader):
        with pytest.raises(SettingsInvalid, match="another program"):
            await opened(path)
    assert path.read_bytes() == before


async def test_a_ledger_of_a_later_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    await (await open_ledger(path)).close()
    with closing(sqlite3.connect(path)) as db:
        db.execute("pragma user_version = 2")
    for opened in (open_ledger, open_reader):
        with pytest.raises(SettingsInvalid, match="schema 2"):
            await opened(path)


async def test_what_is_no_database_is_refused_with_words(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("nothing of SQLite's\n" * 200)
    for opened in (open_ledger, open_reader):
        with pytest.raises(JournalDamaged, match="not a database"):
            await opened(path)


async def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalid, match="no folder"):
        await open_ledger(tmp_path / "none" / "ledger.db")


async def test_an_empty_file_is_no_ledger_to_read(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    path.touch()
    with pytest.raises(SettingsInvalid, match="no ledger"):
        await open_reader(path)


async def test_a_refused_opening_leaves_the_ledger_free(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    first = await open_ledger(path)
    with pytest.raises(SettingsInvalid):
        await open_ledger(path)
    await first.close()
    await (await open_ledger(path)).close()


async def test_a_ledger_that_cannot_store_says_so_and_goes_on_later(tmp_path: Path) -> None:
    ledger = await open_ledger(tmp_path / "ledger.db")
    pages = await ledger._thread.run(lambda: ledger._db.execute("pragma page_count").fetchone()[0])
    await ledger._thread.run(lambda: ledger._db.execute(f"pragma max_page_count = {pages}"))
    with pytest.raises(Transient, match="full"):
        await ledger.keep_health("demo", "t", b"x" * 100_000)
    await ledger._thread.run(lambda: ledger._db.execute("pragma max_page_count = 100000"))
    await ledger.keep_health("demo", "t", b"x" * 100_000)
    await ledger.close()
