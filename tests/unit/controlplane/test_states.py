"""The transition table, and the meaning of every end reason."""

from controlplane.jobs.states import ACTIVE, ENDINGS, TRANSITIONS, JobState
from trainers.reports import EndReason


def reachable(state: JobState) -> set[JobState]:
    found: set[JobState] = set()
    ahead = [state]
    while ahead:
        for following in TRANSITIONS[ahead.pop()]:
            if following not in found:
                found.add(following)
                ahead.append(following)
    return found


def test_every_state_has_a_row_and_every_end_is_reachable_from_every_active_state() -> None:
    assert set(TRANSITIONS) == set(JobState)
    for state in ACTIVE:
        assert {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED} <= reachable(state)


def test_nothing_leaves_a_final_state() -> None:
    assert {state for state in JobState if state.final} == {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED}


def test_whatever_holds_resources_ends_through_stopping() -> None:
    for state in (JobState.STARTING, JobState.RUNNING):
        assert not any(following.final for following in TRANSITIONS[state])


def test_every_end_reason_means_a_final_state_and_only_failures_retry() -> None:
    assert set(ENDINGS) == set(EndReason)
    for reason, ending in ENDINGS.items():
        assert ending.state.final
        assert not ending.retries or ending.state is JobState.FAILED, reason


def test_what_the_user_gave_wrong_is_never_tried_again() -> None:
    for reason in EndReason:
        if reason.value.endswith("_invalid") or reason is EndReason.STORAGE_FAILED:
            assert not ENDINGS[reason].retries, reason
    for reason in (EndReason.DRIVER_LOST, EndReason.ENGINE_LOST, EndReason.TRAINER_LOST):
        assert ENDINGS[reason].retries, reason
