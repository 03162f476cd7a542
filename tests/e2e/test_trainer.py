"""The Megatron trainer: its numbers against a plain Hugging Face model."""

import gc
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
)

from tests.e2e.trainer_cases import MODELS, make_batch, run_config, single_rank
from trainers.config import RunConfig
from trainers.protocols import StepStats, TrainBatch, TrainSample

pytestmark = pytest.mark.timeout(400)


class NaiveTrainer:
    """The same algorithm on a Hugging Face model, one sample and one token at a time, without Megatron."""

    def __init__(self, config: RunConfig):
        self.config = config
        self.model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            config.model.hf_checkpoint, dtype=torch.float32, attn_implementation="eager"
        )
        trainer = config.trainer
        self.adam = torch.optim.AdamW(
            self.model.parameters(),
            lr=trainer.lr,
            betas=(trainer.adam_beta1, trainer.adam_beta2),
            eps=trainer.adam_eps,
            weight_decay=0.0,
        )

    def log_probs(self, sample: TrainSample) -> tuple[torch.Tensor, torch.Tensor]:
        ids = torch.from_numpy(sample.tokens.astype(np.int64))
        logits = self.model(ids[None]).logits[0] / self.config.rollout.sampling.temperature
        log_p = logits.log_softmax(-1)[-sample.response_length - 1 : -1]
        chosen = log_p.gather(1, ids[-sample.response_length :, None])[:, 0]
        return chosen, -(log_p.exp() * log_p).sum(-1)

    def step(self, batch: TrainBatch) -> StepStats:
        algorithm, size = self.config.algorithm, self.config.global_batch_size
        with torch.no_grad():
            old = [self.log_probs(sample)[0] for sample in batch.samples]
        losses: list[float] = []
        norms: list[float] = []
        for start in range(0, len(batch.samples), size):
            self.adam.zero_grad()
            loss = torch.tensor(0.0)
            members = batch.samples[start : start + size]
            all_tokens = sum(float(sample.loss_mask.sum()) for sample in members)
            for sample, old_log_probs in zip(members, old[start : start + size], strict=True):
                log_probs, entropies = self.log_probs(sample)
                own_tokens = max(float(sample.loss_mask.sum()), 1.0)
                for t in range(sample.response_length):
                    ratio = (log_probs[t] - old_log_probs[t]).exp()
                    clipped = ratio.clamp(1 - algorithm.eps_clip, 1 + algorithm.clip_high)
                    token = -torch.min(ratio * sample.advantage, clipped * sample.advantage)
                    token = token - algorithm.entropy_coef * entropies[t]
                    per = all_tokens if algorithm.loss_aggregation == "token_mean" else own_tokens * size
                    loss = loss + token * float(sample.loss_mask[t]) / per
            loss.backward()
            norms.append(float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.trainer.clip_grad)))
            losses.append(float(loss))
            self.adam.step()
        return StepStats({}, losses, norms)


@pytest.mark.parametrize("aggregation", ["sample_mean", "token_mean"])
@pytest.mark.parametrize("name", list(MODELS))
def test_two_rollouts_of_two_steps_equal_a_naive_loop_on_the_hugging_face_model(
    name: str, aggregation: str, models: dict[str, Path]
) -> None:
    config = run_config(models[name], batch=6, algorithm={"loss_aggregation": aggregation})
    naive = NaiveTrainer(config)
    with single_rank(config) as rank:
        for rollout_id in range(2):
            batch = make_batch(config, rollout_id, max_tokens=64)
            found, expected = rank.step(batch), naive.step(batch)
            assert found.losses == pytest.approx(expected.losses, rel=1e-4)
            assert found.grad_norms == pytest.approx(expected.grad_norms, rel=1e-4)


def test_log_probabilities_and_their_distance_to_the_engines_equal_hugging_faces(models: dict[str, Path]) -> None:
    config = run_config(models["qwen3"])
    batch = make_batch(config)
    with torch.no_grad():
        expected = [NaiveTrainer(config).log_probs(sample)[0] for sample in batch.samples]
    with single_rank(config) as rank:
        found = rank.log_probs(batch)
        stats = rank.step(batch)
    order = [index for step in batch.plan.steps for members in step[0] for index in members]
    for index, log_probs in zip(order, found, strict=True):
        torch.testing.assert_close(log_probs, expected[index], atol=2e-5, rtol=1e-5)
    pairs = [
        (abs(float(mine) - float(theirs)), float(bit))
        for sample, log_probs in zip(batch.samples, expected, strict=True)
        for mine, theirs, bit in zip(log_probs, sample.rollout_log_probs, sample.loss_mask, strict=True)
    ]
    mean = sum(distance * bit for distance, bit in pairs) / sum(bit for _, bit in pairs)
    assert stats.metrics["log_prob_diff"] == pytest.approx(mean, rel=1e-4)
    assert stats.metrics["mask_tokens"] == sum(bit for _, bit in pairs)
    assert stats.metrics["ppo_kl"] == 0.0
    assert stats.metrics["lr"] == pytest.approx(1e-3)


