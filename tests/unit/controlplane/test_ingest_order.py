"""Which reports of a batch are taken, and what the database can hold of them."""

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from controlplane.jobs.endpoints import matches
from controlplane.jobs.ingest import last_words, next_in_order, storable, unheard
from controlplane.jobs.repository import new_job_id
from trainers.reports import CheckpointDeletedReport, CheckpointReport, EventReport, Origin


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


def test_of_what_an_earlier_attempt_left_behind_only_what_it_did_not_deliver_is_taken() -> None:
    def from_before(seq: int, attempt: int, first: int) -> EventReport:
        return event(seq).model_copy(update={"origin": Origin(attempt=attempt, seq=first)})

    reports = [from_before(1, 1, 4), from_before(2, 1, 5), from_before(3, 2, 1), event(4)]
    assert [report.seq for report in unheard(reports, {1: 4, 2: 0})] == [2, 3, 4]
    assert [report.seq for report in unheard(reports, {1: 5, 2: 1})] == [4]


def test_the_last_word_on_a_checkpoint_counts() -> None:
    now = datetime.now(UTC)

    def saved(seq: int, path: str) -> CheckpointReport:
        return CheckpointReport(seq=seq, at=now, rollout_id=0, format="megatron", path=path, weight_version=1)

    def deleted(seq: int, path: str) -> CheckpointDeletedReport:
        return CheckpointDeletedReport(seq=seq, at=now, format="megatron", path=path)

    reports = [saved(1, "/a"), saved(2, "/b"), deleted(3, "/a"), deleted(4, "/b"), event(5), saved(6, "/a")]
    assert sorted(report.seq for report in last_words(reports)) == [4, 6]


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
