"""The model, and what is loaded and saved."""

from controlplane.jobs.flags.flag import INT, ON, TEXT, TEXTS, differs, ignored, maps, one_of, refused

_CONFIG = "config.json of the Hugging Face checkpoint says it"

FLAGS = (
    maps("--hf-checkpoint", TEXT, "model.hf_checkpoint"),
    ignored("--model-name", TEXT, _CONFIG),
    ignored("--use-hf-config-for-megatron", ON, "it is always so: " + _CONFIG),
    ignored("--megatron-to-hf-mode", one_of("raw", "bridge"), "there is one way, through the families' own layouts"),
    differs(
        "--spec",
        TEXTS,
        (),
        "ignored where it names one of slime's model definitions, as the layers follow from config.json; refused "
        "otherwise: use `--custom-model-provider-path`",
    ),
    ignored("--post-self-attn-layernorm", ON, _CONFIG),
    ignored("--post-mlp-layernorm", ON, _CONFIG),
    ignored("--use-gated-attention", ON, _CONFIG),
    ignored("--padded-vocab-size", INT, "the vocabulary is padded to what the tensor-parallel size needs"),
    maps("--load", TEXT, "checkpoint.load"),
    maps("--ckpt-step", INT, "checkpoint.ckpt_step"),
    maps("--ref-load", TEXT, "checkpoint.ref_load"),
    differs("--ref-ckpt-step", INT, "checkpoint.ref_ckpt_step", "`--ckpt-step` never applies to the reference model"),
    maps("--finetune", ON, "checkpoint.finetune"),
    differs(
        "--start-rollout-id",
        INT,
        "checkpoint.start_rollout_id",
        "needs `--load`; 0 without it says what happens anyway",
    ),
    differs(
        "--save",
        TEXT,
        "checkpoint.save",
        "unset, checkpoints go to the job's run directory; the last rollout is always saved",
    ),
    maps("--save-interval", INT, "checkpoint.save_interval"),
    maps("--ckpt-format", one_of("torch", "torch_dist"), "checkpoint.format", "torch_dist"),
    differs(
        "--save-hf",
        TEXT,
        "checkpoint.save_hf",
        "with `{rollout_id}` in it, at every save; otherwise at the end. Unset, the trained model is exported to the "
        "job's run directory",
    ),
    maps("--async-save", ON, "checkpoint.async_save"),
    ignored("--critic-save", TEXT, "the critic is saved with the policy's checkpoints"),
    refused("--critic-load", TEXT, "not supported: the critic begins with the policy's weights, or its own checkpoint"),
)
