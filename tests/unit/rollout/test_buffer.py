"""Groups that were put back go on first, through any checkpoint, and a filter that lies is caught."""

import json
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.types import Sample, SampleStatus
from tests.unit.rollout.scripted import Prompts
from trainers.errors import CheckpointInvalid, RolloutFailed
from trainers.plugins.source import CheckedSource
from trainers.rollout.buffer import Buffer, pop_first


def indices(groups: list[list[Sample]]) -> list[int]:
    return [group[0].group_index for group in groups]


def test_what_was_put_back_goes_on_before_new_prompts() -> None:
    buffer = Buffer(Prompts())
    first = buffer.next_groups(4, 1)
    buffer.put_back([first[2], first[0]])
    assert buffer.num_waiting == 2
    assert indices(buffer.next_groups(3, 1)) == [2, 0, 4]
    assert buffer.num_waiting == 0


@given(
    log_probs=st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=5),
    reward=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    status=st.sampled_from(SampleStatus),
)
@settings(deadline=None)
def test_a_restored_buffer_holds_the_same_bit_for_bit(
    log_probs: list[float], reward: float | None, status: SampleStatus
) -> None:
    buffer = Buffer(Prompts())
    [[sample]] = buffer.next_groups(1, 1)
    sample.rollout_log_probs, sample.reward, sample.status = log_probs, reward, status
    sample.response_length = len(log_probs)
    sample.loss_mask, sample.weight_versions = [1] * len(log_probs), [2] * len(log_probs)
    buffer.put_back([[sample]])
    restored = Buffer(Prompts())
    restored.load_state(json.loads(json.dumps(buffer.state())))
    assert restored.next_groups(2, 1) == [[sample], *Buffer(Prompts()).next_groups(2, 1)[1:]]


def test_a_buffer_that_cannot_be_read_is_refused() -> None:
    for state in ({}, {"source": {"next": 0}, "waiting": [[{"strange": 1}]]}):
        with pytest.raises(CheckpointInvalid, match="the saved buffer cannot be read"):
            Buffer(Prompts()).load_state(state)


def test_a_filter_chooses_and_one_that_keeps_what_it_returns_is_caught() -> None:
    def newest(buffer: list[list[Sample]], n_groups: int) -> list[list[Sample]]:
        return [buffer.pop() for _ in range(min(n_groups, len(buffer)))]

    buffer = Buffer(Prompts(), choose=newest)
    buffer.put_back(buffer.next_groups(3, 1))
    assert indices(buffer.next_groups(2, 1)) == [2, 1]
    liar = Buffer(Prompts(), choose=lambda buffer, n: buffer[:n])
    liar.put_back(liar.next_groups(2, 1))
    with pytest.raises(RolloutFailed, match="must take out what it returns"):
        liar.next_groups(1, 1)
    greedy = Buffer(Prompts(), choose=lambda buffer, n: pop_first(buffer, n + 1))
    greedy.put_back(greedy.next_groups(2, 1))
    with pytest.raises(RolloutFailed, match="and no more"):
        greedy.next_groups(1, 1)


@pytest.mark.parametrize("loses", [lambda group: [*group, group[0]], lambda group: group[:1]])
def test_a_filter_that_loses_samples_is_caught(loses: Callable[[list[Sample]], list[Sample]]) -> None:
    buffer = Buffer(Prompts(), choose=lambda buffer, n: [loses(buffer.pop())])
    buffer.put_back(buffer.next_groups(2, 2))
    with pytest.raises(RolloutFailed, match="lost samples, or made some"):
        buffer.next_groups(1, 2)
    swaps = Buffer(Prompts(), choose=lambda buffer, n: [buffer.pop() and buffer[0]])
    swaps.put_back(swaps.next_groups(2, 2))
    with pytest.raises(RolloutFailed, match="lost samples, or made some"):
        swaps.next_groups(1, 2)


def test_a_users_source_that_runs_out_is_told_of_and_asked_no_further() -> None:
    class RunsOut(Prompts):
        def next_groups(self, n_prompts: int, n_samples: int) -> list[list[Sample]]:
            return super().next_groups(min(n_prompts, 3 - self.next), n_samples)

    buffer = Buffer(CheckedSource(RunsOut(), "users:RunsOut"))
    assert indices(buffer.next_groups(2, 1)) == [0, 1]
    with pytest.raises(RolloutFailed, match=r"RunsOut\.next_groups was asked for 2 groups and returned 1: at the end"):
        buffer.next_groups(2, 1)
    with pytest.raises(RolloutFailed, match=r"returned 1, of which 1 are empty"):
        Buffer(CheckedSource(Prompts(), "users:Prompts")).next_groups(1, 0)


def test_what_cannot_be_kept_is_refused_when_it_is_put_back() -> None:
    buffer = Buffer(Prompts())
    first, second = buffer.next_groups(2, 1)
    buffer.put_back([first])
    with pytest.raises(RolloutFailed, match="the group of sample 0 twice"):
        buffer.put_back([first])
    second[0].metadata["judge"] = print
    with pytest.raises(RolloutFailed, match=r"no checkpoint can hold: sample 1: metadata\.judge is of type"):
        buffer.put_back([second])
    second[0].metadata.clear()
    second[0].loss_mask.append(1)
    with pytest.raises(RolloutFailed, match=r"sample 1 with response_length 0, but {'loss_mask': 1}"):
        buffer.put_back([second])
    assert buffer.num_waiting == 1
