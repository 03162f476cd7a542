"""The parts of one run, started and connected."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.client import GenerateClient
from engines.fleet import Fleet
from trainers.config import RunConfig
from trainers.errors import ConfigInvalid
from trainers.megatron.group import MegatronTrainer
from trainers.plugins.run import Plugins
from trainers.protocols import TrainerState
from trainers.reporting import Reporter
from trainers.reports import Phase
from trainers.rollout.evaluation import Evaluator
from trainers.rollout.protocols import DataSource, RewardFunction, RolloutContext, RolloutFunction


@dataclass(frozen=True, slots=True)
class Engines:
    """What generates: a fleet, and the way to it."""

    fleet: Fleet
    client: GenerateClient


@dataclass(frozen=True, slots=True)
class Training:
    """What trains, and where it began."""

    trainer: MegatronTrainer
    state: TrainerState
    checkpoints: Path
    export: Path
    """Where to, with ``{rollout_id}`` in it if there is one for every save."""

    def export_after(self, rollout_id: int) -> Path:
        return Path(str(self.export).replace("{rollout_id}", str(rollout_id)))


@dataclass(frozen=True, slots=True)
class Run:
    config: RunConfig
    rollout: RolloutFunction
    """The shipped one, the algorithm's, the user's, or one that replays what was saved."""
    plugins: Plugins
    """The user's own functions."""
    data: DataSource | None
    """None where rollouts are replayed."""
    tokenizer: Any
    reward: RewardFunction
    report: Reporter
    evaluator: Evaluator | None
    """None without eval sets."""
    engines: Engines | None
    """None where nothing is generated."""
    training: Training | None
    """None where nothing is trained."""

    def context(self, weight_version: int, phase: Phase = Phase.GENERATING) -> RolloutContext:
        """For one call of the rollout function, or of the evaluation."""
        engines = self.engines
        base_url = engines.fleet.base_url if engines else ""
        self.plugins.connect(base_url, self.tokenizer, weight_version)
        return RolloutContext(
            config=self.config,
            data=self.data or NoData(),
            client=engines.client if engines else NoEngines(),
            reward=self.reward,
            tokenizer=self.tokenizer,
            base_url=base_url,
            weight_version=weight_version,
            progress=lambda text: self.report.phase(phase, text),
            doors=self.plugins.doors,
        )


class NoEngines:
    """Stands where a rollout function that needs engines would find them."""

    async def generate(self, *_: object, **__: object) -> Any:
        raise ConfigInvalid("this run has no engines: neither its algorithm nor its debug mode generates anything")

    async def abort(self, rid: str) -> None: ...


class NoData:
    """Stands where a replay would find prompts."""

    def __len__(self) -> int:
        return 0

    def next_groups(self, n_prompts: int, n_samples: int) -> Any:
        raise ConfigInvalid("this run reads no prompts: it trains on the rollouts in debug.load_rollouts")

    def put_back(self, groups: object) -> None:
        raise ConfigInvalid("this run reads no prompts: it trains on the rollouts in debug.load_rollouts")

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: dict[str, Any]) -> None: ...
