"""The Megatron trainer: its numbers against a plain Hugging Face model, its checkpoints, its ranks."""

import asyncio
import gc
import json
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from engines.config import ResourcesConfig
from engines.hardware import CPU
from engines.placement import reserve
from tests.e2e.family_models import build_family_model
from trainers.config import RunConfig
from trainers.errors import CheckpointInvalid, ConfigInvalid, ModelInvalid, StorageFailed, TrainerLost
from trainers.megatron.args import megatron_args
from trainers.megatron.device import megatron_device
from trainers.megatron.group import MegatronTrainer
from trainers.megatron.hf.config import read_hf_config
from trainers.megatron.rank import Rank
from trainers.megatron.start import Checkpoint, resolve_start
from trainers.micro_batches import plan_micro_batches
from trainers.protocols import StepStats, TrainBatch, TrainSample

pytestmark = pytest.mark.timeout(400)

SHAPE: dict[str, Any] = {
    "vocab_size": 120,  # padded to 128, or to 256 for two ranks: one of them then holds little else
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
    "dtype": "float32",
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
MODELS: dict[str, tuple[Any, Any]] = {
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(**SHAPE, head_dim=16, tie_word_embeddings=False)),
    "qwen3-tied": (Qwen3ForCausalLM, Qwen3Config(**SHAPE, head_dim=8, tie_word_embeddings=True)),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config(**SHAPE, tie_word_embeddings=True)),
    "llama": (LlamaForCausalLM, LlamaConfig(**SHAPE, tie_word_embeddings=False, rope_parameters=LLAMA3_ROPE)),
    "llama-tied": (LlamaForCausalLM, LlamaConfig(**SHAPE, tie_word_embeddings=True)),
}


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    for name, (model_class, config) in MODELS.items():
        torch.manual_seed(0)
        model = model_class(config).to(torch.float32)
        with torch.no_grad():
            for parameter_name, parameter in model.named_parameters():
                if parameter_name.endswith(("norm.weight", "bias")):
                    parameter.add_(torch.randn_like(parameter) * 0.2)
        model.save_pretrained(root / name)
    return {name: root / name for name in MODELS}


def run_config(
    model: Path, *, samples: int = 12, batch: int | None = None, ranks: int = 1, **changes: Any
) -> RunConfig:
    trainer = {"dtype": "float32", "lr": 1e-3, "global_batch_size": batch} | changes.pop("trainer", {})
    algorithm = {"entropy_coef": 0.01} | changes.pop("algorithm", {})
    return RunConfig.model_validate(
        {
            "resources": {"accelerator": "cpu", "actor_num_gpus_per_node": ranks},
            "model": {"hf_checkpoint": str(model)},
            "data": {"prompt_data": "unused.jsonl"},
            "rollout": {
                "num_rollouts": 8,
                "rollout_batch_size": samples // 4,
                "n_samples_per_prompt": 4,
                "sampling": {"temperature": 0.8},
            },
            "trainer": trainer,
            "algorithm": algorithm,
        }
        | changes
    )


def make_batch(config: RunConfig, rollout_id: int = 0, *, max_tokens: int = 8192) -> TrainBatch:
    rng = np.random.default_rng(rollout_id)
    samples: list[TrainSample] = []
    for _ in range(config.rollout.samples_per_rollout):
        prompt, response = int(rng.integers(1, 12)), int(rng.integers(1, 20))
        samples.append(
            TrainSample(
                tokens=rng.integers(0, SHAPE["vocab_size"], prompt + response).astype(np.int32),
                loss_mask=(rng.random(response) < 0.8).astype(np.float32),
                rollout_log_probs=rng.normal(-4, 1, response).astype(np.float32),
                advantage=float(rng.normal()),
            )
        )
    plan = plan_micro_batches(
        [len(sample.tokens) for sample in samples],
        global_batch_size=config.global_batch_size,
        data_parallel_size=config.data_parallel_size,
        max_tokens=max_tokens,
    )
    return TrainBatch(rollout_id, samples, plan)


