"""What becomes of Megatron's options: those that the system sets itself, with the field that decides each; those that
describe a model; those that cannot be honoured; those without effect."""

from typing import Any

OWNED_MEGATRON_OPTIONS: dict[str, str] = {
    "load": "checkpoint.load",
    "save": "checkpoint.save",
    "save_interval": "checkpoint.save_interval",
    "ckpt_step": "checkpoint.ckpt_step",
    "ckpt_format": "checkpoint.format",
    "finetune": "checkpoint.finetune",
    "pretrained_checkpoint": "checkpoint.load",
    "async_save": "checkpoint.async_save",
    "hf_checkpoint": "model.hf_checkpoint",
    "global_batch_size": "trainer.global_batch_size",
    "micro_batch_size": "trainer.micro_batch_size",
    "lr": "trainer.lr",
    "min_lr": "trainer.min_lr",
    "lr_decay_style": "trainer.lr_decay_style",
    "lr_warmup_iters": "trainer.lr_warmup_steps",
    "lr_warmup_fraction": "trainer.lr_warmup_fraction",
    "weight_decay": "trainer.weight_decay",
    "adam_beta1": "trainer.adam_beta1",
    "adam_beta2": "trainer.adam_beta2",
    "adam_eps": "trainer.adam_eps",
    "clip_grad": "trainer.clip_grad",
    "seed": "trainer.seed",
    "bf16": "trainer.dtype",
    "fp16": "trainer.dtype",
    "distributed_backend": "resources.accelerator",
    "use_cpu_initialization": "resources.accelerator",
    "calculate_per_token_loss": "algorithm.loss_aggregation",
    "train_iters": "rollout.num_rollouts",
    "train_samples": "rollout.num_rollouts",
    "tensor_model_parallel_size": "trainer.tensor_model_parallel_size",
    "sequence_parallel": "trainer.sequence_parallel",
    "pipeline_model_parallel_size": "trainer.pipeline_model_parallel_size",
    "num_virtual_stages_per_pipeline_rank": "trainer.num_virtual_stages_per_pipeline_rank",
    "virtual_pipeline_model_parallel_size": "trainer.num_virtual_stages_per_pipeline_rank",
    "num_layers_per_virtual_pipeline_stage": "trainer.num_virtual_stages_per_pipeline_rank",
    "context_parallel_size": "trainer.context_parallel_size",
    "expert_model_parallel_size": "trainer.expert_model_parallel_size",
    "expert_tensor_parallel_size": "trainer.expert_tensor_parallel_size",
}

MODEL_OPTIONS: frozenset[str] = frozenset(
    {
        "num_layers",
        "hidden_size",
        "ffn_hidden_size",
        "num_attention_heads",
        "group_query_attention",
        "num_query_groups",
        "kv_channels",
        "vocab_size",
        "norm_epsilon",
        "layernorm_epsilon",
        "normalization",
        "position_embedding_type",
        "rotary_base",
        "rotary_percent",
        "rotary_interleaved",
        "rotary_scaling_factor",
        "use_rope_scaling",
        "rope_scaling_factor",
        "rope_type",
        "swiglu",
        "add_bias_linear",
        "add_qkv_bias",
        "qk_layernorm",
        "untie_embeddings_and_output_weights",
        "multi_latent_attention",
        "q_lora_rank",
        "kv_lora_rank",
        "qk_head_dim",
        "qk_pos_emb_head_dim",
        "v_head_dim",
        "mscale",
        "mscale_all_dim",
        "num_experts",
        "moe_layer_freq",
        "moe_ffn_hidden_size",
        "moe_shared_expert_intermediate_size",
        "moe_router_topk",
        "moe_router_num_groups",
        "moe_router_group_topk",
        "moe_router_pre_softmax",
        "moe_router_score_function",
        "moe_router_topk_scaling_factor",
        "moe_router_enable_expert_bias",
    }
)
"""What ``model.hf_checkpoint`` says. They may be given all the same, and must then agree with it."""

UNSUPPORTED_MEGATRON_OPTIONS: dict[str, Any] = {
    "use_megatron_fsdp": False,
    "use_torch_fsdp2": False,
    "overlap_param_gather": False,
    "optimizer_cpu_offload": False,
    "transformer_impl": "local",
    "pipeline_model_parallel_layout": None,
    "hierarchical_context_parallel_sizes": None,
    "hybrid_context_parallel": False,
    "fp8": None,
    "mtp_num_layers": None,
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
    "cuda_graph_impl": "none",
    "freeze_all_layers": False,
    # Megatron scales these for a loss that is divided by its tokens; the policy's is divided by its samples.
    "moe_aux_loss_coeff": 0.0,
    "moe_z_loss_coeff": None,
    "window_size": None,
    "softmax_type": "vanilla",
    "apply_layernorm_1p": False,
    "rotary_seq_len_interpolation_factor": None,
    "data_parallel_random_init": False,
    "moe_use_upcycling": False,
}
"""Each with the only value that it takes."""


