"""The typed form of every door that is not among :mod:`trainers.rollout.protocols` or :mod:`trainers.rl.doors`.

Those on the rollout's side may be plain or ``async``, where not said otherwise; plain ones run in a thread.
"""

from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Protocol

from engines.types import Sample
from trainers.config import RunConfig
from trainers.rollout.buffer import Source
from trainers.rollout.protocols import DataSource, RolloutContext

type Groups = list[list[Sample]]


class EvalFunction(Protocol):
    """``plugins.eval_function``: for each eval set, by name, its groups, generated and scored."""

    async def __call__(self, context: RolloutContext, rollout_id: int) -> Mapping[str, Groups]: ...


class CustomRM(Protocol):
    """``reward.function``: the reward of one finished sample."""

    def __call__(self, sample: Sample) -> float | Awaitable[float]: ...


class GroupRM(Protocol):
    """``reward.function`` that scores a group: one reward for each of its samples."""

    def __call__(self, samples: list[Sample]) -> Sequence[float] | Awaitable[Sequence[float]]: ...


class DynamicSamplingFilter(Protocol):
    """``rollout.dynamic_sampling_filter``: whether a finished group is kept. Plain."""

    def __call__(self, group: list[Sample]) -> bool: ...


class BufferFilter(Protocol):
    """``plugins.buffer_filter``: takes at most ``n_groups`` groups out of ``buffer``, which it changes. Plain."""

    def __call__(self, buffer: Groups, n_groups: int) -> Groups: ...


class DataSourceClass(Protocol):
    """``plugins.data_source``: a class with the methods of :class:`trainers.rollout.buffer.Source`. What a rollout puts
    back is kept by the run's own buffer, in front of it."""

    def __call__(self, config: RunConfig, tokenizer: Any) -> Source: ...


class RolloutSampleFilter(Protocol):
    """``plugins.rollout_sample_filter``: whether a sample takes part in the loss. One that does not keeps its reward
    and its place in the group's statistics, and all its tokens are masked. Plain."""

    def __call__(self, sample: Sample, group: list[Sample]) -> bool: ...


class AllSamplesProcess(Protocol):
    """``plugins.rollout_all_samples_process``: sees every group of a rollout, kept or dropped."""

    def __call__(self, groups: Groups, data: DataSource) -> Awaitable[None] | None: ...


class DataPostprocess(Protocol):
    """``plugins.rollout_data_postprocess``: changes the groups in place before they become a batch."""

    def __call__(self, groups: Groups) -> Awaitable[None] | None: ...


class RewardPostProcess(Protocol):
    """``plugins.custom_reward_post_process``: for each sample of each group, the number that its advantage is made
    of, in place of what the algorithm makes of the rewards. A sample without a reward gets one too; it is ignored."""

    def __call__(self, groups: Groups) -> Sequence[Sequence[float]] | Awaitable[Sequence[Sequence[float]]]: ...


class RolloutLog(Protocol):
    """``plugins.custom_rollout_log_function``: the metrics to report in place of ``metrics``; None: those."""

    def __call__(
        self, rollout_id: int, groups: Groups, metrics: dict[str, float]
    ) -> Mapping[str, float] | Awaitable[Mapping[str, float] | None] | None: ...


class EvalLog(Protocol):
    """``plugins.custom_eval_rollout_log_function``: the metrics to report in place of ``metrics``; None: those.
    ``sets``: the groups of each eval set by name."""

    def __call__(
        self, rollout_id: int, sets: Mapping[str, Groups], metrics: dict[str, float]
    ) -> Mapping[str, float] | Awaitable[Mapping[str, float] | None] | None: ...


class ModelProvider(Protocol):
    """``plugins.custom_model_provider``: a Megatron model; told whether it holds the embedding and the output layer."""

    def __call__(self, pre_process: bool, post_process: bool) -> Any: ...


class MegatronInit(Protocol):
    """``plugins.custom_megatron_init``. ``args``: Megatron's namespace; slime's names can be read from it too."""

    def __call__(self, args: Any) -> None: ...


class BeforeLogProb(Protocol):
    """``plugins.custom_megatron_before_log_prob_hook``. ``model``: the list of this rank's model chunks;
    ``store_prefix``: empty for the policy, ``ref_`` for the reference model."""

    def __call__(self, args: Any, model: list[Any], store_prefix: str) -> None: ...


class BeforeTrainStep(Protocol):
    """``plugins.custom_megatron_before_train_step_hook``. ``step_id``: within the rollout."""

    def __call__(
        self, args: Any, rollout_id: int, step_id: int, model: list[Any], optimizer: Any, opt_param_scheduler: Any
    ) -> None: ...
