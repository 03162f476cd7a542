"""A loss or an advantage that was written for slime: given dictionaries of lists, one tensor a sample."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor

from trainers.config import AlgorithmConfig, PolicyGradientConfig, PPOConfig
from trainers.errors import PluginInvalid
from trainers.megatron.loss import Aggregation, aggregation_of, counts_of, means_of, stacked
from trainers.megatron.packing import MicroBatch
from trainers.megatron.signals import Signals
from trainers.megatron.users_formula import calling
from trainers.megatron.world import Groups
from trainers.plugins.check import Checked, check
from trainers.plugins.doors import DOORS
from trainers.rl.kl import kl_estimate
from trainers.slime_compat.training import get_log_probs_and_entropy

type Steps = Sequence[Sequence[MicroBatch]]


@dataclass(slots=True)
class SlimeLoss:
    """``algorithm.custom_loss`` in slime's form. ``outputs``: the logits of all tokens, [T, width] in float32, as slime
    hands them to it; their memory grows with the vocabulary. What it returns is the whole loss, summed as its reducer
    sums, and numbers to chart, summed alike."""

    algorithm: PolicyGradientConfig
    plugin: Checked
    args: Any
    """slime's namespace."""
    groups: Groups
    names: tuple[str, ...] = ("loss", "denominator", "mask_tokens", "tokens")
    of_the_first: tuple[str, ...] = ()
    charted: dict[str, float] | None = None
    """Sums of this rank's micro-batches in the optimizer step under way."""

    def __call__(self, outputs: Tensor, batch: MicroBatch, signals: Signals) -> tuple[Tensor, Tensor, Tensor]:
        aggregate = aggregation_of(self.algorithm)
        # Of padding alone there are no lists to call it with.
        loss = self._called(outputs[None], batch, signals, aggregate) if batch.num_samples else (outputs * 0).sum()
        with torch.no_grad():
            denominator = aggregate.denominator(batch)
            found = {"loss": loss, "denominator": denominator} | counts_of(batch)
            return loss, denominator.to(torch.int), stacked(found, self.names)

    def _called(self, logits: Tensor, batch: MicroBatch, signals: Signals, aggregate: Aggregation) -> Tensor:
        field, path, given = self.plugin.door.field, self.plugin.path, _of_samples([batch], [signals])
        if signals.old_log_probs is None and not self.algorithm.use_rollout_log_probs:
            given["log_probs"] = self._own(logits.detach(), given)

        def reduce(values: Tensor) -> Tensor:
            if values.shape != batch.loss_mask.shape:
                raise PluginInvalid(
                    f"{field}: {path} reduces a tensor of shape {tuple(values.shape)}, and the responses have "
                    f"{len(batch.loss_mask)} tokens: give their values one sample after the other"
                )
            return aggregate(values, batch)

        with calling(field, path):
            found = self.plugin.target(self.args, given, logits, reduce)
            loss, charted = found if isinstance(found, tuple) and len(cast(Any, found)) == 2 else (None, None)
            if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
                raise PluginInvalid(f"{field}: {path} must return a loss of one number that has a gradient, and a dict")
            if not isinstance(charted, Mapping):
                raise PluginInvalid(f"{field}: {path} must return a dict of numbers beside its loss, not {charted!r}")
            sums = self.charted = self.charted or {}
            for name, value in cast("Mapping[str, Any]", charted).items():
                sums[str(name)] = sums.get(str(name), 0.0) + float(value)
        return loss.sum()  # of one number: Megatron wants no view

    def _own(self, logits: Tensor, given: dict[str, Any]) -> list[Tensor]:
        """In a rollout's one step the old policy is the policy itself."""
        lengths = {name: given[name] for name in ("unconcat_tokens", "total_lengths", "response_lengths")}
        return get_log_probs_and_entropy(logits, args=self.args, **lengths)[1]["log_probs"]

    def metrics(self, total: Sequence[float]) -> dict[str, float]:
        """With what the function charts. A collective of all ranks."""
        sums = dict(zip(self.names, total, strict=True))
        denominator = max(sums["denominator"], 1.0)
        return {name: value / denominator for name, value in self._gathered().items()} | means_of(sums)

    def _gathered(self) -> dict[str, float]:
        """Over the replicas, as the last pipeline stage knows it."""
        mine, self.charted = self.charted or {}, None
        told: list[dict[str, float]] = [{}] * self.groups.data_parallel.size()
        dist.all_gather_object(told, mine, group=self.groups.data_parallel)
        total: dict[str, float] = {}
        for each in told:
            for name, value in each.items():
                total[name] = total.get(name, 0.0) + value
        stages: list[dict[str, float]] = [{}] * self.groups.pipeline.size()
        dist.all_gather_object(stages, total, group=self.groups.pipeline)
        return stages[-1]


def slime_loss(algorithm: AlgorithmConfig, groups: Groups, slime_args: Callable[[], Any]) -> SlimeLoss | None:
    """None unless the algorithm's ``custom_loss`` is one in slime's form. Raises PluginInvalid for one that cannot be
    loaded."""
    if not isinstance(algorithm, PolicyGradientConfig) or algorithm.custom_loss is None:
        return None
    plugin = check(algorithm.custom_loss, DOORS["custom_loss"])
    return SlimeLoss(algorithm, plugin, slime_args(), groups) if plugin.form == "slime" else None


