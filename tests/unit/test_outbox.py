"""The tills' own outbox: what was kept stays kept, what was told stays told, a torn line is as if it never was."""

import multiprocessing
import os
import signal
import time
from hashlib import sha256
from pathlib import Path

import pytest

from agent.tills.lines import OutboxDamaged, read_lines
from agent.tills.outbox import Kept, Key, Outbox, OutboxInUse, Refused, Told

AT = "2026-11-22T19:15:00.120Z"


def an_event(sequence: int) -> tuple[str, int, bytes]:
    return f"id-{sequence}", sequence, b'{"specversion":"1.0","id":"id-%d","name":"Cr\xc3\xa8me"}' % sequence


def opened(directory: Path) -> Outbox:
    return Outbox.open(directory / "till-1", "till-1", "epoch-1")


def torn(directory: Path, name: str, leave_out: int) -> None:
    """Cut bytes off a file's end, as a kill in the middle of a write does."""
    path = directory / "till-1" / f"{name}.jsonl"
    os.truncate(path, path.stat().st_size - leave_out)


def test_what_was_kept_survives_with_its_bytes(tmp_path: Path) -> None:
    outbox = opened(tmp_path)
    keys = outbox.keep([an_event(1), an_event(2)])
    outbox.close()
    again = opened(tmp_path)
    assert [again.event(key) for key in keys] == [an_event(1)[2], an_event(2)[2]]
    assert again.untold == (Key("epoch-1", 1), Key("epoch-1", 2))
    assert again.last == 2


def test_the_epoch_and_the_counter_go_on_after_a_restart(tmp_path: Path) -> None:
    outbox = opened(tmp_path)
    outbox.keep([an_event(1)])
    outbox.close()
    again = Outbox.open(tmp_path / "till-1", "till-1", "another-epoch")
    assert again.device.epoch == "epoch-1"
    assert again.keep([an_event(2)]) == [Key("epoch-1", 2)]


def test_a_sequence_is_never_skipped_or_used_twice(tmp_path: Path) -> None:
    outbox = opened(tmp_path)
    outbox.keep([an_event(1)])
    for sequence in (1, 3):
        with pytest.raises(ValueError, match="next sequence"):
            outbox.keep([an_event(sequence)])


def test_what_was_told_is_not_sent_again_after_a_restart(tmp_path: Path) -> None:
    outbox = opened(tmp_path)
    first, second = outbox.keep([an_event(1), an_event(2)])
    outbox.mark_told([first], AT)
    outbox.close()
    again = opened(tmp_path)
    assert again.untold == (second,)
    assert (again.made_count, again.told_count) == (2, 1)


def test_told_says_id_epoch_sequence_and_the_digest_of_the_bytes(tmp_path: Path) -> None:
    outbox = opened(tmp_path)
    outbox.mark_told(outbox.keep([an_event(1)]), AT)
    digest = sha256(an_event(1)[2]).hexdigest()
    assert list(read_lines(tmp_path / "till-1" / "told.jsonl", Told)) == [Told("id-1", "epoch-1", 1, digest, 1, AT)]


def test_told_twice_is_told_once(tmp_path: Path) -> None:
    outbox = opened(tmp_path)
    keys = outbox.keep([an_event(1)])
    outbox.mark_told(keys, AT)
    outbox.mark_told(keys, AT)
    assert len(list(read_lines(tmp_path / "till-1" / "told.jsonl", Told))) == outbox.told_count == 1


@pytest.mark.parametrize("leave_out", [1, 2, 30])
def test_an_event_torn_in_mid_write_never_happened_and_its_sequence_is_free(tmp_path: Path, leave_out: int) -> None:
    outbox = opened(tmp_path)
    outbox.keep([an_event(1), an_event(2)])
    outbox.close()
    torn(tmp_path, "events", leave_out)
    again = opened(tmp_path)
    assert again.untold == (Key("epoch-1", 1),)
    assert again.keep([an_event(2)]) == [Key("epoch-1", 2)]
    again.close()
    assert [line.id for line in read_lines(tmp_path / "till-1" / "events.jsonl", Kept)] == ["id-1", "id-2"]


@pytest.mark.parametrize("leave_out", [1, 2, 30])
def test_an_acknowledgement_torn_in_mid_write_is_dropped_and_the_event_sent_again(
    tmp_path: Path, leave_out: int
) -> None:
    outbox = opened(tmp_path)
    first, second = outbox.keep([an_event(1), an_event(2)])
    outbox.mark_told([first], AT)
    outbox.mark_told([second], AT)
    outbox.close()
    torn(tmp_path, "told", leave_out)
    again = opened(tmp_path)
    assert again.untold == (second,)
    again.mark_told([second], AT)
    assert [line.id for line in read_lines(tmp_path / "till-1" / "told.jsonl", Told)] == ["id-1", "id-2"]


