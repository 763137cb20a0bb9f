"""A device's counting: where each sequence stands, what is contiguous, which holes there are."""

import pytest

from agent.core.arrivals import Gap, Hole, Holes, Place, Tally

NEXT, LATE, AHEAD, REUSED = Place.NEXT, Place.LATE, Place.AHEAD, Place.REUSED


def test_a_counting_without_holes_is_one_number() -> None:
    tally = Tally()
    assert [tally.add(number) for number in range(1, 1001)] == [NEXT] * 1000
    assert (tally.contiguous, tally.highest, tally.ranges(), tally.gaps()) == (1000, 1000, (), ())


@pytest.mark.parametrize(
    ("arrivals", "places", "contiguous", "gaps"),
    [
        ([], [], 0, ()),
        ([1], [NEXT], 1, ()),
        ([2], [AHEAD], 0, (Gap(1, 1),)),
        ([1, 1], [NEXT, REUSED], 1, ()),
        ([1, 3], [NEXT, AHEAD], 1, (Gap(2, 2),)),
        ([1, 3, 4], [NEXT, AHEAD, NEXT], 1, (Gap(2, 2),)),
        ([1, 3, 2], [NEXT, AHEAD, LATE], 3, ()),
        ([1, 5, 3], [NEXT, AHEAD, LATE], 1, (Gap(2, 2), Gap(4, 4))),
        ([1, 5, 3, 3, 4, 2], [NEXT, AHEAD, LATE, REUSED, LATE, LATE], 5, ()),
        ([5, 1], [AHEAD, LATE], 1, (Gap(2, 4),)),
        ([2**63 - 1, 1], [AHEAD, LATE], 1, (Gap(2, 2**63 - 2),)),
        ([3, 6, 9], [AHEAD, AHEAD, AHEAD], 0, (Gap(1, 2), Gap(4, 5), Gap(7, 8))),
    ],
)
def test_each_arrival_has_its_place(
    arrivals: list[int], places: list[Place], contiguous: int, gaps: tuple[Gap, ...]
) -> None:
    tally = Tally()
    assert [tally.add(number) for number in arrivals] == places
    assert (tally.contiguous, tally.gaps()) == (contiguous, gaps)


def test_ranges_account_for_what_is_lost() -> None:
    tally = Tally()
    for number in (1, 5, 9):
        tally.add(number)
    tally.add_range(2, 4)
    assert (tally.contiguous, tally.ranges(), tally.gaps()) == (5, ((9, 9),), (Gap(6, 8),))
    tally.add_range(3, 20)
    assert (tally.contiguous, tally.highest, tally.gaps()) == (20, 20, ())
    tally.add_range(1, 2)
    assert tally.contiguous == 20


def test_a_tally_comes_back_from_what_was_written_of_it() -> None:
    tally = Tally()
    for number in (1, 2, 5, 6, 9):
        tally.add(number)
    again = Tally(tally.contiguous, tally.ranges())
    assert (again.contiguous, again.ranges(), again.gaps()) == (2, ((5, 6), (9, 9)), (Gap(3, 4), Gap(7, 8)))
    assert [again.holds(number) for number in range(1, 11)] == [True] * 2 + [False] * 2 + [True] * 2 + [
        False,
        False,
        True,
        False,
    ]
    assert again.add(10) is NEXT
    assert again.add(3) is LATE


def test_holes_are_found_by_any_of_their_sequences_and_end_once() -> None:
    holes, there = Holes(), {}
    for first, last in ((10, 20), (2, 4), (7, 7)):
        there[first] = Hole(Gap(first, last), first * 1000, float(first))
        holes.add(there[first])
    found = [holes.at(sequence) for sequence in (1, 2, 4, 5, 7, 8, 10, 20, 21)]
    assert [hole.gap.first if hole is not None else None for hole in found] == [
        None, 2, 2, None, 7, None, 10, 10, None
    ]  # fmt: skip
    assert ([hole.gap for hole in holes], len(holes), holes.highest) == ([Gap(2, 4), Gap(7, 7), Gap(10, 20)], 3, 20)
    for _ in range(2):
        holes.remove(there[7])
        assert ([hole.gap.first for hole in holes.lowest(2)], holes.at(7)) == ([2, 10], None)


def test_what_a_device_says_it_has_counted_is_a_hole_behind_all_that_came() -> None:
    tally = Tally()
    assert tally.expect(3) == Gap(1, 3)
    assert (tally.contiguous, tally.highest, tally.gaps()) == (0, 3, (Gap(1, 3),))
    assert tally.expect(3) is tally.expect(2) is None
    assert [tally.add(number) for number in (1, 3, 2)] == [LATE, LATE, LATE]
    assert (tally.contiguous, tally.highest, tally.gaps()) == (3, 3, ())
    assert tally.add(4) is NEXT
    assert tally.expect(9) == Gap(5, 9)
    assert tally.add(12) is AHEAD
    assert tally.gaps() == (Gap(5, 11),)
    assert tally.gaps_within(Gap(10, 11), 9) == (Gap(10, 11),)
    assert tally.missing_of(Gap(5, 9)) == Gap(5, 9)
    assert tally.add(9) is LATE
    assert (tally.missing_of(Gap(5, 9)), tally.gaps()) == (Gap(5, 8), (Gap(5, 8), Gap(10, 11)))
    tally.add_range(5, 8)
    assert (tally.missing_of(Gap(5, 9)), tally.contiguous) == (None, 9)


def test_what_is_lost_at_the_end_is_a_hole_like_any_other() -> None:
    tally = Tally(50)
    tally.take_out(46, 50)
    assert (tally.contiguous, tally.highest, tally.gaps()) == (45, 50, (Gap(46, 50),))
    assert (tally.oldest_gaps(1), tally.latest_gaps(1)) == ((Gap(46, 50),), (Gap(46, 50),))
    assert tally.add(50) is LATE
    assert tally.add(46) is LATE
    assert tally.gaps() == (Gap(47, 49),)
    assert tally.add(51) is NEXT
    assert [tally.add(number) for number in (47, 48, 49)] == [LATE] * 3
    assert (tally.contiguous, tally.gaps()) == (51, ())


def test_a_lost_end_is_known_from_what_is_expected() -> None:
    tally = Tally(3)
    tally.expect(5)
    assert tally.gaps_within(Gap(4, 5), 9) == (Gap(4, 5),)
    assert tally.add(7) is AHEAD
    assert tally.gaps() == (Gap(4, 6),)
    tally.add_range(4, 6)
    assert (tally.contiguous, tally.gaps()) == (7, ())
