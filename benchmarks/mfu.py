"""Model FLOP utilisation of a train step on one GPU: 6 · parameters · tokens over the device's dense bf16 peak.

    python benchmarks/mfu.py [--sequences 16] [--length 1024] [--profile] [--option recompute_granularity=full]

The shape is Qwen3-0.6B's with random weights; every token but the first of a sequence is a response token, so the
output layer does all of its work. Prints one line of JSON, and with ``--profile`` the kernels that took longest.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from typing import Any

import numpy as np
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from engines.hardware.nvidia import CUDA
from trainers.config import RunConfig
from trainers.megatron.rank import Rank
from trainers.protocols import MicroBatchPlan, TrainBatch, TrainSample

QWEN3_06B = {
    "vocab_size": 151936, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28,
    "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": True,
    "max_position_embeddings": 40960, "rope_theta": 1000000.0,
}  # fmt: skip
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sequences", type=int, default=16)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--vocab", type=int, default=QWEN3_06B["vocab_size"])
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="of trainer.megatron")
    options = parser.parse_args()
    os.environ |= {**CUDA.environment, **CUDA.trainer_environment}  # what a rank's process has, and as many threads
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as directory:
        shape = Qwen3Config(**QWEN3_06B | {"vocab_size": options.vocab})
        with torch.device("cuda"):
            Qwen3ForCausalLM(shape).to(torch.bfloat16).save_pretrained(directory)
        torch.cuda.empty_cache()
        print(json.dumps(measure(options, directory)), flush=True)


def measure(options: argparse.Namespace, model: str) -> dict[str, Any]:
    megatron = {name: json.loads(value) for name, _, value in (each.partition("=") for each in options.option)}
    config = RunConfig.model_validate(
        {
            "model": {"hf_checkpoint": model},
            "data": {"prompt_data": "none"},
            "rollout": {"num_rollouts": 100, "rollout_batch_size": options.sequences, "n_samples_per_prompt": 1},
            "trainer": {
                "dtype": "bfloat16",
                "max_tokens_per_gpu": options.sequences * options.length,
                "megatron": megatron,
            },
        }
    )
    rank = Rank(
        config,
        run_id="benchmark",
        rank=0,
        world_size=1,
        device="cuda",
        begin=None,
    )
    batch = _batch(options.sequences, options.length, options.vocab)
    # Of another length first: what is measured are the kernels for ragged batches, not those of a single shape.
    rank.step(_batch(options.sequences, options.length // 2 + 1, options.vocab))
    for _ in range(3):
        rank.step(batch)
    torch.cuda.reset_peak_memory_stats()
    seconds: list[float] = []
    for _ in range(options.repeats):
        begin = time.perf_counter()
        rank.step(batch)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    if options.profile:
        _profile(rank, batch)
    step_s, tokens = statistics.median(seconds), options.sequences * options.length
    name = torch.cuda.get_device_name()
    peak = next((flops for device, flops in PEAK_FLOPS.items() if device in name), float("nan"))
    result = {
        "device": name,
        "tokens": tokens,
        "vocab": options.vocab,
        "megatron": megatron,
        "step_s": round(step_s, 4),
        "tokens_per_s": round(tokens / step_s),
        "mfu": round(6 * rank.state.num_parameters * tokens / step_s / peak, 4),
        "peak_allocated_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2),
        "peak_reserved_gb": round(torch.cuda.max_memory_reserved() / 1e9, 2),
    }
    rank.close()
    return result


def _profile(rank: Rank, batch: TrainBatch) -> None:
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        rank.step(batch)
        torch.cuda.synchronize()
    print(profile.key_averages().table(sort_by="self_cuda_time_total", row_limit=40, max_name_column_width=90))


def _batch(sequences: int, length: int, vocab: int) -> TrainBatch:
    rng = np.random.default_rng(0)
    samples = [
        TrainSample(
            tokens=rng.integers(0, vocab, length).astype(np.int32),
            loss_mask=np.ones(length - 1, np.float32),
            rollout_log_probs=rng.normal(-12, 0.1, length - 1).astype(np.float32),
            advantage=float(rng.normal()),
        )
        for _ in range(sequences)
    ]
    return TrainBatch(0, samples, MicroBatchPlan([[[list(range(sequences))]]]))


if __name__ == "__main__":
    main()
