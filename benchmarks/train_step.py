"""Our train step against a bare Megatron loop on the same packed tokens: forward, cross-entropy, backward, optimizer.

    python benchmarks/train_step.py [--layers 4] [--hidden 128] [--vocab 512] [--samples 512] [--device cpu]

Prints one line of JSON. The bare loop computes the loss of every token; ours computes log-probabilities and entropies
of the response tokens alone, and the metrics of a rollout.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from trainers.config import RunConfig
from trainers.megatron.device import megatron_device
from trainers.megatron.packing import MicroBatch, pack
from trainers.megatron.rank import Rank
from trainers.micro_batches import plan_micro_batches
from trainers.protocols import TrainBatch, TrainSample


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in {
        "layers": 4, "hidden": 128, "vocab": 512, "samples": 512, "min-tokens": 10, "max-tokens": 30, "pack": 8192,
        "repeats": 5,
    }.items():  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        print(json.dumps(measure(options, _model(options, Path(directory)))))


def measure(options: argparse.Namespace, model: Path) -> dict[str, Any]:
    config = RunConfig.model_validate(
        {
            "model": {"hf_checkpoint": str(model)},
            "data": {"prompt_data": "none"},
            "rollout": {"num_rollouts": 100, "rollout_batch_size": options.samples, "n_samples_per_prompt": 1},
            "trainer": {"dtype": "float32" if options.device == "cpu" else "bfloat16"},
        }
    )
    rank = Rank(
        config,
        run_id="benchmark",
        rank=0,
        world_size=1,
        device=options.device,
        begin=None,
    )
    batch = _batch(options)
    ours = _median(lambda: rank.step(batch), options)
    bare = _median(lambda: _bare_step(rank, batch, options.device), options)
    rank.close()
    tokens = sum(len(sample.tokens) for sample in batch.samples)
    return {
        "device": torch.cuda.get_device_name()
        if options.device == "cuda"
        else f"cpu, {torch.get_num_threads()} threads",
        "tokens": tokens,
        "micro_batches": len(batch.plan.steps[0][0]),
        "ours_s": round(ours, 4),
        "bare_s": round(bare, 4),
        "ours_tokens_per_s": round(tokens / ours),
        "ratio": round(ours / bare, 3),
    }


def _bare_step(rank: Rank, batch: TrainBatch, device: str) -> None:
    from megatron.core.distributed import finalize_model_grads
    from megatron.core.tensor_parallel import vocab_parallel_cross_entropy

    state = rank._state
    [module] = state.modules
    with megatron_device("cuda" if device == "cuda" else "cpu"):
        module.zero_grad_buffer()
        state.optimizer.zero_grad()
        count = 0
        for members in batch.plan.steps[0][0]:
            packed: MicroBatch = pack([batch.samples[i] for i in members], device)
            logits = module(packed.tokens, packed.positions, None, packed_seq_params=packed.sequences)
            targets = packed.tokens.roll(-1)
            vocab_parallel_cross_entropy(logits.transpose(0, 1).float(), targets.T).sum().backward()
            count += packed.tokens.numel()
        finalize_model_grads([module], torch.tensor(count, dtype=torch.int, device=device))
        state.optimizer.step()


def _median(step: Callable[[], Any], options: argparse.Namespace) -> float:
    seconds: list[float] = []
    for _ in range(options.repeats + 1):
        begin = time.perf_counter()
        step()
        if options.device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds[1:])


def _model(options: argparse.Namespace, directory: Path) -> Path:
    config = Qwen3Config(
        vocab_size=options.vocab,
        hidden_size=options.hidden,
        intermediate_size=options.hidden * 3,
        num_hidden_layers=options.layers,
        num_attention_heads=max(2, options.hidden // 64),
        num_key_value_heads=max(1, options.hidden // 128),
        head_dim=64,
        max_position_embeddings=max(4096, options.max_tokens),
        tie_word_embeddings=True,
        dtype="float32",
    )
    torch.manual_seed(0)
    Qwen3ForCausalLM(config).save_pretrained(directory)
    return directory


def _batch(options: argparse.Namespace) -> TrainBatch:
    rng = np.random.default_rng(0)
    samples: list[TrainSample] = []
    for _ in range(options.samples):
        length = int(rng.integers(options.min_tokens, options.max_tokens + 1))
        response = max(1, length * 2 // 3)
        samples.append(
            TrainSample(
                tokens=rng.integers(1, options.vocab, length).astype(np.int32),
                loss_mask=np.ones(response, np.float32),
                rollout_log_probs=np.full(response, -5, np.float32),
                advantage=float(rng.normal()),
            )
        )
    plan = plan_micro_batches(
        [len(sample.tokens) for sample in samples],
        global_batch_size=options.samples,
        data_parallel_size=1,
        max_tokens=options.pack,
    )
    return TrainBatch(0, samples, plan)


if __name__ == "__main__":
    main()
