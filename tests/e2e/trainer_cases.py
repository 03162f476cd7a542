"""Small models, configs and batches for tests of the trainer."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from trainers.config import RunConfig
from trainers.megatron.rank import Rank
from trainers.megatron.start import Checkpoint
from trainers.micro_batches import plan_micro_batches
from trainers.protocols import TrainBatch, TrainSample

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


def build_models(root: Path) -> dict[str, Path]:
    """One of each, with random weights, by name."""
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
