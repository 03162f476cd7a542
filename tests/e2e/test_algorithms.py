"""Two rollouts of two optimizer steps of every algorithm, through Megatron, against a naive loop."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

from engines.types import Sample, SampleStatus
from tests.e2e.family_models import build_family_model
from tests.e2e.naive_algorithms import NaiveAlgorithm
from tests.e2e.rank_pool import RankPool, Task
from trainers.batch import build_train_batch
from trainers.config import RunConfig
from trainers.errors import PluginInvalid, RolloutFailed
from trainers.megatron.rank import Rank
from trainers.megatron.start import Checkpoint
from trainers.protocols import StepStats, TrainBatch
from trainers.rl.doors import AdvantageInputs, LossInputs

pytestmark = pytest.mark.timeout(300)

VOCABULARY = 128  # token 0 is left out: Hugging Face does not train a padding token
KL_IN_REWARD = {"estimator": "k1", "reward_coef": 0.2}

ALGORITHMS: dict[str, dict[str, Any]] = {
    "grpo with everything": {
        "name": "grpo",
        "eps_clip_high": 0.3,
        "eps_clip_c": 3.0,
        "entropy_coef": 0.01,
        "kl": {"estimator": "low_var_kl", "loss_coef": 0.3, "use_unbiased": True},
        "correction": {"method": "tis", "clip": 1.5, "clip_low": 0.2},
        "opsm": {"delta": 1e-4},
    },
    "grpo by trajectory with a moving reference": {
        "name": "grpo",
        "loss_aggregation": "rollout_mean",
        "normalize_advantages": True,
        "kl": {"estimator": "k2", "loss_coef": 0.5, "ref_update_interval": 1},
        "correction": {"method": "mis", "clip": 2.0, "clip_low": 0.5},
    },
    "dr_grpo": {"name": "dr_grpo", "loss_divisor": 16},
    "rloo": {"name": "rloo", "loss_aggregation": "token_mean", "kl": {"estimator": "k3", "loss_coef": 0.1}},
    "reinforce_plus_plus": {"name": "reinforce_plus_plus", "gamma": 0.9, "kl": KL_IN_REWARD},
    "reinforce_plus_plus_baseline": {"name": "reinforce_plus_plus_baseline", "kl": KL_IN_REWARD},
    "ppo": {
        "name": "ppo",
        "gamma": 0.95,
        "lambd": 0.9,
        "kl": KL_IN_REWARD,
        "value_clip": 0.01,
        "critic": {"lr": 5e-3, "num_critic_only_steps": 1},
    },
    "gspo": {"name": "gspo", "eps_clip": 0.01, "eps_clip_c": 3.0},
    "cispo": {"name": "cispo", "eps_clip": 0.05},
    "sft": {"name": "sft", "loss_aggregation": "token_mean"},
    "dpo": {"name": "dpo", "beta": 0.3, "label_smoothing": 0.1},
}


def run_config(model: Path, algorithm: dict[str, Any]) -> RunConfig:
    samples = 1 if algorithm.get("name") == "sft" else 2
    return RunConfig.model_validate(
        {
            "resources": {"accelerator": "cpu"},
            "model": {"hf_checkpoint": str(model)},
            "data": {"prompt_data": "unused.jsonl"},
            "rollout": {
                "num_rollouts": 4,
                "rollout_batch_size": 12 // samples,
                "n_samples_per_prompt": samples,
                "sampling": {"temperature": 0.8},
            },
            "trainer": {"dtype": "float32", "lr": 2e-3, "global_batch_size": 6},
            "algorithm": algorithm,
        }
    )


def rollout(config: RunConfig, rollout_id: int) -> list[list[Sample]]:
    """Groups of uneven size, as a filter leaves them (pairs under DPO); one sample without a token to learn from."""
    draw = random.Random(rollout_id)
    groups: list[list[Sample]] = []
    index = 0
    for size in [2] * 6 if config.algorithm.name == "dpo" else [3, 1, 2, 4, 2]:
        group: list[Sample] = []
        for _ in range(size):
            prompt, response = draw.randint(1, 8), draw.randint(1, 14)
            mask = [int(draw.random() < 0.8) for _ in range(response)]
            if config.algorithm.name == "dpo":
                mask[0] = 1
            if index == 5 and config.algorithm.name != "dpo":
                mask = [0] * response
            group.append(
                Sample(
                    index=index,
                    group_index=len(groups),
                    prompt="",
                    tokens=[draw.randrange(1, VOCABULARY) for _ in range(prompt + response)],
                    response_length=response,
                    reward=draw.gauss(0, 1),
                    loss_mask=mask,
                    status=SampleStatus.COMPLETED,
                    rollout_log_probs=[draw.gauss(-6, 1) for _ in range(response)],
                    weight_versions=[rollout_id] * response,
                    trajectory_index=index // 3 if index % 4 else None,
                )
            )
            index += 1
        groups.append(group)
    return groups


def batch_of(config: RunConfig, rollout_id: int, groups: list[list[Sample]]) -> TrainBatch:
    return build_train_batch(
        rollout_id, groups, config.algorithm, global_batch_size=6, data_parallel_size=1, max_tokens=40
    )


@contextmanager
def single_rank(config: RunConfig, begin: Checkpoint | None = None) -> Iterator[Rank]:
    rank = Rank(config, run_id="test", rank=0, world_size=1, device="cpu", begin=begin)
    try:
        yield rank
    finally:
        rank.close()


def near_the_policy(naive: NaiveAlgorithm, groups: list[list[Sample]]) -> None:
    """The engine's log-probabilities are close to the trainer's, as they would be."""
    draw = random.Random(1)
    with torch.no_grad():
        for sample in (sample for group in groups for sample in group):
            log_probs, _ = naive.log_probs(naive.model, sample)
            sample.rollout_log_probs = [value + draw.gauss(0, 0.5) for value in log_probs.tolist()]


@pytest.mark.parametrize("algorithm", ALGORITHMS.values(), ids=list(ALGORITHMS))
def test_training_equals_a_naive_loop(algorithm: dict[str, Any], tiny_model: Path) -> None:
    config = run_config(tiny_model, algorithm)
    naive = NaiveAlgorithm(config)
    with single_rank(config) as rank:
        for rollout_id in range(2):
            groups = rollout(config, rollout_id)
            near_the_policy(naive, groups)
            stats, expected = rank.step(batch_of(config, rollout_id, groups)), naive.rollout(groups)
            assert stats.losses == pytest.approx(expected["losses"], rel=1e-4, abs=1e-6)
            assert stats.grad_norms == pytest.approx(expected["grad_norms"], rel=2e-4)
            if critic_losses := expected["critic_losses"]:
                mean = sum(critic_losses) / len(critic_losses)
                assert stats.metrics["critic/loss"] == pytest.approx(mean, rel=1e-4)


@pytest.mark.parametrize("name", ["ppo", "grpo by trajectory with a moving reference"])
def test_a_resumed_run_has_its_companions_back(name: str, tiny_model: Path, tmp_path: Path) -> None:
    config = run_config(tiny_model, ALGORITHMS[name])
    batches = [batch_of(config, rollout_id, rollout(config, rollout_id)) for rollout_id in range(3)]
    with single_rank(config) as rank:
        for batch in batches[:2]:
            rank.step(batch)
        rank.save(1, tmp_path, {})
        expected: StepStats = rank.step(batches[2])
    with single_rank(config, Checkpoint(tmp_path, 1)) as rank:
        assert rank.step(batches[2]) == expected


def test_a_reference_keeps_its_own_choice_of_experts(tmp_path: Path) -> None:
    build_family_model("moonlight", tmp_path)
    with single_rank(run_config(tmp_path, {"kl": {"loss_coef": 0.1}})) as rank:
        biases = {name: tensor for name, tensor in rank._parameters.items() if name.endswith("expert_bias")}
        before = {name: tensor.clone() for name, tensor in biases.items()}
        assert biases
        for tensor in biases.values():
            tensor += 1.0
        reference = rank._roles._reference
        assert reference is not None
        with reference.weights.swapped():
            assert all(torch.equal(tensor, before[name]) for name, tensor in biases.items())
        assert all(torch.equal(tensor, before[name] + 1.0) for name, tensor in biases.items())


def test_the_old_policy_is_the_one_that_generated_when_training_has_gone_on_since(tiny_model: Path) -> None:
    config = run_config(tiny_model, {"name": "grpo", "eps_clip": 0.05, "keep_old_actor": True})
    naive = NaiveAlgorithm(config)
    generator = deepcopy(naive.model)
    first, second = rollout(config, 0), rollout(config, 1)
    for group in second:
        for sample in group:
            sample.weight_versions = [0] * sample.response_length  # one rollout ahead
    with single_rank(config) as rank:
        rank.published(0)
        rank.step(batch_of(config, 0, first))
        naive.rollout(first)
        rank.published(1)
        stats, expected = rank.step(batch_of(config, 1, second)), naive.rollout(second, generator)
        assert stats.losses == pytest.approx(expected["losses"], rel=1e-4)
        rank.published(2)
        with pytest.raises(RolloutFailed, match=r"version 0, and only those of \[1, 2\] are held"):
            rank.step(batch_of(config, 1, second))


def reinforce(inputs: LossInputs, algorithm: Any) -> torch.Tensor:
    return -inputs.advantages * inputs.log_probs + algorithm.eps_clip * (inputs.log_probs - inputs.old_log_probs)


def half_of_the_outcome(inputs: AdvantageInputs, algorithm: Any) -> torch.Tensor:
    return inputs.outcomes.repeat_interleave(inputs.cu_lengths.diff()) / 2


def nothing_of_the_kind(inputs: LossInputs, algorithm: Any) -> torch.Tensor:
    return inputs.log_probs.sum()


def raising(inputs: AdvantageInputs, algorithm: Any) -> torch.Tensor:
    raise KeyError("no such thing")


def test_a_loss_and_an_advantage_of_the_users_own_take_the_places_of_ours(tiny_model: Path) -> None:
    doors = {"custom_loss": f"{__name__}:reinforce", "custom_advantage": f"{__name__}:half_of_the_outcome"}
    config = run_config(tiny_model, {"name": "grpo"} | doors)
    naive = NaiveAlgorithm(config)
    groups = rollout(config, 0)
    batch = batch_of(config, 0, groups)
    expected = 0.0
    with torch.no_grad():
        for sample, trained in list(zip([s for g in groups for s in g], batch.samples, strict=True))[:6]:
            log_probs, _ = naive.log_probs(naive.model, sample)
            mask = torch.tensor(sample.loss_mask)
            expected += float((-trained.advantage / 2 * log_probs * mask).sum() / mask.sum().clamp(min=1)) / 6
    with single_rank(config) as rank:
        assert rank.step(batch).losses[0] == pytest.approx(expected, rel=1e-4)
    broken = run_config(tiny_model, {"custom_loss": f"{__name__}:nothing_of_the_kind"})
    with (
        single_rank(broken) as rank,
        pytest.raises(PluginInvalid, match=r"algorithm\.custom_loss: .*one value per token"),
    ):
        rank.step(batch)
    broken = run_config(tiny_model, {"custom_advantage": f"{__name__}:raising"})
    with single_rank(broken) as rank, pytest.raises(PluginInvalid, match=r"algorithm\.custom_advantage: .*KeyError"):
        rank.step(batch)
    with (
        pytest.raises(PluginInvalid, match="no_such_module"),
        single_rank(run_config(tiny_model, {"custom_loss": "no_such_module:f"})),
    ):
        pass


def slimes_policy_loss(args: Any, batch: Any, logits: torch.Tensor, sum_of_sample_mean: Any) -> Any:
    from slime.backends.megatron_utils.loss import get_log_probs_and_entropy
    from slime.utils.ppo_utils import compute_approx_kl, compute_policy_loss

    lengths = {name: batch[name] for name in ("unconcat_tokens", "total_lengths", "response_lengths")}
    assert [len(tokens) for tokens in batch["tokens"]] == batch["total_lengths"]
    _, found = get_log_probs_and_entropy(logits, args=args, with_entropy=True, **lengths)
    new, old, ref = (torch.cat(each) for each in (found["log_probs"], batch["log_probs"], batch["ref_log_probs"]))
    pg, _ = compute_policy_loss(old - new, torch.cat(batch["advantages"]), args.eps_clip, args.eps_clip_high)
    kl = compute_approx_kl(new, ref, args.kl_loss_type)
    parts = [sum_of_sample_mean(each) for each in (pg, torch.cat(found["entropy"]), kl)]
    loss = parts[0] - args.entropy_coef * parts[1] + args.kl_loss_coef * parts[2]
    return loss, {"pg_loss": parts[0].detach(), "mine/entropy": parts[1].item(), "kl_loss": parts[2].detach()}


def slimes_ppo_advantage(args: Any, rollout_data: Any) -> None:
    kept = ("rewards", "values", "kl", "loss_masks")
    rollout_data["advantages"], rollout_data["returns"] = [], []
    for reward, values, kl, mask in zip(*(rollout_data[name] for name in kept), strict=True):
        found, following, worth = [], 0.0, 0.0
        for t in reversed(range(len(values))):
            own = -args.kl_coef * float(kl[t]) * float(mask[t]) + (reward if t + 1 == len(values) else 0.0)
            following = own + args.gamma * worth - float(values[t]) + args.gamma * args.lambd * following
            worth = float(values[t])
            found.append(following)
        rollout_data["advantages"].append(torch.tensor(found[::-1]))
        rollout_data["returns"].append(torch.tensor(found[::-1]) + values)


def slimes_nothing(args: Any, batch: Any, logits: torch.Tensor, sum_of_sample_mean: Any) -> Any:
    return logits.mean().detach(), {}


def slimes_too_few(args: Any, rollout_data: Any) -> None:
    rollout_data["advantages"] = rollout_data["loss_masks"][1:]


LOSS_IN_SLIMES_FORM = {
    "name": "grpo",
    "eps_clip_high": 0.3,
    "entropy_coef": 0.01,
    "kl": {"estimator": "k3", "loss_coef": 0.3},
    "custom_loss": f"{__name__}:slimes_policy_loss",
}


def test_a_loss_and_an_advantage_in_slimes_form_train_as_ours_when_they_are_the_same(tiny_model: Path) -> None:
    for theirs, door in (
        (LOSS_IN_SLIMES_FORM, "custom_loss"),
        (ALGORITHMS["ppo"] | {"custom_advantage": f"{__name__}:slimes_ppo_advantage"}, "custom_advantage"),
    ):
        ours = {name: value for name, value in theirs.items() if name != door}
        found: list[list[StepStats]] = []
        for algorithm in (theirs, ours):
            config = run_config(tiny_model, algorithm)
            with single_rank(config) as rank:
                found.append([rank.step(batch_of(config, number, rollout(config, number))) for number in range(2)])
        for mine, expected in zip(*found, strict=True):
            assert mine.losses == pytest.approx(expected.losses, rel=1e-5, abs=1e-7)
            assert mine.grad_norms == pytest.approx(expected.grad_norms, rel=1e-5)
            charted = {name: expected.metrics[name] for name in mine.metrics if name in expected.metrics}
            assert {name: mine.metrics[name] for name in charted} == pytest.approx(charted, rel=1e-4, abs=1e-6)
            if door == "custom_loss":
                assert mine.metrics["mine/entropy"] == pytest.approx(expected.metrics["entropy"], rel=1e-5)
                assert {"pg_loss", "kl_loss", "mask_tokens"} <= charted.keys()


@pytest.mark.parametrize(
    ("door", "name", "message"),
    [
        ("custom_loss", "slimes_nothing", "must return a loss of one number that has a gradient"),
        (
            "custom_advantage",
            "slimes_too_few",
            r"must set rollout_data\['advantages'\] to a list of one tensor a sample",
        ),
    ],
)
def test_what_a_function_in_slimes_form_gets_wrong_is_said(
    door: str, name: str, message: str, tiny_model: Path
) -> None:
    config = run_config(tiny_model, {door: f"{__name__}:{name}"})
    with single_rank(config) as rank, pytest.raises(PluginInvalid, match=rf"algorithm\.{door}: .*{message}"):
        rank.step(batch_of(config, 0, rollout(config, 0)))


LAYOUTS: list[dict[str, Any]] = [
    {"megatron": {"use_distributed_optimizer": True}},  # two replicas
    {"tensor_model_parallel_size": 2},
    {"context_parallel_size": 2},
    {"pipeline_model_parallel_size": 2},
]
SPREAD = {name: ALGORITHMS[name] for name in ("ppo", "dpo", "grpo by trajectory with a moving reference")} | {
    "loss in slime's form": LOSS_IN_SLIMES_FORM
}


def test_two_ranks_in_any_layout_train_like_one(tiny_model: Path) -> None:
    cases: list[tuple[Task, list[StepStats]]] = []

    def case(spec: dict[str, Any]) -> Task:
        config = RunConfig.model_validate(spec)
        sizes = {"global_batch_size": config.global_batch_size, "data_parallel_size": config.data_parallel_size}
        groups = [rollout(config, rollout_id) for rollout_id in range(2)]
        padded_to = config.trainer.tokens_padded_to
        return Task(
            config,
            [
                build_train_batch(
                    rollout_id, each, config.algorithm, **sizes, max_tokens=40, tokens_padded_to=padded_to
                )
                for rollout_id, each in enumerate(groups)
            ],
        )

    for name, algorithm in SPREAD.items():
        spec = run_config(tiny_model, algorithm).model_dump()
        spec["algorithm"] |= {"normalize_advantages": True} if name == "ppo" else {}
        spec["trainer"]["global_batch_size"] = 12 if name == "dpo" else 6  # pairs, too, can be halved
        alone = case(spec)
        with single_rank(alone.config) as rank:
            of_one = [rank.step(batch) for batch in alone.batches]
        for layout in LAYOUTS:
            if "custom_loss" in algorithm and "context_parallel_size" in layout:
                continue  # it would see half a sample
            resources = spec["resources"] | {"actor_num_gpus_per_node": 2}
            cases.append((case(spec | {"resources": resources, "trainer": spec["trainer"] | layout}), of_one))
    with RankPool(2) as pool:
        found = [(pool.run(task), of_one) for task, of_one in cases]
    for (first, second), of_one in found:
        assert [stats.losses for stats in first.stats] == [stats.losses for stats in second.stats]
        for stats, reference in zip(first.stats, of_one, strict=True):
            assert stats.losses == pytest.approx(reference.losses, rel=2e-4, abs=1e-5)
            assert stats.grad_norms == pytest.approx(reference.grad_norms, rel=5e-4)
            of_critic = {name: value for name, value in reference.metrics.items() if name.startswith("critic/")}
            assert {name: stats.metrics[name] for name in of_critic} == pytest.approx(of_critic, rel=5e-4, abs=1e-5)
