"""The checker finds every kind of broken promise where one is planted, and nothing where none is."""

import base64
import json
from collections.abc import Mapping, Sequence
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.tills.checker import Evidence, ExportUnreadable, Findings, Made, Verdict, check

COUNT = 8
KINDS = ("lost", "doubled", "reordered", "altered", "phantom")


def an_event(device: str, n: int) -> bytes:
    return f'{{"specversion":"1.0","id":"{device}-{n}","data":{{"name":"Crème","n":{n}.50}}}}'.encode()


def a_till(device: str = "till-1", count: int = COUNT) -> Evidence:
    """A till with one event in flight at a time: sent 1, told 2, sent 3, told 4 …"""
    made = {f"{device}-{n}": Made(sha256(an_event(device, n)).hexdigest(), 2 * n - 1) for n in range(1, count + 1)}
    told = {f"{device}-{n}": 2 * n for n in range(1, count + 1)}
    return Evidence(device, made, told, frozenset())


def a_line(device: str, n: int, sequence: int, *, epoch: str = "cloud-1", event: bytes | None = None) -> bytes:
    """A record as the cloud exports it, its `data` verbatim."""
    head = {
        "specversion": "1.0",
        "id": f"{device}/{device}-{n}",
        "type": "nightsafe.record.v1",
        "epoch": epoch,
        "sequence": f"{sequence:020d}",
        "recordedtime": "2026-11-22T10:15:00.131Z",
        "device": device,
    }
    return json.dumps(head).encode()[:-1] + b', "data": ' + (event or an_event(device, n)) + b"}"


def an_export(numbers: Sequence[int] = range(1, COUNT + 1), device: str = "till-1") -> list[bytes]:
    return [a_line(device, n, sequence) for sequence, n in enumerate(numbers, start=1)]


def counts(verdict: Verdict) -> dict[str, int]:
    found: dict[str, Findings] = {kind: getattr(verdict, kind) for kind in KINDS}
    return {kind: findings.count for kind, findings in found.items() if findings.count}


def test_a_clean_run_passes() -> None:
    verdict = check([a_till()], an_export())
    assert verdict.clean
    assert (verdict.told, verdict.in_cloud, verdict.records) == (COUNT, COUNT, COUNT)


def test_two_tills_interleaved_are_clean() -> None:
    lines = [
        a_line(device, n, 2 * n - 1 + offset) for n in range(1, 9) for offset, device in enumerate(("till-1", "till-2"))
    ]
    verdict = check([a_till("till-1"), a_till("till-2")], lines)
    assert verdict.clean
    assert verdict.in_cloud == 16


def test_a_lost_event_is_found() -> None:
    verdict = check([a_till()], an_export([1, 2, 3, 5, 6, 7, 8]))
    assert counts(verdict) == {"lost": 1}
    assert verdict.lost.first[0].id == "till-1-4"


def test_an_empty_export_loses_everything() -> None:
    assert counts(check([a_till()], [])) == {"lost": COUNT}


def test_what_was_never_told_may_be_missing() -> None:
    till = a_till()
    told = {id: tick for id, tick in till.told.items() if id != "till-1-8"}
    assert check([till._replace(told=told)], an_export(range(1, 8))).clean


def test_what_was_never_told_may_be_there() -> None:
    till = a_till()
    assert check([till._replace(told={})], an_export()).clean


def test_a_doubled_event_is_found() -> None:
    assert counts(check([a_till()], an_export([1, 2, 3, 3, 4, 5, 6, 7, 8]))) == {"doubled": 1}


def test_a_doubled_event_is_found_in_another_epoch_of_the_cloud() -> None:
    lines = [*an_export(), a_line("till-1", 3, 1, epoch="cloud-2")]
    assert counts(check([a_till()], lines)) == {"doubled": 1}


def test_swapped_events_are_found_when_the_first_was_told_before_the_second_was_sent() -> None:
    assert counts(check([a_till()], an_export([1, 2, 4, 3, 5, 6, 7, 8]))) == {"reordered": 1}


def test_events_that_were_in_flight_together_may_stand_in_any_order() -> None:
    till = a_till()
    made = {id: one._replace(sent_tick=n) for n, (id, one) in enumerate(till.made.items(), start=1)}
    told = {id: COUNT + tick for id, tick in till.told.items()}
    together = till._replace(made=made, told=told)
    assert check([together], an_export([2, 1, 4, 3, 8, 7, 6, 5])).clean


