"""The parts of one run: brought up in the order in which they can fail cheaply, and released whatever happens."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import ray
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from engines.client import GenerateClient
from engines.errors import EngineRefused
from engines.fleet import Fleet
from engines.hardware import resolve
from engines.placement import reserve
from trainers.config import RunConfig
from trainers.errors import ModelInvalid
from trainers.megatron.group import MegatronTrainer
from trainers.protocols import TrainerState
from trainers.reporting import Reporter
from trainers.reports import Phase
from trainers.rollout.data import PromptData
from trainers.rollout.rewards import RewardFunction, label_check, load_reward

DYING_S = 30.0


@dataclass(frozen=True, slots=True)
class Run:
    """The parts of one run, started and connected."""

    config: RunConfig
    state: TrainerState
    """Where the trainer begins."""
    data: PromptData
    reward: RewardFunction
    client: GenerateClient
    fleet: Fleet
    trainer: MegatronTrainer
    report: Reporter
    checkpoints: Path
    export: Path


@asynccontextmanager
async def assembled(config: RunConfig, name: str, run_id: str, run_dir: Path, report: Reporter) -> AsyncGenerator[Run]:
    """All parts of a run. What the user gave is checked before any accelerator is taken.

    ``name`` is the placement group's. While the body runs, an engine that is lost ends it with EngineLost.
    """
    report.phase(Phase.LOADING_PLUGINS, "the reward function")
    reward = load_reward(config.rollout.reward)
    report.phase(Phase.LOADING_DATA, f"the tokenizer of {config.model.hf_checkpoint} and {config.data.prompt_data}")
    tokenizer = await asyncio.to_thread(_tokenizer, config.model.hf_checkpoint)
    data = await asyncio.to_thread(
        lambda: PromptData(config.data, tokenizer, check_label=label_check(config.rollout.reward))
    )
    left_out = f"; {data.num_too_long} left out as longer than data.max_prompt_len" if data.num_too_long else ""
    report.event("data_loaded", f"{len(data)} prompts{left_out}", num_prompts=len(data))
    hardware = resolve(config.resources.accelerator, cluster_resources=await asyncio.to_thread(ray.cluster_resources))

    async with AsyncExitStack() as stack:
        resources = config.resources
        report.phase(
            Phase.PLACING, f"{resources.train_world_size} training and {resources.rollout_num_gpus} generation slots"
        )
        placement = await reserve(resources, hardware, name=name)
        stack.push_async_callback(placement.release)

        fleet = Fleet(
            config.engine,
            hardware,
            model_path=config.model.hf_checkpoint,
            slots=placement.engine_slots,
            tp_size=resources.rollout_num_gpus_per_engine,
            log_dir=run_dir / "logs",
            env_vars=config.runtime.env_vars,
        )
        stack.push_async_callback(fleet.close)
        checkpoints = Path(config.checkpoint.save or run_dir / "checkpoints")
        trainer = MegatronTrainer(
            config,
            checkpoints=checkpoints,
            run_id=run_id,
            slots=placement.trainer_slots,
            hardware=hardware,
            log_dir=run_dir / "logs",
        )
        stack.push_async_callback(trainer.close)

        report.phase(Phase.STARTING, f"the router, {resources.num_engines} engines and the trainer to load the model")
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(fleet.start(lambda text: report.event("engine_started", text)))
            starting = tasks.create_task(trainer.start())
        state = starting.result()
        report.event(
            "trainer_started",
            f"{state.num_parameters:,} parameters from {state.loaded_from}; first rollout {state.next_rollout_id}",
            next_rollout_id=state.next_rollout_id,
            num_parameters=state.num_parameters,
        )

        client = GenerateClient(
            fleet.base_url,
            max_concurrency=config.engine.max_concurrency * resources.num_engines,
            request_timeout_s=config.engine.request_timeout_s,
        )
        stack.push_async_callback(client.close)
        async with _watched(fleet):
            yield Run(
                config=config,
                state=state,
                data=data,
                reward=reward,
                client=client,
                fleet=fleet,
                trainer=trainer,
                report=report,
                checkpoints=checkpoints,
                export=Path(config.checkpoint.save_hf or run_dir / "hf"),
            )


@asynccontextmanager
async def _watched(fleet: Fleet) -> AsyncGenerator[None]:
    """While the body runs, the loss of an engine cancels it and is raised in its place."""
    async with asyncio.TaskGroup() as tasks:
        watch = tasks.create_task(fleet.watch())
        try:
            yield
        except EngineRefused:
            # An engine that dies answers nonsense for some seconds before its process is gone: then the loss is
            # the reason, and it is worth another attempt.
            await asyncio.wait({watch}, timeout=DYING_S)
            raise
        watch.cancel()


def _tokenizer(directory: str) -> PreTrainedTokenizerBase:
    if not (Path(directory) / "config.json").is_file():
        raise ModelInvalid(f"model.hf_checkpoint: {directory} is not a Hugging Face directory: it has no config.json")
    try:
        return AutoTokenizer.from_pretrained(directory, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ModelInvalid(f"model.hf_checkpoint: no tokenizer could be loaded from {directory}: {error}") from error
