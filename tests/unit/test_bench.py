"""The pure parts of the benchmarks: the frames are what devices send, and the arithmetic is right."""

from io import StringIO

import pytest
from rich.console import Console

from agent.bench.aims import aims
from agent.bench.asking import frame, head
from agent.bench.facts import Asked, Live, Machine, Noise, Report, Round, Uplink
from agent.bench.figures import Note, acked_between, latencies_ns, percentile
from agent.bench.frames import PACKET_IDS, Deck, acknowledgements, deck
from agent.bench.profile import top
from agent.bench.table import render
from agent.bench.uplink import medians, turned
from agent.bench.ways import STATES
from agent.core.events import Event, judge
from agent.core.ids import CHANCE_BYTES, uuid7

SINCE_MS = 1_795_342_500_000


def events(made: Deck) -> list[Event]:
    """The verdicts on a device's events; all of them are fit to be stored."""
    verdicts = [judge("till-7", payload, 262_144, 64, 4_096) for payload in made.events()]
    assert all(isinstance(verdict, Event) for verdict in verdicts)
    return [verdict for verdict in verdicts if isinstance(verdict, Event)]


@pytest.mark.parametrize("level", [4, 5])
def test_every_frame_holds_an_event_that_is_stored(level: int) -> None:
    found = events(deck("till-7", level, 1, 1003, SINCE_MS))
    assert [event.sequence for event in found] == list(range(1, 1004))
    assert len({event.id for event in found}) == 1003
    assert {event.type for event in found} == {"pos.payment.captured", "pos.check.updated"}
    assert 800 <= sum(len(event.body) for event in found) / 1003 <= 860


def test_a_later_deck_goes_on_in_the_same_epoch_with_other_ids() -> None:
    first, later = (events(deck("till-7", 4, begin, 500, SINCE_MS)) for begin in (1, 501))
    assert [event.sequence for event in later] == list(range(501, 1001))
    assert {event.epoch for event in first} == {event.epoch for event in later}
    assert not {event.id for event in first} & {event.id for event in later}


def test_ids_carry_rising_milliseconds_as_uuid7_has_them() -> None:
    ids = [event.id for event in events(deck("till-7", 4, 65_530, 20, SINCE_MS))]
    assert ids == sorted(ids)
    heads = [uuid7(SINCE_MS + 65_530 + index, bytes(CHANCE_BYTES))[:14] for index in range(20)]
    assert [one[:14] for one in ids] == heads


@pytest.mark.parametrize(("level", "extra"), [(4, b""), (5, b"\0")])
def test_a_frame_is_one_publish_at_qos_1_to_the_devices_own_topic(level: int, extra: bytes) -> None:
    made = deck("till-7", level, 1, 12, SINCE_MS)
    for index, event in enumerate(made.events()):
        frame = bytes(made.block[made.offsets[index] : made.offsets[index + 1]])
        topic = b"pos/v1/till-7/events"
        rest = len(topic).to_bytes(2) + topic + (index + 1).to_bytes(2) + extra + event
        assert frame[0] == 0x32
        assert frame[1] & 0x7F | frame[2] << 7 == len(rest)
        assert frame[3:] == rest


def test_packet_ids_begin_again_after_the_last_one() -> None:
    made = deck("till-7", 4, 1, PACKET_IDS + 3, SINCE_MS)
    ids = []
    for index in (0, 1, PACKET_IDS - 1, PACKET_IDS, PACKET_IDS + 1):
        at = made.offsets[index] + made.heads[index % len(made.heads)] - 2
        ids.append(int.from_bytes(made.block[at : at + 2]))
    assert ids == [1, 2, PACKET_IDS, 1, 2]
    acks = acknowledgements()
    assert acks[:8] == b"\x40\x02\x00\x01\x40\x02\x00\x02"
    assert acks[4 * PACKET_IDS - 4 : 4 * PACKET_IDS + 4] == b"\x40\x02\xff\xff\x40\x02\x00\x01"


def test_each_event_has_the_time_from_its_own_sending_to_its_own_acknowledgement() -> None:
    sent = [Note(2, 100), Note(3, 200), Note(6, 300)]
    acked = [Note(1, 150), Note(4, 350), Note(6, 400)]
    assert list(latencies_ns(sent, acked, 0, 1_000)) == [50, 250, 150, 50, 100, 100]
    assert list(latencies_ns(sent, acked, 200, 300)) == [150]
    assert acked_between(acked, 150, 400) == 4
    assert acked_between(acked, 0, 401) == 6
    assert acked_between([], 0, 1) == 0


