"""Every layout of ranks trains as one process does."""

import dataclasses
import errno
import os
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

from tests.e2e.rank_pool import Outcome, RankPool, Task
from trainers.config import RunConfig
from trainers.errors import StorageFailed
from trainers.megatron.start import Checkpoint, resolve_start
from trainers.micro_batches import plan_micro_batches
from trainers.protocols import TrainBatch, TrainSample

pytestmark = pytest.mark.timeout(400)

SHAPE: dict[str, Any] = {
    "vocab_size": 120,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
    "dtype": "float32",
}
TP, PP, CP = "tensor_model_parallel_size", "pipeline_model_parallel_size", "context_parallel_size"
EP = "expert_model_parallel_size"
RECOMPUTE = {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
LAYOUTS: dict[str, tuple[int, dict[str, Any]]] = {
    "one": (1, {}),
    "one by count": (1, {"use_dynamic_batch_size": False, "micro_batch_size": 2}),
    "recompute full": (1, {"megatron": RECOMPUTE}),
    "recompute block": (1, {"megatron": RECOMPUTE | {"recompute_method": "block", "recompute_num_layers": 2}}),
    "recompute selective": (1, {"megatron": {"recompute_granularity": "selective"}}),
    "DP2": (2, {}),
    "DP2 plain optimizer": (2, {"megatron": {"use_distributed_optimizer": False}}),
    "TP2": (2, {TP: 2}),
    "TP2 SP": (2, {TP: 2, "sequence_parallel": True}),
    "PP2": (2, {PP: 2}),
    "PP2 virtual": (2, {PP: 2, "num_virtual_stages_per_pipeline_rank": 2}),
    "PP2 recompute": (2, {PP: 2, "megatron": RECOMPUTE}),
    "CP2": (2, {CP: 2}),
    "TP2 PP2": (4, {TP: 2, PP: 2, "sequence_parallel": True}),
    "PP2 CP2": (4, {PP: 2, CP: 2}),
    "EP2": (2, {EP: 2}),
    "TP2 EP2": (4, {TP: 2, EP: 2, "expert_tensor_parallel_size": 1, "sequence_parallel": True}),
    "PP2 EP2": (4, {PP: 2, EP: 2}),
    "TP2 ETP2": (2, {TP: 2, "expert_tensor_parallel_size": 2, "sequence_parallel": True}),
    "TP2 CP2 SP": (4, {TP: 2, CP: 2, "sequence_parallel": True}),
}


@pytest.fixture(scope="module")
def pool() -> Iterator[RankPool]:
    with RankPool(4) as pool:
        yield pool


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "norm_topk_prob": True}
    for name, build in {
        "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE, tie_word_embeddings=False)),
        "qwen3-tied": lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE, tie_word_embeddings=True)),
        "qwen3-moe": lambda: Qwen3MoeForCausalLM(Qwen3MoeConfig(**SHAPE, **experts, tie_word_embeddings=False)),
    }.items():
        torch.manual_seed(0)
        model = build().to(torch.float32)
        with torch.no_grad():
            for parameter_name, parameter in model.named_parameters():
                if parameter_name.endswith("norm.weight"):
                    parameter.add_(torch.randn_like(parameter) * 0.2)
        model.save_pretrained(root / name)
    return {path.name: path for path in root.iterdir()}


def run_config(model: Path, layout: str, **changes: Any) -> RunConfig:
    ranks, trainer = LAYOUTS[layout]
    limit = {} if trainer.get("use_dynamic_batch_size") is False else {"max_tokens_per_gpu": 60}
    return RunConfig.model_validate(
        {
            "resources": {"accelerator": "cpu", "actor_num_gpus_per_node": ranks},
            "model": {"hf_checkpoint": str(model)},
            "data": {"prompt_data": "unused.jsonl"},
            "rollout": {
                "num_rollouts": 8,
                "rollout_batch_size": 7,
                "n_samples_per_prompt": 2,
                "sampling": {"temperature": 0.8},
            },
            "trainer": {"dtype": "float32", "lr": 1e-3, "global_batch_size": 8} | limit | trainer,
            "algorithm": {"entropy_coef": 0.01},
        }
        | changes
    )


def make_batch(config: RunConfig, rollout_id: int = 0) -> TrainBatch:
    """14 samples: a step of 8, one of 6."""
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
        max_tokens=config.trainer.max_tokens_per_micro_batch,
        micro_batch_size=config.trainer.samples_per_micro_batch,
        multiple_of=config.trainer.micro_batch_multiple,
    )
    return TrainBatch(rollout_id, samples, plan)


def train(pool: RankPool, model: Path, layout: str, **changes: Any) -> list[Outcome]:
    config = run_config(model, layout, **changes)
    return pool.run(Task(config, [make_batch(config, rollout_id) for rollout_id in range(2)], log_probs=True))


@pytest.fixture(scope="module")
def of_one(pool: RankPool, models: dict[str, Path]) -> dict[str, Outcome]:
    return {name: train(pool, path, "one")[0] for name, path in models.items()}