@dataclass(frozen=True, slots=True)
class SlimeAdvantage:
    """``algorithm.custom_advantage`` in slime's form: called once a rollout with all samples of this rank."""

    algorithm: PolicyGradientConfig
    plugin: Checked
    args: Any
    """slime's namespace."""

    def __call__(self, steps: Steps, signals: Sequence[Sequence[Signals]]) -> list[list[Signals]]:
        batches = [batch for each in steps for batch in each]
        known = [one for each in signals for one in each]
        given = _of_samples(batches, known)
        if given["response_lengths"]:
            del given["advantages"], given["returns"]
            given |= self._rewards(batches) | self._kl(batches, known)
            with calling(self.plugin.door.field, self.plugin.path):
                self.plugin.target(self.args, given)
            advantages = self._taken(given, "advantages", batches)
            has_critic = isinstance(self.algorithm, PPOConfig)
            returns = self._taken(given, "returns", batches) if has_critic else [None] * len(batches)
            known = [
                replace(one, advantages=advantage, returns=wanted)
                for one, advantage, wanted in zip(known, advantages, returns, strict=True)
            ]
        rest = iter(known)
        return [[next(rest) for _ in each] for each in steps]

    def _rewards(self, batches: Sequence[MicroBatch]) -> dict[str, Any]:
        """What the algorithm makes of them: the outcome that all tokens of a sample carry."""
        return {"rewards": [value for each in batches for value in each.advantages[each.cu_responses[1:] - 1].tolist()]}

    def _kl(self, batches: Sequence[MicroBatch], known: Sequence[Signals]) -> dict[str, Any]:
        kl = self.algorithm.kl if self.algorithm.kl is not None and self.algorithm.kl.reward_coef is not None else None
        found: list[Tensor] = []
        for batch, one in zip(batches, known, strict=True):
            distance = torch.zeros_like(batch.loss_mask)
            if kl is not None:
                assert one.old_log_probs is not None
                assert one.ref_log_probs is not None
                distance = kl_estimate(one.old_log_probs, one.ref_log_probs, estimator=kl.estimator)
            found += _by_sample(distance, batch)
        return {"kl": found}

    def _taken(self, given: Mapping[str, Any], name: str, batches: Sequence[MicroBatch]) -> list[Tensor]:
        """One tensor a micro-batch, of the function's one tensor a sample."""
        values: Any = given.get(name)
        lengths: list[int] = given["response_lengths"]
        fits = isinstance(values, list | tuple) and len(cast(Any, values)) == len(lengths)
        if not fits or any(
            not isinstance(each, Tensor) or each.shape != (length,)
            for each, length in zip(values, lengths, strict=True)
        ):
            raise PluginInvalid(
                f"{self.plugin.door.field}: {self.plugin.path} must set rollout_data[{name!r}] to a list of one tensor "
                "a sample, with a value for each token of its response"
            )
        rest = iter(cast("Sequence[Tensor]", values))
        none = batches[0].loss_mask[:0]
        return [torch.cat([none, *(each.detach().to(none) for each in islice(rest, b.num_samples))]) for b in batches]


def _of_samples(batches: Sequence[MicroBatch], signals: Sequence[Signals]) -> dict[str, Any]:
    """Under slime's names; those of what is not known are left out."""
    found: dict[str, Any] = {"unconcat_tokens": [], "total_lengths": [], "response_lengths": []}
    columns: dict[str, Callable[[MicroBatch, Signals], Tensor | None]] = {
        "loss_masks": lambda batch, known: batch.loss_mask,
        "rollout_log_probs": lambda batch, known: batch.rollout_log_probs,
        "log_probs": lambda batch, known: known.old_log_probs,
        "ref_log_probs": lambda batch, known: known.ref_log_probs,
        "values": lambda batch, known: known.values,
        "advantages": lambda batch, known: known.advantages,
        "returns": lambda batch, known: known.advantages if known.returns is None else known.returns,
    }
    for batch, known in zip(batches, signals, strict=True):
        assert batch.group is None, "slime's forms see whole samples, which context parallelism splits"
        # The row that predicts a sample's last token is the one before it.
        ends = [0, *(batch.rows[batch.cu_responses[1:] - 1] + 2).tolist()]
        spans = list(pairwise(ends))
        found["unconcat_tokens"] += [batch.tokens[0, start:end] for start, end in spans]
        found["total_lengths"] += [end - start for start, end in spans]
        found["response_lengths"] += batch.cu_responses.diff().tolist()
        for name, read in columns.items():
            if (values := read(batch, known)) is not None:
                found.setdefault(name, []).extend(_by_sample(values, batch))
    return found | {"tokens": found["unconcat_tokens"]}


def _by_sample(values: Tensor, batch: MicroBatch) -> list[Tensor]:
    return list(values.split(batch.cu_responses.diff().tolist()))
