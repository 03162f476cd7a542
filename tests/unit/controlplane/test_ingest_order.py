"""Which reports of a batch are taken, and what the database can hold of them."""

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from controlplane.jobs.endpoints import matches
from controlplane.jobs.ingest import next_in_order, storable
from controlplane.jobs.repository import new_job_id
from trainers.reports import EventReport


def event(seq: int) -> EventReport:
    return EventReport(seq=seq, at=datetime.now(UTC), type="note", message=str(seq))


@given(st.lists(st.lists(st.integers(1, 12), max_size=8), max_size=30))
def test_batches_in_any_order_are_taken_without_gap_or_repeat(batches: list[list[int]]) -> None:
    taken: list[int] = []
    offered: set[int] = set()
    for batch in [*batches, list(range(12, 0, -1))]:
        offered |= set(batch)
        found = [report.seq for report in next_in_order([event(seq) for seq in batch], len(taken))]
        assert set(found) <= offered
        taken += found
        assert taken == list(range(1, len(taken) + 1))
    assert taken == list(range(1, 13))


def test_what_json_in_postgres_cannot_hold_is_replaced() -> None:
    value = {"a\x00": [float("nan"), float("-inf"), 1.5, {"b": "x\x00y"}], "c": None, "d": True}
    assert storable(value) == {"a\ufffd": [None, None, 1.5, {"b": "x\ufffdy"}], "c": None, "d": True}


def test_ids_sort_by_age_and_do_not_repeat() -> None:
    ids = {new_job_id() for _ in range(2000)}
    assert len(ids) == 2000
    assert {len(job_id) for job_id in ids} == {24}
    # The clock's milliseconds lead: ids of different moments sort by age.
    first = new_job_id()
    while (later := new_job_id())[:14] == first[:14]:
        pass
    assert first < later


def test_an_etag_matches_itself_in_any_list_and_weakly() -> None:
    assert matches('"7"', '"7"')
    assert matches('"1", W/"7"', '"7"')
    assert matches("*", '"7"')
    assert not matches('"70"', '"7"')
