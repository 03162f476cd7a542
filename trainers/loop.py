"""The algorithm, top to bottom: generate, train, save, publish, report, evaluate; then export, and serve while asked
to."""

import asyncio
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainers.batch import build_train_batch
from trainers.errors import CheckpointInvalid
from trainers.protocols import TrainerState
from trainers.reports import Phase
from trainers.rollout.dump import save_rollout
from trainers.rollout.protocols import RolloutOutput
from trainers.run import Run, Training
from trainers.saving import Saving
from trainers.watch import watched


async def train(run: Run, training: Training) -> None:
    """Run all rollouts, and serve when their result is safe."""
    async with watched(training.trainer.watch()), Saving(run, training) as saving:
        await rollouts(run, training, saving)
        await saving.durable()
    await serve(run)


async def rollouts(run: Run, training: Training, saving: Saving) -> None:
    """From where the trainer's checkpoint left off, if it had one, to the export.

    A weight version is the number of rollouts that were trained on: rollout r is generated with version r.
    """
    config, trainer, report = run.config, training.trainer, run.report
    if run.data is not None and (position := _data_state(training.state)) is not None:
        run.data.load_state(position)
    first = version = training.state.next_rollout_id
    await publish(run, training, version)
    await open_to_requests(run, version)
    if (config.eval.before_train and version == 0) or config.evaluates_alone:
        await evaluate(run, version)
    if training.state.resumed:
        await catch_up(run, training)

    for rollout_id in range(first, config.num_rollouts):
        await saving.check()
        clock = Clock()

        with clock("generate"):
            output = await generate(run, rollout_id, version)

        with clock("batch"):
            outcomes = await run.plugins.outcomes(output.groups)
            batch = build_train_batch(
                rollout_id,
                output.groups,
                config.algorithm,
                global_batch_size=config.global_batch_size,
                data_parallel_size=config.data_parallel_size,
                max_tokens=config.trainer.max_tokens_per_micro_batch,
                micro_batch_size=config.trainer.samples_per_micro_batch,
                multiple_of=config.trainer.micro_batch_multiple,
                tokens_padded_to=config.trainer.tokens_padded_to,
                outcomes=outcomes,
            )

        with clock("train"):
            report.phase(Phase.TRAINING, f"rollout {rollout_id}: {len(batch.plan.steps)} optimizer steps")
            stats = await trainer.step(batch)

        metrics = {**output.metrics, **stats.metrics, **stats.times}
        last = rollout_id + 1 == config.num_rollouts or report.finish.is_set()
        if last or _is_due(rollout_id, config.checkpoint.save_interval):
            with clock("save"):
                await save(run, training, saving, rollout_id, metrics | clock.metrics())

        with clock("sync"):
            version = rollout_id + 1
            synced = await publish(run, training, version)

        report.step(rollout_id, version, metrics | clock.metrics() | synced)
        if config.eval.is_due(rollout_id, last=last):
            await evaluate(run, version)
        if last:
            break

    if version > 0 and not config.evaluates_alone and not config.checkpoint.exports_every_save:
        await export(run, training, version, training.export)


async def catch_up(run: Run, training: Training) -> None:
    """Report what the attempt before had saved when it ended, and had not come to report."""
    version = training.state.next_rollout_id
    rollout_id, report, config = version - 1, run.report, run.config
    if not report.has_step(rollout_id):
        report.checkpoint(rollout_id, "megatron", Path(training.state.loaded_from), version)
        report.step(rollout_id, version, (training.state.extra_state or {}).get("metrics", {}))
    last = version == config.num_rollouts
    if config.eval.is_due(rollout_id, last=last) and not report.has_evaluation(version):
        await evaluate(run, version)


async def generate_only(run: Run) -> None:
    """The generating half by itself, with the weights that the engines began with."""
    if run.engines is not None:
        await run.engines.fleet.name_weights(0)
    await open_to_requests(run, 0)
    await evaluate(run, 0)  # once: the weights stay the same
    for rollout_id in range(run.config.num_rollouts):
        clock = Clock()
        with clock("generate"):
            output = await generate(run, rollout_id, 0)
        run.report.step(rollout_id, 0, {**output.metrics, **clock.metrics()})
        if run.report.finish.is_set():
            break
    await serve(run)


