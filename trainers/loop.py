"""The algorithm, top to bottom: generate, train, save, publish, report; then export, and serve while asked to."""

import asyncio
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from trainers.assembly import Run
from trainers.batch import build_train_batch
from trainers.errors import CheckpointInvalid
from trainers.protocols import TrainerState
from trainers.reports import Phase
from trainers.rollout.default import generate_rollout


async def train(run: Run) -> None:
    """Run all rollouts from where the trainer's checkpoint left off, if it had one.

    A weight version is the number of rollouts that were trained on: rollout r is generated with version r.
    """
    config, state, report = run.config, run.state, run.report
    if state.extra_state is not None:
        run.data.load_state(_data_state(state))
    version = state.next_rollout_id
    report.phase(Phase.SYNCING_WEIGHTS, f"the engines to acknowledge weight version {version}")
    await run.trainer.sync_weights(run.fleet.receivers(), version)
    await run.fleet.admit(version)
    report.serving(f"{run.fleet.base_url}/v1", config.model.hf_checkpoint)

    for rollout_id in range(state.next_rollout_id, config.rollout.num_rollouts):
        clock = Clock()

        with clock("generate"):
            report.phase(Phase.GENERATING, f"rollout {rollout_id}: {config.rollout.samples_per_rollout} samples")
            groups, generated = await generate_rollout(
                run.data.next_groups(config.rollout.rollout_batch_size, config.rollout.n_samples_per_prompt),
                client=run.client,
                sampling=config.rollout.sampling,
                reward=run.reward,
                timeout_s=config.rollout.timeout_s,
                rollout_id=rollout_id,
            )

        with clock("batch"):
            batch = build_train_batch(
                rollout_id,
                groups,
                config.algorithm,
                global_batch_size=config.global_batch_size,
                data_parallel_size=config.data_parallel_size,
                max_tokens=config.trainer.max_tokens_per_micro_batch,
                micro_batch_size=config.trainer.samples_per_micro_batch,
                multiple_of=config.trainer.micro_batch_multiple,
            )

        with clock("train"):
            report.phase(Phase.TRAINING, f"rollout {rollout_id}: {config.steps_per_rollout} optimizer steps")
            stats = await run.trainer.step(batch)

        last = rollout_id + 1 == config.rollout.num_rollouts or report.finish.is_set()
        if last or _is_due(rollout_id, config.checkpoint.save_interval):
            with clock("save"):
                report.phase(Phase.SAVING, f"the checkpoint of rollout {rollout_id} in {run.checkpoints}")
                path = await run.trainer.save(rollout_id, run.checkpoints, {"data": run.data.state()})
                report.checkpoint(rollout_id, "megatron", path, rollout_id + 1)

        with clock("sync"):
            version = rollout_id + 1
            report.phase(Phase.SYNCING_WEIGHTS, f"the engines to acknowledge weight version {version}")
            synced = await run.trainer.sync_weights(run.fleet.receivers(), version)

        report.step(
            rollout_id,
            version,
            generated.metrics() | stats.metrics | clock.metrics() | {"sync_bytes": synced.num_bytes},
        )
        if last:
            break

    if version:
        report.phase(Phase.EXPORTING, f"the Hugging Face export in {run.export}")
        path = await run.trainer.export_hf(run.export)
        report.checkpoint(version - 1, "hf", path, version)
    await serve(run)


async def serve(run: Run) -> None:
    """Keep the trained policy reachable for as long as the job asks, or until it is told to finish."""
    seconds = run.config.engine.keep_serving_s
    if not seconds or run.report.finish.is_set():
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


def _data_state(state: TrainerState) -> dict[str, Any]:
    try:
        return (state.extra_state or {})["data"]
    except KeyError:
        raise CheckpointInvalid(f"{state.loaded_from} holds no data position: it was not written by a run") from None
