"""The size of the next batch: grows while batches go fast, shrinks when they do not, stays within its limits."""

import pytest

from agent.core.batches import BatchSize, halved, limited, succeeded

SIZE = BatchSize(records=100, ceiling=5000, bytes_max=1_000_000)


def test_it_at_most_doubles_while_batches_are_fast() -> None:
    assert succeeded(SIZE, 100, 0.01, 2.0).records == 200
    assert succeeded(SIZE, 100, 0.0, 2.0).records == 200


def test_it_grows_up_to_the_ceiling_and_not_beyond() -> None:
    size = SIZE
    for _ in range(20):
        size = succeeded(size, size.records, 0.001, 2.0)
    assert size.records == 5000


def test_it_settles_where_a_batch_takes_the_target() -> None:
    size = SIZE
    for _ in range(40):
        size = succeeded(size, size.records, size.records / 300, 2.0)
    assert 200 <= size.records <= 700


def test_a_short_batch_says_nothing_about_the_link() -> None:
    assert succeeded(SIZE, 3, 0.001, 2.0) == SIZE


def test_a_slow_batch_makes_the_next_one_smaller_but_never_empty() -> None:
    assert succeeded(SIZE, 100, 4.0, 2.0).records == 50
    assert succeeded(SIZE, 100, 1000.0, 2.0).records == 25
    assert succeeded(SIZE, 20, 4.0, 2.0).records == 10
    assert succeeded(SIZE, 10, 4.0, 2.0).records == 5  # what was sent took so long, not what could have been sent
    one = BatchSize(records=1, ceiling=10, bytes_max=10)
    assert succeeded(one, 1, 100.0, 2.0).records == 1
    assert halved(one, 1).records == 1
    assert halved(SIZE, 100).records == 50
    assert halved(SIZE, 10).records == 5


def test_base64_is_for_one_attempt() -> None:
    plain = BatchSize(records=1, ceiling=10, bytes_max=10, base64=True)
    assert not succeeded(plain, 1, 0.1, 2.0).base64
    assert halved(plain, 1).base64


@pytest.mark.parametrize(
    ("records", "bytes_max", "wanted"),
    [
        (50, None, BatchSize(50, 50, 1_000_000)),
        (None, 1000, BatchSize(100, 5000, 1000)),
        (200, 2_000_000, BatchSize(100, 200, 1_000_000)),
        (10_000, None, BatchSize(100, 5000, 1_000_000)),
        (0, 0, SIZE),
        (None, None, SIZE),
    ],
)
def test_the_clouds_limits_only_lower(records: int | None, bytes_max: int | None, wanted: BatchSize) -> None:
    assert limited(SIZE, records, bytes_max) == wanted