async def generate(run: Run, rollout_id: int, version: int) -> RolloutOutput:
    """One rollout, as the user's functions leave it, and kept on disk where the job asks for it."""
    config = run.config
    run.report.phase(Phase.GENERATING, f"rollout {rollout_id}: {config.rollout.samples_per_rollout} samples")
    output = await run.rollout(run.context(version), rollout_id)
    if config.debug.load_rollouts is None:  # what was saved had been through it
        await run.plugins.postprocess(output.groups)
    metrics = await run.plugins.rollout_metrics(rollout_id, output.groups, output.metrics)
    if config.debug.save_rollouts is not None:
        directory = Path(config.debug.save_rollouts)
        await asyncio.to_thread(save_rollout, directory, rollout_id, version, output.groups)
    return RolloutOutput(output.groups, metrics)


async def publish(run: Run, training: Training, version: int) -> dict[str, float]:
    """Bring the engines, if there are any, to this version."""
    if run.engines is None:
        return {}
    run.report.phase(Phase.SYNCING_WEIGHTS, f"the engines to acknowledge weight version {version}")
    synced = await training.trainer.sync_weights(run.engines.fleet.receivers(), version)
    return {"sync_bytes": float(synced.num_bytes)}


async def open_to_requests(run: Run, version: int) -> None:
    """Let the engines that hold this version serve."""
    if run.engines is not None:
        await run.engines.fleet.admit(version)
        run.report.serving(f"{run.engines.fleet.base_url}/v1", run.config.model.hf_checkpoint)


async def save(run: Run, training: Training, saving: Saving, rollout_id: int, metrics: Mapping[str, float]) -> None:
    await saving.save(rollout_id, metrics)
    if run.config.checkpoint.exports_every_save:
        await export(run, training, rollout_id + 1, training.export_after(rollout_id))


async def export(run: Run, training: Training, version: int, directory: Path) -> None:
    """The policy in Hugging Face's format."""
    run.report.phase(Phase.EXPORTING, f"the Hugging Face export in {directory}")
    path = await training.trainer.export_hf(directory)
    run.report.checkpoint(version - 1, "hf", path, version)


async def evaluate(run: Run, version: int) -> None:
    """All eval sets with this version, reported set by set."""
    if run.evaluator is None:
        return
    run.report.phase(Phase.EVALUATING, f"weight version {version} on {run.evaluator.names}")
    for found in await run.evaluator(run.context(version, Phase.EVALUATING)):
        run.report.evaluation(found.name, version, found.metrics, found.samples_path)


async def serve(run: Run) -> None:
    """Keep the policy reachable for as long as the job asks, or until it is told to finish."""
    seconds = run.config.engine.keep_serving_s
    if run.engines is None or not seconds or run.report.finish.is_set():
        return
    run.report.phase(Phase.SERVING, f"{seconds:.0f} s to pass, or the job to be finished or cancelled")
    try:
        async with asyncio.timeout(seconds):
            await run.report.finish.wait()
    except TimeoutError:
        pass


@dataclass(slots=True)
class Clock:
    """Where the wall-clock time of one rollout went."""

    started: float = field(default_factory=time.perf_counter)
    spent: dict[str, float] = field(default_factory=dict[str, float])

    @contextmanager
    def __call__(self, what: str) -> Generator[None]:
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.spent[what] = self.spent.get(what, 0.0) + time.perf_counter() - begin

    def metrics(self) -> dict[str, float]:
        """``time/<part>_s`` for each part, and ``time/step_s`` for the whole."""
        whole = time.perf_counter() - self.started
        return {f"time/{what}_s": seconds for what, seconds in self.spent.items()} | {"time/step_s": whole}


def _is_due(rollout_id: int, interval: int | None) -> bool:
    return interval is not None and (rollout_id + 1) % interval == 0


def _data_state(state: TrainerState) -> dict[str, Any] | None:
    """Where the data stood; None at a beginning, and after a run that read none."""
    if state.extra_state is None:
        return None
    try:
        return state.extra_state["data"]
    except KeyError:
        raise CheckpointInvalid(f"{state.loaded_from} holds no data position: it was not written by a run") from None