def test_a_tail_of_zeroes_after_a_power_cut_is_cut_off(tmp_path: Path) -> None:
    outbox = opened(tmp_path)
    outbox.keep([an_event(1)])
    outbox.close()
    path = tmp_path / "till-1" / "events.jsonl"
    os.truncate(path, path.stat().st_size + 512)
    assert opened(tmp_path).untold == (Key("epoch-1", 1),)


def test_a_line_damaged_in_the_middle_is_an_error_with_its_place(tmp_path: Path) -> None:
    outbox = opened(tmp_path)
    outbox.keep([an_event(1), an_event(2)])
    outbox.close()
    path = tmp_path / "till-1" / "events.jsonl"
    path.write_bytes(b"?" + path.read_bytes()[1:])
    with pytest.raises(OutboxDamaged, match=r"Line 1 of .*events\.jsonl"):
        opened(tmp_path)


def test_ticks_put_sendings_and_tellings_of_all_processes_in_one_row(tmp_path: Path) -> None:
    outbox = opened(tmp_path)
    first, second = outbox.keep([an_event(1), an_event(2)])
    assert outbox.mark_sent(first, AT)
    outbox.mark_told([first], AT)
    outbox.close()
    again = opened(tmp_path)
    assert not again.mark_sent(first, AT), "the first time was before the restart"
    assert again.mark_sent(second, AT)
    again.mark_told([second], AT)
    told = {line.id: line.tick for line in read_lines(tmp_path / "till-1" / "told.jsonl", Told)}
    assert told == {"id-1": 2, "id-2": 4}


def test_a_refused_event_is_kept_for_people_and_never_sent_again(tmp_path: Path) -> None:
    outbox = opened(tmp_path)
    outbox.keep([an_event(1)])
    assert outbox.mark_refused("id-1", "schema", "no", AT)
    assert not outbox.mark_refused("id-1", "schema", "no", AT), "it is known"
    assert not outbox.mark_refused("id-9", "schema", "no", AT), "it is not ours"
    outbox.close()
    again = opened(tmp_path)
    assert (again.untold, again.refused_count) == ((), 1)
    assert list(read_lines(tmp_path / "till-1" / "refused.jsonl", Refused)) == [Refused("id-1", "schema", "no", AT)]


def test_events_are_kept_for_a_resend_until_the_cloud_has_them(tmp_path: Path) -> None:
    outbox = opened(tmp_path)
    keys = outbox.keep([an_event(n) for n in range(1, 6)])
    outbox.mark_told(keys[:4], AT)
    outbox.cover("epoch-1", 2)
    assert outbox.kept("epoch-1", 1, 9) == keys[2:]
    outbox.cover("epoch-1", 10**18)
    assert outbox.kept("epoch-1", 1, 9) == keys[4:], "what was never told is kept, whatever a receipt says"
    assert outbox.kept("another", 1, 9) == []


def test_commands_done_and_held_payments_are_remembered(tmp_path: Path) -> None:
    outbox = opened(tmp_path)
    outbox.remember(applied=["c-1"], payments_held=True)
    outbox.remember(applied=["c-2"])
    outbox.close()
    again = opened(tmp_path)
    assert (again.device.applied, again.device.payments_held) == (("c-1", "c-2"), True)


def test_a_new_epoch_counts_from_one_and_still_owes_the_old(tmp_path: Path) -> None:
    outbox = opened(tmp_path)
    outbox.keep([an_event(1)])
    outbox.new_epoch("epoch-2")
    assert outbox.keep([("id-b", 1, b"{}")]) == [Key("epoch-2", 1)]
    outbox.close()
    again = opened(tmp_path)
    assert again.untold == (Key("epoch-1", 1), Key("epoch-2", 1))
    assert (again.device.epoch, again.last) == ("epoch-2", 1)


def test_two_processes_never_share_an_outbox(tmp_path: Path) -> None:
    outbox = opened(tmp_path)
    with pytest.raises(OutboxInUse):
        opened(tmp_path)
    outbox.close()
    opened(tmp_path).close()


def keep_for_ever(directory: Path) -> None:
    outbox = opened(directory)
    outbox.mark_told(outbox.untold, AT)
    while True:
        sequence = outbox.last + 1
        (key,) = outbox.keep([an_event(sequence)])
        outbox.mark_sent(key, AT)
        outbox.mark_told([key], AT)


def test_a_killed_till_goes_on_without_a_hole(tmp_path: Path) -> None:
    for round_number in range(1, 6):
        process = multiprocessing.get_context("spawn").Process(target=keep_for_ever, args=(tmp_path,))
        process.start()
        told = tmp_path / "till-1" / "told.jsonl"
        wanted = 30 * round_number
        end_s = time.monotonic() + 20
        while not (told.exists() and told.read_bytes().count(b"\n") >= wanted) and time.monotonic() < end_s:
            time.sleep(0.003)
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        outbox = opened(tmp_path)
        kept = [line.sequence for line in read_lines(tmp_path / "till-1" / "events.jsonl", Kept)]
        assert kept == list(range(1, outbox.last + 1))
        assert outbox.last >= wanted
        assert len(outbox.untold) <= 1
        outbox.close()