def test_the_engines_log_probabilities_can_be_the_old_policys(models: dict[str, Path]) -> None:
    config = run_config(models["qwen3"], algorithm={"use_rollout_log_probs": True, "entropy_coef": 0.0})
    batch = make_batch(config)
    naive = NaiveTrainer(config)
    expected = 0.0
    with torch.no_grad():
        for sample in batch.samples:
            log_probs, _ = naive.log_probs(sample)
            ratio = (log_probs - torch.from_numpy(sample.rollout_log_probs)).exp()
            token = -torch.min(ratio * sample.advantage, ratio.clamp(0.8, 1.2) * sample.advantage)
            mask = torch.from_numpy(sample.loss_mask)
            expected += float((token * mask).sum() / mask.sum().clamp(min=1)) / len(batch.samples)
    with single_rank(config) as rank:
        assert rank.step(batch).metrics["pg_loss"] == pytest.approx(expected, rel=1e-4)


def test_how_samples_are_packed_does_not_change_the_step(models: dict[str, Path]) -> None:
    config = run_config(models["llama"])
    found: list[StepStats] = []
    for max_tokens in (1, 40, 8192):  # one sample a micro-batch, a few, all
        with single_rank(config) as rank:
            batch = make_batch(config, max_tokens=max_tokens)
            found.append(rank.step(batch))
    for other in found[1:]:
        assert other.metrics == pytest.approx(found[0].metrics, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("warmup", [{"lr_warmup_steps": 4}, {"lr_warmup_fraction": 0.25}])
def test_the_learning_rate_warms_up_and_decays_by_optimizer_steps(
    warmup: dict[str, float], models: dict[str, Path]
) -> None:
    trainer = {"lr_decay_style": "linear", "lr": 1e-3} | warmup
    config = run_config(models["llama"], batch=6, trainer=trainer)  # 8 rollouts of 2 steps
    with single_rank(config) as rank:
        rates = [rank.step(make_batch(config, rollout_id)).metrics["lr"] for rollout_id in range(4)]
    steps = [0.0, 0.25e-3, 0.5e-3, 0.75e-3, *(1e-3 * (1 - done / 12) for done in range(4))]
    assert rates == pytest.approx([(a + b) / 2 for a, b in zip(steps[::2], steps[1::2], strict=True)], rel=1e-6)


@pytest.mark.parametrize(
    ("style", "options", "expected"),
    [
        ("inverse-square-root", {}, [(2 / step) ** 0.5 if step > 2 else step / 2 for step in range(8)]),
        (
            "WSD",
            {"lr_wsd_decay_iters": 4, "lr_wsd_decay_style": "linear"},
            [0.0, 0.5, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25],
        ),
    ],
)
def test_further_schedules_are_megatrons(
    style: str, options: dict[str, Any], expected: list[float], models: dict[str, Path]
) -> None:
    trainer = {"lr_decay_style": style, "lr": 1e-3, "lr_warmup_steps": 2, "megatron": options}
    config = run_config(models["llama"], trainer=trainer)  # 8 rollouts of one step
    with single_rank(config) as rank:
        rates = [rank.step(make_batch(config, rollout_id)).metrics["lr"] for rollout_id in range(8)]
    assert rates == pytest.approx([1e-3 * each for each in expected], rel=1e-6)


@pytest.mark.parametrize("name", list(MODELS))
def test_weights_go_through_megatron_and_back_bit_for_bit(name: str, models: dict[str, Path], tmp_path: Path) -> None:
    with single_rank(run_config(models[name])) as rank:
        exported = rank.export_hf(tmp_path / "export")
        assert rank.state.num_parameters == sum(
            parameter.numel() for parameter in AutoModelForCausalLM.from_pretrained(models[name]).parameters()
        )
    expected, found = load_file(models[name] / "model.safetensors"), load_file(exported / "model.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) and found[key].dtype == expected[key].dtype for key in expected)
    assert AutoConfig.from_pretrained(exported).architectures == [MODELS[name][0].__name__]


def test_a_rank_that_is_closed_leaves_no_threads_behind(models: dict[str, Path]) -> None:
    def threads_after_a_step() -> int:
        config = run_config(models["qwen3"])
        with single_rank(config) as rank:
            rank.step(make_batch(config))
        del rank
        gc.collect()
        return len(os.listdir("/proc/self/task"))

    first = threads_after_a_step()
    assert threads_after_a_step() < first + 8  # a world has about sixty
