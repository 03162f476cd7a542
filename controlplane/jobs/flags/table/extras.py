"""The user's own functions, tracking and debugging."""

from controlplane.jobs.flags.flag import FLOAT, INT, ON, TEXT, TEXTS, differs, ignored, maps, one_of, refused

_TRACKED = "metrics are kept by the API: `rollway metrics`"
_PROFILE = "not supported yet"
_TESTS = "for slime's own tests"

FUNCTIONS = (
    maps("--custom-generate-function-path", TEXT, "plugins.custom_generate_function"),
    differs(
        "--eval-function-path",
        TEXT,
        "plugins.eval_function",
        "unset, a rollout function of yours in slime's form evaluates too, as in slime, if it takes `evaluation`; else "
        "the shipped evaluation does",
    ),
    maps("--buffer-filter-path", TEXT, "plugins.buffer_filter"),
    maps("--rollout-sample-filter-path", TEXT, "plugins.rollout_sample_filter"),
    maps("--rollout-all-samples-process-path", TEXT, "plugins.rollout_all_samples_process"),
    maps("--rollout-data-postprocess-path", TEXT, "plugins.rollout_data_postprocess"),
    maps("--custom-reward-post-process-path", TEXT, "plugins.custom_reward_post_process"),
    maps("--custom-rollout-log-function-path", TEXT, "plugins.custom_rollout_log_function"),
    maps("--custom-eval-rollout-log-function-path", TEXT, "plugins.custom_eval_rollout_log_function"),
    maps("--custom-model-provider-path", TEXT, "plugins.custom_model_provider"),
    maps("--custom-megatron-init-path", TEXT, "plugins.custom_megatron_init"),
    maps("--custom-megatron-before-log-prob-hook-path", TEXT, "plugins.custom_megatron_before_log_prob_hook"),
    maps("--custom-megatron-before-train-step-hook-path", TEXT, "plugins.custom_megatron_before_train_step_hook"),
    refused("--rollout-sample-hook-path", TEXT, "not supported: use --custom-generate-function-path"),
    refused(
        "--custom-convert-samples-to-train-data-path",
        TEXT,
        "not supported: use --rollout-data-postprocess-path, which has the last word on the samples",
    ),
    differs(
        "--custom-config-path",
        TEXT,
        "plugins.arguments",
        "the file is read where `rollway train` runs; its values are for your functions alone, as args.<name>, and "
        "change no setting of the job",
    ),
)

TRACKING = (
    ignored("--use-wandb", ON, f"{_TRACKED}; Weights & Biases is not supported yet"),
    ignored("--wandb-mode", TEXT, _TRACKED),
    ignored("--wandb-dir", TEXT, _TRACKED),
    ignored("--wandb-key", TEXT, _TRACKED, secret=True),
    ignored("--wandb-host", TEXT, _TRACKED),
    ignored("--wandb-team", TEXT, _TRACKED),
    ignored("--wandb-group", TEXT, _TRACKED),
    ignored("--wandb-project", TEXT, _TRACKED),
    ignored("--wandb-run-name", TEXT, _TRACKED),
    ignored("--wandb-run-id", TEXT, _TRACKED),
    ignored("--disable-wandb-random-suffix", ON, _TRACKED),
    ignored("--wandb-always-use-train-step", ON, _TRACKED),
    ignored("--use-tensorboard", ON, f"{_TRACKED}; TensorBoard is not supported yet"),
    ignored("--tb-project-name", TEXT, _TRACKED),
    ignored("--tb-experiment-name", TEXT, _TRACKED),
    ignored("--use-mlflow", ON, f"{_TRACKED}; MLflow is not supported yet"),
    ignored("--mlflow-tracking-uri", TEXT, _TRACKED, secret=True),
    ignored("--mlflow-experiment-name", TEXT, _TRACKED),
    ignored("--mlflow-run-name", TEXT, _TRACKED),
    ignored("--mlflow-run-id", TEXT, _TRACKED),
    ignored("--use-prometheus", ON, _TRACKED),
    ignored("--prometheus-port", INT, _TRACKED),
    ignored("--log-multi-turn", ON, _TRACKED),
    ignored("--log-passrate", ON, "evaluations always report pass@k"),
    ignored("--log-correct-samples", ON, _TRACKED),
    ignored("--log-reward-category", TEXT, _TRACKED),
)

DEBUG = (
    differs("--debug-rollout-only", ON, "debug.mode", "rollout_only; the counts of GPUs stay as they are given"),
    differs(
        "--debug-train-only",
        ON,
        "debug.mode",
        "train_only, with --load-debug-rollout-data; ignored with `--loss-type sft_loss`, which has no engines anyway",
    ),
    differs(
        "--save-debug-rollout-data",
        TEXT,
        "debug.save_rollouts",
        "a directory, of files in Rollway's own format; the file name of slime's template is left out",
    ),
    differs(
        "--load-debug-rollout-data",
        TEXT,
        ("debug.load_rollouts", "debug.mode"),
        "a directory that `--save-debug-rollout-data` wrote here: slime's own .pt files are not read",
    ),
    refused("--load-debug-rollout-data-subsample", FLOAT, "not supported"),
    refused("--load-forge-rollout-data", TEXT, "not supported"),
    refused("--save-debug-train-data", TEXT, "not supported: rollouts can be saved, and trained on again"),
    differs("--dump-details", TEXT, "debug.save_rollouts", "rollouts alone, under its `rollout_data`"),
    refused("--memory-snapshot-dir", TEXT, _PROFILE),
    refused("--memory-snapshot-num-steps", INT, _PROFILE),
    refused("--memory-recorder", one_of("torch", "memray"), _PROFILE),
    refused("--record-memory-history", ON, _PROFILE),
    refused("--profile-target", TEXTS, _PROFILE),
    ignored("--ci-test", ON, _TESTS),
    ignored("--ci-disable-kl-checker", ON, _TESTS),
    ignored("--ci-train-rollout-logprob-abs-diff-threshold", FLOAT, _TESTS),
    ignored("--ci-metric-checker-key", TEXT, _TESTS),
    ignored("--ci-metric-checker-threshold", FLOAT, _TESTS),
    ignored("--ci-save-grad-norm", TEXT, _TESTS),
    ignored("--ci-load-grad-norm", TEXT, _TESTS),
)
