"""The look for card payments that no reservation tells of, at every start: the writer waits for it, so it goes once
through the payments, however many reservations there ever were."""

import sqlite3
from pathlib import Path

from agent.journal.database import SQL

MIGRATIONS = Path(__file__).parents[2] / "agent" / "journal" / "migrations"
PAYMENT = """insert into payment_events (position, payment_id, kind, device, event_id, amount, currency, tender,
offline, training, recorded_ms, uptime_ms, boot) values (?, ?, 'captured', ?, ?, 1250, 'GBP', 'card', ?, 0, 0, 0, 1)"""
RESERVATION = """insert into reservations (device, payment_id, token, amount, currency, at_s, stored, against, ended)
values (?, ?, 't', 1250, 'GBP', 1.0, 1, 0, ?)"""
COUNTED = 100


def steps(payments_count: int) -> int:
    """What SQLite does for it, in hundreds of its virtual machine's steps; each tenth payment was taken on trust."""
    with sqlite3.connect(":memory:") as database:
        for name in ("0007_requests", "0008_payments"):
            database.executescript((MIGRATIONS / f"{name}.sql").read_text("utf-8"))
        numbers = range(payments_count)
        database.executemany(PAYMENT, ((n, f"p{n}", f"till-{n % 8}", f"e{n}", int(n % 10 == 0)) for n in numbers))
        trusted = numbers[::10]
        database.executemany(RESERVATION, ((f"till-{n % 8}", f"p{n}", "posted" if n % 20 else None) for n in trusted))
        done = 0

        def count() -> int:
            nonlocal done
            done += 1
            return 0

        database.set_progress_handler(count, COUNTED)
        assert database.execute(SQL["read_unaccounted"]).fetchall() == []
    database.close()
    return done


def test_four_times_the_payments_and_reservations_are_four_times_the_work() -> None:
    assert steps(8_000) < 5 * steps(2_000)