@pytest.mark.parametrize("layout", list(LAYOUTS)[1:])
def test_losses_and_gradient_norms_are_those_of_one_process(
    layout: str, pool: RankPool, models: dict[str, Path], of_one: dict[str, Outcome]
) -> None:
    experts = "EP2" in layout or "ETP2" in layout
    name = "qwen3-moe" if experts else "qwen3-tied" if "PP2" in layout else "qwen3"
    expected = of_one[name]
    for outcome in train(pool, models[name], layout):
        for found, wanted in zip(outcome.stats, expected.stats, strict=True):
            assert found.losses == pytest.approx(wanted.losses, rel=1e-4)
            assert found.grad_norms == pytest.approx(wanted.grad_norms, rel=1e-4)
            assert found.metrics == pytest.approx(wanted.metrics, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("layout", ["one", "PP2 CP2"])
def test_a_step_that_is_not_finite_ends_on_every_rank_with_what_to_do(
    layout: str, pool: RankPool, models: dict[str, Path]
) -> None:
    config = run_config(models["qwen3"], layout)
    batch = make_batch(config)
    broken = [dataclasses.replace(sample, advantage=float("inf")) for sample in batch.samples]
    with pytest.raises(AssertionError) as raised:
        pool.run(Task(config, [dataclasses.replace(batch, samples=broken)]))
    said = str(raised.value)
    for rank in range(config.resources.train_world_size):
        assert f"rank {rank}: TrainingDiverged('the loss is " in said
    assert "lower trainer.lr" in said


def test_where_the_time_went_is_told_and_no_utilisation_of_an_unknown_device(
    pool: RankPool, models: dict[str, Path]
) -> None:
    config = run_config(models["qwen3"], "one")
    [stats] = pool.run(Task(config, [make_batch(config)]))[0].stats
    assert set(stats.times) == {
        "time/forward_backward_s",
        "time/optimizer_s",
        "time/log_probs_s",
        "perf/tokens_per_s",
    }
    assert all(seconds > 0 for seconds in stats.times.values())


def of_sample(config: RunConfig, batch: TrainBatch, outcomes: list[Outcome], number: int) -> dict[int, np.ndarray]:
    """By the sample's position, from the first rank of each replica; ranks go by tensor, context, replica, stage."""
    found: dict[int, np.ndarray] = {}
    for data_rank in range(config.data_parallel_size):
        rank = data_rank * config.trainer.tensor_model_parallel_size * config.trainer.context_parallel_size
        members = [i for step in batch.plan.steps for each in step[data_rank] for i in each]
        found |= dict(zip(members, outcomes[rank].log_probs[number], strict=True))
    return found


@pytest.mark.parametrize("layout", ["DP2", "TP2 SP", "PP2 virtual", "CP2", "TP2 CP2 SP"])
def test_every_rank_knows_the_log_probabilities_that_one_process_computes(
    layout: str, pool: RankPool, models: dict[str, Path], of_one: dict[str, Outcome]
) -> None:
    config, alone = run_config(models["qwen3"], layout), run_config(models["qwen3"], "one")
    outcomes = train(pool, models["qwen3"], layout)
    for number in range(2):
        found = of_sample(config, make_batch(config, number), outcomes, number)
        wanted = of_sample(alone, make_batch(alone, number), [of_one["qwen3"]], number)
        assert found.keys() == wanted.keys()
        for index, values in wanted.items():
            np.testing.assert_allclose(found[index], values, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("dynamic", [True, False])
def test_more_ranks_than_samples_train_like_one(dynamic: bool, pool: RankPool, models: dict[str, Path]) -> None:
    found: list[list[Any]] = []
    for layout in ("one", "DP2"):
        limit = {} if dynamic else {"use_dynamic_batch_size": False, "micro_batch_size": 1}
        config = run_config(models["qwen3"], layout)
        trainer = config.trainer.model_dump(exclude={"max_tokens_per_gpu"}) | {"global_batch_size": 5} | limit
        config = run_config(models["qwen3"], layout, trainer=trainer)
        batch = make_batch(config)  # of 14 samples: steps of 5, 5 and 4
        batch = dataclasses.replace(batch, samples=batch.samples[:11])  # and now of 1
        plan = plan_micro_batches(
            [len(sample.tokens) for sample in batch.samples],
            global_batch_size=5,
            data_parallel_size=config.data_parallel_size,
            max_tokens=config.trainer.max_tokens_per_micro_batch,
            micro_batch_size=config.trainer.samples_per_micro_batch,
        )
        [stats] = pool.run(Task(config, [dataclasses.replace(batch, plan=plan)]))[0].stats
        found.append([stats.losses, stats.grad_norms, list(stats.metrics.values())])
    for mine, theirs in zip(*found, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4, abs=1e-6)


UNFINISHED: list[Any] = []


@dataclasses.dataclass(frozen=True)
class Unfinished:
    """Two rollouts, the second of which has half a checkpoint (under ``checkpoint.async_save``) or none. The
    process stays as it is, to be killed."""

    config: RunConfig
    directory: Path

    def __call__(self, rank: int, world_size: int, init_method: str | None) -> None:
        from megatron.core.dist_checkpointing.strategies.filesystem_async import FileSystemWriterAsync

        from trainers.megatron.rank import Rank

        where = {"rank": rank, "world_size": world_size, "init_method": init_method}
        trainer = Rank(self.config, run_id="test", device="cpu", begin=None, **where)
        UNFINISHED.append(trainer)
        trainer.step(make_batch(self.config, 0))
        trainer.save(0, self.directory, {})
        trainer.step(make_batch(self.config, 1))  # while it is written
        while not trainer.save_settled():
            time.sleep(0.005)
        if self.config.checkpoint.async_save:
            for_ever = threading.Event()
            mock.patch.object(FileSystemWriterAsync, "write_preloaded_data", lambda *_, **__: for_ever.wait()).start()
            trainer.save(1, self.directory, {})


RESUMED = {
    "DP2": ["TP2 SP", "PP2 virtual", "one"],
    "PP2 CP2": ["DP2"],
    "DP2 plain optimizer": [],
    "EP2": ["one"],
}
FEW = {"num_rollouts": 8, "rollout_batch_size": 3, "n_samples_per_prompt": 2, "sampling": {"temperature": 0.8}}


@pytest.mark.parametrize("layout", list(RESUMED))
def test_a_run_that_is_killed_goes_on_exactly_in_its_layout_and_closely_in_another(
    layout: str, pool: RankPool, models: dict[str, Path], tmp_path: Path
) -> None:
    def batches(config: RunConfig, rollouts: range) -> list[TrainBatch]:
        return [make_batch(config, rollout_id) for rollout_id in rollouts]

    model = models["qwen3-moe" if "EP2" in layout else "qwen3-tied"]
    config = run_config(model, layout, rollout=FEW, checkpoint={"async_save": layout != "DP2"})
    with RankPool(config.resources.train_world_size) as victims:
        victims.run(Unfinished(config, tmp_path))
    assert (tmp_path / ".saving-1").exists() is config.checkpoint.async_save
    begin = resolve_start(tmp_path, config.checkpoint, run_id="test")
    assert begin == Checkpoint(tmp_path, 0)
    whole = pool.run(Task(config, batches(config, range(6))))[0].stats
    assert pool.run(Task(config, batches(config, range(1, 6)), begin))[0].stats == whole[1:]
    for other in RESUMED[layout]:
        config = run_config(model, other, rollout=FEW)
        found = pool.run(Task(config, batches(config, range(1, 6)), begin))[0].stats
        for mine, theirs in zip(found, whole[1:], strict=True):
            assert mine.losses == pytest.approx(theirs.losses, rel=1e-5, abs=1e-5)
            assert mine.metrics["lr"] == theirs.metrics["lr"]


def test_a_layout_that_the_torch_format_does_not_fit_is_told_so(models: dict[str, Path], tmp_path: Path) -> None:
    with RankPool(1) as pool:
        pool.run(Unfinished(run_config(models["qwen3"], "one", checkpoint={"format": "torch"}), tmp_path))
    said = r"cannot be loaded: \w.*; what was saved in the torch format can only be loaded with the tensor-, pipeline-"
    with RankPool(2) as pool, pytest.raises(AssertionError, match=said):
        pool.run(Task(run_config(models["qwen3"], "TP2"), [], Checkpoint(tmp_path, 0)))


@dataclasses.dataclass(frozen=True)
class FillingDisk:
    """What each rank says when the disk is full for ``full_rank`` in ``method`` of Megatron's writer."""

    config: RunConfig
    directory: Path
    full_rank: int
    method: str

    def __call__(self, rank: int, world_size: int, init_method: str | None) -> list[str]:
        from megatron.core.dist_checkpointing.strategies.filesystem_async import FileSystemWriterAsync

        from trainers.megatron.rank import Rank

        def full(*_: Any, **__: Any) -> Any:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        where = {"rank": rank, "world_size": world_size, "init_method": init_method}
        trainer = Rank(self.config, run_id="test", device="cpu", begin=None, **where)
        try:
            with (
                mock.patch.object(FileSystemWriterAsync, self.method, full) if rank == self.full_rank else nullcontext()
            ):
                trainer.save(0, self.directory, {})
                while not trainer.save_settled():
                    time.sleep(0.005)
        except StorageFailed as error:
            return [str(error)]
        finally:
            trainer.close()
        return []


@pytest.mark.parametrize(
    ("async_save", "full_rank", "method"),
    [(True, 1, "write_preloaded_data"), (True, 0, "finish"), (False, 0, "finish")],
)
def test_all_ranks_hear_of_a_disk_that_is_full_for_one(
    async_save: bool, full_rank: int, method: str, pool: RankPool, models: dict[str, Path], tmp_path: Path
) -> None:
    config = run_config(models["qwen3"], "TP2", checkpoint={"async_save": async_save})
    said = pool.run(FillingDisk(config, tmp_path, full_rank, method), timeout_s=60)
    words = f"the checkpoint directory {tmp_path} cannot be written: [Errno 28] No space left on device"
    assert said == [[words], [words]]
    assert not (tmp_path / "latest_checkpointed_iteration.txt").exists()
