"""A device's counting against a plain set of numbers."""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.arrivals import Gap, Place, Tally


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.integers(1, 40).map(lambda number: (number, number)),
            st.tuples(st.integers(1, 40), st.integers(0, 8)).map(lambda pair: (pair[0], pair[0] + pair[1])),
            st.integers(1, 48).map(lambda number: (0, number)),
        ),
        max_size=40,
    )
)
def test_a_tally_counts_as_a_set_does(steps: list[tuple[int, int]]) -> None:
    """A step that begins at 0 is the device's word of how far it has counted."""
    tally, seen, expected = Tally(), set[int](), 0
    for first, last in steps:
        highest = max(expected, *seen, 0)
        if first == 0:
            assert tally.expect(last) == (Gap(highest + 1, last) if last > highest else None)
            expected = max(expected, last)
        elif first == last:
            wanted = (
                Place.REUSED if first in seen
                else Place.LATE if first <= highest
                else Place.NEXT if first == highest + 1
                else Place.AHEAD
            )  # fmt: skip
            assert tally.add(first) is wanted
        else:
            tally.add_range(first, last)
        seen |= set(range(first, last + 1)) if first else set()
        contiguous = next(number for number in range(1, 60) if number not in seen) - 1
        highest = max(expected, *seen, 0)
        assert (tally.contiguous, tally.highest) == (contiguous, highest)
        assert [number for number in range(1, 60) if tally.holds(number)] == sorted(seen)
        missing = {number for gap in tally.gaps() for number in range(gap.first, gap.last + 1)}
        assert missing == set(range(1, highest + 1)) - seen
        gaps = tally.gaps()
        assert list(gaps) == sorted(Gap(*gap) for gap in gaps)
        assert [tally.oldest_gaps(count) for count in range(3)] == [gaps[:count] for count in range(3)]
        assert [tally.latest_gaps(count) for count in range(3)] == [
            gaps[len(gaps) - min(count, len(gaps)) :] for count in range(3)
        ]
        first = max(first, 1)
        assert [tally.covers(first, end) for end in range(first, 50)] == [
            set(range(first, end + 1)) <= seen for end in range(first, 50)
        ]
        within = Gap(max(1, first - 4), last + 4)
        lacking = sorted(missing & set(range(within.first, within.last + 1)))
        parts = tally.gaps_within(within, 100)
        assert [tally.gaps_within(within, count) for count in range(4)] == [parts[:count] for count in range(4)]
        assert [number for part in parts for number in range(part.first, part.last + 1)] == lacking
        assert all(above.first > below.last + 1 for below, above in pairwise(parts))
        if within.last <= highest:
            assert tally.missing_of(within) == (Gap(lacking[0], lacking[-1]) if lacking else None)
        again = Tally(tally.contiguous, tally.ranges())
        again.expect(expected)
        assert (again.highest, again.ranges(), again.gaps()) == (tally.highest, tally.ranges(), tally.gaps())
        assert len(tally.ranges()) + (expected > max(seen, default=0)) == len(tally.gaps())


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(("add", "lose", "expect")), st.integers(1, 30), st.integers(0, 6)), max_size=30)
)
def test_a_tally_that_loses_counts_as_a_set_does(steps: list[tuple[str, int, int]]) -> None:
    tally, seen, highest = Tally(), set[int](), 0
    for what, first, more in steps:
        numbers = set(range(first, first + more + 1))
        if what == "add":
            tally.add_range(first, first + more)
            seen, highest = seen | numbers, max(highest, first + more)
        elif what == "lose":
            tally.take_out(first, first + more)
            seen -= numbers
        else:
            tally.expect(first)
            highest = max(highest, first)
        assert tally.highest == highest
        assert {number for number in range(1, 60) if tally.holds(number)} == seen
        missing = {number for gap in tally.gaps() for number in range(gap.first, gap.last + 1)}
        assert missing == set(range(1, highest + 1)) - seen
        assert tally.oldest_gaps(2) == tally.gaps()[:2]
        assert tally.latest_gaps(2) == tally.gaps()[-2:]
