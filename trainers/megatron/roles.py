"""The models of one trainer: the policy, and beside it a reference, an old policy, a critic, on the same ranks."""

import argparse
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from trainers.config import AlgorithmConfig, PolicyGradientConfig, RunConfig
from trainers.config.algorithm import needs_reference
from trainers.megatron import checkpoint, start
from trainers.megatron.critic import TrainedCritic
from trainers.megatron.experience import Experience, ForwardPass, Steps, custom_advantage
from trainers.megatron.step import RolloutTrainer
from trainers.protocols import StepStats

log = logging.getLogger(__name__)

REFERENCE = "reference"
CRITIC = "critic"
"""Where a checkpoint keeps them."""


class HeldWeights:
    """A second set of weights of a module, in main memory, that changes places with the module's own for a forward
    pass. Nothing is held twice while it does."""

    def __init__(self, module: nn.Module):
        """Begins with the weights that the module has."""
        with torch.no_grad():
            self._pairs = [(live, _in_memory(live)) for live in _weights(module)]

    @torch.no_grad()
    def refresh(self) -> None:
        """Take the module's weights."""
        for live, held in self._pairs:
            held.copy_(live)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """The module has these weights; afterwards its own again, bit for bit."""
        done = 0
        try:
            for live, held in self._pairs:
                _exchange(live, held)
                done += 1
            yield
        finally:
            for live, held in self._pairs[:done]:
                _exchange(live, held)

    def compute(self, forward: ForwardPass) -> ForwardPass:
        """``forward`` with these weights."""

        def with_these(steps: Steps) -> list[list[Tensor]]:
            with self.swapped():
                return forward(steps)

        return with_these


@torch.no_grad()
def _exchange(live: Tensor, held: Tensor) -> None:
    own = live.detach().clone()
    live.copy_(held)
    held.copy_(own)


def _weights(module: nn.Module) -> list[Tensor]:
    """Parameters, and the buffers that belong to a state (say, a router's bias)."""
    persistent = set(module.state_dict(keep_vars=True))
    buffers = [buffer for name, buffer in module.named_buffers() if name in persistent]
    return [*module.parameters(), *buffers]


def _in_memory(live: Tensor) -> Tensor:
    held = torch.empty_like(live, device="cpu", pin_memory=live.is_cuda)
    return held.copy_(live)


@dataclass(frozen=True, slots=True)
class Reference:
    """The model that the policy must stay close to."""

    weights: HeldWeights
    update_interval: int | None

    def after(self, rollout_id: int) -> None:
        """A rollout was trained on."""
        if self.update_interval is not None and (rollout_id + 1) % self.update_interval == 0:
            self.weights.refresh()


def build_reference(
    config: RunConfig, args: argparse.Namespace, module: nn.Module, load_hf: Callable[[Path], None]
) -> Reference | None:
    """Load the reference's weights into the module and keep them; the policy's must be loaded after it. A collective.
    None where the algorithm knows no reference. ``load_hf`` fills the module from a Hugging Face directory. Raises
    ModelInvalid or CheckpointInvalid."""
    if not needs_reference(config.algorithm):
        return None
    if (begin := start.reference(config.checkpoint)) is not None:
        checkpoint.load(checkpoint.TrainingState(args, module), begin, verify=config.checkpoint.verify)
    else:
        load_hf(Path(config.checkpoint.ref_load or config.model.hf_checkpoint))
    kl = config.algorithm.kl if isinstance(config.algorithm, PolicyGradientConfig) else None
    return Reference(HeldWeights(module), None if kl is None else kl.ref_update_interval)


class Roles:
    """What a rollout is trained with, on one rank: every call is a collective of all ranks."""

    def __init__(
        self,
        algorithm: AlgorithmConfig,
        state: checkpoint.TrainingState,
        policy: RolloutTrainer,
        group: dist.ProcessGroup,
        reference: Reference | None,
        critic: TrainedCritic | None,
    ):
        """``state`` and ``policy``: the policy with its weights loaded. ``group``: the data-parallel one. Raises
        PluginInvalid for a custom advantage that cannot be loaded."""
        self._state, self._policy = state, policy
        self._reference, self._critic = reference, critic
        keeps_old = isinstance(algorithm, PolicyGradientConfig) and algorithm.keep_old_actor
        self._published = HeldWeights(state.module) if keeps_old else None
        self._experience = Experience(
            algorithm,
            group,
            policy=policy.compute,
            old=None if self._published is None else self._published.compute(policy.compute),
            reference=None if reference is None else reference.weights.compute(policy.compute),
            critic=None if critic is None else critic.trainer.compute,
            custom_advantage=custom_advantage(algorithm),
        )

    def train(self, rollout_id: int, steps: Steps) -> StepStats:
        """Train on one rollout. A critic's metrics are named ``critic/…``; while it is trained alone there are no
        others."""
        signals = self._experience(steps)
        metrics: dict[str, float] = {}
        if self._critic is not None:
            stats = self._critic.trainer(steps, signals)
            metrics = {f"critic/{name}": value for name, value in stats.metrics.items()}
        if self._critic is not None and rollout_id < self._critic.num_critic_only_steps:
            return StepStats(metrics)
        stats = self._policy(steps, signals)
        if self._reference is not None:
            self._reference.after(rollout_id)
        return StepStats(stats.metrics | metrics, stats.losses, stats.grad_norms)

    def published(self) -> None:
        """The engines have the policy's weights: what they sample from now on is theirs."""
        if self._published is not None:
            self._published.refresh()

    def companions(self) -> list[checkpoint.Companion]:
        """What a checkpoint holds beside the policy: the critic, and a reference that moves."""
        found: list[checkpoint.Companion] = []
        if self._reference is not None and self._reference.update_interval is not None:
            weights = checkpoint.TrainingState(self._state.args, self._state.module)
            found.append(checkpoint.Companion(REFERENCE, weights, self._reference.weights.swapped))
        if self._critic is not None:
            found.append(checkpoint.Companion(CRITIC, self._critic.state))
        return found

    def restore(self, begin: start.Checkpoint) -> None:
        """The companions that ``begin`` holds. A checkpoint of another algorithm holds none, and a run that takes only
        its weights needs none: they begin anew."""
        for companion in self.companions():
            if not checkpoint.load_companion(companion, begin):
                log.info("%s has no %s: it begins anew", begin.path, companion.name)
        if self._published is not None:
            self._published.refresh()
