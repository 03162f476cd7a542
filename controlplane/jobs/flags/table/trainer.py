"""The train step, its parallelism and its optimizer. Every flag that is not here is Megatron's own."""

from controlplane.jobs.flags.flag import (
    FLOAT,
    INT,
    JSON,
    ON,
    TEXT,
    TEXTS,
    TOGGLE,
    differs,
    ignored,
    maps,
    one_of,
    refused,
)

_CHUNKS = "log-probabilities are always computed in chunks"
_BALANCED = "micro-batches are always balanced by cost, none above the cap"
_SPEED = "it saves memory or time and changes no result; it needs parts that this release does not bring"
_SELECTION = "not supported yet: all parameters are trained"
_FP8 = "not supported: training is in bfloat16 or float32"
_MTP = "not supported: the policy has no multi-token prediction heads"
_FSDP = "of slime's FSDP backend, and training goes through Megatron"
_FOUND = "found from the other flags"

FLAGS = (
    differs(
        "--train-backend", one_of("megatron", "fsdp"), (), "Megatron is the only one: `fsdp` is refused", "megatron"
    ),
    refused("--config", TEXT, _FSDP),
    ignored("--attn-implementation", TEXT, "packed sequences are attended to by torch's own kernels"),
    refused("--gradient-checkpointing", ON, f"{_FSDP}: use --recompute-granularity full"),
    refused("--warmup-ratio", FLOAT, f"{_FSDP}: use --lr-warmup-fraction"),
    refused("--fsdp-cpu-offload", ON, _FSDP),
    ignored("--fsdp-cpu-backend", TEXT, _FSDP),
    ignored("--fsdp-state-dict-cpu-offload", ON, _FSDP),
    maps("--global-batch-size", INT, "trainer.global_batch_size"),
    differs(
        "--num-steps-per-rollout",
        INT,
        "trainer.global_batch_size",
        "`--rollout-batch-size` × `--n-samples-per-prompt` ÷ this",
    ),
    differs(
        "--micro-batch-size", INT, "trainer.micro_batch_size", "ignored with `--use-dynamic-batch-size`, as in slime"
    ),
    maps("--use-dynamic-batch-size", ON, "trainer.use_dynamic_batch_size", False),
    differs(
        "--max-tokens-per-gpu",
        INT,
        "trainer.max_tokens_per_gpu",
        "required with `--use-dynamic-batch-size`, ignored without it, as in slime",
    ),
    differs(
        "--qkv-format",
        one_of("thd", "bshd"),
        (),
        "`thd`, which is always so, as sequences are packed; `bshd` is refused",
        "thd",
    ),
    ignored("--log-probs-max-tokens-per-gpu", INT, "the same micro-batches serve log-probabilities and training"),
    ignored("--ref-micro-batch-size", INT, "the same micro-batches serve log-probabilities and training"),
    ignored("--balance-data", ON, _BALANCED),
    ignored("--balance-by-flops", ON, _BALANCED),
    ignored("--data-pad-size-multiplier", INT, "packed sequences are padded to what the layout needs"),
    ignored("--disable-rollout-trim-samples", ON, "samples that fill no whole step are never left out"),
    refused(
        "--use-dynamic-global-batch-size",
        ON,
        "not supported: a step has --global-batch-size samples, or, without that, those of a whole rollout",
    ),
    ignored("--log-probs-chunk-size", INT, _CHUNKS),
    ignored("--recompute-loss-function", ON, _CHUNKS),
    ignored("--allgather-cp", ON, "context-parallel ranks always gather keys and values"),
    differs("--seed", INT, ("trainer.seed", "engine.seed"), "also seeds the engines, as in slime", 1234),
    differs("--bf16", ON, "trainer.dtype", "bfloat16, which is the default"),
    refused("--fp16", ON, _FP8),
    maps("--tensor-model-parallel-size", INT, "trainer.tensor_model_parallel_size"),
    differs(
        "--sequence-parallel",
        ON,
        "trainer.sequence_parallel",
        "ignored where `--tensor-model-parallel-size` is 1, as in Megatron",
    ),
    maps("--pipeline-model-parallel-size", INT, "trainer.pipeline_model_parallel_size"),
    maps("--num-virtual-stages-per-pipeline-rank", INT, "trainer.num_virtual_stages_per_pipeline_rank"),
    differs(
        "--num-layers-per-virtual-pipeline-stage",
        INT,
        "trainer.num_virtual_stages_per_pipeline_rank",
        "`--num-layers` ÷ `--pipeline-model-parallel-size` ÷ this",
    ),
    maps("--context-parallel-size", INT, "trainer.context_parallel_size"),
    maps("--expert-model-parallel-size", INT, "trainer.expert_model_parallel_size"),
    maps("--expert-tensor-parallel-size", INT, "trainer.expert_tensor_parallel_size"),
    differs(
        "--moe-token-dispatcher-type",
        one_of("allgather", "alltoall", "flex"),
        "trainer.megatron.moe_token_dispatcher_type",
        "always alltoall: allgather takes no sequences of different lengths, and flex needs DeepEP",
    ),
    ignored("--moe-enable-deepep", ON, _SPEED),
    ignored("--optimizer-cpu-offload", ON, _SPEED),
    ignored("--overlap-cpu-optimizer-d2h-h2d", ON, _SPEED),
    ignored("--use-precision-aware-optimizer", ON, _SPEED),
    ignored(
        "--transformer-impl",
        one_of("local", "transformer_engine"),
        "layers are always Megatron's local ones, which compute the same",
    ),
    ignored("--distributed-backend", one_of("nccl", "gloo"), "it follows from resources.accelerator"),
    ignored("--use-cpu-initialization", ON, "it follows from resources.accelerator"),
    ignored("--train-iters", INT, _FOUND),
    ignored("--train-samples", INT, _FOUND),
    differs("--train-env-vars", JSON, "runtime.env_vars", "for all processes of the job, engines included"),
    refused("--only-train-params-name-list", TEXTS, _SELECTION),
    refused("--freeze-params-name-list", TEXTS, _SELECTION),
    refused("--freeze-indexer", ON, _SELECTION),
    refused("--enable-mtp-training", ON, _MTP),
    ignored("--mtp-loss-scaling-factor", FLOAT, "without multi-token prediction there is no such loss"),
    refused("--fp8-format", TEXT, _FP8),
    refused("--fp8-recipe", TEXT, _FP8),
    refused("--fp8-param-gather", ON, _FP8),
    refused("--int4-params-rollout", ON, _FP8),
    refused("--force-fp8-ue8m0-scale", ON, _FP8),
    refused("--megatron-deepgemm-forward-layers", TEXTS, _FP8),
    refused("--megatron-deepgemm-forward-modules", TEXTS, _FP8),
    refused("--megatron-deepgemm-moe-forward-layers", TEXTS, _FP8),
    refused("--megatron-deepgemm-moe-forward-modules", TEXTS, _FP8),
    refused("--qwen-gdn-backend", TEXT, "not supported: no family with linear attention is"),
    refused("--release-train", ON, "not supported: the trainer keeps its GPUs"),
    ignored("--train-memory-margin-bytes", INT, "the trainer and the engines share no GPU"),
    ignored("--disable-weights-backuper", ON, "weights of other roles are kept where they are needed"),
    ignored("--enable-weights-backuper", TOGGLE, "weights of other roles are kept where they are needed"),
)

OPTIMIZER = (
    maps("--lr", FLOAT, "trainer.lr", 1e-6),
    maps("--min-lr", FLOAT, "trainer.min_lr", 0.0),
    maps(
        "--lr-decay-style",
        one_of("constant", "linear", "cosine", "inverse-square-root", "WSD"),
        "trainer.lr_decay_style",
        "linear",
    ),
    maps("--lr-warmup-iters", INT, "trainer.lr_warmup_steps", 0),
    maps("--lr-warmup-fraction", FLOAT, "trainer.lr_warmup_fraction"),
    refused("--lr-warmup-samples", INT, "not supported: use --lr-warmup-iters or --lr-warmup-fraction"),
    maps("--weight-decay", FLOAT, "trainer.weight_decay", 0.01),
    maps("--adam-beta1", FLOAT, "trainer.adam_beta1", 0.9),
    maps("--adam-beta2", FLOAT, "trainer.adam_beta2", 0.999),
    maps("--adam-eps", FLOAT, "trainer.adam_eps", 1e-8),
    maps("--clip-grad", FLOAT, "trainer.clip_grad", 1.0),
    refused("--use-stateless-adam", ON, "not supported yet"),
)