@contextmanager
def single_rank(config: RunConfig, begin: Checkpoint | None = None) -> Iterator[Rank]:
    rank = Rank(
        config,
        run_id="run",
        rank=0,
        world_size=1,
        device="cpu",
        begin=begin,
    )
    try:
        yield rank
    finally:
        rank.close()


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


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("distributed", [False, True])
def test_a_resumed_run_takes_exactly_the_steps_that_the_interrupted_one_would_have(
    dtype: str, distributed: bool, models: dict[str, Path], tmp_path: Path
) -> None:
    trainer = {"dtype": dtype, "lr_decay_style": "cosine", "megatron": {"use_distributed_optimizer": distributed}}
    config = run_config(models["qwen3"], batch=6, trainer=trainer)
    with single_rank(config) as rank:
        rank.step(make_batch(config, 0))
        path = rank.save(0, tmp_path, {"data": {"offset": 7}})
        expected = [rank.step(make_batch(config, rollout_id)) for rollout_id in (1, 2)]
    assert path == tmp_path / "iter_0000000"
    assert (tmp_path / "latest_checkpointed_iteration.txt").read_text() == "0"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [
        "iter_0000000",
        "latest_checkpointed_iteration.txt",
        "rollway_run.json",
    ]

    with single_rank(config, Checkpoint(tmp_path, 0)) as rank:
        assert rank.state.next_rollout_id == 1
        assert rank.state.extra_state == {"data": {"offset": 7}}
        assert rank.state.loaded_from == str(path)
        found = [rank.step(make_batch(config, rollout_id)) for rollout_id in (1, 2)]
    assert found == expected


@pytest.mark.parametrize("distributed", [False, True])
def test_a_checkpoint_before_the_first_step_can_be_loaded(
    distributed: bool, models: dict[str, Path], tmp_path: Path
) -> None:
    config = run_config(models["qwen3"], trainer={"megatron": {"use_distributed_optimizer": distributed}})
    with single_rank(config) as rank:
        rank.save(0, tmp_path, {})
        expected = rank.step(make_batch(config, 1))
    with single_rank(config, Checkpoint(tmp_path, 0)) as rank:
        assert rank.step(make_batch(config, 1)) == expected


def test_a_checkpoint_of_another_model_is_refused(models: dict[str, Path], tmp_path: Path) -> None:
    with single_rank(run_config(models["qwen3"])) as rank:
        rank.save(0, tmp_path, {})
    with pytest.raises(CheckpointInvalid, match="iter_0000000 cannot be loaded"):
        Rank(
            run_config(models["llama"]),
            run_id="run",
            rank=0,
            world_size=1,
            device="cpu",
            begin=Checkpoint(tmp_path, 0),
        )


@pytest.mark.parametrize("format", ["torch", "torch_dist"])
def test_either_format_is_recognised_when_it_is_loaded_whatever_is_saved(
    format: str, models: dict[str, Path], tmp_path: Path
) -> None:
    written = run_config(models["qwen3"], checkpoint={"format": format})
    with single_rank(written) as rank:
        rank.step(make_batch(written, 0))
        rank.save(0, tmp_path, {"data": 1})
        expected = rank.step(make_batch(written, 1))
    other = run_config(models["qwen3"], checkpoint={"format": {"torch": "torch_dist", "torch_dist": "torch"}[format]})
    with single_rank(other, Checkpoint(tmp_path, 0)) as rank:
        assert rank.state.extra_state == {"data": 1}
        found = rank.step(make_batch(other, 1))
    assert found.losses == expected.losses
    assert found.grad_norms == expected.grad_norms