def is_unsupported(name: str, value: Any) -> bool:
    """Whether this option cannot be honoured. A list of one is what an option of several values makes of one."""
    only = UNSUPPORTED_MEGATRON_OPTIONS[name]
    return value not in (only, [only])


IDLE_MEGATRON_GROUPS: dict[str, str] = {
    **{
        str(group): "only Megatron's own training loop reads it"
        for group in (
            *("rl", "validation", "autoresume", "biencoder", "vision", "logging", "profiling", "straggler", "sft"),
            *("workload inspector", "inference", "one logger", "In-process restart", "ft_package", "rerun engine"),
            *("fault injector", "msc", "Logits Distillation"),
        )
    },
    "data and dataloader": "data comes from rollouts",
    "tokenizer": "data comes from rollouts",
}
"""Groups of Megatron's parser that are read elsewhere alone, and why they have no effect."""

_PACKED = "samples are packed at their own lengths"
_OWN_LOSS = "log-probabilities are computed in chunks by the trainer itself"
_OWN_ATTENTION = "packed sequences are attended to by torch's own kernels"
_OWN_LOOP = "only Megatron's own training loop reads it"
IDLE_MEGATRON_OPTIONS: dict[str, str] = {
    **dict.fromkeys(("seq_length", "encoder_seq_length", "decoder_seq_length", "max_position_embeddings"), _PACKED),
    "max_seqlen_per_dp_cp_rank": _PACKED,
    **dict.fromkeys(("cross_entropy_loss_fusion", "cross_entropy_fusion_impl", "fp16_lm_cross_entropy"), _OWN_LOSS),
    **dict.fromkeys(("attention_backend", "flash_attention_version", "use_flash_attn", "cp_comm_type"), _OWN_ATTENTION),
    **dict.fromkeys(
        (
            *("async_strategy", "use_persistent_ckpt_worker", "async_ckpt_use_cpu_shm"),
            *("async_ckpt_cpu_priority", "async_ckpt_io_priority"),
        ),
        "with checkpoint.async_save a thread of each rank writes",
    ),
    "tp_comm_overlap_cfg": "it needs Transformer Engine",
    "attention_softmax_in_fp32": "the kernels accumulate in float32 anyway",
    **dict.fromkeys(("moe_permute_fusion", "moe_grouped_gemm"), "it needs Transformer Engine"),
    "check_for_nan_in_loss_and_grad": "a loss or gradient that is not finite ends the job in any case",
    **dict.fromkeys(
        (
            *("rampup_batch_size", "step_batch_size_schedule", "decrease_batch_size_if_needed", "batch_size"),
            *("empty_unused_memory_level", "check_weight_hash_across_dp_replicas_interval", "check_for_large_grads"),
            *("gpu_sniff_test_interval", "train_sync_interval", "exit_interval", "exit_duration_in_mins"),
            *("exit_signal_handler", "exit_signal", "exit_signal_handler_for_dataloader", "dataloader_type"),
            *("exit_signal_handler_for_training", "manual_gc", "manual_gc_interval", "manual_gc_eval"),
            *("iterations_to_skip", "result_rejected_tracker_filename"),
            *("save_retain_interval", "exit_on_missing_checkpoint"),
            *("auto_detect_ckpt_format", "use_checkpoint_args", "non_persistent_save_interval"),
            *("save_activations_interval", "save_dgrads_interval", "save_params_interval", "save_wgrads_interval"),
            *("save_tokens_per_expert_interval", "ckpt_convert_format", "ckpt_convert_save"),
            *("ckpt_convert_update_legacy_dist_opt_format", "distributed_timeout_seconds_after_init"),
            *("flight_recorder_dump_on_timeout", "flight_recorder_dump_path", "flight_recorder_extra_dump_on_exec"),
            *("flight_recorder_include_only_active", "flight_recorder_include_stack_trace"),
            *("flight_recorder_trace_buffer_size", "align_grad_reduce", "dump_param_to_param_group_map"),
            *("override_ckpt_iteration", "moe_upcycling_granularity"),
        ),
        _OWN_LOOP,
    ),
    # What follows is how slime's scripts say what is always so.
    "use_rotary_position_embeddings": "position_embedding_type says it",
    "deprecated_use_mcore_models": "there are no others",
}
"""Accepted without effect, and why."""
