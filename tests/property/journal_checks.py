"""What a journal's disk, figures and receipts must say, given the plain list of what was handed in."""

from agent.core.instants import to_text
from tests.property.journal_model import AGENT, Entry, Model, contiguous, own_of
from tests.property.journal_rig import Rig, Row, read_rows


def check_everything(rig: Rig, model: Model) -> None:
    """The log is the list, and whatever is told of it is counted from it."""
    rows = read_rows(rig.folder)
    assert len(rows) == len(model.records), f"{len(rows)} records, {len(model.records)} expected"
    for row, entry in zip(rows, model.records, strict=True):
        check_row(row, entry)
    check_totals(rig, model, rows)
    check_devices(rig, model)
    check_receipts(rig, model)


def check_row(row: Row, entry: Entry) -> None:
    assert (row.device, row.epoch, row.sequence) == (entry.device, entry.epoch, entry.sequence), row
    if isinstance(entry.event, bytes):
        assert row.event == entry.event
        return
    kind, data = own_of(row.event)
    wanted_kind, wanted = entry.event
    assert kind == wanted_kind
    assert {name: data.get(name) for name in wanted} == wanted


def check_totals(rig: Rig, model: Model, rows: list[Row]) -> None:
    facts = rig.journal.facts()
    pending = rows[model.cursor :]
    assert (facts.last, facts.cursor, facts.safe) == (len(rows), model.cursor, model.cursor)
    assert facts.pending_count == len(pending)
    assert facts.pending_bytes == sum(len(row.event) for row in pending)
    assert facts.oldest_pending_at == (to_text(pending[0].recorded_ms) if pending else None)
    assert facts.quarantined_count == len(model.refusals)
    assert facts.writable
    assert not facts.committing


def check_devices(rig: Rig, model: Model) -> None:
    facts = {device.device: device for device in rig.journal.facts().devices}
    assert set(facts) == set(model.countings) - {AGENT}
    for name, found in facts.items():
        countings, newest = model.countings[name], model.newest[name]
        records = [(at, entry) for at, entry in enumerate(model.records, 1) if entry.device == name]
        pending = [entry for at, entry in records if at > model.cursor]
        assert (found.stored_count, found.pending_count) == (len(records), len(pending))
        assert found.pending_bytes == sum(len(entry.event) for entry in pending)
        assert found.refused_count == sum(len(counting.refused) for counting in countings.values())
        assert found.epoch == newest
        if newest is not None:
            assert found.stored == contiguous(countings[newest].accounted)
            assert found.gaps == tuple(countings[newest].holes)
            newest_lost = countings[newest].lost
            assert found.complete == contiguous(countings[newest].accounted - newest_lost)
        assert found.lost_count == sum(len(counting.lost) for counting in countings.values())
        for epoch, counting in countings.items():
            ranges = [range(first, last + 1) for where, first, last in found.lost if where == epoch]
            assert sorted(number for one in ranges for number in one) == sorted(counting.lost)


def check_receipts(rig: Rig, model: Model) -> None:
    rig.journal.receipts_all_due()
    receipts = {(one.device, one.epoch): one for one in rig.journal.receipts_due()}
    places = [(device, epoch) for device in model.countings if device != AGENT for epoch in model.countings[device]]
    assert set(receipts) == set(places)
    for device, epoch in places:
        counting, receipt = model.countings[device][epoch], receipts[device, epoch]
        assert receipt.newest == (model.newest[device] == epoch)
        assert receipt.gaps == tuple(counting.holes)
        assert [one[0] for one in receipt.refused] == counting.refused
        if epoch is not None:
            stored = contiguous(counting.accounted)
            lowest, highest = model.uploaded(device, epoch)
            assert receipt.stored == stored
            assert receipt.uploaded is not None
            assert min(lowest, stored) <= receipt.uploaded <= min(highest, stored)
    told = {(gap.device, gap.epoch, gap.first, gap.last): gap for gap in rig.journal.open_gaps()}
    assert set(told) == {
        (device, epoch, *hole) for device, epoch in places for hole in model.countings[device][epoch].open_gaps
    }
    for gap in told.values():
        missing = set(range(gap.first, gap.last + 1)) - model.countings[gap.device][gap.epoch].accounted
        assert (gap.missing_first, gap.missing_last) == (min(missing), max(missing))
