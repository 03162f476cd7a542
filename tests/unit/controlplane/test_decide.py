"""What the reconciler decides, case by case and over random histories."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.cluster.base import DriverSeen, DriverStatus
from controlplane.jobs.states import TRANSITIONS, JobState
from controlplane.reconcile.decide import (
    BeginAttempt,
    Decision,
    End,
    JobFacts,
    Released,
    Requeue,
    Seen,
    StartDriver,
    Stop,
    Timing,
    Wait,
    decide,
)
from trainers.reports import EndReason, Wanted

T0 = datetime(2026, 1, 1, tzinfo=UTC)
TIMING = Timing()
ALIVE = DriverSeen(DriverStatus.ALIVE)


def job(state: JobState, **facts: object) -> JobFacts:
    base = JobFacts(
        state=state, wanted=Wanted.RUN, attempt=1, max_attempts=3, placement_timeout_s=300.0, api_url="http://api"
    )
    return replace(base, **facts)  # type: ignore[arg-type]


def at(job: JobFacts, seen: Seen, seconds: float = 0.0, *, listening_since: float = 0.0) -> Decision:
    since = T0 + timedelta(seconds=listening_since)
    return decide(job, seen, T0 + timedelta(seconds=seconds), listening_since=since, timing=TIMING)


def test_a_queued_job_begins_its_next_attempt() -> None:
    assert at(job(JobState.QUEUED, attempt=0), None) == BeginAttempt(1)
    assert at(job(JobState.QUEUED, attempt=2), None) == BeginAttempt(3)


def test_a_driver_that_is_not_known_to_be_started_is_started_again() -> None:
    for status in (DriverStatus.ABSENT, DriverStatus.PENDING, DriverStatus.ALIVE):
        assert at(job(JobState.STARTING), DriverSeen(status)) == StartDriver()


@pytest.mark.parametrize(
    ("status", "heard", "reason"),
    [
        (DriverStatus.DEAD, None, "driver_start_failed"),
        (DriverStatus.DEAD, T0, "driver_lost"),
        (DriverStatus.ABSENT, T0, "driver_lost"),
    ],
)
def test_a_driver_that_was_started_and_is_gone_before_anyone_noted_its_start_gets_no_double(
    status: DriverStatus, heard: datetime | None, reason: str
) -> None:
    decision = at(job(JobState.RUNNING if heard else JobState.STARTING, heard_at=heard), DriverSeen(status))
    assert isinstance(decision, Stop) and decision.reason == reason


@pytest.mark.parametrize("status", [DriverStatus.DEAD, DriverStatus.ABSENT])
@pytest.mark.parametrize(("heard", "reason"), [(None, "driver_start_failed"), (T0, "driver_lost")])
def test_a_driver_that_is_gone_stops_the_run(status: DriverStatus, heard: datetime | None, reason: str) -> None:
    decision = at(job(JobState.RUNNING, driver_started_at=T0, heard_at=heard), DriverSeen(status, "node n lost"))
    assert isinstance(decision, Stop)
    assert decision.reason == reason
    assert "node n lost" in decision.detail


def test_a_driver_that_no_node_takes_waits_for_the_placement_deadline_and_no_longer() -> None:
    pending = DriverSeen(DriverStatus.PENDING, "needs 1 CPU")
    waiting = job(JobState.STARTING, driver_started_at=T0)
    assert at(waiting, pending, 299) == Wait("a node that can run the driver: needs 1 CPU")
    stopped = at(waiting, pending, 301)
    assert isinstance(stopped, Stop)
    assert stopped.reason is EndReason.PLACEMENT_TIMEOUT
    for_ever = replace(waiting, placement_timeout_s=1e30)
    assert isinstance(at(for_ever, pending, 1e6), Wait)


def test_silence_counts_only_while_somebody_listened() -> None:
    silent = job(JobState.RUNNING, driver_started_at=T0, heard_at=T0)
    assert at(silent, ALIVE, 599) == Wait(None)
    assert isinstance(at(silent, ALIVE, 601), Stop)
    assert at(silent, ALIVE, 601, listening_since=500) == Wait(None)
    assert isinstance(at(silent, ALIVE, 1101, listening_since=500), Stop)


def test_a_driver_that_never_reported_is_said_to_where_it_should() -> None:
    silent = job(JobState.STARTING, driver_started_at=T0)
    assert at(silent, ALIVE, 599) == Wait("the driver's first report to http://api")
    stopped = at(silent, ALIVE, 601)
    assert isinstance(stopped, Stop)
    assert stopped.reason is EndReason.DRIVER_START_FAILED
    assert "has not reported to http://api for 600 s" in stopped.detail


def test_a_cancelled_driver_has_its_grace_counted_from_when_it_could_hear() -> None:
    asked = job(JobState.RUNNING, wanted=Wanted.CANCEL, driver_started_at=T0, heard_at=T0, cancel_requested_at=T0)
    assert at(asked, ALIVE, 29) == Wait("the driver to end the run")
    stopped = at(asked, ALIVE, 31)
    assert isinstance(stopped, Stop)
    assert stopped.reason is EndReason.CANCELLED_BY_USER
    assert isinstance(at(asked, ALIVE, 31, listening_since=20), Wait)


def test_nothing_ends_before_the_cluster_gave_everything_back() -> None:
    stopping = job(JobState.STOPPING, end_reason=EndReason.FINISHED)
    assert isinstance(at(stopping, Released(False)), Wait)
    assert at(stopping, Released(True)) == End(JobState.SUCCEEDED, EndReason.FINISHED, None)


def test_retries_wait_longer_each_time_and_end_with_the_attempts() -> None:
    lost = job(JobState.STOPPING, end_reason=EndReason.ENGINE_LOST, end_detail="exit code -9", max_attempts=9)
    delays = [at(replace(lost, attempt=number), Released(True)) for number in (1, 2, 3, 8)]
    assert delays == [Requeue(2.0), Requeue(4.0), Requeue(8.0), Requeue(60.0)]
    assert at(replace(lost, attempt=9), Released(True)) == End(JobState.FAILED, EndReason.ENGINE_LOST, "exit code -9")


def test_a_run_that_was_lost_while_it_was_cancelled_is_cancelled_and_one_that_finished_has_finished() -> None:
    cancelled = job(JobState.STOPPING, wanted=Wanted.CANCEL, end_reason=EndReason.ENGINE_LOST, end_detail="gone")
    end = at(cancelled, Released(True))
    assert isinstance(end, End)
    assert (end.state, end.reason) == (JobState.CANCELLED, EndReason.CANCELLED_BY_USER)
    finished = at(replace(cancelled, end_reason=EndReason.FINISHED), Released(True))
    assert isinstance(finished, End)
    assert finished.state is JobState.SUCCEEDED


def apply(job: JobFacts, decision: Decision, now: datetime) -> JobFacts:
    """What the row says after ``decision``, as reconcile/jobs.py writes it."""
    match decision:
        case BeginAttempt(number):
            assert number == job.attempt + 1
            fresh = replace(job, state=JobState.STARTING, attempt=number, driver_started_at=None, heard_at=None)
            return replace(fresh, end_reason=None, end_detail=None)
        case StartDriver():
            return replace(job, driver_started_at=now)
        case Stop(reason, detail):
            return replace(job, state=JobState.STOPPING, end_reason=reason, end_detail=detail)
        case End(state, reason, detail):
            return replace(job, state=state, end_reason=reason, end_detail=detail)
        case Requeue():
            return replace(job, state=JobState.QUEUED)
        case Wait():
            return job


def report(job: JobFacts, what: str, reason: EndReason, now: datetime) -> JobFacts:
    """What a driver's report, or a user, makes of the row."""
    if what == "cancel" and not job.state.final:
        return replace(job, wanted=Wanted.CANCEL, cancel_requested_at=job.cancel_requested_at or now)
    if job.state not in (JobState.STARTING, JobState.RUNNING) or job.driver_started_at is None:
        return job
    if what == "serving":
        return replace(job, state=JobState.RUNNING, heard_at=now)
    if what == "finished":
        return replace(job, state=JobState.STOPPING, end_reason=reason, heard_at=now)
    return replace(job, heard_at=now) if what == "heartbeat" else job