@pytest.mark.parametrize("format", ["torch", "torch_dist"])
@pytest.mark.parametrize("tracker", ["1", "release", None])
def test_an_earlier_checkpoint_is_loaded_whole_whatever_the_tracker_says(
    tracker: str | None, format: str, models: dict[str, Path], tmp_path: Path
) -> None:
    config = run_config(models["qwen3"], checkpoint={"format": format})
    with single_rank(config) as rank:
        rank.step(make_batch(config, 0))
        rank.save(0, tmp_path, {"data": 0})
        expected = [rank.step(make_batch(config, rollout_id)) for rollout_id in (1, 2)]
        rank.save(1, tmp_path, {"data": 1})
    named = tmp_path / "latest_checkpointed_iteration.txt"
    assert named.read_text() == "1"
    named.unlink() if tracker is None else named.write_text(tracker)
    with single_rank(config, Checkpoint(tmp_path, 0)) as rank:
        assert (rank.state.next_rollout_id, rank.state.extra_state) == (1, {"data": 0})
        assert [rank.step(make_batch(config, rollout_id)) for rollout_id in (1, 2)] == expected


@pytest.mark.parametrize("format", ["torch", "torch_dist"])
def test_a_run_that_saves_no_optimizer_can_be_resumed(format: str, models: dict[str, Path], tmp_path: Path) -> None:
    trainer = {"megatron": {"no_save_optim": True}}
    config = run_config(models["qwen3"], checkpoint={"format": format}, trainer=trainer)
    with single_rank(config) as rank:
        rank.step(make_batch(config, 0))
        rank.save(0, tmp_path, {"data": 0})
        expected = rank.step(make_batch(config, 1))
    with single_rank(config, Checkpoint(tmp_path, 0)) as rank:
        assert (rank.state.next_rollout_id, rank.state.extra_state) == (1, {"data": 0})
        assert rank.step(make_batch(config, 1)).losses == expected.losses


def test_a_directory_where_another_run_has_begun_to_save_is_left_alone(models: dict[str, Path], tmp_path: Path) -> None:
    config = run_config(models["qwen3"], checkpoint={"keep_last": 1})
    with single_rank(config) as rank:
        (tmp_path / "rollway_run.json").write_text('{"run": "another"}')
        (tmp_path / ".saving-3").mkdir()
        with pytest.raises(CheckpointInvalid, match=f"run another saves to {tmp_path} too"):
            rank.save(0, tmp_path, {})
        assert sorted(path.name for path in tmp_path.iterdir()) == [".saving-3", "rollway_run.json"]
        own = tmp_path / "own"
        rank.save(0, own, {})
        (own / "iter_0000007").mkdir()
        (own / "iter_0000007" / "manifest.json").write_text("{")  # damaged, and nobody's to delete
        rank.save(1, own, {})
    assert sorted(path.name for path in own.glob("iter_*")) == ["iter_0000001", "iter_0000007"]
    with single_rank(config, Checkpoint(own, 1)) as rank:  # "run", whose directory it is
        rank.save(2, own, {})


def test_weights_alone_begin_a_new_run(models: dict[str, Path], tmp_path: Path) -> None:
    config = run_config(models["qwen3"])
    with single_rank(config) as rank:
        rank.step(make_batch(config, 0))
        rank.save(4, tmp_path, {"data": 1})
        trained = {name: tensor.clone() for name, tensor in rank.named_tensors()}
    with single_rank(config, Checkpoint(tmp_path, 4, weights_only=True)) as rank:
        assert (rank.state.next_rollout_id, rank.state.extra_state) == (0, None)
        assert all(torch.equal(tensor, trained[name]) for name, tensor in rank.named_tensors())
        assert rank.step(make_batch(config, 0)).metrics["lr"] == config.trainer.lr


def test_a_damaged_checkpoint_is_refused_by_the_name_of_the_file(models: dict[str, Path], tmp_path: Path) -> None:
    config = run_config(models["qwen3"])
    with single_rank(config) as rank:
        path = rank.save(0, tmp_path, {})
    victim = max(path.rglob("*.distcp"), key=lambda file: file.stat().st_size)
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    with (
        pytest.raises(CheckpointInvalid, match=f"{victim.name} is not what was saved"),
        single_rank(config, Checkpoint(tmp_path, 0)),
    ):
        pass


