"""What to do about a job, from what its row says and what the cluster was seen to say. Pure."""

from dataclasses import dataclass
from datetime import datetime

from controlplane.cluster.base import DriverSeen, DriverStatus
from controlplane.jobs.states import ENDINGS, JobState
from trainers.reports import EndReason, Wanted


@dataclass(frozen=True, slots=True)
class Timing:
    """The reconciler's deadlines, in seconds."""

    tick_s: float = 1.0
    """How often it looks for jobs that are due, when nothing wakes it."""
    running_interval_s: float = 2.0
    """How often it looks at a job that runs; at every other job each tick."""
    lease_s: float = 15.0
    driver_start_s: float = 60.0
    """A node has at least this long to start the driver's process, however short the job's own placement timeout."""
    cancel_grace_s: float = 30.0
    """A driver that was asked to cancel has this long to end by itself."""
    quiet_s: float = 10.0
    """After as much silence of a driver a job shows that the cluster does not answer either."""
    silence_s: float = 600.0
    """A driver that lives but has not been heard of for this long is lost."""
    retry_delay_s: float = 2.0
    """Before the second attempt; doubles with each further one, up to a minute."""
    outage_delay_s: float = 2.0
    """Before a job is looked at again after the cluster did not answer."""


@dataclass(frozen=True, slots=True)
class JobFacts:
    """What a decision depends on."""

    state: JobState
    wanted: Wanted
    attempt: int
    max_attempts: int
    placement_timeout_s: float
    api_url: str
    """Where the driver is told to report."""
    cancel_requested_at: datetime | None = None
    driver_started_at: datetime | None = None
    """When the cluster accepted this attempt's driver; None: not yet, as far as is known."""
    heard_at: datetime | None = None
    """The driver's last report or heartbeat."""
    end_reason: EndReason | None = None
    end_detail: str | None = None


@dataclass(frozen=True, slots=True)
class Released:
    """What the cluster answered when it was asked to release a stopping job's driver."""

    done: bool


type Seen = DriverSeen | Released | None


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do yet. ``waiting_for`` replaces what the job shows, unless None."""

    waiting_for: str | None = None


@dataclass(frozen=True, slots=True)
class BeginAttempt:
    number: int


@dataclass(frozen=True, slots=True)
class StartDriver:
    """Also when it was tried before: the name makes it harmless."""


@dataclass(frozen=True, slots=True)
class Stop:
    reason: EndReason
    detail: str


@dataclass(frozen=True, slots=True)
class End:
    state: JobState
    reason: EndReason
    detail: str | None


@dataclass(frozen=True, slots=True)
class Requeue:
    delay_s: float


type Decision = Wait | BeginAttempt | StartDriver | Stop | End | Requeue


def decide(job: JobFacts, seen: Seen, now: datetime, *, listening_since: datetime, timing: Timing) -> Decision:
    """``listening_since``: since when drivers could have been heard; silence before that says nothing."""
    match job.state:
        case JobState.QUEUED:
            return _queued(job)
        case JobState.STARTING | JobState.RUNNING if job.driver_started_at is None:
            if job.wanted is Wanted.CANCEL:
                return Stop(EndReason.CANCELLED_BY_USER, "cancelled before its driver started")
            assert isinstance(seen, DriverSeen)
            return _not_known_to_be_started(job, seen)
        case JobState.STARTING | JobState.RUNNING:
            assert isinstance(seen, DriverSeen)
            return _in_flight(job, seen, now, listening_since, timing)
        case JobState.STOPPING:
            assert isinstance(seen, Released)
            if not seen.done:
                return Wait("the cluster to give back what the run held")
            return _after_release(job, timing)
        case _:
            return Wait()


def _queued(job: JobFacts) -> Decision:
    if job.wanted is Wanted.CANCEL:
        return End(JobState.CANCELLED, EndReason.CANCELLED_BY_USER, "cancelled while it was queued")
    return BeginAttempt(job.attempt + 1)


def _not_known_to_be_started(job: JobFacts, seen: DriverSeen) -> Decision:
    """The process that started it may have died before it could note so, and the driver since: a second one under the
    same attempt would count its reports from 1 again, and leave unread what the first left on disk."""
    if seen.status is DriverStatus.DEAD or (seen.status is DriverStatus.ABSENT and job.heard_at is not None):
        return _lost(job, seen)
    return StartDriver()


def _lost(job: JobFacts, seen: DriverSeen) -> Stop:
    detail = f": {seen.detail}" if seen.detail else ""
    return Stop(_lost_reason(job), f"the driver is {seen.status.value} and did not say why{detail}")


def _lost_reason(job: JobFacts) -> EndReason:
    return EndReason.DRIVER_START_FAILED if job.heard_at is None else EndReason.DRIVER_LOST


def _in_flight(job: JobFacts, seen: DriverSeen, now: datetime, listening_since: datetime, timing: Timing) -> Decision:
    assert job.driver_started_at is not None
    cancelled = job.wanted is Wanted.CANCEL
    if seen.status in (DriverStatus.DEAD, DriverStatus.ABSENT):
        if cancelled:
            return Stop(EndReason.CANCELLED_BY_USER, "the driver is gone")
        return _lost(job, seen)
    if seen.status is DriverStatus.PENDING:
        detail = f": {seen.detail}" if seen.detail else ""
        if cancelled:  # it cannot hear
            return Stop(EndReason.CANCELLED_BY_USER, "cancelled before its driver was placed")
        allowed_s = max(job.placement_timeout_s, timing.driver_start_s)
        if (now - job.driver_started_at).total_seconds() > allowed_s:
            return Stop(EndReason.PLACEMENT_TIMEOUT, f"no node took the driver within {allowed_s:g} s{detail}")
        return Wait(f"a node that can run the driver{detail}")
    if cancelled:
        asked_at = max(job.cancel_requested_at or now, listening_since)
        if (now - asked_at).total_seconds() > timing.cancel_grace_s:
            return Stop(
                EndReason.CANCELLED_BY_USER, f"the driver did not end within {timing.cancel_grace_s:g} s and was killed"
            )
        return Wait("the driver to end the run")
    silent_since = max(job.heard_at or job.driver_started_at, listening_since)
    if (now - silent_since).total_seconds() > timing.silence_s:
        return Stop(
            _lost_reason(job), f"the driver lives but has not reported to {job.api_url} for {timing.silence_s:g} s"
        )
    return Wait(f"the driver's first report to {job.api_url}" if job.heard_at is None else None)


def _after_release(job: JobFacts, timing: Timing) -> Decision:
    reason = job.end_reason or EndReason.INTERNAL_ERROR
    ending = ENDINGS[reason]
    if not ending.retries:
        return End(ending.state, reason, job.end_detail)
    if job.wanted is Wanted.CANCEL:
        return End(JobState.CANCELLED, EndReason.CANCELLED_BY_USER, f"after {reason.value}: {job.end_detail}")
    if job.attempt < job.max_attempts:
        return Requeue(min(60.0, timing.retry_delay_s * 2 ** (job.attempt - 1)))
    return End(ending.state, reason, job.end_detail)
