"""How many samples, how they are drawn, and how long that may take."""

from engines.config import Positive, SamplingConfig, Seconds, Section
from trainers.config.reward import ExactMatchRewardConfig, RewardConfig


class RolloutConfig(Section):
    num_rollouts: Positive
    rollout_batch_size: Positive
    """Prompts per rollout."""
    n_samples_per_prompt: Positive = 8
    sampling: SamplingConfig = SamplingConfig()
    reward: RewardConfig = ExactMatchRewardConfig()
    timeout_s: Seconds = 1800.0
    """For one rollout, generation and rewards together."""

    @property
    def samples_per_rollout(self) -> int:
        return self.rollout_batch_size * self.n_samples_per_prompt
