"""The shipped rollout: prompts are generated and judged until enough groups are worth training on."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from engines.types import Sample, SampleStatus
from trainers.config import RolloutConfig
from trainers.errors import RolloutFailed
from trainers.rollout.filling import Filler, fresh
from trainers.rollout.filters import FILTERS, GroupFilter
from trainers.rollout.ledger import Ledger
from trainers.rollout.protocols import RolloutContext, RolloutOutput
from trainers.rollout.stats import stats_of
from trainers.rollout.tasks import end

STOP_TIMEOUT_S = 60.0
"""For aborted requests to come back with what they have."""
STOP_INTERVAL_S = 0.5
"""Until requests that have not come back are aborted again: they were on their way when they were first."""


async def generate_rollout(context: RolloutContext, rollout_id: int) -> RolloutOutput:
    """``rollout_batch_size`` groups that pass the filter, in the order of their prompts.

    ``over_sampling_batch_size`` prompts are started at a time, and more whenever dropped groups leave too few under
    way. Once enough are kept, what still runs is aborted and its prompts go back to the data source: with their
    tokens under ``partial_rollout``, to be continued by a later rollout, and else as if they had never begun.

    Raises :class:`RolloutFailed` when ``rollout.timeout_s`` passes first, and whatever the client, the reward or the
    user's functions raise, after ending all requests.
    """
    config, started = context.config.rollout, time.perf_counter()
    keep = _filter(config, context.doors.dynamic_sampling_filter)
    ledger = Ledger(config.rollout_batch_size)
    filler = Filler(context, sampling=config.sampling, reward=context.reward, name=f"rollout-{rollout_id}")
    running: dict[asyncio.Task[list[Sample]], list[Sample]] = {}
    kept: list[list[Sample]] = []
    dropped: list[list[Sample]] = []
    surplus: list[_Surplus] = []
    ended: asyncio.Queue[asyncio.Task[list[Sample]]] = asyncio.Queue()
    deadline = asyncio.timeout(config.timeout_s)
    try:
        async with deadline:
            while not ledger.complete:
                while ledger.wants_more:
                    _start(context, config, filler, ledger, running, ended)
                task = await ended.get()
                group = task.result()
                del running[task]
                if keep is None or keep(group):
                    kept.append(group)
                    ledger.keep()
                else:
                    dropped.append(group)
                    ledger.drop()
        surplus += await _stop(filler, running)
    except TimeoutError:
        if not deadline.expired():
            raise
        raise _too_slow(rollout_id, config, filler, ledger) from None
    finally:
        await end(running)
    if surplus:
        surplus.sort(key=lambda each: each.pristine[0].index)
        left = [each.group if each.can_go_on(config) else each.pristine for each in surplus]
        ledger.give_back(len(left), tokens=sum(sample.response_length for group in left for sample in group))
        context.data.put_back(left)
    kept.sort(key=lambda group: group[0].index)
    stats = stats_of(
        kept,
        weight_version=context.weight_version,
        continued=filler.continued,
        late=filler.late,
        judging_s=filler.judging_s,
        seconds=time.perf_counter() - started,
    )
    await _hand_over(context, kept, [*kept, *dropped], mask_stale=config.mask_offpolicy_in_partial_rollout)
    return RolloutOutput(kept, stats.metrics() | ledger.metrics())


@dataclass(frozen=True, slots=True)
class _Surplus:
    """A group that was not needed any more."""

    group: list[Sample]
    """As far as it came."""
    pristine: list[Sample]
    """As it was before anything was generated."""

    def can_go_on(self, config: RolloutConfig) -> bool:
        """Siblings of one trajectory cannot: their prompt begins anew."""
        return config.partial_rollout and all(sample.trajectory_index is None for sample in self.group)


def _filter(config: RolloutConfig, door: GroupFilter | None) -> Callable[[list[Sample]], bool] | None:
    if door is not None:
        return door
    return FILTERS[config.dynamic_sampling_filter] if config.dynamic_sampling_filter is not None else None


def _start(
    context: RolloutContext,
    config: RolloutConfig,
    filler: Filler,
    ledger: Ledger,
    running: dict[asyncio.Task[list[Sample]], list[Sample]],
    ended: asyncio.Queue[asyncio.Task[list[Sample]]],
) -> None:
    groups = context.data.next_groups(config.prompts_at_a_time, config.n_samples_per_prompt)
    resumed = restarted = 0
    for group in groups:
        resumed += any(sample.status is not SampleStatus.PENDING for sample in group)
        if config.max_staleness is not None:
            too_old = [_is_older(sample, context.weight_version - config.max_staleness) for sample in group]
            group[:] = [fresh(sample) if old else sample for sample, old in zip(group, too_old, strict=True)]
            restarted += any(too_old)
    ledger.start(len(groups), resumed=resumed, restarted=restarted)
    for group in groups:
        pristine = [fresh(sample) for sample in group]
        task = asyncio.create_task(filler.fill(group))
        task.add_done_callback(ended.put_nowait)
        running[task] = pristine


def _is_older(sample: Sample, weight_version: int) -> bool:
    return bool(sample.weight_versions) and min(sample.weight_versions) < weight_version


async def _stop(filler: Filler, running: dict[asyncio.Task[list[Sample]], list[Sample]]) -> list[_Surplus]:
    """End what still runs: groups with all that they have. One that does not end in time begins anew."""
    left = set(running)
    patience = asyncio.get_running_loop().time() + STOP_TIMEOUT_S
    while left and asyncio.get_running_loop().time() < patience:
        await filler.stop()
        _, left = await asyncio.wait(left, timeout=STOP_INTERVAL_S)
    stopped = [
        _Surplus(pristine if task in left else task.result(), pristine)  # what broke in one of them is raised
        for task, pristine in running.items()
    ]
    await end(left)
    running.clear()
    return stopped


async def _hand_over(
    context: RolloutContext, kept: list[list[Sample]], everything: list[list[Sample]], *, mask_stale: bool
) -> None:
    if mask_stale:
        for sample in (sample for group in kept for sample in group):
            sample.loss_mask = [
                bit if version >= context.weight_version else 0
                for bit, version in zip(sample.loss_mask, sample.weight_versions, strict=True)
            ]
    if (process := context.doors.all_samples_process) is not None:
        await process(everything, context.data)
    if (choose := context.doors.sample_filter) is not None:
        await choose(kept)


def _too_slow(rollout_id: int, config: RolloutConfig, filler: Filler, ledger: Ledger) -> RolloutFailed:
    filtered = f", and {ledger.dropped} groups were dropped by the filter" if ledger.dropped else ""
    return RolloutFailed(
        f"rollout {rollout_id}: {ledger.kept} of {ledger.target} groups were ready after rollout.timeout_s = "
        f"{config.timeout_s:g} s: of {filler.total} samples {filler.total - filler.generated} were generating, "
        f"{filler.generated - filler.finished} waited for their reward{filtered}"
    )
