"""How samples are made, and scored."""

from controlplane.jobs.flags.flag import FLOAT, INT, INTS, ON, TEXT, TEXTS, differs, ignored, maps, one_of, refused

_BUFFER = "not supported: samples of other programs come in through a rollout function of your own"
_STORAGE = "not supported: rollouts travel through Ray's object store"
_EXTERNAL = "not supported yet: a job starts the engines that it generates with"
_FAULTS = "engines are always watched, and the job goes on from its checkpoint when one is lost"

FLAGS = (
    maps("--rollout-temperature", FLOAT, "rollout.sampling.temperature", 1.0),
    maps("--rollout-top-p", FLOAT, "rollout.sampling.top_p", 1.0),
    maps("--rollout-top-k", INT, "rollout.sampling.top_k", -1),
    maps("--rollout-max-response-len", INT, "rollout.sampling.max_new_tokens", 1024),
    differs(
        "--rollout-max-context-len",
        INT,
        ("engine.sglang.context_length", "data.max_prompt_len"),
        "the engine's own limit, of training and evaluation alike; beside --sglang-context-length the smaller one. "
        "Without `--rollout-max-prompt-len`, prompts have one token less at most, as in slime",
    ),
    maps("--rollout-stop", TEXTS, "rollout.sampling.stop"),
    maps("--rollout-stop-token-ids", INTS, "rollout.sampling.stop_token_ids"),
    maps("--rollout-skip-special-tokens", ON, "rollout.sampling.skip_special_tokens", False),
    maps("--over-sampling-batch-size", INT, "rollout.over_sampling_batch_size"),
    differs(
        "--dynamic-sampling-filter-path",
        TEXT,
        "rollout.dynamic_sampling_filter",
        "slime's check_reward_nonzero_std is the shipped `reward_nonzero_std`",
    ),
    refused("--over-sampling-filter-path", TEXT, "not supported: slime has dropped it; use a dynamic sampling filter"),
    refused("--over-sampling-filter-input-size", INT, "not supported: slime has dropped it"),
    maps("--partial-rollout", ON, "rollout.partial_rollout"),
    maps("--mask-offpolicy-in-partial-rollout", ON, "rollout.mask_offpolicy_in_partial_rollout"),
    differs(
        "--rollout-function-path",
        TEXT,
        "plugins.rollout_function",
        "slime's own names mean the shipped rollout, and its SFT rollout `--loss-type sft_loss`; others of its own are "
        "refused",
    ),
    ignored("--buffer-sort-by-staleness", ON, "carried-over samples go on first, in the order in which they came"),
    ignored("--use-fault-tolerance", ON, _FAULTS),
    ignored("--rollout-health-check-interval", FLOAT, _FAULTS),
    ignored("--rollout-health-check-timeout", FLOAT, _FAULTS),
    ignored("--rollout-health-check-first-wait", FLOAT, _FAULTS),
    ignored("--rollout-cleanup-timeout", FLOAT, _FAULTS),
    ignored("--rollout-session-id", TEXT, "a job has an id of its own"),
    ignored("--rollout-data-transport", one_of("object-store"), "rollouts always travel through Ray's object store"),
    refused("--rollout-data-dir", TEXT, _STORAGE),
    refused("--rollout-storage-profile", TEXT, _STORAGE),
    refused("--rollout-storage-declaration", TEXT, _STORAGE),
    refused("--rollout-queue-run-id", TEXT, _STORAGE),
    refused("--rollout-queue-online-gc", ON, _STORAGE),
    refused("--rollout-queue-lease-seconds", FLOAT, _STORAGE),
    refused("--rollout-queue-segment-mib", INT, _STORAGE),
    refused("--rollout-io-concurrency", INT, _STORAGE),
    refused("--rollout-buffer-url", TEXT, _BUFFER),
    refused("--fetch-trajectory-retry-times", INT, _BUFFER),
    refused("--min-batch-collection-ratio", FLOAT, _BUFFER),
    refused("--rollout-task-type", TEXT, _BUFFER),
    refused("--rollout-external", ON, _EXTERNAL),
    refused("--rollout-external-engine-addrs", TEXTS, _EXTERNAL),
)

REWARDS = (
    differs(
        "--rm-type",
        TEXT,
        "rollout.reward",
        "`remote_rm` is the rule `remote`; `boxed_` before a rule is its field `boxed`; with neither this nor "
        "`--custom-rm-path` each sample's metadata names its rule, as in slime. `ifbench` and `random` are refused",
    ),
    differs(
        "--rm-url",
        TEXT,
        ("rollout.reward.url", "plugins.arguments.rm_url"),
        "of `--rm-type remote_rm`; beside `--custom-rm-path` your function finds it as args.rm_url",
    ),
    differs(
        "--reward-key",
        TEXT,
        "rollout.reward.reward_key",
        "of `--custom-rm-path`, `remote_rm` and `dapo`; the other rules give a number",
    ),
    differs("--eval-reward-key", TEXT, "eval.reward.reward_key", "unset, `--reward-key`"),
    differs(
        "--custom-rm-path", TEXT, "rollout.reward.function", "the rule `custom`; goes before `--rm-type`, as in slime"
    ),
    differs("--group-rm", ON, "rollout.reward.group_rm", "only with `--custom-rm-path`"),
)
