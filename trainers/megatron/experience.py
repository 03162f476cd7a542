"""From a rollout's micro-batches to what its optimizer steps learn from: old and reference log-probabilities, values,
advantages."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from trainers.config import (
    AlgorithmConfig,
    PolicyGradientConfig,
    PPOConfig,
    ReinforcePlusPlusBaselineConfig,
    ReinforcePlusPlusConfig,
)
from trainers.errors import RolloutFailed
from trainers.megatron.packing import MicroBatch
from trainers.megatron.signals import Signals
from trainers.megatron.slime_formulas import SlimeAdvantage
from trainers.megatron.users_formula import of_each_token
from trainers.plugins.check import check
from trainers.plugins.doors import DOORS
from trainers.rl.advantages import (
    baseline_advantages,
    generalized_advantages,
    reinforce_plus_plus_returns,
    token_rewards,
    whiten,
    whitening_sums,
)
from trainers.rl.doors import AdvantageInputs, CustomAdvantage
from trainers.rl.kl import kl_estimate

type Steps = Sequence[Sequence[MicroBatch]]
type ForwardPass = Callable[[Steps], list[list[Tensor]]]
"""One value per response token of every micro-batch, without gradient."""


@dataclass(frozen=True, slots=True)
class Experience:
    """Prepares a rollout on one rank. The passes are collectives of all ranks."""

    algorithm: AlgorithmConfig
    data_parallel_group: dist.ProcessGroup
    policy: ForwardPass
    reference: ForwardPass | None = None
    critic: ForwardPass | None = None
    custom_advantage: CustomAdvantage | SlimeAdvantage | None = None

    def __call__(self, steps: Steps, old_policy: ForwardPass | None = None) -> list[list[Signals]]:
        """``old_policy``: the one that generated, where that is not the one that is trained."""
        with torch.no_grad():
            algorithm = self.algorithm
            reference = self.reference(steps) if self.reference is not None else None
            values = self.critic(steps) if self.critic is not None else None
            old = old_policy(steps) if old_policy is not None else self._old(steps)
            if not isinstance(algorithm, PolicyGradientConfig):
                return _map(lambda at, batch: Signals(batch.advantages, _at(old, at), _at(reference, at)), steps)
            signals = _map(
                lambda at, batch: self._signals(algorithm, batch, _at(old, at), _at(reference, at), _at(values, at)),
                steps,
            )
            if isinstance(self.custom_advantage, SlimeAdvantage):
                signals = self.custom_advantage(steps, signals)
            return self._whitened(steps, signals) if algorithm.normalize_advantages else signals

    def _old(self, steps: Steps) -> list[list[Tensor]] | None:
        """None where the old policy is the step's own, or the engine's numbers stand for it."""
        algorithm = self.algorithm
        if not isinstance(algorithm, PolicyGradientConfig):
            return None
        in_reward = algorithm.kl is not None and algorithm.kl.reward_coef is not None
        # From the second step on the policy is not the one whose log-probabilities are "old".
        told = len(steps) > 1 or isinstance(self.custom_advantage, SlimeAdvantage)
        return self.policy(steps) if in_reward or (told and not algorithm.use_rollout_log_probs) else None

    def _signals(
        self,
        algorithm: PolicyGradientConfig,
        batch: MicroBatch,
        old: Tensor | None,
        reference: Tensor | None,
        values: Tensor | None,
    ) -> Signals:
        mask, cu = batch.loss_mask, batch.cu_responses
        outcomes = batch.advantages[cu[1:] - 1]
        kl, kl_coef = None, 0.0
        if algorithm.kl is not None and algorithm.kl.reward_coef is not None:
            assert old is not None
            assert reference is not None
            kl, kl_coef = kl_estimate(old, reference, estimator=algorithm.kl.estimator), algorithm.kl.reward_coef
        advantages, returns = batch.advantages, None
        if isinstance(algorithm, PPOConfig):
            assert values is not None
            rewards = token_rewards(outcomes, kl, mask, cu, kl_coef=kl_coef, at_last_unmasked=False)
            advantages, returns = generalized_advantages(
                rewards, values, cu, gamma=algorithm.gamma, lambd=algorithm.lambd
            )
        elif isinstance(algorithm, ReinforcePlusPlusConfig):
            advantages = reinforce_plus_plus_returns(outcomes, kl, mask, cu, kl_coef=kl_coef, gamma=algorithm.gamma)
        elif isinstance(algorithm, ReinforcePlusPlusBaselineConfig):
            advantages = baseline_advantages(outcomes, kl, mask, cu, kl_coef=kl_coef)
        if self.custom_advantage is not None and not isinstance(self.custom_advantage, SlimeAdvantage):
            inputs = AdvantageInputs(outcomes=outcomes, kl=kl, values=values, loss_mask=mask, cu_lengths=cu)
            advantages = of_each_token(
                "algorithm.custom_advantage",
                algorithm.custom_advantage,
                self.custom_advantage,
                inputs,
                algorithm,
                like=mask,
            )
        return Signals(advantages, old, reference, values, returns)

    def _whitened(self, steps: Steps, signals: list[list[Signals]]) -> list[list[Signals]]:
        """Over the rollout, all ranks together; context-parallel ranks hold the same tokens and count once."""
        parts = [
            whitening_sums(known.advantages, batch.loss_mask)
            for batches, each in zip(steps, signals, strict=True)
            for batch, known in zip(batches, each, strict=True)
        ]
        total = torch.stack(parts).sum(0)
        dist.all_reduce(total, group=self.data_parallel_group)
        try:
            return [
                [
                    Signals(
                        whiten(known.advantages, total),
                        known.old_log_probs,
                        known.ref_log_probs,
                        known.values,
                        known.returns,
                    )
                    for known in each
                ]
                for each in signals
            ]
        except ValueError as error:
            raise RolloutFailed(str(error)) from error


def custom_advantage(
    algorithm: AlgorithmConfig, slime_args: Callable[[], Any]
) -> CustomAdvantage | SlimeAdvantage | None:
    """The user's. ``slime_args``: for one in slime's form. Raises PluginInvalid for one that cannot be loaded."""
    if not isinstance(algorithm, PolicyGradientConfig) or algorithm.custom_advantage is None:
        return None
    plugin = check(algorithm.custom_advantage, DOORS["custom_advantage"])
    return SlimeAdvantage(algorithm, plugin, slime_args()) if plugin.form == "slime" else plugin.target


def _map(make: Callable[[tuple[int, int], MicroBatch], Signals], steps: Steps) -> list[list[Signals]]:
    return [[make((s, m), batch) for m, batch in enumerate(batches)] for s, batches in enumerate(steps)]


def _at(values: list[list[Tensor]] | None, at: tuple[int, int]) -> Tensor | None:
    return None if values is None else values[at[0]][at[1]]