def test_old_checkpoints_go_once_a_newer_one_is_whole(models: dict[str, Path], tmp_path: Path) -> None:
    config = run_config(models["qwen3"], checkpoint={"keep_last": 2, "keep_every": 3})
    (tmp_path / "iter_0000001").mkdir()  # of another program
    with single_rank(config) as rank:
        for rollout in (2, 3, 4, 5, 6):
            rank.save(rollout, tmp_path, {})
    names = sorted(path.name for path in tmp_path.iterdir() if path.is_dir())
    assert names == ["iter_0000001", "iter_0000002", "iter_0000005", "iter_0000006"]


def test_a_save_that_runs_out_of_space_leaves_the_last_checkpoint_in_force(
    models: dict[str, Path], tmp_path: Path
) -> None:
    config = run_config(models["qwen3"])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with single_rank(config) as rank:
        rank.save(0, tmp_path, {})
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # no file grows beyond it
        try:
            with pytest.raises(StorageFailed, match=str(tmp_path)):
                rank.save(1, tmp_path, {})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert (tmp_path / "latest_checkpointed_iteration.txt").read_text() == "0"
        assert not (tmp_path / "iter_0000001").exists()
        rank.save(1, tmp_path, {})
    assert sorted(path.name for path in tmp_path.glob("*")) == [
        "iter_0000000",
        "iter_0000001",
        "latest_checkpointed_iteration.txt",
        "rollway_run.json",
    ]


