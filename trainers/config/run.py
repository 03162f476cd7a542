"""One run, whole: what goes together is checked here."""

from typing import Self

from pydantic import model_validator

from engines.config import EngineConfig, ResourcesConfig, Section
from trainers.config.algorithm import AlgorithmConfig, GRPOConfig, rollout_function_of, samples_per_row
from trainers.config.checkpoint import CheckpointConfig
from trainers.config.data import DataConfig
from trainers.config.debug import DebugConfig
from trainers.config.evaluation import EvalConfig
from trainers.config.model import ModelConfig
from trainers.config.plugins import PluginsConfig
from trainers.config.rollout import RolloutConfig
from trainers.config.runtime import RuntimeConfig
from trainers.config.sync import SyncConfig
from trainers.config.trainer import TrainerConfig


class RunConfig(Section):
    """Everything one run needs to know; a job spec is this plus what only the control plane reads."""

    resources: ResourcesConfig = ResourcesConfig()
    model: ModelConfig
    data: DataConfig
    rollout: RolloutConfig
    algorithm: AlgorithmConfig = GRPOConfig()
    trainer: TrainerConfig = TrainerConfig()
    engine: EngineConfig = EngineConfig()
    sync: SyncConfig = SyncConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    eval: EvalConfig = EvalConfig()
    debug: DebugConfig = DebugConfig()
    plugins: PluginsConfig = PluginsConfig()
    runtime: RuntimeConfig = RuntimeConfig()

    @property
    def num_rollouts(self) -> int:
        """Raises ValueError while ``rollout.num_epochs`` waits for the prompts to be counted: see :meth:`counted`."""
        if self.rollout.num_rollouts is None:
            raise ValueError("rollout.num_epochs: the prompts have not been counted yet")
        return self.rollout.num_rollouts

    def counted(self, num_prompts: int) -> Self:
        """With ``rollout.num_rollouts`` settled. Raises ValueError as :meth:`RolloutConfig.counted` does."""
        return self.model_copy(update={"rollout": self.rollout.counted(num_prompts)})

    @property
    def global_batch_size(self) -> int:
        return self.trainer.global_batch_size or self.rollout.samples_per_rollout

    @property
    def steps_per_rollout(self) -> int:
        """Optimizer steps; the last one takes what remains."""
        return -(-self.rollout.samples_per_rollout // self.global_batch_size)

    @property
    def uses_engines(self) -> bool:
        """Whether anything is generated, to learn from or to evaluate."""
        return self.debug.generates and (rollout_function_of(self.algorithm) is None or bool(self.eval.sets))

    @property
    def evaluates_alone(self) -> bool:
        """Whether nothing is trained or generated but one evaluation."""
        return self.rollout.num_rollouts == 0

    @property
    def data_parallel_size(self) -> int:
        return self.resources.train_world_size // self.trainer.model_parallel_size

    @model_validator(mode="after")
    def _rows_make_the_samples_of_the_algorithm(self) -> Self:
        wanted = samples_per_row(self.algorithm)
        if wanted is not None and self.rollout.n_samples_per_prompt != wanted:
            raise ValueError(
                f"rollout.n_samples_per_prompt must be {wanted} under algorithm {self.algorithm.name!r}, not "
                f"{self.rollout.n_samples_per_prompt}: its samples are those of the data"
            )
        return self

    @model_validator(mode="after")
    def _halves_have_what_they_need(self) -> Self:
        if self.evaluates_alone and not self.eval.sets:
            raise ValueError("rollout.num_rollouts is 0, so there is only an evaluation to run: add eval.sets")
        if self.debug.mode == "train_only" and self.eval.sets:
            raise ValueError("eval.sets are answered by engines, and debug.mode train_only has none: leave one out")
        if self.rollout.num_epochs is not None and self.debug.load_rollouts is not None:
            raise ValueError("rollout.num_epochs counts prompts, and a replay reads none: give rollout.num_rollouts")
        if not self.uses_engines and self.engine.keep_serving_s:
            raise ValueError("engine.keep_serving_s: this run has no engines, so nothing to keep serving")
        if not self.debug.trains and rollout_function_of(self.algorithm) is not None:
            raise ValueError(f"debug.mode rollout_only: algorithm {self.algorithm.name!r} generates nothing")
        return self

    @model_validator(mode="after")
    def _plugins_are_called(self) -> Self:
        replays = self.debug.load_rollouts is not None
        self.plugins.require_callers(
            generates=not replays and rollout_function_of(self.algorithm) is None,
            reads_data=not replays,
            evaluates=bool(self.eval.sets),
            trains=self.debug.trains,
        )
        return self

    @model_validator(mode="after")
    def _sizes_agree(self) -> Self:
        trainer, world = self.trainer, self.resources.train_world_size
        if world % trainer.model_parallel_size:
            raise ValueError(
                f"trainer.tensor_model_parallel_size × pipeline_model_parallel_size × context_parallel_size "
                f"({trainer.tensor_model_parallel_size} × {trainer.pipeline_model_parallel_size} × "
                f"{trainer.context_parallel_size}) must divide the number of training processes ({world})"
            )
        expert_tensor = trainer.expert_tensor_parallel_size or trainer.tensor_model_parallel_size
        if world % (expert_tensor * trainer.expert_model_parallel_size * trainer.pipeline_model_parallel_size):
            raise ValueError(
                f"trainer.expert_tensor_parallel_size × expert_model_parallel_size × pipeline_model_parallel_size "
                f"({expert_tensor} × {trainer.expert_model_parallel_size} × {trainer.pipeline_model_parallel_size}) "
                f"must divide the number of training processes ({world})"
            )
        return self
