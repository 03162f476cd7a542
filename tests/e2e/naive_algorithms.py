"""Every algorithm on a Hugging Face model, written out sample by sample and token by token. Nothing of the product."""

import math
import statistics
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from engines.types import Sample
from trainers.config import RunConfig

GROUP_RELATIVE = ("grpo", "gspo", "cispo")


def mean(values: list[Any]) -> Any:
    return sum(values) / max(len(values), 1)


class NaiveAlgorithm:
    def __init__(self, config: RunConfig):
        self.config, self.algorithm = config, config.algorithm
        self.model = self._load()
        self.reference = deepcopy(self.model)
        self.adam = self._adam(list(self.model.parameters()), config.trainer.lr)
        if self.name == "ppo":
            self.critic = self._load()
            self.head = torch.nn.Linear(self.model.config.hidden_size, 1, bias=False)
            torch.nn.init.zeros_(self.head.weight)
            body = list(self.critic.model.parameters())
            self.critic_parameters = [*body, self.head.weight]
            self.critic_adam = self._adam(self.critic_parameters, self.algorithm.critic.lr or config.trainer.lr)
        self.rollouts = 0

    @property
    def name(self) -> str:
        return self.algorithm.name

    def __getattr__(self, name: str) -> Any:
        """Fields of the algorithm, None where it has none."""
        return getattr(self.__dict__["algorithm"], name, None)

    def _load(self) -> Any:
        path = self.config.model.hf_checkpoint
        return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager")

    def _adam(self, parameters: list[Any], lr: float) -> torch.optim.AdamW:
        trainer = self.config.trainer
        betas = (trainer.adam_beta1, trainer.adam_beta2)
        return torch.optim.AdamW(parameters, lr=lr, betas=betas, eps=trainer.adam_eps, weight_decay=0.0)

    def log_probs(self, model: Any, sample: Sample) -> tuple[Tensor, Tensor]:
        ids = torch.tensor(sample.tokens)
        temperature = self.config.rollout.sampling.temperature
        log_p = (model(ids[None]).logits[0] / temperature).log_softmax(-1)[-sample.response_length - 1 : -1]
        return log_p.gather(1, ids[-sample.response_length :, None])[:, 0], -(log_p.exp() * log_p).sum(-1)

    def values(self, sample: Sample) -> Tensor:
        hidden = self.critic.model(torch.tensor(sample.tokens)[None]).last_hidden_state[0]
        return self.head(hidden[-sample.response_length - 1 : -1])[:, 0]

    # From rewards to advantages.

    def outcomes(self, groups: list[list[Sample]]) -> list[float]:
        found: list[float] = []
        for group in groups:
            rewards = [float(sample.reward or 0.0) for sample in group]
            for reward in rewards:
                if self.name == "rloo":
                    others = [*rewards]
                    others.remove(reward)
                    found.append(reward - statistics.fmean(others) if others else 0.0)
                elif self.name in (*GROUP_RELATIVE, "dr_grpo", "reinforce_plus_plus_baseline"):
                    centered = reward - statistics.fmean(rewards)
                    if self.normalize_std:
                        centered /= (statistics.stdev(rewards) if len(rewards) > 1 else 0.0) + 1e-6
                    found.append(centered)
                else:
                    found.append(reward)
        return found

    def advantages(
        self, sample: Sample, outcome: float, old: Tensor, ref: Tensor, values: list[float]
    ) -> tuple[list[float], list[float]]:
        """(advantages, returns) of one sample's tokens."""
        length, mask = sample.response_length, sample.loss_mask
        in_reward = self.kl is not None and self.kl.reward_coef is not None
        penalty = [
            self.kl.reward_coef * float(self.kl_of(old[t], ref[t], None)) * mask[t] if in_reward else 0.0
            for t in range(length)
        ]
        if self.name == "reinforce_plus_plus_baseline":
            return [outcome - each for each in penalty], []
        if self.name not in ("reinforce_plus_plus", "ppo"):
            return [outcome] * length, []
        rewards = [-each for each in penalty]
        if self.name == "reinforce_plus_plus":
            if 1 in mask:
                rewards[max(t for t in range(length) if mask[t])] += outcome
            returns = [0.0] * (length + 1)
            for t in reversed(range(length)):
                returns[t] = rewards[t] + self.gamma * returns[t + 1]
            return returns[:-1], []
        rewards[-1] += outcome
        found, following = [0.0] * (length + 1), [*values, 0.0]
        for t in reversed(range(length)):
            delta = rewards[t] + self.gamma * following[t + 1] - values[t]
            found[t] = delta + self.gamma * self.lambd * found[t + 1]
        return found[:-1], [a + v for a, v in zip(found, values, strict=False)]

    def kl_of(self, log_p: Tensor, log_q: Tensor, importance: Tensor | None) -> Tensor:
        d = log_p - log_q
        found = {"k1": d, "kl": d, "k2": d * d / 2}.get(self.kl.estimator, (-d).exp() - 1 + d)
        if importance is not None:
            found = found * importance
        return found.clamp(-10, 10) if self.kl.estimator == "low_var_kl" else found

    # The losses.

    def token_losses(
        self, sample: Sample, new: Tensor, old: Tensor, ref: Tensor, entropy: Tensor, advantages: list[float]
    ) -> list[Tensor]:
        length, mask = sample.response_length, sample.loss_mask
        if self.name == "sft":
            return [-new[t] for t in range(length)]
        kept = [t for t in range(length) if mask[t]]
        low, high = 1 - self.eps_clip, 1 + self.algorithm.clip_high
        drift = mean([float(old[t] - new[t]) for t in kept])
        found: list[Tensor] = []
        for t in range(length):
            advantage = advantages[t]
            log_ratio = mean([new[k] - old[k] for k in kept]) if self.name == "gspo" else new[t] - old[t]
            ratio = torch.as_tensor(log_ratio).exp()
            if self.name == "cispo":
                loss = -min(max(float(ratio), low), high) * advantage * new[t]
            else:
                loss = torch.maximum(-ratio * advantage, -ratio.clamp(low, high) * advantage)
                if self.eps_clip_c is not None and advantage < 0:
                    loss = torch.clamp(loss, max=-self.eps_clip_c * advantage)
            if self.opsm is not None and advantage < 0 and drift > self.opsm.delta:
                loss = loss * 0
            if (correction := self.correction) is not None:
                weight = math.exp(float(old[t]) - sample.rollout_log_probs[t])
                inside = correction.clip_low <= weight <= correction.clip
                weight = (
                    min(max(weight, correction.clip_low), correction.clip)
                    if correction.method == "tis"
                    else (weight * inside)
                )
                loss = loss * weight
            loss = loss - self.entropy_coef * entropy[t]
            if self.kl is not None and self.kl.loss_coef is not None:
                importance = (new[t] - old[t]).exp() if self.kl.use_unbiased else None
                loss = loss + self.kl.loss_coef * self.kl_of(new[t], ref[t], importance)
            found.append(loss)
        return found

    def aggregate(self, samples: list[Sample], losses: list[list[Tensor]]) -> Tensor:
        parts = [
            [loss for loss, bit in zip(each, sample.loss_mask, strict=True) if bit]
            for sample, each in zip(samples, losses, strict=True)
        ]
        match self.algorithm.loss_aggregation:
            case "token_mean":
                return mean([loss for each in parts for loss in each])
            case "sample_mean":
                return sum(mean(each) for each in parts) / len(samples)
            case "constant":
                return sum(sum(each) for each in parts) / self.loss_divisor / len(samples)
            case _:
                trajectories: dict[Any, list[Tensor]] = {}
                for number, (sample, each) in enumerate(zip(samples, parts, strict=True)):
                    alone = ("alone", number)
                    key = alone if sample.trajectory_index is None else sample.trajectory_index
                    trajectories.setdefault(key, []).extend(each)
                return sum(mean(each) for each in trajectories.values()) / len(trajectories)

    def dpo(self, samples: list[Sample], new: list[Tensor], ref: list[Tensor]) -> Tensor:
        total, smoothing = torch.tensor(0.0), self.label_smoothing
        for i in range(0, len(samples), 2):
            gains = [
                sum((new[k][t] - ref[k][t]) * samples[k].loss_mask[t] for t in range(samples[k].response_length))
                for k in (i, i + 1)
            ]
            z = self.beta * (gains[0] - gains[1])
            total = total - (1 - smoothing) * torch.sigmoid(z).log() - smoothing * torch.sigmoid(-z).log()
        return total / (len(samples) // 2)

    def rollout(self, groups: list[list[Sample]], old_model: Any = None) -> dict[str, list[float]]:
        samples = [sample for group in groups for sample in group]
        with torch.no_grad():
            old = [self.log_probs(old_model or self.model, sample)[0] for sample in samples]
            ref = [self.log_probs(self.reference, sample)[0] for sample in samples]
            values = [self.values(sample).tolist() if self.name == "ppo" else [] for sample in samples]
        outcomes = self.outcomes(groups)
        pairs = [self.advantages(*each) for each in zip(samples, outcomes, old, ref, values, strict=True)]
        advantages, returns = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        if self.normalize_advantages:
            kept = [
                a
                for sample, each in zip(samples, advantages, strict=True)
                for a, bit in zip(each, sample.loss_mask, strict=True)
                if bit
            ]
            mu, var = statistics.fmean(kept), statistics.variance(kept)
            advantages = [[(a - mu) / math.sqrt(var + 1e-8) for a in each] for each in advantages]
        size = self.config.global_batch_size
        found: dict[str, list[float]] = {"losses": [], "grad_norms": [], "critic_losses": []}
        for start in range(0, len(samples), size):
            mine = range(start, start + size)
            members = [samples[i] for i in mine]
            if self.name == "ppo":
                self._critic_step(members, [values[i] for i in mine], [returns[i] for i in mine], found)
                if self.rollouts < self.critic_only:
                    continue
            self.adam.zero_grad()
            new = [self.log_probs(self.model, sample) for sample in members]
            if self.name == "dpo":
                loss = self.dpo(members, [each[0] for each in new], [ref[i] for i in mine])
            else:
                losses = [
                    self.token_losses(samples[i], log_probs, old[i], ref[i], entropy, advantages[i])
                    for i, (log_probs, entropy) in zip(mine, new, strict=True)
                ]
                loss = self.aggregate(members, losses)
            loss.backward()
            parameters = self.model.parameters()
            found["grad_norms"].append(float(torch.nn.utils.clip_grad_norm_(parameters, self.config.trainer.clip_grad)))
            found["losses"].append(loss.item())
            self.adam.step()
        self.rollouts += 1
        interval = self.kl.ref_update_interval if self.kl is not None else None
        if interval is not None and self.rollouts % interval == 0:
            self.reference = deepcopy(self.model)
        return found

    @property
    def critic_only(self) -> int:
        return self.algorithm.critic.num_critic_only_steps

    def _critic_step(
        self,
        samples: list[Sample],
        values: list[list[float]],
        returns: list[list[float]],
        found: dict[str, list[float]],
    ) -> None:
        self.critic_adam.zero_grad()
        clip, losses = self.value_clip, []
        for sample, olds, targets in zip(samples, values, returns, strict=True):
            each = []
            for value, old, target in zip(self.values(sample), olds, targets, strict=True):
                bounded = old + (value - old).clamp(-clip, clip)
                each.append(torch.maximum((value - target) ** 2, (bounded - target) ** 2))
            losses.append(each)
        loss = self.aggregate(samples, losses)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.critic_parameters, self.config.trainer.clip_grad)
        self.critic_adam.step()
        found["critic_losses"].append(loss.item())
