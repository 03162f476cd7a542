"""The states of a job, which may follow which, and what each end of a run means."""

from dataclasses import dataclass
from enum import StrEnum

from trainers.reports import EndReason


class JobState(StrEnum):
    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    """The run is over; what it held is being given back."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        return not TRANSITIONS[self]


# Every end that may hold resources passes through `stopping`, so that release is written once.
TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset({JobState.STARTING, JobState.CANCELLED}),
    JobState.STARTING: frozenset({JobState.RUNNING, JobState.STOPPING}),
    JobState.RUNNING: frozenset({JobState.STOPPING}),
    JobState.STOPPING: frozenset({JobState.QUEUED, JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED}),
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELLED: frozenset(),
}

ACTIVE = tuple(state for state in JobState if not state.final)


@dataclass(frozen=True, slots=True)
class Ending:
    """What an end reason means. ``retries``: another attempt, from the last checkpoint, may well succeed."""

    state: JobState
    retries: bool = False


_FAILED = Ending(JobState.FAILED)
_LOST = Ending(JobState.FAILED, retries=True)

ENDINGS: dict[EndReason, Ending] = {
    EndReason.FINISHED: Ending(JobState.SUCCEEDED),
    EndReason.CANCELLED_BY_USER: Ending(JobState.CANCELLED),
    # What the user gave is wrong, and will be wrong again.
    EndReason.DATA_INVALID: _FAILED,
    EndReason.MODEL_INVALID: _FAILED,
    EndReason.PLUGIN_INVALID: _FAILED,
    EndReason.CONFIG_INVALID: _FAILED,
    EndReason.CHECKPOINT_INVALID: _FAILED,
    EndReason.STORAGE_FAILED: _FAILED,
    # It had its whole deadline already.
    EndReason.PLACEMENT_TIMEOUT: _FAILED,
    # On processes that were fresh anyway: an option, a model or a size that does not fit here.
    EndReason.ENGINE_START_FAILED: _FAILED,
    EndReason.OUT_OF_MEMORY: _FAILED,
    EndReason.ROLLOUT_FAILED: _FAILED,
    EndReason.TRAINING_DIVERGED: _FAILED,
    EndReason.INTERNAL_ERROR: _FAILED,
    # Something that worked went away.
    EndReason.ENGINE_LOST: _LOST,
    EndReason.TRAINER_LOST: _LOST,
    EndReason.WEIGHT_SYNC_FAILED: _LOST,
    EndReason.DRIVER_START_FAILED: _LOST,
    EndReason.DRIVER_LOST: _LOST,
}