HAPPENING = st.tuples(
    st.sampled_from(["serving", "heartbeat", "finished", "cancel", "nothing", "nothing", "nothing"]),
    st.sampled_from(list(EndReason)),
    st.sampled_from(list(DriverStatus)),
    st.booleans(),
    st.floats(0, 400),
)


@given(st.lists(HAPPENING, max_size=60), st.integers(1, 4))
def test_whatever_happens_a_job_ends_once_within_its_attempts_and_stays_ended(
    history: list[tuple[str, EndReason, DriverStatus, bool, float]], max_attempts: int
) -> None:
    now = T0
    current = JobFacts(JobState.QUEUED, Wanted.RUN, 0, max_attempts, placement_timeout_s=300.0, api_url="http://api")
    # After the history nothing but silence: deadlines alone must bring the end.
    quiet = [("nothing", EndReason.FINISHED, DriverStatus.ALIVE, True, 400.0)] * (8 * max_attempts + 8)
    for what, reason, status, released, seconds in [*history, *quiet]:
        now += timedelta(seconds=seconds)
        before = current
        current = report(current, what, reason, now)
        seen: Seen = Released(released) if current.state is JobState.STOPPING else DriverSeen(status)
        decision = decide(current, seen, now, listening_since=T0, timing=TIMING)
        after = apply(current, decision, now)
        for old, new in ((before.state, current.state), (current.state, after.state)):
            assert old == new or new in TRANSITIONS[old] or {old, new} == {JobState.STARTING, JobState.STOPPING}
        if before.state.final:
            assert after == before
        current = after
        assert current.attempt <= max_attempts
    assert current.state.final
    if current.state is JobState.CANCELLED:
        assert current.end_reason is EndReason.CANCELLED_BY_USER
