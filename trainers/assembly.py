"""The parts of one run: brought up in the order in which they can fail cheaply, and released whatever happens."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from pathlib import Path

import ray
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from engines.client import GenerateClient
from engines.fleet import Fleet
from engines.hardware import resolve
from engines.placement import reserve
from engines.types import Sample
from trainers.config import DataConfig, DPOConfig, RewardConfig, RunConfig, SFTConfig
from trainers.config.algorithm import rollout_function_of
from trainers.errors import CheckpointInvalid, ConfigInvalid, DataInvalid, ModelInvalid
from trainers.megatron.group import MegatronTrainer
from trainers.megatron.hf.config import read_hf_config
from trainers.megatron.hf.target import check_target
from trainers.plugins import load_function
from trainers.plugins.fields import reward_of_set
from trainers.plugins.run import Plugins, load_plugins
from trainers.protocols import TrainerState
from trainers.reporting import Reporter
from trainers.reports import Phase
from trainers.rollout import dpo, sft
from trainers.rollout.buffer import Buffer
from trainers.rollout.data import LabelCheck, PromptData
from trainers.rollout.default import generate_rollout
from trainers.rollout.dump import check_rollouts, replay
from trainers.rollout.evaluation import EvalSet, Evaluator
from trainers.rollout.protocols import DataSource, RolloutFunction
from trainers.rollout.rewards import Reward, label_check, load_reward
from trainers.rollout.sampling import row_check
from trainers.run import Engines, Run, Training
from trainers.watch import watched

DYING_S = 30.0


@asynccontextmanager
async def assembled(config: RunConfig, name: str, run_id: str, run_dir: Path, report: Reporter) -> AsyncGenerator[Run]:
    """All parts of a run. What the user gave is checked before any accelerator is taken.

    ``name`` is the placement group's; ``run_id`` owns the checkpoints. While the body runs, an engine that is lost
    ends it with EngineLost.
    """
    checkpoints = Path(config.checkpoint.save or run_dir / "checkpoints")
    report.phase(Phase.LOADING_PLUGINS, "the user's functions, each held against its door")
    plugins = await asyncio.to_thread(load_plugins, config, checkpoints=str(checkpoints))
    if plugins.paths:
        report.event("plugins_loaded", ", ".join(plugins.paths))
    rollout = _rollout_function(config, plugins)
    rewards: list[Reward] = []

    def load(field: str, section: RewardConfig) -> Reward:
        rewards.append(load_reward(section, functions=plugins.reward_function, field=field))
        return rewards[-1]

    reward = load("rollout.reward", config.rollout.reward) if config.uses_engines else no_reward
    if config.debug.trains:
        await asyncio.to_thread(read_hf_config, Path(config.model.hf_checkpoint))
    tokenizer = await asyncio.to_thread(_tokenizer, config.model.hf_checkpoint)
    data, evaluator = await _data(config, tokenizer, run_dir, report, load, plugins)
    config = _counted(config, data, plugins, report)
    export = Path(config.checkpoint.save_hf or run_dir / "hf")
    if config.debug.trains and not config.checkpoint.exports_every_save:
        _check_exports([export], run_id)
    hardware = resolve(config.resources.accelerator, cluster_resources=await asyncio.to_thread(ray.cluster_resources))

    async with AsyncExitStack() as stack:
        for each in rewards:
            stack.push_async_callback(each.close)
        resources, logs = config.resources, run_dir / "logs"
        wanted = [
            *([f"{resources.train_world_size} training"] if config.debug.trains else []),
            *([f"{resources.rollout_num_gpus} generation"] if config.uses_engines else []),
        ]
        report.phase(Phase.PLACING, f"{' and '.join(wanted)} slots")
        placement = await reserve(
            resources, hardware, name=name, training=config.debug.trains, generation=config.uses_engines
        )
        stack.push_async_callback(placement.release)

        fleet = trainer = None
        if config.uses_engines:
            fleet = Fleet(
                config.engine,
                hardware,
                model_path=config.model.hf_checkpoint,
                slots=placement.engine_slots,
                tp_size=resources.rollout_num_gpus_per_engine,
                log_dir=logs,
                env_vars=config.runtime.env_vars,
            )
            stack.push_async_callback(fleet.close)
        if config.debug.trains:
            trainer = MegatronTrainer(
                config,
                checkpoints=checkpoints,
                run_id=run_id,
                slots=placement.trainer_slots,
                hardware=hardware,
                log_dir=logs,
            )
            stack.push_async_callback(trainer.close)

        waiting = [
            *([f"the router and {resources.num_engines} engines"] if fleet else []),
            *(["the trainer to load the model"] if trainer else []),
        ]
        report.phase(Phase.STARTING, " and ".join(waiting))
        async with asyncio.TaskGroup() as tasks:
            if fleet is not None:
                tasks.create_task(fleet.start(lambda text: report.event("engine_started", text)))
            starting = tasks.create_task(trainer.start()) if trainer is not None else None
        training = engines = None
        if trainer is not None and starting is not None:
            training = Training(trainer, starting.result(), checkpoints, export)
            if config.checkpoint.exports_every_save:
                rollouts = range(training.state.next_rollout_id, config.rollout.num_rollouts or 0)
                await asyncio.to_thread(_check_exports, [training.export_after(number) for number in rollouts], run_id)
            report_start(report, training.state)
        if fleet is not None:
            client = GenerateClient(
                fleet.base_url,
                max_concurrency=config.engine.max_concurrency * resources.num_engines,
                request_timeout_s=config.engine.request_timeout_s,
            )
            stack.push_async_callback(client.close)
            engines = Engines(fleet, client)
        run = Run(
            config=config,
            rollout=rollout,
            plugins=plugins,
            data=data,
            tokenizer=tokenizer,
            reward=reward,
            report=report,
            evaluator=evaluator,
            engines=engines,
            training=training,
        )
        async with watched(fleet.watch(), dying_s=DYING_S) if fleet is not None else nullcontext():
            yield run


def _rollout_function(config: RunConfig, plugins: Plugins) -> RolloutFunction:
    if config.debug.load_rollouts is not None:
        return replay(Path(config.debug.load_rollouts))
    if (path := rollout_function_of(config.algorithm)) is not None:
        return load_function(path, parameters=["context", "rollout_id"])
    return plugins.rollout_function or generate_rollout


async def _data(
    config: RunConfig,
    tokenizer: PreTrainedTokenizerBase,
    run_dir: Path,
    report: Reporter,
    load: Callable[[str, RewardConfig], Reward],
    plugins: Plugins,
) -> tuple[DataSource | None, Evaluator | None]:
    """The prompts to learn from, unless rollouts are replayed, and those to evaluate on."""
    if config.debug.load_rollouts is not None:
        await asyncio.to_thread(check_rollouts, Path(config.debug.load_rollouts), config.num_rollouts)
        return None, None
    report.phase(Phase.LOADING_DATA, f"the prompts of {config.data.prompt_data}")

    loop = asyncio.get_running_loop()

    def progress(text: str) -> None:
        loop.call_soon_threadsafe(report.phase, Phase.LOADING_DATA, text)

    def read(data: DataConfig, check: LabelCheck) -> PromptData:
        return PromptData(data, tokenizer, check_label=check, progress=progress)

    if (make := plugins.data_source) is not None:
        source = await asyncio.to_thread(make, tokenizer)
        report.event("data_loaded", f"{len(source)} prompts of the user's own source", num_prompts=len(source))
    else:
        prompts = source = await asyncio.to_thread(read, config.data, _row_check(config))
        left_out = (
            f"; {prompts.num_too_long} left out as longer than data.max_prompt_len" if prompts.num_too_long else ""
        )
        report.event("data_loaded", f"{len(source)} prompts{left_out}", num_prompts=len(source))
    data = Buffer(source, choose=plugins.buffer_filter)
    if not config.eval.sets:
        return data, None
    sets: list[EvalSet] = []
    for number, each in enumerate(config.eval.sets):
        report.phase(Phase.LOADING_DATA, f"the prompts of eval set {each.name}")
        field, reward = reward_of_set(config, number)
        sampling = each.sampling or config.eval.sampling or config.rollout.sampling
        check = row_check(label_check(reward), sampling, evaluating=True)
        prompts = await asyncio.to_thread(read, each.data(config.data), check)
        sets.append(EvalSet(each.name, Buffer(prompts), config.eval.samples_of(each), sampling, load(field, reward)))
    return data, Evaluator(sets, config.eval, run_dir / "eval", plugins)


def _row_check(config: RunConfig) -> LabelCheck:
    match config.algorithm:
        case SFTConfig():
            return sft.check_row(config.data)
        case DPOConfig():
            return dpo.check_row(config.data)
        case _:
            return row_check(label_check(config.rollout.reward), config.rollout.sampling)


def _counted(config: RunConfig, data: DataSource | None, plugins: Plugins, report: Reporter) -> RunConfig:
    """With the number of rollouts, which under ``rollout.num_epochs`` follows from the prompts."""
    if config.rollout.num_epochs is None or data is None:
        return config
    try:
        counted = config.counted(len(data))
    except ValueError as error:
        raise DataInvalid(str(error)) from None
    plugins.counted(counted)
    report.plan(counted.num_rollouts)
    report.event(
        "rollouts_counted",
        f"{counted.num_rollouts} rollouts: {config.rollout.num_epochs} × {len(data)} prompts, "
        f"{config.rollout.rollout_batch_size} at a time",
    )
    return counted


def _check_exports(targets: Iterable[Path], run_id: str) -> None:
    """Before the first hour of training rather than after the last."""
    for target in targets:
        try:
            check_target(target, run_id)
        except CheckpointInvalid as error:
            raise CheckpointInvalid(f"checkpoint.save_hf: {error}") from None


def report_start(report: Reporter, state: TrainerState) -> None:
    """What the trainer begins with."""
    # Another program's checkpoint knows its iteration, and no prompts.
    anew = state.next_rollout_id > 0 and state.extra_state is None
    prompts = "; it holds no data position: the prompts begin anew" if anew else ""
    report.event(
        "trainer_started",
        f"{state.num_parameters:,} parameters from {state.loaded_from}; first rollout {state.next_rollout_id}{prompts}",
        next_rollout_id=state.next_rollout_id,
        num_parameters=state.num_parameters,
    )
    for notice in state.notices:
        report.event("option_without_effect", notice)


async def no_reward(sample: Sample) -> float | None:
    raise ConfigInvalid("this run scores nothing: its algorithm learns from the data's own responses")


def _tokenizer(directory: str) -> PreTrainedTokenizerBase:
    if not (Path(directory) / "config.json").is_file():
        raise ModelInvalid(f"model.hf_checkpoint: {directory} is not a Hugging Face directory: it has no config.json")
    try:
        return AutoTokenizer.from_pretrained(directory, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ModelInvalid(f"model.hf_checkpoint: no tokenizer could be loaded from {directory}: {error}") from error