def test_a_percentile_is_the_nearest_rank() -> None:
    hundred = [float(number) for number in range(1, 101)]
    assert [percentile(hundred, share) for share in (0, 0.5, 0.99, 0.991, 1)] == [1, 50, 99, 100, 100]
    assert percentile([7.0], 0.99) == 7
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


def test_a_profile_counts_the_functions_where_stacks_end() -> None:
    lines = top(
        "thread (1): MainThread;run;judge (events.py:2) 40\n"
        "thread (1): MainThread;run;judge (events.py:3) 20\n"
        "thread (2): Thread-1;commit (writer.py:1) 40\n"
        "thread (3): Thread-2 7\n"
    )
    assert [(line.where, line.share) for line in lines] == [
        ("loop: judge (events.py)", 0.6),
        ("worker: commit (writer.py)", 0.4),
    ]


def test_an_aim_is_judged_only_by_a_figure_that_was_measured() -> None:
    quiet = Noise(0.0, 0.0)
    live = Live(200.0, 1.0, 3.0, 1.0, 1.0, 3.0, 0.1, 0.1, 4000, 9000.0, True, quiet, quiet)
    machine = Machine("cpu", 2, 1024, "6", "ext4", "3.11", "3.40", 50.0, 0.0)
    report = Report("0", "", "5", False, False, machine, None, (), (), (), live, (), (), ())
    assert [(aim.name, aim.met) for aim in aims(report)] == [("live p99 while draining", False)]


def test_the_uplink_and_the_refusals_are_judged_by_their_worst() -> None:
    quiet = Noise(0.0, 0.0)
    machine = Machine("cpu", 2, 1024, "6", "ext4", "3.11", "3.40", 50.0, 0.0)
    rounds = tuple(Round(way, 1000.0, 1.0, 5.0, 0.0, quiet) for way in STATES)
    ways = (
        Uplink(20, 8, 1000.0, rounds, {"up": 5.0, "refused": 6.0, "dropped": 5.5, "silent": 5.0}, 1.2),
        Uplink(20, 8, None, rounds, {"up": 50.0, "refused": 65.0, "dropped": 5.5, "silent": 5.0}, 1.3),
    )
    asked = tuple(Asked("refused", 0.0, 100.0, 0.0, 0, 800, 1.0, p99_ms, 60.0, quiet) for p99_ms in (49.0, 51.0))
    report = Report("0", "", "5", False, False, machine, None, (), (), (), None, ways, asked, ())
    assert [(aim.name, aim.measured, aim.met) for aim in aims(report)] == [
        ("p99 uplink down, by the clock", 1.2, True),
        ("p99 uplink down, saturated", 1.3, False),
        ("p99 of offline refusals", 51.0, False),
    ]
    console = Console(width=120, record=True, file=StringIO())
    console.print(render(report))
    text = " ".join(console.export_text().split())
    for words in ("1,000 events/s by the clock", "20 x 8, as fast as it goes", "65.00 1.30", "49.00"):
        assert words in text, text


def test_over_four_rounds_each_state_of_the_way_has_every_place_once() -> None:
    orders = [turned(number) for number in range(4)]
    assert all(sorted(order) == sorted(STATES) for order in orders)
    for place in range(4):
        assert {order[place] for order in orders} == set(STATES)


def test_a_states_figure_is_the_median_of_its_rounds() -> None:
    quiet = Noise(0.0, 0.0)
    rounds = [Round("up", 1.0, 1.0, p99_ms, 0.0, quiet) for p99_ms in (9.0, 2.0, 3.0)]
    assert medians([*rounds, Round("silent", 1.0, 1.0, 7.0, 0.0, quiet)]) == {"up": 3.0, "silent": 7.0}


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_383, 16_384, 300_000])
def test_a_packet_is_read_as_it_was_written_and_not_before_its_length_is_there(size: int) -> None:
    packet = frame(0x32, b"x" * size)
    found = head(packet)
    assert found is not None
    begin, length = found
    assert (length, len(packet)) == (size, begin + size)
    assert [head(packet[:upto]) for upto in range(begin)] == [None] * begin
