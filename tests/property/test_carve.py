"""Rows read straight from the pages are the rows that SQLite stores, wherever they stand and however long they are."""

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.journal.database import PAGE_BYTES, migrations
from agent.journal.old import Old, Shape
from agent.journal.pages import Remains, _varint
from tests.property.journal_rig import QUICK

SIZES = st.one_of(st.integers(0, 60), st.integers(1700, 2100), st.integers(3900, 4200), st.integers(0, 20_000))
INTEGERS = st.one_of(st.integers(0, 3), st.integers(-(2**63), 2**63 - 1))
MAYBE = st.none() | INTEGERS
RECORD = st.tuples(INTEGERS, MAYBE, INTEGERS, INTEGERS, INTEGERS, st.integers(0, 1), SIZES, MAYBE)
RECORDS = st.lists(RECORD, min_size=1, max_size=40)


@contextmanager
def database() -> Iterator[tuple[Path, sqlite3.Connection]]:
    """An empty journal, its log never copied back by itself."""
    folder = Path(tempfile.mkdtemp(dir=QUICK))
    connection = sqlite3.connect(folder / "journal.sqlite", isolation_level=None)
    for pragma in (f"page_size = {PAGE_BYTES}", "journal_mode = wal", "synchronous = off", "wal_autocheckpoint = 0"):
        connection.execute(f"pragma {pragma}")
    for _, text in migrations():
        connection.executescript(text)
    yield folder, connection
    connection.close()
    shutil.rmtree(folder)


@settings(max_examples=60, deadline=None)
@given(RECORDS, st.integers(0, 40), st.randoms(use_true_random=False))
def test_carving_a_real_database_finds_exactly_its_records(rows: list[Any], copied: int, chance: Any) -> None:
    with database() as (folder, connection):
        stored = []
        for position, (*numbers, size, beside) in enumerate(rows, start=chance.choice((1, 120, 2**31))):
            row = (position, *numbers, os.urandom(32), os.urandom(32), os.urandom(size), beside)
            connection.execute(f"insert into records values ({','.join('?' * 11)})", row)
            stored.append(row)
            if len(stored) == copied:
                connection.execute("pragma wal_checkpoint(passive)")
        found = {tuple(row) for row in carve(folder)}
        assert found == set(stored)


def carve(folder: Path) -> list[Any]:
    """From a copy, as salvage does it."""
    with tempfile.TemporaryDirectory(dir=QUICK) as copy:
        for name in ("journal.sqlite", "journal.sqlite-wal"):
            shutil.copy(folder / name, Path(copy) / name)
        with closing(Old(Path(copy))) as old:
            return list(old.carved_records())


SMALL = {
    "boots": [(1, "boot-1", None), (2, "boot-2", 1_795_342_500_000)],
    "devices": [(1, "till-1", 5, 900, 3, 500, None, None, None), (2, "agent", 1, 1, 0, 0, 1_795_342_500_000, 1, 99)],
    "device_epochs": [(1, 1, "e1", 5, "[]", 3, "[[5,9]]"), (2, 2, "", 0, "[]", 0, "[]")],
    "gaps": [(1, 4, 6, 1_795_342_500_000, "open", None, None), (1, 9, 9, 1, "lost", "c", 12.5)],
    "known": [(1, "a", b"d" * 16, 1), (1, "b" * 200, b"e" * 16, 2)],
    "missing": [(9, 4, "damaged", 1_795_342_500_000)],
    "safe_marks": [(5, 0.0), (9, 1234.5)],
    "quarantine": [(1, 7, 1, None, "bad", "schema", "why", "ab", 12, "{", b"{}", 1, "open", None, None)],
    "streams": [(1, "0199", 0, bytes(32), None, None, None, "created", 0, None)],
    "journal": [(1, "demo", 1, 2, 3, 4, None, 0.0, "boot", 5.5, 0)],
    "attentions": [
        (1, "forked", "warning", "Title", "", "Do it.", 1_795_342_500_000, 1, 99, None),
        (2, "lost", "critical", "T" * 300, "t", "", 0, 0, 1, 12.5),
    ],
    "payment_fates": [(1, "p", "posted", "2026-11-22T11:00:00Z", None, 4, 5), (2, "p", "declined", "", "why", 0, 0)],
    "payment_dismissals": [(1, "p", "q", "Ann", "two rounds", 1_795_342_500_000, 1, 99)],
}


@pytest.mark.parametrize("table", SMALL)
def test_rows_of_each_small_table_are_known_by_their_shape(table: str) -> None:
    with database() as (folder, connection):
        for name, rows in SMALL.items():
            connection.executemany(f"insert into {name} values ({','.join('?' * len(rows[0]))})", rows)
        shape = Shape(connection, table)
        connection.execute("pragma wal_checkpoint(truncate)")
        with closing(Old(folder)) as old:
            assert sorted(set(old.carved(shape)), key=repr) == sorted(SMALL[table], key=repr)


def test_a_page_of_noise_yields_nothing_and_raises_nothing(tmp_path: Path) -> None:
    for seed in range(30):
        noise = bytearray(os.urandom(PAGE_BYTES * 4))
        noise[::PAGE_BYTES] = b"\x0d" * 4 if seed % 2 else b"\x0a" * 4
        (tmp_path / "db").write_bytes(noise)
        remains = Remains(tmp_path / "db", tmp_path / "none")
        assert list(remains.cells(lambda rowid, serials: serials[7:9] == (76, 76))) == []


def test_a_page_that_claims_a_header_of_millions_of_bytes_is_not_read_through(tmp_path: Path) -> None:
    """Else a rebuild reads each page as often as it has cells."""
    page = bytearray(b"\x01" * PAGE_BYTES)
    page[:8] = b"\x0d\0\0" + (400).to_bytes(2) + bytes(3)
    for cell in range(400):
        page[8 + 2 * cell : 10 + 2 * cell] = (1200 + 2 * cell).to_bytes(2)
    for at in range(1200, PAGE_BYTES):
        page[at] = (0x90, 0x50)[at % 2]
    (tmp_path / "db").write_bytes(bytes(PAGE_BYTES) + page)
    with patch("agent.journal.pages._varint", side_effect=_varint) as reading:
        assert list(Remains(tmp_path / "db", tmp_path / "none").cells(lambda rowid, serials: True)) == []
    assert reading.call_count <= 3 * 400 * 2