def test_a_late_event_that_fills_a_gap_is_not_reordered() -> None:
    till = a_till()
    made = {**till.made, "till-1-3": till.made["till-1-3"]._replace(sent_tick=100)}
    told = {**till.told, "till-1-3": 101}
    late = till._replace(made=made, told=told)
    assert check([late], an_export([1, 2, 4, 5, 6, 7, 8, 3])).clean
    assert counts(check([late], an_export())) == {"reordered": 5}, "4 to 8 were told before 3 was sent"


@pytest.mark.parametrize("sequences", [[1, 2, 4], [1, 3, 2], [2, 3, 4], [1, 1, 2]])
def test_an_export_that_does_not_count_one_two_three_is_found(sequences: list[int]) -> None:
    lines = [a_line("till-1", n, sequence) for n, sequence in enumerate(sequences, start=1)]
    assert check([a_till(count=3)], lines).reordered.count >= 1


def test_each_epoch_of_the_cloud_counts_for_itself() -> None:
    lines = [a_line("till-1", n, n) for n in (1, 2)] + [a_line("till-1", n, n - 2, epoch="cloud-2") for n in (3, 4)]
    assert check([a_till(count=4)], lines).clean


def test_epochs_that_interleave_are_found() -> None:
    lines = [
        a_line("till-1", 1, 1),
        a_line("till-1", 2, 1, epoch="cloud-2"),
        a_line("till-1", 3, 2),
        a_line("till-1", 4, 2, epoch="cloud-2"),
    ]
    assert set(counts(check([a_till(count=4)], lines))) == {"reordered"}


@pytest.mark.parametrize("change", [(b"Cr\xc3\xa8me", b"Creme"), (b".50", b".5"), (b'":"', b'": "')])
def test_altered_bytes_are_found(change: tuple[bytes, bytes]) -> None:
    lines = an_export()
    lines[3] = a_line("till-1", 4, 4, event=an_event("till-1", 4).replace(*change))
    assert counts(check([a_till()], lines)) == {"altered": 1}


def test_data_base64_is_judged_by_the_bytes_that_it_carries() -> None:
    lines = an_export()
    record = json.loads(lines[3])
    del record["data"]
    record["data_base64"] = base64.b64encode(an_event("till-1", 4)).decode()
    lines[3] = json.dumps(record).encode()
    assert check([a_till()], lines).clean
    record["data_base64"] = base64.b64encode(an_event("till-1", 5)).decode()
    lines[3] = json.dumps(record).encode()
    assert counts(check([a_till()], lines)) == {"altered": 1}


@pytest.mark.parametrize("device", ["till-1", "till-9"])
def test_a_phantom_is_found(device: str) -> None:
    assert counts(check([a_till()], [*an_export(), a_line(device, 99, COUNT + 1)])) == {"phantom": 1}


def own_record(sequence: int, event: Mapping[str, object]) -> bytes:
    return a_line("agent", sequence, sequence, event=json.dumps(event).encode())


def test_the_boxs_own_records_are_no_phantoms_and_take_a_sequence() -> None:
    gap = {"id": "x", "type": "nightsafe.gap.opened", "data": {"device": "till-1", "from": "3", "to": "4"}}
    lines = [a_line("till-1", 1, 1), own_record(2, gap), a_line("till-1", 2, 3)]
    verdict = check([a_till(count=2)], lines)
    assert verdict.clean
    assert (verdict.records, verdict.in_cloud) == (3, 2)


def test_an_event_told_and_refused_by_name_is_accounted_for_only_by_the_boxs_own_record() -> None:
    till = a_till(count=2)._replace(refused=frozenset({"till-1-2"}))
    refused = {"id": "x", "type": "nightsafe.event.refused", "data": {"device": "till-1", "id": "till-1-2"}}
    assert counts(check([till], [a_line("till-1", 1, 1)])) == {"lost": 1}
    assert check([till], [a_line("till-1", 1, 1), own_record(2, refused)]).clean


@pytest.mark.parametrize(
    "line", [b"", b"{", b"[]", b'{"id":"a/b"}', b'{"id":"a/b","epoch":"e","sequence":"1","device":"a"}', b"\xff"]
)
def test_a_line_that_is_no_record_is_an_error_with_its_number(line: bytes) -> None:
    with pytest.raises(ExportUnreadable, match="Line 2"):
        check([a_till()], [a_line("till-1", 1, 1), line])


def test_all_findings_are_counted_and_the_first_are_named() -> None:
    verdict = check([a_till(count=100)], [])
    assert verdict.lost.count == 100
    assert len(verdict.lost.first) == 20


@given(st.permutations(list(range(1, COUNT + 1))))
def test_only_the_order_in_which_things_were_told_is_clean(order: list[int]) -> None:
    clean = check([a_till()], an_export(order)).clean
    assert clean == (order == sorted(order))
