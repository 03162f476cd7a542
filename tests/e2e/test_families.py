"""Every family's weights go to Megatron and come back bit for bit, and mean there what they mean to transformers."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.e2e.family_models import COMMON, MODELS, build_family_model
from tests.e2e.rank_pool import RankPool
from trainers.config import RunConfig
from trainers.megatron.start import Checkpoint
from trainers.micro_batches import plan_micro_batches
from trainers.protocols import TrainBatch, TrainSample

pytestmark = pytest.mark.timeout(400)

TP, PP, EP, ETP = (
    "tensor_model_parallel_size",
    "pipeline_model_parallel_size",
    "expert_model_parallel_size",
    "expert_tensor_parallel_size",
)
SP: dict[str, Any] = {"sequence_parallel": True}
DENSE_LAYOUTS: dict[str, dict[str, Any]] = {
    "TP2": {TP: 2},
    "PP2 virtual": {PP: 2, "num_virtual_stages_per_pipeline_rank": 2},
}
EXPERT_LAYOUTS: dict[str, dict[str, Any]] = {
    "EP2": {EP: 2},
    "TP2 EP2": {TP: 2, EP: 2, ETP: 1} | SP,
    "TP2 ETP2": {TP: 2, ETP: 2} | SP,
    "PP2": {PP: 2},
}
FURTHER_LAYOUTS: dict[str, dict[str, Any]] = {
    "CP2": {"context_parallel_size": 2},
    "DP2 recompute": {
        "megatron": {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
    },
}
LENGTHS = (13, 30, 7)


def has_experts(name: str) -> bool:
    return "num_experts_per_tok" in MODELS[name][1]


def sequences() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(1, COMMON["vocab_size"], length).astype(np.int32) for length in LENGTHS]


def samples() -> list[TrainSample]:
    return [
        TrainSample(
            tokens=tokens,
            loss_mask=np.ones(len(tokens) - 1, np.float32),
            rollout_log_probs=np.full(len(tokens) - 1, -4, np.float32),
            advantage=number - 0.7,
        )
        for number, tokens in enumerate(sequences())
    ]


@dataclass(frozen=True)
class Examine:
    """Load, compute the logits of packed sequences on all ranks, train if asked, save and export."""

    config: RunConfig
    export_to: Path | None = None
    forward: bool = True
    steps: int = 0
    save_to: Path | None = None
    export_after: Path | None = None
    begin: Checkpoint | None = None

    def __call__(self, rank: int, world_size: int, init_method: str | None) -> "Findings":
        from trainers.megatron.rank import Rank

        trainer = Rank(
            self.config,
            run_id="test",
            rank=rank,
            world_size=world_size,
            device="cpu",
            init_method=init_method,
            begin=self.begin,
        )
        found = Findings()
        try:
            if self.export_to is not None:
                trainer.export_hf(self.export_to)
            if self.forward:
                found.logits = _logits(trainer)
            for number in range(self.steps):
                stats = trainer.step(make_batch(self.config, number))
                found.losses += stats.losses
                found.grad_norms += stats.grad_norms
            if self.save_to is not None:
                trainer.save(0, self.save_to, {})
            if self.export_after is not None:
                trainer.export_hf(self.export_after)
        finally:
            trainer.close()
        return found


@dataclass
class Findings:
    logits: Any = None
    """[T, vocabulary] on the last pipeline stage."""
    losses: list[float] = field(default_factory=list)
    grad_norms: list[float] = field(default_factory=list)


def _logits(trainer: Any) -> Any:
    from megatron.core.tensor_parallel import (
        gather_from_sequence_parallel_region,
        gather_from_tensor_model_parallel_region,
    )

    from trainers.megatron.device import megatron_device
    from trainers.megatron.heads import run_model
    from trainers.megatron.packing import pack
    from trainers.megatron.step import RolloutTrainer

    def head(*, hidden_states: Any, output_layer: Any, output_weight: Any, config: Any, **_: Any) -> Any:
        if config.sequence_parallel:
            hidden_states = gather_from_sequence_parallel_region(hidden_states)
        weight = output_layer.weight if output_weight is None else output_weight
        return gather_from_tensor_model_parallel_region(hidden_states[:, 0] @ weight.T)

    batch = pack(samples(), "cpu", trainer._split)
    policy: RolloutTrainer = trainer._policy

    def forward(batches: Iterator[Any], module: Any) -> Any:
        each = next(batches)
        return run_model(module, each, head), lambda output, non_loss_data=False: output

    with megatron_device("cpu"), torch.no_grad():
        count = trainer._args.pipeline_model_parallel_size
        found = policy._schedule(forward, [batch] * count, count, forward_only=True)
    return found[0][: sum(LENGTHS), : COMMON["vocab_size"]].numpy() if found else None


def run_config(model: Path, layout: dict[str, Any]) -> RunConfig:
    ranks = 1 if not layout else 2
    trainer = {"dtype": "float32", "lr": 1e-3, "max_tokens_per_gpu": 40} | layout
    return RunConfig.model_validate(
        {
            "resources": {"accelerator": "cpu", "actor_num_gpus_per_node": ranks},
            "model": {"hf_checkpoint": str(model)},
            "data": {"prompt_data": "unused.jsonl"},
            "rollout": {"num_rollouts": 4, "rollout_batch_size": 3, "n_samples_per_prompt": 2},
            "trainer": trainer,
        }
    )


def make_batch(config: RunConfig, rollout_id: int) -> TrainBatch:
    chosen = samples() * 2
    plan = plan_micro_batches(
        [len(sample.tokens) for sample in chosen],
        global_batch_size=config.global_batch_size,
        data_parallel_size=config.data_parallel_size,
        max_tokens=config.trainer.max_tokens_per_micro_batch,
        multiple_of=config.trainer.micro_batch_multiple,
    )
    return TrainBatch(rollout_id, chosen, plan)


@dataclass(frozen=True)
class Reference:
    directory: Path
    logits: np.ndarray
    """[T, vocabulary], of transformers."""


@pytest.fixture(scope="module")
def pool() -> Iterator[RankPool]:
    with RankPool(2) as pool:
        yield pool


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reference]:
    found: dict[str, Reference] = {}
    for name in MODELS:
        directory = tmp_path_factory.mktemp(name)
        model = build_family_model(name, directory)
        with torch.no_grad():
            logits = [model(torch.from_numpy(tokens).long()[None]).logits[0] for tokens in sequences()]
        found[name] = Reference(directory, torch.cat(logits).numpy())
    return found


def assert_same_weights(one: Path, other: Path) -> None:
    ours, theirs = (load_file(path / "model.safetensors") for path in (one, other))
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype is tensor.dtype, name
        assert torch.equal(ours[name], tensor), name


def check(pool: RankPool, reference: Reference, layout: dict[str, Any], export: Path) -> None:
    findings = pool.run(Examine(run_config(reference.directory, layout), export))
    logits = [found.logits for found in findings if found.logits is not None]
    assert len(logits) == 2 // layout.get(PP, 1) if layout else 1
    for each in logits:
        np.testing.assert_allclose(each, reference.logits, atol=1e-4, rtol=0)
    assert_same_weights(export, reference.directory)


@pytest.mark.parametrize("name", list(MODELS))
def test_one_process_has_the_logits_of_transformers_and_gives_every_weight_back(
    name: str, pool: RankPool, references: dict[str, Reference], tmp_path: Path
) -> None:
    check(pool, references[name], {}, tmp_path / "export")


@pytest.mark.parametrize("layout", list(DENSE_LAYOUTS))
@pytest.mark.parametrize("name", [name for name in MODELS if not has_experts(name)])
def test_two_ranks_of_a_dense_model_have_the_logits_and_give_every_weight_back(
    name: str, layout: str, pool: RankPool, references: dict[str, Reference], tmp_path: Path
) -> None:
    check(pool, references[name], DENSE_LAYOUTS[layout], tmp_path / "export")


@pytest.mark.parametrize("layout", list(EXPERT_LAYOUTS))
@pytest.mark.parametrize("name", [name for name in MODELS if has_experts(name)])
def test_two_ranks_of_a_model_with_experts_have_the_logits_and_give_every_weight_back(
    name: str, layout: str, pool: RankPool, references: dict[str, Reference], tmp_path: Path
) -> None:
    check(pool, references[name], EXPERT_LAYOUTS[layout], tmp_path / "export")


@pytest.mark.parametrize("name", ["qwen3-moe", "glm4", "deepseek-v3", "moonlight"])
def test_two_ranks_train_like_one(name: str, pool: RankPool, references: dict[str, Reference]) -> None:
    layouts = (EXPERT_LAYOUTS if has_experts(name) else DENSE_LAYOUTS) | FURTHER_LAYOUTS
    expected, *_ = pool.run(Examine(run_config(references[name].directory, {}), forward=False, steps=2))
    for layout in layouts.values():
        for found in pool.run(Examine(run_config(references[name].directory, layout), forward=False, steps=2)):
            assert found.losses == pytest.approx(expected.losses, rel=1e-4, abs=1e-6)
            assert found.grad_norms == pytest.approx(expected.grad_norms, rel=1e-4)