def test_a_save_where_nothing_can_be_written_names_the_directory(models: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with (
        single_rank(run_config(models["qwen3"])) as rank,
        pytest.raises(StorageFailed, match="file/checkpoints cannot be written"),
    ):
        rank.save(0, tmp_path / "file" / "checkpoints", {})


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


class TestDistributedOptimizer:
    """Megatron's distributed optimizer around torch's Adam, defect by defect."""

    @pytest.fixture
    def optimizer(self, models: dict[str, Path]) -> Iterator[Any]:
        config = run_config(models["qwen3"], trainer={"megatron": {"use_distributed_optimizer": True}})
        with single_rank(config) as rank, megatron_device("cpu"):
            optimizer = rank._state.optimizer
            yield getattr(optimizer, "chained_optimizers", [optimizer])[0]

    def test_a_fresh_one_has_a_state_at_step_zero(self, optimizer: Any) -> None:
        assert {group["step"] for group in optimizer.state_dict()["optimizer"]["param_groups"]} == {0.0}

    def test_after_loading_every_parameter_counts_its_own_steps(self, optimizer: Any) -> None:
        optimizer.load_state_dict(optimizer.state_dict())
        steps = [state["step"] for state in optimizer.optimizer.state.values()]
        assert len({step.data_ptr() for step in steps}) == len(steps) > 1

    def test_a_format_without_step_keeps_the_step_of_the_parameter_groups(self, optimizer: Any) -> None:
        parameter, state, main = _first(optimizer)
        state["step"].fill_(5.0)
        ones = {key: torch.ones_like(main) for key in ("param", "exp_avg", "exp_avg_sq")}
        optimizer._set_main_param_and_optimizer_states(parameter, ones)
        assert state["step"].item() == 5.0
        assert torch.equal(state["exp_avg"], ones["exp_avg"])

    def test_a_format_with_an_unloaded_step_does_not_overwrite_it(self, optimizer: Any) -> None:
        parameter, state, main = _first(optimizer)
        state["step"].fill_(5.0)
        zeros = {key: torch.zeros_like(main) for key in ("param", "exp_avg", "exp_avg_sq")}
        optimizer._set_main_param_and_optimizer_states(parameter, zeros | {"step": torch.tensor(0.0)})
        assert state["step"].item() == 5.0

    def test_in_float32_the_main_parameter_is_written_in_place(self, optimizer: Any) -> None:
        parameter, _, main = _first(optimizer)
        assert main.requires_grad
        twos = {key: torch.full_like(main, 2.0) for key in ("param", "exp_avg", "exp_avg_sq")}
        optimizer._set_main_param_and_optimizer_states(parameter, twos)
        assert torch.equal(parameter.flatten()[: main.numel()], main)
        assert main.unique().tolist() == [2.0]


def _first(optimizer: Any) -> tuple[torch.nn.Parameter, dict[str, Any], torch.Tensor]:
    parameter, (group, order) = next(iter(optimizer.model_param_group_index_map.items()))
    main = optimizer.optimizer.param_groups[group]["params"][order]
    return parameter, optimizer.optimizer.state[main], main


class TestArguments:
    def parsed(self, models: dict[str, Path], *, ranks: int = 1, trainer: dict[str, Any] | None = None, **options: Any):
        config = run_config(models["qwen3"], ranks=ranks, trainer=(trainer or {}) | {"megatron": options})
        model = read_hf_config(models["qwen3"])
        return megatron_args(config, model, rank=0, world_size=ranks, device="cpu")

    def test_the_model_and_the_job_are_what_megatron_gets(self, models: dict[str, Path]) -> None:
        args = self.parsed(models)
        assert (args.num_layers, args.hidden_size, args.kv_channels, args.num_query_groups) == (2, 32, 16, 2)
        assert (args.vocab_size, args.padded_vocab_size) == (120, 128)
        assert args.qk_layernorm
        assert not args.add_bias_linear
        assert (args.train_iters, args.lr) == (8, 1e-3)

    def test_options_go_through_megatrons_parser_with_its_types(self, models: dict[str, Path]) -> None:
        args = self.parsed(
            models,
            recompute_granularity="selective",
            recompute_modules=["core_attn", "mlp"],
            overlap_grad_reduce=True,
            lr_wsd_decay_iters=3,
            weight_decay_incr_style="constant",
            no_bias_swiglu_fusion=True,
            check_for_nan_in_loss_and_grad=False,
        )
        assert args.recompute_modules == ["core_attn", "mlp"]
        assert args.overlap_grad_reduce is True
        assert args.lr_wsd_decay_iters == 3
        assert args.bias_swiglu_fusion is False
        assert args.check_for_nan_in_loss_and_grad is False

    def test_a_default_of_ours_can_be_changed(self, models: dict[str, Path]) -> None:
        assert self.parsed(models, override_opt_param_scheduler=False).override_opt_param_scheduler is False

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"recompute_granularty": "full"}, "no such option; did you mean recompute_granularity"),
            ({"use_torch_fsdp2": True}, "use_torch_fsdp2 = True is not supported in this release"),
            ({"norm_epsilon": 1e-3}, "norm_epsilon = 0.001 contradicts config.json"),
            ({"lr_decay_iters": "soon"}, "invalid int value: 'soon'"),
            ({"recompute_granularity": "some"}, "invalid choice: 'some'"),
            ({"overlap_grad_reduce": 1}, "must be true or false"),
            ({"lr_decay_iters": True}, "takes a value, not true"),
            ({"recompute_granularity": "full"}, "Megatron refuses these options"),
            ({"optimizer": "sgd"}, "optimizer = 'sgd': the distributed optimizer shards Adam's state alone"),
            ({"lr_decay_iters": 0}, "lr_decay_iters is 0: give at least 1 step"),
            ({"data_parallel_random_init": True}, "data_parallel_random_init = True is not supported"),
        ],
    )
    def test_a_wrong_option_is_refused_by_name(
        self, options: dict[str, Any], message: str, models: dict[str, Path]
    ) -> None:
        with pytest.raises(ConfigInvalid, match=message):
            self.parsed(models, **options)

    @pytest.mark.parametrize(
        ("trainer", "options", "message"),
        [
            ({"lr_warmup_steps": 8}, {}, r"trainer\.lr_warmup_steps is 8, and must be below the 8 steps"),
            ({"lr_warmup_steps": 2}, {"lr_decay_iters": 2}, "below the 2 steps that trainer.megatron.lr_decay_iters"),
            ({"lr_decay_style": "WSD"}, {"lr_wsd_decay_iters": 9}, "lr_wsd_decay_iters is 9, and must be 1 to the 8"),
        ],
    )
    def test_a_schedule_that_does_not_fit_the_run_is_refused_by_its_field(
        self, trainer: dict[str, Any], options: dict[str, Any], message: str, models: dict[str, Path]
    ) -> None:
        with pytest.raises(ConfigInvalid, match=message):
            self.parsed(models, trainer=trainer, **options)

    def test_options_of_the_process_groups_reach_them(
        self, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: dict[str, Any] = {}

        def initialize(*sizes: Any, **options: Any) -> None:
            seen.update(options)
            raise RuntimeError("seen")

        monkeypatch.setattr("trainers.megatron.world.parallel_state.initialize_model_parallel", initialize)
        options = {"high_priority_stream_groups": ["dp"], "nccl_communicator_config_path": "/n.yaml"}
        with (
            pytest.raises(RuntimeError, match="seen"),
            single_rank(run_config(models["llama"], trainer={"megatron": options})),
        ):
            pass
        assert {name: seen[name] for name in options} == options

    @pytest.mark.parametrize(
        ("trainer", "options", "message"),
        [
            ({"expert_model_parallel_size": 2}, {"moe_token_dispatcher_type": "allgather"}, "use 'alltoall'"),
            ({"expert_tensor_parallel_size": 2}, {"moe_token_dispatcher_type": "allgather"}, "use 'alltoall'"),
            ({"expert_tensor_parallel_size": 2, "pipeline_model_parallel_size": 2}, {}, "in a pipeline: set it to 1"),
            ({"expert_tensor_parallel_size": 2}, {}, "split over tensor-parallel ranks alone"),
        ],
    )
    def test_a_dispatcher_that_would_fail_in_a_collective_is_refused(
        self, trainer: dict[str, Any], options: dict[str, Any], message: str, tmp_path: Path
    ) -> None:
        build_family_model("qwen3-moe", tmp_path)
        config = run_config(tmp_path, ranks=4, trainer=trainer | {"megatron": options})
        with pytest.raises(ConfigInvalid, match=message):
            megatron_args(config, read_hf_config(tmp_path), rank=0, world_size=4, device="cpu")

    def test_a_tensor_parallel_size_that_does_not_fit_the_model_is_refused(self, models: dict[str, Path]) -> None:
        with pytest.raises(ConfigInvalid, match=r"\(4\) must divide the model's num_key_value_heads \(2\)"):
            self.parsed(models, ranks=4, trainer={"tensor_model_parallel_size": 4})


class TestDevice:
    def test_cuda_means_the_cpu_inside_and_nothing_outside(self) -> None:
        before = torch.cuda.current_stream
        with megatron_device("cpu"):
            assert torch.zeros(2, device="cuda").device.type == "cpu"
            assert torch.zeros(2, device=torch.cuda.current_device()).cuda().device.type == "cpu"
            assert torch.zeros(2).to("cuda", torch.float64).dtype == torch.float64
            assert torch.empty(2, pin_memory=True).device.type == "cpu"
            assert torch.nn.Linear(1, 1).cuda().weight.device.type == "cpu"
            assert torch.zeros(2, dtype=torch.bfloat16).type() == "torch.cuda.BFloat16Tensor"
            with torch.cuda.stream(torch.cuda.Stream()):
                torch.cuda.Event().record(torch.cuda.current_stream())
            assert torch.cuda.device_count() == 1
        assert torch.cuda.current_stream is before
        assert torch.zeros(2).type() == "torch.FloatTensor"

    def test_cudas_random_state_is_the_cpus(self) -> None:
        with megatron_device("cpu"):
            torch.cuda.manual_seed(3)
            state = torch.cuda.get_rng_state()
            first = torch.rand(3)
            torch.cuda.set_rng_state(state)
            assert torch.equal(torch.rand(3), first)

    def test_on_a_gpu_it_does_nothing(self) -> None:
        before = dict(vars(torch.cuda))
        with megatron_device("cuda"):
            assert dict(vars(torch.cuda)) == before


class Ranks:
    """A MegatronTrainer in a placement of its own."""

    def __init__(self, config: RunConfig, directory: Path):
        self._config, self._directory = config, directory

    async def __aenter__(self) -> MegatronTrainer:
        resources = ResourcesConfig(
            accelerator=self._config.resources.accelerator,
            actor_num_gpus_per_node=self._config.resources.actor_num_gpus_per_node,
            placement_timeout_s=60,
        )
        self._placement = await reserve(resources, CPU, name=f"trainer-{os.urandom(4).hex()}")
        self.trainer = MegatronTrainer(
            self._config,
            checkpoints=self._directory / "checkpoints",
            run_id="run",
            slots=self._placement.trainer_slots,
            hardware=CPU,
            log_dir=self._directory / "logs",
        )
        return self.trainer

    async def __aexit__(self, *_: object) -> None:
        await self.trainer.close()
        await self._placement.release()


async def test_ranks_in_any_layout_take_the_same_steps_and_resume_each_others_checkpoints(
    ray_cluster: str, models: dict[str, Path], tmp_path: Path
) -> None:
    model = models["qwen3"]
    single = run_config(model, batch=6)
    with single_rank(single) as rank:
        expected = [rank.step(make_batch(single, rollout_id, max_tokens=64)) for rollout_id in range(4)]
        rank.export_hf(tmp_path / "expected")

    tensor = run_config(model, batch=6, ranks=2, trainer={"tensor_model_parallel_size": 2})
    async with Ranks(tensor, tmp_path) as trainer:
        state = await trainer.start()
        assert (state.next_rollout_id, state.extra_state, state.loaded_from) == (0, None, str(model))
        found = [await trainer.step(make_batch(tensor, rollout_id, max_tokens=64)) for rollout_id in (0, 1)]
        await trainer.save(1, tmp_path / "checkpoints", {"data": [1]})

    data = run_config(model, batch=6, ranks=2)
    async with Ranks(data, tmp_path) as trainer:
        state = await trainer.start()
        assert (state.next_rollout_id, state.extra_state) == (2, {"data": [1]})
        found += [await trainer.step(make_batch(data, rollout_id, max_tokens=64)) for rollout_id in (2, 3)]
        exported = await trainer.export_hf(tmp_path / "export")

    for mine, theirs in zip(found, expected, strict=True):
        assert mine.losses == pytest.approx(theirs.losses, rel=1e-4)
        assert mine.grad_norms == pytest.approx(theirs.grad_norms, rel=1e-4)
    reference, weights = (load_file(path / "model.safetensors") for path in (tmp_path / "expected", exported))
    assert weights.keys() == reference.keys()
    for name, tensor_ in reference.items():
        torch.testing.assert_close(weights[name], tensor_, atol=2e-4, rtol=1e-3)


async def test_errors_of_a_rank_arrive_as_themselves_and_a_dead_rank_is_named(
    ray_cluster: str, models: dict[str, Path], tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text(json.dumps({"architectures": ["MambaForCausalLM"]}))
    async with Ranks(run_config(broken), tmp_path / "a") as trainer:
        with pytest.raises(ModelInvalid, match="MambaForCausalLM is not known"):
            await trainer.start()

    config = run_config(models["qwen3"], checkpoint={"async_save": True})
    checkpoints = tmp_path / "b" / "checkpoints"
    async with Ranks(config, tmp_path / "b") as trainer:
        await trainer.start()
        await trainer.save(0, checkpoints, {})
        async with asyncio.timeout(60):
            while not await trainer.save_settled():
                await asyncio.sleep(0.01)
        (tmp_path / "file").write_text("in the way")
        with pytest.raises(StorageFailed, match="file/hf"):
            await trainer.export_hf(tmp_path / "file" / "hf")
        [rank] = await trainer.describe()
        await trainer.save(1, checkpoints, {})
        watch = asyncio.create_task(trainer.watch())
        os.kill(rank["pid"], signal.SIGKILL)
        with pytest.raises(TrainerLost, match="rank 0 died"):
            await asyncio.wait_for(watch, 60)
        with pytest.raises(TrainerLost, match=r"(?s)rank 0 died: .*last lines of .*trainer-0\.log"):
            await trainer.step(make_batch(config))
    begin = resolve_start(checkpoints, config.checkpoint, run_id="run")
    assert begin is not None
    assert begin.iteration == 0  # the next was being written
