"""Machines without an accelerator: the same engine and trainer, on gloo."""

import os

from engines.hardware.base import Hardware

CPU = Hardware(
    name="cpu",
    torch_device="cpu",
    collective_backend="gloo",
    # Half a core: a two-core machine holds two training processes and two engines, which take turns computing.
    slot_resources={"CPU": 0.5},
    environment={"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // 4))},
    engine_environment={"SGLANG_USE_CPU_ENGINE": "1"},
    # Nothing is compiled here, which would take minutes: without the compiler a rank imports Megatron in two thirds of
    # the time.
    trainer_environment={"TORCHDYNAMO_DISABLE": "1"},
    sglang_defaults={
        "device": "cpu",
        "attention_backend": "torch_native",
        "sampling_backend": "pytorch",
        "grammar_backend": "none",
        "disable_cuda_graph": True,
        "disable_overlap_schedule": True,
        # SGLang would size the KV cache by the machine's whole memory, which it shares here.
        "max_total_tokens": 32768,
        "max_running_requests": 64,
        "watchdog_timeout": 1800.0,
        # An idle scheduler would otherwise spin on a core that training could have.
        "sleep_on_idle": True,
    },
    # glibc takes more than 32 MiB from the system anew each time: then zeroing pages costs more than copying weights.
    bucket_mb=24.0,
)
